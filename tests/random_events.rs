//! A million random events for the parts that decide, as the daemon puts them together: lines live and die, are
//! lost, found and suspected, rules are loaded anew, time goes on, and flows come and come again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use wansplit::config::Source;
use wansplit::engine::flow::{Arrival, Millis};
use wansplit::engine::packet::Family;
use wansplit::engine::rule::RuleSet;
use wansplit::engine::rule::model::{
    Choice, HashKey, Live, Matchers, NoLine, OnMismatch, Policy, Rule, WhenNone,
};
use wansplit::engine::uplink::health::{Health, Outcome, Settings};
use wansplit::engine::uplink::{Avoided, Board, ByHand, UplinkId, UplinkSet};
use wansplit::engine::verdict::{Action, Reason};
use wansplit::engine::{Decided, Engine, Now, REMEMBER, Snapshot};
use wansplit::plan::lines::{Learned, Line, NoWay, Way, keep_off};
use wansplit::plan::routing::Hop;

const EVENTS: usize = 1_000_000;
/// The seeds of worlds that share the events.
const WORLDS: [u64; 2] = [0x5eed, 0xfeed];
const LINES: u8 = 4;
const WEIGHTS: [u8; LINES as usize] = [3, 1, 1, 2];
const TARGETS: usize = 3;
/// When a dead line must have been noticed, whatever its answers were before (the default settings promise two seconds).
const NOTICED: u64 = 3000;

#[test]
fn whatever_happens_flows_go_by_lines_that_work_each_by_one_and_all_are_counted() {
    std::thread::scope(|scope| {
        WORLDS.iter().for_each(|&seed| _ = scope.spawn(move || try_a_world(seed)));
    });
}

fn try_a_world(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..EVENTS / WORLDS.len() {
        world.event();
    }
    let Counts { packets, flows, routed, refused, again, stretches, .. } = world.counts;
    eprintln!(
        "{packets} packets of {flows} flows: {routed} routed, {refused} refused, {again} again, {stretches} stretches"
    );
    for count in [flows, routed, refused, again, stretches] {
        assert!(count > 100, "the events try nothing");
    }
    let of_reasons: usize = world.counts.reasons.values().sum();
    assert_eq!(of_reasons, packets, "every packet has one reason");
    let begun = world.counts.reasons.iter().filter(|(reason, _)| !is_repetition(**reason));
    assert_eq!(begun.map(|(_, count)| count).sum::<usize>(), flows, "every flow is counted once a decision");
}

fn is_repetition(reason: Reason) -> bool {
    matches!(reason, Reason::Remembered | Reason::Unparsable | Reason::Fragment)
}

/// One line in one family.
struct Path {
    health: Health,
    has_way: bool,
    /// Whether anybody answers.
    lives: bool,
    /// Since when it has had a way and been dead.
    dead_since: Option<Millis>,
}

#[derive(Default)]
struct Counts {
    packets: usize,
    flows: usize,
    routed: usize,
    refused: usize,
    again: usize,
    stretches: usize,
    reasons: HashMap<Reason, usize>,
}

