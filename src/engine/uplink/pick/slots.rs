//! The slots of the policy `hash`: a flow's hash names one of [`SLOTS`], a rule's table says whose it is.
//!
//! A firewall can compute the one and write down the other, so that the kernel by itself sends a flow where
//! the engine would. Which hash it can compute depends on the firewall: nft knows `jhash` alone, and a classic BPF
//! program, which iptables takes, has no room for that. So there are two, and the firewall in use says which,
//! whether or not it is asked to decide anything.
//!
//! Workers, restarts and versions agree about slots and tables without a word: neither ever changes.

use std::array;
use std::net::IpAddr;

use super::lots::{by_lot, draw, mix};
use crate::engine::flow::FlowKey;
use crate::engine::packet::PROTOCOLS_WITH_PORTS;
use crate::engine::rule::model::HashKey;
use crate::engine::uplink::{UplinkId, UplinkSet};

/// How many slots there are. A line's share is a whole number of them.
pub const SLOTS: usize = 1 << SLOT_BITS;
/// A slot is the first so many bits of a hash.
pub const SLOT_BITS: u32 = 7;

/// Numbers of the hashes.
pub mod constant {
    /// The seed of Jenkins' hash: 2³² divided by the golden ratio, as any number would do.
    pub const SEED: u32 = 0x9e37_79b1;
    /// What words are multiplied with before the next one is mixed in: the same, which is odd and has well spread bits.
    pub const SPREAD: u32 = 0x9e37_79b1;
    /// The multipliers of the 32-bit finalizer of MurmurHash3.
    pub const FINALIZER: [u32; 2] = [0x85eb_ca6b, 0xc2b2_ae35];
    /// And its shifts before each. (The one after them does not touch the first bits.)
    pub const FOLDS: [u32; 2] = [16, 13];
}

/// The hash by which flows find their slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlotHash {
    /// Bob Jenkins' lookup3 as Linux has it (include/linux/jhash.h): what nft's `jhash` computes.
    #[default]
    Jenkins,
    /// Multiply and xor with the finalizer of MurmurHash3: what a program of classic BPF has room for.
    Murmur,
}

/// Whose slots are whose, of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotTable {
    uplinks: Box<[(UplinkId, u8)]>,
    owners: [UplinkId; SLOTS],
}

impl SlotHash {
    /// The slot of a flow.
    #[must_use]
    pub fn slot(self, key: HashKey, flow: &FlowKey) -> usize {
        let hash = match self {
            SlotHash::Jenkins => jenkins(registers(key, flow).bytes(), constant::SEED),
            SlotHash::Murmur => murmur(words(key, flow).all()),
        };
        (hash >> (u32::BITS - SLOT_BITS)) as usize
    }
}

impl SlotTable {
    /// Shares the slots out by weight. The remainders go to those that are owed most, of equals to the first.
    /// Each line takes the slots that it has the best lots for, so that similar rules have similar tables.
    #[must_use]
    pub fn among(uplinks: &[(UplinkId, u8)]) -> Self {
        let mut left = quotas(uplinks);
        let lot = |slot: usize, place: usize| draw(mix(slot as u64), uplinks[place].0, uplinks[place].1);
        let pairs = (0..SLOTS).flat_map(|slot| (0..uplinks.len()).map(move |place| (slot, place)));
        let mut lots: Vec<(f64, usize, usize)> = pairs
            .filter(|&(_, place)| left[place] > 0)
            .map(|(slot, place)| (lot(slot, place), slot, place))
            .collect();
        lots.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
        let mut owners = [None; SLOTS];
        for (_, slot, place) in lots {
            if left[place] > 0 && owners[slot].is_none() {
                owners[slot] = Some(uplinks[place].0);
                left[place] -= 1;
            }
        }
        // Without a weight there is no owner, and who owns nothing is no candidate.
        let owners = owners.map(|owner| owner.unwrap_or(UplinkId(u8::MAX)));
        SlotTable { uplinks: uplinks.into(), owners }
    }

