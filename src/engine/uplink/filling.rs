//! [`Filling`]: a line that comes back takes a few new flows first, and its whole share some seconds later.
//!
//! What waited for the line would else fall upon it at once, and a line that fails again
//! under its first load would take as many flows down with it as it can. Every flow has a lot, a hash of
//! what its policy looks at; a line takes those whose lot is below the part that it has been filled
//! to. So with the time flows only ever come to the line, and all policies fill it alike.
//!
//! A line is never held back where there is no other, and not when it was only suspected.

use std::time::Duration;

use super::{Board, UplinkId, UplinkSet};
use crate::engine::flow::Millis;
use crate::engine::packet::Family;

/// All of a line's share; lots are below it.
const WHOLE: u64 = 256;
/// A line begins with a sixteenth of its share.
const LEAST: u64 = 16;

/// The lines that are being filled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filling {
    lines: [Vec<Returned>; 2],
}

/// One line in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Returned {
    uplink: UplinkId,
    since: Millis,
    takes: Duration,
}

impl Filling {
    /// The lines that are being filled once `after` has taken the place of `before`; filling a line takes so
    /// long, by [`UplinkId`] (zero, or absent: no time).
    #[must_use]
    pub fn follow(&self, before: &Board, after: &Board, takes: &[Duration], now: Millis) -> Self {
        let of = |family: Family| {
            let (was, is) = (before.usable(family), after.usable(family));
            let lines = &self.lines[family as usize];
            let goes_on =
                lines.iter().copied().filter(|line| is.contains(line.uplink) && line.part(now) < WHOLE);
            // Where nothing carried flows there is nothing to hold the line back for.
            let came = is.minus(was).minus(before.suspected.of(family));
            let came = came.iter().filter(|_| !was.is_empty()).filter_map(|uplink| {
                let takes = *takes.get(usize::from(uplink.0))?;
                Some(Returned { uplink, since: now, takes }).filter(|_| !takes.is_zero())
            });
            goes_on.chain(came).collect()
        };
        Filling { lines: Family::BOTH.map(of) }
    }

    /// The lines that a flow with this lot does not go by yet.
    #[must_use]
    pub fn held_back(&self, family: Family, lot: u8, now: Millis) -> UplinkSet {
        let lines = self.lines[family as usize].iter();
        lines.filter(|line| u64::from(lot) >= line.part(now)).map(|line| line.uplink).collect()
    }

    /// When the last line will have been filled, if one is being filled.
    #[must_use]
    pub fn ends(&self) -> Option<Millis> {
        self.lines.iter().flatten().map(|line| line.since.after(line.takes)).max()
    }
}

impl Returned {
    fn part(&self, now: Millis) -> u64 {
        let for_long = now.0.saturating_sub(self.since.0);
        let takes = u64::try_from(self.takes.as_millis()).unwrap_or(u64::MAX).max(1);
        LEAST + (WHOLE - LEAST) * for_long.min(takes) / takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::uplink::Avoided;

    const TAKES: [Duration; 2] = [Duration::from_secs(10); 2];

    #[test]
    fn a_line_that_returned_gets_more_and_more_lots_and_keeps_those_that_it_has() {
        let filling = Filling::default().follow(&board(&[0]), &board(&[0, 1]), &TAKES, Millis(1000));
        let taken = |at| (0..=255).filter(|&lot| !held_back(&filling, lot, at)).count();
        assert_eq!([1000, 6000, 10_999, 11_000, 99_000].map(taken), [16, 136, 255, 256, 256]);
        let first_late = |at| (0..=255).find(|&lot| held_back(&filling, lot, at));
        assert_eq!(first_late(6000), Some(136));
        assert_eq!(filling.ends(), Some(Millis(11_000)));
    }

    #[test]
    fn the_only_line_a_suspected_one_and_one_that_is_filled_in_no_time_are_not_held_back() {
        let begin = |before: &Board, takes: &[Duration]| {
            Filling::default().follow(before, &board(&[0, 1]), takes, Millis(0))
        };
        assert_eq!(begin(&board(&[]), &TAKES), Filling::default());
        let suspected = Avoided::default().with(Family::V4, UplinkId(1)).with(Family::V6, UplinkId(1));
        assert_eq!(begin(&Board { suspected, ..board(&[0]) }, &TAKES), Filling::default());
        assert_eq!(begin(&board(&[0]), &[TAKES[0], Duration::ZERO]), Filling::default());
    }

    #[test]
    fn a_line_goes_on_being_filled_while_others_change_and_begins_anew_when_it_was_lost() {
        let at = |seconds: u64| Millis(seconds * 1000);
        let begun = Filling::default().follow(&board(&[0]), &board(&[0, 1]), &TAKES, at(0));
        let later = begun.follow(&board(&[0, 1]), &board(&[1]), &TAKES, at(5));
        assert_eq!(later, begun);
        let lost = begun.follow(&board(&[0, 1]), &board(&[0]), &TAKES, at(5));
        assert_eq!(lost, Filling::default());
        let again = lost.follow(&board(&[0]), &board(&[0, 1]), &TAKES, at(6));
        assert_eq!(again.ends(), Some(at(16)));
        assert_eq!(again.follow(&board(&[0, 1]), &board(&[0, 1]), &TAKES, at(16)), Filling::default());
    }

    fn held_back(filling: &Filling, lot: u8, at: u64) -> bool {
        filling.held_back(Family::V4, lot, Millis(at)).contains(UplinkId(1))
    }

    fn board(usable: &[u8]) -> Board {
        let usable = usable.iter().map(|&line| UplinkId(line)).collect();
        Board { usable_v4: usable, usable_v6: usable, weights: vec![1, 1], ..Board::default() }
    }
}
