//! The firewall as `ipset restore` and `iptables-restore` scripts, for either flavour of iptables.
//!
//! Each table is a commit of its own, so the order is: sets, then what marks
//! depend on, the mangle table with its queue last; down goes the other way.
//! Chains are flushed and refilled in one commit; jumps to them are added only
//! where they are missing, so a second run changes nothing. Others may add their
//! rules on the wrong side of our jumps later: then ours are hung anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;

use super::AUTHENTICATION;
use super::flow_hash::{bytecode, hidden_bytecode, slot_bytecode};
use super::lid::counting_chain;
use super::model::{Action, Chain, Firewall, Hook, Match, Note, Past, PastCounts, Rate, Rule, State, clock};
use super::note::{CLIENTS_MOST, EARLY_MOST, EARLY_SECONDS, SENT_MOST, SENT_SECONDS};
use crate::engine::packet::Family;
use crate::engine::uplink::UplinkId;
use crate::engine::verdict::Marks;
use crate::plan::script::Step;

/// Before the name of every chain and set of ours.
pub const PREFIX: &str = "wansplit-";

/// The two programs that speak iptables' language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Flavour {
    /// On top of nf_tables.
    #[serde(rename = "iptables-nft")]
    Nft,
    /// On top of x_tables.
    #[serde(rename = "iptables-legacy")]
    Legacy,
}

impl Flavour {
    /// Both, for code that looks for traces of either.
    pub const BOTH: [Flavour; 2] = [Flavour::Nft, Flavour::Legacy];

    /// The program's full name: bare `iptables` may be either flavour.
    #[must_use]
    pub fn program(self, family: Family, suffix: &str) -> String {
        let flavour = match self {
            Flavour::Nft => "nft",
            Flavour::Legacy => "legacy",
        };
        match family {
            Family::V4 => format!("iptables-{flavour}{suffix}"),
            Family::V6 => format!("ip6tables-{flavour}{suffix}"),
        }
    }
}

/// iptables' tables, in the order in which they are committed on the way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Before connection tracking.
    Raw,
    /// What may pass.
    Filter,
    /// Address translation.
    Nat,
    /// Marks and the queue.
    Mangle,
}

impl Table {
    /// All tables we use, in that order.
    pub const ALL: [Table; 4] = [Table::Raw, Table::Filter, Table::Nat, Table::Mangle];

    /// iptables' name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Table::Raw => "raw",
            Table::Filter => "filter",
            Table::Nat => "nat",
            Table::Mangle => "mangle",
        }
    }
}

/// From a built-in chain to one of ours, with its prefix.
pub type Jump = (String, String);

/// What `iptables-save -c` printed of the packets that have come to our chains: at the first rule of each.
pub fn read_counts(text: &str) -> impl Iterator<Item = (&str, u64)> {
    let mut last = "";
    text.lines().filter_map(move |line| {
        let (counters, rule) = line.strip_prefix('[')?.split_once("] -A ")?;
        let chain = rule.split(' ').next()?.strip_prefix(PREFIX)?;
        let is_first = std::mem::replace(&mut last, chain) != chain;
        let packets = counters.split(':').next()?.parse().ok()?;
        is_first.then_some((chain, packets))
    })
}

/// What of ours one flavour of iptables holds now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    /// Our chains, with our prefix, by family and table.
    pub chains: BTreeMap<(Family, Table), BTreeSet<String>>,
    /// Jumps from built-in chains to ours.
    pub jumps: BTreeMap<(Family, Table), BTreeSet<Jump>>,
    /// Built-in chains in which others' rules stand where ours should (see [`Place`]).
    pub out_of_place: BTreeSet<(Family, Table, String)>,
    /// The rules in our chains, in order, as `iptables-save` prints them.
    pub rules: BTreeMap<(Family, Table), Vec<String>>,
    /// Our sets.
    pub sets: BTreeSet<String>,
    /// What [`Firewall::stay`] holds, by family.
    pub stay: BTreeMap<Family, BTreeSet<String>>,
}

