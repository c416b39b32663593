//! Databases in MaxMind's format (<https://maxmind.github.io/MaxMind-DB/>, version 2.0) → [`Places`].
//!
//! A binary tree over the bits of addresses, whose leaves point at records; the tree's size stands in a map
//! at the end of the file. All of it is read once. A file can describe far more than it holds (nodes that
//! lead to each other, records in records), so visits are counted: of nodes, because each is part of one net
//! or of none, and of values.

use std::collections::HashMap;

use crate::engine::geo::{Asn, Country, Places, Ranges};

/// What the map at the end begins with.
const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";
/// The map begins within so many bytes of the end.
const LARGEST_METADATA: usize = 128 << 10;
/// In the tree of IPv6, addresses of IPv4 stand below so many zeros.
const V4_AT: u32 = 96;
/// Zeros between the tree and the records.
const SEPARATOR: usize = 16;
/// Values that a reading may visit; the largest databases that are published have some ten millions.
const MOST_VALUES: u32 = 1 << 27;
/// Maps and lists within each other.
const DEEPEST: u32 = 32;

/// The country of each address: MaxMind's and DB-IP's keys, and those of others.
pub(super) fn countries(bytes: &[u8]) -> Result<Places<Country>, Unusable> {
    let keys: [&[&str]; 3] = [&["country", "iso_code"], &["country_code"], &["country"]];
    Database::open(bytes)?.places(&keys, "countries", |records, at| records.text(at).and_then(Country::new))
}

/// The autonomous system of each address.
pub(super) fn systems(bytes: &[u8]) -> Result<Places<Asn>, Unusable> {
    let keys: [&[&str]; 2] = [&["autonomous_system_number"], &["asn"]];
    Database::open(bytes)?.places(&keys, "autonomous systems", |records, at| match records.number(at) {
        Some(number) => Asn::parse(&number.to_string()),
        None => Asn::parse(str::from_utf8(records.text(at)?).ok()?),
    })
}

/// Why a database cannot be used, in words that fit after a colon.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unusable(pub(super) String);

impl From<Damaged> for Unusable {
    fn from(_: Damaged) -> Self {
        Unusable("it is damaged".to_owned())
    }
}

/// These bytes do not say what the format lets them say.
#[derive(Debug)]
struct Damaged;

/// A database, opened.
struct Database<'a> {
    tree: &'a [u8],
    nodes: u32,
    /// Bytes of a node: two links of 24, 28 or 32 bits.
    node: usize,
    is_v6: bool,
    /// Visits of nodes that are left: the way to IPv4's, and one of each for either family.
    visits: u64,
    records: Records<'a>,
}

/// Where a link of a node leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    Node(u32),
    Nothing,
    /// To a record, by its place.
    Record(usize),
}

