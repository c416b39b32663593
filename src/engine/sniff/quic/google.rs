//! QUIC as Google had it before the standard, in the clear: versions Q024 to Q043 with a public
//! header, Q044 to Q046 with a long one.
//!
//! Their client begins with a CHLO message, in stream 1 ("QUIC Crypto" and "QUIC Wire Layout
//! Specification" by A. Langley, W. Chang and others). Q050 has it in CRYPTO frames.

use super::{Pieces, Store};
use crate::engine::sniff::tls::Hello;
use crate::engine::sniff::{App, Hint, Name};

/// A packet that is not encrypted.
pub(super) struct Clear<'a> {
    /// The digits of its version.
    version: u8,
    frames: &'a [u8],
}

/// Bits of a public header's first byte.
const VERSION: u8 = 0x01;
const RESET: u8 = 0x02;
const CONNECTION_ID: u8 = 0x08;
const NO_PUBLIC_HEADER: u8 = 0xc0;

/// Bytes of the hash that stands before the frames where others have a tag.
const HASH: usize = 12;

/// The first version that has no flags of its own behind the hash.
const WITHOUT_PRIVATE_FLAGS: u8 = 34;

/// The first version that writes numbers with the first byte first.
const BIG_ENDIAN: u8 = 39;

/// Stream with the handshake.
const CRYPTO_STREAM: u64 = 1;

/// How a client's message begins.
const CHLO: &[u8] = b"CHLO";

/// Most entries of a message.
const ENTRIES: usize = 128;

/// Reads a packet with a public header, if it has a connection id and says its version.
pub(super) fn public(packet: &[u8]) -> Option<Clear<'_>> {
    let (&[flags, _, _, _, _, _, _, _, _, v0, v1, v2, v3], rest) = packet.split_first_chunk()?;
    let wanted = flags & (NO_PUBLIC_HEADER | VERSION | RESET | CONNECTION_ID) == VERSION | CONNECTION_ID;
    let version @ 24..=43 = digits([v0, v1, v2, v3])? else { return None };
    let number_length = [1, 2, 4, 6][usize::from(flags >> 4 & 3)];
    let rest = rest.get(number_length + HASH..).filter(|_| wanted)?;
    let frames = if version < WITHOUT_PRIVATE_FLAGS { behind_private_flags(rest)? } else { rest };
    Some(Clear { version, frames })
}

/// Reads a packet with a long header; `rest` is what follows the version.
pub(super) fn long(first: u8, version: u32, rest: &[u8]) -> Option<Clear<'_>> {
    let version @ 44..=46 = digits(version.to_be_bytes())? else { return None };
    let number_length = usize::from(first & 3) + 1;
    // An 8-byte id of the server and none of the client.
    let (&[0x50, _, _, _, _, _, _, _, _], rest) = rest.split_first_chunk()? else { return None };
    Some(Clear { version, frames: rest.get(number_length + HASH..)? })
}

/// Puts what the crypto stream's frames hold to its place; false if there are none.
pub(super) fn streams<S: Store>(packet: &Clear, into: &mut Pieces<S>) -> bool {
    let mut frames = packet.frames;
    let mut found = false;
    while let Some((frame, rest)) = frame(frames, packet.version >= BIG_ENDIAN) {
        if let Some((at, data)) = frame {
            // A client that was asked for more says it anew, further on in the stream.
            let is_said_anew = data.starts_with(CHLO) && into.contiguous().is_empty();
            into.place(if is_said_anew { 0 } else { at }, data);
            found = true;
        }
        frames = rest;
    }
    found
}

/// Reads a CHLO.
pub(super) fn chlo(message: &[u8]) -> Hello {
    if !CHLO.starts_with(message.get(..4).unwrap_or(message)) {
        return Hello::Other;
    }
    let hint = Hint::of(App::Quic);
    let Some(&[_, _, _, _, low, high, _, _]) = message.first_chunk() else { return Hello::Part(hint) };
    match usize::from(u16::from_le_bytes([low, high])) {
        entries if entries > ENTRIES => Hello::Other,
        entries => server_name(&message[8..], entries),
    }
}

