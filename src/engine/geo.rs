//! Where addresses belong: in which country they are, and to which autonomous system.
//!
//! A database of nets is made into two short tables that cover all addresses, so that asking is
//! one binary search and nothing of the database's own format is met by a packet.

use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};

/// A country, by its two letters (ISO 3166-1 alpha-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country(NonZeroU16);

/// An autonomous system, by its number (RFC 6793).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Asn(pub NonZeroU32);

impl Country {
    /// The country that two letters, in capitals or not, stand for.
    #[must_use]
    pub fn new(letters: &[u8]) -> Option<Country> {
        let letters = <[u8; 2]>::try_from(letters).ok()?.map(|letter| letter.to_ascii_lowercase());
        let fits = letters.iter().all(u8::is_ascii_lowercase);
        NonZeroU16::new(u16::from_be_bytes(letters)).filter(|_| fits).map(Country)
    }
}

/// As rules write it: `de`.
impl fmt::Display for Country {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.0.get().to_be_bytes();
        write!(out, "{}{}", char::from(first), char::from(second))
    }
}

impl Asn {
    /// The number that a text stands for: `3320`, `AS3320`, `as3320`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Asn> {
        let prefixed = text.get(..2).filter(|prefix| prefix.eq_ignore_ascii_case("as"));
        let digits = prefixed.and_then(|_| text.get(2..)).unwrap_or(text);
        let fits = digits.bytes().all(|byte| byte.is_ascii_digit());
        fits.then(|| digits.parse().ok()).flatten().map(Asn)
    }
}

/// As rules write it: `3320`.
impl fmt::Display for Asn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// What is known of where addresses belong; `None` where there is no database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Geo {
    /// The country of each address.
    pub countries: Option<Places<Country>>,
    /// The autonomous system of each address.
    pub systems: Option<Places<Asn>>,
}

impl Geo {
    /// The country of an address.
    #[must_use]
    pub fn country(&self, address: IpAddr) -> Option<Country> {
        self.countries.as_ref()?.of(address)
    }

    /// The autonomous system of an address.
    #[must_use]
    pub fn asn(&self, address: IpAddr) -> Option<Asn> {
        self.systems.as_ref()?.of(address)
    }
}

/// Which addresses have which value, for both families.
#[derive(Clone, PartialEq, Eq)]
pub struct Places<T> {
    /// IPv4 addresses.
    pub v4: Ranges<u32, T>,
    /// IPv6 addresses.
    pub v6: Ranges<u128, T>,
}

impl<T: Copy + PartialEq> Places<T> {
    /// The value of an address, if it has one.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Option<T> {
        match address {
            IpAddr::V4(address) => self.v4.of(address.to_bits()),
            IpAddr::V6(address) => self.v6.of(address.to_bits()),
        }
    }

    /// The values, one for each range that has one.
    pub fn values(&self) -> impl Iterator<Item = T> {
        self.v4.values.iter().chain(&self.v6.values).copied().flatten()
    }
}

/// As there are many, only how many.
impl<T> fmt::Debug for Places<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ranges", self.v4.starts.len() + self.v6.starts.len())
    }
}

/// Ranges of numbers, each with a value or none, that lie one behind the other: a range ends where
/// the next one begins. Starts and values stand apart, because a search meets only starts.
#[derive(Clone, PartialEq, Eq)]
pub struct Ranges<N, T> {
    starts: Vec<N>,
    values: Vec<Option<T>>,
}

impl<N, T> Default for Ranges<N, T> {
    /// No number has a value.
    fn default() -> Self {
        Ranges { starts: Vec::new(), values: Vec::new() }
    }
}

impl<N: Copy + Ord, T: Copy + PartialEq> Ranges<N, T> {
    /// From `start` on, which lies behind all starts so far, numbers have this value.
    pub fn begin(&mut self, start: N, value: Option<T>) {
        if self.values.last().copied().flatten() != value {
            self.starts.push(start);
            self.values.push(value);
        }
    }

    /// Gives back memory that was kept for more ranges.
    #[must_use]
    pub fn finished(mut self) -> Self {
        self.starts.shrink_to_fit();
        self.values.shrink_to_fit();
        self
    }

    fn of(&self, number: N) -> Option<T> {
        let place = self.starts.partition_point(|start| *start <= number).checked_sub(1)?;
        self.values.get(place).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_country_is_two_letters_and_a_system_a_number_with_or_without_its_prefix() {
        assert_eq!(Country::new(b"DE"), Country::new(b"de"));
        assert_eq!(Country::new(b"DE").unwrap().to_string(), "de");
        assert!([&b""[..], b"d", b"deu", b"d1", b"\xc3\x9f"].iter().all(|text| Country::new(text).is_none()));
        for text in ["3320", "as3320", "AS3320", "As3320"] {
            assert_eq!(Asn::parse(text).unwrap().to_string(), "3320", "{text}");
        }
        for text in ["", "as", "0", "+1", "as-1", "4294967296", "ä1", "a"] {
            assert_eq!(Asn::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_range_ends_where_the_next_one_begins_and_gaps_have_no_value() {
        let mut ranges = Ranges::default();
        for (start, value) in [(0_u32, None), (10, Some('a')), (15, Some('a')), (20, None), (30, Some('b'))] {
            ranges.begin(start, value);
        }
        let ranges = ranges.finished();
        assert_eq!(ranges.starts, [10, 20, 30]);
        let asked = [0, 9, 10, 19, 20, 29, 30, u32::MAX].map(|number| ranges.of(number));
        let (a, b) = (Some('a'), Some('b'));
        assert_eq!(asked, [None, None, a, a, None, None, b, b]);
        assert_eq!(Ranges::<u32, char>::default().of(0), None);
    }

    #[test]
    fn the_families_are_apart() {
        let mut places = Places { v4: Ranges::default(), v6: Ranges::default() };
        places.v4.begin(0, Country::new(b"de"));
        let geo = Geo { countries: Some(places), systems: None };
        assert_eq!(geo.country("192.0.2.1".parse().unwrap()), Country::new(b"de"));
        assert_eq!(geo.country("::ffff:192.0.2.1".parse().unwrap()), None);
        assert_eq!(geo.asn("192.0.2.1".parse().unwrap()), None);
    }
}
