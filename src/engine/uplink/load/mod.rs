//! How full the lines are: what each carries, what it could carry, and how many flows share it.
//!
//! A [`Meter`] per line turns what can be seen from outside (byte counters, the time that answers take,
//! how many flows move bytes) into a [`Load`]. All loads of one moment, and what probes measured, are
//! [`Lines`], which workers decide by until the next moment's, a fraction of a second later.
//!
//! What a policy wants to know is what a new flow would get. Most bytes belong to flows
//! that take all that there is, and those that meet on a full line share it about equally (TCP; queues that are
//! fair make it exact). So a flow that begins on a line of capacity `C`, of which the flows there take `r`,
//! and which `n` of them share, gets about
//!
//! ```text
//! max(C - r, C / (n + 1))
//! ```
//!
//! The first is what nobody uses: a line half full of calls has half of itself left, however many they are.
//! The second is its part of a line that is full: one download leaves the next one half. Neither is enough alone.
//! Lines whose flows are downloads are either idle or full: by the spare capacity alone all full lines look alike,
//! though one has two flows and another twenty. By the number of flows alone a hundred calls look like a hundred downloads.
//!
//! A full line has something else against it: what begins there waits in its queue, for each of its first answers, and most
//! flows end before they come to more. So the offer is what a flow of a usual size `S` gets on the whole, who waits `d` in
//! the queue `k` times (connection, request, and the first rounds of TCP's slow start) before its rate tells:
//!
//! ```text
//! S / (S / rate + k d)
//! ```
//!
//! `n` is the number of flows that count, as [`Crowd`] does it: from the bytes that each connection has moved
//! of late, which the kernel counts. Flows that just began do not show there yet. Those that anybody
//! decided until the moment of the snapshot are in [`Lane::begun`]; those that the worker has decided since then it
//! counts itself. Workers write nothing that others read: what the others decided
//! is at most one snapshot old.

mod crowd;
mod delay;
mod gauge;
mod meter;

pub use crowd::Crowd;
pub use meter::Meter;

use std::time::Duration;

use super::UplinkId;
use super::health::Estimates;
use crate::engine::flow::FlowKey;
use crate::engine::packet::Family;

/// Whether a flow may come to anything: questions for names and for the time, pings and their like
/// outnumber all others, and no line is full of them.
#[must_use]
pub fn counts(flow: &FlowKey) -> bool {
    match flow.protocol {
        ICMP | ICMPV6 => false,
        UDP => !SMALL.contains(&flow.dst_port),
        _ => true,
    }
}

/// IP protocol numbers (IANA).
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const UDP: u8 = 17;
/// Ports of DNS and NTP (IANA).
const SMALL: [u16; 2] = [53, 123];

/// Seen from the LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// From the internet.
    #[default]
    Down,
    /// To the internet.
    Up,
}

impl Direction {
    /// The one against it.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Direction::Down => Direction::Up,
            Direction::Up => Direction::Down,
        }
    }
}

/// One value for each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Both<T> {
    /// From the internet.
    pub down: T,
    /// To the internet.
    pub up: T,
}

impl<T> Both<T> {
    /// That of one direction.
    #[must_use]
    pub fn of(&self, direction: Direction) -> &T {
        match direction {
            Direction::Down => &self.down,
            Direction::Up => &self.up,
        }
    }

    /// The same done to both.
    pub fn map<U>(self, mut of: impl FnMut(T) -> U) -> Both<U> {
        Both { down: of(self.down), up: of(self.up) }
    }
}

/// What a line can carry in one direction, in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Capacity {
    /// It has not carried enough yet to tell.
    #[default]
    Unknown,
    /// It has carried this much, and was not seen to be full.
    AtLeast(u64),
    /// It carried this much when it was full.
    Measured(u64),
    /// The owner says so.
    Given(u64),
}

impl Capacity {
    /// The number, where there is one.
    #[must_use]
    pub fn bytes(self) -> Option<u64> {
        match self {
            Capacity::Unknown => None,
            Capacity::AtLeast(bytes) | Capacity::Measured(bytes) | Capacity::Given(bytes) => Some(bytes),
        }
    }
}

/// One direction of a line.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Lane {
    /// What it carries, in bytes per second, over about the last sixth of a second.
    pub rate: u64,
    /// What it can carry.
    pub capacity: Capacity,
    /// Whether it carries all it can; `None`: nothing tells.
    pub is_full: Option<bool>,
    /// How many flows share it, as [`Crowd`] counts: not a whole number.
    pub flows: f64,
    /// Flows that were decided for the line and are too young to show in `rate` and `flows`.
    pub begun: f64,
    /// What one of the line's flows takes, in bytes per second, on average over the last minute or so; `None`: not known yet.
    pub each: Option<u64>,
    /// How long answers wait in the line's queue, whichever direction has it; 0 where it has none.
    pub queue: Duration,
}

/// What flows have moved when they end, in bytes, on average: most move little, and few nearly all.
const USUAL: f64 = 400_000.0;
/// How often the usual flow waits for an answer.
const WAITS: f64 = 4.0;

impl Lane {
    /// What a new flow would get, in bytes per second, if the line could carry `capacity` and `since` more flows had begun
    /// since the lane was looked at.
    #[must_use]
    pub fn offer(&self, capacity: f64, since: f64) -> f64 {
        let young = self.begun + since;
        let spare = if self.is_full == Some(true) { 0.0 } else { capacity - self.rate as f64 };
        let rate = f64::max(spare / (young + 1.0), capacity / (self.flows + young + 1.0));
        if self.queue.is_zero() {
            return rate;
        }
        USUAL / (USUAL / rate + WAITS * self.queue.as_secs_f64())
    }
}

/// Both directions of a line.
pub type Load = Both<Lane>;

/// How all lines are at one moment. Immutable, like all that workers decide by.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lines {
    /// Another number for each moment: workers forget what they counted since the one before.
    pub moment: u64,
    /// By [`UplinkId`]; absent: nothing is known.
    pub loads: Vec<Load>,
    /// What probes measured of late, by [`UplinkId`] and by family, IPv4 first; absent: nothing.
    pub qualities: Vec<[Estimates; 2]>,
}

impl Lines {
    /// A direction of a line.
    #[must_use]
    pub fn lane(&self, uplink: UplinkId, direction: Direction) -> Option<&Lane> {
        self.loads.get(usize::from(uplink.0)).map(|load| load.of(direction))
    }

    /// What probes measured over a line in one family, where anybody answered them.
    #[must_use]
    pub fn quality(&self, uplink: UplinkId, family: Family) -> Option<&Estimates> {
        let of_line = self.qualities.get(usize::from(uplink.0))?;
        of_line.get(family as usize).filter(|estimates| estimates.latency.is_some())
    }
}
