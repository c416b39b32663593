//! The other messages of nfnetlink_queue (include/uapi/linux/netfilter/nfnetlink_queue.h), as bytes: what
//! configures a queue, and what the kernel sends to it. Verdicts are [`super::answer`]'s.

use super::Waiting;
use crate::system::attributes::{Attributes, put};
use crate::system::message::{self, NLM_F_ACK, NLMSG_ERROR};

/// Length of `nfgenmsg`.
const GENERAL_HEADER: usize = 4;
/// `NFNL_SUBSYS_QUEUE` with `NFQNL_MSG_PACKET` and `NFQNL_MSG_CONFIG`.
const PACKET: u16 = 3 << 8;
const CONFIG: u16 = 3 << 8 | 2;
/// `NFQA_CFG_CMD` with `NFQNL_CFG_CMD_BIND`, `NFQA_CFG_PARAMS` with `NFQNL_COPY_PACKET`,
/// `NFQA_CFG_QUEUE_MAXLEN`, `NFQA_CFG_MASK`, `NFQA_CFG_FLAGS`.
const COMMAND: u16 = 1;
const BIND: u8 = 1;
const PARAMETERS: u16 = 2;
const COPY_PACKET: u8 = 2;
const LENGTH: u16 = 3;
const MASK: u16 = 4;
const FLAGS: u16 = 5;
/// `NFQA_CFG_F_FAIL_OPEN | NFQA_CFG_F_GSO`.
const FAIL_OPEN_AND_WHOLE: u32 = 1 | 4;
/// `NFQA_PACKET_HDR`, `NFQA_MARK`, `NFQA_IFINDEX_INDEV`, `NFQA_HWADDR`, `NFQA_PAYLOAD`.
const PACKET_HEADER: u16 = 1;
const MARK: u16 = 3;
const IN_DEVICE: u16 = 5;
const HARDWARE_ADDRESS: u16 = 9;
const PAYLOAD: u16 = 10;

/// Something that the kernel says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Heard<'a> {
    /// A packet waits.
    Packet(Waiting<'a>),
    /// An earlier message was done (0), or was not: the error's number (errno(3)).
    Done(i32),
    /// Nothing that matters here.
    Other,
}

/// Binds a queue and configures it, by one message: at most `length` packets wait, of each of which the
/// first `range` bytes come along. A full queue lets packets pass, and segmented ones come whole,
/// because some kernels drop the pieces of an unconfirmed flow.
pub(super) fn bind(queue: u16, length: u32, range: u16) -> Vec<u8> {
    let mut message = message::begin(CONFIG, NLM_F_ACK, 0);
    message.extend([0, 0]);
    message.extend(queue.to_be_bytes());
    put(&mut message, COMMAND, &[BIND, 0, 0, 0]);
    let [r0, r1, r2, r3] = u32::from(range).to_be_bytes();
    put(&mut message, PARAMETERS, &[r0, r1, r2, r3, COPY_PACKET]);
    put(&mut message, LENGTH, &length.to_be_bytes());
    put(&mut message, MASK, &FAIL_OPEN_AND_WHOLE.to_be_bytes());
    put(&mut message, FLAGS, &FAIL_OPEN_AND_WHOLE.to_be_bytes());
    message::finish(message)
}

/// What the kernel says in one datagram.
pub(super) fn heard(datagram: &[u8]) -> impl Iterator<Item = Heard<'_>> {
    message::messages(datagram).map(|message| match message.kind {
        PACKET => packet(message.body).map_or(Heard::Other, Heard::Packet),
        NLMSG_ERROR => Heard::Done(message.errno()),
        _ => Heard::Other,
    })
}

fn packet(body: &[u8]) -> Option<Waiting<'_>> {
    let mut id = None;
    let mut packet = Waiting { id: 0, bytes: &[], mark: 0, in_device: 0, hardware_address: None };
    for (kind, value) in Attributes::new(body.get(GENERAL_HEADER..)?) {
        match kind {
            PACKET_HEADER => id = number(value),
            MARK => packet.mark = u32::from_be_bytes(number(value)?),
            IN_DEVICE => packet.in_device = u32::from_be_bytes(number(value)?),
            HARDWARE_ADDRESS => packet.hardware_address = hardware_address(value),
            PAYLOAD => packet.bytes = value,
            _ => {}
        }
    }
    Some(Waiting { id: u32::from_be_bytes(id?), ..packet })
}

/// `struct nfqnl_msg_packet_hw`: length, padding, address.
fn hardware_address(value: &[u8]) -> Option<&[u8]> {
    let (&[high, low, _, _], address) = value.split_first_chunk()?;
    address.get(..u16::from_be_bytes([high, low]).into())
}

fn number(bytes: &[u8]) -> Option<[u8; 4]> {
    bytes.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::system::attributes::aligned;

    #[test]
    fn a_packet_is_read_with_all_that_comes_along() {
        let mut body = vec![0; GENERAL_HEADER];
        put(&mut body, PACKET_HEADER, &[0, 0, 0, 7, 8, 0, 0]);
        put(&mut body, MARK, &[0, 0, 0x12, 0x34]);
        put(&mut body, IN_DEVICE, &[0, 0, 0, 3]);
        put(&mut body, HARDWARE_ADDRESS, &[0, 6, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0]);
        put(&mut body, PAYLOAD, &[0x45, 1, 2]);
        let datagram = [message(PACKET, &body), message(NLMSG_ERROR, &(-2_i32).to_ne_bytes())].concat();
        let heard: Vec<_> = heard(&datagram).collect();
        let [Heard::Packet(packet), Heard::Done(2)] = heard[..] else { panic!("{heard:?}") };
        assert_eq!((packet.id, packet.mark, packet.in_device), (7, 0x1234, 3));
        assert_eq!(
            (packet.bytes, packet.hardware_address),
            (&[0x45, 1, 2][..], Some(&[2, 0, 0, 0, 0, 1][..]))
        );
    }

    #[test]
    fn a_packet_without_an_id_cannot_be_answered_and_is_none() {
        let datagram = message(PACKET, &[0; GENERAL_HEADER]);
        assert!(matches!(heard(&datagram).next(), Some(Heard::Other)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let whole = message(PACKET, &bytes);
            prop_assert!(heard(&whole).count() == 1 && heard(&bytes).count() <= bytes.len() / message::HEADER);
        }
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut whole = message::finish([message::begin(kind, 0, 0), body.to_vec()].concat());
        whole.resize(aligned(whole.len()), 0);
        whole
    }
}
