//! `[[forward]]`: services behind the router.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use toml::Spanned;

use super::checked::Forward;
use super::names::{Names, Unique};
use super::reader::{Section, quoted, values_of};
use super::values::{self, NAME, PORTS, find, name, port_range, text};
use crate::engine::packet::Family;
use crate::engine::uplink::{UplinkId, UplinkSet};

const PROTOCOL: &str = "\"tcp\", \"udp\" or \"tcp+udp\"";
const TARGET: &str = "an address, \"192.0.2.7:80\" or \"[2001:db8::7]:80\"";

/// Reads all forwards; those that were refused are missing.
pub(super) fn read(root: &Section, names: &Names) -> Vec<Forward> {
    let mut unique = Unique::new("forward name");
    let forwards = root.sections("forward").into_iter().map(|section| forward(section, names, &mut unique));
    let forwards: Vec<Spanned<Forward>> = forwards.flatten().collect();
    report_overlaps(root, &forwards);
    values_of(forwards)
}

/// A forward, with the place of its ports.
fn forward(section: Section, names: &Names, unique: &mut Unique) -> Option<Spanned<Forward>> {
    let name = section.required("name", NAME, name);
    let protocols = section.required_some("protocol", PROTOCOL, text(PROTOCOL, protocols));
    let ports = section.required("port", PORTS, port_range);
    let to = section.required_some("to", TARGET, text(TARGET, target));
    let uplinks = section.some("uplinks", |value| names.uplink(value));
    let hairpin = section.or("hairpin", true, values::boolean);
    if let Some(name) = &name {
        unique.note(section.report(), name);
    }
    report_targets(&section, &to, ports.as_ref());
    section.finish();
    let ports = ports?;
    let forward = Forward {
        name: name?.into_inner(),
        protocols: values_of(protocols).concat().into_iter().collect::<BTreeSet<u8>>().into_iter().collect(),
        ports: ports.get_ref().clone(),
        to_port: to.first().and_then(|to| to.get_ref().1),
        to: to.into_iter().map(|to| to.into_inner().0).collect(),
        uplinks: listened_on(values_of(uplinks), names),
        hairpin,
    };
    Some(Spanned::new(ports.span(), forward))
}

fn listened_on(named: Vec<UplinkId>, names: &Names) -> UplinkSet {
    if named.is_empty() { names.all().collect() } else { named.into_iter().collect() }
}

fn protocols(word: &str) -> Option<&'static [u8]> {
    find(&[("tcp", &[6][..]), ("udp", &[17]), ("tcp+udp", &[6, 17])], word)
}

/// An address, and a port if there is one.
fn target(word: &str) -> Option<(IpAddr, Option<u16>)> {
    let with_port = word.parse::<SocketAddr>().ok().filter(|socket| socket.port() != 0);
    let (address, port) = match with_port {
        Some(socket) => (socket.ip().to_string(), Some(socket.port())),
        None => (word.to_owned(), None),
    };
    values::host(&address).map(|address| (address, port))
}

type Target = (IpAddr, Option<u16>);

/// Two hosts of one family, different ports, ports that run out.
fn report_targets(section: &Section, to: &[Spanned<Target>], ports: Option<&Spanned<RangeInclusive<u16>>>) {
    let mut families = BTreeSet::new();
    for target in to {
        let (address, port) = *target.get_ref();
        let error = |message: &str, hint: &str| section.report().error(target.span(), message, hint);
        if !families.insert(Family::of(address)) {
            error("`to` has two hosts of one family", "expected at most one IPv4 and one IPv6 address");
        }
        if to.first().is_some_and(|first| first.get_ref().1 != port) {
            error("`to` has different ports", "expected the same port for both families");
        }
        let span = ports.map_or(0, |ports| ports.get_ref().end() - ports.get_ref().start());
        if port.is_some_and(|port| port.checked_add(span).is_none()) {
            error(
                "the ports inside would go beyond 65535",
                "expected a lower port or a shorter range outside",
            );
        }
    }
}

/// Where a forward listens: the packets of one protocol and family that come in by one uplink.
type Place = (u8, Family, UplinkId);

/// Reports every forward whose ports were another's before.
fn report_overlaps(root: &Section, forwards: &[Spanned<Forward>]) {
    let mut ports: BTreeMap<Place, Vec<(RangeInclusive<u16>, usize)>> = BTreeMap::new();
    for (number, forward) in forwards.iter().enumerate() {
        for place in places(forward.get_ref()) {
            ports.entry(place).or_default().push((forward.get_ref().ports.clone(), number));
        }
    }
    let pairs: BTreeSet<(usize, usize)> = ports.into_values().flat_map(overlaps).collect();
    for (first, second) in pairs {
        let message = format!("forward {} has these ports already", quoted(&forwards[first].get_ref().name));
        let hint = "expected ports, protocols or uplinks that no other forward has";
        root.report().error(forwards[second].span(), message, hint);
    }
}

fn places(forward: &Forward) -> impl Iterator<Item = Place> {
    let families = forward.to.iter().copied().map(Family::of);
    let each = families.flat_map(|family| forward.protocols.iter().map(move |&protocol| (protocol, family)));
    each.flat_map(|(protocol, family)| forward.uplinks.iter().map(move |uplink| (protocol, family, uplink)))
}

/// Pairs of neighbours that overlap, in the order of the file; in order of their ports, so that it is no
/// comparison of all with all.
fn overlaps(mut ports: Vec<(RangeInclusive<u16>, usize)>) -> Vec<(usize, usize)> {
    ports.sort_by_key(|(ports, number)| (*ports.start(), *number));
    let mut pairs = Vec::new();
    let mut furthest: Option<(u16, usize)> = None;
    for (ports, number) in ports {
        if let Some((_, other)) = furthest.filter(|(end, _)| ports.start() <= end) {
            pairs.push((other.min(number), other.max(number)));
        }
        furthest = furthest.max(Some((*ports.end(), number)));
    }
    pairs
}
