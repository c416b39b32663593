//! Lists for advertisement blockers. Of their rules only `||example.org^` is about a whole site; it means the
//! name and those under it. Exceptions, paths, cosmetic filters and rules with conditions are left out.

use super::entries::{Entries, Unused};
use crate::engine::rule::hosts::Reach;

/// Options that do not narrow a rule.
const HARMLESS: [&str; 4] = ["important", "all", "document", "doc"];

/// Whether a line can only be one of these lists'.
pub(super) fn begins(line: &str) -> bool {
    let starts = ["[Adblock", "[AdBlock", "[uBlock", "||", "@@"].iter().any(|start| line.starts_with(start));
    starts || is_cosmetic(line)
}

/// `||example.org^`.
pub(super) fn line(line: &str, entries: &mut Entries) -> Result<(), Unused> {
    if line.starts_with('[') && line.ends_with(']') {
        return Ok(());
    }
    let name = site(line).ok_or(Unused::Skipped)?;
    let (name, reach) = match name.strip_prefix("*.") {
        Some(parent) => (parent, Reach::Below),
        None => (name, Reach::Both),
    };
    // An address, or a pattern with `*` in it.
    entries.name(name, reach).map_err(|_| Unused::Skipped)
}

/// What stands between `||` and `^` in a rule about a whole site.
fn site(line: &str) -> Option<&str> {
    let (rule, options) = line.split_once('$').unwrap_or((line, ""));
    let harmless = options.split(',').all(|option| option.is_empty() || HARMLESS.contains(&option));
    let name = rule.strip_prefix("||")?;
    let name = name.strip_suffix("^|").or(name.strip_suffix('^'))?;
    harmless.then_some(name)
}

/// `example.org##.banner` and its like: they hide parts of pages.
fn is_cosmetic(line: &str) -> bool {
    let before = ["##", "#@#", "#?#", "#$#", "#%#"].iter().find_map(|sign| line.split_once(sign));
    before.is_some_and(|(before, _)| !before.contains(char::is_whitespace))
}
