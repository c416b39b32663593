//! TCP connections whose clients are listened to: what they say is for the next connection.
//!
//! A connection is bound to its uplink by its first packet, which says nothing. So its next few
//! packets pass by here, each goes on at once, and the name that the client says is remembered for
//! itself and for others. When it is known, or will not be, the kernel carries the connection alone.
//!
//! Bounds: [`MOST`] connections, [`PACKETS`] packets of each, the bytes of a [`Watch`]. Who finds no room
//! pushes out the oldest, which is taken up again where it goes on: only a client that has
//! begun to speak is not understood then.

use std::collections::VecDeque;
use std::time::Duration;

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::flow::{Arrival, Facts, FlowKey};
use super::memory::Memory;
use super::packet::Packet;
use super::rule::model::OnMismatch;
use super::sniff::Ports;
use super::sniff::watch::{Known, Watch};
use super::uplink::{UplinkId, pick};
use super::{Now, Snapshot, TCP, whole, winner};

/// Connections that are listened to at one time.
pub const MOST: usize = 4096;

/// Packets of a client that are listened to. A ClientHello takes three, with what confirms the handshake;
/// in mail, file transfer and shells the server speaks first, and some talk comes before a name.
const PACKETS: u8 = 16;

/// How seldom a client's connections to one address may be reset.
pub const RESET_EVERY: Duration = Duration::from_secs(60);

/// Resets that are remembered.
const RESETS: usize = 4096;

/// What becomes of a connection of which a packet passed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Its next packet is wanted too.
    GoOn,
    /// It has been heard.
    Over,
    /// It is on the wrong line, and is to be reset.
    Reset {
        /// The client's next sequence number: that of the packet.
        sequence: u32,
    },
}

/// What was heard so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Connections that were listened to; once more where a packet was on its way already when all
    /// had been heard.
    pub watched: u64,
    /// Their clients said a name.
    pub named: u64,
    /// A rule would have sent them by another line.
    pub elsewhere: u64,
    /// They were reset for that.
    pub reset: u64,
}

/// The connections that are listened to.
#[derive(Debug)]
pub struct Watching {
    flows: HashMap<FlowKey, Listened, RandomState>,
    /// In the order in which they came; numbers tell a connection from an earlier one.
    order: VecDeque<(FlowKey, u64)>,
    resets: Memory<(std::net::IpAddr, std::net::IpAddr), ()>,
    counts: Counts,
}

#[derive(Debug)]
struct Listened {
    watch: Watch,
    packets: u8,
    number: u64,
}

/// A segment from a client.
struct Segment<'a> {
    sequence: u32,
    /// It ends the connection.
    ends: bool,
    data: &'a [u8],
}

impl Default for Watching {
    fn default() -> Self {
        let (flows, order) = Default::default();
        Watching { flows, order, resets: Memory::new(RESETS), counts: Counts::default() }
    }
}

impl Watching {
    /// A packet of a connection that is on this line passes by.
    pub fn hear(
        &mut self,
        snapshot: &Snapshot,
        bytes: &[u8],
        on: UplinkId,
        arrival: &Arrival,
        now: Now,
    ) -> Next {
        let Ok(packet) = whole(bytes) else { return Next::Over };
        let Some(segment) = Segment::of(&packet) else { return Next::Over };
        let key = FlowKey::of(&packet);
        let listened = self.listen(key, &segment);
        listened.packets = listened.packets.saturating_add(1);
        listened.watch.segment(segment.sequence, false, segment.data);
        if !listened.watch.is_over() && listened.packets < PACKETS && !segment.ends {
            return Next::GoOn;
        }
        let known = *listened.watch.known();
        self.flows.remove(&key);
        let facts = Facts::new(&packet, arrival, now.local);
        match self.judge(snapshot, facts, &known, on, now) {
            OnMismatch::Keep => Next::Over,
            OnMismatch::Reset => Next::Reset { sequence: segment.sequence },
        }
    }

