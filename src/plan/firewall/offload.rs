//! What needs no user space stays in the kernel: flows of such rules never reach the queue.
//!
//! First match wins, so the kernel walks the rules in their order, and the first that may match ends the walk.
//! Rules that it knows whole give their flows lines. Any other one sends to the queue what fits that part of
//! its conditions which the kernel knows, whatever else it asks: that is more than it matches, never less.
//! What comes to the end of the walk goes to the queue as well, and so does all that comes after the walk has become too long.
//!
//! A rule is known whole if
//! - it asks only what each packet of a connection tells as well as the first: who looks at running flows
//!   then comes to the same rule, for nobody has told him which one it was;
//! - its choice is made by the flow and by who is usable, and by nothing else: a single line, the first of
//!   several, the one that has the flow's slot, or turns. Turns become shares by the flow's hash, so that siblings need
//!   no notes to go the same way. Slots are the engine's own ([`pick::slots`](crate::engine::uplink::pick::slots)):
//!   user space would send each flow by the same line. Where a firewall does not see the ports
//!   that the parser sees, it asks.
//!
//! Nothing is decided here where that would be felt elsewhere: TCP connections are listened to where any
//! rule asks for names, new flows are counted where one asks how full lines are, and a line
//! that has just come back is filled by user space alone.
//!
//! A first datagram may wait in the queue while the walk is filled anew and its sibling, a moment later, is decided by
//! the kernel. So the queues are drained before `offload` is turned on. Lines that change at that very
//! moment may tear such a pair, as they may change the line of a datagram that is still to be decided.

use super::headers::{Alternative, alternative, conditions, keys};
use super::model::{Action, Chain, Match, Rule, rule, rule_for};
use super::usable;
use crate::config::{Config, Offload};
use crate::engine::flow::{Facts, FlowKey};
use crate::engine::packet::Family;
use crate::engine::rule::model::{self, Choice, HashKey, Matchers, Policy, RuleId, WhenNone};
use crate::engine::rule::naive;
use crate::engine::uplink::pick::slots::{SlotHash, SlotTable};
use crate::engine::uplink::{Avoided, Board, UplinkId};
use crate::plan::lines::Line;

/// The chain that walks the rules. (`offload` is a word of nft's.)
pub const ENTRY: &str = "alone";
/// How the names of chains begin that give flows their lines and count them: then come the rule's number from
/// 1 on, 0 for no rule, and the uplink's.
const TAKE: &str = "take-";

const TCP: u8 = 6;
/// Combinations of conditions that are written out, each as a rule; a rule with more has a chain of its own.
const MOST_WAYS: usize = 32;
/// The longest walk. A packet that none of so many rules fits pays for them what the queue costs.
const MOST_RULES: usize = 256;
/// IPv6 extension headers (IANA), of which ip6tables does not take the number for a packet's protocol, and
/// to iptables 0 is any protocol.
const NO_PROTOCOLS: [u8; 8] = [0, 43, 44, 51, 60, 135, 139, 140];

/// Flows that one rule, or none, sent by one uplink.
pub type Account = (Option<RuleId>, UplinkId);

/// What the kernel does with the flows of a rule, or with all that came so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Step<'a> {
    /// The rule; `None`: all flows that fit.
    rule: Option<(RuleId, &'a model::Rule)>,
    /// Which flows it is about; `None`: a chain tells.
    ways: Option<Vec<Alternative>>,
    /// By family.
    does: [Does; 2],
}

/// What the kernel does with the flows of one rule in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Does {
    /// They get one of these lines, by weight.
    Decide(Vec<(UplinkId, u8)>),
    /// They get the one of these lines that has their slot by these parts of them.
    Hash(HashKey, Vec<(UplinkId, u128)>),
    /// They go to the queue.
    Ask,
    /// The next rule is tried.
    Pass,
}

/// Who is usable.
pub trait Usable {
    /// Of some uplinks those that a new flow of a family may get; what is usable depends on what is said of having none.
    fn among(&self, family: Family, none: WhenNone, uplinks: &[(UplinkId, u8)]) -> Vec<(UplinkId, u8)>;
}

