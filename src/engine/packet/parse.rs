//! The parser: etherparse reads the IP headers, a few bytes behind them are read here.

use etherparse::ip_number::{AUTH, IPV6_DEST_OPTIONS, IPV6_FRAG, IPV6_HOP_BY_HOP, IPV6_ROUTE};
use etherparse::{
    IpAuthHeaderSlice, IpNumber, Ipv6FragmentHeaderSlice, Ipv6Header, Ipv6RawExtHeaderSlice, LaxIpSlice,
    LaxIpv4Slice, LaxIpv6Slice,
};

use super::{Family, Fragment, Icmp, Packet, Ports, Unparsable};

/// IANA "Assigned Internet Protocol Numbers".
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

/// Echo request and reply, RFC 792 and RFC 4443.
const ECHO_V4: [u8; 2] = [8, 0];
const ECHO_V6: [u8; 2] = [128, 129];

/// Reads one IP packet; `bytes` begin with its IP header.
///
/// # Errors
/// [`Unparsable`] when the bytes end, or contradict themselves, before all that
/// names the flow has been read.
pub fn parse(bytes: &[u8]) -> Result<Packet<'_>, Unparsable> {
    let (ip, stopped) = LaxIpSlice::from_slice(bytes).map_err(|_| Unparsable)?;
    let packet = match &ip {
        LaxIpSlice::Ipv4(ip) => header_v4(ip, bytes.len()),
        LaxIpSlice::Ipv6(ip) => header_v6(ip, bytes.len()),
    };
    if packet.fragment == Fragment::Later {
        return Ok(packet);
    }
    if stopped.is_some() {
        return Err(Unparsable);
    }
    transport(Packet { payload: ip.payload().payload, ..packet })
}

fn header_v4<'a>(ip: &LaxIpv4Slice<'a>, given: usize) -> Packet<'a> {
    let header = ip.header();
    let fragment = part(ip.is_payload_fragmented(), header.fragments_offset().value());
    let protocol = match fragment {
        Fragment::Later => header.protocol(),
        Fragment::Whole | Fragment::First => ip.payload_ip_number(),
    };
    Packet {
        family: Family::V4,
        src: header.source_addr().into(),
        dst: header.destination_addr().into(),
        protocol: protocol.0,
        ports: None,
        icmp: None,
        dscp: header.dcp().value(),
        length: length(usize::from(header.total_len()), header.slice().len(), given),
        fragment,
        payload: &[],
    }
}

fn header_v6<'a>(ip: &LaxIpv6Slice<'a>, given: usize) -> Packet<'a> {
    let header = ip.header();
    let (fragment, protocol) = fragment_v6(ip);
    let total = match header.payload_length() {
        0 => 0,
        payload => Ipv6Header::LEN + usize::from(payload),
    };
    Packet {
        family: Family::V6,
        src: header.source_addr().into(),
        dst: header.destination_addr().into(),
        protocol: protocol.0,
        ports: None,
        icmp: None,
        dscp: header.dscp().value(),
        length: length(total, Ipv6Header::LEN, given),
        fragment,
        payload: &[],
    }
}

/// Which part an IPv6 packet is, and its protocol.
///
/// etherparse reads on behind the fragment header of a later fragment, where
/// data stands that may look like further headers; so the fragment header's own
/// word counts.
fn fragment_v6(ip: &LaxIpv6Slice) -> (Fragment, IpNumber) {
    let last = ip.payload().ip_number;
    if !ip.is_payload_fragmented() {
        return (Fragment::Whole, last);
    }
    match dividing_header(ip.header().next_header(), ip.extensions().slice()) {
        Some(header) if header.fragment_offset().value() > 0 => (Fragment::Later, header.next_header()),
        _ => (Fragment::First, last),
    }
}

/// The first fragment header that really divides the packet.
///
/// Not etherparse's iterator over the extension headers: it reads unchecked, and
/// after a lax parse that stopped early it would read behind the end.
fn dividing_header(first: IpNumber, extensions: &[u8]) -> Option<Ipv6FragmentHeaderSlice<'_>> {
    let (mut next, mut rest) = (first, extensions);
    loop {
        let length = match next {
            IPV6_FRAG => {
                let header = Ipv6FragmentHeaderSlice::from_slice(rest).ok()?;
                if header.is_fragmenting_payload() {
                    return Some(header);
                }
                next = header.next_header();
                header.slice().len()
            }
            IPV6_HOP_BY_HOP | IPV6_ROUTE | IPV6_DEST_OPTIONS => {
                let header = Ipv6RawExtHeaderSlice::from_slice(rest).ok()?;
                next = header.next_header();
                header.slice().len()
            }
            AUTH => {
                let header = IpAuthHeaderSlice::from_slice(rest).ok()?;
                next = header.next_header();
                header.slice().len()
            }
            _ => return None,
        };
        rest = rest.get(length..)?;
    }
}