    /// What was heard so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The first packet is the one behind the SYN; or the first since we listen, or since it was pushed out.
    fn listen(&mut self, key: FlowKey, segment: &Segment) -> &mut Listened {
        let counts = &mut self.counts;
        if !self.flows.contains_key(&key) {
            counts.watched += 1;
            make_room(&mut self.flows, &mut self.order);
            self.order.push_back((key, counts.watched));
        }
        match self.flows.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let mut watch = Watch::stream(Ports { src: key.src_port, dst: key.dst_port });
                watch.segment(segment.sequence.wrapping_sub(1), true, &[]);
                entry.insert(Listened { watch, packets: 0, number: counts.watched })
            }
        }
    }

    /// Remembers the name, and tells what its rule wants of a connection on this line.
    fn judge(
        &mut self,
        snapshot: &Snapshot,
        facts: Facts,
        known: &Known,
        on: UplinkId,
        now: Now,
    ) -> OnMismatch {
        // The name of a front is not the site's.
        let Some(name) = known.name.filter(|_| !known.outer) else { return OnMismatch::Keep };
        let key = facts.key;
        self.counts.named += 1;
        snapshot.names.said(key.src, key.dst, key.dst_port, &name, now.at);
        // As the next connection will be seen, of which more than the name is not known either.
        let facts = snapshot.placed(Facts { name: Some(name), ..facts });
        let Some(wanted) = wanted_elsewhere(snapshot, &facts, on) else { return OnMismatch::Keep };
        self.counts.elsewhere += 1;
        let pair = (key.src, key.dst);
        if wanted == OnMismatch::Keep || self.resets.find(key.src, &pair, now.at, |()| ()).is_some() {
            return OnMismatch::Keep;
        }
        self.resets.keep(key.src, pair, (), now.at.after(RESET_EVERY));
        self.counts.reset += 1;
        OnMismatch::Reset
    }
}

/// Forgets the oldest where there are too many, and those before it that are over.
fn make_room(flows: &mut HashMap<FlowKey, Listened, RandomState>, order: &mut VecDeque<(FlowKey, u64)>) {
    while let Some(&(key, number)) = order.front() {
        let is_there = flows.get(&key).is_some_and(|listened| listened.number == number);
        if is_there && flows.len() < MOST && order.len() < 2 * MOST {
            return;
        }
        order.pop_front();
        if is_there {
            flows.remove(&key);
        }
    }
}

/// What the rule that matches now wants, where it does not use this line and could use another.
fn wanted_elsewhere(snapshot: &Snapshot, facts: &Facts, on: UplinkId) -> Option<OnMismatch> {
    let rule = snapshot.rules.rule(winner(snapshot, facts)?)?;
    let uplinks = rule.choice.uplinks.iter().copied();
    let is_possible = uplinks.clone().any(|(uplink, _)| uplink == on);
    let other = pick::ordered(uplinks, snapshot.board.usable(facts.family));
    other.filter(|_| !is_possible).map(|_| rule.on_mismatch)
}

impl<'a> Segment<'a> {
    /// RFC 9293, section 3.1.
    fn of(packet: &Packet<'a>) -> Option<Self> {
        let header = packet.payload.first_chunk::<20>().filter(|_| packet.protocol == TCP)?;
        let [.., a, b, c, d] = *header.first_chunk::<8>()?;
        let data = packet.payload.get(usize::from(header[12] >> 4) * 4..)?;
        const FIN_OR_RST: u8 = 0b101;
        Some(Segment { sequence: u32::from_be_bytes([a, b, c, d]), ends: header[13] & FIN_OR_RST != 0, data })
    }
}

#[cfg(test)]
mod tests {
    use super::super::flow::Millis;
    use super::super::names::Origin;
    use super::super::packet::Family;
    use super::super::packet::samples::Builder;
    use super::super::rule::arbitrary::rule;
    use super::super::rule::hosts::HostName;
    use super::super::rule::model::{Choice, Matchers, Policy, Rule};
    use super::super::sniff::Name;
    use super::super::sniff::tls::samples::Sample;
    use super::*;

    const ON: UplinkId = UplinkId(0);

    #[test]
    fn a_name_over_two_segments_is_learned_in_any_order() {
        let hello = hello();
        let (one, two) = hello.split_at(500);
        for family in Family::BOTH {
            for order in [[(1, one), (501, two)], [(501, two), (1, one)]] {
                let mut router = Router::new(OnMismatch::Keep);
                assert_eq!(router.hear(family, 1, &[]), Next::GoOn);
                assert_eq!(router.hear(family, order[0].0, order[0].1), Next::GoOn);
                assert_eq!(router.hear(family, order[1].0, order[1].1), Next::Over);
                let (client, server) = super::super::packet::samples::addresses(family);
                let name = Name::new(b"www.video.example").unwrap();
                let told = router.snapshot.names.of(client, server, 443, router.now.at);
                assert_eq!(told, Some((name, Origin::Said)));
                assert_eq!((router.watching.counts().named, router.watching.flows.len()), (1, 0));
            }
        }
    }

