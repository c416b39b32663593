//! Routes: between [`Route`] and the kernel's messages, and [`RoutingChange`]s into the kernel.
//!
//! Facts of the kernel that show here: a weight on the wire is one less than
//! shown; an IPv4 route without a next router needs link scope; the kernel
//! takes a route away with its device, and marks one hop of several as dead,
//! which is kept as it is ours to give back; IPv6 takes no hop without a next
//! router among several ("Device only routes can not be added", net/ipv6/route.c).

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteProtocol,
    RouteScope, RouteType, RouteVia,
};
use nix::errno::Errno;

use super::netlink::{Cause, Error, Netlink};
use super::rules::{FoundRule, address_family, family};
use crate::engine::packet::Family;
use crate::plan::routing::{Hop, PROTOCOL, Route, RoutingChange, Rule};

/// The rules and routes of the machine, sorted by whose they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedRouting {
    /// Unicast routes of the main table, others' and the kernel's.
    pub main_routes: Vec<Route>,
    /// Families in which the main table has a default route that refuses.
    pub main_refuses: BTreeSet<Family>,
    /// Rules that carry our protocol number.
    pub our_rules: Vec<Rule>,
    /// Unicast routes, in any table, that carry our protocol number.
    pub our_routes: Vec<Route>,
    /// Others' rules (the kernel's three default ones left out).
    pub foreign_rules: Vec<Rule>,
    /// Tables, other than main, local and default, that hold routes which are not ours.
    pub foreign_tables: BTreeSet<u32>,
}

/// `RT_TABLE_MAIN`, include/uapi/linux/rtnetlink.h.
const MAIN_TABLE: u32 = 254;

/// `RT_TABLE_DEFAULT`, `RT_TABLE_MAIN` and `RT_TABLE_LOCAL`: everybody's.
const COMMON_TABLES: std::ops::RangeInclusive<u32> = 253..=255;

impl Netlink {
    /// All rules and routes of both families.
    ///
    /// # Errors
    /// When the kernel refuses, the socket is broken, or the tables do not stand still.
    pub async fn observe_routing(&self) -> Result<ObservedRouting, Error> {
        let rules = self.rules().await.map_err(|cause| cause.during("ip rule show"))?;
        let routes = self.routes().await.map_err(|cause| cause.during("ip route show table all"))?;
        let names = self.names().await.map_err(|cause| cause.during("ip link show"))?;
        let mut observed = ObservedRouting::default();
        rules.into_iter().for_each(|rule| observed.sort_rule(rule));
        routes.iter().for_each(|route| observed.sort_route(route, &names));
        Ok(observed)
    }

    /// Makes one change; one that is already true is a success.
    ///
    /// # Errors
    /// When the kernel refuses or a device does not exist; the error names the
    /// change as an operator would type it.
    pub async fn apply(&self, change: &RoutingChange) -> Result<(), Error> {
        let done = match change {
            RoutingChange::AddRule(rule) => self.add_rule(rule).await,
            RoutingChange::DeleteRule(rule) => self.delete_rule(rule).await,
            RoutingChange::PutRoute(route) => self.put_route(route).await,
            RoutingChange::DeleteRoute(route) => self.delete_route(route).await,
        };
        done.map_err(|cause| cause.during(change))
    }

    async fn routes(&self) -> Result<Vec<RouteMessage>, Cause> {
        let answers = self.dump(RouteNetlinkMessage::GetRoute(RouteMessage::default())).await?;
        let routes = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => Some(message),
            _ => None,
        });
        Ok(routes.collect())
    }

    async fn put_route(&self, route: &Route) -> Result<(), Cause> {
        let mut indices = Vec::with_capacity(route.hops.len());
        for hop in &route.hops {
            indices.push(self.index(&hop.interface).await?);
        }
        let request = RouteNetlinkMessage::NewRoute(write(route, &indices));
        self.command(request, NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// Deletes by table, destination, metric and protocol: of the hops the kernel may have dropped some.
    async fn delete_route(&self, route: &Route) -> Result<(), Cause> {
        let mut message = identity(route);
        message.header.scope = RouteScope::NoWhere;
        match self.command(RouteNetlinkMessage::DelRoute(message), 0).await {
            Err(cause) if cause.is_one_of(&[Errno::ESRCH, Errno::ENOENT]) => Ok(()),
            deleted => deleted,
        }
    }
}

impl ObservedRouting {
    fn sort_rule(&mut self, found: FoundRule) {
        if found.protocol == PROTOCOL {
            self.our_rules.push(found.rule);
        } else if !found.is_kernels() {
            self.foreign_rules.push(found.rule);
        }
    }

    fn sort_route(&mut self, message: &RouteMessage, names: &HashMap<u32, String>) {
        let ours = u8::from(message.header.protocol) == PROTOCOL;
        let table = table(message);
        if !ours && !COMMON_TABLES.contains(&table) {
            self.foreign_tables.insert(table);
        }
        if !ours && table != MAIN_TABLE {
            return;
        }
        self.main_refuses.extend(refused(message).filter(|_| !ours));
        let Some(route) = read(message, names) else { return };
        if ours { self.our_routes.push(route) } else { self.main_routes.push(route) }
    }
}

/// The family whose default route this is, if it is one that refuses.
fn refused(message: &RouteMessage) -> Option<Family> {
    let refuses =
        matches!(message.header.kind, RouteType::Unreachable | RouteType::BlackHole | RouteType::Prohibit);
    let is_default = message.header.destination_prefix_length == 0;
    (refuses && is_default).then(|| family(message.header.address_family)).flatten()
}

/// A unicast route as told; `None` for other kinds, and where a device is gone since.
fn read(message: &RouteMessage, names: &HashMap<u32, String>) -> Option<Route> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let family = family(message.header.address_family)?;
    let mut destination = unspecified(family);
    let (mut metric, mut preferred_source) = (0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::PrefSource(address) => preferred_source = ip(address),
            _ => {}
        }
    }
    Some(Route {
        table: table(message),
        destination: IpNet::new(destination, message.header.destination_prefix_length).ok()?,
        metric,
        preferred_source,
        hops: read_hops(message, names)?,
    })
}

