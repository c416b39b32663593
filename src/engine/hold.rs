//! Flows that wait until their client has said its name.
//!
//! A ClientHello takes two datagrams or more today. Where a rule asks for what stands at its end, all
//! datagrams of the flow are kept back until it is whole, until the rule's `hold` is over, or until
//! there is no more room; then the flow is decided once, and all are answered alike and in order.
//!
//! A state machine: packets go in by [`Holding::take`], time by [`Holding::expire`], and what
//! is to be answered comes out. [`Holding::next_deadline`] says when to come back.
//!
//! Bounds: [`MOST_PACKETS`] for all flows together, [`DATAGRAMS`] for one, [`KEPT`] bytes of its first
//! packet, and those of [`Watch`].

use std::collections::BTreeMap;

use foldhash::quality::RandomState;
use hashbrown::HashMap;

use super::flow::{Arrival, FlowKey, Millis};
use super::sniff::Ports;
use super::sniff::watch::{DATAGRAMS, Watch};
use super::verdict::Action;
use super::{Decided, Engine, Now, Snapshot, datagram_of, whole};

/// Packets that may wait at one time. Until January 2026 the kernel walked along all that wait in a
/// queue to answer one, so more would cost more than they are worth.
pub const MOST_PACKETS: usize = 16_384;

/// Bytes of a flow's first packet that are kept: as many as a worker sees of a packet.
const KEPT: usize = 2048;

/// By what a waiting packet is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The queue's number for it.
    pub id: u32,
    /// Its mark.
    pub mark: u32,
}

/// Packets of one flow that are to be answered now, alike and in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// What was decided about the first of them.
    pub decided: Decided,
    /// How that one came in.
    pub arrival: Arrival,
    /// The packets; at least one.
    pub packets: Vec<Ticket>,
}

/// What became of flows that were held: those that wait now are the difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Flows that were held, for however short a time.
    pub held: u64,
    /// Their client said all that it has to say in time.
    pub told: u64,
    /// The time was over before that.
    pub expired: u64,
    /// There was no more room before that.
    pub crowded: u64,
}

/// The flows that wait, and the memory of those that were decided.
#[derive(Debug)]
pub struct Holding {
    engine: Engine,
    flows: HashMap<FlowKey, Held, RandomState>,
    /// The flows by their deadlines.
    deadlines: BTreeMap<Deadline, FlowKey>,
    packets: usize,
    room: usize,
    counts: Counts,
}

/// When a flow has waited long enough, and a number that tells flows of one deadline apart.
type Deadline = (Millis, u64);

/// A flow that waits.
#[derive(Debug)]
pub(super) struct Held {
    /// The beginning of its first packet.
    pub(super) first: Vec<u8>,
    /// How that came in; stale as soon as one of the flow's packets is.
    pub(super) arrival: Arrival,
    /// What its client has said.
    pub(super) watch: Watch,
    packets: Vec<Ticket>,
    deadline: Deadline,
}

impl Holding {
    /// Remembers at most `capacity` flows that began lately, and keeps at most `room` packets waiting
    /// ([`MOST_PACKETS`]).
    #[must_use]
    pub fn new(capacity: usize, room: usize) -> Self {
        Holding {
            room,
            engine: Engine::new(capacity),
            flows: HashMap::default(),
            deadlines: BTreeMap::new(),
            packets: 0,
            counts: Counts::default(),
        }
    }

    /// A packet comes: what is to be answered now; none where it waits.
    pub fn take(
        &mut self,
        snapshot: &Snapshot,
        bytes: &[u8],
        ticket: Ticket,
        arrival: &Arrival,
        now: Now,
    ) -> Option<Release> {
        let decided = self.engine.decide(snapshot, bytes, arrival, now);
        let (Some(key), Action::Hold(most)) = (decided.key, decided.decision.action) else {
            return Some(Release { decided, arrival: *arrival, packets: vec![ticket] });
        };
        // One that the engine has forgotten meanwhile waits on.
        if !self.flows.contains_key(&key) {
            self.begin(key, bytes, arrival, now.at.after(most));
        }
        let held = self.flows.get_mut(&key)?;
        held.hear(bytes, ticket, arrival);
        self.packets += 1;
        if held.watch.is_over() {
            self.counts.told += 1;
        } else if held.is_full() || self.packets > self.room {
            self.counts.crowded += 1;
        } else {
            return None;
        }
        self.release(snapshot, key, now)
    }

    /// The next flow whose time is over; `stale`: an answer now may come after the gate has closed.
    pub fn expire(&mut self, snapshot: &Snapshot, stale: bool, now: Now) -> Option<Release> {
        let key = *self.deadlines.first_entry().filter(|next| next.key().0 <= now.at)?.get();
        self.flows.get_mut(&key)?.arrival.stale |= stale;
        self.counts.expired += 1;
        self.release(snapshot, key, now)
    }

