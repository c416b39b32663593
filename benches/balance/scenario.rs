//! The scenarios: lines, traffic, what happens to the lines, and who is compared.

use wansplit::engine::rule::model::{HashKey, Percent, Policy};
use wansplit::engine::uplink::load::Direction;

use crate::contender::{Contender, Ecmp, Ideal, Nth, Random};
use crate::ours::{Ours, Told};
use crate::traffic::{Dice, Traffic};
use crate::world::{Change, Line, What, World};

/// Lines and traffic.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// For people.
    pub about: &'static str,
    /// The lines.
    pub lines: Vec<Line>,
    /// The traffic.
    pub traffic: Traffic,
    /// How long flows begin.
    pub seconds: f64,
    /// What happens meanwhile.
    pub happens: Happens,
    /// Whether flows begin slowly, as TCP does.
    pub slow_start: bool,
    /// Whether there are probes.
    pub probes: bool,
    /// Who is compared.
    pub kinds: &'static [Kind],
}

/// What happens to the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happens {
    /// Nothing.
    Nothing,
    /// The second line's capacity is another one every ten seconds.
    Varies,
    /// The first line dies for a third of the time; it is known two seconds later, that it is back five seconds later.
    Fails,
}

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// The article's.
    Nth,
    /// mwan3's.
    Random,
    /// The kernel's.
    Ecmp,
    /// Knows everything.
    Ideal,
    /// wansplit's round-robin without weights.
    Turns,
    /// The same with the true weights.
    TurnsTold,
    /// A policy of wansplit's.
    Policy(&'static str, Policy, Told),
}

const LEAST: Policy = Policy::LeastLoad(Direction::Down);
const OVERFLOW: Policy = Policy::Overflow(Direction::Down, Percent(80));

const LEARNED: Kind = Kind::Policy("least-load", LEAST, Told::Nothing);
const GIVEN: Kind = Kind::Policy("least-load, capacity given", LEAST, Told::Capacities);

const ALL: &[Kind] = &[
    Kind::Ideal,
    LEARNED,
    GIVEN,
    Kind::Policy("overflow", OVERFLOW, Told::Nothing),
    Kind::Policy("overflow, capacity given", OVERFLOW, Told::Capacities),
    Kind::Policy("lowest-latency", Policy::LowestLatency, Told::Nothing),
    Kind::Policy("best-quality", Policy::BestQuality, Told::Nothing),
    Kind::TurnsTold,
    Kind::Turns,
    Kind::Policy("hash of client", Policy::Hash(HashKey::Client), Told::Nothing),
    Kind::Nth,
    Kind::Random,
    Kind::Ecmp,
];
const SHORT: &[Kind] = &[Kind::Ideal, LEARNED, GIVEN, Kind::TurnsTold, Kind::Turns, Kind::Random, Kind::Ecmp];

/// Mean of some 500 kB: pages, pictures and updates.
const DOWNLOADS: Traffic =
    Traffic { rate: 0.0, sizes: (100_000.0, 200e6), tail: 1.2, clients: 10, uploads: 0.0, slow: 0.0 };

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    let unequal = vec![Line::new(100.0, 20.0, 15.0), Line::new(20.0, 4.0, 25.0)];
    let traffic = |load: f64, lines: &[Line]| Traffic { rate: load * sum(lines), ..DOWNLOADS };
    let base = Scenario {
        name: "unequal",
        about: "100 and 20 Mbit/s, downloads at 80 % of the sum",
        traffic: traffic(0.8, &unequal),
        lines: unequal.clone(),
        seconds: 300.0,
        happens: Happens::Nothing,
        slow_start: false,
        probes: true,
        kinds: ALL,
    };
    let short = Scenario { kinds: SHORT, ..base.clone() };
    let with = |lines: Vec<Line>| Scenario { traffic: traffic(0.8, &lines), lines, ..short.clone() };
    let mice = Traffic { sizes: (10_000.0, 200e6), ..base.traffic };
    vec![
        base.clone(),
        Scenario {
            name: "saturated",
            about: "the same lines, downloads at 120 % of the sum",
            traffic: traffic(1.2, &unequal),
            seconds: 120.0,
            ..short.clone()
        },
        Scenario {
            name: "idle",
            about: "the same lines, downloads at 10 % of the sum",
            traffic: traffic(0.1, &unequal),
            seconds: 600.0,
            ..short.clone()
        },
        Scenario {
            name: "blind",
            about: "the same lines at 80 %, nobody answers probes",
            probes: false,
            ..short.clone()
        },
        Scenario {
            name: "mice",
            about: "the same lines at 80 %, flows ten times smaller and more",
            traffic: mice,
            seconds: 120.0,
            ..short.clone()
        },
        Scenario {
            name: "slow-start",
            about: "the same lines at 80 %, flows begin slowly as TCP's do",
            slow_start: true,
            ..short.clone()
        },
        Scenario {
            name: "mice-slow-start",
            about: "the same, flows ten times smaller and more",
            slow_start: true,
            traffic: mice,
            seconds: 120.0,
            ..short.clone()
        },
        Scenario {
            name: "slow-ends",
            about: "the same lines at 80 %, half of the flows take 4 Mbit/s at most",
            traffic: Traffic { slow: 0.5, ..base.traffic },
            ..short.clone()
        },
        Scenario {
            name: "one-client",
            about: "the same lines at 80 %, one client",
            traffic: Traffic { clients: 1, ..base.traffic },
            ..short.clone()
        },
        Scenario {
            name: "equal",
            about: "two lines of 50 Mbit/s, downloads at 80 % of the sum",
            ..with(vec![Line::new(50.0, 10.0, 15.0), Line::new(50.0, 10.0, 25.0)])
        },
        Scenario {
            name: "three",
            about: "500, 100 and 20 Mbit/s, downloads at 80 % of the sum",
            seconds: 120.0,
            ..with(vec![
                Line::new(500.0, 50.0, 10.0),
                Line::new(100.0, 20.0, 15.0),
                Line::new(20.0, 4.0, 40.0),
            ])
        },
        Scenario {
            name: "uploads",
            about: "20 and 10 Mbit/s up, three of four flows are uploads, at 80 % of their sum",
            kinds: UPLOADS,
            traffic: Traffic { rate: 0.8 * 30.0 * 125_000.0 / 0.75, uploads: 0.75, ..DOWNLOADS },
            ..with(vec![Line::new(100.0, 20.0, 15.0), Line::new(50.0, 10.0, 25.0)])
        },
        Scenario {
            name: "varying",
            about: "50 Mbit/s, and a line of 5 to 60 Mbit/s that changes every ten seconds; downloads of 50 Mbit/s",
            happens: Happens::Varies,
            traffic: Traffic { rate: 50.0 * 125_000.0, ..DOWNLOADS },
            ..with(vec![Line::new(50.0, 10.0, 15.0), Line::new(30.0, 10.0, 40.0)])
        },
        Scenario {
            name: "failing",
            about: "50 and 40 Mbit/s, of which the first is dead for a third of the time; downloads of 30 Mbit/s",
            happens: Happens::Fails,
            traffic: Traffic { rate: 30.0 * 125_000.0, ..DOWNLOADS },
            ..with(vec![Line::new(50.0, 10.0, 15.0), Line::new(40.0, 10.0, 25.0)])
        },
    ]
}

