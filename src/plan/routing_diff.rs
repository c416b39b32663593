//! From the rules and routes there are to those there shall be, one change at a time.
//!
//! After every single step a packet that had a way keeps one:
//! - routes are put before the rules that look them up are added;
//! - a route without a next router is put before those whose routers it leads to;
//! - rules are added first to last and deleted last to first, so that
//!   "any other mark: unreachable" never stands without the marks before it;
//! - rules are deleted when all new ones are there, and routes last.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use super::routing::{Hop, Route, RoutingChange, RoutingState, Rule};

/// The least changes that lead from `current` to `wanted`, in the order to make them; none if they are equal.
#[must_use]
pub fn diff(current: &RoutingState, wanted: &RoutingState) -> Vec<RoutingChange> {
    let puts = routes_to_put(&current.routes, &wanted.routes);
    let adds = rules_without(&wanted.rules, &current.rules);
    let deletes = rules_without(&current.rules, &wanted.rules);
    let stale_routes = routes_to_delete(&current.routes, &wanted.routes);
    puts.into_iter()
        .map(RoutingChange::PutRoute)
        .chain(adds.into_iter().map(RoutingChange::AddRule))
        .chain(deletes.into_iter().rev().map(RoutingChange::DeleteRule))
        .chain(stale_routes.into_iter().rev().map(RoutingChange::DeleteRoute))
        .collect()
}

/// What the kernel tells routes apart by.
type RouteKey = (u32, IpNet, u32);

fn key(route: &Route) -> RouteKey {
    (route.table, route.destination.trunc(), route.metric)
}

fn routes_to_put(current: &[Route], wanted: &[Route]) -> Vec<Route> {
    let there: HashSet<Route> = current.iter().map(canonical).collect();
    in_order_of_dependence(wanted.iter().filter(|route| !there.contains(&canonical(route))))
}

fn routes_to_delete(current: &[Route], wanted: &[Route]) -> Vec<Route> {
    let kept: HashSet<RouteKey> = wanted.iter().map(key).collect();
    in_order_of_dependence(current.iter().filter(|route| !kept.contains(&key(route))))
}

/// A route as the kernel takes it: the order of its hops means nothing, nor do host bits.
fn canonical(route: &Route) -> Route {
    let mut hops = route.hops.clone();
    hops.sort_unstable();
    Route { destination: route.destination.trunc(), hops, ..route.clone() }
}

/// First the routes that lead to next routers, the most particular ones first of all.
fn in_order_of_dependence<'a>(routes: impl Iterator<Item = &'a Route>) -> Vec<Route> {
    let mut routes: Vec<Route> = routes.cloned().collect();
    routes.sort_by_key(|route| (route.hops.iter().any(needs_a_way), Reverse(route.destination.prefix_len())));
    routes
}

fn needs_a_way(hop: &Hop) -> bool {
    hop.gateway.is_some()
}

