//! [`Board`]: who is usable now, as an immutable snapshot.

use super::cost::{Cost, cheapest};
use super::{MAX_UPLINKS, UplinkId, UplinkSet};
use crate::engine::packet::Family;

/// Uplinks that work by what the machine says, but that new flows should keep off, by family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Avoided {
    /// For IPv4.
    pub v4: UplinkSet,
    /// For IPv6.
    pub v6: UplinkSet,
}

impl Avoided {
    /// Those of one family.
    #[must_use]
    pub fn of(self, family: Family) -> UplinkSet {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// With one more in one family.
    #[must_use]
    pub fn with(self, family: Family, uplink: UplinkId) -> Self {
        match family {
            Family::V4 => Avoided { v4: self.v4.with(uplink), ..self },
            Family::V6 => Avoided { v6: self.v6.with(uplink), ..self },
        }
    }
}

/// What people said of uplinks, in both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ByHand {
    /// New flows keep off them, flows that run on them stay. Where no other line works they are used all the same.
    pub drained: UplinkSet,
    /// They count as dead, whatever else works.
    pub down: UplinkSet,
}

/// The uplinks that new flows may use at one moment, and their shares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Board {
    /// Uplinks usable for IPv4.
    pub usable_v4: UplinkSet,
    /// Uplinks usable for IPv6.
    pub usable_v6: UplinkSet,
    /// Of those that are not usable, the ones that are only suspected or drained: flows that run on them stay.
    pub suspected: Avoided,
    /// Share of new flows of each uplink, by [`UplinkId`], 1 to 255; 0 or absent: none.
    pub weights: Vec<u8>,
    /// What it costs to use each uplink, by [`UplinkId`]; none where all cost the same.
    pub costs: Vec<Cost>,
}

impl Board {
    /// The usable uplinks of one family.
    #[must_use]
    pub fn usable(&self, family: Family) -> UplinkSet {
        match family {
            Family::V4 => self.usable_v4,
            Family::V6 => self.usable_v6,
        }
    }

    /// Of some uplinks with their weights those that a new flow of a family may get: the usable ones of the lowest cost.
    #[must_use]
    pub fn candidates(
        &self,
        family: Family,
        uplinks: impl Iterator<Item = (UplinkId, u8)> + Clone,
    ) -> UplinkSet {
        let usable = self.usable(family);
        let usable = uplinks
            .filter(|&(uplink, weight)| weight > 0 && usable.contains(uplink))
            .map(|(uplink, _)| (uplink, self.cost(uplink)));
        cheapest(usable)
    }

    /// What it costs to use an uplink.
    #[must_use]
    pub fn cost(&self, uplink: UplinkId) -> Cost {
        self.costs.get(usize::from(uplink.0)).copied().unwrap_or_default()
    }

    /// All uplinks with their weights, in the order of their numbers.
    pub fn uplinks(&self) -> impl Iterator<Item = (UplinkId, u8)> + Clone {
        (0..MAX_UPLINKS as u8).map(UplinkId).zip(self.weights.iter().copied())
    }
}
