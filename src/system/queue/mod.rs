//! Packets that the kernel holds for a decision.
//!
//! A queue belongs to the socket that bound it, a socket to one worker thread.
//! [`PacketQueue`] is what a worker needs of it; [`nfq`] is one way to have it.
//! All queues are opened and configured before the firewall sends anything
//! there: a configuration call while packets flow throws packets away.

mod answer;
pub mod counters;
mod descriptor;
pub mod nfq;

use std::io;
use std::time::Duration;

/// The longest wait for a packet; who takes packets shows that he is alive at least this often.
pub const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// A packet that waits for its verdict.
#[derive(Debug, Clone, Copy)]
pub struct Waiting<'a> {
    /// The queue's number for it, by which it can be answered later.
    pub id: u32,
    /// The IP packet, cut at the queue's copy range.
    pub bytes: &'a [u8],
    /// Its mark, with the kernel's choice of uplink in it.
    pub mark: u32,
    /// Kernel index of the device it came in by; 0 for the router's own.
    pub in_device: u32,
    /// The sender's hardware address, where the device has such.
    pub hardware_address: Option<&'a [u8]>,
}

/// The answer for one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on, with this mark.
    Mark(u32),
    /// Go on as it is.
    Keep,
    /// Be dropped.
    Drop,
    /// Wait in the queue of this number instead; go on as it is where nobody listens there.
    HandOver(u16),
}

/// What a turn at the queue came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// This many packets were answered.
    Answered(usize),
    /// Nothing waited until the time-out.
    Idle,
    /// The kernel no longer knew a packet that was answered before (its device went down, say).
    Refused,
    /// The socket's buffer was full for a moment; the kernel let packets past the queue.
    Overrun,
}

/// A queue of waiting packets with a bounded wait.
pub trait PacketQueue: Send {
    /// Takes what waits, or waits up to `longest` and at most [`LONGEST_WAIT`], and answers all that it
    /// took but what gets no verdict: that is answered later.
    ///
    /// # Errors
    /// When the socket is broken; a worker cannot go on then.
    fn turn(
        &mut self,
        longest: Duration,
        decide: &mut dyn FnMut(&Waiting<'_>) -> Option<Verdict>,
    ) -> io::Result<Turn>;

    /// Answers a packet that was taken before.
    ///
    /// # Errors
    /// When the socket is broken. What the kernel has to say comes with a later turn.
    fn answer(&mut self, id: u32, verdict: Verdict) -> io::Result<()>;
}
