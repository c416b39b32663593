//! [`Index`]: which rules are worth asking about a flow.
//!
//! Every rule is filed under the entries of one of its keys, its *anchor*: of
//! its keys the one whose entries the fewest rules share. A flow has few
//! entries (its ports, its protocol, its nets of each length in use ...), and
//! only rules filed under one of them, or under nothing, can match it. So
//! ten thousand rules for ten thousand clients cost about as much as one.
//!
//! Memory and building time are linear in what the rules say: a rule stands in
//! as many lists as its anchor has entries, of ports at most [`MOST_PORTS`].

use std::collections::BTreeSet;
use std::hash::Hash;
use std::net::IpAddr;

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use ipnet::IpNet;

use super::model::{Matchers, Rule, RuleId};
use crate::engine::flow::{Facts, Mac};
use crate::engine::packet::Family;

/// Wider port ranges are no anchor: they tell little, and would be filed under each port.
const MOST_PORTS: usize = 64;

/// Lists of rules in ascending order, by what a flow must have for them to match.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    src_mac: Lists<Mac>,
    src_port: Lists<u16>,
    dst_port: Lists<u16>,
    protocol: Lists<u8>,
    src: NetLists,
    dst: NetLists,
    /// Rules that any flow may match.
    unanchored: Vec<RuleId>,
}

type Lists<T> = HashMap<T, Vec<RuleId>, RandomState>;

/// One entry of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Entry {
    SrcMac(Mac),
    SrcPort(u16),
    DstPort(u16),
    Protocol(u8),
    Src(IpNet),
    Dst(IpNet),
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
            Some(&self.unanchored),
        ];
        let nets = self.src.lists(key.src).chain(self.dst.lists(key.dst));
        single.into_iter().flatten().chain(nets).map(Vec::as_slice)
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

/// How many rules name each entry.
fn count_entries(rules: &[Rule]) -> HashMap<Entry, u32, RandomState> {
    let mut popularity = HashMap::default();
    for entry in rules.iter().flat_map(|rule| keys(&rule.matches)).flatten() {
        *popularity.entry(entry).or_default() += 1;
    }
    popularity
}

/// The entries of the key whose most popular entry is named by the fewest
/// rules; of equals the first. Empty: no key can be an anchor.
fn anchor(matchers: &Matchers, popularity: &HashMap<Entry, u32, RandomState>) -> Vec<Entry> {
    let most = |entries: &Vec<Entry>| entries.iter().filter_map(|entry| popularity.get(entry)).max().copied();
    keys(matchers).into_iter().filter(|entries| !entries.is_empty()).min_by_key(most).unwrap_or_default()
}

/// The entries of each key that can be an anchor; none from a key that asks nothing.
fn keys(matchers: &Matchers) -> [Vec<Entry>; 6] {
    [
        matchers.src_mac.iter().copied().map(Entry::SrcMac).collect(),
        ports(&matchers.dst_port, Entry::DstPort),
        ports(&matchers.src_port, Entry::SrcPort),
        matchers.dst.iter().map(|net| Entry::Dst(net.trunc())).collect(),
        matchers.src.iter().map(|net| Entry::Src(net.trunc())).collect(),
        matchers.protocol.iter().copied().map(Entry::Protocol).collect(),
    ]
}

fn ports(ranges: &[std::ops::RangeInclusive<u16>], entry: fn(u16) -> Entry) -> Vec<Entry> {
    let entries: Vec<Entry> = ranges.iter().cloned().flatten().take(MOST_PORTS + 1).map(entry).collect();
    if entries.len() > MOST_PORTS { Vec::new() } else { entries }
}
