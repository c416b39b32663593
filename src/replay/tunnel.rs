//! IP packets inside IP packets: the flows of a tunnel rather than the tunnel.

use super::link::{ETHERNET, ip_packet};
use crate::engine::packet::{Fragment, Packet, parse};

/// Tunnels in tunnels are followed to this depth.
const DEPTH: usize = 4;

/// IP protocol numbers (IANA).
const IPV4: u8 = 4;
const IPV6: u8 = 41;
const UDP: u8 = 17;
const GRE: u8 = 47;

/// Ports of tunnels over UDP (IANA; TZSP is Wireshark's and Mikrotik's).
const GTP: u16 = 2152;
const VXLAN: u16 = 4789;
const GENEVE: u16 = 6081;
const TZSP: u16 = 37008;

/// The innermost packet that can be read, and the bytes from its IP header on.
#[must_use]
pub fn innermost(bytes: &[u8]) -> Option<(Packet<'_>, &[u8])> {
    let mut found = (parse(bytes).ok()?, bytes);
    for _ in 0..DEPTH {
        let Some(inner) = carried(&found.0) else { break };
        let Ok(packet) = parse(inner) else { break };
        found = (packet, inner);
    }
    Some(found)
}

/// The IP packet that a packet carries as its payload.
fn carried<'a>(packet: &Packet<'a>) -> Option<&'a [u8]> {
    match packet.protocol {
        _ if packet.fragment != Fragment::Whole => None,
        IPV4 | IPV6 => Some(packet.payload),
        GRE => behind_gre(packet.payload),
        UDP => behind_udp(packet.ports?.dst, packet.payload.get(8..)?),
        _ => None,
    }
}

/// GRE's header: flags, EtherType, and four bytes for each of checksum, key and sequence
/// number that the flags announce (RFC 2784, RFC 2890).
fn behind_gre(bytes: &[u8]) -> Option<&[u8]> {
    let (&[flags, version, high, low], rest) = bytes.split_first_chunk()?;
    if version & 0x07 != 0 {
        return None;
    }
    let words = (flags & 0xb0).count_ones() as usize;
    of_type(u16::from_be_bytes([high, low]), rest.get(4 * words..)?)
}

/// IP, or Ethernet, by its EtherType (0x6558: RFC 1701).
fn of_type(ethertype: u16, rest: &[u8]) -> Option<&[u8]> {
    match ethertype {
        0x0800 | 0x86dd => Some(rest),
        0x6558 => ip_packet(ETHERNET, rest),
        _ => None,
    }
}

fn behind_udp(port: u16, data: &[u8]) -> Option<&[u8]> {
    match port {
        GTP => behind_gtp(data),
        VXLAN => ip_packet(ETHERNET, data.strip_prefix(&[0x08, 0, 0, 0])?.get(4..)?),
        GENEVE => behind_geneve(data),
        TZSP => behind_tzsp(data),
        _ => None,
    }
}

/// A user's packet in GTP version 1 (3GPP TS 29.281, section 5.1): type 255, four bytes more where
/// a flag is set, then extension headers in units of four bytes.
fn behind_gtp(data: &[u8]) -> Option<&[u8]> {
    let (head, mut rest) = data.split_first_chunk::<8>()?;
    if head[0] & 0xf0 != 0x30 || head[1] != 0xff {
        return None;
    }
    if head[0] & 0x07 != 0 {
        let (more, behind) = rest.split_first_chunk::<4>()?;
        let next = if head[0] & 0x04 != 0 { more[3] } else { 0 };
        rest = behind_extensions(next, behind)?;
    }
    Some(rest)
}

/// Each begins with its length and ends with the kind of the next, 0 for none.
fn behind_extensions(mut next: u8, mut rest: &[u8]) -> Option<&[u8]> {
    while next != 0 {
        let length = 4 * usize::from(*rest.first()?).max(1);
        next = *rest.get(length - 1)?;
        rest = rest.get(length..)?;
    }
    Some(rest)
}

