//! Counts what lines with a quota carry, writes it down for the next run, and tells which quotas are
//! used up: a thread of its own, because writing may have to wait for a disk.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::load::Traffic;
use crate::config::Config;
use crate::engine::uplink::quota::{Level, NEARLY, Quota, Usage};
use crate::engine::uplink::{UplinkId, UplinkSet};
use crate::system::clock;
use crate::system::state::RunDirectory;

/// How often counters are looked at.
const STEP: Duration = Duration::from_secs(1);
/// How often what has changed is written down: so much is lost where the power is cut.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// What the daemon's main thread has of it; the thread writes a last time and ends when this is dropped.
pub struct Quotas {
    used_up: watch::Receiver<UplinkSet>,
    ledger: Arc<Ledger>,
    /// Closed at the end.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What each line has carried, for others to read.
pub struct Ledger {
    books: Mutex<Books>,
}

/// How a line stands with its quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its quota.
    pub quota: Quota,
    /// Bytes of this period.
    pub used: u64,
    /// How much of it is used.
    pub level: Level,
}

struct Books {
    /// By name, so that a line is found again whatever number it has.
    lines: BTreeMap<String, Usage>,
    /// The lines that have quotas now.
    quotas: Vec<(UplinkId, String, Quota)>,
    has_changed: bool,
}

/// As it is written down.
#[derive(Serialize, Deserialize)]
struct Written {
    /// Of the start of the machine that the counters belong to.
    boot: String,
    lines: BTreeMap<String, Usage>,
}

impl Quotas {
    /// Takes in what an earlier run wrote down, and starts to count if any line has a quota.
    ///
    /// # Errors
    /// When no thread is to be had.
    pub fn start(config: &Config, run: &RunDirectory, traffic: Arc<Traffic>) -> io::Result<Self> {
        let (tells, used_up) = watch::channel(UplinkSet::EMPTY);
        let (stop, stopped) = bounded(0);
        let ledger = Arc::new(Ledger { books: Mutex::new(Books::restore(run)) });
        ledger.follow(config);
        let counting =
            Counting { ledger: Arc::clone(&ledger), run: run.clone(), traffic, tells, saved: Instant::now() };
        counting.tell();
        let thread = thread::Builder::new().name("quotas".into()).spawn(move || counting.run(&stopped))?;
        Ok(Self { used_up, ledger, stop: Some(stop), thread: Some(thread) })
    }

    /// The lines whose quotas are used up now.
    #[must_use]
    pub fn used_up(&self) -> UplinkSet {
        *self.used_up.borrow()
    }

    /// Waits until there are others.
    pub async fn changed(&mut self) {
        if self.used_up.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What each line has carried, for others.
    #[must_use]
    pub fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }
}

impl Drop for Quotas {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Ledger {
    /// Takes over the quotas of a configuration. What lines without one carried is kept, in case they get one again.
    pub fn follow(&self, config: &Config) {
        let quotas =
            config.uplinks.iter().filter_map(|uplink| Some((uplink.id, uplink.name.clone(), uplink.quota?)));
        self.books().quotas = quotas.collect();
    }

    /// How a line stands, where it has a quota.
    #[must_use]
    pub fn standing(&self, uplink: UplinkId) -> Option<Standing> {
        let books = self.books();
        books
            .quotas
            .iter()
            .find(|(id, ..)| *id == uplink)
            .map(|(_, name, quota)| books.standing(name, *quota))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    /// What an earlier run wrote down; nothing where that cannot be read.
    fn restore(run: &RunDirectory) -> Self {
        let written = run.load_usage().and_then(|bytes| Ok(serde_json::from_slice::<Written>(&bytes)?));
        let lines = match written {
            Ok(Written { boot, mut lines }) => {
                if boot != clock::boot() {
                    lines.values_mut().for_each(Usage::machine_restarted);
                }
                lines
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::warn!(
                    "what lines have carried this month cannot be read, and is counted anew: {error}"
                );
                BTreeMap::new()
            }
        };
        Books { lines, quotas: Vec::new(), has_changed: false }
    }

    fn standing(&self, name: &str, quota: Quota) -> Standing {
        let used = self.lines.get(name).map_or(0, Usage::used);
        Standing { quota, used, level: quota.level(used) }
    }

    fn used_up(&self) -> UplinkSet {
        let is_used_up = |name: &str, quota| self.standing(name, quota).level == Level::UsedUp;
        self.quotas.iter().filter(|(_, name, quota)| is_used_up(name, *quota)).map(|(id, ..)| *id).collect()
    }
}

/// The thread's side.
struct Counting {
    ledger: Arc<Ledger>,
    run: RunDirectory,
    traffic: Arc<Traffic>,
    tells: watch::Sender<UplinkSet>,
    saved: Instant,
}

impl Counting {
    /// Until the daemon ends.
    fn run(mut self, stopped: &Receiver<()>) {
        while stopped.recv_timeout(STEP) == Err(RecvTimeoutError::Timeout) {
            self.count();
            self.tell();
            if self.saved.elapsed() >= SAVE_EVERY {
                self.save();
            }
        }
        self.count();
        self.save();
    }

