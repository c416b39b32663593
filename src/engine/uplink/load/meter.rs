//! [`Meter`]: what can be seen of one line, turned into its [`Load`].

use std::time::Duration;

use super::delay::Delay;
use super::gauge::{Gauge, part};
use super::{Both, Crowd, Direction, Lane, Load};
use crate::engine::flow::Millis;

/// How long a flow that began is counted beside those that show: its handshake, its start, and the time to
/// the next count. As a time constant.
const SETTLING: Duration = Duration::from_millis(700);
/// Time constant by which flows are taken for ended where nobody counts those that move bytes.
const LIFE: Duration = Duration::from_secs(10);
/// The shortest time that flows are taken to last.
const SHORTEST: Duration = Duration::from_millis(10);
/// A count of flows is good for so long.
const COUNTED: Duration = Duration::from_secs(5);
/// Time constant of what one flow takes.
const MANY: Duration = Duration::from_secs(30);
/// Two directions that are both in use by about as much: the one that carries more is the full one.
const ALIKE: f64 = 0.9;
/// Less than this part of a capacity is little.
const HALF: f64 = 0.5;

/// One line. It has no clock: it is told the time, and called from one thread.
///
/// Call [`Meter::carried`] every 100 to 250 ms, the others whenever there is something to tell.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    gauges: Both<Gauge>,
    delay: Delay,
    /// The direction that answers wait for in a queue.
    blamed: Option<Direction>,
    counted: Option<(Both<u64>, Millis)>,
    flows: Both<f64>,
    crowd_at: Option<Millis>,
    each: Both<Option<f64>>,
    begun: f64,
    begun_at: Millis,
    /// Flows that begin in a second, and flows that there are: how long they last follows (J. D. C. Little, 1961).
    starts: f64,
    present: f64,
}

impl Meter {
    /// A line with the capacities that its owner gives, in bytes per second.
    #[must_use]
    pub fn new(given: Both<Option<u64>>) -> Self {
        Meter { gauges: given.map(Gauge::new), ..Meter::default() }
    }

    /// How many bytes the line has carried since whenever: its device's counters. They may begin anew at 0
    /// or go back, and a step of time may be of any length.
    pub fn carried(&mut self, total: Both<u64>, now: Millis) {
        let Some((before, then)) = self.counted else {
            self.counted = Some((total, now));
            return;
        };
        let time = Duration::from_millis(now.0.saturating_sub(then.0));
        if time.is_zero() {
            return;
        }
        self.blame(now);
        let blamed = self.blamed;
        let bytes = |before: u64, total: u64| total.checked_sub(before).unwrap_or(total);
        let Both { down, up } = &mut self.gauges;
        down.carried(bytes(before.down, total.down), time, blamed == Some(Direction::Down));
        up.carried(bytes(before.up, total.up), time, blamed == Some(Direction::Up));
        self.counted = Some((total, now));
    }

    /// An answer over the line took this long: to a probe, or to a client's first packet. `host` is any number
    /// that is another one for another host (or another way to ask it).
    pub fn delay(&mut self, host: u64, took: Duration, now: Millis) {
        self.delay.heard(host, took, now);
    }

    /// So many flows that [`super::counts`] were decided for the line since the last call, by anybody.
    pub fn began(&mut self, flows: u64, now: Millis) {
        let time = Duration::from_millis(now.0.saturating_sub(self.begun_at.0));
        if !time.is_zero() {
            self.starts += part(time, MANY) * (flows as f64 / time.as_secs_f64() - self.starts);
            self.present += part(time, MANY) * (self.flows.down.max(self.flows.up) - self.present);
        }
        self.begun = self.begun(now) + flows as f64;
        self.begun_at = now;
    }

    /// The flows that have moved bytes in the last half second or so, but for those that have ended. Without these, flows are
    /// guessed from those that began.
    pub fn shared_by(&mut self, crowd: &Crowd, now: Millis) {
        let time = self.crowd_at.map_or(MANY, |then| Duration::from_millis(now.0.saturating_sub(then.0)));
        self.flows = crowd.flows();
        self.crowd_at = Some(now);
        let each = |each: &mut Option<f64>, gauge: &Gauge, flows: f64| {
            if flows > 0.0 {
                let took = gauge.rate() as f64 / flows;
                *each = Some(each.map_or(took, |each| each + part(time, MANY) * (took - each)));
            }
        };
        each(&mut self.each.down, &self.gauges.down, self.flows.down);
        each(&mut self.each.up, &self.gauges.up, self.flows.up);
    }