const UP: Policy = Policy::LeastLoad(Direction::Up);
const UPLOADS: &[Kind] = &[
    Kind::Ideal,
    Kind::Policy("least-load up", UP, Told::Nothing),
    Kind::Policy("least-load up, capacity given", UP, Told::Capacities),
    LEARNED,
    Kind::TurnsTold,
    Kind::Turns,
    Kind::Random,
    Kind::Ecmp,
];

/// Bytes per second down.
fn sum(lines: &[Line]) -> f64 {
    lines.iter().map(|line| line.capacity.down).sum()
}

impl Scenario {
    /// What happens, in order.
    pub fn changes(&self, dice: &mut Dice) -> Vec<Change> {
        match self.happens {
            Happens::Nothing => Vec::new(),
            Happens::Varies => {
                let times = (1..).map(|step| 10.0 * f64::from(step)).take_while(|&at| at < self.seconds);
                times
                    .map(|at| Change { at, line: 1, what: What::Carries(5.0 + 55.0 * dice.uniform(), 10.0) })
                    .collect()
            }
            Happens::Fails => {
                let (dies, returns) = (self.seconds / 3.0, 2.0 * self.seconds / 3.0);
                let change = |at, what| Change { at, line: 0, what };
                vec![
                    change(dies, What::Dies),
                    change(dies + 2.0, What::IsMissed),
                    change(returns, What::Returns),
                    change(returns + 5.0, What::IsUsed),
                ]
            }
        }
    }
}

impl Kind {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Nth => "the article's nth",
            Kind::Random => "mwan3's random, told the truth",
            Kind::Ecmp => "hash of addresses (ECMP), told the truth",
            Kind::Ideal => "the ideal that knows everything",
            Kind::Turns => "round-robin 1:1",
            Kind::TurnsTold => "round-robin, told the truth",
            Kind::Policy(name, ..) => name,
        }
    }

    /// Whether it is wansplit's.
    pub fn is_ours(self) -> bool {
        matches!(self, Kind::Turns | Kind::TurnsTold | Kind::Policy(..))
    }

    /// One that knows nothing yet.
    pub fn contender(self, scenario: &Scenario, world: &World, seed: u64) -> Box<dyn Contender> {
        let ours = |policy, weights: &[u8], told| {
            Box::new(Ours::new(policy, weights, world, told, scenario.probes)) as Box<dyn Contender>
        };
        let equal = vec![1; world.lines.len()];
        match self {
            Kind::Nth => Box::<Nth>::default(),
            Kind::Random => Box::new(Random { weights: true_weights(world), dice: Dice(seed ^ 0x5eed) }),
            Kind::Ecmp => Box::new(Ecmp { weights: true_weights(world) }),
            Kind::Ideal => Box::new(Ideal),
            Kind::Turns => ours(Policy::RoundRobin, &equal, Told::Nothing),
            Kind::TurnsTold => ours(Policy::RoundRobin, &true_weights(world), Told::Nothing),
            Kind::Policy(_, policy, told) => ours(policy, &equal, told),
        }
    }
}

/// Weights as the capacities down.
fn true_weights(world: &World) -> Vec<u8> {
    let least = world.lines.iter().map(|line| line.capacity.down).fold(f64::INFINITY, f64::min);
    world.lines.iter().map(|line| (10.0 * line.capacity.down / least).round().min(255.0) as u8).collect()
}
