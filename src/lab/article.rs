//! The configuration of the lab's router, as its owner would write it.

use std::fmt::Write;

use super::network::Network;

/// The router's configuration: its LANs and lines with the addresses they have, and each
/// line's weight; lines without one have 1. Everything else is left at its default.
#[must_use]
pub fn configuration(network: &Network, weights: &[u8]) -> String {
    let lans: Vec<String> = network.lans.iter().map(|lan| format!("\"{}\"", lan.device)).collect();
    let mut text = format!("[lan]\ninterfaces = [{}]\n", lans.join(", "));
    for (number, line) in network.lines.iter().enumerate() {
        let weight = weights.get(number).unwrap_or(&1);
        let _ = write!(
            text,
            "\n[[uplink]]\nname = \"{}\"\ninterface = \"{}\"\ngateway = [\"{}\", \"{}\"]\n\
             source = [\"{}\", \"{}\"]\nweight = {weight}\n",
            line.name, line.device, line.gateway.v4, line.gateway.v6, line.router.v4, line.router.v6,
        );
    }
    text
}
