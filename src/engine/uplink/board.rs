//! [`Board`]: who is usable now, as an immutable snapshot.

use super::{MAX_UPLINKS, UplinkId, UplinkSet};
use crate::engine::packet::Family;
use crate::engine::rule::model::{Choice, NoLine, WhenNone};

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

/// The uplinks that new flows may use at one moment, and their shares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Board {
    /// Uplinks usable for IPv4.
    pub usable_v4: UplinkSet,
    /// Uplinks usable for IPv6.
    pub usable_v6: UplinkSet,
    /// Of those that are not usable, the ones that are only suspected: flows that run on them stay.
    pub suspected: Avoided,
    /// Uplinks with a way out that probes call down; usable all the same where no other is left.
    pub doubted: Avoided,
    /// Share of new flows of each uplink, by [`UplinkId`], 1 to 255; 0 or absent: none.
    pub weights: Vec<u8>,
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

    /// Those of one family among which a flow of a rule may be picked that says this of having none.
    ///
    /// Whoever wants flows to be refused believes the probes. Whoever wants them to be sent
    /// all the same gets a line that is called down, where the rule has no better.
    #[must_use]
    pub fn candidates(&self, choice: &Choice, none: WhenNone, family: Family) -> UplinkSet {
        let (usable, doubted) = (self.usable(family), self.doubted.of(family));
        let has_usable = || choice.uplinks.iter().any(|&(uplink, _)| usable.contains(uplink));
        match none {
            WhenNone::Stop(NoLine::Reject | NoLine::Drop) => usable.without(doubted),
            WhenNone::Stop(NoLine::Keep) if !has_usable() => doubted,
            WhenNone::NextRule | WhenNone::Any | WhenNone::Stop(NoLine::Keep) => usable,
        }
    }

    /// All uplinks with their weights, in the configuration's order.
    pub fn uplinks(&self) -> impl Iterator<Item = (UplinkId, u8)> + Clone {
        (0..MAX_UPLINKS as u8).map(UplinkId).zip(self.weights.iter().copied())
    }
}
