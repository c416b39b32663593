//! Rules and policies, with lines that go down and come again, and while the daemon is dead.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use crate::common::*;
use crate::router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::network::Network;
use wansplit::lab::server::Server;
use wansplit::lab::topology::{Lan, Topology};
use wansplit::lab::traffic::craft::{Header, protocol, udp as datagram};
use wansplit::lab::traffic::{Pace, Pings, Report, TcpFlows, UdpFlows, send_packets};

#[test]
fn every_condition_of_a_rule_holds_and_is_needed() {
    for_each_backend(conditions_hold);
}

/// All rules lead to line 2; without a rule, flows alternate.
fn conditions_hold(backend: &str) {
    let mut router = two_lans(backend);
    let two = router.network.servers[1];
    let clients: Vec<_> = router.network.clients().cloned().collect();
    router.rule_file("10.toml", &[
        to_line_2("protocol and port", "protocol = \"udp\", dst_port = 1001"),
        to_line_2("port range", "dst_port = \"1002-1003\""),
        to_line_2("source port", "src_port = \"9900-9999\""),
        to_line_2("destination", &format!("dst = [\"{}\", \"{}\"]", two.v4, two.v6)),
        to_line_2("client", &format!("src = [\"{}\", \"{}\"]", clients[1].addresses.v4, clients[1].addresses.v6)),
        to_line_2("hardware", &format!("src_mac = \"{}\"", clients[2].mac)),
        to_line_2("lan", "lan = \"lan1\""),
        to_line_2("length", "protocol = \"udp\", length = \"1000-1400\""),
        to_line_2("always", "dst_port = 1004, time = [\"00:00-12:00\", \"12:00-24:00\"], weekday = [\"mon-sun\"]"),
        to_line_2("never", &format!("dst_port = 1005, weekday = \"{}\"", day_but_one())),
        to_line_2("code point", "dscp = \"EF\""),
        to_line_2("pings", "icmp_type = \"echo-request\""),
        "[[rule]]\nname = \"but\"\nmatch = { dst_port = \"1006-1007\" }\nnot = { dst_port = 1007 }\nuse = \"isp2\"\n".into(),
    ].concat());
    router.start();
    let _server = more_ports(&router.network, 1001..=1008);
    let one = |family| router.network.servers[0].of(family);
    let host = &clients[0].host;
    for family in Family::BOTH {
        let to = |port| SocketAddr::new(one(family), port);
        let by = |report: Report| by_line(&router.network, &report);
        assert_eq!(by(udp(host, to(1001), 8)), [0, 8]);
        assert_eq!(by(tcp(host, to(1001), 8)), [4, 4], "{backend} {}", router.status()["gate"]);
        assert_eq!(by(tcp(host, to(1002), 8)), [0, 8]);
        assert_eq!(by(tcp(host, to(1003), 8)), [0, 8]);
        // Below the ports that the machine chooses from, which may be in use.
        let first_port = Some(9_900);
        let from_port = TcpFlows { first_port, ..TcpFlows::new(to(ECHO), Pace::burst(8, 8)) };
        assert_eq!(by(worked(from_port.run(host).unwrap(), to(ECHO))), [0, 8]);
        assert_eq!(by(tcp(host, SocketAddr::new(two.of(family), ECHO), 8)), [0, 8]);
        for client in [1, 2, 3] {
            assert_eq!(by(tcp(&clients[client].host, to(ECHO), 8)), [0, 8], "client {client}");
        }
        for (bytes, lines) in [(1100, [0, 8]), (64, [4, 4])] {
            let sized = UdpFlows { bytes, ..UdpFlows::new(to(ECHO), Pace::burst(8, 8)) };
            assert_eq!(by(sized.run(host).unwrap()), lines, "{bytes}");
        }
        assert_eq!(by(tcp(host, to(1004), 8)), [0, 8]);
        assert_eq!(by(tcp(host, to(1005), 8)), [4, 4]);
        assert_eq!(by(tcp(host, to(1006), 8)), [0, 8]);
        assert_eq!(by(tcp(host, to(1007), 8)), [4, 4]);
        let (_, flows) = soundly(&router, || {
            let (src, dst) = (clients[0].addresses.of(family), one(family));
            let header = Header { dscp: 46, ..Header::new(src, dst, protocol::UDP) };
            let packets = (0..8).map(|port| header.packet(&datagram(src, dst, 2000 + port, SILENT, b"x")));
            send_packets(host, &packets.collect::<Vec<_>>()).unwrap();
            thread::sleep(Duration::from_millis(200));
            assert!(Pings::new(dst, 8).run(host).unwrap().iter().all(|ping| ping.answered));
        });
        let pings = [0x0800, 0x8000];
        let shares = flows.shares_of(|flow| flow.dst_port == SILENT || pings.contains(&flow.dst_port));
        assert_eq!(shares, BTreeMap::from([("wan2".into(), 16)]));
    }
}

