//! What happens to one packet. Pure: bytes, facts and `now` in, a decision out.
//!
//! The order of the modules is the order of the steps:
//! [`packet`] parses, [`flow`] names the flow and its facts, [`geo`] knows where the
//! address is, [`sniff`] reads what its client says, [`names`] knows who the address is, [`rule`] finds the first
//! rule that matches, [`sticky`] remembers where the client's flows went,
//! [`uplink`] picks one of the rule's uplinks, and [`verdict`] turns the pick into
//! a mark and a reason. Where a client has begun to say its name and a rule asks for it,
//! [`hold`] keeps its datagrams back until it is said, or the time for that is over. A TCP
//! connection is decided before its client says anything; [`watching`] listens, for the next one.
//!
//! Invariants of [`Engine::decide`]:
//! - it always answers, whatever the bytes are, and every answer has a reason;
//! - packets of one flow get the same answer for [`REMEMBER`], because several of them may be
//!   waiting before the kernel has learned the first one's. Where flows come faster than that leaves room for,
//!   the oldest is forgotten: an engine that remembers as many as may wait at once has all that matter;
//! - a packet costs no allocation and no scan (a changed rule set costs both, once);
//! - round-robins count only flows that were decided here by a rule or by default.

use std::sync::Arc;
use std::time::Duration;

pub mod flow;
pub mod gate;
pub mod geo;
pub mod hold;
pub mod live;
pub mod memory;
pub mod names;
pub mod packet;
pub mod rule;
pub mod sniff;
pub mod sticky;
pub mod uplink;
pub mod verdict;
pub mod watching;

use flow::{Arrival, Facts, FlowKey, FlowTable, LocalTime, Lookup, Millis};
use geo::Geo;
use hold::Held;
use names::{Names, Origin};
use packet::{Family, Fragment, Packet};
use rule::RuleSet;
use rule::model::{Live, NoLine, Policy, Rule, RuleId, WhenNone};
use sniff::watch::Known;
use sniff::{App, Hint, Ports, Sniffed};
use sticky::Choices;
use uplink::load::{self, Lines};
use uplink::pick::Scene;
use uplink::pick::slots::SlotHash;
use uplink::{Board, Filling, Turns, UplinkId, UplinkSet, pick};
use verdict::{Action, Decision, Reason};

/// How long a flow's decision is remembered. Longer than a first packet can wait in the
/// queue (seconds, when the daemon was stopped), than a client waits before it
/// repeats itself (DNS: 5 s in resolv.conf(5)); shorter than it takes until a port is used anew.
pub const REMEMBER: Duration = Duration::from_secs(10);

/// IP protocol number of TCP (IANA).
const TCP: u8 = 6;
/// IP protocol number of UDP (IANA), and the length of its header (RFC 768).
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;

/// Decides flows; one per worker, nothing of it is shared.
#[derive(Debug)]
pub struct Engine {
    flows: FlowTable<Decision>,
    turns: Turns,
}

/// What all workers decide by: immutable, replaced whole.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The rules. Another `Arc` means that the rules were loaded anew.
    pub rules: Arc<RuleSet>,
    /// Where addresses belong.
    pub geo: Arc<Geo>,
    /// The hash that the firewall in use can compute too.
    pub hash: SlotHash,
    /// Who is usable.
    pub board: Board,
    /// Who has just come back.
    pub filling: Filling,
    /// What becomes of flows for which no rule and no line is left.
    pub none: NoLine,
    /// How full and how good the lines are.
    pub lines: Arc<Lines>,
    /// Names of addresses.
    pub names: Arc<Names>,
    /// Choices that outlive their flows.
    pub choices: Arc<Choices>,
}

/// The time, by the two clocks that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// For how long things last.
    pub at: Millis,
    /// For what rules say about time.
    pub local: LocalTime,
}

/// A decision, and what it was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    /// The flow; `None` where the packet does not tell.
    pub key: Option<FlowKey>,
    /// What becomes of the packet.
    pub decision: Decision,
    /// The decision was made for this packet and is remembered for those that follow
    /// (to count flows, count these).
    pub first: bool,
}

