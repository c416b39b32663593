//! The names that one part of the configuration defines and others use: uplinks and LAN interfaces.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use toml::Spanned;

use super::contents;
use super::reader::{Fault, Read, Report, Value, quoted, suggestion};
use super::values::text;
use super::{Config, Uplink};
use crate::engine::flow::LanId;
use crate::engine::geo::{Asn, Country, Geo};
use crate::engine::uplink::UplinkId;

/// Uplinks and LAN interfaces, by number.
///
/// `None` stands for an entry whose name could not be read. While there is one,
/// or when the whole file could not be read, an unknown name is no fault of the
/// one who uses it.
#[derive(Default)]
pub(super) struct Names {
    /// Numbers, names and weights of the uplinks.
    pub(super) uplinks: Vec<(UplinkId, Option<(String, u8)>)>,
    /// Names of the LAN's interfaces.
    pub(super) lan: Vec<String>,
    /// Whether all of the LAN's interfaces could be read.
    pub(super) lan_complete: bool,
    /// Where addresses belong.
    pub(super) geo: Arc<Geo>,
    /// Whether all databases that are named could be read.
    pub(super) geo_complete: bool,
}

impl Names {
    /// The names of a checked configuration.
    pub(super) fn of(config: &Config) -> Self {
        let named = |uplink: &Uplink| (uplink.id, Some((uplink.name.clone(), uplink.weight)));
        Names {
            uplinks: config.uplinks.iter().map(named).collect(),
            lan: config.lan.clone(),
            lan_complete: true,
            geo: Arc::clone(&config.geo),
            geo_complete: true,
        }
    }

    /// All uplinks.
    pub(super) fn all(&self) -> impl Iterator<Item = UplinkId> {
        self.uplinks.iter().map(|(id, _)| *id)
    }

    /// An uplink's own weight.
    pub(super) fn weight(&self, uplink: UplinkId) -> u8 {
        self.named(uplink).map_or(1, |(_, weight)| *weight)
    }

    /// An uplink's name and weight, where its name could be read.
    pub(super) fn named(&self, uplink: UplinkId) -> Option<&(String, u8)> {
        self.uplinks.iter().find(|(id, _)| *id == uplink)?.1.as_ref()
    }

    /// The uplink that a value names.
    pub(super) fn uplink(&self, value: &Value) -> Read<UplinkId> {
        let wanted = text("the name of an uplink", |name| Some(name.to_owned()))(value)?;
        let known = self.uplinks.iter().filter_map(|(id, named)| Some((*id, named.as_ref()?.0.as_str())));
        match known.clone().find(|(_, name)| *name == wanted) {
            Some((uplink, _)) => Ok(uplink),
            None if self.uplinks.is_empty() || known.clone().count() < self.uplinks.len() => {
                Err(Fault::Elsewhere)
            }
            None => Err(unknown("uplink", &wanted, known.map(|(_, name)| name))),
        }
    }

    /// The LAN interface that a value names.
    pub(super) fn lan(&self, value: &Value) -> Read<LanId> {
        let wanted = text("the name of a LAN interface", |name| Some(name.to_owned()))(value)?;
        match self.find_lan(&wanted) {
            Some(lan) => Ok(lan),
            None if !self.lan_complete => Err(Fault::Elsewhere),
            None => Err(unknown("LAN interface", &wanted, self.lan.iter().map(String::as_str))),
        }
    }

    /// The country that a value names.
    pub(super) fn country(&self, value: &Value) -> Read<Country> {
        let country = contents::country(value)?;
        match self.geo.countries {
            None if self.geo_complete => Err(without_database("countries", "country")),
            _ => Ok(country),
        }
    }

    /// The autonomous system that a value names.
    pub(super) fn asn(&self, value: &Value) -> Read<Asn> {
        let asn = contents::asn(value)?;
        match self.geo.systems {
            None if self.geo_complete => Err(without_database("autonomous systems", "asn")),
            _ => Ok(asn),
        }
    }

    /// The LAN interface of a name.
    pub(super) fn find_lan(&self, wanted: &str) -> Option<LanId> {
        (0..=u8::MAX).zip(&self.lan).find(|(_, name)| *name == wanted).map(|(number, _)| LanId(number))
    }
}

/// A question that wants a database which is not there.
fn without_database(what: &str, key: &str) -> Fault {
    Fault::Because {
        message: format!("there is no database of {what}"),
        hint: format!("expected `{key} = \"FILE.mmdb\"` under [geo] in the configuration file"),
    }
}

pub(super) fn unknown<'k>(what: &str, wanted: &str, known: impl Iterator<Item = &'k str> + Clone) -> Fault {
    let message = format!("there is no {what} {}", quoted(wanted));
    Fault::Because { message, hint: suggestion(wanted, known) }
}

/// Reports values that may be used only once.
pub(super) struct Unique {
    what: &'static str,
    first: HashMap<String, String>,
}

impl Unique {
    /// `what` names the values in messages: "rule name".
    pub(super) fn new(what: &'static str) -> Self {
        Unique { what, first: HashMap::new() }
    }

    /// Notes a value, and reports it if it was noted before. Whether it is new.
    pub(super) fn note<T: Display>(&mut self, report: &Report, value: &Spanned<T>) -> bool {
        let place = report.place(value.span().start);
        let Some(first) = self.first.get(&value.get_ref().to_string()) else {
            self.first.insert(value.get_ref().to_string(), place);
            return true;
        };
        let message = format!("{} {} is used twice", self.what, quoted(&value.get_ref().to_string()));
        report.error(value.span(), message, format!("first used at {first}"));
        false
    }
}
