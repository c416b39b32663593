//! QUIC: the name and the protocols in the ClientHello of a client's first datagrams.
//!
//! They are encrypted, but with keys that anyone can derive from the packet's own connection id
//! (RFC 9001, section 5.2): [`header`] cuts a datagram into packets, [`keys`] opens an Initial,
//! [`frames`] finds its CRYPTO data. [`google`] reads the versions that Google had before QUIC was
//! a standard; their first message is a CHLO, where others have a ClientHello.
//!
//! A ClientHello with a post-quantum key share takes two datagrams, and clients shuffle its parts
//! on purpose: [`sniff`] reads what one datagram holds, [`Assembly`] puts several together.

mod frames;
mod google;
mod header;
mod keys;

#[cfg(test)]
pub(crate) mod samples;

use super::pieces::{Pieces, Store};
use super::tls::{self, Hello};
use super::{App, Hint, Sniffed};
use header::{Initial, Packet};

/// Packets that are read in one datagram at most; clients send three.
const PACKETS: usize = 8;

/// Tells what the client wants that sends this datagram, from the datagram alone.
///
/// [`Sniffed::NeedMore`] says that it holds only a part of the ClientHello. The answer has no name
/// where the datagram is surely QUIC and the ClientHello is not to be had of it or of others: in a
/// version of which no keys are known, or in the middle of a connection. A packet with a short
/// header has nothing by which it could be known (RFC 8999, section 5.2).
#[must_use]
pub fn sniff(datagram: &[u8]) -> Sniffed<Hint<'static>> {
    // Room for a ClientHello is not made for what cannot hold one.
    if header::split(datagram).is_none() {
        return Sniffed::NotMine;
    }
    let mut crypto = Pieces::<Datagram>::default();
    match read(datagram, None, &mut crypto) {
        Stage::Other => Sniffed::NotMine,
        stage => judge(stage, crypto.contiguous()),
    }
}

/// Puts a flow's ClientHello together from the first datagrams of its client, in any order.
///
/// It keeps at most 16 KiB, gives up after [`Assembly::DATAGRAMS`], and allocates nothing
/// before a first datagram has turned out to be not enough.
#[derive(Debug, Default)]
pub struct Assembly {
    begun: Option<Box<Begun>>,
}

impl Assembly {
    /// Datagrams of a flow that are looked at; the last of them always gets a final answer.
    pub const DATAGRAMS: u8 = 8;

    /// Takes the client's next datagram and answers as [`sniff`] does, of all so far. Behind any
    /// answer but [`Sniffed::NeedMore`] there is nothing more to ask.
    pub fn push(&mut self, datagram: &[u8]) -> Sniffed<Hint<'static>> {
        match &mut self.begun {
            Some(begun) => begun.push(datagram),
            None => self.begin(datagram),
        }
    }

    /// What a part of the ClientHello has told, where that is all there will be.
    #[must_use]
    pub fn so_far(&self) -> Option<Hint<'static>> {
        let begun = self.begun.as_ref()?;
        match judge(Stage::Past, begun.crypto.contiguous()) {
            Sniffed::Certain(hint) => Some(hint),
            Sniffed::NeedMore | Sniffed::NotMine => None,
        }
    }

    fn begin(&mut self, datagram: &[u8]) -> Sniffed<Hint<'static>> {
        match (sniff(datagram), header::connection_id(datagram)) {
            (Sniffed::NeedMore, Some(first)) => self.begun.insert(Box::new(Begun::new(first))).push(datagram),
            (answer, _) => answer,
        }
    }
}

/// A flow of which a part of the ClientHello has been seen.
#[derive(Debug)]
struct Begun {
    /// The server's connection id in the first datagram: all keys come from it.
    first: header::ConnectionId,
    datagrams: u8,
    crypto: Pieces<Vec<u8>>,
}

impl Begun {
    fn new(first: header::ConnectionId) -> Self {
        Begun { first, datagrams: 0, crypto: Pieces::default() }
    }

    fn push(&mut self, datagram: &[u8]) -> Sniffed<Hint<'static>> {
        self.datagrams = self.datagrams.saturating_add(1);
        let stage = match read(datagram, Some(&self.first), &mut self.crypto) {
            _ if self.datagrams >= Assembly::DATAGRAMS => Stage::Past,
            stage => stage.max(Stage::Hello),
        };
        judge(stage, self.crypto.contiguous())
    }
}

/// How far a client is, by its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// It does not speak QUIC.
    Other,
    /// It speaks QUIC that cannot be read.
    Opaque,
    /// It is saying its ClientHello.
    Hello,
    /// It has said it, or too much else.
    Past,
}