impl Installed {
    /// Whether nothing of ours is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chains.values().all(BTreeSet::is_empty) && self.sets.is_empty()
    }

    /// Takes in what `iptables-save -t TABLE` printed.
    pub fn read_save(&mut self, family: Family, table: Table, text: &str) {
        let mut built_in_chains: BTreeMap<&str, Vec<Owner>> = BTreeMap::new();
        for line in text.lines() {
            if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
                if chain.starts_with(PREFIX) {
                    self.chains.entry((family, table)).or_default().insert(chain.to_owned());
                }
            } else if line.strip_prefix("-A ").is_some_and(|rule| rule.starts_with(PREFIX)) {
                self.rules.entry((family, table)).or_default().push(line.to_owned());
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let chain = rule.split(' ').next().unwrap_or_default();
                let jump = plain_jump(line);
                let owner = if jump.is_some() { Owner::Us } else { Owner::Others };
                built_in_chains.entry(chain).or_default().push(owner);
                self.jumps.entry((family, table)).or_default().extend(jump);
            }
        }
        let mixed = built_in_chains.into_iter().filter(|(chain, owners)| is_mixed(table, chain, owners));
        self.out_of_place.extend(mixed.map(|(chain, _)| (family, table, chain.to_owned())));
    }

    /// Takes in what `ipset save` printed of the set of destinations that stay.
    pub fn read_stay(&mut self, family: Family, text: &str) {
        let nets = text.lines().filter_map(|line| line.strip_prefix("add ")?.split(' ').nth(1));
        self.stay.insert(family, nets.map(String::from).collect());
    }

    fn has_jump(&self, family: Family, table: Table, jump: &Jump) -> bool {
        self.jumps.get(&(family, table)).is_some_and(|jumps| jumps.contains(jump))
    }

    /// Whether a chain holds what these commands would fill it with.
    fn has_rules(&self, family: Family, table: Table, chain: &str, commands: &[String]) -> bool {
        let rules = self.rules.get(&(family, table)).into_iter().flatten();
        rules.filter(|rule| rule.split(' ').nth(1) == Some(chain)).eq(commands)
    }

    fn is_in_place(&self, family: Family, table: Table, jump: &Jump) -> bool {
        self.has_jump(family, table, jump) && !self.out_of_place.contains(&(family, table, jump.0.clone()))
    }
}

/// What went past the queue, from what `iptables-save -c -t mangle` printed of one family.
#[must_use]
pub fn past_counts(text: &str) -> PastCounts {
    let mut counts = PastCounts::default();
    for line in text.lines() {
        let Some((count, rule)) = line.strip_prefix('[').and_then(|line| line.split_once(']')) else {
            continue;
        };
        let packets = count.split(':').next().and_then(|packets| packets.parse::<u64>().ok()).unwrap_or(0);
        for past in Past::ALL {
            if rule.trim() == format!("-A {}", prefixed(counting_chain(past))) {
                *counts.of(past) += packets;
            }
        }
    }
    counts
}

/// Whose a rule in a built-in chain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Us,
    Others,
}

/// Whether others' rules stand before ours at the top of a chain, or after ours at its end.
fn is_mixed(table: Table, chain: &str, owners: &[Owner]) -> bool {
    let first = if is_on_top(table, chain) { Owner::Us } else { Owner::Others };
    owners.iter().skip_while(|&&owner| owner == first).any(|&owner| owner == first)
}

/// `-A PREROUTING -j wansplit-decide`, the only form in which we hang a chain.
fn plain_jump(line: &str) -> Option<Jump> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["-A", built_in, "-j", ours] = words[..] else { return None };
    let is_ours = ours.starts_with(PREFIX) && !built_in.starts_with(PREFIX);
    is_ours.then(|| (built_in.to_owned(), ours.to_owned()))
}

/// The steps that make this the state, whatever of ours is there now.
#[must_use]
pub fn up(firewall: &Firewall, flavour: Flavour, installed: &Installed) -> Vec<Step> {
    let mut steps = vec![sets(firewall)];
    for family in Family::BOTH {
        let tables: Vec<TableScript> = Table::ALL
            .into_iter()
            .map(|table| fill(firewall, family, table, installed))
            .filter(|script| !script.is_empty())
            .collect();
        steps.push(restore(flavour, family, &tables));
    }
    steps.push(calm());
    steps
}

/// The step after which only floods by the present limits are known.
fn calm() -> Step {
    let sets =
        Family::BOTH.into_iter().flat_map(|family| Note::floods().map(move |note| note_set(note, family)));
    ipset(sets.map(|set| format!("flush {set}")).collect())
}

