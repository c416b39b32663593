//! What does not fit on this machine: said before anything is touched, instead of half-working.

use std::fmt;

use ipnet::IpNet;

use super::lines::Line;
use super::observed::Observed;
use super::routing::{Rule, RuleAction, Selector};
use super::sysctls::VALID_MARK;
use super::tables::PRIORITIES;
use crate::config::{Config, Gateway, Source};
use crate::engine::packet::Family;

/// Something about the machine that a plan runs against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Set-up must not begin; otherwise it is a warning.
    pub is_fatal: bool,
    /// What it is and what to do.
    pub text: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

fn fatal(text: String) -> Misfit {
    Misfit { is_fatal: true, text }
}

fn warning(text: String) -> Misfit {
    Misfit { is_fatal: false, text }
}

/// All that does not fit, fatal things first.
#[must_use]
pub fn misfits(config: &Config, observed: &Observed, lines: &[Line]) -> Vec<Misfit> {
    let mut misfits = missing_devices(config, observed);
    misfits.extend(taken_tables(config, observed));
    misfits.extend(observed.foreign_rules.iter().filter_map(|rule| priority_clash(config, rule)));
    misfits.extend(observed.foreign_rules.iter().filter_map(|rule| mark_clash(config, rule)));
    misfits.extend(split_defaults(observed));
    misfits.extend(shared_nets(config, observed, lines));
    misfits.extend(valid_mark(observed));
    misfits.extend(no_way_out(config, lines));
    misfits.extend(no_prefix(config, lines));
    misfits.sort_by_key(|misfit| !misfit.is_fatal);
    misfits
}

fn missing_devices(config: &Config, observed: &Observed) -> Vec<Misfit> {
    let present = |name: &str| observed.link(name).is_some();
    let missing_lan = config.lan.iter().filter(|lan| !present(lan)).map(|lan| {
        fatal(format!("LAN interface {lan} does not exist; `ip link` lists the devices of this machine"))
    });
    let missing_uplink = config.uplinks.iter().filter(|uplink| !present(&uplink.interface)).map(|uplink| {
        let text = format!("uplink {}: device {} does not exist", uplink.name, uplink.interface);
        if uplink.optional {
            warning(format!("{text} yet"))
        } else {
            fatal(format!(
                "{text}; if it comes and goes (PPP, a tunnel), set `optional = true` on the uplink"
            ))
        }
    });
    missing_lan.chain(missing_uplink).collect()
}

/// Lines that wait for a delegated prefix, or for a device whose name nobody will ever give.
fn no_prefix(config: &Config, lines: &[Line]) -> Vec<Misfit> {
    let waiting = config.uplinks.iter().zip(lines).filter_map(|(uplink, line)| {
        let Source::PrefixOf(device) = uplink.source(Family::V6) else { return None };
        let has_none = line.v6.as_ref().is_ok_and(|way| way.source == Source::Masquerade);
        has_none.then(|| {
            warning(format!(
                "uplink {}: device {device} has no IPv6 prefix to translate to; until it has, IPv6 is masqueraded",
                uplink.name
            ))
        })
    });
    waiting.collect()
}

fn taken_tables(config: &Config, observed: &Observed) -> Vec<Misfit> {
    let own = [("the router's own traffic", config.routing.first_table)];
    let refused = config.refuses().then_some(("what is refused", config.routing.refused_table));
    let tables = own
        .into_iter()
        .chain(refused)
        .chain(config.uplinks.iter().map(|uplink| (&*uplink.name, uplink.table)));
    tables
        .filter(|(_, table)| observed.foreign_tables.contains(table))
        .map(|(user, table)| {
            fatal(format!(
                "routing table {table}, meant for {user}, already holds routes that are not ours \
                 (`ip route show table {table}`); choose others with `first_table` under [routing]"
            ))
        })
        .collect()
}

fn priority_clash(config: &Config, rule: &Rule) -> Option<Misfit> {
    let first = config.routing.first_priority;
    if (first..first + PRIORITIES).contains(&rule.priority) {
        return Some(fatal(format!(
            "routing rule priority {} is taken by `{rule}`; choose others with `first_priority` under [routing]",
            rule.priority
        )));
    }
    let takes_all = rule.selector == Selector::default()
        && matches!(rule.action, RuleAction::Lookup { suppress_prefix_length: None, .. });
    (rule.priority < first && takes_all).then(|| {
        warning(format!(
            "`{rule}` comes before our rules and takes every packet its table has a route for; \
             what it takes is not balanced"
        ))
    })
}

fn mark_clash(config: &Config, rule: &Rule) -> Option<Misfit> {
    let (_, mask) = rule.selector.fwmark?;
    let shared = mask & config.marks.ours();
    (shared != 0).then(|| {
        warning(format!(
            "`{rule}` looks at mark bits {shared:#x}, which are also ours; choose others with `mask`, \
             `decided` and `watched` under [marks], or our marks will lead packets there"
        ))
    })
}

/// OpenVPN's `redirect-gateway def1` and its kin.
fn split_defaults(observed: &Observed) -> Option<Misfit> {
    let half = observed.main_routes.iter().find(|route| route.destination.prefix_len() == 1)?;
    Some(warning(format!(
        "the main table has `{half}`: half a default route, which counts before ours, so what it covers \
         is not balanced; have the VPN that sets it use a real default route, or none"
    )))
}

fn shared_nets(config: &Config, observed: &Observed, lines: &[Line]) -> Vec<Misfit> {
    let mut nets: Vec<(&str, IpNet)> = Vec::new();
    for lan in config.lan.iter().filter_map(|lan| observed.link(lan)) {
        nets.extend(lan.addresses.iter().map(|address| (lan.name.as_str(), address.net.trunc())));
    }
    for line in lines {
        nets.extend(line.nets.iter().map(|net| (line.interface.as_str(), net.trunc())));
    }
    let mut misfits = Vec::new();
    for (place, (device, net)) in nets.iter().enumerate() {
        for (other, other_net) in &nets[place + 1..] {
            if device != other && overlap(net, other_net) {
                misfits.push(warning(format!(
                    "{device} ({net}) and {other} ({other_net}) share addresses; hosts in them, and the \
                     gateway, are only reached on one of the two"
                )));
            }
        }
    }
    misfits
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    let is_host = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
    !is_host(one) && !is_host(other) && (one.contains(other) || other.contains(one))
}

fn valid_mark(observed: &Observed) -> Option<Misfit> {
    let set = observed.sysctls.get(VALID_MARK).is_some_and(|value| value != "0");
    set.then(|| {
        warning(
            "net.ipv4.conf.all.src_valid_mark is set (by a VPN?): where rp_filter is strict, marked \
             packets may be dropped"
                .into(),
        )
    })
}

/// Families in which an uplink ought to work and does not.
fn no_way_out(config: &Config, lines: &[Line]) -> Vec<Misfit> {
    let mut misfits = Vec::new();
    for (uplink, line) in config.uplinks.iter().zip(lines) {
        let configured = Family::BOTH
            .into_iter()
            .filter_map(|family| Some((family, line.way(family).err()?)))
            .filter(|(family, _)| matches!(uplink.gateway(*family), Gateway::Address(_)));
        misfits.extend(configured.map(|(family, why)| {
            warning(format!("uplink {} is not used for {family}: {}", uplink.name, why.explain()))
        }));
        if let (Err(v4), Err(_)) = (&line.v4, &line.v6)
            && *uplink.gateway(Family::V4) == Gateway::Auto
        {
            misfits.push(warning(format!("uplink {} is not used at all: {}", uplink.name, v4.explain())));
        }
    }
    misfits
}
