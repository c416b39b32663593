//! What each uplink can do right now: its way out, its address, or why it has none.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};

use super::observed::{Link, Observed};
use super::routing::Hop;
use crate::config::{Config, Gateway, Source, Uplink};
use crate::engine::packet::Family;
use crate::engine::rule::model::{NoLine, WhenNone};
use crate::engine::uplink::cost::{Cost, cheapest};
use crate::engine::uplink::{Avoided, ByHand, Order, UplinkId, UplinkSet};

/// An uplink as the machine has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number.
    pub id: UplinkId,
    /// Its device.
    pub interface: String,
    /// The device's addresses with their nets.
    pub nets: Vec<IpNet>,
    /// The device's largest packet in bytes, where it exists.
    pub mtu: Option<u32>,
    /// The way out for IPv4, or why there is none.
    pub v4: Result<Way, NoWay>,
    /// The way out for IPv6, or why there is none.
    pub v6: Result<Way, NoWay>,
    /// The families in which new flows keep off it, although there may be a way.
    pub avoided: BTreeSet<Family>,
    /// The families in which probes call it down, whether or not it is used for want of others.
    pub doubted: BTreeSet<Family>,
    /// New flows use it only where no cheaper line is usable.
    pub cost: Cost,
}

/// A usable way out in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Next hop.
    pub hop: Hop,
    /// Where the next hop was learned.
    pub learned: Learned,
    /// What becomes of source addresses, with the prefix that is delegated now.
    pub source: Source,
}

/// Where a next hop comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// The configuration names it.
    Configured,
    /// A default route of the main table.
    MainTable,
    /// A DHCP lease.
    Lease,
    /// The other end of a point-to-point device; no router's address is needed.
    Peer,
}

/// Why an uplink cannot be used in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoWay {
    /// The device does not exist.
    NoDevice,
    /// The device is down or has no carrier.
    LinkDown,
    /// The configuration gives a gateway of the other family only.
    NotConfigured,
    /// The device has no address of this family.
    NoAddress,
    /// `gateway = "auto"` found none.
    NoGateway,
}

impl NoWay {
    /// The reason in words.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            NoWay::NoDevice => "the device does not exist",
            NoWay::LinkDown => "the link is down",
            NoWay::NotConfigured => "no gateway of this family is configured",
            NoWay::NoAddress => "the device has no address of this family",
            NoWay::NoGateway => {
                "no gateway was found in the main table, a DHCP lease or a point-to-point peer"
            }
        }
    }
}

impl Line {
    /// The way out in one family.
    ///
    /// # Errors
    /// Why there is none.
    pub fn way(&self, family: Family) -> Result<&Way, NoWay> {
        let way = match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        way.as_ref().map_err(|&why| why)
    }

    /// Whether new flows may use it in one family.
    #[must_use]
    pub fn is_usable(&self, family: Family) -> bool {
        self.way(family).is_ok() && !self.avoided.contains(&family)
    }

    /// Whether it has a way in one family that probes call dead.
    #[must_use]
    pub fn is_doubted(&self, family: Family) -> bool {
        self.way(family).is_ok() && self.doubted.contains(&family)
    }

    /// The device's addresses of one family, without their nets.
    pub fn addresses(&self, family: Family) -> impl Iterator<Item = IpAddr> + '_ {
        self.nets.iter().map(IpNet::addr).filter(move |&address| Family::of(address) == family)
    }

    /// The addresses of one family by which the outside may know the router on
    /// this uplink: the device's, and the one that SNAT gives.
    #[must_use]
    pub fn public_addresses(&self, family: Family) -> Vec<IpAddr> {
        let mut public: Vec<IpAddr> = self.addresses(family).collect();
        if let Ok(Way { source: Source::Address(address), .. }) = self.way(family)
            && !public.contains(address)
        {
            public.push(*address);
        }
        public
    }

    /// All nets of one family by which the outside may know this uplink's flows: these addresses, and the prefix that
    /// is put in place of others.
    pub fn public_nets(&self, family: Family) -> impl Iterator<Item = IpNet> + '_ {
        let prefix = self.way(family).ok().and_then(|way| match way.source {
            Source::Prefix(prefix) => Some(IpNet::V6(prefix)),
            _ => None,
        });
        self.public_addresses(family).into_iter().map(IpNet::from).chain(prefix)
    }
}

