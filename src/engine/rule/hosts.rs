//! Sets of host names: [`HostNames`] of a million names costs a look-up per label of the name it is asked
//! for, and no allocation; a [`HostSet`] has words and expressions beside them.

use std::fmt;
use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::texts::{Expressions, Texts};
use crate::engine::sniff::Name;

/// A name, and which names it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostName {
    /// The name.
    pub name: Name,
    /// It, those under it, or both.
    pub reach: Reach,
}

/// Which names are meant by one. The numbers are bits: 1 the name itself, 2 those under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// `example.org` alone.
    Itself = 1,
    /// `www.example.org`, `a.b.example.org`, and not `example.org`.
    Below = 2,
    /// All of these.
    Both = 3,
}

impl HostName {
    /// `example.org`, or `*.example.org` for the names under it.
    #[must_use]
    pub fn parse(text: &str) -> Option<HostName> {
        let (name, reach) = match text.strip_prefix("*.") {
            Some(parent) => (parent, Reach::Below),
            None => (text, Reach::Itself),
        };
        Some(HostName { name: Name::new(name.as_bytes())?, reach })
    }

    /// Whether it stands for all names that this one with its reach stands for.
    #[must_use]
    pub fn cover(&self, name: &[u8], reach: Reach) -> bool {
        name.strip_suffix(self.name.as_bytes()).is_some_and(|before| match before {
            [] => self.reach == Reach::Both || self.reach == reach,
            [.., b'.'] => self.reach != Reach::Itself,
            _ => false,
        })
    }

    /// Whether it stands for this name.
    #[must_use]
    pub fn means(&self, name: &Name) -> bool {
        let before = name.as_bytes().strip_suffix(self.name.as_bytes());
        before.is_some_and(|before| match before {
            [] => self.reach != Reach::Below,
            [.., b'.'] => self.reach != Reach::Itself,
            _ => false,
        })
    }
}

impl Reach {
    fn joined(self, other: Reach) -> Reach {
        if self == other { self } else { Reach::Both }
    }

    fn from_bits(bits: u64) -> Reach {
        match bits {
            1 => Reach::Itself,
            2 => Reach::Below,
            _ => Reach::Both,
        }
    }
}

/// Names, each with its reach. A name takes its own bytes and about 18 more: all names stand in
/// one buffer, and the table holds their places.
#[derive(Clone, Default)]
pub struct HostNames {
    bytes: Vec<u8>,
    places: HashTable<Place>,
    hashes: RandomState,
}

impl HostNames {
    /// Adds a name. One that is there already reaches as far as both together.
    pub fn add(&mut self, host: &HostName) {
        let HostNames { bytes, places, hashes } = self;
        let name = host.name.as_bytes();
        let is_it = |place: &Place| place.of(bytes) == name;
        match places.entry(hashes.hash_one(name), is_it, |place| hashes.hash_one(place.of(bytes))) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                *known = Place::new(known.start(), name.len(), known.reach().joined(host.reach));
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Place::new(bytes.len(), name.len(), host.reach));
                bytes.extend_from_slice(name);
            }
        }
    }

    /// Gives back memory that was kept for more names.
    pub fn shrink(&mut self) {
        let HostNames { bytes, places, hashes } = self;
        bytes.shrink_to_fit();
        places.shrink_to_fit(|place| hashes.hash_one(place.of(bytes)));
    }

    /// Whether one of them means this name.
    #[must_use]
    pub fn hold(&self, name: &Name) -> bool {
        if self.places.is_empty() {
            return false;
        }
        let reaches = |name, not: Reach| self.reach(name).is_some_and(|reach| reach != not);
        let name = name.as_bytes();
        reaches(name, Reach::Below) || parents(name).any(|parent| reaches(parent, Reach::Itself))
    }

    /// Whether they mean all names that this one with its reach stands for.
    #[must_use]
    pub fn cover(&self, name: &[u8], reach: Reach) -> bool {
        let reaches = |name, not: Reach| self.reach(name).is_some_and(|reach| reach != not);
        let itself = reach == Reach::Below || reaches(name, Reach::Below);
        let below = reach == Reach::Itself || reaches(name, Reach::Itself);
        itself && below || parents(name).any(|parent| reaches(parent, Reach::Itself))
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Reach)> {
        self.places.iter().map(|place| (place.of(&self.bytes), place.reach()))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn reach(&self, name: &[u8]) -> Option<Reach> {
        let place = self.places.find(self.hashes.hash_one(name), |place| place.of(&self.bytes) == name)?;
        Some(place.reach())
    }
}

impl<'a> FromIterator<&'a HostName> for HostNames {
    fn from_iter<I: IntoIterator<Item = &'a HostName>>(names: I) -> Self {
        let mut set = HostNames::default();
        names.into_iter().for_each(|name| set.add(name));
        set
    }
}

impl PartialEq for HostNames {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(name, reach)| other.reach(name) == Some(reach))
    }
}

impl Eq for HostNames {}

impl fmt::Debug for HostNames {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} names", self.len())
    }
}

/// The names that `name` is under, the longest first.
pub fn parents(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let dots = name.iter().enumerate().filter(|(_, byte)| **byte == b'.');
    dots.filter_map(|(dot, _)| name.get(dot + 1..))
}

