//! Links, rules and routes against the real kernel, each test in a network namespace of its own.

#[path = "support/netns.rs"]
mod netns;

use std::time::Duration;

use ipnet::IpNet;
use netns::{in_netns, sh};
use wansplit::engine::packet::Family;
use wansplit::plan::observed::Link;
use wansplit::plan::routing::{Hop, Route, RoutingChange, RoutingState, Rule, RuleAction, Selector};
use wansplit::plan::routing_diff::diff;
use wansplit::system::links::Changes;
use wansplit::system::netlink::Netlink;
use wansplit::system::routes::ObservedRouting;
use wansplit::system::sysctl::Sysctl;

#[test]
fn what_is_put_is_what_is_read_back() {
    in_network(async |netlink| {
        apply(&netlink, &diff(&RoutingState::default(), &everything())).await;
        let observed = ours(&netlink).await;
        assert_eq!(diff(&observed, &everything()), [], "{observed:#?}");
        assert_eq!(sorted(observed), sorted(everything()));
    });
}

#[test]
fn the_printed_lines_do_the_same_when_typed() {
    in_network(async |netlink| {
        let changes = diff(&RoutingState::default(), &everything());
        for line in changes.iter().map(ToString::to_string) {
            sh(&line);
        }
        let typed = kernel_dump();
        for line in diff(&everything(), &RoutingState::default()).iter().map(ToString::to_string) {
            sh(&line);
        }
        assert_eq!(ours(&netlink).await, RoutingState::default());
        apply(&netlink, &changes).await;
        assert_eq!(kernel_dump(), typed);
    });
}

#[test]
fn packets_go_where_the_rules_send_them() {
    in_network(async |netlink| {
        apply(&netlink, &diff(&RoutingState::default(), &everything())).await;
        for (target, mark, way) in [
            ("10.1.2.3", "0x1", "via 198.51.100.1 dev eth1 table 101"),
            ("10.1.2.3", "0x80000000", "via 192.0.2.1 dev eth1 table 100000"),
            ("203.0.113.9", "0x1", "203.0.113.9 dev eth2"),
            ("2001:db8:77::1", "0x1", "via fe80::1 dev eth1 table 101"),
            ("2001:db8:77::1", "0x80000000", "via 2001:db8:99::1 dev eth1 table 100000"),
        ] {
            let found = sh(&format!("ip route get {target} mark {mark}"));
            assert!(found.contains(way), "{target} with mark {mark}: {found}");
        }
        for target in ["10.1.2.3", "2001:db8:77::1"] {
            let refused = sh(&format!("ip route get {target} mark 0x42 2>&1 || true"));
            assert!(refused.contains("unreachable"), "{target} with a mark nobody has: {refused}");
        }
        let own = sh("ip route get 10.1.2.3 from 198.51.100.2");
        assert!(own.contains("via 198.51.100.1 dev eth1 table 101"), "{own}");
    });
}

#[test]
fn applying_twice_changes_nothing_and_taking_down_leaves_nothing() {
    in_network(async |netlink| {
        let before = kernel_dump();
        let up = diff(&RoutingState::default(), &everything());
        apply(&netlink, &up).await;
        let once = kernel_dump();
        apply(&netlink, &up).await;
        assert_eq!(kernel_dump(), once);
        let down = diff(&everything(), &RoutingState::default());
        apply(&netlink, &down).await;
        apply(&netlink, &down).await;
        assert_eq!(kernel_dump(), before);
    });
}

#[test]
fn every_state_leads_to_every_other() {
    in_network(async |netlink| {
        let mut fewer = everything();
        fewer.routes.retain(|route| route.table != 301);
        fewer.rules.truncate(3);
        for route in fewer.routes.iter_mut().filter(|route| route.hops.len() > 1) {
            route.hops.pop();
        }
        for wanted in [everything(), fewer.clone(), RoutingState::default(), fewer, everything()] {
            apply(&netlink, &diff(&ours(&netlink).await, &wanted)).await;
            assert_eq!(sorted(ours(&netlink).await), sorted(wanted));
        }
    });
}

