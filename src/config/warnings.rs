//! What works, but probably not as its owner thinks.

use std::collections::HashSet;

use super::covered;
use super::lists::Lists;
use super::names::Names;
use super::problem::Problems;
use super::reader::{Report, quoted};
use super::rules::{self, Entry};
use super::{Config, SourceFile};
use crate::engine::geo::{Country, Places};
use crate::engine::rule::model::{Matchers, Rule, WhenNone};
use crate::engine::rule::naive;
use crate::engine::uplink::UplinkSet;

/// Most comparisons of an example with a rule: keeps large rule sets from costing rules times examples.
/// Examples beyond it are not looked at.
const COMPARISONS: usize = 1_000_000;

/// IP protocol number of TCP (IANA).
const TCP: u8 = 6;

/// Rules that are never reached or whose hosts an earlier rule takes, rules that ask of TCP connections what
/// cannot be known when they begin or for countries that nobody knows, examples that an earlier rule takes
/// away, and entries of lists that are left out.
///
/// Wants the rule files and lists of a configuration that [`super::load`] accepted. Shipped files stay free to overlap
/// with each other, so none of this is an error.
#[must_use]
pub fn warnings(config: &Config, rule_files: &[SourceFile], lists: &Lists) -> Problems {
    let mut problems = Problems::default();
    let mut earlier = Earlier {
        uplinks: config.uplinks.len(),
        countries: config.geo.countries.iter().flat_map(Places::values).collect(),
        rules: Vec::new(),
        names: covered::Names::new(),
        end: None,
        left: COMPARISONS,
    };
    let judge = |report: &Report, entry| earlier.judge(report, entry);
    rules::each(rule_files, &Names::of(config), lists, &mut problems, judge);
    problems.extend(lists.warnings());
    problems.sorted()
}

/// The rules that are tried before the one that is being judged.
struct Earlier {
    /// How many uplinks there are.
    uplinks: usize,
    /// The countries that the database knows.
    countries: HashSet<Country>,
    rules: Vec<Rule>,
    /// Where the names stand that the rules ask for.
    names: covered::Names,
    /// Name and place of the first rule that lets nothing through to those after it.
    end: Option<String>,
    /// Comparisons that may still be made.
    left: usize,
}

impl Earlier {
    fn judge(&mut self, report: &Report, entry: Entry) {
        if let Some(end) = &self.end {
            let message = format!("rule {} is never reached", quoted(&entry.rule.name));
            report.warning(entry.place, message, format!("rule {end} takes every flow"));
        } else {
            judge_contents(report, &entry);
            self.judge_countries(report, &entry);
            self.judge_hosts(report, &entry);
            self.judge_examples(report, &entry);
        }
        if self.end.is_none() && takes_all(&entry.rule, self.uplinks) {
            self.end = Some(named(&entry.rule));
        }
        self.names.add(self.rules.len(), &entry.rule.matches);
        self.rules.push(entry.rule);
    }

    fn judge_countries(&self, report: &Report, entry: &Entry) {
        let asked = entry.rule.matches.dst_country.iter().chain(&entry.rule.not.dst_country);
        for country in asked.filter(|country| !self.countries.contains(country)) {
            let message = format!(
                "rule {} asks for country \"{country}\", which the database does not know",
                quoted(&entry.rule.name)
            );
            let hint = "expected the two letters of ISO 3166-1, like \"gb\" for the United Kingdom";
            report.warning(entry.place.clone(), message, hint);
        }
    }

    fn judge_hosts(&mut self, report: &Report, entry: &Entry) {
        let Some(first) = self.names.covering(&self.rules, &entry.rule) else { return };
        let (name, taker) = (quoted(&entry.rule.name), named(first));
        let uplinks =
            |rule: &Rule| rule.choice.uplinks.iter().map(|(uplink, _)| *uplink).collect::<UplinkSet>();
        let others = uplinks(&entry.rule).iter().any(|uplink| !uplinks(first).contains(uplink));
        if first.none != WhenNone::NextRule || !others {
            let hint = format!("rule {taker} takes all of its hosts");
            report.warning(entry.place.clone(), format!("rule {name} is never reached"), hint);
        } else if first.matches != entry.rule.matches {
            let message = format!("rule {name} decides only while no uplink of an earlier rule is usable");
            let hint = format!("rule {taker} takes all of its hosts; to prefer this one, put it before");
            report.warning(entry.place.clone(), message, hint);
        }
    }

    fn judge_examples(&mut self, report: &Report, entry: &Entry) {
        for example in &entry.examples {
            let Some(left) = self.left.checked_sub(self.rules.len()) else { return };
            self.left = left;
            if let Some(first) = self.rules.iter().find(|rule| naive::matches(rule, example.get_ref())) {
                let message = format!("this example of rule {} goes elsewhere", quoted(&entry.rule.name));
                report.warning(example.span(), message, format!("rule {} takes it first", named(first)));
            }
        }
    }
}

/// A rule about TCP connections decides by their first packet, in which the client has said nothing yet.
fn judge_contents(report: &Report, entry: &Entry) {
    let (name, is_tcp) = (quoted(&entry.rule.name), is_tcp(&entry.rule.matches));
    if let Some(key) = unknown_at_first(&entry.rule.not, is_tcp) {
        let message = format!(
            "`{key}` under `not` of rule {name} rules nothing out: it cannot be known when a TCP connection begins"
        );
        let hint = "ask for `host`, `host_list`, `dst_list` or `dst_port` there; see \"Rules\" in the README";
        report.warning(entry.place.clone(), message, hint);
    }
    if let Some(key) = unknown_at_first(&entry.rule.matches, is_tcp) {
        let message =
            format!("rule {name} never matches: `{key}` cannot be known when a TCP connection begins");
        let hint =
            "ask for `host`, `host_list`, `dst_list` or `dst_port` instead; see \"Rules\" in the README";
        report.warning(entry.place.clone(), message, hint);
    }
}

/// Whether only TCP connections are let through.
fn is_tcp(matchers: &Matchers) -> bool {
    !matchers.protocol.is_empty() && matchers.protocol.iter().all(|&protocol| protocol == TCP)
}

/// The first key that no flow fits: one of contents that TCP alone has, or that `is_tcp` leaves to TCP alone.
fn unknown_at_first(matchers: &Matchers, is_tcp: bool) -> Option<&'static str> {
    let apps = &matchers.app;
    let keys = [
        ("app", !apps.is_empty() && (is_tcp || apps.iter().all(|app| app.only_over_tcp()))),
        ("http_method", !matchers.http_method.is_empty()),
        ("user_agent", !matchers.user_agent.is_empty()),
        ("alpn", is_tcp && !matchers.alpn.is_empty()),
        ("payload", is_tcp && !matchers.payload.is_empty()),
    ];
    keys.into_iter().find(|(_, unknown)| *unknown).map(|(key, _)| key)
}

/// No flow gets past the rule: it has no conditions, and when none of its uplinks is usable it does not go on
/// to the next rule or no other rule could do better.
fn takes_all(rule: &Rule, uplinks: usize) -> bool {
    let unconditional = rule.matches == Matchers::default() && rule.not == Matchers::default();
    unconditional && (rule.none != WhenNone::NextRule || rule.choice.uplinks.len() == uplinks)
}

fn named(rule: &Rule) -> String {
    format!("{} ({})", quoted(&rule.name), rule.origin)
}
