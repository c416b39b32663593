//! The kernel settings a balancing router needs, in the order in which they must be written.
//!
//! Names are paths below `/proc/sys`, because device names may hold dots.

use super::observed::Observed;
use crate::config::Config;

/// A kernel setting and the value it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Path below `/proc/sys`.
    pub name: String,
    /// Its value as text.
    pub value: String,
}

/// IPv6 forwarding as a whole. Writing it also writes every device's setting.
pub const FORWARD_ALL_V6: &str = "net/ipv6/conf/all/forwarding";

/// Settings of the whole namespace.
const COUNTERS: &str = "net/netfilter/nf_conntrack_acct";
const HASH_POLICIES: [&str; 2] = ["net/ipv4/fib_multipath_hash_policy", "net/ipv6/fib_multipath_hash_policy"];
const STRICT_FOR_ALL: &str = "net/ipv4/conf/all/rp_filter";
/// Makes reverse path filtering look at marks; other software sets it.
pub const VALID_MARK: &str = "net/ipv4/conf/all/src_valid_mark";

/// The settings a plan reads: those it may write, those that change along, those it warns about.
#[must_use]
pub fn names(config: &Config, devices: &[String]) -> Vec<String> {
    let mut names: Vec<String> =
        [FORWARD_ALL_V6, "net/ipv6/conf/default/forwarding", COUNTERS, STRICT_FOR_ALL, VALID_MARK]
            .map(String::from)
            .to_vec();
    names.extend(HASH_POLICIES.map(String::from));
    names.extend(devices.iter().map(|device| format!("net/ipv6/conf/{device}/forwarding")));
    names.extend(config.lan.iter().map(|lan| forwarding_v4(lan)));
    for uplink in &config.uplinks {
        let device = &uplink.interface;
        names.extend([forwarding_v4(device), reverse_path(device), router_advertisements(device)]);
    }
    names
}

/// What must be written for this configuration, of what exists on this machine.
///
/// Router advertisements are let through before IPv6 forwarding is turned on,
/// else the default routes they gave vanish; reverse path filtering is loosened
/// where it is strict, because answers to marked flows come in by lines that
/// the main table would not use. Flows are spread over several next hops by
/// their ports too, and connections are counted.
#[must_use]
pub fn settings(config: &Config, observed: &Observed) -> Vec<Setting> {
    let mut settings = Vec::new();
    for uplink in &config.uplinks {
        let device = &uplink.interface;
        if observed.sysctls.get(&router_advertisements(device)).is_some_and(|value| value == "1") {
            settings.push(Setting { name: router_advertisements(device), value: "2".into() });
        }
        if is_strict(observed, device) {
            settings.push(Setting { name: reverse_path(device), value: "2".into() });
        }
        settings.push(Setting { name: forwarding_v4(device), value: "1".into() });
    }
    let always = config.lan.iter().map(|lan| forwarding_v4(lan));
    let always = always.chain([FORWARD_ALL_V6, COUNTERS].map(String::from));
    let always = always.chain(HASH_POLICIES.map(String::from));
    settings.extend(always.map(|name| Setting { name, value: "1".into() }));
    settings.retain(|setting| observed.sysctls.contains_key(&setting.name));
    settings
}

/// The kernel takes the higher of the two values, and 1 is strict (Documentation/networking/ip-sysctl.rst).
fn is_strict(observed: &Observed, device: &str) -> bool {
    let value = |name: &str| observed.sysctls.get(name).and_then(|value| value.parse::<u8>().ok());
    let effective = value(STRICT_FOR_ALL).max(value(&reverse_path(device)));
    effective == Some(1)
}

fn forwarding_v4(device: &str) -> String {
    format!("net/ipv4/conf/{device}/forwarding")
}

fn reverse_path(device: &str) -> String {
    format!("net/ipv4/conf/{device}/rp_filter")
}

fn router_advertisements(device: &str) -> String {
    format!("net/ipv6/conf/{device}/accept_ra")
}
