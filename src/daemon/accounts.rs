//! Who used what: flows and bytes by rule and uplink, so that a rule can be tuned by what it does.
//!
//! Workers tell which rule decided a flow; the kernel counts its bytes and
//! tells its end. Flows in between are in one map, which both threads and the
//! status report share; it is bounded, and a flow that finds no room is only
//! missing from the byte counts. The map knows a flow by a hash of 64 bits with a
//! secret of this process: of a million flows two are taken for one by one chance
//! in thirty million, and then it is bytes that go to another rule's count.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use dashmap::DashMap;
use foldhash::quality::RandomState;

use super::load::Traffic;
use super::shared::{Deciding, Event, Shared};
use super::vigil::Vigil;
use crate::engine::flow::FlowKey;
use crate::engine::rule::model::RuleId;
use crate::engine::uplink::load;
use crate::engine::verdict::{Action, Decision};
pub use crate::plan::firewall::offload::Account;
use crate::system::clock;
use crate::system::conntrack::{Conntrack, Counters, Destroyed, Ends, Flow, Tuple};

/// Flows that are accounted for at one time, in about 40 MB when there are so many.
const MOST_FLOWS: usize = 1 << 20;
/// Decisions kept for "why did this flow go there?".
const RECENT: usize = 50;
/// TCP connections that ended, kept for [`Accounts::ended_since`].
const ENDED: usize = 16_384;
/// Room for news of ended flows, in bytes.
const NEWS_ROOM: usize = 4 << 20;
/// IP protocol number of TCP (IANA).
pub(super) const TCP: u8 = 6;
/// Decisions that are taken in at once, while nobody else can look at the books.
const TOGETHER: usize = 4096;
/// Between decisions and the next ones: a worker that tells one to who waits for it pays for waking him, each time.
const REST: Duration = Duration::from_millis(3);
/// How soon the threads hear that they shall end.
const PATIENCE: Duration = Duration::from_millis(200);

/// All accounts' sums.
pub type Sums = HashMap<Account, Sum, RandomState>;

/// Flows and bytes of one account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// Flows decided.
    pub flows: u64,
    /// Bytes in both directions.
    pub bytes: u64,
    /// When the last flow was decided, in monotonic milliseconds.
    pub last: u64,
}

/// All accounts, and the flows that still run.
#[derive(Default)]
pub struct Accounts {
    running: DashMap<u64, Account, RandomState>,
    names: RandomState,
    unaccounted: AtomicU64,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    sums: Sums,
    recent: VecDeque<Event>,
    /// With the monotonic milliseconds of their ends.
    ended: VecDeque<(u64, Flow)>,
}

