//! What one packet costs in the engine: parsing it, remembering its flow, reading what
//! its client says, and deciding it by 1 to 10,000 rules, compiled and by the oracle,
//! also with a million names and 100,000 nets in lists on top.
//!
//! Three shapes of rule sets: `clients` (each rule for one host and some ports, as an
//! office would have), `ports` (each for one port, all for the same LAN) and `wide` (port
//! ranges too wide for the index: every rule must be asked). The flow asked
//! about matches no rule, which is the dearest case. A fourth one is like ClassBench's
//! access lists, asked about flows that match and about such that do not.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Bencher, BenchmarkId, Criterion, criterion_group, criterion_main};
use wansplit::engine;

#[allow(dead_code, reason = "each bench uses its own part of this")]
mod fixtures;
#[path = "../src/engine/sniff/samples.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod samples;

use engine::flow::{Arrival, Facts, FlowTable, LocalTime, Lookup, Millis};
use engine::names::Names;
use engine::packet::parse;
use engine::rule::model::{Rule, RuleId};
use engine::rule::{RuleSet, naive};
use engine::sniff::{self, App, Name, Ports, dns};
use engine::{Engine, Now, Snapshot};
use fixtures::*;

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

/// ClassBench-like sets, asked about flows that fit a rule each and about such that fit none.
fn matching_access_lists(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("first_match/access-list");
    for count in COUNTS {
        let rules = access_list(count);
        let set = RuleSet::compile(rules.as_slice());
        for (kind, flows) in [("hit", listed_flows(&rules, 64)), ("miss", unlisted_flows(64))] {
            let mut turn = flows.iter().cycle();
            group.bench_function(BenchmarkId::new(kind, count), |bencher| {
                bencher.iter(|| set.first_match_from(RuleId(0), black_box(turn.next()?)));
            });
        }
    }
}

/// One rule for everything, so that what is left is its policy.
fn picking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    let flows = unlisted_flows(64);
    for (name, policy) in POLICIES {
        let (mut engine, snapshot) = (Engine::new(1), snapshot(&[by_policy(policy)]));
        let mut turn = flows.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| Some(engine.judge(&snapshot, black_box(turn.next()?), Millis(0))));
        });
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
    let lists = lists(1_000_000, 100_000);
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
    group.bench_function("unknown-stream", |bencher| {
        bencher.iter(|| sniff::stream(black_box(&[7; 148]), web))
    });
}

/// Every protocol's first bytes, through all sniffers that are asked before its own.
fn sniffing_all(criterion: &mut Criterion) {
    let mut datagrams = criterion.benchmark_group("sniff/datagram");
    for (number, samples::Sample { app, bytes, ports }) in samples::datagrams().into_iter().enumerate() {
        datagrams.bench_function(format!("{app}-{number}"), |bencher| {
            bencher.iter(|| sniff::datagram(black_box(&bytes), ports));
        });
    }
    drop(datagrams);
    let mut streams = criterion.benchmark_group("sniff/stream");
    for (number, samples::Sample { app, bytes, ports }) in samples::streams().into_iter().enumerate() {
        streams.bench_function(format!("{app}-{number}"), |bencher| {
            bencher.iter(|| sniff::stream(black_box(&bytes), ports));
        });
    }
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
    group.bench_function("of-unknown-address", |bencher| {
        bencher.iter(|| names.of(address(7), black_box(address(2 << 24)), 443, Millis(1)));
    });
    let [hosts, _] = lists(1_000_000, 100_000);
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

/// A rule file has changed: its rules are compiled, and the engine carries over what the others remember.
fn reloading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reload");
    for count in COUNTS {
        let mut rules = access_list(count);
        let (mut engine, mut number) = (Engine::new(CAPACITY), 0);
        group.bench_function(BenchmarkId::new("changed-rule", count), |bencher| {
            bencher.iter(|| {
                number += 1;
                rules[0] = for_port(number % 50_000);
                engine.follow(&snapshot(&rules));
            });
        });
    }
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
    targets = parsing, remembering, sniffing, sniffing_all, naming, matching, matching_access_lists,
        picking, deciding, compiling, reloading
}
criterion_main!(benches);
