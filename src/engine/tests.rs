//! The engine as a whole: packets in, decisions out.

use std::collections::HashMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::packet::samples::{self, Builder};
use super::rule::arbitrary::rule;
use super::rule::hosts::HostName;
use super::rule::model::{Choice, HashKey, Matchers, NoLine, Policy, Rule};
use super::sniff::Name;
use super::sticky::{Sticky, StickyBy};
use super::uplink::cost::Cost;
use super::uplink::{Avoided, UplinkSet};
use super::*;

#[test]
fn without_rules_flows_take_turns_by_weight_in_each_family() {
    for family in Family::BOTH {
        let mut router = Router::new(vec![], &[3, 1]);
        let picked: Vec<_> = (0..8).map(|port| router.udp(family, port, 53)).collect();
        assert_eq!(picked, [0, 0, 1, 0, 0, 0, 1, 0].map(|uplink| routed(uplink, Reason::NoRule, None)));
    }
}

#[test]
fn further_packets_of_a_flow_get_the_same_answer_and_take_no_turn() {
    let mut router = Router::new(vec![], &[1, 1]);
    assert_eq!(router.udp(Family::V4, 1, 53), routed(0, Reason::NoRule, None));
    for _ in 0..3 {
        assert_eq!(router.udp(Family::V4, 1, 53), routed(0, Reason::Remembered, None));
    }
    assert_eq!(router.udp(Family::V4, 2, 53), routed(1, Reason::NoRule, None));
}

#[test]
fn only_the_first_packet_of_a_flow_counts_as_a_flow() {
    let mut router = Router::new(vec![], &[1, 1]);
    let packet = Builder::new(Family::V6).ports(UDP, 1, 53).build();
    let first = router.decide(&packet);
    let second = router.decide(&packet);
    assert_eq!((first.first, second.first), (true, false));
    assert!(first.key.is_some() && first.key == second.key);
}

#[test]
fn a_flow_is_decided_anew_when_it_is_no_longer_remembered() {
    let mut router = Router::new(vec![], &[1, 1]);
    assert_eq!(router.udp(Family::V4, 1, 53), routed(0, Reason::NoRule, None));
    router.now.at = Millis(9_999);
    assert_eq!(router.udp(Family::V4, 1, 53), routed(0, Reason::Remembered, None));
    router.now.at = Millis(10_000);
    assert_eq!(router.udp(Family::V4, 1, 53), routed(1, Reason::NoRule, None));
}

#[test]
fn a_stale_packet_keeps_the_kernels_choice_and_so_do_the_others_of_its_flow() {
    let mut router = Router::new(vec![], &[1, 1]);
    router.arrival.stale = true;
    assert_eq!(router.udp(Family::V4, 1, 53), Decision::keep(Reason::Stale, None));
    router.arrival.stale = false;
    assert_eq!(router.udp(Family::V4, 1, 53), Decision::keep(Reason::Remembered, None));
    assert_eq!(router.udp(Family::V4, 2, 53), routed(0, Reason::NoRule, None));
}

#[test]
fn a_stale_packet_of_a_flow_that_was_decided_gets_that_answer() {
    let mut router = Router::new(vec![], &[1, 1]);
    let _ = router.udp(Family::V4, 1, 53);
    router.arrival.stale = true;
    assert_eq!(router.udp(Family::V4, 1, 53), routed(0, Reason::Remembered, None));
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = vec![to_port(53, ordered(&[1])), to_port(53, ordered(&[0]))];
    let mut router = Router::new(rules, &[1, 1]);
    assert_eq!(router.udp(Family::V4, 1, 53), routed(1, Reason::RuleMatched, Some(0)));
    assert_eq!(router.udp(Family::V4, 1, 54), routed(0, Reason::NoRule, None));
}

