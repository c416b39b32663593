//! One thread, one socket, one queue, one flow table: takes packets, decides, answers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};

use arc_swap::cache::Cache;
use crossbeam_channel::Sender;

use super::shared::{Deciding, Shared, Tally, add};
use crate::engine::flow::{Arrival, FlowKey, LanId, Mac, Millis};
use crate::engine::gate::is_stale;
use crate::engine::verdict::{Action, Decision};
use crate::engine::{Engine, Now};
use crate::system::clock;
use crate::system::queue::{PacketQueue, Turn, Verdict, Waiting};

/// Flows that began in the last seconds and are remembered, per worker.
const FLOWS: usize = 65_536;

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

/// Starts the worker that has this place among all.
///
/// # Errors
/// When no thread can be started.
pub fn start(
    place: usize,
    queue: Box<dyn PacketQueue>,
    shared: Arc<Shared>,
    events: Sender<Event>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(format!("worker-{place}")).spawn(move || {
        Worker { place, engine: Engine::new(FLOWS), events }.work(queue, &shared);
    })
}

struct Worker {
    place: usize,
    engine: Engine,
    events: Sender<Event>,
}

impl Worker {
    /// Until told to stop; a broken socket ends it too, and the gate with it.
    fn work(mut self, mut queue: Box<dyn PacketQueue>, shared: &Shared) {
        let tally = &shared.workers[self.place];
        let mut deciding = Cache::new(&shared.deciding);
        while !shared.stop.load(Relaxed) {
            // Looked at for each packet: a turn may have waited long for its first.
            let turn = queue.turn(&mut |packet| self.answer(packet, deciding.load(), shared, tally));
            match turn {
                Ok(Turn::Answered(_)) => tally.turn(false),
                Ok(Turn::Idle) => {
                    // Rules that were replaced, and their lists, must not wait for a packet to be let go.
                    self.engine.follow(&deciding.load().snapshot);
                    tally.turn(true);
                }
                Ok(Turn::Refused | Turn::Overrun) => add(&tally.errors, 1),
                Err(error) => {
                    tracing::error!("worker {} ends, its queue is broken: {error}", self.place);
                    return;
                }
            }
        }
    }

    fn answer(
        &mut self,
        packet: &Waiting<'_>,
        deciding: &Deciding,
        shared: &Shared,
        tally: &Tally,
    ) -> Verdict {
        let now = clock::monotonic_ms();
        let arrival = Arrival {
            lan: deciding.lan(packet.in_device),
            src_mac: packet.hardware_address.and_then(|bytes| bytes.try_into().ok()).map(Mac),
            stale: is_stale(now, shared.open_until.load(Relaxed)),
        };
        let when = Now { at: Millis(now), local: shared.local_time() };
        let decided = self.engine.decide(&deciding.snapshot, packet.bytes, &arrival, when);
        tally.decided(&decided);
        if let (true, Some(key)) = (decided.first, decided.key) {
            let event = Event { at: now, key, lan: arrival.lan, decision: decided.decision };
            if self.events.try_send(event).is_err() {
                add(&tally.untold, 1);
            }
        }
        match decided.decision.action {
            Action::Route(uplink) => Verdict::Mark(deciding.marks.decided(packet.mark, uplink)),
            Action::Keep => Verdict::Keep,
            Action::Drop => Verdict::Drop,
        }
    }
}
