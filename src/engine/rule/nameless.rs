//! [`Nameless`]: which rules a flow could still come to when it has said its name.
//!
//! The rules that ask for names are compiled once more without what they ask of names, and the
//! others are left out. A rule that matches so may match, or match no more, once the name is known.

use std::time::Duration;

use super::compile::Matching;
use super::model::{Matchers, Rule, RuleId};
use crate::engine::flow::Facts;

/// The rules that ask for names, without that.
#[derive(Debug, Clone, Default)]
pub(super) struct Nameless {
    /// Each one's number and `hold` in the whole rule set, in order.
    asking: Vec<(RuleId, Duration)>,
    matching: Matching,
    longest: Duration,
}

impl Nameless {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let numbered = rules.iter().zip(0..=u16::MAX);
        let asking = numbered.filter(|(rule, _)| rule.asks_for_names_or_offers() && !rule.hold.is_zero());
        let (asking, bare): (Vec<_>, Vec<_>) =
            asking.map(|(rule, id)| ((RuleId(id), rule.hold), bare(rule))).unzip();
        let longest = asking.iter().map(|(_, hold)| *hold).max().unwrap_or_default();
        Nameless { asking, matching: Matching::new(&bare), longest }
    }

    /// The longest `hold` of those up to `winner` that may match. Rule files mostly agree on it, and
    /// then the first such rule ends the search.
    pub(super) fn hold(&self, winner: Option<RuleId>, facts: &Facts) -> Duration {
        let mut hold = Duration::ZERO;
        let mut start = Some(RuleId(0));
        while hold < self.longest
            && let Some(place) = start.and_then(|start| self.matching.first_from(start, facts))
            && let Some((id, own)) = self.asking.get(usize::from(place.0))
            && winner.is_none_or(|winner| *id <= winner)
        {
            hold = hold.max(*own);
            start = place.0.checked_add(1).map(RuleId);
        }
        hold
    }
}

/// The rule as it matches whatever the name is. What is left is only asked whether it matches.
fn bare(rule: &Rule) -> Rule {
    let without = |matchers: &Matchers| Matchers {
        host: Vec::new(),
        host_list: Vec::new(),
        alpn: Vec::new(),
        ..matchers.clone()
    };
    Rule { matches: without(&rule.matches), not: without(&rule.not), ..rule.clone() }
}

#[cfg(test)]
mod tests {
    use super::super::arbitrary::{facts, rule};
    use super::super::hosts::HostName;
    use super::*;

    #[test]
    fn a_flow_waits_only_for_rules_that_a_name_could_bring_it_to() {
        let by_name = named(443, 20);
        let elsewhere = named(80, 500);
        let by_port =
            rule(Matchers { dst_port: vec![443..=443], ..Matchers::default() }, Matchers::default());
        let set = Nameless::new(&[elsewhere, by_port, by_name]);
        assert_eq!(set.hold(Some(RuleId(1)), &facts()), Duration::ZERO);
        assert_eq!(set.hold(Some(RuleId(2)), &facts()), Duration::from_millis(20));
        assert_eq!(set.hold(None, &facts()), Duration::from_millis(20));
    }

    #[test]
    fn it_waits_as_long_as_the_most_patient_of_them_and_never_for_the_impatient() {
        let set = Nameless::new(&[named(443, 0), named(443, 30), named(443, 70), named(443, 50)]);
        for (winner, millis) in [(0, 0), (1, 30), (2, 70), (3, 70)] {
            assert_eq!(set.hold(Some(RuleId(winner)), &facts()), Duration::from_millis(millis));
        }
    }

    #[test]
    fn a_rule_that_takes_all_names_but_some_is_waited_for_although_it_matches_now() {
        let not = Matchers { host: vec![HostName::parse("a.example").unwrap()], ..Matchers::default() };
        let but = Rule { hold: Duration::from_millis(20), ..rule(Matchers::default(), not) };
        assert_eq!(Nameless::new(&[but]).hold(Some(RuleId(0)), &facts()), Duration::from_millis(20));
    }

    fn named(port: u16, millis: u64) -> Rule {
        let host = vec![HostName::parse("a.example").unwrap()];
        let matches = Matchers { dst_port: vec![port..=port], host, ..Matchers::default() };
        Rule { hold: Duration::from_millis(millis), ..rule(matches, Matchers::default()) }
    }
}
