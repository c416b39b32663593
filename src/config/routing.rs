//! `[routing]`: numbers of tables and priorities, and the router's own traffic.

use std::collections::HashMap;

use toml::Spanned;

use super::checked::{RouterTraffic, Routing};
use super::names::Names;
use super::reader::{Fault, Read, Section, Value};
use super::uplinks::Written;
use super::values::number;
use crate::engine::uplink::{MAX_UPLINKS, UplinkId};

/// The own-traffic table; the uplinks' follow.
const FIRST_TABLE: u32 = 100;
/// Before the kernel's rule for the main table (32766), behind what most other software uses.
const FIRST_PRIORITY: u32 = 20_000;
/// So many priorities are left for our rules before the main table's: three for each of 64 uplinks, and more.
const PRIORITIES: u64 = 1000;
/// Priority of the kernel's rule for the main table (net/ipv4/fib_rules.c).
const MAIN_PRIORITY: u64 = 32_766;

/// Reads the section, and gives every uplink its table.
pub(super) fn read(
    section: Section,
    ids: &[UplinkId],
    uplinks: &[Written],
    names: &Names,
) -> (Routing, Vec<u32>) {
    let first_table = section.optional("first_table", number(1..=u64::from(u32::MAX)));
    let first_table = first_table.unwrap_or(Spanned::new(section.span(), FIRST_TABLE));
    let tables = tables(&section, &first_table, ids, uplinks);
    let routing = Routing {
        first_table: *first_table.get_ref(),
        refused_table: free_behind(*first_table.get_ref(), &tables),
        first_priority: section.or("first_priority", FIRST_PRIORITY, number(1..=MAIN_PRIORITY - PRIORITIES)),
        router: section.or("router", RouterTraffic::Multipath, |value| router(value, names)),
    };
    section.finish();
    (routing, tables)
}

fn router(value: &Value, names: &Names) -> Read<RouterTraffic> {
    match value.get_ref().as_str() {
        None => Err(Fault::not_a("\"multipath\", \"rules\" or the name of an uplink")),
        Some("multipath") => Ok(RouterTraffic::Multipath),
        Some("rules") => Ok(RouterTraffic::Rules),
        Some(_) => names.uplink(value).map(RouterTraffic::Uplink),
    }
}

/// The table of each uplink: its own, or the one of its number behind the own-traffic table.
fn tables(section: &Section, first: &Spanned<u32>, ids: &[UplinkId], uplinks: &[Written]) -> Vec<u32> {
    let mut owners = HashMap::new();
    own(section, &mut owners, first, "the router's own traffic".to_owned());
    let mut tables = Vec::new();
    for (id, uplink) in ids.iter().zip(uplinks) {
        let default = Spanned::new(first.span(), first.get_ref().saturating_add(u32::from(id.0) + 1));
        let table = uplink.table.as_ref().unwrap_or(&default);
        own(section, &mut owners, table, format!("uplink {}", uplink.label()));
        tables.push(*table.get_ref());
    }
    tables
}

/// The first table behind those that uplinks may have by their numbers that is neither one's own nor the kernel's.
fn free_behind(first: u32, taken: &[u32]) -> u32 {
    let is_free = |table: &u32| !taken.contains(table) && !(253..=255).contains(table);
    let numbered = first.saturating_add(MAX_UPLINKS as u32);
    (numbered.saturating_add(1)..=u32::MAX).chain(1..first).find(is_free).unwrap_or(first)
}

/// Notes who owns a table, and reports one that is the kernel's or somebody else's.
fn own(section: &Section, owners: &mut HashMap<u32, String>, table: &Spanned<u32>, owner: String) {
    let number = *table.get_ref();
    let kernel = [(253, "default"), (254, "main"), (255, "local")];
    let taken =
        kernel.iter().find(|(kernel, _)| *kernel == number).map(|(_, name)| format!("the kernel's {name}"));
    let taken = taken.or_else(|| owners.get(&number).map(|other| format!("that of {other}")));
    if let Some(taken) = taken {
        let message = format!("table {number} for {owner} is {taken}");
        section.report().error(table.span(), message, "expected a table of its own for each, not 253 to 255");
    }
    owners.entry(number).or_insert(owner);
}
