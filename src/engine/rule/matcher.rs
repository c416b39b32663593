//! [`Matcher`]: one key of a rule, in the form in which asking is cheapest.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::model::{IcmpType, Matchers, TimeSpan};
use super::ranges::{ByteSet, Ranges};
use crate::engine::flow::{Facts, Mac};
use crate::engine::packet::Family;

/// One key of `match` or `not` that asks for something.
///
/// Numbers below 256 are bits of a set, nets, ports, lengths and times are sorted ranges,
/// hardware addresses and ICMP types sorted lists.
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
    Src(Nets),
    Dst(Nets),
    SrcMac(Box<[Mac]>),
    IcmpType(Box<[(Family, u8, Option<u8>)]>),
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
            asked(&matchers.dst, |list| Matcher::Dst(Nets::new(list))),
            asked(&matchers.src, |list| Matcher::Src(Nets::new(list))),
            asked(&matchers.src_mac, |list| Matcher::SrcMac(sorted(list.iter().copied()))),
            asked(&matchers.icmp_type, |list| Matcher::IcmpType(icmp_types(list))),
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
            Matcher::Src(nets) => nets.contain(facts.key.src),
            Matcher::Dst(nets) => nets.contain(facts.key.dst),
            Matcher::SrcMac(list) => facts.src_mac.is_some_and(|mac| list.binary_search(&mac).is_ok()),
            Matcher::IcmpType(list) => facts.icmp.is_some_and(|icmp| holds_type(list, facts.family, icmp)),
        }
    }
}

/// Nets of both families as ranges of addresses.
#[derive(Debug, Clone)]
pub(super) struct Nets {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Nets {
    fn new(nets: &[IpNet]) -> Self {
        Nets {
            v4: Ranges::new(nets.iter().filter_map(|net| match net {
                IpNet::V4(net) => Some((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(_) => None,
            })),
            v6: Ranges::new(nets.iter().filter_map(|net| match net {
                IpNet::V4(_) => None,
                IpNet::V6(net) => Some((net.network().to_bits(), net.broadcast().to_bits())),
            })),
        }
    }

    fn contain(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(address.to_bits()),
            IpAddr::V6(address) => self.v6.contains(address.to_bits()),
        }
    }
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
