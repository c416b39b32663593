//! Which line each flow was meant to leave by, and which it did leave by.
//!
//! Fed with captured packets and with decisions, in any order and while both go
//! on; each flow is judged once, when both are known. It remembers a bounded
//! number of flows for a while, so a lab may run for days.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::capture::{Direction, Record};
use super::facts::FlowFacts;
use super::flows::FlowId;
use super::network::IspLine;

/// Most flows remembered at one time; no new ones are judged beyond it.
const MOST_FLOWS: usize = 200_000;

/// A flow of which nothing was heard for so long is forgotten. Well below the time after which
/// the lab's clients use a port again.
const FORGET: Duration = Duration::from_secs(100);

/// Echo requests of ICMP and ICMPv6 in terms of [`FlowId::dst_port`]: type × 256.
const ECHO_REQUESTS: [u16; 2] = [8 << 8, 128 << 8];

/// A flow's way.
#[derive(Debug, Default)]
pub struct Ledger {
    flows: HashMap<FlowId, Entry>,
    facts: FlowFacts,
    /// Packets with somebody else's source, by line.
    strays: HashMap<usize, u64>,
}

#[derive(Debug)]
struct Entry {
    chosen: Option<usize>,
    carried: Option<usize>,
    split: bool,
    last: Instant,
}

impl Ledger {
    /// Takes in captured packets; those that did not leave by a line are left out.
    pub fn capture(&mut self, records: &[Record], lines: &[IspLine]) {
        for record in records.iter().filter(|record| record.direction == Direction::Out) {
            let Some(line) = lines.iter().position(|line| *line.device == *record.device) else { continue };
            if !lines[line].sources.contains(record.key.src) {
                *self.strays.entry(line).or_default() += 1;
            }
            if !record.later_fragment && is_flow(record) {
                self.carry(FlowId::of(record), line, record.at);
            }
        }
    }

    /// Counts packets that the capture has missed.
    pub fn miss(&mut self, packets: u64) {
        self.facts.packets_missed += packets;
    }

    /// Takes in that a flow is to leave by a line, counted from 0.
    pub fn choose(&mut self, flow: FlowId, line: usize, now: Instant) {
        let Some(entry) = self.entry(flow, now) else { return };
        if entry.chosen.replace(line).is_none() && entry.carried.is_some() {
            let carried = entry.carried;
            self.compare(Some(line), carried);
        }
    }

    /// Forgets flows that are over.
    pub fn forget(&mut self, now: Instant) {
        self.flows.retain(|_, entry| now.saturating_duration_since(entry.last) < FORGET);
    }

    /// What it has found so far.
    #[must_use]
    pub fn facts(&self) -> FlowFacts {
        self.facts
    }

    /// Packets that left by a line with somebody else's source.
    #[must_use]
    pub fn strays(&self, line: usize) -> u64 {
        self.strays.get(&line).copied().unwrap_or(0)
    }

    fn carry(&mut self, flow: FlowId, line: usize, at: Instant) {
        let Some(entry) = self.entry(flow, at) else { return };
        entry.last = at;
        match entry.carried {
            None => {
                entry.carried = Some(line);
                let chosen = entry.chosen;
                self.facts.seen += 1;
                self.compare(chosen, Some(line));
            }
            Some(before) if before != line && !entry.split => {
                entry.split = true;
                self.facts.split += 1;
            }
            Some(_) => {}
        }
    }

    fn compare(&mut self, chosen: Option<usize>, carried: Option<usize>) {
        if chosen.is_some() {
            self.facts.compared += 1;
            self.facts.misrouted += u64::from(chosen != carried);
        }
    }

    fn entry(&mut self, flow: FlowId, now: Instant) -> Option<&mut Entry> {
        if self.flows.len() >= MOST_FLOWS && !self.flows.contains_key(&flow) {
            return None;
        }
        let fresh = || Entry { chosen: None, carried: None, split: false, last: now };
        Some(self.flows.entry(flow).or_insert_with(fresh))
    }
}

