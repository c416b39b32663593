//! [`Silence`]: notices a line on which new flows stop getting answers, from the flows themselves.
//!
//! Some of the TCP connections that begin on a line are looked at a second later. Several in
//! a row without an answer, to several hosts, make the line suspect; one answer clears it. So a
//! client that tries one dead host again and again says nothing of the line.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::UplinkId;
use crate::engine::flow::{FlowKey, Millis};
use crate::engine::packet::Family;

/// When a connection is looked at: before its client asks a second time (RFC 6298 section 2.1), on most lines well
/// after an answer has come.
const PATIENCE: Duration = Duration::from_secs(1);
/// Connections that may wait to be looked at; others that begin meanwhile are not.
const WAITING: usize = 64;
/// So many in a row without an answer,
const UNANSWERED: u32 = 4;
/// to so many hosts, make a line suspect.
const HOSTS: usize = 2;
/// IP protocol number of TCP (IANA).
const TCP: u8 = 6;

/// What is watched of all lines.
#[derive(Debug, Default)]
pub struct Silence {
    waiting: VecDeque<Begun>,
    rows: HashMap<(UplinkId, Family), Row>,
}

/// A connection that began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Which.
    pub key: FlowKey,
    /// By which line.
    pub uplink: UplinkId,
    at: Millis,
}

/// Connections without an answer, one after the other.
#[derive(Debug, Default)]
struct Row {
    length: u32,
    hosts: HashSet<IpAddr>,
}

impl Silence {
    /// A flow began on a line.
    pub fn began(&mut self, key: FlowKey, uplink: UplinkId, now: Millis) {
        if key.protocol == TCP && self.waiting.len() < WAITING {
            self.waiting.push_back(Begun { key, uplink, at: now });
        }
    }

    /// A connection to look at now; to be called until there is none.
    pub fn poll(&mut self, now: Millis) -> Option<Begun> {
        self.waiting.pop_front_if(|begun| begun.at.after(PATIENCE) <= now)
    }

    /// Whether a connection has got an answer. Returns the line that is suspect because of it.
    pub fn seen(&mut self, begun: &Begun, is_answered: bool) -> Option<(UplinkId, Family)> {
        let line = (begun.uplink, Family::of(begun.key.dst));
        if is_answered {
            self.rows.remove(&line);
            return None;
        }
        let row = self.rows.entry(line).or_default();
        row.length += 1;
        row.hosts.insert(begun.key.dst);
        if row.length < UNANSWERED || row.hosts.len() < HOSTS {
            // Many tries of one host need no more room than a few.
            row.length = row.length.min(UNANSWERED);
            return None;
        }
        self.rows.remove(&line);
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_hosts_without_an_answer_make_their_line_suspect_once() {
        let mut silence = Silence::default();
        let suspects: Vec<_> = (0..6).filter_map(|host| see(&mut silence, host, 0, false)).collect();
        assert_eq!(suspects, [(UplinkId(0), Family::V4)]);
    }

    #[test]
    fn one_answer_clears_a_line_and_that_of_another_line_does_not() {
        let mut silence = Silence::default();
        for round in 0..10 {
            for host in 0..3 {
                assert_eq!(see(&mut silence, host, 0, false), None, "round {round}");
            }
            assert_eq!(see(&mut silence, 9, 0, true), None);
        }
        for host in 0..3 {
            assert_eq!(see(&mut silence, host, 0, false), None);
        }
        assert_eq!(see(&mut silence, 9, 1, true), None);
        assert!(see(&mut silence, 9, 0, false).is_some());
    }

    #[test]
    fn one_dead_host_says_nothing_of_a_line() {
        let mut silence = Silence::default();
        assert!((0..1000).all(|_| see(&mut silence, 1, 0, false).is_none()));
    }

    #[test]
    fn only_tcp_is_looked_at_a_second_later_and_not_everything() {
        let mut silence = Silence::default();
        silence.began(FlowKey { protocol: 17, ..flow(1) }, UplinkId(0), Millis(0));
        for _ in 0..1000 {
            silence.began(flow(1), UplinkId(0), Millis(0));
        }
        assert_eq!(silence.poll(Millis(999)), None);
        let looked_at = std::iter::from_fn(|| silence.poll(Millis(1000))).count();
        assert_eq!(looked_at, WAITING);
    }

    fn see(silence: &mut Silence, host: u8, uplink: u8, is_answered: bool) -> Option<(UplinkId, Family)> {
        let begun = Begun { key: flow(host), uplink: UplinkId(uplink), at: Millis(0) };
        silence.seen(&begun, is_answered)
    }

    fn flow(host: u8) -> FlowKey {
        let (src, dst) = (IpAddr::from([10, 77, 0, 5]), IpAddr::from([192, 0, 2, host]));
        FlowKey { src, dst, protocol: TCP, src_port: 4000, dst_port: 443 }
    }
}
