//! What the threads of the daemon share: the snapshot to decide by, and numbers.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwap;
use crossbeam_channel::Sender;

use super::accounts::{Account, key};
use crate::config::MAX_WORKERS;
use crate::engine::flow::{Arrival, Facts, FlowKey, LanId, LocalTime, Mac, Millis};
use crate::engine::gate::{Progress, is_stale};
use crate::engine::names::Names;
use crate::engine::rule::model::RuleId;
use crate::engine::sticky::Choices;
use crate::engine::verdict::{Action, Decision, Marks, Reason};
use crate::engine::{self, Decided, Now, hold, watching};
use crate::plan::workers::Workers;
use crate::system::clock;
use crate::system::conntrack::Flow;
use crate::system::queue::{Turn, Verdict, Waiting};

/// A flow was decided.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// When, in monotonic milliseconds.
    pub at: u64,
    /// The flow.
    pub key: FlowKey,
    /// Where it came in; `None`: from the router itself.
    pub lan: Option<LanId>,
    /// What was decided, and why.
    pub decision: Decision,
}

/// What a worker needs to know about the machine: replaced whole when anything changes.
#[derive(Debug, Clone)]
pub struct Deciding {
    /// Rules and usable uplinks.
    pub snapshot: engine::Snapshot,
    /// Kernel indices of the LAN interfaces, by [`LanId`]; 0 for one that is missing.
    pub lan: Vec<u32>,
    /// Mark bits.
    pub marks: Marks,
    /// Number of the queue in which flows wait for their names.
    pub watch_queue: u16,
    /// By which rules and lines the kernel may decide itself.
    pub alone: HashSet<Account>,
    /// The lines' addresses.
    pub addresses: Vec<IpAddr>,
}

impl Deciding {
    /// The LAN interface with this kernel index.
    #[must_use]
    pub fn lan(&self, device: u32) -> Option<LanId> {
        let place = self.lan.iter().position(|&index| index == device && index != 0)?;
        u8::try_from(place).ok().map(LanId)
    }

    /// How a packet came in.
    #[must_use]
    pub fn arrival(&self, packet: &Waiting<'_>, stale: bool) -> Arrival {
        Arrival {
            lan: self.lan(packet.in_device),
            src_mac: packet.hardware_address.and_then(|bytes| bytes.try_into().ok()).map(Mac),
            stale,
        }
    }

    /// What a flow counts under that the kernel decided itself: the first rule that may have sent it by its line. Flows
    /// from outside and the router's own are not among them.
    #[must_use]
    pub fn decided_alone(&self, flow: &Flow) -> Option<Account> {
        let uplink = self.marks.uplink(flow.mark).filter(|_| !self.alone.is_empty())?;
        if [flow.orig.src, flow.orig.dst].iter().any(|end| self.addresses.contains(end)) {
            return None;
        }
        let facts = self.snapshot.placed(Facts::about(key(&flow.orig)));
        let mut start = Some(RuleId(0));
        while let Some(id) = start.and_then(|start| self.snapshot.rules.first_match_from(start, &facts)) {
            if self.alone.contains(&(Some(id), uplink)) {
                return Some((Some(id), uplink));
            }
            start = id.0.checked_add(1).map(RuleId);
        }
        self.alone.get(&(None, uplink)).copied()
    }

    /// The answer for a packet with this mark.
    #[must_use]
    pub fn verdict(&self, decision: &Decision, mark: u32) -> Verdict {
        let watched = if decision.watch { self.marks.watched } else { 0 };
        match decision.action {
            Action::Route(uplink) => Verdict::Mark(self.marks.decided(mark, uplink) | watched),
            Action::Keep => Verdict::Keep,
            Action::Drop => Verdict::Drop,
            Action::Reject => Verdict::Mark(self.marks.refuse(mark)),
            Action::Hold(_) => Verdict::HandOver(self.watch_queue),
        }
    }
}

/// Shared by all threads.
#[derive(Debug)]
pub struct Shared {
    /// What to decide by.
    pub deciding: ArcSwap<Deciding>,
    /// Until when the gate is known to be open, in monotonic milliseconds; later answers are stale.
    pub open_until: AtomicU64,
    /// How often the gate closed by itself.
    pub lapses: AtomicU64,
    /// Workers end their work.
    pub stop: AtomicBool,
    /// One for each worker that there can be.
    tallies: Vec<Tally>,
    /// How many workers there are.
    active: AtomicUsize,
    /// The CPU that each is bound to; empty: none is.
    pub cpus: ArcSwap<Vec<Option<u16>>>,
    /// Of the thread that hears DNS answers.
    pub listener: Tally,
    /// Of the thread that watches flows until they have said their names.
    pub watcher: Tally,
    /// What became of the flows that it held.
    pub holds: ArcSwap<hold::Counts>,
    /// What was heard of TCP connections.
    pub heard: ArcSwap<watching::Counts>,
    /// Names of addresses; outlive reloads.
    pub names: Arc<Names>,
    /// Choices that outlive their flows, and reloads.
    pub choices: Arc<Choices>,
    local_time: AtomicU32,
}

