//! The policies: which of several usable uplinks a flow gets.
//!
//! All of them take the uplinks with their weights and the set of usable ones;
//! an uplink that is unusable or has weight 0 is never picked. Those that look at how the lines are
//! narrow the candidates down to the best, of which there may be several. They take turns.
//!
//! What is not known is never taken for good or bad: where nothing is known of any candidate, all take turns
//! by weight.

mod least_load;
mod lots;
mod nearest;
mod overflow;
mod quality;
mod rotation;
pub mod slots;

pub use lots::{lot, mix};
pub use quality::rating;
pub use rotation::Rotation;
use slots::{SlotHash, SlotTable};

use super::load::{Lane, Lines};
use super::{Begun, UplinkId, UplinkSet};
use crate::engine::flow::FlowKey;
use crate::engine::packet::Family;
use crate::engine::rule::model::{Choice, Policy};
use crate::engine::uplink::health::Estimates;

/// What one rule remembers of its picks in one family.
#[derive(Debug, Clone)]
pub struct Seat {
    /// Whose turn it is.
    pub rotation: Rotation,
    /// Those that were among the best when it was asked last: they stay so a little longer than they would become so.
    favourites: UplinkSet,
}

/// How things are when a flow is decided.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The uplinks that may be picked, those too that are only being filled.
    pub all: UplinkSet,
    /// Those that this flow may get.
    pub usable: UplinkSet,
    /// The flow's family.
    pub family: Family,
    /// Whose slots are whose, where the rule goes by a hash.
    pub slots: Option<&'a SlotTable>,
    /// The hash by which flows find their slots.
    pub hash: SlotHash,
    /// How full and how good the lines are.
    pub lines: &'a Lines,
    /// The flows that were decided since.
    pub begun: &'a Begun,
}

/// A line as a policy sees it, for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen<'a> {
    /// Which.
    pub uplink: UplinkId,
    /// Its load in the direction that the policy looks at.
    pub lane: Option<&'a Lane>,
    /// What a new flow would get there, in bytes per second, as far as anybody can tell.
    pub offer: Option<f64>,
    /// What probes measured.
    pub quality: Option<&'a Estimates>,
}

impl Seat {
    /// For a rule of these uplinks. All memory is taken here.
    #[must_use]
    pub fn among(uplinks: impl Iterator<Item = UplinkId>) -> Self {
        Seat { rotation: Rotation::among(uplinks), favourites: UplinkSet::EMPTY }
    }

    /// One of a rule's usable uplinks, by its policy.
    pub fn pick(&mut self, choice: &Choice, scene: Scene, flow: &FlowKey) -> Option<UplinkId> {
        let uplinks = choice.uplinks.iter().copied();
        let candidates = candidates(uplinks.clone(), scene.usable);
        let best = match choice.policy {
            Policy::RoundRobin => {
                return in_turn(&mut self.rotation, uplinks, scene.all, scene.usable, flow);
            }
            Policy::Ordered => return ordered(uplinks, scene.usable),
            Policy::Hash(key) => return scene.slots?.uplink(scene.hash.slot(key, flow), scene.usable),
            Policy::LeastLoad(direction) => least_load::best(candidates, scene, direction),
            Policy::Overflow(direction, limit) => overflow::best(candidates, scene, direction, limit),
            Policy::LowestLatency => self.favourites(candidates, |id| scene.latency(id), nearest::LATENCY),
            Policy::BestQuality => self.favourites(candidates, |id| scene.badness(id), nearest::QUALITY),
        };
        self.take_turns(uplinks, best)
    }

    fn favourites(
        &mut self,
        candidates: impl Iterator<Item = (UplinkId, u8)> + Clone,
        cost: impl Fn(UplinkId) -> Option<f64>,
        slack: nearest::Slack,
    ) -> UplinkSet {
        self.favourites = nearest::best(candidates.map(|(uplink, _)| uplink), self.favourites, cost, slack);
        self.favourites
    }

    /// A single one needs no turn, and takes none from the others.
    fn take_turns(
        &mut self,
        uplinks: impl Iterator<Item = (UplinkId, u8)> + Clone,
        best: UplinkSet,
    ) -> Option<UplinkId> {
        if best.len() == 1 { best.iter().next() } else { self.rotation.next(uplinks, best) }
    }
}

