//! A queue over a netlink socket of our own: takes what waits, answers it by one system call.
//!
//! What an answer costs is the system call and the wake of the kernel's netlink, not its bytes: 16 in one
//! message cost half of what they cost one by one, and more than 16 gain nothing. No answer
//! waits for a packet that is not there yet: the first packet after a pause is
//! answered alone and at once, and only those that were found waiting are answered together.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockProtocol, recv, send};

use super::answer::{Answer, MOST};
use super::message::{Heard, bind, heard};
use super::{LONGEST_WAIT, PacketQueue, Turn, Verdict, Waiting, socket};
use crate::system::sockets;

/// Packets that are answered together at most.
const AT_ONCE: u32 = 16;
/// What comes with a packet in one message: the kernel puts no more than a page before it.
const AROUND_A_PACKET: usize = 4096;
/// The kernel acknowledges within the call that sends; packets may come before that.
const BEFORE_AN_ACKNOWLEDGEMENT: usize = 4096;

/// One bound and configured queue.
pub struct BatchQueue {
    socket: OwnedFd,
    number: u16,
    /// One message.
    buffer: Box<[u8]>,
    /// Answers that are not sent yet.
    answers: Vec<u8>,
    /// Messages that came before the queue was known to be configured.
    early: VecDeque<Vec<u8>>,
}

/// What a look into the socket brought.
enum Received {
    /// A message of this many bytes.
    Message(usize),
    Nothing,
    /// There was no room for a message.
    Overrun,
}

impl BatchQueue {
    /// Binds queue `number` and configures it for at most `length` waiting packets, of each of which
    /// the first `range` bytes come along.
    ///
    /// # Errors
    /// When the kernel lacks NFQUEUE, the caller lacks `CAP_NET_ADMIN`, or another program has the queue.
    pub fn open(number: u16, length: u32, range: u16) -> io::Result<Self> {
        let socket = sockets::open(SockProtocol::NetlinkNetFilter, 0, LONGEST_WAIT)?;
        socket::make_room(socket.as_fd(), length)?;
        let mut queue = BatchQueue {
            socket,
            number,
            buffer: vec![0; usize::from(range) + AROUND_A_PACKET].into(),
            answers: Vec::with_capacity(AT_ONCE as usize * MOST),
            early: VecDeque::new(),
        };
        queue.configure(&bind(number, length, range))?;
        Ok(queue)
    }

    fn configure(&mut self, message: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), message, MsgFlags::empty())?;
        for _ in 0..BEFORE_AN_ACKNOWLEDGEMENT {
            let Received::Message(length) = self.receive(MsgFlags::empty())? else { continue };
            for heard in heard(&self.buffer[..length]) {
                match heard {
                    Heard::Done(0) => return Ok(()),
                    Heard::Done(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    Heard::Packet(_) => self.early.push_back(self.buffer[..length].to_vec()),
                    Heard::Other => {}
                }
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel does not acknowledge the queue"))
    }

    /// What waits; else what comes within this time.
    fn first(&mut self, longest: Duration) -> io::Result<(Received, u32)> {
        if let Some(early) = self.early.pop_front() {
            self.buffer[..early.len()].copy_from_slice(&early);
            return Ok((Received::Message(early.len()), AT_ONCE));
        }
        match self.receive(MsgFlags::MSG_DONTWAIT)? {
            Received::Nothing => Ok((self.wait(longest)?, 1)),
            received => Ok((received, AT_ONCE)),
        }
    }

    /// The socket itself waits for as long as may be.
    fn wait(&mut self, longest: Duration) -> io::Result<Received> {
        if longest < LONGEST_WAIT && !socket::has_message_within(self.socket.as_fd(), longest)? {
            return Ok(Received::Nothing);
        }
        self.receive(MsgFlags::empty())
    }

    fn receive(&mut self, flags: MsgFlags) -> io::Result<Received> {
        match recv(self.socket.as_raw_fd(), &mut self.buffer, flags) {
            Ok(length) => Ok(Received::Message(length)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Received::Nothing),
            Err(Errno::ENOBUFS) => Ok(Received::Overrun),
            Err(error) => Err(error.into()),
        }
    }

    /// Answers what the message asks, but does not send it yet.
    fn take(
        &mut self,
        length: usize,
        turn: &mut Turn,
        decide: &mut dyn FnMut(&Waiting<'_>) -> Option<Verdict>,
    ) {
        for heard in heard(&self.buffer[..length]) {
            match heard {
                Heard::Packet(packet) => {
                    turn.packets += 1;
                    if let Some(verdict) = decide(&packet) {
                        self.answers.extend_from_slice(Answer::new(self.number, packet.id, verdict).bytes());
                    }
                }
                Heard::Done(0) | Heard::Other => {}
                Heard::Done(_) => turn.refused += 1,
            }
        }
    }

    fn send(&mut self) -> io::Result<()> {
        if !self.answers.is_empty() {
            send(self.socket.as_raw_fd(), &self.answers, MsgFlags::empty())?;
            self.answers.clear();
        }
        Ok(())
    }
}

impl PacketQueue for BatchQueue {
    fn turn(
        &mut self,
        longest: Duration,
        decide: &mut dyn FnMut(&Waiting<'_>) -> Option<Verdict>,
    ) -> io::Result<Turn> {
        let mut turn = Turn::default();
        let (mut received, most) = self.first(longest)?;
        loop {
            match received {
                Received::Message(length) => self.take(length, &mut turn, decide),
                Received::Overrun => turn.overruns += 1,
                Received::Nothing => break,
            }
            if turn.packets + turn.refused + turn.overruns >= most {
                break;
            }
            received = self.receive(MsgFlags::MSG_DONTWAIT)?;
        }
        self.send()?;
        Ok(turn)
    }

    fn answer(&mut self, id: u32, verdict: Verdict) -> io::Result<()> {
        send(self.socket.as_raw_fd(), Answer::new(self.number, id, verdict).bytes(), MsgFlags::empty())?;
        Ok(())
    }
}
