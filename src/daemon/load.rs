//! How full the lines are: a thread of its own that reads their devices' counters several times a second,
//! counts the flows that share them, and lets workers know.
//!
//! It does nothing else, so that a daemon that is busy with the firewall does not take its own slowness for
//! a burst. Where no rule asks how full lines are, counters are read once a second, for `status` and quotas, and
//! nothing else is done. Listing the kernel's connections costs the more the more there are; it is done so
//! seldom that it takes at most a fiftieth of one core.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::accounts::key;
use super::health;
use super::shared::{Deciding, Shared};
use crate::config::{Config, Uplink};
use crate::engine::flow::Millis;
use crate::engine::packet::Family;
use crate::engine::uplink::load::{Both, Crowd, Lines, Load, Meter, counts};
use crate::engine::uplink::{MAX_UPLINKS, UplinkId};
use crate::engine::verdict::Marks;
use crate::plan::observed::Observed;
use crate::system::clock;
use crate::system::conntrack::{self, Conntrack, Counters, Flow};
use crate::system::device_counters::{CounterReader, DeviceCounters};

/// Between two looks at the counters, where rules ask how full lines are.
const STEP: Duration = Duration::from_millis(100);
/// Between two looks, where only people and quotas ask.
const IDLE_STEP: Duration = Duration::from_secs(1);
/// Connections are listed this often, or more seldom where there are many. Most last less than a second: what is known
/// of them must be fresh (`benches/balance` shows how much that matters).
const CROWD_STEP: Duration = Duration::from_millis(200);
/// A list that will take some time is made after so many times that long: one in fifty packets may meet it.
const CALM: u32 = 50;
/// Where there is one core only, a packet that comes meanwhile waits until all is listed: one in two hundred may.
const CALM_ALONE: u32 = 200;
/// What a connection takes in a list, until one was made.
const USUAL: Duration = Duration::from_nanos(300);
/// Lines that carry less, in bytes per second, share it among nobody who cares.
const QUIET: u64 = 2_000;
/// Lists that are further apart say too little of what happens now.
const FRESH: Duration = Duration::from_secs(10);
/// Connections that are remembered from one list to the next.
const MOST_FLOWS: usize = 262_144;

/// What is measured of all lines; shared by those who measure and those who want to know.
#[derive(Debug)]
pub struct Traffic {
    /// By number.
    lines: Mutex<Vec<Line>>,
    /// Flows that were decided for each line since the thread looked last.
    begun: [AtomicU64; MAX_UPLINKS],
}

#[derive(Debug, Default)]
struct Line {
    name: String,
    capacity: Both<Option<u64>>,
    /// Kernel index of the device, while there is one.
    device: Option<u32>,
    meter: Meter,
    counters: Option<DeviceCounters>,
}

/// The thread's side.
struct Sampling {
    traffic: Arc<Traffic>,
    shared: Arc<Shared>,
    health: Arc<health::Lines>,
    reader: CounterReader,
    flows: Flows,
    moment: u64,
}

/// Counts the connections that share the lines.
struct Flows {
    conntrack: Option<Conntrack>,
    /// What each had moved when they were listed last, by the kernel's name for it.
    moved: HashMap<u32, Both<u64>, RandomState>,
    listed: Option<Instant>,
    /// When the last list was complete, or would have been the first.
    rested: Option<Instant>,
    /// How long that took, and its [effort](conntrack::effort).
    took: Option<(Duration, u32)>,
    /// Between two lists it is so many times as long as one takes.
    calm: u32,
}

/// Starts to measure; workers learn of it by way of `shared`, with what probes have found. The thread ends with the workers.
///
/// # Errors
/// When no socket or thread is to be had.
pub fn start(traffic: &Arc<Traffic>, shared: &Arc<Shared>, health: Arc<health::Lines>) -> io::Result<()> {
    let sampling = Sampling {
        traffic: Arc::clone(traffic),
        shared: Arc::clone(shared),
        health,
        reader: CounterReader::open()?,
        flows: Flows::on(std::thread::available_parallelism().map_or(1, NonZeroUsize::get)),
        moment: 0,
    };
    thread::Builder::new().name("load".into()).spawn(move || sampling.run()).map(drop)
}

impl Default for Traffic {
    /// No line yet.
    fn default() -> Self {
        Traffic { lines: Mutex::default(), begun: [const { AtomicU64::new(0) }; MAX_UPLINKS] }
    }
}

