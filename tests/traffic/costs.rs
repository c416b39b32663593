//! Lines that cost more, and lines whose month is used up.

use std::time::Duration;

use crate::common::*;
use crate::router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::traffic::Transfer;

#[test]
fn a_dear_line_is_used_when_a_rule_or_a_failure_asks_for_it() {
    for_each_backend(dear_line);
}

fn dear_line(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    router.configure_more("", "cost = 10");
    router.rule_file("10.toml", "[[rule]]\nname = \"dear\"\nmatch = { dst_port = 1001 }\nuse = \"isp2\"\n");
    router.start();
    let two = router.network.servers[1];
    let _server = serve(&router.network.internet, &two.both(), &[1001]);
    let by_rule = std::net::SocketAddr::new(two.v4.into(), 1001);
    let host = &router.network.client().host;
    assert_eq!(by_line(&router.network, &tcp(host, by_rule, 8)), [0, 8], "{backend}: a rule names no other");
    assert_new_flows(&router, [8, 0], "the cheaper one works");
    let flow = format!("udp 10.77.0.11:1 to {}", router.echo(Family::V4));
    let told = router.wansplit(&["explain", "--live", "--json", &flow]).expect("an explanation");
    assert!(told.contains("isp2: cost 10, and there is a cheaper line"), "{told}");

    router.kill();
    assert_new_flows(&router, [8, 0], "the kernel decides alone");
    router.start();
    Down::ByIsp.take(&router.network, 0);
    wait_for_line(&router, 0, false);
    assert_new_flows(&router, [0, 8], "no other is left");
    router.stop();
}

#[test]
fn a_line_whose_quota_is_used_up_is_left_to_those_who_have_no_other_and_a_restart_forgets_nothing() {
    for_each_backend(used_up_line);
}

fn used_up_line(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    router.configure_more("", "monthly = \"1mb\"\nreset_day = 31");
    router
        .rule_file("10.toml", "[[rule]]\nname = \"metered\"\nmatch = { dst_port = 1001 }\nuse = \"isp2\"\n");
    router.start();
    let two = router.network.servers[1];
    let _server = serve(&router.network.internet, &two.both(), &[1001]);
    let by_rule = std::net::SocketAddr::new(two.v6.into(), 1001);
    assert_new_flows(&router, [4, 4], "nothing is used up");
    let quota = |status: &serde_json::Value| status["uplinks"][1]["quota"].clone();
    assert_eq!(quota(&router.status())["used_up"], false);

    let host = &router.network.client().host;
    let transfer = Transfer { rate: Some(600_000), ..Transfer::new(by_rule, Duration::from_secs(20)) };
    let transfer = transfer.start(host).expect("a transfer");
    router.wait_until("the quota is used up", |status| quota(status)["used_up"] == true);
    assert_new_flows(&router, [8, 0], "the other is left");
    let before = transfer.bytes();
    router.wait_until("the transfer goes on", |_| transfer.bytes() > before + 100_000);
    let report = transfer.finish().expect("a transfer");
    assert_eq!(report.failure, None, "{backend}: what runs on it stays");
    assert_eq!(by_line(&router.network, &tcp(host, by_rule, 8)), [0, 8], "{backend}: a rule names no other");
    let said = router.said();
    assert_eq!(said.matches("uplink isp2 has used up what it may carry").count(), 1, "{said}");

    let used = quota(&router.status())["used"].as_u64().expect("a number");
    router.stop();
    assert_new_flows(&router, [8, 0], "the kernel decides alone");
    router.start();
    assert_new_flows(&router, [8, 0], "it is known from before");
    router.wait_until("as much is used as before", |status| quota(status)["used"].as_u64() >= Some(used));
    assert_eq!(router.said().matches("uplink isp2 has used up what it may carry").count(), 1);
    router.stop();
}

/// Which lines the next eight TCP connections and UDP flows of each family get.
fn assert_new_flows(router: &Router, expected: [usize; 2], when: &str) {
    let host = &router.network.client().host;
    for to in Family::BOTH.map(|family| router.echo(family)) {
        for report in [tcp(host, to, 8), udp(host, to, 8)] {
            assert_eq!(by_line(&router.network, &report), expected, "to {to} when {when}");
        }
    }
}
