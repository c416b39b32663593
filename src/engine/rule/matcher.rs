//! [`Matcher`]: one key of a rule, in the form in which asking is cheapest.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::hosts::{HostNames, HostSet};
use super::model::{IcmpType, Matchers, Payload, TimeSpan};
use super::nets::NetSet;
use super::ranges::{ByteSet, Ranges};
use super::texts::Texts;
use crate::engine::flow::{Facts, Mac};
use crate::engine::geo::{Asn, Country};
use crate::engine::packet::Family;
use crate::engine::sniff::Name;

/// One key of `match` or `not` that asks for something.
///
/// Numbers below 256 are bits of a set, nets, ports, lengths and times are sorted ranges,
/// hardware addresses and ICMP types sorted lists. What is asked of contents is dearest and comes last.
#[derive(Debug, Clone)]
pub(super) enum Matcher {
    Family(ByteSet),
    Protocol(ByteSet),
    Lan(ByteSet),
    Dscp(ByteSet),
    Weekday(ByteSet),
    SrcPort(Ranges<u16>),
    DstPort(Ranges<u16>),
    Length(Ranges<u16>),
    Time(Ranges<u16>),
    Src(NetSet),
    Dst(NetSet, Box<[Arc<NetSet>]>),
    DstCountry(Box<[Country]>),
    DstAsn(Box<[Asn]>),
    SrcMac(Box<[Mac]>),
    IcmpType(Box<[(Family, u8, Option<u8>)]>),
    App(ByteSet),
    Alpn(Box<[Vec<u8>]>),
    HttpMethod(Box<[Vec<u8>]>),
    Host(HostNames, Box<[Arc<HostSet>]>),
    UserAgent(Texts),
    Payload(Payload),
}

impl Matcher {
    /// The keys that ask for something, the cheapest and most telling first.
    pub(super) fn all_of(matchers: &Matchers) -> Box<[Matcher]> {
        let keys = [
            asked(&matchers.family, |list| {
                Matcher::Family(list.iter().map(|&family| family as u8).collect())
            }),
            asked(&matchers.protocol, |list| Matcher::Protocol(list.iter().copied().collect())),
            asked(&matchers.lan, |list| Matcher::Lan(list.iter().map(|lan| lan.0).collect())),
            asked(&matchers.dscp, |list| Matcher::Dscp(list.iter().copied().collect())),
            asked(&matchers.weekday, |list| Matcher::Weekday(list.iter().copied().collect())),
            asked(&matchers.dst_port, |list| Matcher::DstPort(numbers(list))),
            asked(&matchers.src_port, |list| Matcher::SrcPort(numbers(list))),
            asked(&matchers.length, |list| Matcher::Length(numbers(list))),
            asked(&matchers.time, |list| Matcher::Time(minutes(list))),
            asked(&matchers.dst_country, |list| Matcher::DstCountry(sorted(list.iter().copied()))),
            asked(&matchers.dst_asn, |list| Matcher::DstAsn(sorted(list.iter().copied()))),
            destinations(matchers),
            asked(&matchers.src, |list| Matcher::Src(list.iter().collect())),
            asked(&matchers.src_mac, |list| Matcher::SrcMac(sorted(list.iter().copied()))),
            asked(&matchers.icmp_type, |list| Matcher::IcmpType(icmp_types(list))),
            asked(&matchers.app, |list| Matcher::App(list.iter().map(|&app| app as u8).collect())),
            asked(&matchers.alpn, |list| Matcher::Alpn(list.into())),
            asked(&matchers.http_method, |list| Matcher::HttpMethod(list.into())),
            hosts(matchers),
            (!matchers.user_agent.is_empty()).then(|| Matcher::UserAgent(matchers.user_agent.clone())),
            (!matchers.payload.is_empty()).then(|| Matcher::Payload(matchers.payload.clone())),
        ];
        keys.into_iter().flatten().collect()
    }

