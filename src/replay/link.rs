//! A frame as it was captured → the IP packet in it.

/// Link types of captures (tcpdump's LINKTYPE registry).
mod kind {
    pub const NULL: u32 = 0;
    pub const ETHERNET: u32 = 1;
    pub const PPP: u32 = 9;
    pub const RAW_BSD: [u32; 2] = [12, 14];
    pub const PPP_HDLC: u32 = 50;
    pub const PPPOE: u32 = 51;
    pub const RAW: u32 = 101;
    pub const C_HDLC: u32 = 104;
    pub const LOOP: u32 = 108;
    pub const COOKED: u32 = 113;
    pub const IPV4: u32 = 228;
    pub const IPV6: u32 = 229;
    pub const COOKED_2: u32 = 276;
    pub const WIRELESS: u32 = 105;
    pub const RADIOTAP: u32 = 127;
}

/// Ethernet's link type.
pub const ETHERNET: u32 = kind::ETHERNET;

/// EtherTypes (IEEE 802 numbers, IANA).
mod ethertype {
    pub const IPV4: u16 = 0x0800;
    pub const IPV6: u16 = 0x86dd;
    pub const VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
    pub const PPPOE_SESSION: u16 = 0x8864;
    pub const MPLS: u16 = 0x8847;
}

/// Tags, labels and sessions inside one another are read to this depth.
const DEPTH: usize = 8;

/// The IP packet in a frame of this link type; `None` where it holds something else.
#[must_use]
pub fn ip_packet(link: u32, frame: &[u8]) -> Option<&[u8]> {
    let packet = match link {
        kind::ETHERNET => of_type(u16_at(frame, 12)?, frame.get(14..)?),
        kind::COOKED => of_type(u16_at(frame, 14)?, frame.get(16..)?),
        kind::COOKED_2 => of_type(u16_at(frame, 0)?, frame.get(20..)?),
        kind::C_HDLC => of_type(u16_at(frame, 2)?, frame.get(4..)?),
        kind::WIRELESS => in_wireless(frame),
        // Its length, in the other order, behind two bytes.
        kind::RADIOTAP => in_wireless(frame.get(u16_at(frame, 2)?.swap_bytes().into()..)?),
        kind::PPP | kind::PPP_HDLC => in_ppp(frame),
        kind::PPPOE => in_pppoe(frame),
        // The address family's number differs from system to system; the packet says it too.
        kind::NULL | kind::LOOP => frame.get(4..),
        kind::RAW | kind::IPV4 | kind::IPV6 => Some(frame),
        raw if kind::RAW_BSD.contains(&raw) => Some(frame),
        _ => None,
    }?;
    is_ip(packet).then_some(packet)
}

fn is_ip(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| matches!(first >> 4, 4 | 6))
}

/// Behind an EtherType: IP, or what may stand before it.
pub(super) fn of_type(mut ethertype: u16, mut rest: &[u8]) -> Option<&[u8]> {
    for _ in 0..DEPTH {
        match ethertype {
            ethertype::IPV4 | ethertype::IPV6 => return Some(rest),
            // A length: the type stands behind (IEEE 802.2, RFC 1042).
            ..=1500 => return in_snap(rest),
            ethertype::PPPOE_SESSION => return in_pppoe(rest),
            ethertype::MPLS => return behind_labels(rest),
            vlan if ethertype::VLAN.contains(&vlan) => {
                ethertype = u16_at(rest, 2)?;
                rest = rest.get(4..)?;
            }
            _ => return None,
        }
    }
    None
}

fn in_snap(frame: &[u8]) -> Option<&[u8]> {
    let rest = frame.strip_prefix(&[0xaa, 0xaa, 0x03, 0, 0, 0])?;
    matches!(u16_at(rest, 0)?, ethertype::IPV4 | ethertype::IPV6).then_some(rest.get(2..)?)
}

