//! Rules whose flows end where they have no line hold in the kernel too (`none` is "keep", "reject" or "drop"): a
//! dead, flooded or limited daemon never lets such a flow out by a line it must not use.
//!
//! Rules that ask what a client sends, or where addresses belong, are not among them: the kernel cannot
//! tell. To it they are rules that do not match, and such a condition under `not` is one that does not hold.
//!
//! First match wins, so every rule up to the last such one is written out, one
//! chain each. The keys of a rule stand one after the other, none inside
//! another: a rule that jumped from key to key would be too deep for nf_tables
//! (`NFT_JUMP_STACK_SIZE`, 16) and have it check every path through all lists.
//! What one key found is told to the next by the decided flag, which no packet
//! has while its uplink is being chosen; it is clear again when a chain ends.

use super::headers::conditions;
use super::model::{Action, Chain, Match, Rule, rule, rule_for};
use super::{SPREAD, refused, spread, usable};
use crate::config::Config;
use crate::engine::packet::Family;
use crate::engine::rule::model::{self, NoLine, Policy, WhenNone};
use crate::plan::lines::Line;

/// The chain that tries the rules in order.
pub const ENTRY: &str = "rules";

/// The chains of all rules that the kernel must know; none if no rule ends flows.
pub fn chains(config: &Config, lines: &[Line], utc_offset: i32) -> Vec<Chain> {
    let is_known = |rule: &model::Rule| !rule.matches.ask_beyond_the_kernel();
    let ends = |rule: &model::Rule| matches!(rule.none, WhenNone::Stop(_));
    let last = config.rules.iter().rposition(|rule| ends(rule) && is_known(rule));
    let Some(last) = last else { return Vec::new() };
    let mut chains: Vec<Chain> = config.rules[..=last]
        .iter()
        .zip(1..)
        .filter(|(rule, _)| is_known(rule))
        .map(|(rule, number)| rule_chain(config, lines, utc_offset, number, rule))
        .collect();
    let tries =
        chains.iter().map(|chain| rule([Match::PacketHasUplink(false)], Action::Jump(chain.name.clone())));
    let tries = tries.collect();
    chains.push(Chain { name: ENTRY.into(), hook: None, rules: tries });
    chains
}

fn rule_chain(config: &Config, lines: &[Line], utc_offset: i32, number: usize, rule: &model::Rule) -> Chain {
    let mut rules = conditions(config, rule, utc_offset);
    rules.extend(use_uplinks(config, lines, rule));
    Chain { name: format!("rule-{number}"), hook: None, rules }
}

fn use_uplinks(config: &Config, lines: &[Line], wanted: &model::Rule) -> Vec<Rule> {
    Family::BOTH.into_iter().flat_map(|family| use_in(config, lines, wanted, family)).collect()
}

fn use_in(config: &Config, lines: &[Line], wanted: &model::Rule, family: Family) -> Vec<Rule> {
    let mut candidates = usable(lines, family, wanted.none, &wanted.choice.uplinks);
    if wanted.choice.policy == Policy::Ordered {
        candidates.truncate(1);
    }
    match (candidates.as_slice(), wanted.none) {
        ([], WhenNone::Stop(NoLine::Keep)) => nowhere(config, wanted, family),
        ([], WhenNone::Stop(NoLine::Reject | NoLine::Drop)) => vec![refused(config, family)],
        ([], WhenNone::Any) => vec![rule_for(family, [], Action::Goto(SPREAD.into()))],
        ([], WhenNone::NextRule) => Vec::new(),
        _ => spread(config, family, &candidates),
    }
}

/// The mark of an uplink that has no way: routing refuses what bears it, and the sender is told.
fn nowhere(config: &Config, wanted: &model::Rule, family: Family) -> Vec<Rule> {
    let lost = wanted.choice.uplinks.iter().take(1);
    lost.map(|&(uplink, _)| rule_for(family, [], Action::MarkPacket(config.marks.value(uplink)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Lists, SourceFile, load};
    use crate::plan::lines::lines;
    use crate::plan::observed::Observed;

    #[test]
    fn what_only_a_clients_bytes_can_tell_is_not_asked_in_the_kernel() {
        let rules = [
            "match = { host = \"example.org\" }\nuse = \"isp1\"",
            "match = { dst_list = \"nets\" }\nnot = { app = \"quic\" }\nuse = \"isp1\"\nnone = \"drop\"",
            "match = { app = \"quic\" }\nuse = \"isp1\"\nnone = \"drop\"",
        ];
        let chains = chains_of(&rules);
        assert_eq!(chains.iter().map(|chain| chain.name.as_str()).collect::<Vec<_>>(), ["rule-2", ENTRY]);
        let nets: Vec<&Match> = chains[0].rules.iter().flat_map(|rule| &rule.matches).collect();
        assert_eq!(nets[0], &Match::Destination("192.0.2.0/24".parse().unwrap()));
    }

    #[test]
    fn without_another_such_rule_the_kernel_drops_nothing() {
        let rules = ["match = { app = \"quic\" }\nuse = \"isp1\"\nnone = \"drop\""];
        assert_eq!(chains_of(&rules).len(), 0);
    }

    /// The chains for rules and one uplink whose device is missing.
    fn chains_of(rules: &[&str]) -> Vec<Chain> {
        let file = |path: &str, text: &str| SourceFile { path: path.into(), text: text.into() };
        let main = "lan.interfaces = [\"eth0\"]\n[[uplink]]\nname = \"isp1\"\ninterface = \"eth1\"\n";
        let rule = |(number, keys)| format!("[[rule]]\nname = \"{number}\"\n{keys}\n");
        let rules: String = (1..).zip(rules).map(rule).collect();
        let lists = Lists::from_iter([("rules/nets".to_owned(), Ok(b"192.0.2.0/24".to_vec()))]);
        let config = load(&file("main.toml", main), &[file("rules/10.toml", &rules)], &lists).unwrap();
        chains(&config, &lines(&config, &Observed::default()), 0)
    }
}
