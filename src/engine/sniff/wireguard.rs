//! WireGuard's four messages, by type and length (the WireGuard paper, section 5.4).

use super::{App, Hint, Sniffed};

const INITIATION: usize = 148;
const RESPONSE: usize = 92;
const COOKIE_REPLY: usize = 64;

/// Bytes of a transport message around its data, which is padded to sixteens.
const TRANSPORT: usize = 32;

/// Whether a datagram is WireGuard.
#[must_use]
pub fn sniff(payload: &[u8]) -> Sniffed<Hint<'_>> {
    let Some((&[kind, 0, 0, 0], rest)) = payload.split_first_chunk() else { return Sniffed::NotMine };
    let fits = match kind {
        1 => payload.len() == INITIATION,
        2 => payload.len() == RESPONSE,
        3 => payload.len() == COOKIE_REPLY,
        4 => payload.len() >= TRANSPORT && payload.len().is_multiple_of(16) && has_counter(rest),
        _ => false,
    };
    if fits { Sniffed::Certain(Hint::of(App::Wireguard)) } else { Sniffed::NotMine }
}

/// A little-endian packet counter behind the receiver's index: keys are renewed long before 2^40.
fn has_counter(rest: &[u8]) -> bool {
    rest.get(9..12) == Some(&[0; 3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_their_type_and_their_length() {
        let message = |kind: u8, length: usize| {
            let mut bytes = vec![0x55; length];
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
            bytes[8..16].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
            bytes
        };
        for (kind, length) in [(1, 148), (2, 92), (3, 64), (4, 32), (4, 1456)] {
            assert_eq!(sniff(&message(kind, length)), Sniffed::Certain(Hint::of(App::Wireguard)));
            assert_eq!(sniff(&message(kind, length + 1)), Sniffed::NotMine);
        }
        assert_eq!(sniff(&message(5, 148)), Sniffed::NotMine);
        assert_eq!(sniff(&[1, 0, 0]), Sniffed::NotMine);
    }
}
