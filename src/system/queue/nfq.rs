//! A queue over the `nfq` crate, which receives; one packet a turn. What [`super::batch`] is compared with.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use nfq::{Message, Queue};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};

use super::answer::Answer;
use super::{LONGEST_WAIT, PacketQueue, Turn, Verdict, Waiting};
use super::{counters, descriptor, socket};

/// One bound and configured queue.
pub struct NfqQueue {
    queue: Queue,
    descriptor: RawFd,
    number: u16,
}

impl NfqQueue {
    /// Binds queue `number` and configures it for at most `length` waiting packets, of each of which
    /// the first `range` bytes come along.
    ///
    /// # Errors
    /// When the kernel lacks NFQUEUE, the caller lacks `CAP_NET_ADMIN`, or another program has the queue.
    pub fn open(number: u16, length: u32, range: u16) -> io::Result<Self> {
        let mut queue = Queue::open()?;
        queue.bind(number)?;
        let descriptor = descriptor_of(number)
            .ok_or_else(|| io::Error::other("the queue's socket was not found in /proc/self/fd"))?;
        ask_for_packets(&mut queue, number, length, range)?;
        descriptor::configure(descriptor, LONGEST_WAIT)?;
        socket::make_room(descriptor::borrow(descriptor), length)?;
        Ok(Self { queue, descriptor, number })
    }
}

/// The descriptor of the socket that bound this queue; other threads open and close others meanwhile.
fn descriptor_of(number: u16) -> Option<RawFd> {
    let port = counters::read().into_iter().find(|queue| queue.number == number)?.port;
    descriptor::netfilter_socket(port)
}

/// Fail-open lets packets pass when the queue is full; whole segmented packets
/// are taken, because some kernels drop the pieces of an unconfirmed flow.
fn ask_for_packets(queue: &mut Queue, number: u16, length: u32, range: u16) -> io::Result<()> {
    queue.set_copy_range(number, range)?;
    queue.set_queue_max_len(number, length)?;
    queue.set_recv_gso(number, true)?;
    queue.set_fail_open(number, true)
}

impl PacketQueue for NfqQueue {
    fn turn(
        &mut self,
        longest: Duration,
        decide: &mut dyn FnMut(&Waiting<'_>) -> Option<Verdict>,
    ) -> io::Result<Turn> {
        // The socket itself waits for as long as may be.
        let socket = descriptor::borrow(self.descriptor);
        if longest < LONGEST_WAIT && !socket::has_message_within(socket, longest)? {
            return Ok(Turn::default());
        }
        let message = match self.queue.recv() {
            Ok(message) => message,
            Err(error) => return nothing_received(error),
        };
        let waiting = waiting(&message);
        if let Some(verdict) = decide(&waiting) {
            self.answer(waiting.id, verdict)?;
        }
        Ok(Turn { packets: 1, ..Turn::default() })
    }

    fn answer(&mut self, id: u32, verdict: Verdict) -> io::Result<()> {
        send(self.descriptor, Answer::new(self.number, id, verdict).bytes(), MsgFlags::empty())?;
        Ok(())
    }
}

fn waiting(message: &Message) -> Waiting<'_> {
    Waiting {
        id: message.get_packet_id(),
        bytes: message.get_payload(),
        mark: message.get_nfmark(),
        in_device: message.get_indev(),
        hardware_address: message.get_hw_addr(),
    }
}

/// The kernel's complaint about an earlier verdict comes back from a later receive, and so does
/// the news that the socket's buffer was full (`ENOBUFS`, netlink(7)).
fn nothing_received(error: io::Error) -> io::Result<Turn> {
    if error.raw_os_error() == Some(Errno::ENOBUFS as i32) {
        return Ok(Turn { overruns: 1, ..Turn::default() });
    }
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {
            Ok(Turn::default())
        }
        io::ErrorKind::NotFound => Ok(Turn { refused: 1, ..Turn::default() }),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_buffer_and_a_packet_that_is_gone_end_no_worker_and_a_broken_socket_does() {
        let turn = |errno: Errno| nothing_received(io::Error::from_raw_os_error(errno as i32));
        assert_eq!(turn(Errno::ENOBUFS).unwrap().overruns, 1);
        assert_eq!(turn(Errno::ENOENT).unwrap().refused, 1);
        assert!(turn(Errno::EAGAIN).unwrap().is_idle());
        assert!(turn(Errno::EBADF).is_err());
    }
}
