//! Lists with one entry in a line: a name, which also means those under it, or a net. Typed entries of the
//! texts that `geosite.dat` is made of (<https://github.com/v2fly/domain-list-community>) may stand among them.

use super::before_comment;
use super::entries::{Entries, Unused, parse_net};
use crate::engine::rule::hosts::Reach;

const WHAT: &str = "a name like \"example.org\" or \"*.example.org\", or a net like \"192.0.2.0/24\"";

const INCLUDE: &str = "lists do not include each other: name the other file in `host_list` too, or take a \
                       `geosite.dat`, in which all is put together";

/// `example.org`, `*.example.org` (only names under it), `192.0.2.0/24`, or an entry with its type before it.
pub(super) fn line(line: &str, entries: &mut Entries) -> Result<(), Unused> {
    let Some((kind, value)) = line.split_once(':').filter(|(kind, _)| KINDS.contains(kind)) else {
        return bare(before_comment(line), entries);
    };
    let value = without_attributes(value.trim());
    match kind {
        "domain" => entries.name(value, Reach::Both),
        "full" => entries.name(value, Reach::Itself),
        "keyword" => entries.keyword(value),
        "regexp" => entries.expression(value),
        _ => Err(Unused::Wrong(INCLUDE.to_owned())),
    }
}

const KINDS: [&str; 5] = ["domain", "full", "keyword", "regexp", "include"];

fn bare(entry: &str, entries: &mut Entries) -> Result<(), Unused> {
    let entry = without_attributes(entry);
    if let Some(net) = parse_net(entry) {
        entries.net(net);
        return Ok(());
    }
    let (name, reach) = match entry.strip_prefix("*.") {
        Some(parent) => (parent, Reach::Below),
        // Squid's and mihomo's ways to say it.
        None => (entry.strip_prefix("+.").or(entry.strip_prefix('.')).unwrap_or(entry), Reach::Both),
    };
    entries.name(name, reach).map_err(|_| Unused::not_a(WHAT))
}

/// Attributes (` @ads`) choose parts of a list, of which this is all. No entry has a space in it.
fn without_attributes(entry: &str) -> &str {
    let end = entry.find([' ', '\t']).filter(|&space| {
        let rest = entry.get(space..).unwrap_or_default().trim_start();
        rest.starts_with(['@', '#', '&'])
    });
    end.and_then(|end| entry.get(..end)).unwrap_or(entry)
}
