//! `[[uplink]]`: the internet lines.

use toml::Spanned;

use super::checked::{Gateway, Health, Mss, Source, Uplink};
use super::health;
use super::names::Unique;
use super::reader::{Fault, Read, Section, Value, quoted};
use super::values::{self, INTERFACE, NAME, interface, name, number, text};
use crate::engine::packet::Family;
use crate::engine::uplink::load::Both;
use crate::engine::uplink::quota::Quota;
use crate::engine::uplink::{MAX_UPLINKS, UplinkId};

/// Names that mean something else where an uplink's name can stand (`routing.router`).
const RESERVED: [&str; 2] = ["multipath", "rules"];
/// The smallest segment every IPv4 host takes (RFC 9293 section 3.7.1), and the largest a packet can hold.
const MSS: std::ops::RangeInclusive<u64> = 536..=65495;

/// An uplink as written, with the places that other parts may complain about. `None`: missing or refused.
pub(super) struct Written {
    name: Option<Spanned<String>>,
    interface: Option<Spanned<String>>,
    weight: u8,
    capacity: Both<Option<u64>>,
    gateway: PerFamily<Gateway>,
    source: PerFamily<Source>,
    mss: Mss,
    optional: bool,
    health: Health,
    cost: u8,
    quota: Option<Quota>,
    /// Its mark's number, before it is moved into the mask.
    pub(super) mark: Option<Spanned<u32>>,
    /// Its table.
    pub(super) table: Option<Spanned<u32>>,
}

impl Written {
    /// Its name and weight.
    pub(super) fn name(&self) -> Option<(String, u8)> {
        self.name.as_ref().map(|name| (name.get_ref().clone(), self.weight))
    }

    /// Its name for a message.
    pub(super) fn label(&self) -> String {
        self.name.as_ref().map_or("without a name".to_owned(), |name| quoted(name.get_ref()))
    }
}

/// Reads all uplinks and compares them with each other and with the LAN's interfaces.
pub(super) fn read(root: &Section, lan: &[String]) -> Vec<Written> {
    let health = health::read(root.section("health"), &Health::default());
    let sections = root.sections("uplink");
    if root.value("uplink").is_none_or(|value| value.get_ref().as_array().is_some_and(|list| list.is_empty()))
    {
        root.missing("uplink", "at least one `[[uplink]]`");
    }
    if let Some(section) = sections.get(MAX_UPLINKS) {
        root.report().error(section.span(), "too many uplinks", format!("expected at most {MAX_UPLINKS}"));
    }
    let written: Vec<Written> =
        sections.into_iter().take(MAX_UPLINKS).map(|section| uplink(section, lan, &health)).collect();
    unique(root, "uplink name", written.iter().flat_map(|uplink| &uplink.name));
    unique(root, "interface", written.iter().flat_map(|uplink| &uplink.interface));
    written
}

/// Their devices, by which they are known again.
pub(super) fn interfaces(written: &[Written]) -> Vec<Option<&str>> {
    written.iter().map(|uplink| Some(uplink.interface.as_ref()?.get_ref().as_str())).collect()
}

/// The uplinks in their final form; those that were refused are missing.
pub(super) fn checked(ids: &[UplinkId], written: &[Written], tables: &[u32]) -> Vec<Uplink> {
    let checked = ids.iter().zip(written).zip(tables).map(|((id, written), table)| {
        Some(Uplink {
            id: *id,
            name: written.name.as_ref()?.get_ref().clone(),
            interface: written.interface.as_ref()?.get_ref().clone(),
            weight: written.weight,
            capacity: written.capacity,
            gateway_v4: written.gateway.v4,
            gateway_v6: written.gateway.v6,
            source_v4: written.source.v4.clone(),
            source_v6: written.source.v6.clone(),
            table: *table,
            mss: written.mss,
            optional: written.optional,
            health: written.health.clone(),
            cost: written.cost,
            quota: written.quota,
        })
    });
    checked.flatten().collect()
}

fn uplink(section: Section, lan: &[String], health: &Health) -> Written {
    let gateway = gateway(&section);
    let written = Written {
        name: section.required("name", NAME, uplink_name),
        interface: section.required("interface", INTERFACE, |value| outside(value, lan)),
        weight: section.or("weight", 1, number(1..=255)),
        capacity: capacity(section.section("capacity")),
        source: source(&section, &gateway),
        gateway,
        mss: section.or("mss", Mss::Auto, mss),
        optional: section.or("optional", false, values::boolean),
        health: health::read(section.section("health"), health),
        cost: section.or("cost", 0, number(0..=255)),
        quota: quota(&section),
        mark: section.optional("mark", number(1..=u64::from(u32::MAX))),
        table: section.optional("table", number(1..=u64::from(u32::MAX))),
    };
    section.finish();
    written
}

fn quota(section: &Section) -> Option<Quota> {
    let reset_day = section.optional("reset_day", number(1..=31));
    if section.value("monthly").is_none()
        && let Some(day) = &reset_day
    {
        section.report().error(day.span(), "`reset_day` without `monthly`", "expected `monthly` as well");
    }
    let bytes = section.optional("monthly", values::volume)?.into_inner();
    Some(Quota { bytes, reset_day: reset_day.map_or(1, Spanned::into_inner) })
}

