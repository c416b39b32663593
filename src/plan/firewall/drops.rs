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

use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::model::{Action, Chain, Match, Rule, rule, rule_for};
use super::{refused, spread, usable};
use crate::config::Config;
use crate::engine::packet::{Family, PROTOCOLS_WITH_PORTS};
use crate::engine::rule::model::{self, IcmpType, Matchers, NoLine, Policy, TimeSpan, WhenNone};
use crate::plan::lines::Line;

/// The chain that tries the rules in order.
pub const ENTRY: &str = "rules";

const MINUTES_PER_DAY: i32 = 24 * 60;
const MINUTES_PER_WEEK: i32 = 7 * MINUTES_PER_DAY;

/// One of several ways to satisfy a key: conditions, and the family they imply.
type Alternative = (Option<Family>, Vec<Match>);

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

/// What `not` names leaves at once; what fails a key, at its end; the rest gets its uplink.
fn rule_chain(config: &Config, lines: &[Line], utc_offset: i32, number: usize, rule: &model::Rule) -> Chain {
    let mut rules: Vec<Rule> = keys(config, &rule.not, utc_offset)
        .into_iter()
        .flatten()
        .map(|unwanted| alternative(unwanted, Action::Return))
        .collect();
    rules.extend(keys(config, &rule.matches, utc_offset).into_iter().flat_map(one_of));
    rules.extend(use_uplinks(config, lines, rule));
    Chain { name: format!("rule-{number}"), hook: None, rules }
}

/// Goes on only with packets that fit one of the alternatives.
fn one_of(alternatives: Vec<Alternative>) -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        alternatives.into_iter().map(|fits| alternative(fits, Action::FlagDecided)).collect();
    rules.push(rule([Match::Decided(false)], Action::Return));
    rules.push(rule([], Action::ClearDecided));
    rules
}

fn alternative((family, matches): Alternative, action: Action) -> Rule {
    Rule { family, matches, action }
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
        ([], WhenNone::Any) => vec![rule_for(family, [], Action::Goto("spread".into()))],
        ([], WhenNone::NextRule) => Vec::new(),
        _ => spread(config, family, &candidates),
    }
}

/// The mark of an uplink that has no way: routing refuses what bears it, and the sender is told.
fn nowhere(config: &Config, wanted: &model::Rule, family: Family) -> Vec<Rule> {
    let lost = wanted.choice.uplinks.iter().take(1);
    lost.map(|&(uplink, _)| rule_for(family, [], Action::MarkPacket(config.marks.value(uplink)))).collect()
}

/// The keys that ask for something, each as the list of its alternatives.
fn keys(config: &Config, matchers: &Matchers, utc_offset: i32) -> Vec<Vec<Alternative>> {
    let with_ports = ported(&matchers.protocol);
    let any = |matches: Vec<Match>| (None, matches);
    let of = |family: Family, matches: Vec<Match>| (Some(family), matches);
    let mut keys: Vec<Vec<Alternative>> = vec![
        matchers.protocol.iter().map(|&protocol| any(vec![Match::Protocol(protocol)])).collect(),
        matchers.src.iter().map(|&net| of(Family::of(net.addr()), vec![Match::Source(net)])).collect(),
        destinations(matchers).map(|net| of(Family::of(net.addr()), vec![Match::Destination(net)])).collect(),
        ports(&with_ports, &matchers.src_port, Match::SourcePort),
        ports(&with_ports, &matchers.dst_port, Match::DestinationPort),
        matchers.icmp_type.iter().map(|&kind: &IcmpType| of(kind.family, vec![Match::Icmp(kind)])).collect(),
        matchers.src_mac.iter().map(|&mac| any(vec![Match::SourceMac(mac)])).collect(),
        matchers.lan.iter().map(|lan| any(vec![Match::In(config.lan[usize::from(lan.0)].clone())])).collect(),
        matchers.dscp.iter().map(|&dscp| any(vec![Match::Dscp(dscp)])).collect(),
        matchers.family.iter().map(|&family| of(family, vec![])).collect(),
        matchers.length.iter().map(|length| any(vec![Match::Length(length.clone())])).collect(),
        times(&matchers.time, &matchers.weekday, utc_offset),
    ];
    keys.retain(|alternatives| !alternatives.is_empty());
    keys
}

/// The nets of lists too, however many: a list is a key like others.
fn destinations(matchers: &Matchers) -> impl Iterator<Item = IpNet> {
    matchers.dst.iter().copied().chain(matchers.dst_list.iter().flat_map(|list| list.nets()))
}

/// Port matches need a protocol that has ports: those the rule names, or all.
fn ported(protocols: &[u8]) -> Vec<u8> {
    PROTOCOLS_WITH_PORTS
        .into_iter()
        .filter(|protocol| protocols.is_empty() || protocols.contains(protocol))
        .collect()
}

fn ports(
    protocols: &[u8],
    ranges: &[RangeInclusive<u16>],
    side: fn(u8, RangeInclusive<u16>) -> Match,
) -> Vec<Alternative> {
    let pairs = protocols.iter().flat_map(|&protocol| ranges.iter().map(move |range| (protocol, range)));
    pairs.map(|(protocol, range)| (None, vec![side(protocol, range.clone())])).collect()
}

/// Local weekdays and times as spans of single UTC weekdays, which is what the
/// kernel can match without knowing the time zone.
fn times(times: &[TimeSpan], weekdays: &[u8], utc_offset: i32) -> Vec<Alternative> {
    if times.is_empty() && weekdays.is_empty() {
        return Vec::new();
    }
    let days: Vec<u8> = if weekdays.is_empty() { (0..7).collect() } else { weekdays.to_vec() };
    let local = days.iter().flat_map(|&day| {
        day_spans(times).into_iter().map(move |(from, to)| {
            let midnight = i32::from(day) * MINUTES_PER_DAY;
            (midnight + from, midnight + to)
        })
    });
    local
        .flat_map(|(from, to)| utc_spans(from - utc_offset / 60, to - utc_offset / 60))
        .map(|(day, seconds)| (None, vec![Match::Time(day, seconds)]))
        .collect()
}

/// Minutes of one day; a span over midnight is two.
fn day_spans(times: &[TimeSpan]) -> Vec<(i32, i32)> {
    if times.is_empty() {
        return vec![(0, MINUTES_PER_DAY)];
    }
    let split = |span: &TimeSpan| {
        let (from, to) = (i32::from(span.from), i32::from(span.to));
        if from < to { vec![(from, to)] } else { vec![(from, MINUTES_PER_DAY), (0, to)] }
    };
    times.iter().flat_map(split).filter(|(from, to)| from < to).collect()
}

/// A span of minutes of the week, cut at midnights.
fn utc_spans(from: i32, to: i32) -> Vec<(u8, RangeInclusive<u32>)> {
    let mut spans = Vec::new();
    let mut start = from;
    while start < to {
        let in_week = start.rem_euclid(MINUTES_PER_WEEK);
        let (day, minute) = (in_week / MINUTES_PER_DAY, in_week % MINUTES_PER_DAY);
        let length = (to - start).min(MINUTES_PER_DAY - minute);
        let first = (minute * 60).unsigned_abs();
        let last = ((minute + length) * 60 - 1).unsigned_abs();
        spans.push((day as u8, first..=last));
        start += length;
    }
    spans
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
