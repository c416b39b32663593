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
