//! [`Rotation`]: weighted round-robin.

use std::cmp::Ordering;

use super::candidates;
use crate::engine::uplink::{MAX_UPLINKS, UplinkId, UplinkSet};

/// The state of one weighted round-robin.
///
/// Every uplink has a credit: the share of all turns so far that was its due, less the turns it
/// had, in units of one turn divided by the sum of weights. The order is that of
/// Tijdeman ("The chairman assignment problem", 1980), also known from
/// proportionate fair scheduling: of the uplinks with credit for a part of a
/// turn, the next is the one whose credit will be a whole turn first. While the
/// uplinks stay the same each has had its exact share at any moment to within
/// less than one turn, which taking the largest credit does not promise for
/// three and more of them. 3:1 gives 1, 1, 2, 1.
///
/// When an uplink goes or comes the others keep their credits, so that one that comes and goes
/// all the time does not favour any of them. Nobody is paid back for the time when
/// he was away: what a lost uplink was owed, or owes, is shared by weight.
#[derive(Debug, Clone)]
pub struct Rotation {
    taking_part: UplinkSet,
    /// The sum of the weights of those who take part: one turn.
    turn: i32,
    /// By uplink.
    credits: Box<[i32]>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    uplink: UplinkId,
    weight: i32,
}

impl Rotation {
    /// A round-robin among these uplinks and no others. All memory is taken here.
    #[must_use]
    pub fn among(uplinks: impl Iterator<Item = UplinkId>) -> Self {
        let places = uplinks.map(|uplink| usize::from(uplink.0) + 1).max().unwrap_or(0);
        let credits = vec![0; places.min(MAX_UPLINKS)].into();
        Rotation { taking_part: UplinkSet::EMPTY, turn: 0, credits }
    }

    /// The uplink whose turn it is; counts as its turn taken.
    pub fn next(
        &mut self,
        uplinks: impl Iterator<Item = (UplinkId, u8)> + Clone,
        usable: UplinkSet,
    ) -> Option<UplinkId> {
        let places = self.credits.len();
        let candidates = candidates(uplinks, usable)
            .filter(|(uplink, _)| usize::from(uplink.0) < places)
            .map(|(uplink, weight)| Candidate { uplink, weight: weight.into() });
        self.adapt_to(candidates.clone());
        for candidate in candidates.clone() {
            *self.credit(candidate.uplink) += candidate.weight;
        }
        let next = candidates.min_by_key(|&candidate| self.urgency(candidate))?;
        *self.credit(next.uplink) -= self.turn;
        Some(next.uplink)
    }

    /// Carries the credits over to those who take part now.
    fn adapt_to(&mut self, candidates: impl Iterator<Item = Candidate> + Clone) {
        let taking_part = candidates.clone().map(|candidate| candidate.uplink).collect();
        let turn = candidates.clone().map(|candidate| candidate.weight).sum();
        if (taking_part, turn) == (self.taking_part, self.turn) {
            return;
        }
        for (uplink, credit) in (0..).map(UplinkId).zip(&mut self.credits) {
            *credit = if taking_part.contains(uplink) { scaled(*credit, turn, self.turn) } else { 0 };
        }
        (self.taking_part, self.turn) = (taking_part, turn);
        let surplus = self.credits.iter().sum();
        for Candidate { uplink, weight } in candidates {
            *self.credit(uplink) -= scaled(surplus, weight, turn);
        }
    }

    /// The smallest is the next: those without credit last, then those whose
    /// credit is a whole turn first, then the smaller weight (which has waited longer), then the first.
    fn urgency(&self, Candidate { uplink, weight }: Candidate) -> (bool, Due, i32) {
        let credit = self.credits[usize::from(uplink.0)];
        (credit <= 0, Due { missing: self.turn - credit, weight }, weight)
    }

    /// Candidates have a place: [`Rotation::next`] takes no others.
    fn credit(&mut self, uplink: UplinkId) -> &mut i32 {
        &mut self.credits[usize::from(uplink.0)]
    }
}

/// `number × by / of`, towards 0; 0 where `of` is.
fn scaled(number: i32, by: i32, of: i32) -> i32 {
    let product = i64::from(number) * i64::from(by);
    product.checked_div(of.into()).and_then(|quotient| quotient.try_into().ok()).unwrap_or(0)
}

/// How many turns from now a credit is a whole turn: `missing / weight`, ordered exactly.
#[derive(Debug, Clone, Copy)]
struct Due {
    missing: i32,
    weight: i32,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        let crosswise = |one: &Due, other: &Due| i64::from(one.missing) * i64::from(other.weight);
        crosswise(self, other).cmp(&crosswise(other, self))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::testing::{all, lines};
    use super::*;