/// All uplinks as the machine has them now, in the configuration's order.
#[must_use]
pub fn lines(config: &Config, observed: &Observed) -> Vec<Line> {
    let mut lines: Vec<Line> = config.uplinks.iter().map(|uplink| line(uplink, observed)).collect();
    keep_off(&mut lines, observed.avoided, observed.by_hand, config.none);
    price(&mut lines, config, observed.used_up);
    lines
}

/// Gives lines their costs: their tiers', or more for those whose quotas are used up.
pub fn price(lines: &mut [Line], config: &Config, used_up: UplinkSet) {
    for (line, uplink) in lines.iter_mut().zip(&config.uplinks) {
        line.cost = if used_up.contains(line.id) { Cost::USED_UP } else { Cost::tier(uplink.cost) };
    }
}

/// Of some uplinks those that a new flow in this family may get: the usable ones of the lowest cost. What is
/// usable depends on what is said of having none, as for the engine ([`crate::engine::uplink::Board::candidates`]).
pub fn candidates(
    lines: &[Line],
    family: Family,
    none: WhenNone,
    uplinks: impl Iterator<Item = UplinkId> + Clone,
) -> UplinkSet {
    let those = uplinks.filter_map(|id| lines.iter().find(|line| line.id == id));
    let has_usable = those.clone().any(|line| line.is_usable(family));
    let usable = those.filter(|line| match none {
        WhenNone::Stop(NoLine::Reject | NoLine::Drop) => line.is_usable(family) && !line.is_doubted(family),
        WhenNone::Stop(NoLine::Keep) if !has_usable => line.is_doubted(family),
        WhenNone::NextRule | WhenNone::Any | WhenNone::Stop(NoLine::Keep) => line.is_usable(family),
    });
    cheapest(usable.map(|line| (line.id, line.cost)))
}

/// Has new flows keep off these lines, and no others.
///
/// Where no line of a family would be left, those that are drained are used all the same, and where
/// even they do not work by what probes say, all with a way: that may be the probes' fault, and a line that
/// perhaps works is better than none. Not so where flows without a line are to be refused. What people called
/// down stays so.
pub fn keep_off(lines: &mut [Line], avoided: Avoided, by_hand: ByHand, none: NoLine) {
    for family in Family::BOTH {
        let dead = by_hand.down.union(avoided.of(family));
        let last = if none == NoLine::Keep { by_hand.down } else { dead };
        let off = [dead.union(by_hand.drained), dead, last];
        let leaves_some =
            |off: &UplinkSet| lines.iter().any(|line| line.way(family).is_ok() && !off.contains(line.id));
        let off = off.into_iter().find(leaves_some).unwrap_or(last);
        let doubted = avoided.of(family).minus(by_hand.down);
        for line in &mut *lines {
            note(&mut line.avoided, family, off.contains(line.id));
            note(&mut line.doubted, family, doubted.contains(line.id));
        }
    }
}

fn note(families: &mut BTreeSet<Family>, family: Family, is_one: bool) {
    if is_one {
        families.insert(family);
    } else {
        families.remove(&family);
    }
}

/// Of the lines that new flows keep off, those on which running flows stay: they are only suspected, or
/// drained and not dead.
#[must_use]
pub fn staying(lines: &[Line], avoided: Avoided, suspected: Avoided, by_hand: ByHand) -> Avoided {
    let stays = |line: &Line, family: Family| {
        let is_drained = by_hand.drained.contains(line.id) && !avoided.of(family).contains(line.id);
        let lives = suspected.of(family).contains(line.id) || is_drained;
        line.way(family).is_ok() && !by_hand.down.contains(line.id) && lives
    };
    let each = lines.iter().flat_map(|line| Family::BOTH.map(|family| (line, family)));
    let staying = each.filter(|&(line, family)| stays(line, family));
    staying.fold(Avoided::default(), |all, (line, family)| all.with(family, line.id))
}

