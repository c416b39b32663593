//! [`Record`]: what one target has answered of late, and whether it is good.

use std::collections::VecDeque;
use std::time::Duration;

use super::model::{Limits, Settings, Why};
use crate::engine::flow::Millis;

/// Probes to one target that may be on their way at once; older ones are given up.
const IN_FLIGHT: usize = 32;
/// Outcomes that are remembered: one bit each of a word.
const OUTCOMES: u32 = u64::BITS;
/// Outcomes that a target is taken back by: those since it became good do not count in full.
const LATEST: u32 = 20;
/// Loss is not judged by fewer outcomes than this.
const FEWEST: u32 = 10;
/// Times to answers that are remembered.
const TIMES: usize = 10;
/// So many probes in a row must be lost before a target is silent: one or two get lost anywhere.
const SILENCE: u32 = 3;
/// No answer is late before this, however quick the others were.
const SOONEST: Duration = Duration::from_millis(200);

/// What is known of one target.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// Probes without an answer yet, oldest first.
    in_flight: VecDeque<Asked>,
    last_asked: Option<Millis>,
    /// The first probe since the last answer, and how many were sent or lost since.
    unanswered: Option<(Millis, u32)>,
    outcomes: u64,
    outcomes_known: u32,
    times: VecDeque<Duration>,
    standing: Standing,
    last_answered: Option<Millis>,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    number: u64,
    at: Millis,
}

/// What to think of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Unknown,
    Good,
    Bad(Why),
}

