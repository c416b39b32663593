//! The policies `lowest-latency` and `best-quality`: the best line, and those that are about as good.
//!
//! A line joins the best when it is nearly as good, and leaves them only when it is clearly worse, so that lines which are
//! about the same do not change places with every probe.

use crate::engine::uplink::{UplinkId, UplinkSet};

/// Lines whose latencies, in milliseconds, differ by less are about as good: nobody notices, and it is
/// what the answers of one line differ by.
pub(super) const LATENCY: Slack = Slack { part: 0.2, least: 10.0 };
/// The same for ratings of calls: fewer than one in ten people tell them apart (ITU-T G.107 annex B: about 0.2 in mean opinion).
pub(super) const QUALITY: Slack = Slack { part: 0.0, least: 5.0 };
/// A line must be within this part of the slack to join.
const JOIN: f64 = 0.5;

/// How much worse than the best a line may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slack {
    /// As a part of the best,
    part: f64,
    /// and never less than this.
    least: f64,
}

/// Those with about the lowest cost; `before` are those that were. One whose cost nobody knows is among them.
pub(super) fn best(
    candidates: impl Iterator<Item = UplinkId> + Clone,
    before: UplinkSet,
    cost: impl Fn(UplinkId) -> Option<f64>,
    slack: Slack,
) -> UplinkSet {
    let lowest = candidates.clone().filter_map(&cost).fold(f64::INFINITY, f64::min);
    let slack = slack.least.max(slack.part * lowest);
    let most = |uplink| lowest + slack * if before.contains(uplink) { 1.0 } else { JOIN };
    candidates.filter(|&uplink| cost(uplink).is_none_or(|cost| cost <= most(uplink))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Seat;
    use super::super::testing::{all, flow, rule, scene};
    use crate::engine::rule::model::Policy;
    use crate::engine::uplink::health::Estimates;
    use crate::engine::uplink::load::Lines;
    use crate::engine::uplink::{Begun, UplinkId};

    #[test]
    fn the_quickest_line_is_taken_and_those_that_are_about_as_quick() {
        assert_eq!(by_latency(&[[20, 50, 90]]), [[0, 0, 0, 0]]);
        assert_eq!(by_latency(&[[20, 24, 90]]), [[0, 1, 0, 1]]);
        assert_eq!(by_latency(&[[200, 215, 90]]), [[2, 2, 2, 2]]);
    }

    #[test]
    fn a_line_leaves_the_best_later_than_it_joins_them() {
        let steps = [[20, 27, 90], [20, 24, 90], [20, 29, 90], [20, 31, 90], [20, 29, 90]];
        let [all, both] = [[0, 0, 0, 0], [0, 1, 0, 1]];
        assert_eq!(by_latency(&steps), [all, both, both, all, all]);
    }

    #[test]
    fn lines_of_which_nothing_is_known_take_turns_by_weight() {
        let (choice, begun, lines) =
            (rule(Policy::LowestLatency, &[3, 1]), Begun::default(), Lines::default());
        let mut seat = Seat::among(choice.uplinks.iter().map(|&(uplink, _)| uplink));
        let picked: Vec<_> =
            (0..4).filter_map(|_| seat.pick(&choice, scene(&lines, &begun, all(2)), &flow(1))).collect();
        assert_eq!(picked, [0, 0, 1, 0].map(UplinkId));
    }

    #[test]
    fn calls_take_the_line_that_loses_nothing_though_it_is_slower() {
        let good = Estimates { latency: Some(Duration::from_millis(60)), ..Estimates::default() };
        let lossy =
            Estimates { loss: 0.05, latency: Some(Duration::from_millis(10)), ..Estimates::default() };
        let picked = |policy| picks(policy, &[vec![lossy, good]]);
        assert_eq!(picked(Policy::BestQuality), [[1; 4]]);
        assert_eq!(picked(Policy::LowestLatency), [[0; 4]]);
    }

    fn by_latency(steps: &[[u64; 3]]) -> Vec<[u8; 4]> {
        let estimates =
            |&latency| Estimates { latency: Some(Duration::from_millis(latency)), ..Estimates::default() };
        let steps: Vec<Vec<_>> = steps.iter().map(|step| step.iter().map(estimates).collect()).collect();
        picks(Policy::LowestLatency, &steps)
    }

    /// Four picks at each step.
    fn picks(policy: Policy, steps: &[Vec<Estimates>]) -> Vec<[u8; 4]> {
        let choice = rule(policy, &[1, 1, 1]);
        let mut seat = Seat::among(choice.uplinks.iter().map(|&(uplink, _)| uplink));
        let begun = Begun::default();
        let mut picks_of = |step: &Vec<Estimates>| {
            let qualities = step.iter().map(|&estimates| [estimates; 2]).collect();
            let lines = Lines { qualities, ..Lines::default() };
            let usable = all(step.len() as u8);
            [(); 4].map(|()| seat.pick(&choice, scene(&lines, &begun, usable), &flow(1)).unwrap().0)
        };
        steps.iter().map(&mut picks_of).collect()
    }
}
