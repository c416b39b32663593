//! RTP and RTCP (RFC 3550). A single RTP packet has little that is fixed, so it is rarely enough.

use super::bytes::{u16_at, u32_at};
use super::{App, Hint, Ports, Sniffed};

/// Version 2 without padding and contributing sources, and the same with an extension.
const PLAIN: u8 = 0x80;
const EXTENDED: u8 = 0x90;

const HEADER: usize = 12;

/// Media are never on ports below.
const FIRST_PORT: u16 = 1024;

/// Frames in the longest packet of a call: 100 ms of 10 ms each.
const MOST_FRAMES: usize = 10;

/// RTCP's packet types (RFC 3550, section 12.1; RFC 4585, section 6.1).
const RTCP_TYPES: std::ops::RangeInclusive<u8> = 200..=206;

/// RTCP packets in one datagram, at most.
const MOST_RTCP: usize = 16;

/// Whether a datagram is RTCP, or RTP. Of RTP the first is enough only where it is a whole number of
/// a telephone codec's frames on even ports; of others see whether the next one [`continues`] it.
#[must_use]
pub fn sniff(payload: &[u8], ports: Ports) -> Sniffed<Hint<'_>> {
    if ports.src < FIRST_PORT || ports.dst < FIRST_PORT {
        return Sniffed::NotMine;
    }
    if is_rtcp(payload) {
        return Sniffed::Certain(Hint::of(App::Rtcp));
    }
    let Some(header) = Header::read(payload) else { return Sniffed::NotMine };
    let even = ports.src.is_multiple_of(2) && ports.dst.is_multiple_of(2);
    if even && is_call(&header) { Sniffed::Certain(Hint::of(App::Rtp)) } else { Sniffed::NeedMore }
}

/// Whether two datagrams of one flow are RTP, the next in sequence after the first.
#[must_use]
pub fn continues(first: &[u8], next: &[u8]) -> bool {
    let (Some(first), Some(next)) = (Header::read(first), Header::read(next)) else { return false };
    next.source == first.source && next.sequence == first.sequence.wrapping_add(1)
}

/// Whether these bytes are one RTP packet, as far as its header tells.
pub(super) fn is_rtp(packet: &[u8]) -> bool {
    Header::read(packet).is_some()
}

/// Whether these bytes are RTCP packets that fill them exactly.
pub(super) fn is_rtcp(packets: &[u8]) -> bool {
    let mut rest = packets;
    for _ in 0..MOST_RTCP {
        let Some(&[first, kind, high, low]) = rest.first_chunk() else { return false };
        let words = usize::from(u16::from_be_bytes([high, low]));
        if first >> 6 != 2 || !RTCP_TYPES.contains(&kind) || words == 0 {
            return false;
        }
        match rest.get(4 * (words + 1)..) {
            Some([]) => return true,
            Some(next) => rest = next,
            None => return false,
        }
    }
    false
}

/// What an RTP packet says.
struct Header {
    payload_type: u8,
    sequence: u16,
    source: u32,
    /// Bytes of media.
    media: usize,
}

impl Header {
    /// The header of a packet with some media, if its first bytes are those of almost all packets.
    fn read(packet: &[u8]) -> Option<Header> {
        let &[first, second] = packet.first_chunk()?;
        let payload_type = second & 0x7f;
        if !matches!(first, PLAIN | EXTENDED) || !is_assigned(payload_type) {
            return None;
        }
        let rest = packet.get(HEADER..)?;
        let media = if first == EXTENDED { behind_extension(rest)? } else { rest };
        let (sequence, source) = (u16_at(packet, 2)?, u32_at(packet, 8)?);
        (!media.is_empty()).then_some(Header { payload_type, sequence, source, media: media.len() })
    }
}

/// IANA "RTP Payload Types": audio, video, dynamic.
fn is_assigned(payload_type: u8) -> bool {
    matches!(payload_type, 0 | 3..=18 | 25 | 26 | 28 | 31..=34 | 96..=127)
}

/// One- and two-byte headers (RFC 8285, section 4).
fn behind_extension(rest: &[u8]) -> Option<&[u8]> {
    let profile = u16_at(rest, 0)?;
    let words = usize::from(u16_at(rest, 2)?);
    let known = profile == 0xbede || profile >> 4 == 0x100;
    if known { rest.get(4 * (words + 1)..) } else { None }
}

/// A telephone call: a few whole frames of 10 ms (or 20 ms of GSM), RFC 3551, section 4.5.
fn is_call(header: &Header) -> bool {
    let frame = match header.payload_type {
        0 | 8 | 9 => 80,
        3 => 33,
        18 => 10,
        _ => return false,
    };
    header.media.is_multiple_of(frame) && header.media / frame <= MOST_FRAMES
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVEN: Ports = Ports { src: 40000, dst: 16384 };

    fn packet(first: u8, second: u8, sequence: u16, media: &[u8]) -> Vec<u8> {
        let [high, low] = sequence.to_be_bytes();
        [&[first, second, high, low, 0, 0, 0, 160, 1, 2, 3, 4][..], media].concat()
    }

    #[test]
    fn a_call_is_told_by_its_first_packet_on_even_ports() {
        let call = packet(PLAIN, 0x80, 1, &[0xff; 160]);
        assert_eq!(sniff(&call, EVEN), Sniffed::Certain(Hint::of(App::Rtp)));
        assert_eq!(sniff(&call, Ports { dst: 16385, ..EVEN }), Sniffed::NeedMore);
        assert_eq!(sniff(&call, Ports { dst: 53, ..EVEN }), Sniffed::NotMine);
        assert_eq!(sniff(&call[..171], EVEN), Sniffed::NeedMore);
    }

    #[test]
    fn other_media_are_told_by_the_next_packet() {
        let extension = [&[0xbe, 0xde, 0, 1, 0x10, 1, 2, 3][..], &[7; 900]].concat();
        let first = packet(EXTENDED, 96, 0xffff, &extension);
        assert_eq!(sniff(&first, EVEN), Sniffed::NeedMore);
        assert!(continues(&first, &packet(PLAIN, 96, 0, &[7; 40])));
        assert!(!continues(&first, &packet(PLAIN, 96, 1, &[7; 40])));
        assert!(!continues(&first, b""));
    }

    #[test]
    fn what_is_no_header_is_no_rtp() {
        for packet in [
            packet(0x40, 0, 1, &[0; 160]),
            packet(PLAIN, 77, 1, &[0; 160]),
            packet(PLAIN, 96, 1, &[]),
            packet(EXTENDED, 96, 1, &[1, 2, 0, 0, 9]),
            packet(EXTENDED, 96, 1, &[0xbe, 0xde, 0, 9, 9]),
        ] {
            assert_eq!(sniff(&packet, EVEN), Sniffed::NotMine);
        }
    }

    #[test]
    fn rtcp_fills_its_datagram() {
        let report =
            [&[0x80, 201, 0, 1, 1, 2, 3, 4][..], &[0x81, 202, 0, 2, 1, 2, 3, 4, 1, 1, 65, 0]].concat();
        assert_eq!(sniff(&report, EVEN), Sniffed::Certain(Hint::of(App::Rtcp)));
        assert!(!is_rtcp(&report[..19]) && !is_rtcp(&[0x80, 201, 0, 0]) && !is_rtcp(&[]));
    }
}