    /// Who gets a slot: its owner, or in its place the usable line that draws the best lot for it. So a lost line
    /// moves only its own slots.
    #[must_use]
    pub fn uplink(&self, slot: usize, usable: UplinkSet) -> Option<UplinkId> {
        let owner = *self.owners.get(slot)?;
        if usable.contains(owner) {
            return Some(owner);
        }
        by_lot(self.uplinks.iter().copied(), usable, mix(slot as u64))
    }

    /// The slots of each usable line that gets any, as bits of one number.
    pub fn shares(&self, usable: UplinkSet) -> impl Iterator<Item = (UplinkId, u128)> + '_ {
        let owners: [Option<UplinkId>; SLOTS] = array::from_fn(|slot| self.uplink(slot, usable));
        let slots = move |uplink| {
            let own = owners.iter().zip(0..).filter(|(owner, _)| **owner == Some(uplink));
            own.fold(0, |slots, (_, slot)| slots | 1_u128 << slot)
        };
        let shares = self.uplinks.iter().map(move |&(uplink, _)| (uplink, slots(uplink)));
        shares.filter(|&(_, slots)| slots != 0)
    }
}

/// How many slots each uplink gets.
fn quotas(uplinks: &[(UplinkId, u8)]) -> Vec<usize> {
    let total: usize = uplinks.iter().map(|&(_, weight)| usize::from(weight)).sum();
    let due = |weight: u8| usize::from(weight) * SLOTS;
    let mut quotas: Vec<usize> =
        uplinks.iter().map(|&(_, weight)| due(weight).checked_div(total).unwrap_or(0)).collect();
    let mut owed: Vec<usize> = (0..uplinks.len()).filter(|&place| uplinks[place].1 > 0).collect();
    owed.sort_by_key(|&place| std::cmp::Reverse(due(uplinks[place].1) % total));
    let rest = SLOTS - quotas.iter().sum::<usize>();
    owed.into_iter().take(rest).for_each(|place| quotas[place] += 1);
    quotas
}

/// The parts of a flow as nft's registers hold them: four bytes each, ports and protocols at their beginning.
fn registers(key: HashKey, flow: &FlowKey) -> Parts<[u8; 4]> {
    let transport = if has_ports(flow) {
        [flow.src_port, flow.dst_port].map(|port| [port.to_be_bytes()[0], port.to_be_bytes()[1], 0, 0])
    } else {
        [[flow.protocol, 0, 0, 0], [0; 4]]
    };
    let transport = if has_ports(flow) { &transport[..] } else { &transport[..1] };
    Parts::of(key, flow, u32::to_be_bytes, transport)
}

/// The parts of a flow as BPF loads them: the two ports are one word.
fn words(key: HashKey, flow: &FlowKey) -> Parts<u32> {
    let ports = u32::from(flow.src_port) << 16 | u32::from(flow.dst_port);
    let transport = if has_ports(flow) { ports } else { flow.protocol.into() };
    Parts::of(key, flow, |word| word, &[transport])
}

fn has_ports(flow: &FlowKey) -> bool {
    PROTOCOLS_WITH_PORTS.contains(&flow.protocol)
}

/// The words of a flow that a hash is over: two addresses, two ports.
struct Parts<Word> {
    words: [Word; 10],
    count: usize,
}

impl<Word: Copy + Default> Parts<Word> {
    fn of(key: HashKey, flow: &FlowKey, word: impl Fn(u32) -> Word, transport: &[Word]) -> Self {
        let mut parts = Parts { words: [Word::default(); 10], count: 0 };
        if key != HashKey::Destination {
            parts.push_address(flow.src, &word);
        }
        if key != HashKey::Client {
            parts.push_address(flow.dst, &word);
        }
        if key == HashKey::FiveTuple {
            transport.iter().for_each(|&part| parts.push(part));
        }
        parts
    }

