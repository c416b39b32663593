//! HTTP/1: a request's head, read by httparse, and the host it is for (RFC 9112, section 3.2).

use super::bytes::after_any_case;
use super::{App, Hint, Name, Odd, Sniffed, bittorrent};

/// Bytes in the longest method taken for one; the longest registered has 17 (`UPDATEREDIRECTREF`).
const LONGEST_METHOD: usize = 20;

/// Headers read of a request: more are not looked at.
const MOST_HEADERS: usize = 64;

/// Bytes of a head after which the rest of it is not waited for.
const LONGEST_HEAD: usize = 8192;

/// Methods that no other protocol has: what stands behind them may be anything.
const ANY_TARGET: &[&[u8]] = &[b"CONNECT", b"GET", b"HEAD", b"POST", b"PUT"];

const HTTP: &[&[u8]] = &[b"http://", b"https://"];

/// The first request of a stream: its host, method and `User-Agent`, or BitTorrent if it asks a
/// tracker. It is waited for until the head ends or has named both host and `User-Agent`, and for
/// at most 8192 bytes. A host that is an address gives no name.
#[must_use]
pub fn sniff(stream: &[u8]) -> Sniffed<Hint<'_>> {
    if !may_be_request(stream) {
        return Sniffed::NotMine;
    }
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(stream);
    let head = match parsed {
        Ok(_) => Head::of(&request),
        Err(_) => Head::in_lines(stream),
    };
    let waits = parsed == Ok(httparse::Status::Partial) && stream.len() < LONGEST_HEAD;
    match head {
        Some(head) if waits && !head.has_told_all() => Sniffed::NeedMore,
        Some(head) => Sniffed::Certain(head.hint()),
        None if waits => Sniffed::NeedMore,
        None => Sniffed::NotMine,
    }
}

/// What the lines that are there of a request tell.
#[must_use]
pub fn so_far(stream: &[u8]) -> Option<Hint<'_>> {
    let end = stream.iter().rposition(|&byte| byte == b'\n')?;
    let lines = stream.get(..=end).filter(|lines| may_be_request(lines))?;
    Some(Head::in_lines(lines)?.hint())
}

/// What matters of a request's head.
struct Head<'a> {
    method: &'a [u8],
    target: &'a [u8],
    host: Option<&'a [u8]>,
    user_agent: Option<&'a [u8]>,
}

impl<'a> Head<'a> {
    fn of(request: &httparse::Request<'_, 'a>) -> Option<Self> {
        let (method, target, _) = (request.method?, request.path?, request.version?);
        Some(Head {
            method: method.as_bytes(),
            target: target.as_bytes(),
            host: header(request.headers, "host"),
            user_agent: header(request.headers, "user-agent"),
        })
    }

    /// A head that breaks the rules, as many servers put up with it: spaces and any bytes in the
    /// target, lines that are no headers.
    fn in_lines(stream: &'a [u8]) -> Option<Self> {
        let mut lines = stream.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
        let first = lines.next()?;
        let version = first.len().checked_sub(b" HTTP/1.1".len())?;
        let (asked, _) = first.split_at_checked(version).filter(|(_, end)| end.starts_with(b" HTTP/1."))?;
        let space = asked.iter().position(|&byte| byte == b' ')?;
        let (method, target) = (asked.get(..space)?, asked.get(space + 1..)?);
        let mut head = Head { method, target, host: None, user_agent: None };
        lines.take(MOST_HEADERS).take_while(|line| !line.is_empty()).for_each(|line| head.line(line));
        Some(head)
    }

    fn line(&mut self, line: &'a [u8]) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { return };
        let (name, value) = (line[..colon].trim_ascii_end(), line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"host") {
            self.host.get_or_insert(value);
        } else if name.eq_ignore_ascii_case(b"user-agent") {
            self.user_agent.get_or_insert(value);
        }
    }

    fn has_told_all(&self) -> bool {
        self.host.is_some() && self.user_agent.is_some()
    }

