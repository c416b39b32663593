//! Connections that are older than us, or outlive us: they get our marks and lose them again.

use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::config::Config;
use crate::engine::packet::Family;
use crate::plan::Plan;
use crate::system::conntrack::{Conntrack, Flow, Mark};

/// Flows that are older than us, and marks in our bits that others left, get
/// the uplink whose address they are known by outside.
pub(super) fn adopt_flows(config: &Config, plan: &Plan, adopted: &mut Vec<Flow>) -> Result<()> {
    let mut conntrack = Conntrack::open()?;
    let wanted = |flow: &Flow| uplink_mark(config, plan, flow).unwrap_or(0);
    let differs = |flow: &Flow| flow.mark & config.marks.mask != wanted(flow);
    conntrack.dump(None, |flow| adopted.extend(differs(&flow).then_some(flow)))?;
    for flow in adopted.iter() {
        conntrack.set_mark(flow, Mark::new(wanted(flow), config.marks.mask))?;
    }
    tracing::debug!("{} older flows were given their uplinks", adopted.len());
    Ok(())
}

/// Flows get the marks they had before they were adopted.
pub(super) fn give_back(adopted: &[Flow], config: &Config) -> Result<()> {
    let mut conntrack = Conntrack::open()?;
    for flow in adopted {
        let mark = Mark::new(flow.mark, config.marks.mask);
        conntrack.set_mark(flow, mark).context("cannot give a flow its mark back")?;
    }
    Ok(())
}

/// Ends the connections that have one of these values in the mark's bits.
pub(super) fn end(mask: u32, values: &[u32]) -> Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    let mut conntrack = Conntrack::open()?;
    for &value in values {
        conntrack.delete_marked(Mark::new(value, mask)).context("cannot end the flows of a former uplink")?;
    }
    Ok(())
}

/// Takes our bits off all connections.
pub(super) fn forget_flows(mask: u32) -> Result<()> {
    let mut conntrack = Conntrack::open()?;
    let mut flows: Vec<Flow> = Vec::new();
    conntrack.dump(None, |flow| flows.extend((flow.mark & mask != 0).then_some(flow)))?;
    for flow in &flows {
        conntrack.set_mark(flow, Mark::new(0, mask)).context("cannot take our mark off a connection")?;
    }
    Ok(())
}

/// A flow from the LAN is answered at its uplink's address; one from outside was sent to it.
fn uplink_mark(config: &Config, plan: &Plan, flow: &Flow) -> Option<u32> {
    let known_by = |address: IpAddr| {
        let family = Family::of(address);
        plan.lines.iter().find(|line| line.public_addresses(family).contains(&address))
    };
    let line = known_by(flow.reply.dst).or_else(|| known_by(flow.orig.dst))?;
    Some(config.marks.value(line.id))
}
