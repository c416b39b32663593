//! Bytes of one IP packet → [`Packet`], a view of what the rules ask about.
//!
//! The bytes come from strangers: they may be cut by the queue's copy range, be
//! up to 64 KiB of segments not yet cut apart (GSO), or lie about their
//! lengths. Whatever they hold, [`parse()`] answers and never panics, in time
//! linear in their number.

use std::net::IpAddr;

mod parse;
#[cfg(test)]
pub(crate) mod samples;

pub use parse::parse;

/// The two families of IP; everything in wansplit treats them as equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "ipv4")]
    V4,
    /// IPv6.
    #[serde(rename = "ipv6")]
    V6,
}

impl Family {
    /// Both families, for code that does the same for each.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family an address belongs to.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// IP's version number: 4 or 6.
    #[must_use]
    pub fn version(self) -> u8 {
        match self {
            Family::V4 => 4,
            Family::V6 => 6,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// IP protocols whose packets begin with a source and a destination port: TCP, UDP, DCCP,
/// SCTP and UDP-Lite (RFC 9293, 768, 4340, 9260, 3828).
pub const PROTOCOLS_WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// One IP packet, as far as its bytes were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IP protocol number; for IPv6 the last next-header, behind all extension headers.
    pub protocol: u8,
    /// Ports of TCP, UDP, SCTP, DCCP and UDP-Lite; a later fragment has none.
    pub ports: Option<Ports>,
    /// The head of an ICMP message in IPv4, of an ICMPv6 message in IPv6.
    pub icmp: Option<Icmp>,
    /// Differentiated services code point, 0 to 63 (RFC 2474).
    pub dscp: u8,
    /// Length of the IP packet in bytes by its header; where the header says 0
    /// (longer than 65,535 bytes, "BIG TCP") the number of bytes given.
    pub length: u32,
    /// Whether it is one part of a longer packet.
    pub fragment: Fragment,
    /// What follows the IP headers: the transport header and its data, as far
    /// as given. Empty for a later fragment, which begins in the middle of something.
    pub payload: &'a [u8],
}

/// The ports of a transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
}

/// The head of an ICMP (RFC 792) or ICMPv6 (RFC 4443) message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The identifier of an echo request or reply.
    pub echo_id: Option<u16>,
}

/// Which part of a packet this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// All of it (also an "atomic" fragment, RFC 6946).
    Whole,
    /// The first part, with the transport header.
    First,
    /// A later part.
    Later,
}

/// The bytes are no IP packet, or end or contradict themselves before the
/// ports: nobody can say which flow they belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an IP packet, or cut before its ports")]
pub struct Unparsable;