impl Usable for Board {
    fn among(&self, family: Family, none: WhenNone, uplinks: &[(UplinkId, u8)]) -> Vec<(UplinkId, u8)> {
        let candidates = self.candidates(family, none, uplinks.iter().copied());
        uplinks.iter().copied().filter(|&(uplink, _)| candidates.contains(uplink)).collect()
    }
}

impl Usable for [Line] {
    fn among(&self, family: Family, none: WhenNone, uplinks: &[(UplinkId, u8)]) -> Vec<(UplinkId, u8)> {
        usable(self, family, none, uplinks)
    }
}

/// The walk, by who is usable and which of them do not have their whole share yet; empty where nothing
/// is decided by the kernel.
pub fn walk<'a>(config: &'a Config, lines: &(impl Usable + ?Sized), unfilled: Avoided) -> Vec<Step<'a>> {
    if !is_on(config) {
        return Vec::new();
    }
    let listened = config.asks_for_names().then(|| Step {
        rule: None,
        ways: Some(vec![(None, vec![Match::Protocol(TCP)])]),
        does: [Does::Ask, Does::Ask],
    });
    let numbered = (0..=u16::MAX).map(RuleId).zip(config.rules.iter());
    let named = numbered.map(|(id, rule)| step(config, lines, unfilled, id, rule));
    let mut left = MOST_RULES;
    let mut steps: Vec<Step> = listened
        .into_iter()
        .chain(named)
        .chain([default_step(config, lines, unfilled)])
        .map_while(|step| {
            left = left.checked_sub(length(config, &step))?;
            Some(step)
        })
        .collect();
    let last = steps.iter().rposition(|step| step.does.iter().any(Does::decides));
    steps.truncate(last.map_or(0, |last| last + 1));
    steps
}

/// Whether anything may be decided by the kernel.
fn is_on(config: &Config) -> bool {
    let looks_at_load = |rule: &model::Rule| rule.choice.policy.direction().is_some();
    config.queue.offload == Offload::Auto && !config.rules.iter().any(looks_at_load)
}

fn step<'a>(
    config: &Config,
    lines: &(impl Usable + ?Sized),
    unfilled: Avoided,
    id: RuleId,
    rule: &'a model::Rule,
) -> Step<'a> {
    let does = Family::BOTH.map(|family| {
        let candidates = lines.among(family, rule.none, &rule.choice.uplinks);
        match candidates.as_slice() {
            [] if rule.none == WhenNone::NextRule => Does::Pass,
            _ if !is_known_whole(rule) => Does::Ask,
            _ => decide(&rule.choice, candidates, unfilled, family),
        }
    });
    let ways =
        if does.iter().any(Does::decides) { ways_of(config, rule) } else { Some(ways_around(config, rule)) };
    Step { rule: Some((id, rule)), ways, does }
}

/// What no rule decides takes turns among all.
fn default_step<'a>(config: &Config, lines: &(impl Usable + ?Sized), unfilled: Avoided) -> Step<'a> {
    let all = config.uplinks.iter().map(|uplink| (uplink.id, uplink.weight));
    let turns = Choice { policy: Policy::RoundRobin, uplinks: all.collect() };
    let does = Family::BOTH.map(|family| {
        decide(&turns, lines.among(family, WhenNone::NextRule, &turns.uplinks), unfilled, family)
    });
    Step { rule: None, ways: Some(vec![(None, vec![])]), does }
}

fn decide(choice: &Choice, mut candidates: Vec<(UplinkId, u8)>, unfilled: Avoided, family: Family) -> Does {
    if choice.policy == Policy::Ordered {
        candidates.truncate(1);
    }
    let is_filled = candidates.iter().all(|&(uplink, _)| !unfilled.of(family).contains(uplink));
    match (candidates.as_slice(), choice.policy) {
        ([_], _) if is_filled => Does::Decide(candidates),
        ([_, _, ..], Policy::RoundRobin) if is_filled => Does::Decide(candidates),
        ([_, _, ..], Policy::Hash(key)) if is_filled => {
            let usable = candidates.iter().map(|&(uplink, _)| uplink).collect();
            Does::Hash(key, SlotTable::among(&choice.uplinks).shares(usable).collect())
        }
        _ => Does::Ask,
    }
}

