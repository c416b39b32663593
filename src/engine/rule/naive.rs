//! The oracle: what rules mean, written to be read and not to be fast.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::model::{IcmpType, Matchers, Rule, RuleId, TimeSpan};
use crate::engine::flow::Facts;

/// The first rule at or after `start` that matches.
#[must_use]
pub fn first_match_from(rules: &[Rule], start: RuleId, facts: &Facts) -> Option<RuleId> {
    let numbered = rules.iter().zip(0..=u16::MAX).map(|(rule, id)| (RuleId(id), rule));
    numbered.skip_while(|(id, _)| *id < start).find(|(_, rule)| matches(rule, facts)).map(|(id, _)| id)
}

/// Whether a rule matches: every key of `match` that asks for something fits,
/// and no key of `not` does.
#[must_use]
pub fn matches(rule: &Rule, facts: &Facts) -> bool {
    let all = answers(&rule.matches, facts).into_iter().flatten().all(|fits| fits);
    let none = answers(&rule.not, facts).into_iter().flatten().all(|fits| !fits);
    all && none
}

/// Each key's answer; `None` from a key that asks nothing.
fn answers(matchers: &Matchers, facts: &Facts) -> [Option<bool>; 13] {
    let key = &facts.key;
    [
        any(&matchers.protocol, |protocol| *protocol == key.protocol),
        any(&matchers.src, |net| holds(net, key.src)),
        any(&matchers.dst, |net| holds(net, key.dst)),
        any(&matchers.src_port, |range| facts.has_ports && range.contains(&key.src_port)),
        any(&matchers.dst_port, |range| facts.has_ports && range.contains(&key.dst_port)),
        any(&matchers.icmp_type, |icmp| is_type(icmp, facts)),
        any(&matchers.src_mac, |mac| facts.src_mac == Some(*mac)),
        any(&matchers.lan, |lan| facts.lan == Some(*lan)),
        any(&matchers.dscp, |dscp| *dscp == facts.dscp),
        any(&matchers.family, |family| *family == facts.family),
        any(&matchers.length, |range| length_in(range, facts.length)),
        any(&matchers.time, |span| minute_in(span, facts.when.minute)),
        any(&matchers.weekday, |weekday| *weekday == facts.when.weekday),
    ]
}

fn any<T>(entries: &[T], fits: impl Fn(&T) -> bool) -> Option<bool> {
    (!entries.is_empty()).then(|| entries.iter().any(fits))
}

fn holds(net: &IpNet, address: IpAddr) -> bool {
    net.contains(&address)
}

fn is_type(wanted: &IcmpType, facts: &Facts) -> bool {
    facts.icmp.is_some_and(|(kind, code)| {
        wanted.family == facts.family
            && wanted.kind == kind
            && wanted.code.is_none_or(|wanted| wanted == code)
    })
}

/// Packets too long for a range to name (BIG TCP) count as the longest it can.
fn length_in(range: &RangeInclusive<u16>, length: u32) -> bool {
    range.contains(&u16::try_from(length).unwrap_or(u16::MAX))
}

fn minute_in(span: &TimeSpan, minute: u16) -> bool {
    if span.from <= span.to {
        (span.from..span.to).contains(&minute)
    } else {
        minute >= span.from || minute < span.to
    }
}

#[cfg(test)]
mod tests {
    use super::super::arbitrary::{facts, rule};
    use super::super::model::Matchers;
    use super::*;
    use crate::engine::flow::{LocalTime, Mac};
    use crate::engine::packet::Family;

    #[test]
    fn a_rule_that_asks_nothing_matches_everything() {
        assert!(matches(&rule(Matchers::default(), Matchers::default()), &facts()));
    }

    #[test]
    fn all_keys_must_fit_and_one_entry_of_each_is_enough() {
        let web =
            Matchers { protocol: vec![17, 6], dst_port: vec![80..=80, 440..=450], ..Matchers::default() };
        assert!(matches(&rule(web.clone(), Matchers::default()), &facts()));
        let other = Matchers { dscp: vec![46], ..web };
        assert!(!matches(&rule(other, Matchers::default()), &facts()));
    }

    #[test]
    fn one_fitting_key_of_not_is_enough_to_rule_a_flow_out() {
        let not =
            Matchers { dscp: vec![46], dst: vec!["198.51.100.0/24".parse().unwrap()], ..Matchers::default() };
        assert!(!matches(&rule(Matchers::default(), not), &facts()));
        let not =
            Matchers { dscp: vec![46], dst: vec!["192.0.2.0/24".parse().unwrap()], ..Matchers::default() };
        assert!(matches(&rule(Matchers::default(), not), &facts()));
    }

    #[test]
    fn what_a_packet_does_not_have_neither_fits_match_nor_not() {
        let mac = Matchers { src_mac: vec![Mac([1; 6])], ..Matchers::default() };
        let port = Matchers { dst_port: vec![0..=65535], ..Matchers::default() };
        let ping = Facts { has_ports: false, icmp: Some((8, 0)), ..facts() };
        for asked in [mac, port] {
            assert!(!matches(&rule(asked.clone(), Matchers::default()), &ping));
            assert!(matches(&rule(Matchers::default(), asked), &ping));
        }
    }

    #[test]
    fn a_type_of_icmp_is_not_the_same_number_in_icmpv6() {
        let icmp_type = |family, code| {
            let icmp_type = vec![IcmpType { family, kind: 8, code }];
            rule(Matchers { icmp_type, ..Matchers::default() }, Matchers::default())
        };
        let ping = Facts { icmp: Some((8, 1)), ..facts() };
        assert!(matches(&icmp_type(Family::V4, None), &ping));
        assert!(matches(&icmp_type(Family::V4, Some(1)), &ping));
        assert!(!matches(&icmp_type(Family::V4, Some(0)), &ping));
        assert!(!matches(&icmp_type(Family::V6, None), &ping));
    }

    #[test]
    fn a_span_of_time_holds_its_first_minute_and_not_its_last_also_over_midnight() {
        let at = |span, minute| {
            let time = Matchers { time: vec![span], ..Matchers::default() };
            let when = LocalTime { weekday: 0, minute };
            matches(&rule(time, Matchers::default()), &Facts { when, ..facts() })
        };
        let day = TimeSpan { from: 480, to: 1080 };
        assert_eq!([479, 480, 1079, 1080].map(|minute| at(day, minute)), [false, true, true, false]);
        let night = TimeSpan { from: 1320, to: 360 };
        assert_eq!(
            [1319, 1320, 0, 359, 360].map(|minute| at(night, minute)),
            [false, true, true, true, false]
        );
        let until_midnight = TimeSpan { from: 1380, to: 1440 };
        assert_eq!(
            [1379, 1380, 1439, 0].map(|minute| at(until_midnight, minute)),
            [false, true, true, false]
        );
    }

    #[test]
    fn the_search_begins_at_start() {
        let rules =
            [rule(Matchers::default(), Matchers::default()), rule(Matchers::default(), Matchers::default())];
        assert_eq!(first_match_from(&rules, RuleId(0), &facts()), Some(RuleId(0)));
        assert_eq!(first_match_from(&rules, RuleId(1), &facts()), Some(RuleId(1)));
        assert_eq!(first_match_from(&rules, RuleId(2), &facts()), None);
    }
}