#[test]
fn what_others_have_is_told_apart_and_left_alone() {
    in_network(async |netlink| {
        sh("ip route add 172.16.0.0/12 via 198.51.100.1 table 77 && ip route add default via 198.51.100.1");
        sh("ip rule add priority 500 iif eth1 lookup 77 && ip rule add priority 501 lookup 77");
        sh("ip -6 rule add priority 502 fwmark 7 prohibit");
        let rule = rule(Family::V4, 501, lookup(77));
        let before = kernel_dump();
        apply(&netlink, &[RoutingChange::AddRule(rule.clone())]).await;
        let observed = observe(&netlink).await;
        assert_eq!(observed.our_rules, std::slice::from_ref(&rule), "an equal foreign rule is not ours");
        assert_eq!(observed.foreign_tables, [77].into());
        let actions: Vec<_> = observed.foreign_rules.iter().map(|rule| &rule.action).collect();
        assert_eq!(actions, [&RuleAction::Other, &lookup(77), &RuleAction::Other]);
        assert_eq!(observed.foreign_rules[2].selector.fwmark, Some((7, u32::MAX)));
        let default = observed.main_routes.iter().find(|route| route.is_default()).expect("a default route");
        assert_eq!(default.hops, [hop("eth1", Some("198.51.100.1"), 1)]);
        apply(&netlink, &[RoutingChange::DeleteRule(rule)]).await;
        assert_eq!(kernel_dump(), before);
    });
}

#[test]
fn a_default_route_that_refuses_is_seen_in_its_family_and_table() {
    in_network(async |netlink| {
        sh("ip route add unreachable default table 77 && ip route add unreachable 172.16.0.0/12");
        assert_eq!(observe(&netlink).await.main_refuses, [].into());
        sh("ip -6 route add blackhole default metric 5000");
        assert_eq!(observe(&netlink).await.main_refuses, [Family::V6].into());
        sh("ip route add prohibit default");
        assert_eq!(observe(&netlink).await.main_refuses, Family::BOTH.into());
    });
}

#[test]
fn a_rule_of_ours_that_is_there_twice_is_deleted_once() {
    in_network(async |netlink| {
        let lost = rule(Family::V4, 700, lookup(301));
        sh("ip rule add priority 700 lookup 301 protocol 87");
        sh("ip rule add priority 700 iif eth1 lookup 301 protocol 87");
        apply(&netlink, &[RoutingChange::DeleteRule(lost.clone())]).await;
        let left = ours(&netlink).await.rules;
        assert_eq!(left, [Rule { action: RuleAction::Other, ..lost }]);
        apply(&netlink, &[RoutingChange::DeleteRule(left[0].clone())]).await;
        assert_eq!(ours(&netlink).await.rules, []);
    });
}

#[test]
fn errors_name_the_line_and_the_reason() {
    in_network(async |netlink| {
        let lost = route(101, "0.0.0.0/0", vec![hop("eth1", Some("192.0.2.77"), 1)]);
        let error = netlink.apply(&RoutingChange::PutRoute(lost)).await.expect_err("no way to the router");
        let line = "ip route replace default via 192.0.2.77 dev eth1 table 101 protocol 87 metric 1";
        let reason = "Network is unreachable (Nexthop has invalid gateway)";
        assert_eq!(error.to_string(), format!("{line}: {reason}"));
        for missing in ["eth9", "", "a-name-that-is-far-too-long"] {
            let route = route(101, "10.0.0.0/8", vec![hop(missing, None, 1)]);
            let error = netlink.apply(&RoutingChange::PutRoute(route)).await.expect_err("no such device");
            assert!(error.to_string().ends_with(&format!(": no device {missing}")), "{error}");
        }
        let other = rule(Family::V4, 9, RuleAction::Other);
        netlink.apply(&RoutingChange::AddRule(other)).await.expect_err("a rule without an action");
    });
}

