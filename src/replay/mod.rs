//! Captures judged as if their packets came now: what each flow was taken for, its name, its rule
//! and its uplink.
//!
//! A capture is read once, in constant memory: flows are told about when they
//! end. All uplinks count as usable. What a TCP flow is decided by is what is
//! known when it begins, as on the router; a datagram's flow is decided when its
//! client has said what it is, or has let the time pass for which it is held.

pub mod capture;
pub mod file;
pub mod flows;
mod fragments;
pub mod link;
pub mod tunnel;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use capture::Frame;
use flows::{Flow, Flows, Seen, Tcp, millis};
use fragments::{Fragments, GivenUp};

use crate::config::Config;
use crate::engine::flow::{Arrival, Facts, LanId, LocalTime};
use crate::engine::names::Names;
use crate::engine::packet::{Fragment, Packet};
use crate::engine::sniff::{App, dns};
use crate::engine::sticky::Choices;
use crate::engine::{Engine, Snapshot};

/// Names that are remembered, of each kind.
const NAMES: usize = 16_384;

const TCP: u8 = 6;
const UDP: u8 = 17;
const DNS: u16 = 53;

/// Judges the packets of captures, one after the other.
pub struct Replay {
    fragments: Fragments,
    flows: Flows,
    names: Names,
    judge: Option<Judge>,
    /// What was read.
    pub counted: Counted,
}

/// What a replay has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// Frames.
    pub frames: u64,
    /// Of these, such that hold no IP packet that can be read, or a fragment without ports whose first one is
    /// missing.
    pub others: u64,
}

/// Decides flows by a configuration.
struct Judge {
    engine: Engine,
    snapshot: Snapshot,
    /// The LAN interface, where there is only one: captures do not name it.
    lan: Option<LanId>,
}

impl Replay {
    /// Begins; without a configuration flows are named and not decided.
    #[must_use]
    pub fn new(config: Option<&Config>) -> Self {
        let judge = config.map(Judge::new);
        Replay {
            fragments: Fragments::default(),
            flows: Flows::new(),
            names: Names::new(NAMES),
            judge,
            counted: Counted::default(),
        }
    }

    /// Takes in a frame; flows that have ended by now go to `ended`.
    pub fn frame(&mut self, frame: &Frame<'_>, ended: &mut dyn FnMut(Flow)) {
        self.counted.frames += 1;
        match link::ip_packet(frame.link, frame.bytes) {
            Some(packet) => self.ip_packet(packet, frame.at, ended),
            None => self.counted.others += 1,
        }
        while let Some(given_up) = self.fragments.give_up(frame.at) {
            self.first_of(&given_up, ended);
        }
    }

    /// Ends all flows that are left, in the order in which they began.
    pub fn end(&mut self, ended: &mut dyn FnMut(Flow)) {
        let given_up: Vec<GivenUp> = self.fragments.give_all_up().collect();
        given_up.iter().for_each(|given_up| self.first_of(given_up, ended));
        let judge = &mut self.judge;
        self.flows.end_all(&mut |flow| ended(finished(judge, flow)));
    }

    /// A fragment waits until its packet is whole, which may be a fragment's tunnel in turn.
    fn ip_packet(&mut self, bytes: &[u8], at: Duration, ended: &mut dyn FnMut(Flow)) {
        let mut whole = Cow::Borrowed(bytes);
        loop {
            let together = match tunnel::innermost(&whole) {
                Some((packet, fragment)) if packet.fragment != Fragment::Whole => {
                    self.fragments.add(fragment, at)
                }
                innermost => return self.innermost(innermost.map(|(packet, _)| packet), at, ended),
            };
            let Some(together) = together else { return };
            whole = Cow::Owned(together);
        }
    }

    fn innermost(&mut self, packet: Option<Packet<'_>>, at: Duration, ended: &mut dyn FnMut(Flow)) {
        match packet.and_then(|packet| Seen::new(packet, at)) {
            Some(seen) => self.packet(&seen, ended),
            None => self.counted.others += 1,
        }
    }

    /// What is known of a packet whose rest has not come.
    fn first_of(&mut self, given_up: &GivenUp, ended: &mut dyn FnMut(Flow)) {
        self.counted.others += given_up.others;
        if let Some(first) = &given_up.first {
            let packet = tunnel::innermost(first).map(|(packet, _)| packet);
            self.innermost(packet, given_up.began, ended);
        }
    }

