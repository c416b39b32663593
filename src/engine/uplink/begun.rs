//! [`Begun`]: the flows that one worker has decided since it learned how full the lines are.

use super::{MAX_UPLINKS, UplinkId};

/// Counts by uplink. They are for the moment since [`super::load::Lines::moment`] and forgotten with it: the next one
/// has them in it.
#[derive(Debug, Clone)]
pub struct Begun {
    moment: u64,
    flows: Box<[u32; MAX_UPLINKS]>,
}

impl Default for Begun {
    fn default() -> Self {
        Begun { moment: 0, flows: Box::new([0; MAX_UPLINKS]) }
    }
}

impl Begun {
    /// Begins anew if the lines were looked at since.
    pub fn follow(&mut self, moment: u64) {
        if moment != self.moment {
            self.moment = moment;
            self.flows.fill(0);
        }
    }

    /// One more flow.
    pub fn count(&mut self, uplink: UplinkId) {
        if let Some(flows) = self.flows.get_mut(usize::from(uplink.0)) {
            *flows = flows.saturating_add(1);
        }
    }

    /// How many flows.
    #[must_use]
    pub fn of(&self, uplink: UplinkId) -> f64 {
        self.flows.get(usize::from(uplink.0)).copied().unwrap_or(0).into()
    }
}
