//! Short texts that a packet carries, kept without allocation: a host's name, a list of ALPN ids.

use std::fmt;

/// A host name as it is compared: lower case, no dot at the end, punycode as it is. It is never
/// empty, never an address, and has at most 253 bytes (RFC 1035, section 2.3.4).
#[derive(Clone, Copy)]
pub struct Name {
    length: u8,
    bytes: [u8; Name::MOST],
}

impl Name {
    /// Bytes in the longest name.
    pub const MOST: usize = 253;

    /// The name that these bytes spell, if it can be a host's: labels of 1 to 63 letters, digits,
    /// `-` and `_`, with dots between them and perhaps at the end.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Name> {
        let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
        let fits = (1..=Name::MOST).contains(&bytes.len());
        if !fits || !bytes.split(|&byte| byte == b'.').all(is_label) || is_address(bytes) {
            return None;
        }
        let mut name = Name { length: bytes.len() as u8, bytes: [0; Name::MOST] };
        name.bytes[..bytes.len()].copy_from_slice(bytes);
        name.bytes[..bytes.len()].make_ascii_lowercase();
        Some(name)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The name's bytes, all of them ASCII.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

fn is_label(label: &[u8]) -> bool {
    (1..=63).contains(&label.len())
        && label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// No top-level domain is a number (RFC 3696, section 2): then it is an IPv4 address, in some form.
fn is_address(bytes: &[u8]) -> bool {
    let last = bytes.rsplit(|&byte| byte == b'.').next().unwrap_or_default();
    last.iter().all(u8::is_ascii_digit)
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name {}

impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.as_str())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// What a client asks for in place of a host's name: an address, or what can be neither.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Odd {
    length: u8,
    bytes: [u8; Odd::MOST],
}

impl Odd {
    /// Bytes in the longest.
    pub const MOST: usize = 64;

    /// The text of these bytes, in lower case; `None` if they are a host's name, or have control characters,
    /// or are none or too many.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Odd> {
        let is_text = !bytes.is_empty() && !bytes.iter().any(u8::is_ascii_control);
        let mut odd = Odd { length: u8::try_from(bytes.len()).ok()?, bytes: [0; Odd::MOST] };
        odd.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        odd.bytes.make_ascii_lowercase();
        (is_text && Name::new(bytes).is_none()).then_some(odd)
    }
}

impl fmt::Display for Odd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&String::from_utf8_lossy(&self.bytes[..usize::from(self.length)]))
    }
}

impl fmt::Debug for Odd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.to_string())
    }
}

/// The protocols that a client offers (RFC 7301): as many of the first as fit into 62 bytes.
#[derive(Clone, Copy)]
pub struct Alpn {
    length: u8,
    /// Each behind a byte with its length.
    bytes: [u8; Alpn::MOST],
}

impl Alpn {
    const MOST: usize = 62;

    /// The list with one more, or as it was where that is empty or there is no room.
    #[must_use]
    pub fn with(mut self, id: &[u8]) -> Alpn {
        let (start, end) = (usize::from(self.length), usize::from(self.length) + 1 + id.len());
        if id.is_empty() || end > Alpn::MOST {
            return self;
        }
        self.bytes[start] = id.len() as u8;
        self.bytes[start + 1..end].copy_from_slice(id);
        self.length = end as u8;
        self
    }

    /// All of them, in the client's order.
    pub fn ids(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..usize::from(self.length)];
        std::iter::from_fn(move || {
            let (&length, after) = rest.split_first()?;
            let (id, after) = after.split_at_checked(usize::from(length))?;
            rest = after;
            Some(id)
        })
    }
}

impl Default for Alpn {
    fn default() -> Self {
        Alpn { length: 0, bytes: [0; Alpn::MOST] }
    }
}

impl PartialEq for Alpn {
    fn eq(&self, other: &Self) -> bool {
        self.ids().eq(other.ids())
    }
}

impl Eq for Alpn {}

impl fmt::Debug for Alpn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.ids().map(String::from_utf8_lossy)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_without_a_dot_at_the_end() {
        for text in ["WWW.Example.ORG", "www.example.org."] {
            assert_eq!(Name::new(text.as_bytes()).unwrap().as_str(), "www.example.org");
        }
        assert_eq!(Name::new(b"_dns.resolver-1.arpa").unwrap().to_string(), "_dns.resolver-1.arpa");
    }

    #[test]
    fn what_cannot_be_a_hosts_name_is_none() {
        let long = [b'a'; 64];
        let longest = vec![b"a.".as_slice(); 127].concat();
        for bytes in [
            b"".as_slice(),
            b".",
            b"a..b",
            b".a",
            b"a b",
            b"192.0.2.1",
            b"1",
            b"[::1]",
            b"\xc3\xa4",
            &long,
            &longest,
        ] {
            let name = Name::new(bytes);
            assert!(name.is_none() || bytes == longest, "{name:?}");
        }
        assert_eq!(Name::new(&longest).unwrap().as_bytes().len(), 253);
        assert_eq!(Name::new(&[&longest[..], b"b"].concat()), None);
    }

    #[test]
    fn an_alpn_list_keeps_what_fits_in_order() {
        let list = Alpn::default().with(b"h2").with(b"").with(b"http/1.1").with(&[b'x'; 60]).with(b"h3");
        assert_eq!(list.ids().collect::<Vec<_>>(), [b"h2".as_slice(), b"http/1.1", b"h3"]);
        assert_ne!(list, Alpn::default());
    }
}
