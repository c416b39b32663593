//! Packets made by hand: protocols no socket speaks here, fragments, options, extension headers.
//!
//! What conntrack looks at is right (lengths, checksums, a valid first SCTP
//! chunk); the rest is as plain as can be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet::packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet::util::{ipv4_checksum, ipv6_checksum};

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// Internet Control Message Protocol, in IPv4 and in IPv6.
    pub const ICMP: [u8; 2] = [1, 58];
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// Generic Routing Encapsulation.
    pub const GRE: u8 = 47;
    /// Encapsulating Security Payload.
    pub const ESP: u8 = 50;
    /// Stream Control Transmission Protocol.
    pub const SCTP: u8 = 132;
    /// "Use for experimentation and testing" (RFC 3692): a protocol nobody knows.
    pub const EXPERIMENT: u8 = 253;
}

const FRAGMENT_HEADER: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// What is in the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// IP protocol number of the payload.
    pub protocol: u8,
    /// Differentiated services code point, 0 to 63.
    pub dscp: u8,
    /// IPv4: four bytes of options that do nothing. IPv6: a destination options header with padding.
    pub options: bool,
    /// Identification of the packet's fragments, not 0.
    pub id: u16,
}

/// A part of a packet: where it begins in bytes, and whether more follow.
#[derive(Debug, Clone, Copy)]
struct Part {
    offset: u16,
    more: bool,
}

impl Header {
    /// A plain header.
    #[must_use]
    pub fn new(src: IpAddr, dst: IpAddr, protocol: u8) -> Self {
        Header { src, dst, protocol, dscp: 0, options: false, id: 1 }
    }

    /// The packet with this payload.
    #[must_use]
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        self.part(payload, None)
    }

    /// The packet in fragments of at most `size` bytes of payload each (rounded down to a
    /// multiple of 8, as RFC 791 and RFC 8200 want it).
    #[must_use]
    pub fn fragments(&self, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
        let size = (size / 8 * 8).max(8);
        let last = payload.len().saturating_sub(1) / size;
        let part = |(number, bytes): (usize, &[u8])| {
            self.part(bytes, Some(Part { offset: (number * size) as u16, more: number < last }))
        };
        payload.chunks(size).enumerate().map(part).collect()
    }

    fn part(&self, payload: &[u8], part: Option<Part>) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.v4(src, dst, payload, part),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.v6(src, dst, payload, part),
            // A header of two families is nobody's packet.
            _ => Vec::new(),
        }
    }

    /// RFC 791, 3.1. The checksum is left to the kernel (raw(7)).
    fn v4(&self, src: Ipv4Addr, dst: Ipv4Addr, payload: &[u8], part: Option<Part>) -> Vec<u8> {
        let options: &[u8] = if self.options { &[1, 1, 1, 0] } else { &[] };
        let words = 5 + options.len() / 4;
        let length = (words * 4 + payload.len()) as u16;
        let place = part.map_or(0, |part| (part.offset / 8) | (u16::from(part.more) << 13));
        let mut packet = vec![0x40 | words as u8, self.dscp << 2];
        packet.extend(length.to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(place.to_be_bytes());
        packet.extend([64, self.protocol, 0, 0]);
        packet.extend(src.octets());
        packet.extend(dst.octets());
        [&packet, options, payload].concat()
    }

    /// RFC 8200, 3, 4.5 and 4.6; the destination options stand before the fragment header.
    fn v6(&self, src: Ipv6Addr, dst: Ipv6Addr, payload: &[u8], part: Option<Part>) -> Vec<u8> {
        let after_options = if part.is_some() { FRAGMENT_HEADER } else { self.protocol };
        let first = if self.options { DESTINATION_OPTIONS } else { after_options };
        let mut extensions = Vec::new();
        if self.options {
            extensions.extend([after_options, 0, 1, 4, 0, 0, 0, 0]);
        }
        if let Some(part) = part {
            extensions.extend([self.protocol, 0]);
            extensions.extend((part.offset | u16::from(part.more)).to_be_bytes());
            extensions.extend(u32::from(self.id).to_be_bytes());
        }
        let mut packet = (6u32 << 28 | u32::from(self.dscp) << 22).to_be_bytes().to_vec();
        packet.extend(((extensions.len() + payload.len()) as u16).to_be_bytes());
        packet.extend([first, 64]);
        packet.extend(src.octets());
        packet.extend(dst.octets());
        [packet, extensions, payload.to_vec()].concat()
    }
}

