//! The kernel decides by itself what needs no user space, and as user space would.

#[path = "traffic/common.rs"]
#[allow(dead_code, reason = "other test programs use the rest")]
mod common;
#[path = "support/router.rs"]
mod router;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use router::*;
use wansplit::config::{Config, Lists, SourceFile};
use wansplit::engine::flow::{Arrival, Facts, LanId};
use wansplit::engine::packet::{Family, parse};
use wansplit::engine::uplink::Avoided;
use wansplit::engine::verdict::Action;
use wansplit::engine::{Engine, Now, Snapshot};
use wansplit::lab::capture::Captured;
use wansplit::lab::flows::{FlowId, Flows};
use wansplit::lab::topology::{Lan, Topology};
use wansplit::lab::traffic::craft::{Header, echo_request, protocol, tcp_syn, udp as datagram};
use wansplit::lab::traffic::{Pace, UdpFlows, send_packets};
use wansplit::plan::firewall::offload::{decided, walk};

const LINES: [&str; 3] = ["isp1", "isp2", "isp3"];
/// Rule sets that are tried with each backend, and more until they have sent enough flows both ways; flows with each.
const RULE_SETS: usize = 12;
const FLOWS: usize = 120;
/// How long packets may take: a gateway may have to be asked for its address first, and more than once.
const SOON: Duration = Duration::from_secs(10);
/// Nobody listens on the servers' ports that the flows go to.
const PORTS: std::ops::RangeInclusive<u16> = 1001..=1008;

const OFFLOAD: &str = "[queue]\noffload = \"auto\"";

#[test]
fn kernel_and_engine_send_any_flow_by_the_same_line_and_only_what_needs_user_space_is_queued() {
    for_each_backend(kernel_and_engine_agree);
}

fn kernel_and_engine_agree(backend: &str) {
    let mut router = offloading(backend, &[1, 2, 1]);
    router.start();
    let mut runner = TestRunner::default();
    let flows_each = scaled(FLOWS);
    let (mut decided, mut queued) = (0, 0);
    let sets = scaled(RULE_SETS).max(3);
    for number in 0.. {
        let is_told = decided.min(queued) > flows_each / 2;
        if number >= sets && is_told {
            break;
        }
        assert!(number < 5 * sets, "{decided} flows were the kernel's and {queued} were not");
        let rules = any_rules(&router).new_tree(&mut runner).expect("rules").current();
        let flows = vec(any_flow(&router), flows_each).new_tree(&mut runner).expect("flows").current();
        router.rule_file("10.toml", &rules);
        router.wansplit(&["reload"]).unwrap_or_else(|error| panic!("{error}\n{rules}"));
        let config = wansplit::daemon::load(&router.config()).expect("a configuration");
        let expected: Vec<Expected> = flows.iter().map(|flow| expected(&config, flow)).collect();
        let before = router.queued();
        let captured = sent(&router, &flows);
        for (flow, expected) in flows.iter().zip(&expected) {
            let line = line_of(&router, &captured, flow);
            match &expected.line {
                Some(name) => assert_eq!(line.as_ref(), Some(name), "{backend}: {flow:?}\n{rules}"),
                None => assert!(line.is_some(), "{backend}: {flow:?}\n{rules}"),
            }
        }
        let asked = expected.iter().filter(|expected| !expected.by_kernel).count();
        assert_eq!(router.queued() - before, asked as u64, "{backend}: packets in the queue\n{rules}");
        decided += flows_each - asked;
        queued += asked;
    }
    router.stop();
}

#[test]
fn flows_with_ports_that_the_firewall_does_not_see_are_asked_about_and_go_by_the_same_line_all_the_same() {
    for_each_backend(hidden_ports_are_asked_about);
}

fn hidden_ports_are_asked_about(backend: &str) {
    let mut router = offloading(backend, &[2, 1, 1]);
    router.rule_file("10.toml", "[[rule]]\nname = \"1\"\nuse = { policy = \"hash\", by = \"five-tuple\" }\n");
    router.start();
    let config = wansplit::daemon::load(&router.config()).expect("a configuration");
    let mut runner = TestRunner::default();
    let flows = vec(any_flow(&router), scaled(FLOWS)).new_tree(&mut runner).expect("flows").current();
    let flows: Vec<Flow> = flows.iter().map(Flow::with_options).collect();
    let before = router.queued();
    let captured = sent(&router, &flows);
    for flow in &flows {
        assert_eq!(line_of(&router, &captured, flow), expected(&config, flow).line, "{backend}: {flow:?}");
    }
    // nft looks behind the options of IPv6, and both look behind those of IPv4.
    let hidden = flows.iter().filter(|flow| flow.id.dst.is_ipv6() && backend != "nft").count();
    assert_eq!(router.queued() - before, hidden as u64, "{backend}: packets in the queue");
    router.stop();
}