/// The families in which new flows would have no other line that works, were this one kept off by hand.
#[must_use]
pub fn last_for(
    lines: &[Line],
    id: UplinkId,
    order: Order,
    avoided: Avoided,
    by_hand: ByHand,
) -> Vec<Family> {
    let takes_new_flows = |line: &Line, family: Family| {
        let is_kept_off = order == Order::Drain && by_hand.drained.contains(line.id);
        let is_dead = by_hand.down.contains(line.id) || avoided.of(family).contains(line.id);
        line.way(family).is_ok() && !is_dead && !is_kept_off
    };
    let is_last = |family: &Family| {
        let is_used = lines.iter().any(|line| line.id == id && line.is_usable(*family));
        is_used && !lines.iter().any(|line| line.id != id && takes_new_flows(line, *family))
    };
    let families = Family::BOTH.into_iter().filter(is_last);
    if matches!(order, Order::Drain | Order::Down) { families.collect() } else { Vec::new() }
}

fn line(uplink: &Uplink, observed: &Observed) -> Line {
    let link = observed.link(&uplink.interface);
    Line {
        id: uplink.id,
        interface: uplink.interface.clone(),
        nets: link.map(|link| link.addresses.iter().map(|address| address.net).collect()).unwrap_or_default(),
        mtu: link.map(|link| link.mtu),
        v4: way(uplink, Family::V4, link, observed),
        v6: way(uplink, Family::V6, link, observed),
        avoided: BTreeSet::new(),
        doubted: BTreeSet::new(),
        cost: Cost::default(),
    }
}

fn way(uplink: &Uplink, family: Family, link: Option<&Link>, observed: &Observed) -> Result<Way, NoWay> {
    let link = link.ok_or(NoWay::NoDevice)?;
    if !link.up {
        return Err(NoWay::LinkDown);
    }
    let (gateway, learned) = next_hop(uplink, family, link, observed)?;
    let has_address = link.addresses.iter().any(|address| Family::of(address.net.addr()) == family);
    let source = source(uplink.source(family), observed);
    if !has_address && source == Source::Masquerade {
        return Err(NoWay::NoAddress);
    }
    let hop = Hop {
        interface: link.name.clone(),
        gateway,
        weight: uplink.weight,
        onlink: is_onlink(gateway, link),
    };
    Ok(Way { hop, learned, source })
}

fn source(configured: &Source, observed: &Observed) -> Source {
    match configured {
        Source::PrefixOf(device) => delegated(device, observed).map_or(Source::Masquerade, Source::Prefix),
        configured => configured.clone(),
    }
}

/// The first prefix of a device that the world knows and that leaves room for hosts. Unique local ones (RFC 4193) mean
/// nothing outside.
fn delegated(device: &str, observed: &Observed) -> Option<Ipv6Net> {
    observed.link(device)?.addresses.iter().find_map(|address| match address.net.trunc() {
        IpNet::V6(net) if net.prefix_len() <= 64 && !net.addr().is_unique_local() => Some(net),
        _ => None,
    })
}

fn next_hop(
    uplink: &Uplink,
    family: Family,
    link: &Link,
    observed: &Observed,
) -> Result<(Option<IpAddr>, Learned), NoWay> {
    match *uplink.gateway(family) {
        Gateway::Unused => Err(NoWay::NotConfigured),
        Gateway::Address(address) => Ok((Some(address), Learned::Configured)),
        Gateway::Auto => find_gateway(family, link, observed).ok_or(NoWay::NoGateway),
    }
}

/// In order of trust: what the main table says now, what a lease said, what the device's kind implies.
fn find_gateway(family: Family, link: &Link, observed: &Observed) -> Option<(Option<IpAddr>, Learned)> {
    let main = main_gateway(family, link, observed).map(|gateway| (gateway, Learned::MainTable));
    let lease = || lease_gateway(family, link, observed).map(|gateway| (Some(gateway), Learned::Lease));
    let peer = || link.point_to_point.then_some((None, Learned::Peer));
    main.or_else(lease).or_else(peer)
}

fn main_gateway(family: Family, link: &Link, observed: &Observed) -> Option<Option<IpAddr>> {
    let defaults = observed.main_routes.iter().filter(|route| route.is_default() && route.family() == family);
    let hops = defaults.flat_map(|route| &route.hops);
    hops.filter(|hop| hop.interface == link.name)
        .map(|hop| hop.gateway)
        .find(|gateway| gateway.is_some() || link.point_to_point)
}

fn lease_gateway(family: Family, link: &Link, observed: &Observed) -> Option<IpAddr> {
    let routers = observed.lease_routers.get(&link.name)?;
    routers.iter().copied().find(|&router| Family::of(router) == family)
}

