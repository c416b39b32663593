//! Readers of single values. Each describes what it expects in words that fit after "expected".

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};
use toml::de::DeValue;

use super::reader::{Fault, Read, Value, suggestion};
use crate::engine::flow::Mac;
use crate::engine::packet::Family;
use crate::engine::rule::model::{LONGEST_HOLD, TimeSpan};

/// What [`name`] takes.
pub(super) const NAME: &str = "a name of 1 to 32 letters, digits, `_`, `.` or `-`";
/// What [`interface`] takes.
pub(super) const INTERFACE: &str = "a device name of 1 to 15 letters, digits, `_`, `.`, `@` or `-`";
/// What [`title`] takes.
pub(super) const TITLE: &str = "a name of 1 to 64 printable characters without quotes and backslashes";
/// What [`port_range`] takes.
pub(super) const PORTS: &str = "a port from 1 to 65535 or a range like \"5000-5010\"";

/// A whole number in a range.
pub(super) fn number<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&Value) -> Read<T> {
    move |value| {
        let number = integer(value).filter(|number| range.contains(number));
        let wrong = || Fault::not_a(format_args!("a number from {} to {}", range.start(), range.end()));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(wrong)
    }
}

/// 32 bits that are not all zero, as a number or as text like "0xff".
pub(super) fn bits(value: &Value) -> Read<u32> {
    let parsed = match value.get_ref() {
        DeValue::String(text) => text.strip_prefix("0x").and_then(|hex| u32::from_str_radix(hex, 16).ok()),
        _ => integer(value).and_then(|number| u32::try_from(number).ok()),
    };
    parsed.filter(|&bits| bits != 0).ok_or_else(|| Fault::not_a("32 bits, not all zero, like \"0xff\""))
}

/// true or false.
pub(super) fn boolean(value: &Value) -> Read<bool> {
    value.get_ref().as_bool().ok_or_else(|| Fault::not_a("true or false"))
}

/// Text that `parse` understands; `what` describes it.
pub(super) fn text<T>(what: &'static str, parse: impl Fn(&str) -> Option<T>) -> impl Fn(&Value) -> Read<T> {
    move |value| value.get_ref().as_str().and_then(&parse).ok_or_else(|| Fault::not_a(what))
}

/// Text that `parse` understands, or a number in its place; `what` describes it.
pub(super) fn spelled<T>(
    what: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> impl Fn(&Value) -> Read<T> {
    move |value| {
        match value.get_ref() {
            DeValue::Integer(_) => integer(value).and_then(|number| parse(&number.to_string())),
            DeValue::String(text) => parse(text),
            _ => None,
        }
        .ok_or_else(|| Fault::not_a(what))
    }
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Value) -> Read<T> {
    move |value| {
        let word = value.get_ref().as_str().unwrap_or_default();
        find(words, word).ok_or_else(|| unknown_word(word, words))
    }
}

/// A word that is not in a table of words, with the nearest one that is.
pub(super) fn unknown_word<T>(word: &str, words: &[(&str, T)]) -> Fault {
    Fault::Refused { hint: suggestion(word, words.iter().map(|(name, _)| *name)) }
}

/// The meaning of a word in a table of words.
pub(super) fn find<T: Copy>(words: &[(&str, T)], word: &str) -> Option<T> {
    words.iter().find(|(name, _)| *name == word).map(|(_, meaning)| *meaning)
}

/// The name of an uplink or a forward: it is typed in commands and shown in tables.
pub(super) fn name(value: &Value) -> Read<String> {
    text(NAME, |name| word_of(name, 32, "_.-"))(value)
}

/// The name of a network device. Shorter than the kernel's IFNAMSIZ (16, include/uapi/linux/if.h). The kernel
/// allows more characters; these are the ones that no firewall tool reads as a wildcard, a quote or an end.
pub(super) fn interface(value: &Value) -> Read<String> {
    text(INTERFACE, device)(value)
}

/// The name of a network device, as [`interface`] takes it.
pub(super) fn device(name: &str) -> Option<String> {
    word_of(name, 15, "_.@-").filter(|name| name != "." && name != "..")
}

/// The name of a rule.
pub(super) fn title(value: &Value) -> Read<String> {
    let fits = |c: char| !c.is_control() && c != '"' && c != '\\';
    let known = |name: &str| (1..=64).contains(&name.chars().count()) && name.chars().all(fits);
    text(TITLE, |name| known(name).then(|| name.to_owned()))(value)
}

/// An address that one host can have.
pub(super) fn host(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let wrong = address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast;
    (!wrong).then_some(address)
}

/// A net or a single address.
pub(super) fn net(value: &Value) -> Read<IpNet> {
    let what = "a net like \"192.0.2.0/24\" or \"2001:db8::/32\", or an address";
    let net =
        text(what, |text| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)))(value)?;
    if net.addr() == net.network() {
        return Ok(net);
    }
    let message = format!("{net} has bits set behind its prefix");
    Err(Fault::Because { message, hint: format!("expected {} or {}", net.trunc(), net.addr()) })
}

