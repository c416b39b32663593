//! Others' firewall rules that write mark bits of ours.
//!
//! Whoever writes a whole mark takes our flows' uplinks away, or sends them by
//! others; it is said at start. Rules that only copy a connection's mark to its
//! packets do no harm: that is what ours do.

use std::collections::BTreeSet;

use super::firewall::{iptables_listings, listing};
use crate::plan::firewall::iptables::PREFIX;
use crate::plan::firewall::nft::TABLE;

/// The rules of others that write some of these bits, as their programs list
/// them; what cannot be listed is left out.
#[must_use]
pub fn mark_writers(bits: u32) -> Vec<String> {
    let mut writers = Vec::new();
    let mut told = BTreeSet::from([TABLE.to_owned()]);
    for (program, listed) in iptables_listings() {
        let save = listed.unwrap_or_default();
        writers.extend(in_iptables(&save, bits).into_iter().map(|rule| format!("{program} {rule}")));
        if program.contains("nft") {
            told.extend(nft_tables(&program, &save));
        }
    }
    let ruleset = listing("nft", &["list", "ruleset"]).unwrap_or_default();
    writers.extend(in_nft(&ruleset, bits, &told));
    writers
}

/// nft's names for the tables that iptables-nft has listed.
fn nft_tables(program: &str, save: &str) -> Vec<String> {
    let family = if program.starts_with("ip6") { "ip6" } else { "ip" };
    save.lines().filter_map(|line| Some(format!("{family} {}", line.strip_prefix('*')?))).collect()
}

fn in_iptables(save: &str, bits: u32) -> Vec<String> {
    let mut table = "";
    let mut writers = Vec::new();
    for line in save.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if line.strip_prefix("-A ").is_some_and(|rule| !rule.starts_with(PREFIX))
            && written_by_iptables(line) & bits != 0
        {
            writers.push(format!("-t {table} {line}"));
        }
    }
    writers
}

/// The bits of a packet's or connection's mark that a rule writes.
fn written_by_iptables(rule: &str) -> u32 {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let after = |option: &str| words.iter().skip_while(|&&word| word != option).nth(1);
    match after("-j") {
        Some(&"HMARK") => u32::MAX,
        Some(&("MARK" | "CONNMARK")) => {
            let set = after("--set-xmark").and_then(|value| value.split_once('/'));
            let set = set.map_or(0, |(value, mask)| number(value) | number(mask));
            let saved = words.contains(&"--save-mark");
            let saved = if saved { after("--ctmask").map_or(u32::MAX, |mask| number(mask)) } else { 0 };
            set | saved
        }
        _ => 0,
    }
}

fn in_nft(ruleset: &str, bits: u32, told: &BTreeSet<String>) -> Vec<String> {
    // iptables-nft's chains of ours are listed here as well.
    let is_foreign = |table: &str, chain: &str| !told.contains(table) && !chain.starts_with(PREFIX);
    let (mut table, mut chain) = ("", "");
    let mut writers = Vec::new();
    for line in ruleset.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches(" {");
        } else if let Some(name) = line.strip_prefix("chain ") {
            chain = name.trim_end_matches(" {");
        } else if is_foreign(table, chain) && written_by_nft(line) & bits != 0 {
            writers.push(format!("nft table {table}, chain {chain}: {line}"));
        }
    }
    writers
}

fn written_by_nft(rule: &str) -> u32 {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let written = words.windows(3).enumerate().map(|(place, window)| match window {
        [kind @ ("meta" | "ct"), "mark", "set"] => written_by_expression(kind, &words[place + 3..]),
        _ => 0,
    });
    written.fold(0, |all, bits| all | bits)
}

/// What is not the same mark with some bits changed replaces all of them,
/// unless it is the connection's that the packet gets.
fn written_by_expression(kind: &str, words: &[&str]) -> u32 {
    let mut operations = match (kind, words) {
        ("meta", ["ct", "mark", ..]) => return 0,
        ("meta", ["meta", "mark", rest @ ..] | ["mark", rest @ ..]) | ("ct", ["ct", "mark", rest @ ..]) => {
            rest
        }
        _ => return u32::MAX,
    };
    let mut written = 0;
    while let [operator, operand, rest @ ..] = operations {
        match *operator {
            "&" | "and" => written |= !number(operand),
            "|" | "or" | "^" | "xor" => written |= number(operand),
            _ => break,
        }
        operations = rest;
    }
    written
}

/// As both programs print marks; whatever else it may be counts as every bit.
fn number(text: &str) -> u32 {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_iptables_rule_writes_the_bits_of_its_mask() {
        for (rule, bits) in [
            ("-A PREROUTING -j MARK --set-xmark 0x1/0xffffffff", u32::MAX),
            ("-A PREROUTING -i lan0 -j MARK --set-xmark 0x10000/0x10000", 0x10000),
            ("-A PREROUTING -j MARK --set-xmark 0x0/0xffff00ff", 0xffff_00ff),
            ("-A PREROUTING -j CONNMARK --set-xmark 0x5/0x7", 7),
            ("-A PREROUTING -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff", u32::MAX),
            ("-A PREROUTING -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff", 0),
            ("-A PREROUTING -j HMARK --hmark-src-prefix 32 --hmark-rnd 0x5 --hmark-mod 2", u32::MAX),
            ("-A PREROUTING -m mark --mark 0x1 -j ACCEPT", 0),
        ] {
            assert_eq!(written_by_iptables(rule), bits, "{rule}");
        }
    }

    #[test]
    fn an_nft_rule_writes_the_bits_that_it_does_not_take_from_the_same_mark() {
        for (rule, bits) in [
            ("meta mark set 0x00000007", u32::MAX),
            ("meta mark set meta mark | 0x00010000 counter packets 0 bytes 0", 0x10000),
            ("ct mark set ct mark & 0xffff01ff | 0x00000100", 0xfe00 | 0x100),
            ("ct mark set ct mark xor 0x5 and 0xfffffff8", 7),
            ("ct mark set meta mark", u32::MAX),
            ("meta mark set ct mark", 0),
            ("meta mark set jhash ip saddr mod 2 offset 1", u32::MAX),
            ("ip dscp set cs1 meta mark set mark or 0x10 counter packets 0 bytes 0 accept", 0x10),
            ("meta mark 0x00000001 accept", 0),
        ] {
            assert_eq!(written_by_nft(rule), bits, "{rule}");
        }
    }

    #[test]
    fn our_own_rules_and_tables_that_iptables_lists_are_left_out() {
        let save = "*nat\n-A wansplit-lan -j MARK --set-xmark 0x1/0xff\n-A x -j MARK --set-xmark 0x1/0xff\n";
        assert_eq!(in_iptables(save, 0xff), ["-t nat -A x -j MARK --set-xmark 0x1/0xff"]);
        assert_eq!(nft_tables("ip6tables-nft", save), ["ip6 nat"]);
        let ruleset = "table inet wansplit {\n\tchain a {\n\t\tmeta mark set 0x1\n\t}\n}\n\
                       table ip f {\n\tchain b {\n\t\tmeta mark set 0x1\n\t}\n\
                       \tchain wansplit-save {\n\t\tmeta mark set 0x1\n\t}\n}\n";
        let found = in_nft(ruleset, 0xff, &BTreeSet::from(["inet wansplit".to_owned()]));
        assert_eq!(found, ["nft table ip f, chain b: meta mark set 0x1"]);
    }
}
