//! The lines to choose from: [`UplinkId`], sets of them, who is usable now
//! ([`Board`]), and how one is picked ([`pick`]).

mod board;
pub mod pick;
mod turns;

pub use board::Board;
pub use turns::Turns;

/// Most uplinks one configuration may have: a [`UplinkSet`] is one machine word.
pub const MAX_UPLINKS: usize = 64;

/// Number of an uplink: its place in the configuration, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UplinkId(pub u8);

/// A set of uplinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct UplinkSet(u64);

impl UplinkSet {
    /// No uplink.
    pub const EMPTY: UplinkSet = UplinkSet(0);

    /// Whether `uplink` is in the set.
    #[must_use]
    pub fn contains(self, uplink: UplinkId) -> bool {
        self.0 & (1 << uplink.0) != 0
    }

    /// The set with `uplink` added.
    #[must_use]
    pub fn with(self, uplink: UplinkId) -> Self {
        UplinkSet(self.0 | 1 << uplink.0)
    }

    /// Whether no uplink is in the set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The uplinks in the set, in the configuration's order.
    pub fn iter(self) -> impl Iterator<Item = UplinkId> {
        (0..MAX_UPLINKS as u8).map(UplinkId).filter(move |&uplink| self.contains(uplink))
    }
}

impl FromIterator<UplinkId> for UplinkSet {
    fn from_iter<I: IntoIterator<Item = UplinkId>>(uplinks: I) -> Self {
        uplinks.into_iter().fold(UplinkSet::EMPTY, UplinkSet::with)
    }
}
