//! A datagram's packets, by their headers (RFC 8999, RFC 9000, section 17).

use super::google;
use super::keys::{Version, is_reserved, version};

/// Bytes in the longest connection id, RFC 9000, section 17.2.
const CONNECTION_ID: usize = 20;

/// Bytes in the shortest datagram that begins a connection, RFC 9000, section 14.1.
const FIRST_DATAGRAM: usize = 1200;

/// One packet of a datagram.
pub(super) enum Packet<'a> {
    /// It can be opened, and may hold a part of the ClientHello.
    Initial(Initial<'a>),
    /// It is not encrypted: one of Google's first versions.
    Clear(google::Clear<'a>),
    /// 0-RTT data: it follows the ClientHello, or has overtaken it.
    Early,
    /// A version of which only the name is known.
    Opaque,
    /// The handshake has gone on.
    Later,
}

/// An Initial packet (RFC 9000, section 17.2.2), still protected.
pub(super) struct Initial<'a> {
    /// How its version makes keys.
    pub(super) version: Version,
    /// The server's, as the client has it.
    pub(super) connection_id: &'a [u8],
    /// From its first byte to its last.
    pub(super) packet: &'a [u8],
    /// Where its packet number begins.
    pub(super) number_at: usize,
}

/// A connection id of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionId {
    length: u8,
    bytes: [u8; CONNECTION_ID],
}

impl std::ops::Deref for ConnectionId {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Whether a datagram begins with a short header (RFC 8999, section 5.2). Many others do.
pub(super) fn is_short(datagram: &[u8]) -> bool {
    matches!(datagram, [0x40..=0x7f, ..])
}

/// The server's connection id in a datagram's first packet. Packets in the clear need none: theirs is empty.
pub(super) fn connection_id(datagram: &[u8]) -> Option<ConnectionId> {
    let id = match split(datagram)?.0 {
        Packet::Initial(initial) => initial.connection_id,
        Packet::Clear(_) | Packet::Early | Packet::Opaque | Packet::Later => &[],
    };
    let mut own = ConnectionId { length: u8::try_from(id.len()).ok()?, bytes: [0; CONNECTION_ID] };
    own.bytes.get_mut(..id.len())?.copy_from_slice(id);
    Some(own)
}

/// The first packet, and what follows it; `None` where no packet of QUIC begins.
pub(super) fn split(datagram: &[u8]) -> Option<(Packet<'_>, &[u8])> {
    let (&[first, v0, v1, v2, v3], rest) = datagram.split_first_chunk()?;
    if first & 0x80 == 0 {
        return Some((Packet::Clear(google::public(datagram)?), &[]));
    }
    let number = u32::from_be_bytes([v0, v1, v2, v3]);
    if let Some(clear) = google::long(first, number, rest) {
        return Some((Packet::Clear(clear), &[]));
    }
    match version(number) {
        Some(version) if !is_reserved(number) => known(version, datagram, first, rest),
        Some(version) if datagram.len() >= FIRST_DATAGRAM => {
            known(version, datagram, first, rest).or(Some((Packet::Opaque, &[])))
        }
        _ => unknown(number, datagram),
    }
}

/// A number alone is too little: four bytes in the middle of another protocol may well be one.
fn unknown(version: u32, datagram: &[u8]) -> Option<(Packet<'_>, &[u8])> {
    let certain = datagram.len() >= FIRST_DATAGRAM && is_relative(version);
    certain.then_some((Packet::Opaque, &[]))
}

/// `rest` is what follows the version in `datagram`.
fn known<'a>(
    version: Version,
    datagram: &'a [u8],
    first: u8,
    rest: &'a [u8],
) -> Option<(Packet<'a>, &'a [u8])> {
    let (connection_id, rest) = id(rest)?;
    let (_source, rest) = id(rest)?;
    let kind = version.kind(first);
    let rest = if kind == Kind::Initial { block(rest)?.1 } else { rest };
    let (body, after) = if kind == Kind::Retry { (rest, &[][..]) } else { block(rest)? };
    let packet = match kind {
        Kind::Initial => {
            let (packet, _) = datagram.split_at_checked(datagram.len() - after.len())?;
            Packet::Initial(Initial { version, connection_id, packet, number_at: packet.len() - body.len() })
        }
        Kind::ZeroRtt => Packet::Early,
        Kind::Handshake | Kind::Retry => Packet::Later,
    };
    Some((packet, after))
}

/// Packet types, RFC 9000, section 17.2, in the order of its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Initial,
    ZeroRtt,
    Handshake,
    Retry,
}

impl Version {
    /// The type of a packet, by its first byte.
    fn kind(self, first: u8) -> Kind {
        match (first >> 4).wrapping_sub(self.first_kind()) & 3 {
            0 => Kind::Initial,
            1 => Kind::ZeroRtt,
            2 => Kind::Handshake,
            _ => Kind::Retry,
        }
    }
}

fn id(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    let length = usize::from(length);
    if length > CONNECTION_ID { None } else { rest.split_at_checked(length) }
}

/// Bytes behind their number.
pub(super) fn block(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = number(bytes)?;
    rest.split_at_checked(length)
}

/// An integer of variable length (RFC 9000, section 16), and what follows it.
pub(super) fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (&first, _) = bytes.split_first()?;
    let (digits, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    let number = digits.iter().fold(0, |number: u64, &digit| number << 8 | u64::from(digit));
    let without_size = number & (u64::MAX >> (64 - 8 * digits.len() + 2));
    Some((usize::try_from(without_size).ok()?, rest))
}

/// Versions that are certainly QUIC and have other keys or headers: other drafts, Google's and Facebook's others.
fn is_relative(version: u32) -> bool {
    matches!(version >> 8, 0xff_0000 | 0xfa_ceb0)
        || matches!(version.to_be_bytes(), [b'Q' | b'T', b'0', b'0'..=b'9', b'0'..=b'9'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_variable_length_are_those_of_the_rfc() {
        // RFC 9000, appendix A.1.
        for (bytes, expected) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            assert_eq!(number(bytes), Some((expected, &[][..])));
            assert_eq!(number(&bytes[..bytes.len() - 1]), None);
        }
    }
}