/// A data frame of IEEE 802.11 that is not encrypted: 24 bytes, six more between two access points,
/// two more with a quality of service, and what else fills up to four bytes is not looked for.
fn in_wireless(frame: &[u8]) -> Option<&[u8]> {
    let &[control, flags] = frame.first_chunk()?;
    if control & 0x0f != 0x08 || flags & 0x40 != 0 {
        return None;
    }
    let between_points = if flags & 0x03 == 0x03 { 6 } else { 0 };
    let quality = if control & 0x80 != 0 { 2 } else { 0 };
    in_snap(frame.get(24 + between_points + quality..)?)
}

/// PPPoE's header of 6 bytes, then PPP (RFC 2516, section 4).
fn in_pppoe(session: &[u8]) -> Option<&[u8]> {
    in_ppp(session.get(6..)?)
}

/// PPP with or without its address and control bytes, the protocol in one byte or two (RFC 1661).
pub(super) fn in_ppp(frame: &[u8]) -> Option<&[u8]> {
    let frame = frame.strip_prefix(&[0xff, 0x03]).unwrap_or(frame);
    match frame {
        [0x21 | 0x57, packet @ ..] | [0x00, 0x21 | 0x57, packet @ ..] => Some(packet),
        _ => None,
    }
}

/// MPLS labels of 4 bytes, up to the one that says it is the last (RFC 3032).
pub(super) fn behind_labels(mut rest: &[u8]) -> Option<&[u8]> {
    for _ in 0..DEPTH {
        let (label, behind) = rest.split_first_chunk::<4>()?;
        rest = behind;
        if label[2] & 1 == 1 {
            return Some(rest);
        }
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACKET: [u8; 4] = [0x45, 1, 2, 3];

    fn framed(header: &[u8]) -> Vec<u8> {
        [header, &PACKET].concat()
    }

    #[test]
    fn the_packet_is_found_behind_every_kind_of_header() {
        let macs = [0; 12];
        let ethernet = |rest: &[u8]| framed(&[&macs, rest].concat());
        for (link, frame) in [
            (1, ethernet(&[8, 0])),
            (1, ethernet(&[0x81, 0, 0, 5, 8, 0])),
            (1, ethernet(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x86, 0xdd])),
            (1, ethernet(&[0x88, 0x64, 0x11, 0, 0, 1, 0, 6, 0, 0x21])),
            (1, ethernet(&[0x88, 0x47, 0, 0, 0, 9, 0, 0, 1, 9])),
            (113, framed(&[&[0; 14][..], &[8, 0]].concat())),
            (276, framed(&[&[8, 0][..], &[0; 18]].concat())),
            (9, framed(&[0xff, 3, 0, 0x21])),
            (9, framed(&[0x57])),
            (51, framed(&[0x11, 0, 0, 1, 0, 6, 0, 0x57])),
            (104, framed(&[0x0f, 0, 8, 0])),
            (0, framed(&[2, 0, 0, 0])),
            (108, framed(&[0, 0, 0, 2])),
            (101, framed(&[])),
            (1, ethernet(&[0, 12, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0])),
            (105, framed(&[&[8, 1][..], &[0; 22], &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]].concat())),
            (127, framed(&[&[0, 0, 4, 0, 0x88, 3][..], &[0; 30], &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]].concat())),
            (12, framed(&[])),
            (229, framed(&[])),
        ] {
            assert_eq!(ip_packet(link, &frame), Some(&PACKET[..]), "link type {link}: {frame:02x?}");
        }
    }

    #[test]
    fn what_is_not_ip_is_nothing() {
        assert_eq!(ip_packet(1, &[&[0; 12][..], &[8, 6, 0x45]].concat()), None, "ARP");
        assert_eq!(ip_packet(101, &[0x10]), None, "version 1");
        assert_eq!(ip_packet(147, &PACKET), None, "a link type of somebody's own");
        assert_eq!(ip_packet(9, &[0xc0, 0x21, 0x45]), None, "PPP's own");
        assert_eq!(ip_packet(105, &framed(&[&[8, 0x41][..], &[0; 30]].concat())), None, "encrypted");
    }

    proptest! {
        #[test]
        fn no_frame_makes_it_panic(link in 0..300u32, frame in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = ip_packet(link, &frame);
        }
    }
}