impl Engine {
    /// An engine that remembers the latest `capacity` flows that began in the last [`REMEMBER`]: at least as many
    /// as packets may wait for it at once.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Engine { flows: FlowTable::new(capacity, REMEMBER), turns: Turns::default() }
    }

    /// What becomes of a packet.
    pub fn decide(&mut self, snapshot: &Snapshot, packet: &[u8], arrival: &Arrival, now: Now) -> Decided {
        let packet = match whole(packet) {
            Ok(packet) => packet,
            Err(reason) => return Decided::nameless(reason),
        };
        let key = FlowKey::of(&packet);
        let vacancy =
            match self.flows.look_up(key, now.at, |decision| snapshot.upholds(decision, packet.family)) {
                Lookup::Known(decision) => return Decided::again(key, decision),
                Lookup::New(vacancy) => vacancy,
            };
        let decision = if arrival.stale {
            Decision::keep(Reason::Stale, None)
        } else {
            self.turns.follow(&snapshot.rules);
            let heard = Heard::first(&packet, snapshot);
            let facts = Facts::new(&packet, arrival, now.local);
            let (facts, origin) = learn(facts, &heard, snapshot, now.at);
            match worth_waiting(snapshot, &facts, &heard) {
                Duration::ZERO => {
                    let decision = choose(&mut self.turns, snapshot, &facts, now.at);
                    Decision { watch: is_worth_a_watch(snapshot, &facts, origin, &decision), ..decision }
                }
                most => Decision::hold(most),
            }
        };
        vacancy.remember(decision);
        Decided { key: Some(key), decision, first: decision.reason != Reason::Held }
    }

    /// What becomes of a flow that was held, by its first packet and what its client has said since.
    fn decide_held(&mut self, snapshot: &Snapshot, key: FlowKey, held: &Held, now: Now) -> Decided {
        let decision = match whole(&held.first) {
            Ok(packet) if !held.arrival.stale => {
                self.turns.follow(&snapshot.rules);
                let facts = Facts::new(&packet, &held.arrival, now.local);
                let heard = Heard::at_last(&packet, held.watch.known());
                choose(&mut self.turns, snapshot, &learn(facts, &heard, snapshot, now.at).0, now.at)
            }
            _ => Decision::keep(Reason::Stale, None),
        };
        self.flows.replace(key, decision, now.at);
        Decided { key: Some(key), decision, first: true }
    }

    /// Takes in the rules of a snapshot and lets go of those before, as the next decision would.
    pub fn follow(&mut self, snapshot: &Snapshot) {
        self.turns.follow(&snapshot.rules);
    }

    /// What becomes of a flow of which all is known that will be; nothing of it is remembered.
    pub fn judge(&mut self, snapshot: &Snapshot, facts: &Facts, now: Millis) -> Decision {
        self.turns.follow(&snapshot.rules);
        choose(&mut self.turns, snapshot, facts, now)
    }
}

/// Decides, and counts the flow where it goes.
fn choose(turns: &mut Turns, snapshot: &Snapshot, facts: &Facts, now: Millis) -> Decision {
    turns.count_since(&snapshot.lines);
    let decision = first_answer(turns, snapshot, facts, now);
    if let Action::Route(uplink) = decision.action
        && load::counts(&facts.key)
    {
        turns.count(uplink);
    }
    decision
}

