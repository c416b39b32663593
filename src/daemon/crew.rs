//! The threads that answer packets, each with a queue of its own: workers, who hears DNS answers, and
//! who watches flows for their names.
//!
//! Queues are bound and configured before the firewall sends anything there, and closed when nothing
//! comes any more: so the crew changes its queues only while the gate is closed and they are empty.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use crossbeam_channel::Sender;

use super::shared::{Event, Shared};
use super::{listener, watcher, worker};
use crate::config::{Config, Pin, Queue, QueueSocket};
use crate::engine::hold::MOST_PACKETS;
use crate::plan::workers::{self, Machine, Workers};
use crate::system::queue::batch::BatchQueue;
use crate::system::queue::nfq::NfqQueue;
use crate::system::queue::{A_PACKET, PacketQueue, SEVERAL_PACKETS};
use crate::system::{affinity, receiving};

/// Packets that find room where flows wait: those that are held, and as many that have just come.
const WATCHED: u32 = 2 * MOST_PACKETS as u32;

type BoxedQueue = Box<dyn PacketQueue>;

/// One queue a worker; how many, and where they run, depends on how this machine receives.
#[must_use]
pub fn workers(config: &Config) -> Workers {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u16);
    let receiving = config.lan.iter().map(|device| receiving::cpus(device)).collect();
    workers::workers(config, &Machine { cores, allowed: affinity::allowed(), receiving })
}

/// All queues that a configuration wants, bound and configured.
pub struct Queues {
    /// As they were asked for.
    wanted: Wanted,
    of_workers: Vec<BoxedQueue>,
    of_names: BoxedQueue,
    of_watch: BoxedQueue,
}

/// What tells whether a crew has the right queues.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    queue: Queue,
    workers: Workers,
}

impl Wanted {
    fn by(config: &Config) -> Self {
        Wanted::with(config, workers(config))
    }

    fn with(config: &Config, workers: Workers) -> Self {
        // The limits are the firewall's, and what the rest comes to stands beside it.
        let queue =
            Queue { workers: None, pin: Pin::default(), limit: 0, limit_per_client: 0, ..config.queue };
        Wanted { queue, workers }
    }
}

impl Queues {
    /// Opens them, for these workers.
    ///
    /// # Errors
    /// When one cannot be bound.
    pub fn open(config: &Config, workers: Workers) -> Result<Self> {
        Self::open_these(Wanted::with(config, workers))
    }

    fn open_these(wanted: Wanted) -> Result<Self> {
        let queue = wanted.queue;
        let of_workers = (queue.first..queue.first + wanted.workers.count)
            .map(|number| open(queue.socket, number, queue.length, A_PACKET))
            .collect::<Result<_>>()?;
        let of_names = open(queue.socket, queue.of_names(), queue.length, A_PACKET)?;
        let of_watch = open(queue.socket, queue.of_watch(), WATCHED, SEVERAL_PACKETS)?;
        Ok(Queues { wanted, of_workers, of_names, of_watch })
    }
}

fn open(socket: QueueSocket, number: u16, length: u32, range: u16) -> Result<BoxedQueue> {
    let opened = match socket {
        QueueSocket::Batch => {
            BatchQueue::open(number, length, range).map(|queue| Box::new(queue) as BoxedQueue)
        }
        QueueSocket::Nfq => NfqQueue::open(number, length, range).map(|queue| Box::new(queue) as BoxedQueue),
    };
    opened.with_context(|| {
        format!(
            "cannot bind queue {number} (needs root; another program may have it, see `first` under [queue])"
        )
    })
}

/// The running threads.
pub struct Crew {
    shared: Arc<Shared>,
    events: Sender<Event>,
    wanted: Wanted,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Starts a thread for each queue.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(queues: Queues, shared: Arc<Shared>, events: Sender<Event>) -> io::Result<Self> {
        let mut crew = Crew { shared, events, wanted: queues.wanted.clone(), threads: Vec::new() };
        crew.take(queues)?;
        Ok(crew)
    }

    /// The workers, each with a queue.
    #[must_use]
    pub fn workers(&self) -> &Workers {
        &self.wanted.workers
    }

    /// Whether the configuration wants these queues.
    #[must_use]
    pub fn suits(&self, config: &Config) -> bool {
        self.wanted == Wanted::by(config)
    }

    /// Whether a thread has ended by itself.
    #[must_use]
    pub fn has_lost_one(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Closes the queues and opens those that the configuration wants, or the former ones again where
    /// that fails.
    ///
    /// # Errors
    /// When a queue cannot be bound or a thread not be started.
    pub fn change_to(&mut self, config: &Config) -> Result<()> {
        let before = self.wanted.clone();
        self.stop();
        let changed = self.open(Wanted::by(config));
        if changed.is_err() {
            self.stop();
            self.open(before)?;
        }
        changed
    }

    /// Ends all threads, and with them their queues.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.shared.stop.store(false, Relaxed);
    }

    fn open(&mut self, wanted: Wanted) -> Result<()> {
        Ok(self.take(Queues::open_these(wanted)?)?)
    }

    fn take(&mut self, queues: Queues) -> io::Result<()> {
        self.wanted = queues.wanted;
        self.shared.set_workers(&self.wanted.workers);
        for (place, queue) in queues.of_workers.into_iter().enumerate() {
            let (shared, events) = (Arc::clone(&self.shared), self.events.clone());
            let cpu = self.wanted.workers.cpus.get(place).copied().flatten();
            let queue = (queue, self.wanted.queue.length);
            self.threads.push(worker::start(place, cpu, queue, shared, events)?);
        }
        self.threads.push(listener::start(queues.of_names, Arc::clone(&self.shared))?);
        self.threads.push(watcher::start(queues.of_watch, Arc::clone(&self.shared), self.events.clone())?);
        Ok(())
    }
}
