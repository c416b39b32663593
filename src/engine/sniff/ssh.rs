//! SSH: the version line with which both sides begin (RFC 4253, section 4.2).

use super::bytes::after;
use super::{App, Hint, Sniffed};

/// Version 2, version 2 that also speaks 1 (RFC 4253, section 5.1), and version 1.
const GREETINGS: &[&[u8]] = &[b"SSH-2.0-", b"SSH-1.99-", b"SSH-1.5-"];

/// Whether a stream is SSH. It names no host.
#[must_use]
pub fn sniff(stream: &[u8]) -> Sniffed<Hint<'_>> {
    after(stream, GREETINGS).map(|_| Hint::of(App::Ssh))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_line_tells_ssh() {
        for line in ["SSH-2.0-OpenSSH_9.6\r\n", "SSH-1.99-Cisco-1.25\n", "SSH-2.0-"] {
            assert_eq!(sniff(line.as_bytes()), Sniffed::Certain(Hint::of(App::Ssh)));
        }
        assert_eq!(sniff(b"SSH-2"), Sniffed::NeedMore);
        assert_eq!(sniff(b"SSH-3.0-x"), Sniffed::NotMine);
    }
}
