//! SIP: the first line of a request or an answer (RFC 3261, section 7).

use super::bytes::{after, after_any_case};
use super::{App, Hint, Sniffed};

/// IANA "SIP Parameters", methods.
const METHODS: &[&[u8]] = &[
    b"INVITE ",
    b"REGISTER ",
    b"OPTIONS ",
    b"ACK ",
    b"BYE ",
    b"CANCEL ",
    b"INFO ",
    b"MESSAGE ",
    b"NOTIFY ",
    b"PRACK ",
    b"PUBLISH ",
    b"REFER ",
    b"SUBSCRIBE ",
    b"UPDATE ",
];

/// RFC 3261, section 19.1, and RFC 3966.
const SCHEMES: &[&[u8]] = &[b"sip:", b"sips:", b"tel:"];

/// Whether a datagram or a stream is SIP. The addresses in it are people's, so it names no host.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Sniffed<Hint<'_>> {
    let request = after(bytes, METHODS).and_then(|uri| after_any_case(uri, SCHEMES));
    let line = if request == Sniffed::NotMine { after(bytes, &[b"SIP/2.0 "]) } else { request };
    line.map(|_| Hint::of(App::Sip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_are_sip() {
        for line in
            ["REGISTER sip:example.org SIP/2.0\r\n", "INVITE SIPS:a@b SIP/2.0\r\n", "SIP/2.0 200 OK\r\n"]
        {
            assert_eq!(sniff(line.as_bytes()), Sniffed::Certain(Hint::of(App::Sip)));
        }
        for part in ["", "S", "SIP/2", "INVITE", "INVITE si"] {
            assert_eq!(sniff(part.as_bytes()), Sniffed::NeedMore);
        }
        for other in ["OPTIONS rtsp://a RTSP/1.0\r\n", "NOTIFY * HTTP/1.1\r\n", "INVITED sip:a"] {
            assert_eq!(sniff(other.as_bytes()), Sniffed::NotMine);
        }
    }
}
