//! When packets may be sent to user space, and when an answer would come too late.
//!
//! The firewall's queue rule holds only while a set element lives, and the
//! element lives for [`OPEN_FOR`] after each renewal. It is renewed only when
//! every worker has completed a turn since the last time; so a dead, hung or
//! flooded daemon closes the gate by doing nothing. While it is closed flows go
//! by the kernel's choice, and packets that were queued before must be answered
//! with that choice too, or a flow would split: a worker asks [`is_stale`] for
//! each. A gate that closed opens again only when every queue has been empty.

use std::time::Duration;

/// How long the gate stays open without renewal. Whole seconds, because ipset
/// counts in them; with [`RENEWAL`] and a worker's longest wait it is closed
/// well within two seconds of a hang.
pub const OPEN_FOR: Duration = Duration::from_secs(1);

/// How often renewal is considered.
pub const RENEWAL: Duration = Duration::from_millis(150);

/// What a renewal may take to reach the kernel, and clocks may differ by.
const MARGIN: Duration = Duration::from_millis(100);

/// What one worker has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Turns completed.
    pub turns: u64,
    /// Turns that found the queue empty.
    pub idle: u64,
}

/// Decides when to renew the gate. Times are milliseconds of one monotonic clock.
#[derive(Debug, Default)]
pub struct GateKeeper {
    open_until: u64,
    since: Vec<Progress>,
    lapses: u64,
}

impl GateKeeper {
    /// Whether to renew now, given what the workers have done; called every [`RENEWAL`].
    ///
    /// After `true` and a successful renewal call [`Self::renewed`].
    pub fn wants_renewal(&mut self, now: u64, workers: &[Progress]) -> bool {
        if self.open_until != 0 && is_stale(now, self.open_until) {
            self.close(workers);
            self.lapses += 1;
        }
        if self.since.len() != workers.len() {
            self.close(workers);
            return false;
        }
        let closed = self.open_until == 0;
        let ready = |(before, after): (&Progress, &Progress)| {
            if closed { after.idle > before.idle } else { after.turns > before.turns }
        };
        self.since.iter().zip(workers).all(ready)
    }

    /// The kernel was told at `asked` (read before telling) to keep the gate open.
    pub fn renewed(&mut self, asked: u64, workers: &[Progress]) -> u64 {
        self.open_until = asked + (OPEN_FOR - MARGIN).as_millis() as u64;
        self.since = workers.to_vec();
        self.open_until
    }

    /// The gate was closed; it opens again once every queue has been empty.
    pub fn close(&mut self, workers: &[Progress]) {
        self.open_until = 0;
        self.since = workers.to_vec();
    }

    /// Whether the gate is open, as far as is known.
    #[must_use]
    pub fn is_open(&self, now: u64) -> bool {
        !is_stale(now, self.open_until)
    }

    /// How often it closed because a renewal came too late.
    #[must_use]
    pub fn lapses(&self) -> u64 {
        self.lapses
    }
}

/// Whether an answer given now may come after the gate has closed.
#[must_use]
pub fn is_stale(now: u64, open_until: u64) -> bool {
    now >= open_until
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(turns: u64, idle: u64) -> Progress {
        Progress { turns, idle }
    }

    fn opened() -> GateKeeper {
        let mut keeper = GateKeeper::default();
        assert!(!keeper.wants_renewal(0, &[progress(0, 0)]));
        assert!(keeper.wants_renewal(100, &[progress(1, 1)]));
        keeper.renewed(100, &[progress(1, 1)]);
        keeper
    }

    #[test]
    fn a_worker_that_turns_keeps_the_gate_open() {
        let mut keeper = opened();
        assert!(keeper.wants_renewal(250, &[progress(2, 1)]));
        assert!(keeper.is_open(250));
    }

    #[test]
    fn a_worker_that_hangs_lets_it_close_within_two_seconds() {
        let mut keeper = opened();
        assert!(!keeper.wants_renewal(250, &[progress(1, 1)]));
        let worst = RENEWAL + OPEN_FOR + Duration::from_millis(100);
        assert!(worst < Duration::from_secs(2));
        assert!(!keeper.is_open(1100));
    }

    #[test]
    fn one_hung_worker_of_two_is_enough_to_close_it() {
        let mut keeper = GateKeeper::default();
        keeper.wants_renewal(0, &[progress(0, 0); 2]);
        keeper.renewed(0, &[progress(1, 1); 2]);
        assert!(!keeper.wants_renewal(150, &[progress(2, 1), progress(1, 1)]));
    }

    #[test]
    fn after_a_lapse_it_opens_only_when_every_queue_was_empty() {
        let mut keeper = opened();
        assert!(!keeper.wants_renewal(5000, &[progress(5, 1)]));
        assert!(!keeper.wants_renewal(5150, &[progress(500, 1)]));
        assert!(keeper.wants_renewal(5300, &[progress(501, 2)]));
        assert_eq!(keeper.lapses(), 1);
    }

    #[test]
    fn answers_count_as_late_before_the_kernel_closes_the_gate() {
        let mut keeper = opened();
        let until = keeper.renewed(1000, &[progress(2, 1)]);
        assert!(until < 1000 + OPEN_FOR.as_millis() as u64);
        assert!(is_stale(until, until) && !is_stale(until - 1, until));
    }
}
