//! Fragments of IP packets, put together again (RFC 791, section 3.2; RFC 8200, section 4.5).
//!
//! Only so many packets wait for the rest of themselves, and only for so long: then their first
//! fragment stands for them, which has the ports and the beginning of what is said.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// Packets that wait for their fragments; with more, the one that waits longest is given up.
const PACKETS: usize = 64;

/// Fragments of one packet: as many as the longest packet has on a link that takes the least
/// (RFC 791: 576 bytes, so 552 in each).
const PARTS: usize = 128;

/// Bytes in the longest packet behind its header.
const LONGEST: usize = 65_535;

/// How long a packet waits for its fragments (RFC 8200, section 4.5).
const PATIENCE: Duration = Duration::from_secs(60);

/// Extension headers that are read over before the fragment header: hop-by-hop options, routing,
/// destination options (RFC 8200, section 4.1).
const BEFORE: [u8; 3] = [0, 43, 60];
const MOST_BEFORE: usize = 8;

/// The fragment header, and its length.
const FRAGMENT: u8 = 44;
const FRAGMENT_HEADER: usize = 8;

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;

/// Packets that are not whole yet.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    /// The one that began first is in front.
    waiting: VecDeque<Waiting>,
}

/// A packet that is given up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GivenUp {
    /// When its first one came.
    pub began: Duration,
    /// Its first fragment, as it was captured.
    pub first: Option<Vec<u8>>,
    /// How many others it has.
    pub others: u64,
}

/// A packet of which some fragments have come.
#[derive(Debug)]
struct Waiting {
    id: Id,
    began: Duration,
    /// What stands before the data of a whole packet, and the first fragment.
    head: Option<(Head, Vec<u8>)>,
    /// By their places; none touches bytes of another.
    parts: BTreeMap<usize, Vec<u8>>,
    /// Bytes in all of them.
    bytes: usize,
    /// Bytes there will be, once the last one has come.
    length: Option<usize>,
}

/// What all fragments of one packet share. IPv6 tells by the addresses and the number alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id {
    src: IpAddr,
    dst: IpAddr,
    protocol: Option<u8>,
    number: u32,
}

/// One fragment.
#[derive(Debug, PartialEq, Eq)]
struct Part<'a> {
    id: Id,
    head: Head,
    at: usize,
    is_last: bool,
    data: &'a [u8],
}

/// The header of a packet that is whole, but for its length.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Head(Vec<u8>);

impl Fragments {
    /// Takes a fragment, from its IP header on; the whole packet, if it was the last that was missing.
    pub(super) fn add(&mut self, packet: &[u8], at: Duration) -> Option<Vec<u8>> {
        let part = part(packet)?;
        let place = self.place_of(part.id, at);
        let waiting = self.waiting.get_mut(place)?;
        if !waiting.take(part, packet) {
            self.waiting.remove(place);
            return None;
        }
        waiting.is_whole().then(|| self.waiting.remove(place)?.together()).flatten()
    }

    /// The packet that has waited too long, or for which there is no room; to be asked after each fragment.
    pub(super) fn give_up(&mut self, now: Duration) -> Option<GivenUp> {
        let is_over = |waiting: &Waiting| now.saturating_sub(waiting.began) > PATIENCE;
        let crowded = self.waiting.len() > PACKETS;
        self.waiting.pop_front_if(|oldest| crowded || is_over(oldest)).map(Waiting::given_up)
    }

    /// All that still wait.
    pub(super) fn give_all_up(&mut self) -> impl Iterator<Item = GivenUp> {
        self.waiting.drain(..).map(Waiting::given_up)
    }

    fn place_of(&mut self, id: Id, at: Duration) -> usize {
        self.waiting.iter().position(|waiting| waiting.id == id).unwrap_or_else(|| {
            self.waiting.push_back(Waiting::new(id, at));
            self.waiting.len() - 1
        })
    }
}

impl Waiting {
    fn new(id: Id, began: Duration) -> Self {
        Waiting { id, began, head: None, parts: BTreeMap::new(), bytes: 0, length: None }
    }

    /// False for one that contradicts the others: then all are void (RFC 5722). One that has come before
    /// says nothing new.
    fn take(&mut self, part: Part<'_>, packet: &[u8]) -> bool {
        let end = part.at + part.data.len();
        if self.parts.get(&part.at).is_some_and(|known| known[..] == *part.data) {
            return true;
        }
        let begun = self.parts.range(..end).next_back().map_or(0, |(at, data)| at + data.len());
        let goes_on = part.is_last && self.parts.range(end..).next().is_some();
        let ends_before = goes_on || self.length.is_some_and(|length| end > length || part.is_last);
        let is_odd = part.data.is_empty() || !(part.is_last || end.is_multiple_of(8));
        if begun > part.at || ends_before || is_odd || end > LONGEST || self.parts.len() == PARTS {
            return false;
        }
        if part.is_last {
            self.length = Some(end);
        }
        if part.at == 0 {
            self.head = Some((part.head, packet.to_vec()));
        }
        self.bytes += part.data.len();
        self.parts.insert(part.at, part.data.to_vec());
        true
    }

