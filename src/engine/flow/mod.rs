//! Who talks to whom: [`FlowKey`] names a flow, [`Facts`] is all that rules may ask about it.

use std::net::IpAddr;

use crate::engine::packet::Family;

/// What makes two packets parts of one flow, as the sender wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IP protocol number (IANA "Assigned Internet Protocol Numbers").
    pub protocol: u8,
    /// Source port, or the identifier of an ICMP echo, or 0.
    pub src_port: u16,
    /// Destination port, or ICMP type × 256 + code, or 0.
    pub dst_port: u16,
}

/// An index into the configuration's list of LAN interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LanId(pub u8);

/// A hardware (Ethernet) address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

/// The router's local time, to the minute; weekdays count from Monday = 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LocalTime {
    /// 0 (Monday) to 6 (Sunday).
    pub weekday: u8,
    /// 0 to 1439.
    pub minute: u16,
}

/// All that a rule may ask about a new flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Addresses, protocol and ports.
    pub key: FlowKey,
    /// IPv4 or IPv6.
    pub family: Family,
    /// The ports are real ones (TCP, UDP, SCTP, DCCP, UDP-Lite).
    pub has_ports: bool,
    /// ICMP or ICMPv6 type and code.
    pub icmp: Option<(u8, u8)>,
    /// The sender's hardware address, where the LAN has one.
    pub src_mac: Option<Mac>,
    /// The LAN interface the packet came in by; `None` for the router's own traffic.
    pub lan: Option<LanId>,
    /// Differentiated services code point, 0 to 63 (RFC 2474).
    pub dscp: u8,
    /// Length of the IP packet in bytes, headers included.
    pub length: u32,
    /// When the flow began.
    pub when: LocalTime,
}

impl std::fmt::Display for Mac {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}
