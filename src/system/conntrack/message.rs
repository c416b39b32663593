//! Messages of the connection table as bytes; pure.
//!
//! Numbers are from include/uapi/linux/netfilter/nfnetlink.h and
//! nfnetlink_conntrack.h. Values are in network byte order, lengths and kinds
//! in the machine's. Whatever is cut short or malformed is left out.

use std::net::IpAddr;

use crate::engine::packet::Family;
use crate::system::attributes::{self, Attributes, NESTED};
use crate::system::message::{self, NLM_F_ACK, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, finish};

/// One entry of the connection table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// As its first packet came.
    pub orig: Tuple,
    /// As answers to it come, address translation included.
    pub reply: Tuple,
    /// The connection's mark (`CTA_MARK`); the kernel leaves out zero.
    pub mark: u32,
    /// `IPS_*` bits, include/uapi/linux/netfilter/nf_conntrack_common.h.
    pub status: u32,
    /// The kernel's name for the entry: a hash of its addresses and its place in memory, so a
    /// later entry with the same addresses has mostly, not always, another (`nf_ct_get_id`).
    pub id: u32,
    /// Zone, 0 unless somebody uses zones.
    pub zone: u16,
    /// Counters of the packets sent as in `orig`, if the kernel counts (`nf_conntrack_acct`).
    pub orig_counters: Option<Counters>,
    /// Counters of the answers.
    pub reply_counters: Option<Counters>,
    /// Of a TCP connection how far it is: `enum tcp_conntrack`, include/uapi/linux/netfilter/nf_conntrack_tcp.h.
    /// The kernel does not say it of one that it has forgotten.
    pub tcp_state: Option<u8>,
}

impl Flow {
    /// Both sides of a TCP connection have said that they are done, or one has reset it. The kernel remembers it
    /// for up to two minutes more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.tcp_state, Some(LAST_ACK | TIME_WAIT | CLOSE))
    }
}

/// A flow's addresses in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// What the protocol tells flows between two hosts apart by.
    pub ends: Ends,
}

/// What a protocol tells flows between two hosts apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ends {
    /// Ports, or the keys of GRE.
    Ports {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
    },
    /// ICMP or ICMPv6 queries.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Identifier.
        id: u16,
    },
    /// Nothing.
    None,
}

/// What went one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes, IP headers included.
    pub bytes: u64,
}

/// Some bits of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// What they are; nothing outside the mask.
    value: u32,
    /// Which bits they are.
    mask: u32,
}

impl Mark {
    /// The bits of `value` that `mask` names.
    #[must_use]
    pub fn new(value: u32, mask: u32) -> Self {
        Self { value: value & mask, mask }
    }
}

/// One message.
#[derive(Debug)]
pub(super) struct Message {
    pub kind: Kind,
    pub sequence: u32,
}

/// What a message is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An entry of the table, as asked for.
    Flow(Flow),
    /// An entry that ended.
    Destroyed(Flow),
    /// The end of an answer, with an error number or 0.
    End(i32),
    /// Something else, or malformed.
    Unknown,
}

const NFGEN_HEADER: usize = 4;

const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_MARK: u16 = 8;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_MARK_MASK: u16 = 21;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;

const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTO_ICMPV6_CODE: u16 = 9;

const CTA_COUNTERS_PACKETS: u16 = 1;
const CTA_COUNTERS_BYTES: u16 = 2;

const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;

const LAST_ACK: u8 = 6;
const TIME_WAIT: u8 = 7;
const CLOSE: u8 = 8;

const IPPROTO_ICMPV6: u8 = 58;

/// The messages in one datagram; ends at the first one that does not fit.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message> {
    message::messages(datagram).map(|one| Message { kind: read(one), sequence: one.sequence })
}

fn read(one: message::Message<'_>) -> Kind {
    match one.kind {
        NEW => flow(one.body).map_or(Kind::Unknown, Kind::Flow),
        DELETE => flow(one.body).map_or(Kind::Unknown, Kind::Destroyed),
        NLMSG_ERROR | NLMSG_DONE => Kind::End(one.errno()),
        _ => Kind::Unknown,
    }
}