/// TCP, UDP and echo requests; errors of ICMP are answers to others' flows.
fn is_flow(record: &Record) -> bool {
    matches!(record.key.protocol, 6 | 17) || ECHO_REQUESTS.contains(&record.key.dst_port)
}

/// The flow of a decision as the daemon tells it: `tcp 10.77.0.5:40000 > 198.51.100.7:22`,
/// `icmp 10.77.0.5 > 192.0.2.1 id 7`. Others have nothing to tell them apart: `None`.
#[must_use]
pub fn parse_flow(text: &str) -> Option<FlowId> {
    let words: Vec<&str> = text.split(' ').collect();
    let ends = |protocol, src: &str, dst: &str| {
        let (src, dst): (SocketAddr, SocketAddr) = (src.parse().ok()?, dst.parse().ok()?);
        Some(FlowId { protocol, dst: dst.ip(), dst_port: dst.port(), src_port: src.port() })
    };
    let echo = |protocol, kind: usize, dst: &str, id: &str| {
        let dst: IpAddr = dst.parse().ok()?;
        Some(FlowId { protocol, dst, dst_port: ECHO_REQUESTS[kind], src_port: id.parse().ok()? })
    };
    match words[..] {
        ["tcp", src, ">", dst] => ends(6, src, dst),
        ["udp", src, ">", dst] => ends(17, src, dst),
        ["icmp", _, ">", dst, "id", id] => echo(1, 0, dst, id),
        ["icmpv6", _, ">", dst, "id", id] => echo(58, 1, dst, id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_compared_once_whichever_came_first_the_packet_or_the_decision() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.choose(flow(1), 0, now);
        ledger.carry(flow(1), 0, now);
        ledger.carry(flow(2), 1, now);
        ledger.choose(flow(2), 1, now);
        ledger.choose(flow(2), 1, now);
        ledger.carry(flow(2), 1, now);
        assert_eq!(ledger.facts(), FlowFacts { seen: 2, compared: 2, ..FlowFacts::default() });
    }

    #[test]
    fn a_flow_by_another_line_and_a_flow_by_two_lines_are_told_apart() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.choose(flow(1), 0, now);
        ledger.carry(flow(1), 1, now);
        ledger.carry(flow(2), 0, now);
        ledger.carry(flow(2), 1, now);
        ledger.carry(flow(2), 0, now);
        let expected = FlowFacts { seen: 2, compared: 1, misrouted: 1, split: 1, packets_missed: 0 };
        assert_eq!(ledger.facts(), expected);
    }

    #[test]
    fn a_port_used_again_after_a_while_is_another_flow() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.carry(flow(1), 0, now);
        ledger.forget(now + FORGET);
        ledger.carry(flow(1), 1, now + FORGET);
        assert_eq!(ledger.facts(), FlowFacts { seen: 2, ..FlowFacts::default() });
    }

    #[test]
    fn flows_are_read_as_the_daemon_writes_them() {
        assert_eq!(parse_flow("tcp 10.77.0.11:1 > 192.0.2.1:22"), Some(flow(1)));
        let ping = parse_flow("icmpv6 fd00:77::b > 2001:db8:ffff::1 id 9").unwrap();
        assert_eq!((ping.protocol, ping.dst_port, ping.src_port), (58, 0x8000, 9));
        assert!(parse_flow("udp [fd00:77::b]:9 > [2001:db8:ffff::1]:53").is_some());
        for other in ["", "gre 10.77.0.11 > 192.0.2.1", "tcp nonsense > 192.0.2.1:22", "tcp 1 2 3 4 5"] {
            assert_eq!(parse_flow(other), None, "{other}");
        }
    }

    fn flow(src_port: u16) -> FlowId {
        FlowId { protocol: 6, dst: [192, 0, 2, 1].into(), dst_port: 22, src_port }
    }
}
