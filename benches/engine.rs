//! What one packet costs in the engine: parsing it, remembering its flow, reading what
//! its client says, and deciding it by 1 to 10,000 rules, compiled and by the oracle,
//! also with a million names and 100,000 nets in lists on top.
//!
//! Three shapes of rule sets: `clients` (each rule for one host and some ports, as an
//! office would have), `ports` (each for one port, all for the same LAN) and `wide` (port
//! ranges too wide for the index: every rule must be asked). The flow asked
//! about matches no rule, which is the dearest case.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Bencher, BenchmarkId, Criterion, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net};
use wansplit::engine::flow::{Arrival, Facts, FlowKey, FlowTable, LocalTime, Lookup, Millis};
use wansplit::engine::names::Names;
use wansplit::engine::packet::parse;
use wansplit::engine::rule::hosts::{HostName, HostSet};
use wansplit::engine::rule::model::{Choice, Live, Matchers, OnMismatch, Policy, Rule, RuleId, WhenNone};
use wansplit::engine::rule::nets::NetSet;
use wansplit::engine::rule::{RuleSet, naive};
use wansplit::engine::sniff::{self, Name, Ports, dns};
use wansplit::engine::uplink::{Board, UplinkId, UplinkSet};
use wansplit::engine::{Engine, Now, Snapshot};

const CAPACITY: usize = 65_536;
const COUNTS: [u32; 5] = [1, 10, 100, 1_000, 10_000];

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let packets =
        [("ipv4-udp", udp_v4(7)), ("ipv6-udp", udp_v6(&[])), ("ipv6-udp-3-extensions", udp_v6(&[0, 60, 43]))];
    for (name, packet) in packets {
        group.bench_function(name, |bencher| bencher.iter(|| parse(black_box(&packet))));
    }
}

fn matching(criterion: &mut Criterion) {
    let packet = udp_v4(7);
    let facts =
        Facts::new(&parse(&packet).expect("a whole packet"), &Arrival::default(), LocalTime::default());
    for (shape, make) in shapes() {
        let mut group = criterion.benchmark_group(format!("first_match/{shape}"));
        for count in COUNTS {
            let rules: Vec<Rule> = (0..count).map(make).collect();
            let set = RuleSet::compile(rules.as_slice());
            group.bench_function(BenchmarkId::new("compiled", count), |bencher| {
                bencher.iter(|| set.first_match_from(RuleId(0), black_box(&facts)));
            });
            group.bench_function(BenchmarkId::new("naive", count), |bencher| {
                bencher.iter(|| naive::first_match_from(&rules, RuleId(0), black_box(&facts)));
            });
        }
    }
}

fn deciding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    group.bench_function("new-flow/0", |bencher| decide_new_flows(bencher, &snapshot(&[])));
    for count in COUNTS {
        let rules: Vec<Rule> = (0..count).map(for_client).collect();
        group.bench_function(BenchmarkId::new("new-flow", count), |bencher| {
            decide_new_flows(bencher, &snapshot(&rules));
        });
    }
    let lists = lists();
    for count in COUNTS {
        let rules: Vec<Rule> = lists.iter().cloned().chain((2..count + 2).map(for_client)).collect();
        let snapshot = snapshot(&rules);
        let (client, server) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(198, 51, 100, 7));
        let name = Name::new(b"www.not-in-any-list.example").expect("a name");
        snapshot.names.told(client.into(), server.into(), &name, u32::MAX, Millis(0));
        group.bench_function(BenchmarkId::new("new-flow-with-lists", count), |bencher| {
            decide_new_flows(bencher, &snapshot);
        });
    }
    let snapshot = Snapshot { rules: Arc::default(), board: board(), ..Snapshot::default() };
    let (mut engine, packet) = (Engine::new(CAPACITY), udp_v4(7));
    group.bench_function("remembered", |bencher| {
        bencher.iter(|| engine.decide(&snapshot, &packet, &Arrival::default(), Now::default()));
    });
}

fn decide_new_flows(bencher: &mut Bencher, snapshot: &Snapshot) {
    let mut engine = Engine::new(CAPACITY);
    let (mut now, mut packet, mut flow) = (Now::default(), udp_v4(0), 0_u32);
    bencher.iter(|| {
        flow = flow.wrapping_add(1);
        now.at.0 += 1;
        packet[12..16].copy_from_slice(&flow.to_be_bytes());
        engine.decide(snapshot, &packet, &Arrival::default(), now)
    });
}

