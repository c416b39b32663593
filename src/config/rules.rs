//! Rule files: `[[rule]]` → [`Rule`], its examples tried on the spot.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::SourceFile;
use super::contents;
use super::example;
use super::lists::Lists;
use super::names::{Names, Unique};
use super::problem::Problems;
use super::reader::{Fault, Read, Report, Section, Value, quoted, read_file, values_of};
use super::values::{self, TITLE, number, one_of, spelled, title, unknown_word};
use super::words;
use crate::engine::flow::Facts;
use crate::engine::packet::{Family, PROTOCOLS_WITH_PORTS};
use crate::engine::rule::model::{
    Choice, HashKey, IcmpType, Live, Matchers, NoLine, OnMismatch, Percent, Policy, Rule, WhenNone,
};
use crate::engine::rule::naive;
use crate::engine::rule::texts::{Texts, Unusable};
use crate::engine::sticky::{Sticky, StickyBy};
use crate::engine::uplink::UplinkId;
use crate::engine::uplink::load::Direction;

/// Most rules of all files together: [`crate::engine::rule::model::RuleId`] has 16 bits.
const MAX_RULES: usize = 1 << 16;

const USE: &str = "the name of an uplink or { policy = ..., uplinks = [...] }";

const NONE: &[(&str, WhenNone)] = &[
    ("next-rule", WhenNone::NextRule),
    ("any", WhenNone::Any),
    ("keep", WhenNone::Stop(NoLine::Keep)),
    ("reject", WhenNone::Stop(NoLine::Reject)),
    ("drop", WhenNone::Stop(NoLine::Drop)),
];

const LIVE: &[(&str, Live)] =
    &[("keep", Live::Keep), ("reset-on-down", Live::ResetOnDown), ("move-back", Live::MoveBack)];

const ON_MISMATCH: &[(&str, OnMismatch)] = &[("keep", OnMismatch::Keep), ("reset", OnMismatch::Reset)];

const POLICIES: &[(&str, Policy)] = &[
    ("round-robin", Policy::RoundRobin),
    ("ordered", Policy::Ordered),
    ("hash", Policy::Hash(HashKey::Client)),
    ("least-load", Policy::LeastLoad(Direction::Down)),
    ("overflow", Policy::Overflow(Direction::Down, Percent(80))),
    ("lowest-latency", Policy::LowestLatency),
    ("best-quality", Policy::BestQuality),
];

const POLICY: &str = "\"round-robin\", \"ordered\", \"hash\", \"least-load\", \"overflow\", \"lowest-latency\" or \
                      \"best-quality\"";

const DIRECTIONS: &[(&str, Direction)] = &[("down", Direction::Down), ("up", Direction::Up)];

const HASH_KEYS: &[(&str, HashKey)] = &[
    ("client", HashKey::Client),
    ("destination", HashKey::Destination),
    ("client+destination", HashKey::ClientDestination),
    ("five-tuple", HashKey::FiveTuple),
];

const STICKY_KEYS: &[(&str, StickyBy)] = &[
    ("client", StickyBy::Client),
    ("client+destination", StickyBy::ClientDestination),
    ("client+site", StickyBy::ClientSite),
];

/// Longer than people are away from a form they fill in.
const STICKY_FOR: Duration = Duration::from_secs(600);

/// Nobody notices it, and the second half of a ClientHello follows the first within a millisecond.
const HOLD: Duration = Duration::from_millis(20);

/// A rule with what only its file knows.
pub(super) struct Entry {
    /// The rule.
    pub(super) rule: Rule,
    /// The place of its name.
    pub(super) place: Range<usize>,
    /// Flows it must match.
    pub(super) examples: Examples,
}

/// All rules of all files; those that were refused are missing.
pub(super) fn read_files(
    files: &[SourceFile],
    names: &Names,
    lists: &Lists,
    problems: &mut Problems,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    each(files, names, lists, problems, |_, entry| rules.push(entry.rule));
    problems.extend(lists.problems());
    rules
}

/// Hands over the rules of all files, one by one, in order.
pub(super) fn each(
    files: &[SourceFile],
    names: &Names,
    lists: &Lists,
    problems: &mut Problems,
    mut take: impl FnMut(&Report, Entry),
) {
    let mut unique = Unique::new("rule name");
    let mut count = 0;
    for (order, file) in (1..).zip(files) {
        read_file(order, file, problems, |root| {
            let hold = root.or("hold", HOLD, values::hold);
            for section in root.sections("rule") {
                report_limit(&section, &mut count);
                let report = section.report();
                if let Some(entry) = entry(section, hold, names, lists, &mut unique) {
                    take(report, entry);
                }
            }
            root.finish();
        });
    }
}