#[test]
fn a_rule_without_a_usable_uplink_does_what_it_says() {
    let cases = [
        (WhenNone::NextRule, routed(0, Reason::RuleMatched, Some(1))),
        (WhenNone::Any, routed(0, Reason::AnyAfterRule, Some(0))),
        (WhenNone::Stop(NoLine::Drop), Decision::drop_by(RuleId(0))),
        (WhenNone::Stop(NoLine::Reject), Decision::reject_by(RuleId(0))),
        (WhenNone::Stop(NoLine::Keep), routed(1, Reason::KeptByRule, Some(0))),
    ];
    for (none, expected) in cases {
        let first = Rule { none, ..to_port(53, ordered(&[1])) };
        let mut router = Router::new(vec![first, to_port(53, ordered(&[0]))], &[1, 1]);
        router.up(&[0]);
        assert_eq!(router.udp(Family::V6, 1, 53), expected);
    }
}

#[test]
fn a_line_that_has_come_back_is_filled_little_by_little_by_every_policy() {
    let by_it = |router: &mut Router, source, port| {
        router.udp(Family::V4, source, port).action == Action::Route(UplinkId(1))
    };
    // No rule, and each policy: of a thousand flows so many go by the line in the end.
    for (port, whole) in [(80, 500.0), (53, 500.0), (54, 1000.0), (55, 500.0)] {
        for (at, part) in [(0, 1.0 / 16.0), (50_000, 17.0 / 32.0), (100_000, 1.0)] {
            let mut router = just_returned();
            router.now.at = Millis(at);
            let count = (0..1000).filter(|&source| by_it(&mut router, source, port)).count();
            // Five standard deviations of a binomial count of a thousand are below 80.
            let due: f64 = whole * part;
            assert!((count as f64 - due).abs() < 80.0, "port {port}: {count} at {at}, due {due}");
        }
    }
    let mut alone = just_returned();
    alone.up(&[1]);
    assert!((0..100).all(|source| by_it(&mut alone, source, 53)), "there is no other");
}

/// Two lines, of which the second takes a hundred seconds until it has its share, and a rule for each policy.
fn just_returned() -> Router {
    let policies = [Policy::RoundRobin, Policy::Ordered, Policy::Hash(HashKey::FiveTuple)];
    let choice = |policy| Choice { policy, ..ordered(&[1, 0]) };
    let rules = (53..).zip(policies).map(|(port, policy)| to_port(port, choice(policy)));
    let mut router = Router::new(rules.collect(), &[1, 1]);
    let lost = Board { usable_v4: [UplinkId(0)].into_iter().collect(), ..router.snapshot.board.clone() };
    let takes = [Duration::from_secs(100); 2];
    router.snapshot.filling = Filling::default().follow(&lost, &router.snapshot.board, &takes, Millis(0));
    router
}

#[test]
fn turns_go_on_exactly_where_they_were_while_a_line_is_filled() {
    let mut router = Router::new(vec![], &[2, 1]);
    let lost = Board { usable_v4: [UplinkId(0)].into_iter().collect(), ..router.snapshot.board.clone() };
    let takes = [Duration::from_secs(10); 2];
    router.snapshot.filling = Filling::default().follow(&lost, &router.snapshot.board, &takes, Millis(0));
    for port in 0..100 {
        let _ = router.udp(Family::V4, port, 80);
    }
    router.now.at = Millis(10_000);
    let flows = (100..400).map(|port| router.udp(Family::V4, port, 80).action);
    assert_eq!(flows.filter(|&action| action == Action::Route(UplinkId(1))).count(), 100);
}

#[test]
fn a_rules_round_robin_is_its_own() {
    let turns = Choice { policy: Policy::RoundRobin, uplinks: vec![(UplinkId(1), 2), (UplinkId(0), 1)] };
    let mut router = Router::new(vec![to_port(53, turns)], &[1, 1]);
    let picked: Vec<_> = (0..3).map(|port| router.udp(Family::V4, port, 53)).collect();
    assert_eq!(picked, [1, 0, 1].map(|uplink| routed(uplink, Reason::RuleMatched, Some(0))));
    assert_eq!(router.udp(Family::V4, 9, 54), routed(0, Reason::NoRule, None));
}

