//! Netlink messages as bytes: a header, then what its subsystem says (include/uapi/linux/netlink.h). For
//! the sockets that speak netlink themselves; the routing tables have [`super::netlink`].

pub(super) use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST};

use super::attributes::aligned;

/// Length of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;

/// An error, or with number 0 an acknowledgement.
pub(super) const NLMSG_ERROR: u16 = 2;
/// The end of a dump.
pub(super) const NLMSG_DONE: u16 = 3;

/// One message of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// `nlmsg_type`.
    pub(super) kind: u16,
    /// That of the request that it answers.
    pub(super) sequence: u32,
    /// What is behind the header.
    pub(super) body: &'a [u8],
}

impl Message<'_> {
    /// The number of the error (errno(3)), 0 for none; old kernels end a dump without a number.
    pub(super) fn errno(&self) -> i32 {
        self.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code).saturating_neg())
    }
}

/// The messages of a datagram; ends at the first one that does not fit.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let [l0, l1, l2, l3, k0, k1, _, _, s0, s1, s2, s3, ..] = *datagram.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = datagram.get(HEADER..length)?;
        datagram = datagram.get(aligned(length)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([k0, k1]);
        Some(Message { kind, sequence: u32::from_ne_bytes([s0, s1, s2, s3]), body })
    })
}

/// The header of a request, to which its contents are to be appended.
pub(super) fn begin(kind: u16, flags: u16, sequence: u32) -> Vec<u8> {
    let mut request = vec![0; 4];
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    request.extend(sequence.to_ne_bytes());
    request.extend([0; 4]);
    request
}

/// The whole request: its length is known.
pub(super) fn finish(mut request: Vec<u8>) -> Vec<u8> {
    let length = (request.len() as u32).to_ne_bytes();
    request[..length.len()].copy_from_slice(&length);
    request
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_written_is_read_and_errors_have_their_numbers() {
        let error = [begin(NLMSG_ERROR, NLM_F_ACK, 7), (-2_i32).to_ne_bytes().to_vec()].concat();
        let datagram = [finish(error), finish(begin(NLMSG_DONE, NLM_F_ACK, 8))].concat();
        let read: Vec<_> = messages(&datagram).collect();
        let said: Vec<_> =
            read.iter().map(|message| (message.kind, message.sequence, message.errno())).collect();
        assert_eq!(said, [(NLMSG_ERROR, 7, 2), (NLMSG_DONE, 8, 0)]);
    }

    proptest! {
        #[test]
        fn any_datagram_is_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER);
        }
    }
}
