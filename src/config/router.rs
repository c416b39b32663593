//! The main file → [`Config`], but for the rules.

use std::sync::Arc;

use toml::Spanned;

use super::checked::{
    BackendChoice, Bypass, Config, Guard, Helper, MAX_WORKERS, Offload, Pin, Queue, QueueSocket,
};
use super::lists::Lists;
use super::names::{Names, Unique};
use super::numbers::Numbers;
use super::reader::{Section, values_of};
use super::values::{self, INTERFACE, interface, number, one_of, text};
use super::{forwards, hooks, marks, mmdb, routing, uplinks, words};
use crate::engine::geo::Geo;
use crate::engine::rule::model::NoLine;

/// Most LAN interfaces: [`crate::engine::flow::LanId`] is one byte.
const MAX_LAN: usize = 256;
/// The last number the first queue may have, so that any number of workers, DNS answers and flows under watch have
/// queues (numbers are 16 bits).
const LAST_FIRST_QUEUE: u64 = (1 << 16) - MAX_WORKERS as u64 - 2;

/// Far more new flows than a company begins in a second, and so few that deciding them takes a seventh of one slow core
/// (`benches/versus`), which has the rest for what only passes.
const LIMIT: u32 = 20_000;
/// The highest rate that iptables can limit.
const MAX_LIMIT: u64 = 1_000_000;

const BACKENDS: &[(&str, BackendChoice)] = &[
    ("auto", BackendChoice::Auto),
    ("nft", BackendChoice::Nft),
    ("iptables-nft", BackendChoice::IptablesNft),
    ("iptables-legacy", BackendChoice::IptablesLegacy),
];

const NONE: &[(&str, NoLine)] = &[("keep", NoLine::Keep), ("reject", NoLine::Reject), ("drop", NoLine::Drop)];

const QUEUE_SOCKETS: &[(&str, QueueSocket)] = &[("batch", QueueSocket::Batch), ("nfq", QueueSocket::Nfq)];

const PINS: &[(&str, Pin)] = &[("auto", Pin::Auto), ("off", Pin::Off)];
const OFFLOADS: &[(&str, Offload)] = &[("off", Offload::Off), ("auto", Offload::Auto)];

const GUARDS: &[(&str, Guard)] = &[("on", Guard::On), ("warn", Guard::Warn), ("off", Guard::Off)];

/// The names that rules may use, and the configuration; parts that could not be read are missing from both.
pub(super) fn read(root: Section, lists: &Lists, known: &Numbers) -> (Names, Config) {
    directory(&root);
    let (lan, lan_complete) = lan(root.section("lan"));
    let written = uplinks::read(&root, &lan);
    let (geo, geo_complete) = geo(root.section("geo"), lists);
    let ids = known.assign(&uplinks::interfaces(&written), marks::room(&root.section("marks")));
    let uplinks = ids.iter().copied().zip(written.iter().map(uplinks::Written::name)).collect();
    let names = Names { uplinks, lan, lan_complete, geo: Arc::new(geo), geo_complete };
    let (routing, tables) = routing::read(root.section("routing"), &ids, &written, &names);
    let config = Config {
        lan: names.lan.clone(),
        uplinks: uplinks::checked(&ids, &written, &tables),
        forwards: forwards::read(&root, &names),
        rules: Arc::default(),
        geo: Arc::clone(&names.geo),
        backend: root.or("backend", BackendChoice::default(), one_of(BACKENDS)),
        queue: queue(root.section("queue")),
        marks: marks::read(root.section("marks"), &ids, &written),
        routing,
        bypass: bypass(root.section("bypass")),
        guard: root.or("guard", Guard::default(), one_of(GUARDS)),
        helpers: helpers(&root),
        hooks: hooks::read(root.section("hooks")),
        none: root.or("none", NoLine::default(), one_of(NONE)),
    };
    root.finish();
    (names, config)
}

/// The key `rules`: the directory of the rule files.
pub(super) fn rules_directory(root: Section) -> String {
    directory(&root)
}

fn directory(root: &Section) -> String {
    let path = |path: &str| (!path.is_empty() && !path.contains('\0')).then(|| path.to_owned());
    root.or("rules", "rules".to_owned(), text("the path of a directory", path))
}

/// The LAN's interfaces, and whether all could be read.
fn lan(section: Section) -> (Vec<String>, bool) {
    let before = section.report().count();
    let interfaces = section.required_some("interfaces", INTERFACE, interface);
    let mut unique = Unique::new("LAN interface");
    for (place, interface) in interfaces.iter().enumerate() {
        unique.note(section.report(), interface);
        if place == MAX_LAN {
            let hint = format!("expected at most {MAX_LAN}");
            section.report().error(interface.span(), "too many LAN interfaces", hint);
        }
    }
    let complete = section.report().count() == before;
    section.finish();
    (values_of(interfaces), complete)
}

/// The databases of where addresses belong, and whether all that are named could be read.
fn geo(section: Section, lists: &Lists) -> (Geo, bool) {
    let before = section.report().count();
    let file = section.report().path();
    let countries = section.optional("country", |value| lists.database(file, value, mmdb::countries));
    let systems = section.optional("asn", |value| lists.database(file, value, mmdb::systems));
    let complete = section.report().count() == before;
    section.finish();
    let geo =
        Geo { countries: countries.map(Spanned::into_inner), systems: systems.map(Spanned::into_inner) };
    (geo, complete)
}

fn queue(section: Section) -> Queue {
    let limit = section.or("limit", LIMIT, number(1..=MAX_LIMIT));
    let queue = Queue {
        first: section.or("first", 0, number(0..=LAST_FIRST_QUEUE)),
        workers: section.optional("workers", number(1..=u64::from(MAX_WORKERS))).map(Spanned::into_inner),
        limit,
        limit_per_client: limit_per_client(&section, limit),
        length: section.or("length", 8192, number(1..=1_000_000)),
        socket: section.or("socket", QueueSocket::default(), one_of(QUEUE_SOCKETS)),
        pin: section.or("pin", Pin::default(), one_of(PINS)),
        offload: section.or("offload", Offload::default(), one_of(OFFLOADS)),
    };
    section.finish();
    queue
}

/// A fiftieth of the limit, where nothing is said: several times what a client begins that does not flood.
fn limit_per_client(section: &Section, limit: u32) -> u32 {
    let Some(value) = section.optional("limit_per_client", number(1..=MAX_LIMIT)) else {
        return (limit / 50).max(1);
    };
    if *value.get_ref() > limit {
        let hint = format!("expected no more than {limit}");
        section.report().error(value.span(), "`limit_per_client` is above `limit`", hint);
    }
    value.into_inner()
}

fn bypass(section: Section) -> Bypass {
    let bypass = Bypass {
        destinations: values_of(section.list("destinations", values::net)),
        clients: values_of(section.list("clients", values::net)),
    };
    section.finish();
    bypass
}

fn helpers(root: &Section) -> Vec<Helper> {
    let named = root.list("helpers", |value| {
        let helpers = one_of(words::HELPERS)(value)?;
        Ok((value.get_ref().as_str().unwrap_or_default().to_owned(), helpers))
    });
    let mut unique = Unique::new("helper");
    for helper in &named {
        unique.note(root.report(), &Spanned::new(helper.span(), &helper.get_ref().0));
    }
    named.into_iter().flat_map(|helper| helper.into_inner().1).copied().collect()
}