impl<'a> Scene<'a> {
    /// In milliseconds.
    fn latency(&self, uplink: UplinkId) -> Option<f64> {
        let latency = self.lines.quality(uplink, self.family)?.latency?;
        Some(latency.as_secs_f64() * 1000.0)
    }

    /// How much worse than the best that a call can be.
    fn badness(&self, uplink: UplinkId) -> Option<f64> {
        self.lines.quality(uplink, self.family).and_then(rating).map(|rating| quality::BEST - rating)
    }

    /// A rule's usable uplinks as its policy sees them.
    pub fn seen(self, choice: &'a Choice) -> impl Iterator<Item = Seen<'a>> {
        let direction = choice.policy.direction().unwrap_or_default();
        let candidates = candidates(choice.uplinks.iter().copied(), self.usable);
        let usual = least_load::usual_capacity(candidates.clone(), self, direction);
        candidates.map(move |(uplink, _)| Seen {
            uplink,
            lane: self.lines.lane(uplink, direction),
            offer: usual.map(|usual| least_load::offer(uplink, self, direction, usual)),
            quality: self.lines.quality(uplink, self.family),
        })
    }
}

/// The uplink whose turn it is. All take turns as if all were filled; what one does not take yet goes to the
/// others by a hash, so that they need no turns of their own for it.
pub fn in_turn(
    turns: &mut Rotation,
    uplinks: impl Iterator<Item = (UplinkId, u8)> + Clone,
    all: UplinkSet,
    filled: UplinkSet,
    flow: &FlowKey,
) -> Option<UplinkId> {
    let next = turns.next(uplinks.clone(), all)?;
    if filled.contains(next) { Some(next) } else { lots::by_flow(uplinks, filled, flow) }
}

/// The first usable uplink.
pub fn ordered(uplinks: impl Iterator<Item = (UplinkId, u8)> + Clone, usable: UplinkSet) -> Option<UplinkId> {
    candidates(uplinks, usable).map(|(uplink, _)| uplink).next()
}

fn candidates(
    uplinks: impl Iterator<Item = (UplinkId, u8)> + Clone,
    usable: UplinkSet,
) -> impl Iterator<Item = (UplinkId, u8)> + Clone {
    uplinks.filter(move |&(uplink, weight)| weight > 0 && usable.contains(uplink))
}

#[cfg(test)]
mod testing {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::engine::uplink::load::{Both, Capacity};

    /// Uplinks with weights.
    pub(super) fn lines(weights: &[u8]) -> impl Iterator<Item = (UplinkId, u8)> + Clone {
        (0..64).map(UplinkId).zip(weights.iter().copied())
    }

    pub(super) fn all(count: u8) -> UplinkSet {
        (0..count).map(UplinkId).collect()
    }

    pub(super) fn flow(client: u32) -> FlowKey {
        let src = Ipv4Addr::from_bits(client).into();
        FlowKey { src, dst: Ipv4Addr::new(198, 51, 100, 7).into(), protocol: 6, src_port: 1, dst_port: 2 }
    }

    pub(super) fn rule(policy: Policy, weights: &[u8]) -> Choice {
        Choice { policy, uplinks: lines(weights).collect() }
    }

    pub(super) fn scene<'a>(lines: &'a Lines, begun: &'a Begun, usable: UplinkSet) -> Scene<'a> {
        Scene {
            all: usable,
            usable,
            family: Family::V4,
            slots: None,
            hash: SlotHash::default(),
            lines,
            begun,
        }
    }

    /// An idle line.
    pub(super) fn lane(capacity: u64) -> Lane {
        Lane { capacity: Capacity::Given(capacity), is_full: Some(false), ..Lane::default() }
    }

    pub(super) fn capacities(capacities: &[u64]) -> Lines {
        let load = |&capacity| Both { down: lane(capacity), up: lane(capacity) };
        Lines { loads: capacities.iter().map(load).collect(), ..Lines::default() }
    }