/// The first rule that matches and has an answer decides; where none does, all
/// usable uplinks take turns.
fn first_answer(turns: &mut Turns, snapshot: &Snapshot, facts: &Facts, now: Millis) -> Decision {
    let mut start = Some(RuleId(0));
    while let Some(id) = start.and_then(|start| snapshot.rules.first_match_from(start, facts)) {
        let Some(rule) = snapshot.rules.rule(id) else { break };
        if let Some(uplink) = stuck_to(rule, id, snapshot, facts, now) {
            return Decision::route(uplink, Reason::Sticky, Some(id));
        }
        if let Some(uplink) = pick_one(rule, id, turns, snapshot, facts, now) {
            return route_by_rule(uplink, rule, id, snapshot, facts, now);
        }
        match rule.none {
            WhenNone::NextRule => start = id.0.checked_add(1).map(RuleId),
            WhenNone::Any => return pick_any(turns, snapshot, facts, now, Reason::AnyAfterRule, Some(id)),
            WhenNone::Stop(NoLine::Drop) => return Decision::drop_by(id),
            WhenNone::Stop(NoLine::Reject) => return Decision::reject_by(id),
            WhenNone::Stop(NoLine::Keep) => return without_a_way(rule, id),
        }
    }
    pick_any(turns, snapshot, facts, now, Reason::NoRule, None)
}

/// Only what works is worth sticking to.
fn route_by_rule(
    uplink: UplinkId,
    rule: &Rule,
    id: RuleId,
    snapshot: &Snapshot,
    facts: &Facts,
    now: Millis,
) -> Decision {
    if !snapshot.board.usable(facts.family).contains(uplink) {
        return Decision::route(uplink, Reason::KeptByRule, Some(id));
    }
    if let Some(sticky) = rule.sticky {
        snapshot.choices.keep(sticky, facts, uplink, now);
    }
    Decision::route(uplink, Reason::RuleMatched, Some(id))
}

/// By the rule's first line, although it has no way out: routing tells the client so, and no other line is used.
fn without_a_way(rule: &Rule, id: RuleId) -> Decision {
    let first = rule.choice.uplinks.first().map(|&(uplink, _)| uplink);
    first.map_or(Decision::reject_by(id), |first| Decision::route(first, Reason::KeptByRule, Some(id)))
}

/// A packet that tells its flow.
fn whole(bytes: &[u8]) -> Result<Packet<'_>, Reason> {
    let packet = packet::parse(bytes).map_err(|_| Reason::Unparsable)?;
    if packet.fragment == Fragment::Whole { Ok(packet) } else { Err(Reason::Fragment) }
}

/// What a client's first bytes say.
#[derive(Debug, Clone, Copy)]
struct Heard<'a> {
    payload: &'a [u8],
    hint: Option<Hint<'a>>,
    /// Its next datagram may tell its name.
    says_more: bool,
}

impl<'a> Heard<'a> {
    const NOTHING: Heard<'static> = Heard { payload: &[], hint: None, says_more: false };

    /// What the first datagram says of its flow, where a rule asks for it.
    fn first(packet: &Packet<'a>, snapshot: &Snapshot) -> Self {
        let Some(payload) = datagram_of(packet).filter(|_| snapshot.rules.asks_for_contents()) else {
            return Heard::NOTHING;
        };
        let ports = packet.ports.map_or(Ports::default(), |ports| Ports { src: ports.src, dst: ports.dst });
        let known = |hint| Heard { payload, hint: Some(hint), says_more: false };
        match sniff::quic::sniff(payload) {
            Sniffed::Certain(hint) => known(hint),
            Sniffed::NeedMore => Heard { says_more: true, ..known(Hint::of(App::Quic)) },
            Sniffed::NotMine => match sniff::datagram(payload, ports) {
                Sniffed::Certain(hint) => known(hint),
                Sniffed::NeedMore | Sniffed::NotMine => Heard { payload, ..Heard::NOTHING },
            },
        }
    }

    /// What all datagrams together say of the flow that began with this one.
    fn at_last(packet: &Packet<'a>, known: &Known) -> Self {
        let payload = datagram_of(packet).unwrap_or_default();
        Heard { payload, hint: known.hint(), says_more: false }
    }
}

/// A UDP packet's data.
fn datagram_of<'a>(packet: &Packet<'a>) -> Option<&'a [u8]> {
    packet.payload.get(UDP_HEADER..).filter(|_| packet.protocol == UDP)
}