fn report_limit(section: &Section, count: &mut usize) {
    if *count == MAX_RULES {
        section.report().error(section.span(), "too many rules", format!("expected at most {MAX_RULES}"));
    }
    *count += 1;
}

/// One rule; `None` if anything is wrong with it.
fn entry(
    section: Section,
    hold: Duration,
    names: &Names,
    lists: &Lists,
    unique: &mut Unique,
) -> Option<Entry> {
    let report = section.report();
    let before = report.count();
    let name = section.required("name", TITLE, title);
    if let Some(name) = &name {
        unique.note(report, name);
    }
    let matches = matchers(section.section("match"), names, lists, Kind::Match);
    let not = matchers(section.section("not"), names, lists, Kind::Not);
    let choice = choice(&section, names);
    let sticky = sticky(&section);
    let none = section.or("none", WhenNone::default(), one_of(NONE));
    let live = section.or("live", Live::default(), one_of(LIVE));
    let on_mismatch = section.or("on_mismatch", OnMismatch::default(), one_of(ON_MISMATCH));
    let (hits, misses) = examples(section.section("examples"), names);
    section.finish();
    let (name, choice) = (name?, choice?);
    let (place, origin) = (name.span(), report.place(name.span().start));
    let rule =
        Rule { name: name.into_inner(), origin, matches, not, choice, sticky, none, live, on_mismatch, hold };
    // Examples of a half-read rule prove nothing.
    if report.count() == before {
        try_examples(report, &rule, &hits, &misses);
    }
    (report.count() == before).then_some(Entry { rule, place, examples: hits })
}

/// The two tables of conditions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Match,
    Not,
}

fn matchers(section: Section, names: &Names, lists: &Lists, kind: Kind) -> Matchers {
    let before = section.report().count();
    let file = section.report().path();
    let matchers = Matchers {
        protocol: values_of(section.some("protocol", protocol)),
        src: values_of(section.some("src", values::net)),
        dst: values_of(section.some("dst", values::net)),
        dst_list: values_of(section.some("dst_list", |value| lists.nets(file, value))),
        dst_country: values_of(section.some("dst_country", |value| names.country(value))),
        dst_asn: values_of(section.some("dst_asn", |value| names.asn(value))),
        src_port: values_of(section.some("src_port", values::port_range)),
        dst_port: values_of(section.some("dst_port", values::port_range)),
        icmp_type: values_of(section.some("icmp_type", icmp_types)).concat(),
        src_mac: values_of(section.some("src_mac", values::mac)),
        lan: values_of(section.some("lan", |value| names.lan(value))),
        dscp: values_of(section.some("dscp", spelled(DSCP, words::dscp))),
        family: values_of(section.some("family", values::family)),
        length: values_of(section.some("length", values::length_range)),
        time: values_of(section.some("time", values::time_span)),
        weekday: values_of(section.some("weekday", values::weekdays)).concat(),
        host: values_of(section.some("host", contents::host)),
        host_list: values_of(section.some("host_list", |value| lists.hosts(file, value))),
        app: values_of(section.some("app", contents::app)),
        alpn: values_of(section.some("alpn", contents::alpn)),
        http_method: values_of(section.some("http_method", contents::http_method)),
        user_agent: built(&section, "user_agent", contents::user_agent, Texts::in_any_case),
        payload: built(&section, "payload", contents::pattern, contents::payload),
    };
    if kind == Kind::Match && section.report().count() == before {
        report_contradictions(&section, &matchers);
    }
    section.finish();
    matchers
}

/// What is made of all values of a key, which together may be too large for it.
fn built<T, U: Default>(
    section: &Section,
    key: &'static str,
    read: impl Fn(&Value) -> Read<T>,
    build: impl FnOnce(Vec<T>) -> Result<U, Unusable>,
) -> U {
    build(values_of(section.some(key, read))).unwrap_or_else(|error| {
        let span = section.value(key).map_or(section.span(), Spanned::span);
        section.report().error(span, format!("`{key}` is too large"), error.to_string());
        U::default()
    })
}

const DSCP: &str = "a code point from 0 to 63 or a name like \"EF\", \"CS1\" or \"AF41\"";

fn protocol(value: &Value) -> Read<u8> {
    spelled("a protocol's name or its number from 0 to 255", words::protocol)(value).map_err(|fault| {
        match value.get_ref() {
            DeValue::String(word) => unknown_word(word, words::PROTOCOLS),
            _ => fault,
        }
    })
}

fn icmp_types(value: &Value) -> Read<Vec<IcmpType>> {
    spelled("an ICMP type like \"echo-request\", 8, \"3/4\" or \"icmpv6:128\"", words::icmp_types)(value)
}

