//! [`Board`]: who is usable now, as an immutable snapshot.

use super::cost::{Cost, cheapest};
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

/// What people said of uplinks, in both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ByHand {
    /// New flows keep off them, flows that run on them stay. Where no other line works they are used all the same.
    pub drained: UplinkSet,
    /// They count as dead, whatever else works.
    pub down: UplinkSet,
}

/// What people can do to an uplink by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// No new flows.
    Drain,
    /// New flows again.
    Undrain,
    /// As if it were dead.
    Down,
    /// As it is.
    Up,
}

impl ByHand {
    /// What it is after an order.
    #[must_use]
    pub fn after(self, order: Order, uplink: UplinkId) -> Self {
        match order {
            Order::Drain => ByHand { drained: self.drained.with(uplink), ..self },
            Order::Undrain => ByHand { drained: self.drained.without(uplink), ..self },
            Order::Down => ByHand { down: self.down.with(uplink), ..self },
            Order::Up => ByHand { down: self.down.without(uplink), ..self },
        }
    }

    /// What of it is about these uplinks.
    #[must_use]
    pub fn only(self, uplinks: UplinkSet) -> Self {
        let kept = |set: UplinkSet| set.iter().filter(|&uplink| uplinks.contains(uplink)).collect();
        ByHand { drained: kept(self.drained), down: kept(self.down) }
    }

    /// What was done to an uplink, for people; `None`: nothing.
    #[must_use]
    pub fn of(self, uplink: UplinkId) -> Option<&'static str> {
        if self.down.contains(uplink) {
            return Some("down");
        }
        self.drained.contains(uplink).then_some("drained")
    }
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
    /// Uplinks with a way out that probes call down; usable all the same where no other is left.
    pub doubted: Avoided,
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

    /// The uplinks of one family that count as usable for a rule that says this of having none.
    ///
    /// Whoever wants flows to be refused believes the probes. Whoever wants them to be sent
    /// all the same gets a line that is called down, where the rule has no better.
    #[must_use]
    pub fn usable_for(&self, family: Family, none: WhenNone, choice: &Choice) -> UplinkSet {
        self.usable_among(family, none, choice.uplinks.iter().copied())
    }

    fn usable_among(
        &self,
        family: Family,
        none: WhenNone,
        mut uplinks: impl Iterator<Item = (UplinkId, u8)>,
    ) -> UplinkSet {
        let (usable, doubted) = (self.usable(family), self.doubted.of(family));
        match none {
            WhenNone::Stop(NoLine::Reject | NoLine::Drop) => usable.minus(doubted),
            WhenNone::Stop(NoLine::Keep) if !uplinks.any(|(uplink, _)| usable.contains(uplink)) => doubted,
            WhenNone::NextRule | WhenNone::Any | WhenNone::Stop(NoLine::Keep) => usable,
        }
    }

    /// Of some uplinks with their weights those that a new flow of a family may get: the usable ones of the lowest
    /// cost. What is usable depends on what is said of having none.
    #[must_use]
    pub fn candidates(
        &self,
        family: Family,
        none: WhenNone,
        uplinks: impl Iterator<Item = (UplinkId, u8)> + Clone,
    ) -> UplinkSet {
        let usable = self.usable_among(family, none, uplinks.clone());
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
