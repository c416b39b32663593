//! Config + Observed → the kernel state we want, as a value; what must change; and both as text.
//!
//! Everything that set-up will do is decided here and can be read before it is
//! done; [`crate::system`] only carries it out. Planning twice for the same
//! machine gives the same value.

pub mod firewall;
pub mod lines;
pub mod misfits;
pub mod observed;
pub mod routing;
pub mod routing_diff;
pub mod script;
pub mod sysctls;
pub mod tables;
pub mod workers;

use self::firewall::model::Firewall;
use self::lines::Line;
use self::misfits::Misfit;
use self::observed::Observed;
use self::routing::RoutingState;
use self::sysctls::Setting;
use self::workers::Workers;
use crate::config::Config;
use crate::engine::packet::Family;
use crate::engine::uplink::cost::Cost;
use crate::engine::uplink::{Avoided, UplinkSet};

/// The kernel state we want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What each uplink can do now.
    pub lines: Vec<Line>,
    /// Routing rules and routes.
    pub routing: RoutingState,
    /// Chains and sets.
    pub firewall: Firewall,
    /// Kernel settings.
    pub settings: Vec<Setting>,
    /// What does not fit.
    pub misfits: Vec<Misfit>,
}

/// The kernel state for this configuration on this machine, with a queue to user space for each of these workers.
#[must_use]
pub fn plan(config: &Config, observed: &Observed, workers: &Workers) -> Plan {
    let lines = lines::lines(config, observed);
    Plan {
        routing: tables::routing(config, &lines, observed),
        firewall: firewall::firewall(config, &lines, observed, workers),
        settings: sysctls::settings(config, observed),
        misfits: misfits::misfits(config, observed, &lines),
        lines,
    }
}

impl Plan {
    /// What it costs to use each uplink, by number; none where all cost the same.
    #[must_use]
    pub fn costs(&self) -> Vec<Cost> {
        if self.lines.windows(2).all(|two| two[0].cost == two[1].cost) {
            return Vec::new();
        }
        let highest = self.lines.iter().map(|line| usize::from(line.id.0)).max();
        let mut costs = vec![Cost::default(); highest.map_or(0, |highest| highest + 1)];
        self.lines.iter().for_each(|line| costs[usize::from(line.id.0)] = line.cost);
        costs
    }

    /// The uplinks that new flows may use in one family.
    #[must_use]
    pub fn usable(&self, family: Family) -> UplinkSet {
        self.lines.iter().filter(|line| line.is_usable(family)).map(|line| line.id).collect()
    }

    /// The uplinks that have a way out, but which probes call down.
    #[must_use]
    pub fn doubted(&self) -> Avoided {
        let all = self.lines.iter().flat_map(|line| Family::BOTH.map(|family| (line, family)));
        all.filter(|&(line, family)| line.is_doubted(family))
            .fold(Avoided::default(), |all, (line, family)| all.with(family, line.id))
    }
}