#[test]
fn two_workers_agree_about_hashed_flows() {
    let hash = Choice { policy: Policy::Hash(HashKey::FiveTuple), ..ordered(&[0, 1, 2]) };
    let rules = vec![to_port(53, hash)];
    let [mut one, mut other] = [Router::new(rules.clone(), &[1, 1, 1]), Router::new(rules, &[1, 1, 1])];
    for port in (0..100).rev() {
        let _ = other.udp(Family::V6, port, 53);
    }
    for port in 0..100 {
        assert_eq!(one.udp(Family::V6, port, 53).action, other.udp(Family::V6, port, 53).action);
    }
}

#[test]
fn without_a_usable_uplink_of_its_family_a_flow_is_left_to_the_kernel() {
    let mut router = Router::new(vec![], &[1, 1]);
    router.snapshot.board.usable_v6 = UplinkSet::EMPTY;
    assert_eq!(router.udp(Family::V6, 1, 53), Decision::keep(Reason::NoUplink, None));
    assert_eq!(router.udp(Family::V4, 1, 53), routed(0, Reason::NoRule, None));
}

#[test]
fn without_a_usable_uplink_a_flow_is_left_alone_or_refused_until_one_is_back() {
    for none in [NoLine::Keep, NoLine::Reject, NoLine::Drop] {
        let mut router = Router::new(vec![to_port(53, ordered(&[1]))], &[1, 1]);
        router.snapshot.none = none;
        router.up(&[]);
        for port in [53, 54] {
            let refused = Decision::without_line(none, None);
            assert_eq!(router.udp(Family::V4, 1, port), refused);
            assert_eq!(router.udp(Family::V4, 1, port), Decision { reason: Reason::Remembered, ..refused });
        }
        router.up(&[0, 1]);
        assert_eq!(router.udp(Family::V4, 1, 53), routed(1, Reason::RuleMatched, Some(0)));
    }
}

#[test]
fn lines_that_are_called_down_are_believed_to_be_by_those_who_refuse_and_tried_by_those_who_keep() {
    let of = |none: WhenNone, doubted: &[u8], up: &[u8]| {
        let mut router = Router::new(vec![Rule { none, ..to_port(53, ordered(&[1])) }], &[1, 1]);
        router.up(up);
        let doubted = doubted.iter().map(|&line| UplinkId(line)).collect();
        router.snapshot.board.doubted = Avoided { v4: doubted, v6: doubted };
        router.udp(Family::V4, 1, 53)
    };
    use NoLine::{Drop, Keep, Reject};
    let by_rule = routed(1, Reason::RuleMatched, Some(0));
    // All lines are called down, and used all the same.
    assert_eq!(of(WhenNone::NextRule, &[0, 1], &[0, 1]), by_rule);
    assert_eq!(of(WhenNone::Stop(Keep), &[0, 1], &[0, 1]), by_rule);
    assert_eq!(of(WhenNone::Stop(Reject), &[0, 1], &[0, 1]), Decision::reject_by(RuleId(0)));
    assert_eq!(of(WhenNone::Stop(Drop), &[0, 1], &[0, 1]), Decision::drop_by(RuleId(0)));
    // The rule's line alone is called down.
    assert_eq!(of(WhenNone::Stop(Keep), &[1], &[0]), routed(1, Reason::KeptByRule, Some(0)));
}

#[test]
fn a_remembered_flow_whose_uplink_has_gone_is_decided_anew() {
    let mut router = Router::new(vec![], &[1, 1]);
    let _ = router.udp(Family::V4, 1, 53);
    router.up(&[1]);
    assert_eq!(router.udp(Family::V4, 1, 53), routed(1, Reason::NoRule, None));
}

#[test]
fn a_dropped_flow_is_let_out_as_soon_as_its_uplink_is_back() {
    let strict = Rule { none: WhenNone::Stop(NoLine::Drop), ..to_port(53, ordered(&[1])) };
    let mut router = Router::new(vec![strict], &[1, 1]);
    router.up(&[0]);
    assert_eq!(router.udp(Family::V4, 1, 53), Decision::drop_by(RuleId(0)));
    assert_eq!(router.udp(Family::V4, 1, 53).reason, Reason::Remembered);
    router.up(&[0, 1]);
    assert_eq!(router.udp(Family::V4, 1, 53), routed(1, Reason::RuleMatched, Some(0)));
}