fn snapshot(rules: &[Rule]) -> Snapshot {
    let names = Arc::new(Names::new(1000));
    Snapshot { rules: Arc::new(RuleSet::compile(rules)), board: board(), names, ..Snapshot::default() }
}

/// What a client's first bytes are taken for.
fn sniffing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sniff");
    let (web, resolver) = (Ports { src: 40_000, dst: 443 }, Ports { src: 40_000, dst: 53 });
    let hello = tls_hello("www.example.org");
    group.bench_function("tls-hello", |bencher| bencher.iter(|| sniff::stream(black_box(&hello), web)));
    let initial = include_bytes!("quic-initial.bin");
    group.bench_function("quic-initial", |bencher| bencher.iter(|| sniff::datagram(black_box(initial), web)));
    let answer = dns_answer();
    group.bench_function("dns-answer", |bencher| {
        bencher.iter(|| sniff::datagram(black_box(&answer), resolver))
    });
    group.bench_function("dns-answer-names", |bencher| {
        bencher.iter(|| dns::answers(black_box(&answer), |answer| _ = black_box(answer)));
    });
    group.bench_function("unknown", |bencher| bencher.iter(|| sniff::datagram(black_box(&[7; 148]), web)));
}

/// What an address is known by, and whether a list has a name.
fn naming(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("names");
    let names = Names::new(16_384);
    let name = Name::new(b"www.example.org").expect("a name");
    let address = |number: u32| IpAddr::from(Ipv4Addr::from_bits(number));
    for number in 0..10_000 {
        names.told(address(number % 250), address(1 << 24 | number), &name, u32::MAX, Millis(0));
    }
    let mut number = 0_u32;
    group.bench_function("of-address", |bencher| {
        bencher.iter(|| {
            number = number.wrapping_add(2_654_435_761) % 10_000;
            names.of(address(number % 250), address(1 << 24 | number), 443, Millis(1))
        });
    });
    let [hosts, _] = lists();
    let list = &hosts.matches.host_list[0];
    group.bench_function("in-a-list-of-1000000", |bencher| {
        bencher.iter(|| {
            number = number.wrapping_add(1);
            let name = Name::new(format!("a.site{}.example", number % 2_000_000).as_bytes());
            name.is_some_and(|name| list.contains(&name))
        });
    });
}

/// One value per tick, so that as many are held as live at a time: 10,000.
fn remembering(criterion: &mut Criterion) {
    let mut table = FlowTable::new(CAPACITY, Duration::from_secs(10));
    let mut tick = 0_u64;
    criterion.bench_function("flow_table/new", |bencher| {
        bencher.iter(|| {
            tick += 1;
            if let Lookup::New(vacancy) = table.look_up(key(tick as u32), Millis(tick), |_| true) {
                vacancy.remember(tick);
            }
        });
    });
    let mut known = 0_u32;
    criterion.bench_function("flow_table/known", |bencher| {
        bencher.iter(|| {
            known = known.wrapping_add(2_654_435_761) % 5_000;
            matches!(table.look_up(key(tick as u32 - known), Millis(tick), |_| true), Lookup::Known(_))
        });
    });
}

fn compiling(criterion: &mut Criterion) {
    let rules: Vec<Rule> = (0..10_000).map(for_client).collect();
    criterion.bench_function("compile/10000", |bencher| bencher.iter(|| RuleSet::compile(rules.as_slice())));
}

