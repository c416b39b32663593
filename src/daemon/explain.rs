//! What would become of a flow, and why: for `wansplit explain`, from files or in the running daemon.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use super::weighed::weighed;
use crate::config::{self, Config};
use crate::control::message::{Explanation, Tried, Without};
use crate::engine::flow::{Facts, Millis};
use crate::engine::rule::model::{Live, NoLine, OnMismatch, Rule, WhenNone};
use crate::engine::rule::naive::{Objection, objections};
use crate::engine::sniff::App;
use crate::engine::uplink::cost::Cost;
use crate::engine::uplink::{Avoided, Board, Filling, UplinkId, UplinkSet};
use crate::engine::verdict::{Action, Decision, Reason};
use crate::engine::{Engine, Snapshot, live};
use crate::plan::firewall::offload::{decided, decided_rules, walk};

const TCP: u8 = 6;

/// A flow that cannot be read, or an uplink that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadQuestion(String);

/// Explains from the configuration alone: all uplinks work but those that are said to be down.
///
/// # Errors
/// A broken configuration, or a [`BadQuestion`].
pub fn offline(path: &Path, flow: &str, down: &[String]) -> Result<Explanation> {
    let config = super::load(path)?;
    explain(&config, &config.where_all_works(), flow, down, Millis::default())
        .map_err(|error| BadQuestion(error).into())
}

/// By how many rules the kernel decides without asking while all lines work.
#[must_use]
pub fn decided_by_kernel(config: &Config) -> usize {
    let mut board =
        Snapshot::where_all_works(Arc::default(), Arc::default(), config.weights_by_number()).board;
    board.costs = config.costs();
    decided_rules(&walk(config, &board, Avoided::default())).count()
}

/// Explains by what is known and usable now. Nothing of it is remembered; a rule that takes turns
/// is shown with the turn that would be its first.
///
/// # Errors
/// What is wrong with the flow or the uplinks' names.
pub fn explain(
    config: &Config,
    snapshot: &Snapshot,
    flow: &str,
    down: &[String],
    now: Millis,
) -> Result<Explanation, String> {
    let mut facts = config::flow(flow, config)?;
    let says_more = facts.app == Some(App::Quic) && facts.name.is_none();
    if facts.name.is_none() {
        let key = &facts.key;
        facts.name = snapshot.names.of(key.src, key.dst, key.dst_port, now).map(|(name, _)| name);
    }
    let mut board = snapshot.board.clone();
    for name in down {
        board = without(&board, config::uplink_named(config, name)?.id);
    }
    let usable = board.usable(facts.family);
    let decision = judge(snapshot, &board, &facts, now);
    let steps = walk(config, &board, Avoided::default());
    // The router's own flows are never in the walk.
    let by_kernel = decided(config, &steps, &facts, snapshot.hash).filter(|_| facts.lan.is_some());
    let hold = snapshot.rules.hold(decision.rule, &facts);
    let without = usable.iter().map(|id| {
        let decision = judge(snapshot, &self::without(&board, id), &facts, now);
        Without {
            down: config.uplink_name(id).to_owned(),
            uplink: uplink(config, &decision),
            reason: config.explain(&decision),
        }
    });
    Ok(Explanation {
        flow: flow.into(),
        name: facts.name.map(|name| name.to_string()),
        country: facts.country.map(|country| country.to_string()),
        asn: facts.asn.map(|asn| asn.0.get()),
        avoided: too_dear(config, snapshot, &board, &facts, &decision),
        rules: tried(config, &board, &facts, &decision),
        uplink: uplink(config, &decision),
        reason: config.explain(&decision),
        by_kernel: by_kernel
            .into_iter()
            .flat_map(|decided| decided.lines)
            .map(|id| config.uplink_name(id).to_owned())
            .collect(),
        hold_ms: if says_more { hold.as_millis() as u64 } else { 0 },
        live: live_of(config, &decision).to_owned(),
        weighed: weighed(config, snapshot, &board, &facts, &decision),
        without: without.collect(),
    })
}