#[test]
fn hashed_flows_of_a_lost_line_go_where_the_engine_would_send_them_and_all_others_stay() {
    for_each_backend(hashed_flows_follow_lines);
}

fn hashed_flows_follow_lines(backend: &str) {
    let mut router = offloading(backend, &[2, 1, 1]);
    router.rule_file("10.toml", "[[rule]]\nname = \"1\"\nuse = { policy = \"hash\", by = \"five-tuple\" }\n");
    router.start();
    let config = wansplit::daemon::load(&router.config()).expect("a configuration");
    let mut runner = TestRunner::default();
    for is_lost in [true, false] {
        if is_lost {
            Down::ByIsp.take(&router.network, 1);
        } else {
            Down::ByIsp.undo(&router.network, 1);
        }
        wait_for_line(&router, 1, !is_lost);
        wait_for_the_plan(&router);
        let flows = vec(any_flow(&router), scaled(FLOWS)).new_tree(&mut runner).expect("flows").current();
        let captured = sent(&router, &flows);
        let mut snapshot = config.where_all_works();
        let all = snapshot.clone();
        if is_lost {
            let lost = config.uplinks[1].id;
            let board = &mut snapshot.board;
            (board.usable_v4, board.usable_v6) =
                (board.usable_v4.without(lost), board.usable_v6.without(lost));
        }
        for flow in &flows {
            let expected = expected_of(&config, &snapshot, flow).line;
            assert_eq!(line_of(&router, &captured, flow), expected, "{backend}: {flow:?}");
            let usual = expected_of(&config, &all, flow).line;
            assert!(usual == expected || usual.as_deref() == Some(LINES[1]), "{backend}: {flow:?}");
        }
    }
    assert_eq!(router.queued(), 0, "{backend}");
    router.stop();
}

#[test]
fn turns_become_shares_that_are_counted_and_follow_their_lines() {
    for_each_backend(shares_follow_lines);
}

fn shares_follow_lines(backend: &str) {
    let mut router = offloading(backend, &[3, 1]);
    router.rule_file(
        "10.toml",
        "[[rule]]\nname = \"echoes\"\nmatch = { family = \"ipv4\" }\nuse = { policy = \"round-robin\" }\n",
    );
    router.start();
    let flows = scaled(400);
    // From ports of their own: what had the same ports a moment ago is the same flow.
    let all = |router: &Router, first_port: u16| {
        let (reports, _) = soundly(router, || {
            Family::BOTH.map(|family| {
                let to = router.echo(family);
                let flows =
                    UdpFlows { first_port: Some(first_port), ..UdpFlows::new(to, Pace::burst(flows, 20)) };
                worked(flows.run(&router.network.client().host).unwrap(), to)
            })
        });
        let counts = reports.iter().map(|report| by_line(&router.network, report));
        counts.fold([0, 0], |sums, lines| [sums[0] + lines[0], sums[1] + lines[1]])
    };
    let begun = 2 * flows;
    let first = all(&router, 2000);
    assert_eq!(first.iter().sum::<usize>(), begun);
    // Four standard deviations of fair dice.
    let slack = 4.0 * (begun as f64 * 0.75 * 0.25).sqrt();
    assert!((first[0] as f64 - 0.75 * begun as f64).abs() <= slack, "{backend}: {first:?}");
    assert_eq!(router.queued(), 0, "{backend}: no flow needs user space");
    assert_counted(&router, &[flows; 2], first);
    let explained = router.wansplit(&["explain", "udp 10.77.0.11:4000 > 192.0.2.1:7"]).unwrap();
    assert!(explained.contains("by itself: the flow's hash picks one of isp1, isp2"), "{explained}");

    Down::ByIsp.take(&router.network, 1);
    wait_for_line(&router, 1, false);
    assert_eq!(all(&router, 3000), [begun, 0], "{backend}: the line is down");
    assert_counted(&router, &[2 * flows; 2], [first[0] + begun, first[1]]);
    Down::ByIsp.undo(&router.network, 1);
    wait_for_line(&router, 1, true);
    wait_for_the_plan(&router);
    let again = all(&router, 4000);
    assert!(again[1] > 0, "{backend}: the line is back: {again:?}");
    assert_eq!(router.queued(), 0, "{backend}");
    let sums = [first[0] + begun + again[0], first[1] + again[1]];
    assert_counted(&router, &[3 * flows; 2], sums);
    router.stop();
}

