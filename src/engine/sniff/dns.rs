//! DNS (RFC 1035): what a question asks, and what an answer says about addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::base::iana::{Class, Opcode, Rcode, Rtype, SvcParamKey};
use domain::base::message::{Message, RecordSection};
use domain::base::name::ParsedName;
use domain::base::rdata::ParseRecordData;
use domain::base::record::ParsedRecord;
use domain::rdata::svcb::{SvcParams, UnknownSvcParam};
use domain::rdata::{A, Aaaa, Cname, Https, Svcb};

use super::bytes::u16_at;
use super::{App, Hint, Name, Ports, Sniffed};

/// RFC 6762, section 3.
const MDNS_PORT: u16 = 5353;

/// NetBIOS asks in the same form (RFC 1002) for names that are not hosts'.
const NETBIOS_PORT: u16 = 137;

const HEADER: usize = 12;

/// Bytes of the shortest question: the root, a type and a class.
const LEAST_QUESTION: usize = 5;

/// Bytes of the longest.
const MOST_QUESTION: usize = 259;

/// Bytes of the shortest record: the root, type, class, TTL and length.
const LEAST_RECORD: usize = 11;

/// Records read of an answer.
const MOST_RECORDS: usize = 64;

/// Names that may stand for one another in an answer.
const MOST_LINKS: usize = 16;

/// TTLs above are to be taken for 0 (RFC 2181, section 8).
const MOST_TTL: u32 = i32::MAX as u32;

/// An address that a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The name that was asked for.
    pub name: Name,
    /// One of its addresses.
    pub address: IpAddr,
    /// For how many seconds: the least of what led from the name to the address.
    pub ttl: u32,
}

/// Whether a datagram is DNS, or multicast DNS by its port. Its name is the one that is asked for,
/// if that can be a host's.
#[must_use]
pub fn sniff(payload: &[u8], ports: Ports) -> Sniffed<Hint<'_>> {
    let hint = match ports.dst {
        NETBIOS_PORT => None,
        MDNS_PORT => multicast(payload),
        _ => unicast(payload, payload.len()),
    };
    hint.map_or(Sniffed::NotMine, Sniffed::Certain)
}

/// Whether a stream is DNS: there each message stands behind its length in two bytes (RFC 7766,
/// section 8). The first question is waited for.
#[must_use]
pub fn sniff_stream(stream: &[u8]) -> Sniffed<Hint<'_>> {
    let Some((_, message)) = stream.split_at_checked(2) else { return Sniffed::NeedMore };
    let length = u16_at(stream, 0).map_or(0, usize::from);
    if length < HEADER + LEAST_QUESTION || !may_be_header(message) {
        return Sniffed::NotMine;
    }
    let message = message.get(..length).unwrap_or(message);
    match unicast(message, length) {
        Some(hint) => Sniffed::Certain(hint),
        None if message.len() < length.min(HEADER + MOST_QUESTION) => Sniffed::NeedMore,
        None => Sniffed::NotMine,
    }
}

/// Tells every address that an answer gives for the name that was asked, with that name also where
/// it stands for others (CNAME). Addresses are those of A and AAAA records and the hints of HTTPS
/// and SVCB records (RFC 9460, section 7.3).
///
/// Nothing is told of a message that is cut, failed, malformed, or has not one question. Of a longer
/// one the first 64 records count, and chains of at most 16 names.
pub fn answers(message: &[u8], mut each: impl FnMut(Answer)) {
    let Some((name, chain, records)) = read(message) else { return };
    for record in in_order(records) {
        let Some(led) = chain.ttl(&record) else { continue };
        let ttl = led.min(seconds(&record));
        addresses(&record, |address| each(Answer { name, address, ttl }));
    }
}

