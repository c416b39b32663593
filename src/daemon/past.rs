//! What went past the queues because too much came, as the firewall counts it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::plan::firewall::model::PastCounts;

/// What "lately" means.
const LATELY: Duration = Duration::from_secs(60);

/// The sum of many readings of counters that begin anew whenever their rules are filled.
#[derive(Debug)]
pub struct Past {
    last: PastCounts,
    total: PastCounts,
    /// When something was counted, and how much, as long as that is lately.
    steps: VecDeque<(Instant, u64)>,
}

impl Past {
    /// Counts from this reading on.
    #[must_use]
    pub fn since(reading: PastCounts) -> Self {
        Past { last: reading, total: PastCounts::default(), steps: VecDeque::new() }
    }

    /// Takes in what the counters say at `now`.
    pub fn read(&mut self, reading: PastCounts, now: Instant) {
        let (share, limit) = (more(self.last.share, reading.share), more(self.last.limit, reading.limit));
        self.last = reading;
        self.total.share += share;
        self.total.limit += limit;
        self.forget(now);
        if share + limit > 0 {
            self.steps.push_back((now, share + limit));
        }
    }

    /// All that was counted.
    #[must_use]
    pub fn total(&self) -> PastCounts {
        self.total
    }

    /// How many packets were counted in the minute before `now`.
    #[must_use]
    pub fn lately(&self, now: Instant) -> u64 {
        self.steps.iter().filter(|(at, _)| is_late(*at, now)).map(|(_, packets)| packets).sum()
    }

    fn forget(&mut self, now: Instant) {
        while self.steps.front().is_some_and(|(at, _)| !is_late(*at, now)) {
            self.steps.pop_front();
        }
    }
}

fn is_late(at: Instant, now: Instant) -> bool {
    now.duration_since(at) < LATELY
}

/// A counter that has fallen began anew.
fn more(before: u64, after: u64) -> u64 {
    if after < before { after } else { after - before }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_on_where_counters_begin_anew_and_only_the_last_minute_is_lately() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut past = Past::since(PastCounts { share: 100, limit: 7 });
        past.read(PastCounts { share: 110, limit: 7 }, at(0));
        past.read(PastCounts { share: 4, limit: 1 }, at(30));
        past.read(PastCounts { share: 4, limit: 3 }, at(40));
        assert_eq!(past.total(), PastCounts { share: 14, limit: 3 });
        assert_eq!([at(59), at(60), at(95), at(100)].map(|now| past.lately(now)), [17, 7, 2, 0]);
        past.read(PastCounts { share: 4, limit: 3 }, at(200));
        assert_eq!((past.lately(at(200)), past.steps.len()), (0, 0));
    }
}