    fn push_address(&mut self, address: IpAddr, word: &impl Fn(u32) -> Word) {
        match address {
            IpAddr::V4(address) => self.push(word(address.to_bits())),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                [96, 64, 32, 0].into_iter().for_each(|shift| self.push(word((bits >> shift) as u32)));
            }
        }
    }

    fn push(&mut self, word: Word) {
        if let Some(place) = self.words.get_mut(self.count) {
            *place = word;
            self.count += 1;
        }
    }

    fn all(&self) -> &[Word] {
        self.words.get(..self.count).unwrap_or_default()
    }
}

impl Parts<[u8; 4]> {
    fn bytes(&self) -> &[u8] {
        self.all().as_flattened()
    }
}

/// `jhash()` of include/linux/jhash.h, which is lookup3's `hashlittle` on a machine that is little-endian.
/// All but the last twelve bytes are read in the machine's own order.
fn jenkins(bytes: &[u8], seed: u32) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(bytes.len() as u32).wrapping_add(seed);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut rest = bytes;
    while rest.len() > 12
        && let Some((block, more)) = rest.split_first_chunk::<12>()
    {
        let word = |at: usize| u32::from_ne_bytes(array::from_fn(|byte| block[at + byte]));
        a = a.wrapping_add(word(0));
        b = b.wrapping_add(word(4));
        c = c.wrapping_add(word(8));
        (a, b, c) = stirred(a, b, c);
        rest = more;
    }
    if rest.is_empty() {
        return c;
    }
    let word = |at: usize| {
        u32::from_le_bytes(array::from_fn(|byte| rest.get(at + byte).copied().unwrap_or_default()))
    };
    finished(a.wrapping_add(word(0)), b.wrapping_add(word(4)), c.wrapping_add(word(8)))
}

/// `__jhash_mix()`.
fn stirred(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    let step = |x: &mut u32, y: &mut u32, z: u32, bits: u32| {
        *x = x.wrapping_sub(*y) ^ y.rotate_left(bits);
        *y = y.wrapping_add(z);
    };
    step(&mut a, &mut c, b, 4);
    step(&mut b, &mut a, c, 6);
    step(&mut c, &mut b, a, 8);
    step(&mut a, &mut c, b, 16);
    step(&mut b, &mut a, c, 19);
    step(&mut c, &mut b, a, 4);
    (a, b, c)
}

/// `__jhash_final()`.
fn finished(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    let step = |x: u32, y: u32, bits: u32| (x ^ y).wrapping_sub(y.rotate_left(bits));
    c = step(c, b, 14);
    a = step(a, c, 11);
    b = step(b, a, 25);
    c = step(c, b, 16);
    a = step(a, c, 4);
    b = step(b, a, 14);
    step(c, b, 24)
}

