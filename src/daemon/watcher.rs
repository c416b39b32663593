//! One thread with a queue of its own: flows wait here until their clients have said their names.
//!
//! Workers hand over the packets of such flows, and nobody else's wait behind them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::cache::Cache;
use crossbeam_channel::Sender;

use super::shared::{Deciding, Shared};
use super::worker::Event;
use crate::engine::Now;
use crate::engine::hold::{Holding, MOST_PACKETS, Release, Ticket};
use crate::system::queue::{LONGEST_WAIT, PacketQueue, Turn, Waiting};

/// Flows that began in the last seconds and are remembered.
const FLOWS: usize = 65_536;

/// Packets that are taken before it is looked whose time is over: what has come in time counts, even
/// where this thread is late.
const AT_ONCE: u32 = 64;

/// Starts to watch.
///
/// # Errors
/// When no thread can be started.
pub fn start(
    queue: Box<dyn PacketQueue>,
    shared: Arc<Shared>,
    events: Sender<Event>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("watcher".into()).spawn(move || {
        let watcher = Watcher { queue, holding: Holding::new(FLOWS, MOST_PACKETS), events };
        if let Err(error) = watcher.watch(&shared) {
            tracing::error!("no flow can wait for its name, the queue is broken: {error}");
        }
    })
}

struct Watcher {
    queue: Box<dyn PacketQueue>,
    holding: Holding,
    events: Sender<Event>,
}

impl Watcher {
    /// Until told to stop; a broken socket ends it too, and the gate with it.
    fn watch(mut self, shared: &Shared) -> io::Result<()> {
        let mut deciding = Cache::new(&shared.deciding);
        let mut taken = 0;
        while !shared.stop.load(Relaxed) {
            let longest = self.time_left(shared.now().0);
            let holding = &mut self.holding;
            let mut release = None;
            let turn = self.queue.turn(longest, &mut |packet| {
                // Looked at for each packet: a turn may have waited long for its first.
                release = take(holding, packet, deciding.load(), shared);
                None
            });
            if let Some(release) = release {
                self.answer(&release, deciding.load(), shared)?;
            }
            taken = if matches!(turn, Ok(Turn::Idle)) { 0 } else { (taken + 1) % AT_ONCE };
            shared.watcher.turned(turn, self.holding.next_deadline().is_some())?;
            if taken == 0 {
                self.expire(deciding.load(), shared)?;
            }
            self.tell_counts(shared);
        }
        Ok(())
    }

    /// Answers all whose time is over.
    fn expire(&mut self, deciding: &Deciding, shared: &Shared) -> io::Result<()> {
        let (now, stale) = shared.now();
        while let Some(release) = self.holding.expire(&deciding.snapshot, stale, now) {
            self.answer(&release, deciding, shared)?;
        }
        Ok(())
    }

    /// How long a packet may be waited for.
    fn time_left(&self, now: Now) -> Duration {
        let left = |deadline: u64| Duration::from_millis(deadline.saturating_sub(now.at.0));
        self.holding.next_deadline().map_or(LONGEST_WAIT, |deadline| left(deadline.0))
    }

    fn answer(&mut self, release: &Release, deciding: &Deciding, shared: &Shared) -> io::Result<()> {
        let Release { decided, arrival, packets } = release;
        let tally = &shared.watcher;
        if let (true, Some(key)) = (decided.first, decided.key) {
            let at = shared.now().0.at.0;
            tally.tell(&self.events, Event { at, key, lan: arrival.lan, decision: decided.decision });
        }
        let mut decided = *decided;
        for ticket in packets {
            tally.decided(&decided);
            decided = decided.and_again();
            self.queue.answer(ticket.id, deciding.verdict(decided.decision.action, ticket.mark))?;
        }
        Ok(())
    }

    fn tell_counts(&self, shared: &Shared) {
        let counts = self.holding.counts();
        if **shared.holds.load() != counts {
            shared.holds.store(Arc::new(counts));
        }
    }
}

fn take(
    holding: &mut Holding,
    packet: &Waiting<'_>,
    deciding: &Deciding,
    shared: &Shared,
) -> Option<Release> {
    let (now, stale) = shared.now();
    let ticket = Ticket { id: packet.id, mark: packet.mark };
    holding.take(&deciding.snapshot, packet.bytes, ticket, &deciding.arrival(packet, stale), now)
}
