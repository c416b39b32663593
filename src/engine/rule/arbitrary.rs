//! Rules and facts for the tests: small ranges of values, so that matches are frequent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::hosts::{HostName, HostSet, Reach};
use super::model::{Choice, IcmpType, Live, Matchers, OnMismatch, Payload, Policy, Rule, TimeSpan, WhenNone};
use super::texts::{Expressions, Texts};
use crate::engine::flow::{Facts, FlowKey, LanId, LocalTime, Mac};
use crate::engine::geo::{Asn, Country};
use crate::engine::packet::Family;
use crate::engine::sniff::{Alpn, App, Name};
use crate::engine::uplink::UplinkId;

/// A rule that uses the first uplink.
pub(crate) fn rule(matches: Matchers, not: Matchers) -> Rule {
    Rule {
        name: "test".into(),
        origin: "test.toml:1".into(),
        matches,
        not,
        choice: Choice { policy: Policy::Ordered, uplinks: vec![(UplinkId(0), 1)] },
        sticky: None,
        none: WhenNone::NextRule,
        hold: Duration::ZERO,
        on_mismatch: OnMismatch::default(),
        live: Live::default(),
    }
}

/// A web flow from 10.77.0.5 to 198.51.100.7.
pub(crate) fn facts() -> Facts<'static> {
    let (src, dst) = (Ipv4Addr::new(10, 77, 0, 5).into(), Ipv4Addr::new(198, 51, 100, 7).into());
    Facts { length: 60, ..Facts::about(FlowKey { src, dst, protocol: 6, src_port: 40000, dst_port: 443 }) }
}

pub(crate) fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    vec((any_matchers(2), any_matchers(12)).prop_map(|(matches, not)| rule(matches, not)), 0..40)
}

/// Few labels, so that names are often under each other.
pub(super) fn any_name() -> impl Strategy<Value = Name> {
    let labels = vec(select(&["a", "b", "ab"]), 1..4);
    labels.prop_map(|labels| Name::new(labels.join(".").as_bytes()).expect("a name"))
}

pub(super) fn any_host_name() -> impl Strategy<Value = HostName> {
    let reach = select(&[Reach::Itself, Reach::Below, Reach::Both]);
    (any_name(), reach).prop_map(|(name, reach)| HostName { name, reach })
}

pub(crate) fn any_facts() -> impl Strategy<Value = Facts<'static>> {
    let places = (option::of(any_country()), option::of(any_asn()));
    (any_bare_facts(), any_contents(), places).prop_map(|(facts, contents, (country, asn))| {
        let (name, app, alpn, method, user_agent, payload) = contents;
        let alpn = alpn.iter().fold(Alpn::default(), |list, id| list.with(id.as_bytes()));
        let [method, user_agent] = [method, user_agent].map(|text| text.map(str::as_bytes));
        Facts { country, asn, name, app, alpn, method, user_agent, payload: payload.as_bytes(), ..facts }
    })
}

type Contents =
    (Option<Name>, Option<App>, Vec<&'static str>, Option<&'static str>, Option<&'static str>, &'static str);

fn any_contents() -> impl Strategy<Value = Contents> {
    (
        option::of(any_name()),
        option::of(any_app()),
        vec(select(ALPN), 0..3),
        option::of(select(METHODS)),
        option::of(select(AGENTS)),
        select(PAYLOADS),
    )
}

fn any_bare_facts() -> impl Strategy<Value = Facts<'static>> {
    let key =
        (any_family(), any::<[u8; 2]>(), prop_oneof![Just(1_u8), Just(6), Just(17)], any_port(), any_port());
    let rest = (
        any::<bool>(),
        option::of((any_kind(), any_kind())),
        option::of(any_mac()),
        option::of((0..3_u8).prop_map(LanId)),
        0..4_u8,
        prop_oneof![0..100_u32, 65_500..70_000_u32],
        (0..7_u8, prop_oneof![0..1440_u16, Just(0), Just(1439)]),
    );
    (key, rest).prop_map(|((family, [src, dst], protocol, src_port, dst_port), rest)| {
        let (has_ports, icmp, src_mac, lan, dscp, length, (weekday, minute)) = rest;
        let (src, dst) = (address(family, src), address(family, dst));
        let key = FlowKey { src, dst, protocol, src_port, dst_port };
        let when = LocalTime { weekday, minute };
        Facts { key, family, has_ports, icmp, src_mac, lan, dscp, length, when, ..facts() }
    })
}

