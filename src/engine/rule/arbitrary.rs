//! Rules and facts for the tests: small ranges of values, so that matches are frequent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::model::{Choice, IcmpType, Matchers, Policy, Rule, TimeSpan, WhenNone};
use crate::engine::flow::{Facts, FlowKey, LanId, LocalTime, Mac};
use crate::engine::packet::Family;
use crate::engine::uplink::UplinkId;

/// A rule that uses the first uplink.
pub(crate) fn rule(matches: Matchers, not: Matchers) -> Rule {
    Rule {
        name: "test".into(),
        origin: "test.toml:1".into(),
        matches,
        not,
        choice: Choice { policy: Policy::Ordered, uplinks: vec![(UplinkId(0), 1)] },
        none: WhenNone::NextRule,
    }
}

/// A web flow from 10.77.0.5 to 198.51.100.7.
pub(crate) fn facts() -> Facts {
    let (src, dst) = (Ipv4Addr::new(10, 77, 0, 5).into(), Ipv4Addr::new(198, 51, 100, 7).into());
    Facts {
        key: FlowKey { src, dst, protocol: 6, src_port: 40000, dst_port: 443 },
        family: Family::V4,
        has_ports: true,
        icmp: None,
        src_mac: None,
        lan: None,
        dscp: 0,
        length: 60,
        when: LocalTime::default(),
    }
}

pub(super) fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    vec((any_matchers(2), any_matchers(12)).prop_map(|(matches, not)| rule(matches, not)), 0..40)
}

pub(super) fn any_facts() -> impl Strategy<Value = Facts> {
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
        Facts { key, family, has_ports, icmp, src_mac, lan, dscp, length, when }
    })
}

/// Each key asks for something about once in `rarity` times.
fn any_matchers(rarity: u32) -> impl Strategy<Value = Matchers> {
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

fn any_net() -> impl Strategy<Value = IpNet> {
    (any_family(), any::<u8>(), 0..=9_u8, any::<bool>()).prop_map(|(family, last, wider, all)| {
        let full = if family == Family::V4 { 32 } else { 128 };
        let length = if all { 0 } else { full - wider };
        IpNet::new(address(family, last), length).expect("a length within the family's")
    })
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