/// Whether the kernel can do what the rule asks for, while it has lines.
fn is_known_whole(rule: &model::Rule) -> bool {
    let is_told = |matchers: &Matchers| {
        told_by_connections(matchers) == *matchers && !has_no_number(matchers) && !is_long(matchers)
    };
    rule.sticky.is_none() && is_told(&rule.matches) && is_told(&rule.not)
}

fn has_no_number(matchers: &Matchers) -> bool {
    matchers.protocol.iter().any(|protocol| NO_PROTOCOLS.contains(protocol))
}

/// Whether lists name more nets than any walk may have rules. They are not even read to their ends.
fn is_long(matchers: &Matchers) -> bool {
    let nets = matchers.dst_list.iter().flat_map(|list| list.nets());
    nets.take(MOST_RULES + 1).count() > MOST_RULES
}

/// What of it each packet of a connection tells as well as the first.
fn told_by_connections(matchers: &Matchers) -> Matchers {
    Matchers {
        protocol: matchers.protocol.clone(),
        src: matchers.src.clone(),
        dst: matchers.dst.clone(),
        dst_list: matchers.dst_list.clone(),
        src_port: matchers.src_port.clone(),
        dst_port: matchers.dst_port.clone(),
        family: matchers.family.clone(),
        ..Matchers::default()
    }
}

/// The combinations of conditions by which a rule matches, if there are few.
fn ways_of(config: &Config, rule: &model::Rule) -> Option<Vec<Alternative>> {
    let keys = keys(config, &rule.matches, &rule.matches.protocol, 0);
    let is_plain = rule.not == Matchers::default() && combinations(&keys) <= MOST_WAYS;
    is_plain.then(|| combined(&keys))
}

fn combinations(keys: &[Vec<Alternative>]) -> usize {
    keys.iter().map(Vec::len).fold(1, usize::saturating_mul)
}

/// Few combinations of conditions that fit all that a rule may match, and perhaps more: of its keys those with the
/// fewest alternatives.
fn ways_around(config: &Config, rule: &model::Rule) -> Vec<Alternative> {
    let matchers = Matchers {
        icmp_type: rule.matches.icmp_type.clone(),
        src_mac: rule.matches.src_mac.clone(),
        lan: rule.matches.lan.clone(),
        ..told_by_connections(&rule.matches)
    };
    let matchers =
        if has_no_number(&matchers) { Matchers { protocol: vec![], ..matchers } } else { matchers };
    let matchers =
        if is_long(&matchers) { Matchers { dst: vec![], dst_list: vec![], ..matchers } } else { matchers };
    let mut keys = keys(config, &matchers, &rule.matches.protocol, 0);
    keys.sort_by_key(Vec::len);
    while combinations(&keys) > MOST_WAYS {
        keys.pop();
    }
    combined(&keys)
}

/// One alternative of each key, in all ways that any packet can fit.
fn combined(keys: &[Vec<Alternative>]) -> Vec<Alternative> {
    let none: Vec<Alternative> = vec![(None, vec![])];
    keys.iter().fold(none, |ways, key| {
        let pairs = ways.iter().flat_map(|way| key.iter().map(move |other| both(way, other)));
        pairs.flatten().collect()
    })
}

fn both((family, matches): &Alternative, (other_family, others): &Alternative) -> Option<Alternative> {
    let one = |a: Option<u8>, b: Option<u8>| a.is_none() || b.is_none() || a == b;
    let asked = |matches: &[Match]| matches.iter().find_map(protocol);
    let of = |family: &Option<Family>| family.map(|family| family as u8);
    let fit = one(of(family), of(other_family)) && one(asked(matches), asked(others));
    // Ports name their protocol.
    let said_again = |condition: &&Match| matches!(condition, Match::Protocol(_)) && asked(others).is_some();
    let matches = matches.iter().filter(|condition| !said_again(condition)).chain(others);
    fit.then(|| (family.or(*other_family), matches.cloned().collect()))
}

