//! The firewall's part of the kernel state as a value that every backend can render.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv6Net};

pub use super::note::{Note, Who};
pub use crate::config::Helper;
use crate::engine::flow::Mac;
use crate::engine::packet::Family;
use crate::engine::rule::model::{HashKey, IcmpType};
use crate::engine::uplink::UplinkId;
use crate::engine::verdict::Marks;

/// All chains and sets of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firewall {
    /// Which mark bits the rules write.
    pub marks: Marks,
    /// Destinations that the main table knows without its default route, and bypassed ones.
    pub stay: Vec<IpNet>,
    /// Connection helpers that rules attach.
    pub helpers: Vec<Helper>,
    /// The chains; a chain stands after those that it jumps to.
    pub chains: Vec<Chain>,
}

/// An ordered list of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name, without a prefix; at most 19 bytes, because iptables allows 28 with ours.
    pub name: String,
    /// Where the kernel enters it; `None`: only by jumps.
    pub hook: Option<Hook>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// Whether it counts what comes to it. Then it is there whether or not anything leads to it.
    #[must_use]
    pub fn counts(&self) -> bool {
        matches!(self.rules.first(), Some(Rule { action: Action::Tally(_), .. }))
    }
}

/// The places in a packet's way through the kernel where our chains hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Prerouting: connection helpers are attached to new flows.
    Helpers,
    /// Prerouting, mangle: remembered, inbound, or ours to decide.
    Decide,
    /// Prerouting, after mangle and before any destination NAT: what was decided is saved.
    Settle,
    /// Prerouting, destination NAT.
    Forwards,
    /// Output, with re-routing: the router's own flows.
    Own,
    /// Forward: segment sizes, the guard.
    Forward,
    /// Forward, where packets may be refused: TCP connections that cannot go on.
    Refuse,
    /// Output, before connection tracking: what of ours is not to be tracked.
    Untracked,
    /// Postrouting, mangle: flows without an uplink are pinned to the one they leave by.
    Pin,
    /// Postrouting, source NAT.
    Source,
}

/// Packets that fit all of `matches` get `action`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `None`: both families.
    pub family: Option<Family>,
    /// All must fit.
    pub matches: Vec<Match>,
    /// What is done.
    pub action: Action,
}

/// Which packets a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// Came in by this device.
    In(String),
    /// Goes out by this device.
    Out(String),
    /// Source net.
    Source(IpNet),
    /// Destination net.
    Destination(IpNet),
    /// The destination is an address of this machine.
    DestinationIsLocal,
    /// The destination is one of [`Firewall::stay`].
    DestinationStays,
    /// The connection's state is one of these.
    State(&'static [State]),
    /// The connection's destination was translated.
    DestinationTranslated,
    /// This is the first packet of its connection.
    ConnectionBegins,
    /// The first packet of the connection was sent to this address.
    OriginalDestination(IpAddr),
    /// Answers of the connection are sent to this address (its translated source).
    ReplyDestination(IpAddr),
    /// The packet's uplink bits are empty, or not: those of what is refused are not.
    PacketHasUplink(bool),
    /// The packet's uplink bits are these.
    PacketUplink(u32),
    /// The connection's uplink bits are these.
    ConnectionUplink(u32),
    /// The connection's uplink bits are empty, or not.
    ConnectionHasUplink(bool),
    /// The packet carries the flag that user space decided it, or not.
    Decided(bool),
    /// The packet carries any flag.
    Flagged,
    /// The packet carries the flag of a watch, or not: one that begins or one that is over.
    Watched(bool),
    /// The connection's client is listened to, or not.
    ConnectionWatched(bool),
    /// A datagram of the same flow already went past the queue (see [`Action::NoteEarly`]).
    Early,
    /// A datagram of the same flow was torn (see [`Action::NoteTorn`]).
    Torn,
    /// No answered datagram of the same flow has gone the kernel's way (see [`Action::NoteKept`]).
    NotKept,
    /// A datagram of the same flow was answered and sent, by this uplink or by any (see [`Action::NoteSent`]).
    Sent(Option<UplinkId>),
    /// IP protocol.
    Protocol(u8),
    /// Source port of the protocol matched before.
    SourcePort(u8, RangeInclusive<u16>),
    /// Destination port of the protocol matched before.
    DestinationPort(u8, RangeInclusive<u16>),
    /// ICMP or ICMPv6 type.
    Icmp(IcmpType),
    /// Sender's hardware address.
    SourceMac(Mac),
    /// Differentiated services code point.
    Dscp(u8),
    /// IP packet length.
    Length(RangeInclusive<u16>),
    /// A span of UTC time on one weekday (0 = Monday), in seconds of the day.
    Time(u8, RangeInclusive<u32>),
    /// The hash of the flow's addresses and ports, modulo `of`, lies in `from..to`.
    Share {
        /// First value.
        from: u32,
        /// First value after.
        to: u32,
        /// Modulus.
        of: u32,
    },
    /// The flow's slot by these parts of it is one of these, bits of a number. Every firewall has a hash of its own
    /// ([`SlotHash`](crate::engine::uplink::pick::slots::SlotHash)).
    Slot {
        /// The parts.
        key: HashKey,
        /// The slots.
        slots: u128,
    },
    /// There may be ports where the firewall does not look for them but the parser does: behind IPsec's Authentication
    /// Header, for iptables behind any IPv6 extension header.
    PortsHidden,
    /// The daemon has renewed the gate lately, or has not.
    GateIsOpen(bool),
    /// This was noted lately of the source or of all, or was not.
    Noted(Note, bool),
    /// More packets than this per second came here from the same source; each limiter has a name of its own.
    OverShare(&'static str, u32),
    /// Not more.
    WithinShare(&'static str, u32),
    /// Fewer packets than this came here; each limiter has a name of its own.
    Below(&'static str, Rate),
    /// TCP segments that open a connection.
    TcpSyn,
    /// TCP segments that do not.
    TcpMidstream,
}

/// Connection states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not seen before, or not answered yet.
    New,
    /// Both sides have spoken.
    Established,
    /// Belongs to another connection (ICMP errors, helpers' expected flows).
    Related,
    /// Belongs to none that makes sense.
    Invalid,
    /// Exempted from tracking.
    Untracked,
}

/// Why a packet goes past the queue that could have gone there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// Its client has had its share of a limit that is reached.
    Share,
    /// The limit is reached.
    Limit,
}

impl Past {
    /// Every reason.
    pub const ALL: [Past; 2] = [Past::Share, Past::Limit];
}

/// How many packets went past the queue, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PastCounts {
    /// By [`Past::Share`].
    pub share: u64,
    /// By [`Past::Limit`].
    pub limit: u64,
}

