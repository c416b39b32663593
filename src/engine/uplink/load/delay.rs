//! [`Delay`]: whether answers wait in a queue, which means that the line is full.

use std::time::Duration;

use crate::engine::flow::Millis;

/// The shortest time to an answer is looked for over the last one to two of these.
const WINDOW: Duration = Duration::from_secs(60);
/// An answer that comes counts for so much, the ones before for the rest: five late ones in a row are a queue.
const SMOOTHING: f64 = 0.2;
/// Answers that wait longer than this, and longer than [`TIMES`] the shortest time, wait in a queue. Shorter waits are
/// those of busy hosts and of Wi-Fi. Queues of full lines are longer, unless somebody keeps them short on purpose (RFC 8290).
const QUEUED: f64 = 0.015;
/// See [`QUEUED`].
const TIMES: f64 = 0.25;
/// The queue has gone when answers wait less than this part of what made it one.
const GONE: f64 = 0.5;
/// However late, one answer counts for no more than this many times what makes a queue.
const MOST: f64 = 4.0;
/// And for no more than this, in seconds, where the wait itself is asked for.
const LONGEST: f64 = 1.0;
/// Nothing is known of the line after so long without an answer.
const SILENCE: Duration = Duration::from_secs(5);
/// Hosts whose shortest times are remembered.
const HOSTS: usize = 64;

/// Times to answers over one line. Hosts are near and far, so each is compared with itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Delay {
    hosts: Vec<Host>,
    /// How long answers wait.
    wait: Wait,
    heard_at: Option<Millis>,
    is_queued: bool,
}

/// How much longer than the shortest time an answer took, or answers of late.
#[derive(Debug, Clone, Copy, Default)]
struct Wait {
    /// In units of what makes a queue.
    units: f64,
    seconds: f64,
}

/// The shortest times to one host's answers, in seconds.
#[derive(Debug, Clone, Copy)]
struct Host {
    name: u64,
    this_window: f64,
    window_before: f64,
    window_began: Millis,
    heard_at: Millis,
}

impl Delay {
    /// An answer of this host took so long.
    pub(super) fn heard(&mut self, host: u64, took: Duration, now: Millis) {
        let took = took.as_secs_f64();
        let Some(host) = self.hosts.iter_mut().find(|known| known.name == host) else {
            self.remember(Host::new(host, took, now));
            return;
        };
        let wait = host.heard(took, now);
        let is_stale = self.heard_at.is_none_or(|at| at.after(SILENCE) < now);
        let before = if is_stale { Wait::default() } else { self.wait };
        self.wait = before.followed_by(wait);
        self.is_queued = self.wait.units > if self.is_queued { GONE } else { 1.0 };
        self.heard_at = Some(now);
    }

    /// Whether answers wait in a queue; `None`: there are none of late.
    pub(super) fn is_queued(&self, now: Millis) -> Option<bool> {
        let is_recent = self.heard_at.is_some_and(|at| at.after(SILENCE) >= now);
        is_recent.then_some(self.is_queued)
    }

    /// How long answers wait in the queue that there is.
    pub(super) fn in_queue(&self, now: Millis) -> Duration {
        let seconds = if self.is_queued(now) == Some(true) { self.wait.seconds } else { 0.0 };
        Duration::from_secs_f64(seconds)
    }

    /// In the place of the one who has been silent for longest, where there is no other.
    fn remember(&mut self, host: Host) {
        if self.hosts.len() < HOSTS {
            self.hosts.push(host);
        } else if let Some(oldest) = self.hosts.iter_mut().min_by_key(|known| known.heard_at) {
            *oldest = host;
        }
    }
}

impl Host {
    fn new(name: u64, took: f64, now: Millis) -> Self {
        Host { name, this_window: took, window_before: took, window_began: now, heard_at: now }
    }

    /// What its answer waited.
    fn heard(&mut self, took: f64, now: Millis) -> Wait {
        if self.window_began.after(WINDOW) <= now {
            (self.window_before, self.this_window) = (self.this_window, took);
            self.window_began = now;
        }
        self.this_window = self.this_window.min(took);
        self.heard_at = now;
        let shortest = self.this_window.min(self.window_before);
        let seconds = took - shortest;
        Wait { units: seconds / QUEUED.max(TIMES * shortest), seconds }
    }
}

