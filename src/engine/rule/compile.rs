//! [`RuleSet`]: all rules, ready to be asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::MAX_RULES;
use super::index::Index;
use super::matcher::Matcher;
use super::model::{Policy, Rule, RuleId};
#[cfg(test)]
use super::naive;
use super::nameless::Nameless;
use crate::engine::flow::Facts;
use crate::engine::uplink::pick::slots::SlotTable;

/// Rules in their order, compiled: every key in the form that is cheapest to
/// ask, and an index of which rules are worth asking at all.
#[derive(Debug, Clone, Default)]
pub struct RuleSet {
    rules: Arc<[Rule]>,
    matching: Matching,
    nameless: Nameless,
    slots: Box<[Option<Arc<SlotTable>>]>,
    asks_for_contents: bool,
    asks_for_names: bool,
    asks_for_places: bool,
    looks_at_lines: bool,
}

/// The part of a rule set that answers which rule matches.
#[derive(Debug, Clone, Default)]
pub(super) struct Matching {
    compiled: Box<[Compiled]>,
    index: Index,
}

#[derive(Debug, Clone)]
struct Compiled {
    all: Box<[Matcher]>,
    none: Box<[Matcher]>,
}

impl RuleSet {
    /// Compiles rules; those beyond [`MAX_RULES`], which no number can name, are left out.
    #[must_use]
    pub fn compile(rules: impl Into<Arc<[Rule]>>) -> Self {
        let mut rules = rules.into();
        if let Some(named) = rules.get(..MAX_RULES).filter(|named| named.len() < rules.len()) {
            rules = named.into();
        }
        RuleSet {
            matching: Matching::new(&rules),
            nameless: Nameless::new(&rules),
            slots: slot_tables(&rules),
            asks_for_contents: rules.iter().any(Rule::asks_for_contents),
            asks_for_names: rules.iter().any(Rule::asks_for_names),
            asks_for_places: rules.iter().any(Rule::asks_for_places),
            looks_at_lines: rules.iter().any(|rule| rule.choice.policy.looks_at_lines()),
            rules,
        }
    }

    /// The first rule at or after `start` that matches; the answer of [`super::naive::first_match_from`].
    #[must_use]
    pub fn first_match_from(&self, start: RuleId, facts: &Facts) -> Option<RuleId> {
        self.matching.first_from(start, facts)
    }

    /// With how many rules a flow is compared at most until `winner` is known to decide it (none: that no rule
    /// does): those up to it that the index could not rule out.
    #[must_use]
    pub fn compared(&self, winner: Option<RuleId>, facts: &Facts) -> usize {
        let candidates = self.matching.index.lists(facts).flatten();
        candidates.filter(|&&id| winner.is_none_or(|winner| id <= winner)).count()
    }

    /// The rules that every flow is compared with: nothing in their `match` can be looked up. In their order.
    #[must_use]
    pub fn always_compared(&self) -> &[RuleId] {
        self.matching.index.unanchored()
    }

    /// For how long it is worth waiting until a flow has said its name: the longest `hold` of the rules
    /// up to `winner`, which would decide it now (none: up to the last), that a name could make match
    /// or match no more. `facts` are those of a flow that has not said all yet.
    #[must_use]
    pub fn hold(&self, winner: Option<RuleId>, facts: &Facts) -> Duration {
        self.nameless.hold(winner, facts)
    }

    /// Whether any rule asks what a flow's host is called.
    #[must_use]
    pub fn asks_for_names(&self) -> bool {
        self.asks_for_names
    }

    /// Whether any rule asks what only the bytes of a client can tell.
    #[must_use]
    pub fn asks_for_contents(&self) -> bool {
        self.asks_for_contents
    }

    /// Whether any rule asks where addresses belong.
    #[must_use]
    pub fn asks_for_places(&self) -> bool {
        self.asks_for_places
    }

    /// Whether any rule's policy looks at how full or how good the lines are.
    #[must_use]
    pub fn looks_at_lines(&self) -> bool {
        self.looks_at_lines
    }

