//! `[health]`, and `health` inside an `[[uplink]]`: what lines are tried by, and how they are judged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;

use super::checked::Health;
use super::reader::{Fault, Read, Section, Value, values_of};
use super::values::{self, number, text};
use crate::engine::packet::Family;
use crate::engine::uplink::health::{Limits, MAX_TARGETS, Page, Settings, Target};

const TARGET: &str = "\"icmp://ADDRESS\", \"tcp://ADDRESS:PORT\", \"dns://ADDRESS/NAME\", \"http://HOST/PATH\", \
                      \"https://HOST/PATH\" or \"arp://gateway\"";
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
const LONGEST_LATENCY: Duration = Duration::from_secs(10);
/// Most characters of a URL's path.
const LONGEST_PATH: usize = 512;
/// Port of name servers (IANA).
const DNS: u16 = 53;

impl Default for Health {
    /// The gateway, and public resolvers of four operators, two by echo and two by what they are for.
    fn default() -> Self {
        let cloudflare = [v4(1, 1, 1, 1), v6(0x2606, 0x4700, 0x4700, 0x1111)];
        let google = [v4(8, 8, 8, 8), v6(0x2001, 0x4860, 0x4860, 0x8888)];
        let quad9 = [v4(9, 9, 9, 9), v6(0x2620, 0xfe, 0, 0xfe)];
        let opendns = [v4(208, 67, 222, 222), v6(0x2620, 0x119, 0x35, 0x35)];
        let query = |address| Target::Query { server: (address, DNS).into(), name: "example.com".to_owned() };
        let echoes = cloudflare.into_iter().chain(google).map(Target::Echo);
        let queries = quad9.into_iter().chain(opendns).map(query);
        let targets = echoes.chain(queries).chain([Target::Gateway]).collect();
        Health { targets, settings: Settings::default(), fill: Duration::from_secs(10) }
    }
}

/// The section, for what it does not say with the values of `base`.
pub(super) fn read(section: Section, base: &Health) -> Health {
    let before = section.report().count();
    let targets = targets(&section).unwrap_or_else(|| base.targets.clone());
    let are_whole = section.report().count() == before;
    let leave = leave(section.section("leave"), &base.settings.leave);
    let (rejoin, rejoin_for) = rejoin(section.section("rejoin"), &base.settings, &leave);
    let settings = Settings {
        quorum: quorum(&section, are_whole.then_some(&targets)).or(base.settings.quorum),
        interval: section.or("interval", base.settings.interval, interval),
        leave,
        rejoin,
        rejoin_for,
    };
    let fill = section.or("fill", base.fill, values::fill);
    section.finish();
    Health { targets, settings, fill }
}

fn targets(section: &Section) -> Option<Vec<Target>> {
    section.value("targets")?;
    let read = section.list("targets", target);
    if let Some(first) = read.get(MAX_TARGETS) {
        section.report().error(first.span(), "too many targets", format!("expected at most {MAX_TARGETS}"));
    }
    for (place, target) in read.iter().enumerate() {
        if read.iter().take(place).any(|earlier| earlier.get_ref() == target.get_ref()) {
            let message = format!("the target {} is there twice", target.get_ref());
            section.report().error(target.span(), message, "expected each target once");
        }
    }
    Some(values_of(read))
}

/// `targets`: those that it is about, unless some of them were refused.
fn quorum(section: &Section, targets: Option<&Vec<Target>>) -> Option<u8> {
    let quorum = section.optional("quorum", number::<u8>(1..=MAX_TARGETS as u64))?;
    let of = |family| targets.into_iter().flatten().filter(|target| target.is_of(family)).count();
    let most = Family::BOTH.into_iter().map(of).max().unwrap_or(0);
    if most > 0 && usize::from(*quorum.get_ref()) > most {
        let message = format!("a quorum of {} cannot be reached", quorum.get_ref());
        let hint = format!("expected at most {most}, the number of targets of a family");
        section.report().error(quorum.span(), message, hint);
    }
    Some(quorum.into_inner())
}

fn leave(section: Section, base: &Limits) -> Limits {
    let limits = Limits {
        loss: section.or("loss", base.loss, values::percent),
        latency: section.or("latency", base.latency, latency),
        jitter: section.optional("jitter", latency).map(Spanned::into_inner).or(base.jitter),
    };
    section.finish();
    limits
}

/// Limits to come back may not be wider than those to leave, or a line would come and go without end.
fn rejoin(section: Section, base: &Settings, leave: &Limits) -> (Limits, Duration) {
    let rejoin = &base.rejoin;
    let jitter = rejoin.jitter.into_iter().chain(leave.jitter).min();
    let limits = Limits {
        loss: within(&section, "loss", values::percent, rejoin.loss, leave.loss),
        latency: within(&section, "latency", latency, rejoin.latency, leave.latency),
        jitter: match leave.jitter {
            Some(most) => Some(within(&section, "jitter", latency, jitter.unwrap_or(most), most)),
            None => section.optional("jitter", latency).map(Spanned::into_inner).or(jitter),
        },
    };
    let long = section.or("for", base.rejoin_for, values::duration);
    section.finish();
    (limits, long)
}

fn within<T: Copy + Ord>(
    section: &Section,
    key: &'static str,
    read: impl Fn(&Value) -> Read<T>,
    base: T,
    most: T,
) -> T {
    let Some(value) = section.optional(key, read) else { return base.min(most) };
    if *value.get_ref() > most {
        let message = format!("`rejoin.{key}` is above `leave.{key}`");
        section.report().error(value.span(), message, "expected no more than makes the line leave");
    }
    value.into_inner()
}

fn interval(value: &Value) -> Read<Duration> {
    let expected = || Fault::not_a("a time from \"100ms\" to \"60s\"");
    values::duration(value).ok().filter(|time| INTERVALS.contains(time)).ok_or_else(expected)
}