/// Tells every name that a message asks about, or was asked about: as it is written (RFC 1035,
/// section 5.1), in lower case, also where it can be no host's. Of multicast DNS that is at most 64
/// names, else one; the root is none.
pub fn questions(message: &[u8], ports: Ports, mut each: impl FnMut(String)) {
    let is_multicast = [ports.src, ports.dst].contains(&MDNS_PORT);
    let known = if is_multicast { multicast(message) } else { unicast(message, message.len()) };
    let message = Message::from_slice(message).ok().filter(|_| known.is_some());
    let questions = message.into_iter().flat_map(|message| message.question().take(MOST_RECORDS));
    for question in questions.map_while(Result::ok).filter(|question| !question.qname().is_root()) {
        each(question.qname().to_string().to_ascii_lowercase());
    }
}

/// One question of a known class, no reserved bit, and no more records than `length` has room for.
fn unicast(bytes: &[u8], length: usize) -> Option<Hint<'_>> {
    let message = Message::from_slice(bytes).ok()?;
    let question = message.sole_question().ok().filter(|_| may_be_header(bytes))?;
    let known = matches!(question.qclass(), Class::IN | Class::CH | Class::HS | Class::NONE | Class::ANY);
    let counts = message.header_counts();
    let records = [counts.ancount(), counts.nscount(), counts.arcount()].map(usize::from);
    let taken = HEADER + LEAST_QUESTION + LEAST_RECORD * records.iter().sum::<usize>();
    (known && taken <= length).then(|| Hint::named(App::Dns, host(question.qname())))
}

/// A question or an answer about what is on the link, perhaps several at once.
fn multicast(bytes: &[u8]) -> Option<Hint<'_>> {
    let message = Message::from_slice(bytes).ok()?;
    if message.header().opcode() != Opcode::QUERY || message.header().rcode() != Rcode::NOERROR {
        return None;
    }
    match message.question().next() {
        Some(question) => Some(Hint::named(App::Mdns, host(question.ok()?.qname()))),
        None => message.answer().ok()?.next()?.ok().map(|_| Hint::of(App::Mdns)),
    }
}

/// The second to sixth bytes of a header with one question, as far as they have come: a known
/// opcode, a reserved bit that is 0, and no error in a query.
fn may_be_header(message: &[u8]) -> bool {
    let flags = [2, 3].map(|at| message.get(at).copied().unwrap_or_default());
    let opcode = flags[0] >> 3 & 0xf;
    let is_answer = flags[0] & 0x80 != 0;
    matches!(opcode, 0..=2 | 4..=6)
        && flags[1] & 0x40 == 0
        && (is_answer || flags[1] & 0x0f == 0)
        && message.get(4).is_none_or(|&high| high == 0)
        && message.get(5).is_none_or(|&low| low == 1)
}

type Records<'a> = RecordSection<'a, [u8]>;
type Record<'a> = ParsedRecord<'a, [u8]>;
type WireName<'a> = ParsedName<&'a [u8]>;

/// The name that was asked, the names it stands for, and the records, all of which can be read.
fn read(message: &[u8]) -> Option<(Name, Chain<'_>, Records<'_>)> {
    let message = Message::from_slice(message).ok()?;
    let header = message.header();
    let good =
        header.qr() && !header.tc() && header.opcode() == Opcode::QUERY && header.rcode() == Rcode::NOERROR;
    let question = message.sole_question().ok().filter(|question| good && question.qclass() == Class::IN)?;
    let records = message.answer().ok()?;
    if records.take(MOST_RECORDS).any(|record| record.is_err()) {
        return None;
    }
    let name = asked(question.qname(), question.qtype())?;
    Some((name, Chain::new(*question.qname(), records), records))
}

/// The host of a question. A service's may have its port and scheme before it, in labels with
/// `_` (RFC 9460, section 2.3).
fn asked(name: &WireName, kind: Rtype) -> Option<Name> {
    let host = host(name)?;
    let service = matches!(kind, Rtype::HTTPS | Rtype::SVCB);
    let mut bytes = host.as_bytes();
    while service && bytes.starts_with(b"_") {
        let dot = bytes.iter().position(|&byte| byte == b'.')?;
        bytes = bytes.get(dot + 1..)?;
    }
    Name::new(bytes)
}