/// The steps back from `installed` to what was there before, after a failure half-way.
#[must_use]
pub fn back(before: &Installed, flavour: Flavour, installed: &Installed) -> Vec<Step> {
    let none = BTreeSet::new();
    let changed = before.stay.iter().filter(|(family, nets)| installed.stay.get(family) != Some(nets));
    let refilled: Vec<String> = changed.flat_map(|(&family, nets)| refill(family, nets.iter())).collect();
    let mut steps = if refilled.is_empty() { Vec::new() } else { vec![ipset(refilled)] };
    for family in Family::BOTH {
        let mut tables = Vec::new();
        for table in Table::ALL {
            let keep = before.chains.get(&(family, table)).unwrap_or(&none);
            let mut script = remove(family, table, installed, keep);
            script.chains.extend(keep.iter().cloned());
            script.commands.extend(before.rules.get(&(family, table)).into_iter().flatten().cloned());
            script.commands.extend(hang_again(before, family, table, installed));
            tables.push(script);
        }
        tables.retain(|script| !script.is_empty());
        if !tables.is_empty() {
            steps.push(restore(flavour, family, &tables));
        }
    }
    steps
}

/// The steps that take away all that is ours, but for sets.
#[must_use]
pub fn down(flavour: Flavour, installed: &Installed) -> Vec<Step> {
    let mut steps = Vec::new();
    for family in Family::BOTH {
        let mut tables: Vec<TableScript> = Table::ALL
            .into_iter()
            .rev()
            .map(|table| remove(family, table, installed, &BTreeSet::new()))
            .collect();
        tables.retain(|script| !script.is_empty());
        if !tables.is_empty() {
            steps.push(restore(flavour, family, &tables));
        }
    }
    steps
}

/// The step that takes away our sets, once no flavour's rules use them.
#[must_use]
pub fn destroy_sets(sets: &BTreeSet<String>) -> Option<Step> {
    let destroy: Vec<String> = sets.iter().map(|set| format!("destroy {set}")).collect();
    (!destroy.is_empty()).then(|| ipset(destroy))
}

/// One table's part of a restore script.
struct TableScript {
    table: Table,
    chains: Vec<String>,
    commands: Vec<String>,
}

impl TableScript {
    fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.commands.is_empty()
    }
}

fn restore(flavour: Flavour, family: Family, tables: &[TableScript]) -> Step {
    let mut input = String::new();
    let mut typed = Vec::new();
    let program = flavour.program(family, "");
    for TableScript { table, chains, commands } in tables {
        let name = table.name();
        input += &format!("*{name}\n");
        for chain in chains {
            input += &format!(":{chain} - [0:0]\n");
            typed.push(format!("{program} -t {name} -N {chain}"));
        }
        for command in commands {
            input += &format!("{command}\n");
            typed.push(format!("{program} -t {name} {command}"));
        }
        input += "COMMIT\n";
    }
    let arguments = ["--noflush", "-w", "5"].map(String::from).to_vec();
    Step { program: flavour.program(family, "-restore"), arguments, input, typed }
}

fn fill(firewall: &Firewall, family: Family, table: Table, installed: &Installed) -> TableScript {
    let wanted = chains_of(firewall, table);
    let names: BTreeSet<String> = wanted.iter().map(|chain| prefixed(&chain.name)).collect();
    let mut script = remove(family, table, installed, &names);
    for chain in &wanted {
        let commands = commands(firewall, chain, family);
        if chain.counts() && installed.has_rules(family, table, &prefixed(&chain.name), &commands) {
            continue;
        }
        script.chains.push(prefixed(&chain.name));
        script.commands.extend(commands);
    }
    script.commands.extend(hang_up(&wanted, family, table, installed));
    script
}

fn commands(firewall: &Firewall, chain: &Chain, family: Family) -> Vec<String> {
    let of_family = chain.rules.iter().filter(|rule| rule.family.is_none_or(|of| of == family));
    of_family.map(|rule| command(firewall, chain, rule, family)).collect()
}

/// The commands that hang the chains which do not hang where they should.
fn hang_up(wanted: &[&Chain], family: Family, table: Table, installed: &Installed) -> Vec<String> {
    let hooked = wanted.iter().filter_map(|chain| Some((chain, hung(chain.hook?))));
    let jumps: Vec<(Jump, Place)> = hooked
        .map(|(chain, (_, built_in, place))| ((built_in.to_owned(), prefixed(&chain.name)), place))
        .filter(|(jump, _)| !installed.is_in_place(family, table, jump))
        .collect();
    let elsewhere = jumps.iter().filter(|(jump, _)| installed.has_jump(family, table, jump));
    let deletions = elsewhere.map(|((built_in, ours), _)| format!("-D {built_in} -j {ours}"));
    deletions.chain(jumps.iter().map(|(jump, place)| hang(jump, *place))).collect()
}

