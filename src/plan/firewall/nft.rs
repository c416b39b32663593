//! The firewall as one nft transaction over a table of our own.
//!
//! Base chains stay while the daemon runs: taking any netfilter hook away
//! drops all packets that wait in this namespace's queues. So a reload is
//! flush and refill, and all base chains exist from the start.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::iptables::{senders, sent_by};
use super::model::{Action, Chain, Firewall, Hook, Match, Note, Past, PastCounts, Rate, Rule, State, clock};
use super::note::{CLIENTS_MOST, EARLY_MOST, EARLY_SECONDS, SENT_MOST, SENT_SECONDS, SHARE_SECONDS};
use super::{AUTHENTICATION, lid};
use crate::config::Helper;
use crate::engine::packet::{Family, PROTOCOLS_WITH_PORTS};
use crate::engine::rule::model::HashKey;
use crate::engine::uplink::UplinkId;
use crate::engine::uplink::pick::slots::SLOTS;
use crate::engine::uplink::pick::slots::constant::SEED;
use crate::plan::script::Step;

/// Our table.
pub const TABLE: &str = "inet wansplit";
/// The set that says, by being filled, that the daemon is alive; its elements are the families' numbers.
pub const GATE: &str = "gate";

const HOOKS: [Hook; 10] = [
    Hook::Helpers,
    Hook::Decide,
    Hook::Settle,
    Hook::Forwards,
    Hook::Own,
    Hook::Forward,
    Hook::Refuse,
    Hook::Untracked,
    Hook::Pin,
    Hook::Source,
];

/// What a table holds by name. In this order they can be deleted, once the rules are gone.
const KINDS: [&str; 4] = ["chain", "ct helper", "counter", "set"];

/// What of ours is there now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    /// Whether our table exists.
    pub table: bool,
    /// Its chains, helpers and sets, like `chain lan`.
    pub objects: BTreeSet<String>,
    /// The whole table as nft lists it, without the elements that rules and the gate
    /// put into sets, which come and go.
    pub text: String,
}

impl Installed {
    /// Takes in what `nft --stateless list table inet wansplit` printed.
    #[must_use]
    pub fn read_list(text: &str) -> Self {
        Installed {
            table: text.contains("table "),
            objects: text.lines().filter_map(listed).collect(),
            text: without_passing_elements(text),
        }
    }
}

/// What `nft list counters table inet wansplit` printed of packets, by counter.
pub fn read_counts(text: &str) -> impl Iterator<Item = (&str, u64)> {
    let mut words = text.split_whitespace();
    std::iter::from_fn(move || {
        words.find(|word| *word == "counter")?;
        let name = words.next()?;
        words.find(|word| *word == "packets")?;
        Some((name, words.next()?.parse().ok()?))
    })
}

/// The object that begins with this line of a listing.
fn listed(line: &str) -> Option<String> {
    let object = line.trim().strip_suffix(" {")?;
    KINDS.iter().any(|kind| object.starts_with(&format!("{kind} "))).then(|| object.to_owned())
}

/// The command that takes an object away.
fn delete(object: &str) -> String {
    let (kind, name) = object.rsplit_once(' ').unwrap_or_default();
    format!("delete {kind} {TABLE} {name}")
}

/// The object that this command makes.
fn made(command: &str) -> Option<String> {
    let (kind, rest) = command.strip_prefix("add ")?.split_once(&format!(" {TABLE} "))?;
    let name = rest.split(' ').next()?;
    KINDS.contains(&kind).then(|| format!("{kind} {name}"))
}

/// Elements with a timeout are left out; `elements = { ... }` may go over several lines.
fn without_passing_elements(text: &str) -> String {
    let (mut passing, mut inside) = (false, false);
    let mut kept = String::new();
    for line in text.lines() {
        let words = line.trim_start();
        if words.starts_with("set ") {
            passing = false;
        }
        passing |= words.starts_with("flags ") && words.contains("timeout");
        inside |= passing && words.starts_with("elements = {");
        if !inside {
            kept += line;
            kept.push('\n');
        }
        inside &= !line.ends_with('}');
    }
    kept
}

