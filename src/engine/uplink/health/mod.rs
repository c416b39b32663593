//! [`Health`]: whether one line works in one family, judged by what answers over it.
//!
//! Several targets are asked in turn. Each of them is good or bad by what it
//! answered of late, with one set of limits to become bad and a stricter one to
//! become good again; the line is up while enough of them are good. A target
//! that has not answered three probes and for [`Settings::patience`] is bad at once.
//!
//! While all is well each target is asked once an interval, spread over it.
//! As soon as one answer is overdue, and while the line's state is not known, all
//! are asked five times as often. So a dead path is known about two seconds
//! after it died, and a lost packet costs nothing but a few more.
//!
//! A line without carrier, address or gateway is down at once, and unknown when it has them
//! back. One that lost them again and again must first stay for as long as a
//! line that was down.
//!
//! The machine has no clock: whoever owns it tells the time, sends the probes that
//! [`Health::poll`] names, and comes back at [`Health::next_deadline`].

mod model;
mod record;

use std::collections::VecDeque;
use std::time::Duration;

use self::record::{Record, Standing};
use crate::engine::flow::Millis;

pub use model::{Estimates, Limits, MAX_TARGETS, Page, Settings, State, Target, Why};

/// While in doubt, targets are asked so many times as often, and no more seldom than [`SLOWEST`].
const HASTE: u32 = 5;
/// See [`HASTE`].
const SLOWEST: Duration = Duration::from_millis(500);
/// No target is asked more often than this.
const QUICKEST: Duration = Duration::from_millis(50);
/// A line that was lost so often within [`FLAPPING`] is flapping.
const LOSSES: usize = 3;
/// See [`LOSSES`].
const FLAPPING: Duration = Duration::from_secs(10);

/// A probe to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Which target to ask, counted from 0.
    pub target: usize,
    /// Its number, for the answer.
    pub number: u64,
}

/// What became of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The right answer came after this time.
    Answered(Duration),
    /// It was refused, or answered wrongly.
    Failed,
}

/// One line in one family.
#[derive(Debug, Clone)]
pub struct Health {
    settings: Settings,
    records: Vec<Record>,
    has_way: bool,
    state: State,
    since: Millis,
    /// Since when enough targets have been good, on a line that is down.
    steady_since: Option<Millis>,
    /// When the line was lost, the latest few times.
    losses: VecDeque<Millis>,
    probes: u64,
}

impl Health {
    /// A line that nobody has seen yet: it has no way out before [`Health::came`].
    #[must_use]
    pub fn new(settings: Settings, now: Millis) -> Self {
        Health {
            settings,
            records: Vec::new(),
            has_way: false,
            state: State::Down(Why::NoWay),
            since: now,
            steady_since: None,
            losses: VecDeque::new(),
            probes: 0,
        }
    }

    /// How the line is.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when it is so.
    #[must_use]
    pub fn since(&self) -> Millis {
        self.since
    }

    /// The line has carrier, address and gateway, or has others than before, and so many targets. What is known of
    /// the old ones is forgotten.
    pub fn came(&mut self, targets: usize, now: Millis) {
        self.begin_anew(true, targets);
        let state = if self.is_flapping(now) { State::Down(Why::Flapping) } else { State::Unknown };
        self.enter(state, now);
        self.judge(now);
    }

    /// The line has no carrier, no address or no gateway.
    pub fn lost(&mut self, now: Millis) {
        if self.has_way {
            self.losses.truncate(LOSSES - 1);
            self.losses.push_front(now);
        }
        self.begin_anew(false, 0);
        let why = if self.is_flapping(now) { Why::Flapping } else { Why::NoWay };
        self.enter(State::Down(why), now);
    }

    /// New flows get no answers on a line that was thought to be up.
    pub fn suspect(&mut self, now: Millis) {
        if self.state == State::Up && !self.records.is_empty() {
            self.enter(State::Suspected, now);
        }
    }

    /// What became of a probe.
    pub fn heard(&mut self, probe: Probe, outcome: Outcome, now: Millis) {
        if let Some(record) = self.records.get_mut(probe.target) {
            match outcome {
                Outcome::Answered(took) => record.answered(probe.number, took, now),
                Outcome::Failed => record.failed(probe.number),
            }
        }
        self.judge(now);
    }

    /// The next probe to send now, if any; to be called until there is none.
    pub fn poll(&mut self, now: Millis) -> Option<Probe> {
        self.judge(now);
        let is_due = |&target: &usize| self.asks_at(target, now).is_some_and(|at| at <= now);
        let target = (0..self.records.len()).find(is_due)?;
        self.probes += 1;
        self.records.get_mut(target)?.ask(self.probes, now);
        Some(Probe { target, number: self.probes })
    }