struct World {
    dice: Dice,
    now: Millis,
    engine: Engine,
    snapshot: Snapshot,
    /// By line, then family.
    paths: Vec<[Path; 2]>,
    /// What the latest flows were told, and when.
    flows: HashMap<(Family, u32), (Millis, Action)>,
    recent: Vec<(Family, u32)>,
    next_flow: u32,
    counts: Counts,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Millis(1_000_000);
        let path = || {
            let mut health = Health::new(Settings::default(), now);
            health.came(TARGETS, now);
            Path { health, has_way: true, lives: true, dead_since: None }
        };
        let mut world = World {
            dice: Dice(seed),
            now,
            engine: Engine::new(1 << 16),
            snapshot: Snapshot { rules: rules(0), ..Snapshot::default() },
            paths: (0..LINES).map(|_| [path(), path()]).collect(),
            flows: HashMap::new(),
            recent: Vec::new(),
            next_flow: 0,
            counts: Counts::default(),
        };
        world.publish();
        world
    }

    fn event(&mut self) {
        match self.dice.below(1000) {
            0..600 => self.new_flow(),
            600..890 => self.same_flow(),
            890..980 => {
                let long = 1 + self.dice.below(40);
                self.time_goes_on(long);
            }
            980..988 => self.a_path(|path, now, _| {
                path.lives = !path.lives;
                path.dead_since = (!path.lives && path.has_way).then_some(now);
            }),
            988..992 => self.a_path(|path, now, dice| path.loses_or_finds_its_way(now, dice)),
            992..995 => self.a_path(|path, now, _| path.health.suspect(now)),
            995..997 => self.reload(),
            997..998 => self.garbage(),
            _ => self.nothing_changes(),
        }
    }

    fn a_path(&mut self, happens: impl FnOnce(&mut Path, Millis, &mut Dice)) {
        let line = self.dice.below(LINES.into()) as usize;
        let family = self.dice.family();
        happens(&mut self.paths[line][family as usize], self.now, &mut self.dice);
        self.publish();
    }

    fn reload(&mut self) {
        let which = self.dice.below(4);
        self.snapshot.rules = rules(which);
        self.snapshot.none = [NoLine::Keep, NoLine::Keep, NoLine::Reject, NoLine::Drop][which as usize];
        // Rules are known by their numbers: what was decided by others may be decided anew.
        self.flows.clear();
        self.publish();
    }

    fn time_goes_on(&mut self, long: u64) {
        let end = Millis(self.now.0 + long);
        let deadline = |world: &World| {
            let paths = world.paths.iter().flatten();
            paths.filter_map(|path| path.health.next_deadline(world.now)).min()
        };
        while let Some(next) = deadline(self).filter(|next| *next <= end) {
            self.now = Millis(next.0.max(self.now.0 + 1));
            for path in self.paths.iter_mut().flatten() {
                path.is_tried(self.now);
            }
        }
        self.now = end;
        for path in self.paths.iter_mut().flatten() {
            path.is_tried(end);
            path.must_be_judged_rightly(end);
        }
        self.publish();
    }

    /// What the daemon does with what it knows.
    fn publish(&mut self) {
        let avoided = self.those(|path| path.health.state().is_avoided());
        let mut lines: Vec<Line> = (0..LINES).map(|id| line(id, &self.paths[usize::from(id)])).collect();
        keep_off(&mut lines, avoided, ByHand::default(), self.snapshot.none);
        let usable = |family| -> UplinkSet {
            lines.iter().filter(|line| line.is_usable(family)).map(|line| line.id).collect()
        };
        let board = Board {
            usable_v4: usable(Family::V4),
            usable_v6: usable(Family::V6),
            suspected: Avoided::default(),
            doubted: self.those(|path| path.has_way && path.health.state().is_avoided()),
            weights: WEIGHTS.to_vec(),
            costs: Vec::new(),
        };
        let takes = [Duration::from_secs(2); LINES as usize];
        self.snapshot.filling = self.snapshot.filling.follow(&self.snapshot.board, &board, &takes, self.now);
        self.snapshot.board = board;
        self.no_line_is_left_out();
    }

    fn those(&self, is_one: impl Fn(&Path) -> bool) -> Avoided {
        let mut those = Avoided::default();
        for (id, paths) in (0..).map(UplinkId).zip(&self.paths) {
            for family in Family::BOTH {
                if is_one(&paths[family as usize]) {
                    those = those.with(family, id);
                }
            }
        }
        those
    }

    /// While a line works, only such are used; while none does and nobody refuses, all that have a way.
    fn no_line_is_left_out(&self) {
        for family in Family::BOTH {
            let usable = self.snapshot.board.usable(family);
            let works = |path: &&[Path; 2]| {
                path[family as usize].has_way && !path[family as usize].health.state().is_avoided()
            };
            let any_works = self.paths.iter().any(|paths| works(&paths));
            for (id, paths) in (0..).map(UplinkId).zip(&self.paths) {
                let last_resort = !any_works && self.snapshot.none == NoLine::Keep;
                let expected = works(&paths) || last_resort && paths[family as usize].has_way;
                assert_eq!(usable.contains(id), expected, "{id:?} {family}");
            }
        }
    }

    fn new_flow(&mut self) {
        let family = self.dice.family();
        let flow = self.next_flow;
        self.next_flow += 1;
        self.packet(family, flow);
        if self.recent.len() < 4096 {
            self.recent.push((family, flow));
        } else {
            let place = self.dice.below(4096) as usize;
            let old = std::mem::replace(&mut self.recent[place], (family, flow));
            self.flows.remove(&old);
        }
    }

    fn same_flow(&mut self) {
        if let Some(&(family, flow)) = self.recent.get(self.dice.below(4096) as usize) {
            self.packet(family, flow);
        }
    }

    fn garbage(&mut self) {
        let bytes: Vec<u8> = (0..self.dice.below(40)).map(|_| self.dice.below(256) as u8).collect();
        let decided = self.decide(&bytes);
        self.count(&decided);
    }

    fn packet(&mut self, family: Family, flow: u32) {
        let decided = self.decide(&udp(family, flow));
        self.count(&decided);
        self.must_be_a_line_that_works(family, &decided);
        self.must_be_told_the_same(family, flow, &decided);
    }

    fn decide(&mut self, bytes: &[u8]) -> Decided {
        let now = Now { at: self.now, ..Now::default() };
        self.engine.decide(&self.snapshot, bytes, &Arrival::default(), now)
    }

    fn count(&mut self, decided: &Decided) {
        let Decided { decision, first, .. } = decided;
        self.counts.packets += 1;
        *self.counts.reasons.entry(decision.reason).or_default() += 1;
        self.counts.flows += usize::from(*first);
        match decision.action {
            _ if !first => self.counts.again += 1,
            Action::Route(_) => self.counts.routed += 1,
            _ => self.counts.refused += 1,
        }
    }

    fn must_be_a_line_that_works(&self, family: Family, decided: &Decided) {
        let usable = self.snapshot.board.usable(family);
        let decision = &decided.decision;
        let rule = decision.rule.and_then(|id| self.snapshot.rules.rule(id));
        let keeps = rule.is_some_and(|rule| rule.none == WhenNone::Stop(NoLine::Keep));
        match decision.action {
            Action::Route(uplink) => assert!(usable.contains(uplink) || keeps, "{decision:?} of {usable:?}"),
            Action::Keep => assert!(usable.is_empty(), "{decision:?} of {usable:?}"),
            Action::Drop | Action::Reject => {
                let own = rule.map(|rule| rule.choice.uplinks.iter().map(|&(uplink, _)| uplink).collect());
                let doubted = self.snapshot.board.doubted.of(family);
                let left = usable
                    .minus(doubted)
                    .iter()
                    .any(|line| own.is_none_or(|own: UplinkSet| own.contains(line)));
                assert!(!left, "{decision:?} of {usable:?}");
            }
            Action::Hold(_) => unreachable!("no rule asks for names"),
        }
    }

    /// Two marks for one flow only where the first one's line is lost.
    fn must_be_told_the_same(&mut self, family: Family, flow: u32, decided: &Decided) {
        let board = &self.snapshot.board;
        let working = board.usable(family).minus(board.doubted.of(family));
        let action = decided.decision.action;
        if let Some(&(at, Action::Route(before))) = self.flows.get(&(family, flow))
            && at.after(REMEMBER) > self.now
            && action != Action::Route(before)
        {
            assert!(!working.contains(before), "{before:?} and then {:?}", decided.decision);
        }
        if decided.first {
            self.flows.insert((family, flow), (self.now, action));
        }
    }

    /// Every line has its exact share of new flows, to within two, while nothing changes.
    fn nothing_changes(&mut self) {
        let family = self.dice.family();
        let usable = self.snapshot.board.usable(family);
        let is_filling = self.snapshot.filling.ends().is_some_and(|end| end > self.now);
        if is_filling || usable.is_empty() {
            return;
        }
        let of: u32 = usable.iter().map(|line| u32::from(WEIGHTS[usize::from(line.0)])).sum();
        let (mut total, mut counts) = (0_u32, [0_u32; LINES as usize]);
        for _ in 0..200 {
            let flow = self.next_flow;
            self.next_flow += 1;
            let decided = self.decide(&udp(family, flow));
            self.count(&decided);
            if let (Reason::NoRule, Action::Route(line)) = (decided.decision.reason, decided.decision.action)
            {
                total += 1;
                counts[usize::from(line.0)] += 1;
            }
        }
        for line in usable.iter() {
            let place = usize::from(line.0);
            let due = f64::from(total) * f64::from(WEIGHTS[place]) / f64::from(of);
            assert!(
                (f64::from(counts[place]) - due).abs() < 2.0,
                "{counts:?} of {total}, {line:?} is due {due}"
            );
        }
        self.counts.stretches += 1;
    }
}