fn part(fragmented: bool, offset: u16) -> Fragment {
    match (fragmented, offset) {
        (false, _) => Fragment::Whole,
        (true, 0) => Fragment::First,
        (true, _) => Fragment::Later,
    }
}

/// A total shorter than the header itself says nothing (0 means "too long for this field").
fn length(total: usize, header: usize, given: usize) -> u32 {
    let length = if total < header { given } else { total };
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn transport(packet: Packet<'_>) -> Result<Packet<'_>, Unparsable> {
    match (packet.family, packet.protocol) {
        (_, TCP | UDP | DCCP | SCTP | UDP_LITE) => {
            Ok(Packet { ports: Some(ports(packet.payload).ok_or(Unparsable)?), ..packet })
        }
        (Family::V4, ICMP) => with_icmp(packet, ECHO_V4),
        (Family::V6, ICMPV6) => with_icmp(packet, ECHO_V6),
        _ => Ok(packet),
    }
}

fn with_icmp<'a>(packet: Packet<'a>, echo: [u8; 2]) -> Result<Packet<'a>, Unparsable> {
    Ok(Packet { icmp: Some(icmp(packet.payload, echo).ok_or(Unparsable)?), ..packet })
}

/// All five protocols begin with source and destination port (RFC 9293, 768, 4340, 9260, 3828).
fn ports(payload: &[u8]) -> Option<Ports> {
    let [s0, s1, d0, d1] = *payload.first_chunk()?;
    Some(Ports { src: u16::from_be_bytes([s0, s1]), dst: u16::from_be_bytes([d0, d1]) })
}

fn icmp(payload: &[u8], echo: [u8; 2]) -> Option<Icmp> {
    let [kind, code] = *payload.first_chunk()?;
    let echo_id = if echo.contains(&kind) { Some(echo_id(payload)?) } else { None };
    Some(Icmp { kind, code, echo_id })
}

