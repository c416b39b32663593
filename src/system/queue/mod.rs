//! Packets that the kernel holds for a decision.
//!
//! A queue belongs to the socket that bound it, a socket to one worker thread.
//! [`PacketQueue`] is what a worker needs of it; [`batch`] is the way to have it, [`nfq`] another,
//! simpler and slower, to compare with.
//! All queues are opened and configured before the firewall sends anything
//! there: a configuration call while packets flow throws packets away.

mod answer;
pub mod batch;
pub mod counters;
mod descriptor;
mod message;
pub mod nfq;
mod socket;

use std::io;
use std::time::Duration;

/// The longest wait for a packet; who takes packets shows that he is alive at least this often.
pub const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Bytes of each packet that come along: a datagram as long as most links allow, whole,
/// and the largest DNS answers that are usual (4,096 bytes are rare, 1,232 the rule).
pub const A_PACKET: u16 = 2048;

/// As many bytes as there may be: several datagrams or segments that came as one (GRO).
pub const SEVERAL_PACKETS: u16 = u16::MAX;

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

/// What a turn at the queue came to; all zero: nothing waited until the time-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// Packets that were taken.
    pub packets: u32,
    /// Packets that were answered before and that the kernel no longer knew (their device went down, say).
    pub refused: u32,
    /// How often the socket's buffer was full for a moment; the kernel let packets past the queue.
    pub overruns: u32,
}

impl Turn {
    /// Whether nothing came of it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        *self == Turn::default()
    }
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