/// The answer, from what is there of the ClientHello.
fn judge(stage: Stage, hello: &[u8]) -> Sniffed<Hint<'static>> {
    let hello = match hello.first() {
        Some(b'C') => google::chlo(hello),
        _ => tls::read(hello, App::Quic),
    };
    match hello {
        Hello::Part(_) if stage == Stage::Hello => Sniffed::NeedMore,
        Hello::Part(hint) | Hello::Whole(hint) => Sniffed::Certain(hint),
        Hello::Other => Sniffed::Certain(Hint::of(App::Quic)),
    }
}

/// Puts the CRYPTO data of a datagram to its place. `first` is the connection id in the flow's
/// first datagram, if this is not it.
fn read<S: Store>(datagram: &[u8], first: Option<&header::ConnectionId>, crypto: &mut Pieces<S>) -> Stage {
    if first.is_some() && header::is_short(datagram) {
        return Stage::Past;
    }
    let mut stage = Stage::Other;
    let mut rest = datagram;
    for _ in 0..PACKETS {
        let Some((packet, after)) = header::split(rest) else { break };
        stage = stage.max(take(&packet, first, crypto));
        rest = after;
    }
    stage
}

fn take<S: Store>(packet: &Packet, first: Option<&header::ConnectionId>, crypto: &mut Pieces<S>) -> Stage {
    match packet {
        Packet::Initial(initial) => open(initial, first, crypto),
        Packet::Clear(clear) if google::streams(clear, crypto) => Stage::Hello,
        Packet::Early => Stage::Hello,
        Packet::Clear(_) | Packet::Opaque => Stage::Opaque,
        Packet::Later => Stage::Past,
    }
}

/// The keys come from the connection id that the client chose first, although it turns to the
/// server's as soon as it knows one; but after a Retry they come from the server's (RFC 9001,
/// section 5.2).
fn open<S: Store>(initial: &Initial, first: Option<&header::ConnectionId>, crypto: &mut Pieces<S>) -> Stage {
    let mut room = [0; keys::PACKET];
    let candidates = [first.map(|id| &**id), Some(initial.connection_id)];
    for id in candidates.into_iter().flatten() {
        if let Some(payload) = keys::open(initial, id, &mut room) {
            frames::crypto(payload, crypto);
            return Stage::Hello;
        }
    }
    Stage::Opaque
}

/// CRYPTO data of one datagram, on the stack. More than that needs the heap's.
#[derive(Debug)]
struct Datagram([u8; Datagram::ROOM]);

impl Default for Datagram {
    fn default() -> Self {
        Datagram([0; Datagram::ROOM])
    }
}

impl Store for Datagram {
    const ROOM: usize = 2048;

    fn until(&mut self, end: usize) -> &mut [u8] {
        &mut self.0[..end]
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::samples::{Seal, V1, V2, ack, crypto, frames_of};
    use super::*;
    use crate::engine::sniff::tls::samples::Sample;
    use crate::engine::sniff::{Alpn, Name};

    const DRAFT_29: u32 = 0xff00_001d;

    fn hello(sample: Sample) -> Vec<u8> {
        sample.name(b"www.example.org").alpn(&["h3"]).handshake()
    }

    fn usual() -> Vec<u8> {
        hello(Sample::default())
    }

    fn large() -> Vec<u8> {
        hello(Sample::default().large().large())
    }

    fn certain() -> Sniffed<Hint<'static>> {
        let alpn = Alpn::default().with(b"h3");
        Sniffed::Certain(Hint { alpn, ..Hint::named(App::Quic, Name::new(b"www.example.org")) })
    }

