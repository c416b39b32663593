//! What a user might pick instead, beside this program: the article's rules, the same in nftables, a program in C on
//! libnetfilter_queue that decides nothing. All in turns, each in a network of its own.
//!
//!     cargo bench --bench versus                          everything, as a table
//!     cargo bench --bench versus -- --only b,c            some of it
//!     cargo bench --bench versus -- --rounds 7 --svg benches/versus/beside-the-kernel.svg
//!
//! Needs root and two cores. One core does the router's work, arrivals and program together, the other makes the
//! load. What matters are ratios within a round: one core of a quiet machine is not that of a busy one.

mod candidate;
#[path = "../support/chart.rs"]
mod chart;
#[path = "../support/daemon.rs"]
mod daemon;
mod flood;
mod frame;
mod measure;
mod meter;
mod report;
mod transfers;
mod world;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use wansplit::lab::interrupt::Interrupt;

use candidate::Candidate;
use measure::{Measure, Settings};
use report::Taken;
use world::{Room, World};

/// Compares this program with what a user might pick instead.
#[derive(Debug, Parser)]
struct Args {
    /// Only these measures
    #[arg(long, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Only these candidates
    #[arg(long, value_delimiter = ',')]
    candidates: Vec<Candidate>,
    /// How often all are measured
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each run
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// New flows a second that count as the limit
    #[arg(long, default_value_t = 300_000)]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write a plot
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Added by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    install()?;
    let interrupt = Interrupt::listen()?;
    let _room = Room::make()?;
    let measures = if args.only.is_empty() { Measure::value_variants().to_vec() } else { args.only.clone() };
    let candidates = if args.candidates.is_empty() {
        Candidate::value_variants().to_vec()
    } else {
        args.candidates.clone()
    };
    let settings = Settings { time: Duration::from_secs_f64(args.seconds), limit: args.limit };
    let mut taken = Vec::new();
    for round in 0..args.rounds {
        // Memory takes long to fill, and is the same each time.
        for &measure in measures.iter().filter(|&&measure| round == 0 || measure != Measure::Memory) {
            // Another one begins each round.
            let in_turn = candidates.iter().cycle().skip(round as usize).take(candidates.len());
            for &candidate in in_turn {
                ensure!(!interrupt.is_wanted(), "interrupted");
                taken.extend(take(round, measure, candidate, settings)?);
            }
        }
    }
    if let Some(path) = &args.svg {
        std::fs::write(path, report::svg(&taken)).with_context(|| format!("writing {}", path.display()))?;
    }
    let text = if args.json { report::json(&taken)? } else { report::table(&taken, &candidates) };
    println!("{text}");
    Ok(())
}

/// The library that the program in C is built with, and what the network is made of.
fn install() -> Result<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/setup/packages.sh");
    let done =
        Command::new(script).args(["build", "network", "versus"]).stdout(std::io::stderr()).status()?;
    if done.success() { Ok(()) } else { bail!("{script} failed") }
}

/// In a network of its own.
fn take(round: u32, measure: Measure, candidate: Candidate, settings: Settings) -> Result<Vec<Taken>> {
    let world = World::build()?;
    if matches!(measure, Measure::Delay | Measure::Throughput | Measure::Overload) {
        world.serve()?;
    }
    // Beyond the limit the program has the one that it is shipped with.
    let limit = (measure != Measure::Overload).then_some(1_000_000);
    let running = candidate.start(&world, limit)?;
    let numbers = measure.take(&world, &running, settings);
    let numbers = numbers.with_context(|| format!("{}: {}", candidate.describe(), measure.describe()))?;
    // Else the next one pays for it.
    world.forget()?;
    let taken: Vec<Taken> =
        numbers.into_iter().map(|number| Taken { round, measure, candidate, number }).collect();
    taken.iter().for_each(|taken| eprintln!("{}", taken.line()));
    Ok(taken)
}