/// The commands that hang again what hung before.
fn hang_again(before: &Installed, family: Family, table: Table, installed: &Installed) -> Vec<String> {
    let present = installed.jumps.get(&(family, table)).map_or(0, BTreeSet::len);
    let jumps = before.jumps.get(&(family, table)).into_iter().flatten();
    let lost = jumps.filter(|jump| !installed.has_jump(family, table, jump));
    lost.zip(present + 1..)
        .map(|(jump, number)| {
            let place = if is_on_top(table, &jump.0) { Place::Top(number) } else { Place::End };
            hang(jump, place)
        })
        .collect()
}

/// Takes away our jumps and chains that are not in `keep`.
fn remove(family: Family, table: Table, installed: &Installed, keep: &BTreeSet<String>) -> TableScript {
    let none = BTreeSet::new();
    let chains = installed.chains.get(&(family, table)).unwrap_or(&none);
    let stale = || chains.iter().filter(|chain| !keep.contains(*chain));
    let no_jumps = BTreeSet::new();
    let jumps = installed.jumps.get(&(family, table)).unwrap_or(&no_jumps);
    let mut commands: Vec<String> = jumps
        .iter()
        .filter(|(_, ours)| !keep.contains(ours))
        .map(|(built_in, ours)| format!("-D {built_in} -j {ours}"))
        .collect();
    commands.extend(stale().map(|chain| format!("-F {chain}")));
    commands.extend(stale().map(|chain| format!("-X {chain}")));
    TableScript { table, chains: Vec::new(), commands }
}

/// Where in a built-in chain our jump stands.
#[derive(Clone, Copy)]
enum Place {
    /// Before others' rules, at this place from the top: others' NAT and filter rules end the chain.
    Top(usize),
    /// After others' rules: a queue's verdict ends the chain, and they should have had their say.
    End,
}

fn hung(hook: Hook) -> (Table, &'static str, Place) {
    match hook {
        Hook::Helpers => (Table::Raw, "PREROUTING", Place::End),
        Hook::Decide => (Table::Mangle, "PREROUTING", Place::End),
        Hook::Settle => (Table::Nat, "PREROUTING", Place::Top(1)),
        Hook::Forwards => (Table::Nat, "PREROUTING", Place::Top(2)),
        Hook::Own => (Table::Mangle, "OUTPUT", Place::End),
        Hook::Forward => (Table::Mangle, "FORWARD", Place::End),
        Hook::Refuse => (Table::Filter, "FORWARD", Place::Top(1)),
        Hook::Untracked => (Table::Raw, "OUTPUT", Place::End),
        Hook::Pin => (Table::Mangle, "POSTROUTING", Place::End),
        Hook::Source => (Table::Nat, "POSTROUTING", Place::End),
    }
}

/// The built-in chains where our jumps are [`Place::Top`].
fn is_on_top(table: Table, built_in: &str) -> bool {
    matches!((table, built_in), (Table::Nat, "PREROUTING") | (Table::Filter, "FORWARD"))
}

fn hang((built_in, ours): &Jump, place: Place) -> String {
    match place {
        Place::Top(number) => format!("-I {built_in} {number} -j {ours}"),
        Place::End => format!("-A {built_in} -j {ours}"),
    }
}

/// The chains a table needs: those that hang in it or count there, and those they jump to.
/// A chain stands after those that it jumps to, so one pass from the end finds all.
fn chains_of(firewall: &Firewall, table: Table) -> Vec<&Chain> {
    let mut needed: BTreeSet<&str> = BTreeSet::new();
    let mut chains = Vec::new();
    for chain in firewall.chains.iter().rev() {
        let hangs = match chain.hook {
            Some(hook) => hung(hook).0 == table,
            None => chain.counts() && table == hung(Hook::Decide).0,
        };
        if hangs || needed.contains(chain.name.as_str()) {
            needed.extend(chain.rules.iter().filter_map(target));
            chains.push(chain);
        }
    }
    chains.reverse();
    chains
}

fn target(rule: &Rule) -> Option<&str> {
    match &rule.action {
        Action::Jump(chain) | Action::Goto(chain) => Some(chain),
        _ => None,
    }
}

fn prefixed(chain: &str) -> String {
    format!("{PREFIX}{chain}")
}

/// Name of the set that says, by being filled, that the daemon is alive.
#[must_use]
pub fn gate_set(family: Family) -> String {
    format!("{PREFIX}gate{}", family.version())
}

/// The set of destinations that stay.
#[must_use]
pub fn stay_set(family: Family) -> String {
    format!("{PREFIX}stay{}", family.version())
}

fn early_set(family: Family) -> String {
    format!("{PREFIX}early{}", family.version())
}

fn torn_set(family: Family) -> String {
    format!("{PREFIX}torn{}", family.version())
}

