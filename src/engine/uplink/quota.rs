//! What a line may carry in a month ([`Quota`]) and what it has carried ([`Usage`]).
//!
//! Bytes are counted under the period that the calendar says, so a clock that is wrong for a
//! while puts some bytes under another period and forgets none: once it is right again, what was
//! counted before is there. A clock that has not been set yet (routers without a battery begin in 1970)
//! says nothing; until it is set, bytes go where the last ones went.

use serde::{Deserialize, Serialize};

/// What a line may carry in a month, down and up together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Bytes.
    pub bytes: u64,
    /// The day on which counting begins anew, 1 to 31; in shorter months the last one.
    pub reset_day: u8,
}

/// How much of a quota is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Less than [`NEARLY`] percent.
    #[default]
    Enough,
    /// More than that.
    Nearly,
    /// All of it.
    UsedUp,
}

/// From how many percent on the owner is warned.
pub const NEARLY: u64 = 80;

/// A day of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Day {
    /// The year.
    pub year: i16,
    /// The month, 1 to 12.
    pub month: u8,
    /// The day, 1 to 31.
    pub day: u8,
}

/// What a line has carried; written down for the next run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// The one that was counted under last is the first; at most [`PERIODS`].
    periods: Vec<Period>,
    /// What the device had counted when it was looked at last.
    counted: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Period {
    begins: Day,
    bytes: u64,
}

/// Periods that are remembered: this one, and some for a clock that jumps.
const PERIODS: usize = 4;

/// In a period that begins before this year the clock has not been set: the program is younger.
const FIRST_YEAR: i16 = 2025;

impl Quota {
    /// The first day of the period that a day is in.
    #[must_use]
    pub fn period(self, today: Day) -> Day {
        let this_month = today.moved_to(self.reset_day);
        if this_month <= today { this_month } else { today.a_month_before().moved_to(self.reset_day) }
    }

    /// How much of it so many bytes are.
    #[must_use]
    pub fn level(self, used: u64) -> Level {
        let percent = u128::from(used) * 100;
        match () {
            () if used >= self.bytes => Level::UsedUp,
            () if percent >= u128::from(self.bytes) * u128::from(NEARLY) => Level::Nearly,
            () => Level::Enough,
        }
    }
}

impl Day {
    /// That day of the same month, or the month's last one.
    fn moved_to(self, day: u8) -> Self {
        Day { day: day.min(days(self.year, self.month)), ..self }
    }

    /// Some day of the month before.
    fn a_month_before(self) -> Self {
        match self.month {
            0 | 1 => Day { year: self.year.saturating_sub(1), month: 12, day: 1 },
            _ => Day { month: self.month - 1, day: 1, ..self },
        }
    }
}