#[test]
fn a_device_that_goes_down_takes_its_routes_and_the_difference_gives_them_back() {
    in_network(async |netlink| {
        apply(&netlink, &diff(&RoutingState::default(), &everything())).await;
        sh("ip link set eth1 down && ip link set eth1 up && ip address add 2001:db8:1::2/64 dev eth1 nodad");
        settle();
        let missing = diff(&ours(&netlink).await, &everything());
        assert!(missing.iter().all(|change| matches!(change, RoutingChange::PutRoute(_))), "{missing:#?}");
        assert!(!missing.is_empty());
        apply(&netlink, &missing).await;
        assert_eq!(sorted(ours(&netlink).await), sorted(everything()));
    });
}

#[test]
fn links_tell_carrier_addresses_and_peers() {
    in_network(async |netlink| {
        sh("ip address add 192.0.2.1 peer 192.0.2.9 dev tun0");
        sh("ip address add 2001:db8:9::1/64 dev eth1 preferred_lft 0 nodad");
        sh("ip link set eth2-peer down && ip link set eth1 mtu 1400");
        settle();
        let links = netlink.observe_links().await.expect("links");
        let eth1 = link(&links, "eth1");
        assert!(eth1.up && !eth1.point_to_point && eth1.mtu == 1400);
        assert_eq!(nets(eth1), ["198.51.100.2/24", "2001:db8:1::2/64"]);
        assert!(!link(&links, "eth2").up, "up without a carrier is down");
        let tun0 = link(&links, "tun0");
        assert!(tun0.point_to_point);
        assert_eq!(tun0.addresses[0].peer, Some("192.0.2.9".parse().unwrap()));
        assert_eq!(nets(tun0), ["192.0.2.1/32"]);
    });
}

#[test]
fn devices_of_every_kind_are_seen_and_vlan_names_keep_their_dots() {
    in_network(async |netlink| {
        sh("ip link add name eth1.100 type veth");
        for kind in KINDS {
            // Which of them exist is the kernel's business; those that do must be seen.
            sh(&format!("ip link add {kind} 2>/dev/null || true"));
        }
        let links = netlink.observe_links().await.expect("links");
        let mut names: Vec<_> = links.iter().map(|link| link.name.clone()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            sh("ls /proc/sys/net/ipv4/conf | grep -vx -e all -e default").lines().collect::<Vec<_>>()
        );
        assert!(names.contains(&"eth1.100".to_owned()));
        let sysctl: Sysctl = "net/ipv4/conf/eth1.100/rp_filter".parse().expect("a name");
        sysctl.write("2").expect("permission");
        assert_eq!(sysctl.read().as_deref(), Some("2"));
    });
}

#[test]
fn a_burst_of_changes_is_one_piece_of_news_and_silence_is_none() {
    in_network(async |_netlink| {
        for line in [
            "ip link set eth1 mtu 1300",
            "ip address add 10.1.1.1/24 dev eth1",
            "ip -6 address add 2001:db8:77::1/64 dev eth1 nodad",
            "ip route add 10.2.0.0/16 dev eth1",
            "ip -6 route add 2001:db8:88::/64 dev eth1",
            "ip rule add priority 3 lookup 3",
            "ip -6 rule add priority 3 lookup 3",
        ] {
            let mut changes = Changes::watch().expect("a socket");
            sh(line);
            assert!(news(&mut changes, 2000).await, "no news of {line}");
            settle();
            news(&mut changes, 0).await;
            assert!(!news(&mut changes, 50).await, "news without a change after {line}");
        }
    });
}

#[test]
fn an_overrun_is_news_too() {
    in_network(async |_netlink| {
        let mut changes = Changes::watch().expect("a socket");
        sh(
            "seq 1 4000 | sed 's/.*/route add 10.&.0.0 dev eth1 table &/; s/10.\\([0-9]*\\).0.0/10.0.0.0\\/8/' \
            | ip -batch -",
        );
        assert!(news(&mut changes, 2000).await);
        news(&mut changes, 0).await;
        sh("ip rule add priority 3 lookup 3");
        assert!(news(&mut changes, 2000).await, "deaf after an overrun");
    });
}

