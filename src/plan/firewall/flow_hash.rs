//! The flow's hash as a classic BPF program, for iptables' `-m bpf --bytecode`.
//!
//! iptables has no pure hash of addresses and ports that keeps the other mark
//! bits (`HMARK` overwrites the whole mark, `statistic` counts, `cluster` sees
//! only the source). A BPF program over the header does it. nft has `jhash`.

use std::fmt::Write;

use crate::engine::packet::{Family, PROTOCOLS_WITH_PORTS};

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
    pub const MULTIPLY: u16 = 0x24;
    pub const MODULO: u16 = 0x94;
    pub const XOR_X: u16 = 0xac;
    pub const SHIFT_RIGHT: u16 = 0x74;
    pub const JUMP_EQUAL: u16 = 0x15;
    pub const JUMP_AT_LEAST: u16 = 0x35;
    pub const X_FROM_A: u16 = 0x07;
    pub const A_FROM_X: u16 = 0x87;
    pub const RETURN: u16 = 0x06;
}

/// An odd constant with well spread bits (2³² divided by the golden ratio).
const SPREAD: u32 = 0x9e37_79b1;
/// The two multipliers of MurmurHash3's 32-bit finalizer.
const FINALIZER: [u32; 2] = [0x85eb_ca6b, 0xc2b2_ae35];

/// The program that matches a packet whose flow hash modulo `of` lies in `from..to`,
/// written as `--bytecode` wants it.
#[must_use]
pub fn bytecode(family: Family, from: u32, to: u32, of: u32) -> String {
    let program = program(family, from, to, of);
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

/// Offsets of the words that hold the addresses (RFC 791, RFC 8200).
fn address_words(family: Family) -> impl Iterator<Item = u32> {
    let (first, words) = match family {
        Family::V4 => (12, 2),
        Family::V6 => (8, 8),
    };
    (0..words).map(move |word| first + 4 * word)
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
    let (protocol_at, load) = match family {
        Family::V4 => (
            9,
            vec![
                plain(op::STORE_X, 0),
                plain(op::LOAD_X_HEADER_LENGTH, 0),
                plain(op::LOAD_WORD_AT_X, 0),
                plain(op::LOAD_X_MEMORY, 0),
            ],
        ),
        Family::V6 => (6, vec![plain(op::LOAD_WORD, 40)]),
    };
    let mut mixing = load;
    mixing.extend([plain(op::XOR_X, 0), plain(op::MULTIPLY, SPREAD), plain(op::X_FROM_A, 0)]);
    let mut program = vec![plain(op::LOAD_BYTE, protocol_at)];
    program.extend(if_any(&PROTOCOLS_WITH_PORTS.map(u32::from), mixing.len() as u8));
    program.extend(mixing);
    program
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
    let fold = |bits| [plain(op::X_FROM_A, 0), plain(op::SHIFT_RIGHT, bits), plain(op::XOR_X, 0)];
    let mut program = vec![plain(op::A_FROM_X, 0)];
    program.extend(fold(16));
    program.push(plain(op::MULTIPLY, FINALIZER[0]));
    program.extend(fold(13));
    program.push(plain(op::MULTIPLY, FINALIZER[1]));
    program.extend(fold(16));
    program
}

fn plain(code: u16, operand: u32) -> Instruction {
    Instruction { code, if_true: 0, if_false: 0, operand }
}

fn jump(code: u16, operand: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code, if_true, if_false, operand }
}