/// How many days a month has (Gregorian calendar).
fn days(year: i16, month: u8) -> u8 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + u8::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl Usage {
    /// The device has carried `total` bytes since it was made. What it carried before anybody looked is not
    /// counted; one that was made anew has carried all of its bytes since.
    pub fn carried(&mut self, total: u64, quota: Quota, today: Day) {
        let before = self.counted.replace(total).unwrap_or(total);
        let fresh = total.checked_sub(before).unwrap_or(total);
        self.turn_to(quota.period(today));
        if let Some(period) = self.periods.first_mut() {
            period.bytes = period.bytes.saturating_add(fresh);
        }
    }

    /// Bytes of this period.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.periods.first().map_or(0, |period| period.bytes)
    }

    /// The machine was started anew, and all devices with it: their counters began at 0.
    pub fn machine_restarted(&mut self) {
        self.counted = self.counted.and(Some(0));
    }

    /// Puts the period that begins on this day first.
    fn turn_to(&mut self, begins: Day) {
        if begins.year < FIRST_YEAR && !self.periods.is_empty() {
            return;
        }
        if let Some(period) = self.periods.first_mut().filter(|period| period.begins.year < FIRST_YEAR) {
            period.begins = begins;
        }
        match self.periods.iter().position(|period| period.begins == begins) {
            Some(place) => self.periods[..=place].rotate_right(1),
            None => self.periods.insert(0, Period { begins, bytes: 0 }),
        }
        self.periods.truncate(PERIODS);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_period_begins_on_its_day_or_on_the_last_of_a_shorter_month() {
        for (reset_day, today, begins) in [
            (1, (2026, 11, 23), (2026, 11, 1)),
            (1, (2026, 11, 1), (2026, 11, 1)),
            (23, (2026, 11, 23), (2026, 11, 23)),
            (24, (2026, 11, 23), (2026, 10, 24)),
            (15, (2027, 1, 14), (2026, 12, 15)),
            (31, (2026, 11, 29), (2026, 10, 31)),
            (31, (2026, 11, 30), (2026, 11, 30)),
            (31, (2027, 2, 28), (2027, 2, 28)),
            (30, (2027, 3, 1), (2027, 2, 28)),
            (31, (2028, 2, 28), (2028, 1, 31)),
            (31, (2028, 2, 29), (2028, 2, 29)),
            (29, (2100, 3, 1), (2100, 2, 28)),
            (29, (2400, 3, 1), (2400, 2, 29)),
        ] {
            assert_eq!(quota(reset_day).period(day(today)), day(begins), "{reset_day} on {today:?}");
        }
    }

    #[test]
    fn the_owner_is_warned_from_eighty_percent_on_and_the_whole_is_used_up() {
        let levels = [0, 79, 80, 99, 100, u64::MAX].map(|used| quota(1).level(used));
        use Level::{Enough, Nearly, UsedUp};
        assert_eq!(levels, [Enough, Enough, Nearly, Nearly, UsedUp, UsedUp]);
        assert_eq!(Quota { bytes: u64::MAX, reset_day: 1 }.level(u64::MAX - 1), Nearly);
    }

    #[test]
    fn what_a_device_carried_before_is_not_counted_and_a_new_devices_bytes_are() {
        let mut usage = Usage::default();
        let used = [1000, 1010, 1010, 5, 6].map(|total| {
            usage.carried(total, quota(1), day((2026, 11, 23)));
            usage.used()
        });
        assert_eq!(used, [0, 10, 10, 15, 16]);
    }

    #[test]
    fn after_a_restart_of_the_machine_all_that_its_devices_carried_counts() {
        let mut usage = Usage::default();
        usage.carried(1000, quota(1), day((2026, 11, 23)));
        usage.machine_restarted();
        usage.carried(3000, quota(1), day((2026, 11, 23)));
        assert_eq!(usage.used(), 3000);
        let mut unseen = Usage::default();
        unseen.machine_restarted();
        unseen.carried(3000, quota(1), day((2026, 11, 23)));
        assert_eq!(unseen.used(), 0);
    }

    #[test]
    fn a_new_month_begins_with_nothing_used() {
        assert_eq!(after(&[(2026, 11, 30), (2026, 12, 1), (2026, 12, 1)]), 20);
    }

    #[test]
    fn a_clock_that_was_not_set_yet_or_was_wrong_for_a_while_forgets_nothing() {
        assert_eq!(after(&[(2026, 11, 23), (1970, 1, 1), (2026, 11, 23)]), 30);
        assert_eq!(after(&[(1970, 1, 1), (1970, 2, 1), (2026, 11, 23)]), 30);
        assert_eq!(after(&[(2026, 11, 23), (2036, 1, 1), (2026, 11, 23)]), 20);
        assert_eq!(after(&[(2036, 1, 1), (2026, 11, 23), (2026, 12, 1)]), 10);
    }

    #[test]
    fn usage_outlives_a_restart_in_writing() {
        let mut before = Usage::default();
        before.carried(7, quota(1), day((2026, 11, 23)));
        before.carried(9, quota(1), day((2026, 11, 23)));
        let after: Usage = serde_json::from_str(&serde_json::to_string(&before).unwrap()).unwrap();
        assert_eq!((after.used(), &after), (2, &before));
    }

    proptest! {
        /// The oracle has all the time there is, and a counter that never begins anew.
        #[test]
        fn each_month_has_what_was_carried_in_it(
            steps in vec((0..40_u16, 0..100_u64, any::<bool>()), 1..100), reset_day in 1..=31_u8,
        ) {
            let (mut usage, mut months) = (Usage::default(), BTreeMap::<Day, u64>::new());
            let (mut today, mut total) = (day((2026, 1, 1)), 0);
            usage.carried(total, quota(reset_day), today);
            for (days, bytes, is_made_anew) in steps {
                (0..days).for_each(|_| today = tomorrow(today));
                total = if is_made_anew && bytes < total { bytes } else { total + bytes };
                usage.carried(total, quota(reset_day), today);
                *months.entry(begin(reset_day, today)).or_default() += bytes;
                prop_assert_eq!(usage.used(), months[&begin(reset_day, today)]);
                prop_assert!(usage.periods.len() <= PERIODS);
            }
        }

        #[test]
        fn no_date_and_no_counter_panics(
            steps in vec((any::<i16>(), any::<u8>(), any::<u8>(), any::<u64>(), any::<u8>()), 0..50),
        ) {
            let mut usage = Usage::default();
            for (year, month, day, total, reset_day) in steps {
                usage.carried(total, quota(reset_day), Day { year, month, day });
            }
            prop_assert!(usage.periods.len() <= PERIODS);
        }
    }

    /// Goes back day by day to one on which counting begins.
    fn begin(reset_day: u8, mut today: Day) -> Day {
        while today.day != reset_day && !(today.day < reset_day && tomorrow(today).day == 1) {
            today = match today.day {
                1 => Day {
                    day: days(today.a_month_before().year, today.a_month_before().month),
                    ..today.a_month_before()
                },
                _ => Day { day: today.day - 1, ..today },
            };
        }
        today
    }

    fn tomorrow(today: Day) -> Day {
        match today {
            Day { day, .. } if day < days(today.year, today.month) => Day { day: day + 1, ..today },
            Day { year, month: 12, .. } => Day { year: year + 1, month: 1, day: 1 },
            Day { year, month, .. } => Day { year, month: month + 1, day: 1 },
        }
    }

    /// What is used after ten bytes on each of these days.
    fn after(days: &[(i16, u8, u8)]) -> u64 {
        let mut usage = Usage::default();
        usage.carried(0, quota(1), day(days[0]));
        for (&today, number) in days.iter().zip(1..) {
            usage.carried(number * 10, quota(1), day(today));
        }
        usage.used()
    }

    fn quota(reset_day: u8) -> Quota {
        Quota { bytes: 100, reset_day }
    }

    fn day((year, month, day): (i16, u8, u8)) -> Day {
        Day { year, month, day }
    }
}
