//! A network that fits somebody's configuration file: which devices and addresses it must have.
//!
//! Pure: a checked [`Config`] in, a [`Fit`] out, or every reason why there can be none.
//! What the file says is taken (interfaces, gateways, source addresses, forwards' targets);
//! what it leaves open is as in the lab's own network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::topology::{Lan, Nets, Pair, Topology, customer_net, delegated_net, lan_net, line_net};
use crate::config::{Config, Gateway, Source, Uplink};
use crate::engine::packet::Family;

/// Most LANs and lines of a fitted lab.
const MOST_LANS: usize = 4;
const MOST_LINES: usize = 16;

/// The longest and the shortest prefix tried for a net that holds a line's two addresses.
const V4_PREFIXES: [u8; 2] = [24, 16];
const V6_PREFIXES: [u8; 2] = [64, 32];

/// The network that a configuration file asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// Its LANs, in the file's order.
    pub lans: Vec<LanFit>,
    /// Its lines, in the file's order.
    pub lines: Vec<LineFit>,
}

/// One LAN as the file wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanFit {
    /// The router's device.
    pub device: String,
    /// Its net; the router is number 1.
    pub net: Nets,
    /// Addresses in it that port forwards lead to.
    pub targets: Vec<IpAddr>,
}

/// One line as the file wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineFit {
    /// The uplink's name.
    pub name: String,
    /// The router's device.
    pub device: String,
    /// The router's addresses.
    pub router: Pair,
    /// The ISP's.
    pub gateway: Pair,
    /// The net between both.
    pub net: Nets,
    /// All the ISP takes packets from.
    pub sources: Nets,
    /// The IPv6 net the ISP routes to the router.
    pub delegated: Ipv6Net,
    /// A further address of the ISP: the link-local one that the file calls the gateway.
    pub link_local: Option<Ipv6Addr>,
}

/// Why no network fits a file: each reason is a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Unfit(pub Vec<String>);

impl fmt::Display for Unfit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the lab can build no network for this file:")?;
        self.0.iter().try_for_each(|reason| write!(out, "\n  - {reason}"))
    }
}

/// The network for a configuration.
///
/// # Errors
/// All reasons why there is none.
pub fn fit(config: &Config) -> Result<Fit, Unfit> {
    let mut reasons = size_problems(config);
    let explicit: Vec<[Option<Side>; 2]> = config
        .uplinks
        .iter()
        .map(|uplink| Family::BOTH.map(|family| asked(uplink, family, &mut reasons)))
        .collect();
    let taken: Vec<IpNet> = explicit.iter().flatten().flatten().map(|side| side.net).collect();
    let lines: Vec<LineFit> = config
        .uplinks
        .iter()
        .zip(&explicit)
        .zip(1..)
        .map(|((uplink, sides), number)| line(uplink, *sides, number, &taken, &mut reasons))
        .collect();
    let lans = lans(config, &mut reasons);
    reasons.extend(overlaps(&lans, &lines));
    if reasons.is_empty() { Ok(Fit { lans, lines }) } else { Err(Unfit(reasons)) }
}

impl Fit {
    /// What to build before it is renumbered.
    #[must_use]
    pub fn topology(&self, clients: u8) -> Topology {
        Topology {
            lans: vec![Lan { clients, vlan: None }; self.lans.len()],
            router_default: false,
            ..Topology::with_lines(self.lines.len())
        }
    }
}

/// One family of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Side {
    net: IpNet,
    router: IpAddr,
    gateway: IpAddr,
}

fn size_problems(config: &Config) -> Vec<String> {
    let mut reasons = Vec::new();
    if config.lan.len() > MOST_LANS {
        reasons.push(format!("it has {} LAN interfaces, the lab at most {MOST_LANS}", config.lan.len()));
    }
    if config.uplinks.len() > MOST_LINES {
        reasons.push(format!("it has {} uplinks, the lab at most {MOST_LINES}", config.uplinks.len()));
    }
    reasons
}