#[test]
fn policies_choose_as_they_say_and_follow_lines_down_and_up() {
    for_each_backend(policies_follow_lines);
}

fn policies_follow_lines(backend: &str) {
    let mut topology = Topology::with_lines(3);
    topology.lans = vec![Lan { clients: 4, vlan: None }];
    topology.servers = 6;
    let mut router = Router::of(backend, &[1, 1, 1], &topology);
    router.configure_more("", "[queue]\nworkers = 1");
    let policy = |port: u16, text: &str| {
        format!("[[rule]]\nname = \"{port}\"\nmatch = {{ dst_port = {port} }}\nuse = {text}\n")
    };
    router.rule_file(
        "10.toml",
        &[
            policy(1001, "{ policy = \"ordered\", uplinks = [\"isp2\", \"isp1\"] }"),
            policy(1002, "{ policy = \"hash\", by = \"client\" }"),
            policy(1003, "{ policy = \"hash\", by = \"client+destination\" }"),
            policy(1004, "\"isp2\"\nnone = \"drop\""),
            policy(1005, "\"isp2\"\nnone = \"any\""),
            policy(1006, "\"isp2\""),
            "[[rule]]\nname = \"next\"\nmatch = { dst_port = 1006 }\nuse = \"isp3\"\n".into(),
            policy(1007, "{ policy = \"round-robin\", uplinks = [\"isp1\", \"isp2\"], weights = [3, 1] }"),
            policy(1008, "{ policy = \"hash\", by = \"destination\" }"),
        ]
        .concat(),
    );
    router.start();
    let _server = more_ports(&router.network, 1001..=1009);
    let host = &router.network.client().host;
    for (down, goes) in [(Down::ByIsp, "carrier"), (Down::ByRouter, "administration")] {
        for family in Family::BOTH {
            let to = |port| SocketAddr::new(router.network.servers[0].of(family), port);
            let by = |report: Report| by_line(&router.network, &report);
            assert_eq!(by(tcp(host, to(1001), 6)), [0, 6, 0], "{goes}");
            assert_eq!(by(tcp(host, to(1004), 6)), [0, 6, 0]);
            assert_eq!(by(tcp(host, to(1005), 6)), [0, 6, 0]);
            assert_eq!(by(tcp(host, to(1006), 6)), [0, 6, 0]);
            assert_eq!(by(tcp(host, to(1007), 8)), [6, 2, 0]);
            assert_eq!(by(tcp(host, to(ECHO), 9)), [3, 3, 3]);
            for client in router.network.clients() {
                let lines = by(tcp(&client.host, to(1002), 3));
                assert!(lines.contains(&3), "one client by several lines: {lines:?}");
            }
            assert!(by(tcp(host, to(1008), 5)).contains(&5));
        }
        let before = hashed(&router);
        assert!((0..3).all(|line| before.values().any(|&used| used == line)), "{before:?}");
        down.take(&router.network, 1);
        wait_for_line(&router, 1, false);
        for family in Family::BOTH {
            let to = |port| SocketAddr::new(router.network.servers[0].of(family), port);
            let by = |report: Report| by_line(&router.network, &report);
            assert_eq!(by(tcp(host, to(1001), 6)), [6, 0, 0], "{goes}");
            assert!(!connects(host, to(1004)), "{goes}: a flow that must not go by any other line");
            let any = by(tcp(host, to(1005), 6));
            assert!(any[1] == 0 && any[0] == 3 && any[2] == 3, "{any:?}");
            assert_eq!(by(tcp(host, to(1006), 6)), [0, 0, 6]);
            assert_eq!(by(tcp(host, to(1007), 8)), [8, 0, 0]);
            assert_eq!(by(tcp(host, to(ECHO), 8)), [4, 0, 4]);
        }
        let during = hashed(&router);
        for (flow, line) in &before {
            let now = during[flow];
            assert!(if *line == 1 { now != 1 } else { now == *line }, "{flow:?}: {line} before, {now} after");
        }
        down.undo(&router.network, 1);
        wait_for_line(&router, 1, true);
        assert_eq!(hashed(&router), before, "{goes}");
    }
}

#[test]
fn a_dead_daemons_drop_rules_still_hold() {
    for_each_backend(drop_rules_hold);
}