/// A name, if it can be a host's. A dot within a label is none between two.
fn host(name: &WireName) -> Option<Name> {
    let mut text = [0; Name::MOST + 1];
    let mut length = 0;
    for label in name.iter().map(|label| label.as_slice()).filter(|label| !label.is_empty()) {
        let end = length + label.len();
        if label.contains(&b'.') {
            return None;
        }
        text.get_mut(length..end)?.copy_from_slice(label);
        *text.get_mut(end)? = b'.';
        length = end + 1;
    }
    Name::new(text.get(..length)?)
}

/// The names that one name stands for, each with the least TTL on the way to it.
struct Chain<'a> {
    links: [Option<(WireName<'a>, u32)>; MOST_LINKS],
}

impl<'a> Chain<'a> {
    fn new(asked: WireName<'a>, records: Records<'a>) -> Self {
        let mut next = Some((asked, MOST_TTL));
        let links = std::array::from_fn(|_| {
            let link = next?;
            next = stands_for(link, records);
            Some(link)
        });
        Chain { links }
    }

    /// The TTL on the way to a record's owner, if the name that was asked leads there.
    fn ttl(&self, record: &Record<'a>) -> Option<u32> {
        let owner = record.owner();
        self.links.iter().flatten().find(|(name, _)| *name == owner).map(|&(_, ttl)| ttl)
    }
}

/// The name that a link's name is another name for.
fn stands_for<'a>((name, ttl): (WireName<'a>, u32), records: Records<'a>) -> Option<(WireName<'a>, u32)> {
    let alias = in_order(records).find(|record| record.rtype() == Rtype::CNAME && record.owner() == name)?;
    let target = alias.to_record::<Cname<WireName>>().ok()??;
    Some((*target.data().cname(), ttl.min(seconds(&alias))))
}

fn in_order(records: Records) -> impl Iterator<Item = Record> {
    records.take(MOST_RECORDS).map_while(Result::ok).filter(|record| record.class() == Class::IN)
}

fn seconds(record: &Record) -> u32 {
    Some(record.ttl().as_secs()).filter(|&ttl| ttl <= MOST_TTL).unwrap_or_default()
}

fn addresses(record: &Record, each: impl FnMut(IpAddr)) {
    match record.rtype() {
        Rtype::A => data::<A>(record).map(|a| IpAddr::from(a.addr())).into_iter().for_each(each),
        Rtype::AAAA => data::<Aaaa>(record).map(|aaaa| IpAddr::from(aaaa.addr())).into_iter().for_each(each),
        Rtype::HTTPS => {
            if let Some(service) = data::<Https<_, WireName>>(record) {
                hints(service.params(), each);
            }
        }
        Rtype::SVCB => {
            if let Some(service) = data::<Svcb<_, WireName>>(record) {
                hints(service.params(), each);
            }
        }
        _ => {}
    }
}

fn data<'a, Data: ParseRecordData<'a, [u8]>>(record: &Record<'a>) -> Option<Data> {
    record.to_record::<Data>().ok()?.map(|record| record.into_data())
}

/// The values of the keys `ipv4hint` and `ipv6hint`: addresses one behind the other.
fn hints(params: &SvcParams<&[u8]>, mut each: impl FnMut(IpAddr)) {
    for param in params.iter::<UnknownSvcParam<&[u8]>>().map_while(Result::ok) {
        match param.key() {
            SvcParamKey::IPV4HINT => {
                every(param.as_slice(), |bytes: [u8; 4]| each(Ipv4Addr::from(bytes).into()))
            }
            SvcParamKey::IPV6HINT => {
                every(param.as_slice(), |bytes: [u8; 16]| each(Ipv6Addr::from(bytes).into()))
            }
            _ => {}
        }
    }
}

