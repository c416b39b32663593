//! A rule as a value: what it matches, which uplinks it uses, and how it picks among them.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::hosts::{HostName, HostSet};
use super::nets::NetSet;
use super::texts::{Expressions, Texts};
use crate::engine::flow::{LanId, Mac};
use crate::engine::geo::{Asn, Country};
use crate::engine::packet::Family;
use crate::engine::sniff::App;
use crate::engine::sticky::{Sticky, StickyBy};
use crate::engine::uplink::UplinkId;
use crate::engine::uplink::load::Direction;

/// The longest `hold` of a rule: a second, after which most clients repeat themselves (RFC 9002, section 6.2.2).
pub const LONGEST_HOLD: Duration = Duration::from_secs(1);

/// A rule's place in the order in which rules are tried, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct RuleId(pub u16);

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What people call it; unique.
    pub name: String,
    /// Where it stands, for people: `rules/10-ssh.toml:4`.
    pub origin: String,
    /// All of these must fit.
    pub matches: Matchers,
    /// None of these may fit.
    pub not: Matchers,
    /// The uplinks it uses and how it picks among them.
    pub choice: Choice,
    /// Which later flows shall go the way of an earlier one, if any.
    pub sticky: Option<Sticky>,
    /// What happens when none of its uplinks is usable.
    pub none: WhenNone,
    /// What becomes of a TCP connection that says too late that it belongs here.
    pub on_mismatch: OnMismatch,
    /// How long the first datagrams of a flow may be held for the name that this rule asks for;
    /// at most [`LONGEST_HOLD`], zero: not at all.
    pub hold: Duration,
    /// What becomes of its running flows when their line dies or a better one comes back.
    pub live: Live,
}

/// What becomes of a TCP connection whose client names a host that would have sent it another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMismatch {
    /// It stays; the next one goes the right way.
    #[default]
    Keep,
    /// It is reset, so that its client comes back and goes the right way.
    Reset,
}

/// Conditions on a flow. An empty list asks nothing; within a list one entry
/// must fit. Keys that ask for something a packet does not have (a port of an
/// ICMP packet, the MAC of a PPP peer, the name of a flow whose client has not
/// said one yet) do not fit. `dst` and `dst_list` are one key, and so are
/// `host` and `host_list`: a list adds its entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matchers {
    /// IP protocol numbers.
    pub protocol: Vec<u8>,
    /// Source nets.
    pub src: Vec<IpNet>,
    /// Destination nets.
    pub dst: Vec<IpNet>,
    /// Lists of destination nets.
    pub dst_list: Vec<Arc<NetSet>>,
    /// Countries of the destination.
    pub dst_country: Vec<Country>,
    /// Autonomous systems of the destination.
    pub dst_asn: Vec<Asn>,
    /// Source ports.
    pub src_port: Vec<RangeInclusive<u16>>,
    /// Destination ports.
    pub dst_port: Vec<RangeInclusive<u16>>,
    /// ICMP and ICMPv6 types (and codes) of either family.
    pub icmp_type: Vec<IcmpType>,
    /// Hardware addresses of the sender.
    pub src_mac: Vec<Mac>,
    /// LAN interfaces the packet came in by.
    pub lan: Vec<LanId>,
    /// Differentiated services code points.
    pub dscp: Vec<u8>,
    /// Address families.
    pub family: Vec<Family>,
    /// Lengths of the IP packet in bytes.
    pub length: Vec<RangeInclusive<u16>>,
    /// Local times of day.
    pub time: Vec<TimeSpan>,
    /// Local weekdays, 0 (Monday) to 6 (Sunday); a span over midnight belongs to the day it is now.
    pub weekday: Vec<u8>,
    /// Names of the host that the client wants.
    pub host: Vec<HostName>,
    /// Lists of such names.
    pub host_list: Vec<Arc<HostSet>>,
    /// What the flow was taken for.
    pub app: Vec<App>,
    /// Protocols of which the client offers one (RFC 7301).
    pub alpn: Vec<Vec<u8>>,
    /// HTTP request methods.
    pub http_method: Vec<Vec<u8>>,
    /// Texts in the HTTP `User-Agent`, in capitals or not.
    pub user_agent: Texts,
    /// What the first bytes of the client look like.
    pub payload: Payload,
}

impl Rule {
    /// Whether the rule asks what a flow's host is called.
    #[must_use]
    pub fn asks_for_names(&self) -> bool {
        let by_site = self.sticky.is_some_and(|sticky| sticky.by == StickyBy::ClientSite);
        by_site || [&self.matches, &self.not].iter().any(|matchers| matchers.ask_for_names())
    }

    /// Whether the rule asks what a client says only at the end of its first message: the name of its
    /// host, or what it offers to speak.
    #[must_use]
    pub fn asks_for_names_or_offers(&self) -> bool {
        self.asks_for_names() || !self.matches.alpn.is_empty() || !self.not.alpn.is_empty()
    }

    /// Whether the rule asks what only the bytes of a client can tell.
    #[must_use]
    pub fn asks_for_contents(&self) -> bool {
        self.asks_for_names() || self.matches.ask_for_contents() || self.not.ask_for_contents()
    }

    /// Whether the rule asks where addresses belong.
    #[must_use]
    pub fn asks_for_places(&self) -> bool {
        self.matches.ask_for_places() || self.not.ask_for_places()
    }
}

