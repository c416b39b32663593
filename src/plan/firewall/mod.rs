//! Config + lines → the firewall's part of the kernel state, in the order of a packet's journey.
//!
//! What keeps it sound, in rules that every chain here obeys: the kernel's own
//! choice (`choose`) is a pure function of the flow, so that a datagram which
//! goes past the queue goes the way its waiting sibling can be made to go; a
//! flow is "ours to decide" while its connection has no uplink bits, not while
//! it is new (UDP stays new until it is answered); and every read and write of
//! a mark is masked.
//!
//! A datagram may go past the queue while an earlier one of its flow waits
//! there: the gate closes, the limit is reached, the queue is full. [`settle`]
//! sends both one way. So the limit ([`lid`]) may count packets for a moment: no flow is torn
//! by it, and TCP's have one packet each until they are known. Which flows are decided while
//! somebody floods their hashes tell, and then nothing is left to settle.

mod drops;
pub mod flow_hash;
mod headers;
pub mod iptables;
mod lid;
pub mod model;
pub mod nft;
mod note;
pub mod offload;
mod settle;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use self::model::{Action, Chain, Firewall, Hook, Match, Rule, State, rule, rule_for};
use super::lines::{Line, candidates};
use super::observed::Observed;
use super::workers::Workers;
use crate::config::{Config, Forward, Gateway, Guard, Mss, RouterTraffic, Source, Uplink};
use crate::engine::packet::Family;
use crate::engine::rule::model::{NoLine, WhenNone};
use crate::engine::uplink::UplinkId;

/// The chain of the weighted choice, where some rule may have chosen before.
const SPREAD: &str = "spread";
/// The chain of connections that run, where some are listened to.
const RUNNING: &str = "running";

/// IP protocol numbers (IANA).
const TCP: u8 = 6;
const UDP: u8 = 17;
/// IPsec's Authentication Header. The parser looks behind it; iptables in IPv4 and nft take it for the protocol
/// (net/netfilter/nf_tables_core.c: `IP6_FH_F_AUTH`).
const AUTHENTICATION: u8 = 51;

/// Port of name servers (IANA).
const DNS: u16 = 53;

/// The firewall state for these uplinks, with a queue for each of these workers.
#[must_use]
pub fn firewall(config: &Config, lines: &[Line], observed: &Observed, workers: &Workers) -> Firewall {
    let mut chains = Vec::new();
    chains.push(helpers(config));
    chains.extend(choose(config, lines, observed));
    let offload = offload::chains(config, lines, observed.unfilled);
    let is_offloading = !offload.is_empty();
    chains.extend(offload);
    chains.extend(decide(config, lines, workers, is_offloading));
    chains.extend(settle::chains(config));
    chains.push(forwards(config, lines));
    chains.push(own(config));
    chains.extend(forward(config, lines));
    chains.extend(refuse(config));
    chains.push(untracked(config));
    chains.extend(pin(config, lines));
    chains.push(source(config, lines, observed));
    // Chains without a hook are jumped to, also those that have nothing to say now.
    chains.retain(|chain| chain.hook.is_none() || !chain.rules.is_empty());
    Firewall {
        marks: config.marks.clone(),
        stay: stay(config, observed),
        helpers: config.helpers.clone(),
        chains,
    }
}

/// What rule 1 of the routing sends by the main table, and what the owner exempts.
fn stay(config: &Config, observed: &Observed) -> Vec<IpNet> {
    let known =
        observed.main_routes.iter().filter(|route| !route.is_default()).map(|route| route.destination);
    let mut nets: Vec<IpNet> = known.chain(config.bypass.destinations.iter().copied()).collect();
    nets.extend(never_forwarded());
    IpNet::aggregate(&nets)
}

/// Multicast, limited broadcast and link-local (RFC 5771, RFC 919, RFC 4291):
/// neighbour discovery among them must never be queued.
fn never_forwarded() -> [IpNet; 4] {
    [
        Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4).into(),
        Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32).into(),
        Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8).into(),
        Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10).into(),
    ]
}