fn murmur(words: &[u32]) -> u32 {
    let mixed = |hash: u32, &word: &u32| hash.wrapping_mul(constant::SPREAD) ^ word;
    let mixed = words.iter().fold(0, mixed);
    constant::FOLDS
        .into_iter()
        .zip(constant::FINALIZER)
        .fold(mixed, |hash, (bits, factor)| (hash ^ hash >> bits).wrapping_mul(factor))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::testing::{all, flow, lines};
    use super::*;

    const KEYS: [HashKey; 4] =
        [HashKey::Client, HashKey::Destination, HashKey::ClientDestination, HashKey::FiveTuple];
    const HASHES: [SlotHash; 2] = [SlotHash::Jenkins, SlotHash::Murmur];

    #[test]
    #[cfg(target_endian = "little")]
    fn jenkins_hash_is_the_published_one() {
        // lookup3.c, `driver5`.
        assert_eq!(jenkins(b"", 0), 0xdead_beef);
        assert_eq!(jenkins(b"", 0xdead_beef), 0xbd5b_7dde);
        assert_eq!(jenkins(b"Four score and seven years ago", 0), 0x1777_0551);
        assert_eq!(jenkins(b"Four score and seven years ago", 1), 0xcd62_8161);
    }

    #[test]
    fn murmurs_first_bits_are_those_of_the_published_finalizer() {
        // `fmix32` of MurmurHash3.cpp.
        for (word, finalized) in [(0, 0), (1, 0x514e_28b7_u32), (0x1234_5678, 0xe37c_d1bc)] {
            assert_eq!(murmur(&[word]) >> 16, finalized >> 16, "{word:#x}");
        }
    }

    #[test]
    fn the_slot_of_a_flow_never_changes() {
        let (src, dst) = (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into());
        let v6 = FlowKey { src, dst, ..flow(1) };
        let slots = HASHES.map(|hash| [flow(1), v6].map(|flow| KEYS.map(|key| hash.slot(key, &flow))));
        let jenkins = [[118, 96, 13, 92], [78, 28, 44, 92]];
        let murmur = [[40, 89, 71, 0], [40, 0, 79, 46]];
        assert_eq!(slots, [jenkins, murmur]);
    }

    #[test]
    fn each_key_looks_at_its_own_parts_only() {
        for hash in HASHES {
            let slots = |key, change: fn(&mut FlowKey, u16)| -> Vec<usize> {
                let changed = (0..20).map(|number| {
                    let mut flow = flow(1);
                    change(&mut flow, number);
                    hash.slot(key, &flow)
                });
                let mut slots: Vec<usize> = changed.collect();
                slots.sort_unstable();
                slots.dedup();
                slots
            };
            let client = |flow: &mut FlowKey, number| flow.src = Ipv4Addr::new(10, 0, 0, number as u8).into();
            let server = |flow: &mut FlowKey, number| flow.dst = Ipv4Addr::new(10, 0, 0, number as u8).into();
            let port = |flow: &mut FlowKey, number| flow.src_port = number;
            let identifier = |flow: &mut FlowKey, number| (flow.protocol, flow.src_port) = (1, number);
            let protocol = |flow: &mut FlowKey, number: u16| flow.protocol = 100 + number as u8;
            let looks =
                |key| [client, server, port, identifier, protocol].map(|change| slots(key, change).len() > 1);
            assert_eq!(looks(HashKey::Client), [true, false, false, false, false], "{hash:?}");
            assert_eq!(looks(HashKey::Destination), [false, true, false, false, false], "{hash:?}");
            assert_eq!(looks(HashKey::ClientDestination), [true, true, false, false, false], "{hash:?}");
            assert_eq!(looks(HashKey::FiveTuple), [true, true, true, false, true], "{hash:?}");
        }
    }

    #[test]
    fn flows_are_shared_among_slots_alike() {
        for (hash, key) in HASHES.into_iter().flat_map(|hash| KEYS.map(|key| (hash, key))) {
            let mut counts = [0_i32; SLOTS];
            for number in 0..64_000 {
                let (src, dst) = (Ipv4Addr::from_bits(number).into(), Ipv4Addr::from_bits(!number).into());
                counts[hash.slot(key, &FlowKey { src, dst, ..flow(1) })] += 1;
            }
            // Six standard deviations of a binomial count are below 134.
            assert!(counts.iter().all(|count| (count - 500).abs() < 134), "{hash:?} {key:?} {counts:?}");
        }
    }

    #[test]
    fn slots_are_shared_by_weight_as_well_as_whole_numbers_can() {
        let shares = |weights: &[u8]| counts(&table(weights), all(weights.len() as u8));
        assert_eq!(shares(&[1]), [128]);
        assert_eq!(shares(&[3, 1]), [96, 32]);
        assert_eq!(shares(&[1, 1, 1]), [43, 43, 42]);
        assert_eq!(shares(&[5, 3, 2]), [64, 38, 26]);
        assert_eq!(shares(&[100, 1]), [127, 1]);
        assert_eq!(shares(&[255, 1]), [128, 0]);
        assert_eq!(shares(&[1, 0, 1]), [64, 0, 64]);
        assert_eq!(shares(&[0, 0]), [0, 0]);
        assert_eq!(shares(&[1; 64]), [2; 64]);
    }

    #[test]
    fn whose_a_slot_is_never_changes() {
        let owners: Vec<u8> = table(&[5, 3, 2]).owners.iter().map(|owner| owner.0).collect();
        let runs = owners.chunks(16).map(|run| run.iter().map(|&owner| char::from(b'0' + owner)).collect());
        let runs: Vec<String> = runs.collect();
        let expected = [
            "0011002202020212",
            "0121002100200202",
            "0202200110020020",
            "0010002002110020",
            "2012010002000000",
            "0100200111101011",
            "1111001101202111",
            "1020100001001111",
        ];
        assert_eq!(runs, expected);
    }

    #[test]
    fn one_line_more_takes_its_slots_and_moves_few_others() {
        for count in 2..10 {
            let (before, after) = (table(&vec![1; count]), table(&vec![1; count + 1]));
            let moved = before.owners.iter().zip(&after.owners).filter(|(before, after)| before != after);
            let fair = SLOTS / (count + 1);
            assert!(moved.clone().count() <= 2 * fair, "{count}: {}", moved.count());
        }
    }

    #[test]
    fn nobody_gets_a_slot_when_nobody_is_usable() {
        assert_eq!(table(&[3, 1]).uplink(0, UplinkSet::EMPTY), None);
        assert_eq!(table(&[0]).uplink(0, all(1)), None);
        assert_eq!(table(&[]).uplink(0, all(1)), None);
        assert_eq!(table(&[3, 1]).shares(UplinkSet::EMPTY).count(), 0);
    }

    proptest! {
        #[test]
        fn losing_an_uplink_moves_only_its_own_flows(
            weights in vec(1..=255_u8, 2..16),
            lost in any::<prop::sample::Index>(),
            down in any::<u16>(),
            slot in 0..SLOTS,
        ) {
            let table = table(&weights);
            let is_up = |uplink: &UplinkId| down >> uplink.0 & 1 == 0;
            let usable: UplinkSet = all(weights.len() as u8).iter().filter(is_up).collect();
            let lost = UplinkId(lost.index(weights.len()) as u8);
            let before = table.uplink(slot, usable);
            let after = table.uplink(slot, usable.without(lost));
            prop_assert!(after != Some(lost));
            prop_assert!(before == Some(lost) || before == after);
        }

        #[test]
        fn each_slot_is_one_usable_lines(weights in vec(0..=255_u8, 1..16), usable in any::<u16>()) {
            let table = table(&weights);
            let usable: UplinkSet = (0..16).map(UplinkId).filter(|uplink| usable >> uplink.0 & 1 == 1).collect();
            let shares: Vec<(UplinkId, u128)> = table.shares(usable).collect();
            let can = |&(uplink, weight): &(UplinkId, u8)| weight > 0 && usable.contains(uplink);
            let is_any = lines(&weights).any(|line| can(&line));
            prop_assert_eq!(shares.iter().fold(0, |all, (_, slots)| all | slots), if is_any { u128::MAX } else { 0 });
            prop_assert_eq!(shares.iter().map(|(_, slots)| slots.count_ones()).sum::<u32>(), if is_any { 128 } else { 0 });
            for (uplink, slots) in shares {
                for slot in (0..SLOTS).filter(|slot| slots >> slot & 1 == 1) {
                    prop_assert_eq!(table.uplink(slot, usable), Some(uplink));
                }
            }
        }
    }

    fn table(weights: &[u8]) -> SlotTable {
        SlotTable::among(&lines(weights).collect::<Vec<_>>())
    }

    /// How many slots each line has.
    fn counts(table: &SlotTable, usable: UplinkSet) -> Vec<u32> {
        let shares: Vec<(UplinkId, u128)> = table.shares(usable).collect();
        let of =
            |uplink| shares.iter().find(|(id, _)| *id == uplink).map_or(0, |(_, slots)| slots.count_ones());
        table.uplinks.iter().map(|&(uplink, _)| of(uplink)).collect()
    }
}