/// A gateway outside the device's nets must be declared reachable (hosters' /32s,
/// routers of another net); IPv6 link-local ones always are.
fn is_onlink(gateway: Option<IpAddr>, link: &Link) -> bool {
    let Some(gateway) = gateway else { return false };
    let link_local = matches!(gateway, IpAddr::V6(address) if address.is_unicast_link_local());
    !link_local && !link.addresses.iter().any(|address| address.net.contains(&gateway))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: UplinkId = UplinkId(0);
    const SECOND: UplinkId = UplinkId(1);

    fn two_lines() -> Vec<Line> {
        let hop = Hop { interface: "wan".into(), gateway: None, weight: 1, onlink: false };
        let way = Way { hop, learned: Learned::Peer, source: Source::Masquerade };
        let line = |id| Line {
            id,
            interface: "wan".into(),
            nets: Vec::new(),
            mtu: None,
            v4: Ok(way.clone()),
            v6: Err(NoWay::NoAddress),
            avoided: BTreeSet::new(),
            doubted: BTreeSet::new(),
            cost: Cost::default(),
        };
        [FIRST, SECOND].map(line).into()
    }

    fn usable(avoided: &[UplinkId], drained: &[UplinkId], down: &[UplinkId]) -> Vec<UplinkId> {
        let mut lines = two_lines();
        keep_off(&mut lines, dead(avoided), by_hand(drained, down), NoLine::Keep);
        lines.iter().filter(|line| line.is_usable(Family::V4)).map(|line| line.id).collect()
    }

    fn dead(uplinks: &[UplinkId]) -> Avoided {
        Avoided { v4: uplinks.iter().copied().collect(), ..Avoided::default() }
    }

    fn by_hand(drained: &[UplinkId], down: &[UplinkId]) -> ByHand {
        let set = |uplinks: &[UplinkId]| uplinks.iter().copied().collect();
        ByHand { drained: set(drained), down: set(down) }
    }

    #[test]
    fn a_drained_line_is_used_before_none_and_before_one_that_is_called_dead() {
        assert_eq!(usable(&[], &[FIRST], &[]), [SECOND]);
        assert_eq!(usable(&[SECOND], &[FIRST], &[]), [FIRST]);
        assert_eq!(usable(&[], &[FIRST, SECOND], &[]), [FIRST, SECOND]);
        assert_eq!(usable(&[FIRST, SECOND], &[FIRST], &[]), [FIRST, SECOND]);
    }

    #[test]
    fn a_line_that_was_called_down_by_hand_is_never_used() {
        assert_eq!(usable(&[], &[], &[FIRST]), [SECOND]);
        assert_eq!(usable(&[SECOND], &[], &[FIRST]), [SECOND]);
        assert_eq!(usable(&[], &[], &[FIRST, SECOND]), []);
    }

    #[test]
    fn running_flows_stay_on_a_drained_line_until_it_dies() {
        let staying = |avoided: &[UplinkId], down: &[UplinkId]| {
            let by_hand = by_hand(&[FIRST], down);
            staying(&two_lines(), dead(avoided), Avoided::default(), by_hand).v4.iter().collect::<Vec<_>>()
        };
        assert_eq!(staying(&[], &[]), [FIRST]);
        assert_eq!(staying(&[FIRST], &[]), []);
        assert_eq!(staying(&[], &[FIRST]), []);
    }

    #[test]
    fn a_line_is_the_last_one_where_no_other_would_take_its_flows() {
        let last = |order, avoided: &[UplinkId], drained: &[UplinkId]| {
            last_for(&two_lines(), FIRST, order, dead(avoided), by_hand(drained, &[]))
        };
        assert_eq!(last(Order::Drain, &[], &[]), []);
        assert_eq!(last(Order::Drain, &[SECOND], &[]), [Family::V4]);
        assert_eq!(last(Order::Drain, &[], &[SECOND]), [Family::V4]);
        assert_eq!(last(Order::Down, &[], &[SECOND]), [], "a drained line is used where no other works");
        assert_eq!(last(Order::Down, &[SECOND], &[]), [Family::V4]);
        assert_eq!(last(Order::Up, &[SECOND], &[]), []);
    }
}