    /// How full the line is.
    #[must_use]
    pub fn load(&self, now: Millis) -> Load {
        let is_timed = self.delay.is_queued(now).is_some();
        let is_counted = self.is_counted(now);
        let lane = |direction| {
            let gauge = self.gauges.of(direction);
            let is_queued = is_timed.then_some(self.blamed == Some(direction));
            Lane {
                rate: gauge.rate(),
                capacity: gauge.capacity(),
                is_full: either(gauge.is_full(), is_queued),
                flows: if is_counted { *self.flows.of(direction) } else { 0.0 },
                begun: self.begun(now),
                each: self.each.of(direction).map(|each| each as u64),
                queue: self.delay.in_queue(now),
            }
        };
        Both { down: lane(Direction::Down), up: lane(Direction::Up) }
    }

    /// Blames a queue on one direction, for as long as it lasts: while it drains, rates say little. Only when the other
    /// one carries more, and this one little, it is the other's.
    fn blame(&mut self, now: Millis) {
        let is_queued = self.delay.is_queued(now).unwrap_or(false);
        self.blamed = is_queued.then(|| match self.blamed {
            None => self.busier(),
            Some(direction) => {
                let (this, other) = (self.gauges.of(direction), self.gauges.of(direction.other()));
                let has_ended = this.use_of() < HALF && other.rate() > this.rate();
                if has_ended { direction.other() } else { direction }
            }
        });
    }

    fn busier(&self) -> Direction {
        let Both { down, up } = &self.gauges;
        let (more, less) = (down.use_of().max(up.use_of()), down.use_of().min(up.use_of()));
        let by_use = down.use_of() >= up.use_of();
        let is_down = if less > ALIKE * more { down.rate() >= up.rate() } else { by_use };
        if is_down { Direction::Down } else { Direction::Up }
    }

    fn is_counted(&self, now: Millis) -> bool {
        self.crowd_at.is_some_and(|at| at.after(COUNTED) >= now)
    }

    fn begun(&self, now: Millis) -> f64 {
        let time = Duration::from_millis(now.0.saturating_sub(self.begun_at.0));
        self.begun * (1.0 - part(time, self.lasting(now)))
    }

    /// How long a flow that begins is to be counted: until it shows in the counters, or has ended.
    fn lasting(&self, now: Millis) -> Duration {
        if !self.is_counted(now) {
            return LIFE;
        }
        let life = Duration::try_from_secs_f64(self.present / self.starts).unwrap_or(SETTLING);
        life.clamp(SHORTEST, SETTLING)
    }
}