/// A prefix for IPv6 network prefix translation: it may not reach into the interface identifier.
pub(super) fn npt_prefix(text: &str) -> Option<Ipv6Net> {
    let net: Ipv6Net = text.parse().ok()?;
    let fits = (1..=64).contains(&net.prefix_len()) && net.addr() == net.network();
    (fits && !net.addr().is_multicast()).then_some(net)
}

/// A port or a range of ports.
pub(super) fn port_range(value: &Value) -> Read<RangeInclusive<u16>> {
    range(value, 1).ok_or_else(|| Fault::not_a(PORTS))
}

/// A packet length or a range of lengths, in bytes.
pub(super) fn length_range(value: &Value) -> Read<RangeInclusive<u16>> {
    let what = "a length in bytes from 1 to 65535 or a range like \"1-200\"";
    range(value, 1).ok_or_else(|| Fault::not_a(what))
}

/// A hardware address.
pub(super) fn mac(value: &Value) -> Read<Mac> {
    text("a hardware address like \"02:00:00:00:00:01\"", parse_mac)(value)
}

/// A hardware address: six bytes in hexadecimal digits.
pub(super) fn parse_mac(text: &str) -> Option<Mac> {
    let byte = |hex: &str| (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok()).flatten();
    let bytes: Option<Vec<u8>> = text.splitn(7, ':').map(byte).collect();
    bytes?.try_into().ok().map(Mac)
}

/// An address family.
pub(super) fn family(value: &Value) -> Read<Family> {
    one_of(&[("ipv4", Family::V4), ("ipv6", Family::V6)])(value)
}

/// A span of the day; over midnight if it ends before it begins.
pub(super) fn time_span(value: &Value) -> Read<TimeSpan> {
    text("a span of time like \"08:00-18:30\"", |text| {
        let (from, to) = text.split_once('-')?;
        let to = if to == "24:00" { Some(24 * 60) } else { minute_of_day(to) };
        let span = TimeSpan { from: minute_of_day(from)?, to: to? };
        (span.from != span.to).then_some(span)
    })(value)
}

/// "hh:mm" as minutes after midnight.
pub(super) fn minute_of_day(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let fits = text.split(':').all(digits) && hour < 24 && minute < 60;
    fits.then_some(hour * 60 + minute)
}

/// A length of time of at most a day.
pub(super) fn duration(value: &Value) -> Read<Duration> {
    text("a time like \"500ms\", \"30s\", \"10m\" or \"12h\", up to \"24h\"", |text| {
        span(text).filter(|span| !span.is_zero() && *span <= Duration::from_secs(86_400))
    })(value)
}

/// A part of a whole in hundredths, 0 to 100.
pub(super) fn percent(value: &Value) -> Read<u8> {
    text("a share like \"30%\"", |text| {
        let number = text.strip_suffix('%')?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| number.parse().ok()).flatten().filter(|&percent| percent <= 100)
    })(value)
}

/// A rate of data as tc(8) writes it, in bytes per second; with a fraction if need be.
pub(super) fn rate(value: &Value) -> Read<u64> {
    text("a rate like \"500mbit\", \"2.5gbit\" or \"800kbit\", up to \"1000gbit\"", bits_per_second)(value)
        .map(|bits| bits / 8)
}