/// RFC 8926, section 3.4: the options' length in units of four bytes, then the EtherType.
fn behind_geneve(data: &[u8]) -> Option<&[u8]> {
    let (head, rest) = data.split_first_chunk::<8>()?;
    let options = usize::from(head[0] & 0x3f) * 4;
    of_type(u16::from_be_bytes([head[2], head[3]]), rest.get(options..)?)
}

/// Version 1, a received packet, of Ethernet; then tags up to the one that ends them.
fn behind_tzsp(data: &[u8]) -> Option<&[u8]> {
    let mut rest = data.strip_prefix(&[1, 0, 0, 1])?;
    loop {
        match *rest {
            [0, ref behind @ ..] => rest = behind,
            [1, ref frame @ ..] => return ip_packet(ETHERNET, frame),
            [_, length, ref behind @ ..] => rest = behind.get(length.into()..)?,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::packet::{Family, samples};

    /// An IPv6 header in front of a packet.
    fn in_ipv6(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend((payload.len() as u16).to_be_bytes());
        bytes.extend([protocol, 64]);
        bytes.extend([0x20; 32]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn the_inner_flow_is_found_in_ip_and_in_gre() {
        let inner = samples::Builder::new(Family::V4).ports(6, 1234, 443).build();
        let ports =
            |bytes: &[u8]| innermost(bytes).and_then(|(packet, _)| packet.ports).map(|ports| ports.dst);
        assert_eq!(ports(&inner), Some(443));
        assert_eq!(ports(&in_ipv6(IPV4, &inner)), Some(443));
        assert_eq!(ports(&in_ipv6(IPV6, &in_ipv6(IPV4, &inner))), Some(443));
        let gre = [&[0x20, 0, 8, 0, 0, 0, 0, 1][..], &inner].concat();
        assert_eq!(ports(&in_ipv6(GRE, &gre)), Some(443));
    }

    #[test]
    fn the_inner_flow_is_found_behind_every_head_over_udp() {
        let inner = samples::Builder::new(Family::V4).ports(6, 1234, 443).build();
        let framed = [&[2; 12][..], &[8, 0], &inner].concat();
        let udp = |port: u16, head: &[u8], inner: &[u8]| {
            let ports = [2152_u16.to_be_bytes(), port.to_be_bytes()].concat();
            in_ipv6(UDP, &[&ports[..], &[0; 4], head, inner].concat())
        };
        for packet in [
            udp(GTP, &[0x30, 0xff, 0, 40, 0, 0, 0, 1], &inner),
            udp(GTP, &[0x34, 0xff, 0, 48, 0, 0, 0, 1, 0, 0, 0, 0x85, 1, 0, 9, 0], &inner),
            udp(VXLAN, &[8, 0, 0, 0, 0, 0, 5, 0], &framed),
            udp(GENEVE, &[1, 0, 0x65, 0x58, 0, 0, 5, 0, 0, 0, 0, 0], &framed),
            udp(TZSP, &[1, 0, 0, 1, 0, 10, 1, 0, 1], &framed),
            in_ipv6(GRE, &[&[0, 0, 0x65, 0x58][..], &framed].concat()),
        ] {
            let found = innermost(&packet).and_then(|(packet, _)| packet.ports);
            assert_eq!(found.map(|ports| ports.dst), Some(443), "{packet:02x?}");
        }
        let other = udp(GTP, &[0x30, 1, 0, 40, 0, 0, 0, 1], &inner);
        assert_eq!(innermost(&other).map(|(packet, _)| packet.protocol), Some(UDP));
    }

    #[test]
    fn a_tunnel_whose_inside_cannot_be_read_is_a_flow_itself() {
        let (packet, _) = innermost(&in_ipv6(IPV4, &[0x45, 0]))
            .map(|(packet, bytes)| (packet.protocol, bytes.len()))
            .unwrap();
        assert_eq!(packet, IPV4);
    }
}
