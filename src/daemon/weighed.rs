//! What a policy sees of the lines that it picks from: for `wansplit explain`.

use crate::config::Config;
use crate::control::message::Weighed;
use crate::engine::Snapshot;
use crate::engine::flow::Facts;
use crate::engine::rule::model::Policy;
use crate::engine::uplink::health::Estimates;
use crate::engine::uplink::load::Capacity;
use crate::engine::uplink::pick::{Scene, Seen, rating};
use crate::engine::uplink::{Begun, Board};
use crate::engine::verdict::{Decision, Reason};

/// The lines that the rule which decided has to pick from; none where its policy does not look at them.
pub fn weighed(
    config: &Config,
    snapshot: &Snapshot,
    board: &Board,
    facts: &Facts,
    decision: &Decision,
) -> Vec<Weighed> {
    let ruling = decision.rule.filter(|_| decision.reason != Reason::AnyAfterRule);
    let rule = ruling.and_then(|id| snapshot.rules.rule(id));
    let Some(rule) = rule.filter(|rule| rule.choice.policy.looks_at_lines()) else { return Vec::new() };
    let uplinks = rule.choice.uplinks.iter().copied();
    let (usable, begun) = (board.candidates(facts.family, rule.none, uplinks), Begun::default());
    let scene = Scene {
        all: usable,
        usable,
        family: facts.family,
        slots: None,
        hash: snapshot.hash,
        lines: &snapshot.lines,
        begun: &begun,
    };
    let line = |seen: Seen| line(rule.choice.policy, config.uplink_name(seen.uplink), &seen);
    scene.seen(&rule.choice).map(line).collect()
}

/// Only what this policy looks at.
fn line(policy: Policy, name: &str, seen: &Seen) -> Weighed {
    let weighed = Weighed { uplink: name.to_owned(), ..Weighed::default() };
    match policy {
        Policy::LowestLatency => Weighed { latency_us: seen.quality.and_then(latency), ..weighed },
        Policy::BestQuality => quality(weighed, seen),
        _ => load(weighed, seen),
    }
}

fn load(weighed: Weighed, seen: &Seen) -> Weighed {
    let Some(lane) = seen.lane else { return weighed };
    Weighed {
        rate: Some(lane.rate),
        capacity: lane.capacity.bytes(),
        capacity_is: capacity_is(lane.capacity).to_owned(),
        full: lane.is_full,
        flows_tenths: Some((10.0 * (lane.flows + lane.begun)).round() as u64),
        offer: seen.offer.map(|bytes| bytes as u64),
        ..weighed
    }
}

fn quality(weighed: Weighed, seen: &Seen) -> Weighed {
    let Some(quality) = seen.quality else { return weighed };
    Weighed {
        latency_us: latency(quality),
        jitter_us: u64::try_from(quality.jitter.as_micros()).ok(),
        loss_permille: Some((1000.0 * quality.loss).round() as u64),
        rating: rating(quality).map(|rating| rating.round() as u64),
        ..weighed
    }
}

fn latency(quality: &Estimates) -> Option<u64> {
    u64::try_from(quality.latency?.as_micros()).ok()
}

fn capacity_is(capacity: Capacity) -> &'static str {
    match capacity {
        Capacity::Unknown => "",
        Capacity::AtLeast(_) => "seen",
        Capacity::Measured(_) => "measured",
        Capacity::Given(_) => "given",
    }
}