fn table(message: &RouteMessage) -> u32 {
    let wide = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    wide.unwrap_or(message.header.table.into())
}

fn read_hops(message: &RouteMessage, names: &HashMap<u32, String>) -> Option<Vec<Hop>> {
    let several = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    match several {
        Some(hops) => hops.iter().map(|hop| read_hop(hop, names)).collect(),
        None => read_only_hop(message, names).map(|hop| vec![hop]),
    }
}

fn read_hop(hop: &RouteNextHop, names: &HashMap<u32, String>) -> Option<Hop> {
    Some(Hop {
        interface: names.get(&hop.interface_index)?.clone(),
        gateway: gateway(&hop.attributes),
        weight: hop.hops.saturating_add(1),
        onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
    })
}

fn read_only_hop(message: &RouteMessage, names: &HashMap<u32, String>) -> Option<Hop> {
    let index = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })?;
    Some(Hop {
        interface: names.get(&index)?.clone(),
        gateway: gateway(&message.attributes),
        weight: 1,
        onlink: message.header.flags.contains(RouteFlags::Onlink),
    })
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The message that puts a route as ours; `indices` are those of its hops' devices.
fn write(route: &Route, indices: &[u32]) -> RouteMessage {
    let mut message = identity(route);
    message.header.scope = scope(route);
    message.attributes.extend(route.preferred_source.map(|source| RouteAttribute::PrefSource(source.into())));
    match (route.hops.as_slice(), indices) {
        ([hop], [index]) => write_only_hop(hop, *index, route.family(), &mut message),
        (hops, indices) => {
            let hops = hops.iter().zip(indices).map(|(hop, index)| write_hop(hop, *index, route.family()));
            message.attributes.push(RouteAttribute::MultiPath(hops.collect()));
        }
    }
    message
}

/// What tells a route from others: table, destination, metric, and that it is ours.
fn identity(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(route.family());
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message.header.kind = RouteType::Unicast;
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.attributes = vec![
        RouteAttribute::Destination(route.destination.network().into()),
        RouteAttribute::Table(route.table),
        RouteAttribute::Priority(route.metric),
    ];
    message
}

/// As iproute2 has it: link scope for a sole hop without a next router; IPv6 knows no scopes.
fn scope(route: &Route) -> RouteScope {
    match route.hops.as_slice() {
        [hop] if hop.gateway.is_none() && route.family() == Family::V4 => RouteScope::Link,
        _ => RouteScope::Universe,
    }
}

fn write_only_hop(hop: &Hop, index: u32, family: Family, message: &mut RouteMessage) {
    message.header.flags.set(RouteFlags::Onlink, hop.onlink);
    message.attributes.push(RouteAttribute::Oif(index));
    message.attributes.extend(write_gateway(hop, family));
}

fn write_hop(hop: &Hop, index: u32, family: Family) -> RouteNextHop {
    let mut written = RouteNextHop::default();
    written.interface_index = index;
    written.hops = hop.weight.saturating_sub(1);
    written.flags.set(RouteNextHopFlags::Onlink, hop.onlink);
    written.attributes = write_gateway(hop, family).into_iter().collect();
    written
}

/// A next router of the other family (RFC 8950) has an attribute of its own.
fn write_gateway(hop: &Hop, family: Family) -> Option<RouteAttribute> {
    let gateway = hop.gateway?;
    match Family::of(gateway) == family {
        true => Some(RouteAttribute::Gateway(gateway.into())),
        false => Some(RouteAttribute::Via(gateway.into())),
    }
}