    /// The rules as they were given.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// One rule.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(usize::from(id.0))
    }

    /// Whose slots are whose by one rule, where it goes by a hash.
    #[must_use]
    pub fn slots(&self, id: RuleId) -> Option<&SlotTable> {
        self.slots.get(usize::from(id.0))?.as_deref()
    }
}

/// Rules of the same lines share a table.
fn slot_tables(rules: &[Rule]) -> Box<[Option<Arc<SlotTable>>]> {
    let mut tables = HashMap::new();
    let mut of = |rule: &Rule| {
        let uplinks = rule.choice.uplinks.clone();
        let table = tables.entry(uplinks).or_insert_with_key(|uplinks| Arc::new(SlotTable::among(uplinks)));
        Arc::clone(table)
    };
    rules.iter().map(|rule| matches!(rule.choice.policy, Policy::Hash(_)).then(|| of(rule))).collect()
}

impl Matching {
    pub(super) fn new(rules: &[Rule]) -> Self {
        Matching { compiled: rules.iter().map(Compiled::new).collect(), index: Index::new(rules) }
    }

    /// The first rule at or after `start` that matches.
    pub(super) fn first_from(&self, start: RuleId, facts: &Facts) -> Option<RuleId> {
        self.index.lists(facts).fold(None, |best, list| self.first_in(list, start, best, facts).or(best))
    }

    /// The first rule of an ascending list that matches and comes before `best`.
    fn first_in(
        &self,
        list: &[RuleId],
        start: RuleId,
        best: Option<RuleId>,
        facts: &Facts,
    ) -> Option<RuleId> {
        let from = list.partition_point(|&id| id < start);
        let better = list[from..].iter().copied().take_while(|&id| best.is_none_or(|best| id < best));
        better.into_iter().find(|&id| self.compiled[usize::from(id.0)].matches(facts))
    }
}

impl Compiled {
    fn new(rule: &Rule) -> Self {
        Compiled { all: Matcher::all_of(&rule.matches), none: Matcher::all_of(&rule.not) }
    }

    fn matches(&self, facts: &Facts) -> bool {
        self.all.iter().all(|key| key.fits(facts)) && !self.none.iter().any(|key| key.fits(facts))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::arbitrary::{any_facts, any_rules, facts, rule};
    use super::super::model::Matchers;
    use super::*;

    #[test]
    fn no_rules_match_nothing() {
        assert_eq!(RuleSet::default().first_match_from(RuleId(0), &facts()), None);
    }

    #[test]
    fn the_earlier_rule_wins_wherever_the_index_has_filed_it() {
        let by_port =
            rule(Matchers { dst_port: vec![443..=443], ..Matchers::default() }, Matchers::default());
        let by_net = Matchers { src: vec!["10.0.0.0/8".parse().unwrap()], ..Matchers::default() };
        let by_net = rule(by_net, Matchers::default());
        let all = rule(Matchers::default(), Matchers::default());
        for order in [[&by_port, &by_net, &all], [&all, &by_net, &by_port], [&by_net, &all, &by_port]] {
            let set = RuleSet::compile(&order.map(Rule::clone)[..]);
            for start in 0..3 {
                assert_eq!(set.first_match_from(RuleId(start), &facts()), Some(RuleId(start)));
            }
        }
    }

    #[test]
    fn rules_that_no_number_can_name_are_left_out() {
        let never = rule(Matchers { dscp: vec![63], ..Matchers::default() }, Matchers::default());
        let mut rules = vec![never; MAX_RULES];
        rules.push(rule(Matchers::default(), Matchers::default()));
        let set = RuleSet::compile(rules);
        assert_eq!(set.rules().len(), MAX_RULES);
        assert_eq!(set.first_match_from(RuleId(0), &facts()), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn compiled_rules_answer_like_the_oracle(
            rules in any_rules(),
            flows in proptest::collection::vec(any_facts(), 1..20),
        ) {
            let set = RuleSet::compile(rules.as_slice());
            for facts in &flows {
                for start in (0..=rules.len() as u16).map(RuleId) {
                    let expected = naive::first_match_from(&rules, start, facts);
                    prop_assert_eq!(set.first_match_from(start, facts), expected, "from {:?}", start);
                }
            }
        }
    }
}
