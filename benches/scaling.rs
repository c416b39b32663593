//! What workers on several cores take from each other: decisions a second of one engine, and of one on each core
//! at the same time, all with the same rules, names and choices.
//!
//!     cargo bench --bench scaling -- [ROUNDS]
//!
//! Both in turns, ROUNDS times (7): medians and ranges. Two cores that share nothing decide twice as much. Flows are
//! decided by ports (engines only read what is shared), by the name that their address is known by (asking takes a
//! lock of the address's shard), or as the client's flows before were (the choice is kept anew each time).

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use etherparse::PacketBuilder;
use wansplit::config::{self, Lists, SourceFile};
use wansplit::engine::flow::{Arrival, Millis};
use wansplit::engine::names::Names;
use wansplit::engine::rule::RuleSet;
use wansplit::engine::sniff::Name;
use wansplit::engine::sticky::Choices;
use wansplit::engine::uplink::{Board, UplinkId, UplinkSet};
use wansplit::engine::{Engine, Now, Snapshot};
use wansplit::system::affinity::bind;

const DECISIONS: u32 = 500_000;
const CLIENTS: u16 = 1000;

/// By what flows are decided, and the port that makes it so.
const KINDS: [(&str, u16); 3] = [("by ports", 1001), ("by names", 1002), ("by choices of before", 1003)];
const RULES: &str = r#"
[[rule]]
name = "ports"
match = { dst_port = 1001 }
use = { policy = "round-robin" }
[[rule]]
name = "choices"
match = { dst_port = 1003 }
use = { policy = "round-robin" }
sticky = { by = "client", for = "10m" }
[[rule]]
name = "names"
match = { host = "www.example.org" }
use = { policy = "round-robin" }
"#;

fn main() {
    let rounds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(7);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    println!("million decisions a second, of one engine and of {cores}");
    for (name, port) in KINDS {
        let snapshot = snapshot(cores);
        let (mut alone, mut together, mut ratios) = (vec![], vec![], vec![]);
        for _ in 0..rounds {
            let one = decisions_a_second(&snapshot, port, 1);
            let all = decisions_a_second(&snapshot, port, cores);
            alone.push(one / 1e6);
            together.push(all / 1e6);
            ratios.push(all / one);
        }
        let [alone, together, ratio] = [alone, together, ratios].map(spread);
        println!("  {name:21} {alone}, {together}: {ratio} times");
    }
}

fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let [least, median, most] = [0, values.len() / 2, values.len() - 1].map(|place| values[place]);
    format!("{median:.2} ({least:.2} to {most:.2})")
}

/// So many engines, each on a core of its own, begin at one moment; the last to end tells the time.
fn decisions_a_second(snapshot: &Snapshot, port: u16, engines: usize) -> f64 {
    let barrier = Barrier::new(engines);
    let slowest = thread::scope(|scope| {
        let run = |core| {
            let barrier = &barrier;
            scope.spawn(move || {
                bind(core as u16).expect("a core that is there");
                decide_many(snapshot, port, core, barrier)
            })
        };
        let running: Vec<_> = (0..engines).map(run).collect();
        running.into_iter().map(|engine| engine.join().expect("an engine")).fold(0.0, f64::max)
    });
    f64::from(DECISIONS) * engines as f64 / slowest
}

/// New flows of all clients, as the kernel would share them among workers: each core has its own.
fn decide_many(snapshot: &Snapshot, port: u16, core: usize, barrier: &Barrier) -> f64 {
    let (mut engine, mut packet) = (Engine::new(65_536), packet(port));
    let mut now = Now { at: Millis(1), ..Now::default() };
    barrier.wait();
    let begun = Instant::now();
    for flow in 0..DECISIONS {
        // A millisecond for ten flows; each has a client and a port.
        now.at.0 += u64::from(flow % 10 == 0);
        let [high, low] = ((flow as u16).wrapping_mul(7919) % CLIENTS).to_be_bytes();
        packet[14..16].copy_from_slice(&[high, low]);
        packet[20..22].copy_from_slice(&((flow >> 4) as u16).to_be_bytes());
        packet[13] = core as u8;
        black_box(engine.decide(snapshot, &packet, &Arrival::default(), now));
    }
    begun.elapsed().as_secs_f64()
}

fn packet(port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ipv4([10, 0, 0, 1], [198, 51, 100, 7], 64).udp(1, port);
    let mut packet = vec![0; builder.size(0)];
    builder.write_to_slice(&mut packet, &[]).expect("a packet");
    packet
}

fn snapshot(cores: usize) -> Snapshot {
    let main = source("wansplit.toml", include_str!("../tests/data/two-lines.toml"));
    let no_lists = Lists::new(|path| Err(format!("{path} is not there")));
    let config = config::load(&main, &[source("rules.toml", RULES)], &no_lists);
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    let usable: UplinkSet = [UplinkId(0), UplinkId(1)].into_iter().collect();
    let board = Board { usable_v4: usable, usable_v6: usable, weights: vec![1, 1], ..Board::default() };
    let names = Arc::new(Names::new(2 * cores * usize::from(CLIENTS)));
    let name = Name::new(b"www.example.org").expect("a name");
    let server = IpAddr::from([198, 51, 100, 7]);
    for client in 0..CLIENTS {
        for core in 0..cores as u32 {
            let client = Ipv4Addr::from_bits(10 << 24 | core << 16 | u32::from(client));
            names.told(client.into(), server, &name, u32::MAX, Millis(0));
        }
    }
    let (rules, choices) = (Arc::new(RuleSet::compile(config.rules)), Arc::new(Choices::new(65_536)));
    Snapshot { rules, board, names, choices, ..Snapshot::default() }
}

fn source(path: &str, text: &str) -> SourceFile {
    SourceFile { path: path.to_owned(), text: text.to_owned() }
}
