//! FTP: a client's first command (RFC 959, RFC 2389, RFC 4217), and `USER`, which POP3 has too.

use super::bytes::{after_any_case, split_line};
use super::{App, Hint, Ports, Sniffed};

const PORT: u16 = 21;
const POP3_PORT: u16 = 110;

/// What clients begin with that no other protocol has.
const COMMANDS: &[&[u8]] =
    &[b"AUTH TLS\r\n", b"AUTH SSL\r\n", b"FEAT\r\n", b"SYST\r\n", b"OPTS UTF8", b"PBSZ 0\r\n"];

/// Commands after `USER` and `PASS` that only FTP has, and those that only POP3 has.
const ONLY_FTP: [&[u8]; 12] = [
    b"SYST", b"FEAT", b"PWD", b"OPTS", b"TYPE", b"PASV", b"EPSV", b"PORT", b"EPRT", b"CWD", b"PBSZ", b"ACCT",
];
const ONLY_POP3: [&[u8]; 4] = [b"STAT", b"UIDL", b"CAPA", b"TOP"];

/// Lines that are read to tell the two apart.
const MOST_LINES: usize = 4;

/// Whether a stream is FTP's control connection. It names no host.
#[must_use]
pub fn sniff(stream: &[u8], ports: Ports) -> Sniffed<Hint<'_>> {
    let command = after_any_case(stream, COMMANDS).map(|_| Hint::of(App::Ftp));
    command.or(|| match user(stream, ports) {
        Sniffed::Certain(App::Pop3) => Sniffed::NotMine,
        answer => answer.map(Hint::of),
    })
}

/// What begins with `USER`: FTP or POP3 by the port, or else by the commands that follow.
pub(super) fn user(stream: &[u8], ports: Ports) -> Sniffed<App> {
    after_any_case(stream, &[b"USER "]).and_then(|rest| match ports.dst {
        PORT => Sniffed::Certain(App::Ftp),
        POP3_PORT => Sniffed::Certain(App::Pop3),
        _ => by_what_follows(rest),
    })
}

fn by_what_follows(user: &[u8]) -> Sniffed<App> {
    let Some((_, mut rest)) = split_line(user) else { return Sniffed::NeedMore };
    for _ in 0..MOST_LINES {
        let Some((line, after)) = split_line(rest) else { return Sniffed::NeedMore };
        let command = line.split(|&byte| byte == b' ').next().unwrap_or_default();
        let is_one_of = |commands: &[&[u8]]| commands.iter().any(|one| command.eq_ignore_ascii_case(one));
        if is_one_of(&ONLY_FTP) {
            return Sniffed::Certain(App::Ftp);
        }
        if is_one_of(&ONLY_POP3) {
            return Sniffed::Certain(App::Pop3);
        }
        rest = after;
    }
    Sniffed::NotMine
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sniff::mail;

    const ELSEWHERE: Ports = Ports { src: 40000, dst: 2121 };

    #[test]
    fn commands_that_only_ftp_has_tell_it_on_any_port() {
        for line in ["AUTH TLS\r\n", "feat\r\n", "SYST\r\n", "OPTS UTF8 ON\r\n"] {
            assert_eq!(sniff(line.as_bytes(), ELSEWHERE), Sniffed::Certain(Hint::of(App::Ftp)), "{line}");
        }
        assert_eq!(sniff(b"AUTH PLAIN\r\n", ELSEWHERE), Sniffed::NotMine);
    }

    #[test]
    fn user_is_ftp_or_pop3_by_its_port() {
        let stream = b"USER me\r\n";
        let at = |dst| Ports { dst, ..ELSEWHERE };
        assert_eq!(sniff(stream, at(21)), Sniffed::Certain(Hint::of(App::Ftp)));
        assert_eq!(mail::sniff(stream, at(21)), Sniffed::NotMine);
        assert_eq!(sniff(stream, at(110)), Sniffed::NotMine);
        assert_eq!(mail::sniff(stream, at(110)), Sniffed::Certain(Hint::of(App::Pop3)));
    }

    #[test]
    fn user_elsewhere_is_told_by_what_follows() {
        let after = |lines: &str| format!("USER me\r\nPASS pw\r\n{lines}").into_bytes();
        for ask in [sniff, mail::sniff] {
            assert_eq!(ask(&after(""), ELSEWHERE), Sniffed::NeedMore);
            assert_eq!(ask(&after("A\r\nB\r\nC\r\n"), ELSEWHERE), Sniffed::NotMine);
        }
        assert_eq!(sniff(&after("TYPE I\r\n"), ELSEWHERE), Sniffed::Certain(Hint::of(App::Ftp)));
        assert_eq!(mail::sniff(&after("TYPE I\r\n"), ELSEWHERE), Sniffed::NotMine);
        assert_eq!(mail::sniff(&after("STAT\r\n"), ELSEWHERE), Sniffed::Certain(Hint::of(App::Pop3)));
    }
}
