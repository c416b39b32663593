//! What the machine looks like now: the facts a plan depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::routing::{Route, Rule};
use crate::engine::packet::Family;
use crate::engine::uplink::{Avoided, ByHand, UplinkSet};

/// Everything that was read from the machine for one plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Network devices.
    pub links: Vec<Link>,
    /// Unicast routes of the main table, others' and the kernel's.
    pub main_routes: Vec<Route>,
    /// Families in which the main table has a default route that refuses (unreachable, blackhole, prohibit).
    pub main_refuses: BTreeSet<Family>,
    /// Routing rules that carry our protocol number.
    pub our_rules: Vec<Rule>,
    /// Routes, in any table, that carry our protocol number.
    pub our_routes: Vec<Route>,
    /// Others' routing rules (the kernel's three default ones left out).
    pub foreign_rules: Vec<Rule>,
    /// Tables, other than main, local and default, that hold routes which are not ours.
    pub foreign_tables: BTreeSet<u32>,
    /// Uplinks that probes call down.
    pub avoided: Avoided,
    /// Uplinks whose quotas are used up.
    pub used_up: UplinkSet,
    /// Uplinks that do not get their whole share of new flows yet, or would not if they were usable now.
    pub unfilled: Avoided,
    /// What people said of uplinks.
    pub by_hand: ByHand,
    /// Routers that DHCP leases name, by device.
    pub lease_routers: BTreeMap<String, Vec<IpAddr>>,
    /// Seconds that local time is ahead of UTC.
    pub utc_offset: i32,
    /// Values of the sysctls a plan may touch or warn about; absent ones do not exist here.
    pub sysctls: BTreeMap<String, String>,
}

impl Observed {
    /// The device of this name, if there is one.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Kernel index.
    pub index: u32,
    /// Kernel name.
    pub name: String,
    /// Administratively up, and with a carrier (`IFF_UP` and `IFF_LOWER_UP`).
    pub up: bool,
    /// Administratively up (`IFF_UP`), with a carrier or not: routes may lead there.
    pub enabled: bool,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// `IFF_POINTOPOINT`: PPP, tunnels; no next hop is needed.
    pub point_to_point: bool,
    /// Its hardware address, where it is one of Ethernet.
    pub hardware: Option<[u8; 6]>,
    /// Addresses with their nets; IPv6 link-local, tentative and deprecated ones left out.
    pub addresses: Vec<Address>,
}

/// An address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address and the net it is in.
    pub net: IpNet,
    /// The other end of a point-to-point device.
    pub peer: Option<IpAddr>,
}
