//! The flow's hash as a classic BPF program, for iptables' `-m bpf --bytecode`: the one of the kernel's own choice, and
//! the one by which flows find their slots (see [`SlotHash::Murmur`](crate::engine::uplink::pick::slots::SlotHash)).
//!
//! iptables has no pure hash of addresses and ports that keeps the other mark
//! bits (`HMARK` overwrites the whole mark, `statistic` counts, `cluster` sees
//! only the source). A BPF program over the header does it. nft has `jhash`.

use std::fmt::Write;

use crate::engine::packet::{Family, PROTOCOLS_WITH_PORTS};
use crate::engine::rule::model::HashKey;
use crate::engine::uplink::pick::slots::constant::{FINALIZER, FOLDS, SPREAD};
use crate::engine::uplink::pick::slots::{SLOT_BITS, SLOTS};

/// One instruction: include/uapi/linux/filter.h, `struct sock_filter`.
#[derive(Clone, Copy)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    operand: u32,
}

/// The opcodes used, as sums of the parts in include/uapi/linux/bpf_common.h.
mod op {
    /// A = 32 bits at an absolute offset.
    pub const LOAD_WORD: u16 = 0x20;
    /// A = 8 bits at an absolute offset.
    pub const LOAD_BYTE: u16 = 0x30;
    /// A = 32 bits at X plus an offset.
    pub const LOAD_WORD_AT_X: u16 = 0x40;
    /// X = 4 × (the low half of the byte at an offset): the length of an IPv4 header.
    pub const LOAD_X_HEADER_LENGTH: u16 = 0xb1;
    /// X = a memory slot.
    pub const LOAD_X_MEMORY: u16 = 0x61;
    /// A memory slot = X.
    pub const STORE_X: u16 = 0x03;
    /// A = the operand.
    pub const LOAD: u16 = 0x00;
    /// A = a memory slot.
    pub const LOAD_MEMORY: u16 = 0x60;
    /// A memory slot = A.
    pub const STORE: u16 = 0x02;
    pub const MULTIPLY: u16 = 0x24;
    pub const MODULO: u16 = 0x94;
    pub const AND: u16 = 0x54;
    pub const XOR_X: u16 = 0xac;
    pub const SHIFT_RIGHT: u16 = 0x74;
    pub const SHIFT_RIGHT_BY_X: u16 = 0x7c;
    pub const JUMP: u16 = 0x05;
    pub const JUMP_EQUAL: u16 = 0x15;
    pub const JUMP_AT_LEAST: u16 = 0x35;
    /// Jumps if A has any of the operand's bits.
    pub const JUMP_IF_SET: u16 = 0x45;
    pub const X_FROM_A: u16 = 0x07;
    pub const A_FROM_X: u16 = 0x87;
    pub const RETURN: u16 = 0x06;
    pub const RETURN_A: u16 = 0x16;
}

/// IPv6 extension headers behind which the kernel and the parser look for the protocol (net/ipv6/exthdrs_core.c,
/// `ipv6_ext_hdr`). No program sees what is there.
const EXTENSION_HEADERS: [u32; 5] = [0, 43, 44, 51, 60];

/// The program that matches a packet whose flow hash modulo `of` lies in `from..to`,
/// written as `--bytecode` wants it.
#[must_use]
pub fn bytecode(family: Family, from: u32, to: u32, of: u32) -> String {
    written(program(family, from, to, of))
}

/// The program that matches a packet whose flow's slot is one of these, bits of a number. One that has ports behind
/// extension headers or in a tunnel of IPsec's gets a slot that is not its own, see [`hidden_bytecode`].
#[must_use]
pub fn slot_bytecode(family: Family, key: HashKey, slots: u128) -> String {
    written(slot_program(family, key, slots))
}

