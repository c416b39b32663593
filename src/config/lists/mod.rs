//! Lists of names and nets: files in the formats in which such lists are published, to a [`List`].
//!
//! One file per format. The format is found by the file's name and its first
//! lines, and one list may hold both names and nets. A line that its format
//! allows and no router can use (a cosmetic filter of an advertisement blocker,
//! say) is left out and counted; one that its format does not know is an error,
//! with its line. Every reader takes time linear in the file.

mod adblock;
mod dat;
mod dnsmasq;
mod entries;
mod file;
mod hosts;
mod plain;
mod singbox;

pub use file::Lists;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::engine::rule::hosts::HostSet;
use crate::engine::rule::nets::NetSet;

use entries::{Entries, Unused};

/// Lines that are looked at to find the format.
const LOOKED_AT: usize = 100;

/// What a list says.
#[derive(Debug, Default)]
pub(super) struct List {
    /// Its names, words and expressions.
    pub(super) hosts: Arc<HostSet>,
    /// Its nets.
    pub(super) nets: Arc<NetSet>,
    /// How many lines were left out.
    pub(super) skipped: usize,
    /// The place of the first of them.
    pub(super) first_skipped: Range<usize>,
    /// What is wrong with it; empty: nothing.
    pub(super) problems: Vec<ListProblem>,
    /// Its category is not to be had.
    pub(super) refused: Option<ListProblem>,
}

/// One thing that is wrong with a list.
#[derive(Debug, Default)]
pub(super) struct ListProblem {
    /// Bytes of [`as_text`].
    pub(super) span: Range<usize>,
    /// What is wrong.
    pub(super) message: String,
    /// What was expected.
    pub(super) hint: String,
}

/// Reads a list. `path` is its file's name, of which the ending counts, and `category` the part of it that is
/// wanted, which `.dat` files must have: `netflix`, or `netflix@cn` for names with an attribute.
pub(super) fn read(path: &str, category: Option<&str>, bytes: &[u8]) -> List {
    let mut entries = Entries::default();
    let ending = path.rsplit_once('.').map_or("", |(_, ending)| ending);
    match ending {
        "dat" => dat::read(bytes, category, &mut entries),
        _ if category.is_some() => {
            entries.refuse("only a `.dat` file has categories", "expected the name of a file alone");
        }
        "srs" | "mrs" | "mmdb" | "gz" | "zip" | "xz" | "zst" => {
            entries.refuse("this is no text", "expected a list as text, JSON or `.dat`");
        }
        _ => read_text(&as_text(bytes), &mut entries),
    }
    entries.into_list()
}

/// A list's text. What is not UTF-8, as in old comments, is replaced.
pub(super) fn as_text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn read_text(text: &str, entries: &mut Entries) {
    if text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']).starts_with('{') {
        return singbox::read(text, entries);
    }
    let read_line = reader_of(text);
    for (start, line) in lines(text) {
        if let Err(unused) = read_line(line, entries) {
            entries.unused(start..start + line.len(), line, unused);
        }
    }
}

/// What takes one line of a list, without spaces around it.
type LineReader = fn(&str, &mut Entries) -> Result<(), Unused>;

/// The reader for the first line that only one format has; without one, the plain reader.
fn reader_of(text: &str) -> LineReader {
    let telling = |line: &str| -> Option<LineReader> {
        match line {
            _ if adblock::begins(line) => Some(adblock::line),
            _ if dnsmasq::begins(line) => Some(dnsmasq::line),
            _ if hosts::begins(line) => Some(hosts::line),
            _ => None,
        }
    };
    lines(text).take(LOOKED_AT).find_map(|(_, line)| telling(line)).unwrap_or(plain::line)
}

/// The lines that are neither empty nor comments, without spaces around them, each with its place.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut start = 0;
    let lines = text.split_inclusive('\n').map(move |line| {
        let from = start;
        start += line.len();
        let left = line.trim_start_matches(['\u{feff}', ' ', '\t']);
        (from + line.len() - left.len(), left.trim_end())
    });
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(['#', '!', ';']))
}

/// A line without the comment behind its entry.
fn before_comment(line: &str) -> &str {
    line.split(['#', ';']).next().unwrap_or_default().trim_end()
}

#[cfg(test)]
mod tests;
