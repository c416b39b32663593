//! The kernel's connection table: list it, mark and delete entries, hear of their ends.
//!
//! Blocking sockets, one for requests ([`Conntrack`]) and one for events
//! ([`Destroyed`]); both belong to a thread that may wait. nix opens them, as
//! it does all this in safe Rust; messages are built and read in [`message`].
//!
//! Of the kernel's habits: flows that began before somebody listened send no
//! event (`nf_conntrack_events=2`, the default), and count nothing unless
//! `nf_conntrack_acct` was on before they began.

pub mod message;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags, NetlinkAddr, sockopt};

pub use message::{Counters, Ends, Flow, Mark, Tuple};
use message::{Kind, Message, messages};

use super::sockets::{SockProtocol, open, receive};

/// A socket for requests to the connection table, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Conntrack {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What became of a request about one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// The flow had ended already.
    Gone,
}

/// Hears of flows that ended, with their counters.
#[derive(Debug)]
pub struct Destroyed {
    socket: OwnedFd,
    buffer: Vec<u8>,
    overruns: u64,
}

/// The kernel makes dump messages of at most 32 KiB (`netlink_dump`, net/netlink/af_netlink.c).
const BUFFER: usize = 64 * 1024;

/// Connections of the calling thread's network namespace, and places of the table that all namespaces share
/// (net/netfilter/nf_conntrack_standalone.c).
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const BUCKETS: &str = "/proc/sys/net/netfilter/nf_conntrack_buckets";

/// So many places, empty or not, take the kernel as long as one connection takes it to tell and us to hear: 262,144 empty
/// ones took 6 ms, a connection 0.3 µs.
const BUCKETS_PER_CONNECTION: u32 = 13;

/// A request is answered within its own system call; this only keeps a bug from hanging us.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// `NFNLGRP_CONNTRACK_DESTROY` (3) as a bit, include/uapi/linux/netfilter/nfnetlink_compat.h.
const DESTROY_GROUP: u32 = 1 << 2;

/// What it takes to list all connections, in those that could be told in that time; `None` where the kernel does not
/// tell.
#[must_use]
pub fn effort() -> Option<u32> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim_end().parse::<u32>().ok();
    Some(number(COUNT)?.saturating_add(number(BUCKETS)? / BUCKETS_PER_CONNECTION))
}

impl Conntrack {
    /// Opens the socket; needs `CAP_NET_ADMIN` in the namespace once it is used.
    ///
    /// # Errors
    /// When no socket is to be had.
    pub fn open() -> io::Result<Self> {
        let socket = open(SockProtocol::NetlinkNetFilter, 0, ANSWER_TIMEOUT)?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Tells `each` of all flows, or of those with this mark.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn dump(&mut self, of: Option<Mark>, mut each: impl FnMut(Flow)) -> io::Result<()> {
        self.request(|sequence| message::dump(sequence, of), &mut each)
    }

    /// The flow that its opener wrote so, if there is one.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn find(&mut self, orig: &Tuple) -> io::Result<Option<Flow>> {
        let mut found = None;
        let asked = self.request(|sequence| message::get(sequence, orig), &mut |flow| found = Some(flow));
        Ok(if outcome(asked)? == Outcome::Done { found } else { None })
    }

    /// Sets the bits of the flow's mark that `mark.mask` names to those of `mark.value`.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn set_mark(&mut self, flow: &Flow, mark: Mark) -> io::Result<Outcome> {
        outcome(self.request(|sequence| message::set_mark(sequence, flow, mark), &mut |_| {}))
    }

    /// Deletes all flows with this mark, in one step; all there are if its mask is empty.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn delete_marked(&mut self, mark: Mark) -> io::Result<()> {
        self.request(|sequence| message::delete_marked(sequence, mark), &mut |_| {})
    }

    /// Deletes one flow; a later one with the same addresses is spared if its id is another.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn delete(&mut self, flow: &Flow) -> io::Result<Outcome> {
        outcome(self.request(|sequence| message::delete(sequence, flow), &mut |_| {}))
    }

    fn request(&mut self, build: impl Fn(u32) -> Vec<u8>, each: &mut dyn FnMut(Flow)) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = build(self.sequence);
        socket::sendto(self.socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while Instant::now() < deadline {
            if self.answers(each)? {
                return Ok(());
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Reads one datagram; true when it held the end of the answer.
    fn answers(&mut self, each: &mut dyn FnMut(Flow)) -> io::Result<bool> {
        let length = match receive(&self.socket, &mut self.buffer) {
            Ok(length) => length,
            Err(error) if is_silence(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        for Message { kind, sequence } in messages(&self.buffer[..length]) {
            match kind {
                _ if sequence != self.sequence => {}
                Kind::Flow(flow) => each(flow),
                Kind::End(0) => return Ok(true),
                Kind::End(errno) => return Err(io::Error::from_raw_os_error(errno)),
                Kind::Destroyed(_) | Kind::Unknown => {}
            }
        }
        Ok(false)
    }
}

impl Destroyed {
    /// Starts to listen; `receive_buffer` is in bytes, `timeout` is how long [`Self::receive`] waits.
    ///
    /// # Errors
    /// When no socket is to be had.
    pub fn listen(receive_buffer: usize, timeout: Duration) -> io::Result<Self> {
        let socket = open(SockProtocol::NetlinkNetFilter, DESTROY_GROUP, timeout)?;
        enlarge(&socket, receive_buffer)?;
        Ok(Self { socket, buffer: vec![0; BUFFER], overruns: 0 })
    }

    /// Waits for flows to end, at most for the time-out, and tells `each` of them.
    ///
    /// # Errors
    /// When the socket is broken; neither silence nor an overrun is an error.
    pub fn receive(&mut self, mut each: impl FnMut(Flow)) -> io::Result<()> {
        let length = match receive(&self.socket, &mut self.buffer) {
            Ok(length) => length,
            Err(error) => return self.nothing_heard(error),
        };
        for message in messages(&self.buffer[..length]) {
            if let Kind::Destroyed(flow) = message.kind {
                each(flow);
            }
        }
        Ok(())
    }

    /// How often events were lost because they were not fetched in time.
    #[must_use]
    pub fn overruns(&self) -> u64 {
        self.overruns
    }

    fn nothing_heard(&mut self, error: io::Error) -> io::Result<()> {
        if error.raw_os_error() == Some(Errno::ENOBUFS as i32) {
            self.overruns += 1;
            return Ok(());
        }
        if is_silence(&error) { Ok(()) } else { Err(error) }
    }
}

fn outcome(result: io::Result<()>) -> io::Result<Outcome> {
    match result {
        Ok(()) => Ok(Outcome::Done),
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(Outcome::Gone),
        Err(error) => Err(error),
    }
}

/// Past `rmem_max` only the true root may go; in a user namespace we get what everybody gets.
fn enlarge(socket: &OwnedFd, receive_buffer: usize) -> nix::Result<()> {
    match socket::setsockopt(socket, sockopt::RcvBufForce, &receive_buffer) {
        Err(Errno::EPERM) => socket::setsockopt(socket, sockopt::RcvBuf, &receive_buffer),
        forced => forced,
    }
}

/// The time-out of the socket passed, or a signal came.
fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