/// Kinds of devices, as `ip link add` makes them.
const KINDS: [&str; 15] = [
    "k1 type bridge",
    "k2 type bond",
    "k3 type ifb",
    "k4 link eth1 type macvlan",
    "k5 link eth1 type ipvlan",
    "k6 type vxlan id 6 dev eth1 dstport 4789",
    "k7 type gre remote 198.51.100.7",
    "k8 type ip6tnl remote 2001:db8::8",
    "k9 type sit remote 198.51.100.9",
    "k10 type ipip remote 198.51.100.10",
    "k11 type vti remote 198.51.100.11 key 1",
    "k12 type wireguard",
    "k13 type dummy",
    "k14 type vrf table 14",
    "k15 type ip6gre remote 2001:db8::15",
];

/// Every kind of rule and route that plans are made of.
fn everything() -> RoutingState {
    RoutingState { rules: rules(), routes: routes() }
}

fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    for (family, from, to) in [
        (Family::V4, "198.51.100.2/32", "203.0.113.0/24"),
        (Family::V6, "2001:db8:1::2/128", "2001:db8:2::/48"),
    ] {
        let main = RuleAction::Lookup { table: 254, suppress_prefix_length: Some(0) };
        rules.push(rule(family, 20000, main));
        rules.push(marked(rule(family, 20001, lookup(101)), 1, 0xff));
        rules.push(marked(rule(family, 20002, lookup(100_000)), 0x8000_0000, u32::MAX));
        let mut unmarked = marked(rule(family, 20100, RuleAction::Unreachable), 0, 0xff);
        unmarked.selector.invert = true;
        rules.push(unmarked);
        let mut source = rule(family, 20200, lookup(101));
        source.selector.from = Some(from.parse::<IpNet>().unwrap());
        rules.push(source.clone());
        source.priority += 1;
        source.selector.to = Some(to.parse::<IpNet>().unwrap());
        rules.push(source);
        let mut bound = rule(family, 20250, lookup(101));
        bound.selector.bound_to = Some("eth1".into());
        rules.push(bound);
        rules.push(rule(family, 20300, lookup(301)));
    }
    rules
}

fn routes() -> Vec<Route> {
    let mut connected = route(101, "198.51.100.0/24", vec![hop("eth1", None, 1)]);
    connected.preferred_source = Some("198.51.100.2".parse().unwrap());
    let mut connected6 = route(101, "2001:db8:1::/64", vec![hop("eth1", None, 1)]);
    connected6.preferred_source = Some("2001:db8:1::2".parse().unwrap());
    let onlink = |hop| Hop { onlink: true, ..hop };
    vec![
        connected,
        connected6,
        route(101, "0.0.0.0/0", vec![hop("eth1", Some("198.51.100.1"), 1)]),
        route(101, "::/0", vec![hop("eth1", Some("fe80::1"), 1)]),
        Route { metric: 4_000_000_000, ..route(101, "0.0.0.0/0", vec![hop("eth2", Some("203.0.113.1"), 1)]) },
        Route { metric: 77, ..route(101, "::/0", vec![hop("eth2", Some("2001:db8:2::1"), 1)]) },
        route(100_000, "0.0.0.0/0", vec![onlink(hop("eth1", Some("192.0.2.1"), 1))]),
        route(100_000, "::/0", vec![onlink(hop("eth1", Some("2001:db8:99::1"), 1))]),
        route(103, "0.0.0.0/0", vec![hop("tun0", None, 1)]),
        route(103, "::/0", vec![hop("tun0", None, 1)]),
        route(104, "10.9.0.0/16", vec![hop("eth1", Some("fe80::9"), 1)]),
        route(
            301,
            "0.0.0.0/0",
            vec![
                hop("eth1", Some("198.51.100.1"), 3),
                hop("eth2", Some("203.0.113.1"), 255),
                hop("tun0", None, 1),
            ],
        ),
        route(
            301,
            "::/0",
            vec![
                hop("eth1", Some("fe80::1"), 3),
                hop("eth2", Some("2001:db8:2::1"), 255),
                onlink(hop("eth2", Some("2001:db8:99::1"), 1)),
                hop("tun0", Some("fe80::1"), 1),
            ],
        ),
    ]
}

