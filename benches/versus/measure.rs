//! What is measured.

use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;
use clap::builder::PossibleValue;
use wansplit::system::conntrack::Flow;

use crate::candidate::Running;
use crate::flood::{Flood, Sent, Timed};
use crate::frame;
use crate::meter::{Meter, run_time};
use crate::transfers;
use crate::world::{Arrivals, LINES, World};

/// A question, by its letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// How many new flows a second get through without loss.
    Limit,
    /// What a new flow costs.
    Cost,
    /// How long its first packet takes.
    Delay,
    /// What established connections carry.
    Throughput,
    /// What happens beyond the limit.
    Overload,
    /// How much memory the program takes.
    Memory,
}

/// For how long, and what counts as the limit.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Of each run.
    pub time: Duration,
    /// New flows a second.
    pub limit: u32,
}

/// An answer.
#[derive(Debug, Clone, Copy)]
pub struct Number {
    /// Of what.
    pub name: &'static str,
    /// In which unit.
    pub unit: &'static str,
    /// How much.
    pub value: f64,
}

/// Flows a second at which cost is measured.
const RATE: u32 = 100_000;
/// Far more than any program answers.
const TOO_MANY: u32 = 700_000;
/// The limit is found to so many flows a second.
const STEP: u32 = 25_000;
/// A rate is held where at most so many of a thousand flows are lost in the best of some tries.
const LOST: f64 = 1.0;
const TRIES: u32 = 3;
/// From one packet that is timed to the next.
const EVERY: Duration = Duration::from_millis(1);
/// What is under way arrives.
const ARRIVING: Duration = Duration::from_millis(100);
/// A flood that is no news any more.
const GOING_ON: Duration = Duration::from_secs(5);
/// Who counts what ended has heard of it all.
const FORGOTTEN: Duration = Duration::from_secs(2);
/// Cost and what it comes from are looked at so often: a window in which others had the core counts for little.
const WINDOW: Duration = Duration::from_millis(20);

impl ValueEnum for Measure {
    fn value_variants<'a>() -> &'a [Self] {
        use Measure::{Cost, Delay, Limit, Memory, Overload, Throughput};
        &[Limit, Cost, Delay, Throughput, Overload, Memory]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.letter()).help(self.describe()))
    }
}

impl Measure {
    fn letter(self) -> &'static str {
        match self {
            Measure::Limit => "a",
            Measure::Cost => "b",
            Measure::Delay => "c",
            Measure::Throughput => "d",
            Measure::Overload => "e",
            Measure::Memory => "f",
        }
    }

    /// For people.
    pub fn describe(self) -> &'static str {
        match self {
            Measure::Limit => "new flows a second without loss",
            Measure::Cost => "processor time of a new flow",
            Measure::Delay => "delay of a flow's first packet",
            Measure::Throughput => "throughput of established connections",
            Measure::Overload => "twice and three times the limit",
            Measure::Memory => "memory of the program",
        }
    }

    /// Answers it.
    pub fn take(self, world: &World, running: &Running, settings: Settings) -> Result<Vec<Number>> {
        match self {
            Measure::Limit => limit(world, running, settings),
            Measure::Cost => cost(world, running, settings),
            Measure::Delay => delay(world, settings),
            Measure::Throughput => throughput(world, settings),
            Measure::Overload => overload(world, settings),
            Measure::Memory => memory(world, running),
        }
    }
}

/// What became of a flood.
struct Flooded {
    sent: Sent,
    seconds: f64,
    /// Flows that left by a line.
    passed: u64,
    /// Flows that a program was asked about.
    queued: u64,
}

fn flooded(world: &World, flood: Flood, timed: Option<Timed>) -> Result<Flooded> {
    let (sunk, queued, begin) = (world.sunk()?, world.queued()?, Instant::now());
    let sent = flood.run(world, timed)?;
    let seconds = begin.elapsed().as_secs_f64();
    thread::sleep(ARRIVING);
    Ok(Flooded { sent, seconds, passed: world.sunk()? - sunk, queued: world.queued()? - queued })
}

