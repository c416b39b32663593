//! IP packets inside IP packets: the flows of a tunnel rather than the tunnel.

use super::link::{ETHERNET, behind_labels, in_ppp, ip_packet, of_type};
use crate::engine::packet::{Fragment, Packet, Ports, parse};

/// Tunnels in tunnels are followed to this depth.
const DEPTH: usize = 4;

/// IP protocol numbers (IANA).
const IPV4: u8 = 4;
const IPV6: u8 = 41;
const UDP: u8 = 17;
const GRE: u8 = 47;
const MPLS: u8 = 137;

/// Ports of tunnels over UDP (IANA; TZSP is Wireshark's and Mikrotik's).
const GTP: u16 = 2152;
const VXLAN: u16 = 4789;
const GENEVE: u16 = 6081;
const TZSP: u16 = 37008;
const L2TP: u16 = 1701;
const TEREDO: u16 = 3544;
const MPLS_IN_UDP: u16 = 6635;

/// What GRE carries besides what Ethernet does: Ethernet itself (RFC 1701), PPP (RFC 2637), and a switch's
/// mirrored frames, in both versions (draft-foschiano-erspan).
const GRE_ETHERNET: u16 = 0x6558;
const GRE_PPP: u16 = 0x880b;
const ERSPAN_2: u16 = 0x88be;
const ERSPAN_3: u16 = 0x22eb;

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
        MPLS => behind_labels(packet.payload),
        UDP => {
            let (ports, data) = (packet.ports?, packet.payload.get(8..)?);
            behind_udp(ports.dst, data).or_else(|| behind_either_port(ports, data))
        }
        _ => None,
    }
    .filter(|inner| inner.first().is_some_and(|first| matches!(first >> 4, 4 | 6)))
}

/// GRE's header: flags, EtherType, and four bytes for each of checksum, key and sequence
/// number that the flags announce (RFC 2784, RFC 2890); in version 1 also for what is acknowledged (RFC 2637).
fn behind_gre(bytes: &[u8]) -> Option<&[u8]> {
    let (&[flags, version, high, low], rest) = bytes.split_first_chunk()?;
    let (kind, has_number) = (u16::from_be_bytes([high, low]), flags & 0x10 != 0);
    let words = (flags & 0xb0).count_ones() as usize;
    match (version & 0x07, kind) {
        (0, ERSPAN_2) => ip_packet(ETHERNET, rest.get(4 * words + if has_number { 8 } else { 0 }..)?),
        (0, ERSPAN_3) => behind_erspan(rest.get(4 * words..)?),
        (0, _) => of_gre(kind, rest.get(4 * words..)?),
        (1, GRE_PPP) => in_ppp(rest.get(4 * (words + usize::from(version >> 7))..)?),
        _ => None,
    }
}

/// Twelve bytes, and eight more where the last bit says so.
fn behind_erspan(bytes: &[u8]) -> Option<&[u8]> {
    let (head, rest) = bytes.split_first_chunk::<12>()?;
    ip_packet(ETHERNET, rest.get(if head[11] & 1 == 0 { 0 } else { 8 }..)?)
}

fn of_gre(kind: u16, rest: &[u8]) -> Option<&[u8]> {
    if kind == GRE_ETHERNET { ip_packet(ETHERNET, rest) } else { of_type(kind, rest) }
}

fn behind_udp(port: u16, data: &[u8]) -> Option<&[u8]> {
    match port {
        GTP => behind_gtp(data),
        VXLAN => ip_packet(ETHERNET, data.strip_prefix(&[0x08, 0, 0, 0])?.get(4..)?),
        GENEVE => behind_geneve(data),
        TZSP => behind_tzsp(data),
        MPLS_IN_UDP => behind_labels(data),
        _ => None,
    }
}

/// Servers of these answer from their own port.
fn behind_either_port(ports: Ports, data: &[u8]) -> Option<&[u8]> {
    match ports {
        Ports { src: L2TP, .. } | Ports { dst: L2TP, .. } => behind_l2tp(data),
        Ports { src: TEREDO, .. } | Ports { dst: TEREDO, .. } => behind_teredo(data),
        _ => None,
    }
}