    /// Whether the flow has what the key asks for.
    pub(super) fn fits(&self, facts: &Facts) -> bool {
        match self {
            Matcher::Family(set) => set.contains(facts.family as u8),
            Matcher::Protocol(set) => set.contains(facts.key.protocol),
            Matcher::Lan(set) => facts.lan.is_some_and(|lan| set.contains(lan.0)),
            Matcher::Dscp(set) => set.contains(facts.dscp),
            Matcher::Weekday(set) => set.contains(facts.when.weekday),
            Matcher::SrcPort(ranges) => facts.has_ports && ranges.contains(facts.key.src_port),
            Matcher::DstPort(ranges) => facts.has_ports && ranges.contains(facts.key.dst_port),
            Matcher::Length(ranges) => ranges.contains(u16::try_from(facts.length).unwrap_or(u16::MAX)),
            Matcher::Time(ranges) => ranges.contains(facts.when.minute),
            Matcher::Src(nets) => nets.contains(facts.key.src),
            Matcher::Dst(nets, lists) => goes_to(nets, lists, facts.key.dst),
            Matcher::DstCountry(list) => {
                facts.country.is_some_and(|country| list.binary_search(&country).is_ok())
            }
            Matcher::DstAsn(list) => facts.asn.is_some_and(|asn| list.binary_search(&asn).is_ok()),
            Matcher::SrcMac(list) => facts.src_mac.is_some_and(|mac| list.binary_search(&mac).is_ok()),
            Matcher::IcmpType(list) => facts.icmp.is_some_and(|icmp| holds_type(list, facts.family, icmp)),
            Matcher::App(set) => facts.app.is_some_and(|app| set.contains(app as u8)),
            Matcher::Alpn(list) => facts.alpn.ids().any(|id| list.iter().any(|wanted| wanted == id)),
            Matcher::HttpMethod(list) => {
                facts.method.is_some_and(|method| list.iter().any(|wanted| wanted == method))
            }
            Matcher::Host(names, lists) => facts.name.as_ref().is_some_and(|name| means(names, lists, name)),
            Matcher::UserAgent(texts) => facts.user_agent.is_some_and(|agent| texts.found_in(agent)),
            Matcher::Payload(patterns) => !facts.payload.is_empty() && looks_like(patterns, facts.payload),
        }
    }
}

fn destinations(matchers: &Matchers) -> Option<Matcher> {
    let (nets, lists) = (&matchers.dst, &matchers.dst_list);
    let asked = !nets.is_empty() || !lists.is_empty();
    asked.then(|| Matcher::Dst(nets.iter().collect(), lists.as_slice().into()))
}

fn goes_to(nets: &NetSet, lists: &[Arc<NetSet>], address: IpAddr) -> bool {
    nets.contains(address) || lists.iter().any(|list| list.contains(address))
}

fn hosts(matchers: &Matchers) -> Option<Matcher> {
    let (names, lists) = (&matchers.host, &matchers.host_list);
    let asked = !names.is_empty() || !lists.is_empty();
    asked.then(|| Matcher::Host(names.iter().collect(), lists.as_slice().into()))
}

fn means(names: &HostNames, lists: &[Arc<HostSet>], name: &Name) -> bool {
    names.hold(name) || lists.iter().any(|list| list.contains(name))
}

fn looks_like(patterns: &Payload, payload: &[u8]) -> bool {
    let at = |start: u16, bytes: &[u8]| {
        payload.get(usize::from(start)..).is_some_and(|payload| payload.starts_with(bytes))
    };
    patterns.at.iter().any(|(start, bytes)| at(*start, bytes))
        || patterns.contains.found_in(payload)
        || patterns.expressions.found_in(payload)
}

fn asked<T>(list: &[T], compile: impl FnOnce(&[T]) -> Matcher) -> Option<Matcher> {
    (!list.is_empty()).then(|| compile(list))
}

fn numbers(ranges: &[RangeInclusive<u16>]) -> Ranges<u16> {
    Ranges::new(ranges.iter().map(|range| (*range.start(), *range.end())))
}

/// A span over midnight becomes two; a span ends before `to`.
fn minutes(spans: &[TimeSpan]) -> Ranges<u16> {
    Ranges::new(spans.iter().flat_map(|span| {
        let parts = if span.from <= span.to {
            [Some((span.from, span.to)), None]
        } else {
            [Some((0, span.to)), Some((span.from, u16::MAX))]
        };
        parts.into_iter().flatten().filter_map(|(from, to)| Some((from, to.checked_sub(1)?)))
    }))
}

fn sorted<T: Ord>(entries: impl Iterator<Item = T>) -> Box<[T]> {
    let mut entries: Vec<T> = entries.collect();
    entries.sort_unstable();
    entries.into()
}

fn icmp_types(list: &[IcmpType]) -> Box<[(Family, u8, Option<u8>)]> {
    sorted(list.iter().map(|icmp| (icmp.family, icmp.kind, icmp.code)))
}

fn holds_type(list: &[(Family, u8, Option<u8>)], family: Family, (kind, code): (u8, u8)) -> bool {
    [None, Some(code)].iter().any(|&code| list.binary_search(&(family, kind, code)).is_ok())
}
