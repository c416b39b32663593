//! [`Turns`]: what one worker remembers of its picks, for each rule (and for flows without a rule) and family.

use std::collections::HashMap;
use std::sync::Arc;

use super::load::Lines;
use super::pick::{Rotation, Seat};
use super::{Begun, MAX_UPLINKS, UplinkId};
use crate::engine::packet::Family;
use crate::engine::rule::RuleSet;
use crate::engine::rule::model::{Choice, Rule, RuleId};

/// The state of every policy, kept in step with the rules, and the flows that were decided of late.
#[derive(Debug)]
pub struct Turns {
    rules: Arc<RuleSet>,
    by_rule: Vec<PerFamily>,
    default: PerFamily,
    begun: Begun,
}

type PerFamily = [Seat; 2];

impl Default for Turns {
    fn default() -> Self {
        let all = (0..MAX_UPLINKS as u8).map(UplinkId);
        Turns {
            rules: Arc::default(),
            by_rule: Vec::new(),
            default: per_family(all),
            begun: Begun::default(),
        }
    }
}

impl Turns {
    /// Takes new rules over, if they are new. A rule that kept its name and its
    /// uplinks goes on where it was; the others start anew.
    pub fn follow(&mut self, rules: &Arc<RuleSet>) {
        if !Arc::ptr_eq(&self.rules, rules) {
            self.by_rule = self.carried_over(rules);
            self.rules = Arc::clone(rules);
        }
    }

    /// Forgets the flows that are in these numbers.
    pub fn count_since(&mut self, lines: &Lines) {
        self.begun.follow(lines.moment);
    }

    /// A flow was decided.
    pub fn count(&mut self, uplink: UplinkId) {
        self.begun.count(uplink);
    }

    /// What a rule remembers (or what flows without one do, where there is no such rule), and the flows of late.
    pub fn of_rule(&mut self, rule: RuleId, family: Family) -> (&mut Seat, &Begun) {
        let seats = self.by_rule.get_mut(usize::from(rule.0)).unwrap_or(&mut self.default);
        (&mut seats[family as usize], &self.begun)
    }

    /// The round-robin over all uplinks, for flows that no rule has an answer for.
    pub fn of_default(&mut self, family: Family) -> &mut Rotation {
        &mut self.default[family as usize].rotation
    }

    fn carried_over(&self, rules: &RuleSet) -> Vec<PerFamily> {
        let older = self.rules.rules().iter().zip(&self.by_rule);
        let older: HashMap<&str, (&Rule, &PerFamily)> =
            older.map(|(rule, seats)| (rule.name.as_str(), (rule, seats))).collect();
        let kept = |rule: &Rule| {
            let (older, seats) = older.get(rule.name.as_str())?;
            (older.choice == rule.choice).then(|| PerFamily::clone(seats))
        };
        rules.rules().iter().map(|rule| kept(rule).unwrap_or_else(|| of_choice(&rule.choice))).collect()
    }
}

fn of_choice(choice: &Choice) -> PerFamily {
    per_family(choice.uplinks.iter().map(|&(uplink, _)| uplink))
}

fn per_family(uplinks: impl Iterator<Item = UplinkId>) -> PerFamily {
    let seat = Seat::among(uplinks);
    [seat.clone(), seat]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::rule::arbitrary::rule;
    use crate::engine::rule::model::{Matchers, Policy};

    #[test]
    fn a_rule_that_stayed_goes_on_and_one_that_changed_starts_anew() {
        let mut turns = Turns::default();
        turns.follow(&rules([("a", 1), ("b", 1)]));
        assert_eq!([next(&mut turns, 0), next(&mut turns, 1)], [0, 0]);
        turns.follow(&rules([("b", 1), ("a", 2)]));
        assert_eq!([next(&mut turns, 0), next(&mut turns, 1)], [1, 0]);
    }

    #[test]
    fn the_families_take_turns_apart() {
        let mut turns = Turns::default();
        turns.follow(&rules([("a", 1), ("b", 1)]));
        let both = [Family::V4, Family::V6].map(|family| {
            let usable = lines(1).map(|(uplink, _)| uplink).collect();
            turns.of_rule(RuleId(0), family).0.rotation.next(lines(1), usable)
        });
        assert_eq!(both, [Some(UplinkId(0)); 2]);
    }

    fn next(turns: &mut Turns, rule: u16) -> u8 {
        let usable = lines(1).map(|(uplink, _)| uplink).collect();
        turns.of_rule(RuleId(rule), Family::V4).0.rotation.next(lines(1), usable).unwrap().0
    }

    fn rules(named: [(&str, u8); 2]) -> Arc<RuleSet> {
        let rules = named.map(|(name, weight)| {
            let choice = Choice { policy: Policy::RoundRobin, uplinks: lines(weight).collect() };
            Rule { name: name.into(), choice, ..rule(Matchers::default(), Matchers::default()) }
        });
        Arc::new(RuleSet::compile(&rules[..]))
    }

    fn lines(weight: u8) -> impl Iterator<Item = (UplinkId, u8)> + Clone {
        [(UplinkId(0), weight), (UplinkId(1), 1)].into_iter()
    }
}