/// Either says so; both or one says not; none knows.
fn either(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    match (one, other) {
        (None, None) => None,
        _ => Some(one == Some(true) || other == Some(true)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Capacity;
    use super::*;

    const MBIT: u64 = 125_000;

    #[test]
    fn the_rate_follows_a_change_within_a_second_and_never_passes_it() {
        for step in [100, 170, 250] {
            let mut line = Line::new(step);
            line.run(5000, 20 * MBIT, 0);
            assert_near(line.down().rate, 20 * MBIT, 0.01);
            let mut highest = 0;
            for _ in 0..(1000 / step) {
                line.run(step, 100 * MBIT, 0);
                highest = highest.max(line.down().rate);
            }
            line.run(step, 100 * MBIT, 0);
            assert_near(line.down().rate, 100 * MBIT, 0.05);
            assert!(highest <= 100 * MBIT);
            line.run(1100, 0, 0);
            assert!(line.down().rate < 5 * MBIT, "{}", line.down().rate);
        }
    }

    #[test]
    fn counters_that_begin_anew_are_no_flood() {
        let mut line = Line::new(100);
        line.run(3000, 20 * MBIT, MBIT);
        line.total = Both::default();
        line.run(100, 20 * MBIT, MBIT);
        assert_near(line.down().rate, 20 * MBIT, 0.02);
        assert_near(line.load().up.rate, MBIT, 0.02);
    }

    #[test]
    fn a_given_capacity_stays_and_tells_when_the_line_is_full() {
        let meter = Meter::new(Both { down: Some(50 * MBIT), up: None });
        let mut line = Line { meter, ..Line::new(100) };
        line.run(3000, 20 * MBIT, 0);
        assert_eq!((line.down().capacity, line.down().is_full), (Capacity::Given(50 * MBIT), Some(false)));
        line.run(3000, 50 * MBIT, 0);
        assert_eq!((line.down().capacity, line.down().is_full), (Capacity::Given(50 * MBIT), Some(true)));
    }

    #[test]
    fn a_capacity_is_learned_from_the_most_that_was_carried() {
        let mut line = Line::new(100);
        line.run(3000, MBIT / 2, 0);
        assert_eq!(line.down().capacity, Capacity::Unknown);
        line.run(3000, 80 * MBIT, 0);
        line.run(600_000, 0, 0);
        let Capacity::AtLeast(learned) = line.down().capacity else { panic!("{:?}", line.down()) };
        assert_near(learned, 80 * MBIT, 0.05);
        assert_eq!(line.down().is_full, None);
    }

    #[test]
    fn a_line_whose_answers_wait_is_full_in_the_direction_that_is_busier() {
        let mut line = Line::new(100);
        line.answers_after(20, 3000, MBIT, MBIT);
        line.answers_after(90, 3000, 30 * MBIT, MBIT);
        assert_eq!((line.down().is_full, line.load().up.is_full), (Some(true), Some(false)));
        assert!(matches!(line.down().capacity, Capacity::Measured(_)));
        line.answers_after(20, 3000, MBIT, MBIT);
        assert_eq!((line.down().is_full, line.load().up.is_full), (Some(false), Some(false)));
    }

    #[test]
    fn a_capacity_that_falls_is_followed_within_ten_seconds_while_the_line_is_full() {
        let mut line = Line::new(100);
        line.answers_after(20, 3000, 0, 0);
        line.answers_after(90, 5000, 80 * MBIT, 0);
        line.answers_after(90, 10_000, 10 * MBIT, 0);
        let Capacity::Measured(learned) = line.down().capacity else { panic!("{:?}", line.down()) };
        assert!((10 * MBIT..14 * MBIT).contains(&learned), "{learned}");
        line.answers_after(20, 600_000, 2 * MBIT, 0);
        assert!(line.down().capacity.bytes() > Some(6 * MBIT), "what is not used is not lost");
    }

    #[test]
    fn flows_that_began_count_until_they_show() {
        let mut line = Line::new(100);
        line.meter.shared_by(&Crowd::default(), line.now);
        line.meter.began(10, line.now);
        assert_eq!(line.down().begun, 10.0);
        line.run(2000, 0, 0);
        assert!(line.down().begun < 1.0, "{}", line.down().begun);
    }

    #[test]
    fn where_nobody_counts_flows_those_that_began_stand_for_them_longer() {
        let mut line = Line::new(100);
        line.meter.began(10, line.now);
        line.run(2000, 0, 0);
        assert!(line.down().begun > 7.0, "{}", line.down().begun);
    }

    proptest! {
        #[test]
        fn whatever_it_is_told_its_numbers_are_numbers_and_no_more_than_was_carried(
            steps in prop::collection::vec((0..2000_u64, any::<u64>(), any::<u64>(), 0..5000_u64, 0..1000_u64), 1..100),
        ) {
            let (mut meter, mut now) = (Meter::default(), Millis(7));
            for (time, down, up, took, began) in steps {
                now = now.after(Duration::from_millis(time));
                meter.carried(Both { down, up }, now);
                meter.delay(took % 3, Duration::from_millis(took), now);
                meter.began(began, now);
                for lane in [meter.load(now).down, meter.load(now).up] {
                    prop_assert!(lane.begun.is_finite() && lane.begun >= 0.0);
                    prop_assert!(lane.capacity.bytes().unwrap_or(lane.rate) >= lane.rate);
                }
            }
        }
    }

    struct Line {
        meter: Meter,
        total: Both<u64>,
        now: Millis,
        step: u64,
    }

    impl Line {
        fn new(step: u64) -> Self {
            let mut line = Line { meter: Meter::default(), total: Both::default(), now: Millis(1000), step };
            line.meter.carried(line.total, line.now);
            line
        }

        /// For so many milliseconds, with so many bytes per second.
        fn run(&mut self, time: u64, down: u64, up: u64) {
            for _ in 0..time.div_ceil(self.step) {
                self.now = self.now.after(Duration::from_millis(self.step));
                self.total.down += down * self.step / 1000;
                self.total.up += up * self.step / 1000;
                self.meter.carried(self.total, self.now);
            }
        }

        fn answers_after(&mut self, took: u64, time: u64, down: u64, up: u64) {
            for _ in 0..time.div_ceil(self.step) {
                self.meter.delay(1, Duration::from_millis(took), self.now);
                self.run(self.step, down, up);
            }
        }

        fn load(&self) -> Load {
            self.meter.load(self.now)
        }

        fn down(&self) -> Lane {
            self.load().down
        }
    }

    fn assert_near(number: u64, expected: u64, within: f64) {
        let wrong = (number as f64 - expected as f64).abs();
        assert!(wrong <= expected as f64 * within, "{number} and not {expected}");
    }
}
