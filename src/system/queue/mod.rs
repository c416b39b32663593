//! Packets that the kernel holds for a decision.
//!
//! A queue belongs to the socket that bound it, a socket to one worker thread.
//! [`PacketQueue`] is what a worker needs of it; [`nfq`] is one way to have it.
//! All queues are opened and configured before the firewall sends anything
//! there: a configuration call while packets flow throws packets away.

pub mod counters;
mod descriptor;
pub mod nfq;

use std::io;

/// A packet that waits for its verdict.
#[derive(Debug, Clone, Copy)]
pub struct Waiting<'a> {
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
    /// Takes what waits, or waits up to the time-out, and answers all that it took.
    ///
    /// # Errors
    /// When the socket is broken; a worker cannot go on then.
    fn turn(&mut self, decide: &mut dyn FnMut(&Waiting<'_>) -> Verdict) -> io::Result<Turn>;
}
