//! TLS: the name and the protocols that a ClientHello asks for.

use super::{Alpn, App, Hint, Name, Odd, Sniffed};

/// Record and handshake types, RFC 8446, sections 5.1 and 4.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// Bytes in the longest record, RFC 8446, section 5.1.
const RECORD: usize = 1 << 14;

/// Extensions: RFC 6066, section 3; RFC 7301, section 3.1; RFC 9849, section 5.
const SERVER_NAME: usize = 0;
const ALPN: usize = 16;
const ENCRYPTED_CLIENT_HELLO: usize = 0xfe0d;

/// Tells what the client of a TCP connection wants; `stream` is the beginning of what it sent.
///
/// It is certain as soon as the whole ClientHello is there, or its name and its ALPN list. In a
/// hello cut behind these two, `outer` is not known: it is true only where the extension came first.
///
/// A ClientHello in SSL 2.0's frame (RFC 5246, appendix E.2) has no name: it is not taken for TLS.
#[must_use]
pub fn sniff(stream: &[u8]) -> Sniffed<Hint<'_>> {
    hello(stream).and_then(certain)
}

/// What a cut ClientHello tells.
#[must_use]
pub fn so_far(stream: &[u8]) -> Option<Hint<'_>> {
    match hello(stream) {
        Sniffed::Certain(Hello::Whole(hint) | Hello::Part(hint)) => Some(hint),
        _ => None,
    }
}

fn hello(stream: &[u8]) -> Sniffed<Hello> {
    match record(stream) {
        Sniffed::Certain((payload, rest)) if rest.is_empty() || is_whole(payload) => {
            Sniffed::Certain(read(payload, App::Tls))
        }
        Sniffed::Certain(_) => joined(stream),
        Sniffed::NeedMore => Sniffed::NeedMore,
        Sniffed::NotMine => Sniffed::NotMine,
    }
}

fn certain(hello: Hello) -> Sniffed<Hint<'static>> {
    match hello {
        Hello::Whole(hint) => Sniffed::Certain(hint),
        Hello::Part(_) => Sniffed::NeedMore,
        Hello::Other => Sniffed::NotMine,
    }
}

