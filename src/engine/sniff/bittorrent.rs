//! BitTorrent: peers over TCP and uTP, the DHT, and trackers over UDP and HTTP (BEP 3, 5, 14, 15, 29).

use super::bytes::{after, u16_at, u32_at};
use super::{App, Hint, Sniffed};

const HANDSHAKE: &[u8] = b"\x13BitTorrent protocol";

/// Local peer discovery (BEP 14).
const LOCAL_SEARCH: &[u8] = b"BT-SEARCH * HTTP/1.1\r\n";

/// What is first in a message of the DHT: what a query asks, what an answer says, an error. Before it a node
/// may tell another its address and port (BEP 42).
const DHT: [&[u8]; 2] = [b"1:ad", b"1:rd"];
const DHT_ERROR: &[u8] = b"1:eli20";
const DHT_ADDRESS: [(&[u8], usize); 2] = [(b"2:ip6:", 6), (b"2:ip18:", 18)];

/// Every query and every answer says whose it is; keys of a dictionary are sorted, and few come before this one.
const DHT_NODE: &[u8] = b"2:id20:";
const BEFORE_NODE: usize = 4;

/// Digits in the length of a text that is read over, or in a number.
const DIGITS: usize = 10;

/// BEP 15: the protocol's number and the action "connect".
const TRACKER_CONNECT: [u8; 12] = [0, 0, 0x04, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0];
const TRACKER_CONNECT_LENGTH: usize = 16;

/// Type ST_SYN and version 1 (BEP 29).
const UTP_SYN: u8 = 0x41;
const UTP_HEADER: usize = 20;

/// Extensions that follow a uTP header, at most.
const UTP_EXTENSIONS: usize = 4;

/// Whether a stream is one between peers.
#[must_use]
pub fn sniff_stream(stream: &[u8]) -> Sniffed<Hint<'_>> {
    after(stream, &[HANDSHAKE]).map(|_| Hint::of(App::Bittorrent))
}

/// Whether a datagram is for a peer, the DHT or a tracker.
#[must_use]
pub fn sniff(payload: &[u8]) -> Sniffed<Hint<'_>> {
    let fits = match payload.first() {
        Some(0) => payload.len() >= TRACKER_CONNECT_LENGTH && payload.starts_with(&TRACKER_CONNECT),
        Some(&UTP_SYN) => is_utp_syn(payload),
        Some(b'd') => is_dht(payload),
        Some(b'B') => payload.starts_with(LOCAL_SEARCH),
        _ => false,
    };
    if fits { Sniffed::Certain(Hint::of(App::Bittorrent)) } else { Sniffed::NotMine }
}

/// Whether an HTTP request of this target asks a tracker (BEP 3, BEP 48).
#[must_use]
pub fn asks_tracker(target: &[u8]) -> bool {
    let Some(mark) = target.iter().position(|&byte| byte == b'?') else { return false };
    let (path, query) = target.split_at_checked(mark).unwrap_or_default();
    let tracker = [&b"/announce"[..], b"/announce.php", b"/scrape", b"/scrape.php"];
    tracker.iter().any(|end| path.ends_with(end))
        && query.split(|byte| matches!(byte, b'?' | b'&')).any(|key| key.starts_with(b"info_hash="))
}

fn is_dht(payload: &[u8]) -> bool {
    let Some(entries) = payload.strip_prefix(b"d") else { return false };
    let behind_address = DHT_ADDRESS
        .iter()
        .find_map(|&(start, length)| entries.strip_prefix(start).and_then(|rest| rest.get(length..)));
    let first = behind_address.unwrap_or(entries);
    first.starts_with(DHT_ERROR)
        || DHT.iter().any(|start| first.strip_prefix(*start).is_some_and(says_whose_it_is))
}

fn says_whose_it_is(entries: &[u8]) -> bool {
    let mut rest = Some(entries);
    for _ in 0..=BEFORE_NODE {
        let Some(entry) = rest else { return false };
        if entry.starts_with(DHT_NODE) {
            return true;
        }
        rest = behind_text(entry).and_then(behind_value);
    }
    false
}

/// What follows a text or a number (BEP 3, "bencoding").
fn behind_value(value: &[u8]) -> Option<&[u8]> {
    match value.strip_prefix(b"i") {
        Some(number) => number.get(number.iter().take(DIGITS + 2).position(|&byte| byte == b'e')? + 1..),
        None => behind_text(value),
    }
}

