//! OpenVPN: a client's first packet, bare or wrapped by `tls-auth` or `tls-crypt`
//! (the OpenVPN project's document "openvpn-rfc").

use super::bytes::{u16_at, u32_at};
use super::{App, Hint, Sniffed};

/// Opcodes `P_CONTROL_HARD_RESET_CLIENT_V2` and `_V3` in the upper five bits, key 0 below.
const RESET_V2: u8 = 7 << 3;
const RESET_V3: u8 = 10 << 3;

/// Opcode and session id.
const START: usize = 9;

/// An empty list of acknowledgements and the packet's own number, which is 0.
const END: [u8; 5] = [0; 5];

/// Packet id and time, against replays.
const REPLAY: usize = 8;

/// Digests of `tls-auth`: MD5, SHA-1, SHA-224, SHA-256, SHA-384, SHA-512.
const DIGESTS: [usize; 6] = [16, 20, 28, 32, 48, 64];

/// The digest of `tls-crypt`.
const CRYPT_DIGEST: usize = 32;

/// The first packet ids: 1, or this where the client is ready for a stateless answer.
const EARLY_ID: u32 = 0x0f00_0001;

/// Bytes that may follow in a `tls-crypt` packet: a note that the client is ready for that.
const EARLY_NOTE: usize = 6;

/// Bytes of a wrapped client key of `tls-crypt-v2`: from one with no metadata to the largest.
const WRAPPED_KEY: std::ops::RangeInclusive<usize> = 290..=1024;

/// Bytes in the longest packet that is taken for one.
const LONGEST: u16 = 1200;

/// Whether a datagram begins an OpenVPN session.
#[must_use]
pub fn sniff(payload: &[u8]) -> Sniffed<Hint<'_>> {
    if is_reset(payload) { Sniffed::Certain(Hint::of(App::Openvpn)) } else { Sniffed::NotMine }
}

/// Whether a stream does: there each packet stands behind its length in two bytes.
#[must_use]
pub fn sniff_stream(stream: &[u8]) -> Sniffed<Hint<'_>> {
    let may_be_reset = stream.get(2).is_none_or(|first| matches!(*first, RESET_V2 | RESET_V3));
    let may_be_short = stream.first().is_none_or(|&high| u16::from(high) <= LONGEST >> 8);
    if !may_be_reset || !may_be_short {
        return Sniffed::NotMine;
    }
    let Some(length) = u16_at(stream, 0) else { return Sniffed::NeedMore };
    if usize::from(length) < START + END.len() || length > LONGEST {
        return Sniffed::NotMine;
    }
    stream.get(2..2 + usize::from(length)).map_or(Sniffed::NeedMore, sniff)
}

fn is_reset(packet: &[u8]) -> bool {
    match packet.first() {
        Some(&RESET_V2) => is_bare(packet) || is_authenticated(packet) || is_encrypted(packet),
        Some(&RESET_V3) => without_key(packet).is_some_and(is_encrypted),
        _ => false,
    }
}

fn is_bare(packet: &[u8]) -> bool {
    packet.get(START..) == Some(&END)
}

fn is_authenticated(packet: &[u8]) -> bool {
    let digest = packet.len().checked_sub(START + REPLAY + END.len());
    digest.is_some_and(|digest| DIGESTS.contains(&digest) && is_first(packet, START + digest))
        && packet.ends_with(&END)
}

fn is_encrypted(packet: &[u8]) -> bool {
    let encrypted = packet.len().checked_sub(START + REPLAY + CRYPT_DIGEST + END.len());
    matches!(encrypted, Some(0 | EARLY_NOTE)) && is_first(packet, START)
}

fn is_first(packet: &[u8], at: usize) -> bool {
    matches!(u32_at(packet, at), Some(1 | EARLY_ID))
}

/// The packet before the wrapped key, which ends with its own length.
fn without_key(packet: &[u8]) -> Option<&[u8]> {
    let key = usize::from(u16_at(packet, packet.len().checked_sub(2)?)?);
    if !WRAPPED_KEY.contains(&key) {
        return None;
    }
    packet.get(..packet.len().checked_sub(key)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(opcode: u8, parts: &[&[u8]]) -> Vec<u8> {
        [&[opcode][..], &[0x5a; 8], &parts.concat()].concat()
    }

    fn resets() -> [Vec<u8>; 5] {
        let replay = [0, 0, 0, 1, 0x66, 0, 0, 0];
        let key = [&[3; 288][..], &[1, 0x22]].concat();
        [
            packet(RESET_V2, &[&END]),
            packet(RESET_V2, &[&[7; 20], &replay, &END]),
            packet(RESET_V2, &[&[7; 64], &replay, &END]),
            packet(RESET_V2, &[&replay, &[7; 32], &[9; 5]]),
            packet(RESET_V3, &[&[0x0f, 0, 0, 1, 0, 0, 0, 0], &[7; 32], &[9; 11], &key]),
        ]
    }

    #[test]
    fn a_session_begins_bare_authenticated_or_encrypted() {
        for packet in resets() {
            assert_eq!(sniff(&packet), Sniffed::Certain(Hint::of(App::Openvpn)), "{packet:?}");
            assert_eq!(sniff(&packet[..packet.len() - 1]), Sniffed::NotMine);
        }
        assert_eq!(sniff(&packet(4 << 3, &[&END])), Sniffed::NotMine);
    }

    #[test]
    fn in_a_stream_the_length_comes_first() {
        for packet in resets() {
            let length = (packet.len() as u16).to_be_bytes();
            let stream = [&length[..], &packet].concat();
            for end in 0..stream.len() {
                assert_eq!(sniff_stream(&stream[..end]), Sniffed::NeedMore);
            }
            let more = [&stream[..], b"more"].concat();
            assert_eq!(sniff_stream(&more), Sniffed::Certain(Hint::of(App::Openvpn)));
        }
        assert_eq!(sniff_stream(&[0, 14, 0x20]), Sniffed::NotMine);
        assert_eq!(sniff_stream(&[0x16]), Sniffed::NotMine);
    }
}
