//! When the machine is looked at after news of it: soon, but not for each word of a device that cannot stop talking.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// News come in bursts; the machine is looked at when this long after the first.
const SOON: Duration = Duration::from_millis(100);
/// The longest wait, however much news there is.
const LATEST: Duration = Duration::from_secs(1);
/// So many looks within [`LATELY`] are made soon. What one change takes: our own part of it is news too.
const FREE: usize = 8;
/// See [`FREE`].
const LATELY: Duration = Duration::from_secs(10);

/// Waits for news to settle.
#[derive(Debug, Default)]
pub struct Settling {
    due: Option<Instant>,
    /// When it was looked lately, the latest last.
    looks: VecDeque<Instant>,
}

impl Settling {
    /// There are news; what came before the look that is due belongs to it.
    pub fn heard(&mut self, now: Instant) {
        let wait = self.wait(now);
        self.due.get_or_insert(now + wait);
    }

    /// Ends when it is time to look; never, while there are no news.
    pub async fn settled(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due.into()).await,
            None => std::future::pending().await,
        }
    }

    /// It is looked now.
    pub fn looks(&mut self, now: Instant) {
        self.due = None;
        self.looks.push_back(now);
    }

    /// Twice as long with each look too many.
    fn wait(&mut self, now: Instant) -> Duration {
        while self.looks.front().is_some_and(|look| now.duration_since(*look) > LATELY) {
            self.looks.pop_front();
        }
        let too_many = self.looks.len().saturating_sub(FREE).min(16);
        (SOON * (1 << too_many)).min(LATEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_changes_are_looked_at_soon_and_a_device_that_flaps_once_a_second() {
        let begin = Instant::now();
        let mut settling = Settling::default();
        let mut looks = Vec::new();
        // News every 50 ms for a minute.
        for step in 0..1200 {
            let now = begin + Duration::from_millis(50) * step;
            if settling.due.is_some_and(|due| due <= now) {
                settling.looks(now);
                looks.push(now - begin);
            }
            settling.heard(now);
        }
        assert!(looks[..8].windows(2).all(|pair| pair[1] - pair[0] <= 2 * SOON), "{looks:?}");
        assert!(looks.len() < 90, "{looks:?}");
        assert!(looks.windows(2).all(|pair| pair[1] - pair[0] <= LATEST + SOON), "{looks:?}");
    }

    #[test]
    fn after_a_while_without_news_they_are_looked_at_soon_again() {
        let begin = Instant::now();
        let mut settling = Settling::default();
        (0..20).for_each(|_| settling.looks(begin));
        settling.heard(begin);
        assert_eq!(settling.due, Some(begin + LATEST));
        let later = begin + 2 * LATELY;
        settling.looks(later);
        settling.heard(later);
        assert_eq!(settling.due, Some(later + SOON));
    }
}