fn flow(body: &[u8]) -> Option<Flow> {
    let attributes = Attributes::new(body.get(NFGEN_HEADER..)?);
    let number = |wanted| find(&attributes, wanted).and_then(u32_of);
    Some(Flow {
        orig: tuple(find(&attributes, CTA_TUPLE_ORIG)?)?,
        reply: tuple(find(&attributes, CTA_TUPLE_REPLY)?)?,
        mark: number(CTA_MARK).unwrap_or(0),
        status: number(CTA_STATUS).unwrap_or(0),
        id: number(CTA_ID).unwrap_or(0),
        zone: find(&attributes, CTA_ZONE).and_then(u16_of).unwrap_or(0),
        orig_counters: find(&attributes, CTA_COUNTERS_ORIG).and_then(counters),
        reply_counters: find(&attributes, CTA_COUNTERS_REPLY).and_then(counters),
        tcp_state: find(&attributes, CTA_PROTOINFO).and_then(tcp_state),
    })
}

fn tcp_state(value: &[u8]) -> Option<u8> {
    let tcp = Attributes::new(find(&Attributes::new(value), CTA_PROTOINFO_TCP)?);
    find(&tcp, CTA_PROTOINFO_TCP_STATE).and_then(u8_of)
}

fn tuple(value: &[u8]) -> Option<Tuple> {
    let parts = Attributes::new(value);
    let addresses = Attributes::new(find(&parts, CTA_TUPLE_IP)?);
    let protocol = Attributes::new(find(&parts, CTA_TUPLE_PROTO)?);
    let (src, dst) = match find(&addresses, CTA_IP_V4_SRC) {
        Some(src) => (v4(src)?, v4(find(&addresses, CTA_IP_V4_DST)?)?),
        None => (v6(find(&addresses, CTA_IP_V6_SRC)?)?, v6(find(&addresses, CTA_IP_V6_DST)?)?),
    };
    let number = find(&protocol, CTA_PROTO_NUM).and_then(u8_of)?;
    Some(Tuple { src, dst, protocol: number, ends: ends(&protocol) })
}

fn ends(protocol: &Attributes) -> Ends {
    let wide = |kind| find(protocol, kind).and_then(u16_of);
    let narrow = |kind| find(protocol, kind).and_then(u8_of);
    let icmp = |id, kind, code| Some(Ends::Icmp { id: wide(id)?, kind: narrow(kind)?, code: narrow(code)? });
    if let (Some(src), Some(dst)) = (wide(CTA_PROTO_SRC_PORT), wide(CTA_PROTO_DST_PORT)) {
        return Ends::Ports { src, dst };
    }
    icmp(CTA_PROTO_ICMP_ID, CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE)
        .or_else(|| icmp(CTA_PROTO_ICMPV6_ID, CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_ICMPV6_CODE))
        .unwrap_or(Ends::None)
}

fn counters(value: &[u8]) -> Option<Counters> {
    let parts = Attributes::new(value);
    let count = |kind| Some(u64::from_be_bytes(find(&parts, kind)?.try_into().ok()?));
    Some(Counters { packets: count(CTA_COUNTERS_PACKETS)?, bytes: count(CTA_COUNTERS_BYTES)? })
}

fn find<'a>(attributes: &Attributes<'a>, wanted: u16) -> Option<&'a [u8]> {
    attributes.clone().find_map(|(kind, value)| (kind == wanted).then_some(value))
}

fn v4(value: &[u8]) -> Option<IpAddr> {
    Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?))
}

fn v6(value: &[u8]) -> Option<IpAddr> {
    Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?))
}

fn u8_of(value: &[u8]) -> Option<u8> {
    value.first().copied()
}