    #[test]
    fn three_to_one_gives_1_1_2_1_and_equal_weights_alternate() {
        assert_eq!(turns(&[3, 1], 8), [0, 0, 1, 0, 0, 0, 1, 0]);
        assert_eq!(turns(&[1, 1], 6), [0, 1, 0, 1, 0, 1]);
        assert_eq!(turns(&[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn nobody_gets_a_turn_when_nobody_is_usable() {
        let mut rotation = rotation();
        assert_eq!(rotation.next(lines(&[3, 1]), UplinkSet::EMPTY), None);
        assert_eq!(rotation.next(lines(&[0, 0]), all(2)), None);
    }

    #[test]
    fn a_lost_uplink_leaves_the_others_their_exact_shares() {
        let mut rotation = rotation();
        for _ in 0..3 {
            let _ = rotation.next(lines(&[2, 5, 1]), all(3));
        }
        let usable = [UplinkId(0), UplinkId(2)].into_iter().collect();
        let picked: Vec<_> = (0..30).filter_map(|_| rotation.next(lines(&[2, 5, 1]), usable)).collect();
        let first = picked.iter().filter(|&&uplink| uplink == UplinkId(0)).count();
        assert!(picked.len() == 30 && (19..=21).contains(&first), "{first} of {}", picked.len());
    }

    #[test]
    fn an_uplink_that_comes_and_goes_with_every_flow_favours_none_of_the_others() {
        let mut rotation = rotation();
        let mut counts = [0_i32; 3];
        for flow in 0..3000_u16 {
            let uplink = rotation.next(lines(&[1, 1, 1]), all(2 + (flow % 2) as u8)).unwrap();
            counts[usize::from(uplink.0)] += 1;
        }
        assert!((counts[0] - counts[1]).abs() <= 2, "{counts:?}");
    }

    #[test]
    fn an_uplink_of_no_concern_coming_and_going_changes_nothing() {
        let mut rotation = rotation();
        let mut usable = [all(2), all(3)].into_iter().cycle();
        let picked: Vec<_> =
            (0..4).filter_map(|_| rotation.next(lines(&[3, 1]), usable.next().unwrap())).collect();
        assert_eq!(picked, [0, 0, 1, 0].map(UplinkId));
    }

    proptest! {
        #[test]
        fn every_uplink_always_has_its_share_to_within_one_flow(weights in vec(1..=255_u8, 1..16), flows in 1..1000_usize) {
            let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            let mut counts = vec![0.0; weights.len()];
            for (number, uplink) in turns(&weights, flows).into_iter().enumerate() {
                counts[usize::from(uplink)] += 1.0;
                for (count, weight) in counts.iter().zip(&weights) {
                    let share = (number + 1) as f64 * f64::from(*weight) / total;
                    prop_assert!((count - share).abs() < 1.0, "flow {number}: {count} and not {share}");
                }
            }
        }

        #[test]
        fn after_an_uplink_is_lost_the_others_have_their_shares_to_within_two_flows(
            weights in vec(1..=255_u8, 2..16), lost in any::<prop::sample::Index>(), before in 0..500_usize, after in 1..500_usize,
        ) {
            let mut rotation = rotation();
            let lost = UplinkId(lost.index(weights.len()) as u8);
            let usable = all(weights.len() as u8);
            for _ in 0..before {
                let _ = rotation.next(lines(&weights), usable);
            }
            let others: UplinkSet = usable.iter().filter(|&uplink| uplink != lost).collect();
            let total: f64 = others.iter().map(|uplink| f64::from(weights[usize::from(uplink.0)])).sum();
            let picked: Vec<_> = (0..after).filter_map(|_| rotation.next(lines(&weights), others)).collect();
            for uplink in others.iter() {
                let count = picked.iter().filter(|&&other| other == uplink).count() as f64;
                let share = after as f64 * f64::from(weights[usize::from(uplink.0)]) / total;
                prop_assert!((count - share).abs() < 2.0, "{uplink:?}: {count} and not {share}");
            }
        }

        #[test]
        fn any_stretch_of_flows_over_two_uplinks_is_exact_to_within_one(
            weights in [1..=50_u8, 1..=50_u8], begin in 0..200_usize, length in 1..200_usize,
        ) {
            let stretch = &turns(&weights, begin + length)[begin..];
            let first = stretch.iter().filter(|&&uplink| uplink == 0).count() as f64;
            let share = length as f64 * f64::from(weights[0]) / f64::from(weights[0] + weights[1]);
            prop_assert!((first - share).abs() < 1.0, "{first} and not {share}");
        }

        #[test]
        fn changing_weights_and_sets_never_panic_and_only_usable_uplinks_are_picked(
            steps in vec((vec(any::<u8>(), 0..64), any::<u64>()), 1..50),
        ) {
            let mut rotation = rotation();
            for (weights, usable) in steps {
                let usable = (0..64).map(UplinkId).filter(|uplink| usable >> uplink.0 & 1 == 1).collect();
                if let Some(uplink) = rotation.next(lines(&weights), usable) {
                    prop_assert!(usable.contains(uplink) && weights[usize::from(uplink.0)] > 0);
                }
            }
        }
    }

    fn rotation() -> Rotation {
        Rotation::among((0..64).map(UplinkId))
    }

    fn turns(weights: &[u8], flows: usize) -> Vec<u8> {
        let mut rotation = rotation();
        let usable = all(weights.len() as u8);
        (0..flows).filter_map(|_| rotation.next(lines(weights), usable)).map(|uplink| uplink.0).collect()
    }
}