/// The program that matches an IPv6 packet with extension headers.
#[must_use]
pub fn hidden_bytecode() -> String {
    let mut program = vec![plain(op::LOAD_BYTE, protocol_at(Family::V6))];
    program.extend(if_any(&EXTENSION_HEADERS, 1));
    program.extend([plain(op::RETURN, 1), plain(op::RETURN, 0)]);
    written(program)
}

fn written(program: Vec<Instruction>) -> String {
    let mut text = program.len().to_string();
    for Instruction { code, if_true, if_false, operand } in program {
        // Writing to a String cannot fail.
        let _ = write!(text, ",{code} {if_true} {if_false} {operand}");
    }
    text
}

fn program(family: Family, from: u32, to: u32, of: u32) -> Vec<Instruction> {
    let mut program = Vec::new();
    for offset in address_words(family) {
        let first = program.is_empty();
        mix(&mut program, plain(op::LOAD_WORD, offset), first);
    }
    program.extend(ports(family));
    program.extend(finalize());
    program.extend([
        plain(op::MODULO, of),
        jump(op::JUMP_AT_LEAST, from, 0, 2),
        jump(op::JUMP_AT_LEAST, to, 1, 0),
        plain(op::RETURN, 1),
        plain(op::RETURN, 0),
    ]);
    program
}

/// At most 64 instructions, all that there may be: `XT_BPF_MAX_NUM_INSTR` in include/uapi/linux/netfilter/xt_bpf.h.
fn slot_program(family: Family, key: HashKey, slots: u128) -> Vec<Instruction> {
    let mut loads: Vec<Vec<Instruction>> =
        slot_words(family, key).map(|offset| vec![plain(op::LOAD_WORD, offset)]).collect();
    if key == HashKey::FiveTuple {
        loads.push(ports_or_protocol(family));
    }
    let last = loads.len() - 1;
    let mut program = Vec::new();
    for (place, load) in loads.into_iter().enumerate() {
        program.extend(load);
        if place > 0 {
            program.push(plain(op::XOR_X, 0));
        }
        if place < last {
            program.extend([plain(op::MULTIPLY, SPREAD), plain(op::X_FROM_A, 0)]);
        }
    }
    for (bits, factor) in FOLDS.into_iter().zip(FINALIZER) {
        program.extend(fold(bits));
        program.push(plain(op::MULTIPLY, factor));
    }
    program.extend(is_among(slots));
    program
}

/// Offsets of the words that hold the addresses which a slot depends on.
fn slot_words(family: Family, key: HashKey) -> impl Iterator<Item = u32> {
    let words = address_words(family).len();
    let (from, count) = match key {
        HashKey::Client => (0, words / 2),
        HashKey::Destination => (words / 2, words / 2),
        HashKey::ClientDestination | HashKey::FiveTuple => (0, words),
    };
    address_words(family).skip(from).take(count)
}

/// A = the two ports, where the protocol has them, else the protocol. X stays.
fn ports_or_protocol(family: Family) -> Vec<Instruction> {
    let load = ports_at(family);
    let mut program = vec![plain(op::LOAD_BYTE, protocol_at(family))];
    program.extend(if_any(&PROTOCOLS_WITH_PORTS.map(u32::from), load.len() as u8));
    program.extend(load);
    program
}

/// Returns whether the slot that A begins with is among these: its first five bits are a bit's place in the word
/// that its last two name.
fn is_among(slots: u128) -> [Instruction; 17] {
    const WORD: u32 = u32::BITS - SLOT_BITS;
    let word = |number: usize| {
        let bits = (0..u32::BITS).filter(|bit| slots >> ((*bit as usize) << 2 | number) & 1 == 1);
        plain(op::LOAD, bits.fold(0, |word, bit| word | 1 << bit))
    };
    const { assert!(SLOTS == 4 * u32::BITS as usize) };
    [
        plain(op::STORE, 0),
        plain(op::SHIFT_RIGHT, WORD + 2),
        plain(op::X_FROM_A, 0),
        plain(op::LOAD_MEMORY, 0),
        jump(op::JUMP_IF_SET, 2 << WORD, 5, 0),
        jump(op::JUMP_IF_SET, 1 << WORD, 2, 0),
        word(0),
        plain(op::JUMP, 6),
        word(1),
        plain(op::JUMP, 4),
        jump(op::JUMP_IF_SET, 1 << WORD, 2, 0),
        word(2),
        plain(op::JUMP, 1),
        word(3),
        plain(op::SHIFT_RIGHT_BY_X, 0),
        plain(op::AND, 1),
        plain(op::RETURN_A, 0),
    ]
}

