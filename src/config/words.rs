//! Words for numbers: protocols, ICMP types, code points and the kernel's connection helpers.

use super::checked::Helper;
use super::values::find;
use crate::engine::packet::Family;
use crate::engine::rule::model::IcmpType;

/// IP protocols by name (IANA "Assigned Internet Protocol Numbers").
pub(super) const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", ICMP),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("6in4", 41),
    ("rsvp", 46),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", ICMPV6),
    ("eigrp", 88),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", 132),
    ("udplite", 136),
];

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The family whose ICMP a protocol is, if it is one.
pub(super) fn icmp_family(protocol: u8) -> Option<Family> {
    match protocol {
        ICMP => Some(Family::V4),
        ICMPV6 => Some(Family::V6),
        _ => None,
    }
}

/// ICMP types by name (IANA "ICMP Type Numbers").
pub(super) const ICMP_TYPES: &[(&str, u8)] = &[
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("redirect", 5),
    ("echo-request", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
];

/// ICMPv6 types by name (IANA "ICMPv6 'type' Numbers").
pub(super) const ICMPV6_TYPES: &[(&str, u8)] = &[
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("router-solicitation", 133),
    ("router-advertisement", 134),
    ("neighbour-solicitation", 135),
    ("neighbour-advertisement", 136),
    ("redirect", 137),
];

/// Code points by name (IANA "Differentiated Services Field Codepoints").
pub(super) const DSCP: &[(&str, u8)] = &[
    ("CS0", 0),
    ("LE", 1),
    ("CS1", 8),
    ("AF11", 10),
    ("AF12", 12),
    ("AF13", 14),
    ("CS2", 16),
    ("AF21", 18),
    ("AF22", 20),
    ("AF23", 22),
    ("CS3", 24),
    ("AF31", 26),
    ("AF32", 28),
    ("AF33", 30),
    ("CS4", 32),
    ("AF41", 34),
    ("AF42", 36),
    ("AF43", 38),
    ("CS5", 40),
    ("VOICE-ADMIT", 44),
    ("EF", 46),
    ("CS6", 48),
    ("CS7", 56),
];

/// The kernel's connection helpers by the names people use; the kernel's own names and ports are in
/// net/netfilter/nf_conntrack_*.c. H.323 is two helpers that need each other.
pub(super) const HELPERS: &[(&str, &[Helper])] = &[
    ("amanda", &[Helper { name: "amanda", protocol: UDP, port: 10080 }]),
    ("ftp", &[Helper { name: "ftp", protocol: TCP, port: 21 }]),
    ("h323", &[RAS, Helper { name: "Q.931", protocol: TCP, port: 1720 }]),
    ("irc", &[Helper { name: "irc", protocol: TCP, port: 6667 }]),
    ("netbios-ns", &[Helper { name: "netbios-ns", protocol: UDP, port: 137 }]),
    ("pptp", &[Helper { name: "pptp", protocol: TCP, port: 1723 }]),
    ("sane", &[Helper { name: "sane", protocol: TCP, port: 6566 }]),
    ("sip", &[Helper { name: "sip", protocol: UDP, port: 5060 }]),
    ("snmp", &[Helper { name: "snmp", protocol: UDP, port: 161 }]),
    ("tftp", &[Helper { name: "tftp", protocol: UDP, port: 69 }]),
];

const TCP: u8 = 6;
const UDP: u8 = 17;
const RAS: Helper = Helper { name: "RAS", protocol: UDP, port: 1719 };

/// The number of a protocol's name or number.
pub(super) fn protocol(word: &str) -> Option<u8> {
    find(PROTOCOLS, word).or_else(|| word.parse().ok())
}

/// A protocol's name, or its number.
pub(super) fn protocol_name(protocol: u8) -> String {
    let name = PROTOCOLS.iter().find(|(_, number)| *number == protocol).map(|(name, _)| (*name).to_owned());
    name.unwrap_or_else(|| protocol.to_string())
}

/// A code point's name, in capitals or not, or its number.
pub(super) fn dscp(word: &str) -> Option<u8> {
    find(DSCP, &word.to_uppercase()).or_else(|| word.parse().ok().filter(|&number| number < 64))
}

/// The ICMP types that a word names: `[icmp:|icmpv6:]name-or-number[/code]`.
///
/// A name means the type in every family that has it, so that "echo-request" is a ping of either; a number
/// means ICMP for IPv4. A prefix says which of the two is meant.
pub(super) fn icmp_types(word: &str) -> Option<Vec<IcmpType>> {
    let bare_number = word.starts_with(|c: char| c.is_ascii_digit());
    let families = if bare_number { &Family::BOTH[..1] } else { &Family::BOTH[..] };
    let types: Vec<IcmpType> = families.iter().filter_map(|&family| icmp_type(family, word)).collect();
    (!types.is_empty()).then_some(types)
}

/// The ICMP type of one family that a word names; the family's prefix may be left out.
pub(super) fn icmp_type(family: Family, word: &str) -> Option<IcmpType> {
    let (prefix, names) = match family {
        Family::V4 => ("icmp", ICMP_TYPES),
        Family::V6 => ("icmpv6", ICMPV6_TYPES),
    };
    let word = match word.split_once(':') {
        Some((written, word)) => (written == prefix).then_some(word)?,
        None => word,
    };
    let (kind, code) = word.split_once('/').map_or((word, None), |(kind, code)| (kind, Some(code)));
    let kind = find(names, kind).or_else(|| kind.parse().ok())?;
    let code = code.map(str::parse).transpose().ok()?;
    Some(IcmpType { family, kind, code })
}
