//! Flows that run: which of them leave their line when it dies, or when a better one has come back.

use super::Snapshot;
use super::flow::Facts;
use super::packet::Family;
use super::rule::model::{Live, NoLine, Policy, Rule, RuleId, WhenNone};
use super::uplink::{Board, UplinkId, UplinkSet, pick};

/// Whether a flow that runs by `on` is to be ended there, so that it is decided anew.
///
/// `decided_by` is the rule that is known to have decided it. While no line is
/// usable in its family a flow stays, for there is nothing to go to, unless it is to be refused then. It stays
/// too on a line that is only suspected. With `returned`, lines have been
/// as they are for a while, so that flows may go back to those that returned.
#[must_use]
pub fn leaves(
    snapshot: &Snapshot,
    facts: &Facts,
    decided_by: Option<RuleId>,
    on: UplinkId,
    returned: bool,
) -> bool {
    let (board, family) = (&snapshot.board, facts.family);
    let usable = board.usable(family);
    let ruling = ruling(snapshot, facts, decided_by);
    let rule = ruling.map(|(_, rule)| rule);
    let live = rule.map(|rule| rule.live).unwrap_or_default();
    let usable = rule.map_or(usable, |rule| board.usable_for(family, rule.none, &rule.choice));
    if !usable.contains(on) {
        let is_suspected = board.suspected.of(family).contains(on);
        return live != Live::Keep && !is_suspected && is_heard_elsewhere(snapshot, rule, family);
    }
    let preferred = ruling.map(|(id, rule)| preferred(rule, id, snapshot, facts)).unwrap_or_default();
    returned && live == Live::MoveBack && !preferred.is_empty() && !preferred.contains(on)
}

/// Whether a flow that is decided anew gets a line.
#[must_use]
pub fn gets_a_line(snapshot: &Snapshot, facts: &Facts, decided_by: Option<RuleId>) -> bool {
    match ruling(snapshot, facts, decided_by) {
        Some((_, rule)) if matches!(rule.none, WhenNone::Stop(_)) => {
            !possible(rule, &snapshot.board, facts.family).is_empty()
        }
        _ => !snapshot.board.usable(facts.family).is_empty(),
    }
}

/// Whether a flow that has lost its line gets another, or is refused.
fn is_heard_elsewhere(snapshot: &Snapshot, rule: Option<&Rule>, family: Family) -> bool {
    let board = &snapshot.board;
    match rule {
        Some(rule) if rule.none == WhenNone::Stop(NoLine::Keep) => !possible(rule, board, family).is_empty(),
        Some(Rule { none: WhenNone::Stop(_), .. }) => true,
        _ => !board.usable(family).is_empty() || snapshot.none != NoLine::Keep,
    }
}

/// The rule that would decide the flow now, or the one that did, whichever comes first: a flow
/// shows less of itself when it runs than when it began, and its first choice may have been missing.
fn ruling<'a>(
    snapshot: &'a Snapshot,
    facts: &Facts,
    decided_by: Option<RuleId>,
) -> Option<(RuleId, &'a Rule)> {
    let matching = snapshot.rules.first_match_from(RuleId(0), facts);
    let id = [matching, decided_by].into_iter().flatten().min()?;
    Some((id, snapshot.rules.rule(id)?))
}

/// Those of a rule's uplinks that a flow may get.
#[must_use]
pub fn possible(rule: &Rule, board: &Board, family: Family) -> UplinkSet {
    let usable = board.usable_for(family, rule.none, &rule.choice);
    rule.choice.uplinks.iter().map(|&(uplink, _)| uplink).filter(|&uplink| usable.contains(uplink)).collect()
}

