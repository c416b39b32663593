//! What the kernel decided by itself: counted there, and read when somebody asks.
//!
//! The counters outlast the firewall's being filled anew. What takes them away is a
//! reload that has no use for them, so they are read before one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::shared::Shared;
use crate::plan::firewall::offload::Account;
use crate::system::firewall::{self, Backend};

/// Flows that the kernel decided since the daemon started.
pub struct Alone {
    backend: Backend,
    shared: Arc<Shared>,
    counts: Mutex<Counts>,
}

/// Sums of counters that may begin anew.
#[derive(Debug, Default)]
struct Counts {
    seen: HashMap<Account, u64>,
    sums: HashMap<Account, u64>,
}

impl Alone {
    /// From now on. What was counted before belongs to an earlier run.
    #[must_use]
    pub fn new(backend: Backend, shared: &Arc<Shared>) -> Self {
        let alone = Alone { backend, shared: Arc::clone(shared), counts: Mutex::default() };
        alone.read();
        alone.counts().sums.clear();
        alone
    }

    /// Looks at the counters, where there are any. Where that cannot be done the sums stay what they were.
    pub fn read(&self) {
        if self.shared.deciding.load().alone.is_empty() {
            return;
        }
        match firewall::counts(self.backend) {
            Ok(now) => self.counts().follow(now),
            Err(error) => tracing::warn!("what the kernel decided by itself cannot be counted: {error}"),
        }
    }

    /// Flows by account, as read last.
    #[must_use]
    pub fn sums(&self) -> HashMap<Account, u64> {
        self.counts().sums.clone()
    }

    /// Rules were loaded anew: their numbers mean other rules now.
    pub fn rules_changed(&self) {
        self.read();
        self.counts().sums.retain(|(rule, _), _| rule.is_none());
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // A thread that panicked while counting has left numbers, not nonsense.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// One that is lower than it was has begun anew.
    fn follow(&mut self, now: HashMap<Account, u64>) {
        for (account, &count) in &now {
            let before = self.seen.get(account).copied().filter(|&before| before <= count);
            *self.sums.entry(*account).or_default() += count - before.unwrap_or_default();
        }
        self.seen = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::uplink::UplinkId;

    #[test]
    fn what_was_counted_stays_when_counters_begin_anew_or_go() {
        let account = (None, UplinkId(0));
        let mut counts = Counts::default();
        for (now, sum) in [(Some(3), 3), (Some(5), 5), (Some(1), 6), (None, 6), (Some(2), 8), (Some(2), 8)] {
            counts.follow(now.map(|count| (account, count)).into_iter().collect());
            assert_eq!(counts.sums[&account], sum);
        }
    }
}
