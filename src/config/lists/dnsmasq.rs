//! Lists in the format of dnsmasq(8)'s configuration: `server=/example.org/192.0.2.1` and its like. What
//! becomes of the names there is of no interest; each means itself and those under it.

use super::entries::{Entries, Unused};
use crate::engine::rule::hosts::Reach;

const DIRECTIVES: [&str; 5] = ["server", "address", "local", "ipset", "nftset"];

/// Whether a line can only be one of dnsmasq's.
pub(super) fn begins(line: &str) -> bool {
    names(line).is_some()
}

/// `ipset=/example.org/example.net/set`: between the first and the last slash stand names.
pub(super) fn line(line: &str, entries: &mut Entries) -> Result<(), Unused> {
    let Some(names) = names(line) else {
        return if line.contains('=') { Err(Unused::Skipped) } else { Err(Unused::not_a(WHAT)) };
    };
    let mut used = false;
    // An empty name means names without dots, and `#` means all of them.
    for name in names.split('/').filter(|name| !name.is_empty() && *name != "#") {
        match name.strip_prefix("*.") {
            Some(parent) => entries.name(parent, Reach::Below)?,
            None => entries.name(name, Reach::Both)?,
        }
        used = true;
    }
    if used { Ok(()) } else { Err(Unused::Skipped) }
}

const WHAT: &str = "a line like \"server=/example.org/192.0.2.1\" or \"ipset=/example.org/set\"";

/// The names of a directive that has some.
fn names(line: &str) -> Option<&str> {
    let (directive, value) = line.split_once('=')?;
    let value = value.trim_start().strip_prefix('/').filter(|_| DIRECTIVES.contains(&directive.trim()))?;
    value.rsplit_once('/').map(|(names, _)| names)
}