type Shape = (&'static str, fn(u32) -> Rule);

fn shapes() -> [Shape; 3] {
    [("clients", for_client), ("ports", for_port), ("wide", wide)]
}

fn for_client(number: u32) -> Rule {
    let client = IpAddr::from(Ipv4Addr::from_bits(0x0A80_0000 + number));
    rule(
        number,
        Matchers { src: vec![client.into()], dst_port: vec![22..=22, 53..=53], ..Matchers::default() },
    )
}

fn for_port(number: u32) -> Rule {
    let port = 10_000 + number as u16;
    let lan = "10.0.0.0/8".parse().expect("a net");
    rule(number, Matchers { src: vec![lan], dst_port: vec![port..=port], ..Matchers::default() })
}

fn wide(number: u32) -> Rule {
    let port = 10_000 + number as u16;
    rule(number, Matchers { dst_port: vec![port..=port + 10_000], ..Matchers::default() })
}

/// A rule for a million names, and one for 100,000 nets.
fn lists() -> [Rule; 2] {
    let name = |number: u32| HostName::parse(&format!("site{number}.example")).expect("a name");
    let names = (0..1_000_000).map(name).collect::<Vec<_>>().iter().collect();
    let nets = (0..100_000_u32).map(|number| Ipv4Net::new_assert((number << 9 | 1 << 25).into(), 24).into());
    let nets: NetSet = nets.collect::<Vec<IpNet>>().iter().collect();
    let hosts = Arc::new(HostSet { names, ..HostSet::default() });
    [
        rule(0, Matchers { host_list: vec![hosts], ..Matchers::default() }),
        rule(1, Matchers { dst_list: vec![Arc::new(nets)], ..Matchers::default() }),
    ]
}

fn rule(number: u32, matches: Matchers) -> Rule {
    Rule {
        name: format!("rule {number}"),
        origin: String::new(),
        matches,
        not: Matchers::default(),
        choice: Choice { policy: Policy::RoundRobin, uplinks: vec![(UplinkId(0), 3), (UplinkId(1), 1)] },
        sticky: None,
        none: WhenNone::NextRule,
        hold: std::time::Duration::ZERO,
        on_mismatch: OnMismatch::default(),
        live: Live::default(),
    }
}

fn board() -> Board {
    let usable: UplinkSet = [UplinkId(0), UplinkId(1)].into_iter().collect();
    Board { usable_v4: usable, usable_v6: usable, weights: vec![3, 1], ..Board::default() }
}

fn key(flow: u32) -> FlowKey {
    let src = Ipv4Addr::from_bits(flow).into();
    FlowKey { src, dst: Ipv4Addr::new(198, 51, 100, 7).into(), protocol: 17, src_port: 40_000, dst_port: 53 }
}

/// From 10.0.0.`client`, to port 53.
fn udp_v4(client: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, client, 198, 51, 100, 7];
    packet.extend([0x9C, 0x40, 0, 53, 0, 8, 0, 0]);
    packet
}

/// With extension headers of 8 bytes each.
fn udp_v6(extensions: &[u8]) -> Vec<u8> {
    let next = |place: usize| extensions.get(place).copied().unwrap_or(17);
    let mut packet = vec![0x60, 0, 0, 0, 0, 8 + 8 * extensions.len() as u8, next(0), 64];
    for address in [1, 2] {
        packet.extend(Ipv6Addr::from_bits(0x2001_0db8 << 96 | address).octets());
    }
    for place in 0..extensions.len() {
        packet.extend([next(place + 1), 0, 0, 0, 0, 0, 0, 0]);
    }
    packet.extend([0x9C, 0x40, 0, 53, 0, 8, 0, 0]);
    packet
}

/// A ClientHello with nothing but a server's name, in a record (RFC 8446, sections 4.1.2 and 5.1).
fn tls_hello(name: &str) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let entry = [&[0][..], &sized(name.as_bytes())].concat();
    let extension = [&[0, 0][..], &sized(&sized(&entry))].concat();
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &sized(&extension)].concat();
    let message = [&[1, 0][..], &sized(&body)].concat();
    [&[0x16, 3, 1][..], &sized(&message)].concat()
}

/// An alias and its address.
fn dns_answer() -> Vec<u8> {
    let (name, alias) = (b"\x03www\x07example\x03org\x00", b"\x03cdn\x07example\x00");
    let head = [0x12, 0x34, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0];
    let cname = [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, alias.len() as u8];
    let address = [0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1];
    [&head[..], name, &[0, 1, 0, 1], &cname, alias, alias, &address].concat()
}

/// Short: trends matter here, not the third digit.
fn config() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .without_plots()
}

criterion_group! {
    name = benches;
    config = config();
    targets = parsing, remembering, sniffing, naming, matching, deciding, compiling
}
criterion_main!(benches);