/// The facts with what the client said, and what the address is known by.
fn learn<'a>(
    facts: Facts<'a>,
    heard: &Heard<'a>,
    snapshot: &Snapshot,
    now: Millis,
) -> (Facts<'a>, Option<Origin>) {
    let facts = snapshot.placed(facts);
    if !snapshot.rules.asks_for_contents() {
        return (facts, None);
    }
    let mut facts = match &heard.hint {
        Some(hint) => facts.with_contents(heard.payload, hint),
        None => Facts { payload: heard.payload, ..facts },
    };
    // What a resolver is asked for is not the host that the flow goes to.
    facts.name = facts.name.filter(|_| !matches!(facts.app, Some(App::Dns | App::Mdns)));
    if facts.name.is_some() {
        return (facts, None);
    }
    let key = &facts.key;
    let (name, origin) = snapshot.names.of(key.src, key.dst, key.dst_port, now).unzip();
    (Facts { name, ..facts }, origin)
}

/// Whether what the client of a TCP connection will say is news: it is not, where a DNS answer to this
/// client said it. Nobody listens to the router's own connections.
fn is_worth_a_watch(snapshot: &Snapshot, facts: &Facts, origin: Option<Origin>, decision: &Decision) -> bool {
    let is_routed = matches!(decision.action, Action::Route(_));
    let from_lan = facts.key.protocol == TCP && facts.lan.is_some();
    is_routed && from_lan && snapshot.rules.asks_for_names() && origin != Some(Origin::Client)
}

/// For how long a flow may be held whose client has not said its name yet.
fn worth_waiting(snapshot: &Snapshot, facts: &Facts, heard: &Heard) -> Duration {
    if heard.says_more { snapshot.rules.hold(winner(snapshot, facts), facts) } else { Duration::ZERO }
}

/// The rule that would decide by what is known now.
fn winner(snapshot: &Snapshot, facts: &Facts) -> Option<RuleId> {
    let mut start = RuleId(0);
    loop {
        let id = snapshot.rules.first_match_from(start, facts)?;
        let rule = snapshot.rules.rule(id)?;
        let has_uplink = !live::possible(rule, &snapshot.board, facts.family).is_empty();
        if has_uplink || rule.none != WhenNone::NextRule {
            return Some(id);
        }
        start = RuleId(id.0.checked_add(1)?);
    }
}

/// The usable uplink of a rule that an earlier flow of the same client went by.
fn stuck_to(rule: &Rule, id: RuleId, snapshot: &Snapshot, facts: &Facts, now: Millis) -> Option<UplinkId> {
    let sticky = rule.sticky?;
    let uplink = snapshot.choices.find(sticky, facts, now)?;
    let is_possible = match rule.live {
        Live::MoveBack => live::preferred(rule, id, snapshot, facts).contains(uplink),
        Live::Keep | Live::ResetOnDown => {
            live::possible(rule, &snapshot.board, facts.family).contains(uplink)
        }
    };
    if is_possible && !is_dear(rule, snapshot, facts, uplink) {
        snapshot.choices.keep(sticky, facts, uplink, now);
    }
    is_possible.then_some(uplink)
}

/// Whether a cheaper one of a rule's uplinks is usable. What sticks to a dear one does so no longer than was asked for
/// when that was chosen, however many flows follow.
fn is_dear(rule: &Rule, snapshot: &Snapshot, facts: &Facts, uplink: UplinkId) -> bool {
    let uplinks = rule.choice.uplinks.iter().copied();
    !snapshot.board.candidates(facts.family, rule.none, uplinks).contains(uplink)
}

/// One of a rule's usable uplinks, by its policy.
fn pick_one(
    rule: &Rule,
    id: RuleId,
    turns: &mut Turns,
    snapshot: &Snapshot,
    facts: &Facts,
    now: Millis,
) -> Option<UplinkId> {
    let choice = &rule.choice;
    let all = snapshot.board.candidates(facts.family, rule.none, choice.uplinks.iter().copied());
    let usable = filled(all, choice.policy, snapshot, facts, now);
    let (lines, slots) = (&*snapshot.lines, snapshot.rules.slots(id));
    let (seat, begun) = turns.of_rule(id, facts.family);
    let scene = Scene { all, usable, family: facts.family, slots, hash: snapshot.hash, lines, begun };
    seat.pick(choice, scene, &facts.key)
}