impl Record {
    pub(super) fn new() -> Self {
        Record {
            in_flight: VecDeque::new(),
            last_asked: None,
            unanswered: None,
            outcomes: 0,
            outcomes_known: 0,
            times: VecDeque::new(),
            standing: Standing::Unknown,
            last_answered: None,
        }
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    /// When it was asked last.
    pub(super) fn last_asked(&self) -> Option<Millis> {
        self.last_asked
    }

    /// Whether it has answered since then.
    pub(super) fn has_answered_since(&self, then: Millis) -> bool {
        self.last_answered.is_some_and(|at| at > then)
    }

    /// A probe is on its way.
    pub(super) fn ask(&mut self, number: u64, now: Millis) {
        if self.in_flight.len() >= IN_FLIGHT {
            self.in_flight.pop_front();
        }
        self.in_flight.push_back(Asked { number, at: now });
        self.last_asked = Some(now);
        let (since, count) = self.unanswered.unwrap_or((now, 0));
        self.unanswered = Some((since, count.saturating_add(1)));
    }

    /// An answer to a probe; one that was given up, or that nobody sent, says nothing.
    pub(super) fn answered(&mut self, number: u64, took: Duration, now: Millis) {
        if !self.take(number) {
            return;
        }
        if self.standing == Standing::Bad(Why::NoAnswer) {
            self.forget_outcomes();
        }
        self.note(false);
        if self.times.len() == TIMES {
            self.times.pop_front();
        }
        self.times.push_back(took);
        self.unanswered = None;
        self.last_answered = Some(now);
    }

    /// A probe that was refused, or answered wrongly: it is as lost.
    pub(super) fn failed(&mut self, number: u64) {
        if self.take(number) {
            self.note(true);
        }
    }

    /// Gives up what has been on its way for too long, and judges anew.
    pub(super) fn judge(&mut self, settings: &Settings, now: Millis) {
        let patience = settings.patience();
        while self.in_flight.front().is_some_and(|asked| asked.at.after(patience) <= now) {
            self.in_flight.pop_front();
            self.note(true);
        }
        self.standing = self.judged(settings, now);
    }

    /// Whether an answer is overdue, compared with the usual; a target that is not good is not waited for.
    pub(super) fn is_in_doubt(&self, now: Millis) -> bool {
        let is_waited_for = !matches!(self.standing, Standing::Bad(_));
        is_waited_for && self.overdue().is_some_and(|overdue| overdue <= now)
    }

    /// When something about it changes although nothing happens.
    pub(super) fn next_deadline(&self, settings: &Settings, now: Millis) -> Option<Millis> {
        let lost = self.in_flight.front().map(|asked| asked.at.after(settings.patience()));
        let silent = self.unanswered.map(|(since, _)| since.after(settings.patience()));
        let later = [lost, silent, self.overdue()].into_iter().flatten();
        later.filter(|&deadline| deadline > now).min()
    }

    /// Lost probes of late, 0 to 1.
    pub(super) fn loss(&self) -> f64 {
        self.loss_of(OUTCOMES)
    }

    /// The middle one of the times to the latest answers.
    pub(super) fn latency(&self) -> Option<Duration> {
        let mut times: Vec<Duration> = self.times.iter().copied().collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }

    /// The mean difference between the times to two answers in a row (like RFC 3550 section 6.4.1).
    pub(super) fn jitter(&self) -> Duration {
        let pairs = self.times.iter().zip(self.times.iter().skip(1));
        let total: Duration = pairs.map(|(one, next)| one.abs_diff(*next)).sum();
        total.checked_div((self.times.len() as u32).saturating_sub(1)).unwrap_or_default()
    }

    fn judged(&self, settings: &Settings, now: Millis) -> Standing {
        if self.is_silent_for(settings.patience(), now) {
            return Standing::Bad(Why::NoAnswer);
        }
        match self.standing {
            Standing::Unknown | Standing::Good if self.last_answered.is_none() => Standing::Unknown,
            Standing::Unknown | Standing::Good => {
                self.beyond(&settings.leave, self.lost_enough(settings)).map_or(Standing::Good, Standing::Bad)
            }
            Standing::Bad(Why::NoAnswer) if self.unanswered.is_some() => Standing::Bad(Why::NoAnswer),
            Standing::Bad(_) => {
                let loses = self.loss_of(LATEST) * 100.0 > f64::from(settings.rejoin.loss);
                self.beyond(&settings.rejoin, loses).map_or(Standing::Good, Standing::Bad)
            }
        }
    }

    /// Which limit is not kept.
    fn beyond(&self, limits: &Limits, loses: bool) -> Option<Why> {
        if loses && self.outcomes_known >= FEWEST {
            return Some(Why::Loss);
        }
        if self.latency().is_some_and(|latency| latency > limits.latency) {
            return Some(Why::Latency);
        }
        limits.jitter.filter(|&most| self.jitter() > most).map(|_| Why::Jitter)
    }

    /// Whether more are lost than the limit allows and chance explains: of a line that loses just as many as it may,
    /// the share of a few probes is above the limit half of the time. One standard deviation is left to chance.
    fn lost_enough(&self, settings: &Settings) -> bool {
        let (limit, known) = (f64::from(settings.leave.loss) / 100.0, f64::from(self.outcomes_known));
        let chance = (limit * (1.0 - limit) * known).sqrt();
        self.loss() * known > limit * known + chance
    }

    fn is_silent_for(&self, patience: Duration, now: Millis) -> bool {
        self.unanswered.is_some_and(|(since, count)| count >= SILENCE && since.after(patience) <= now)
    }

    /// When the oldest answer that is awaited becomes late.
    fn overdue(&self) -> Option<Millis> {
        let usual = self.latency().map_or(Duration::ZERO, |latency| latency * 2 + self.jitter() * 4);
        self.unanswered.map(|(since, _)| since.after(usual.max(SOONEST)))
    }

    fn take(&mut self, number: u64) -> bool {
        let place = self.in_flight.iter().position(|asked| asked.number == number);
        place.and_then(|place| self.in_flight.remove(place)).is_some()
    }

    fn note(&mut self, is_lost: bool) {
        self.outcomes = self.outcomes << 1 | u64::from(is_lost);
        self.outcomes_known = (self.outcomes_known + 1).min(OUTCOMES);
    }

    /// What was lost while nobody answered is no measure of what gets lost now.
    fn forget_outcomes(&mut self) {
        (self.outcomes, self.outcomes_known) = (0, 0);
        self.times.clear();
        self.in_flight.clear();
    }

    fn loss_of(&self, latest: u32) -> f64 {
        let known = self.outcomes_known.min(latest);
        let bits = self.outcomes & u64::MAX.checked_shr(u64::BITS - known).unwrap_or(0);
        if known == 0 { 0.0 } else { f64::from(bits.count_ones()) / f64::from(known) }
    }
}