/// Status knows of so many flows by each rule, the last one being none, and by each line, all of them decided by the kernel.
fn assert_counted(router: &Router, by_rule: &[usize], by_line: [usize; 2]) {
    let status = router.status();
    for (rule, &flows) in status["rules"].as_array().expect("rules").iter().zip(by_rule) {
        assert_eq!((&rule["flows"], &rule["by_kernel"]), (&flows.into(), &flows.into()), "{rule}");
        // A word and its answer, with headers.
        assert!(rule["bytes"].as_u64() >= Some(2 * 29 * flows as u64), "{rule}");
    }
    for (uplink, &flows) in status["uplinks"].as_array().expect("uplinks").iter().zip(&by_line) {
        assert_eq!(uplink["flows_total"], flows, "{uplink}");
    }
}

#[test]
fn flows_stay_where_they_are_when_offload_is_turned_on_and_off() {
    for_each_backend(reloads_move_nothing);
}

fn reloads_move_nothing(backend: &str) {
    let mut router = offloading(backend, &[1, 1]);
    let with = router.configuration();
    let without = with.replace("\"auto\"", "\"off\"");
    router.start();
    let capture = router.capture();
    let load: Vec<_> = Family::BOTH
        .map(|family| {
            let pace = Pace::steady(scaled(100) as u32, Duration::from_secs(10));
            let gap = Duration::from_millis(100);
            let flows = UdpFlows { datagrams: 10, gap, ..UdpFlows::new(router.echo(family), pace) };
            let client = router.network.client().host.clone();
            thread::spawn(move || flows.run(&client).unwrap())
        })
        .into();
    let mut queued = 0;
    for config in [&without, &with, &without, &with] {
        router.configure(config);
        router.wansplit(&["reload"]).unwrap();
        thread::sleep(Duration::from_secs(2));
        // The queues are new with each.
        queued += router.queued();
    }
    for report in load.into_iter().map(|load| load.join().unwrap()) {
        assert_eq!(report.failures(), Default::default(), "{backend}");
    }
    router.assert_sound(&router.judge(&capture.stop().unwrap()));
    assert!(queued > 0, "{backend}: while it was off");
    router.stop();
}

#[test]
fn a_line_that_comes_back_is_filled_by_user_space() {
    for_each_backend(user_space_fills);
}

fn user_space_fills(backend: &str) {
    let mut router = offloading(backend, &[1, 1]);
    router.configure(&router.configuration().replace("health.fill = \"0s\"", "health.fill = \"5s\""));
    router.rule_file("10.toml", "[[rule]]\nname = \"all\"\nmatch = { protocol = \"udp\" }\nuse = \"isp2\"\n");
    router.start();
    let queued_of = |flows: usize| {
        let before = router.queued();
        udp(&router.network.client().host, router.echo(Family::V4), flows);
        (router.queued() - before) as usize
    };
    assert_eq!(queued_of(20), 0, "{backend}");
    Down::ByIsp.take(&router.network, 1);
    wait_for_line(&router, 1, false);
    assert_eq!(queued_of(20), 0, "{backend}: by the other line");
    Down::ByIsp.undo(&router.network, 1);
    wait_for_line(&router, 1, true);
    assert_eq!(queued_of(20), 20, "{backend}: while the line is being filled");
    router.wait_until("the line is filled", |_| queued_of(5) == 0);
    router.stop();
}

/// A router with so many lines, two servers and offload.
fn offloading(backend: &str, weights: &[u8]) -> Router {
    let mut topology = Topology::with_lines(weights.len());
    topology.lans = vec![Lan { clients: 2, vlan: None }];
    topology.servers = 2;
    let router = Router::of(backend, weights, &topology);
    router.configure_more("", OFFLOAD);
    router
}

/// What a client sends first.
#[derive(Debug, Clone)]
struct Flow {
    client: usize,
    id: FlowId,
    packet: Vec<u8>,
}