impl Matchers {
    /// Whether a host's name is asked for.
    #[must_use]
    pub fn ask_for_names(&self) -> bool {
        !self.host.is_empty() || !self.host_list.is_empty()
    }

    /// Whether it is asked where addresses belong.
    #[must_use]
    pub fn ask_for_places(&self) -> bool {
        !self.dst_country.is_empty() || !self.dst_asn.is_empty()
    }

    /// Whether something is asked that the kernel cannot tell alone.
    #[must_use]
    pub fn ask_beyond_the_kernel(&self) -> bool {
        self.ask_for_contents() || self.ask_for_places()
    }

    /// Whether something is asked that only the bytes which a client sends can tell. The first packet of a
    /// flow often cannot.
    #[must_use]
    pub fn ask_for_contents(&self) -> bool {
        let names = self.ask_for_names() || !self.app.is_empty();
        let offers = !self.alpn.is_empty() || !self.http_method.is_empty() || !self.user_agent.is_empty();
        names || offers || !self.payload.is_empty()
    }
}

/// Patterns for the first bytes that a client sends, of which one must fit. No bytes fit none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Payload {
    /// These bytes at this distance from the first one.
    pub at: Vec<(u16, Vec<u8>)>,
    /// These bytes anywhere.
    pub contains: Texts,
    /// These expressions, found anywhere.
    pub expressions: Expressions,
}

impl Payload {
    /// Whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at.is_empty() && self.contains.is_empty() && self.expressions.is_empty()
    }
}

/// An ICMP type, and a code where one is asked for. A type belongs to one family,
/// because the numbers mean different things in ICMP and in ICMPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpType {
    /// ICMP (V4) or ICMPv6 (V6).
    pub family: Family,
    /// The type number.
    pub kind: u8,
    /// The code, or any.
    pub code: Option<u8>,
}

/// A span of local time in minutes after midnight, `from` included, `to` not;
/// `from > to` spans midnight. Both are 0 to 1439, `to` may be 1440.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSpan {
    /// First minute of the span.
    pub from: u16,
    /// First minute after the span.
    pub to: u16,
}

/// Which uplinks, and how one of them is picked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// How.
    pub policy: Policy,
    /// Among which, with their weights (1 to 255) in this rule; never empty.
    pub uplinks: Vec<(UplinkId, u8)>,
}

/// How one of several usable uplinks is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// In turn, by weight, smoothly: 3:1 gives 1, 1, 2, 1.
    RoundRobin,
    /// The first usable one.
    Ordered,
    /// By a hash of parts of the flow; losing an uplink moves only its own flows.
    Hash(HashKey),
    /// The one that a new flow gets most from in this direction.
    LeastLoad(Direction),
    /// The first one that is not used to this limit in this direction.
    Overflow(Direction, Percent),
    /// The one that answers quickest, and those about as quick.
    LowestLatency,
    /// The one that one can talk over best, and those about as good.
    BestQuality,
}

impl Policy {
    /// The direction that matters to it, if one does.
    #[must_use]
    pub fn direction(self) -> Option<Direction> {
        match self {
            Policy::LeastLoad(direction) | Policy::Overflow(direction, _) => Some(direction),
            Policy::RoundRobin
            | Policy::Ordered
            | Policy::Hash(_)
            | Policy::LowestLatency
            | Policy::BestQuality => None,
        }
    }

    /// Whether it looks at how full or how good the lines are.
    #[must_use]
    pub fn looks_at_lines(self) -> bool {
        !matches!(self, Policy::RoundRobin | Policy::Ordered | Policy::Hash(_))
    }
}

/// A part of a whole in hundredths, 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(pub u8);

impl Percent {
    /// That part of a number.
    #[must_use]
    pub fn of(self, number: f64) -> f64 {
        number * f64::from(self.0) / 100.0
    }
}

/// The parts of a flow that [`Policy::Hash`] looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashKey {
    /// Source address: a client always uses one uplink.
    Client,
    /// Destination address.
    Destination,
    /// Source and destination address.
    ClientDestination,
    /// Addresses, and ports, or the protocol where it has none.
    FiveTuple,
}

/// What becomes of a rule's running flows when their line dies, or a better one comes back.
///
/// A flow that is reset goes on by another line: datagrams with the next one, a TCP connection when
/// its client has made it anew, which it is told to do at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Live {
    /// They stay on their line, come what may.
    Keep,
    /// They are reset when their line dies, while there is another.
    #[default]
    ResetOnDown,
    /// They are also reset when their line is no longer the one that they would get, some
    /// seconds after that has come back.
    MoveBack,
}

/// What happens when none of a rule's uplinks is usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenNone {
    /// Go on with the rules after this one.
    #[default]
    NextRule,
    /// Weighted round-robin over all usable uplinks.
    Any,
    /// The flow ends here. Holds in the kernel too, when nobody answers the queue, unless the rule
    /// asks for contents, a country or an autonomous system.
    Stop(NoLine),
}

/// What becomes of a flow for which no line is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NoLine {
    /// It is sent by a line that is called down, and its client may try again.
    #[default]
    Keep,
    /// Its client is told: a TCP connection is reset, any other flow gets "administratively prohibited"
    /// (ICMP type 3 code 13, RFC 1812, 5.2.7.1; ICMPv6 type 1 code 1, RFC 4443, 3.1), which programs hear of. "Network unreachable" the
    /// most of them do not: systems take it for something that will pass (RFC 1122, 4.2.3.9).
    Reject,
    /// Its packets go nowhere. The kernel alone rejects them.
    Drop,
}