fn every<const N: usize>(bytes: &[u8], each: impl FnMut([u8; N])) {
    bytes.as_chunks::<N>().0.iter().copied().for_each(each);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::sniff::samples::{dns_answer as answer, dns_name as wire, dns_query as query};

    const PORTS: Ports = Ports { src: 40000, dst: 53 };
    const A: u16 = 1;
    const CNAME: u16 = 5;
    const AAAA: u16 = 28;
    const HTTPS: u16 = 65;

    fn named(app: App, name: &str) -> Sniffed<Hint<'static>> {
        Sniffed::Certain(Hint::named(app, Name::new(name.as_bytes())))
    }

    fn told(message: &[u8]) -> Vec<(String, String, u32)> {
        let mut told = Vec::new();
        answers(message, |answer| {
            told.push((answer.name.to_string(), answer.address.to_string(), answer.ttl))
        });
        told
    }

    fn of(name: &str, address: &str, ttl: u32) -> (String, String, u32) {
        (name.into(), address.into(), ttl)
    }

    #[test]
    fn a_question_tells_the_name_it_asks_for() {
        let message = query("WWW.Example.org", A);
        assert_eq!(sniff(&message, PORTS), named(App::Dns, "www.example.org"));
        assert_eq!(sniff(&message, Ports { dst: 5353, ..PORTS }), named(App::Mdns, "www.example.org"));
        assert_eq!(sniff(&message, Ports { dst: 137, ..PORTS }), Sniffed::NotMine);
        for end in 0..message.len() {
            assert_eq!(sniff(&message[..end], PORTS), Sniffed::NotMine);
        }
    }

    #[test]
    fn a_name_that_is_no_hosts_is_dns_without_a_name() {
        let mut message = query("my printer.example", A);
        assert_eq!(sniff(&message, PORTS), named(App::Dns, ""));
        message = query("a-b.example", A);
        message[14] = b'.';
        assert_eq!(sniff(&message, PORTS), named(App::Dns, ""));
        assert_eq!(sniff(&query("", 2), PORTS), named(App::Dns, ""));
    }

    #[test]
    fn odd_headers_are_not_dns() {
        let message = query("a.example", A);
        for (at, value) in
            [(2, 0x19), (3, 0x40), (3, 0x03), (4, 1), (5, 0), (5, 2), (7, 1), (10, 9), (12, 0x41)]
        {
            let mut odd = message.clone();
            odd[at] = value;
            assert_eq!(sniff(&odd, PORTS), Sniffed::NotMine, "{value} at {at}");
        }
    }

    #[test]
    fn in_a_stream_the_question_is_waited_for() {
        let message = query("a.example", A);
        let stream = [&(message.len() as u16 + 11).to_be_bytes()[..], &message].concat();
        for end in 0..stream.len() {
            assert_eq!(sniff_stream(&stream[..end]), Sniffed::NeedMore, "{end}");
        }
        assert_eq!(sniff_stream(&stream), named(App::Dns, "a.example"));
        assert_eq!(sniff_stream(&[0, 9, 0]), Sniffed::NotMine);
        assert_eq!(sniff_stream(&[0, 40, 1, 2, 1, 0, 7]), Sniffed::NotMine);
    }

    #[test]
    fn addresses_are_told_with_the_name_that_was_asked() {
        let message = answer(
            "www.a.example",
            A,
            &[
                ("edge.c.example", A, 60, &[192, 0, 2, 1]),
                ("WWW.a.example", CNAME, 300, &wire("mid.b.example")),
                ("mid.b.example", CNAME, 20, &wire("EDGE.c.example")),
                ("edge.c.example", AAAA, 5, &[1; 16]),
                ("other.example", A, 60, &[192, 0, 2, 9]),
            ],
        );
        let expected =
            [of("www.a.example", "192.0.2.1", 20), of("www.a.example", "101:101:101:101:101:101:101:101", 5)];
        assert_eq!(told(&message), expected);
    }

    #[test]
    fn every_name_that_is_asked_for_is_told_as_it_is_written() {
        let asked = |message: &[u8], ports| {
            let mut names = Vec::new();
            questions(message, ports, |name| names.push(name));
            names
        };
        assert_eq!(asked(&query("*.Example.org", A), PORTS), ["*.example.org"]);
        assert_eq!(asked(&query("my printer.example", A), PORTS), ["my\\ printer.example"]);
        assert_eq!(asked(&query("", 2), PORTS), [""; 0]);
        assert_eq!(asked(&answer("a.example", A, &[]), PORTS), ["a.example"]);
        let two = [&query("a.local", A)[..], &query("b.local", A)[12..]].concat();
        let two = [&two[..5], &[2], &two[6..]].concat();
        assert_eq!(asked(&two, PORTS), [""; 0]);
        assert_eq!(asked(&two, Ports { src: 5353, dst: 5353 }), ["a.local", "b.local"]);
    }

    #[test]
    fn hints_of_a_service_are_addresses_of_its_name() {
        let hints =
            [&[0, 1][..], &wire(""), &[0, 4, 0, 8, 192, 0, 2, 1, 192, 0, 2, 2], &[0, 6, 0, 16], &[2; 16]]
                .concat();
        for asked in ["a.example", "_8443._https.a.example"] {
            let message = answer(asked, HTTPS, &[(asked, HTTPS, 9, &hints)]);
            let expected = ["192.0.2.1", "192.0.2.2", "202:202:202:202:202:202:202:202"];
            assert_eq!(told(&message), expected.map(|address| of("a.example", address, 9)));
        }
    }

    #[test]
    fn messages_that_cannot_be_believed_tell_nothing() {
        let message = answer("a.example", A, &[("a.example", A, 9, &[192, 0, 2, 1])]);
        assert_eq!(told(&message).len(), 1);
        for (at, value) in [(2, 0x01), (2, 0x83), (2, 0xa1), (3, 0x83), (5, 2), (5, 0), (7, 2)] {
            let mut odd = message.clone();
            odd[at] = value;
            assert_eq!(told(&odd), [], "{value} at {at}");
        }
        for end in 0..message.len() {
            assert_eq!(told(&message[..end]), []);
        }
    }

    #[test]
    fn names_that_stand_for_each_other_end() {
        let (a, b) = (wire("a.example"), wire("b.example"));
        let message = answer(
            "a.example",
            A,
            &[("a.example", CNAME, 9, &b), ("b.example", CNAME, 9, &a), ("b.example", A, 9, &[1; 4])],
        );
        assert_eq!(told(&message), [of("a.example", "1.1.1.1", 9)]);
        let pointer_to_itself = [&message[..12], &[0xc0, 12, 0, 1, 0, 1], &[0; 40]].concat();
        assert_eq!(told(&pointer_to_itself), []);
    }

    #[test]
    fn a_chain_longer_than_sixteen_is_not_followed() {
        let name = |at: usize| format!("n{at}.example");
        let names: Vec<_> = (0..20).map(|at| (name(at), wire(&name(at + 1)))).collect();
        for (last, expected) in [(15, 1), (16, 0)] {
            let owner = name(last);
            let mut records: Vec<_> = names[..last]
                .iter()
                .map(|(owner, next)| (owner.as_str(), CNAME, 9, next.as_slice()))
                .collect();
            records.push((&owner, A, 9, &[192, 0, 2, 1]));
            assert_eq!(told(&answer("n0.example", A, &records)).len(), expected);
        }
    }

    #[test]
    fn a_ttl_beyond_31_bits_is_none() {
        let message = answer("a.example", A, &[("a.example", A, u32::MAX, &[192, 0, 2, 1])]);
        assert_eq!(told(&message), [of("a.example", "192.0.2.1", 0)]);
    }

    proptest! {
        #[test]
        fn changed_answers_never_panic(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let hints = [&[0, 1][..], &wire("x.example"), &[0, 4, 0, 4, 1, 2, 3, 4]].concat();
            let mut message = answer("a.example", A, &[
                ("a.example", CNAME, 9, &wire("b.example")),
                ("b.example", HTTPS, 9, &hints),
                ("b.example", AAAA, 9, &[1; 16]),
            ]);
            for (place, value) in changes {
                let place = place.index(message.len());
                message[place] = value;
            }
            message.truncate(cut.index(message.len() + 1));
            answers(&message, |_| {});
        }
    }
}