fn protocol(condition: &Match) -> Option<u8> {
    match condition {
        Match::Protocol(protocol) | Match::SourcePort(protocol, _) | Match::DestinationPort(protocol, _) => {
            Some(*protocol)
        }
        Match::Icmp(icmp) => Some(match icmp.family {
            Family::V4 => 1,
            Family::V6 => 58,
        }),
        _ => None,
    }
}

/// How many rules a step takes.
fn length(config: &Config, step: &Step) -> usize {
    let ways = match (&step.ways, step.rule) {
        (None, Some((_, rule))) => conditions(config, rule, 0).len() + 2,
        (ways, _) => ways.as_ref().map_or(1, |ways| ways.len().max(1)),
    };
    step.hidden().count() + ways
}

/// The chains of the walk, and of what may be in it while other lines are usable.
pub fn chains(config: &Config, lines: &[Line], unfilled: Avoided) -> Vec<Chain> {
    if !is_on(config) {
        return Vec::new();
    }
    let mut chains: Vec<Chain> = accounts(config).map(|account| take(config, account)).collect();
    let mut rules = Vec::new();
    for step in walk(config, lines, unfilled) {
        chains.extend(step.shares());
        let own = step.own_chain(config);
        rules.extend(step.hidden());
        rules.extend(match &own {
            Some(own) => step.by_chain(config, own),
            None => step.ways.iter().flatten().flat_map(|way| step.by_way(way)).collect(),
        });
        chains.extend(own);
    }
    chains.push(Chain { name: ENTRY.into(), hook: None, rules });
    chains
}

/// What the kernel may ever decide by itself, whoever is usable.
pub fn accounts(config: &Config) -> impl Iterator<Item = Account> {
    let numbered = (0..).map(RuleId).zip(config.rules.iter()).take(MOST_RULES);
    let of_rules = numbered
        .filter(|(_, rule)| is_known_whole(rule))
        .flat_map(|(id, rule)| rule.choice.uplinks.iter().map(move |&(uplink, _)| (Some(id), uplink)));
    let is_on = is_on(config);
    of_rules.chain(config.uplinks.iter().map(|uplink| (None, uplink.id))).filter(move |_| is_on)
}

/// The chain that gives a flow its line, for good: it is saved here and now.
fn take(config: &Config, account: Account) -> Chain {
    let (name, value) = (take_name(account), config.marks.value(account.1));
    let rules = [Action::Tally(name.clone()), Action::MarkConnection(value), Action::MarkPacket(value)];
    Chain { name, hook: None, rules: rules.into_iter().map(|action| rule([], action)).collect() }
}

fn number(rule: Option<RuleId>) -> usize {
    rule.map_or(0, |rule| usize::from(rule.0) + 1)
}

fn take_name((rule, uplink): Account) -> String {
    format!("{TAKE}{}-{}", number(rule), uplink.0 + 1)
}

/// What the chain of this name counts.
#[must_use]
pub fn account(chain: &str) -> Option<Account> {
    let (rule, uplink) = chain.strip_prefix(TAKE)?.split_once('-')?;
    let rule = match rule.parse::<u16>().ok()? {
        0 => None,
        number => Some(RuleId(number - 1)),
    };
    Some((rule, UplinkId(uplink.parse::<u8>().ok()?.checked_sub(1)?)))
}

impl Does {
    /// Whether the kernel gives flows their lines.
    fn decides(&self) -> bool {
        matches!(self, Does::Decide(_) | Does::Hash(..))
    }

    /// The one line, where flows get no other.
    fn only_line(&self) -> Option<UplinkId> {
        match self {
            Does::Decide(lines) => only(lines),
            Does::Hash(_, lines) => only(lines),
            Does::Ask | Does::Pass => None,
        }
    }

    /// Each line with the condition by which a flow gets it. The last one takes the rest.
    fn shares(&self) -> Vec<(UplinkId, Vec<Match>)> {
        let mut shares: Vec<(UplinkId, Vec<Match>)> = match self {
            Does::Decide(lines) => shares(lines).map(|(uplink, share)| (uplink, vec![share])).collect(),
            Does::Hash(key, lines) => {
                let slot = |&(uplink, slots)| (uplink, vec![Match::Slot { key: *key, slots }]);
                lines.iter().map(slot).collect()
            }
            Does::Ask | Does::Pass => Vec::new(),
        };
        if let Some((_, share)) = shares.last_mut() {
            share.clear();
        }
        shares
    }

