//! Lists in the format of hosts(5): an address, and the names it stands for. The address is of no interest;
//! the names mean themselves and not those under them.

use std::net::IpAddr;

use super::before_comment;
use super::entries::{Entries, Unused};
use crate::engine::rule::hosts::Reach;

/// Whether a line can only be one of hosts(5): an address and something behind it.
pub(super) fn begins(line: &str) -> bool {
    let mut words = before_comment(line).split_whitespace();
    words.next().is_some_and(is_address) && words.next().is_some()
}

/// `0.0.0.0 ads.example.org www.example.org`.
pub(super) fn line(line: &str, entries: &mut Entries) -> Result<(), Unused> {
    let mut words = before_comment(line).split_whitespace();
    if !words.next().is_some_and(is_address) {
        return Err(Unused::not_a("an address and names, like \"0.0.0.0 example.org\""));
    }
    // Many such lists begin with "0.0.0.0 0.0.0.0".
    words.filter(|word| !is_address(word)).try_for_each(|name| entries.name(name, Reach::Itself))
}

/// An address, perhaps with its device: `fe80::1%lo0`.
fn is_address(word: &str) -> bool {
    word.split('%').next().is_some_and(|address| address.parse::<IpAddr>().is_ok())
}