    /// When the time of the next flow is over; none: nothing waits.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        self.deadlines.first_key_value().map(|((at, _), _)| *at)
    }

    /// What became of flows that were held.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn begin(&mut self, key: FlowKey, bytes: &[u8], arrival: &Arrival, until: Millis) {
        self.counts.held += 1;
        let deadline = (until, self.counts.held);
        self.deadlines.insert(deadline, key);
        self.flows.insert(
            key,
            Held {
                first: bytes[..bytes.len().min(KEPT)].to_vec(),
                arrival: *arrival,
                watch: Watch::datagrams(Ports { src: key.src_port, dst: key.dst_port }),
                packets: Vec::new(),
                deadline,
            },
        );
    }

    fn release(&mut self, snapshot: &Snapshot, key: FlowKey, now: Now) -> Option<Release> {
        let held = self.flows.remove(&key)?;
        self.deadlines.remove(&held.deadline);
        self.packets -= held.packets.len();
        let decided = self.engine.decide_held(snapshot, key, &held, now);
        Some(Release { decided, arrival: held.arrival, packets: held.packets })
    }
}

impl Counts {
    /// Flows that wait now.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.held - self.told - self.expired - self.crowded
    }
}

impl Held {
    fn hear(&mut self, bytes: &[u8], ticket: Ticket, arrival: &Arrival) {
        if let Ok(packet) = whole(bytes) {
            self.watch.datagram(datagram_of(&packet).unwrap_or_default());
        }
        self.packets.push(ticket);
        self.arrival.stale |= arrival.stale;
    }

