//! Everything of a machine that set-up could touch, as text to compare.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use wansplit::lab::host::Host;

/// One machine's state: what it was asked, and its answer, line by line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    answers: BTreeMap<String, Vec<String>>,
}

/// Programs that list; where one is missing there is nothing of its kind.
const LISTINGS: [&str; 10] = [
    "iptables-nft-save",
    "ip6tables-nft-save",
    "iptables-legacy-save",
    "ip6tables-legacy-save",
    "nft list ruleset",
    "ipset save",
    "ip rule show",
    "ip -6 rule show",
    "ip route show table all",
    "ip -6 route show table all",
];

/// The daemon renews the gate's elements all the time.
const GATE: &str = "add wansplit-gate";
/// What nft says of elements that come and go by themselves.
const EXPIRING: &str = " expires ";
/// How ipset lists an element, and what it says of one that comes and goes by itself.
const ELEMENT: (&str, &str) = ("add ", " timeout ");

impl Dump {
    /// The state of this machine now.
    pub fn of(host: &Host) -> Dump {
        let mut answers: BTreeMap<String, Vec<String>> =
            LISTINGS.iter().map(|&listing| (listing.to_owned(), list(host, listing))).collect();
        answers.insert("sysctl".into(), host.enter(|| sysctls(Path::new("/proc/sys/net"))).unwrap());
        Dump { answers }
    }

    /// What the other has more (`+`) or less (`-`), line by line.
    pub fn changes_to(&self, after: &Dump) -> Vec<String> {
        let listings =
            self.answers.iter().map(|(listing, before)| (listing, before, &after.answers[listing]));
        listings
            .filter(|(_, before, after)| before != after)
            .flat_map(|(listing, before, after)| changes(listing, before, after))
            .collect()
    }

    /// Whether some line of some answer has this in it.
    pub fn mentions(&self, text: &str) -> bool {
        self.answers.values().flatten().any(|line| line.contains(text))
    }
}

fn changes(listing: &str, before: &[String], after: &[String]) -> Vec<String> {
    let gone = before.iter().filter(|line| !after.contains(line)).map(|line| format!("{listing}: - {line}"));
    let new = after.iter().filter(|line| !before.contains(line)).map(|line| format!("{listing}: + {line}"));
    let changes: Vec<String> = gone.chain(new).collect();
    if changes.is_empty() {
        vec![format!("{listing}: as often, or in the order: {after:?}")]
    } else {
        changes
    }
}

/// What one program lists, without the gate's elements, which are renewed all the time, and without what rules
/// have noted for some seconds.
fn list(host: &Host, listing: &str) -> Vec<String> {
    let script = format!("{listing} 2>/dev/null || true");
    let text = host.run(Command::new("sh").args(["-c", &script])).unwrap();
    let expires =
        |line: &String| line.contains(EXPIRING) || line.starts_with(ELEMENT.0) && line.contains(ELEMENT.1);
    let lasts = |line: &String| {
        !line.is_empty() && !line.starts_with('#') && !line.starts_with(GATE) && !expires(line)
    };
    let lines = text.lines().map(still).filter(lasts);
    let mut lines = if listing.contains("legacy") { without_empty_tables(lines) } else { lines.collect() };
    if listing.contains("ipset") {
        // Sets are in the order of a hash with a random seed.
        lines.sort();
    }
    lines
}

/// A line without its counters, and without the seed that ipset makes up for each set.
fn still(line: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in line.trim_start().split(' ') {
        let counted = matches!(words.last(), Some(&"packets" | &"bytes" | &"initval"));
        let is_number = word.starts_with(|first: char| first.is_ascii_digit());
        let is_counter = word.starts_with('[') && word.ends_with(']');
        words.push(if counted && is_number || is_counter { "N" } else { word });
    }
    words.join(" ").trim_end().to_owned()
}

/// The kernel keeps a legacy table once it is loaded.
fn without_empty_tables(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut table = Vec::new();
    for line in lines {
        let is_end = line == "COMMIT";
        table.push(line);
        if is_end {
            let is_empty = |line: &String| line.starts_with(':') && line.contains(" ACCEPT ");
            let has_something = !table[1..table.len() - 1].iter().all(is_empty);
            kept.extend(table.drain(..).filter(|_| has_something));
        }
    }
    kept
}

/// All settings of the namespace; the number of connections is no setting.
fn sysctls(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            lines.extend(sysctls(&path));
        } else if let (Ok(value), false) = (fs::read_to_string(&path), path.ends_with("nf_conntrack_count")) {
            lines.push(format!("{} = {}", path.display(), value.trim()));
        }
    }
    lines.sort();
    lines
}