impl Path {
    fn is_tried(&mut self, now: Millis) {
        while let Some(probe) = self.health.poll(now) {
            if self.lives {
                self.health.heard(probe, Outcome::Answered(Duration::from_millis(5)), now);
            }
        }
    }

    fn loses_or_finds_its_way(&mut self, now: Millis, dice: &mut Dice) {
        if self.has_way && dice.below(3) > 0 {
            self.health.lost(now);
            self.has_way = false;
        } else {
            self.health.came(TARGETS, now);
            self.has_way = true;
        }
        self.dead_since = (!self.lives && self.has_way).then_some(now);
    }

    fn must_be_judged_rightly(&self, now: Millis) {
        let is_noticed = self.dead_since.is_some_and(|since| now.0 - since.0 > NOTICED);
        assert!(!is_noticed || self.health.state().is_avoided(), "{:?} at {now:?}", self.health);
    }
}

fn line(id: u8, paths: &[Path; 2]) -> Line {
    let hop = Hop { interface: format!("wan{id}"), gateway: None, weight: 1, onlink: false };
    let way = |path: &Path| match path.has_way {
        true => Ok(Way { hop: hop.clone(), learned: Learned::Peer, source: Source::Masquerade }),
        false => Err(NoWay::LinkDown),
    };
    Line {
        id: UplinkId(id),
        interface: format!("wan{id}"),
        nets: Vec::new(),
        mtu: None,
        v4: way(&paths[Family::V4 as usize]),
        v6: way(&paths[Family::V6 as usize]),
        avoided: Default::default(),
        doubted: Default::default(),
        cost: Default::default(),
    }
}

