//! [`Index`]: which rules are worth asking about a flow.
//!
//! Every rule is filed under the entries of one of its keys, its *anchor*: of
//! its keys the one whose entries the fewest rules share. A flow has few
//! entries (its ports, its protocol, its nets of each length in use, its name
//! and the names that it is under ...), and only rules filed under one of them,
//! or under nothing, can match it. So ten thousand rules for ten thousand
//! clients or sites cost about as much as one.
//!
//! Memory and building time are linear in what the rules say: a rule stands in
//! as many lists as its anchor has entries, of ports at most [`MOST_PORTS`],
//! of names at most [`MOST_NAMES`].

use std::collections::BTreeSet;
use std::hash::Hash;
use std::net::IpAddr;

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use ipnet::IpNet;

use super::hosts::{Reach, parents};
use super::model::{Matchers, Rule, RuleId};
use crate::engine::flow::{Facts, Mac};
use crate::engine::geo::{Asn, Country};
use crate::engine::packet::Family;
use crate::engine::sniff::{App, Name};

/// Wider port ranges are no anchor: they tell little, and would be filed under each port.
const MOST_PORTS: usize = 64;
/// Rules with more names (whole lists) are asked by every flow that has a name: filing them would cost more
/// than the look-up in their own set.
const MOST_NAMES: usize = 1000;

/// Lists of rules in ascending order, by what a flow must have for them to match.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    src_mac: Lists<Mac>,
    src_port: Lists<u16>,
    dst_port: Lists<u16>,
    protocol: Lists<u8>,
    src: NetLists,
    dst: NetLists,
    country: Lists<Country>,
    asn: Lists<Asn>,
    app: Lists<App>,
    host: HostLists,
    /// Rules that only a flow with a name can match.
    named: Vec<RuleId>,
    /// Rules that any flow may match.
    unanchored: Vec<RuleId>,
}

type Lists<T> = HashMap<T, Vec<RuleId>, RandomState>;

/// One entry of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Entry<'r> {
    SrcMac(Mac),
    SrcPort(u16),
    DstPort(u16),
    Protocol(u8),
    Src(IpNet),
    Dst(IpNet),
    DstCountry(Country),
    DstAsn(Asn),
    App(App),
    Host(&'r [u8]),
    Below(&'r [u8]),
    Named,
}

impl Index {
    /// Files every rule.
    pub(super) fn new(rules: &[Rule]) -> Self {
        let popularity = count_entries(rules);
        let mut index = Index::default();
        for (rule, id) in rules.iter().zip(0..=u16::MAX) {
            index.file(RuleId(id), &anchor(&rule.matches, &popularity));
        }
        index.src.learn_lengths();
        index.dst.learn_lengths();
        index
    }

    /// The lists that hold every rule which may match; a rule may be in several of them.
    pub(super) fn lists(&self, facts: &Facts) -> impl Iterator<Item = &[RuleId]> {
        let key = &facts.key;
        let [src_port, dst_port] = [key.src_port, key.dst_port].map(|port| facts.has_ports.then_some(port));
        let single = [
            facts.src_mac.and_then(|mac| self.src_mac.get(&mac)),
            src_port.and_then(|port| self.src_port.get(&port)),
            dst_port.and_then(|port| self.dst_port.get(&port)),
            self.protocol.get(&key.protocol),
            facts.country.and_then(|country| self.country.get(&country)),
            facts.asn.and_then(|asn| self.asn.get(&asn)),
            facts.app.and_then(|app| self.app.get(&app)),
            facts.name.and(Some(&self.named)),
            Some(&self.unanchored),
        ];
        let nets = self.src.lists(key.src).chain(self.dst.lists(key.dst));
        let hosts = facts.name.iter().flat_map(|name| self.host.lists(name));
        single.into_iter().flatten().chain(nets).chain(hosts).map(Vec::as_slice)
    }

    /// The rules that any flow may match.
    pub(super) fn unanchored(&self) -> &[RuleId] {
        &self.unanchored
    }

    fn file(&mut self, rule: RuleId, anchor: &[Entry]) {
        if anchor.is_empty() {
            self.unanchored.push(rule);
        }
        for entry in anchor {
            let list = match *entry {
                Entry::SrcMac(mac) => self.src_mac.entry(mac).or_default(),
                Entry::SrcPort(port) => self.src_port.entry(port).or_default(),
                Entry::DstPort(port) => self.dst_port.entry(port).or_default(),
                Entry::Protocol(protocol) => self.protocol.entry(protocol).or_default(),
                Entry::Src(net) => self.src.lists.entry(net).or_default(),
                Entry::Dst(net) => self.dst.lists.entry(net).or_default(),
                Entry::DstCountry(country) => self.country.entry(country).or_default(),
                Entry::DstAsn(asn) => self.asn.entry(asn).or_default(),
                Entry::App(app) => self.app.entry(app).or_default(),
                Entry::Host(name) => &mut self.host.0.entry(name.into()).or_default().itself,
                Entry::Below(name) => &mut self.host.0.entry(name.into()).or_default().below,
                Entry::Named => &mut self.named,
            };
            if list.last() != Some(&rule) {
                list.push(rule);
            }
        }
    }
}

/// Lists of rules by net.
#[derive(Debug, Clone, Default)]
struct NetLists {
    lists: Lists<IpNet>,
    /// Prefix lengths in use, of IPv4 and of IPv6 nets.
    lengths: [Vec<u8>; 2],
}

impl NetLists {
    /// One look-up per prefix length in use.
    fn lists(&self, address: IpAddr) -> impl Iterator<Item = &Vec<RuleId>> {
        let lengths = &self.lengths[Family::of(address) as usize];
        lengths.iter().filter_map(move |&length| self.lists.get(&IpNet::new(address, length).ok()?.trunc()))
    }

    fn learn_lengths(&mut self) {
        self.lengths = Family::BOTH.map(|family| {
            let nets = self.lists.keys().filter(|net| Family::of(net.addr()) == family);
            nets.map(IpNet::prefix_len).collect::<BTreeSet<u8>>().into_iter().collect()
        });
    }
}

/// Lists of rules by host name.
#[derive(Debug, Clone, Default)]
struct HostLists(HashMap<Box<[u8]>, ByReach, RandomState>);

#[derive(Debug, Clone, Default)]
struct ByReach {
    itself: Vec<RuleId>,
    below: Vec<RuleId>,
}

impl HostLists {
    /// One look-up per label.
    fn lists(&self, name: &Name) -> impl Iterator<Item = &Vec<RuleId>> {
        let name = if self.0.is_empty() { &[] } else { name.as_bytes() };
        let itself = self.0.get(name).map(|lists| &lists.itself);
        itself.into_iter().chain(parents(name).filter_map(|parent| Some(&self.0.get(parent)?.below)))
    }
}

/// How many rules name each entry.
fn count_entries(rules: &[Rule]) -> HashMap<Entry<'_>, u32, RandomState> {
    let mut popularity = HashMap::default();
    for entry in rules.iter().flat_map(|rule| keys(&rule.matches)).flatten() {
        *popularity.entry(entry).or_default() += 1;
    }
    popularity
}