/// The one step that makes this the state, whatever of ours is there now.
#[must_use]
pub fn up(firewall: &Firewall, installed: &Installed) -> Vec<Step> {
    let mut lines = vec![format!("add table {TABLE}")];
    lines.extend(sets(firewall));
    lines.extend(firewall.helpers.iter().map(|helper| {
        format!(
            "add ct helper {TABLE} {} {{ type \"{}\" protocol {}; }}",
            helper_object(helper),
            helper.name,
            if helper.protocol == 6 { "tcp" } else { "udp" }
        )
    }));
    lines.extend(Past::ALL.map(|past| format!("add counter {TABLE} {}", counter(past))));
    // An object of its own, because a rule's counter would go with the rule.
    let counting = firewall.chains.iter().filter(|chain| chain.counts());
    lines.extend(counting.map(|chain| format!("add counter {TABLE} {}", chain.name)));
    lines.extend(HOOKS.map(base_chain));
    let marked = mark_chains(firewall);
    let regular = firewall.chains.iter().filter(|chain| chain.hook.is_none()).map(|chain| &chain.name);
    let regular = regular.chain(marked.iter().map(|(name, _)| name));
    lines.extend(regular.map(|name| format!("add chain {TABLE} {name}")));
    lines.push(format!("flush table {TABLE}"));
    lines.extend(marked.iter().map(|(name, statement)| format!("add rule {TABLE} {name} {statement}")));
    for chain in &firewall.chains {
        for rule in &chain.rules {
            let chain = place(chain);
            lines.extend(
                render(firewall, rule).into_iter().map(|text| format!("add rule {TABLE} {chain} {text}")),
            );
        }
    }
    let made: BTreeSet<String> = lines.iter().filter_map(|line| made(line)).collect();
    lines.extend(installed.objects.difference(&made).map(|object| delete(object)));
    // Only floods by the present limits are known then.
    let floods = Note::floods().flat_map(|note| Family::BOTH.map(|family| note_set(note, family)));
    let floods: BTreeSet<String> = floods.collect();
    lines.extend(floods.into_iter().map(|set| format!("flush set {TABLE} {set}")));
    vec![step(lines)]
}

/// The one step back from `installed` to what was there before, after a failure half-way.
#[must_use]
pub fn back(before: &Installed, installed: &Installed) -> Vec<Step> {
    if before == installed {
        return Vec::new();
    }
    if !before.table {
        return down(installed);
    }
    let mut lines = vec![format!("add table {TABLE}"), format!("flush table {TABLE}")];
    lines.extend(installed.objects.difference(&before.objects).map(|object| delete(object)));
    let refilled = Family::BOTH.map(|family| format!("stay{}", family.version()));
    let refilled = refilled.iter().filter(|set| installed.objects.contains(&format!("set {set}")));
    lines.extend(refilled.map(|set| format!("flush set {TABLE} {set}")));
    lines.push(before.text.clone());
    vec![step(lines)]
}

/// The step that takes away all that is ours.
#[must_use]
pub fn down(installed: &Installed) -> Vec<Step> {
    if installed.table { vec![step(vec![format!("delete table {TABLE}")])] } else { Vec::new() }
}

fn step(lines: Vec<String>) -> Step {
    Step {
        program: "nft".into(),
        arguments: ["-f", "-"].map(String::from).to_vec(),
        input: lines.iter().map(|line| format!("{line}\n")).collect(),
        typed: lines.iter().map(|line| typed(line)).collect(),
    }
}

/// nft reads times of day in the time zone of its own process; ours are in UTC.
fn typed(line: &str) -> String {
    let zone = if line.contains(" meta hour ") { "TZ=UTC " } else { "" };
    format!("{zone}nft '{line}'")
}

/// The name of the object by which rules attach a helper.
fn helper_object(helper: &Helper) -> String {
    format!("{}-{}", helper.name, helper.protocol)
}

