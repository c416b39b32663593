//! One rule against one flow, key by key: the plain form that anyone can check by eye.
//!
//! Examples in rule files are tried with it, and faster forms are tested against it.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::model::{IcmpType, Matchers, Rule, TimeSpan};
use crate::engine::flow::Facts;

/// Whether a rule matches a flow: every key of `match` that is not empty has an entry that fits, and no
/// key of `not` has one.
#[must_use]
pub fn matches(rule: &Rule, facts: &Facts) -> bool {
    keys(&rule.matches, facts).into_iter().all(|key| key != Key::Misfits)
        && keys(&rule.not, facts).into_iter().all(|key| key != Key::Fits)
}

/// What one key says about a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    /// It has no entries.
    Empty,
    /// One of its entries fits.
    Fits,
    /// None of its entries fits.
    Misfits,
}

fn keys(matchers: &Matchers, facts: &Facts) -> [Key; 13] {
    [
        key(&matchers.protocol, |&protocol| protocol == facts.key.protocol),
        key(&matchers.src, |net| holds(net, facts.key.src)),
        key(&matchers.dst, |net| holds(net, facts.key.dst)),
        key(&matchers.src_port, |ports| facts.has_ports && ports.contains(&facts.key.src_port)),
        key(&matchers.dst_port, |ports| facts.has_ports && ports.contains(&facts.key.dst_port)),
        key(&matchers.icmp_type, |wanted| is_icmp(wanted, facts)),
        key(&matchers.src_mac, |&mac| facts.src_mac == Some(mac)),
        key(&matchers.lan, |&lan| facts.lan == Some(lan)),
        key(&matchers.dscp, |&dscp| dscp == facts.dscp),
        key(&matchers.family, |&family| family == facts.family),
        key(&matchers.length, |lengths| has_length(lengths, facts.length)),
        key(&matchers.time, |span| covers(span, facts.when.minute)),
        key(&matchers.weekday, |&weekday| weekday == facts.when.weekday),
    ]
}

fn key<T>(entries: &[T], fits: impl FnMut(&T) -> bool) -> Key {
    if entries.is_empty() {
        Key::Empty
    } else if entries.iter().any(fits) {
        Key::Fits
    } else {
        Key::Misfits
    }
}

fn holds(net: &IpNet, address: IpAddr) -> bool {
    net.contains(&address)
}

fn is_icmp(wanted: &IcmpType, facts: &Facts) -> bool {
    let Some((kind, code)) = facts.icmp else { return false };
    wanted.family == facts.family && wanted.kind == kind && wanted.code.is_none_or(|wanted| wanted == code)
}

fn has_length(lengths: &RangeInclusive<u16>, length: u32) -> bool {
    (u32::from(*lengths.start())..=u32::from(*lengths.end())).contains(&length)
}

fn covers(span: &TimeSpan, minute: u16) -> bool {
    if span.from < span.to {
        (span.from..span.to).contains(&minute)
    } else {
        minute >= span.from || minute < span.to
    }
}