fn latency(value: &Value) -> Read<Duration> {
    let expected = || Fault::not_a("a time like \"800ms\", up to \"10s\"");
    values::duration(value).ok().filter(|time| *time <= LONGEST_LATENCY).ok_or_else(expected)
}

fn target(value: &Value) -> Read<Target> {
    text(TARGET, parse)(value)
}

fn parse(url: &str) -> Option<Target> {
    let (scheme, rest) = url.split_once("://")?;
    match scheme {
        "icmp" => address(rest).map(Target::Echo),
        "tcp" => service(rest, None).map(Target::Connect),
        "dns" => {
            let (server, name) = rest.split_once('/')?;
            Some(Target::Query { server: service(server, Some(DNS))?, name: domain(name)? })
        }
        "http" | "https" => page(scheme == "https", rest).map(Target::Fetch),
        "arp" => (rest == "gateway").then_some(Target::Gateway),
        _ => None,
    }
}

/// An address, in brackets or not.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match bare {
        Some(bare) => values::host(bare).filter(IpAddr::is_ipv6),
        None => values::host(text),
    }
}

/// An address and a port; without one the usual, where there is one.
fn service(text: &str, usual: Option<u16>) -> Option<SocketAddr> {
    if let Some(port) = usual
        && let Some(address) = address(text)
    {
        return Some((address, port).into());
    }
    let (host, port) = text.rsplit_once(':')?;
    let is_ambiguous = host.contains(':') && !host.starts_with('[');
    let address = address(host).filter(|_| !is_ambiguous)?;
    Some((address, self::port(port)?).into())
}

fn port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten().filter(|&port| port > 0)
}

fn page(is_secure: bool, text: &str) -> Option<Page> {
    let (text, status) = match text.split_once('#') {
        Some((text, status)) => (text, Some(self::status(status)?)),
        None => (text, None),
    };
    let (authority, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    let fits = |byte: u8| byte.is_ascii_graphic();
    if path.len() > LONGEST_PATH || !path.bytes().all(fits) {
        return None;
    }
    let path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
    let status = status.or(Page::usual_status(&path));
    let usual = Page::usual_port(is_secure);
    if let Some(service) = service(authority, Some(usual)) {
        return Some(Page { is_secure, host: service.ip().to_string(), port: service.port(), path, status });
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, self::port(port)?),
        None => (authority, usual),
    };
    let is_number = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    Some(Page { is_secure, host: domain(host).filter(|_| !is_number)?, port, path, status })
}

/// An HTTP status (RFC 9110 section 15).
fn status(text: &str) -> Option<u16> {
    let is_number = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten().filter(|status| (200..600).contains(status))
}

/// A host's name (RFC 1035 section 2.3.4 for the lengths).
fn domain(name: &str) -> Option<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(fits);
    (name.len() <= 253 && name.split('.').all(label)).then(|| name.to_ascii_lowercase())
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    Ipv4Addr::new(a, b, c, d).into()
}

/// `a:b:c::d`
fn v6(a: u16, b: u16, c: u16, d: u16) -> IpAddr {
    Ipv6Addr::new(a, b, c, 0, 0, 0, 0, d).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_target_is_read_and_written_alike() {
        for url in [
            "icmp://192.0.2.9",
            "icmp://2001:db8::9",
            "tcp://192.0.2.10:443",
            "tcp://[2001:db8::9]:80",
            "dns://192.0.2.11:53/example.com",
            "dns://[2001:db8::9]:5353/example.com",
            "http://192.0.2.1/",
            "http://[2001:db8::1]:8080/a?b=c",
            "https://example.com/generate_204",
            "https://www.example.com:8443/",
            "http://example.com/#302",
            "http://example.com/generate_204#200",
            "arp://gateway",
        ] {
            assert_eq!(parse(url).map(|target| target.to_string()).as_deref(), Some(url));
        }
    }

    #[test]
    fn the_usual_may_be_left_out() {
        let same = |short: &str, long: &str| assert_eq!(parse(short).unwrap(), parse(long).unwrap());
        same("icmp://[2001:db8::9]", "icmp://2001:db8::9");
        same("dns://192.0.2.11/Example.COM", "dns://192.0.2.11:53/example.com");
        same("dns://2001:db8::9/example.com", "dns://[2001:db8::9]:53/example.com");
        same("http://example.com", "http://example.com:80/");
        same("https://192.0.2.1", "https://192.0.2.1:443/");
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        for url in [
            "",
            "192.0.2.9",
            "icmp://",
            "icmp://example.com",
            "icmp://127.0.0.1",
            "icmp://224.0.0.1",
            "icmp://[192.0.2.9]",
            "tcp://192.0.2.10",
            "tcp://192.0.2.10:0",
            "tcp://192.0.2.10:+1",
            "tcp://2001:db8::9:80",
            "dns://192.0.2.11",
            "dns://192.0.2.11/",
            "dns://192.0.2.11/a..b",
            "dns://192.0.2.11:99999/example.com",
            "http://",
            "http://192.0.2.300/",
            "http://user@example.com/",
            "http://example.com/a b",
            "http://example.com:/",
            "http://example.com/#ok",
            "http://example.com/#99",
            "arp://192.0.2.1",
            "ftp://example.com/",
        ] {
            assert_eq!(parse(url), None, "{url}");
        }
    }

    #[test]
    fn by_default_each_family_has_four_operators_and_the_gateway() {
        for family in Family::BOTH {
            assert_eq!(Health::default().targets.iter().filter(|target| target.is_of(family)).count(), 5);
        }
        assert!(Health::default().targets.len() <= MAX_TARGETS);
    }
}
