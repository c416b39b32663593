//! SNMP: the outer BER of a message of version 1, 2c or 3 (RFC 1157, RFC 3416, RFC 3412).

use super::{App, Hint, Sniffed};

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// Whether a datagram is SNMP: one message that fills it.
#[must_use]
pub fn sniff(payload: &[u8]) -> Sniffed<Hint<'_>> {
    if is_message(payload) == Some(true) { Sniffed::Certain(Hint::of(App::Snmp)) } else { Sniffed::NotMine }
}

fn is_message(payload: &[u8]) -> Option<bool> {
    let (message, trail) = element(payload, SEQUENCE)?;
    let (version, rest) = element(message, INTEGER)?;
    let fits = match version {
        [0 | 1] => is_community_message(rest)?,
        [3] => is_secured_message(rest)?,
        _ => false,
    };
    Some(fits && trail.is_empty())
}

/// A community and one of the nine kinds of requests and answers (RFC 3416, section 3).
fn is_community_message(rest: &[u8]) -> Option<bool> {
    let (_, pdu) = element(rest, OCTETS)?;
    Some((0xa0..=0xa8).contains(pdu.first()?))
}

/// A header that begins with the message's number, and security parameters.
fn is_secured_message(rest: &[u8]) -> Option<bool> {
    let (header, rest) = element(rest, SEQUENCE)?;
    element(header, INTEGER)?;
    element(rest, OCTETS)?;
    Some(true)
}

/// The contents of a BER element of this type, and what follows it; lengths of up to two bytes.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match bytes {
        [first, length @ 0..=0x7f, rest @ ..] if *first == tag => (usize::from(*length), rest),
        [first, 0x81, length, rest @ ..] if *first == tag => (usize::from(*length), rest),
        [first, 0x82, high, low, rest @ ..] if *first == tag => {
            (usize::from(u16::from_be_bytes([*high, *low])), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_all_versions_are_snmp() {
        let community =
            |version| vec![0x30, 15, 2, 1, version, 4, 6, b'p', b'u', b'b', b'l', b'i', b'c', 0xa0, 2, 5, 0];
        let secured = vec![0x30, 0x81, 13, 2, 1, 3, 0x30, 3, 2, 1, 9, 4, 1, 0, 0x30, 0];
        for message in [community(0), community(1), secured] {
            assert_eq!(sniff(&message), Sniffed::Certain(Hint::of(App::Snmp)), "{message:?}");
            for end in 0..message.len() {
                assert_eq!(sniff(&message[..end]), Sniffed::NotMine);
            }
            assert_eq!(sniff(&[message, vec![0]].concat()), Sniffed::NotMine);
        }
        assert_eq!(sniff(&community(2)), Sniffed::NotMine);
    }
}
