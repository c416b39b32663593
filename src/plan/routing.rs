//! Routing rules and routes as values: the state we want, and how to get there.
//!
//! They print as an operator would type them after `ip rule add` or `ip route
//! replace`; a [`RoutingChange`] prints as the whole line, our protocol number
//! included.

use std::fmt;
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
    /// The device that the socket is bound to; packets that come in by a device have none.
    pub bound_to: Option<String>,
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

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "priority {}{}{}", self.priority, self.selector, self.action)
    }
}

/// Each word with a space before it; nothing for "all packets".
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.invert {
            f.write_str(" not")?;
        }
        if let Some(from) = self.from {
            write!(f, " from {from}")?;
        }
        if let Some(to) = self.to {
            write!(f, " to {to}")?;
        }
        if let Some(device) = &self.bound_to {
            write!(f, " oif {device}")?;
        }
        match self.fwmark {
            Some((mark, u32::MAX)) => write!(f, " fwmark {mark:#x}"),
            Some((mark, mask)) => write!(f, " fwmark {mark:#x}/{mask:#x}"),
            None => Ok(()),
        }
    }
}

/// With a space before it; nothing for what only others do.
impl fmt::Display for RuleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleAction::Lookup { table, suppress_prefix_length: None } => write!(f, " lookup {table}"),
            RuleAction::Lookup { table, suppress_prefix_length: Some(length) } => {
                write!(f, " lookup {table} suppress_prefixlength {length}")
            }
            RuleAction::Unreachable => f.write_str(" unreachable"),
            RuleAction::Other => Ok(()),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_route(f, self, "")
    }
}

/// Words for the whole route must come before the first of several hops.
fn write_route(f: &mut fmt::Formatter<'_>, route: &Route, protocol: &str) -> fmt::Result {
    write_destination(f, route)?;
    if let [hop] = route.hops.as_slice() {
        write_hop(f, hop, route.family())?;
    }
    write!(f, " table {}{protocol}", route.table)?;
    if route.metric != 0 {
        write!(f, " metric {}", route.metric)?;
    }
    if let Some(source) = route.preferred_source {
        write!(f, " src {source}")?;
    }
    if let [_, _, ..] = route.hops.as_slice() {
        write_hops(f, route)?;
    }
    Ok(())
}

fn write_hops(f: &mut fmt::Formatter<'_>, route: &Route) -> fmt::Result {
    for hop in &route.hops {
        f.write_str(" nexthop")?;
        write_hop(f, hop, route.family())?;
        write!(f, " weight {}", hop.weight)?;
    }
    Ok(())
}

fn write_destination(f: &mut fmt::Formatter<'_>, route: &Route) -> fmt::Result {
    match route.is_default() {
        true => f.write_str("default"),
        false => write!(f, "{}", route.destination),
    }
}

/// With a space before it, and without its weight, which only one of several has.
fn write_hop(f: &mut fmt::Formatter<'_>, hop: &Hop, family: Family) -> fmt::Result {
    match hop.gateway {
        Some(gateway) if Family::of(gateway) == family => write!(f, " via {gateway}")?,
        Some(IpAddr::V4(gateway)) => write!(f, " via inet {gateway}")?,
        Some(IpAddr::V6(gateway)) => write!(f, " via inet6 {gateway}")?,
        None => {}
    }
    write!(f, " dev {}", hop.interface)?;
    if hop.onlink { f.write_str(" onlink") } else { Ok(()) }
}

impl fmt::Display for RoutingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = format!(" protocol {PROTOCOL}");
        match self {
            RoutingChange::AddRule(rule) => write!(f, "{} rule add {rule}{protocol}", ip(rule.family)),
            RoutingChange::DeleteRule(rule) => write!(f, "{} rule del {rule}{protocol}", ip(rule.family)),
            RoutingChange::PutRoute(route) => {
                write!(f, "{} route replace ", ip(route.family()))?;
                write_route(f, route, &protocol)
            }
            RoutingChange::DeleteRoute(route) => {
                write!(f, "{} route del ", ip(route.family()))?;
                write_route(
                    f,
                    &Route { hops: Vec::new(), preferred_source: None, ..route.clone() },
                    &protocol,
                )
            }
        }
    }
}

fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip -6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_print_as_an_operator_types_them() {
        let lookup = |table| RuleAction::Lookup { table, suppress_prefix_length: None };
        let mut rule =
            Rule { family: Family::V4, priority: 20001, selector: Selector::default(), action: lookup(101) };
        rule.selector.fwmark = Some((1, 0xff));
        let add = RoutingChange::AddRule(rule.clone()).to_string();
        assert_eq!(add, "ip rule add priority 20001 fwmark 0x1/0xff lookup 101 protocol 87");
        let of_a_device = Selector { bound_to: Some("wan1".into()), ..Selector::default() };
        let bound = Rule { selector: of_a_device, ..rule.clone() };
        assert_eq!(bound.to_string(), "priority 20001 oif wan1 lookup 101");
        let unreachable = Rule {
            family: Family::V6,
            selector: Selector { invert: true, fwmark: Some((0, 0xff)), ..Selector::default() },
            action: RuleAction::Unreachable,
            ..rule
        };
        let delete = RoutingChange::DeleteRule(unreachable).to_string();
        assert_eq!(delete, "ip -6 rule del priority 20001 not fwmark 0x0/0xff unreachable protocol 87");
    }

    #[test]
    fn routes_print_as_an_operator_types_them() {
        let hop = |gateway: &str, interface: &str, weight| Hop {
            interface: interface.to_owned(),
            gateway: Some(gateway.parse().unwrap()),
            weight,
            onlink: false,
        };
        let route = |destination: &str, hops| Route {
            table: 101,
            destination: destination.parse().unwrap(),
            metric: 1,
            preferred_source: None,
            hops,
        };
        let one = route("::/0", vec![hop("fe80::1", "eth1", 1)]);
        assert_eq!(
            RoutingChange::PutRoute(one.clone()).to_string(),
            "ip -6 route replace default via fe80::1 dev eth1 table 101 protocol 87 metric 1"
        );
        assert_eq!(one.to_string(), "default via fe80::1 dev eth1 table 101 metric 1");
        let two = route("10.0.0.0/8", vec![hop("198.51.100.1", "eth1", 3), hop("203.0.113.1", "eth2", 1)]);
        assert_eq!(
            RoutingChange::PutRoute(two.clone()).to_string(),
            "ip route replace 10.0.0.0/8 table 101 protocol 87 metric 1 \
             nexthop via 198.51.100.1 dev eth1 weight 3 nexthop via 203.0.113.1 dev eth2 weight 1"
        );
        assert_eq!(
            RoutingChange::DeleteRoute(two).to_string(),
            "ip route del 10.0.0.0/8 table 101 protocol 87 metric 1"
        );
    }
}