    fn count(&self) {
        let mut books = self.ledger.books();
        for (id, name, quota) in books.quotas.clone() {
            let Some(total) = self.traffic.total(id) else { continue };
            let before = books.standing(&name, quota);
            books.lines.entry(name.clone()).or_default().carried(total, quota, clock::today());
            let after = books.standing(&name, quota);
            books.has_changed |= after.used != before.used;
            warn(&name, before.level, after);
        }
    }

    fn tell(&self) {
        let used_up = self.ledger.books().used_up();
        self.tells.send_if_modified(|before| std::mem::replace(before, used_up) != used_up);
    }

    fn save(&mut self) {
        self.saved = Instant::now();
        let mut books = self.ledger.books();
        if !std::mem::take(&mut books.has_changed) {
            return;
        }
        let written = Written { boot: clock::boot(), lines: books.lines.clone() };
        drop(books);
        let saved = serde_json::to_vec(&written)
            .map_err(io::Error::from)
            .and_then(|bytes| self.run.save_usage(&bytes));
        if let Err(error) = saved {
            tracing::warn!("what lines have carried this month cannot be written down: {error}");
        }
    }
}

/// Says once what has been reached.
fn warn(name: &str, before: Level, after: Standing) {
    match after.level {
        level if level <= before => {}
        Level::UsedUp => tracing::warn!(
            "uplink {name} has used up what it may carry until day {} of the month: new flows get it only where no \
             other line is left",
            after.quota.reset_day
        ),
        Level::Nearly => {
            tracing::warn!(
                "uplink {name} has used {NEARLY}% of what it may carry until day {} of the month",
                after.quota.reset_day
            );
        }
        Level::Enough => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { bytes: 100, reset_day: 1 };

    #[test]
    fn what_a_line_has_carried_is_known_to_the_next_run_and_so_is_what_it_carried_in_between() {
        let (_directory, run) = run_directory();
        save(&run, &clock::boot(), 1000, 1090);
        let mut books = restored(&run);
        assert_eq!(books.standing("lte", QUOTA), Standing { quota: QUOTA, used: 90, level: Level::Nearly });
        books.lines.get_mut("lte").unwrap().carried(1100, QUOTA, clock::today());
        assert_eq!(books.used_up(), UplinkSet::EMPTY.with(UplinkId(3)));
        assert_eq!(books.standing("cable", QUOTA).used, 0);
    }

    #[test]
    fn after_a_restart_of_the_machine_counters_begin_at_0() {
        let (_directory, run) = run_directory();
        save(&run, "another start of the machine", 1000, 1010);
        let mut books = restored(&run);
        books.lines.get_mut("lte").unwrap().carried(5000, QUOTA, clock::today());
        assert_eq!(books.standing("lte", QUOTA).used, 5010);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_none() {
        let (_directory, run) = run_directory();
        assert_eq!(restored(&run).standing("lte", QUOTA).used, 0);
        run.save_usage(b"{\"boot\":").unwrap();
        assert_eq!(restored(&run).standing("lte", QUOTA).used, 0);
    }

    fn run_directory() -> (tempfile::TempDir, RunDirectory) {
        let directory = tempfile::TempDir::new().unwrap();
        let run = RunDirectory::new(Some(directory.path().into()));
        (directory, run)
    }

    /// As a run leaves it that saw a device's counter at these numbers.
    fn save(run: &RunDirectory, boot: &str, first: u64, last: u64) {
        let mut usage = Usage::default();
        usage.carried(first, QUOTA, clock::today());
        usage.carried(last, QUOTA, clock::today());
        let written = Written { boot: boot.into(), lines: BTreeMap::from([("lte".into(), usage)]) };
        run.save_usage(&serde_json::to_vec(&written).unwrap()).unwrap();
    }

    fn restored(run: &RunDirectory) -> Books {
        Books { quotas: vec![(UplinkId(3), "lte".into(), QUOTA)], ..Books::restore(run) }
    }
}
