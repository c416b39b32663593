//! DTLS: the ClientHello that begins a connection over UDP.

use super::tls::{self, Hello};
use super::{App, Hint, Sniffed};

/// Record and handshake types, RFC 8446, sections 5.1 and 4.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// Tells whether a client begins DTLS 1.0, 1.2 or 1.3 with this datagram, and with whom
/// (RFC 6347, sections 4.1 and 4.2; DTLS 1.3 begins as 1.2, RFC 9147, section 5.3).
///
/// A ClientHello may be cut into fragments, and the next may come in another datagram. Only the
/// first is read: a name behind its end is not found.
#[must_use]
pub fn sniff(datagram: &[u8]) -> Sniffed<Hint<'static>> {
    match fragment(datagram) {
        Some(Fragment { at: 0, length, bytes }) => match tls::read_body(bytes, length, App::Dtls) {
            Hello::Whole(hint) | Hello::Part(hint) => Sniffed::Certain(hint),
            Hello::Other => Sniffed::NotMine,
        },
        Some(_) => Sniffed::Certain(Hint::of(App::Dtls)),
        None => Sniffed::NotMine,
    }
}

/// A part of a ClientHello.
struct Fragment<'a> {
    /// Where it lies in the message.
    at: usize,
    /// The message's length.
    length: usize,
    bytes: &'a [u8],
}

fn fragment(datagram: &[u8]) -> Option<Fragment<'_>> {
    let [HANDSHAKE, 0xfe, 0xff | 0xfd, 0, 0, _, _, _, _, _, _, record @ ..] = datagram else { return None };
    let (&size, record) = record.split_first_chunk()?;
    let record = record.get(..u16::from_be_bytes(size).into())?;
    let [CLIENT_HELLO, l0, l1, l2, _, _, a0, a1, a2, s0, s1, s2, bytes @ ..] = record else { return None };
    let (length, at) = (tls::length([*l0, *l1, *l2]), tls::length([*a0, *a1, *a2]));
    let bytes = bytes.get(..tls::length([*s0, *s1, *s2]))?;
    (at + bytes.len() <= length).then_some(Fragment { at, length, bytes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::sniff::tls::samples::{Sample, short};
    use crate::engine::sniff::{Alpn, Name};

    fn usual() -> Sample {
        Sample { dtls: true, ..Sample::default() }.name(b"turn.example.org").large().alpn(&["webrtc"])
    }

    /// A datagram with the bytes `from..to` of a ClientHello.
    fn datagram(version: u8, hello: &Sample, from: usize, to: usize) -> Vec<u8> {
        let body = hello.body();
        let number = |number: usize| (number as u32).to_be_bytes()[1..].to_vec();
        let fragment =
            [&[1], &number(body.len())[..], &[0, 1], &number(from), &number(to - from), &body[from..to]]
                .concat();
        [&[22, 0xfe, version, 0, 0, 0, 0, 0, 0, 0, 1], &short(&fragment)[..]].concat()
    }

    #[test]
    fn a_hello_tells_its_name_and_its_protocols_in_both_versions() {
        let hint = Hint {
            alpn: Alpn::default().with(b"webrtc"),
            ..Hint::named(App::Dtls, Name::new(b"turn.example.org"))
        };
        for version in [0xfd, 0xff] {
            let bytes = datagram(version, &usual(), 0, usual().body().len());
            assert_eq!(sniff(&bytes), Sniffed::Certain(hint));
        }
    }

    #[test]
    fn a_hello_without_a_name_is_dtls_all_the_same() {
        let hello = Sample { dtls: true, ..Sample::default() };
        let bytes = datagram(0xfd, &hello, 0, hello.body().len());
        assert_eq!(sniff(&bytes), Sniffed::Certain(Hint::of(App::Dtls)));
    }

    #[test]
    fn of_a_hello_in_fragments_the_first_is_read() {
        let first = Hint::named(App::Dtls, Name::new(b"turn.example.org"));
        assert_eq!(sniff(&datagram(0xfd, &usual(), 0, 900)), Sniffed::Certain(first));
        assert_eq!(sniff(&datagram(0xfd, &usual(), 900, 1000)), Sniffed::Certain(Hint::of(App::Dtls)));
    }

    #[test]
    fn anything_else_is_not_dtls() {
        let whole = datagram(0xfd, &usual(), 0, usual().body().len());
        for cut in 0..whole.len() {
            assert_eq!(sniff(&whole[..cut]), Sniffed::NotMine, "{cut} bytes");
        }
        for (at, change) in [(0, 23), (1, 3), (2, 0xfc), (4, 1), (13, 2), (15, 0), (19, 1), (25, 3), (59, 33)]
        {
            let mut bytes = whole.clone();
            bytes[at] = change;
            assert_eq!(sniff(&bytes), Sniffed::NotMine, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn random_and_mutated_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let _ = sniff(&bytes);
            let mut mutated = datagram(0xfd, &usual(), 0, 1000);
            for (place, value) in changes {
                let place = place.index(mutated.len());
                mutated[place] = value;
            }
            let _ = sniff(&mutated);
        }
    }
}