/// What could be read of a client's first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hello {
    /// All that can be learned of it.
    Whole(Hint<'static>),
    /// The message is cut: what was learned until there.
    Part(Hint<'static>),
    /// It is no such message.
    Other,
}

/// Reads the beginning of handshake messages (RFC 8446, section 4).
pub(super) fn read(handshake: &[u8], app: App) -> Hello {
    match *handshake {
        [kind, ..] if kind != CLIENT_HELLO => Hello::Other,
        [_, high, middle, low, ref body @ ..] => read_body(body, length([high, middle, low]), app),
        _ => Hello::Part(Hint::of(app)),
    }
}

/// Reads a ClientHello (RFC 8446, section 4.1.2; RFC 9147, section 5.3) of `length` bytes, of
/// which `body` is the beginning.
pub(super) fn read_body(body: &[u8], length: usize, app: App) -> Hello {
    let there = body.get(..length).unwrap_or(body);
    let mut hint = Hint::of(app);
    match fields(Reader { bytes: there, missing: length - there.len() }, &mut hint) {
        Ok(()) => Hello::Whole(hint),
        Err(Stop::Cut) if hint.name.is_some() && hint.alpn != Alpn::default() => Hello::Whole(hint),
        Err(Stop::Cut) => Hello::Part(hint),
        Err(Stop::Bad) => Hello::Other,
    }
}

/// A length of three bytes, as handshake messages have it.
pub(super) fn length([high, middle, low]: [u8; 3]) -> usize {
    u32::from_be_bytes([0, high, middle, low]) as usize
}

/// The first record's payload, as much as is there of it, and what follows.
fn record(stream: &[u8]) -> Sniffed<(&[u8], &[u8])> {
    match *stream {
        [kind, ..] if kind != HANDSHAKE => Sniffed::NotMine,
        [_, major, ..] if major != 3 => Sniffed::NotMine,
        [_, _, minor, ..] if minor > 4 => Sniffed::NotMine,
        [_, _, _, high, low, ref payload @ ..] => match u16::from_be_bytes([high, low]).into() {
            length @ 1..=RECORD => {
                Sniffed::Certain(payload.split_at_checked(length).unwrap_or((payload, &[])))
            }
            _ => Sniffed::NotMine,
        },
        _ => Sniffed::NeedMore,
    }
}

/// Whether the first of these handshake messages is there to its end.
fn is_whole(handshake: &[u8]) -> bool {
    matches!(*handshake, [_, high, middle, low, ref body @ ..] if body.len() >= length([high, middle, low]))
}

/// A ClientHello over several records. Apart from the usual one: it needs much stack.
#[cold]
#[inline(never)]
fn joined(mut stream: &[u8]) -> Sniffed<Hello> {
    let mut room = [0; RECORD];
    let mut end = 0;
    while !stream.is_empty() && !is_whole(&room[..end]) {
        match record(stream) {
            Sniffed::Certain((payload, rest)) => {
                let taken = payload.len().min(room.len() - end);
                room[end..end + taken].copy_from_slice(&payload[..taken]);
                end += taken;
                stream = rest;
            }
            Sniffed::NeedMore => break,
            Sniffed::NotMine => return Sniffed::NotMine,
        }
    }
    Sniffed::Certain(read(&room[..end], App::Tls))
}

fn fields(mut hello: Reader, hint: &mut Hint) -> Result<(), Stop> {
    let dtls = hint.app == App::Dtls;
    match hello.short()? {
        0x0300..=0x0304 if !dtls => {}
        0xfefd | 0xfeff if dtls => {}
        _ => return Err(Stop::Bad),
    }
    let _random = hello.take(32)?;
    let _session = hello.block(Reader::byte, 0..=32)?;
    if dtls {
        let _cookie = hello.block(Reader::byte, 0..=255)?;
    }
    let _ciphers = hello.block(Reader::short, 2..=0xfffe)?;
    let _compressions = hello.block(Reader::byte, 1..=255)?;
    if hello.left() == 0 {
        return Ok(());
    }
    if hello.short()? != hello.left() {
        return Err(Stop::Bad);
    }
    while hello.left() > 0 {
        let (kind, data) = (hello.short()?, hello.block(Reader::short, 0..=0xffff)?);
        extension(kind, data, hint);
    }
    Ok(())
}

fn extension(kind: usize, data: &[u8], hint: &mut Hint) {
    let data = Reader { bytes: data, missing: 0 };
    match kind {
        SERVER_NAME => {
            let asked = server_name(data).ok();
            hint.name = asked.and_then(Name::new);
            hint.odd = asked.and_then(Odd::new);
        }
        ALPN => hint.alpn = alpn(data).unwrap_or_default(),
        ENCRYPTED_CLIENT_HELLO => hint.outer = data.bytes.first() == Some(&0),
        _ => {}
    }
}

/// The first of the names that is a host's; there is no other kind (RFC 6066, section 3).
fn server_name<'a>(mut data: Reader<'a>) -> Result<&'a [u8], Stop> {
    let mut list = data.list()?;
    match list.byte()? {
        0 => list.block(Reader::short, 1..=0xffff),
        _ => Err(Stop::Bad),
    }
}

fn alpn(mut data: Reader) -> Result<Alpn, Stop> {
    let mut list = data.list()?;
    let mut alpn = Alpn::default();
    while list.left() > 0 {
        alpn = alpn.with(list.block(Reader::byte, 1..=255)?);
    }
    Ok(alpn)
}

/// Reads fields one after the other.
struct Reader<'a> {
    bytes: &'a [u8],
    /// How many more bytes there will be.
    missing: usize,
}

/// Why a field cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// It lies behind the bytes that are there.
    Cut,
    /// It contradicts what is around it.
    Bad,
}

impl<'a> Reader<'a> {
    fn left(&self) -> usize {
        self.bytes.len() + self.missing
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        match self.bytes.split_at_checked(count) {
            Some((taken, rest)) => {
                self.bytes = rest;
                Ok(taken)
            }
            None if count <= self.left() => Err(Stop::Cut),
            None => Err(Stop::Bad),
        }
    }

