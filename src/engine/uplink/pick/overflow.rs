//! The policy `overflow`: the first line until it is full to a limit, then the next; where all are, as
//! [`super::least_load`].

use super::{Scene, least_load};
use crate::engine::rule::model::Percent;
use crate::engine::uplink::load::{Capacity, Direction, Lane};
use crate::engine::uplink::{UplinkId, UplinkSet};

/// Where nobody knows what one flow takes, it is this part of the line's capacity.
const EACH: f64 = 0.125;

/// The best of the candidates: one, or several that are equally good.
pub(super) fn best(
    candidates: impl Iterator<Item = (UplinkId, u8)> + Clone,
    scene: Scene,
    direction: Direction,
    limit: Percent,
) -> UplinkSet {
    for (uplink, _) in candidates.clone() {
        let lane = scene.lines.lane(uplink, direction).copied().unwrap_or_default();
        match has_room(&lane, scene.begun.of(uplink), limit) {
            Some(true) => return UplinkSet::EMPTY.with(uplink),
            Some(false) => {}
            None => return candidates.map(|(uplink, _)| uplink).collect(),
        }
    }
    least_load::best(candidates, scene, direction)
}

/// Whether the line is below its limit, those flows included that do not show yet. `None`: nothing tells.
///
/// What a line has carried at most is no limit to it: that it is full its answers must tell.
fn has_room(lane: &Lane, since: f64, limit: Percent) -> Option<bool> {
    if lane.is_full == Some(true) {
        return Some(false);
    }
    let (capacity, carried) = match lane.capacity {
        Capacity::Given(bytes) | Capacity::Measured(bytes) => (bytes as f64, lane.rate as f64),
        Capacity::AtLeast(bytes) => (bytes as f64, lane.is_full.map(|_| 0.0)?),
        Capacity::Unknown => return None,
    };
    let each = lane.each.map_or(EACH * capacity, |bytes| bytes as f64);
    Some(carried + (lane.begun + since) * each < limit.of(capacity))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{capacities, lane, pick_many, rule};
    use super::*;
    use crate::engine::rule::model::Policy;
    use crate::engine::uplink::load::{Both, Lines};

    const OVERFLOW: Policy = Policy::Overflow(Direction::Down, Percent(80));

    #[test]
    fn the_first_line_is_filled_to_its_limit_and_then_the_next() {
        for (rates, expected) in
            [([0, 0, 0], 0), ([79, 0, 0], 0), ([80, 0, 0], 1), ([90, 79, 0], 1), ([90, 80, 9], 2)]
        {
            let lines = with(rates.map(|rate| Lane { rate, each: Some(0), ..lane(100) }));
            assert_eq!(picked(&lines, 1), [expected], "{rates:?}");
        }
    }

    #[test]
    fn a_burst_flows_over_before_it_shows() {
        let each = Some(10);
        let lines = with([0, 0, 0].map(|rate| Lane { rate, each, ..lane(100) }));
        assert_eq!(picked(&lines, 16), [[0; 8], [1; 8]].concat());
        assert_eq!(
            picked(&capacities(&[100, 100, 100]), 8)[6..],
            [0, 1],
            "one flow is taken for an eighth of a line"
        );
    }

    #[test]
    fn a_line_whose_answers_wait_is_full_whatever_it_carries() {
        let full = Lane { rate: 10, is_full: Some(true), ..lane(100) };
        assert_eq!(picked(&with([full, lane(100), lane(100)]), 1), [1]);
    }

    #[test]
    fn what_a_line_has_carried_at_most_is_not_its_limit() {
        let learned =
            Lane { rate: 50, capacity: Capacity::AtLeast(50), is_full: Some(false), ..Lane::default() };
        assert_eq!(picked(&with([learned, lane(100), lane(100)]), 1), [0]);
    }

    #[test]
    fn where_all_are_full_the_one_that_gives_most_is_taken() {
        let full = |flows| Lane { rate: 100, is_full: Some(true), flows, ..lane(100) };
        assert_eq!(picked(&with([full(9.0), full(3.0), full(5.0)]), 1), [1]);
    }

    #[test]
    fn where_nothing_tells_whether_the_first_is_full_all_take_turns() {
        assert_eq!(picked(&Lines::default(), 6), [0, 1, 2, 0, 1, 2]);
        let learned = Lane { rate: 50, capacity: Capacity::AtLeast(50), ..Lane::default() };
        assert_eq!(picked(&with([learned, lane(100), lane(100)]), 3), [0, 1, 2]);
    }

    fn picked(lines: &Lines, flows: usize) -> Vec<u8> {
        pick_many(&rule(OVERFLOW, &[1, 1, 1]), lines, flows).into_iter().map(|uplink| uplink.0).collect()
    }

    fn with(lanes: [Lane; 3]) -> Lines {
        let loads = lanes.into_iter().map(|down| Both { down, ..Both::default() }).collect();
        Lines { loads, ..Lines::default() }
    }
}
