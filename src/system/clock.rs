//! What time it is: for intervals, and on the wall.

use jiff::{Timestamp, Zoned};
use nix::time::{ClockId, clock_gettime};

use crate::engine::flow::LocalTime;
use crate::engine::uplink::quota::Day;

/// Milliseconds since some moment in the past; never goes back, and stands still while the machine sleeps.
///
/// This is `CLOCK_MONOTONIC_COARSE`: it moves on at the kernel's tick, every 1
/// to 10 ms (4 ms on Debian), and reading it takes some 4 ns, also on machines
/// whose fine clock needs a system call; `std::time::Instant` took 30 ns.
#[must_use]
pub fn monotonic_ms() -> u64 {
    // Cannot fail: Linux has this clock since 2.6.32. Time that stands still would be the lesser evil.
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE) else { return 0 };
    let milliseconds = now.tv_sec().saturating_mul(1000).saturating_add(now.tv_nsec() / 1_000_000);
    u64::try_from(milliseconds).unwrap_or(0)
}

/// Seconds since 1970 by the clock on the wall, which may be set forth and back.
#[must_use]
pub fn wall_seconds() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or(0)
}

/// The time on the wall in the system's time zone. Costs microseconds: ask once a minute at most.
#[must_use]
pub fn local_time() -> LocalTime {
    to_the_minute(&Zoned::now())
}

/// The day in the system's time zone. Costs microseconds as well.
#[must_use]
pub fn today() -> Day {
    let now = Zoned::now();
    // Months are 1 to 12, days 1 to 31.
    Day { year: now.year(), month: now.month().unsigned_abs(), day: now.day().unsigned_abs() }
}

/// Another one each time that the machine is started (random(4)); empty where the kernel does not tell.
#[must_use]
pub fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Seconds that local time is ahead of UTC now.
#[must_use]
pub fn utc_offset() -> i32 {
    Zoned::now().offset().seconds()
}

fn to_the_minute(now: &Zoned) -> LocalTime {
    // Never negative: weekdays are 0 to 6, hours 0 to 23, minutes 0 to 59.
    let weekday = now.weekday().to_monday_zero_offset().unsigned_abs();
    let minute = u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs());
    LocalTime { weekday, minute }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use jiff::tz::TimeZone;

    use super::*;

    #[test]
    fn weekday_and_minute_are_those_of_the_zone_and_its_summer() {
        assert_eq!(berlin("2026-01-04T22:59:59Z"), LocalTime { weekday: 6, minute: 23 * 60 + 59 });
        assert_eq!(berlin("2026-01-04T23:00:00Z"), LocalTime { weekday: 0, minute: 0 });
        assert_eq!(berlin("2026-07-05T22:00:00Z"), LocalTime { weekday: 0, minute: 0 });
    }

    #[test]
    fn the_monotonic_clock_goes_as_fast_as_the_fine_one() {
        let (fine, coarse) = (Instant::now(), monotonic_ms());
        std::thread::sleep(Duration::from_millis(120));
        let gone = i64::try_from(monotonic_ms() - coarse).unwrap();
        let truth = i64::try_from(fine.elapsed().as_millis()).unwrap();
        assert!((gone - truth).abs() <= 21, "{gone} ms for {truth} ms: more than two ticks of 10 ms off");
    }

    fn berlin(time: &str) -> LocalTime {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        to_the_minute(&time.parse::<Timestamp>().unwrap().to_zoned(zone))
    }
}
