//! Examples in rule files: a flow in one line of text → [`Facts`].
//!
//! `protocol source > destination`, then details in any order:
//!
//! ```text
//! tcp 10.77.0.5:40000 > 198.51.100.7:22
//! udp [2001:db8::5]:4000 > [2001:db8::7]:53 dscp=EF length=100
//! icmp 10.0.0.1 > 10.0.0.2 echo-request at=mon-09:30 lan=eth0 mac=02:00:00:00:00:01
//! tcp 10.77.0.5:40000 > 198.51.100.7:443 host=www.example.org app=tls alpn=h2,http/1.1
//! ```
//!
//! Protocols with ports need both. What is left out: an ICMP type is
//! echo-request, the code point is 0, the length is 60 bytes, the LAN
//! interface is the first, there is no hardware address, and the time is
//! Monday, 00:00. Of contents nothing is known. Country and autonomous system of the
//! destination are those that the databases tell, or `country=de` and `asn=3320`.

use std::net::{IpAddr, SocketAddr};

use super::names::Names;
use super::reader::{Fault, Read, Value, quoted, suggestion};
use super::values::{minute_of_day, parse_mac, weekday};
use super::words;
use crate::engine::flow::{Facts, FlowKey, LanId, LocalTime};
use crate::engine::geo::{Asn, Country};
use crate::engine::packet::{Family, PROTOCOLS_WITH_PORTS};
use crate::engine::sniff::{App, Name};

/// A packet that a SYN or a ping of usual size would be.
const LENGTH: u32 = 60;

/// The flow that an example describes.
pub(super) fn facts(value: &Value, names: &Names) -> Read<Facts<'static>> {
    parse(value.get_ref().as_str().ok_or_else(shape)?, names)
}

fn shape() -> Fault {
    Fault::not_a("text like \"tcp 10.77.0.5:40000 > 198.51.100.7:22\"")
}

/// The flow that a text describes.
pub(super) fn parse(text: &str, names: &Names) -> Read<Facts<'static>> {
    let mut words = text.split_whitespace();
    let head = (words.next(), words.next(), words.next(), words.next());
    let (Some(protocol), Some(src), Some(">"), Some(dst)) = head else { return Err(shape()) };
    let mut facts = flow(protocol, src, dst)?;
    facts = facts.placed(&names.geo);
    words.try_for_each(|word| detail(&mut facts, word, names))?;
    if let Some((kind, code)) = facts.icmp {
        facts.key.dst_port = u16::from(kind) * 256 + u16::from(code);
    }
    Ok(facts)
}

/// The flow without details.
fn flow(protocol: &str, src: &str, dst: &str) -> Read<Facts<'static>> {
    let number = words::protocol(protocol).ok_or_else(|| wrong(protocol, "a protocol's name or number"))?;
    let ((src, src_port), (to, dst_port)) = (end(src, number)?, end(dst, number)?);
    let family = Family::of(src);
    if Family::of(to) != family {
        return Err(wrong(dst, "an address of the same family as the source"));
    }
    if words::icmp_family(number).is_some_and(|icmp| icmp != family) {
        return Err(wrong(protocol, "icmp between IPv4 and icmpv6 between IPv6 addresses"));
    }
    let echo = words::icmp_family(number).and_then(|family| words::icmp_type(family, "echo-request"));
    Ok(Facts {
        icmp: echo.map(|echo| (echo.kind, 0)),
        lan: Some(LanId(0)),
        length: LENGTH,
        ..Facts::about(FlowKey { src, dst: to, protocol: number, src_port, dst_port })
    })
}

/// One end of a flow, with a port if the protocol has ports.
fn end(word: &str, protocol: u8) -> Read<(IpAddr, u16)> {
    if PROTOCOLS_WITH_PORTS.contains(&protocol) {
        let end = word.parse().map(|end: SocketAddr| (end.ip(), end.port()));
        return end.map_err(|_| wrong(word, "an address with a port, like 192.0.2.7:80 or [2001:db8::7]:80"));
    }
    word.parse().map(|address| (address, 0)).map_err(|_| wrong(word, "an address without a port"))
}

/// Adds what one more word says.
fn detail(facts: &mut Facts, word: &str, names: &Names) -> Read<()> {
    let unknown = || {
        let keys = "dscp=, lan=, mac=, length=, at=, country=, asn=, host=, app= or alpn=";
        wrong(word, &format!("an ICMP type, or {keys} with a value"))
    };
    let (key, value) = word.split_once('=').unwrap_or(("icmp", word));
    let bad = |expected| move || wrong(word, expected);
    match key {
        "icmp" => facts.icmp = Some(icmp(facts, value).ok_or_else(unknown)?),
        "dscp" => facts.dscp = words::dscp(value).ok_or_else(bad("a code point like 46 or EF"))?,
        "mac" => facts.src_mac = Some(parse_mac(value).ok_or_else(bad("mac=02:00:00:00:00:01"))?),
        "length" => facts.length = value.parse().map_err(|_| wrong(word, "a length in bytes"))?,
        "at" => facts.when = when(value).ok_or_else(bad("a weekday and a time like at=mon-09:30"))?,
        "country" => facts.country = Some(Country::new(value.as_bytes()).ok_or_else(bad("country=de"))?),
        "asn" => facts.asn = Some(Asn::parse(value).ok_or_else(bad("asn=3320"))?),
        "host" => facts.name = Some(Name::new(value.as_bytes()).ok_or_else(bad("host=www.example.org"))?),
        "app" => facts.app = Some(App::named(value).ok_or_else(|| unknown_app(word, value))?),
        "alpn" => facts.alpn = value.split(',').fold(facts.alpn, |list, id| list.with(id.as_bytes())),
        "lan" => facts.lan = lan(value, names, bad("the name of a LAN interface"))?,
        _ => return Err(unknown()),
    }
    Ok(())
}

/// An ICMP type and code, if the flow is one of ICMP.
fn icmp(facts: &Facts, word: &str) -> Option<(u8, u8)> {
    let family = words::icmp_family(facts.key.protocol)?;
    let written = words::icmp_type(family, word)?;
    Some((written.kind, written.code.unwrap_or(0)))
}

fn lan(name: &str, names: &Names, unknown: impl Fn() -> Fault) -> Read<Option<LanId>> {
    match names.find_lan(name) {
        None if !names.lan_complete => Err(Fault::Elsewhere),
        found => found.map(Some).ok_or_else(unknown),
    }
}

fn when(text: &str) -> Option<LocalTime> {
    let (day, time) = text.split_once('-')?;
    Some(LocalTime { weekday: weekday(day)?, minute: minute_of_day(time)? })
}

fn unknown_app(word: &str, name: &str) -> Fault {
    let message = format!("{} cannot stand here", quoted(word));
    Fault::Because { message, hint: suggestion(name, App::ALL.iter().map(|app| app.as_str())) }
}

fn wrong(word: &str, expected: &str) -> Fault {
    let message = format!("{} cannot stand here", quoted(word));
    Fault::Because { message, hint: format!("expected {expected}") }
}