impl Flow {
    /// The same with options that do nothing, which are a header of their own in IPv6.
    fn with_options(&self) -> Flow {
        let packet = parse(&self.packet).expect("a packet");
        let header = Header { options: true, ..Header::new(packet.src, packet.dst, packet.protocol) };
        Flow { packet: header.packet(packet.payload), ..self.clone() }
    }
}

/// What becomes of a flow; without a line: any.
struct Expected {
    line: Option<String>,
    by_kernel: bool,
}

/// By the engine, while all lines work.
fn expected(config: &Config, flow: &Flow) -> Expected {
    expected_of(config, &config.where_all_works(), flow)
}

fn expected_of(config: &Config, snapshot: &Snapshot, flow: &Flow) -> Expected {
    let arrival = Arrival { lan: Some(LanId(0)), src_mac: None, stale: false };
    let answer = Engine::new(1).decide(snapshot, &flow.packet, &arrival, Now::default());
    let Action::Route(uplink) = answer.decision.action else { panic!("{:?}", answer.decision) };
    let packet = parse(&flow.packet).expect("a packet");
    let facts = Facts::new(&packet, &arrival, Default::default());
    let steps = walk(config, &snapshot.board, Avoided::default());
    let rule = answer.decision.rule.and_then(|id| config.rules.get(usize::from(id.0)));
    // What was chosen under other rules may be stuck to.
    let is_certain = rule.is_some_and(|rule| rule.sticky.is_none());
    Expected {
        line: is_certain.then(|| config.uplink_name(uplink).to_owned()),
        by_kernel: decided(config, &steps, &facts, snapshot.hash).is_some(),
    }
}

/// Sends the flows' packets from their clients and captures what leaves.
fn sent(router: &Router, flows: &[Flow]) -> Flows {
    let capture = router.capture();
    let clients: Vec<_> = router.network.clients().collect();
    for (number, client) in clients.iter().enumerate() {
        let packets = flows.iter().filter(|flow| flow.client == number).map(|flow| flow.packet.clone());
        send_packets(&client.host, &packets.collect::<Vec<_>>()).expect("sent");
    }
    let mut captured = Captured::default();
    let deadline = Instant::now() + SOON;
    loop {
        // What leaves too often or by a wrong line may come last.
        thread::sleep(slowed(Duration::from_millis(300)));
        let more = capture.take();
        captured.missed += more.missed;
        captured.records.extend(more.records);
        let seen = router.judge(&captured);
        let is_complete = flows.iter().all(|flow| seen.carried.contains_key(&flow.id));
        if is_complete || Instant::now() > deadline {
            router.assert_sound(&seen);
            return seen;
        }
    }
}

/// What the line is called that a flow left by.
fn line_of(router: &Router, captured: &Flows, flow: &Flow) -> Option<String> {
    let device = captured.carried.get(&flow.id)?.keys().next()?;
    let line = router.network.lines.iter().find(|line| *line.device == **device)?;
    Some(line.name.clone())
}

/// Flows from ports that no other flow of this test program has.
fn any_flow(router: &Router) -> impl Strategy<Value = Flow> + use<> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let servers: Vec<_> = router.network.servers.iter().flat_map(|server| server.both()).collect();
    let clients: Vec<_> = router.network.clients().map(|client| client.addresses).collect();
    let protocols = select(vec![protocol::TCP, protocol::UDP, protocol::ICMP[0]]);
    (0..clients.len(), select(servers), protocols, PORTS).prop_map(move |(client, dst, kind, dst_port)| {
        let src_port = 1_100 + NEXT.fetch_add(1, Relaxed) % 20_000;
        let family = Family::of(dst);
        let src = clients[client].of(family);
        let (kind, dst_port, payload) = match kind {
            protocol::TCP => (kind, dst_port, tcp_syn(src, dst, src_port, dst_port)),
            protocol::UDP => (kind, dst_port, datagram(src, dst, src_port, dst_port, b"x")),
            _ => {
                let place = family as usize;
                (protocol::ICMP[place], [0x0800, 0x8000][place], echo_request(src, dst, src_port))
            }
        };
        let packet = Header::new(src, dst, kind).packet(&payload);
        Flow { client, id: FlowId { protocol: kind, dst, dst_port, src_port }, packet }
    })
}