/// What one worker counts; on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Tally {
    turns: AtomicU64,
    idle: AtomicU64,
    /// Packets answered.
    pub packets: AtomicU64,
    /// Flows decided.
    pub flows: AtomicU64,
    /// Verdicts the kernel refused, and receive errors.
    pub errors: AtomicU64,
    /// Decisions that could not be passed on for the accounts, because the channel was full.
    pub untold: AtomicU64,
    reasons: [AtomicU64; Reason::ALL.len()],
}

impl Shared {
    /// Without workers.
    #[must_use]
    pub fn new(deciding: Deciding) -> Self {
        Self {
            open_until: AtomicU64::new(0),
            lapses: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            tallies: std::iter::repeat_with(Tally::default).take(MAX_WORKERS.into()).collect(),
            active: AtomicUsize::new(0),
            cpus: ArcSwap::default(),
            listener: Tally::default(),
            watcher: Tally::default(),
            holds: ArcSwap::default(),
            heard: ArcSwap::default(),
            names: Arc::clone(&deciding.snapshot.names),
            choices: Arc::clone(&deciding.snapshot.choices),
            deciding: ArcSwap::from_pointee(deciding),
            local_time: AtomicU32::new(0),
        }
    }

    /// Both times now, and whether an answer may come too late.
    #[must_use]
    pub fn now(&self) -> (Now, bool) {
        let at = clock::monotonic_ms();
        (Now { at: Millis(at), local: self.local_time() }, is_stale(at, self.open_until.load(Relaxed)))
    }

    /// The local time, as last set.
    #[must_use]
    pub fn local_time(&self) -> LocalTime {
        let packed = self.local_time.load(Relaxed);
        LocalTime { weekday: (packed >> 16) as u8, minute: packed as u16 }
    }

    /// Sets the local time for rules that ask for it.
    pub fn set_local_time(&self, now: LocalTime) {
        self.local_time.store(u32::from(now.weekday) << 16 | u32::from(now.minute), Relaxed);
    }

    /// What each worker counts.
    #[must_use]
    pub fn workers(&self) -> &[Tally] {
        self.tallies.get(..self.active.load(Relaxed)).unwrap_or_default()
    }

    /// These are the workers now, at most [`MAX_WORKERS`].
    pub fn set_workers(&self, workers: &Workers) {
        self.active.store(usize::from(workers.count).min(self.tallies.len()), Relaxed);
        self.cpus.store(Arc::new(workers.cpus.clone()));
    }

    /// How far every thread with a queue has come.
    #[must_use]
    pub fn progress(&self) -> Vec<Progress> {
        self.workers().iter().chain([&self.listener, &self.watcher]).map(Tally::progress).collect()
    }

    /// How often a reason was given.
    #[must_use]
    pub fn reason_count(&self, reason: Reason) -> u64 {
        let tallies = self.tallies.iter().chain([&self.watcher]);
        tallies.map(|tally| tally.reasons[reason.index()].load(Relaxed)).sum()
    }
}

impl Tally {
    /// Counts what a turn came to. `waits`: packets that were taken before are not answered yet.
    ///
    /// # Errors
    /// When the queue is broken.
    pub fn turned(&self, turn: io::Result<Turn>, waits: bool) -> io::Result<()> {
        let turn = turn?;
        add(&self.errors, u64::from(turn.refused + turn.overruns));
        if turn.packets > 0 {
            self.turn(false);
        } else if turn.is_idle() {
            self.turn(!waits);
        }
        Ok(())
    }

    /// Counts a turn at the queue.
    fn turn(&self, found_nothing: bool) {
        if found_nothing {
            add(&self.idle, 1);
        }
        add(&self.turns, 1);
    }

    /// Passes on that a flow was decided, or counts that this could not be done.
    pub fn tell(&self, events: &Sender<Event>, event: Event) {
        if events.try_send(event).is_err() {
            add(&self.untold, 1);
        }
    }

    /// Counts a packet and what was decided.
    pub fn decided(&self, decided: &Decided) {
        add(&self.packets, 1);
        add(&self.reasons[decided.decision.reason.index()], 1);
        if decided.first {
            add(&self.flows, 1);
        }
    }

    fn progress(&self) -> Progress {
        // Turns first: an idle turn counted between the two reads is one turn too few, never one too many.
        Progress { turns: self.turns.load(Relaxed), idle: self.idle.load(Relaxed) }
    }
}

/// Each counter has one writer, so no locked instruction is needed.
pub fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed) + amount, Relaxed);
}