impl PastCounts {
    /// The count of one reason.
    pub fn of(&mut self, past: Past) -> &mut u64 {
        match past {
            Past::Share => &mut self.share,
            Past::Limit => &mut self.limit,
        }
    }
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The packet's uplink bits become this value.
    MarkPacket(u32),
    /// The connection's uplink bits become this value.
    MarkConnection(u32),
    /// Uplink bits and flags of the packet are cleared.
    Clear,
    /// The decided flag of the packet is set.
    FlagDecided,
    /// The decided flag of the packet is cleared.
    ClearDecided,
    /// The connection's client is listened to from now on.
    Watch,
    /// The connection's client is no longer listened to.
    Unwatch,
    /// The flag of a watch of the packet is cleared.
    ClearWatched,
    /// The packet gets the connection's uplink bits; the last rule that a packet meets in its base chain.
    Restore,
    /// The connection gets the packet's uplink bits.
    Save,
    /// The flow is noted as one that went past the queue.
    NoteEarly,
    /// The flow is noted as one of which a datagram went past the queue and could not tell which way an answered one goes.
    NoteTorn,
    /// The flow is noted as one of which an answered datagram went the kernel's way.
    NoteKept,
    /// The flow is noted as one that user space answered, and sent by this uplink, or by any.
    NoteSent(Option<UplinkId>),
    /// This is noted of the source or of all.
    Note(Note),
    /// The packet is counted as one that goes past the queue.
    Count(Past),
    /// The packet is counted under this name. What was counted outlasts the chain being filled anew.
    Tally(String),
    /// On to a chain, and back.
    Jump(String),
    /// On to a chain, and not back to this one.
    Goto(String),
    /// Back to the chain that jumped here.
    Return,
    /// The packet is dropped.
    Drop,
    /// The packet is dropped, and the sender of a TCP segment gets a reset.
    Reset,
    /// The packet is dropped, and its sender gets "administratively prohibited".
    Prohibit,
    /// The packet is not tracked.
    NoTrack,
    /// To user space, to one of `count` queues from `first` on; past it where nobody listens.
    Queue {
        /// Number of the first queue.
        first: u16,
        /// How many.
        count: u16,
        /// The CPU by which the packet came chooses, not its flow's hash.
        fan_out: bool,
    },
    /// Source NAT to an address.
    Snat(IpAddr),
    /// Source NAT to the device's address.
    Masquerade,
    /// Source NAT that replaces the prefix only.
    Netmap(Ipv6Net),
    /// Destination NAT to an address and, maybe, another port.
    Dnat(IpAddr, Option<u16>),
    /// The TCP maximum segment size is lowered to this.
    MaxSegment(u16),
    /// A connection helper is attached.
    Attach(Helper),
}

/// A rule for both families.
#[must_use]
pub fn rule(matches: impl Into<Vec<Match>>, action: Action) -> Rule {
    Rule { family: None, matches: matches.into(), action }
}

/// A rule for one family.
#[must_use]
pub fn rule_for(family: Family, matches: impl Into<Vec<Match>>, action: Action) -> Rule {
    Rule { family: Some(family), matches: matches.into(), action }
}

/// So many packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// A second.
    pub limit: u32,
    /// At once.
    pub burst: u32,
}

impl Rate {
    /// A fifth of a second's worth may come at once.
    #[must_use]
    pub fn of(limit: u32) -> Rate {
        Rate { limit: limit.max(1), burst: (limit / 5).clamp(1, MOST_AT_ONCE) }
    }

    /// Of one client: who begins a few together does not flood yet.
    #[must_use]
    pub fn of_a_client(share: u32) -> Rate {
        let Rate { limit, burst } = Rate::of(share);
        Rate { limit, burst: burst.max(16) }
    }

    /// What goes on, however slowly, and not what comes but once.
    #[must_use]
    pub fn of_what_goes_on(limit: u32) -> Rate {
        Rate { limit: (limit / 100).max(1), burst: (limit / 2).clamp(1, MOST_AT_ONCE) }
    }
}

/// What both backends take at once.
const MOST_AT_ONCE: u32 = 10_000;

/// `hh:mm:ss` of a second of the day.
#[must_use]
pub fn clock(second: u32) -> String {
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}
