//! The configuration of the lab's router, as its owner would write it.

use std::fmt::Write;

use super::network::Network;

/// A few rules of the lab's own, for an `isp1` and an `isp2`: one of each kind, and most ports without one.
pub const RULES: &str = r#"[[rule]]
name  = "shells stay on the first line"
match = { protocol = "tcp", dst_port = 22 }
use   = "isp1"
none  = "any"

[[rule]]
name  = "calls prefer the second line"
match = { protocol = "udp", dst_port = 5060 }
use   = { policy = "ordered", uplinks = ["isp2", "isp1"] }

[[rule]]
name  = "web servers see one address a client"
match = { protocol = ["tcp", "udp"], dst_port = [80, 443] }
use   = { policy = "hash", by = "client+destination" }
"#;

/// A service in the LAN, reachable from outside by every line.
#[must_use]
pub fn forward(network: &Network) -> String {
    let to = network.client().addresses;
    format!(
        "\n[[forward]]\nname = \"slingbox\"\nprotocol = [\"tcp\", \"udp\"]\nport = 5001\n\
         to = [\"{}\", \"{}\"]\n",
        to.v4, to.v6
    )
}

/// The router's configuration: its LANs and lines with the addresses they have, and each
/// line's weight; lines without one have 1. Lines are tried by their gateways, for the public
/// resolvers are not in the lab's internet, and have their whole share as soon as they are back, for
/// shares are counted. Everything else is left at its default.
#[must_use]
pub fn configuration(network: &Network, weights: &[u8]) -> String {
    let lans: Vec<String> = network.lans.iter().map(|lan| format!("\"{}\"", lan.device)).collect();
    let mut text = format!(
        "health.targets = \"arp://gateway\"\nhealth.fill = \"0s\"\n[lan]\ninterfaces = [{}]\n",
        lans.join(", ")
    );
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