/// The usable lines that the flow does not get because there are cheaper ones.
fn too_dear(
    config: &Config,
    snapshot: &Snapshot,
    board: &Board,
    facts: &Facts,
    decision: &Decision,
) -> Vec<String> {
    let ruling = decision.rule.filter(|_| decision.reason != Reason::AnyAfterRule);
    let rule = ruling.and_then(|id| snapshot.rules.rule(id));
    let none = rule.map(|rule| rule.none).unwrap_or_default();
    let uplinks = rule.map_or_else(|| board.uplinks().collect(), |rule| rule.choice.uplinks.clone());
    let candidates = board.candidates(facts.family, none, uplinks.iter().copied());
    let usable = board.usable(facts.family);
    let is_left_out = |id: UplinkId| {
        usable.contains(id) && !candidates.contains(id) && decision.action != Action::Route(id)
    };
    let left_out = uplinks.iter().map(|&(id, _)| id).filter(|&id| is_left_out(id));
    left_out.map(|id| format!("{}: {}", config.uplink_name(id), why_dear(board.cost(id)))).collect()
}

fn why_dear(cost: Cost) -> String {
    match cost.as_tier() {
        Some(tier) => format!("cost {tier}, and there is a cheaper line"),
        None => "its quota is used up, and there is another line".into(),
    }
}

/// Turns begin anew, choices are not remembered, and lines have their whole share.
fn judge(snapshot: &Snapshot, board: &Board, facts: &Facts, now: Millis) -> Decision {
    let (board, choices, filling) = (board.clone(), Arc::default(), Filling::default());
    let snapshot = Snapshot { board, choices, filling, ..snapshot.clone() };
    Engine::new(1).judge(&snapshot, facts, now)
}

/// The rules up to the one that decides.
fn tried(config: &Config, board: &Board, facts: &Facts, decision: &Decision) -> Vec<Tried> {
    let last = decision.rule.map_or(config.rules.len(), |rule| usize::from(rule.0) + 1);
    config.rules.iter().take(last).map(|rule| try_one(rule, board, facts)).collect()
}

fn try_one(rule: &Rule, board: &Board, facts: &Facts) -> Tried {
    let late = on_mismatch(rule, facts);
    let objections: Vec<String> = objections(rule, facts).map(objection).collect();
    let has_uplink = !live::possible(rule, board, facts.family).is_empty();
    let why = match rule.none {
        _ if !objections.is_empty() => objections.join(", "),
        _ if has_uplink => String::new(),
        WhenNone::NextRule => "none of its uplinks is usable: the next rule".into(),
        WhenNone::Any => "none of its uplinks is usable: any other".into(),
        WhenNone::Stop(NoLine::Keep) => "none of its uplinks is usable: one all the same".into(),
        WhenNone::Stop(NoLine::Reject) => "none of its uplinks is usable: refused".into(),
        WhenNone::Stop(NoLine::Drop) => "none of its uplinks is usable: dropped".into(),
    };
    Tried {
        name: rule.name.clone(),
        origin: rule.origin.clone(),
        matches: objections.is_empty(),
        why,
        on_mismatch: late.to_owned(),
    }
}

/// What a rule wants for a TCP connection that lacks only the name it asks for, which its client may still say.
fn on_mismatch(rule: &Rule, facts: &Facts) -> &'static str {
    let lacks = |objection: Objection| !objection.under_not && objection.key == "host";
    let mut objections = objections(rule, facts).peekable();
    let is_open = facts.key.protocol == TCP && facts.name.is_none() && objections.peek().is_some();
    match rule.on_mismatch {
        _ if !is_open || !objections.all(lacks) => "",
        OnMismatch::Keep => "keep",
        OnMismatch::Reset => "reset",
    }
}

/// What the rule that decided wants for its running flows; flows without one are treated by the default.
fn live_of(config: &Config, decision: &Decision) -> &'static str {
    let rule = decision.rule.and_then(|rule| config.rules.get(usize::from(rule.0)));
    match rule.map(|rule| rule.live).unwrap_or_default() {
        _ if config.uplink_of(decision).is_none() => "",
        Live::Keep => "keep",
        Live::ResetOnDown => "reset-on-down",
        Live::MoveBack => "move-back",
    }
}

fn objection(Objection { key, under_not }: Objection) -> String {
    if under_not { format!("`{key}` under `not` fits") } else { format!("`{key}` does not fit") }
}

fn without(board: &Board, uplink: UplinkId) -> Board {
    let others = |set: UplinkSet| set.iter().filter(|&other| other != uplink).collect();
    let doubted = Avoided { v4: others(board.doubted.v4), v6: others(board.doubted.v6) };
    Board { usable_v4: others(board.usable_v4), usable_v6: others(board.usable_v6), doubted, ..board.clone() }
}

fn uplink(config: &Config, decision: &Decision) -> Option<String> {
    config.uplink_of(decision).map(String::from)
}