fn bits_per_second(text: &str) -> Option<u64> {
    const MOST: u64 = 1_000_000_000_000;
    const UNITS: [(&str, u64); 3] = [("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)];
    measured(text, &UNITS).filter(|bits| (1_000..=MOST).contains(bits))
}

/// A number, with a fraction if need be, and one of these units.
fn measured(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|sign: char| sign.is_ascii_alphabetic())?);
    let unit = find(units, unit)?;
    match number.trim_end().split_once('.') {
        None => decimal(number)?.checked_mul(unit),
        Some((whole, fraction)) => {
            let tenths =
                10_u64.checked_pow(fraction.len().try_into().ok()?).filter(|_| !fraction.is_empty())?;
            let parts = decimal(whole)?.checked_mul(tenths)?.checked_add(decimal(fraction)?)?;
            Some(parts.checked_mul(unit)? / tenths)
        }
    }
}

/// How long a flow may be held.
pub(super) fn hold(value: &Value) -> Read<Duration> {
    text("a time like \"20ms\", up to \"1s\", or \"0\"", |text| {
        if text == "0" { Some(Duration::ZERO) } else { span(text).filter(|span| *span <= LONGEST_HOLD) }
    })(value)
}

/// How long a line is filled.
pub(super) fn fill(value: &Value) -> Read<Duration> {
    const LONGEST: Duration = Duration::from_secs(600);
    text("a time like \"10s\", up to \"10m\", or \"0s\"", |text| span(text).filter(|span| *span <= LONGEST))(
        value,
    )
}

/// A number and a unit.
fn span(text: &str) -> Option<Duration> {
    let unit = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let unit = find(&[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)], unit)?;
    let millis = number.parse::<u32>().ok().and_then(|number| u64::from(number).checked_mul(unit))?;
    Some(Duration::from_millis(millis))
}

/// A number of bytes, as providers write it: "gb" has 1000³ of them, "gib" 1024³.
pub(super) fn volume(value: &Value) -> Read<u64> {
    const UNITS: [(&str, u64); 6] = [
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
    ];
    text(
        "a number of bytes like \"500mb\", \"1.5gb\" or \"2tb\" (\"mib\", \"gib\", \"tib\": of 1024)",
        |text| measured(&text.to_ascii_lowercase(), &UNITS).filter(|&bytes| bytes > 0),
    )(value)
}

/// A weekday or a span of them, both ends included; over Sunday if it ends before it begins.
pub(super) fn weekdays(value: &Value) -> Read<Vec<u8>> {
    text("a weekday like \"mon\" or a span like \"mon-fri\"", |text| {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let (from, to) = (weekday(from)?, weekday(to)?);
        Some((0..=(to + 7 - from) % 7).map(|day| (from + day) % 7).collect())
    })(value)
}

/// A weekday's number, 0 (Monday) to 6 (Sunday).
pub(super) fn weekday(text: &str) -> Option<u8> {
    let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    (0..7).zip(days).find(|(_, day)| *day == text).map(|(number, _)| number)
}

/// A number or "a-b", neither below `least`.
fn range(value: &Value, least: u16) -> Option<RangeInclusive<u16>> {
    let (from, to) = match value.get_ref() {
        DeValue::String(text) => text.split_once('-').map(|(from, to)| (decimal(from), decimal(to)))?,
        _ => (integer(value), integer(value)),
    };
    let (from, to) = (u16::try_from(from?).ok()?, u16::try_from(to?).ok()?);
    (least <= from && from <= to).then_some(from..=to)
}

/// Digits only: `parse` alone would take a sign as well.
fn decimal(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A whole number that is not negative.
fn integer(value: &Value) -> Option<u64> {
    let integer = value.get_ref().as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A word of at most `longest` letters, digits and characters of `others`.
fn word_of(word: &str, longest: usize, others: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    ((1..=longest).contains(&word.len()) && word.chars().all(fits)).then(|| word.to_owned())
}