impl Traffic {
    /// Takes over the lines of a configuration and the devices that they have now. A line that stays goes on.
    pub fn follow(&self, config: &Config, observed: &Observed) {
        let mut lines = self.lines();
        let mut before = std::mem::take(&mut *lines);
        let mut follow = |uplink: &Uplink| {
            let is_same = |line: &Line| line.name == uplink.name && line.capacity == uplink.capacity;
            let place = before.iter().position(is_same);
            let line = place.map_or_else(|| Line::new(uplink), |place| before.swap_remove(place));
            Line { device: observed.link(&uplink.interface).map(|link| link.index), ..line }
        };
        *lines = config.by_number(|uplink| uplink.map(&mut follow).unwrap_or_default());
    }

    /// A probe of a line was answered after this long, by the host of this number among all that are asked.
    pub fn answered(&self, uplink: UplinkId, host: u64, took: Duration) {
        if let Some(line) = self.lines().get_mut(usize::from(uplink.0)) {
            line.meter.delay(host, took, now());
        }
    }

    /// A flow was decided for a line.
    pub fn began(&self, uplink: UplinkId) {
        if let Some(begun) = self.begun.get(usize::from(uplink.0)) {
            begun.fetch_add(1, Relaxed);
        }
    }

    /// The bytes that a line's device has carried both ways since it was made, where it was there of late.
    #[must_use]
    pub fn total(&self, uplink: UplinkId) -> Option<u64> {
        let lines = self.lines();
        let counters = lines.get(usize::from(uplink.0))?.counters?;
        Some(counters.received.saturating_add(counters.sent))
    }

    /// What a line has carried, and how full it is.
    #[must_use]
    pub fn report(&self, uplink: UplinkId) -> Option<(DeviceCounters, Load)> {
        let lines = self.lines();
        let line = lines.get(usize::from(uplink.0))?;
        Some((line.counters.unwrap_or_default(), line.meter.load(now())))
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn new(uplink: &Uplink) -> Self {
        let meter = Meter::new(uplink.capacity);
        Line { name: uplink.name.clone(), capacity: uplink.capacity, meter, ..Line::default() }
    }

    fn carried(&mut self, counters: Option<DeviceCounters>, begun: u64, now: Millis) {
        if let Some(DeviceCounters { received, sent }) = counters {
            self.meter.carried(Both { down: received, up: sent }, now);
            self.counters = counters;
        }
        self.meter.began(begun, now);
    }
}

impl Sampling {
    fn run(mut self) {
        while !self.shared.stop.load(Relaxed) {
            let is_asked = self.shared.deciding.load().snapshot.rules.looks_at_lines();
            thread::sleep(if is_asked { STEP } else { IDLE_STEP });
            self.read_counters();
            if is_asked {
                self.count_flows();
                self.publish();
            }
        }
    }

    /// The kernel is asked while nobody has to wait for us.
    fn read_counters(&mut self) {
        let devices: Vec<u32> = self.traffic.lines().iter().filter_map(|line| line.device).collect();
        let read: Vec<(u32, DeviceCounters)> = devices
            .into_iter()
            .filter_map(|device| Some((device, self.reader.read(device).ok()??)))
            .collect();
        let now = now();
        for (line, begun) in self.traffic.lines().iter_mut().zip(&self.traffic.begun) {
            let counters = read.iter().find(|(device, _)| Some(*device) == line.device);
            line.carried(counters.map(|(_, counters)| *counters), begun.swap(0, Relaxed), now);
        }
    }

    /// Where next to nothing moves there is nobody to count.
    fn count_flows(&mut self) {
        let now = now();
        let is_quiet = |line: &Line| {
            let Load { down, up } = line.meter.load(now);
            down.rate.max(up.rate) < QUIET
        };
        let crowds = if self.traffic.lines().iter().all(is_quiet) {
            Some(vec![Crowd::default(); MAX_UPLINKS])
        } else {
            self.flows.count(&self.shared.deciding.load().marks)
        };
        let Some(crowds) = crowds else { return };
        for (line, crowd) in self.traffic.lines().iter_mut().zip(&crowds) {
            line.meter.shared_by(crowd, now);
        }
    }

    /// Whoever else publishes does it the same way, so that nobody undoes what the other did.
    fn publish(&mut self) {
        let lines = self.look();
        let before = self.shared.deciding.load();
        let lines_before = &before.snapshot.lines;
        if (&lines.loads, &lines.qualities) == (&lines_before.loads, &lines_before.qualities) {
            return;
        }
        self.moment += 1;
        let lines = Arc::new(Lines { moment: self.moment, ..lines });
        self.shared.deciding.rcu(|deciding| {
            let mut deciding = Deciding::clone(deciding);
            deciding.snapshot.lines = Arc::clone(&lines);
            deciding
        });
    }

