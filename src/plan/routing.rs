//! Routing rules and routes as values: the state we want, and how to get there.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::engine::packet::Family;

/// The protocol number (`rtm_protocol`, `FRA_PROTOCOL`) on all rules and routes that
/// are ours; not taken in include/uapi/linux/rtnetlink.h nor in iproute2's rt_protos.
pub const PROTOCOL: u8 = 87;

/// A routing rule (`ip rule`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// The address family it belongs to.
    pub family: Family,
    /// Rules are tried from the lowest priority number up.
    pub priority: u32,
    /// The packets it applies to.
    pub selector: Selector,
    /// What it does with them.
    pub action: RuleAction,
}

/// Which packets a routing rule applies to; empty: all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Selector {
    /// The rule applies to packets that do *not* fit the rest (`ip rule add not ...`).
    pub invert: bool,
    /// Source net.
    pub from: Option<IpNet>,
    /// Destination net.
    pub to: Option<IpNet>,
    /// Mark, and the bits of it that count.
    pub fwmark: Option<(u32, u32)>,
}

/// What a routing rule does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleAction {
    /// Look the destination up in a table.
    Lookup {
        /// The table's number.
        table: u32,
        /// Ignore answers with a prefix of at most this length (0: the default route).
        suppress_prefix_length: Option<u32>,
    },
    /// Answer "unreachable".
    Unreachable,
    /// Something wansplit never asks for; seen only on others' rules.
    Other,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// Number of its table.
    pub table: u32,
    /// Destination net; its family is the route's, `0.0.0.0/0` and `::/0` are default routes.
    pub destination: IpNet,
    /// Of two routes to one net the lower metric counts; IPv6 reads 0 as 1024, so ours are never 0.
    pub metric: u32,
    /// The source address the router's own flows take by it.
    pub preferred_source: Option<IpAddr>,
    /// Where packets go; in the order given.
    pub hops: Vec<Hop>,
}

impl Route {
    /// The address family it belongs to.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.destination.addr())
    }

    /// Whether it is a default route.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }
}

/// One way a route can go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hop {
    /// Name of the device.
    pub interface: String,
    /// The next router; `None`: the destination is on the device's own link.
    pub gateway: Option<IpAddr>,
    /// Share among several hops, 1 to 255 (on the wire it is one less).
    pub weight: u8,
    /// The gateway counts as reachable on the device whatever the device's nets.
    pub onlink: bool,
}

/// All rules and routes that are to be ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoutingState {
    /// Routing rules.
    pub rules: Vec<Rule>,
    /// Routes.
    pub routes: Vec<Route>,
}

/// One step from one [`RoutingState`] to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoutingChange {
    /// Add a routing rule.
    AddRule(Rule),
    /// Delete a routing rule.
    DeleteRule(Rule),
    /// Add a route, in place of one with the same table, destination and metric if there is one.
    PutRoute(Route),
    /// Delete a route.
    DeleteRoute(Route),
}
