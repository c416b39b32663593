//! The balancers compared with real TCP: the lab's network with lines of unequal speed, heavy-tailed
//! downloads that begin at random, the same ones for each balancer in turn.
//!
//! `cargo bench --bench real_tcp -- --help`; needs root.

#[path = "../balance/traffic.rs"]
#[allow(dead_code, reason = "the simulator uses all of it")]
mod traffic;

mod balancer;
#[path = "../support/daemon.rs"]
mod daemon;
mod downloads;
mod report;

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use wansplit::engine::uplink::load::Direction;
use wansplit::lab::network::Network;
use wansplit::lab::topology::{Lan, Line, Medium, Topology};

use balancer::Balancer;
use downloads::{Downloads, Wanted};
use report::Outcome;
use traffic::{Dice, Traffic};

/// Compares balancers with real TCP over shaped lines in network namespaces.
#[derive(Debug, Parser)]
struct Args {
    /// Speeds of the lines in Mbit/s
    #[arg(long, value_delimiter = ',', default_value = "100,20")]
    lines: Vec<u32>,
    /// Offered load in percent of the lines' sum
    #[arg(long, default_value_t = 80)]
    load: u32,
    /// For how many seconds downloads begin
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How often all balancers are tried, each time with other downloads
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// The first round's seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these balancers
    #[arg(long, value_delimiter = ',')]
    only: Vec<Balancer>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Added by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// Machines in the LAN.
const CLIENTS: u8 = 4;
/// Downloads that have not ended so long after the last began are given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Mean of some 430 kB.
const SIZES: (f64, f64) = (100_000.0, 50e6);
/// The tail's exponent.
const TAIL: f64 = 1.2;

fn main() -> Result<()> {
    let args = Args::parse();
    let balancers = if args.only.is_empty() { Balancer::ALL.to_vec() } else { args.only.clone() };
    let mut outcomes = Vec::new();
    for seed in args.seed..args.seed + args.rounds {
        let wanted = wanted(&args, seed);
        for &balancer in &balancers {
            let outcome = try_out(&args, balancer, &wanted, seed)?;
            eprintln!("{}", outcome.line());
            outcomes.push(outcome);
        }
    }
    report::print(&outcomes, args.json)
}

/// The same for each balancer.
fn wanted(args: &Args, seed: u64) -> Vec<Wanted> {
    let sum: u32 = args.lines.iter().sum();
    let rate = f64::from(sum) * 125_000.0 * f64::from(args.load) / 100.0;
    let traffic = Traffic { rate, sizes: SIZES, tail: TAIL, clients: CLIENTS, uploads: 0.0, slow: 0.0 };
    let flows = traffic.flows(args.seconds as f64, &mut Dice(seed));
    let down = flows.into_iter().filter(|flow| flow.direction == Direction::Down);
    down.map(|flow| Wanted {
        at: Duration::from_secs_f64(flow.at),
        client: usize::from(flow.client),
        bytes: flow.bytes as u64,
    })
    .collect()
}

/// In a network of its own.
fn try_out(args: &Args, balancer: Balancer, wanted: &[Wanted], seed: u64) -> Result<Outcome> {
    let line = |&rate: &u32| Line { medium: Medium::Ethernet, rate: Some(rate) };
    let topology = Topology {
        lines: args.lines.iter().map(line).collect(),
        lans: vec![Lan { clients: CLIENTS, vlan: None }],
        ..Topology::default()
    };
    let network = Network::build(&topology)?;
    let _running = balancer.start(&network, &args.lines)?;
    let window = Duration::from_secs(args.seconds);
    let done = Downloads::run(&network, wanted, window, PATIENCE)?;
    Ok(Outcome::new(balancer, seed, &args.lines, window, wanted, &done))
}