fn helpers(config: &Config) -> Chain {
    let rules = config.lan.iter().flat_map(|lan| {
        config.helpers.iter().map(move |&helper| {
            let port = Match::DestinationPort(helper.protocol, helper.port..=helper.port);
            rule([Match::In(lan.clone()), port], Action::Attach(helper))
        })
    });
    Chain { name: "helpers".into(), hook: Some(Hook::Helpers), rules: rules.collect() }
}

/// The kernel's own choice: what rules demand that let no other line do, else weighted by the flow's hash.
fn choose(config: &Config, lines: &[Line], observed: &Observed) -> Vec<Chain> {
    let mut chains = drops::chains(config, lines, observed.utc_offset);
    let weighted: Vec<(UplinkId, u8)> =
        config.uplinks.iter().map(|uplink| (uplink.id, uplink.weight)).collect();
    let all = Family::BOTH
        .into_iter()
        .flat_map(|family| spread_or_refuse(config, lines, family, &weighted))
        .collect();
    let chain = |name: &str, rules| Chain { name: name.into(), hook: None, rules };
    if chains.is_empty() {
        return vec![chain("choose", all)];
    }
    let rest = rule([Match::PacketHasUplink(false)], Action::Jump(SPREAD.into()));
    let rules = vec![rule([], Action::Jump(drops::ENTRY.into())), rest];
    chains.extend([chain(SPREAD, all), chain("choose", rules)]);
    chains
}

/// Those of the uplinks that new flows may get in this family.
fn usable(lines: &[Line], family: Family, none: WhenNone, uplinks: &[(UplinkId, u8)]) -> Vec<(UplinkId, u8)> {
    let candidates = candidates(lines, family, none, uplinks.iter().map(|&(id, _)| id));
    uplinks.iter().copied().filter(|&(id, _)| candidates.contains(id)).collect()
}

/// Where no uplink is usable, flows are left to routing, or refused.
fn spread_or_refuse(
    config: &Config,
    lines: &[Line],
    family: Family,
    uplinks: &[(UplinkId, u8)],
) -> Vec<Rule> {
    match usable(lines, family, WhenNone::NextRule, uplinks).as_slice() {
        [] if config.none != NoLine::Keep => vec![refused(config, family)],
        usable => spread(config, family, usable),
    }
}

/// The mark of what is refused, when it has come to where packets can be. (iptables' nat table, where
/// flows are settled, takes no drop.)
fn refused(config: &Config, family: Family) -> Rule {
    rule_for(family, [], Action::MarkPacket(config.marks.refused))
}

/// Marks for a weighted choice among uplinks by the flow's hash. The last uplink is everybody's until another's share
/// fits: one hash less for every flow.
fn spread(config: &Config, family: Family, uplinks: &[(UplinkId, u8)]) -> Vec<Rule> {
    let of: u32 = uplinks.iter().map(|&(_, weight)| u32::from(weight)).sum();
    let mark = |uplink, share| rule_for(family, share, Action::MarkPacket(config.marks.value(uplink)));
    let Some((&(last, _), others)) = uplinks.split_last() else { return Vec::new() };
    let mut from = 0;
    let mut rules = vec![mark(last, vec![])];
    for &(uplink, weight) in others {
        let to = from + u32::from(weight);
        rules.push(mark(uplink, vec![Match::Share { from, to, of }]));
        from = to;
    }
    rules
}

/// Prerouting: remembered, adopted, inbound, or ours to decide.
fn decide(config: &Config, lines: &[Line], workers: &Workers, is_offloading: bool) -> Vec<Chain> {
    let mut chains =
        vec![Chain { name: "remembered".into(), hook: None, rules: vec![rule([], Action::Restore)] }];
    chains.extend(config.uplinks.iter().map(|uplink| {
        let value = config.marks.value(uplink.id);
        Chain {
            name: adopt(uplink.id),
            hook: None,
            rules: vec![rule([], Action::MarkConnection(value)), rule([], Action::MarkPacket(value))],
        }
    }));
    if config.asks_for_names() {
        chains.extend(listened_to(config));
    }
    chains.extend(lid::chains(config, workers));
    chains.extend([new(is_offloading), older(lines)]);
    chains.push(Chain { name: "lan".into(), hook: None, rules: lan(config) });
    chains.push(Chain { name: "decide".into(), hook: Some(Hook::Decide), rules: arrivals(config) });
    chains
}