/// One of some sets of rules: each policy, and each answer to what becomes of flows without a line.
fn rules(which: u64) -> Arc<RuleSet> {
    let rule = |port: u16, policy, lines: &[u8], none| Rule {
        name: format!("port {port}"),
        origin: String::new(),
        matches: Matchers { dst_port: vec![port..=port], ..Matchers::default() },
        not: Matchers::default(),
        choice: Choice { policy, uplinks: lines.iter().map(|&line| (UplinkId(line), line + 1)).collect() },
        sticky: None,
        none,
        on_mismatch: OnMismatch::default(),
        hold: Duration::ZERO,
        live: Live::default(),
    };
    let all = vec![
        rule(1, Policy::Ordered, &[2, 0], WhenNone::NextRule),
        rule(2, Policy::Hash(HashKey::Client), &[0, 1, 2], WhenNone::Any),
        rule(3, Policy::RoundRobin, &[1, 3], WhenNone::Stop(NoLine::Reject)),
        rule(4, Policy::Ordered, &[3], WhenNone::Stop(NoLine::Drop)),
        rule(5, Policy::RoundRobin, &[0, 1], WhenNone::Stop(NoLine::Keep)),
    ];
    let some: Vec<Rule> = match which {
        0 => all,
        1 => all.into_iter().rev().collect(),
        2 => all.into_iter().skip(2).collect(),
        _ => Vec::new(),
    };
    Arc::new(RuleSet::compile(some))
}

/// A datagram of the flow with this number, to one of the ports that rules ask for, or to another.
fn udp(family: Family, flow: u32) -> Vec<u8> {
    let [a, b, c, d] = flow.to_be_bytes();
    let ports = [0x9c, 0x40, 0, d % 8, 0, 8, 0, 0];
    let header = match family {
        Family::V4 => vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, b, c, d, 198, 51, 100, a],
        Family::V6 => {
            let source = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d];
            let server = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
            [&[0x60, 0, 0, 0, 0, 8, 17, 64][..], &source, &server].concat()
        }
    };
    [header, ports.to_vec()].concat()
}

/// SplitMix64 (Steele, Lea and Flood 2014): the same events in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % most
    }

    fn family(&mut self) -> Family {
        Family::BOTH[self.below(2) as usize]
    }
}
