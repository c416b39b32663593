//! STUN and TURN (RFC 8489, RFC 8656), the older form without a cookie (RFC 3489), and Teams by
//! attributes that only Microsoft uses.

use super::bytes::{may_be, u16_at};
use super::{App, Hint, Ports, Sniffed, media};

const HEADER: usize = 20;

/// RFC 8489, section 5.
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// Where servers listen: IANA's, those beside it of Microsoft, and Google's.
const PORTS: [u16; 6] = [3478, 3479, 3480, 3481, 5349, 19305];

/// Without a cookie: binding requests and answers, and those that [MS-TURN] allocates by.
const BINDING_REQUEST: u16 = 0x0001;
const OLD_TYPES: [u16; 6] = [BINDING_REQUEST, 0x0101, 0x0111, 0x0003, 0x0103, 0x0113];

/// Attributes of RFC 3489 and of the draft that [MS-TURN] follows; above, those that may be ignored.
const LAST_OLD_ATTRIBUTE: u16 = 0x0017;
const FIRST_OPTIONAL: u16 = 0x8000;

/// Bytes in the longest message in a stream that is taken for one.
const LONGEST: usize = 2048;

/// Whether a datagram is STUN, or TURN's data on a channel on a port of its own.
#[must_use]
pub fn sniff(payload: &[u8], ports: Ports) -> Sniffed<Hint<'_>> {
    match message(payload) {
        Some((cookie, body)) if cookie || is_old(payload, body) => Sniffed::Certain(Hint::of(app(body))),
        _ if is_channel_data(payload, ports) => Sniffed::Certain(Hint::of(App::Stun)),
        _ => Sniffed::NotMine,
    }
}

/// Whether a stream is STUN; there the cookie is needed.
#[must_use]
pub fn sniff_stream(stream: &[u8]) -> Sniffed<Hint<'_>> {
    let cookie = COOKIE.iter().zip(4..).all(|(&byte, at)| may_be(stream, at, byte));
    let kind = stream.first().is_none_or(|&first| first < 0x40);
    if !cookie || !kind {
        return Sniffed::NotMine;
    }
    let Some(length) = u16_at(stream, 2).map(|body| HEADER + usize::from(body)) else {
        return Sniffed::NeedMore;
    };
    if length > LONGEST || !length.is_multiple_of(4) {
        return Sniffed::NotMine;
    }
    let Some(whole) = stream.get(..length) else { return Sniffed::NeedMore };
    message(whole).map_or(Sniffed::NotMine, |(_, body)| Sniffed::Certain(Hint::of(app(body))))
}

/// Whether there is a cookie, and the attributes, of what has a header and the length it says.
fn message(bytes: &[u8]) -> Option<(bool, &[u8])> {
    let (header, body) = bytes.split_at_checked(HEADER)?;
    let fits = *header.first()? < 0x40
        && usize::from(u16_at(header, 2)?) == body.len()
        && body.len().is_multiple_of(4);
    fits.then_some((header.get(4..8) == Some(&COOKIE), body))
}

fn app(body: &[u8]) -> App {
    if attributes(body).any(|(kind, _)| media::is_teams(kind)) { App::Teams } else { App::Stun }
}

/// A known type, and known attributes that fill the message; only a binding request may have none.
fn is_old(payload: &[u8], body: &[u8]) -> bool {
    let kind = u16_at(payload, 0).unwrap_or_default();
    let known = |attribute: u16| (1..=LAST_OLD_ATTRIBUTE).contains(&attribute) || attribute >= FIRST_OPTIONAL;
    OLD_TYPES.contains(&kind)
        && (kind == BINDING_REQUEST || !body.is_empty())
        && payload.get(4..HEADER) != Some(&[0; 16])
        && attributes(body).all(|(attribute, _)| known(attribute))
        && attributes(body).map(|(_, size)| size).sum::<usize>() == body.len()
}

/// Type of each attribute and its size with header and padding, up to one that does not fit.
fn attributes(body: &[u8]) -> impl Iterator<Item = (u16, usize)> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let size = 4 + usize::from(u16_at(rest, 2)?).next_multiple_of(4);
        let kind = u16_at(rest, 0)?;
        rest = rest.get(size..)?;
        Some((kind, size))
    })
}

/// A channel's number, the data's length, and at most some padding (RFC 8656, section 12.4).
fn is_channel_data(payload: &[u8], ports: Ports) -> bool {
    let length = u16_at(payload, 2).map(|data| 4 + usize::from(data));
    let fits = length.is_some_and(|length| (length..length + 4).contains(&payload.len()));
    let server = PORTS.contains(&ports.src) || PORTS.contains(&ports.dst);
    server && fits && payload.first().is_some_and(|&first| first >> 4 == 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: u8, cookie: [u8; 4], body: &[u8]) -> Vec<u8> {
        let header = [0, kind, 0, body.len() as u8];
        [&header[..], &cookie, &[0x3c; 12], body].concat()
    }

    fn told(payload: &[u8]) -> Sniffed<App> {
        sniff(payload, Ports::default()).map(|hint| hint.app)
    }

    #[test]
    fn the_cookie_tells_stun_and_microsofts_attributes_tell_teams() {
        let software = [0x80, 0x22, 0, 3, b'x', b'y', b'z', 0];
        let quality = [0x80, 0x55, 0, 4, 0, 1, 0, 0];
        assert_eq!(told(&request(1, COOKIE, &[])), Sniffed::Certain(App::Stun));
        assert_eq!(told(&request(1, COOKIE, &software)), Sniffed::Certain(App::Stun));
        assert_eq!(told(&request(3, COOKIE, &[software, quality].concat())), Sniffed::Certain(App::Teams));
    }

    #[test]
    fn without_a_cookie_all_must_be_known() {
        let other = [9, 9, 9, 9];
        assert_eq!(told(&request(1, other, &[])), Sniffed::Certain(App::Stun));
        assert_eq!(told(&request(1, other, &[0, 3, 0, 4, 0, 0, 0, 6])), Sniffed::Certain(App::Stun));
        assert_eq!(told(&request(3, other, &[0x80, 8, 0, 4, 0, 0, 0, 6])), Sniffed::Certain(App::Teams));
        for wrong in [
            request(9, other, &[]),
            request(1, other, &[0x70, 3, 0, 4, 0, 0, 0, 6]),
            request(1, other, &[0, 3, 0, 9, 0, 0, 0, 6]),
            [&request(1, other, &[])[..], &[0]].concat(),
        ] {
            assert_eq!(told(&wrong), Sniffed::NotMine);
        }
    }

    #[test]
    fn data_on_a_channel_is_believed_on_a_servers_port() {
        let data = [0x40, 1, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0];
        assert_eq!(sniff(&data, Ports { src: 9, dst: 3478 }), Sniffed::Certain(Hint::of(App::Stun)));
        assert_eq!(sniff(&data, Ports { src: 9, dst: 9 }), Sniffed::NotMine);
        assert_eq!(sniff(&data[..8], Ports { src: 9, dst: 3478 }), Sniffed::NotMine);
    }

    #[test]
    fn a_stream_is_waited_for_until_a_message_is_whole() {
        let stream = request(3, COOKIE, &[0x80, 0x55, 0, 4, 0, 1, 0, 0]);
        for end in 0..stream.len() {
            assert_eq!(sniff_stream(&stream[..end]), Sniffed::NeedMore);
        }
        assert_eq!(sniff_stream(&stream), Sniffed::Certain(Hint::of(App::Teams)));
        assert_eq!(sniff_stream(&request(3, [0; 4], &[])), Sniffed::NotMine);
    }
}