impl<'a> Database<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, Unusable> {
        let end = bytes.len().saturating_sub(LARGEST_METADATA);
        let tail = bytes.get(end..).unwrap_or_default();
        let marker = tail.windows(MARKER.len()).rposition(|window| window == MARKER);
        let Some(marker) = marker else { return Err(Unusable("it is none in MaxMind's format".to_owned())) };
        let (body, metadata) = bytes.split_at(end + marker);
        let mut metadata = Records::new(metadata.get(MARKER.len()..).unwrap_or_default());
        let mut number = |key| Ok::<_, Damaged>(metadata.field(0, key)?.and_then(|at| metadata.number(at)));
        let (nodes, bits, version) = (number("node_count")?, number("record_size")?, number("ip_version")?);
        let node = match bits {
            Some(bits @ (24 | 28 | 32)) => bits as usize / 4,
            _ => return Err(Damaged.into()),
        };
        let nodes =
            nodes.and_then(|nodes| u32::try_from(nodes).ok()).filter(|&nodes| nodes > 0).ok_or(Damaged)?;
        let length = (nodes as usize).checked_mul(node).ok_or(Damaged)?;
        let (tree, rest) = body.split_at_checked(length).ok_or(Damaged)?;
        let records = Records::new(rest.get(SEPARATOR..).ok_or(Damaged)?);
        let visits = u64::from(V4_AT) + 2 * u64::from(nodes);
        Ok(Database { tree, nodes, node, is_v6: version == Some(6), visits, records })
    }

    /// The first value that `read` finds under one of `keys` in the record of each address.
    fn places<T: Copy + PartialEq>(
        mut self,
        keys: &[&[&str]],
        what: &str,
        read: fn(&mut Records<'a>, usize) -> Option<T>,
    ) -> Result<Places<T>, Unusable> {
        let (mut v4, mut v6) = (Ranges::default(), Ranges::default());
        let mut known = HashMap::new();
        let mut value = |records: &mut Records<'a>, at: usize| match known.get(&at) {
            Some(value) => Ok(*value),
            None => {
                let value = records.first(at, keys, read)?;
                known.insert(at, value);
                Ok(value)
            }
        };
        let v4_root = if self.is_v6 { self.lowest(V4_AT)? } else { Link::Node(0) };
        let mut begin = |start, value| v4.begin(start as u32, value);
        Walk { database: &mut self, skipped: None, value: &mut value, begin: &mut begin }
            .below(v4_root, 0, 32)?;
        if self.is_v6 {
            let mut begin = |start, value| v6.begin(start, value);
            // Other prefixes lead to the tree of IPv4 too (6to4, say), which would be read for each of them.
            let skipped = Some(v4_root).filter(|root| matches!(root, Link::Node(_)));
            let mut walk = Walk { database: &mut self, skipped, value: &mut value, begin: &mut begin };
            walk.below(Link::Node(0), 0, 128)?;
        }
        let places = Places { v4: v4.finished(), v6: v6.finished() };
        if places.values().next().is_none() {
            return Err(Unusable(format!("it says nothing of {what}")));
        }
        Ok(places)
    }

    /// What the address 0 leads to after so many bits.
    fn lowest(&mut self, bits: u32) -> Result<Link, Damaged> {
        let mut link = Link::Node(0);
        for _ in 0..bits {
            let Link::Node(node) = link else { break };
            [link, _] = self.links(node)?;
        }
        Ok(link)
    }

    fn links(&mut self, node: u32) -> Result<[Link; 2], Damaged> {
        self.visits = self.visits.checked_sub(1).ok_or(Damaged)?;
        let start = node as usize * self.node;
        let bytes = self.tree.get(start..start + self.node).ok_or(Damaged)?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, &byte| number << 8 | u32::from(byte));
        let links = match *bytes {
            // The byte in the middle holds the highest four bits of both.
            [a, b, c, middle, d, e, f] => [number(&[middle >> 4, a, b, c]), number(&[middle & 0xf, d, e, f])],
            _ => {
                let (left, right) = bytes.split_at(self.node / 2);
                [number(left), number(right)]
            }
        };
        let [left, right] = links.map(|link| self.link(link));
        Ok([left?, right?])
    }

    fn link(&self, link: u32) -> Result<Link, Damaged> {
        match link.checked_sub(self.nodes) {
            None => Ok(Link::Node(link)),
            Some(0) => Ok(Link::Nothing),
            Some(behind) => (behind as usize).checked_sub(SEPARATOR).map(Link::Record).ok_or(Damaged),
        }
    }
}

/// A walk through the tree, from the lowest address to the highest.
struct Walk<'w, 'a, T> {
    database: &'w mut Database<'a>,
    /// A link that is taken for one to nothing.
    skipped: Option<Link>,
    /// A record's value.
    value: &'w mut ValueOf<'w, 'a, T>,
    /// Takes the first address of a net, and its value.
    begin: &'w mut dyn FnMut(u128, Option<T>),
}

/// The value of the record at a place.
type ValueOf<'w, 'a, T> = dyn FnMut(&mut Records<'a>, usize) -> Result<Option<T>, Damaged> + 'w;

impl<T> Walk<'_, '_, T> {
    /// Everything below a link: addresses from `start` on that differ in the last `bits` bits.
    fn below(&mut self, link: Link, start: u128, bits: u32) -> Result<(), Damaged> {
        let value = match link {
            _ if Some(link) == self.skipped => None,
            Link::Nothing => None,
            Link::Record(at) => (self.value)(&mut self.database.records, at)?,
            Link::Node(node) => {
                let bits = bits.checked_sub(1).ok_or(Damaged)?;
                let [low, high] = self.database.links(node)?;
                self.below(low, start, bits)?;
                return self.below(high, start | 1 << bits, bits);
            }
        };
        (self.begin)(start, value);
        Ok(())
    }
}

/// Values of the format, by their places.
struct Records<'a> {
    bytes: &'a [u8],
    /// Visits of values that are left.
    visits: u32,
}

/// A value's type, its size (of a pointer: where it points), and where its content begins.
struct Head {
    kind: u8,
    size: usize,
    body: usize,
}

