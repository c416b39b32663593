//! Lines that are drained, taken down and up again by hand.

use std::net::SocketAddr;

use crate::common::*;
use crate::live::{Call, Idle, PATIENCE, line_of};
use crate::router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::article::forward;

/// Ports of flows that prefer the first line, of those that stay with it when it dies, and of those
/// that stick to the line they had.
const FIRST: u16 = 1001;
const KEEP: u16 = 1002;
const STICKY: u16 = 1003;

const RULES: &str = r#"
[[rule]]
name = "first"
match = { dst_port = 1001 }
use = { policy = "ordered", uplinks = ["isp1", "isp2"] }

[[rule]]
name = "keep"
match = { dst_port = 1002 }
use = { policy = "ordered", uplinks = ["isp1", "isp2"] }
live = "keep"

[[rule]]
name = "sticky"
match = { dst_port = 1003 }
use = { policy = "ordered", uplinks = ["isp1", "isp2"] }
sticky = { by = "client", for = "1h" }
"#;

#[test]
fn a_drained_line_gets_no_new_flows_and_keeps_those_that_run() {
    for_each_backend(drained);
}

fn drained(backend: &str) {
    let (mut router, _server) = two_lines(backend);
    let host = router.network.client().host.clone();
    let server = router.network.servers[1].of(Family::V4);
    let to = |port| SocketAddr::new(server, port);
    let (mut idle, call) = (Idle::open(&host, to(FIRST)), Call::begin(&host, to(FIRST)));
    let line =
        |router: &Router, call: &Call| call.heard_from().map(|seen| line_of(&router.network, seen.ip()));
    assert_eq!(line(&router, &call), Some(0), "{backend}");
    assert_eq!(by_line(&router.network, &tcp(&host, to(STICKY), 4)), [4, 0], "{backend}");

    let answer = router.wansplit(&["drain", "isp1", "--json"]).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((answer["uplink"].as_str(), answer["by_hand"].as_str()), (Some("isp1"), Some("drained")));
    assert!(answer["flows_now"].as_u64().unwrap() >= 2, "{answer}");
    for port in [FIRST, STICKY, ECHO] {
        assert_eq!(by_line(&router.network, &tcp(&host, to(port), 10)), [0, 10], "{backend} {port}");
    }
    assert_eq!((idle.answers(), line(&router, &call)), (true, Some(0)), "{backend}: what runs goes on");
    let inbound = SocketAddr::new(router.network.lines[0].router.of(Family::V4), 5001);
    assert!(connects(&router.network.internet, inbound), "{backend}: forwards are answered");
    let refusal = router.wansplit(&["drain", "isp2"]).unwrap_err();
    assert!(refusal.contains("isp2 is the last line that works for IPv4 and IPv6"), "{refusal}");
    let unknown = router.wansplit(&["drain", "ips1"]).unwrap_err();
    assert!(unknown.contains("there is no uplink \"ips1\": did you mean `isp1`"), "{unknown}");

    // Neither a reload nor a restart changes it; while nobody runs, the kernel obeys too.
    router.wansplit(&["reload"]).unwrap();
    router.stop();
    assert_eq!(by_line(&router.network, &udp(&host, to(ECHO), 10)), [0, 10], "{backend}: the kernel");
    router.start();
    assert_eq!(router.status()["uplinks"][0]["by_hand"], "drained");
    assert_eq!(by_line(&router.network, &tcp(&host, to(FIRST), 10)), [0, 10], "{backend}");
    assert_eq!((idle.answers(), line(&router, &call)), (true, Some(0)), "{backend}: what runs goes on");

    // Where no other line is left, a drained one is used, and status says so.
    router.wansplit(&["drain", "isp2", "--force"]).unwrap();
    assert_eq!(by_line(&router.network, &tcp(&host, to(FIRST), 10)), [10, 0], "{backend}");
    assert!(router.status()["warnings"].to_string().contains("is drained, but no other works"), "{backend}");
    router.wansplit(&["undrain", "isp2"]).unwrap();
    router.wansplit(&["undrain", "isp1"]).unwrap();
    assert_eq!(by_line(&router.network, &tcp(&host, to(FIRST), 10)), [10, 0], "{backend}");
    router.stop();
}

#[test]
fn a_line_that_is_taken_down_by_hand_is_dead_to_flows_until_it_is_up() {
    for_each_backend(taken_down);
}

fn taken_down(backend: &str) {
    let (mut router, _server) = two_lines(backend);
    let host = router.network.client().host.clone();
    let server = router.network.servers[1].of(Family::V6);
    let to = |port| SocketAddr::new(server, port);
    let line =
        |router: &Router, call: &Call| call.heard_from().map(|seen| line_of(&router.network, seen.ip()));
    let (mut idle, call) = (Idle::open(&host, to(FIRST)), Call::begin(&host, to(FIRST)));
    let (mut kept, kept_call) = (Idle::open(&host, to(KEEP)), Call::begin(&host, to(KEEP)));
    assert_eq!([&call, &kept_call].map(|call| line(&router, call)), [Some(0); 2], "{backend}");

    let said = router.wansplit(&["uplink", "isp1", "down"]).unwrap();
    assert!(said.starts_with("isp1 is down by hand"), "{said}");
    assert!(idle.is_reset(PATIENCE), "{backend}: {}", router.said());
    assert_eq!(line(&router, &call), Some(1), "{backend}");
    assert_eq!((kept.answers(), line(&router, &kept_call)), (true, Some(0)), "{backend}: its routes stay");
    assert_eq!(by_line(&router.network, &tcp(&host, to(KEEP), 10)), [0, 10], "{backend}");
    let flow = ["explain", "--live", "tcp", "10.77.0.11:4000", "to", "192.0.2.1:80"];
    let explained = router.wansplit(&flow).unwrap();
    assert!(explained.contains("isp1: it was taken down by hand"), "{explained}");
    let refusal = router.wansplit(&["uplink", "isp2", "down"]).unwrap_err();
    assert!(refusal.contains("last line"), "{refusal}");

    router.stop();
    router.start();
    assert_eq!(by_line(&router.network, &tcp(&host, to(FIRST), 10)), [0, 10], "{backend}");
    let said = router.wansplit(&["uplink", "isp1", "up"]).unwrap();
    assert!(said.starts_with("isp1 is used if it works"), "{said}");
    assert_eq!(by_line(&router.network, &tcp(&host, to(FIRST), 10)), [10, 0], "{backend}");
    router.stop();
    router.wansplit(&["down"]).unwrap();
}

/// A router of two lines that runs, and a server for the rules' ports.
fn two_lines(backend: &str) -> (Router, [wansplit::lab::server::Server; 2]) {
    let mut router = Router::new(backend, &[1, 1]);
    router.configure_more("", &forward(&router.network));
    router.rule_file("10.toml", RULES);
    router.start();
    let two = router.network.servers[1];
    let inside = router.network.client();
    let servers = [
        serve(&router.network.internet, &two.both(), &[FIRST, KEEP, STICKY]),
        serve(&inside.host, &inside.addresses.both(), &[5001]),
    ];
    (router, servers)
}