/// Creates the sets and refills the one of destinations that stay.
fn sets(firewall: &Firewall) -> Vec<String> {
    let mut lines = vec![format!("add set {TABLE} {GATE} {{ type nf_proto; flags timeout; }}")];
    let (of_clients, of_all): (Vec<Note>, Vec<Note>) = Note::all().partition(|note| note.is_of_a_client());
    lines.extend(of_all.iter().map(|note| {
        let (name, seconds) = (note.name(), note.seconds());
        format!(
            "add set {TABLE} {name} {{ type nf_proto; flags dynamic,timeout; timeout {seconds}s; size 2; }}"
        )
    }));
    for family in Family::BOTH {
        let version = family.version();
        let kind = match family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        let noted = |name: String, seconds: u32, most: u32| {
            format!(
                "add set {TABLE} {name} {{ type {kind} . inet_service . {kind} . inet_service; \
                 flags dynamic,timeout; timeout {seconds}s; size {most}; }}"
            )
        };
        lines.push(noted(format!("early{version}"), EARLY_SECONDS, EARLY_MOST));
        let sent = senders(&firewall.marks).map(|uplink| sent_set(family, uplink));
        let of_a_moment = sent.chain(["torn", "kept"].map(|name| format!("{name}{version}")));
        lines.extend(of_a_moment.map(|name| noted(name, SENT_SECONDS, SENT_MOST)));
        let shares = lid::SHARES.map(|name| (name, SHARE_SECONDS));
        let clients = of_clients.iter().map(|note| (note.name(), note.seconds())).chain(shares);
        lines.extend(clients.map(|(name, seconds)| {
            format!(
                "add set {TABLE} {name}{version} {{ type {kind}; flags dynamic,timeout; \
                 timeout {seconds}s; size {CLIENTS_MOST}; }}"
            )
        }));
        lines.push(format!("add set {TABLE} stay{version} {{ type {kind}; flags interval; auto-merge; }}"));
        lines.push(format!("flush set {TABLE} stay{version}"));
        let nets: Vec<String> = firewall
            .stay
            .iter()
            .filter(|net| Family::of(net.addr()) == family)
            .map(ToString::to_string)
            .collect();
        if !nets.is_empty() {
            lines.push(format!("add element {TABLE} stay{version} {{ {} }}", nets.join(", ")));
        }
    }
    lines
}

/// What went past the queue, from what `nft list counters table inet wansplit` printed.
#[must_use]
pub fn past_counts(text: &str) -> PastCounts {
    let mut counts = PastCounts::default();
    for past in Past::ALL {
        let (_, rest) = text.split_once(&format!("counter {} {{", counter(past))).unwrap_or_default();
        let packets = rest.split_whitespace().nth(1).and_then(|packets| packets.parse().ok());
        *counts.of(past) = packets.unwrap_or(0);
    }
    counts
}

/// The name of the counter of what goes past the queue.
fn counter(past: Past) -> &'static str {
    match past {
        Past::Share => "past-share",
        Past::Limit => "past-limit",
    }
}

fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Helpers => "helpers",
        Hook::Decide => "decide",
        Hook::Settle => "settle",
        Hook::Forwards => "forwards",
        Hook::Own => "own",
        Hook::Forward => "forward",
        Hook::Refuse => "refuse",
        Hook::Untracked => "untracked",
        Hook::Pin => "pin",
        Hook::Source => "source",
    }
}

/// Priorities (include/uapi/linux/netfilter_ipv4.h): what comes before connection
/// tracking is at -300, connection tracking at -200, mangle at -150, destination NAT at
/// -100, filtering at 0, source NAT at 100. Ours come just after others' of the same kind,
/// but settling before any NAT, and refusing before filters accept.
fn base_chain(hook: Hook) -> String {
    let (kind, at, priority) = match hook {
        Hook::Helpers => ("filter", "prerouting", -190),
        Hook::Decide => ("filter", "prerouting", -149),
        Hook::Settle => ("filter", "prerouting", -140),
        Hook::Forwards => ("nat", "prerouting", -99),
        Hook::Own => ("route", "output", -149),
        Hook::Forward => ("filter", "forward", -149),
        Hook::Refuse => ("filter", "forward", -1),
        Hook::Untracked => ("filter", "output", -299),
        Hook::Pin => ("filter", "postrouting", -149),
        Hook::Source => ("nat", "postrouting", 101),
    };
    let name = hook_name(hook);
    format!("add chain {TABLE} {name} {{ type {kind} hook {at} priority {priority}; policy accept; }}")
}