    /// The lines of which a flow gets one, by its hash.
    fn lines(&self, flow: &FlowKey, hash: SlotHash) -> Vec<UplinkId> {
        match self {
            Does::Decide(lines) => lines.iter().map(|&(uplink, _)| uplink).collect(),
            Does::Hash(key, lines) => {
                let slot = hash.slot(*key, flow);
                let has_it = lines.iter().filter(|(_, slots)| slots >> slot & 1 == 1);
                has_it.map(|&(uplink, _)| uplink).collect()
            }
            Does::Ask | Does::Pass => Vec::new(),
        }
    }
}

impl Step<'_> {
    fn id(&self) -> Option<RuleId> {
        self.rule.map(|(id, _)| id)
    }

    fn does(&self, family: Family) -> &Does {
        &self.does[family as usize]
    }

    /// What becomes of packets that fit; `None`: the next rule is tried.
    fn action(&self, family: Family) -> Option<Action> {
        match self.does(family) {
            does @ (Does::Decide(_) | Does::Hash(..)) => Some(Action::Goto(match does.only_line() {
                Some(uplink) => take_name((self.id(), uplink)),
                None => self.share_name(),
            })),
            Does::Ask => Some(Action::Return),
            Does::Pass => None,
        }
    }

    fn share_name(&self) -> String {
        format!("share-{}", number(self.id()))
    }

    /// The chain that gives flows one of several lines.
    fn shares(&self) -> Option<Chain> {
        let rules: Vec<Rule> = Family::BOTH.into_iter().flat_map(|family| self.shares_in(family)).collect();
        (!rules.is_empty()).then(|| Chain { name: self.share_name(), hook: None, rules })
    }

    fn shares_in(&self, family: Family) -> Vec<Rule> {
        let does = self.does(family);
        let shares = if does.only_line().is_none() { does.shares() } else { Vec::new() };
        let take = |uplink| Action::Goto(take_name((self.id(), uplink)));
        shares.into_iter().map(|(uplink, share)| rule_for(family, share, take(uplink))).collect()
    }

    /// What comes before the step: flows that it would give a slot which is not theirs are asked about.
    fn hidden(&self) -> impl Iterator<Item = Rule> {
        let hashes = |family: &Family| matches!(self.does(*family), Does::Hash(HashKey::FiveTuple, _));
        let hidden = |family| rule_for(family, [Match::PortsHidden], Action::Return);
        Family::BOTH.into_iter().filter(hashes).map(hidden)
    }

    /// The chain of a rule that asks for more than a few combinations of conditions.
    fn own_chain(&self, config: &Config) -> Option<Chain> {
        let (id, asked) = self.rule.filter(|_| self.ways.is_none())?;
        let deciding = Family::BOTH.into_iter().filter(|&family| self.decides(family));
        let taken = deciding.filter_map(|family| Some(rule_for(family, [], self.action(family)?)));
        let rules = conditions(config, asked, 0).into_iter().chain(taken).collect();
        Some(Chain { name: format!("{ENTRY}-{}", number(Some(id))), hook: None, rules })
    }

    fn decides(&self, family: Family) -> bool {
        self.does(family).decides()
    }

    fn by_chain(&self, config: &Config, own: &Chain) -> Vec<Rule> {
        let mut rules = Vec::new();
        for family in Family::BOTH {
            match self.does(family) {
                Does::Decide(_) | Does::Hash(..) => {
                    rules.push(rule_for(family, [], Action::Jump(own.name.clone())))
                }
                Does::Ask => rules.extend(
                    self.around(config)
                        .into_iter()
                        .filter(|(of, _)| of.is_none_or(|of| of == family))
                        .map(|(_, matches)| rule_for(family, matches, Action::Return)),
                ),
                Does::Pass => {}
            }
        }
        rules.push(rule([Match::PacketHasUplink(true)], Action::Return));
        rules
    }

    fn around(&self, config: &Config) -> Vec<Alternative> {
        self.rule.map(|(_, rule)| ways_around(config, rule)).unwrap_or_default()
    }

    /// One rule for both families where they are treated alike.
    fn by_way(&self, (family, matches): &Alternative) -> Vec<Rule> {
        let actions = Family::BOTH.map(|family| self.action(family));
        if family.is_none() && actions[0] == actions[1] {
            let alike = actions[0].clone().map(|action| alternative((None, matches.clone()), action));
            return alike.into_iter().collect();
        }
        let of =
            Family::BOTH.into_iter().zip(actions).filter(|(of, _)| family.is_none_or(|family| family == *of));
        of.filter_map(|(family, action)| Some(rule_for(family, matches.clone(), action?))).collect()
    }

    /// Whether a flow gets to what this step does in its family.
    fn fits(&self, config: &Config, facts: &Facts) -> bool {
        let by_ways = |ways: &[Alternative]| ways.iter().any(|way| fits(config, way, facts));
        match (&self.ways, self.rule) {
            (Some(ways), _) => by_ways(ways),
            (None, Some((_, rule))) if self.decides(facts.family) => naive::matches(rule, facts),
            (None, _) => by_ways(&self.around(config)),
        }
    }
}