fn rule(family: Family, priority: u32, action: RuleAction) -> Rule {
    Rule { family, priority, selector: Selector::default(), action }
}

fn marked(mut rule: Rule, mark: u32, mask: u32) -> Rule {
    rule.selector.fwmark = Some((mark, mask));
    rule
}

fn lookup(table: u32) -> RuleAction {
    RuleAction::Lookup { table, suppress_prefix_length: None }
}

fn route(table: u32, destination: &str, hops: Vec<Hop>) -> Route {
    Route { table, destination: destination.parse().unwrap(), metric: 1, preferred_source: None, hops }
}

fn hop(interface: &str, gateway: Option<&str>, weight: u8) -> Hop {
    let gateway = gateway.map(|gateway| gateway.parse().unwrap());
    Hop { interface: interface.to_owned(), gateway, weight, onlink: false }
}

fn link<'a>(links: &'a [Link], name: &str) -> &'a Link {
    links.iter().find(|link| link.name == name).expect(name)
}

fn nets(link: &Link) -> Vec<String> {
    link.addresses.iter().map(|address| address.net.to_string()).collect()
}

fn sorted(mut state: RoutingState) -> RoutingState {
    state.rules.sort();
    state.routes.iter_mut().for_each(|route| route.hops.sort());
    state.routes.sort();
    state
}

async fn apply(netlink: &Netlink, changes: &[RoutingChange]) {
    for change in changes {
        netlink.apply(change).await.unwrap_or_else(|error| panic!("{error}"));
    }
}

async fn observe(netlink: &Netlink) -> ObservedRouting {
    netlink.observe_routing().await.expect("rules and routes")
}

async fn ours(netlink: &Netlink) -> RoutingState {
    let observed = observe(netlink).await;
    RoutingState { rules: observed.our_rules, routes: observed.our_routes }
}

/// What `ip` sees of the kernel; an IPv6 table, once made, stays and is left out.
fn kernel_dump() -> String {
    sh("ip rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all")
}

/// Lets the kernel finish what it does later: carriers, address checks.
fn settle() {
    std::thread::sleep(Duration::from_millis(300));
}

/// Whether there is news within so many milliseconds.
async fn news(changes: &mut Changes, milliseconds: u64) -> bool {
    let news = tokio::time::timeout(Duration::from_millis(milliseconds), changes.next()).await;
    news.map(|news| news.expect("a socket that works")).is_ok()
}

/// Two Ethernet uplinks and a tunnel, and a connection to the kernel.
fn in_network(test: impl AsyncFnOnce(Netlink) + Send + 'static) {
    in_netns(|| {
        // Address checks and router solicitations would change things seconds later.
        sh("for c in all default; do sysctl -qw net.ipv6.conf.$c.accept_dad=0; \
            sysctl -qw net.ipv6.conf.$c.router_solicitations=0; done");
        sh("for d in eth1 eth2; do ip link add $d type veth peer name $d-peer; \
            ip link set $d up; ip link set $d-peer up; done");
        sh("ip tuntap add tun0 mode tun && ip link set tun0 up");
        sh("ip address add 198.51.100.2/24 dev eth1 && ip address add 2001:db8:1::2/64 dev eth1 nodad");
        sh("ip address add 203.0.113.2/24 dev eth2 && ip address add 2001:db8:2::2/64 dev eth2 nodad");
        settle();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { test(Netlink::open().expect("a connection")).await });
    });
}
