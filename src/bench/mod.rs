//! What a configuration's own rules cost, and which of them decide: every rule's flows counted and timed.
//!
//! What is timed is the decision itself, the rules and the choice of a line, by facts that are known
//! already, with every line usable. The clock is read once a batch: reading it takes about as long as a
//! decision. Batches of all flows in their order show what a decision costs as traffic comes; batches of one
//! rule's flows show what it costs to get to that rule. Rounds over all of it go on until the time is up.

mod made;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use made::make;

use crate::config::Config;
use crate::engine::flow::{Facts, Millis};
use crate::engine::rule::model::RuleId;
use crate::engine::rule::{RuleSet, naive};
use crate::engine::sticky::Choices;
use crate::engine::{Engine, Snapshot};

/// Decisions that are timed together. Their facts, half a kilobyte each, stay in the processor's caches, as those of
/// a packet that was just read would.
const BATCH: usize = 64;
/// Flows of one rule that are timed, the first ones.
const MOST_OF_A_RULE: usize = 1024;
/// Batches after which more would tell nothing: of all flows, and of each rule.
const MOST_BATCHES: usize = 1_000_000;
const MOST_ROUNDS: usize = 1000;
/// Choices that are remembered for rules that stick.
const CHOICES: usize = 16_384;
/// Comparisons of flows with rules that decide none of them; of further rules it is not asked why.
const MOST_COMPARISONS: usize = 10_000_000;
/// Flows between two reports of how far it is.
const REPORT: usize = 4096;

/// A flow to decide.
#[derive(Debug, Clone)]
pub struct Flow {
    known: Facts<'static>,
    payload: Box<[u8]>,
    /// The rule that it was made for.
    made_for: Option<RuleId>,
}

impl Flow {
    /// A flow that was not made for a rule.
    #[must_use]
    pub fn captured(facts: Facts<'static>) -> Self {
        Flow { known: facts, payload: Box::default(), made_for: None }
    }

    fn facts(&self) -> Facts<'_> {
        Facts { payload: &self.payload, ..self.known }
    }
}

/// How far it is, and with what.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// What is being done.
    pub what: &'static str,
    /// What is done of it.
    pub part: u64,
    /// All of it.
    pub whole: u64,
}

/// What was counted and timed.
#[derive(Debug)]
pub struct Measured {
    /// Flows that were decided.
    pub flows: u64,
    /// How long the rules took to compile, as at a reload.
    pub compiled_in: Duration,
    /// A decision as the flows come.
    pub all: Option<Spread>,
    /// Of each rule, in their order.
    pub rules: Vec<Tally>,
    /// Of the flows that no rule decides.
    pub no_rule: Tally,
    /// The rules that every flow is compared with, because nothing in their `match` can be looked up.
    pub always_compared: Vec<RuleId>,
}

/// The flows of one rule.
#[derive(Debug, Default)]
pub struct Tally {
    /// Flows that it decides.
    pub hits: u64,
    /// Flows that fit it: those that were made for it, or those of a capture where it decides none of them.
    pub fitting: u64,
    /// Fitting ones that others decide, by who does.
    pub taken: BTreeMap<Option<RuleId>, u64>,
    /// With how many rules its flows were compared at most, all together.
    pub compared: u64,
    /// A decision of its flows; none where it has none, or the time was up before.
    pub time: Option<Spread>,
}

/// Nanoseconds a decision, as means of batches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Mean of all batches.
    pub mean: f64,
    /// A tenth of the batches took less.
    pub p10: f64,
    /// Half of them.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
}

/// Decides all flows, then times decisions for so long.
pub fn measure(config: &Config, flows: &[Flow], time: Duration, progress: &mut dyn FnMut(Step)) -> Measured {
    let begun = Instant::now();
    let rules = RuleSet::compile(Arc::clone(&config.rules));
    let compiled_in = begun.elapsed();
    let always_compared = rules.always_compared().to_vec();
    let mut bench = Bench::new(config, rules, flows);
    bench.count(progress);
    bench.look_for_missed();
    let all = bench.run(time, progress);
    let Bench { mut tallies, .. } = bench;
    let no_rule = tallies.pop().unwrap_or_default();
    let flows = flows.len() as u64;
    Measured { flows, compiled_in, all: Spread::of(all), rules: tallies, no_rule, always_compared }
}

struct Bench<'f> {
    engine: Engine,
    snapshot: Snapshot,
    flows: &'f [Flow],
    /// Of every rule, and of none.
    tallies: Vec<Tally>,
    /// As many.
    timed: Vec<Timed>,
    batch: Vec<Facts<'f>>,
}

/// What is timed of one rule.
#[derive(Debug, Default)]
struct Timed {
    /// Places of its flows, at most [`MOST_OF_A_RULE`].
    places: Vec<usize>,
    /// Of its batches.
    samples: Vec<f32>,
}

impl<'f> Bench<'f> {
    fn new(config: &Config, rules: RuleSet, flows: &'f [Flow]) -> Self {
        let tallies: Vec<Tally> = (0..=config.rules.len()).map(|_| Tally::default()).collect();
        let timed = tallies.iter().map(|_| Timed::default()).collect();
        let (rules, choices) = (Arc::new(rules), Arc::new(Choices::new(CHOICES)));
        let snapshot = Snapshot { rules, choices, ..config.where_all_works() };
        Bench { engine: Engine::new(1), snapshot, flows, tallies, timed, batch: Vec::with_capacity(BATCH) }
    }