/// The rules of `these` that are not among `others`, each as often as it is there more often; first to last.
fn rules_without(these: &[Rule], others: &[Rule]) -> Vec<Rule> {
    let mut among_others: HashMap<&Rule, usize> = HashMap::new();
    others.iter().for_each(|rule| *among_others.entry(rule).or_default() += 1);
    let mut without: Vec<Rule> = Vec::new();
    for rule in these {
        match among_others.get_mut(rule) {
            Some(count) if *count > 0 => *count -= 1,
            _ => without.push(rule.clone()),
        }
    }
    without.sort_by_key(|rule| rule.priority);
    without
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::packet::Family;
    use crate::plan::routing::{RuleAction, Selector};

    #[test]
    fn equal_states_need_no_change_whatever_the_order() {
        let state = uplinks(3);
        let mut shuffled = state.clone();
        shuffled.routes.reverse();
        shuffled.routes.iter_mut().for_each(|route| route.hops.reverse());
        shuffled.rules.reverse();
        assert_eq!(diff(&state, &shuffled), []);
    }

    #[test]
    fn the_first_set_up_puts_connected_nets_then_defaults_then_rules() {
        let lines = lines(&RoutingState::default(), &uplinks(1));
        assert_eq!(
            lines,
            [
                "ip route replace 198.51.1.0/24 dev eth1 table 101 protocol 87 metric 1",
                "ip route replace default via 198.51.1.1 dev eth1 table 101 protocol 87 metric 1",
                "ip rule add priority 20001 fwmark 0x1/0xff lookup 101 protocol 87",
                "ip rule add priority 20100 not fwmark 0x0/0xff unreachable protocol 87",
            ]
        );
    }

    #[test]
    fn a_wide_net_is_put_before_a_narrow_one_whose_router_it_leads_to() {
        let wide = route(1, "198.51.0.0/16", None);
        let narrow = route(1, "10.1.2.0/24", Some("198.51.1.1".to_owned()));
        let wanted = RoutingState { routes: vec![narrow.clone(), wide.clone()], rules: Vec::new() };
        let puts = [wide, narrow].map(RoutingChange::PutRoute);
        assert_eq!(diff(&RoutingState::default(), &wanted), puts);
    }

    #[test]
    fn taking_down_deletes_rules_last_to_first_and_routes_after_them() {
        let lines = lines(&uplinks(1), &RoutingState::default());
        assert_eq!(
            lines,
            [
                "ip rule del priority 20100 not fwmark 0x0/0xff unreachable protocol 87",
                "ip rule del priority 20001 fwmark 0x1/0xff lookup 101 protocol 87",
                "ip route del default table 101 protocol 87 metric 1",
                "ip route del 198.51.1.0/24 table 101 protocol 87 metric 1",
            ]
        );
    }

    #[test]
    fn a_new_gateway_replaces_the_route_and_deletes_nothing() {
        let mut wanted = uplinks(2);
        wanted.routes[1].hops[0].gateway = Some("198.51.1.254".parse().unwrap());
        assert_eq!(
            lines(&uplinks(2), &wanted),
            ["ip route replace default via 198.51.1.254 dev eth1 table 101 protocol 87 metric 1"]
        );
    }

    #[test]
    fn a_rule_that_is_there_twice_is_deleted_once() {
        let wanted = uplinks(1);
        let mut current = wanted.clone();
        current.rules.push(wanted.rules[0].clone());
        assert_eq!(diff(&current, &wanted), [RoutingChange::DeleteRule(wanted.rules[0].clone())]);
    }

    proptest! {
        #[test]
        fn the_changes_lead_to_the_wanted_state(current in states(), wanted in states()) {
            let mut reached = current.clone();
            diff(&current, &wanted).iter().for_each(|change| make(change, &mut reached));
            prop_assert_eq!(diff(&reached, &wanted), []);
            prop_assert_eq!(reached.rules.len(), wanted.rules.len());
            prop_assert_eq!(reached.routes.len(), wanted.routes.len());
        }

        #[test]
        fn no_rule_ever_looks_up_a_table_less_filled_than_before_or_after(
            current in states(),
            wanted in states(),
        ) {
            let mut state = current.clone();
            for change in diff(&current, &wanted) {
                make(&change, &mut state);
                for table in state.rules.iter().filter_map(looked_up) {
                    let least = filled(&current, table).min(filled(&wanted, table));
                    prop_assert!(filled(&state, table) >= least);
                    if wanted.rules.iter().any(|rule| looked_up(rule) == Some(table)) {
                        prop_assert!(!matches!(change, RoutingChange::AddRule(_))
                            || filled(&state, table) >= filled(&wanted, table));
                    }
                }
            }
        }
    }

    fn lines(current: &RoutingState, wanted: &RoutingState) -> Vec<String> {
        diff(current, wanted).iter().map(ToString::to_string).collect()
    }

    fn make(change: &RoutingChange, state: &mut RoutingState) {
        match change {
            RoutingChange::AddRule(rule) => state.rules.push(rule.clone()),
            RoutingChange::DeleteRule(rule) => {
                let place = state.rules.iter().position(|other| other == rule).unwrap();
                state.rules.remove(place);
            }
            RoutingChange::PutRoute(route) => {
                state.routes.retain(|other| key(other) != key(route));
                state.routes.push(route.clone());
            }
            RoutingChange::DeleteRoute(route) => state.routes.retain(|other| key(other) != key(route)),
        }
    }

    fn filled(state: &RoutingState, table: u32) -> usize {
        state.routes.iter().filter(|route| route.table == table).count()
    }

    fn looked_up(rule: &Rule) -> Option<u32> {
        match rule.action {
            RuleAction::Lookup { table, .. } => Some(table),
            _ => None,
        }
    }

    fn uplinks(count: u8) -> RoutingState {
        let mut state = RoutingState::default();
        for uplink in 1..=count {
            state.routes.push(route(uplink, &format!("198.51.{uplink}.0/24"), None));
            state.routes.push(route(uplink, "0.0.0.0/0", Some(format!("198.51.{uplink}.1"))));
            let table = 100 + u32::from(uplink);
            let lookup = RuleAction::Lookup { table, suppress_prefix_length: None };
            state.rules.push(rule(20000 + u32::from(uplink), false, uplink.into(), lookup));
        }
        state.rules.push(rule(20100, true, 0, RuleAction::Unreachable));
        state
    }

    fn route(uplink: u8, destination: &str, gateway: Option<String>) -> Route {
        let gateway = gateway.map(|gateway| gateway.parse().unwrap());
        Route {
            table: 100 + u32::from(uplink),
            destination: destination.parse().unwrap(),
            metric: 1,
            preferred_source: None,
            hops: vec![Hop { interface: format!("eth{uplink}"), gateway, weight: 1, onlink: false }],
        }
    }

    fn rule(priority: u32, invert: bool, mark: u32, action: RuleAction) -> Rule {
        let selector = Selector { invert, fwmark: Some((mark, 0xff)), ..Selector::default() };
        Rule { family: Family::V4, priority, selector, action }
    }

    fn states() -> impl Strategy<Value = RoutingState> {
        let routes = proptest::collection::vec((1u8..5, 0u8..3, 1u8..3), 0..8);
        let rules = proptest::collection::vec((0u32..6, 1u8..5), 0..6);
        (routes, rules).prop_map(|(routes, rules)| {
            let mut state = RoutingState::default();
            for (table, net, router) in routes {
                let route =
                    route(table, &format!("10.{net}.0.0/16"), Some(format!("198.51.{table}.{router}")));
                make(&RoutingChange::PutRoute(route), &mut state);
            }
            for (priority, table) in rules {
                let lookup =
                    RuleAction::Lookup { table: 100 + u32::from(table), suppress_prefix_length: None };
                state.rules.push(rule(priority, false, 1, lookup));
            }
            state
        })
    }
}