/// Any packet. What runs is told first: it meets as few rules with many lines as with one.
fn arrivals(config: &Config) -> Vec<Rule> {
    let from_lan = config.lan.iter().map(|lan| rule([Match::In(lan.clone())], Action::Goto("lan".into())));
    let runs = rule([Match::ConnectionHasUplink(true)], Action::Return);
    let inbound = config.uplinks.iter().map(|uplink| {
        let from = [Match::In(uplink.interface.clone())];
        rule(from, Action::MarkConnection(config.marks.value(uplink.id)))
    });
    from_lan.chain([runs]).chain(inbound).collect()
}

fn adopt(uplink: UplinkId) -> String {
    format!("adopt-{}", uplink.0 + 1)
}

/// Where any rule asks for names: a packet of a connection that runs, and one of a TCP connection whose client is
/// listened to. That one goes the connection's way, and by user space.
fn listened_to(config: &Config) -> [Chain; 2] {
    let is_watched = [Match::ConnectionWatched(true), Match::Protocol(TCP), Match::GateIsOpen(true)];
    let running =
        vec![rule(is_watched, Action::Goto("watched".into())), rule([], Action::Goto("remembered".into()))];
    let marked = config.uplinks.iter().map(|uplink| {
        let value = config.marks.value(uplink.id);
        rule([Match::ConnectionUplink(value)], Action::MarkPacket(value))
    });
    let heard = rule([], Action::Queue { first: config.queue.of_watch(), count: 1, fan_out: false });
    let watched = [rule([], Action::Clear)].into_iter().chain(marked).chain([heard]).collect();
    [
        Chain { name: "watched".into(), hook: None, rules: watched },
        Chain { name: RUNNING.into(), hook: None, rules: running },
    ]
}

/// A packet from the LAN.
fn lan(config: &Config) -> Vec<Rule> {
    let known = if config.asks_for_names() { RUNNING } else { "remembered" };
    let mut rules = vec![
        rule([Match::ConnectionHasUplink(true)], Action::Goto(known.into())),
        rule([], Action::Clear),
        rule([Match::DestinationIsLocal], Action::Return),
        rule([Match::DestinationStays], Action::Return),
    ];
    rules.extend(
        config
            .bypass
            .clients
            .iter()
            .map(|&client| rule_for(Family::of(client.addr()), [Match::Source(client)], Action::Return)),
    );
    rules.push(rule([Match::ConnectionBegins], Action::Goto("new".into())));
    rules.push(rule([], Action::Goto("older".into())));
    rules
}

/// What the kernel has known for longer than we have: ours is what an address betrays, or nobody has answered yet.
fn older(lines: &[Line]) -> Chain {
    let adopted = lines.iter().flat_map(adoptions);
    let rules = adopted.chain(not_ours()).chain([rule([], Action::Goto("new".into()))]).collect();
    Chain { name: "older".into(), hook: None, rules }
}

/// What the kernel decides by itself; of the rest its choice, and user space's where that has time.
fn new(is_offloading: bool) -> Chain {
    let mut rules = Vec::new();
    if is_offloading {
        rules.push(rule([], Action::Jump(offload::ENTRY.into())));
        rules.push(rule([Match::PacketHasUplink(true)], Action::Return));
    }
    rules.push(rule([], Action::Jump("choose".into())));
    rules.push(rule([Match::PacketHasUplink(true)], Action::Goto(lid::ENTRY.into())));
    Chain { name: "new".into(), hook: None, rules }
}