/// Rules for one line, the first of several or one by a hash, some of which need user space all the same.
fn any_rules(router: &Router) -> impl Strategy<Value = String> + use<> {
    let servers: Vec<_> = router.network.servers.iter().flat_map(|server| server.both()).collect();
    let clients: Vec<_> = router.network.clients().flat_map(|client| client.addresses.both()).collect();
    let main = SourceFile { path: "main.toml".into(), text: router.configuration() };
    let named = |rule: &str, number: usize| format!("[[rule]]\nname = \"{number}\"\n{rule}\n");
    // Rules that nothing can fit are refused.
    let can_fit = move |rule: &String| {
        let alone = SourceFile { path: "rule.toml".into(), text: named(rule, 1) };
        wansplit::config::load(&main, &[alone], &Lists::default()).is_ok()
    };
    let one = any_rule(servers, clients).prop_filter("can fit something", can_fit);
    vec(one, 1..8)
        .prop_map(move |rules| rules.iter().zip(1..).map(|(rule, number)| named(rule, number)).collect())
}

fn any_rule(servers: Vec<IpAddr>, clients: Vec<IpAddr>) -> impl Strategy<Value = String> {
    let asked = (any_key(&servers, &clients), any_key(&servers, &clients), any_key(&servers, &clients));
    let not = option::weighted(0.3, any_key(&servers, &clients));
    let more = prop_oneof![
        5 => Just(""),
        1 => Just(", length = \"1-1500\""),
        1 => Just(", dscp = 0"),
        1 => Just(", lan = \"lan0\""),
    ];
    let sticky = prop_oneof![8 => Just(""), 1 => Just("sticky = { by = \"client\", for = \"1s\" }\n")];
    (asked, not, more, any_use(), sticky).prop_map(|((a, b, c), not, more, choice, sticky)| {
        let keys: BTreeMap<&str, String> = [a, b, c].into_iter().collect();
        let keys = keys.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", ");
        let not = not.map_or(String::new(), |(key, value)| format!("not = {{ {key} = {value} }}\n"));
        format!("match = {{ {keys}{more} }}\n{not}use = {choice}\n{sticky}")
    })
}

/// A key of a rule and what it asks for. Ports are asked of protocols that have them.
fn any_key(servers: &[IpAddr], clients: &[IpAddr]) -> impl Strategy<Value = (&'static str, String)> + use<> {
    let some = |addresses: &[IpAddr]| {
        subsequence(addresses.to_vec(), 1..=2).prop_map(|addresses| {
            format!("[{}]", addresses.iter().map(|one| format!("\"{one}\"")).collect::<Vec<_>>().join(", "))
        })
    };
    let ports = (PORTS, PORTS).prop_map(|(a, b)| format!("\"{}-{}\"", a.min(b), a.max(b)));
    let half = select(vec!["[\"1024-9999\"]", "[\"10000-65535\", 1101]"]).prop_map(str::to_owned);
    let protocols = select(vec!["\"tcp\"", "\"udp\"", "[\"tcp\", \"udp\"]"]).prop_map(str::to_owned);
    let families = select(vec!["\"ipv4\"", "\"ipv6\""]).prop_map(str::to_owned);
    prop_oneof![
        3 => protocols.prop_map(|value| ("protocol", value)),
        2 => some(servers).prop_map(|value| ("dst", value)),
        2 => some(clients).prop_map(|value| ("src", value)),
        3 => ports.prop_map(|value| ("dst_port", value)),
        1 => half.prop_map(|value| ("src_port", value)),
        1 => families.prop_map(|value| ("family", value)),
    ]
}

fn any_use() -> impl Strategy<Value = String> {
    let one = select(&LINES[..]).prop_map(|line| format!("\"{line}\""));
    let listed =
        |lines: Vec<&str>| lines.iter().map(|line| format!("\"{line}\"")).collect::<Vec<_>>().join(", ");
    let ordered = Just(LINES.to_vec())
        .prop_shuffle()
        .prop_map(move |lines| format!("{{ policy = \"ordered\", uplinks = [{}] }}", listed(lines)));
    let keys = select(vec!["client", "destination", "client+destination", "five-tuple"]);
    let weights = vec(1..=9_u8, LINES.len());
    let some = subsequence(LINES.to_vec(), 1..=LINES.len());
    let hashed = (some, keys, weights).prop_map(move |(lines, key, weights)| {
        let weights = &weights[..lines.len()];
        format!(
            "{{ policy = \"hash\", by = \"{key}\", uplinks = [{}], weights = {weights:?} }}",
            listed(lines)
        )
    });
    prop_oneof![1 => one, 1 => ordered, 2 => hashed]
}