    fn hint(&self) -> Hint<'a> {
        let authority = authority(self.method, self.target, self.host);
        Hint {
            method: Some(self.method),
            user_agent: self.user_agent,
            odd: authority.map(host).and_then(Odd::new),
            ..Hint::named(app(self.target), authority.and_then(name))
        }
    }
}

/// A method and the beginning of a target, as far as they have come.
fn may_be_request(stream: &[u8]) -> bool {
    let is_method = |byte: &u8| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_');
    let length = stream.iter().take(LONGEST_METHOD + 1).take_while(|byte| is_method(byte)).count();
    let (method, rest) = stream.split_at_checked(length).unwrap_or_default();
    match rest {
        [] | [b' '] => length <= LONGEST_METHOD && (length > 0 || stream.is_empty()),
        [b' ', b'/' | b'*', ..] => length > 0,
        [b' ', ..] if ANY_TARGET.contains(&method) => true,
        [b' ', target @ ..] => after_any_case(target, HTTP) != Sniffed::NotMine,
        _ => false,
    }
}

/// The value of the first header of a name. Entries that were not read have an empty one.
fn header<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

fn app(target: &[u8]) -> App {
    if bittorrent::asks_tracker(target) { App::Bittorrent } else { App::Http }
}

/// A target that says its host overrides the header (RFC 9112, section 3.2.2).
fn authority<'a>(method: &[u8], target: &'a [u8], host: Option<&'a [u8]>) -> Option<&'a [u8]> {
    let authority = match after_any_case(target, HTTP) {
        Sniffed::Certain(rest) => rest.split(|byte| matches!(byte, b'/' | b'?')).next(),
        _ if method == b"CONNECT" => Some(target),
        _ => host,
    };
    authority?.rsplit(|&byte| byte == b'@').next()
}

fn name(authority: &[u8]) -> Option<Name> {
    Name::new(host(authority))
}