fn echo_id(payload: &[u8]) -> Option<u16> {
    let [_, _, _, _, high, low] = *payload.first_chunk()?;
    Some(u16::from_be_bytes([high, low]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::packet::samples::{self, Builder};

    #[test]
    fn a_syn_shows_its_addresses_ports_length_and_dscp() {
        for (family, bytes) in samples::both(|ip| ip.dscp(46).ports(TCP, 40000, 22)) {
            let packet = parse(&bytes).unwrap();
            assert_eq!((packet.family, packet.protocol, packet.dscp), (family, TCP, 46));
            assert_eq!(packet.ports, Some(Ports { src: 40000, dst: 22 }));
            assert_eq!((packet.src, packet.dst), samples::addresses(family));
            assert_eq!(packet.length as usize, bytes.len());
            assert_eq!(packet.fragment, Fragment::Whole);
            assert_eq!(packet.payload, &bytes[bytes.len() - samples::TRANSPORT..]);
        }
    }

    #[test]
    fn all_five_protocols_with_ports_have_ports_and_gre_and_esp_have_none() {
        for protocol in [TCP, UDP, DCCP, SCTP, UDP_LITE] {
            for (_, bytes) in samples::both(|ip| ip.ports(protocol, 1, 65535)) {
                assert_eq!(parse(&bytes).unwrap().ports, Some(Ports { src: 1, dst: 65535 }));
            }
        }
        for protocol in [47, 50] {
            for (_, bytes) in samples::both(|ip| ip.ports(protocol, 1, 65535)) {
                assert_eq!(parse(&bytes).unwrap().ports, None);
            }
        }
    }

    #[test]
    fn an_echo_shows_its_identifier_in_both_families() {
        for (_, bytes) in samples::both(|ip| ip.echo(0x1234)) {
            let icmp = parse(&bytes).unwrap().icmp.unwrap();
            assert_eq!((icmp.code, icmp.echo_id), (0, Some(0x1234)));
        }
    }

    #[test]
    fn an_icmp_error_has_type_and_code_and_no_identifier() {
        let bytes = Builder::new(Family::V4).payload(ICMP, &[3, 4, 0, 0, 9, 9, 9, 9]).build();
        assert_eq!(parse(&bytes).unwrap().icmp, Some(Icmp { kind: 3, code: 4, echo_id: None }));
    }

    #[test]
    fn icmp_of_the_other_family_is_just_a_protocol() {
        for (family, protocol) in [(Family::V6, ICMP), (Family::V4, ICMPV6)] {
            let bytes = Builder::new(family).payload(protocol, &[8, 0, 0, 0, 1, 2, 3, 4]).build();
            assert_eq!(parse(&bytes).unwrap().icmp, None);
        }
    }

    #[test]
    fn ports_are_found_behind_ip_options_and_extension_headers() {
        let options = Builder::new(Family::V4).options(&[148, 4, 0, 0, 1, 1, 1, 1]).ports(UDP, 5, 6).build();
        let extensions = Builder::new(Family::V6)
            .extension(IPV6_HOP_BY_HOP, &[0; 8])
            .extension(IPV6_ROUTE, &[0; 24])
            .extension(IPV6_DEST_OPTIONS, &[0; 16])
            .extension(AUTH, &[0; 16])
            .ports(UDP, 5, 6)
            .build();
        for bytes in [options, extensions] {
            let packet = parse(&bytes).unwrap();
            assert_eq!((packet.protocol, packet.ports), (UDP, Some(Ports { src: 5, dst: 6 })));
        }
    }

    #[test]
    fn a_packet_cut_by_the_copy_range_keeps_the_length_its_header_says() {
        for (_, bytes) in samples::both(|ip| ip.ports(TCP, 7, 8)) {
            let packet = parse(&bytes[..bytes.len() - samples::TRANSPORT + 4]).unwrap();
            assert_eq!(packet.length as usize, bytes.len());
            assert_eq!(packet.ports, Some(Ports { src: 7, dst: 8 }));
        }
    }

    #[test]
    fn a_header_length_of_zero_means_all_bytes_given() {
        for (family, mut bytes) in samples::both(|ip| ip.ports(TCP, 7, 8)) {
            bytes.resize(200_000, 0);
            let field = if family == Family::V4 { 2 } else { 4 };
            bytes[field..field + 2].fill(0);
            let packet = parse(&bytes).unwrap();
            assert_eq!((packet.length, packet.ports), (200_000, Some(Ports { src: 7, dst: 8 })));
        }
    }

    #[test]
    fn padding_behind_the_packet_is_not_payload() {
        for (_, mut bytes) in samples::both(|ip| ip.ports(UDP, 7, 8)) {
            bytes.extend([0; 18]);
            assert_eq!(parse(&bytes).unwrap().payload.len(), samples::TRANSPORT);
        }
    }

    #[test]
    fn a_packet_cut_before_its_ports_is_unparsable() {
        for (_, bytes) in samples::both(|ip| ip.ports(TCP, 7, 8)) {
            for cut in 0..bytes.len() - samples::TRANSPORT + 4 {
                assert_eq!(parse(&bytes[..cut]), Err(Unparsable), "{cut} bytes");
            }
        }
    }

    #[test]
    fn an_extension_header_cut_short_is_unparsable() {
        let bytes = Builder::new(Family::V6).extension(IPV6_DEST_OPTIONS, &[0; 24]).ports(TCP, 1, 2).build();
        assert_eq!(parse(&bytes[..50]), Err(Unparsable));
    }

    #[test]
    fn the_first_fragment_has_ports_and_later_ones_have_none() {
        for (_, bytes) in samples::both(|ip| ip.fragment(0, true).ports(UDP, 7, 8)) {
            let packet = parse(&bytes).unwrap();
            assert_eq!((packet.fragment, packet.ports), (Fragment::First, Some(Ports { src: 7, dst: 8 })));
        }
        for (_, bytes) in samples::both(|ip| ip.fragment(185, false).ports(UDP, 7, 8)) {
            let packet = parse(&bytes).unwrap();
            assert_eq!((packet.fragment, packet.ports), (Fragment::Later, None));
            assert_eq!((packet.protocol, packet.payload), (UDP, &[][..]));
        }
    }

    #[test]
    fn an_atomic_fragment_is_a_whole_packet() {
        let bytes = Builder::new(Family::V6).fragment(0, false).ports(UDP, 7, 8).build();
        assert_eq!(parse(&bytes).unwrap().fragment, Fragment::Whole);
    }

    #[test]
    fn data_of_a_later_fragment_is_not_read_as_headers() {
        for protocol in [IPV6_DEST_OPTIONS, IPV6_FRAG, IPV6_HOP_BY_HOP, AUTH] {
            let bytes = Builder::new(Family::V6).fragment(9, true).payload(protocol.0, &[6, 0, 0]).build();
            let packet = parse(&bytes).unwrap();
            assert_eq!((packet.fragment, packet.protocol), (Fragment::Later, protocol.0));
        }
        let bytes =
            Builder::new(Family::V4).fragment(9, true).payload(AUTH.0, &[6, 1, 0, 0, 0, 0, 0, 0]).build();
        assert_eq!(parse(&bytes).unwrap().protocol, AUTH.0);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn mutated_and_cut_packets_never_panic(
            which in any::<prop::sample::Index>(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let all = samples::all_kinds();
            let mut bytes = which.get(&all).clone();
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Ok(packet) = parse(&bytes) {
                prop_assert!(packet.payload.len() <= bytes.len());
                prop_assert!(packet.ports.is_none() || packet.fragment != Fragment::Later);
            }
        }
    }
}