fn kept_set(family: Family) -> String {
    format!("{PREFIX}kept{}", family.version())
}

fn sent_set(family: Family, uplink: Option<UplinkId>) -> String {
    format!("{PREFIX}sent{}{}", family.version(), sent_by(uplink))
}

/// How the name of a set of flows that were answered ends.
pub(super) fn sent_by(uplink: Option<UplinkId>) -> String {
    uplink.map(|uplink| format!("-{}", uplink.0 + 1)).unwrap_or_default()
}

/// The uplinks by which flows are noted as sent, and all together.
pub(super) fn senders(marks: &Marks) -> impl Iterator<Item = Option<UplinkId>> + '_ {
    marks.uplinks().map(Some).chain([None])
}

fn note_set(note: Note, family: Family) -> String {
    format!("{PREFIX}{}{}", note.name(), family.version())
}

/// A set cannot hold a constant: the first bits of the client's address are as good as one. (Those of no client are
/// all zero, which a set cannot hold either.)
const BITS_OF_ALL: u32 = 8;
const MOST_OF_ALL: u32 = 1 << BITS_OF_ALL;

/// Room for a full routing table; the kernel takes memory only for what is there.
const STAY_MOST: u32 = 4_194_304;
/// Buckets of such a set: rules cannot make it grow (ipset(8), "hashsize"), and a full
/// bucket, of twelve, takes no more. With one for four, three in ten thousand of a full set overflow.
const NOTED_TOGETHER: u32 = 4;

/// The names of all sets that these rules use.
#[must_use]
pub fn set_names(firewall: &Firewall) -> BTreeSet<String> {
    let of = |family: Family| {
        let sent = senders(&firewall.marks).map(move |uplink| sent_set(family, uplink));
        let notes = Note::all().map(move |note| note_set(note, family));
        let of_flows = [early_set(family), torn_set(family), kept_set(family)];
        sent.chain(of_flows).chain([gate_set(family), stay_set(family)]).chain(notes)
    };
    Family::BOTH.into_iter().flat_map(of).collect()
}

/// Creates the sets and refills the one of destinations that stay.
fn sets(firewall: &Firewall) -> Step {
    let mut lines = Vec::new();
    for family in Family::BOTH {
        let kind = set_kind(family);
        let (gate, early, stay) = (gate_set(family), early_set(family), stay_set(family));
        lines.push(format!("create {gate} hash:net family {kind} timeout 1"));
        lines.push(format!(
            "create {early} hash:ip,port,ip family {kind} hashsize {} timeout {EARLY_SECONDS} maxelem {EARLY_MOST}",
            EARLY_MOST / NOTED_TOGETHER
        ));
        let sent = senders(&firewall.marks).map(|uplink| sent_set(family, uplink));
        lines.extend(sent.chain([torn_set(family), kept_set(family)]).map(|set| {
            format!(
                "create {set} hash:ip,port,ip family {kind} hashsize {} timeout {SENT_SECONDS} maxelem {SENT_MOST}",
            SENT_MOST / NOTED_TOGETHER
            )
        }));
        lines.extend(Note::all().map(|note| {
            let room = if note.is_of_a_client() {
                format!("hashsize {} maxelem {CLIENTS_MOST}", CLIENTS_MOST / NOTED_TOGETHER)
            } else {
                format!("netmask {BITS_OF_ALL} maxelem {MOST_OF_ALL}")
            };
            let (set, seconds) = (note_set(note, family), note.seconds());
            format!("create {set} hash:ip family {kind} {room} timeout {seconds}")
        }));
        lines.push(format!("create {stay} hash:net family {kind} maxelem {STAY_MOST}"));
        let nets = firewall.stay.iter().filter(|net| Family::of(net.addr()) == family);
        lines.extend(refill(family, nets));
    }
    ipset(lines)
}

/// Fills the set of destinations that stay anew, in one swap.
fn refill(family: Family, nets: impl Iterator<Item = impl fmt::Display>) -> Vec<String> {
    let (stay, kind) = (stay_set(family), set_kind(family));
    let mut lines = vec![
        format!("create {stay}-new hash:net family {kind} maxelem {STAY_MOST}"),
        format!("flush {stay}-new"),
    ];
    lines.extend(nets.map(|net| format!("add {stay}-new {net}")));
    lines.extend([format!("swap {stay}-new {stay}"), format!("destroy {stay}-new")]);
    lines
}

fn set_kind(family: Family) -> &'static str {
    match family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    }
}