/// One of all usable uplinks, in turn.
fn pick_any(
    turns: &mut Turns,
    snapshot: &Snapshot,
    facts: &Facts,
    now: Millis,
    reason: Reason,
    rule: Option<RuleId>,
) -> Decision {
    let (board, family) = (&snapshot.board, facts.family);
    let all = board.candidates(family, WhenNone::NextRule, board.uplinks());
    let usable = filled(all, Policy::RoundRobin, snapshot, facts, now);
    match pick::in_turn(turns.of_default(family), board.uplinks(), all, usable, &facts.key) {
        Some(uplink) => Decision::route(uplink, reason, rule),
        None => Decision::without_line(snapshot.none, rule),
    }
}

/// Of the uplinks that a flow may get those that it gets while some are being filled; all of them where no other is left.
fn filled(all: UplinkSet, policy: Policy, snapshot: &Snapshot, facts: &Facts, now: Millis) -> UplinkSet {
    if snapshot.filling.ends().is_none_or(|end| end <= now) {
        return all;
    }
    let lot = pick::lot(policy, &facts.key);
    let filled = all.minus(snapshot.filling.held_back(facts.family, lot, now));
    if filled.is_empty() { all } else { filled }
}

impl Snapshot {
    /// These rules with every uplink usable, nothing learned: for what would be rather than what is.
    #[must_use]
    pub fn where_all_works(rules: Arc<[Rule]>, geo: Arc<Geo>, weights: Vec<u8>) -> Self {
        let all: UplinkSet = (0..).map(UplinkId).take(weights.len()).collect();
        let board = Board { usable_v4: all, usable_v6: all, weights, ..Board::default() };
        Snapshot { rules: Arc::new(RuleSet::compile(rules)), geo, board, ..Snapshot::default() }
    }

    /// The facts, with where the destination belongs if any rule asks for that.
    #[must_use]
    pub fn placed<'a>(&self, facts: Facts<'a>) -> Facts<'a> {
        if self.rules.asks_for_places() { facts.placed(&self.geo) } else { facts }
    }

    /// Whether a remembered decision may be given again. A flow whose uplink has gone, or that
    /// was refused, or left alone, for want of an uplink that has come, is decided anew: the
    /// kernel has forgotten the one and never learned of the other.
    fn upholds(&self, decision: &Decision, family: Family) -> bool {
        let rule = || decision.rule.and_then(|id| self.rules.rule(id));
        let usable = self.board.usable(family);
        match decision.action {
            _ if decision.reason == Reason::NoUplink => usable.is_empty(),
            Action::Route(uplink) => {
                let of_rule = |rule: &Rule| self.board.usable_for(family, rule.none, &rule.choice);
                let usable = rule().map_or(usable, of_rule);
                usable.union(self.board.suspected.of(family)).contains(uplink)
            }
            Action::Keep | Action::Hold(_) => true,
            Action::Drop | Action::Reject => {
                rule().is_some_and(|rule| live::possible(rule, &self.board, family).is_empty())
            }
        }
    }
}

impl Decided {
    /// The same for a further packet of the flow.
    #[must_use]
    pub fn and_again(self) -> Self {
        Decided { decision: Decision { reason: Reason::Remembered, ..self.decision }, first: false, ..self }
    }

    /// A packet that does not say which flow it belongs to.
    fn nameless(reason: Reason) -> Self {
        Decided { key: None, decision: Decision::keep(reason, None), first: false }
    }

    /// A further packet of a flow that was decided before.
    fn again(key: FlowKey, decision: Decision) -> Self {
        Decided { key: Some(key), decision, first: true }.and_again()
    }
}

#[cfg(test)]
mod tests;