    /// When to come back although nothing was heard; `None`: not before something is.
    #[must_use]
    pub fn next_deadline(&self, now: Millis) -> Option<Millis> {
        let asks = (0..self.records.len()).filter_map(|target| self.asks_at(target, now));
        let records = self.records.iter().filter_map(|record| record.next_deadline(&self.settings, now));
        asks.chain(records).chain(self.rejoins_at()).min()
    }

    /// What was measured of late.
    #[must_use]
    pub fn estimates(&self) -> Estimates {
        let answering: Vec<&Record> =
            self.records.iter().filter(|record| record.latency().is_some()).collect();
        let loss: f64 = answering.iter().map(|record| record.loss()).sum();
        let quickest = answering.iter().min_by_key(|record| record.latency());
        Estimates {
            loss: if answering.is_empty() { 0.0 } else { loss / answering.len() as f64 },
            latency: quickest.and_then(|record| record.latency()),
            jitter: quickest.map(|record| record.jitter()).unwrap_or_default(),
        }
    }

    fn begin_anew(&mut self, has_way: bool, targets: usize) {
        self.has_way = has_way;
        self.steady_since = None;
        self.records = vec![Record::new(); targets.min(MAX_TARGETS)];
    }

    fn enter(&mut self, state: State, now: Millis) {
        if state != self.state {
            self.state = state;
            self.since = now;
        }
    }

    fn is_flapping(&self, now: Millis) -> bool {
        let earliest = self.losses.get(LOSSES - 1);
        earliest.is_some_and(|earliest| earliest.after(FLAPPING) > now)
    }

    fn judge(&mut self, now: Millis) {
        if !self.has_way {
            return;
        }
        for record in &mut self.records {
            record.judge(&self.settings, now);
        }
        self.steady_since = if self.has_quorum() { self.steady_since.or(Some(now)) } else { None };
        let state = self.judged(now);
        self.enter(state, now);
    }

    fn judged(&self, now: Millis) -> State {
        match self.state {
            State::Down(why) if self.rejoins_at().is_none_or(|at| at > now) => {
                State::Down(self.why_down().unwrap_or(why))
            }
            State::Down(_) => self.at_best(),
            State::Suspected if !self.is_cleared() => self.why_down().map_or(State::Suspected, State::Down),
            State::Unknown if !self.has_quorum() => self.why_down().map_or(State::Unknown, State::Down),
            State::Unknown | State::Up | State::Suspected => {
                self.why_down().map_or(self.at_best(), State::Down)
            }
        }
    }

    /// Nobody knows whether a line works on which nothing is asked.
    fn at_best(&self) -> State {
        if self.records.is_empty() { State::Unknown } else { State::Up }
    }

    /// When a line that is down is up again, if all stays as it is.
    fn rejoins_at(&self) -> Option<Millis> {
        let is_down = self.has_way && matches!(self.state, State::Down(_));
        self.steady_since.filter(|_| is_down).map(|since| since.after(self.settings.rejoin_for))
    }

    fn needed(&self) -> usize {
        self.settings.needed(self.records.len())
    }

    fn has_quorum(&self) -> bool {
        let good = self.records.iter().filter(|record| record.standing() == Standing::Good);
        good.count() >= self.needed()
    }

    /// Why there cannot be enough good targets, if so many are bad: that nobody answers only where all of them are silent.
    fn why_down(&self) -> Option<Why> {
        let bad = self.records.iter().filter_map(|record| match record.standing() {
            Standing::Bad(why) => Some(why),
            Standing::Unknown | Standing::Good => None,
        });
        let left = self.records.len() - bad.clone().count();
        if left < self.needed() { bad.min_by_key(|&why| why == Why::NoAnswer) } else { None }
    }

    /// Enough targets have answered since the line was suspected.
    fn is_cleared(&self) -> bool {
        let cleared = self.records.iter().filter(|record| record.has_answered_since(self.since));
        cleared.count() >= self.needed()
    }

    /// When a target is asked next: each at a place of its own in the interval.
    fn asks_at(&self, target: usize, now: Millis) -> Option<Millis> {
        let record = self.records.get(target).filter(|_| self.has_way)?;
        let Some(last) = record.last_asked() else { return Some(now) };
        let interval = self.settings.interval;
        if self.is_in_haste(now) {
            return Some(last.after((interval / HASTE).clamp(QUICKEST, SLOWEST)));
        }
        let length = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
        let place = length * target as u64 / self.records.len() as u64;
        // Of the moments at this place, the one nearest to an interval after the last probe.
        let earliest = last.0.saturating_add(length.div_ceil(2));
        let wait = (place + length - earliest % length) % length;
        Some(Millis(earliest.saturating_add(wait)))
    }

    fn is_in_haste(&self, now: Millis) -> bool {
        match self.state {
            State::Unknown | State::Suspected => true,
            State::Up => self.records.iter().any(|record| record.is_in_doubt(now)),
            State::Down(_) => self.steady_since.is_some(),
        }
    }
}

#[cfg(test)]
mod tests;
