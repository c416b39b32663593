//! Whether anything keeps packets from outside from being forwarded to the LAN.
//!
//! A look at others' rules can only be a guess; it errs on the quiet side: any
//! policy or rule that drops forwarded packets counts.

use super::firewall::{iptables_listings, listing};
use crate::plan::firewall::iptables::PREFIX;

/// Whether some forward chain has a policy or a rule that drops.
#[must_use]
pub fn something_guards() -> bool {
    let nft = listing("nft", &["list", "ruleset"]).unwrap_or_default();
    let saves = iptables_listings().into_iter().filter_map(|(_, save)| save.ok());
    nft_guards(&nft) || saves.into_iter().any(|save| filter_guards(&save))
}

fn nft_guards(ruleset: &str) -> bool {
    let mut in_forward = false;
    for line in ruleset.lines().map(str::trim) {
        if line.starts_with("chain ") {
            in_forward = false;
        }
        in_forward |= line.contains("hook forward");
        if in_forward && (line.contains("policy drop") || drops(line)) && !line.contains("ct state invalid") {
            return true;
        }
    }
    false
}

fn drops(rule: &str) -> bool {
    rule.ends_with(" drop") || rule == "drop" || rule.contains("reject")
}

fn filter_guards(save: &str) -> bool {
    save.lines().any(|line| {
        line.starts_with(":FORWARD DROP")
            || (line.starts_with("-A FORWARD") && !line.contains(PREFIX))
                && (line.contains("-j DROP") || line.contains("-j REJECT"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_policy_of_drop_guards_and_one_of_accept_does_not() {
        let chain = |policy| {
            format!(
                "table inet f {{\n\tchain x {{\n\t\ttype filter hook forward priority 0; policy {policy};\n\t}}\n}}"
            )
        };
        assert!(nft_guards(&chain("drop")));
        assert!(!nft_guards(&chain("accept")));
        assert!(filter_guards(":FORWARD DROP [0:0]\n"));
        assert!(!filter_guards(":FORWARD ACCEPT [0:0]\n:INPUT DROP [0:0]\n"));
    }

    #[test]
    fn a_drop_in_another_chain_does_not_guard() {
        let text = "chain input {\ntype filter hook input priority 0; policy drop;\n}\n\
                    chain forward {\ntype filter hook forward priority 0; policy accept;\nct state invalid drop\n}";
        assert!(!nft_guards(text));
    }
}