/// What the kernel does with a flow by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// By which rule, if by one.
    pub rule: Option<RuleId>,
    /// It gets one of these lines, by its hash and their weights; the only one, where that is known.
    pub lines: Vec<UplinkId>,
}

/// What the kernel does with a flow by itself, with a firewall that has this hash; `None`: it asks. Facts do not tell
/// whether its ports are hidden: then it asks too.
#[must_use]
pub fn decided(config: &Config, steps: &[Step], facts: &Facts, hash: SlotHash) -> Option<Decided> {
    let mut steps = steps.iter().filter(|step| *step.does(facts.family) != Does::Pass);
    let step = steps.find(|step| step.fits(config, facts))?;
    let does = step.does(facts.family);
    does.decides().then(|| Decided { rule: step.id(), lines: does.lines(&facts.key, hash) })
}

/// The rules by which the kernel decides itself, in one family at least.
pub fn decided_rules(steps: &[Step]) -> impl Iterator<Item = RuleId> {
    steps.iter().filter(|step| step.does.iter().any(Does::decides)).filter_map(Step::id)
}

fn fits(config: &Config, (family, matches): &Alternative, facts: &Facts) -> bool {
    family.is_none_or(|family| family == facts.family)
        && matches.iter().all(|asked| fits_one(config, asked, facts))
}

/// Conditions that a walk is made of.
fn fits_one(config: &Config, asked: &Match, facts: &Facts) -> bool {
    let key = &facts.key;
    match asked {
        Match::Protocol(protocol) => key.protocol == *protocol,
        Match::Source(net) => net.contains(&key.src),
        Match::Destination(net) => net.contains(&key.dst),
        Match::SourcePort(protocol, ports) => key.protocol == *protocol && ports.contains(&key.src_port),
        Match::DestinationPort(protocol, ports) => key.protocol == *protocol && ports.contains(&key.dst_port),
        Match::Icmp(asked) => {
            let is_code = |code: u8| asked.code.is_none_or(|wanted| wanted == code);
            asked.family == facts.family
                && facts.icmp.is_some_and(|(kind, code)| kind == asked.kind && is_code(code))
        }
        Match::SourceMac(mac) => facts.src_mac == Some(*mac),
        Match::In(device) => facts.lan.is_some_and(|lan| config.lan.get(usize::from(lan.0)) == Some(device)),
        _ => false,
    }
}

fn only<Share>(lines: &[(UplinkId, Share)]) -> Option<UplinkId> {
    let [(uplink, _)] = lines else { return None };
    Some(*uplink)
}

