//! Rules whose hosts an earlier rule takes already.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::engine::rule::hosts::{HostSet, Reach, parents};
use crate::engine::rule::model::{Matchers, Rule};

/// Most earlier rules that a rule is compared with.
const MOST_CANDIDATES: usize = 16;
/// Most look-ups of names, of all rules together.
const LOOKUPS: usize = 20_000_000;
/// Longer lists of conditions are not compared entry by entry.
const MOST_PAIRS: usize = 10_000;

/// Earlier rules, by the names they ask for.
pub(super) struct Names {
    by_name: HashMap<Box<[u8]>, Vec<usize>>,
    /// Rules with lists of names.
    listing: Vec<usize>,
    /// Look-ups that may still be made.
    left: usize,
}

impl Names {
    pub(super) fn new() -> Self {
        Names { by_name: HashMap::new(), listing: Vec::new(), left: LOOKUPS }
    }

    /// Files a rule by its number.
    pub(super) fn add(&mut self, number: usize, matchers: &Matchers) {
        for host in &matchers.host {
            self.by_name.entry(host.name.as_bytes().into()).or_default().push(number);
        }
        if !matchers.host_list.is_empty() {
            self.listing.push(number);
        }
    }

    /// The first of the earlier rules that takes every flow which these matchers, and others, let through,
    /// because of its name.
    pub(super) fn covering<'r>(&mut self, rules: &'r [Rule], wanted: &Rule) -> Option<&'r Rule> {
        let one = one_name(&wanted.matches)?;
        let own = self.by_name.get(one).into_iter();
        let named = own.chain(parents(one).filter_map(|parent| self.by_name.get(parent))).flatten();
        let mut candidates: Vec<usize> =
            named.take(MOST_CANDIDATES).chain(self.listing.iter().take(MOST_CANDIDATES)).copied().collect();
        candidates.sort_unstable();
        candidates.dedup();
        let candidates = candidates.into_iter().filter_map(|number| rules.get(number));
        candidates
            .filter(|earlier| is_as_wide(earlier, wanted))
            .find(|earlier| self.take_all(earlier, wanted))
    }

    /// Whether all names of a rule are among those of an earlier one.
    fn take_all(&mut self, earlier: &Rule, wanted: &Rule) -> bool {
        let (earlier, wanted) = (&earlier.matches, &wanted.matches);
        let listed: usize = wanted.host_list.iter().map(|list| list.names.len()).sum();
        let cost = (wanted.host.len() + listed) * (1 + earlier.host.len() + earlier.host_list.len());
        let Some(left) = self.left.checked_sub(cost) else { return false };
        self.left = left;
        let takes = |name: &[u8], reach: Reach| {
            parts(reach).iter().all(|&part| earlier.host.iter().any(|host| host.cover(name, part)))
                || earlier.host_list.iter().any(|list| list.names.cover(name, reach))
        };
        let takes_list = |list: &Arc<HostSet>| {
            earlier.host_list.iter().any(|known| Arc::ptr_eq(known, list))
                || list.is_only_names() && list.names.iter().all(|(name, reach)| takes(name, reach))
        };
        wanted.host.iter().all(|host| takes(host.name.as_bytes(), host.reach))
            && wanted.host_list.iter().all(takes_list)
    }
}

/// A name itself, those under it, or one after the other.
fn parts(reach: Reach) -> &'static [Reach] {
    match reach {
        Reach::Itself => &[Reach::Itself],
        Reach::Below => &[Reach::Below],
        Reach::Both => &[Reach::Itself, Reach::Below],
    }
}

/// One of the names that are asked for.
fn one_name(matchers: &Matchers) -> Option<&[u8]> {
    let written = matchers.host.first().map(|host| host.name.as_bytes());
    written
        .or_else(|| matchers.host_list.iter().find_map(|list| list.names.iter().next()).map(|(name, _)| name))
}

/// Whether an earlier rule asks, but for names, no more than a later one.
fn is_as_wide(earlier: &Rule, wanted: &Rule) -> bool {
    let excludes_no_more = earlier.not == Matchers::default() || earlier.not == wanted.not;
    let (earlier, wanted) = (&earlier.matches, &wanted.matches);
    excludes_no_more
        && is_as_wide_about_addresses(earlier, wanted)
        && holds_all(&earlier.protocol, &wanted.protocol, PartialEq::eq)
        && holds_all(&earlier.src_port, &wanted.src_port, holds_range)
        && holds_all(&earlier.dst_port, &wanted.dst_port, holds_range)
        && holds_all(&earlier.length, &wanted.length, holds_range)
        && holds_all(&earlier.icmp_type, &wanted.icmp_type, PartialEq::eq)
        && holds_all(&earlier.dscp, &wanted.dscp, PartialEq::eq)
        && holds_all(&earlier.time, &wanted.time, PartialEq::eq)
        && holds_all(&earlier.weekday, &wanted.weekday, PartialEq::eq)
        && holds_all(&earlier.app, &wanted.app, PartialEq::eq)
        && holds_all(&earlier.alpn, &wanted.alpn, PartialEq::eq)
        && holds_all(&earlier.http_method, &wanted.http_method, PartialEq::eq)
        && (earlier.user_agent.is_empty() || earlier.user_agent == wanted.user_agent)
        && (earlier.payload.is_empty() || earlier.payload == wanted.payload)
}

fn is_as_wide_about_addresses(earlier: &Matchers, wanted: &Matchers) -> bool {
    let destinations = if earlier.dst_list.is_empty() && wanted.dst_list.is_empty() {
        holds_all(&earlier.dst, &wanted.dst, holds_net)
    } else {
        earlier.dst == wanted.dst && holds_all(&earlier.dst_list, &wanted.dst_list, Arc::ptr_eq)
    };
    destinations
        && holds_all(&earlier.src, &wanted.src, holds_net)
        && holds_all(&earlier.dst_country, &wanted.dst_country, PartialEq::eq)
        && holds_all(&earlier.dst_asn, &wanted.dst_asn, PartialEq::eq)
        && holds_all(&earlier.src_mac, &wanted.src_mac, PartialEq::eq)
        && holds_all(&earlier.lan, &wanted.lan, PartialEq::eq)
        && holds_all(&earlier.family, &wanted.family, PartialEq::eq)
}

/// Whether a key with these entries lets through all that one with those others does.
fn holds_all<T: PartialEq>(wide: &[T], narrow: &[T], holds: impl Fn(&T, &T) -> bool) -> bool {
    if wide.is_empty() || narrow.is_empty() || wide.len() * narrow.len() > MOST_PAIRS {
        return wide.is_empty() || wide == narrow;
    }
    narrow.iter().all(|one| wide.iter().any(|entry| holds(entry, one)))
}

fn holds_net(wide: &IpNet, one: &IpNet) -> bool {
    wide.contains(one)
}

fn holds_range(wide: &std::ops::RangeInclusive<u16>, one: &std::ops::RangeInclusive<u16>) -> bool {
    wide.start() <= one.start() && one.end() <= wide.end()
}