    fn is_whole(&self) -> bool {
        self.length == Some(self.bytes)
    }

    fn together(self) -> Option<Vec<u8>> {
        let (head, _) = self.head?;
        head.before(self.parts.into_values().flatten().collect())
    }

    fn given_up(self) -> GivenUp {
        let (count, first) = (self.parts.len() as u64, self.head.map(|(_, first)| first));
        GivenUp { began: self.began, others: count - u64::from(first.is_some()), first }
    }
}

impl Head {
    /// IPv4's total length counts its header, IPv6's payload length what stands behind the first 40 bytes.
    fn before(self, data: Vec<u8>) -> Option<Vec<u8>> {
        let Head(mut packet) = self;
        let is_v4 = packet.first()? >> 4 == 4;
        let (place, uncounted) = if is_v4 { (2..4, 0) } else { (4..6, V6_HEADER) };
        packet.extend(data);
        let length = u16::try_from(packet.len().checked_sub(uncounted)?).ok()?;
        packet.get_mut(place)?.copy_from_slice(&length.to_be_bytes());
        Some(packet)
    }
}

fn part(packet: &[u8]) -> Option<Part<'_>> {
    match packet.first()? >> 4 {
        4 => part_v4(packet),
        6 => part_v6(packet),
        _ => None,
    }
}

fn part_v4(packet: &[u8]) -> Option<Part<'_>> {
    let fixed = packet.first_chunk::<V4_HEADER>()?;
    let header = usize::from(fixed[0] & 0x0f) * 4;
    let length = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let word = u16::from_be_bytes([fixed[6], fixed[7]]);
    let mut head = packet.get(..header.max(V4_HEADER))?.to_vec();
    head[6..8].fill(0);
    let [_, _, _, _, _, _, _, _, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *fixed;
    Some(Part {
        id: Id {
            src: [s0, s1, s2, s3].into(),
            dst: [d0, d1, d2, d3].into(),
            protocol: Some(protocol),
            number: u16::from_be_bytes([fixed[4], fixed[5]]).into(),
        },
        at: usize::from(word & 0x1fff) * 8,
        is_last: word & 0x2000 == 0,
        data: packet.get(head.len()..length)?,
        head: Head(head),
    })
}

fn part_v6(packet: &[u8]) -> Option<Part<'_>> {
    let fixed = packet.first_chunk::<V6_HEADER>()?;
    let length = V6_HEADER + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let (kind_at, header) = fragment_header(packet)?;
    let (&[next, _, high, low, n0, n1, n2, n3], _) =
        packet.get(header..)?.split_first_chunk::<FRAGMENT_HEADER>()?;
    let word = u16::from_be_bytes([high, low]);
    let mut head = packet.get(..header)?.to_vec();
    *head.get_mut(kind_at)? = next;
    Some(Part {
        id: Id {
            src: <[u8; 16]>::try_from(&fixed[8..24]).ok()?.into(),
            dst: <[u8; 16]>::try_from(&fixed[24..40]).ok()?.into(),
            protocol: None,
            number: u32::from_be_bytes([n0, n1, n2, n3]),
        },
        head: Head(head),
        at: usize::from(word & 0xfff8),
        is_last: word & 1 == 0,
        data: packet.get(header + FRAGMENT_HEADER..length)?,
    })
}