    /// Whether as many packets wait as may, or the gate has closed: then the kernel's choice stands.
    fn is_full(&self) -> bool {
        self.packets.len() >= usize::from(DATAGRAMS) || self.arrival.stale
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::packet::Family;
    use super::super::packet::samples::Builder;
    use super::super::rule::arbitrary::rule;
    use super::super::rule::hosts::HostName;
    use super::super::rule::model::{Choice, Matchers, Policy, Rule, RuleId};
    use super::super::sniff::quic;
    use super::super::uplink::UplinkId;
    use super::super::verdict::Decision;
    use super::super::verdict::Reason;
    use super::*;

    /// Packets that may wait in these tests.
    const ROOM: usize = 20;

    #[test]
    fn a_hello_over_two_datagrams_is_decided_by_its_name_and_both_go_alike() {
        for family in Family::BOTH {
            let mut router = Router::new(20);
            assert_eq!(router.take(family, 1, &hello()[0]), None);
            assert_eq!(router.holding.next_deadline(), Some(Millis(20)));
            router.now.at = Millis(5);
            let release = router.take(family, 1, &hello()[1]).unwrap();
            assert_eq!(release.decided.decision, by_the_rule());
            assert!(release.decided.first);
            assert_eq!(ids(&release), [1, 2]);
            let later = router.take(family, 1, &hello()[1]).unwrap();
            assert_eq!(later.decided.decision, Decision { reason: Reason::Remembered, ..by_the_rule() });
            assert_eq!(router.holding.counts(), Counts { held: 1, told: 1, ..Counts::default() });
            assert_eq!((router.holding.next_deadline(), router.holding.packets), (None, 0));
        }
    }

    #[test]
    fn a_name_that_comes_too_late_does_not_change_what_was_decided() {
        let mut router = Router::new(20);
        assert_eq!(router.take(Family::V4, 1, &hello()[0]), None);
        router.now.at = Millis(19);
        assert_eq!(router.expire(), None);
        router.now.at = Millis(20);
        let release = router.expire().unwrap();
        assert_eq!(release.decided.decision.reason, Reason::NoRule);
        assert_eq!(router.expire(), None);
        let later = router.take(Family::V4, 1, &hello()[1]).unwrap();
        assert_eq!(later.decided.decision.action, release.decided.decision.action);
        assert_eq!(router.holding.counts(), Counts { held: 1, expired: 1, ..Counts::default() });
    }

    #[test]
    fn flows_are_let_go_in_the_order_of_their_deadlines() {
        let mut router = Router::new(20);
        for port in [7, 3, 5] {
            assert_eq!(router.take(Family::V6, port, &hello()[0]), None);
            router.now.at = router.now.at.after(Duration::from_millis(1));
        }
        router.now.at = Millis(1000);
        let ports: Vec<_> = std::iter::from_fn(|| router.expire())
            .map(|release| release.decided.key.unwrap().src_port)
            .collect();
        assert_eq!(ports, [7, 3, 5]);
        assert_eq!(router.holding.counts().waiting(), 0);
    }

    #[test]
    fn with_a_hold_of_nothing_nothing_is_held() {
        let mut router = Router::new(0);
        let release = router.take(Family::V4, 1, &hello()[0]).unwrap();
        assert_eq!(release.decided.decision.reason, Reason::NoRule);
        assert_eq!(router.holding.counts(), Counts::default());
    }

    #[test]
    fn a_flow_that_says_nothing_to_the_end_waits_with_at_most_eight_packets() {
        let mut router = Router::new(1000);
        for _ in 1..DATAGRAMS {
            assert_eq!(router.take(Family::V4, 1, &hello()[0]), None);
        }
        let release = router.take(Family::V4, 1, &hello()[0]).unwrap();
        assert_eq!(release.packets.len(), usize::from(DATAGRAMS));
        assert_eq!(release.decided.decision.reason, Reason::NoRule);
    }

    #[test]
    fn without_room_a_flow_is_decided_by_what_is_known() {
        let mut router = Router::new(1000);
        for port in 0..ROOM as u16 {
            assert_eq!(router.take(Family::V4, port, &hello()[0]), None);
        }
        let refused = router.take(Family::V4, 60_000, &hello()[0]).unwrap();
        assert_eq!((refused.packets.len(), refused.decided.decision.reason), (1, Reason::NoRule));
        let told = router.take(Family::V4, 5, &hello()[1]).unwrap();
        assert_eq!(told.decided.decision, by_the_rule());
        let counts = router.holding.counts();
        assert_eq!((counts.told, counts.crowded, counts.waiting()), (1, 1, ROOM as u64 - 1));
    }

    #[test]
    fn when_the_gate_has_closed_what_waits_keeps_the_kernels_choice() {
        let mut router = Router::new(20);
        assert_eq!(router.take(Family::V4, 1, &hello()[0]), None);
        assert_eq!(router.take(Family::V4, 2, &hello()[0]), None);
        router.arrival.stale = true;
        let release = router.take(Family::V4, 1, &hello()[1]).unwrap();
        assert_eq!(release.decided.decision, Decision::keep(Reason::Stale, None));
        assert_eq!(ids(&release), [1, 3]);
        router.now.at = Millis(20);
        let release = router.expire().unwrap();
        assert_eq!(release.decided.decision, Decision::keep(Reason::Stale, None));
    }

    #[test]
    fn a_datagram_that_says_all_at_once_is_not_held() {
        let mut router = Router::new(20);
        let whole = quic::samples::datagrams_of("www.video.example", &[]);
        assert_eq!(router.take(Family::V4, 1, &whole[0]).unwrap().decided.decision, by_the_rule());
        assert_eq!(router.take(Family::V4, 2, &[1; 100]).unwrap().decided.decision.reason, Reason::NoRule);
    }

    fn hello() -> Vec<Vec<u8>> {
        quic::samples::datagrams_of("www.video.example", &[900])
    }

    fn by_the_rule() -> Decision {
        Decision::route(UplinkId(1), Reason::RuleMatched, Some(RuleId(0)))
    }

    fn ids(release: &Release) -> Vec<u32> {
        release.packets.iter().map(|ticket| ticket.id).collect()
    }

    /// Holds flows for a rule about a name, for its second uplink.
    struct Router {
        holding: Holding,
        snapshot: Snapshot,
        arrival: Arrival,
        now: Now,
        packets: u32,
    }

    impl Router {
        fn new(millis: u64) -> Self {
            let host = vec![HostName::parse("*.video.example").unwrap()];
            let by_name = Rule {
                choice: Choice { policy: Policy::Ordered, uplinks: vec![(UplinkId(1), 1)] },
                hold: Duration::from_millis(millis),
                ..rule(Matchers { host, ..Matchers::default() }, Matchers::default())
            };
            let snapshot = Snapshot::where_all_works([by_name].into(), std::sync::Arc::default(), vec![1, 1]);
            let (arrival, now) = (Arrival::default(), Now::default());
            Router { holding: Holding::new(65_536, ROOM), snapshot, arrival, now, packets: 0 }
        }

        fn take(&mut self, family: Family, port: u16, data: &[u8]) -> Option<Release> {
            self.packets += 1;
            let ticket = Ticket { id: self.packets, mark: 0 };
            let packet = Builder::new(family).datagram(port, 443, data).build();
            self.holding.take(&self.snapshot, &packet, ticket, &self.arrival, self.now)
        }

        fn expire(&mut self) -> Option<Release> {
            self.holding.expire(&self.snapshot, self.arrival.stale, self.now)
        }
    }
}