/// What the file says about one family of an uplink; `None`: nothing that binds the lab.
fn asked(uplink: &Uplink, family: Family, reasons: &mut Vec<String>) -> Option<Side> {
    let gateway = gateway(uplink, family).filter(|gateway| !is_link_local(*gateway));
    let source = match *uplink.source(family) {
        Source::Address(source) => Some(source),
        Source::Untouched if *uplink.gateway(family) != Gateway::Unused => {
            reasons.push(format!(
                "uplink {} leaves the clients' own addresses (source = \"none\"): the lab's ISPs drop those",
                uplink.name
            ));
            return None;
        }
        Source::Untouched | Source::Masquerade | Source::Prefix(_) | Source::PrefixOf(_) => None,
    };
    match (gateway, source) {
        (None, None) => None,
        (Some(gateway), Some(router)) => {
            let net = common_net(gateway, router).filter(|_| gateway != router);
            if net.is_none() {
                reasons.push(format!(
                    "uplink {}: no net can hold both its gateway {gateway} and its source {router}",
                    uplink.name
                ));
            }
            net.map(|net| Side { net, router, gateway })
        }
        (Some(gateway), None) => {
            common_net(gateway, gateway).map(|net| Side { net, router: other_host(net, gateway), gateway })
        }
        (None, Some(router)) => {
            common_net(router, router).map(|net| Side { net, router, gateway: other_host(net, router) })
        }
    }
}