    fn nameless() -> Sniffed<Hint<'static>> {
        Sniffed::Certain(Hint::of(App::Quic))
    }

    fn pushed(datagrams: &[Vec<u8>]) -> Vec<Sniffed<Hint<'static>>> {
        let mut assembly = Assembly::default();
        datagrams.iter().map(|datagram| assembly.push(datagram)).collect()
    }

    #[test]
    fn one_datagram_tells_name_and_protocols_in_every_version_with_keys() {
        let drafts = 0xff00_0016..=0xff00_0022;
        let others = [V1, V2, 0x709a_50c4, 0xff02_0000, 0xface_b001, 0xface_b002, 0xface_b003, 0xface_b00e];
        for version in drafts.chain(others) {
            let bytes = Seal::new(version).datagram(&crypto(0, &usual()));
            assert_eq!(sniff(&bytes), certain(), "{version:x}");
            assert_eq!(pushed(&[bytes]), [certain()], "{version:x}");
        }
    }

    #[test]
    fn a_version_that_asks_for_a_negotiation_has_the_keys_of_a_usual_one() {
        for (salt, version) in [(0, 0x1a2a_3a4a), (1, 0xfafa_fafa)] {
            let seal = Seal { salt, ..Seal::new(version) };
            assert_eq!(sniff(&seal.datagram(&crypto(0, &usual()))), certain());
            assert_eq!(
                sniff(&seal.packet(&crypto(0, &usual()))),
                Sniffed::NotMine,
                "too short to begin with"
            );
        }
    }

    #[test]
    fn googles_tls_versions_have_crypto_frames_of_their_own() {
        for version in [*b"T050", *b"T051"] {
            let mut frame = crypto(0, &usual());
            frame[0] = 8;
            let bytes = Seal::new(u32::from_be_bytes(version)).datagram(&frame);
            assert_eq!(sniff(&bytes), certain());
        }
    }

    #[test]
    fn tokens_packet_numbers_and_frames_around_the_hello_do_not_matter() {
        let frames = [&[1, 0, 0, 1][..], &ack(300), &crypto(0, &usual()), &[1, 0]].concat();
        for length in 1..=4 {
            let seal = Seal { token: vec![9; 70], number: 200, number_length: length, ..Seal::new(V1) };
            assert_eq!(sniff(&seal.datagram(&frames)), certain());
        }
    }

    #[test]
    fn a_hello_over_two_datagrams_is_put_together_in_any_order() {
        let hello = large();
        let seal = Seal::new(V1);
        let one = seal.datagram(&crypto(0, &hello[..1100]));
        let two = Seal { number: 1, ..seal }.datagram(&crypto(1100, &hello[1100..]));
        assert_eq!(sniff(&one), Sniffed::NeedMore);
        assert_eq!(sniff(&two), Sniffed::NeedMore);
        assert_eq!(pushed(&[one.clone(), one.clone(), two.clone()])[1..], [Sniffed::NeedMore, certain()]);
        assert_eq!(pushed(&[two, one]), [Sniffed::NeedMore, certain()]);
    }

    #[test]
    fn a_hello_over_coalesced_packets_is_put_together_at_once() {
        let hello = large();
        let seal = Seal::new(V1);
        let one = seal.packet(&crypto(0, &hello[..1100]));
        let two = Seal { number: 1, ..seal }.packet(&crypto(1100, &hello[1100..]));
        let datagram = [one, two].concat();
        assert!(hello.len() > Datagram::ROOM);
        assert_eq!(sniff(&datagram), Sniffed::NeedMore);
        assert_eq!(pushed(&[datagram]), [certain()]);
    }

    #[test]
    fn keys_come_from_the_first_connection_id_or_after_a_retry_from_the_new_one() {
        let hello = large();
        let seal = Seal::new(V1);
        let one = seal.datagram(&crypto(0, &hello[..1100]));
        let rest = crypto(1100, &hello[1100..]);
        let turned = Seal { number: 1, id: vec![5; 20], ..seal.clone() };
        let retried = Seal { keys_of: turned.id.clone(), token: vec![1; 40], ..turned.clone() };
        assert_eq!(pushed(&[one.clone(), turned.datagram(&rest)])[1], certain());
        assert_eq!(pushed(&[one, retried.datagram(&rest)])[1], certain());
    }

    #[test]
    fn quic_that_cannot_be_read_has_no_name() {
        let mut wrong_key = Seal::new(V1).datagram(&crypto(0, &usual()));
        wrong_key[100] ^= 1;
        let unknown = [0x1a2a_3a4a, 0xff00_0010, 0xface_b0ff, 0x5130_3439].map(|version: u32| {
            let mut bytes = Seal::new(V1).datagram(&crypto(0, &usual()));
            bytes[1..5].copy_from_slice(&version.to_be_bytes());
            bytes
        });
        for bytes in [vec![wrong_key], unknown.to_vec()].concat() {
            assert_eq!(sniff(&bytes), nameless(), "{:x?}", &bytes[..6]);
        }
    }

    #[test]
    fn a_flow_whose_handshake_has_gone_on_gets_an_answer_without_a_name() {
        let one = Seal::new(V1).datagram(&crypto(0, &large()[..1100]));
        let handshake = [&Seal::new(V1).header(2, 30)[..], &[7; 30]].concat();
        let short = vec![0x41; 40];
        for next in [handshake.clone(), short] {
            assert_eq!(pushed(&[one.clone(), next]), [Sniffed::NeedMore, nameless()]);
        }
        assert_eq!(sniff(&handshake), nameless());
    }

    #[test]
    fn early_data_before_the_end_of_a_hello_is_passed_over() {
        let hello = large();
        let one = Seal::new(V1).datagram(&crypto(0, &hello[..1100]));
        let zero_rtt = [&Seal::new(V1).header(1, 30)[..], &[7; 30]].concat();
        let two = Seal { number: 1, ..Seal::new(V1) }.datagram(&crypto(1100, &hello[1100..]));
        assert_eq!(
            pushed(&[one.clone(), zero_rtt.clone(), two.clone()])[1..],
            [Sniffed::NeedMore, certain()]
        );
        let waits = Sniffed::NeedMore;
        assert_eq!(pushed(&[zero_rtt, one, two]), [waits, waits, certain()], "it has overtaken the hello");
    }

    #[test]
    fn a_cut_hello_tells_what_is_there_of_it() {
        let hello = Sample::default().name(b"www.example.org").large().alpn(&["h3"]).handshake();
        let mut assembly = Assembly::default();
        assert_eq!(assembly.so_far(), None);
        assert_eq!(assembly.push(&Seal::new(V1).datagram(&crypto(0, &hello[..900]))), Sniffed::NeedMore);
        let name = Name::new(b"www.example.org");
        assert_eq!(assembly.so_far(), Some(Hint::named(App::Quic, name)));
    }

    #[test]
    fn a_hello_that_does_not_end_gets_an_answer_after_eight_datagrams() {
        let one = Seal::new(V1).datagram(&crypto(0, &large()[..1100]));
        let answers = pushed(&vec![one; 8]);
        assert!(answers[..7].iter().all(|answer| *answer == Sniffed::NeedMore));
        assert_eq!(answers[7], nameless());
    }

    #[test]
    fn what_is_not_quic_is_not_mine() {
        let mut unlike = Seal::new(V1).datagram(&crypto(0, &usual()));
        unlike[1..5].copy_from_slice(b"abcd");
        let mut negotiation = unlike.clone();
        negotiation[1..5].fill(0);
        let dns_query = [&[0x9a, 0xff, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1][..], b"a\0\0\x01\0\x01"].concat();
        let mut short = unlike[..1199].to_vec();
        short[1..5].copy_from_slice(&[0x1a, 0x2a, 0x3a, 0x4a]);
        let mut long_id = Seal::new(V1).datagram(&crypto(0, &usual()));
        long_id[5] = 21;
        for bytes in [
            vec![],
            vec![0xc0],
            vec![0xc0, 0, 0, 0, 1],
            vec![0x41; 1200],
            unlike,
            negotiation,
            dns_query,
            short,
            long_id,
        ] {
            assert_eq!(sniff(&bytes), Sniffed::NotMine);
        }
    }

    #[test]
    fn a_datagram_cut_anywhere_has_no_wrong_name() {
        let bytes = Seal::new(DRAFT_29).datagram(&crypto(0, &usual()));
        for cut in 0..bytes.len() {
            assert_eq!(sniff(&bytes[..cut]), Sniffed::NotMine);
        }
    }

    proptest! {
        #[test]
        fn frames_cut_and_shuffled_at_random_give_the_same_name(
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
            (order, split) in (Just((0..13).collect::<Vec<_>>()).prop_shuffle(), 0..14_usize),
            again in any::<prop::sample::Index>(),
        ) {
            let hello = hello(Sample::default().large());
            let cuts: Vec<_> = cuts.iter().map(|cut| cut.index(hello.len())).collect();
            let frames = frames_of(&hello, &cuts, &order);
            let (one, two) = frames.split_at(split.min(frames.len()));
            let datagrams = [one, &[again.get(&frames).clone()], two];
            let datagrams = datagrams.map(|frames| Seal::new(V1).datagram(&frames.concat()));
            let first = pushed(&datagrams).into_iter().find(|answer| *answer != Sniffed::NeedMore);
            prop_assert_eq!(first, Some(certain()));
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), version in 0..6_usize) {
            let version = [V1, V2, DRAFT_29, u32::from_be_bytes(*b"Q050"), u32::from_be_bytes(*b"Q046"), 0][version];
            let _ = sniff(&bytes);
            let _ = pushed(&[[&[0xc0], &version.to_be_bytes()[..], &bytes].concat()]);
            let _ = pushed(&[[&[9, 1, 2, 3, 4, 5, 6, 7, 8], &b"Q043"[..], &bytes].concat()]);
            let _ = pushed(&[Seal::new(V1).datagram(&bytes), Seal::new(V2).datagram(&bytes)]);
        }

        #[test]
        fn mutated_datagrams_never_panic_and_have_no_wrong_name(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let mut bytes = Seal::new(V1).datagram(&crypto(0, &usual()));
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            // One that became 0-RTT says that a handshake begins, and waits for its Initial.
            let fair = [certain(), nameless(), Sniffed::NotMine, Sniffed::NeedMore];
            let sniffed = sniff(&bytes);
            prop_assert!(fair.contains(&sniffed), "{sniffed:?}");
        }
    }
}