    #[test]
    fn a_connection_on_the_wrong_line_is_reset_once_a_minute_where_its_rule_says_so() {
        let mut router = Router::new(OnMismatch::Reset);
        assert_eq!(router.hear(Family::V4, 7, &hello()), Next::Reset { sequence: 7 });
        assert_eq!(router.hear(Family::V4, 7, &hello()), Next::Over);
        router.now.at = Millis(59_999);
        assert_eq!(router.hear(Family::V4, 7, &hello()), Next::Over);
        router.now.at = Millis(60_000);
        assert_eq!(router.hear(Family::V4, 7, &hello()), Next::Reset { sequence: 7 });
        let counts = router.watching.counts();
        assert_eq!((counts.elsewhere, counts.reset, counts.watched), (4, 2, 4));
    }

    #[test]
    fn a_connection_that_is_right_or_can_go_nowhere_else_is_not_reset() {
        let mut router = Router::new(OnMismatch::Reset);
        router.on = UplinkId(1);
        assert_eq!(router.hear(Family::V4, 7, &hello()), Next::Over);
        router.on = ON;
        router.snapshot.board.usable_v4 = [ON].into_iter().collect();
        assert_eq!(router.hear(Family::V4, 7, &hello()), Next::Over);
        assert_eq!(router.watching.counts().elsewhere, 0);
    }

    #[test]
    fn a_connection_is_not_listened_to_for_ever() {
        let mut router = Router::new(OnMismatch::Keep);
        for _ in 1..PACKETS {
            assert_eq!(router.hear(Family::V4, 1, &[]), Next::GoOn);
        }
        assert_eq!(router.hear(Family::V4, 1, &[]), Next::Over);
        assert_eq!(router.hear(Family::V4, 1, &[0xff; 100]), Next::Over);
        assert_eq!(router.watching.counts().named, 0);
    }

    #[test]
    fn silent_connections_push_each_other_out_and_take_no_more_room() {
        let mut router = Router::new(OnMismatch::Keep);
        for port in 0..=60_000 {
            router.port = port;
            assert_eq!(router.hear(Family::V4, 1, &[]), Next::GoOn);
            assert!(router.watching.flows.len() <= MOST && router.watching.order.len() <= 2 * MOST);
        }
        router.port = 5;
        assert_eq!(router.hear(Family::V4, 1, &hello()), Next::Over);
        assert_eq!(router.watching.counts().named, 1);
    }

    fn hello() -> Vec<u8> {
        Sample::default().large().name(b"www.video.example").records(usize::MAX)
    }

    struct Router {
        watching: Watching,
        snapshot: Snapshot,
        on: UplinkId,
        port: u16,
        now: Now,
    }

    impl Router {
        /// A rule sends a site by the second line.
        fn new(on_mismatch: OnMismatch) -> Self {
            let host = vec![HostName::parse("*.video.example").unwrap()];
            let choice = Choice { policy: Policy::Ordered, uplinks: vec![(UplinkId(1), 1)] };
            let matches = Matchers { host, ..Matchers::default() };
            let rules = [Rule { choice, on_mismatch, ..rule(matches, Matchers::default()) }];
            let snapshot = Snapshot::where_all_works(rules.into(), std::sync::Arc::default(), vec![1, 1]);
            Router { watching: Watching::default(), snapshot, on: ON, port: 40_000, now: Now::default() }
        }

        fn hear(&mut self, family: Family, sequence: u32, data: &[u8]) -> Next {
            let ports = [self.port, 443].map(u16::to_be_bytes).concat();
            let rest = [0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0];
            let segment = [&ports[..], &sequence.to_be_bytes(), &rest, data].concat();
            let packet = Builder::new(family).payload(TCP, &segment).build();
            self.watching.hear(&self.snapshot, &packet, self.on, &Arrival::default(), self.now)
        }
    }
}