/// Conditions that no packet can fit together.
fn report_contradictions(section: &Section, matchers: &Matchers) {
    let before = section.report().count();
    for (key, ports) in [("src_port", &matchers.src_port), ("dst_port", &matchers.dst_port)] {
        if !ports.is_empty() {
            report_without_ports(section, key, matchers);
        }
    }
    if !matchers.icmp_type.is_empty() {
        report_without_type(section, matchers);
    }
    let possible = Family::BOTH.into_iter().any(|family| allows(matchers, family));
    if !possible && section.report().count() == before {
        let hint = "expected nets, protocols and ICMP types of one address family";
        section.report().error(section.span(), "no packet can fit all of these", hint);
    }
}

/// Ports are asked for, but also something that has none.
fn report_without_ports(section: &Section, key: &'static str, matchers: &Matchers) {
    let hint = "only tcp, udp, sctp, dccp and udplite have ports; give others a rule of their own";
    if let Some(&protocol) =
        matchers.protocol.iter().find(|&&protocol| !PROTOCOLS_WITH_PORTS.contains(&protocol))
    {
        never(section, key, &words::protocol_name(protocol), hint);
    } else if !matchers.icmp_type.is_empty() {
        never(section, key, "icmp", hint);
    }
}

/// ICMP types are asked for, but also a protocol that has none of them.
fn report_without_type(section: &Section, matchers: &Matchers) {
    let has_type = |protocol| {
        let family = words::icmp_family(protocol);
        matchers.icmp_type.iter().any(|wanted| family == Some(wanted.family))
    };
    if let Some(&protocol) = matchers.protocol.iter().find(|&&protocol| !has_type(protocol)) {
        let hint = "icmp has types like \"echo-request\" and 8, icmpv6 those like \"icmpv6:128\"";
        never(section, "icmp_type", &words::protocol_name(protocol), hint);
    }
}

fn never(section: &Section, key: &'static str, protocol: &str, hint: &str) {
    let span = section.value(key).map_or(section.span(), Spanned::span);
    section.report().error(span, format!("`{key}` never fits protocol {protocol}"), hint);
}

/// Whether every key has room for packets of a family.
fn allows(matchers: &Matchers, family: Family) -> bool {
    let some = |families: &mut dyn Iterator<Item = Option<Family>>| {
        let mut families = families.peekable();
        families.peek().is_none() || families.any(|entry| entry.is_none_or(|entry| entry == family))
    };
    some(&mut matchers.family.iter().copied().map(Some))
        && some(&mut matchers.src.iter().map(|net| Some(Family::of(net.addr()))))
        && some(&mut destinations(matchers))
        && some(&mut matchers.icmp_type.iter().map(|wanted| Some(wanted.family)))
        && some(&mut matchers.protocol.iter().map(|&protocol| words::icmp_family(protocol)))
}

/// The family of each entry; a list has nets of either.
fn destinations(matchers: &Matchers) -> impl Iterator<Item = Option<Family>> {
    let nets = matchers.dst.iter().map(|net| Some(Family::of(net.addr())));
    nets.chain(matchers.dst_list.iter().map(|_| None))
}

/// The key `use`: one uplink, or a policy over some of them.
fn choice(rule: &Section, names: &Names) -> Option<Choice> {
    match rule.value("use").map(Spanned::get_ref) {
        Some(DeValue::Table(_)) => policy(rule.section("use"), names),
        _ => {
            let uplink = rule.required("use", USE, |value| one_uplink(value, names))?.into_inner();
            Some(Choice { policy: Policy::Ordered, uplinks: vec![(uplink, names.weight(uplink))] })
        }
    }
}

fn one_uplink(value: &Value, names: &Names) -> Read<UplinkId> {
    if value.get_ref().is_str() { names.uplink(value) } else { Err(Fault::not_a(USE)) }
}

fn policy(section: Section, names: &Names) -> Option<Choice> {
    let policy = section.required("policy", POLICY, one_of(POLICIES)).map(Spanned::into_inner);
    let policy = particulars(&section, policy);
    let uplinks = uplinks(&section, policy, names);
    section.finish();
    Some(Choice { policy: policy?, uplinks })
}