/// Flows older than us: the address they are known by outside tells their uplink.
fn adoptions(line: &Line) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in Family::BOTH {
        for address in line.public_addresses(family) {
            for known_by in [Match::ReplyDestination(address), Match::OriginalDestination(address)] {
                rules.push(rule_for(family, [known_by], Action::Goto(adopt(line.id))));
            }
        }
    }
    rules
}

/// Packets without a connection could not be remembered, and those of a
/// connection older than us that no address betrays go on as they are routed.
fn not_ours() -> [Rule; 1] {
    const STATES: &[State] = &[State::Invalid, State::Untracked, State::Established, State::Related];
    [rule([Match::State(STATES)], Action::Return)]
}

fn forwards(config: &Config, lines: &[Line]) -> Chain {
    let rules = config.forwards.iter().flat_map(|forward| forward_rules(forward, config, lines)).collect();
    Chain { name: "forwards".into(), hook: Some(Hook::Forwards), rules }
}

fn forward_rules(forward: &Forward, config: &Config, lines: &[Line]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for &to in &forward.to {
        let family = Family::of(to);
        for entrance in entrances(forward, family, config, lines) {
            for (port, action) in translations(forward, to) {
                let matches = [entrance.as_slice(), &[port]].concat();
                rules.push(rule_for(family, matches, action));
            }
        }
    }
    rules
}

/// Where a forward listens: its uplinks and, by their addresses, the LAN.
fn entrances(forward: &Forward, family: Family, config: &Config, lines: &[Line]) -> Vec<Vec<Match>> {
    let listening = config.uplinks.iter().filter(|uplink| forward.uplinks.contains(uplink.id));
    let mut entrances: Vec<Vec<Match>> = listening
        .map(|uplink| vec![Match::In(uplink.interface.clone()), Match::DestinationIsLocal])
        .collect();
    if forward.hairpin {
        for lan in &config.lan {
            for address in public(forward, family, lines) {
                entrances.push(vec![Match::In(lan.clone()), Match::Destination(IpNet::from(address))]);
            }
        }
    }
    entrances
}

/// The addresses by which the outside knows the uplinks a forward listens on.
fn public<'a>(forward: &'a Forward, family: Family, lines: &'a [Line]) -> impl Iterator<Item = IpAddr> + 'a {
    let listening = lines.iter().filter(|line| forward.uplinks.contains(line.id));
    listening.flat_map(move |line| line.public_addresses(family))
}

/// One translation for all ports where they stay the same, else one a port.
fn translations(forward: &Forward, to: IpAddr) -> Vec<(Match, Action)> {
    let ports = forward.ports.clone();
    let for_protocol = |protocol: u8| match forward.to_port {
        None => vec![(Match::DestinationPort(protocol, ports.clone()), Action::Dnat(to, None))],
        Some(first) => ports
            .clone()
            .zip(first..=u16::MAX)
            .map(|(outside, inside)| {
                (Match::DestinationPort(protocol, outside..=outside), Action::Dnat(to, Some(inside)))
            })
            .collect(),
    };
    forward.protocols.iter().flat_map(|&protocol| for_protocol(protocol)).collect()
}

/// Output: flows of a marked connection take its mark; new ones go to the queue if asked.
/// They go there without a mark: the kernel routes a packet anew only where the verdict
/// has changed its mark. Past the queue the own-traffic table spreads them by their hash.
fn own(config: &Config) -> Chain {
    let mut rules = vec![rule([Match::ConnectionHasUplink(true)], Action::Goto("remembered".into()))];
    if config.routing.router != RouterTraffic::Rules {
        return Chain { name: "own".into(), hook: Some(Hook::Own), rules };
    }
    rules.extend([
        rule([Match::PacketHasUplink(true)], Action::Return),
        rule([Match::Out("lo".into())], Action::Return),
        rule([Match::DestinationIsLocal], Action::Return),
        rule([Match::DestinationStays], Action::Return),
    ]);
    rules.extend(not_ours());
    rules.push(rule([], Action::Goto(lid::ENTRY.into())));
    Chain { name: "own".into(), hook: Some(Hook::Own), rules }
}

