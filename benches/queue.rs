//! What a packet costs in each of the two ways to a queue, with a verdict that costs nothing: processor time
//! of the thread that answers, the kernel's part of sending the packet on included.
//!
//!     cargo bench --bench queue -- [ROUNDS]
//!
//! In a network namespace of its own. Both ways in turns, ROUNDS times (7); the sender has a core of its own.
//! Medians and ranges, in nanoseconds; what matters is the ratio.

#[path = "../tests/support/netns.rs"]
mod netns;

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use netns::{in_netns, sh};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use wansplit::system::affinity::bind;
use wansplit::system::queue::batch::BatchQueue;
use wansplit::system::queue::nfq::NfqQueue;
use wansplit::system::queue::{A_PACKET, LONGEST_WAIT, PacketQueue, Verdict};

const QUEUE: u16 = 7;
const LENGTH: u32 = 512;
const WAYS: [(&str, Open); 2] = [
    ("nfq", |number| Ok(Box::new(NfqQueue::open(number, LENGTH, A_PACKET)?))),
    ("batch", |number| Ok(Box::new(BatchQueue::open(number, LENGTH, A_PACKET)?))),
];

type Open = fn(u16) -> io::Result<Box<dyn PacketQueue>>;

/// How packets come.
struct Load {
    name: &'static str,
    bursts: u32,
    of: u32,
    /// From the beginning of a burst to that of the next.
    every: Duration,
}

const LOADS: [Load; 3] = [
    Load { name: "one by one, 5,000 a second", bursts: 5_000, of: 1, every: Duration::from_micros(200) },
    Load { name: "bursts of 32, 100,000 a second", bursts: 3_000, of: 32, every: Duration::from_micros(320) },
    Load { name: "without a pause", bursts: 3_000, of: 32, every: Duration::ZERO },
];

/// What one run came to.
struct Outcome {
    taken: u32,
    /// Nanoseconds of processor time for each.
    cost: f64,
}

fn main() {
    let rounds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(7);
    in_netns(move || {
        sh(&format!(
            "iptables-legacy -t mangle -A OUTPUT -p udp -j NFQUEUE --queue-num {QUEUE} --queue-bypass"
        ));
        LOADS.iter().for_each(|load| compare(load, rounds));
    });
}

fn compare(load: &Load, rounds: usize) {
    println!("{}", load.name);
    let mut costs = [vec![], vec![]];
    let mut taken = [0, 0];
    for round in 0..rounds {
        for turn in 0..WAYS.len() {
            let way = (round + turn) % WAYS.len();
            let outcome = run(load, WAYS[way].1);
            costs[way].push(outcome.cost);
            taken[way] += u64::from(outcome.taken);
        }
    }
    let mut ratios: Vec<f64> = costs[1].iter().zip(&costs[0]).map(|(batch, nfq)| batch / nfq).collect();
    let sent = u64::from(load.bursts * load.of) * rounds as u64;
    for (way, (name, _)) in WAYS.iter().enumerate() {
        let [median, least, most] = spread(&mut costs[way]);
        let part = 100.0 * taken[way] as f64 / sent as f64;
        println!("  {name:6} {median:6.0} ns ({least:.0} to {most:.0}), {part:.2} % of the packets came");
    }
    let [median, least, most] = spread(&mut ratios);
    println!("  batch to nfq: {median:.2} ({least:.2} to {most:.2})");
}

fn spread(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[values.len() / 2], values[0], values[values.len() - 1]]
}

fn run(load: &Load, open: Open) -> Outcome {
    let mut queue = open(QUEUE).expect("a queue");
    let sent = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            bind(1).expect("two cores");
            send(load);
            sent.store(true, Relaxed);
        });
        bind(0).expect("two cores");
        answer(&mut *queue, &sent)
    })
}

fn answer(queue: &mut dyn PacketQueue, sent: &AtomicBool) -> Outcome {
    let mut taken = 0;
    let before = processor_time();
    loop {
        let is_last = sent.load(Relaxed);
        let turn =
            queue.turn(LONGEST_WAIT, &mut |packet| Some(Verdict::Mark(1 + packet.id % 2))).expect("a turn");
        taken += turn.packets;
        if is_last && turn.is_idle() {
            let cost = (processor_time() - before) as f64 / f64::from(taken);
            return Outcome { taken, cost };
        }
    }
}

fn send(load: &Load) {
    let receiver = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let sender = UdpSocket::bind("127.0.0.1:0").expect("a port");
    sender.connect(receiver.local_addr().expect("an address")).expect("a peer");
    let mut next = Instant::now();
    for _ in 0..load.bursts {
        while Instant::now() < next {
            std::hint::spin_loop();
        }
        next += load.every;
        for _ in 0..load.of {
            sender.send(&[0; 32]).expect("a datagram");
        }
    }
}

/// Of this thread, in nanoseconds.
fn processor_time() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("the thread's usage");
    (usage.user_time() + usage.system_time()).num_microseconds() * 1000
}
