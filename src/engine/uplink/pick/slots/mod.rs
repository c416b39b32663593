//! The slots of the policy `hash`: a flow's hash names one of [`SLOTS`], a rule's table says whose it is.
//!
//! A firewall can compute the one and write down the other, so that the kernel by itself sends a flow where
//! the engine would. Which hash it can compute depends on the firewall: nft knows `jhash` alone, and a classic BPF
//! program, which iptables takes, has no room for that. So there are two, and the firewall in use says which,
//! whether or not it is asked to decide anything.
//!
//! Workers, restarts and versions agree about slots and tables without a word: neither ever changes.

use std::array;

use super::lots::{by_lot, draw, mix};
use crate::engine::uplink::{UplinkId, UplinkSet};

mod hash;

pub use hash::{SlotHash, constant};

/// How many slots there are. A line's share is a whole number of them.
pub const SLOTS: usize = 1 << SLOT_BITS;
/// A slot is the first so many bits of a hash.
pub const SLOT_BITS: u32 = 7;

/// Whose slots are whose, of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotTable {
    uplinks: Box<[(UplinkId, u8)]>,
    owners: [UplinkId; SLOTS],
}

impl SlotTable {
    /// Shares the slots out by weight. The remainders go to those that are owed most, of equals to the first.
    /// Each line takes the slots that it has the best lots for, so that similar rules have similar tables.
    #[must_use]
    pub fn among(uplinks: &[(UplinkId, u8)]) -> Self {
        let mut left = quotas(uplinks);
        let lot = |slot: usize, place: usize| draw(mix(slot as u64), uplinks[place].0, uplinks[place].1);
        let pairs = (0..SLOTS).flat_map(|slot| (0..uplinks.len()).map(move |place| (slot, place)));
        let mut lots: Vec<(f64, usize, usize)> = pairs
            .filter(|&(_, place)| left[place] > 0)
            .map(|(slot, place)| (lot(slot, place), slot, place))
            .collect();
        lots.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
        let mut owners = [None; SLOTS];
        for (_, slot, place) in lots {
            if left[place] > 0 && owners[slot].is_none() {
                owners[slot] = Some(uplinks[place].0);
                left[place] -= 1;
            }
        }
        // Without a weight there is no owner, and who owns nothing is no candidate.
        let owners = owners.map(|owner| owner.unwrap_or(UplinkId(u8::MAX)));
        SlotTable { uplinks: uplinks.into(), owners }
    }

    /// Who gets a slot: its owner, or in its place the usable line that draws the best lot for it. So a lost line
    /// moves only its own slots.
    #[must_use]
    pub fn uplink(&self, slot: usize, usable: UplinkSet) -> Option<UplinkId> {
        let owner = *self.owners.get(slot)?;
        if usable.contains(owner) {
            return Some(owner);
        }
        by_lot(self.uplinks.iter().copied(), usable, mix(slot as u64))
    }

    /// The slots of each usable line that gets any, as bits of one number.
    pub fn shares(&self, usable: UplinkSet) -> impl Iterator<Item = (UplinkId, u128)> + '_ {
        let owners: [Option<UplinkId>; SLOTS] = array::from_fn(|slot| self.uplink(slot, usable));
        let slots = move |uplink| {
            let own = owners.iter().zip(0..).filter(|(owner, _)| **owner == Some(uplink));
            own.fold(0, |slots, (_, slot)| slots | 1_u128 << slot)
        };
        let shares = self.uplinks.iter().map(move |&(uplink, _)| (uplink, slots(uplink)));
        shares.filter(|&(_, slots)| slots != 0)
    }
}

