//! Captured packets, gathered into flows: which uplink carried which, and what went astray.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::capture::{Direction, Record};
use super::network::IspLine;

/// A flow as its server sees it, but for the address the router put in place of the client's.
/// Two clients with the same port to the same server are one flow here, unless the router changes a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId {
    /// IP protocol number.
    pub protocol: u8,
    /// The server's address.
    pub dst: IpAddr,
    /// The server's port (ICMP: type × 256 + code).
    pub dst_port: u16,
    /// The client's port (ICMP: the identifier of an echo).
    pub src_port: u16,
}

/// Everything that left by the uplinks.
#[derive(Debug, Clone, Default)]
pub struct Flows {
    /// For each flow, the packets that left by each device.
    pub carried: BTreeMap<FlowId, BTreeMap<Arc<str>, u64>>,
    /// Packets that left by an uplink with a source that is not of its nets.
    pub strays: Vec<Record>,
}

/// Gathers what left by the router's uplinks; other packets are left out.
/// Of fragments after the first, which have no ports, only the source is judged.
#[must_use]
pub fn flows_by_uplink(records: &[Record], lines: &[IspLine]) -> Flows {
    let mut flows = Flows::default();
    for record in records.iter().filter(|record| record.direction == Direction::Out) {
        let Some(line) = lines.iter().find(|line| *line.device == *record.device) else { continue };
        if !line.sources.contains(record.key.src) {
            flows.strays.push(record.clone());
        }
        if !record.later_fragment {
            *flows
                .carried
                .entry(FlowId::of(record))
                .or_default()
                .entry(record.device.clone())
                .or_default() += 1;
        }
    }
    flows
}

impl FlowId {
    /// The flow that a packet belongs to.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let key = record.key;
        FlowId { protocol: key.protocol, dst: key.dst, dst_port: key.dst_port, src_port: key.src_port }
    }
}

impl Flows {
    /// How many flows have left by each device; a flow that left by two counts for both.
    #[must_use]
    pub fn shares(&self) -> BTreeMap<Arc<str>, usize> {
        self.shares_of(|_| true)
    }

    /// As [`Flows::shares`], of the flows one asks for.
    #[must_use]
    pub fn shares_of(&self, mut wanted: impl FnMut(&FlowId) -> bool) -> BTreeMap<Arc<str>, usize> {
        let mut shares = BTreeMap::new();
        let devices = self.carried.iter().filter(|(flow, _)| wanted(flow)).flat_map(|(_, by)| by.keys());
        devices.for_each(|device| *shares.entry(device.clone()).or_default() += 1);
        shares
    }

    /// The flows that left by more than one device.
    pub fn split(&self) -> impl Iterator<Item = &FlowId> {
        self.carried.iter().filter(|(_, devices)| devices.len() > 1).map(|(flow, _)| flow)
    }

    /// How many packets left, by any uplink.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.carried.values().flat_map(BTreeMap::values).sum()
    }
}
