//! The routing rules and tables that make a mark mean an uplink.
//!
//! In the order of their priorities: everything known to the main table, but for
//! its default route, goes there (LAN, VPN, static routes); bypassed nets go
//! there too, default route included, but for flows that have an uplink already,
//! as answers to outside do; the router's own sockets that are bound to an
//! uplink's device go out by it, whatever their mark; a mark goes to its
//! uplink's table; what is refused goes as far as the firewall that refuses it;
//! a mark whose uplink has no way goes nowhere, rather than split a flow; the router's own sockets that are bound to an uplink's address
//! go out by it; the rest, the router's own new flows, goes by the own-traffic
//! table.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::lines::{Line, Way, candidates};
use super::observed::Observed;
use super::routing::{Hop, Route, RoutingState, Rule, RuleAction, Selector};
use crate::config::{Config, RouterTraffic, Source};
use crate::engine::packet::Family;
use crate::engine::rule::model::{NoLine, WhenNone};
use crate::engine::uplink::{UplinkId, UplinkSet};

/// The main table's number (include/uapi/linux/rtnetlink.h, `RT_TABLE_MAIN`).
const MAIN: u32 = 254;
/// Metric of our routes: the best there is that both families read alike.
const METRIC: u32 = 1;
/// Metric of a route that counts only while the better one is gone.
const FALLBACK_METRIC: u32 = 2;

/// How many priorities our rules take, from `first_priority` on.
pub const PRIORITIES: u32 = 7;

/// The rules and routes for these uplinks.
#[must_use]
pub fn routing(config: &Config, lines: &[Line], observed: &Observed) -> RoutingState {
    let mut rules: Vec<Rule> =
        Family::BOTH.into_iter().flat_map(|family| rules(config, lines, observed, family)).collect();
    let mut routes: Vec<Route> =
        Family::BOTH.into_iter().flat_map(|family| routes(config, lines, observed, family)).collect();
    rules.sort();
    rules.dedup();
    routes.sort();
    routes.dedup();
    RoutingState { rules, routes }
}

fn rules(config: &Config, lines: &[Line], observed: &Observed, family: Family) -> Vec<Rule> {
    let first = config.routing.first_priority;
    let rule = |step: u32, selector: Selector, action: RuleAction| Rule {
        family,
        priority: first + step,
        selector,
        action,
    };
    let mask = config.marks.mask;
    let marked = |uplink: UplinkId| Selector {
        fwmark: Some((config.marks.value(uplink), mask)),
        ..Selector::default()
    };
    let any_mark = Selector { invert: true, fwmark: Some((0, mask)), ..Selector::default() };

    // The first priority is always taken: a rule that somebody adds without one gets the number
    // before the first there is (net/core/fib_rules.c, fib_default_rule_pref), not one of ours.
    let mut rules: Vec<Rule> =
        known_to_main(observed, family).into_iter().map(|(to, action)| rule(0, to, action)).collect();
    rules.extend(bypassed(config, family).map(|selector| rule(1, selector, lookup(MAIN))));
    for uplink in &config.uplinks {
        let bound = Selector { bound_to: Some(uplink.interface.clone()), ..Selector::default() };
        rules.push(rule(2, bound, lookup(uplink.table)));
        rules.push(rule(3, marked(uplink.id), lookup(uplink.table)));
    }
    if config.refuses() {
        let refused = Selector { fwmark: Some((config.marks.refused, mask)), ..Selector::default() };
        rules.push(rule(3, refused, lookup(config.routing.refused_table)));
    }
    rules.push(rule(4, any_mark, RuleAction::Unreachable));
    for (uplink, line) in config.uplinks.iter().zip(lines) {
        rules.extend(line.addresses(family).map(|address| {
            let from = Selector { from: Some(IpNet::from(address)), ..Selector::default() };
            rule(5, from, lookup(uplink.table))
        }));
    }
    rules.push(rule(6, Selector::default(), lookup(config.routing.first_table)));
    rules
}

/// The main table but for its default route. The kernel suppresses only a
/// default route that leads somewhere, not one that refuses (`fib_rules_lookup`
/// in net/core/fib_rules.c); beside such a one, each net has a rule of its own.
fn known_to_main(observed: &Observed, family: Family) -> Vec<(Selector, RuleAction)> {
    if !observed.main_refuses.contains(&family) {
        let but_default = RuleAction::Lookup { table: MAIN, suppress_prefix_length: Some(0) };
        return vec![(Selector::default(), but_default)];
    }
    let known = observed.main_routes.iter().filter(|route| route.family() == family && !route.is_default());
    let nets: Vec<IpNet> = known.map(|route| route.destination).collect();
    let to = |net| (Selector { to: Some(net), ..Selector::default() }, lookup(MAIN));
    IpNet::aggregate(&nets).into_iter().map(to).collect()
}

fn lookup(table: u32) -> RuleAction {
    RuleAction::Lookup { table, suppress_prefix_length: None }
}

fn bypassed(config: &Config, family: Family) -> impl Iterator<Item = Selector> + '_ {
    let of_family = move |net: &&IpNet| Family::of(net.addr()) == family;
    let to = config.bypass.destinations.iter().filter(of_family);
    let from = config.bypass.clients.iter().filter(of_family);
    let unmarked = Selector { fwmark: Some((0, config.marks.mask)), ..Selector::default() };
    let by_source = unmarked.clone();
    to.map(move |&net| Selector { to: Some(net), ..unmarked.clone() })
        .chain(from.map(move |&net| Selector { from: Some(net), ..by_source.clone() }))
}

