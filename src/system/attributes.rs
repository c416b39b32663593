//! Netlink attributes as bytes: length, kind, value, padding to four (include/uapi/linux/netlink.h).

/// The attributes in a piece of a message; ends at the first one that does not fit.
#[derive(Clone)]
pub(super) struct Attributes<'a> {
    rest: &'a [u8],
}

/// Length of `struct nlattr`.
const HEADER: usize = 4;

/// The bits of the kind that are the kind; above them are `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const KIND_MASK: u16 = 0x3fff;

/// `NLA_F_NESTED`: the value is attributes again.
pub(super) const NESTED: u16 = 0x8000;

impl<'a> Attributes<'a> {
    /// Reads attributes from these bytes.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, _) = self.rest.split_first_chunk::<HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND_MASK;
        let value = self.rest.get(HEADER..length)?;
        self.rest = self.rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// Appends an attribute; values here are far shorter than the 65 531 bytes one can have.
pub(super) fn put(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (HEADER + value.len()) as u16;
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(aligned(message.len()), 0);
}

/// The next multiple of four (`NLA_ALIGN`, `NLMSG_ALIGN`).
pub(super) fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_put_is_read_whatever_the_padding() {
        let mut message = Vec::new();
        for length in 0..9u8 {
            put(&mut message, length.into(), &vec![length; length.into()]);
        }
        let read: Vec<_> = Attributes::new(&message).collect();
        assert_eq!(read.len(), 9);
        assert!(read.iter().all(|(kind, value)| value.len() == usize::from(*kind)));
    }

    #[test]
    fn an_attribute_longer_than_its_message_ends_the_reading() {
        assert_eq!(Attributes::new(&[9, 0, 1, 0, 1, 2, 3, 4]).next(), None);
        assert_eq!(Attributes::new(&[0, 0, 1, 0, 1, 2, 3, 4]).next(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(Attributes::new(&bytes).count() <= bytes.len() / HEADER);
        }
    }
}
