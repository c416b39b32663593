//! What one packet costs in the engine: parsing it, remembering its flow, and
//! deciding it by 1 to 10,000 rules, compiled and by the oracle.
//!
//! Three shapes of rule sets: `clients` (each rule for one host and some ports, as an
//! office would have), `ports` (each for one port, all for the same LAN) and `wide` (port
//! ranges too wide for the index: every rule must be asked). The flow asked
//! about matches no rule, which is the dearest case.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use wansplit::engine::flow::{Arrival, Facts, FlowKey, FlowTable, LocalTime, Lookup, Millis};
use wansplit::engine::packet::parse;
use wansplit::engine::rule::model::{Choice, Live, Matchers, OnMismatch, Policy, Rule, RuleId, WhenNone};
use wansplit::engine::rule::{RuleSet, naive};
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
            let set = RuleSet::compile(&rules);
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
    for count in COUNTS {
        let rules: Vec<Rule> = (0..count).map(for_client).collect();
        let snapshot =
            Snapshot { rules: Arc::new(RuleSet::compile(&rules)), board: board(), ..Snapshot::default() };
        let mut engine = Engine::new(CAPACITY);
        let (mut now, mut packet, mut flow) = (Now::default(), udp_v4(0), 0_u32);
        group.bench_function(BenchmarkId::new("new-flow", count), |bencher| {
            bencher.iter(|| {
                flow = flow.wrapping_add(1);
                now.at.0 += 1;
                packet[12..16].copy_from_slice(&flow.to_be_bytes());
                engine.decide(&snapshot, &packet, &Arrival::default(), now)
            });
        });
    }
    let snapshot = Snapshot { rules: Arc::default(), board: board(), ..Snapshot::default() };
    let (mut engine, packet) = (Engine::new(CAPACITY), udp_v4(7));
    group.bench_function("remembered", |bencher| {
        bencher.iter(|| engine.decide(&snapshot, &packet, &Arrival::default(), Now::default()));
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
    criterion.bench_function("compile/10000", |bencher| bencher.iter(|| RuleSet::compile(&rules)));
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
    targets = parsing, remembering, matching, deciding, compiling
}
criterion_main!(benches);
