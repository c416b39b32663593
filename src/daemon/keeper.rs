//! The thread that keeps the gate open while all workers do their work.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::shared::{Shared, add};
use crate::engine::gate::{GateKeeper, Progress, RENEWAL};
use crate::system::gate::Gate;
use crate::system::{clock, priority};

/// The longest that draining the queues may take.
const DRAINING: Duration = Duration::from_secs(5);

/// The keeper, at work or at rest.
pub struct Keeper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Gate>>,
    shared: Arc<Shared>,
}

impl Keeper {
    /// Starts to keep the gate open.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(gate: Gate, shared: Arc<Shared>) -> io::Result<Self> {
        let mut keeper = Self { stop: Arc::default(), thread: None, shared };
        keeper.resume(gate)?;
        Ok(keeper)
    }

    /// Closes the gate and waits until every queue is empty, so that the
    /// workers can be stopped without losing a packet. From here on every new
    /// flow gets the kernel's choice, whether its packets were queued or not.
    pub fn close_and_drain(&mut self) -> Option<Gate> {
        self.stop.store(true, Relaxed);
        let mut gate = self.thread.take()?.join().ok()?;
        self.shared.open_until.store(0, Relaxed);
        wait_for_turns(&self.shared);
        if let Err(error) = gate.close() {
            tracing::warn!("the gate did not close ({error}); it will by itself");
        }
        // What workers have handed over is answered once they have nothing more to hand over.
        for _ in 0..2 {
            wait_for(&self.shared, |before, after| after.idle > before.idle);
        }
        Some(gate)
    }

    /// Keeps the gate open again.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn resume(&mut self, gate: Gate) -> io::Result<()> {
        self.stop = Arc::default();
        let (stopped, with) = (Arc::clone(&self.stop), Arc::clone(&self.shared));
        let thread = thread::Builder::new().name("gate".into());
        self.thread = Some(thread.spawn(move || {
            priority::go_first();
            keep_open(gate, &with, &stopped)
        })?);
        Ok(())
    }
}

/// Waits until every worker has done with what it took by what was in force before.
pub fn wait_for_turns(shared: &Shared) {
    wait_for(shared, |before, after| after.turns > before.turns);
}

fn keep_open(mut gate: Gate, shared: &Shared, stop: &AtomicBool) -> Gate {
    let mut keeper = GateKeeper::default();
    let mut complained = false;
    let mut known_lapses = 0;
    while !stop.load(Relaxed) {
        let (now, progress) = (clock::monotonic_ms(), shared.progress());
        if keeper.wants_renewal(now, &progress) {
            match gate.open() {
                Ok(()) => {
                    complained = false;
                    shared.open_until.store(keeper.renewed(now, &progress), Relaxed);
                }
                Err(error) if !complained => {
                    complained = true;
                    tracing::warn!("the gate cannot be opened: {error}; the kernel decides alone");
                }
                Err(_) => {}
            }
        }
        if keeper.lapses() > known_lapses {
            add(&shared.lapses, keeper.lapses() - known_lapses);
            known_lapses = keeper.lapses();
            tracing::warn!("the gate closed for a while: a worker did not keep up; the kernel decided alone");
        }
        thread::sleep(RENEWAL);
    }
    gate
}

/// Waits, within bounds, until every worker has come further.
fn wait_for(shared: &Shared, further: impl Fn(&Progress, &Progress) -> bool) {
    let before = shared.progress();
    let deadline = Instant::now() + DRAINING;
    while Instant::now() < deadline {
        let after = shared.progress();
        if before.iter().zip(&after).all(|(before, after)| further(before, after)) {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