/// Forward: unsettled datagrams, segment sizes, the guard.
fn forward(config: &Config, lines: &[Line]) -> Vec<Chain> {
    let clamps = config.uplinks.iter().zip(lines).flat_map(|(uplink, line)| clamps(uplink, line)).collect();
    let mut chains =
        vec![unsettled(config), flagged(config), Chain { name: "clamp".into(), hook: None, rules: clamps }];
    let flagged =
        |lan: &String| rule([Match::In(lan.clone()), Match::Flagged], Action::Jump("flagged".into()));
    let mut rules: Vec<Rule> = config.lan.iter().map(flagged).collect();
    rules.push(rule([Match::TcpSyn], Action::Jump("clamp".into())));
    if config.guard == Guard::On {
        chains.push(guard());
        rules.extend(
            config
                .uplinks
                .iter()
                .map(|uplink| rule([Match::In(uplink.interface.clone())], Action::Jump("guard".into()))),
        );
    }
    chains.push(Chain { name: "forward".into(), hook: Some(Hook::Forward), rules });
    chains
}

/// What is still flagged as decided goes where its connection goes, or nowhere: a torn
/// datagram has no uplink, and iptables' nat table does not see one that got its sibling's
/// connection.
fn unsettled(config: &Config) -> Chain {
    let same = config.uplinks.iter().map(|uplink| {
        let value = config.marks.value(uplink.id);
        rule([Match::PacketUplink(value), Match::ConnectionUplink(value)], Action::Return)
    });
    let rules = same.chain([rule([], Action::Drop)]).collect();
    Chain { name: "unsettled".into(), hook: None, rules }
}

/// What user space has answered, but for the first packets of connections, which have no flag any more.
fn flagged(config: &Config) -> Chain {
    let mut rules = vec![rule([Match::Decided(true)], Action::Jump("unsettled".into()))];
    if config.asks_for_names() {
        rules.push(rule(LISTENED, Action::Unwatch));
    }
    Chain { name: "flagged".into(), hook: None, rules }
}

/// Packets by which user space says that it need not listen to their connections any more.
const LISTENED: [Match; 2] = [Match::Watched(true), Match::TcpMidstream];

/// What has no line, where that is to be refused; a connection that turned out to be on the wrong line,
/// where its rule asks for that; and a TCP connection that is new to us in its middle: that one had another line, or was forgotten: it would
/// leave with another source than its server knows. Its client hears so at once.
fn refuse(config: &Config) -> [Chain; 2] {
    let outward = translated(config).map(|(uplink, family)| {
        let tcp = [Match::Out(uplink.interface.clone()), Match::Protocol(TCP)];
        rule_for(family, tcp, Action::Reset)
    });
    let lost = Chain { name: "lost".into(), hook: None, rules: outward.collect() };
    let rules = config.lan.iter().map(|lan| {
        let is_lost = [
            Match::In(lan.clone()),
            Match::State(&[State::New]),
            Match::TcpMidstream,
            Match::PacketHasUplink(true),
        ];
        rule(is_lost, Action::Jump("lost".into()))
    });
    let asking = config.lan.iter().filter(|_| config.asks_for_names());
    let wrong = asking.map(|lan| {
        let refused = [&[Match::In(lan.clone()), Match::Decided(true)][..], &LISTENED].concat();
        rule(refused, Action::Reset)
    });
    let rules = without_line(config).chain(wrong).chain(rules).collect();
    [lost, Chain { name: "refuse".into(), hook: Some(Hook::Refuse), rules }]
}

fn without_line(config: &Config) -> impl Iterator<Item = Rule> {
    let lans = config.lan.iter().filter(|_| config.refuses());
    lans.flat_map(|lan| {
        let refused = [Match::In(lan.clone()), Match::PacketUplink(config.marks.refused)];
        let tcp = [refused.as_slice(), &[Match::Protocol(TCP)]].concat();
        [rule(tcp, Action::Reset), rule(refused, Action::Prohibit)]
    })
}