/// Types of values, as they are numbered in the format.
const POINTER: u8 = 1;
const TEXT: u8 = 2;
const U16: u8 = 5;
const U32: u8 = 6;
const MAP: u8 = 7;
const U64: u8 = 9;
const LIST: u8 = 11;
const END: u8 = 13;
const BOOLEAN: u8 = 14;

impl<'a> Records<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Records { bytes, visits: MOST_VALUES }
    }

    /// The first value that `read` finds under one of `keys` in the map at `at`.
    fn first<T>(
        &mut self,
        at: usize,
        keys: &[&[&str]],
        read: fn(&mut Records<'a>, usize) -> Option<T>,
    ) -> Result<Option<T>, Damaged> {
        for path in keys {
            let mut place = Some(at);
            for key in *path {
                let Some(map) = place else { break };
                place = self.field(map, key)?;
            }
            if let Some(value) = place.and_then(|at| read(self, at)) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The place of a key's value; `None` too where there is no map.
    fn field(&mut self, at: usize, key: &str) -> Result<Option<usize>, Damaged> {
        let map = self.resolved(at)?;
        if map.kind != MAP {
            return Ok(None);
        }
        let mut at = map.body;
        for _ in 0..map.size {
            let value = self.after(at, 0)?;
            if self.text(at) == Some(key.as_bytes()) {
                return Ok(Some(value));
            }
            at = self.after(value, 0)?;
        }
        Ok(None)
    }

    fn text(&mut self, at: usize) -> Option<&'a [u8]> {
        let head = self.resolved(at).ok()?;
        let bytes = self.bytes.get(head.body..)?.get(..head.size)?;
        (head.kind == TEXT).then_some(bytes)
    }

    fn number(&mut self, at: usize) -> Option<u64> {
        let head = self.resolved(at).ok()?;
        let bytes = self.bytes.get(head.body..)?.get(..head.size).filter(|bytes| bytes.len() <= 8)?;
        let number = bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
        [U16, U32, U64].contains(&head.kind).then_some(number)
    }

    /// The place behind a value.
    fn after(&mut self, at: usize, depth: u32) -> Result<usize, Damaged> {
        let Head { kind, size, body } = self.head(at)?;
        let inside = match kind {
            POINTER | END | BOOLEAN => return Ok(body),
            MAP => size.checked_mul(2).ok_or(Damaged)?,
            LIST => size,
            _ => return body.checked_add(size).ok_or(Damaged),
        };
        if depth == DEEPEST {
            return Err(Damaged);
        }
        (0..inside).try_fold(body, |at, _| self.after(at, depth + 1))
    }

    /// The value at a place, or the one that is pointed at there.
    fn resolved(&mut self, at: usize) -> Result<Head, Damaged> {
        let head = self.head(at)?;
        if head.kind == POINTER { self.head(head.size) } else { Ok(head) }
    }

    fn head(&mut self, at: usize) -> Result<Head, Damaged> {
        self.visits = self.visits.checked_sub(1).ok_or(Damaged)?;
        let mut bytes = self.bytes.get(at..).unwrap_or_default();
        let length = bytes.len();
        let control = take(&mut bytes, 1)?;
        let kind = match control >> 5 {
            0 => u8::try_from(take(&mut bytes, 1)? + 7).map_err(|_| Damaged)?,
            kind => kind as u8,
        };
        let size = match (kind, control & 0x1f) {
            (POINTER, bits) => pointer(bits, &mut bytes)?,
            (_, 29) => 29 + take(&mut bytes, 1)?,
            (_, 30) => 285 + take(&mut bytes, 2)?,
            (_, 31) => 65_821 + take(&mut bytes, 3)?,
            (_, size) => size,
        };
        Ok(Head { kind, size, body: at + length - bytes.len() })
    }
}

/// Two bits say how many bytes follow, three are the first of the number; each length begins where the
/// one before it ends.
fn pointer(bits: usize, bytes: &mut &[u8]) -> Result<usize, Damaged> {
    let high = bits & 7;
    Ok(match bits >> 3 {
        0 => high << 8 | take(bytes, 1)?,
        1 => (high << 16 | take(bytes, 2)?) + 2048,
        2 => (high << 24 | take(bytes, 3)?) + 526_336,
        _ => take(bytes, 4)?,
    })
}

/// A number of so many bytes.
fn take(bytes: &mut &[u8], length: usize) -> Result<usize, Damaged> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Damaged)?;
    *bytes = rest;
    Ok(taken.iter().fold(0, |number, &byte| number << 8 | usize::from(byte)))
}

#[cfg(test)]
mod tests;