/// The threads that keep the accounts; they end when it is dropped.
pub struct Bookkeeping {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Accounts {
    /// Starts to listen to workers, who tell the vigil and `traffic` too, and to the kernel, which tells nobody of
    /// flows that it decided itself: what is decided by, from `shared`, says what those count under. Where the kernel gives no
    /// news of ended flows, flows are counted and bytes are not.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn keep(
        self: &Arc<Self>,
        events: Receiver<Event>,
        mut vigil: Vigil,
        traffic: Arc<Traffic>,
        shared: Arc<Shared>,
    ) -> io::Result<Bookkeeping> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let (accounts, stopped) = (Arc::clone(self), Arc::clone(&stop));
        let decisions = thread::Builder::new().name("accounts".into());
        threads.push(decisions.spawn(move || {
            accounts.hear_decisions(&events, &mut vigil, &traffic, &stopped);
        })?);
        match Destroyed::listen(NEWS_ROOM, PATIENCE) {
            Ok(news) => {
                let (accounts, stopped) = (Arc::clone(self), Arc::clone(&stop));
                let ends = thread::Builder::new().name("ended-flows".into());
                threads.push(ends.spawn(move || accounts.hear_ends(news, &shared, &stopped))?);
            }
            Err(error) => tracing::warn!("bytes are not counted: no news of ended flows: {error}"),
        }
        Ok(Bookkeeping { stop, threads })
    }

    fn hear_decisions(
        &self,
        events: &Receiver<Event>,
        vigil: &mut Vigil,
        traffic: &Traffic,
        stop: &AtomicBool,
    ) {
        loop {
            match events.recv_timeout(PATIENCE) {
                Ok(first) => {
                    let together = std::iter::once(first).chain(events.try_iter().take(TOGETHER - 1));
                    self.decided(together.inspect(|event| {
                        vigil.decided(event);
                        if let Action::Route(uplink) = event.decision.action
                            && load::counts(&event.key)
                        {
                            traffic.began(uplink);
                        }
                    }));
                    thread::sleep(REST);
                }
                Err(RecvTimeoutError::Timeout) if !stop.load(Relaxed) => {}
                Err(_) => return,
            }
            vigil.look();
        }
    }

    fn decided(&self, events: impl Iterator<Item = Event>) {
        let mut room = MOST_FLOWS.saturating_sub(self.running.len());
        let mut books = self.books();
        for event in events {
            if let Some(account) = account(&event.decision) {
                if room == 0 {
                    self.unaccounted.fetch_add(1, Relaxed);
                } else if self.running.insert(self.name(&event.key), account).is_none() {
                    room -= 1;
                }
                let sum = books.sums.entry(account).or_default();
                sum.flows += 1;
                sum.last = event.at;
            }
            if books.recent.len() >= RECENT {
                books.recent.pop_back();
            }
            books.recent.push_front(event);
        }
    }

    fn hear_ends(&self, mut news: Destroyed, shared: &Shared, stop: &AtomicBool) {
        while !stop.load(Relaxed) {
            if let Err(error) = news.receive(|flow| self.ended(&flow, &shared.deciding.load())) {
                tracing::warn!("bytes are no longer counted: {error}");
                return;
            }
        }
    }

    fn ended(&self, flow: &Flow, deciding: &Deciding) {
        let told = self.running.remove(&self.name(&key(&flow.orig))).map(|(_, account)| account);
        let account = told.or_else(|| deciding.decided_alone(flow));
        let mut books = self.books();
        if let Some(account) = account {
            books.sums.entry(account).or_default().bytes += bytes(flow);
        }
        if flow.orig.protocol == TCP {
            books.ended.push_front((clock::monotonic_ms(), flow.clone()));
            books.ended.truncate(ENDED);
        }
    }

    /// Rules were loaded anew: their numbers mean other rules now.
    pub fn rules_changed(&self) {
        self.running.retain(|_, (rule, _)| rule.is_none());
        let mut books = self.books();
        books.sums.retain(|(rule, _), _| rule.is_none());
        books.recent.clear();
    }

    /// The rule that decided a flow, where one did and the flow is accounted for.
    #[must_use]
    pub fn decided_by(&self, flow: &FlowKey) -> Option<RuleId> {
        self.running.get(&self.name(flow)).and_then(|account| account.0)
    }

    /// The latest TCP connections that the kernel has forgotten since `then`, in monotonic
    /// milliseconds, for whatever reason.
    #[must_use]
    pub fn ended_since(&self, then: u64) -> Vec<Flow> {
        self.books().ended.iter().take_while(|(at, _)| *at >= then).map(|(_, flow)| flow.clone()).collect()
    }

    /// The latest decisions, newest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Event> {
        self.books().recent.iter().copied().collect()
    }

    /// All sums, the flows that still run included; and every marked connection, by mark.
    ///
    /// # Errors
    /// When the kernel's connection table cannot be read.
    pub fn sums(&self, deciding: &Deciding) -> io::Result<(Sums, HashMap<u32, u64>)> {
        let mut sums = self.books().sums.clone();
        let mut marked: HashMap<u32, u64> = HashMap::new();
        Conntrack::open()?.dump(None, |flow| {
            *marked.entry(flow.mark).or_default() += 1;
            let told = self.running.get(&self.name(&key(&flow.orig))).map(|account| *account);
            if let Some(account) = told.or_else(|| deciding.decided_alone(&flow)) {
                sums.entry(account).or_default().bytes += bytes(&flow);
            }
        })?;
        Ok((sums, marked))
    }

    fn name(&self, flow: &FlowKey) -> u64 {
        self.names.hash_one(flow)
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        // A thread that panicked while counting has left numbers, not nonsense.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Bookkeeping {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn account(decision: &Decision) -> Option<Account> {
    match decision.action {
        Action::Route(uplink) => Some((decision.rule, uplink)),
        Action::Keep | Action::Drop | Action::Reject | Action::Hold(_) => None,
    }
}

/// The flow's name as the engine has it, from the connection as its opener wrote it.
#[must_use]
pub fn key(orig: &Tuple) -> FlowKey {
    let (src_port, dst_port) = match orig.ends {
        Ends::None => (0, 0),
        Ends::Ports { src, dst } => (src, dst),
        Ends::Icmp { kind, code, id } => (id, u16::from_be_bytes([kind, code])),
    };
    FlowKey { src: orig.src, dst: orig.dst, protocol: orig.protocol, src_port, dst_port }
}

fn bytes(flow: &Flow) -> u64 {
    let of = |counters: Option<Counters>| counters.map_or(0, |counters| counters.bytes);
    of(flow.orig_counters) + of(flow.reply_counters)
}
