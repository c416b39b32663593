//! What rules ask of headers, as conditions of the kernel.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::model::{Action, Match, Rule, rule};
use crate::config::Config;
use crate::engine::packet::{Family, PROTOCOLS_WITH_PORTS};
use crate::engine::rule::model::{self, IcmpType, Matchers, TimeSpan};

const MINUTES_PER_DAY: i32 = 24 * 60;
const MINUTES_PER_WEEK: i32 = 7 * MINUTES_PER_DAY;

/// One of several ways to satisfy a key: conditions, and the family they imply.
pub type Alternative = (Option<Family>, Vec<Match>);

/// Rules of a chain of its own that go on only with packets that fit: what `not` names leaves at once, what
/// fails a key, at its end.
pub fn conditions(config: &Config, asked: &model::Rule, utc_offset: i32) -> Vec<Rule> {
    // Each key under `not` stands alone, its ports too.
    let not = keys(config, &asked.not, &[], utc_offset);
    let unwanted = not.into_iter().flatten().map(|unwanted| alternative(unwanted, Action::Return));
    let wanted = keys(config, &asked.matches, &asked.matches.protocol, utc_offset);
    unwanted.chain(wanted.into_iter().flat_map(one_of)).collect()
}

/// Goes on only with packets that fit one of the alternatives.
fn one_of(alternatives: Vec<Alternative>) -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        alternatives.into_iter().map(|fits| alternative(fits, Action::FlagDecided)).collect();
    rules.push(rule([Match::Decided(false)], Action::Return));
    rules.push(rule([], Action::ClearDecided));
    rules
}

/// What becomes of packets that fit.
pub fn alternative((family, matches): Alternative, action: Action) -> Rule {
    Rule { family, matches, action }
}

/// The keys that ask for something, each as the list of its alternatives. One without any fits nothing: a list
/// can be empty, and ports are asked of these `protocols`, which may have none.
pub fn keys(
    config: &Config,
    matchers: &Matchers,
    protocols: &[u8],
    utc_offset: i32,
) -> Vec<Vec<Alternative>> {
    let with_ports = ported(protocols);
    let any = |matches: Vec<Match>| (None, matches);
    let of = |family: Family, matches: Vec<Match>| (Some(family), matches);
    let key = |asks: bool, alternatives: Vec<Alternative>| asks.then_some(alternatives);
    let protocols = matchers.protocol.iter().map(|&protocol| any(vec![Match::Protocol(protocol)]));
    let sources = matchers.src.iter().map(|&net| of(Family::of(net.addr()), vec![Match::Source(net)]));
    let nets = destinations(matchers).map(|net| of(Family::of(net.addr()), vec![Match::Destination(net)]));
    let types = matchers.icmp_type.iter().map(|&kind: &IcmpType| of(kind.family, vec![Match::Icmp(kind)]));
    let macs = matchers.src_mac.iter().map(|&mac| any(vec![Match::SourceMac(mac)]));
    let lans = matchers.lan.iter().map(|lan| any(vec![Match::In(config.lan[usize::from(lan.0)].clone())]));
    let points = matchers.dscp.iter().map(|&dscp| any(vec![Match::Dscp(dscp)]));
    let families = matchers.family.iter().map(|&family| of(family, vec![]));
    let lengths = matchers.length.iter().map(|length| any(vec![Match::Length(length.clone())]));
    let keys = [
        key(!matchers.protocol.is_empty(), protocols.collect()),
        key(!matchers.src.is_empty(), sources.collect()),
        key(!matchers.dst.is_empty() || !matchers.dst_list.is_empty(), nets.collect()),
        key(!matchers.src_port.is_empty(), ports(&with_ports, &matchers.src_port, Match::SourcePort)),
        key(!matchers.dst_port.is_empty(), ports(&with_ports, &matchers.dst_port, Match::DestinationPort)),
        key(!matchers.icmp_type.is_empty(), types.collect()),
        key(!matchers.src_mac.is_empty(), macs.collect()),
        key(!matchers.lan.is_empty(), lans.collect()),
        key(!matchers.dscp.is_empty(), points.collect()),
        key(!matchers.family.is_empty(), families.collect()),
        key(!matchers.length.is_empty(), lengths.collect()),
        key(
            !matchers.time.is_empty() || !matchers.weekday.is_empty(),
            times(&matchers.time, &matchers.weekday, utc_offset),
        ),
    ];
    keys.into_iter().flatten().collect()
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