/// What follows a text, which stands behind its length and a colon.
fn behind_text(text: &[u8]) -> Option<&[u8]> {
    let colon = text.iter().take(DIGITS + 1).position(|&byte| byte == b':')?;
    let (length, rest) = text.split_at_checked(colon)?;
    let length: usize = str::from_utf8(length).ok()?.parse().ok()?;
    rest.get(1..)?.get(length..)
}

/// The first packet of a uTP connection measured no delay yet, acknowledges nothing, and carries
/// nothing behind its extensions.
fn is_utp_syn(payload: &[u8]) -> bool {
    u32_at(payload, 8) == Some(0)
        && u32_at(payload, 12).is_some_and(|window| window > 0)
        && u16_at(payload, 18) == Some(0)
        && payload.get(1).is_some_and(|&first| utp_extensions(first, payload.get(UTP_HEADER..)) == Some(&[]))
}

/// What follows the extensions. Each says the next one's type and its own length.
fn utp_extensions(first: u8, bytes: Option<&[u8]>) -> Option<&[u8]> {
    let (mut kind, mut rest) = (first, bytes?);
    for _ in 0..UTP_EXTENSIONS {
        if kind == 0 {
            break;
        }
        let (&[next, length], after) = rest.split_first_chunk()?;
        (kind, rest) = (next, after.get(usize::from(length)..)?);
    }
    (kind == 0).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Sniffed<Hint<'static>> {
        Sniffed::Certain(Hint::of(App::Bittorrent))
    }

    fn syn(extension: u8, rest: &[u8]) -> Vec<u8> {
        let header =
            [UTP_SYN, extension, 0x12, 0x34, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0x10, 0, 0, 0x55, 0x66, 0, 0];
        [&header[..], rest].concat()
    }

    #[test]
    fn peers_greet_in_a_stream() {
        let stream = [HANDSHAKE, &[0; 48]].concat();
        assert_eq!(sniff_stream(&stream), found());
        assert_eq!(sniff_stream(&stream[..10]), Sniffed::NeedMore);
        assert_eq!(sniff_stream(b"\x13BitTorrents"), Sniffed::NotMine);
    }

    #[test]
    fn the_dht_and_trackers_are_told_by_how_they_begin() {
        for text in [
            "d1:ad2:id20:x",
            "d1:rd2:id20:x",
            "d1:eli201e",
            "d2:ip6:abcdef1:rd2:id20:x",
            "d2:ip6:abcdef1:eli201e",
            // libtorrent's, while it looks for its first nodes.
            "d1:ad2:bsi1e2:id20:x",
            "d1:ad1:x3:abc2:bsi-1e2:id20:x",
            "BT-SEARCH * HTTP/1.1\r\n",
        ] {
            assert_eq!(sniff(text.as_bytes()), found(), "{text}");
        }
        assert_eq!(sniff(&[&TRACKER_CONNECT[..], &[1, 2, 3, 4]].concat()), found());
        assert_eq!(sniff(&TRACKER_CONNECT), Sniffed::NotMine);
        for text in [
            "d2:ip6:abc",
            "d1:ad",
            "d1:ad2:bs",
            "d1:ad2:bsi1",
            "d1:ad9:x",
            "d1:ad2:bs2:id20:x",
            "d1:ad99999999999:",
        ] {
            assert_eq!(sniff(text.as_bytes()), Sniffed::NotMine, "{text}");
        }
    }

    #[test]
    fn a_utp_connection_begins_with_a_syn_and_perhaps_extensions() {
        assert_eq!(sniff(&syn(0, &[])), found());
        assert_eq!(sniff(&syn(2, &[0, 8, 0, 0, 0, 0, 0, 0, 0, 0])), found());
        assert_eq!(sniff(&syn(2, &[0, 8, 0])), Sniffed::NotMine);
        assert_eq!(sniff(&syn(0, &[1])), Sniffed::NotMine);
        assert_eq!(sniff(&syn(1, &[1, 0].repeat(9))), Sniffed::NotMine);
    }

    #[test]
    fn only_a_question_with_an_info_hash_is_for_a_tracker() {
        for target in
            ["/announce?info_hash=%aa", "/key/announce?port=1&info_hash=x", "/scrape.php?info_hash=x"]
        {
            assert!(asks_tracker(target.as_bytes()), "{target}");
        }
        for target in ["/announce", "/announce?x=info_hash=", "/a?info_hash=x", "/"] {
            assert!(!asks_tracker(target.as_bytes()), "{target}");
        }
    }
}