fn place(chain: &Chain) -> &str {
    match chain.hook {
        Some(hook) => hook_name(hook),
        None => &chain.name,
    }
}

/// nft cannot copy some bits of one mark into another with a value it does not
/// know beforehand, so each uplink has two chains with its constant.
fn mark_chains(firewall: &Firewall) -> Vec<(String, String)> {
    let marks = &firewall.marks;
    let chains = marks.uplinks().flat_map(|uplink| {
        let (number, value) = (uplink.0 + 1, marks.value(uplink));
        let restore = set_bits("meta mark", marks.ours(), value);
        let save = set_bits("ct mark", marks.mask, value);
        [(format!("restore-{number}"), restore), (format!("save-{number}"), save)]
    });
    chains.collect()
}

fn set_bits(mark: &str, mask: u32, value: u32) -> String {
    format!("{mark} set {mark} & {:#010x} | {value:#010x}", !mask)
}

/// A map from every uplink's value to its chain.
fn by_uplink(firewall: &Firewall, mark: &str, verb: &str, chain: &str) -> String {
    let marks = &firewall.marks;
    let entry = |uplink| format!("{:#x} : {verb} {chain}-{}", marks.value(uplink), uplink.0 + 1);
    let entries: Vec<String> = marks.uplinks().map(entry).collect();
    format!("{mark} & {:#x} vmap {{ {} }}", marks.mask, entries.join(", "))
}

/// One rule may need several lines: nft's sets and header fields belong to one
/// family, and flows with ports hash differently from those without.
fn render(firewall: &Firewall, rule: &Rule) -> Vec<String> {
    let families: Vec<Option<Family>> = match rule.family {
        None if names_a_family(rule) => Family::BOTH.map(Some).to_vec(),
        family => vec![family],
    };
    let lines = families.into_iter().flat_map(|family| {
        hashes(rule, family).into_iter().map(move |hash| line(firewall, rule, family, &hash))
    });
    lines.collect()
}

fn names_a_family(rule: &Rule) -> bool {
    let in_match = |condition: &Match| {
        let is_of_a_client = matches!(condition, Match::Noted(note, _) if note.is_of_a_client());
        is_of_a_client
            || matches!(
                condition,
                Match::DestinationStays
                    | Match::Early
                    | Match::Torn
                    | Match::NotKept
                    | Match::Sent(_)
                    | Match::OverShare(..)
                    | Match::WithinShare(..)
                    | Match::Dscp(_)
                    | Match::Share { .. }
                    | Match::Slot { .. }
            )
    };
    let in_action = match rule.action {
        Action::NoteEarly | Action::NoteTorn | Action::NoteKept | Action::NoteSent(_) => true,
        Action::Note(note) => note.is_of_a_client(),
        _ => false,
    };
    in_action || rule.matches.iter().any(in_match)
}

/// The hash expressions of a rule that asks for a share of all flows, or for slots; else one empty one.
fn hashes(rule: &Rule, family: Option<Family>) -> Vec<String> {
    let hashes = rule.matches.iter().find_map(|condition| match (condition, family) {
        (Match::Share { from, to, of }, Some(family)) => Some(flow_hashes(family, (*from, *to, *of)).into()),
        (Match::Slot { key, slots }, Some(family)) => Some(slot_hashes(family, *key, *slots)),
        _ => None,
    });
    hashes.unwrap_or_else(|| vec![String::new()])
}

