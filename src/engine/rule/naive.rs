//! The oracle: what rules mean, written to be read and not to be fast.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::model::{IcmpType, Matchers, Payload, Rule, RuleId, TimeSpan};
use super::texts::Texts;
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
    objections(rule, facts).next().is_none()
}

/// A key of a rule because of which it does not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Objection {
    /// Its name in rule files.
    pub key: &'static str,
    /// It stands under `not`, and fits; else under `match`, and does not.
    pub under_not: bool,
}

/// All keys because of which a rule does not match.
pub fn objections(rule: &Rule, facts: &Facts) -> impl Iterator<Item = Objection> {
    let missing = answered(&rule.matches, facts, false).map(|key| Objection { key, under_not: false });
    let excluded = answered(&rule.not, facts, true).map(|key| Objection { key, under_not: true });
    missing.chain(excluded)
}

/// The keys with this answer.
fn answered(matchers: &Matchers, facts: &Facts, wanted: bool) -> impl Iterator<Item = &'static str> {
    let answers = answers(matchers, facts).into_iter();
    answers.filter(move |(_, answer)| *answer == Some(wanted)).map(|(key, _)| key)
}

/// Each key's answer; `None` from a key that asks nothing.
fn answers(matchers: &Matchers, facts: &Facts) -> [(&'static str, Option<bool>); 21] {
    let key = &facts.key;
    [
        ("protocol", any(&matchers.protocol, |protocol| *protocol == key.protocol)),
        ("src", any(&matchers.src, |net| holds(net, key.src))),
        (
            "dst",
            either(
                any(&matchers.dst, |net| holds(net, key.dst)),
                any(&matchers.dst_list, |list| list.contains(key.dst)),
            ),
        ),
        ("dst_country", any(&matchers.dst_country, |country| facts.country == Some(*country))),
        ("dst_asn", any(&matchers.dst_asn, |asn| facts.asn == Some(*asn))),
        ("src_port", any(&matchers.src_port, |range| facts.has_ports && range.contains(&key.src_port))),
        ("dst_port", any(&matchers.dst_port, |range| facts.has_ports && range.contains(&key.dst_port))),
        ("icmp_type", any(&matchers.icmp_type, |icmp| is_type(icmp, facts))),
        ("src_mac", any(&matchers.src_mac, |mac| facts.src_mac == Some(*mac))),
        ("lan", any(&matchers.lan, |lan| facts.lan == Some(*lan))),
        ("dscp", any(&matchers.dscp, |dscp| *dscp == facts.dscp)),
        ("family", any(&matchers.family, |family| *family == facts.family)),
        ("length", any(&matchers.length, |range| length_in(range, facts.length))),
        ("time", any(&matchers.time, |span| minute_in(span, facts.when.minute))),
        ("weekday", any(&matchers.weekday, |weekday| *weekday == facts.when.weekday)),
        (
            "host",
            either(
                any(&matchers.host, |host| facts.name.is_some_and(|name| host.means(&name))),
                any(&matchers.host_list, |list| facts.name.is_some_and(|name| list.contains(&name))),
            ),
        ),
        ("app", any(&matchers.app, |app| facts.app == Some(*app))),
        ("alpn", any(&matchers.alpn, |wanted| facts.alpn.ids().any(|id| id == wanted))),
        ("http_method", any(&matchers.http_method, |method| facts.method == Some(method))),
        ("user_agent", names_itself(&matchers.user_agent, facts.user_agent.unwrap_or_default())),
        ("payload", looks_like(&matchers.payload, facts.payload)),
    ]
}

/// Two lists of one key.
fn either(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    if one.is_none() && other.is_none() { None } else { Some(one == Some(true) || other == Some(true)) }
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

fn names_itself(texts: &Texts, agent: &[u8]) -> Option<bool> {
    let holds = |text: &[u8]| agent.windows(text.len().max(1)).any(|part| part.eq_ignore_ascii_case(text));
    (!texts.is_empty()).then(|| texts.iter().any(holds))
}

fn looks_like(patterns: &Payload, payload: &[u8]) -> Option<bool> {
    let at = patterns.at.iter().any(|(start, bytes)| {
        payload.get(usize::from(*start)..).is_some_and(|payload| payload.starts_with(bytes))
    });
    let contains =
        patterns.contains.iter().any(|text| payload.windows(text.len().max(1)).any(|part| part == text));
    let found = patterns.expressions.found_in(payload);
    (!patterns.is_empty()).then_some(!payload.is_empty() && (at || contains || found))
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
    use std::sync::Arc;

    use super::super::arbitrary::{facts, rule};
    use super::super::hosts::{HostName, HostSet};
    use super::super::model::Matchers;
    use super::*;
    use crate::engine::flow::{LocalTime, Mac};
    use crate::engine::packet::Family;
    use crate::engine::sniff::{Alpn, App, Name};

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
    fn of_a_list_and_the_names_beside_it_one_must_fit() {
        let host = vec![HostName::parse("www.example.org").unwrap()];
        let names = [HostName::parse("*.example.net").unwrap()].iter().collect();
        let host_list = vec![Arc::new(HostSet { names, ..HostSet::default() })];
        let asked = Matchers { host, host_list, ..Matchers::default() };
        let to = |name: &str| Facts { name: Name::new(name.as_bytes()), ..facts() };
        for (name, fits) in [("www.example.org", true), ("a.example.net", true), ("example.org", false)] {
            assert_eq!(matches(&rule(asked.clone(), Matchers::default()), &to(name)), fits, "{name}");
            assert_eq!(matches(&rule(Matchers::default(), asked.clone()), &to(name)), !fits, "{name}");
        }
        assert!(!matches(&rule(asked.clone(), Matchers::default()), &facts()));
        assert!(matches(&rule(Matchers::default(), asked), &facts()));
    }

    #[test]
    fn contents_fit_by_what_the_client_said() {
        let web = Facts {
            app: Some(App::Http),
            alpn: Alpn::default().with(b"h2"),
            method: Some(b"GET"),
            user_agent: Some(b"Mozilla/5.0"),
            payload: b"GET /",
            ..facts()
        };
        let payload = |at: &[(u16, &[u8])], contains: &[&str]| Matchers {
            payload: Payload {
                at: at.iter().map(|(start, bytes)| (*start, bytes.to_vec())).collect(),
                contains: Texts::exact(contains.iter().copied()).unwrap(),
                ..Payload::default()
            },
            ..Matchers::default()
        };
        let agent =
            |text| Matchers { user_agent: Texts::in_any_case([text]).unwrap(), ..Matchers::default() };
        let none = Matchers::default();
        let cases = [
            (Matchers { app: vec![App::Tls, App::Http], ..none.clone() }, true),
            (Matchers { app: vec![App::Tls], ..none.clone() }, false),
            (Matchers { alpn: vec![b"h3".to_vec(), b"h2".to_vec()], ..none.clone() }, true),
            (Matchers { alpn: vec![b"h".to_vec()], ..none.clone() }, false),
            (Matchers { http_method: vec![b"GET".to_vec()], ..none.clone() }, true),
            (Matchers { http_method: vec![b"PUT".to_vec()], ..none.clone() }, false),
            (agent("mozilla"), true),
            (agent("curl"), false),
            (payload(&[(0, b"GET")], &[]), true),
            (payload(&[(4, b"/")], &["PUT"]), true),
            (payload(&[(5, b"/")], &[]), false),
            (payload(&[], &["ET "]), true),
        ];
        for (asked, fits) in cases {
            assert_eq!(matches(&rule(asked.clone(), none.clone()), &web), fits, "{asked:?}");
            assert!(asked.ask_for_contents() && !matches(&rule(asked, none.clone()), &facts()));
        }
        assert!(!none.ask_for_contents());
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