/// Those of a rule's uplinks that a flow would get while lines are as they are.
#[must_use]
pub fn preferred(rule: &Rule, id: RuleId, snapshot: &Snapshot, facts: &Facts) -> UplinkSet {
    let uplinks = rule.choice.uplinks.iter().copied();
    let usable = snapshot.board.candidates(facts.family, rule.none, uplinks.clone());
    match rule.choice.policy {
        Policy::Ordered => pick::ordered(uplinks, usable).into_iter().collect(),
        Policy::Hash(key) => {
            let slot = snapshot.hash.slot(key, &facts.key);
            snapshot.rules.slots(id).and_then(|slots| slots.uplink(slot, usable)).into_iter().collect()
        }
        // Which line is best now says little about where a flow that runs does best, and moving it costs more.
        Policy::RoundRobin
        | Policy::LeastLoad(_)
        | Policy::Overflow(..)
        | Policy::LowestLatency
        | Policy::BestQuality => usable,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;
    use crate::engine::flow::FlowKey;
    use crate::engine::rule::RuleSet;
    use crate::engine::rule::arbitrary::rule;
    use crate::engine::rule::model::{Choice, Matchers};

    const FIRST: UplinkId = UplinkId(0);
    const SECOND: UplinkId = UplinkId(1);

    #[test]
    fn a_flow_leaves_a_dead_line_unless_its_rule_keeps_it() {
        for (live, leaves_it) in [(Live::Keep, false), (Live::ResetOnDown, true), (Live::MoveBack, true)] {
            assert_eq!(
                leaves(&world(live, &[SECOND]), &flow(443), None, FIRST, false),
                leaves_it,
                "{live:?}"
            );
        }
        assert!(leaves(&world(Live::Keep, &[SECOND]), &flow(80), None, FIRST, false));
    }

    #[test]
    fn a_flow_stays_on_a_line_that_is_only_suspected() {
        let mut world = world(Live::ResetOnDown, &[SECOND]);
        assert!(leaves(&world, &flow(443), None, FIRST, false));
        world.board.suspected = world.board.suspected.with(Family::V4, FIRST);
        assert!(!leaves(&world, &flow(443), None, FIRST, false));
    }

    #[test]
    fn no_flow_leaves_the_last_line() {
        for live in [Live::Keep, Live::ResetOnDown, Live::MoveBack] {
            assert!(!leaves(&world(live, &[]), &flow(443), None, FIRST, true));
        }
    }

    #[test]
    fn a_flow_leaves_the_last_line_where_it_is_to_be_refused() {
        let asked = |rule: NoLine, default: NoLine, doubted: bool| {
            let mut world = world(Live::ResetOnDown, if doubted { &[FIRST, SECOND] } else { &[] });
            let none = if rule == NoLine::Keep { WhenNone::NextRule } else { WhenNone::Stop(rule) };
            let rule = Rule { none, ..world.rules.rules()[0].clone() };
            let lines = [FIRST, SECOND].into_iter().filter(|_| doubted);
            world.board.doubted = lines.fold(world.board.doubted, |all, line| all.with(Family::V4, line));
            let world = Snapshot { rules: Arc::new(RuleSet::compile([rule])), none: default, ..world };
            [443, 80].map(|port| leaves(&world, &flow(port), None, FIRST, false))
        };
        assert_eq!(asked(NoLine::Reject, NoLine::Keep, false), [true, false]);
        assert_eq!(asked(NoLine::Drop, NoLine::Keep, false), [true, false]);
        assert_eq!(asked(NoLine::Keep, NoLine::Reject, false), [true, true]);
        assert_eq!(asked(NoLine::Reject, NoLine::Keep, true), [true, false], "it believes the probes");
    }

    #[test]
    fn a_flow_moves_back_only_where_asked_and_only_when_the_better_line_has_stayed() {
        for live in [Live::Keep, Live::ResetOnDown, Live::MoveBack] {
            let world = world(live, &[FIRST, SECOND]);
            assert!(!leaves(&world, &flow(443), None, FIRST, true), "{live:?}: where it belongs");
            assert!(!leaves(&world, &flow(443), None, SECOND, false), "{live:?}: too early");
            assert_eq!(leaves(&world, &flow(443), None, SECOND, true), live == Live::MoveBack);
        }
    }

    #[test]
    fn the_rule_that_decided_counts_where_the_running_flow_no_longer_shows_why() {
        let world = world(Live::Keep, &[SECOND]);
        assert!(leaves(&world, &flow(80), None, FIRST, false));
        assert!(!leaves(&world, &flow(80), Some(RuleId(0)), FIRST, false));
    }

    /// One rule for port 443: the first line, else the second.
    fn world(live: Live, usable: &[UplinkId]) -> Snapshot {
        let to_443 = Matchers { dst_port: vec![443..=443], ..Matchers::default() };
        let choice = Choice { policy: Policy::Ordered, uplinks: vec![(FIRST, 1), (SECOND, 1)] };
        let rule = Rule { choice, live, ..rule(to_443, Matchers::default()) };
        let usable: UplinkSet = usable.iter().copied().collect();
        Snapshot {
            rules: Arc::new(RuleSet::compile([rule])),
            board: Board { usable_v4: usable, usable_v6: usable, weights: vec![1, 1], ..Board::default() },
            ..Snapshot::default()
        }
    }

    fn flow(dst_port: u16) -> Facts<'static> {
        let [src, dst] = [[10, 0, 0, 1], [192, 0, 2, 1]].map(|bytes| Ipv4Addr::from(bytes).into());
        Facts::about(FlowKey { src, dst, protocol: 6, src_port: 40_000, dst_port })
    }
}