fn routes(config: &Config, lines: &[Line], observed: &Observed, family: Family) -> Vec<Route> {
    let mut routes = Vec::new();
    let mut usable: Vec<(&Line, &Way)> = Vec::new();
    // The router itself goes on trying, by name for one: else nobody would find out that a line works again.
    let is_lost = !lines.iter().any(|line| line.is_usable(family));
    for (uplink, line) in config.uplinks.iter().zip(lines) {
        let (Ok(way), table) = (line.way(family), uplink.table) else { continue };
        routes.extend(connected(line, family, table));
        routes.push(default_route(family, table, METRIC, preferred_source(line, way), vec![alone(&way.hop)]));
        let is_tried = line.is_usable(family) || is_lost && line.is_doubted(family);
        usable.extend(is_tried.then_some((line, way)));
    }
    let keep = WhenNone::Stop(NoLine::Keep);
    let cheapest = candidates(lines, family, keep, lines.iter().map(|line| line.id));
    routes.extend(own_traffic(config, &usable, cheapest, family));
    routes.extend(refused(config, observed, family));
    routes
}

/// Where packets go that are refused before they leave: to any uplink's device that takes routes.
fn refused(config: &Config, observed: &Observed, family: Family) -> Option<Route> {
    let mut links = config.uplinks.iter().filter_map(|uplink| observed.link(&uplink.interface));
    let link = links.find(|link| link.enabled).filter(|_| config.refuses())?;
    let hop = Hop { interface: link.name.clone(), gateway: None, weight: 1, onlink: false };
    Some(default_route(family, config.routing.refused_table, METRIC, None, vec![hop]))
}

/// The nets on the uplink's own link.
fn connected(line: &Line, family: Family, table: u32) -> impl Iterator<Item = Route> + '_ {
    let nets = line.nets.iter().filter(move |net| Family::of(net.addr()) == family);
    nets.filter(|net| net.prefix_len() < net.max_prefix_len()).map(move |net| Route {
        table,
        destination: net.trunc(),
        metric: METRIC,
        preferred_source: None,
        hops: vec![Hop { interface: line.interface.clone(), gateway: None, weight: 1, onlink: false }],
    })
}

/// The configured source address, where the device has it.
fn preferred_source(line: &Line, way: &Way) -> Option<std::net::IpAddr> {
    let Source::Address(source) = way.source else { return None };
    line.nets.iter().map(IpNet::addr).find(|&address| address == source)
}

fn default_route(
    family: Family,
    table: u32,
    metric: u32,
    preferred_source: Option<std::net::IpAddr>,
    hops: Vec<Hop>,
) -> Route {
    Route { table, destination: everything(family), metric, preferred_source, hops }
}

/// The default route's destination.
fn everything(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into(),
        Family::V6 => Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// A hop that is a route's only one; its weight means nothing then.
fn alone(hop: &Hop) -> Hop {
    Hop { weight: 1, ..hop.clone() }
}

/// The own-traffic table: the cheapest usable uplinks by weight, or one before all. A socket that
/// is bound to no port is routed before it has one, so by its destination alone.
fn own_traffic(config: &Config, ways: &[(&Line, &Way)], cheapest: UplinkSet, family: Family) -> Vec<Route> {
    let table = config.routing.first_table;
    let route = |metric, hops| default_route(family, table, metric, None, hops);
    let favourite = match config.routing.router {
        RouterTraffic::Uplink(uplink) => ways.iter().find(|(line, _)| line.id == uplink),
        RouterTraffic::Multipath | RouterTraffic::Rules => None,
    };
    let mut routes = Vec::new();
    if let Some((_, way)) = favourite {
        routes.push(route(METRIC, vec![alone(&way.hop)]));
    }
    let metric = if favourite.is_some() { FALLBACK_METRIC } else { METRIC };
    let shared: Vec<&Way> =
        ways.iter().filter(|(line, _)| cheapest.contains(line.id)).map(|&(_, way)| way).collect();
    match shared.as_slice() {
        [] => {}
        [way] => routes.push(route(metric, vec![alone(&way.hop)])),
        several => {
            let hops = several.iter().map(|way| among_several(&way.hop, family));
            routes.push(route(metric, hops.collect()));
        }
    }
    routes
}

/// IPv6 takes no hop without a gateway among several ("Device only routes can not be
/// added", net/ipv6/route.c); on a device without neighbours any link-local one will do.
fn among_several(hop: &Hop, family: Family) -> Hop {
    const NOMINAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let nominal = (family == Family::V6).then_some(NOMINAL.into());
    Hop { gateway: hop.gateway.or(nominal), ..hop.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Lists, SourceFile, load};

    #[test]
    fn the_first_priority_is_ours_in_both_families_with_and_without_bypassed_nets() {
        for bypass in ["", "[bypass]\ndestinations = [\"192.0.2.0/24\", \"2001:db8::/32\"]"] {
            let text =
                format!("lan.interfaces = [\"lan\"]\n[[uplink]]\nname = \"a\"\ninterface = \"a\"\n{bypass}");
            let config = load(&SourceFile { path: "test".into(), text }, &[], &Lists::default()).unwrap();
            for family in Family::BOTH {
                let first = rules(&config, &[], &Observed::default(), family)
                    .into_iter()
                    .map(|rule| rule.priority)
                    .min();
                assert_eq!(first, Some(config.routing.first_priority));
            }
        }
    }
}
