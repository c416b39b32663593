//! Numbers of uplinks, kept from one configuration to the next.
//!
//! A number is an uplink's mark, and running flows have it. They also have the address of the device
//! they leave by; so a number belongs to a device, whatever the uplink on it is called, wherever it
//! stands in the file, and even while no uplink uses the device.

use std::collections::BTreeMap;

use super::checked::Config;
use crate::engine::uplink::{MAX_UPLINKS, UplinkId};

/// The numbers that devices have had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers(pub BTreeMap<String, UplinkId>);

impl Numbers {
    /// These, and those of a configuration that is in force from now on.
    #[must_use]
    pub fn with(&self, config: &Config) -> Numbers {
        let own = config.uplinks.iter().map(|uplink| (uplink.interface.clone(), uplink.id));
        let others = self.0.iter().map(|(device, &id)| (device.clone(), id));
        let others = others.filter(|&(_, id)| config.uplink(id).is_none());
        Numbers(others.chain(own).collect())
    }

    /// The numbers that a configuration gives to other devices than those which had them.
    pub fn passed_on<'a>(&'a self, config: &'a Config) -> impl Iterator<Item = UplinkId> + 'a {
        let owners = config.uplinks.iter();
        let passed_on = owners.filter(|uplink| {
            self.0.iter().any(|(device, &id)| id == uplink.id && *device != uplink.interface)
        });
        passed_on.map(|uplink| uplink.id)
    }

    /// A number for each device: that which it has had, else the first that nobody has had, else the
    /// first that nobody has now. `room` is how many there may be.
    pub(super) fn assign(&self, devices: &[Option<&str>], room: usize) -> Vec<UplinkId> {
        let room = room.min(MAX_UPLINKS).max(devices.len()) as u8;
        let mut taken: Vec<Option<UplinkId>> = vec![None; devices.len()];
        for (place, device) in devices.iter().enumerate() {
            let had = device.and_then(|device| self.0.get(device).copied());
            taken[place] = had.filter(|id| id.0 < room && !taken.contains(&had));
        }
        for place in 0..taken.len() {
            let is_free = |id: &UplinkId| !taken.contains(&Some(*id));
            let is_new = |id: &UplinkId| is_free(id) && !self.0.values().any(|had| had == id);
            let mut all = (0..room).map(UplinkId);
            taken[place] = taken[place].or_else(|| all.clone().find(is_new)).or_else(|| all.find(is_free));
        }
        taken.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(known: &Numbers, devices: &[&str], room: usize) -> Vec<u8> {
        let devices: Vec<Option<&str>> = devices.iter().copied().map(Some).collect();
        known.assign(&devices, room).into_iter().map(|id| id.0).collect()
    }

    fn known(devices: &[(&str, u8)]) -> Numbers {
        Numbers(devices.iter().map(|&(device, id)| (device.to_owned(), UplinkId(id))).collect())
    }

    #[test]
    fn without_a_past_the_place_is_the_number() {
        assert_eq!(assigned(&Numbers::default(), &["b", "a", "c"], 255), [0, 1, 2]);
    }

    #[test]
    fn a_device_keeps_its_number_wherever_it_stands_and_a_new_one_gets_one_that_nobody_had() {
        let known = known(&[("a", 0), ("b", 1), ("c", 2)]);
        assert_eq!(assigned(&known, &["c", "a"], 255), [2, 0]);
        assert_eq!(assigned(&known, &["new", "b"], 255), [3, 1]);
    }

    #[test]
    fn when_no_number_is_left_that_of_an_absent_device_goes_to_a_new_one() {
        let known = known(&[("a", 0), ("b", 1), ("c", 2)]);
        assert_eq!(assigned(&known, &["new", "b"], 3), [0, 1]);
    }

    #[test]
    fn numbers_that_a_smaller_mask_has_no_room_for_are_not_kept() {
        assert_eq!(assigned(&known(&[("a", 9), ("b", 1)]), &["a", "b"], 3), [0, 1]);
    }
}