/// How many slots each uplink gets.
fn quotas(uplinks: &[(UplinkId, u8)]) -> Vec<usize> {
    let total: usize = uplinks.iter().map(|&(_, weight)| usize::from(weight)).sum();
    let due = |weight: u8| usize::from(weight) * SLOTS;
    let mut quotas: Vec<usize> =
        uplinks.iter().map(|&(_, weight)| due(weight).checked_div(total).unwrap_or(0)).collect();
    let mut owed: Vec<usize> = (0..uplinks.len()).filter(|&place| uplinks[place].1 > 0).collect();
    owed.sort_by_key(|&place| std::cmp::Reverse(due(uplinks[place].1) % total));
    let rest = SLOTS - quotas.iter().sum::<usize>();
    owed.into_iter().take(rest).for_each(|place| quotas[place] += 1);
    quotas
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::testing::{all, lines};
    use super::*;

    #[test]
    fn slots_are_shared_by_weight_as_well_as_whole_numbers_can() {
        let shares = |weights: &[u8]| counts(&table(weights), all(weights.len() as u8));
        assert_eq!(shares(&[1]), [128]);
        assert_eq!(shares(&[3, 1]), [96, 32]);
        assert_eq!(shares(&[1, 1, 1]), [43, 43, 42]);
        assert_eq!(shares(&[5, 3, 2]), [64, 38, 26]);
        assert_eq!(shares(&[100, 1]), [127, 1]);
        assert_eq!(shares(&[255, 1]), [128, 0]);
        assert_eq!(shares(&[1, 0, 1]), [64, 0, 64]);
        assert_eq!(shares(&[0, 0]), [0, 0]);
        assert_eq!(shares(&[1; 64]), [2; 64]);
    }

    #[test]
    fn whose_a_slot_is_never_changes() {
        let owners: Vec<u8> = table(&[5, 3, 2]).owners.iter().map(|owner| owner.0).collect();
        let runs = owners.chunks(16).map(|run| run.iter().map(|&owner| char::from(b'0' + owner)).collect());
        let runs: Vec<String> = runs.collect();
        let expected = [
            "0011002202020212",
            "0121002100200202",
            "0202200110020020",
            "0010002002110020",
            "2012010002000000",
            "0100200111101011",
            "1111001101202111",
            "1020100001001111",
        ];
        assert_eq!(runs, expected);
    }

    #[test]
    fn one_line_more_takes_its_slots_and_moves_few_others() {
        for count in 2..10 {
            let (before, after) = (table(&vec![1; count]), table(&vec![1; count + 1]));
            let moved = before.owners.iter().zip(&after.owners).filter(|(before, after)| before != after);
            let fair = SLOTS / (count + 1);
            assert!(moved.clone().count() <= 2 * fair, "{count}: {}", moved.count());
        }
    }

    #[test]
    fn nobody_gets_a_slot_when_nobody_is_usable() {
        assert_eq!(table(&[3, 1]).uplink(0, UplinkSet::EMPTY), None);
        assert_eq!(table(&[0]).uplink(0, all(1)), None);
        assert_eq!(table(&[]).uplink(0, all(1)), None);
        assert_eq!(table(&[3, 1]).shares(UplinkSet::EMPTY).count(), 0);
    }

    proptest! {
        #[test]
        fn losing_an_uplink_moves_only_its_own_flows(
            weights in vec(1..=255_u8, 2..16),
            lost in any::<prop::sample::Index>(),
            down in any::<u16>(),
            slot in 0..SLOTS,
        ) {
            let table = table(&weights);
            let is_up = |uplink: &UplinkId| down >> uplink.0 & 1 == 0;
            let usable: UplinkSet = all(weights.len() as u8).iter().filter(is_up).collect();
            let lost = UplinkId(lost.index(weights.len()) as u8);
            let before = table.uplink(slot, usable);
            let after = table.uplink(slot, usable.without(lost));
            prop_assert!(after != Some(lost));
            prop_assert!(before == Some(lost) || before == after);
        }

        #[test]
        fn each_slot_is_one_usable_lines(weights in vec(0..=255_u8, 1..16), usable in any::<u16>()) {
            let table = table(&weights);
            let usable: UplinkSet = (0..16).map(UplinkId).filter(|uplink| usable >> uplink.0 & 1 == 1).collect();
            let shares: Vec<(UplinkId, u128)> = table.shares(usable).collect();
            let can = |&(uplink, weight): &(UplinkId, u8)| weight > 0 && usable.contains(uplink);
            let is_any = lines(&weights).any(|line| can(&line));
            prop_assert_eq!(shares.iter().fold(0, |all, (_, slots)| all | slots), if is_any { u128::MAX } else { 0 });
            prop_assert_eq!(shares.iter().map(|(_, slots)| slots.count_ones()).sum::<u32>(), if is_any { 128 } else { 0 });
            for (uplink, slots) in shares {
                for slot in (0..SLOTS).filter(|slot| slots >> slot & 1 == 1) {
                    prop_assert_eq!(table.uplink(slot, usable), Some(uplink));
                }
            }
        }
    }

    fn table(weights: &[u8]) -> SlotTable {
        SlotTable::among(&lines(weights).collect::<Vec<_>>())
    }

    /// How many slots each line has.
    fn counts(table: &SlotTable, usable: UplinkSet) -> Vec<u32> {
        let shares: Vec<(UplinkId, u128)> = table.shares(usable).collect();
        let of =
            |uplink| shares.iter().find(|(id, _)| *id == uplink).map_or(0, |(_, slots)| slots.count_ones());
        table.uplinks.iter().map(|&(uplink, _)| of(uplink)).collect()
    }
}
