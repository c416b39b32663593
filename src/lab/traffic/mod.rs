//! Traffic makers: each sends what it is told, waits for answers within bounds, and reports per flow.
//!
//! All use real sockets of the machine they run on, so that its kernel does
//! what a client's kernel does. Answers are expected from a [`super::server`].

pub mod craft;
mod pace;
mod ping;
mod raw;
mod tcp;
mod transfer;
mod udp;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

pub use pace::Pace;
pub use ping::{PingOutcome, Pings};
pub use raw::send_packets;
pub use tcp::TcpFlows;
pub use transfer::{RunningTransfer, Stall, Transfer, TransferReport};
pub use udp::{UdpAnswers, UdpFlows};

/// What became of one flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowOutcome {
    /// Which of the flows it was, counted from 0.
    pub index: usize,
    /// The client's end, where it got that far.
    pub local: Option<SocketAddr>,
    /// The source addresses the server saw, each once; a flow that was balanced well has one.
    pub seen_as: Vec<SocketAddr>,
    /// Answers to datagrams; 1 for a TCP connection that worked.
    pub answers: usize,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// What became of many flows.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Each flow, in the order in which they began.
    pub flows: Vec<FlowOutcome>,
}

impl Report {
    /// How many flows did what was asked of them.
    #[must_use]
    pub fn succeeded(&self) -> usize {
        self.flows.iter().filter(|flow| flow.failure.is_none()).count()
    }

    /// How many flows failed, by reason.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<&str, usize> {
        let mut reasons = BTreeMap::new();
        let failures = self.flows.iter().filter_map(|flow| flow.failure.as_deref());
        failures.for_each(|reason| *reasons.entry(reason).or_default() += 1);
        reasons
    }

    /// How many flows the server saw from each address.
    #[must_use]
    pub fn by_source(&self) -> BTreeMap<IpAddr, usize> {
        let mut sources = BTreeMap::new();
        let seen = self.flows.iter().flat_map(|flow| &flow.seen_as);
        seen.for_each(|source| *sources.entry(source.ip()).or_default() += 1);
        sources
    }
}

/// Counters of running traffic, for those who watch it.
#[derive(Debug, Default)]
pub struct Tally {
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    /// Flows that have ended well.
    #[must_use]
    pub fn succeeded(&self) -> u64 {
        self.succeeded.load(Ordering::Relaxed)
    }

    /// Flows that have failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn count(&self, failure: Option<&str>) {
        let counter = if failure.is_some() { &self.failed } else { &self.succeeded };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
