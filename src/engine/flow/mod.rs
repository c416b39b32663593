//! Who talks to whom: [`FlowKey`] names a flow, [`Facts`] is all that rules may
//! ask about it, [`FlowTable`] remembers one value per flow for a while.

use std::net::IpAddr;
use std::time::Duration;

use crate::engine::geo::{Asn, Country, Geo};
use crate::engine::packet::{Family, PROTOCOLS_WITH_PORTS, Packet};
use crate::engine::sniff::{Alpn, App, Hint, Name};

mod table;

pub use table::{FlowTable, Lookup, Vacancy};

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

impl FlowKey {
    /// The flow a packet belongs to. Fragments are not told apart: their callers must.
    #[must_use]
    pub fn of(packet: &Packet) -> Self {
        let (src_port, dst_port) = match (packet.ports, packet.icmp) {
            (Some(ports), _) => (ports.src, ports.dst),
            (None, Some(icmp)) => (icmp.echo_id.unwrap_or(0), u16::from_be_bytes([icmp.kind, icmp.code])),
            (None, None) => (0, 0),
        };
        FlowKey { src: packet.src, dst: packet.dst, protocol: packet.protocol, src_port, dst_port }
    }
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

/// A point of time on a clock that never goes back, in milliseconds since any fixed point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// The time `duration` later, or the end of all time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Millis(self.0.saturating_add(millis))
    }
}

/// What the kernel says about a packet beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Arrival {
    /// The LAN interface it came in by; `None` for the router's own traffic.
    pub lan: Option<LanId>,
    /// The sender's hardware address, where the LAN has one.
    pub src_mac: Option<Mac>,
    /// It waited so long that others of its flow may have gone the kernel's way already.
    pub stale: bool,
}

/// All that a rule may ask about a new flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts<'a> {
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
    /// The country of the destination, where it is known.
    pub country: Option<Country>,
    /// The autonomous system of the destination, where it is known.
    pub asn: Option<Asn>,
    /// The host that the client wants, where it is known.
    pub name: Option<Name>,
    /// What the flow was taken for.
    pub app: Option<App>,
    /// What the client offers to speak.
    pub alpn: Alpn,
    /// HTTP request method.
    pub method: Option<&'a [u8]>,
    /// HTTP `User-Agent`.
    pub user_agent: Option<&'a [u8]>,
    /// The first bytes that the client sent behind its transport header; empty where it sent none yet.
    pub payload: &'a [u8],
}

/// The name of a common IP protocol (IANA), or its number.
#[must_use]
pub fn protocol_name(protocol: u8) -> std::borrow::Cow<'static, str> {
    match protocol {
        1 => "icmp".into(),
        2 => "igmp".into(),
        4 => "ipip".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        33 => "dccp".into(),
        41 => "ipv6".into(),
        47 => "gre".into(),
        50 => "esp".into(),
        51 => "ah".into(),
        58 => "icmpv6".into(),
        132 => "sctp".into(),
        136 => "udplite".into(),
        number => format!("protocol-{number}").into(),
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl<'a> Facts<'a> {
    /// The facts of the flow that begins with `packet`; of what the client sends nothing is known yet.
    #[must_use]
    pub fn new(packet: &Packet, arrival: &Arrival, when: LocalTime) -> Self {
        Facts {
            has_ports: packet.ports.is_some(),
            icmp: packet.icmp.map(|icmp| (icmp.kind, icmp.code)),
            src_mac: arrival.src_mac,
            lan: arrival.lan,
            dscp: packet.dscp,
            length: packet.length,
            when,
            ..Facts::about(FlowKey::of(packet))
        }
    }

    /// A flow of which only the key is known.
    #[must_use]
    pub fn about(key: FlowKey) -> Self {
        Facts {
            key,
            family: Family::of(key.src),
            has_ports: PROTOCOLS_WITH_PORTS.contains(&key.protocol),
            icmp: None,
            src_mac: None,
            lan: None,
            dscp: 0,
            length: 0,
            when: LocalTime::default(),
            country: None,
            asn: None,
            name: None,
            app: None,
            alpn: Alpn::default(),
            method: None,
            user_agent: None,
            payload: &[],
        }
    }

    /// The same flow, with where its destination belongs.
    #[must_use]
    pub fn placed(self, geo: &Geo) -> Self {
        Facts { country: geo.country(self.key.dst), asn: geo.asn(self.key.dst), ..self }
    }

    /// The same flow, with what the client's first bytes say.
    #[must_use]
    pub fn with_contents(self, payload: &'a [u8], hint: &Hint<'a>) -> Self {
        let Hint { app, name, alpn, method, user_agent, .. } = *hint;
        Facts { name, app: Some(app), alpn, method, user_agent, payload, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::packet::{parse, samples};

    #[test]
    fn two_pings_with_different_identifiers_are_two_flows() {
        for family in Family::BOTH {
            let key = |id| FlowKey::of(&parse(&samples::Builder::new(family).echo(id).build()).unwrap());
            assert_ne!(key(1), key(2));
            assert_eq!(key(7).src_port, 7);
        }
    }

    #[test]
    fn an_icmp_flow_has_no_real_ports_but_shows_type_and_code() {
        for (family, bytes) in samples::both(|ip| ip.echo(7)) {
            let packet = parse(&bytes).unwrap();
            let facts = Facts::new(&packet, &Arrival::default(), LocalTime::default());
            let kind = if family == Family::V4 { 8 } else { 128 };
            assert!(!facts.has_ports);
            assert_eq!((facts.icmp, facts.key.dst_port), (Some((kind, 0)), u16::from(kind) << 8));
        }
    }

    #[test]
    fn facts_hold_what_the_kernel_said_beside_the_bytes() {
        let bytes = samples::Builder::new(Family::V4).ports(6, 1, 2).build();
        let arrival = Arrival { lan: Some(LanId(3)), src_mac: Some(Mac([2; 6])), stale: false };
        let when = LocalTime { weekday: 6, minute: 1439 };
        let facts = Facts::new(&parse(&bytes).unwrap(), &arrival, when);
        assert_eq!((facts.lan, facts.src_mac, facts.when), (arrival.lan, arrival.src_mac, when));
    }

    #[test]
    fn what_the_client_sends_is_known_once_it_was_seen() {
        let bytes = samples::Builder::new(Family::V4).ports(6, 1, 80).build();
        let bare = Facts::new(&parse(&bytes).unwrap(), &Arrival::default(), LocalTime::default());
        assert_eq!((bare.name, bare.app, bare.payload), (None, None, &[][..]));
        let payload = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n";
        let hint = Hint { method: Some(&payload[..3]), ..Hint::named(App::Http, Name::new(b"example.org")) };
        let facts = bare.with_contents(payload, &hint);
        assert_eq!((facts.name, facts.app), (Name::new(b"example.org"), Some(App::Http)));
        assert_eq!((facts.method, facts.payload, facts.key), (Some(&b"GET"[..]), &payload[..], bare.key));
    }
}
