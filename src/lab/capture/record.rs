//! One packet on the wire, and how it is read from its first bytes.
//!
//! Read apart from the engine's own parser on purpose: the lab judges the engine.

use std::sync::Arc;
use std::time::Instant;

use etherparse::{IpNumber, Ipv6ExtensionSlice, LaxIpSlice};
use nix::libc;

use crate::engine::flow::FlowKey;

/// Which way a packet went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// It left the machine.
    Out,
    /// It came in.
    In,
}

impl Direction {
    /// From the packet type of packet(7).
    pub(super) fn of(packet_type: u8) -> Self {
        if packet_type == libc::PACKET_OUTGOING { Direction::Out } else { Direction::In }
    }
}

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When it was read from the socket, a little after it passed.
    pub at: Instant,
    /// The device it went through.
    pub device: Arc<str>,
    /// Which way.
    pub direction: Direction,
    /// Addresses, protocol and ports as they are on the wire; of later fragments no ports.
    pub key: FlowKey,
    /// Length in bytes with the IP header. Segments that the kernel has not yet split count as one packet.
    pub length: u32,
    /// A fragment other than the first.
    pub later_fragment: bool,
}

impl Record {
    /// Reads a packet from its IP header on; `None`: it is not an IP packet.
    pub(super) fn parse(bytes: &[u8], device: Arc<str>, direction: Direction, at: Instant) -> Option<Self> {
        let (packet, _) = LaxIpSlice::from_slice(bytes).ok()?;
        let later_fragment = is_later_fragment(&packet);
        let protocol = packet.payload().ip_number;
        let payload = if later_fragment { &[] } else { packet.payload().payload };
        let (src_port, dst_port) = ports(protocol, payload);
        let key = FlowKey {
            src: packet.source_addr(),
            dst: packet.destination_addr(),
            protocol: protocol.0,
            src_port,
            dst_port,
        };
        Some(Record { at, device, direction, key, length: length(&packet), later_fragment })
    }

    /// Neighbour discovery, router and multicast listener messages (RFC 4861, 2710, 3810):
    /// what machines say to their link by themselves.
    pub(super) fn is_link_chatter(&self) -> bool {
        let icmp_type = self.key.dst_port >> 8;
        self.key.protocol == IpNumber::IPV6_ICMP.0 && matches!(icmp_type, 130..=137 | 143)
    }
}

fn length(packet: &LaxIpSlice<'_>) -> u32 {
    match packet {
        LaxIpSlice::Ipv4(packet) => u32::from(packet.header().total_len()),
        LaxIpSlice::Ipv6(packet) => 40 + u32::from(packet.header().payload_length()),
    }
}

fn is_later_fragment(packet: &LaxIpSlice<'_>) -> bool {
    match packet {
        LaxIpSlice::Ipv4(packet) => packet.header().fragments_offset().value() != 0,
        LaxIpSlice::Ipv6(packet) => packet.extensions().clone().into_iter().any(|extension| {
            matches!(extension, Ipv6ExtensionSlice::Fragment(part) if part.fragment_offset().value() != 0)
        }),
    }
}

/// Source and destination port, in the terms of [`FlowKey`].
fn ports(protocol: IpNumber, payload: &[u8]) -> (u16, u16) {
    let word = |place: usize| payload.get(place..place + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    match protocol {
        IpNumber::TCP | IpNumber::UDP | IpNumber::SCTP | IpNumber::DCCP | IpNumber::UDP_LITE => {
            (word(0), word(2))
        }
        IpNumber::ICMP if is_echo(payload, [8, 0]) => (word(4), word(0)),
        IpNumber::IPV6_ICMP if is_echo(payload, [128, 129]) => (word(4), word(0)),
        IpNumber::ICMP | IpNumber::IPV6_ICMP => (0, word(0)),
        _ => (0, 0),
    }
}

fn is_echo(payload: &[u8], types: [u8; 2]) -> bool {
    payload.first().is_some_and(|kind| types.contains(kind))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::lab::traffic::craft::{Header, protocol, sctp_init, udp};

    const FROM: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    #[test]
    fn ports_are_read_behind_extension_headers_but_not_from_later_fragments() {
        let header = Header { options: true, ..Header::new(FROM, FROM, protocol::UDP) };
        let whole = parse(&header.packet(&udp(FROM, FROM, 4000, 53, b"hello"))).unwrap();
        assert_eq!((whole.key.src_port, whole.key.dst_port, whole.later_fragment), (4000, 53, false));
        let fragments = header.fragments(&udp(FROM, FROM, 4000, 53, &[0; 100]), 64);
        let parts: Vec<Record> = fragments.iter().filter_map(|bytes| parse(bytes)).collect();
        assert_eq!((parts[0].key.dst_port, parts[0].later_fragment), (53, false));
        assert_eq!((parts[1].key.dst_port, parts[1].later_fragment), (0, true));
    }

    #[test]
    fn an_sctp_packet_has_ports_and_its_whole_length() {
        let packet = Header::new(FROM, FROM, protocol::SCTP).packet(&sctp_init(5000, 5001));
        let record = parse(&packet).unwrap();
        assert_eq!((record.key.src_port, record.key.dst_port), (5000, 5001));
        assert_eq!(record.length as usize, packet.len());
    }

    #[test]
    fn an_echo_request_is_known_by_its_identifier() {
        let record = parse(&Header::new(FROM, FROM, 58).packet(&[128, 0, 0, 0, 0x12, 0x34, 0, 1])).unwrap();
        assert_eq!((record.key.src_port, record.key.dst_port), (0x1234, 0x8000));
        assert!(!record.is_link_chatter());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), first in 0x40u8..0x70) {
            let _ = parse(&bytes);
            let _ = parse(&[&[first], bytes.as_slice()].concat());
        }
    }

    fn parse(bytes: &[u8]) -> Option<Record> {
        Record::parse(bytes, "wan1".into(), Direction::Out, Instant::now())
    }
}
