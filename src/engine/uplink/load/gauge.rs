//! [`Gauge`]: what one direction of a line carries, and what it has been seen to carry at most.

use std::time::Duration;

use super::Capacity;

/// Time constant of the rate: half of a change shows after a step of 100 ms, and all but a thousandth after a second. It only ever comes
/// nearer to what was measured, so it does not ring.
const SMOOTHING: Duration = Duration::from_millis(150);
/// Time constant by which a learned capacity falls to the most that a full line carried of late: that of a mobile line changes within seconds.
const FALL_FULL: Duration = Duration::from_secs(2);
/// How long "of late" is, at least; at most twice as long. Answers still tell of a queue for a while after it has drained.
const LATE: Duration = Duration::from_secs(1);
/// Time constant by which it falls while the line is in use, but not known to be full: what is used may be less than there is.
const FALL: Duration = Duration::from_secs(1800);
/// A line that carries less than this part of its capacity says nothing about it.
const IN_USE: f64 = 0.125;
/// So much of what is known for certain is as good as all: headers of the link, and gaps between packets.
const FULL: f64 = 0.95;
/// A line that has never carried more, in bytes per second, has not shown what it can: 1 Mbit/s.
const TELLING: f64 = 125_000.0;

/// One direction of a line. All numbers in bytes per second.
#[derive(Debug, Clone, Default)]
pub(super) struct Gauge {
    given: Option<u64>,
    rate: f64,
    most: f64,
    peaks: Peaks,
    was_full: bool,
}

impl Gauge {
    /// A line of which nothing was seen yet.
    pub(super) fn new(given: Option<u64>) -> Self {
        Gauge { given, ..Gauge::default() }
    }

    /// So many bytes in so much time; `is_queued`: answers wait, because of this direction.
    pub(super) fn carried(&mut self, bytes: u64, time: Duration, is_queued: bool) {
        let seconds = time.as_secs_f64();
        self.rate += part(time, SMOOTHING) * (bytes as f64 / seconds - self.rate);
        self.was_full |= is_queued;
        let peak = self.peaks.add(self.rate, time);
        if self.rate >= self.most {
            self.most = self.rate;
        } else if is_queued {
            self.most += part(time, FALL_FULL) * (peak - self.most);
        } else if self.rate > IN_USE * self.most {
            self.most += part(time, FALL) * (self.rate - self.most);
        }
    }

    /// What it carries.
    pub(super) fn rate(&self) -> u64 {
        self.rate as u64
    }

    /// What it can carry.
    pub(super) fn capacity(&self) -> Capacity {
        match self.given {
            Some(bytes) => Capacity::Given(bytes),
            None if self.was_full => Capacity::Measured(self.most as u64),
            None if self.most >= TELLING => Capacity::AtLeast(self.most as u64),
            None => Capacity::Unknown,
        }
    }

    /// The part of its capacity that is in use, as far as it is known.
    pub(super) fn use_of(&self) -> f64 {
        let capacity = self.given.map_or(self.most, |bytes| bytes as f64);
        if capacity > 0.0 { self.rate / capacity } else { 0.0 }
    }

    /// Whether its own numbers say that it carries all it can.
    pub(super) fn is_full(&self) -> Option<bool> {
        match self.capacity() {
            Capacity::Given(_) | Capacity::Measured(_) => Some(self.use_of() >= FULL),
            Capacity::AtLeast(_) | Capacity::Unknown => None,
        }
    }
}

/// The highest of the numbers of the last one to two [`LATE`].
#[derive(Debug, Clone, Default)]
struct Peaks {
    this: f64,
    before: f64,
    age: Duration,
}

impl Peaks {
    /// One more, and the highest with it.
    fn add(&mut self, number: f64, time: Duration) -> f64 {
        self.age += time;
        if self.age >= LATE {
            *self = Peaks { this: number, before: self.this, age: Duration::ZERO };
        }
        self.this = self.this.max(number);
        self.this.max(self.before)
    }
}

/// How far something with this time constant comes in so much time, 0 to 1.
pub(super) fn part(time: Duration, constant: Duration) -> f64 {
    -f64::exp_m1(-time.as_secs_f64() / constant.as_secs_f64())
}
