//! The hashes by which flows find their slots.

use std::array;
use std::net::IpAddr;

use super::SLOT_BITS;
use crate::engine::flow::FlowKey;
use crate::engine::packet::PROTOCOLS_WITH_PORTS;
use crate::engine::rule::model::HashKey;

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

/// The parts of a flow as nft's registers hold them: four bytes each, ports and protocols at their beginning.
fn registers(key: HashKey, flow: &FlowKey) -> Parts<[u8; 4]> {
    let ports = [flow.src_port, flow.dst_port].map(port_register);
    let protocol = [[flow.protocol, 0, 0, 0]];
    let transport = if has_ports(flow) { &ports[..] } else { &protocol[..] };
    Parts::of(key, flow, u32::to_be_bytes, transport)
}

fn port_register(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
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

    use super::super::super::testing::flow;
    use super::super::SLOTS;
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
}