fn u16_of(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

fn u32_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// Asks for all flows, or for those with a mark.
pub(super) fn dump(sequence: u32, of: Option<Mark>) -> Vec<u8> {
    let mut request = begin(GET, NLM_F_DUMP, sequence, AF_UNSPEC);
    of.into_iter().for_each(|mark| put_mark(&mut request, mark));
    finish(request)
}

/// Asks for one flow, by how its opener wrote it.
pub(super) fn get(sequence: u32, orig: &Tuple) -> Vec<u8> {
    let mut request = begin(GET, NLM_F_ACK, sequence, family(orig));
    put_nested(&mut request, CTA_TUPLE_ORIG, |tuple| put_tuple(tuple, orig));
    finish(request)
}

/// Changes bits of a flow's mark: an update, as it does not ask to create.
pub(super) fn set_mark(sequence: u32, flow: &Flow, mark: Mark) -> Vec<u8> {
    let mut request = begin(NEW, NLM_F_ACK, sequence, family(&flow.orig));
    put_name(&mut request, flow);
    put_mark(&mut request, mark);
    finish(request)
}

/// Deletes all flows with a mark. Without the mark's attributes it would delete all flows.
pub(super) fn delete_marked(sequence: u32, mark: Mark) -> Vec<u8> {
    let mut request = begin(DELETE, NLM_F_ACK, sequence, AF_UNSPEC);
    put_mark(&mut request, mark);
    finish(request)
}

/// Deletes one flow.
pub(super) fn delete(sequence: u32, flow: &Flow) -> Vec<u8> {
    let mut request = begin(DELETE, NLM_F_ACK, sequence, family(&flow.orig));
    put_name(&mut request, flow);
    attributes::put(&mut request, CTA_ID, &flow.id.to_be_bytes());
    finish(request)
}

fn begin(kind: u16, flags: u16, sequence: u32, family: u8) -> Vec<u8> {
    let mut request = message::begin(kind, flags, sequence);
    request.extend_from_slice(&[family, 0, 0, 0]);
    request
}

fn put_mark(request: &mut Vec<u8>, mark: Mark) {
    attributes::put(request, CTA_MARK, &mark.value.to_be_bytes());
    attributes::put(request, CTA_MARK_MASK, &mark.mask.to_be_bytes());
}

fn put_name(request: &mut Vec<u8>, flow: &Flow) {
    put_nested(request, CTA_TUPLE_ORIG, |tuple| put_tuple(tuple, &flow.orig));
    if flow.zone != 0 {
        attributes::put(request, CTA_ZONE, &flow.zone.to_be_bytes());
    }
}

fn put_tuple(request: &mut Vec<u8>, tuple: &Tuple) {
    put_nested(request, CTA_TUPLE_IP, |addresses| put_addresses(addresses, tuple));
    put_nested(request, CTA_TUPLE_PROTO, |protocol| {
        attributes::put(protocol, CTA_PROTO_NUM, &[tuple.protocol]);
        put_ends(protocol, tuple);
    });
}

fn put_addresses(request: &mut Vec<u8>, tuple: &Tuple) {
    for (address, v4, v6) in
        [(tuple.src, CTA_IP_V4_SRC, CTA_IP_V6_SRC), (tuple.dst, CTA_IP_V4_DST, CTA_IP_V6_DST)]
    {
        match address {
            IpAddr::V4(address) => attributes::put(request, v4, &address.octets()),
            IpAddr::V6(address) => attributes::put(request, v6, &address.octets()),
        }
    }
}

fn put_ends(request: &mut Vec<u8>, tuple: &Tuple) {
    match tuple.ends {
        Ends::None => {}
        Ends::Ports { src, dst } => {
            attributes::put(request, CTA_PROTO_SRC_PORT, &src.to_be_bytes());
            attributes::put(request, CTA_PROTO_DST_PORT, &dst.to_be_bytes());
        }
        Ends::Icmp { kind, code, id } => {
            let first =
                if tuple.protocol == IPPROTO_ICMPV6 { CTA_PROTO_ICMPV6_ID } else { CTA_PROTO_ICMP_ID };
            attributes::put(request, first, &id.to_be_bytes());
            attributes::put(request, first + 1, &[kind]);
            attributes::put(request, first + 2, &[code]);
        }
    }
}

fn put_nested(request: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    attributes::put(request, kind | NESTED, &inner);
}

fn family(name: &Tuple) -> u8 {
    match Family::of(name.src) {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_flow_written_is_the_flow_read() {
        for flow in [udp(), ping6(), gre_without_ends(), Flow { tcp_state: Some(TIME_WAIT), ..udp() }] {
            let read: Vec<_> = messages(&set_mark(7, &flow, Mark::new(5, 0xff))).collect();
            assert_eq!(read.len(), 1);
            assert_eq!(read[0].sequence, 7);
            assert_eq!(read[0].kind, Kind::Unknown, "without a reply tuple it is no flow");
            assert_eq!(read_whole(&flow), Some(flow));
        }
    }

    #[test]
    fn the_mark_to_set_has_no_bits_outside_its_mask() {
        assert_eq!(Mark::new(0x1234, 0xff), Mark::new(0x34, 0xff));
    }

    #[test]
    fn deleting_by_mark_always_names_value_and_mask() {
        let request = delete_marked(1, Mark::new(0, 0));
        let kinds: Vec<_> = Attributes::new(&request[20..]).map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [CTA_MARK, CTA_MARK_MASK]);
    }

    #[test]
    fn an_error_message_ends_the_answer_with_its_number() {
        let end = |kind, body: &[u8]| read(message::Message { kind, sequence: 0, body });
        assert_eq!(end(NLMSG_ERROR, &(-2i32).to_ne_bytes()), Kind::End(2));
        assert_eq!(end(NLMSG_ERROR, &0i32.to_ne_bytes()), Kind::End(0));
        assert_eq!(end(NLMSG_DONE, &[]), Kind::End(0));
    }

    proptest! {
        #[test]
        fn a_damaged_flow_is_another_flow_or_none(place in 0usize..200, byte: u8, cut in 0usize..300) {
            let mut message = whole(&ping6());
            let place = place % message.len();
            message[place] = byte;
            message.truncate(cut);
            prop_assert!(messages(&message).count() <= 2);
        }
    }

    fn udp() -> Flow {
        Flow {
            orig: Tuple {
                src: "10.0.0.1".parse().unwrap(),
                dst: "192.0.2.1".parse().unwrap(),
                protocol: 17,
                ends: Ends::Ports { src: 4000, dst: 53 },
            },
            reply: Tuple {
                src: "192.0.2.1".parse().unwrap(),
                dst: "198.51.100.2".parse().unwrap(),
                protocol: 17,
                ends: Ends::Ports { src: 53, dst: 4001 },
            },
            mark: 0x102,
            status: 0x18e,
            id: 0xdead_beef,
            zone: 9,
            orig_counters: Some(Counters { packets: 1, bytes: 28 }),
            reply_counters: Some(Counters { packets: 2, bytes: u64::MAX }),
            tcp_state: None,
        }
    }

    fn ping6() -> Flow {
        let to = Tuple {
            src: "2001:db8::1".parse().unwrap(),
            dst: "2001:db8::2".parse().unwrap(),
            protocol: IPPROTO_ICMPV6,
            ends: Ends::Icmp { kind: 128, code: 0, id: 77 },
        };
        let from = Tuple { src: to.dst, dst: to.src, ends: Ends::Icmp { kind: 129, code: 0, id: 77 }, ..to };
        Flow { orig: to, reply: from, zone: 0, ..udp() }
    }

    fn gre_without_ends() -> Flow {
        let orig = Tuple { protocol: 99, ends: Ends::None, ..udp().orig };
        let reply = Tuple { src: orig.dst, dst: orig.src, ..orig };
        Flow { orig, reply, orig_counters: None, reply_counters: None, mark: 0, ..udp() }
    }

    fn read_whole(flow: &Flow) -> Option<Flow> {
        match messages(&whole(flow)).next()?.kind {
            Kind::Flow(flow) => Some(flow),
            _ => None,
        }
    }

    /// The message with which the kernel would tell of this flow.
    fn whole(flow: &Flow) -> Vec<u8> {
        let mut message = begin(NEW, 0, 1, family(&flow.orig));
        put_name(&mut message, flow);
        put_nested(&mut message, CTA_TUPLE_REPLY, |tuple| put_tuple(tuple, &flow.reply));
        for (kind, number) in [(CTA_MARK, flow.mark), (CTA_STATUS, flow.status), (CTA_ID, flow.id)] {
            attributes::put(&mut message, kind, &number.to_be_bytes());
        }
        if let Some(state) = flow.tcp_state {
            put_nested(&mut message, CTA_PROTOINFO, |info| {
                put_nested(info, CTA_PROTOINFO_TCP, |tcp| {
                    attributes::put(tcp, CTA_PROTOINFO_TCP_STATE, &[state])
                });
            });
        }
        for (kind, counters) in
            [(CTA_COUNTERS_ORIG, flow.orig_counters), (CTA_COUNTERS_REPLY, flow.reply_counters)]
        {
            let Some(counters) = counters else { continue };
            put_nested(&mut message, kind, |inner| {
                attributes::put(inner, CTA_COUNTERS_PACKETS, &counters.packets.to_be_bytes());
                attributes::put(inner, CTA_COUNTERS_BYTES, &counters.bytes.to_be_bytes());
            });
        }
        finish(message)
    }
}