/// The entries of the key whose most popular entry is named by the fewest
/// rules; of equals the first. Empty: no key can be an anchor.
fn anchor<'r>(matchers: &'r Matchers, popularity: &HashMap<Entry<'r>, u32, RandomState>) -> Vec<Entry<'r>> {
    let most = |entries: &Vec<Entry>| entries.iter().filter_map(|entry| popularity.get(entry)).max().copied();
    keys(matchers).into_iter().filter(|entries| !entries.is_empty()).min_by_key(most).unwrap_or_default()
}

/// The entries of each key that can be an anchor; none from a key that asks nothing.
fn keys(matchers: &Matchers) -> [Vec<Entry<'_>>; 10] {
    [
        hosts(matchers),
        matchers.src_mac.iter().copied().map(Entry::SrcMac).collect(),
        ports(&matchers.dst_port, Entry::DstPort),
        ports(&matchers.src_port, Entry::SrcPort),
        destinations(matchers),
        matchers.src.iter().map(|net| Entry::Src(net.trunc())).collect(),
        matchers.dst_asn.iter().copied().map(Entry::DstAsn).collect(),
        matchers.dst_country.iter().copied().map(Entry::DstCountry).collect(),
        matchers.app.iter().copied().map(Entry::App).collect(),
        matchers.protocol.iter().copied().map(Entry::Protocol).collect(),
    ]
}

/// Each name, or that there must be one.
fn hosts(matchers: &Matchers) -> Vec<Entry<'_>> {
    let count = matchers.host_list.iter().map(|list| list.names.len()).sum::<usize>() + matchers.host.len();
    if count == 0 && matchers.host_list.is_empty() {
        return Vec::new();
    }
    if count > MOST_NAMES || !matchers.host_list.iter().all(|list| list.is_only_names()) {
        return vec![Entry::Named];
    }
    let written = matchers.host.iter().map(|host| (host.name.as_bytes(), host.reach));
    let listed = matchers.host_list.iter().flat_map(|list| list.names.iter());
    written.chain(listed).flat_map(|(name, reach)| host(name, reach)).flatten().collect()
}

fn host(name: &[u8], reach: Reach) -> [Option<Entry<'_>>; 2] {
    let (itself, below) = (reach != Reach::Below, reach != Reach::Itself);
    [itself.then_some(Entry::Host(name)), below.then_some(Entry::Below(name))]
}

/// Lists of nets are no anchor: they may be long, and their own look-up is cheap.
fn destinations(matchers: &Matchers) -> Vec<Entry<'_>> {
    let anchors = if matchers.dst_list.is_empty() { &matchers.dst[..] } else { &[] };
    anchors.iter().map(|net| Entry::Dst(net.trunc())).collect()
}

fn ports<'r>(ranges: &[std::ops::RangeInclusive<u16>], entry: fn(u16) -> Entry<'r>) -> Vec<Entry<'r>> {
    let entries: Vec<Entry<'r>> = ranges.iter().cloned().flatten().take(MOST_PORTS + 1).map(entry).collect();
    if entries.len() > MOST_PORTS { Vec::new() } else { entries }
}

#[cfg(test)]
mod tests {
    use super::super::arbitrary::{facts, rule};
    use super::super::hosts::HostName;
    use super::*;

    #[test]
    fn of_ten_thousand_rules_for_sites_only_those_of_the_flows_site_are_worth_asking() {
        let site = |number: usize| {
            let name =
                format!("{}site{number}.example.org", if number.is_multiple_of(2) { "*." } else { "" });
            let host = vec![HostName::parse(&name).unwrap()];
            rule(Matchers { host, ..Matchers::default() }, Matchers::default())
        };
        let index = Index::new(&(0..10_000).map(site).collect::<Vec<_>>());
        let asked = |name: &str| {
            let facts = Facts { name: Name::new(name.as_bytes()), ..facts() };
            index.lists(&facts).flatten().copied().collect::<Vec<_>>()
        };
        assert_eq!(asked("www.site4444.example.org"), [RuleId(4444)]);
        assert_eq!(asked("site7777.example.org"), [RuleId(7777)]);
        assert_eq!(asked("www.site7777.example.org"), []);
        assert_eq!(index.lists(&facts()).flatten().count(), 0);
    }
}