/// Offsets of the words that hold the addresses (RFC 791, RFC 8200).
fn address_words(family: Family) -> impl ExactSizeIterator<Item = u32> {
    let (first, words) = match family {
        Family::V4 => (12, 2),
        Family::V6 => (8, 8),
    };
    (0..words as usize).map(move |word| first + 4 * word as u32)
}

/// Where a header says what comes next.
fn protocol_at(family: Family) -> u32 {
    match family {
        Family::V4 => 9,
        Family::V6 => 6,
    }
}

/// X = (X xor word) × constant; the first word stands alone.
fn mix(program: &mut Vec<Instruction>, load: Instruction, first: bool) {
    program.push(load);
    if !first {
        program.push(plain(op::XOR_X, 0));
    }
    program.extend([plain(op::MULTIPLY, SPREAD), plain(op::X_FROM_A, 0)]);
}

/// Mixes in the ports, where the protocol has them and the header is where it is expected.
fn ports(family: Family) -> Vec<Instruction> {
    let mut mixing = ports_at(family);
    mixing.extend([plain(op::XOR_X, 0), plain(op::MULTIPLY, SPREAD), plain(op::X_FROM_A, 0)]);
    let mut program = vec![plain(op::LOAD_BYTE, protocol_at(family))];
    program.extend(if_any(&PROTOCOLS_WITH_PORTS.map(u32::from), mixing.len() as u8));
    program.extend(mixing);
    program
}

/// A = the two ports. X stays.
fn ports_at(family: Family) -> Vec<Instruction> {
    match family {
        Family::V4 => vec![
            plain(op::STORE_X, 0),
            plain(op::LOAD_X_HEADER_LENGTH, 0),
            plain(op::LOAD_WORD_AT_X, 0),
            plain(op::LOAD_X_MEMORY, 0),
        ],
        Family::V6 => vec![plain(op::LOAD_WORD, 40)],
    }
}

/// Goes on where A is one of the values, else skips the next `body` instructions.
fn if_any(values: &[u32], body: u8) -> Vec<Instruction> {
    let last = values.len() - 1;
    let test = |(place, &value): (usize, &u32)| {
        let miss = if place == last { body } else { 0 };
        jump(op::JUMP_EQUAL, value, (last - place) as u8, miss)
    };
    values.iter().enumerate().map(test).collect()
}

/// Every bit of X comes to bear on every bit of A, so that a modulus of 2 does not just see a port's parity.
fn finalize() -> Vec<Instruction> {
    let mut program = vec![plain(op::A_FROM_X, 0)];
    program.extend(fold(16));
    program.push(plain(op::MULTIPLY, FINALIZER[0]));
    program.extend(fold(13));
    program.push(plain(op::MULTIPLY, FINALIZER[1]));
    program.extend(fold(16));
    program
}

/// A = A xor its upper bits.
fn fold(bits: u32) -> [Instruction; 3] {
    [plain(op::X_FROM_A, 0), plain(op::SHIFT_RIGHT, bits), plain(op::XOR_X, 0)]
}

fn plain(code: u16, operand: u32) -> Instruction {
    Instruction { code, if_true: 0, if_false: 0, operand }
}

fn jump(code: u16, operand: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code, if_true, if_false, operand }
}
