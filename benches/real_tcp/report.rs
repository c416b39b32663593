//! What the comparison came to.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::balancer::Balancer;
use crate::downloads::{Downloads, Wanted};

/// One balancer in one round.
#[derive(Debug)]
pub struct Outcome {
    balancer: Balancer,
    seed: u64,
    flows: usize,
    given_up: usize,
    /// Seconds; downloads that were given up count with the time that they were waited for.
    mean: f64,
    median: f64,
    p95: f64,
    /// Percent of the lines' sum, with all headers, while downloads began.
    used: f64,
    by_line: Vec<u64>,
}

impl Outcome {
    /// Of what was wanted and what came of it.
    pub fn new(
        balancer: Balancer,
        seed: u64,
        lines: &[u32],
        window: Duration,
        wanted: &[Wanted],
        done: &Downloads,
    ) -> Self {
        let took = |(wanted, took): (&Wanted, &Option<Duration>)| {
            took.unwrap_or((window + crate::PATIENCE).saturating_sub(wanted.at)).as_secs_f64()
        };
        let mut times: Vec<f64> = wanted.iter().zip(&done.took).map(took).collect();
        times.sort_by(f64::total_cmp);
        let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied().unwrap_or_default();
        let possible =
            lines.iter().map(|&rate| f64::from(rate)).sum::<f64>() * 125_000.0 * window.as_secs_f64();
        Outcome {
            balancer,
            seed,
            flows: times.len(),
            given_up: done.took.iter().filter(|took| took.is_none()).count(),
            mean: times.iter().sum::<f64>() / times.len().max(1) as f64,
            median: at(0.5),
            p95: at(0.95),
            used: done.carried.iter().sum::<u64>() as f64 / possible * 100.0,
            by_line: done.by_line.clone(),
        }
    }

    /// A row of the table.
    pub fn line(&self) -> String {
        let by_line: Vec<String> = self.by_line.iter().map(u64::to_string).collect();
        format!(
            "| {} | {} | {:.2} s | {:.2} s | {:.2} s | {:.0} % | {} | {} |",
            self.balancer.describe(),
            self.seed,
            self.mean,
            self.median,
            self.p95,
            self.used,
            by_line.join(" : "),
            self.given_up
        )
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "balancer": self.balancer.describe(),
            "seed": self.seed,
            "flows": self.flows,
            "given_up": self.given_up,
            "mean_seconds": self.mean,
            "median_seconds": self.median,
            "p95_seconds": self.p95,
            "used_percent": self.used,
            "by_line": self.by_line,
        })
    }
}

/// To standard output.
pub fn print(outcomes: &[Outcome], json: bool) -> Result<()> {
    if json {
        let all: Vec<_> = outcomes.iter().map(Outcome::json).collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    println!("| balancer | seed | mean | median | 95 % | capacity used | flows by line | given up |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    outcomes.iter().for_each(|outcome| println!("{}", outcome.line()));
    Ok(())
}
