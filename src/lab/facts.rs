//! What the lab itself saw of its traffic: a value, for those who show or judge it.

use std::collections::BTreeMap;

use serde::Serialize;

/// What the lab itself saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LabFacts {
    /// Seconds of traffic still to come.
    pub seconds_left: u64,
    /// What each line's provider saw, in the configuration's order.
    pub links: Vec<LinkFacts>,
    /// How the connections of each kind fared.
    pub tried: BTreeMap<Kind, Outcome>,
    /// What the captures said about flows.
    pub flows: FlowFacts,
}

/// What was captured on the router's lines, held against what was decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FlowFacts {
    /// Flows that were seen to leave, the router's own and answers to outside included.
    pub seen: u64,
    /// Those of them whose line was known beforehand, and was compared.
    pub compared: u64,
    /// Those that left by another line than the one chosen for them.
    pub misrouted: u64,
    /// Those that left by more than one line.
    pub split: u64,
    /// Packets that could not be looked at in time; 0 where the lab has seen everything.
    pub packets_missed: u64,
}

/// What the provider at the other end of a line saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LinkFacts {
    /// Name of the uplink.
    pub uplink: String,
    /// Packets it forwarded, both ways.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
    /// Packets it dropped because their source was not this line's.
    pub strays: u64,
}

/// A kind of connection the lab tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// LAN to a server, TCP over IPv4.
    Tcp4,
    /// LAN to a server, TCP over IPv6.
    Tcp6,
    /// LAN to a server, UDP over IPv4.
    Udp4,
    /// LAN to a server, UDP over IPv6.
    Udp6,
    /// LAN to a server, ICMP echo.
    Ping4,
    /// LAN to a server, ICMPv6 echo.
    Ping6,
    /// From outside to a port forward.
    Forward,
    /// From the LAN to a port forward by the router's public address.
    Hairpin,
    /// The router's own.
    Router,
}

impl Kind {
    /// The kind as people say it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Kind::Tcp4 => "TCP IPv4",
            Kind::Tcp6 => "TCP IPv6",
            Kind::Udp4 => "UDP IPv4",
            Kind::Udp6 => "UDP IPv6",
            Kind::Ping4 => "ping IPv4",
            Kind::Ping6 => "ping IPv6",
            Kind::Forward => "from outside to a forward",
            Kind::Hairpin => "from the LAN to a forward's public address",
            Kind::Router => "the router's own",
        }
    }
}

/// How connections fared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Those that worked from beginning to end.
    pub ok: u64,
    /// Those that did not.
    pub failed: u64,
}

impl LabFacts {
    /// Packets that left by a line that was not theirs, on all lines.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.links.iter().fold(0, |sum, link| sum.saturating_add(link.strays))
    }

    /// Flows that left by a line that was not theirs, or by two.
    #[must_use]
    pub fn astray(&self) -> u64 {
        self.flows.misrouted.saturating_add(self.flows.split)
    }

    /// Connections of all kinds.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.tried.values().fold(Outcome::default(), |sum, one| Outcome {
            ok: sum.ok.saturating_add(one.ok),
            failed: sum.failed.saturating_add(one.failed),
        })
    }
}