#[test]
fn fragments_and_garbage_are_left_to_the_kernel() {
    let mut router = Router::new(vec![], &[1, 1]);
    for (offset, more) in [(0, true), (9, true), (9, false)] {
        for (_, bytes) in samples::both(|ip| ip.fragment(offset, more).ports(UDP, 1, 53)) {
            assert_eq!(router.decide(&bytes).decision, Decision::keep(Reason::Fragment, None));
        }
    }
    assert_eq!(router.decide(&[0; 40]).decision, Decision::keep(Reason::Unparsable, None));
    assert_eq!(router.udp(Family::V4, 1, 53), routed(0, Reason::NoRule, None));
}

#[test]
fn flows_beyond_the_tables_room_are_decided_and_the_oldest_forgotten() {
    let mut router = Router::new(vec![], &[1, 1]);
    router.engine = Engine::new(2);
    for port in 0..4 {
        assert_eq!(router.udp(Family::V4, port, 53), routed((port % 2) as u8, Reason::NoRule, None));
    }
    assert_eq!(router.udp(Family::V4, 3, 53), routed(1, Reason::Remembered, None));
    assert_eq!(router.udp(Family::V4, 0, 53), routed(0, Reason::NoRule, None));
}

#[test]
fn loading_rules_anew_does_not_disturb_the_turns_of_a_rule_that_stayed() {
    let turns = Choice { policy: Policy::RoundRobin, ..ordered(&[0, 1]) };
    let stayed = to_port(53, turns);
    let mut router = Router::new(vec![stayed.clone()], &[1, 1]);
    assert_eq!(router.udp(Family::V4, 1, 53), routed(0, Reason::RuleMatched, Some(0)));
    let added = Rule { name: "added".into(), ..to_port(99, ordered(&[0])) };
    router.snapshot.rules = Arc::new(RuleSet::compile(vec![added, stayed]));
    assert_eq!(router.udp(Family::V4, 2, 53), routed(1, Reason::RuleMatched, Some(1)));
}

proptest! {
    #[test]
    fn whatever_happens_a_flow_has_one_answer_while_its_uplink_is_up(
        steps in proptest::collection::vec((0..12_u16, 0..4_u64, any::<bool>()), 1..200),
    ) {
        let mut router = Router::new(vec![to_port(53, Choice { policy: Policy::RoundRobin, ..ordered(&[0, 1]) })], &[3, 1]);
        let mut answers: HashMap<u16, Action> = HashMap::new();
        for (port, pause, stale) in steps {
            router.now.at.0 += pause;
            router.arrival.stale = stale;
            let action = router.udp(Family::V4, port, 50 + port % 4).action;
            prop_assert_eq!(*answers.entry(port).or_insert(action), action);
        }
    }

    #[test]
    fn any_bytes_get_an_answer(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..20)) {
        let mut router = Router::new(vec![to_port(53, ordered(&[0]))], &[1, 1]);
        for packet in packets {
            let decided = router.decide(&packet);
            prop_assert!(decided.key.is_some() || decided.decision.action == Action::Keep);
        }
    }
}

#[test]
fn a_rule_for_a_name_takes_the_first_flow_of_the_client_that_was_told_it() {
    let host = Matchers { host: vec![HostName::parse("*.video.example").unwrap()], ..Matchers::default() };
    let video = Rule { choice: ordered(&[1]), ..rule(host, Matchers::default()) };
    for family in Family::BOTH {
        let mut router = Router::new(vec![video.clone()], &[1, 1]);
        let packet = Builder::new(family).ports(6, 1, 443).build();
        let (client, server) = ends(&packet);
        assert_eq!(router.decide(&packet).decision.reason, Reason::NoRule);
        let name = Name::new(b"www.video.example").unwrap();
        router.snapshot.names.told(client, server, &name, 0, router.now.at);
        let next = Builder::new(family).ports(6, 2, 443).build();
        assert_eq!(router.decide(&next).decision, routed(1, Reason::RuleMatched, Some(0)));
    }
}