impl Wait {
    fn followed_by(self, next: Wait) -> Wait {
        let follow = |before: f64, next: f64| before + SMOOTHING * (next - before);
        Wait {
            units: follow(self.units, next.units.min(MOST)),
            seconds: follow(self.seconds, next.seconds.min(LONGEST)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_seen_within_a_second_and_its_end_too() {
        let mut delay = Delay::default();
        assert_eq!(delay.is_queued(Millis(0)), None);
        let now = hear(&mut delay, 20, 50, Millis(0));
        assert_eq!(delay.is_queued(now), Some(false));
        let now = hear(&mut delay, 90, 5, now);
        assert_eq!(delay.is_queued(now), Some(true));
        let now = hear(&mut delay, 20, 10, now);
        assert_eq!(delay.is_queued(now), Some(false));
    }

    #[test]
    fn a_single_late_answer_and_small_waits_are_no_queue() {
        let mut delay = Delay::default();
        let now = hear(&mut delay, 20, 50, Millis(0));
        let now = hear(&mut delay, 900, 1, now);
        assert_eq!(delay.is_queued(now), Some(false));
        let now = hear(&mut delay, 30, 50, now);
        assert_eq!(delay.is_queued(now), Some(false));
    }

    #[test]
    fn the_wait_in_a_queue_is_known_and_small_waits_are_none() {
        let mut delay = Delay::default();
        let now = hear(&mut delay, 20, 50, Millis(0));
        let now = hear(&mut delay, 25, 50, now);
        assert_eq!(delay.in_queue(now), Duration::ZERO);
        let now = hear(&mut delay, 120, 50, now);
        assert!(delay.in_queue(now).abs_diff(Duration::from_millis(100)) < Duration::from_millis(1));
        let now = hear(&mut delay, 60_000, 100, now);
        assert!(delay.in_queue(now) <= Duration::from_secs(1));
        assert_eq!(delay.in_queue(now.after(Duration::from_secs(6))), Duration::ZERO);
    }

    #[test]
    fn hosts_near_and_far_are_no_queue() {
        let mut delay = Delay::default();
        for step in 0..100 {
            let (host, took) = if step % 2 == 0 { (1, 1) } else { (2, 200) };
            delay.heard(host, Duration::from_millis(took), Millis(step * 100));
        }
        assert_eq!(delay.is_queued(Millis(10_000)), Some(false));
    }

    #[test]
    fn a_path_that_became_longer_for_good_is_the_new_base_within_three_minutes() {
        let mut delay = Delay::default();
        let now = hear(&mut delay, 20, 500, Millis(0));
        let now = hear(&mut delay, 60, 100, now);
        assert_eq!(delay.is_queued(now), Some(true));
        let now = hear(&mut delay, 60, 1700, now);
        assert_eq!(delay.is_queued(now), Some(false));
    }

    #[test]
    fn nothing_is_known_of_a_line_that_is_silent() {
        let mut delay = Delay::default();
        let now = hear(&mut delay, 20, 5, Millis(0));
        assert_eq!(delay.is_queued(now.after(Duration::from_secs(6))), None);
    }

    #[test]
    fn so_many_hosts_are_remembered_and_the_most_silent_is_forgotten() {
        let mut delay = Delay::default();
        for host in 0..1000 {
            delay.heard(host, Duration::from_millis(20), Millis(host));
        }
        assert_eq!(delay.hosts.len(), HOSTS);
        assert!(delay.hosts.iter().all(|host| host.name >= 1000 - HOSTS as u64));
    }

    /// So many answers of one host, one each 100 ms.
    fn hear(delay: &mut Delay, took: u64, answers: usize, mut now: Millis) -> Millis {
        for _ in 0..answers {
            now = now.after(Duration::from_millis(100));
            delay.heard(1, Duration::from_millis(took), now);
        }
        now
    }
}
