//! The lines to choose from: [`UplinkId`], sets of them, who is usable now
//! ([`Board`]) and why ([`health`], [`silence`]), how full they are ([`load`]), what they cost ([`cost`], [`quota`]),
//! how one is picked ([`pick`]), and what spares one that has just come back ([`Filling`]).

mod begun;
mod board;
pub mod cost;
mod filling;
pub mod health;
pub mod load;
pub mod pick;
pub mod quota;
pub mod silence;
mod turns;

pub use begun::Begun;
pub use board::{Avoided, Board, ByHand, Order};
pub use filling::Filling;
pub use turns::Turns;

/// Most uplinks one configuration may have: a [`UplinkSet`] is one machine word.
pub const MAX_UPLINKS: usize = 64;

/// Number of an uplink, from 0: its place in the first configuration that had its device. It stays
/// when others come and go, because running flows are marked with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UplinkId(pub u8);

/// A set of uplinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UplinkSet(u64);

impl UplinkSet {
    /// No uplink.
    pub const EMPTY: UplinkSet = UplinkSet(0);

    /// Whether `uplink` is in the set.
    #[must_use]
    pub fn contains(self, uplink: UplinkId) -> bool {
        self.0 & bit(uplink) != 0
    }

    /// The set with `uplink` added; numbers from [`MAX_UPLINKS`] on are in no set.
    #[must_use]
    pub fn with(self, uplink: UplinkId) -> Self {
        UplinkSet(self.0 | bit(uplink))
    }

    /// The set with `uplink` taken away.
    #[must_use]
    pub fn without(self, uplink: UplinkId) -> Self {
        UplinkSet(self.0 & !bit(uplink))
    }

    /// The set without those of another.
    #[must_use]
    pub fn minus(self, others: UplinkSet) -> Self {
        UplinkSet(self.0 & !others.0)
    }

    /// The uplinks that are in one of the two.
    #[must_use]
    pub fn union(self, other: UplinkSet) -> Self {
        UplinkSet(self.0 | other.0)
    }

    /// Whether no uplink is in the set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many they are.
    #[must_use]
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// The uplinks in the set, in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = UplinkId> {
        (0..MAX_UPLINKS as u8).map(UplinkId).filter(move |&uplink| self.contains(uplink))
    }
}

impl FromIterator<UplinkId> for UplinkSet {
    fn from_iter<I: IntoIterator<Item = UplinkId>>(uplinks: I) -> Self {
        uplinks.into_iter().fold(UplinkSet::EMPTY, UplinkSet::with)
    }
}

fn bit(uplink: UplinkId) -> u64 {
    1_u64.checked_shl(uplink.0.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_gives_back_what_was_put_in_in_the_configurations_order() {
        let set: UplinkSet = [63, 0, 5].map(UplinkId).into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 5, 63].map(UplinkId));
        assert!(!set.contains(UplinkId(1)) && !set.is_empty() && UplinkSet::EMPTY.is_empty());
    }

    #[test]
    fn a_number_too_large_is_in_no_set() {
        let set: UplinkSet = [64, 255].map(UplinkId).into_iter().collect();
        assert!(set.is_empty() && !set.contains(UplinkId(64)));
    }
}