/// Where the byte stands that announces the fragment header, and where that begins.
fn fragment_header(packet: &[u8]) -> Option<(usize, usize)> {
    let (mut kind_at, mut at) = (6, V6_HEADER);
    for _ in 0..MOST_BEFORE {
        match *packet.get(kind_at)? {
            FRAGMENT => return Some((kind_at, at)),
            kind if BEFORE.contains(&kind) => {
                let length = 8 * (usize::from(*packet.get(at + 1)?) + 1);
                (kind_at, at) = (at, at + length);
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use etherparse::ip_number::IPV6_DEST_OPTIONS;
    use proptest::prelude::*;

    use super::*;
    use crate::engine::packet::samples::Builder;
    use crate::engine::packet::{Family, Fragment, parse};

    const UDP: u8 = 17;
    const NOW: Duration = Duration::from_secs(1_700_000_000);

    /// A datagram's bytes behind the IP header, cut into so many fragments.
    fn cut(family: Family, data: &[u8], pieces: usize) -> Vec<Vec<u8>> {
        let size = data.len().div_ceil(pieces).next_multiple_of(8);
        let last = data.len().div_ceil(size) - 1;
        let piece = |(number, bytes): (usize, &[u8])| {
            let at = (number * size / 8) as u16;
            Builder::new(family)
                .extension(IPV6_DEST_OPTIONS, &[0; 16])
                .fragment(at, number < last)
                .payload(UDP, bytes)
                .build()
        };
        data.chunks(size).enumerate().map(piece).collect()
    }

    fn datagram(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at / 3) as u8).collect()
    }

    #[test]
    fn fragments_in_any_order_and_twice_make_the_packet_that_was_cut() {
        for family in Family::BOTH {
            let data = datagram(3001);
            let whole =
                Builder::new(family).extension(IPV6_DEST_OPTIONS, &[0; 16]).payload(UDP, &data).build();
            let parts = cut(family, &data, 3);
            for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
                let mut fragments = Fragments::default();
                assert_eq!(fragments.add(&parts[order[0]], NOW), None);
                assert_eq!(fragments.add(&parts[order[0]], NOW), None, "the same again");
                assert_eq!(fragments.add(&parts[order[1]], NOW), None);
                let together = fragments.add(&parts[order[2]], NOW).expect("a whole packet");
                let (found, wanted) = (parse(&together).unwrap(), parse(&whole).unwrap());
                assert_eq!(found, wanted, "{family} {order:?}");
                assert_eq!((found.fragment, found.payload), (Fragment::Whole, &data[..]));
                assert!(fragments.waiting.is_empty());
            }
        }
    }

    #[test]
    fn fragments_that_contradict_each_other_make_nothing() {
        for family in Family::BOTH {
            let parts = cut(family, &datagram(3001), 3);
            let mut other = parts[1].clone();
            *other.last_mut().unwrap() ^= 1;
            let longer = &cut(family, &datagram(4001), 3)[2];
            for wrong in [&other, longer] {
                let mut fragments = Fragments::default();
                parts[1..].iter().for_each(|part| assert_eq!(fragments.add(part, NOW), None));
                assert_eq!(fragments.add(wrong, NOW), None);
                assert!(fragments.waiting.is_empty(), "{family}");
            }
            let mut fragments = Fragments::default();
            let ends_early = &cut(family, &datagram(1200), 3)[2];
            assert_eq!(fragments.add(&parts[2], NOW), None);
            assert_eq!(fragments.add(ends_early, NOW), None);
            assert!(fragments.waiting.is_empty(), "{family}: one lies behind the end");
        }
    }

    #[test]
    fn a_packet_whose_rest_does_not_come_is_given_up_with_its_first_fragment() {
        for family in Family::BOTH {
            let parts = cut(family, &datagram(3001), 3);
            let mut fragments = Fragments::default();
            fragments.add(&parts[1], NOW);
            fragments.add(&parts[0], NOW);
            assert_eq!(fragments.give_up(NOW + PATIENCE), None);
            let given_up = GivenUp { began: NOW, first: Some(parts[0].clone()), others: 1 };
            assert_eq!(fragments.give_up(NOW + PATIENCE + Duration::from_millis(1)), Some(given_up));
            assert_eq!(fragments.give_all_up().count(), 0);
        }
    }

    #[test]
    fn no_more_packets_wait_than_there_is_room_for() {
        let mut fragments = Fragments::default();
        let mut given_up = 0;
        for number in 0..1000_u16 {
            let mut part = Builder::new(Family::V4).fragment(0, true).payload(UDP, &[0; 1480]).build();
            part[4..6].copy_from_slice(&number.to_be_bytes());
            assert_eq!(fragments.add(&part, NOW), None);
            given_up += fragments.give_up(NOW).iter().count();
            assert!(fragments.waiting.len() <= PACKETS);
        }
        assert_eq!(given_up, 1000 - PACKETS);
    }

    #[test]
    fn a_packet_has_a_longest_length_and_a_largest_number_of_fragments() {
        let fragment = |at| Builder::new(Family::V4).fragment(at, true).payload(UDP, &[0; 8]).build();
        let mut fragments = Fragments::default();
        assert_eq!(fragments.add(&fragment(0x1fff), NOW), None);
        assert!(fragments.waiting.is_empty(), "it ends behind the longest packet's end");
        for at in 0..=PARTS as u16 {
            fragments.add(&fragment(2 * at), NOW);
        }
        assert!(fragments.waiting.is_empty(), "too many");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_keep_too_much(
            packets in proptest::collection::vec(
                (0..2_usize, 0..40_u16, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40),
                 any::<prop::sample::Index>(), any::<u8>()),
                0..200,
            ),
        ) {
            let mut fragments = Fragments::default();
            for (family, at, more, data, place, byte) in packets {
                let mut packet =
                    Builder::new(Family::BOTH[family]).fragment(at, more).payload(UDP, &data).build();
                let place = place.index(packet.len());
                packet[place] = byte;
                if let Some(together) = fragments.add(&packet, NOW) {
                    prop_assert!(together.len() <= LONGEST + V6_HEADER);
                }
                let _ = fragments.give_up(NOW);
                prop_assert!(fragments.waiting.len() <= PACKETS);
            }
        }
    }
}