/// Where a name stands in the buffer, in one word: 48 bits start, 8 bits reach, 8 bits length.
#[derive(Debug, Clone, Copy)]
struct Place(u64);

impl Place {
    fn new(start: usize, length: usize, reach: Reach) -> Self {
        Place((start as u64) << 16 | (reach as u64) << 8 | length as u64)
    }

    fn start(self) -> usize {
        (self.0 >> 16) as usize
    }

    fn reach(self) -> Reach {
        Reach::from_bits(self.0 >> 8 & 0xff)
    }

    fn of(self, bytes: &[u8]) -> &[u8] {
        let start = self.start();
        bytes.get(start..start + (self.0 & 0xff) as usize).unwrap_or_default()
    }
}

/// Names, words and expressions: what a list of hosts can say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostSet {
    /// Names.
    pub names: HostNames,
    /// Words that stand anywhere in a name, in lower case.
    pub keywords: Texts,
    /// Expressions that fit anywhere in a name.
    pub expressions: Expressions,
}

impl HostSet {
    /// Whether it means this name.
    #[must_use]
    pub fn contains(&self, name: &Name) -> bool {
        self.names.hold(name)
            || self.keywords.found_in(name.as_bytes())
            || self.expressions.found_in(name.as_bytes())
    }

    /// Whether it has neither words nor expressions.
    #[must_use]
    pub fn is_only_names(&self) -> bool {
        self.keywords.is_empty() && self.expressions.is_empty()
    }

    /// Whether it means no name at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.is_only_names()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::arbitrary::{any_host_name, any_name};
    use super::*;

    #[test]
    fn an_exact_name_means_itself_and_a_suffix_what_is_under_it() {
        let means = |pattern, asked| HostName::parse(pattern).unwrap().means(&name(asked));
        assert!(means("Example.ORG", "example.org") && !means("example.org", "www.example.org"));
        assert!(means("*.example.org", "www.example.org") && means("*.example.org", "a.b.example.org"));
        assert!(!means("*.example.org", "example.org") && !means("*.example.org", "badexample.org"));
        for wrong in ["", "*", "*.", "a.*.org", "**.org", "192.0.2.1", "*.192.0.2.1", "a b"] {
            assert_eq!(HostName::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_name_that_is_added_twice_reaches_as_far_as_both() {
        let mut set: HostNames = [host("example.org"), host("*.example.net")].iter().collect();
        set.add(&host("*.example.org"));
        set.add(&host("*.example.net"));
        set.shrink();
        assert_eq!(set.len(), 2);
        assert!(set.hold(&name("example.org")) && set.hold(&name("www.example.org")));
        assert!(!set.hold(&name("example.net")) && set.hold(&name("www.example.net")));
        assert!(!set.hold(&name("org")));
    }

    #[test]
    fn a_set_also_knows_words_and_expressions() {
        let set = HostSet {
            keywords: Texts::exact(["video"]).unwrap(),
            expressions: Expressions::new([r"^cdn\d+\."]).unwrap(),
            ..HostSet::default()
        };
        assert!(set.contains(&name("myvideos.example.org")) && set.contains(&name("cdn12.example.org")));
        assert!(!set.contains(&name("www.cdn12.example.org")) && !set.is_empty());
        assert!(!HostSet::default().contains(&name("example.org")) && HostSet::default().is_empty());
    }

    proptest! {
        #[test]
        fn a_set_of_names_answers_like_its_names_one_by_one(
            hosts in vec(any_host_name(), 0..12),
            asked in vec(any_name(), 1..20),
        ) {
            let set: HostNames = hosts.iter().collect();
            for name in asked {
                prop_assert_eq!(set.hold(&name), hosts.iter().any(|host| host.means(&name)), "{}", name);
            }
        }

        #[test]
        fn names_cover_one_if_they_mean_whatever_it_stands_for(
            hosts in vec(any_host_name(), 0..6),
            one in any_host_name(),
        ) {
            let set: HostNames = hosts.iter().collect();
            // A label that no name of these has stands for all that could be under it.
            let below = Name::new(&[b"other.", one.name.as_bytes()].concat()).unwrap();
            let itself = one.reach == Reach::Below || set.hold(&one.name);
            let under = one.reach == Reach::Itself || set.hold(&below);
            for host in &hosts {
                let alone: HostNames = [*host].iter().collect();
                let covers = host.cover(one.name.as_bytes(), one.reach);
                prop_assert_eq!(covers, alone.cover(one.name.as_bytes(), one.reach), "{:?}", host);
            }
            prop_assert_eq!(set.cover(one.name.as_bytes(), one.reach), itself && under, "{} {:?}", one.name, one.reach);
        }

        #[test]
        fn sets_are_equal_in_whatever_order_they_were_made(hosts in vec(any_host_name(), 0..12)) {
            let set: HostNames = hosts.iter().collect();
            prop_assert_eq!(&set, &hosts.iter().rev().collect::<HostNames>());
            let hosts = set.iter().map(|(name, reach)| HostName { name: Name::new(name).unwrap(), reach });
            let all: HostNames = hosts.collect::<Vec<_>>().iter().collect();
            prop_assert_eq!(set, all);
        }
    }

    fn host(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }
}