fn line(firewall: &Firewall, rule: &Rule, family: Option<Family>, hash: &str) -> String {
    let mut words = Vec::new();
    if let Some(family) = family {
        words.push(format!("meta nfproto {}", family_name(family)));
    }
    let family = family.unwrap_or(Family::V4);
    words.extend(rule.matches.iter().map(|condition| matching(firewall, condition, family)));
    words.push(hash.to_owned());
    words.push(acting(firewall, &rule.action, family));
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// The word for the network header in expressions.
fn header(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn sent_set(family: Family, uplink: Option<UplinkId>) -> String {
    format!("sent{}{}", family.version(), sent_by(uplink))
}

/// What names a UDP flow in a set.
fn udp_flow(family: Family) -> String {
    let ip = header(family);
    format!("{ip} saddr . udp sport . {ip} daddr . udp dport")
}

fn note_set(note: Note, family: Family) -> String {
    if note.is_of_a_client() { format!("{}{}", note.name(), family.version()) } else { note.name().into() }
}

/// What names those whom a note is about.
fn noted(note: Note, family: Family) -> String {
    if note.is_of_a_client() { format!("{} saddr", header(family)) } else { "meta nfproto".into() }
}

/// By the registers of [`SlotHash::Jenkins`](crate::engine::uplink::pick::slots::SlotHash), whose first bits `mod`
/// takes (net/netfilter/nft_hash.c scales the hash to the modulus).
fn slot_hashes(family: Family, key: HashKey, slots: u128) -> Vec<String> {
    let ip = header(family);
    let own: Vec<String> =
        (0..SLOTS).filter(|slot| slots >> slot & 1 == 1).map(|slot| slot.to_string()).collect();
    let hash = |parts: &str| format!("jhash {parts} mod {SLOTS} seed {SEED:#x} {{ {} }}", own.join(", "));
    match key {
        HashKey::Client => vec![hash(&format!("{ip} saddr"))],
        HashKey::Destination => vec![hash(&format!("{ip} daddr"))],
        HashKey::ClientDestination => vec![hash(&format!("{ip} saddr . {ip} daddr"))],
        HashKey::FiveTuple => {
            let with_ports = with_ports();
            let ports = hash(&format!("{ip} saddr . {ip} daddr . th sport . th dport"));
            let protocol = hash(&format!("{ip} saddr . {ip} daddr . meta l4proto"));
            vec![
                format!("meta l4proto {with_ports} {ports}"),
                format!("meta l4proto != {with_ports} {protocol}"),
            ]
        }
    }
}

fn with_ports() -> String {
    format!("{{ {} }}", PROTOCOLS_WITH_PORTS.map(|protocol| protocol.to_string()).join(", "))
}

fn flow_hashes(family: Family, (from, to, of): (u32, u32, u32)) -> [String; 2] {
    let with_ports = with_ports();
    let ip = header(family);
    let addresses = format!("{ip} saddr . {ip} daddr");
    let result = if from + 1 == to { from.to_string() } else { format!("{from}-{}", to - 1) };
    [
        format!(
            "meta l4proto {with_ports} jhash {addresses} . th sport . th dport mod {of} seed {SEED:#x} {result}"
        ),
        format!("meta l4proto != {with_ports} jhash {addresses} mod {of} seed {SEED:#x} {result}"),
    ]
}

fn matching(firewall: &Firewall, condition: &Match, family: Family) -> String {
    let mask = firewall.marks.mask;
    match condition {
        Match::In(device) => format!("iifname \"{device}\""),
        Match::Out(device) => format!("oifname \"{device}\""),
        Match::Source(net) => format!("{} saddr {net}", header(Family::of(net.addr()))),
        Match::Destination(net) => format!("{} daddr {net}", header(Family::of(net.addr()))),
        Match::DestinationIsLocal => "fib daddr type local".into(),
        Match::DestinationStays => format!("{} daddr @stay{}", header(family), family.version()),
        Match::State(states) => format!("ct state {}", names(states)),
        Match::DestinationTranslated => "ct status dnat".into(),
        Match::ConnectionBegins => "ct state new ct status & confirmed == 0x0".into(),
        Match::OriginalDestination(address) => {
            format!("ct original {} daddr {address}", header(Family::of(*address)))
        }
        Match::ReplyDestination(address) => {
            format!("ct reply {} daddr {address}", header(Family::of(*address)))
        }
        Match::PacketHasUplink(yes) => format!("meta mark & {mask:#x} {} 0x0", is(*yes)),
        Match::PacketUplink(value) => format!("meta mark & {mask:#x} == {value:#x}"),
        Match::ConnectionUplink(value) => format!("ct mark & {mask:#x} == {value:#x}"),
        Match::ConnectionHasUplink(yes) => format!("ct mark & {mask:#x} {} 0x0", is(*yes)),
        Match::Decided(yes) => format!("meta mark & {:#x} {} 0x0", firewall.marks.decided, is(*yes)),
        Match::Flagged => {
            format!("meta mark & {:#x} != 0x0", firewall.marks.decided | firewall.marks.watched)
        }
        Match::Watched(yes) => format!("meta mark & {:#x} {} 0x0", firewall.marks.watched, is(*yes)),
        Match::ConnectionWatched(yes) => format!("ct mark & {:#x} {} 0x0", firewall.marks.watched, is(*yes)),
        Match::Early => format!("{} @early{}", udp_flow(family), family.version()),
        Match::Torn => format!("{} @torn{}", udp_flow(family), family.version()),
        Match::NotKept => format!("{} != @kept{}", udp_flow(family), family.version()),
        Match::Sent(uplink) => format!("{} @{}", udp_flow(family), sent_set(family, *uplink)),
        Match::Protocol(protocol) => format!("meta l4proto {protocol}"),
        Match::SourcePort(protocol, ports) => format!("meta l4proto {protocol} th sport {}", span(ports)),
        Match::DestinationPort(protocol, ports) => {
            format!("meta l4proto {protocol} th dport {}", span(ports))
        }
        Match::Icmp(icmp) => {
            let name = match icmp.family {
                Family::V4 => "icmp",
                Family::V6 => "icmpv6",
            };
            let code = icmp.code.map(|code| format!(" {name} code {code}")).unwrap_or_default();
            format!("{name} type {}{code}", icmp.kind)
        }
        Match::SourceMac(mac) => format!("ether saddr {mac}"),
        Match::Dscp(dscp) => {
            format!("{} dscp {dscp}", header(family))
        }
        Match::Length(lengths) => format!("meta length {}", span(lengths)),
        Match::Time(day, seconds) => time(*day, seconds),
        Match::Share { .. } | Match::Slot { .. } => String::new(),
        Match::PortsHidden => format!("meta l4proto {AUTHENTICATION}"),
        Match::GateIsOpen(yes) => format!("meta nfproto {}@{GATE}", not(*yes)),
        Match::Below(_, Rate { limit, burst }) => format!("limit rate {limit}/second burst {burst} packets"),
        Match::Noted(note, yes) => {
            let (set, who) = (note_set(*note, family), noted(*note, family));
            format!("{who} {}@{set}", not(*yes))
        }
        Match::OverShare(name, share) => limiter_of_clients("over ", name, *share, family),
        Match::WithinShare(name, share) => limiter_of_clients("", name, *share, family),
        Match::TcpSyn => "tcp flags syn / syn,rst".into(),
        Match::TcpMidstream => "tcp flags != syn / fin,syn,rst,ack".into(),
    }
}

fn not(yes: bool) -> &'static str {
    if yes { "" } else { "!= " }
}

fn limiter_of_clients(over: &str, name: &str, share: u32, family: Family) -> String {
    let (ip, Rate { limit, burst }) = (header(family), Rate::of_a_client(share));
    format!(
        "add @{name}{} {{ {ip} saddr limit rate {over}{limit}/second burst {burst} packets }}",
        family.version()
    )
}

/// "Has it" is "is not zero".
fn is(has: bool) -> &'static str {
    if has { "!=" } else { "==" }
}