/// What stands before the port; an address of IPv6 in brackets (RFC 3986, section 3.2.2), or without any.
fn host(authority: &[u8]) -> &[u8] {
    if let Some(rest) = authority.strip_prefix(b"[") {
        return rest.split(|&byte| byte == b']').next().unwrap_or_default();
    }
    let mut parts = authority.split(|&byte| byte == b':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(host), _, None) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(request: &str) -> Option<String> {
        match sniff(request.as_bytes()) {
            Sniffed::Certain(hint) => hint.name.map(|name| name.to_string()),
            other => panic!("{other:?} about {request}"),
        }
    }

    #[test]
    fn a_request_tells_host_method_and_user_agent() {
        let request = b"GET /a HTTP/1.1\r\nHost: WWW.example.org:8080\r\nuser-agent: curl/8\r\n\r\nrest";
        let Sniffed::Certain(hint) = sniff(request) else { panic!("not certain") };
        assert_eq!(hint.app, App::Http);
        assert_eq!(hint.name.unwrap().as_str(), "www.example.org");
        assert_eq!(hint.method, Some(b"GET".as_slice()));
        assert_eq!(hint.user_agent, Some(b"curl/8".as_slice()));
    }

    #[test]
    fn a_target_with_a_host_overrides_the_header() {
        let rest = "HTTP/1.1\r\nHost: proxy.example\r\n\r\n";
        for target in
            ["GET http://site.example/x", "GET HTTP://u:p@site.example:81?q", "CONNECT site.example:443"]
        {
            assert_eq!(named(&format!("{target} {rest}")).as_deref(), Some("site.example"));
        }
        assert_eq!(named(&format!("GET http://192.0.2.1/ {rest}")), None);
    }

    #[test]
    fn a_host_that_is_an_address_or_nonsense_gives_no_name() {
        for host in ["192.0.2.1", "192.0.2.1:80", "[2001:db8::1]:80", "%s", "", "a b"] {
            assert_eq!(named(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), None, "{host}");
        }
        assert_eq!(named("GET / HTTP/1.0\r\n\r\n"), None);
    }

    #[test]
    fn what_is_asked_for_in_place_of_a_host_is_told_too() {
        for (host, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:80", Some("192.0.2.1")),
            ("[2001:db8::1]:80", Some("2001:db8::1")),
            ("[2001:DB8::1]", Some("2001:db8::1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("%s", Some("%s")),
            ("b\u{fc}cher.example", Some("b\u{fc}cher.example")),
            ("", None),
            ("www.example.org:80", None),
        ] {
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let Sniffed::Certain(hint) = sniff(request.as_bytes()) else { panic!("{host}") };
            assert_eq!(hint.odd.map(|odd| odd.to_string()).as_deref(), expected, "{host}");
        }
    }

    #[test]
    fn methods_of_webdav_and_others_are_http_too() {
        for method in ["PROPFIND", "VERSION-CONTROL", "M-SEARCH", "REPORT", "X_ODD"] {
            assert_eq!(
                named(&format!("{method} /d HTTP/1.1\r\nHost: dav.example\r\n\r\n")).unwrap(),
                "dav.example"
            );
        }
        assert_eq!(named("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap(), "a.example");
    }

    #[test]
    fn an_unfinished_head_is_waited_for_until_it_has_told_all() {
        let line = "GET / HTTP/1.1\r\n";
        assert_eq!(sniff(line.as_bytes()), Sniffed::NeedMore);
        assert_eq!(sniff(format!("{line}Host: a.example\r\n").as_bytes()), Sniffed::NeedMore);
        assert_eq!(named(&format!("{line}Host: a.example\r\nUser-Agent: b\r\nX")).unwrap(), "a.example");
        let long = format!("{line}Host: a.example\r\nCookie: {}", "x".repeat(LONGEST_HEAD));
        assert_eq!(named(&long).unwrap(), "a.example");
    }

    #[test]
    fn headers_that_cannot_be_read_do_not_hide_those_before_them() {
        let many = "X: y\r\n".repeat(2 * MOST_HEADERS);
        assert_eq!(named(&format!("GET / HTTP/1.1\r\nHost: a.example\r\n{many}")).unwrap(), "a.example");
        assert_eq!(named("GET / HTTP/1.1\r\nHost: a.example\r\n\0: b\r\n\r\n").unwrap(), "a.example");
    }

    #[test]
    fn a_head_that_breaks_the_rules_tells_its_host_too() {
        for head in [
            "GET /a b HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "POST .a/b HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET /<\u{1}> HTTP/1.0\r\nHost : a.example\r\n\r\n",
            "GET / HTTP/1.1\r\nno header\r\n\x01: x\r\nhost:a.example\r\n\r\n",
        ] {
            assert_eq!(named(head).as_deref(), Some("a.example"), "{head}");
        }
        let behind = "GET /a b HTTP/1.1\r\n\r\nHost: a.example\r\n\r\n";
        assert_eq!(named(behind), None);
    }

    #[test]
    fn other_texts_are_not_http() {
        for text in [
            "EHLO x\r\n",
            "USER hans\r\n",
            "get / http/1.1\r\n",
            "OPTIONS rtsp://x RTSP/1.0\r\n",
            " /",
            "HTTP/1.1 200 OK",
        ] {
            assert_eq!(sniff(text.as_bytes()), Sniffed::NotMine, "{text}");
        }
        assert_eq!(sniff(b"GET / RTSP/1.0\r\n"), Sniffed::NotMine);
        assert_eq!(sniff(b"THISISALONGWORDWITHOUTANEND"), Sniffed::NotMine);
    }

    #[test]
    fn a_tracker_asked_over_http_is_bittorrent() {
        let request = b"GET /announce?info_hash=%12&port=1 HTTP/1.1\r\nHost: tracker.example\r\n\r\n";
        let Sniffed::Certain(hint) = sniff(request) else { panic!("not certain") };
        assert_eq!((hint.app, hint.name), (App::Bittorrent, Name::new(b"tracker.example")));
    }
}