    /// Which rule decides each flow.
    fn count(&mut self, progress: &mut dyn FnMut(Step)) {
        for (place, flow) in self.flows.iter().enumerate() {
            let facts = flow.facts();
            let rule = self.engine.judge(&self.snapshot, &facts, Millis(0)).rule;
            let compared = self.snapshot.rules.compared(rule, &facts);
            let number = self.number(rule);
            self.tallies[number].hits += 1;
            self.tallies[number].compared += compared as u64;
            if self.timed[number].places.len() < MOST_OF_A_RULE {
                self.timed[number].places.push(place);
            }
            if let Some(wanted) = flow.made_for {
                self.tallies[usize::from(wanted.0)].fits(wanted, rule);
            }
            if place.is_multiple_of(REPORT) {
                let whole = self.flows.len() as u64;
                progress(Step { what: "sorting flows", part: place as u64, whole });
            }
        }
    }

    /// Which captured flows would fit rules that decide none, and who decides those.
    fn look_for_missed(&mut self) {
        let rules = Arc::clone(&self.snapshot.rules);
        let captured: Vec<&Flow> = self.flows.iter().filter(|flow| flow.made_for.is_none()).collect();
        let is_missed = |tally: &Tally| tally.hits == 0 && tally.fitting == 0;
        let missed: Vec<RuleId> = (0..=u16::MAX)
            .zip(&self.tallies)
            .filter(|(_, tally)| is_missed(tally))
            .map(|(id, _)| RuleId(id))
            .collect();
        for id in missed.into_iter().take(MOST_COMPARISONS / captured.len().max(1)) {
            let Some(rule) = rules.rule(id) else { continue };
            for facts in captured.iter().map(|flow| flow.facts()).filter(|facts| naive::matches(rule, facts))
            {
                let decided_by = self.engine.judge(&self.snapshot, &facts, Millis(0)).rule;
                self.tallies[usize::from(id.0)].fits(id, decided_by);
            }
        }
    }

    /// Times rules and all flows in turns; the batches of all flows.
    fn run(&mut self, time: Duration, progress: &mut dyn FnMut(Step)) -> Vec<f32> {
        let begun = Instant::now();
        let mut all = Vec::new();
        for round in 0..MOST_ROUNDS {
            for rule in 0..self.tallies.len() {
                self.time_rule(rule, round);
                if self.is_over(begun, time, progress) {
                    break;
                }
            }
            for flows in self.flows.chunks(BATCH) {
                all.extend(self.time(flows.iter()));
                if self.is_over(begun, time, progress) {
                    break;
                }
            }
            if begun.elapsed() >= time || all.len() >= MOST_BATCHES {
                break;
            }
        }
        for (tally, timed) in self.tallies.iter_mut().zip(&mut self.timed) {
            tally.time = Spread::of(std::mem::take(&mut timed.samples));
        }
        all
    }

    fn is_over(&self, begun: Instant, time: Duration, progress: &mut dyn FnMut(Step)) -> bool {
        let passed = begun.elapsed();
        let [part, whole] = [passed, time].map(|time| time.as_millis() as u64);
        progress(Step { what: "timing decisions", part, whole });
        passed >= time
    }

    /// A batch of a rule's flows, another one each round; the few of a rule that has few again and again.
    fn time_rule(&mut self, rule: usize, round: usize) {
        let places = std::mem::take(&mut self.timed[rule].places);
        let first = if places.is_empty() { 0 } else { round * BATCH % places.len() };
        let flows = self.flows;
        let sample = self.time(places.iter().cycle().skip(first).take(BATCH).map(|&place| &flows[place]));
        let timed = &mut self.timed[rule];
        timed.samples.extend(sample);
        timed.places = places;
    }

    /// Nanoseconds a decision of these flows, one after the other.
    fn time(&mut self, flows: impl Iterator<Item = &'f Flow>) -> Option<f32> {
        self.batch.clear();
        self.batch.extend(flows.map(Flow::facts));
        let begun = Instant::now();
        for facts in &self.batch {
            black_box(self.engine.judge(&self.snapshot, black_box(facts), Millis(0)));
        }
        let passed = begun.elapsed().as_nanos() as f32;
        (!self.batch.is_empty()).then(|| passed / self.batch.len() as f32)
    }

    /// Where the tally of a rule is, and that of none.
    fn number(&self, rule: Option<RuleId>) -> usize {
        rule.map_or(self.tallies.len() - 1, |rule| usize::from(rule.0))
    }
}

impl Tally {
    fn fits(&mut self, rule: RuleId, decided_by: Option<RuleId>) {
        self.fitting += 1;
        if decided_by != Some(rule) {
            *self.taken.entry(decided_by).or_default() += 1;
        }
    }

    /// With how many rules one of its flows was compared at most, on average.
    #[must_use]
    pub fn mean_compared(&self) -> f64 {
        self.compared as f64 / self.hits.max(1) as f64
    }
}

impl Spread {
    /// Of no batches there is none.
    fn of(mut samples: Vec<f32>) -> Option<Self> {
        samples.sort_unstable_by(f32::total_cmp);
        let last = samples.len().checked_sub(1)?;
        let at = |share: f64| f64::from(samples[(last as f64 * share).round() as usize]);
        let mean = samples.iter().copied().map(f64::from).sum::<f64>() / samples.len() as f64;
        Some(Spread { mean, p10: at(0.1), p50: at(0.5), p90: at(0.9), p99: at(0.99) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_the_sorted_batches_and_none_of_none() {
        let spread = Spread::of((0..=100).rev().map(|sample| sample as f32).collect()).unwrap();
        assert_eq!(spread, Spread { mean: 50.0, p10: 10.0, p50: 50.0, p90: 90.0, p99: 99.0 });
        assert_eq!(Spread::of(vec![7.0]).map(|spread| (spread.p10, spread.p99)), Some((7.0, 7.0)));
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