fn ipset(lines: Vec<String>) -> Step {
    Step {
        program: "ipset".into(),
        arguments: ["-exist", "restore"].map(String::from).to_vec(),
        input: lines.iter().map(|line| format!("{line}\n")).collect(),
        typed: lines.iter().map(|line| format!("ipset -exist {line}")).collect(),
    }
}

fn command(firewall: &Firewall, chain: &Chain, rule: &Rule, family: Family) -> String {
    let mut words = vec![format!("-A {}", prefixed(&chain.name))];
    for condition in &rule.matches {
        let text = matching(firewall, condition, family);
        let is_protocol_known = words.iter().any(|word| word.starts_with("-p "));
        words.push(if is_protocol_known { without_protocol(text) } else { text });
    }
    words.push(acting(firewall, &rule.action, family));
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// iptables takes a protocol once, and all conditions of a rule ask for the same.
fn without_protocol(condition: String) -> String {
    match condition.strip_prefix("-p ") {
        Some(rest) => rest.split_once(' ').map(|(_, rest)| rest.to_owned()).unwrap_or_default(),
        None => condition,
    }
}

fn matching(firewall: &Firewall, condition: &Match, family: Family) -> String {
    let mask = firewall.marks.mask;
    let Marks { decided, watched, .. } = firewall.marks;
    match condition {
        Match::In(device) => format!("-i {device}"),
        Match::Out(device) => format!("-o {device}"),
        Match::Source(net) => format!("-s {net}"),
        Match::Destination(net) => format!("-d {net}"),
        Match::DestinationIsLocal => "-m addrtype --dst-type LOCAL".into(),
        Match::DestinationStays => format!("-m set --match-set {} dst", stay_set(family)),
        Match::State(states) => format!("-m conntrack --ctstate {}", names(states)),
        Match::DestinationTranslated => "-m conntrack --ctstate DNAT".into(),
        Match::ConnectionBegins => "-m conntrack --ctstate NEW ! --ctstatus CONFIRMED".into(),
        Match::OriginalDestination(address) => format!("-m conntrack --ctorigdst {address}"),
        Match::ReplyDestination(address) => format!("-m conntrack --ctrepldst {address}"),
        Match::PacketHasUplink(yes) => format!("-m mark {}--mark 0x0/{mask:#x}", not(*yes)),
        Match::PacketUplink(value) => format!("-m mark --mark {value:#x}/{mask:#x}"),
        Match::ConnectionUplink(value) => format!("-m connmark --mark {value:#x}/{mask:#x}"),
        Match::ConnectionHasUplink(yes) => format!("-m connmark {}--mark 0x0/{mask:#x}", not(*yes)),
        Match::Decided(yes) => format!("-m mark {}--mark 0x0/{decided:#x}", not(*yes)),
        Match::Flagged => format!("-m mark ! --mark 0x0/{:#x}", decided | watched),
        Match::Watched(yes) => format!("-m mark {}--mark 0x0/{watched:#x}", not(*yes)),
        Match::ConnectionWatched(yes) => format!("-m connmark {}--mark 0x0/{watched:#x}", not(*yes)),
        Match::Early => format!("-m set --match-set {} src,src,dst", early_set(family)),
        Match::Torn => format!("-m set --match-set {} src,src,dst", torn_set(family)),
        Match::NotKept => format!("-m set ! --match-set {} src,src,dst", kept_set(family)),
        Match::Sent(uplink) => format!("-m set --match-set {} src,src,dst", sent_set(family, *uplink)),
        Match::Protocol(protocol) => format!("-p {protocol}"),
        Match::SourcePort(protocol, ports) => format!("-p {protocol} -m multiport --sports {}", span(ports)),
        Match::DestinationPort(protocol, ports) => {
            format!("-p {protocol} -m multiport --dports {}", span(ports))
        }
        Match::Icmp(icmp) => {
            let (protocol, option) = match icmp.family {
                Family::V4 => ("icmp", "--icmp-type"),
                Family::V6 => ("icmpv6", "--icmpv6-type"),
            };
            let code = icmp.code.map(|code| format!("/{code}")).unwrap_or_default();
            format!("-p {protocol} -m {} {option} {}{code}", icmp_module(family), icmp.kind)
        }
        Match::SourceMac(mac) => format!("-m mac --mac-source {mac}"),
        Match::Dscp(dscp) => format!("-m dscp --dscp {dscp:#04x}"),
        Match::Length(lengths) => format!("-m length --length {}", span(lengths)),
        Match::Time(day, seconds) => time(*day, seconds),
        Match::Share { from, to, of } => {
            format!("-m bpf --bytecode \"{}\"", bytecode(family, *from, *to, *of))
        }
        Match::Slot { key, slots } => {
            format!("-m bpf --bytecode \"{}\"", slot_bytecode(family, *key, *slots))
        }
        Match::PortsHidden => match family {
            Family::V4 => format!("-p {AUTHENTICATION}"),
            Family::V6 => format!("-m bpf --bytecode \"{}\"", hidden_bytecode()),
        },
        Match::GateIsOpen(yes) => in_set(*yes, &gate_set(family)),
        // The kernel keeps a limiter's settings for as long as its name is in use.
        Match::Below(name, Rate { limit, burst }) => format!(
            "-m hashlimit --hashlimit-upto {limit}/sec --hashlimit-burst {burst} --hashlimit-name wansplit{}-{name}-{limit}",
            family.version()
        ),
        Match::Noted(note, yes) => in_set(*yes, &note_set(*note, family)),
        Match::OverShare(name, share) => limiter_of_clients("above", name, *share, family),
        Match::WithinShare(name, share) => limiter_of_clients("upto", name, *share, family),
        Match::TcpSyn => "-p tcp -m tcp --tcp-flags SYN,RST SYN".into(),
        Match::TcpMidstream => "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN".into(),
    }
}

/// Whether the source is in a set, or is not.
fn in_set(yes: bool, set: &str) -> String {
    format!("-m set {}--match-set {set} src", if yes { "" } else { "! " })
}

fn limiter_of_clients(over: &str, name: &str, share: u32, family: Family) -> String {
    let Rate { limit, burst } = Rate::of_a_client(share);
    format!(
        "-m hashlimit --hashlimit-{over} {limit}/sec --hashlimit-burst {burst} --hashlimit-mode srcip \
         --hashlimit-htable-max {CLIENTS_MOST} --hashlimit-htable-expire 1000 \
         --hashlimit-name wansplit{}-{name}-{limit}",
        family.version()
    )
}

fn prohibited(family: Family) -> &'static str {
    match family {
        Family::V4 => "icmp-admin-prohibited",
        Family::V6 => "icmp6-adm-prohibited",
    }
}

