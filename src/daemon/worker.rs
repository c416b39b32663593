//! One thread, one socket, one queue, one flow table: takes packets, decides, answers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};

use arc_swap::cache::Cache;
use crossbeam_channel::Sender;

use super::shared::{Deciding, Event, Shared, Tally};
use crate::engine::{Engine, Now};
use crate::system::queue::{LONGEST_WAIT, PacketQueue, Turn, Verdict, Waiting};
use crate::system::{affinity, priority};

/// Decisions of one turn for which there is room from the start.
const USUAL_TURN: usize = 64;

/// Starts the worker that has this place among all, bound to a CPU or not, with a queue of this length.
///
/// # Errors
/// When no thread can be started.
pub fn start(
    place: usize,
    cpu: Option<u16>,
    (queue, length): (Box<dyn PacketQueue>, u32),
    shared: Arc<Shared>,
    events: Sender<Event>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(format!("worker-{place}")).spawn(move || {
        priority::go_first();
        if let Some(cpu) = cpu
            && let Err(error) = affinity::bind(cpu)
        {
            tracing::warn!("worker {place} cannot run on CPU {cpu} alone: {error}");
        }
        // What waits with a flow's first packet must get the same answer. No more, so that it stays near the core.
        let engine = Engine::new(length as usize);
        Worker { place, engine, events, untold: Vec::with_capacity(USUAL_TURN) }.work(queue, &shared);
    })
}

struct Worker {
    place: usize,
    engine: Engine,
    events: Sender<Event>,
    /// What was decided in this turn: nobody waits for an answer while others are told of it.
    untold: Vec<Event>,
}

impl Worker {
    /// Until told to stop; a broken socket ends it too, and the gate with it.
    fn work(mut self, mut queue: Box<dyn PacketQueue>, shared: &Shared) {
        let Some(tally) = shared.workers().get(self.place) else { return };
        let mut deciding = Cache::new(&shared.deciding);
        while !shared.stop.load(Relaxed) {
            // Looked at when the first packet has come, for which a turn may have waited long.
            let mut moment = None;
            let turn = queue.turn(LONGEST_WAIT, &mut |packet| {
                let moment = moment.get_or_insert_with(|| shared.now());
                Some(self.answer(packet, deciding.load(), *moment, tally))
            });
            self.untold.drain(..).for_each(|event| tally.tell(&self.events, event));
            if turn.as_ref().is_ok_and(Turn::is_idle) {
                // Rules that were replaced, and their lists, must not wait for a packet to be let go.
                self.engine.follow(&deciding.load().snapshot);
            }
            if let Err(error) = tally.turned(turn, false) {
                tracing::error!("worker {} ends, its queue is broken: {error}", self.place);
                return;
            }
        }
    }

    fn answer(
        &mut self,
        packet: &Waiting<'_>,
        deciding: &Deciding,
        (now, stale): (Now, bool),
        tally: &Tally,
    ) -> Verdict {
        let arrival = deciding.arrival(packet, stale);
        let decided = self.engine.decide(&deciding.snapshot, packet.bytes, &arrival, now);
        tally.decided(&decided);
        if let (true, Some(key)) = (decided.first, decided.key) {
            let event = Event { at: now.at.0, key, lan: arrival.lan, decision: decided.decision };
            self.untold.push(event);
        }
        deciding.verdict(&decided.decision, packet.mark)
    }
}
