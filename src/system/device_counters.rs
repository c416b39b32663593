//! What devices have carried: the kernel's 64-bit counters, asked for device by device.
//!
//! `RTM_GETSTATS` (Linux 4.7, include/uapi/linux/if_link.h) answers with nothing but the counters:
//! listing a device would cost the kernel and us ten times as much, several times a second.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags, NetlinkAddr};

use super::attributes::Attributes;
use super::message::{self, NLMSG_ERROR};
use super::sockets::{SockProtocol, open, receive};

/// Bytes since the device was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
}

/// Asks the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct CounterReader {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// The kernel answers within the call that asks; this only keeps a bug from hanging us.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer has some 240 bytes.
const BUFFER: usize = 4096;

/// include/uapi/linux/rtnetlink.h.
const RTM_NEWSTATS: u16 = 92;
const RTM_GETSTATS: u16 = 94;
/// `struct if_stats_msg`, behind the message's header.
const STATS_HEADER: usize = 12;
/// `IFLA_STATS_LINK_64`; as a filter `1 << (IFLA_STATS_LINK_64 - 1)`.
const LINK_64: u16 = 1;
const LINK_64_ALONE: u32 = 1;

impl CounterReader {
    /// Opens the socket.
    ///
    /// # Errors
    /// When none is to be had.
    pub fn open() -> io::Result<Self> {
        let socket = open(SockProtocol::NetlinkRoute, 0, ANSWER_TIMEOUT)?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// The counters of the device with this kernel index; `None`: there is none now.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn read(&mut self, index: u32) -> io::Result<Option<DeviceCounters>> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(self.sequence, index);
        socket::sendto(self.socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        loop {
            let length = receive(&self.socket, &mut self.buffer)?;
            let answer = self.buffer.get(..length).unwrap_or_default();
            match read_answer(answer, self.sequence) {
                Some(Ok(counters)) => return Ok(Some(counters)),
                Some(Err(Errno::ENODEV)) => return Ok(None),
                Some(Err(errno)) => return Err(errno.into()),
                None => {}
            }
        }
    }
}

/// Its header as the kernel has it in memory: in its own byte order.
fn request(sequence: u32, index: u32) -> Vec<u8> {
    let mut request = message::begin(RTM_GETSTATS, 0, sequence);
    request.extend([0; 4]);
    request.extend(index.to_ne_bytes());
    request.extend(LINK_64_ALONE.to_ne_bytes());
    message::finish(request)
}

/// `None`: not the answer to this request.
fn read_answer(datagram: &[u8], sequence: u32) -> Option<Result<DeviceCounters, Errno>> {
    let answer = message::messages(datagram).find(|message| message.sequence == sequence)?;
    match answer.kind {
        RTM_NEWSTATS => counters(answer.body.get(STATS_HEADER..)?).map(Ok),
        NLMSG_ERROR => Some(Err(Errno::from_raw(answer.errno()))),
        _ => None,
    }
}

/// `struct rtnl_link_stats64`: packets received and sent, then bytes received and sent.
fn counters(attributes: &[u8]) -> Option<DeviceCounters> {
    let (_, value) = Attributes::new(attributes).find(|(kind, _)| *kind == LINK_64)?;
    let number = |place: usize| Some(u64::from_ne_bytes(*value.get(place * 8..)?.first_chunk()?));
    Some(DeviceCounters { received: number(2)?, sent: number(3)? })
}

#[cfg(test)]
mod tests {
    use super::super::attributes::put;
    use super::*;

    #[test]
    fn the_loopback_device_counts_and_a_missing_one_is_none() {
        let mut reader = CounterReader::open().unwrap();
        assert!(reader.read(1).unwrap().is_some());
        assert_eq!(reader.read(u32::MAX / 2).unwrap(), None);
        assert!(reader.read(1).unwrap().is_some());
    }

    #[test]
    fn both_directions_are_read_and_anothers_answer_or_a_cut_one_is_not() {
        let answer = answer(7);
        let expected = DeviceCounters { received: 5_000_000_000, sent: 6 };
        assert_eq!(read_answer(&answer, 7), Some(Ok(expected)));
        assert_eq!(read_answer(&answer, 8), None);
        assert!((0..answer.len() - 4).all(|length| read_answer(&answer[..length], 7).is_none()));
    }

    fn answer(sequence: u32) -> Vec<u8> {
        let mut answer = request(sequence, 3);
        answer[4..6].copy_from_slice(&RTM_NEWSTATS.to_ne_bytes());
        let numbers: Vec<u8> = [1_u64, 2, 5_000_000_000, 6].into_iter().flat_map(u64::to_ne_bytes).collect();
        put(&mut answer, LINK_64, &numbers);
        message::finish(answer)
    }
}
