//! A writer of small databases in MaxMind's format (<https://maxmind.github.io/MaxMind-DB/>, version 2.0).

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::net::IpAddr;

use ipnet::IpNet;

/// What stands in a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Text(String),
    Number(u32),
    Map(Vec<(&'static str, Record)>),
    /// A pointer to this place among the records.
    Pointer(u16),
    /// A value as it is written, of a type that nobody here asks for.
    Other(Vec<u8>),
}

/// The record of a country, as MaxMind writes it: its letters stand behind other keys.
pub fn country(letters: &str) -> Record {
    let names = Record::Map(vec![("en", text("some country with a long name, far longer than 29 bytes"))]);
    let country =
        vec![("geoname_id", Record::Number(2_921_044)), ("names", names), ("iso_code", text(letters))];
    Record::Map(vec![
        ("continent", Record::Map(vec![("code", text("EU"))])),
        ("country", Record::Map(country)),
    ])
}

/// The record of an autonomous system, as MaxMind writes it.
pub fn system(number: u32) -> Record {
    let name = ("autonomous_system_organization", text("Example"));
    Record::Map(vec![("autonomous_system_number", Record::Number(number)), name])
}

pub fn text(text: &str) -> Record {
    Record::Text(text.to_owned())
}

/// A database of IPv6 with IPv4 nets in it, whose links have so many bits (24, 28 or 32). Nets do not overlap.
pub fn database(nets: &[(&str, Record)], link_bits: u32) -> Vec<u8> {
    database_with_aliases(nets, &[], link_bits)
}

/// The same, where these nets of IPv6 lead to those of IPv4 as well.
pub fn database_with_aliases(nets: &[(&str, Record)], aliases: &[&str], link_bits: u32) -> Vec<u8> {
    let (mut tree, mut records) = (Tree::default(), Vec::new());
    for (net, record) in nets {
        tree.insert(net.parse().expect("a net"), Link::Record(records.len()));
        record.write(&mut records);
    }
    for net in aliases {
        tree.insert(net.parse().expect("a net"), tree.v4());
    }
    let mut bytes = tree.bytes(link_bits);
    bytes.extend([0; 16]);
    bytes.extend(records);
    bytes.extend(b"\xab\xcd\xefMaxMind.com");
    bytes.extend(metadata(tree.0.len() as u32, link_bits).bytes());
    bytes
}

/// The map at the end.
pub fn metadata(nodes: u32, link_bits: u32) -> Record {
    let number = Record::Number;
    let keys = [("node_count", nodes), ("record_size", link_bits), ("ip_version", 6)];
    let keys = keys.map(|(key, value)| (key, number(value)));
    Record::Map([("database_type", text("Test"))].into_iter().chain(keys).collect())
}

impl Record {
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        bytes
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Record::Text(text) => {
                head(2, text.len(), out);
                out.extend(text.as_bytes());
            }
            Record::Number(number) => {
                let bytes = number.to_be_bytes();
                let bytes = &bytes[number.leading_zeros() as usize / 8..];
                head(6, bytes.len(), out);
                out.extend(bytes);
            }
            Record::Map(pairs) => {
                head(7, pairs.len(), out);
                for (key, value) in pairs {
                    text(key).write(out);
                    value.write(out);
                }
            }
            Record::Other(bytes) => out.extend(bytes),
            Record::Pointer(at) => out.extend([1 << 5 | (at >> 8) as u8, *at as u8]),
        }
    }
}

fn head(kind: u8, size: usize, out: &mut Vec<u8>) {
    match size {
        0..29 => out.push(kind << 5 | size as u8),
        29..285 => out.extend([kind << 5 | 29, (size - 29) as u8]),
        _ => panic!("a small database"),
    }
}

/// Where each of a node's two links leads.
#[derive(Default)]
struct Tree(Vec<[Link; 2]>);

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Link {
    #[default]
    Nothing,
    Node(usize),
    Record(usize),
}

impl Tree {
    /// Where the nets of IPv4 begin: below 96 zeros.
    fn v4(&self) -> Link {
        (0..96).fold(Link::Node(0), |link, _| match link {
            Link::Node(node) => self.0[node][0],
            other => other,
        })
    }

    fn insert(&mut self, net: IpNet, leads_to: Link) {
        let (address, length) = match net.addr() {
            IpAddr::V4(address) => (u128::from(address.to_bits()), net.prefix_len() + 96),
            IpAddr::V6(address) => (address.to_bits(), net.prefix_len()),
        };
        if self.0.is_empty() {
            self.0.push([Link::Nothing; 2]);
        }
        let mut node = 0;
        for bit in 0..length {
            let side = (address >> (127 - bit) & 1) as usize;
            node = match self.0[node][side] {
                _ if bit + 1 == length => return self.0[node][side] = leads_to,
                Link::Node(next) => next,
                _ => {
                    self.0.push([Link::Nothing; 2]);
                    let next = self.0.len() - 1;
                    self.0[node][side] = Link::Node(next);
                    next
                }
            };
        }
    }

    fn bytes(&self, link_bits: u32) -> Vec<u8> {
        let count = self.0.len();
        let number = |link: Link| match link {
            Link::Nothing => count as u32,
            Link::Node(node) => node as u32,
            Link::Record(at) => (count + 16 + at) as u32,
        };
        self.0.iter().flat_map(|links| node(links.map(number), link_bits)).collect()
    }
}

fn node([left, right]: [u32; 2], link_bits: u32) -> Vec<u8> {
    let [l, r] = [left, right].map(u32::to_be_bytes);
    match link_bits {
        24 => [&l[1..], &r[1..]].concat(),
        28 => [&l[1..], &[l[0] << 4 | r[0]], &r[1..]].concat(),
        _ => [l, r].concat(),
    }
}