fn icmp_module(family: Family) -> &'static str {
    match family {
        Family::V4 => "icmp",
        Family::V6 => "icmp6",
    }
}

/// "Has it" is "is not zero".
fn not(has: bool) -> &'static str {
    if has { "! " } else { "" }
}

fn span(range: &RangeInclusive<u16>) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("{}:{}", range.start(), range.end())
    }
}

fn names(states: &[State]) -> String {
    let name = |state: &State| match state {
        State::New => "NEW",
        State::Established => "ESTABLISHED",
        State::Related => "RELATED",
        State::Invalid => "INVALID",
        State::Untracked => "UNTRACKED",
    };
    states.iter().map(name).collect::<Vec<_>>().join(",")
}

fn time(day: u8, seconds: &RangeInclusive<u32>) -> String {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let day = DAYS[usize::from(day) % 7];
    format!(
        "-m time --timestart {} --timestop {} --weekdays {day}",
        clock(*seconds.start()),
        clock(*seconds.end())
    )
}

fn acting(firewall: &Firewall, action: &Action, family: Family) -> String {
    let mask = firewall.marks.mask;
    let Marks { decided, watched, .. } = firewall.marks;
    let ours = firewall.marks.ours();
    match action {
        Action::MarkPacket(value) => format!("-j MARK --set-xmark {value:#x}/{mask:#x}"),
        Action::MarkConnection(value) => format!("-j CONNMARK --set-xmark {value:#x}/{mask:#x}"),
        Action::Clear => format!("-j MARK --set-xmark 0x0/{ours:#x}"),
        Action::FlagDecided => format!("-j MARK --set-xmark {decided:#x}/{decided:#x}"),
        Action::ClearDecided => format!("-j MARK --set-xmark 0x0/{decided:#x}"),
        Action::Watch => format!("-j CONNMARK --set-xmark {watched:#x}/{watched:#x}"),
        Action::Unwatch => format!("-j CONNMARK --set-xmark 0x0/{watched:#x}"),
        Action::ClearWatched => format!("-j MARK --set-xmark 0x0/{watched:#x}"),
        Action::Restore => format!("-j CONNMARK --restore-mark --nfmask {ours:#x} --ctmask {mask:#x}"),
        Action::Save => format!("-j CONNMARK --save-mark --nfmask {mask:#x} --ctmask {mask:#x}"),
        Action::NoteEarly => format!("-j SET --add-set {} src,src,dst --exist", early_set(family)),
        Action::NoteTorn => format!("-j SET --add-set {} src,src,dst --exist", torn_set(family)),
        Action::NoteKept => format!("-j SET --add-set {} src,src,dst --exist", kept_set(family)),
        Action::NoteSent(uplink) => {
            format!("-j SET --add-set {} src,src,dst --exist", sent_set(family, *uplink))
        }
        Action::Note(note) => format!("-j SET --add-set {} src --exist", note_set(*note, family)),
        // Every rule counts, also one that does nothing else.
        Action::Count(_) | Action::Tally(_) => String::new(),
        Action::Jump(chain) => format!("-j {}", prefixed(chain)),
        Action::Goto(chain) => format!("-g {}", prefixed(chain)),
        Action::Return => "-j RETURN".into(),
        Action::Drop => "-j DROP".into(),
        Action::Reset => "-j REJECT --reject-with tcp-reset".into(),
        Action::Prohibit => format!("-j REJECT --reject-with {}", prohibited(family)),
        Action::NoTrack => "-j CT --notrack".into(),
        Action::Queue { first, count: 1, .. } => format!("-j NFQUEUE --queue-num {first} --queue-bypass"),
        Action::Queue { first, count, fan_out } => {
            let by_cpu = if *fan_out { " --queue-cpu-fanout" } else { "" };
            format!("-j NFQUEUE --queue-balance {first}:{} --queue-bypass{by_cpu}", first + count - 1)
        }
        Action::Snat(address) => format!("-j SNAT --to-source {address}"),
        Action::Masquerade => "-j MASQUERADE".into(),
        Action::Netmap(prefix) => format!("-j NETMAP --to {prefix}"),
        Action::Dnat(address, None) => format!("-j DNAT --to-destination {address}"),
        Action::Dnat(address, Some(port)) => {
            format!("-j DNAT --to-destination {}", std::net::SocketAddr::new(*address, *port))
        }
        Action::MaxSegment(bytes) => format!("-j TCPMSS --set-mss {bytes}"),
        Action::Attach(helper) => format!("-j CT --helper {}", helper.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_THE_END: &str = "-A PREROUTING -i lan0 -j MARK --set-xmark 0x40000/0x40000\n\
                              -A PREROUTING -j wansplit-decide\n";
    const ON_TOP: &str = "-A PREROUTING -j wansplit-settle\n-A PREROUTING -j wansplit-forwards\n\
                          -A PREROUTING -p tcp -j REDIRECT\n";

    #[test]
    fn what_went_past_the_queue_is_read_from_the_rules_that_only_count() {
        let saved = ":wansplit-over-limit - [0:0]\n[7:420] -A wansplit-limited -m set --match-set x src -g wansplit-over-limit\n\
                     [12:720] -A wansplit-over-limit\n[3:180] -A wansplit-over-share\n[x:1] -A wansplit-over-limit\n[9\n";
        assert_eq!(past_counts(saved), PastCounts { share: 3, limit: 12 });
    }

    #[test]
    fn jumps_with_others_rules_on_the_right_side_are_in_place() {
        assert!(out_of_place(Table::Mangle, AT_THE_END).is_empty());
        assert!(out_of_place(Table::Nat, ON_TOP).is_empty());
    }

    #[test]
    fn jumps_that_others_rules_have_come_behind_or_before_are_out_of_place() {
        let behind = format!("{AT_THE_END}-A PREROUTING -p udp -j RETURN\n");
        let before = format!("-A PREROUTING -p udp -j REDIRECT\n{ON_TOP}");
        for (table, text) in [(Table::Mangle, behind), (Table::Nat, before)] {
            let found = out_of_place(table, &text);
            assert_eq!(found, [(Family::V4, table, "PREROUTING".to_owned())].into(), "{text}");
        }
    }

    #[test]
    fn a_chain_has_as_many_packets_as_its_first_rule() {
        let save = "# Generated\n*mangle\n:wansplit-take-1-1 - [0:0]\n\
                    [7:420] -A PREROUTING -j wansplit-decide\n[5:300] -A wansplit-take-1-1\n\
                    [6:360] -A wansplit-take-1-1 -j CONNMARK --set-xmark 0x1/0xff\nCOMMIT\n";
        assert_eq!(read_counts(save).collect::<Vec<_>>(), [("take-1-1", 5)]);
    }

    fn out_of_place(table: Table, text: &str) -> BTreeSet<(Family, Table, String)> {
        let mut installed = Installed::default();
        installed.read_save(Family::V4, table, text);
        installed.out_of_place
    }
}
