//! Rule sets of sing-box in their source format (<https://sing-box.sagernet.org/configuration/rule-set/source-format/>):
//! JSON with `rules`, each a table of lists of which one entry must fit. A rule that also asks for something
//! else (ports, programs) is left out, because its names alone would mean more than it.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::entries::{Entries, Unused, parse_net};
use crate::engine::rule::hosts::Reach;

#[derive(Deserialize)]
struct RuleSet {
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(default)]
    domain: OneOrMany,
    #[serde(default)]
    domain_suffix: OneOrMany,
    #[serde(default)]
    domain_keyword: OneOrMany,
    #[serde(default)]
    domain_regex: OneOrMany,
    #[serde(default)]
    ip_cidr: OneOrMany,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

/// One value or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        OneOrMany::Many(Vec::new())
    }
}

/// Reads a whole rule set.
pub(super) fn read(text: &str, entries: &mut Entries) {
    match serde_json::from_str::<RuleSet>(text.trim_start_matches('\u{feff}')) {
        Ok(set) => set.rules.iter().for_each(|rule| read_rule(text, rule, entries)),
        Err(error) => {
            let start = line_start(text, error.line()) + error.column().saturating_sub(1);
            entries.problem(start..start + 1, "this is no rule set of sing-box", error.to_string());
        }
    }
}

fn read_rule(text: &str, rule: &Rule, entries: &mut Entries) {
    if !rule.others.is_empty() {
        return entries.skip(0..0);
    }
    let lists: [(&OneOrMany, Add); 5] = [
        (&rule.domain, |entries, name| entries.name(name, Reach::Itself)),
        (&rule.domain_suffix, suffix),
        (&rule.domain_keyword, |entries, word| entries.keyword(word)),
        (&rule.domain_regex, |entries, pattern| entries.expression(pattern)),
        (&rule.ip_cidr, net),
    ];
    for (list, add) in lists {
        for value in list.values() {
            if let Err(unused) = add(entries, value) {
                entries.unused(place_of(text, value, entries), value, unused);
            }
        }
    }
}

/// Adds one value to a list.
type Add = fn(&mut Entries, &str) -> Result<(), Unused>;

/// With a dot before it only what is under it is meant.
fn suffix(entries: &mut Entries, name: &str) -> Result<(), Unused> {
    match name.strip_prefix('.') {
        Some(parent) => entries.name(parent, Reach::Below),
        None => entries.name(name, Reach::Both),
    }
}

fn net(entries: &mut Entries, text: &str) -> Result<(), Unused> {
    let net = parse_net(text).ok_or_else(|| Unused::not_a("a net like \"192.0.2.0/24\""))?;
    entries.net(net);
    Ok(())
}

impl OneOrMany {
    fn values(&self) -> &[String] {
        match self {
            OneOrMany::One(value) => std::slice::from_ref(value),
            OneOrMany::Many(values) => values,
        }
    }
}

/// Where a value first stands, if that will be shown: serde does not tell.
fn place_of(text: &str, value: &str, entries: &Entries) -> Range<usize> {
    let found = if entries.is_full() { None } else { text.find(&format!("\"{value}\"")) };
    found.map_or(0..0, |start| start..start + value.len() + 2)
}

fn line_start(text: &str, line: usize) -> usize {
    text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum()
}