    fn byte(&mut self) -> Result<usize, Stop> {
        Ok(self.take(1)?.iter().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    fn short(&mut self) -> Result<usize, Stop> {
        Ok(self.take(2)?.iter().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    /// Bytes behind their number, which must be one of `fit`.
    fn block(
        &mut self,
        number: fn(&mut Self) -> Result<usize, Stop>,
        fit: std::ops::RangeInclusive<usize>,
    ) -> Result<&'a [u8], Stop> {
        let length = number(self)?;
        if fit.contains(&length) { self.take(length) } else { Err(Stop::Bad) }
    }

    fn list(&mut self) -> Result<Reader<'a>, Stop> {
        Ok(Reader { bytes: self.block(Reader::short, 0..=0xffff)?, missing: 0 })
    }
}

/// ClientHellos for tests.
#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    /// What is in a ClientHello; the default has no extensions at all.
    #[derive(Debug, Clone, Default)]
    pub struct Sample {
        pub dtls: bool,
        pub extensions: Vec<(u16, Vec<u8>)>,
    }

    impl Sample {
        pub fn name(self, name: &[u8]) -> Sample {
            let entry = [&[0], &short(name)[..]].concat();
            self.extension(SERVER_NAME, &short(&entry))
        }

        pub fn alpn(self, ids: &[&str]) -> Sample {
            let list: Vec<u8> =
                ids.iter().flat_map(|id| [&[id.len() as u8], id.as_bytes()].concat()).collect();
            self.extension(ALPN, &short(&list))
        }

        pub fn ech(self, kind: u8) -> Sample {
            self.extension(ENCRYPTED_CLIENT_HELLO, &[&[kind], &[7; 60][..]].concat())
        }

        /// As a post-quantum key share does it.
        pub fn large(self) -> Sample {
            self.extension(51, &[9; 1220])
        }

        pub fn extension(mut self, kind: usize, data: &[u8]) -> Sample {
            self.extensions.push((kind as u16, data.to_vec()));
            self
        }

        /// What stands in the handshake message.
        pub fn body(&self) -> Vec<u8> {
            let mut body = if self.dtls { vec![0xfe, 0xfd] } else { vec![3, 3] };
            body.extend([0x55; 32]);
            body.extend([4, 1, 2, 3, 4]);
            if self.dtls {
                body.extend([2, 8, 8]);
            }
            body.extend([0, 4, 0x13, 1, 0x13, 2, 1, 0]);
            if !self.extensions.is_empty() {
                let all = self.extensions.iter();
                let all: Vec<u8> =
                    all.flat_map(|(kind, data)| [&kind.to_be_bytes()[..], &short(data)].concat()).collect();
                body.extend(short(&all));
            }
            body
        }

        /// The handshake message.
        pub fn handshake(&self) -> Vec<u8> {
            let body = self.body();
            [&[CLIENT_HELLO], &(body.len() as u32).to_be_bytes()[1..], &body].concat()
        }

        /// The handshake message in records of at most `size` bytes.
        pub fn records(&self, size: usize) -> Vec<u8> {
            let records = self.handshake();
            records.chunks(size).flat_map(|part| [&[HANDSHAKE, 3, 1], &short(part)[..]].concat()).collect()
        }
    }

    /// Bytes behind their number, in two bytes.
    pub fn short(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::samples::{Sample, short};
    use super::*;

    fn usual() -> Sample {
        Sample::default().large().name(b"www.Example.org").extension(43, &[2, 3, 4]).alpn(&["h2", "http/1.1"])
    }

    fn hint() -> Hint<'static> {
        let alpn = Alpn::default().with(b"h2").with(b"http/1.1");
        Hint { alpn, ..Hint::named(App::Tls, Name::new(b"www.example.org")) }
    }

    #[test]
    fn a_hello_tells_its_name_and_its_protocols() {
        assert_eq!(sniff(&usual().records(RECORD)), Sniffed::Certain(hint()));
    }

    #[test]
    fn a_hello_without_extensions_is_tls_without_a_name() {
        let bytes = Sample::default().records(RECORD);
        assert_eq!(sniff(&bytes), Sniffed::Certain(Hint::of(App::Tls)));
        assert_eq!(sniff(&bytes[..bytes.len() - 1]), Sniffed::NeedMore);
    }

    #[test]
    fn an_encrypted_hello_makes_the_name_an_outer_one() {
        for (kind, outer) in [(0, true), (1, false)] {
            let bytes = usual().ech(kind).records(RECORD);
            assert_eq!(sniff(&bytes), Sniffed::Certain(Hint { outer, ..hint() }));
        }
    }

    #[test]
    fn what_stands_in_place_of_a_name_is_told_as_such() {
        for text in ["192.0.2.1", "2001:db8::1", "a b"] {
            let bytes = Sample::default().name(text.as_bytes()).records(RECORD);
            let odd = Odd::new(text.as_bytes());
            assert!(odd.is_some());
            assert_eq!(sniff(&bytes), Sniffed::Certain(Hint { odd, ..Hint::of(App::Tls) }));
        }
    }

    #[test]
    fn a_name_that_is_no_hosts_is_none() {
        for name in [&b""[..], b"a b", b"\0"] {
            let bytes = Sample::default().name(name).records(RECORD);
            let hint = Hint { odd: Odd::new(name), ..Hint::of(App::Tls) };
            assert_eq!(sniff(&bytes), Sniffed::Certain(hint), "{name:?}");
        }
        for data in [&b""[..], &[0], &[0, 0], &[0, 9, 0], &short(&[1, 0, 1, b'a']), &short(&[0, 0, 9, b'a'])]
        {
            let bytes = Sample::default().extension(SERVER_NAME, data).records(RECORD);
            assert_eq!(sniff(&bytes), Sniffed::Certain(Hint::of(App::Tls)), "{data:?}");
        }
    }

    #[test]
    fn a_hello_is_put_together_from_records_of_any_size() {
        for size in [1, 2, 3, 4, 5, 50, 1000] {
            let mut bytes = usual().records(size);
            assert_eq!(sniff(&bytes), Sniffed::Certain(hint()), "{size}");
            bytes.extend([20, 3, 3, 0, 1, 1, 23, 3]);
            assert_eq!(sniff(&bytes), Sniffed::Certain(hint()), "{size} and early data");
        }
    }

    #[test]
    fn a_record_of_another_kind_within_a_hello_is_not_tls() {
        let mut bytes = Sample::default().name(b"a.example").records(40);
        bytes[45] = 23;
        assert_eq!(sniff(&bytes), Sniffed::NotMine);
    }

    #[test]
    fn a_hello_cut_anywhere_waits_for_more_until_name_and_protocols_are_there() {
        for size in [7, 300, RECORD] {
            let bytes = usual().ech(0).records(size);
            let needed = bytes.len() - 65 - 65 / size * 5 - 5;
            for cut in 0..bytes.len() {
                match sniff(&bytes[..cut]) {
                    Sniffed::NeedMore => {}
                    answer => {
                        assert_eq!(answer, Sniffed::Certain(hint()));
                        assert!(cut >= needed, "{cut} of {}", bytes.len());
                    }
                }
            }
            assert_eq!(sniff(&bytes[..bytes.len() - 1]), Sniffed::Certain(hint()));
        }
    }

    #[test]
    fn a_cut_hello_with_a_name_alone_waits_for_its_end() {
        let bytes = Sample::default().name(b"a.example").large().records(RECORD);
        for cut in 0..bytes.len() {
            assert_eq!(sniff(&bytes[..cut]), Sniffed::NeedMore);
        }
    }

    #[test]
    fn what_cannot_be_a_client_hello_is_not_tls() {
        let version_2 = [0x80, 0x2e, 1, 0, 2, 0, 0x15];
        let server_hello = [22, 3, 3, 0, 90, 2];
        let empty_record = [22, 3, 3, 0, 0];
        let long_record = [22, 3, 3, 0x40, 1];
        let version = [22, 3, 1, 2, 0, 1, 0, 1, 252, 4, 0];
        for bytes in [
            &version_2[..],
            &server_hello,
            &empty_record,
            &long_record,
            &version,
            b"GET / HTTP/1.1\r\n",
            &[22, 2],
        ] {
            assert_eq!(sniff(bytes), Sniffed::NotMine, "{bytes:?}");
        }
    }

    #[test]
    fn lengths_that_contradict_each_other_are_not_tls_even_before_the_end() {
        let good = usual().handshake();
        let (session, extensions) = (38, 51);
        for (at, change) in [(session, 33), (extensions, 0xff), (extensions + 1, 1)] {
            let mut bytes = good.clone();
            bytes[at] = change;
            assert_eq!(read(&bytes, App::Tls), Hello::Other, "{at}");
            assert_eq!(read(&bytes[..200], App::Tls), Hello::Other, "{at}, cut");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = sniff(&bytes);
            let _ = read(&bytes, App::Quic);
            let _ = sniff(&[&[22, 3, 1, 1, 0, 1, 0, 0, 250, 3, 3], &bytes[..]].concat());
        }

        #[test]
        fn mutated_hellos_never_panic(
            size in 1..2000_usize,
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = usual().ech(0).records(size);
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            let _ = sniff(&bytes);
        }
    }
}
