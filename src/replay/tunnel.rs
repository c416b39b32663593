//! IP packets inside IP packets: the flows of a tunnel rather than the tunnel.

use crate::engine::packet::{Fragment, Packet, parse};

/// Tunnels in tunnels are followed to this depth.
const DEPTH: usize = 4;

/// IP protocol numbers (IANA).
const IPV4: u8 = 4;
const IPV6: u8 = 41;
const GRE: u8 = 47;

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
        _ => None,
    }
}

/// GRE's header: flags, EtherType, and four bytes for each of checksum, key and sequence
/// number that the flags announce (RFC 2784, RFC 2890).
fn behind_gre(bytes: &[u8]) -> Option<&[u8]> {
    let (&[flags, version, high, low], rest) = bytes.split_first_chunk()?;
    let carries_ip = matches!(u16::from_be_bytes([high, low]), 0x0800 | 0x86dd);
    if version & 0x07 != 0 || !carries_ip {
        return None;
    }
    let words = (flags & 0xb0).count_ones() as usize;
    rest.get(4 * words..)
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
    fn a_tunnel_whose_inside_cannot_be_read_is_a_flow_itself() {
        let (packet, _) = innermost(&in_ipv6(IPV4, &[0x45, 0]))
            .map(|(packet, bytes)| (packet.protocol, bytes.len()))
            .unwrap();
        assert_eq!(packet, IPV4);
    }
}