#[test]
fn what_a_resolver_is_asked_for_is_not_the_host_of_the_question() {
    let host = Matchers { host: vec![HostName::parse("*.video.example").unwrap()], ..Matchers::default() };
    let mut router = Router::new(vec![rule(host, Matchers::default())], &[1, 1]);
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x05video\x07example\0\0\x01\0\x01";
    let mut packet = Builder::new(Family::V4).ports(UDP, 40_000, 53).build();
    packet.truncate(28);
    packet.extend(question);
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    assert_eq!(router.decide(&packet).decision.reason, Reason::NoRule);
}

#[test]
fn flows_stick_to_the_line_of_the_first_until_it_is_gone() {
    let sticky = Some(Sticky { by: StickyBy::Client, lasts: Duration::from_secs(600) });
    let turns = Choice { policy: Policy::RoundRobin, ..ordered(&[0, 1]) };
    let mut router = Router::new(vec![Rule { sticky, ..to_port(53, turns) }], &[1, 1]);
    assert_eq!(router.udp(Family::V4, 1, 53), routed(0, Reason::RuleMatched, Some(0)));
    for port in 2..5 {
        assert_eq!(router.udp(Family::V4, port, 53), routed(0, Reason::Sticky, Some(0)));
    }
    router.up(&[1]);
    assert_eq!(router.udp(Family::V4, 5, 53), routed(1, Reason::RuleMatched, Some(0)));
    router.up(&[0, 1]);
    assert_eq!(router.udp(Family::V4, 6, 53), routed(1, Reason::Sticky, Some(0)));
    router.now.at = router.now.at.after(Duration::from_secs(600));
    assert_eq!(router.udp(Family::V4, 7, 53).reason, Reason::RuleMatched);
}

/// A packet's source and destination.
fn ends(packet: &[u8]) -> (IpAddr, IpAddr) {
    let packet = packet::parse(packet).unwrap();
    (packet.src, packet.dst)
}

/// An engine and all that it is told.
#[test]
fn a_dear_line_is_used_where_no_cheaper_one_is_left_or_a_rule_names_no_other() {
    let mut router = Router::new(vec![to_port(53, ordered(&[1]))], &[1, 1]);
    router.snapshot.board.costs = vec![Cost::tier(0), Cost::tier(1)];
    let picked = [1, 2].map(|port| router.udp(Family::V4, port, 80));
    assert_eq!(picked, [routed(0, Reason::NoRule, None); 2]);
    assert_eq!(router.udp(Family::V4, 3, 53), routed(1, Reason::RuleMatched, Some(0)));
    router.up(&[1]);
    assert_eq!(router.udp(Family::V6, 4, 80), routed(1, Reason::NoRule, None));
    router.up(&[0, 1]);
    router.snapshot.board.costs[0] = Cost::USED_UP;
    assert_eq!(router.udp(Family::V6, 5, 80), routed(1, Reason::NoRule, None));
}

#[test]
fn what_sticks_to_a_dear_line_does_so_no_longer_than_was_asked_for_when_it_was_chosen() {
    let sticky = Some(Sticky { by: StickyBy::Client, lasts: Duration::from_secs(600) });
    let mut router = Router::new(vec![Rule { sticky, ..to_port(53, ordered(&[0, 1])) }], &[1, 1]);
    router.snapshot.board.costs = vec![Cost::tier(0), Cost::tier(1)];
    router.up(&[1]);
    assert_eq!(router.udp(Family::V4, 1, 53), routed(1, Reason::RuleMatched, Some(0)));
    router.up(&[0, 1]);
    for (port, minute) in (2..).zip(1..10) {
        router.now.at = Millis(minute * 60_000);
        assert_eq!(router.udp(Family::V4, port, 53), routed(1, Reason::Sticky, Some(0)), "minute {minute}");
    }
    router.now.at = Millis(600_000);
    assert_eq!(router.udp(Family::V4, 99, 53), routed(0, Reason::RuleMatched, Some(0)));
}

