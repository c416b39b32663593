//! [`Cost`]: lines that are used only when there is no cheaper one for a flow.

use super::{UplinkId, UplinkSet};

/// What it costs to use a line. Of the lines that a flow may use, only those of the lowest cost get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Cost(u16);

impl Cost {
    /// That of a line whose quota is used up: dearer than every tier.
    pub const USED_UP: Cost = Cost(256);

    /// One of the configuration's tiers; 0 is the cheapest.
    #[must_use]
    pub const fn tier(tier: u8) -> Self {
        Cost(tier as u16)
    }

    /// The tier; `None`: the line's quota is used up.
    #[must_use]
    pub fn as_tier(self) -> Option<u8> {
        u8::try_from(self.0).ok()
    }
}

/// Those of the lowest cost.
#[must_use]
pub fn cheapest(lines: impl Iterator<Item = (UplinkId, Cost)> + Clone) -> UplinkSet {
    let lowest = lines.clone().map(|(_, cost)| cost).min();
    lines.filter(|(_, cost)| Some(*cost) == lowest).map(|(uplink, _)| uplink).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_whose_quota_is_used_up_is_dearer_than_every_tier() {
        assert!(Cost::USED_UP > Cost::tier(u8::MAX) && Cost::tier(0) == Cost::default());
    }

    proptest! {
        #[test]
        fn no_line_is_cheaper_than_the_cheapest_and_none_as_cheap_is_left_out(
            tiers in vec(prop_oneof![(0..3_u8).prop_map(Cost::tier), Just(Cost::USED_UP)], 0..64),
        ) {
            let lines = (0..).map(UplinkId).zip(tiers.iter().copied());
            let cheapest = cheapest(lines.clone());
            for (uplink, cost) in lines {
                prop_assert_eq!(cheapest.contains(uplink), tiers.iter().all(|&other| cost <= other));
            }
        }
    }
}