fn capacity(section: Section) -> Both<Option<u64>> {
    let rate = |key| section.optional(key, values::rate).map(Spanned::into_inner);
    let capacity = Both { down: rate("down"), up: rate("up") };
    section.finish();
    capacity
}

fn unique<'w>(root: &Section, what: &'static str, values: impl Iterator<Item = &'w Spanned<String>>) {
    let mut unique = Unique::new(what);
    for value in values {
        unique.note(root.report(), value);
    }
}

fn uplink_name(value: &Value) -> Read<String> {
    let name = name(value)?;
    if !RESERVED.contains(&name.as_str()) {
        return Ok(name);
    }
    let message = format!("an uplink cannot be called {}", quoted(&name));
    Err(Fault::Because { message, hint: "the word has a meaning of its own in `routing.router`".to_owned() })
}

/// An interface that is not the LAN's.
fn outside(value: &Value, lan: &[String]) -> Read<String> {
    let interface = interface(value)?;
    if !lan.contains(&interface) {
        return Ok(interface);
    }
    let message = format!("{} is a LAN interface", quoted(&interface));
    Err(Fault::Because { message, hint: "expected an interface that is not in `lan.interfaces`".to_owned() })
}

fn mss(value: &Value) -> Read<Mss> {
    let word = |word: &str| values::find(&[("auto", Mss::Auto), ("off", Mss::Off)], word);
    let size = || number::<u16>(MSS)(value).ok().map(Mss::Bytes);
    let what = format!("\"auto\", \"off\" or a number from {} to {}", MSS.start(), MSS.end());
    value.get_ref().as_str().and_then(word).or_else(size).ok_or(Fault::not_a(what))
}

/// The next hops. An address alone leaves the other family unused; "auto" beside it, or alone, stands for
/// every family without an address; so does leaving the key out.
fn gateway(section: &Section) -> PerFamily<Gateway> {
    let what = "the address of a router or \"auto\"";
    let items = section.some("gateway", text(what, gateway_word));
    let rest = if items.is_empty() { Gateway::Auto } else { Gateway::Unused };
    per_family(section, "gateway", &items, rest)
}

fn gateway_word(word: &str) -> Option<Item<Gateway>> {
    if word == "auto" {
        return Some((None, Gateway::Auto));
    }
    values::host(word).map(|address| (Some(Family::of(address)), Gateway::Address(address)))
}

/// The source translations. A family that nothing is said about is masqueraded.
fn source(section: &Section, gateway: &PerFamily<Gateway>) -> PerFamily<Source> {
    let what = "\"masquerade\", \"none\", an address, \"npt <IPv6 prefix of at most 64 bits>\" or \"npt of <device>\"";
    let items = section.some("source", text(what, source_word));
    for item in &items {
        let unused = item.get_ref().0.filter(|&family| gateway.of(family) == Gateway::Unused);
        if let Some(family) = unused {
            let message = format!("a source for {}, which this uplink does not use", family_name(family));
            let hint =
                format!("expected an {} address or \"auto\" in `gateway` as well", family_name(family));
            section.report().error(item.span(), message, hint);
        }
    }
    per_family(section, "source", &items, Source::Masquerade)
}

fn source_word(word: &str) -> Option<Item<Source>> {
    match word {
        "masquerade" => return Some((None, Source::Masquerade)),
        "none" => return Some((None, Source::Untouched)),
        _ => {}
    }
    if let Some(device) = word.strip_prefix("npt of ") {
        return values::device(device.trim()).map(|device| (Some(Family::V6), Source::PrefixOf(device)));
    }
    if let Some(prefix) = word.strip_prefix("npt ") {
        return values::npt_prefix(prefix.trim()).map(|prefix| (Some(Family::V6), Source::Prefix(prefix)));
    }
    values::host(word).map(|address| (Some(Family::of(address)), Source::Address(address)))
}

/// A value and the family it is for; `None`: for every family that has no value of its own.
type Item<T> = (Option<Family>, T);

/// One value for each family.
#[derive(Clone)]
struct PerFamily<T> {
    v4: T,
    v6: T,
}

impl<T: Clone> PerFamily<T> {
    fn of(&self, family: Family) -> T {
        match family {
            Family::V4 => self.v4.clone(),
            Family::V6 => self.v6.clone(),
        }
    }
}

/// Deals values out to the families and reports those that are left over; `rest` is for a family without one.
fn per_family<T: Clone>(section: &Section, key: &str, items: &[Spanned<Item<T>>], rest: T) -> PerFamily<T> {
    let [mut v4, mut v6, mut common] = [const { None }; 3];
    for item in items {
        let (family, value) = item.get_ref();
        let place = match family {
            Some(Family::V4) => &mut v4,
            Some(Family::V6) => &mut v6,
            None => &mut common,
        };
        if place.replace(value.clone()).is_some() {
            let message =
                format!("`{key}` has two values for {}", family.map_or("every family", family_name));
            section.report().error(item.span(), message, "expected at most one for each family");
        }
    }
    let rest = common.unwrap_or(rest);
    PerFamily { v4: v4.unwrap_or_else(|| rest.clone()), v6: v6.unwrap_or(rest) }
}

/// A family's name for people.
fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