/// What we send to hosts of the LAN in the name of servers that they talk to is no
/// connection: their answers shall not belong to one. No other packet of the router has the flag.
fn untracked(config: &Config) -> Chain {
    let ours =
        config.lan.iter().map(|lan| rule([Match::Out(lan.clone()), Match::Decided(true)], Action::NoTrack));
    Chain { name: "untracked".into(), hook: Some(Hook::Untracked), rules: ours.collect() }
}

fn guard() -> Chain {
    let rules = vec![
        rule([Match::State(&[State::Established, State::Related])], Action::Return),
        rule([Match::DestinationTranslated], Action::Return),
        rule([], Action::Drop),
    ];
    Chain { name: "guard".into(), hook: None, rules }
}

/// Both directions of a connection carry an offer of a segment size; each is lowered.
fn clamps(uplink: &Uplink, line: &Line) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in Family::BOTH {
        let Some(size) = segment_size(uplink, line, family) else { continue };
        for side in [Match::Out(uplink.interface.clone()), Match::In(uplink.interface.clone())] {
            rules.push(rule_for(family, [side, Match::TcpSyn], Action::MaxSegment(size)));
        }
    }
    rules
}

/// IP and TCP headers without options are 40 bytes in IPv4 (RFC 6691) and 60 in IPv6 (RFC 8200, 8.3).
fn segment_size(uplink: &Uplink, line: &Line, family: Family) -> Option<u16> {
    let headers = match family {
        Family::V4 => 40,
        Family::V6 => 60,
    };
    match uplink.mss {
        Mss::Off => None,
        Mss::Bytes(bytes) => Some(bytes.saturating_sub(headers - 40)),
        Mss::Auto => u16::try_from(line.mtu?).ok().map(|mtu| mtu.saturating_sub(headers)),
    }
}

/// The uplinks and families whose flows leave with another source than they came with.
fn translated(config: &Config) -> impl Iterator<Item = (&Uplink, Family)> {
    used(config).filter(|(uplink, family)| *uplink.source(*family) != Source::Untouched)
}

/// The uplinks in the families they are configured for, whether usable now or not.
fn used(config: &Config) -> impl Iterator<Item = (&Uplink, Family)> {
    config
        .uplinks
        .iter()
        .flat_map(|uplink| Family::BOTH.map(|family| (uplink, family)))
        .filter(|(uplink, family)| *uplink.gateway(*family) != Gateway::Unused)
}

/// Postrouting: what is refused or cannot be mended by NAT does not leave, every flow without uplink bits belongs to the
/// uplink it actually leaves by, and DNS answers teach names before their clients see them.
fn pin(config: &Config, lines: &[Line]) -> [Chain; 4] {
    let chain = |name: &str, rules| Chain { name: name.into(), hook: None, rules };
    let out = |uplink: &Uplink| Match::Out(uplink.interface.clone());
    // Where somebody has emptied the chain that refuses.
    let refused = config.uplinks.iter().map(|uplink| rule([out(uplink)], Action::Drop));
    let strays = translated(config).flat_map(|(uplink, family)| strays(uplink, family, lines));
    let unknown = config
        .uplinks
        .iter()
        .map(|uplink| rule([out(uplink)], Action::MarkConnection(config.marks.value(uplink.id))));
    let refusing = config
        .refuses()
        .then(|| rule([Match::PacketUplink(config.marks.refused)], Action::Jump("refused".into())));
    let of_few = [
        rule([Match::ConnectionHasUplink(true)], Action::Return),
        rule([Match::State(&[State::Invalid])], Action::Jump("stray".into())),
        rule([Match::ConnectionHasUplink(false)], Action::Jump("unknown".into())),
    ];
    let asking = config.lan.iter().filter(|_| config.asks_for_names());
    let answers = asking.map(|lan| {
        let answer = [Match::Out(lan.clone()), Match::SourcePort(UDP, DNS..=DNS), Match::GateIsOpen(true)];
        rule(answer, Action::Queue { first: config.queue.of_names(), count: 1, fan_out: false })
    });
    let pin = Chain {
        name: "pin".into(),
        hook: Some(Hook::Pin),
        rules: answers.chain(refusing).chain(of_few).collect(),
    };
    [
        chain("refused", refused.collect()),
        chain("stray", strays.collect()),
        chain("unknown", unknown.collect()),
        pin,
    ]
}

