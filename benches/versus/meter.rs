//! How busy the router's core is: a thread of the lowest class counts what is left of it.
//!
//! The kernel charges what its interrupts do to whoever was interrupted, so no accounting tells what packets cost.
//! What they leave does: interrupts, kernel threads and programs alike take it from the counting thread.

use std::fs;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::unistd::gettid;

use crate::flood::on_core;
use crate::world::ROUTER_CORE;

/// Counts until it is dropped.
pub struct Meter {
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Counts a second of a core that does nothing else.
    whole: f64,
}

/// Steps of work to one count.
const STEPS: u64 = 200;
/// The core is idle in the best of so many windows of so long.
const TRIES: u32 = 30;
const WINDOW: Duration = Duration::from_millis(10);

impl Meter {
    /// Starts to count, and learns what an idle core counts.
    pub fn start() -> Result<Meter> {
        let (count, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (tell, told) = std::sync::mpsc::channel();
        let (counting, stopped) = (Arc::clone(&count), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let ready = on_core(ROUTER_CORE).and_then(|()| lowest());
            let failed = ready.is_err();
            if tell.send(ready).is_err() || failed {
                return;
            }
            while !stopped.load(Relaxed) {
                for step in 0..STEPS {
                    black_box(step);
                }
                counting.store(counting.load(Relaxed) + 1, Relaxed);
            }
        });
        told.recv().context("the counting thread died")??;
        let mut meter = Meter { count, stop, thread: Some(thread), whole: 0.0 };
        meter.calibrate();
        Ok(meter)
    }

    /// The core may have been busy with something else: its best time counts.
    fn calibrate(&mut self) {
        for _ in 0..TRIES {
            let (before, begin) = (self.count(), Instant::now());
            thread::sleep(WINDOW);
            let rate = (self.count() - before) as f64 / begin.elapsed().as_secs_f64();
            self.whole = self.whole.max(rate);
        }
    }

    /// So far.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Seconds that the core was busy, of so many in which the meter counted so much.
    pub fn busy(&self, counted: u64, seconds: f64) -> f64 {
        (seconds - counted as f64 / self.whole).max(0.0)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Puts the calling thread behind all others.
fn lowest() -> Result<()> {
    let thread = gettid().to_string();
    let done = Command::new("chrt").args(["--idle", "--pid", "0", &thread]).status()?;
    if done.success() { Ok(()) } else { bail!("chrt failed") }
}

/// Nanoseconds that all threads of a process have run.
pub fn run_time(process: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        sum += text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}