proptest! {
    #[test]
    fn a_flow_gets_a_usable_line_of_the_lowest_cost_that_its_rule_has(
        usable in any::<[bool; 5]>(),
        tiers in any::<[u8; 5]>().prop_map(|tiers| tiers.map(|tier| tier % 3)),
        used_up in any::<[bool; 5]>(),
        named in proptest::sample::subsequence(vec![0_u8, 1, 2, 3, 4], 1..5),
        policy in 0..3_usize,
        none in proptest::sample::select(&[WhenNone::NextRule, WhenNone::Any, WhenNone::Stop(NoLine::Drop)][..]),
    ) {
        let policy = [Policy::RoundRobin, Policy::Ordered, Policy::Hash(HashKey::FiveTuple)][policy];
        let rule = Rule { none, ..to_port(53, Choice { policy, ..ordered(&named) }) };
        let mut router = Router::new(vec![rule], &[1; 5]);
        let up: Vec<u8> = (0..5).filter(|&line| usable[usize::from(line)]).collect();
        router.up(&up);
        let price = |line: u8| if used_up[usize::from(line)] { 999 } else { u32::from(tiers[usize::from(line)]) };
        let cost = |line: u8| if used_up[usize::from(line)] { Cost::USED_UP } else { Cost::tier(tiers[usize::from(line)]) };
        router.snapshot.board.costs = (0..5).map(cost).collect();
        let cheapest = |lines: &[u8]| -> Vec<u8> {
            let usable: Vec<u8> = lines.iter().copied().filter(|&line| usable[usize::from(line)]).collect();
            usable.iter().copied().filter(|&line| usable.iter().all(|&other| price(line) <= price(other))).collect()
        };
        let (of_rule, of_all) = (cheapest(&named), cheapest(&[0, 1, 2, 3, 4]));
        for port in 0..10 {
            let action = router.udp(Family::V4, port, 53).action;
            let expected = match (of_rule.is_empty(), none) {
                (false, _) => &of_rule,
                (true, WhenNone::Stop(_)) => { prop_assert_eq!(action, Action::Drop); continue }
                (true, WhenNone::NextRule | WhenNone::Any) => &of_all,
            };
            match action {
                Action::Route(UplinkId(line)) => prop_assert!(expected.contains(&line), "{} not in {:?}", line, expected),
                _ => prop_assert!(expected.is_empty()),
            }
        }
    }
}

struct Router {
    engine: Engine,
    snapshot: Snapshot,
    arrival: Arrival,
    now: Now,
}

impl Router {
    /// All uplinks are up, in both families.
    fn new(rules: Vec<Rule>, weights: &[u8]) -> Self {
        let board = Board { weights: weights.to_vec(), ..Board::default() };
        let snapshot =
            Snapshot { rules: Arc::new(RuleSet::compile(rules.as_slice())), board, ..Snapshot::default() };
        let mut router =
            Router { engine: Engine::new(1024), snapshot, arrival: Arrival::default(), now: Now::default() };
        router.up(&(0..weights.len() as u8).collect::<Vec<_>>());
        router
    }

    fn up(&mut self, uplinks: &[u8]) {
        let usable = uplinks.iter().copied().map(UplinkId).collect();
        (self.snapshot.board.usable_v4, self.snapshot.board.usable_v6) = (usable, usable);
    }

    fn udp(&mut self, family: Family, src_port: u16, dst_port: u16) -> Decision {
        self.decide(&Builder::new(family).ports(UDP, src_port, dst_port).build()).decision
    }

    fn decide(&mut self, packet: &[u8]) -> Decided {
        self.engine.decide(&self.snapshot, packet, &self.arrival, self.now)
    }
}

fn to_port(port: u16, choice: Choice) -> Rule {
    let matches = Matchers { dst_port: vec![port..=port], ..Matchers::default() };
    Rule { choice, ..rule(matches, Matchers::default()) }
}

fn ordered(uplinks: &[u8]) -> Choice {
    Choice { policy: Policy::Ordered, uplinks: uplinks.iter().map(|&uplink| (UplinkId(uplink), 1)).collect() }
}

fn routed(uplink: u8, reason: Reason, rule: Option<u16>) -> Decision {
    Decision::route(UplinkId(uplink), reason, rule.map(RuleId))
}