fn limit(world: &World, running: &Running, settings: Settings) -> Result<Vec<Number>> {
    world.steer(Arrivals::BesideTheRouter)?;
    let (mut held, mut steps) = (0.0, 0..TOO_MANY / STEP + 1);
    while steps.len() > 1 {
        let middle = steps.start + steps.len() as u32 / 2;
        match holds(world, running, middle * STEP, settings.time / 2)? {
            Some(rate) => (held, steps) = (f64::max(held, rate), middle..steps.end),
            None => steps = steps.start..middle,
        }
    }
    Ok(vec![Number { name: "held", unit: "k/s", value: held / 1e3 }])
}

/// The rate that was really sent, if it was held. A flow that a program should have decided and did not is lost.
fn holds(world: &World, running: &Running, rate: u32, time: Duration) -> Result<Option<f64>> {
    for _ in 0..TRIES {
        world.forget()?;
        let flooded = flooded(world, Flood { rate, time }, None)?;
        let decided = if running.is_asked { flooded.passed.min(flooded.queued) } else { flooded.passed };
        let lost = flooded.sent.flows.saturating_sub(decided) as f64;
        if lost * 1e3 <= LOST * flooded.sent.flows as f64 {
            return Ok(Some(flooded.sent.flows as f64 / flooded.seconds));
        }
    }
    Ok(None)
}

fn cost(world: &World, running: &Running, settings: Settings) -> Result<Vec<Number>> {
    world.steer(Arrivals::BesideTheRouter)?;
    let mut numbers = vec![Number { name: "router", unit: "ns", value: of_router(world, settings)? }];
    world.steer(Arrivals::BesideTheSender)?;
    let Some(program) = running.program.as_ref().filter(|_| running.is_asked) else { return Ok(numbers) };
    for (name, rate) in [("program, 100 k/s", RATE), ("program, saturated", TOO_MANY)] {
        world.forget()?;
        let (before, flood) = (run_time(program.id())?, Flood { rate, time: settings.time });
        let flooded = flooded(world, flood, None)?;
        let time = (run_time(program.id())? - before) as f64;
        numbers.push(Number { name, unit: "ns", value: time / flooded.queued.max(1) as f64 });
    }
    Ok(numbers)
}

/// What one flow takes from the router's core, the program and the kernel together, in nanoseconds.
fn of_router(world: &World, settings: Settings) -> Result<f64> {
    world.forget()?;
    let meter = Meter::start()?;
    let flood = Flood { rate: RATE, time: settings.time };
    let mut costs = thread::scope(|scope| {
        let sending = scope.spawn(|| flood.run(world, None));
        let mut costs = Vec::new();
        let mut before = (world.sunk()?, meter.count(), Instant::now());
        while !sending.is_finished() {
            thread::sleep(WINDOW);
            let now = (world.sunk()?, meter.count(), Instant::now());
            let busy = meter.busy(now.1 - before.1, (now.2 - before.2).as_secs_f64());
            if now.0 > before.0 {
                costs.push(busy * 1e9 / (now.0 - before.0) as f64);
            }
            before = now;
        }
        sending.join().map_err(|_| anyhow!("the sender died"))??;
        Ok::<_, anyhow::Error>(costs)
    })?;
    costs.sort_by(f64::total_cmp);
    costs.get(costs.len() / 2).copied().context("nothing passed")
}

fn delay(world: &World, settings: Settings) -> Result<Vec<Number>> {
    // Else a core that sleeps is most of the delay.
    let _awake = Meter::start()?;
    let timed = Timed { packet: frame::opening, every: EVERY };
    let mut numbers = Vec::new();
    for (names, arrivals, rate) in [
        (["light, p50", "light, p99", "light, p99.9"], Arrivals::BesideTheRouter, 0),
        (
            ["light, across cores, p50", "light, across cores, p99", "light, across cores, p99.9"],
            Arrivals::BesideTheSender,
            0,
        ),
        (
            ["half the limit, p50", "half the limit, p99", "half the limit, p99.9"],
            Arrivals::BesideTheRouter,
            settings.limit / 2,
        ),
    ] {
        world.steer(arrivals)?;
        world.forget()?;
        let took = Flood { rate, time: settings.time }.run(world, Some(timed))?.took;
        for (name, part) in names.into_iter().zip([0.5, 0.99, 0.999]) {
            numbers.push(Number { name, unit: "µs", value: quantile(&took, part)? });
        }
    }
    Ok(numbers)
}