/// Each line with the condition for its share.
fn shares(lines: &[(UplinkId, u8)]) -> impl Iterator<Item = (UplinkId, Match)> {
    let of = lines.iter().map(|&(_, weight)| u32::from(weight)).sum();
    let mut from = 0;
    lines.iter().map(move |&(uplink, weight)| {
        let to = from + u32::from(weight);
        let share = Match::Share { from, to, of };
        from = to;
        (uplink, share)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{Lists, SourceFile, load};
    use crate::engine::packet::PROTOCOLS_WITH_PORTS;
    use crate::engine::rule::arbitrary::{any_facts, any_rules};
    use crate::engine::uplink::UplinkSet;

    const LINES: [UplinkId; 2] = [UplinkId(0), UplinkId(1)];

    proptest! {
        #[test]
        fn what_the_kernel_decides_the_first_matching_rule_decides_alike(
            rules in any_rules(), flows in proptest::collection::vec(any_facts(), 1..50),
        ) {
            let config = config(rules);
            let steps = walk(&config, &all_work(), Avoided::default());
            for facts in flows.into_iter().map(possible) {
                let Some(Decided { rule, lines }) = by_kernel(&config, &steps, &facts) else { continue };
                let matching = naive::first_match_from(&config.rules, RuleId(0), &facts);
                prop_assert_eq!(rule, matching);
                let wanted = matching.map(|id| vec![config.rules[usize::from(id.0)].choice.uplinks[0].0]);
                prop_assert_eq!(lines, wanted.unwrap_or(LINES.to_vec()));
            }
        }
    }

    #[test]
    fn a_line_without_its_whole_share_is_left_to_user_space_and_one_that_is_down_to_the_next_rule() {
        let rule = |line: usize| model::Rule {
            choice: model::Choice { policy: Policy::Ordered, uplinks: vec![(LINES[line], 1)] },
            ..crate::engine::rule::arbitrary::rule(Matchers::default(), Matchers::default())
        };
        let config = config(vec![rule(0), rule(1)]);
        let by = |board: &Board, unfilled| {
            let steps = walk(&config, board, unfilled);
            by_kernel(&config, &steps, &crate::engine::rule::arbitrary::facts()).map(|decided| decided.rule)
        };
        assert_eq!(by(&all_work(), Avoided::default()), Some(Some(RuleId(0))));
        assert_eq!(by(&all_work(), Avoided::default().with(Family::V4, LINES[0])), None);
        let second = Board { usable_v4: UplinkSet::EMPTY.with(LINES[1]), ..all_work() };
        assert_eq!(by(&second, Avoided::default().with(Family::V4, LINES[0])), Some(Some(RuleId(1))));
    }

    #[test]
    fn chains_name_what_they_count() {
        for account in [(None, UplinkId(0)), (Some(RuleId(u16::MAX - 1)), UplinkId(63))] {
            assert_eq!(super::account(&take_name(account)), Some(account));
        }
        for other in ["take-", "take-1", "take-1-0", "take-x-1", "lan"] {
            assert_eq!(super::account(other), None, "{other}");
        }
    }

    fn by_kernel(config: &Config, steps: &[Step], facts: &Facts) -> Option<Decided> {
        decided(config, steps, facts, SlotHash::default())
    }

    fn all_work() -> Board {
        let all = LINES.into_iter().collect();
        Board { usable_v4: all, usable_v6: all, weights: vec![1, 1], ..Board::default() }
    }

    /// Rules that send their flows by the two lines in turn.
    fn config(mut rules: Vec<model::Rule>) -> Config {
        for (place, rule) in rules.iter_mut().enumerate() {
            rule.choice.uplinks = vec![(LINES[place % 2], 1)];
        }
        let uplink = |number| format!("[[uplink]]\nname = \"isp{number}\"\ninterface = \"eth{number}\"\n");
        let lan = "lan.interfaces = [\"lan0\", \"lan1\", \"lan2\"]\nqueue.offload = \"auto\"\n";
        let main = SourceFile { path: "main.toml".into(), text: format!("{lan}{}{}", uplink(1), uplink(2)) };
        let config = load(&main, &[], &Lists::default()).expect("a configuration");
        Config { rules: Arc::from(rules), ..config }
    }

    /// As packets are: ports and ICMP types go with their protocols.
    fn possible(facts: Facts<'static>) -> Facts<'static> {
        let protocol = facts.key.protocol;
        let is_icmp = protocol == 1 && facts.family == Family::V4;
        let has_ports = PROTOCOLS_WITH_PORTS.contains(&protocol);
        Facts { has_ports, icmp: facts.icmp.filter(|_| is_icmp), ..facts }
    }
}
