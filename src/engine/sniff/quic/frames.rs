//! The CRYPTO frames among the frames of an Initial packet (RFC 9000, section 19).

use super::header::{block, number};
use super::{Pieces, Store};

const PADDING: u8 = 0x00;
const PING: u8 = 0x01;
const ACK: u8 = 0x02;
const ACK_ECN: u8 = 0x03;
const CRYPTO: u8 = 0x06;

/// Frames of Q050, T050 and T051, which number theirs otherwise. An Initial of another version has
/// no such frames (RFC 9000, section 12.4).
const GOOGLES_PING: u8 = 0x07;
const GOOGLES_CRYPTO: u8 = 0x08;

/// Puts the data of all CRYPTO frames to their places, up to the first frame that is none of those
/// that a client sends with its ClientHello.
pub(super) fn crypto<S: Store>(mut frames: &[u8], into: &mut Pieces<S>) {
    while let Some(rest) = frame(frames, into) {
        frames = rest;
    }
}

/// Reads one frame; what follows it.
fn frame<'a, S: Store>(frames: &'a [u8], into: &mut Pieces<S>) -> Option<&'a [u8]> {
    let (&kind, rest) = frames.split_first()?;
    match kind {
        PADDING | PING | GOOGLES_PING => Some(rest),
        ACK => behind_ack(rest),
        ACK_ECN => behind_numbers(behind_ack(rest)?, 3),
        CRYPTO | GOOGLES_CRYPTO => {
            let (at, rest) = number(rest)?;
            let (data, rest) = block(rest)?;
            into.place(at, data);
            Some(rest)
        }
        _ => None,
    }
}

/// Section 19.3: largest number, delay, count of further ranges, first range; two numbers a range.
fn behind_ack(frame: &[u8]) -> Option<&[u8]> {
    let (ranges, rest) = number(behind_numbers(frame, 2)?)?;
    behind_numbers(rest, ranges.checked_mul(2)?.checked_add(1)?)
}

/// It ends with the bytes, whatever `count` says.
fn behind_numbers(bytes: &[u8], count: usize) -> Option<&[u8]> {
    (0..count).try_fold(bytes, |bytes, _| Some(number(bytes)?.1))
}
