//! When each of many flows begins.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::{FlowOutcome, Report, Tally};

/// How many flows, how many at a time, how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How many in all.
    pub flows: usize,
    /// At most so many at one time; a flow whose turn has come waits for room.
    pub at_once: usize,
    /// New flows per second; `None`: as fast as room allows.
    pub per_second: Option<u32>,
}

impl Pace {
    /// So many flows, so many at a time, without delay.
    #[must_use]
    pub fn burst(flows: usize, at_once: usize) -> Self {
        Pace { flows, at_once: at_once.max(1), per_second: None }
    }

    /// New flows evenly for some time; up to 4,096 may be open at one time.
    #[must_use]
    pub fn steady(per_second: u32, time: Duration) -> Self {
        let flows = (f64::from(per_second) * time.as_secs_f64()) as usize;
        Pace { flows, at_once: 4096, per_second: Some(per_second.max(1)) }
    }

    /// How long after the first flow this one begins.
    fn delay(&self, index: usize) -> Duration {
        self.per_second.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(index as f64 / f64::from(rate)))
    }

    /// Runs all flows on the current runtime; each `flow` must end by itself.
    pub(super) async fn drive<F, T>(&self, tally: &Tally, mut flow: F) -> Report
    where
        F: FnMut(usize) -> T,
        T: Future<Output = FlowOutcome> + Send + 'static,
    {
        let mut running = JoinSet::new();
        let mut flows = Vec::with_capacity(self.flows);
        let mut keep = |outcome: FlowOutcome| {
            tally.count(outcome.failure.as_deref());
            flows.push(outcome);
        };
        let begin = Instant::now();
        for index in 0..self.flows {
            sleep_until(begin + self.delay(index)).await;
            while running.len() >= self.at_once {
                running.join_next().await.into_iter().flatten().for_each(&mut keep);
            }
            running.spawn(flow(index));
            while let Some(ended) = running.try_join_next() {
                ended.into_iter().for_each(&mut keep);
            }
        }
        while let Some(ended) = running.join_next().await {
            ended.into_iter().for_each(&mut keep);
        }
        flows.sort_by_key(|outcome| outcome.index);
        Report { flows }
    }
}

/// A shared empty payload of this length.
pub(super) fn payload(length: usize) -> Arc<[u8]> {
    vec![b'w'; length].into()
}
