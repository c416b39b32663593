//! How well flows are balanced: wansplit's policies beside others' and the ideal, on virtual time.
//!
//! Lines are servers whose flows share them equally in each direction; sizes of flows are heavy-tailed (bounded Pareto),
//! flows begin at random moments (Poisson). wansplit's part is its real code, decisions about packets included. The same seeds
//! give the same numbers on every machine.
//!
//!     cargo bench --bench balance                     all scenarios, as tables
//!     cargo bench --bench balance -- varying          those whose names contain this
//!     cargo bench --bench balance -- --seeds 20       more runs of each
//!     cargo bench --bench balance -- --svg plot.svg   the first scenario's plot too

#[path = "../support/chart.rs"]
mod chart;
mod contender;
mod ours;
mod outcome;
mod report;
mod scenario;
mod traffic;
mod world;

use std::fs;

use contender::Contender;
use outcome::Outcome;
use scenario::{Kind, Scenario};
use traffic::Dice;
use world::World;

fn main() {
    let options = Options::read();
    let wanted = |scenario: &Scenario| options.name.as_ref().is_none_or(|name| scenario.name.contains(name));
    let mut plot = None;
    for scenario in scenario::all().into_iter().filter(wanted) {
        let outcomes: Vec<(Kind, Vec<Outcome>)> =
            scenario.kinds.iter().map(|&kind| (kind, runs(&scenario, kind, options.seeds))).collect();
        println!("{}", report::table(&scenario, &outcomes));
        plot.get_or_insert_with(|| report::svg(&scenario, &outcomes));
    }
    if let (Some(path), Some(plot)) = (options.svg, plot) {
        fs::write(&path, plot).unwrap_or_else(|error| panic!("cannot write {path}: {error}"));
    }
}

struct Options {
    name: Option<String>,
    seeds: u64,
    svg: Option<String>,
}

impl Options {
    fn read() -> Self {
        let mut options = Options { name: None, seeds: 9, svg: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--seeds" => {
                    options.seeds =
                        words.next().and_then(|seeds| seeds.parse().ok()).expect("a number of seeds")
                }
                "--svg" => options.svg = words.next(),
                // Cargo says so to all benchmarks.
                "--bench" => {}
                _ => options.name = Some(word),
            }
        }
        options
    }
}

fn runs(scenario: &Scenario, kind: Kind, seeds: u64) -> Vec<Outcome> {
    (1..=seeds).map(|seed| run(scenario, kind, seed)).collect()
}

fn run(scenario: &Scenario, kind: Kind, seed: u64) -> Outcome {
    let mut dice = Dice(seed);
    let flows = scenario.traffic.flows(scenario.seconds, &mut dice);
    let changes = scenario.changes(&mut dice);
    let mut world = World::new(scenario.lines.clone(), scenario.slow_start);
    let mut contender: Box<dyn Contender> = kind.contender(scenario, &world, seed);
    let used = world.run(&flows, &changes, contender.as_mut(), scenario.seconds);
    Outcome::of(&world, used, scenario.traffic.clients)
}