fn throughput(world: &World, settings: Settings) -> Result<Vec<Number>> {
    world.steer(Arrivals::BesideTheRouter)?;
    world.forget()?;
    let carried = |name, connections| -> Result<Number> {
        let bytes = transfers::carried(world, connections, settings.time)?;
        Ok(Number { name, unit: "Gbit/s", value: bytes as f64 * 8e-9 / settings.time.as_secs_f64() })
    };
    Ok(vec![carried("1 connection", 1)?, carried("64 connections", 64)?])
}

fn overload(world: &World, settings: Settings) -> Result<Vec<Number>> {
    world.steer(Arrivals::BesideTheRouter)?;
    let mut numbers = Vec::new();
    for (names, times) in [
        (["2 ×: offered", "2 ×: passed", "2 ×: of one line", "2 ×: ping", "2 ×: pings answered"], 2),
        (["3 ×: offered", "3 ×: passed", "3 ×: of one line", "3 ×: ping", "3 ×: pings answered"], 3),
    ] {
        let flood = Flood { rate: settings.limit.saturating_mul(times), time: settings.time };
        Flood { time: GOING_ON, ..flood }.run(world, None)?;
        world.forget()?;
        thread::sleep(FORGOTTEN);
        let echo = Timed { packet: frame::echo, every: EVERY };
        Flood { rate: 0, time: ARRIVING }.run(world, Some(echo))?;
        let flooded = flooded(world, flood, Some(echo))?;
        let percent = |part: f64, of: f64| 100.0 * part / of.max(1.0);
        let pings = settings.time.as_secs_f64() / EVERY.as_secs_f64();
        let values = [
            (flooded.sent.flows as f64 / flooded.seconds / 1e3, "k/s"),
            (percent(flooded.passed as f64, flooded.sent.flows as f64), "%"),
            (100.0 * pinned(world)?, "%"),
            (quantile(&flooded.sent.took, 0.5).unwrap_or(f64::INFINITY), "µs"),
            (percent(flooded.sent.took.len() as f64, pings), "%"),
        ];
        numbers.extend(names.into_iter().zip(values).map(|(name, (value, unit))| Number {
            name,
            unit,
            value,
        }));
    }
    Ok(numbers)
}

/// The part of the connections whose mark names the line by whose address they are known outside.
fn pinned(world: &World) -> Result<f64> {
    let (mut all, mut pinned) = (0_u64, 0_u64);
    world.connections(|flow: Flow| {
        let line = LINES.iter().position(|(_, address, _)| flow.reply.dst == IpAddr::V4(*address));
        all += 1;
        pinned += u64::from(line.is_some_and(|line| flow.mark & 0xff == line as u32 + 1));
    })?;
    Ok(pinned as f64 / all.max(1) as f64)
}

fn memory(world: &World, running: &Running) -> Result<Vec<Number>> {
    let Some(program) = running.program.as_ref().filter(|_| running.is_asked) else { return Ok(vec![]) };
    world.steer(Arrivals::BesideTheRouter)?;
    world.forget()?;
    world.router.set_sysctls(&[("netfilter/nf_conntrack_udp_timeout", "600")])?;
    let (mut numbers, mut live) = (Vec::new(), 0);
    for (name, flows) in [("10 k flows", 10_000), ("100 k flows", 100_000), ("1 M flows", 1_000_000)] {
        while live < flows {
            let time = Duration::from_secs_f64(f64::from(flows - live) / f64::from(RATE / 2));
            live += Flood { rate: RATE / 2, time }.run(world, None)?.flows as u32;
        }
        thread::sleep(ARRIVING);
        numbers.push(Number { name, unit: "MB", value: resident(program.id())? as f64 / 1e6 });
    }
    Ok(numbers)
}

/// In bytes.
fn resident(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS is missing")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

fn quantile(sorted: &[f64], part: f64) -> Result<f64> {
    sorted.get((sorted.len() as f64 * part) as usize).copied().context("nothing was answered")
}
