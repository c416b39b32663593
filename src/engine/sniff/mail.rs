//! Mail: a client's first command to an SMTP, IMAP or POP3 server, and where it turns to TLS.

use super::bytes::{after_any_case, split_line};
use super::{App, Hint, Ports, Sniffed, ftp};

/// RFC 5321, section 4.1.1.1. The name that follows is the client's own.
const SMTP: &[&[u8]] = &[b"EHLO ", b"HELO "];

/// What clients begin with (RFC 9051, section 6; RFC 2971 for `ID`).
const IMAP: &[&[u8]] =
    &[b"CAPABILITY\r\n", b"STARTTLS\r\n", b"LOGIN ", b"AUTHENTICATE ", b"ID (", b"ID NIL\r\n", b"NOOP\r\n"];

/// Bytes in the longest tag before an IMAP command that is taken for one.
const LONGEST_TAG: usize = 16;

/// RFC 1939, RFC 2449, RFC 2595, RFC 5034; mechanisms that FTP's `AUTH` (RFC 2228) has not.
const POP3: &[&[u8]] = &[
    b"CAPA\r\n",
    b"STLS\r\n",
    b"APOP ",
    b"AUTH\r\n",
    b"AUTH PLAIN",
    b"AUTH LOGIN",
    b"AUTH CRAM-MD5",
    b"AUTH DIGEST-MD5",
    b"AUTH SCRAM-",
    b"AUTH NTLM",
    b"AUTH XOAUTH2",
    b"AUTH OAUTHBEARER",
];

/// Commands after which a client's next bytes are TLS.
const TLS_ASKED: [&[u8]; 4] = [b"STARTTLS", b"STLS", b"AUTH TLS", b"AUTH SSL"];

/// Lines in which it is looked for.
const MOST_LINES: usize = 16;

/// A TLS record of a handshake begins so (RFC 8446, section 5.1).
const TLS_RECORD: &[u8] = &[22, 3];

/// Whether a stream is SMTP, IMAP or POP3. It names no host, but see [`after_starttls`].
#[must_use]
pub fn sniff(stream: &[u8], ports: Ports) -> Sniffed<Hint<'_>> {
    let smtp = after_any_case(stream, SMTP).map(|_| Hint::of(App::Smtp));
    smtp.or(|| imap(stream)).or(|| after_any_case(stream, POP3).map(|_| Hint::of(App::Pop3))).or(|| {
        match ftp::user(stream, ports) {
            Sniffed::Certain(App::Ftp) => Sniffed::NotMine,
            answer => answer.map(Hint::of),
        }
    })
}

/// The client's bytes after it asked for TLS by `STARTTLS`, `STLS` or `AUTH TLS` in one of its first
/// 16 lines, if TLS follows: a ClientHello, which names the server.
#[must_use]
pub fn after_starttls(stream: &[u8]) -> Option<&[u8]> {
    let mut rest = stream;
    for _ in 0..MOST_LINES {
        let (line, after) = split_line(rest)?;
        if asks_for_tls(line) {
            return after.starts_with(TLS_RECORD).then_some(after);
        }
        rest = after;
    }
    None
}

/// A tag, a space and a command. `AUTH LOGIN` is POP3, not IMAP's `LOGIN` with an odd tag.
fn imap(stream: &[u8]) -> Sniffed<Hint<'_>> {
    let is_tag = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'.';
    let length = stream.iter().take(LONGEST_TAG + 1).take_while(|byte| is_tag(byte)).count();
    match stream.split_at_checked(length) {
        Some((_, [])) if length <= LONGEST_TAG => Sniffed::NeedMore,
        Some((tag, [b' ', command @ ..])) if length > 0 && !tag.eq_ignore_ascii_case(b"AUTH") => {
            after_any_case(command, IMAP).map(|_| Hint::of(App::Imap))
        }
        _ => Sniffed::NotMine,
    }
}

/// The command stands alone, or behind an IMAP tag.
fn asks_for_tls(line: &[u8]) -> bool {
    let behind_tag = line.splitn(2, |&byte| byte == b' ').nth(1).unwrap_or_default();
    TLS_ASKED.iter().any(|command| line.eq_ignore_ascii_case(command))
        || behind_tag.eq_ignore_ascii_case(b"STARTTLS")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { src: 40000, dst: 40001 };

    fn app(text: &str) -> Sniffed<App> {
        sniff(text.as_bytes(), PORTS).map(|hint| hint.app)
    }

    #[test]
    fn a_first_command_tells_which_mail_it_is() {
        assert_eq!(app("EHLO laptop.example\r\n"), Sniffed::Certain(App::Smtp));
        assert_eq!(app("helo x\r\n"), Sniffed::Certain(App::Smtp));
        for line in
            ["a1 CAPABILITY\r\n", "A001 LOGIN me pw\r\n", "1 id (\"name\" \"x\")\r\n", ". STARTTLS\r\n"]
        {
            assert_eq!(app(line), Sniffed::Certain(App::Imap), "{line}");
        }
        for line in
            ["CAPA\r\n", "stls\r\n", "APOP me 0123\r\n", "AUTH\r\n", "AUTH LOGIN x\r\n", "AUTH PLAIN\r\n"]
        {
            assert_eq!(app(line), Sniffed::Certain(App::Pop3), "{line}");
        }
        for line in ["AUTH TLS\r\n", "GET / HTTP/1.1\r\n", "MAIL FROM:<x>\r\n", "a1 SELECT x\r\n", "\r\n"] {
            assert_eq!(app(line), Sniffed::NotMine, "{line}");
        }
    }

    #[test]
    fn the_name_in_ehlo_is_the_clients_and_is_not_told() {
        assert_eq!(sniff(b"EHLO laptop.example\r\n", PORTS), Sniffed::Certain(Hint::of(App::Smtp)));
    }

    #[test]
    fn tls_is_found_behind_the_command_that_asks_for_it() {
        let hello = b"\x16\x03\x01\x02\x00";
        for lines in ["EHLO x\r\nSTARTTLS\r\n", "a CAPABILITY\r\nb starttls\r\n", "STLS\r\n", "AUTH TLS\r\n"]
        {
            let stream = [lines.as_bytes(), hello].concat();
            assert_eq!(after_starttls(&stream), Some(&hello[..]), "{lines}");
            assert_eq!(after_starttls(lines.as_bytes()), None);
        }
        assert_eq!(after_starttls(b"STARTTLS\r\nEHLO x\r\n"), None);
        assert_eq!(after_starttls(b"EHLO x\r\n\x16\x03\x01\n"), None);
    }
}