    /// Where so many flows go that begin at once.
    pub(super) fn pick_many(choice: &Choice, lines: &Lines, flows: usize) -> Vec<UplinkId> {
        let mut seat = Seat::among(choice.uplinks.iter().map(|&(uplink, _)| uplink));
        let mut begun = Begun::default();
        let mut next = || {
            let picked = seat.pick(choice, scene(lines, &begun, all(64)), &flow(1))?;
            begun.count(picked);
            Some(picked)
        };
        (0..flows).filter_map(|_| next()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::testing::{all, flow, lines};
    use super::*;
    use crate::engine::rule::model::{HashKey, Percent};
    use crate::engine::uplink::load::{Both, Capacity, Direction};

    #[test]
    fn the_first_usable_uplink_is_the_first_of_the_rule_and_not_of_the_configuration() {
        let rule = [(UplinkId(2), 1), (UplinkId(0), 1)];
        assert_eq!(ordered(rule.into_iter(), all(3)), Some(UplinkId(2)));
        assert_eq!(ordered(rule.into_iter(), all(1)), Some(UplinkId(0)));
        assert_eq!(ordered(lines(&[3, 1]), UplinkSet::EMPTY), None);
    }

    const POLICIES: [Policy; 8] = [
        Policy::RoundRobin,
        Policy::Ordered,
        Policy::Hash(HashKey::FiveTuple),
        Policy::LeastLoad(Direction::Down),
        Policy::LeastLoad(Direction::Up),
        Policy::Overflow(Direction::Down, Percent(80)),
        Policy::LowestLatency,
        Policy::BestQuality,
    ];

    #[test]
    fn whatever_happens_a_usable_uplink_is_picked_if_there_is_one_and_none_that_is_not_or_has_no_weight() {
        let mut dice = Dice(7);
        let mut rules = POLICIES.map(|policy| {
            let choice = testing::rule(policy, &[1, 3, 0, 2, 1]);
            let seat = Seat::among(choice.uplinks.iter().map(|&(uplink, _)| uplink));
            (seat, SlotTable::among(&choice.uplinks), choice)
        });
        let (mut known, mut begun, mut usable) = (Lines::default(), Begun::default(), all(5));
        for step in 0..1_000_000_u32 {
            match dice.roll(20) {
                0 => usable = all(5).iter().filter(|_| dice.roll(2) == 0).collect(),
                1 => known = any_lines(&mut dice, step),
                2 => begun.follow(known.moment),
                _ => {}
            }
            let (seat, slots, choice) = &mut rules[dice.roll(8) as usize];
            let scene = Scene { slots: Some(slots), ..testing::scene(&known, &begun, usable) };
            let possible: UplinkSet =
                candidates(choice.uplinks.iter().copied(), usable).map(|(id, _)| id).collect();
            match seat.pick(choice, scene, &flow(step)) {
                Some(picked) => {
                    assert!(possible.contains(picked), "step {step}: {picked:?} by {choice:?}");
                    begun.count(picked);
                }
                None => assert!(possible.is_empty(), "step {step}: nobody by {choice:?}"),
            }
        }
    }

    fn any_lines(dice: &mut Dice, step: u32) -> Lines {
        let loads = (0..dice.roll(7)).map(|_| Both { down: any_lane(dice), up: any_lane(dice) }).collect();
        let qualities = (0..dice.roll(7)).map(|_| [any_estimates(dice), any_estimates(dice)]).collect();
        Lines { moment: step.into(), loads, qualities }
    }

    fn any_lane(dice: &mut Dice) -> Lane {
        let number = |dice: &mut Dice| [0, 1, 1000, 125_000_000, u64::MAX][dice.roll(5) as usize];
        let bytes = number(dice);
        let kinds =
            [Capacity::Unknown, Capacity::AtLeast(bytes), Capacity::Measured(bytes), Capacity::Given(bytes)];
        Lane {
            rate: number(dice),
            capacity: kinds[dice.roll(4) as usize],
            is_full: [None, Some(false), Some(true)][dice.roll(3) as usize],
            flows: f64::from(dice.roll(100)) / 7.0,
            begun: f64::from(dice.roll(100)) / 7.0,
            each: [None, Some(number(dice))][dice.roll(2) as usize],
            queue: Duration::from_millis(dice.roll(3).into()) * 100,
        }
    }

    fn any_estimates(dice: &mut Dice) -> Estimates {
        let latency = [None, Some(Duration::from_millis(dice.roll(500).into()))][dice.roll(2) as usize];
        let jitter = Duration::from_millis(dice.roll(500).into());
        Estimates { loss: f64::from(dice.roll(101)) / 100.0, latency, jitter }
    }

    /// Numbers that look random (Marsaglia's xorshift, 2003).
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u32) -> u32 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 33) as u32 % sides
        }
    }
}