/// The policy with what its own keys say; a key that belongs to another policy is an error.
fn particulars(section: &Section, policy: Option<Policy>) -> Option<Policy> {
    let by = section.optional("by", one_of(HASH_KEYS));
    let direction = section.optional("direction", one_of(DIRECTIONS));
    let limit = section.optional("limit", limit);
    let policy = policy?;
    let (mut takes_by, mut takes_direction, mut takes_limit) = (false, false, false);
    let whole = match policy {
        Policy::Hash(usual) => {
            takes_by = true;
            Policy::Hash(value_or(&by, usual))
        }
        Policy::LeastLoad(usual) => {
            takes_direction = true;
            Policy::LeastLoad(value_or(&direction, usual))
        }
        Policy::Overflow(usual, most) => {
            (takes_direction, takes_limit) = (true, true);
            Policy::Overflow(value_or(&direction, usual), value_or(&limit, most))
        }
        Policy::RoundRobin | Policy::Ordered | Policy::LowestLatency | Policy::BestQuality => policy,
    };
    report_stranger(section, "by", by.filter(|_| !takes_by), "policy \"hash\"");
    let loads = "policies \"least-load\" and \"overflow\"";
    report_stranger(section, "direction", direction.filter(|_| !takes_direction), loads);
    report_stranger(section, "limit", limit.filter(|_| !takes_limit), "policy \"overflow\"");
    Some(whole)
}

fn value_or<T: Copy>(value: &Option<Spanned<T>>, usual: T) -> T {
    value.as_ref().map_or(usual, |value| *value.get_ref())
}

/// A key that another policy has.
fn report_stranger<T>(section: &Section, key: &str, value: Option<Spanned<T>>, owner: &str) {
    if let Some(value) = value {
        let message = format!("`{key}` belongs to {owner}");
        section.report().error(value.span(), message, format!("expected no `{key}` here"));
    }
}

fn limit(value: &Value) -> Read<Percent> {
    let expected = || Fault::not_a("a share from \"1%\" to \"100%\"");
    values::percent(value).ok().filter(|&percent| percent > 0).map(Percent).ok_or_else(expected)
}

/// The key `sticky`: which later flows go the way of the first, and for how long.
fn sticky(rule: &Section) -> Option<Sticky> {
    rule.value("sticky")?;
    let section = rule.section("sticky");
    let by = section.or("by", StickyBy::ClientSite, one_of(STICKY_KEYS));
    let lasts = section.or("for", STICKY_FOR, values::duration);
    section.finish();
    Some(Sticky { by, lasts })
}

/// The uplinks of a policy, all by default, with their weights, their own by default.
fn uplinks(section: &Section, policy: Option<Policy>, names: &Names) -> Vec<(UplinkId, u8)> {
    let before = section.report().count();
    let named = section.some("uplinks", |value| names.uplink(value));
    let weights = section.some("weights", number::<u8>(1..=255));
    report_twice(section, &named, names);
    if section.report().count() == before && !weights.is_empty() {
        report_weights(section, policy, weights.len());
    }
    let named = if named.is_empty() { names.all().collect() } else { values_of(named) };
    let own = named.iter().map(|&uplink| (uplink, names.weight(uplink)));
    if weights.is_empty() { own.collect() } else { named.into_iter().zip(values_of(weights)).collect() }
}

fn report_twice(section: &Section, named: &[Spanned<UplinkId>], names: &Names) {
    let mut unique = Unique::new("uplink");
    for uplink in named {
        if let Some((name, _)) = names.named(*uplink.get_ref()) {
            unique.note(section.report(), &Spanned::new(uplink.span(), name));
        }
    }
}

/// Weights fit a list of uplinks, and a policy that shares.
fn report_weights(section: &Section, policy: Option<Policy>, count: usize) {
    let Some(weights) = section.value("weights") else { return };
    let listed =
        section.value("uplinks").map_or(0, |value| value.get_ref().as_array().map_or(1, |list| list.len()));
    if listed != count {
        let message = format!("{count} `weights` for {listed} `uplinks`");
        section.report().error(weights.span(), message, "expected one weight for each uplink that is listed");
    }
    if policy == Some(Policy::Ordered) {
        let message = "`weights` mean nothing to policy \"ordered\"";
        section.report().error(weights.span(), message, "expected no `weights` here");
    }
}

type Examples = Vec<Spanned<Facts<'static>>>;

/// Flows the rule must match, and flows it must not.
fn examples(section: Section, names: &Names) -> (Examples, Examples) {
    let hits = section.list("match", |value| example::facts(value, names));
    let misses = section.list("miss", |value| example::facts(value, names));
    section.finish();
    (hits, misses)
}

fn try_examples(report: &Report, rule: &Rule, hits: &[Spanned<Facts>], misses: &[Spanned<Facts>]) {
    for hit in hits.iter().filter(|hit| !naive::matches(rule, hit.get_ref())) {
        let message = format!("rule {} does not match this example", quoted(&rule.name));
        report.error(hit.span(), message, "expected a flow that fits all of `match` and nothing of `not`");
    }
    for miss in misses.iter().filter(|miss| naive::matches(rule, miss.get_ref())) {
        let message = format!("rule {} matches this example", quoted(&rule.name));
        report.error(
            miss.span(),
            message,
            "expected a flow that fits not all of `match`, or something of `not`",
        );
    }
}