/// Each key asks for something about once in `rarity` times.
fn any_matchers(rarity: u32) -> impl Strategy<Value = Matchers> {
    (any_bare_matchers(rarity), any_content_matchers(rarity)).prop_map(|(bare, contents)| Matchers {
        dst_list: contents.dst_list,
        dst_country: contents.dst_country,
        dst_asn: contents.dst_asn,
        host: contents.host,
        host_list: contents.host_list,
        app: contents.app,
        alpn: contents.alpn,
        http_method: contents.http_method,
        user_agent: contents.user_agent,
        payload: contents.payload,
        ..bare
    })
}

fn any_content_matchers(rarity: u32) -> impl Strategy<Value = Matchers> {
    let lists = (
        sparse(vec(any_net(), 1..4).prop_map(|nets| Arc::new(nets.iter().collect())), rarity * 3),
        sparse(any_host_set(), rarity * 3),
        sparse(any_country(), rarity * 3),
        sparse(any_asn(), rarity * 3),
    );
    let names = (sparse(any_host_name(), rarity), sparse(any_app(), rarity * 2));
    let texts = (
        sparse(any_bytes(ALPN), rarity * 3),
        sparse(any_bytes(METHODS), rarity * 4),
        sparse(any_bytes(&["moz", "CURL", "/"]), rarity * 4),
        prop_oneof![rarity * 4 => Just(Payload::default()), 1 => any_payload_patterns()],
    );
    (lists, names, texts).prop_map(|((dst_list, host_list, dst_country, dst_asn), (host, app), texts)| {
        let (alpn, http_method, agents, payload) = texts;
        let user_agent = Texts::in_any_case(agents).expect("few texts");
        Matchers {
            dst_list,
            dst_country,
            dst_asn,
            host,
            host_list,
            app,
            alpn,
            http_method,
            user_agent,
            payload,
            ..Matchers::default()
        }
    })
}

fn any_host_set() -> impl Strategy<Value = Arc<HostSet>> {
    let keywords = sparse(any_bytes(&["ab.", "b.b"]), 2);
    let expressions = sparse(select(&["^a.*b$", "b[.]a"]), 2);
    (vec(any_host_name(), 0..4), keywords, expressions).prop_map(|(names, keywords, expressions)| {
        Arc::new(HostSet {
            names: names.iter().collect(),
            keywords: Texts::exact(keywords).expect("few texts"),
            expressions: Expressions::new(expressions).expect("good expressions"),
        })
    })
}

fn any_payload_patterns() -> impl Strategy<Value = Payload> {
    let at = sparse((0..4_u16, any_bytes(&["G", "ET", "\u{16}\u{3}"])), 1);
    let contains = sparse(any_bytes(&["T /", "\u{3}\u{1}", "xyz"]), 1);
    let expressions = sparse(select(&["^G", "[0-9]", "^$"]), 1);
    (at, contains, expressions).prop_map(|(at, contains, expressions)| Payload {
        at,
        contains: Texts::exact(contains).expect("few texts"),
        expressions: Expressions::new(expressions).expect("good expressions"),
    })
}

