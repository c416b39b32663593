//! wansplit's own: the real engine decides about real packets, the real meters see what can be seen of the lines.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use wansplit::engine::flow::{Arrival, LanId, Millis};
use wansplit::engine::rule::RuleSet;
use wansplit::engine::rule::model::{Choice, Live, Matchers, OnMismatch, Policy, Rule, WhenNone};
use wansplit::engine::uplink::health::Estimates;
use wansplit::engine::uplink::load::{Crowd, Lines, Meter};
use wansplit::engine::uplink::{Board, UplinkId, UplinkSet};
use wansplit::engine::verdict::Action;
use wansplit::engine::{Engine, Now, Snapshot};

use crate::contender::{Contender, usable};
use crate::traffic::Begins;
use crate::world::World;

/// Threads that decide, each by what it knows itself.
const WORKERS: usize = 2;
/// Flows are counted every so many ticks: as the daemon does it where there are not too many.
const COUNTED: u64 = 2;

/// What is told to it, beside what it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    Nothing,
    /// What lines can carry.
    Capacities,
}

/// The engine, with what surrounds it in the daemon.
pub struct Ours {
    engines: Vec<Engine>,
    snapshot: Snapshot,
    meters: Vec<Meter>,
    began: Vec<u64>,
    /// How long each line is filled that comes back: as by default.
    fill: Vec<Duration>,
    /// Whether probes are sent.
    probes: bool,
    ticks: u64,
    flows: u32,
}

impl Ours {
    /// All flows by one policy, with these weights; what lines can carry is told or not.
    pub fn new(policy: Policy, weights: &[u8], world: &World, told: Told, probes: bool) -> Self {
        let uplinks = (0..).map(UplinkId).zip(weights.iter().copied()).collect();
        let rules = [rule(Choice { policy, uplinks })];
        let given = |capacity: f64| (told == Told::Capacities).then_some(capacity as u64);
        let board = Board { weights: weights.to_vec(), ..Board::default() };
        let mut ours = Ours {
            engines: (0..WORKERS).map(|_| Engine::new(65_536)).collect(),
            snapshot: Snapshot {
                rules: Arc::new(RuleSet::compile(&rules[..])),
                board,
                ..Snapshot::default()
            },
            meters: world.lines.iter().map(|line| Meter::new(line.capacity.map(given))).collect(),
            began: vec![0; world.lines.len()],
            fill: vec![Duration::from_secs(10); world.lines.len()],
            probes,
            ticks: 0,
            flows: 0,
        };
        ours.know_usable(world);
        ours
    }

    fn know_usable(&mut self, world: &World) {
        let usable_v4: UplinkSet = usable(world).into_iter().map(|line| UplinkId(line as u8)).collect();
        let before = &self.snapshot.board;
        if usable_v4 != before.usable_v4 {
            let board = Board { usable_v4, ..before.clone() };
            self.snapshot.filling = self.snapshot.filling.follow(before, &board, &self.fill, millis(world));
            self.snapshot.board = board;
        }
    }
}

impl Contender for Ours {
    fn choose(&mut self, begins: &Begins, world: &mut World) -> usize {
        self.know_usable(world);
        self.flows += 1;
        let packet = first_packet(begins, self.flows);
        let worker = usize::from(begins.client ^ begins.site) % WORKERS;
        let arrival = Arrival { lan: Some(LanId(0)), ..Arrival::default() };
        let now = Now { at: millis(world), ..Now::default() };
        let decided = self.engines[worker].decide(&self.snapshot, &packet, &arrival, now);
        let Action::Route(uplink) = decided.decision.action else { panic!("{decided:?}") };
        let line = usize::from(uplink.0);
        self.began[line] += 1;
        line
    }

    fn look(&mut self, world: &mut World) {
        self.ticks += 1;
        let now = millis(world);
        if self.ticks.is_multiple_of(COUNTED) {
            self.count_flows(world, now);
        }
        for ((meter, began), line) in self.meters.iter_mut().zip(&mut self.began).zip(&world.lines) {
            meter.carried(line.carried.map(|bytes| bytes as u64), now);
            meter.began(std::mem::take(began), now);
            if self.probes && line.works {
                meter.delay(0, Duration::from_secs_f64(line.latency + line.queue), now);
            }
        }
        self.know_usable(world);
        self.snapshot.lines = Arc::new(Lines {
            moment: self.ticks,
            loads: self.meters.iter().map(|meter| meter.load(now)).collect(),
            qualities: world.lines.iter().map(|line| [estimates(line.latency + line.queue); 2]).collect(),
        });
    }
}

impl Ours {
    fn count_flows(&mut self, world: &mut World, now: Millis) {
        let mut crowds = vec![Crowd::default(); self.meters.len()];
        for moved in world.take_moved() {
            crowds[moved.line].add(moved.bytes);
        }
        for (meter, crowd) in self.meters.iter_mut().zip(&crowds) {
            meter.shared_by(crowd, now);
        }
    }
}

fn estimates(latency: f64) -> Estimates {
    Estimates { latency: Some(Duration::from_secs_f64(latency)), ..Estimates::default() }
}

fn millis(world: &World) -> Millis {
    Millis((world.now * 1000.0) as u64)
}

fn rule(choice: Choice) -> Rule {
    Rule {
        name: "all".into(),
        origin: "all.toml:1".into(),
        matches: Matchers::default(),
        not: Matchers::default(),
        choice,
        sticky: None,
        none: WhenNone::NextRule,
        on_mismatch: OnMismatch::Keep,
        hold: Duration::ZERO,
        live: Live::Keep,
    }
}

/// A TCP SYN in IPv4 with a port of its own.
fn first_packet(begins: &Begins, number: u32) -> Vec<u8> {
    let (client, site) = (Ipv4Addr::new(10, 77, 0, begins.client), Ipv4Addr::new(198, 51, 100, begins.site));
    let port = (number % 60_000 + 1024) as u16;
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(client.octets().into_iter().chain(site.octets()));
    packet.extend(port.to_be_bytes().into_iter().chain(443_u16.to_be_bytes()));
    packet.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    packet
}
