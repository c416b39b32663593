//! Remote desktops: the connection request over TCP ([MS-RDPBCGR], section 2.2.1.1) and the SYN over
//! UDP ([MS-RDPEUDP], section 3.1.5.1.1).

use super::bytes::{may_be, u16_at};
use super::{App, Hint, Sniffed};

/// TPKT and X.224 headers (RFC 1006, section 6; X.224, section 13.3).
const HEADERS: usize = 11;

/// Bytes of TPKT header and length byte, which that length does not count.
const UNCOUNTED: usize = 5;

/// Bytes in the longest request that is taken for one.
const LONGEST: usize = 512;

/// Type of the negotiation request, and its length in little-endian.
const NEGOTIATION: (u8, [u8; 2]) = (1, [8, 0]);
const NEGOTIATION_LENGTH: usize = 8;

/// No packet acknowledged yet, and the flag SYN among those that may stand with it.
const UDP_START: [u8; 4] = [0xff; 4];
const UDP_SYN: u16 = 0x0001;
const UDP_SYN_FLAGS: u16 = 0x1201;

/// What both sides of the path may carry; a SYN is filled up with zeros to the most.
const UDP_MTU: std::ops::RangeInclusive<u16> = 1132..=1232;

/// Whether a stream asks for a remote desktop, by a cookie or by what it negotiates. It names no host.
#[must_use]
pub fn sniff_stream(stream: &[u8]) -> Sniffed<Hint<'_>> {
    let fixed = [(0, 3), (1, 0), (5, 0xe0), (6, 0), (7, 0)];
    if !fixed.iter().all(|&(at, value)| may_be(stream, at, value)) {
        return Sniffed::NotMine;
    }
    let (Some(length), Some(&counted)) = (u16_at(stream, 2).map(usize::from), stream.get(4)) else {
        return Sniffed::NeedMore;
    };
    if usize::from(counted) + UNCOUNTED != length || !(HEADERS..=LONGEST).contains(&length) {
        return Sniffed::NotMine;
    }
    let Some(request) = stream.get(HEADERS..length) else { return Sniffed::NeedMore };
    if is_request(request) { Sniffed::Certain(Hint::of(App::Rdp)) } else { Sniffed::NotMine }
}

/// The client's bytes behind its request: a ClientHello, where TLS was negotiated.
#[must_use]
pub fn after_negotiation(stream: &[u8]) -> Option<&[u8]> {
    stream.get(u16_at(stream, 2)?.into()..).filter(|_| matches!(sniff_stream(stream), Sniffed::Certain(_)))
}

/// Whether a datagram begins a remote desktop's side channel.
#[must_use]
pub fn sniff(payload: &[u8]) -> Sniffed<Hint<'_>> {
    let syn = payload.starts_with(&UDP_START)
        && u16_at(payload, 6).is_some_and(|flags| flags & UDP_SYN != 0 && flags & !UDP_SYN_FLAGS == 0)
        && [12, 14].iter().all(|&at| u16_at(payload, at).is_some_and(|mtu| UDP_MTU.contains(&mtu)))
        && u16::try_from(payload.len()).is_ok_and(|length| UDP_MTU.contains(&length));
    if syn { Sniffed::Certain(Hint::of(App::Rdp)) } else { Sniffed::NotMine }
}

fn is_request(request: &[u8]) -> bool {
    let (kind, length) = NEGOTIATION;
    let negotiates = request.len() >= NEGOTIATION_LENGTH
        && request.first() == Some(&kind)
        && request.get(2..4) == Some(&length);
    negotiates || request.starts_with(b"Cookie: msts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_request_is_found() {
        let negotiates = request(&[1, 0, 8, 0, 3, 0, 0, 0]);
        assert_eq!(after_negotiation(&[&negotiates, &b"hello"[..]].concat()), Some(&b"hello"[..]));
        assert_eq!(after_negotiation(&negotiates[..10]), None);
        assert_eq!(after_negotiation(b"\x03\0\0\x04hello"), None);
    }

    fn request(data: &[u8]) -> Vec<u8> {
        let length = HEADERS + data.len();
        let head = [3, 0, 0, length as u8, (length - UNCOUNTED) as u8, 0xe0, 0, 0, 0, 0, 0];
        [&head[..], data].concat()
    }

    #[test]
    fn a_request_with_a_cookie_or_a_negotiation_is_a_remote_desktop() {
        for data in [&b"Cookie: mstshash=me\r\n"[..], &[1, 0, 8, 0, 11, 0, 0, 0]] {
            let stream = request(data);
            for end in 0..stream.len() {
                assert_eq!(sniff_stream(&stream[..end]), Sniffed::NeedMore);
            }
            assert_eq!(sniff_stream(&stream), Sniffed::Certain(Hint::of(App::Rdp)));
        }
        // ISO transport with parameters of its own: a controller of Siemens.
        assert_eq!(sniff_stream(&request(&[0xc0, 1, 10, 0xc1, 2, 1, 0])), Sniffed::NotMine);
        assert_eq!(sniff_stream(&request(&[])), Sniffed::NotMine);
    }

    #[test]
    fn a_syn_over_udp_names_what_the_path_carries() {
        let mut syn = vec![0; 1232];
        syn[..16].copy_from_slice(&[255, 255, 255, 255, 0, 64, 0, 1, 1, 2, 3, 4, 4, 208, 4, 208]);
        assert_eq!(sniff(&syn), Sniffed::Certain(Hint::of(App::Rdp)));
        syn[7] = 5;
        assert_eq!(sniff(&syn), Sniffed::NotMine);
        assert_eq!(sniff(&[255; 16]), Sniffed::NotMine);
    }
}