fn drop_rules_hold(backend: &str) {
    let mut router = two_lans(backend);
    let clients: Vec<_> = router.network.clients().cloned().collect();
    let rules = [
        "[[rule]]\nname = \"first\"\nmatch = { protocol = \"tcp\", dst_port = 1004 }\nuse = \"isp1\"\n".to_owned(),
        "[[rule]]\nname = \"steady\"\nmatch = { protocol = [\"tcp\", \"udp\"], dst_port = [\"1001-1002\", 1004] }\n\
         not = { dst_port = 1002 }\nuse = \"isp2\"\nnone = \"drop\"\n".to_owned(),
        format!("[[rule]]\nname = \"mac\"\nmatch = {{ src_mac = \"{}\", lan = \"lan0\", length = \"1-1500\", \
                 time = \"00:00-24:00\" }}\nuse = {{ policy = \"hash\", uplinks = [\"isp2\"] }}\nnone = \"drop\"\n", clients[1].mac),
        "[[rule]]\nname = \"lan\"\nmatch = { lan = \"lan1\", icmp_type = [\"echo-request\"] }\nuse = \"isp2\"\nnone = \"drop\"\n".to_owned(),
    ];
    router.rule_file("10.toml", &rules.concat());
    router.start();
    let _server = more_ports(&router.network, 1001..=1004);
    let one_line_only = |router: &Router| {
        for family in Family::BOTH {
            let to = |port| SocketAddr::new(router.network.servers[0].of(family), port);
            let by = |report: Report| by_line(&router.network, &report);
            assert_eq!(by(tcp(&clients[0].host, to(1001), 8)), [0, 8]);
            assert_eq!(by(udp(&clients[0].host, to(1001), 8)), [0, 8]);
            assert_eq!(by(tcp(&clients[0].host, to(1004), 8)), [8, 0]);
            assert_eq!(by(udp(&clients[0].host, to(1004), 8)), [0, 8]);
            assert_eq!(by(udp(&clients[1].host, to(ECHO), 8)), [0, 8]);
            let free = by(tcp(&clients[0].host, to(1002), 30));
            assert!(free[0] > 3 && free[1] > 3, "{free:?}");
        }
    };
    one_line_only(&router);
    router.kill();
    thread::sleep(Duration::from_secs(2));
    one_line_only(&router);
    router.start();
    Down::ByIsp.take(&router.network, 1);
    wait_for_line(&router, 1, false);
    let nothing_forbidden = |router: &Router| {
        for family in Family::BOTH {
            let to = |port| SocketAddr::new(router.network.servers[0].of(family), port);
            assert!(!connects(&clients[0].host, to(1001)));
            assert!(!connects(&clients[1].host, to(ECHO)));
            let pings = Pings { limit: HOPELESS, ..Pings::new(to(1).ip(), 3) };
            assert!(pings.run(&clients[3].host).unwrap().iter().all(|ping| !ping.answered));
            assert!(pings.run(&clients[0].host).unwrap().iter().all(|ping| ping.answered));
            tcp(&clients[0].host, to(1002), 5);
            tcp(&clients[0].host, to(1004), 5);
        }
    };
    nothing_forbidden(&router);
    router.kill();
    thread::sleep(Duration::from_secs(2));
    nothing_forbidden(&router);
}

fn two_lans(backend: &str) -> Router {
    let mut topology = Topology::with_lines(2);
    topology.lans = vec![Lan { clients: 3, vlan: None }, Lan { clients: 1, vlan: None }];
    let router = Router::of(backend, &[1, 1], &topology);
    router.configure_more("", "[queue]\nworkers = 1");
    router
}

fn to_line_2(name: &str, conditions: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\nmatch = {{ {conditions} }}\nuse = \"isp2\"\n")
}

/// The day after tomorrow: it is not today, wherever the machine thinks it is.
fn day_but_one() -> &'static str {
    const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let today =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 86_400;
    // The first of January 1970 was a Thursday.
    DAYS[((today + 3 + 2) % 7) as usize]
}

fn more_ports(network: &Network, ports: std::ops::RangeInclusive<u16>) -> Server {
    let addresses: Vec<IpAddr> = network.servers.iter().flat_map(|server| server.both()).collect();
    serve(&network.internet, &addresses, &ports.collect::<Vec<_>>())
}

/// The line of each pair of a client and a server, whose flows are hashed by that pair.
fn hashed(router: &Router) -> BTreeMap<(IpAddr, IpAddr), usize> {
    let mut lines = BTreeMap::new();
    for family in Family::BOTH {
        for client in router.network.clients() {
            for server in &router.network.servers {
                let report = tcp(&client.host, SocketAddr::new(server.of(family), 1003), 2);
                let flows = by_line(&router.network, &report);
                let line = flows.iter().position(|&flows| flows == 2);
                let line = line.unwrap_or_else(|| panic!("flows of one pair by several lines: {flows:?}"));
                lines.insert((client.addresses.of(family), server.of(family)), line);
            }
        }
    }
    lines
}