    fn packet(&mut self, seen: &Seen<'_>, ended: &mut dyn FnMut(Flow)) {
        let judge = &mut self.judge;
        let flow = self.flows.add(seen, &self.names, &mut |flow| ended(finished(judge, flow)));
        if let Some(judge) = &mut self.judge {
            judge.hear(flow, seen);
        }
        self.learn(seen);
    }

    /// DNS answers teach names, on their way to whoever asked.
    fn learn(&self, seen: &Seen<'_>) {
        let is_answer =
            seen.packet.protocol == UDP && seen.packet.ports.is_some_and(|ports| ports.src == DNS);
        if is_answer {
            dns::answers(seen.data, |answer| {
                self.names.told(seen.packet.dst, answer.address, &answer.name, answer.ttl, millis(seen.at));
            });
        }
    }
}

/// A flow that has ended: decided by what was known in time, and named by all that was said.
fn finished(judge: &mut Option<Judge>, mut flow: Flow) -> Flow {
    if let Some(judge) = judge {
        judge.decide(&mut flow);
    }
    flow.take_what_is_there();
    flow
}

impl Judge {
    fn new(config: &Config) -> Self {
        let lan = (config.lan.len() == 1).then_some(LanId(0));
        let snapshot = Snapshot { choices: Arc::new(Choices::new(NAMES)), ..config.where_all_works() };
        Judge { engine: Engine::new(1), snapshot, lan }
    }

    /// A flow's first packet says what it is decided by; a later one may say its name in time.
    fn hear(&mut self, flow: &mut Flow, seen: &Seen<'_>) {
        if flow.packets == 1 {
            let arrival = Arrival { lan: self.lan, ..Arrival::default() };
            let facts = self.snapshot.placed(Facts::new(&seen.packet, &arrival, local_time(seen.at)));
            let icmp = facts.icmp;
            let key = if icmp.is_some() { facts.key } else { flow.key };
            flow.facts = Some(Facts { key, ..facts });
        }
        let waits = seen.packet.protocol == UDP && flow.is_listened_to();
        if !waits {
            self.decide(flow);
        }
    }

    fn decide(&mut self, flow: &mut Flow) {
        let Some(facts) = flow.facts.as_mut().filter(|_| flow.decision.is_none()) else { return };
        let is_question = matches!(flow.app, Some(App::Dns | App::Mdns));
        facts.name = flow.name.map(|learned| learned.name).filter(|_| !is_question);
        facts.app = flow.app;
        facts.alpn = flow.alpn;
        let now = millis(flow.last);
        flow.decision = Some(self.engine.judge(&self.snapshot, facts, now));
    }
}

/// The time of day of a capture, in UTC: it does not say where it was made.
fn local_time(at: Duration) -> LocalTime {
    let minutes = at.as_secs() / 60;
    // 1970 began on a Thursday.
    let weekday = ((minutes / 1440 + 3) % 7) as u8;
    LocalTime { weekday, minute: (minutes % 1440) as u16 }
}

impl<'a> Seen<'a> {
    fn new(packet: Packet<'a>, at: Duration) -> Option<Self> {
        let payload = packet.payload;
        let (tcp, data) = match packet.protocol {
            // It has no ports.
            _ if packet.fragment == Fragment::Later => return None,
            TCP => {
                let (tcp, data) = Tcp::read(payload)?;
                (Some(tcp), data)
            }
            UDP => (None, payload.get(8..)?),
            _ => (None, &[][..]),
        };
        Some(Seen { packet, at, tcp, data })
    }
}

impl Tcp {
    /// The header (RFC 9293, section 3.1) and what follows it.
    fn read(segment: &[u8]) -> Option<(Tcp, &[u8])> {
        let head = segment.first_chunk::<20>()?;
        let (offset, flags) = (usize::from(head[12] >> 4) * 4, head[13]);
        let tcp = Tcp {
            sequence: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
            syn: flags & 0x02 != 0,
            ack: flags & 0x10 != 0,
            ends: flags & 0x05 != 0,
        };
        Some((tcp, segment.get(offset.max(20)..).unwrap_or_default()))
    }
}