/// Looks for the entry "SNI". Each entry is a tag and the end of its value, counted from the end of
/// all entries, where the first value begins.
fn server_name(body: &[u8], entries: usize) -> Hello {
    let hint = Hint::of(App::Quic);
    let Some((index, values)) = body.split_at_checked(entries * 8) else { return Hello::Part(hint) };
    let mut start = 0;
    for entry in index.as_chunks::<8>().0 {
        let [t0, t1, t2, t3, e0, e1, e2, e3] = *entry;
        let end = u32::from_le_bytes([e0, e1, e2, e3]) as usize;
        if end < start {
            return Hello::Other;
        }
        if [t0, t1, t2, t3] == *b"SNI\0" {
            return match values.get(start..end) {
                Some(name) => Hello::Whole(Hint::named(App::Quic, Name::new(name))),
                None => Hello::Part(hint),
            };
        }
        start = end;
    }
    Hello::Whole(hint)
}

/// The number of a version of the form Q0 and two digits.
fn digits(version: [u8; 4]) -> Option<u8> {
    match version {
        [b'Q', b'0', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => Some((tens - b'0') * 10 + (ones - b'0')),
        _ => None,
    }
}

/// A byte whose second bit says that another follows.
fn behind_private_flags(bytes: &[u8]) -> Option<&[u8]> {
    let (&flags, rest) = bytes.split_first()?;
    if flags & 2 == 0 { Some(rest) } else { rest.get(1..) }
}

/// What a frame of the crypto stream holds and where that lies in it.
type Piece<'a> = Option<(usize, &'a [u8])>;

/// Reads one frame, and what follows it. A frame that is neither padding, nor a ping, nor a
/// stream's ends the packet: its client is past its CHLO.
fn frame(frames: &[u8], big_endian: bool) -> Option<(Piece<'_>, &[u8])> {
    const PADDING: u8 = 0;
    const PING: u8 = 7;
    let (&kind, rest) = frames.split_first()?;
    match kind {
        PADDING | PING => Some((None, rest)),
        0x80.. => stream(kind, rest, big_endian),
        _ => None,
    }
}

/// A stream frame, `1fdooossB`: `d` says that it has a length, `ooo` and `ss` how long its offset
/// and its id are.
fn stream(kind: u8, rest: &[u8], big_endian: bool) -> Option<(Piece<'_>, &[u8])> {
    let offset_length = match usize::from(kind >> 2 & 7) {
        0 => 0,
        some => some + 1,
    };
    let (id, rest) = number(rest, usize::from(kind & 3) + 1, big_endian)?;
    let (offset, rest) = number(rest, offset_length, big_endian)?;
    let (data, rest) = if kind & 0x20 == 0 {
        (rest, &[][..])
    } else {
        let (length, rest) = number(rest, 2, big_endian)?;
        rest.split_at_checked(usize::try_from(length).ok()?)?
    };
    let piece = (usize::try_from(offset).ok()?, data);
    Some(((id == CRYPTO_STREAM).then_some(piece), rest))
}

