//! Kernel modules that nothing loads by itself: connection helpers and their part in NAT.

use std::process::{Command, Stdio};

use crate::plan::firewall::model::Helper;

/// Loads what these helpers need, as far as that can be: they may be built in, or there
/// may be no right to load modules here. What is missing then shows when a rule asks for it.
pub fn load(helpers: &[Helper]) {
    if helpers.is_empty() {
        return;
    }
    let loaded = Command::new("modprobe")
        .args(["-q", "-a"])
        .args(helpers.iter().flat_map(modules))
        .stdin(Stdio::null())
        .output();
    if let Err(error) = loaded {
        tracing::debug!("cannot run modprobe: {error}");
    }
}

/// net/netfilter/Makefile: tracking and translation are modules apart; the first
/// is asked for by the rule, the second by nobody.
fn modules(helper: &Helper) -> [String; 2] {
    let name = match helper.name {
        "RAS" | "Q.931" => "h323".to_owned(),
        name => name.replace('-', "_"),
    };
    [format!("nf_conntrack_{name}"), format!("nf_nat_{name}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_that_are_two_of_one_module_name_that_module() {
        let helper = |name| Helper { name, protocol: 6, port: 1 };
        assert_eq!(modules(&helper("Q.931")), ["nf_conntrack_h323", "nf_nat_h323"]);
        assert_eq!(modules(&helper("netbios-ns"))[0], "nf_conntrack_netbios_ns");
    }
}