/// A packet of no connection is not translated: late words of a closed one, the router's own too.
/// Only with the line's own source may it leave.
fn strays(uplink: &Uplink, family: Family, lines: &[Line]) -> Vec<Rule> {
    let out = || Match::Out(uplink.interface.clone());
    let own = lines.iter().filter(|line| line.id == uplink.id).flat_map(|line| line.addresses(family));
    let mut rules: Vec<Rule> = own
        .map(|address| rule_for(family, [out(), Match::Source(IpNet::from(address))], Action::Return))
        .collect();
    rules.push(rule_for(family, [out()], Action::Drop));
    rules
}

fn source(config: &Config, lines: &[Line], observed: &Observed) -> Chain {
    let mut rules = hairpins(config, lines, observed);
    for (uplink, family) in used(config) {
        rules.extend(translation(uplink, family, lines));
    }
    Chain { name: "source".into(), hook: Some(Hook::Source), rules }
}

/// A LAN host that reaches another by the router's public address must be
/// answered through the router.
fn hairpins(config: &Config, lines: &[Line], observed: &Observed) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (lan, net) in lan_nets(config, observed) {
        let family = Family::of(net.addr());
        let inside = |forward: &&Forward| forward.hairpin && forward.to.iter().any(|to| net.contains(to));
        let mut addresses: Vec<IpAddr> = config
            .forwards
            .iter()
            .filter(inside)
            .flat_map(|forward| public(forward, family, lines))
            .collect();
        addresses.sort();
        addresses.dedup();
        rules.extend(addresses.into_iter().map(|address| {
            let back = [
                Match::Out(lan.clone()),
                Match::Source(net),
                Match::Destination(net),
                Match::OriginalDestination(address),
                Match::DestinationTranslated,
            ];
            rule_for(family, back, Action::Masquerade)
        }));
    }
    rules
}

fn lan_nets<'a>(
    config: &'a Config,
    observed: &'a Observed,
) -> impl Iterator<Item = (&'a String, IpNet)> + 'a {
    let links = config.lan.iter().filter_map(|lan| Some((lan, observed.link(lan)?)));
    links.flat_map(|(lan, link)| link.addresses.iter().map(move |address| (lan, address.net.trunc())))
}

/// Sources that are the uplink's own stay; another uplink's, which a socket took
/// before its packets were re-routed, are mended even where nothing else is translated.
fn translation(uplink: &Uplink, family: Family, lines: &[Line]) -> Vec<Rule> {
    let out = || Match::Out(uplink.interface.clone());
    let from = |address: IpAddr| Match::Source(IpNet::from(address));
    let (own, others): (Vec<&Line>, Vec<&Line>) = lines.iter().partition(|line| line.id == uplink.id);
    let mut rules: Vec<Rule> = own
        .iter()
        .flat_map(|line| line.addresses(family))
        .map(|address| rule_for(family, [out(), from(address)], Action::Return))
        .collect();
    let foreign = others
        .iter()
        .flat_map(|line| line.addresses(family))
        .map(|address| rule_for(family, [out(), from(address)], Action::Masquerade));
    let now = own.iter().find_map(|line| line.way(family).ok()).map(|way| &way.source);
    match *now.unwrap_or(uplink.source(family)) {
        Source::Masquerade | Source::PrefixOf(_) => rules.push(rule_for(family, [out()], Action::Masquerade)),
        Source::Address(address) => rules.push(rule_for(family, [out()], Action::Snat(address))),
        Source::Untouched => rules.extend(foreign),
        Source::Prefix(prefix) => {
            rules.extend(foreign);
            rules.push(rule_for(family, [out()], Action::Netmap(prefix)));
        }
    }
    rules
}