fn number(bytes: &[u8], length: usize, big_endian: bool) -> Option<(u64, &[u8])> {
    let (digits, rest) = bytes.split_at_checked(length)?;
    let add = |number: u64, &digit: &u8| number << 8 | u64::from(digit);
    let number = if big_endian { digits.iter().fold(0, add) } else { digits.iter().rev().fold(0, add) };
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{Seal, crypto};
    use super::super::{Assembly, Sniffed, sniff};
    use super::*;

    const TAGS: [(&[u8; 4], &[u8]); 4] =
        [(b"PAD\0", &[b'-'; 700]), (b"SNI\0", b"www.example.org"), (b"VER\0", b"Q046"), (b"PDMD", b"X509")];

    fn message(tags: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut bytes = [b"CHLO", &[tags.len() as u8, 0, 0, 0][..]].concat();
        let mut end = 0;
        for (tag, value) in tags {
            end += value.len() as u32;
            bytes.extend([&tag[..], &end.to_le_bytes()].concat());
        }
        tags.iter().for_each(|(_, value)| bytes.extend(*value));
        bytes
    }

    /// Stream 1 from `at` on, as versions from Q039 on write it.
    fn stream_frame(at: u16, data: &[u8]) -> Vec<u8> {
        let length = (data.len() as u16).to_be_bytes();
        [&[0xa4, 1][..], &at.to_be_bytes(), &length, data].concat()
    }

    fn public_packet(version: &[u8; 4], behind_hash: &[u8]) -> Vec<u8> {
        [&[0x19, 1, 2, 3, 4, 5, 6, 7, 8][..], version, &[0, 1], &[7; HASH], behind_hash].concat()
    }

    fn long_packet(version: &[u8; 4], frames: &[u8]) -> Vec<u8> {
        [&[0xc3], &version[..], &[0x50, 1, 2, 3, 4, 5, 6, 7, 8], &[0, 0, 0, 1], &[7; HASH], frames].concat()
    }

    fn certain() -> Sniffed<Hint<'static>> {
        Sniffed::Certain(Hint::named(App::Quic, Name::new(b"www.example.org")))
    }

    #[test]
    fn a_chlo_in_the_clear_tells_its_name() {
        let frames = [&stream_frame(0, &message(&TAGS))[..], &[0; 50]].concat();
        for bytes in
            [public_packet(b"Q039", &frames), public_packet(b"Q043", &frames), long_packet(b"Q046", &frames)]
        {
            assert_eq!(sniff(&bytes), certain());
        }
    }

    #[test]
    fn older_versions_write_the_last_byte_first_and_have_flags_before_the_frames() {
        let message = message(&TAGS);
        let length = (message.len() as u16).to_le_bytes();
        let frame = [&[0xa0, 1][..], &length, &message].concat();
        assert_eq!(sniff(&public_packet(b"Q035", &frame)), certain());
        assert_eq!(sniff(&public_packet(b"Q030", &[&[1], &frame[..]].concat())), certain());
        assert_eq!(sniff(&public_packet(b"Q025", &[&[2, 0], &frame[..]].concat())), certain());
    }

    #[test]
    fn an_encrypted_chlo_tells_its_name() {
        let mut frame = crypto(0, &message(&TAGS));
        frame[0] = 8;
        assert_eq!(sniff(&Seal::new(u32::from_be_bytes(*b"Q050")).datagram(&frame)), certain());
    }

    #[test]
    fn a_chlo_over_two_packets_is_put_together() {
        let message = message(&TAGS);
        let mut assembly = Assembly::default();
        let one = long_packet(b"Q046", &stream_frame(0, &message[..500]));
        assert_eq!(assembly.push(&one), Sniffed::NeedMore);
        let two = long_packet(b"Q046", &stream_frame(500, &message[500..]));
        assert_eq!(assembly.push(&two), certain());
    }

    #[test]
    fn a_chlo_that_is_said_anew_tells_its_name_too() {
        assert_eq!(sniff(&long_packet(b"Q046", &stream_frame(1024, &message(&TAGS)))), certain());
    }

    #[test]
    fn a_chlo_cut_anywhere_is_a_part_of_one_until_its_name_is_there() {
        let message = message(&TAGS);
        let named = message.len() - 8;
        for cut in 0..named {
            assert_eq!(chlo(&message[..cut]), Hello::Part(Hint::of(App::Quic)), "{cut} bytes");
        }
        for cut in named..=message.len() {
            assert_eq!(
                chlo(&message[..cut]),
                Hello::Whole(Hint::named(App::Quic, Name::new(b"www.example.org")))
            );
        }
    }

    #[test]
    fn a_packet_in_the_clear_without_a_chlo_has_no_name() {
        let nameless = Sniffed::Certain(Hint::of(App::Quic));
        assert_eq!(sniff(&public_packet(b"Q043", &[0x40, 1, 2, 3])), nameless);
        assert_eq!(sniff(&public_packet(b"Q043", &stream_frame(0, b"REJ\0\0\0\0\0"))), nameless);
        assert_eq!(sniff(&public_packet(b"Q043", &stream_frame(0, &message(&TAGS[2..])))), nameless);
    }

    #[test]
    fn entries_that_run_backwards_are_no_chlo() {
        let mut bytes = message(&TAGS);
        bytes[12..16].fill(0xff);
        assert_eq!(chlo(&bytes), Hello::Other);
        bytes[4..6].fill(0xff);
        assert_eq!(chlo(&bytes), Hello::Other);
    }
}
