//! HTTP/2 in the clear by prior knowledge: the client's preface (RFC 9113, section 3.4).

use super::bytes::after;
use super::{App, Hint, Sniffed};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a stream is HTTP/2. Its host stands in compressed headers (RFC 7541) and is not read.
#[must_use]
pub fn sniff(stream: &[u8]) -> Sniffed<Hint<'_>> {
    after(stream, &[PREFACE]).map(|_| Hint::of(App::Http2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_preface_tells_http2() {
        assert_eq!(sniff(&[PREFACE, &[0, 0, 0, 4, 0]].concat()), Sniffed::Certain(Hint::of(App::Http2)));
        assert_eq!(sniff(b"PRI * HTTP/2.0\r\n"), Sniffed::NeedMore);
        assert_eq!(sniff(b"PRI * HTTP/2.0\r\nHost: a\r\n"), Sniffed::NotMine);
    }
}