    fn look(&self) -> Lines {
        let now = now();
        let loads: Vec<Load> = self.traffic.lines().iter().map(|line| line.meter.load(now)).collect();
        let quality = |uplink| {
            Family::BOTH.map(|family| {
                self.health.report(uplink, family).map(|report| report.estimates).unwrap_or_default()
            })
        };
        let qualities = (0..).map(UplinkId).take(loads.len()).map(quality).collect();
        Lines { loads, qualities, ..Lines::default() }
    }
}

impl Flows {
    /// Of a process that may run on so many cores.
    fn on(cores: usize) -> Flows {
        let calm = if cores == 1 { CALM_ALONE } else { CALM };
        Flows { conntrack: None, moved: HashMap::default(), listed: None, rested: None, took: None, calm }
    }

    /// The flows of each line that moved bytes since they were counted last, and may move more; `None`: it is not time
    /// yet, there are so many that lists are too far apart, or the kernel lists none.
    fn count(&mut self, marks: &Marks) -> Option<Vec<Crowd>> {
        // Where the kernel does not tell the effort, one list counts as much as another.
        let (begin, effort) = (Instant::now(), conntrack::effort().unwrap_or(1));
        let rest = rest(effort, self.took, self.calm);
        // A step more or less does not matter, one that is missed for a millisecond would.
        if begin < *self.rested.get_or_insert(begin) + rest - STEP / 2 {
            return None;
        }
        let listed = self.list(marks);
        if listed.is_err() {
            self.conntrack = None;
        }
        let took = begin.elapsed();
        tracing::trace!("connections were listed in {took:?}");
        (self.rested, self.took) = (Some(begin + took), Some((took, effort)));
        let is_fresh = self.listed.replace(begin).is_some_and(|then| then.elapsed() < FRESH);
        listed.ok().filter(|_| is_fresh)
    }

    fn list(&mut self, marks: &Marks) -> io::Result<Vec<Crowd>> {
        let mut crowds = vec![Crowd::default(); MAX_UPLINKS];
        let before = std::mem::take(&mut self.moved);
        let moved = &mut self.moved;
        let conntrack = match &mut self.conntrack {
            Some(conntrack) => conntrack,
            none => none.insert(Conntrack::open()?),
        };
        conntrack.dump(None, |flow| {
            let Some(crowd) = marks.uplink(flow.mark).and_then(|on| crowds.get_mut(usize::from(on.0))) else {
                return;
            };
            let Some(now) = bytes(&flow).filter(|_| counts(&key(&flow.orig))) else { return };
            let then = before.get(&flow.id).copied().unwrap_or_default();
            if !flow.has_ended() {
                crowd.add(Both {
                    down: now.down.saturating_sub(then.down),
                    up: now.up.saturating_sub(then.up),
                });
            }
            if moved.len() < MOST_FLOWS {
                moved.insert(flow.id, now);
            }
        })?;
        Ok(crowds)
    }
}

/// How long nothing is listed before a list of such effort, by how long one took.
fn rest(effort: u32, took: Option<(Duration, u32)>, calm: u32) -> Duration {
    let (took, taken) = took.unwrap_or((USUAL, 1));
    let expected = took.mul_f64(f64::from(effort) / f64::from(taken.max(1)));
    CROWD_STEP.max(expected * calm)
}

/// What a connection has moved, seen from the LAN; `None`: the kernel did not count. One whose destination was
/// translated came in from outside.
fn bytes(flow: &Flow) -> Option<Both<u64>> {
    let of = |counters: Option<Counters>| counters.map(|counters| counters.bytes);
    let (orig, reply) = (of(flow.orig_counters)?, of(flow.reply_counters)?);
    let came_in = flow.orig.dst != flow.reply.src;
    Some(if came_in { Both { down: orig, up: reply } } else { Both { down: reply, up: orig } })
}

fn now() -> Millis {
    Millis(clock::monotonic_ms())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_will_take_long_is_made_seldom_and_one_that_will_not_as_often_as_may_be() {
        let ms = Duration::from_millis;
        assert_eq!(rest(1_000, None, CALM), CROWD_STEP);
        assert_eq!(rest(20_000, Some((ms(6), 20_000)), CALM), ms(300));
        assert_eq!(rest(40_000, Some((ms(6), 20_000)), CALM), ms(600));
        assert_eq!(rest(20_000, Some((ms(6), 20_000)), CALM_ALONE), ms(1200), "others wait meanwhile");
        assert_eq!(rest(20_000, Some((ms(600), 2_000_000)), CALM), ms(300), "a flood is over");
        assert!(rest(1_000_000, Some((ms(6), 20_000)), CALM) >= FRESH);
    }
}