fn span(range: &RangeInclusive<u16>) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("{}-{}", range.start(), range.end())
    }
}

fn names(states: &[State]) -> String {
    let name = |state: &State| match state {
        State::New => "new",
        State::Established => "established",
        State::Related => "related",
        State::Invalid => "invalid",
        State::Untracked => "untracked",
    };
    states.iter().map(name).collect::<Vec<_>>().join(",")
}

/// nft reads times in the time zone of its own process; it is run with UTC.
fn time(day: u8, seconds: &RangeInclusive<u32>) -> String {
    const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    let day = DAYS[usize::from(day) % 7];
    format!("meta day \"{day}\" meta hour \"{}\"-\"{}\"", clock(*seconds.start()), clock(*seconds.end()))
}

fn acting(firewall: &Firewall, action: &Action, family: Family) -> String {
    let marks = &firewall.marks;
    match action {
        Action::MarkPacket(value) => set_bits("meta mark", marks.mask, *value),
        Action::MarkConnection(value) => set_bits("ct mark", marks.mask, *value),
        Action::Clear => set_bits("meta mark", marks.ours(), 0),
        Action::FlagDecided => set_bits("meta mark", marks.decided, marks.decided),
        Action::ClearDecided => set_bits("meta mark", marks.decided, 0),
        Action::Watch => set_bits("ct mark", marks.watched, marks.watched),
        Action::Unwatch => set_bits("ct mark", marks.watched, 0),
        Action::ClearWatched => set_bits("meta mark", marks.watched, 0),
        Action::Restore => by_uplink(firewall, "ct mark", "goto", "restore"),
        Action::Save => by_uplink(firewall, "meta mark", "jump", "save"),
        Action::NoteEarly => format!("add @early{} {{ {} }}", family.version(), udp_flow(family)),
        Action::NoteTorn => format!("add @torn{} {{ {} }}", family.version(), udp_flow(family)),
        Action::NoteKept => format!("add @kept{} {{ {} }}", family.version(), udp_flow(family)),
        Action::NoteSent(uplink) => {
            format!("add @{} {{ {} }}", sent_set(family, *uplink), udp_flow(family))
        }
        Action::Note(note) => {
            let (set, who) = (note_set(*note, family), noted(*note, family));
            format!("update @{set} {{ {who} }}")
        }
        Action::Count(past) => format!("counter name \"{}\"", counter(*past)),
        Action::Tally(name) => format!("counter name \"{name}\""),
        Action::Jump(chain) => format!("jump {chain}"),
        Action::Goto(chain) => format!("goto {chain}"),
        Action::Return => "return".into(),
        Action::Drop => "counter drop".into(),
        Action::Reset => "reject with tcp reset".into(),
        Action::Prohibit => "reject with icmpx type admin-prohibited".into(),
        Action::NoTrack => "notrack".into(),
        Action::Queue { first, count: 1, .. } => format!("queue flags bypass to {first}"),
        Action::Queue { first, count, fan_out } => {
            let by_cpu = if *fan_out { ",fanout" } else { "" };
            format!("queue flags bypass{by_cpu} to {first}-{}", first + count - 1)
        }
        Action::Snat(address) => format!("snat {} to {address}", header(Family::of(*address))),
        Action::Masquerade => "masquerade".into(),
        Action::Netmap(prefix) => format!("snat ip6 prefix to {prefix}"),
        Action::Dnat(address, None) => format!("dnat {} to {address}", header(Family::of(*address))),
        Action::Dnat(address, Some(port)) => {
            format!("dnat {} to {}", header(Family::of(*address)), std::net::SocketAddr::new(*address, *port))
        }
        Action::MaxSegment(bytes) => format!("tcp option maxseg size set {bytes}"),
        Action::Attach(helper) => format!("ct helper set \"{}\"", helper_object(helper)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_past_the_queue_is_read_from_its_counters() {
        let listed = "table inet wansplit {\n\tcounter past-share {\n\t\tpackets 3 bytes 180\n\t}\n\n\
                      \tcounter past-limit {\n\t\tpackets 12 bytes 720\n\t}\n}\n";
        assert_eq!(past_counts(listed), PastCounts { share: 3, limit: 12 });
        assert_eq!(past_counts("table inet wansplit {\n}\n"), PastCounts::default());
    }
}
