//! A rule as a value: what it matches, which uplinks it uses, and how it picks among them.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::engine::flow::{LanId, Mac};
use crate::engine::packet::Family;
use crate::engine::uplink::UplinkId;

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
    /// What happens when none of its uplinks is usable.
    pub none: WhenNone,
}

/// Conditions on a flow. An empty list asks nothing; within a list one entry
/// must fit. Keys that ask for something a packet does not have (a port of an
/// ICMP packet, the MAC of a PPP peer) do not fit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matchers {
    /// IP protocol numbers.
    pub protocol: Vec<u8>,
    /// Source nets.
    pub src: Vec<IpNet>,
    /// Destination nets.
    pub dst: Vec<IpNet>,
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
    /// Addresses, protocol and ports.
    FiveTuple,
}

/// What happens when none of a rule's uplinks is usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenNone {
    /// Go on with the rules after this one.
    #[default]
    NextRule,
    /// Weighted round-robin over all usable uplinks.
    Any,
    /// The flow is dropped; holds in the kernel too, when nobody answers the queue.
    Drop,
}
