//! The policy `least-load`: the line that a new flow gets most from (see [`crate::engine::uplink::load`]), times its weight.
//!
//! A burst of flows is spread as by D'Hondt's method: each goes where it gets most with those counted in that went before it,
//! so no line has more than one flow less than its proportion of what was spare.

use super::Scene;
use crate::engine::uplink::load::Direction;
use crate::engine::uplink::{UplinkId, UplinkSet};

/// The best of the candidates: one, or several that are equally good.
pub(super) fn best(
    candidates: impl Iterator<Item = (UplinkId, u8)> + Clone,
    scene: Scene,
    direction: Direction,
) -> UplinkSet {
    let Some(usual) = usual_capacity(candidates.clone(), scene, direction) else {
        return candidates.map(|(uplink, _)| uplink).collect();
    };
    let worth = |(uplink, weight)| offer(uplink, scene, direction, usual) * f64::from(weight);
    let most = candidates.clone().map(worth).fold(0.0, f64::max);
    candidates.filter(|&candidate| worth(candidate) >= most).map(|(uplink, _)| uplink).collect()
}

/// The mean of the capacities that are known: what a line is taken for that has shown nothing yet. `None`: none is known.
pub(super) fn usual_capacity(
    candidates: impl Iterator<Item = (UplinkId, u8)>,
    scene: Scene,
    direction: Direction,
) -> Option<f64> {
    let capacities = candidates.filter_map(|(uplink, _)| capacity(uplink, scene, direction));
    let (sum, count) = capacities.fold((0.0, 0.0), |(sum, count), capacity| (sum + capacity, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

/// What a new flow would get there.
pub(super) fn offer(uplink: UplinkId, scene: Scene, direction: Direction, usual: f64) -> f64 {
    let lane = scene.lines.lane(uplink, direction).copied().unwrap_or_default();
    let capacity = lane.capacity.bytes().map_or(usual, |bytes| bytes as f64);
    lane.offer(capacity, scene.begun.of(uplink))
}

fn capacity(uplink: UplinkId, scene: Scene, direction: Direction) -> Option<f64> {
    let bytes = scene.lines.lane(uplink, direction)?.capacity.bytes()?;
    Some(bytes as f64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::Seat;
    use super::super::testing::{all, capacities, flow, lane, pick_many, rule, scene};
    use super::*;
    use crate::engine::rule::model::Policy;
    use crate::engine::uplink::Begun;
    use crate::engine::uplink::load::{Both, Capacity, Lane, Lines, Load};

    const LEAST: Policy = Policy::LeastLoad(Direction::Down);

    #[test]
    fn two_full_lines_of_100_and_20_get_new_flows_5_to_1() {
        let loads = [(100, 10), (20, 2)].map(|(capacity, flows)| Lane {
            rate: capacity,
            is_full: Some(true),
            flows: f64::from(flows),
            ..lane(capacity)
        });
        let picked = pick_many(&rule(LEAST, &[1, 1]), &lines_of(&loads), 60);
        let first = picked.iter().filter(|uplink| uplink.0 == 0).count();
        assert!((49..=51).contains(&first), "{first} of 60");
    }

    #[test]
    fn a_line_with_few_flows_is_better_than_one_of_the_same_rate_with_many() {
        let full = Lane { rate: 100, is_full: Some(true), ..lane(100) };
        let lines = lines_of(&[Lane { flows: 20.0, ..full }, Lane { flows: 2.0, ..full }]);
        assert_eq!(pick_many(&rule(LEAST, &[1, 1]), &lines, 3), [UplinkId(1); 3]);
    }

    #[test]
    fn a_smaller_line_without_a_queue_is_better_than_a_full_one_until_flows_fill_it_too() {
        const MBIT: u64 = 125_000;
        let queue = Duration::from_millis(100);
        let full = Lane { is_full: Some(true), flows: 1.0, queue, ..lane(100 * MBIT) };
        let lines = lines_of(&[full, lane(20 * MBIT)]);
        let picked = pick_many(&rule(LEAST, &[1, 1]), &lines, 6);
        assert_eq!(picked, [1, 1, 0, 1, 0, 0].map(UplinkId));
    }

    #[test]
    fn many_calls_on_a_line_do_not_hide_what_is_spare() {
        let calls = Lane { rate: 40, flows: 100.0, ..lane(100) };
        let lines = lines_of(&[calls, lane(50)]);
        assert_eq!(pick_many(&rule(LEAST, &[1, 1]), &lines, 1), [UplinkId(0)]);
    }

    #[test]
    fn the_direction_is_that_of_the_rule() {
        let loads = vec![Load { down: lane(100), up: lane(5) }, Load { down: lane(20), up: lane(20) }];
        let lines = Lines { loads, ..Lines::default() };
        assert_eq!(pick_many(&rule(LEAST, &[1, 1]), &lines, 1), [UplinkId(0)]);
        assert_eq!(pick_many(&rule(Policy::LeastLoad(Direction::Up), &[1, 1]), &lines, 1), [UplinkId(1)]);
    }

    #[test]
    fn where_no_capacity_is_known_all_take_turns_by_weight() {
        let picked = pick_many(&rule(LEAST, &[3, 1]), &Lines::default(), 8);
        assert_eq!(picked, [0, 0, 1, 0, 0, 0, 1, 0].map(UplinkId));
    }

    #[test]
    fn a_line_that_has_shown_nothing_is_taken_for_a_usual_one() {
        let lines = lines_of(&[lane(100), Lane::default(), lane(20)]);
        let picked = pick_many(&rule(LEAST, &[1, 1, 1]), &lines, 9);
        let count = |uplink| picked.iter().filter(|&&picked| picked == UplinkId(uplink)).count();
        assert_eq!([count(0), count(1), count(2)], [5, 3, 1]);
    }

    #[test]
    fn equal_lines_take_turns() {
        let lines = lines_of(&[lane(50), lane(50)]);
        let picked = pick_many(&rule(LEAST, &[1, 1]), &lines, 8);
        assert!(picked.chunks(2).all(|pair| pair[0] != pair[1]), "{picked:?}");
    }

    #[test]
    fn equal_lines_take_turns_also_when_each_flow_has_ended_before_the_next_begins() {
        let (lines, begun) = (capacities(&[50, 50]), Begun::default());
        let choice = rule(LEAST, &[1, 1]);
        let mut seat = Seat::among(choice.uplinks.iter().map(|&(uplink, _)| uplink));
        let picked: Vec<_> =
            (0..4).filter_map(|_| seat.pick(&choice, scene(&lines, &begun, all(2)), &flow(1))).collect();
        assert_eq!(picked, [0, 1, 0, 1].map(UplinkId));
    }

    proptest! {
        #[test]
        fn a_burst_leaves_no_line_more_than_one_flow_below_its_proportion(
            capacities in vec(1..1000_u64, 1..8), flows in 1..300_usize,
        ) {
            let picked = pick_many(&rule(LEAST, &vec![1; capacities.len()]), &self::capacities(&capacities), flows);
            let total: u64 = capacities.iter().sum();
            for (uplink, capacity) in (0..).map(UplinkId).zip(&capacities) {
                let count = picked.iter().filter(|&&picked| picked == uplink).count() as f64;
                let share = flows as f64 * *capacity as f64 / total as f64;
                prop_assert!(count > share - 1.0, "{uplink:?}: {count} and not {share}");
                prop_assert!(capacities.len() > 2 || count < share + 1.0, "{uplink:?}: {count} and not {share}");
            }
        }

        #[test]
        fn the_best_are_those_that_nobody_is_better_than(lanes in vec(any_lane(), 1..6), weights in vec(0..4_u8, 6)) {
            let lines = lines_of(&lanes);
            let choice = rule(LEAST, &weights[..lanes.len()]);
            let begun = Begun::default();
            let scene = scene(&lines, &begun, all(lanes.len() as u8));
            let candidates = super::super::candidates(choice.uplinks.iter().copied(), scene.usable);
            let best = best(candidates.clone(), scene, Direction::Down);
            let known: Vec<f64> = candidates.clone()
                .filter_map(|(uplink, _)| lanes[usize::from(uplink.0)].capacity.bytes()).map(|bytes| bytes as f64).collect();
            let gets = |(uplink, weight): (UplinkId, u8)| {
                let lane = &lanes[usize::from(uplink.0)];
                let mean = known.iter().sum::<f64>() / known.len() as f64;
                let capacity = lane.capacity.bytes().map_or(mean, |bytes| bytes as f64);
                let unused = if lane.is_full == Some(true) { 0.0 } else { f64::max(capacity - lane.rate as f64, 0.0) };
                f64::from(weight) * f64::max(unused / (lane.begun + 1.0), capacity / (lane.flows + lane.begun + 1.0))
            };
            for one in candidates.clone() {
                let is_best = known.is_empty() || candidates.clone().all(|other| gets(other) <= gets(one));
                prop_assert_eq!(best.contains(one.0), is_best);
            }
        }
    }

    prop_compose! {
        fn any_lane()(
            rate in 0..3_u64, capacity in prop::option::of(1..4_u64), is_full in any::<Option<bool>>(),
            flows in 0..3_u8, begun in 0..3_u8,
        ) -> Lane {
            let capacity = capacity.map_or(Capacity::Unknown, Capacity::AtLeast);
            Lane { rate, capacity, is_full, flows: flows.into(), begun: begun.into(), ..Lane::default() }
        }
    }

    fn lines_of(lanes: &[Lane]) -> Lines {
        let loads = lanes.iter().map(|&down| Both { down, ..Both::default() }).collect();
        Lines { loads, ..Lines::default() }
    }
}