fn any_bare_matchers(rarity: u32) -> impl Strategy<Value = Matchers> {
    let nets = (sparse(any_net(), rarity), sparse(any_net(), rarity));
    let ports = (sparse(any_range(), rarity), sparse(any_range(), rarity), sparse(any_range(), rarity));
    let bytes = (
        sparse(prop_oneof![Just(1_u8), Just(6), Just(17)], rarity),
        sparse(0..4_u8, rarity * 2),
        sparse(0..7_u8, rarity * 2),
        sparse((0..3_u8).prop_map(LanId), rarity * 2),
    );
    let rest = (
        sparse(any_icmp_type(), rarity * 2),
        sparse(any_mac(), rarity * 2),
        sparse(any_family(), rarity),
        sparse(any_span(), rarity * 2),
    );
    (nets, ports, bytes, rest).prop_map(|(nets, ports, bytes, rest)| {
        let ((src, dst), (src_port, dst_port, length)) = (nets, ports);
        let (protocol, dscp, weekday, lan) = bytes;
        let (icmp_type, src_mac, family, time) = rest;
        Matchers {
            protocol,
            src,
            dst,
            src_port,
            dst_port,
            icmp_type,
            src_mac,
            lan,
            dscp,
            family,
            length,
            time,
            weekday,
            ..Matchers::default()
        }
    })
}

fn sparse<S: Strategy>(entry: S, rarity: u32) -> impl Strategy<Value = Vec<S::Value>>
where
    S::Value: Clone,
{
    let nothing = Just(()).prop_map(|()| Vec::new());
    prop_oneof![rarity => nothing, 1 => vec(entry, 1..4)]
}

fn any_family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

/// Addresses differ in their last byte.
fn address(family: Family, last: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 0, 0, last).into(),
        // IPv4-mapped: an IPv6 address must not fit an IPv4 net for all that.
        Family::V6 => Ipv6Addr::from_bits(0xffff_0a00_0000 | u128::from(last)).into(),
    }
}

pub(super) fn any_address() -> impl Strategy<Value = IpAddr> {
    (any_family(), any::<u8>()).prop_map(|(family, last)| address(family, last))
}

pub(super) fn any_net() -> impl Strategy<Value = IpNet> {
    (any_family(), any::<u8>(), 0..=9_u8, any::<bool>()).prop_map(|(family, last, wider, all)| {
        let full = if family == Family::V4 { 32 } else { 128 };
        let length = if all { 0 } else { full - wider };
        IpNet::new(address(family, last), length).expect("a length within the family's")
    })
}

const ALPN: &[&str] = &["h2", "h3", "http/1.1"];
const METHODS: &[&str] = &["GET", "PUT"];
const AGENTS: &[&str] = &["", "Mozilla/5.0", "curl/8"];
const PAYLOADS: &[&str] = &["", "GET / HTTP/1.1", "\u{16}\u{3}\u{1}", "xxyz9"];

fn any_app() -> impl Strategy<Value = App> {
    select(&[App::Tls, App::Quic, App::Discord])
}

fn any_country() -> impl Strategy<Value = Country> {
    select(&["de", "at", "ch"]).prop_map(|letters| Country::new(letters.as_bytes()).expect("a country"))
}

fn any_asn() -> impl Strategy<Value = Asn> {
    select(&["1", "2", "3320"]).prop_map(|number| Asn::parse(number).expect("a number"))
}

fn any_bytes(texts: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    select(texts).prop_map(|text| text.as_bytes().to_vec())
}

/// Few values, among them the first and the last.
fn any_port() -> impl Strategy<Value = u16> {
    prop_oneof![0..6_u16, 0..100_u16, Just(u16::MAX)]
}

fn any_range() -> impl Strategy<Value = RangeInclusive<u16>> {
    (any_port(), any_port()).prop_map(|(a, b)| a..=b)
}

fn any_kind() -> impl Strategy<Value = u8> {
    0..3_u8
}

fn any_icmp_type() -> impl Strategy<Value = IcmpType> {
    (any_family(), any_kind(), option::of(any_kind())).prop_map(|(family, kind, code)| IcmpType {
        family,
        kind,
        code,
    })
}

fn any_mac() -> impl Strategy<Value = Mac> {
    (0..3_u8).prop_map(|last| Mac([2, 0, 0, 0, 0, last]))
}

fn any_span() -> impl Strategy<Value = TimeSpan> {
    (0..1440_u16, 0..=1440_u16).prop_map(|(from, to)| TimeSpan { from, to })
}
