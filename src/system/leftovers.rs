//! What iptables-nft leaves behind: it makes tables and base chains when they
//! are first used and never takes them away. Those that it made for us, and
//! that nobody has used since, go with us.

use std::collections::BTreeSet;

use super::firewall::{Error, listing};

/// The tables that iptables-nft may make for us.
const TABLES: [&str; 8] =
    ["ip raw", "ip filter", "ip nat", "ip mangle", "ip6 raw", "ip6 filter", "ip6 nat", "ip6 mangle"];

/// All tables ("ip mangle") and chains ("ip mangle FORWARD") of nf_tables.
///
/// # Errors
/// When nft is there and fails.
pub fn tables_and_chains() -> Result<BTreeSet<String>, Error> {
    Ok(names(&listing("nft", &["list", "chains"])?))
}

/// Removes iptables-nft's tables and base chains that were not there before and do nothing now.
///
/// # Errors
/// When nft is there and fails.
pub fn remove(before: &BTreeSet<String>) -> Result<(), Error> {
    let now = tables_and_chains()?;
    for table in TABLES.into_iter().filter(|&table| now.contains(table)) {
        let (family, name) = table.split_once(' ').unwrap_or_default();
        let idle = idle_chains(&listing("nft", &["list", "table", family, name])?);
        let commands = removals(table, &idle, before, &now);
        if !commands.is_empty() {
            listing("nft", &[&commands.join("; ")])?;
        }
    }
    Ok(())
}

fn names(list: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut table = "";
    for line in list.lines().filter_map(|line| line.trim().strip_suffix(" {")) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name;
            names.insert(table.to_owned());
        } else if let Some(chain) = line.strip_prefix("chain ") {
            names.insert(format!("{table} {chain}"));
        }
    }
    names
}

/// The base chains of one listed table that accept everything and have no rule.
fn idle_chains(table: &str) -> Vec<String> {
    let mut idle = Vec::new();
    let mut chain: Option<(&str, bool)> = None;
    for line in table.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ") {
            chain = Some((name.trim_end_matches(" {"), false));
        } else if line == "}" {
            idle.extend(chain.take().filter(|(_, is_idle)| *is_idle).map(|(name, _)| name.to_owned()));
        } else if let Some((_, is_idle)) = &mut chain {
            *is_idle = line.starts_with("type ") && line.ends_with("policy accept;");
        }
    }
    idle
}

/// The commands for one table; the table itself goes with the last of its chains.
fn removals(table: &str, idle: &[String], before: &BTreeSet<String>, now: &BTreeSet<String>) -> Vec<String> {
    let full_name = |chain: &String| format!("{table} {chain}");
    let stale: BTreeSet<String> =
        idle.iter().map(full_name).filter(|chain| !before.contains(chain)).collect();
    let of_table = format!("{table} ");
    let keeps_some = now.iter().any(|name| name.starts_with(&of_table) && !stale.contains(name));
    if !keeps_some && !before.contains(table) {
        return vec![format!("delete table {table}")];
    }
    stale.iter().map(|chain| format!("delete chain {chain}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAINS: &str = "table ip mangle {\n\tchain PREROUTING {\n\t\ttype filter hook prerouting \
                          priority mangle; policy accept;\n\t}\n\tchain FORWARD {\n\t\ttype filter hook \
                          forward priority mangle; policy accept;\n\t}\n}\ntable inet other {\n}\n";

    #[test]
    fn tables_without_chains_are_listed_too() {
        let all = ["inet other", "ip mangle", "ip mangle FORWARD", "ip mangle PREROUTING"];
        assert_eq!(names(CHAINS), all.map(String::from).into());
    }

    #[test]
    fn a_chain_with_a_rule_or_a_policy_or_without_a_hook_is_not_idle() {
        let table =
            CHAINS.replace("policy accept;\n\t}\n\tchain F", "policy accept;\n\t\taccept\n\t}\n\tchain F");
        assert_eq!(idle_chains(&table), ["FORWARD"]);
        assert_eq!(idle_chains(&table.replace("policy accept", "policy drop")), [""; 0]);
        assert_eq!(idle_chains("table ip mangle {\n\tchain own {\n\t}\n}"), [""; 0]);
    }

    #[test]
    fn what_was_there_before_stays_and_an_empty_new_table_goes_whole() {
        let now = names(CHAINS);
        let idle = idle_chains(CHAINS);
        let removals = |before: &[&str]| {
            removals("ip mangle", &idle, &before.iter().map(ToString::to_string).collect(), &now)
        };
        assert_eq!(removals(&[]), ["delete table ip mangle"]);
        assert_eq!(removals(&["ip mangle", "ip mangle PREROUTING"]), ["delete chain ip mangle FORWARD"]);
        assert_eq!(removals(&["ip mangle", "ip mangle PREROUTING", "ip mangle FORWARD"]), [""; 0]);
    }
}