fn gateway(uplink: &Uplink, family: Family) -> Option<IpAddr> {
    match *uplink.gateway(family) {
        Gateway::Address(gateway) => Some(gateway),
        Gateway::Auto | Gateway::Unused => None,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The smallest usual net that holds both.
fn common_net(one: IpAddr, other: IpAddr) -> Option<IpNet> {
    let [longest, shortest] = if one.is_ipv4() { V4_PREFIXES } else { V6_PREFIXES };
    (shortest..=longest).rev().find_map(|length| {
        let net = IpNet::new(one, length).ok()?.trunc();
        net.contains(&other).then_some(net)
    })
}

/// Number 1 or 2 of a net, whichever is free.
fn other_host(net: IpNet, taken: IpAddr) -> IpAddr {
    let first = host(net, 1);
    if first == taken { host(net, 2) } else { first }
}

fn host(net: IpNet, number: u8) -> IpAddr {
    match net.network() {
        IpAddr::V4(network) => Ipv4Addr::from(u32::from(network) | u32::from(number)).into(),
        IpAddr::V6(network) => Ipv6Addr::from(u128::from(network) | u128::from(number)).into(),
    }
}

fn line(
    uplink: &Uplink,
    sides: [Option<Side>; 2],
    number: usize,
    taken: &[IpNet],
    reasons: &mut Vec<String>,
) -> LineFit {
    let [free_v4, free_v6] = Family::BOTH.map(|family| free_number(number, taken, family));
    let [v4, v6] = [(Family::V4, free_v4), (Family::V6, free_v6)].map(|(family, usual)| {
        let side = sides.into_iter().flatten().find(|side| Family::of(side.router) == family);
        side.unwrap_or_else(|| usual_side(usual, family))
    });
    let net = nets(v4.net, v6.net);
    let own = if v6 == usual_side(free_v6, Family::V6) { customer_net(free_v6).v6 } else { net.v6 };
    let (sources, delegated) = match uplink.source_v6 {
        Source::Prefix(prefix) => (with_prefix(uplink, own, prefix, reasons), prefix),
        _ => (own, delegated_net(free_v6)),
    };
    LineFit {
        name: uplink.name.clone(),
        device: uplink.interface.clone(),
        router: pair(v4.router, v6.router),
        gateway: pair(v4.gateway, v6.gateway),
        net,
        sources: Nets { v6: sources, ..net },
        delegated,
        link_local: match gateway(uplink, Family::V6) {
            Some(IpAddr::V6(gateway)) if gateway.is_unicast_link_local() => Some(gateway),
            _ => None,
        },
    }
}

/// All an ISP takes packets from that also routes a prefix to its customer.
fn with_prefix(uplink: &Uplink, own: Ipv6Net, prefix: Ipv6Net, reasons: &mut Vec<String>) -> Ipv6Net {
    covering(own, prefix).unwrap_or_else(|| {
        reasons.push(format!("uplink {}: its prefix {prefix} is too far from its addresses", uplink.name));
        own
    })
}

/// The number of a line whose usual net nobody asked for.
fn free_number(number: usize, taken: &[IpNet], family: Family) -> usize {
    let is_free =
        |candidate: &usize| !taken.iter().any(|&net| overlap(net, customer_net(*candidate).of(family)));
    (number..=super::topology::MAX_LINES).step_by(MOST_LINES).find(is_free).unwrap_or(number)
}

fn usual_side(number: usize, family: Family) -> Side {
    let net = line_net(number);
    Side { net: net.of(family), router: net.host(2).of(family), gateway: net.host(1).of(family) }
}

/// The smallest net that holds both.
fn covering(one: Ipv6Net, other: Ipv6Net) -> Option<Ipv6Net> {
    let longest = one.prefix_len().min(other.prefix_len());
    (V6_PREFIXES[1]..=longest).rev().find_map(|length| {
        let net = Ipv6Net::new(one.network(), length).ok()?.trunc();
        net.contains(&other.network()).then_some(net)
    })
}

/// Every forward's target gets a LAN that holds it.
fn lans(config: &Config, reasons: &mut Vec<String>) -> Vec<LanFit> {
    let fresh = |(number, device): (usize, &String)| LanFit {
        device: device.clone(),
        net: lan_net(number),
        targets: Vec::new(),
    };
    let mut lans: Vec<LanFit> = config.lan.iter().take(MOST_LANS).enumerate().map(fresh).collect();
    for forward in &config.forwards {
        for &target in &forward.to {
            if let Err(reason) = house(&mut lans, target) {
                reasons.push(format!("forward {} leads to {target}, {reason}", forward.name));
            }
        }
    }
    lans
}

fn house(lans: &mut [LanFit], target: IpAddr) -> Result<(), &'static str> {
    let family = Family::of(target);
    let holds = |lan: &&mut LanFit| lan.net.contains(target);
    let is_free = |lan: &&mut LanFit| !lan.targets.iter().any(|known| Family::of(*known) == family);
    let lan = match lans.iter_mut().find(holds) {
        Some(lan) => lan,
        None => {
            let lan =
                lans.iter_mut().find(is_free).ok_or("and there is no LAN interface left for its net")?;
            renumber(&mut lan.net, target);
            lan
        }
    };
    if lan.net.host(1).of(family) == target {
        return Err("which is the router's own address in the lab");
    }
    if !lan.targets.contains(&target) {
        lan.targets.push(target);
    }
    Ok(())
}

fn renumber(nets: &mut Nets, target: IpAddr) {
    match common_net(target, target) {
        Some(IpNet::V4(net)) => nets.v4 = net,
        Some(IpNet::V6(net)) => nets.v6 = net,
        None => {}
    }
}

/// Nets that are in two places, or where the lab's own machines are.
fn overlaps(lans: &[LanFit], lines: &[LineFit]) -> Vec<String> {
    let own = [
        ("the lab's servers", "192.0.2.0/24"),
        ("the lab's servers", "2001:db8:ffff::/64"),
        ("the lab's own links", "100.64.0.0/16"),
        ("the lab's own links", "fd00:64::/32"),
    ];
    let mut all: Vec<(String, IpNet)> = Vec::new();
    all.extend(own.iter().filter_map(|(what, net)| Some(((*what).to_owned(), net.parse().ok()?))));
    for lan in lans {
        all.extend(Family::BOTH.map(|family| (format!("LAN {}", lan.device), lan.net.of(family))));
    }
    for line in lines {
        all.extend(Family::BOTH.map(|family| (format!("uplink {}", line.name), line.sources.of(family))));
    }
    let mut found = Vec::new();
    for (place, (what, net)) in all.iter().enumerate() {
        let clash = all[..place].iter().find(|(_, other)| overlap(*net, *other));
        found.extend(clash.map(|(other, _)| {
            format!(
                "{other} and {what} would both be in {net}: the lab's one internet could not tell them apart"
            )
        }));
    }
    found
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

fn nets(v4: IpNet, v6: IpNet) -> Nets {
    let v4 = match v4 {
        IpNet::V4(net) => net,
        IpNet::V6(_) => Ipv4Net::default(),
    };
    let v6 = match v6 {
        IpNet::V6(net) => net,
        IpNet::V4(_) => Ipv6Net::default(),
    };
    Nets { v4, v6 }
}

fn pair(v4: IpAddr, v6: IpAddr) -> Pair {
    let v4 = match v4 {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let v6 = match v6 {
        IpAddr::V6(address) => address,
        IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
    };
    Pair { v4, v6 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Lists, SourceFile, load};

    #[test]
    fn the_articles_router_gets_its_own_devices_and_addresses() {
        let fit = fitted(&article("")).unwrap();
        assert_eq!(fit.lans[0].device, "eth0");
        assert_eq!(fit.lans[0].targets, ["10.77.0.20".parse::<IpAddr>().unwrap()]);
        let second = &fit.lines[1];
        assert_eq!((second.name.as_str(), second.device.as_str()), ("isp2", "eth2"));
        assert_eq!(second.router.v4.to_string(), "203.0.113.2");
        assert_eq!(second.gateway.v4.to_string(), "203.0.113.1");
        assert_eq!(second.net.v4.to_string(), "203.0.113.0/24");
        assert_eq!(second.net.v6, line_net(2).v6);
    }

    #[test]
    fn what_the_file_leaves_open_keeps_clear_of_what_it_says() {
        let text = "lan = { interfaces = [\"lan\"] }\nuplink = [{ name = \"a\", interface = \"a\" }, \
                    { name = \"b\", interface = \"b\", gateway = [\"198.51.100.9\", \"fe80::7\"] }]";
        let fit = fitted(text).unwrap();
        assert_eq!(fit.lines[0].net.v4, line_net(17).v4, "line 1's usual net is b's");
        assert_eq!(fit.lines[1].router.v4.to_string(), "198.51.100.1");
        assert_eq!(fit.lines[1].link_local, Some("fe80::7".parse().unwrap()));
    }

    #[test]
    fn a_lan_is_moved_to_where_a_forward_leads() {
        let text = article("").replace("10.77.0.20", "192.168.1.20");
        assert_eq!(fitted(&text).unwrap().lans[0].net.v4.to_string(), "192.168.1.0/24");
    }

    #[test]
    fn every_reason_is_told_at_once() {
        let text = article("source = \"none\"")
            .replace("source  = \"198.51.100.2\"", "source = \"192.0.2.7\"")
            .replace("10.77.0.20", "10.77.0.1");
        let Unfit(reasons) = fitted(&text).unwrap_err();
        for part in
            ["198.51.100.1 and its source 192.0.2.7", "isp3 leaves the clients'", "router's own address"]
        {
            assert!(reasons.iter().any(|reason| reason.contains(part)), "{part}: {reasons:?}");
        }
    }

    #[test]
    fn two_lines_in_one_net_cannot_be_told_apart() {
        let text = article("gateway = \"198.51.100.77\"");
        let Unfit(reasons) = fitted(&text).unwrap_err();
        assert!(
            reasons[0].contains("uplink isp1 and uplink isp3 would both be in 198.51.100.0/24"),
            "{reasons:?}"
        );
    }

    /// The article's router with a third line.
    fn article(third: &str) -> String {
        let two = include_str!("../../tests/data/article.toml");
        let line = format!("[[uplink]]\nname = \"isp3\"\ninterface = \"eth3\"\n{third}\n");
        if third.is_empty() { two.to_owned() } else { format!("{two}{line}") }
    }

    fn fitted(text: &str) -> Result<Fit, Unfit> {
        let main = SourceFile { path: "router.toml".into(), text: text.into() };
        fit(&load(&main, &[], &Lists::default()).unwrap_or_else(|problems| panic!("{problems}")))
    }
}