/// A UDP datagram with its checksum (RFC 768).
#[must_use]
pub fn udp(src: IpAddr, dst: IpAddr, src_port: u16, dst_port: u16, data: &[u8]) -> Vec<u8> {
    let length = (8 + data.len()) as u16;
    let mut datagram: Vec<u8> = [src_port, dst_port, length, 0].map(u16::to_be_bytes).concat();
    datagram.extend(data);
    let sum = checksum(src, dst, &datagram, 3, IpNextHeaderProtocols::Udp);
    // A sum of 0 would mean "no checksum".
    datagram[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    datagram
}

/// A TCP segment without options that opens a connection (RFC 9293, 3.1).
#[must_use]
pub fn tcp_syn(src: IpAddr, dst: IpAddr, src_port: u16, dst_port: u16) -> Vec<u8> {
    let mut segment: Vec<u8> = [src_port, dst_port].map(u16::to_be_bytes).concat();
    segment.extend([1u32, 0].map(u32::to_be_bytes).concat());
    segment.extend([5 << 4, 0b10, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = checksum(src, dst, &segment, 8, IpNextHeaderProtocols::Tcp);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// An ICMP or ICMPv6 echo request (RFC 792, RFC 4443, 4.1), the first of its identifier.
#[must_use]
pub fn echo_request(src: IpAddr, dst: IpAddr, id: u16) -> Vec<u8> {
    let kind: u16 = if src.is_ipv4() { 8 } else { 128 };
    let mut message: Vec<u8> = [kind << 8, 0, id, 1].map(u16::to_be_bytes).concat();
    let sum = match src {
        IpAddr::V4(_) => pnet::util::checksum(&message, 1),
        IpAddr::V6(_) => checksum(src, dst, &message, 1, IpNextHeaderProtocols::Icmpv6),
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The checksum with the pseudo header of the family; it stands at this 16-bit word.
fn checksum(src: IpAddr, dst: IpAddr, segment: &[u8], word: usize, protocol: IpNextHeaderProtocol) -> u16 {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4_checksum(segment, word, &[], &src, &dst, protocol),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6_checksum(segment, word, &[], &src, &dst, protocol),
        _ => 0,
    }
}

/// An SCTP packet with an INIT chunk (RFC 9260, 3.3.2): the first of an association.
#[must_use]
pub fn sctp_init(src_port: u16, dst_port: u16) -> Vec<u8> {
    let mut packet: Vec<u8> = [src_port, dst_port, 0, 0, 0, 0].map(u16::to_be_bytes).concat();
    packet.extend([1, 0, 0, 20]);
    for word in [0x1234_5678u32, 65_536, 1 << 16 | 1, 1] {
        packet.extend(word.to_be_bytes());
    }
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// A GRE packet (RFC 2784) with an empty IPv4 payload type and some bytes.
#[must_use]
pub fn gre() -> Vec<u8> {
    [&[0, 0, 8, 0], [b'w'; 32].as_slice()].concat()
}

/// An ESP packet (RFC 4303) of this association, the first of its sequence.
#[must_use]
pub fn esp(spi: u32) -> Vec<u8> {
    [spi.to_be_bytes().as_slice(), &1u32.to_be_bytes(), &[b'w'; 32]].concat()
}

/// The destination of an IP packet.
pub(super) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?)),
        6 => Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?)),
        _ => None,
    }
}

/// The checksum of SCTP (RFC 9260, appendix A), bit by bit: packets here are few and small.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[cfg(test)]
mod tests {
    use etherparse::{LaxSlicedPacket, SlicedPacket, TransportSlice};

    use super::*;

    const V4: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::new(10, 77, 0, 11)), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))];
    const V6: [IpAddr; 2] = [
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0xb)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1)),
    ];

    #[test]
    fn another_parser_reads_the_ports_behind_options_in_both_families() {
        for [src, dst] in [V4, V6] {
            let header = Header { options: true, dscp: 46, ..Header::new(src, dst, protocol::UDP) };
            let packet = header.packet(&udp(src, dst, 4000, 53, b"hello"));
            let read = SlicedPacket::from_ip(&packet).unwrap();
            let Some(TransportSlice::Udp(datagram)) = read.transport else { panic!("no UDP in {packet:?}") };
            assert_eq!((datagram.source_port(), datagram.destination_port()), (4000, 53));
            assert_eq!(destination(&packet), Some(dst));
        }
    }

    #[test]
    fn another_parser_reads_a_segment_that_opens_a_connection_and_finds_its_checksum_right() {
        for [src, dst] in [V4, V6] {
            let packet = Header::new(src, dst, protocol::TCP).packet(&tcp_syn(src, dst, 4000, 80));
            let read = SlicedPacket::from_ip(&packet).unwrap();
            let Some(TransportSlice::Tcp(segment)) = read.transport else { panic!("no TCP in {packet:?}") };
            assert_eq!((segment.source_port(), segment.destination_port()), (4000, 80));
            assert!(segment.syn() && !segment.ack());
            let header = segment.to_header();
            let expected = match (src, dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), &[])
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), &[])
                }
                _ => unreachable!("one family"),
            };
            assert_eq!(segment.checksum(), expected.unwrap());
        }
    }

    #[test]
    fn fragments_carry_the_whole_payload_once() {
        for [src, dst] in [V4, V6] {
            let payload: Vec<u8> = (0..100).collect();
            let header = Header::new(src, dst, protocol::UDP);
            let fragments = header.fragments(&payload, 42);
            let parts = fragments.iter().map(|fragment| {
                let read = LaxSlicedPacket::from_ip(fragment).unwrap();
                let part = read.ip_payload().unwrap();
                assert!(part.fragmented);
                part.payload.to_vec()
            });
            assert_eq!(parts.collect::<Vec<_>>(), payload.chunks(40).map(<[u8]>::to_vec).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_checksum_of_sctp_is_that_of_its_published_test_vector() {
        // RFC 3720, B.4: 32 bytes of zeroes.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }
}