/// A data message of version 2: flags, perhaps its length, tunnel and session, perhaps numbers and a
/// padding's length with the padding, then PPP (RFC 2661, section 3.1).
fn behind_l2tp(data: &[u8]) -> Option<&[u8]> {
    let (&[flags, version], rest) = data.split_first_chunk()?;
    if flags & 0x80 != 0 || version & 0x0f != 2 {
        return None;
    }
    let has = |bit: u8| usize::from(flags & bit != 0);
    let rest = rest.get(2 * has(0x40) + 4 + 4 * has(0x08)..)?;
    if has(0x02) == 0 {
        return in_ppp(rest);
    }
    let (&padding, rest) = rest.split_first_chunk()?;
    in_ppp(rest.get(usize::from(u16::from_be_bytes(padding))..)?)
}

/// IPv6, perhaps behind who vouches for the sender and where it seems to be (RFC 4380, section 5.1.1).
fn behind_teredo(mut data: &[u8]) -> Option<&[u8]> {
    if let [0, 1, client, vouched, rest @ ..] = data {
        data = rest.get(usize::from(*client) + usize::from(*vouched) + 9..)?;
    }
    if let [0, 0, ..] = data {
        data = data.get(8..)?;
    }
    (data.first()? >> 4 == 6).then_some(data)
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
    of_gre(u16::from_be_bytes([head[2], head[3]]), rest.get(options..)?)
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
            udp(1701, &[0, 2, 0, 1, 0, 2, 0xff, 3, 0, 0x21], &inner),
            udp(1701, &[0x4a, 2, 0, 60, 0, 1, 0, 2, 0, 0, 0, 0, 0, 1, 9, 0, 0x21], &inner),
            udp(3544, &[], &in_ipv6(IPV4, &inner)),
            udp(
                3544,
                &[0, 1, 1, 0, 7, 8, 8, 8, 8, 8, 8, 8, 8, 0, 0, 0, 9, 9, 9, 9, 9, 9],
                &in_ipv6(IPV4, &inner),
            ),
            udp(6635, &[0, 0, 8, 0, 0, 1, 9, 0], &inner),
            in_ipv6(MPLS, &[&[0, 1, 9, 0][..], &inner].concat()),
            in_ipv6(GRE, &[&[0, 0, 0x65, 0x58][..], &framed].concat()),
            in_ipv6(GRE, &[&[0, 0, 0x88, 0x47, 0, 1, 9, 0][..], &inner].concat()),
            in_ipv6(GRE, &[&[0, 0, 0x81, 0, 0, 7, 8, 0][..], &inner].concat()),
            in_ipv6(GRE, &[&[0x30, 0x81, 0x88, 0x0b][..], &[0; 12], &[0xff, 3, 0, 0x21], &inner].concat()),
            in_ipv6(GRE, &[&[0x30, 1, 0x88, 0x0b][..], &[0; 8], &[0x21], &inner].concat()),
            in_ipv6(GRE, &[&[0x10, 0, 0x88, 0xbe][..], &[0; 12], &framed].concat()),
            in_ipv6(GRE, &[&[0, 0, 0x88, 0xbe][..], &framed].concat()),
            in_ipv6(GRE, &[&[0x10, 0, 0x22, 0xeb][..], &[0; 16], &framed].concat()),
            in_ipv6(GRE, &[&[0x10, 0, 0x22, 0xeb][..], &[0; 15], &[1], &[0; 8], &framed].concat()),
        ] {
            let found = innermost(&packet).and_then(|(packet, _)| packet.ports);
            assert_eq!(found.map(|ports| ports.dst), Some(443), "{packet:02x?}");
        }
        let other = udp(GTP, &[0x30, 1, 0, 40, 0, 0, 0, 1], &inner);
        assert_eq!(innermost(&other).map(|(packet, _)| packet.protocol), Some(UDP));
    }

    #[test]
    fn what_only_goes_by_a_tunnels_port_is_a_flow_itself() {
        for (port, data) in
            [(1701, &[0x80, 2, 0, 1][..]), (1701, b"\x00\x02"), (3544, &[0x45]), (3544, &[0, 1])]
        {
            let head = [2152_u16.to_be_bytes(), u16::to_be_bytes(port), [0; 2], [0; 2]].concat();
            let packet = in_ipv6(UDP, &[&head, data].concat());
            assert_eq!(
                innermost(&packet).map(|(packet, _)| packet.protocol),
                Some(UDP),
                "{port} {data:02x?}"
            );
        }
    }

    #[test]
    fn a_tunnel_whose_inside_cannot_be_read_is_a_flow_itself() {
        let (packet, _) = innermost(&in_ipv6(IPV4, &[0x45, 0]))
            .map(|(packet, bytes)| (packet.protocol, bytes.len()))
            .unwrap();
        assert_eq!(packet, IPV4);
    }
}
