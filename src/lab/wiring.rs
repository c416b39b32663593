//! What `ip -batch`, `tc -batch` and `nft` are told, machine by machine.
//!
//! Text in, text out: nothing is done here. A cable is made inside the
//! namespace of one end and its other end put straight into the other
//! namespace, so that the machine's own namespace never sees a device.

use std::fmt::Write;
use std::path::Path;

use crate::engine::packet::Family;

use super::topology::{
    Lan, Medium, Nets, Pair, carrier_net, core_net, customer_net, delegated_net, line_net,
};

/// What every machine needs before its first device.
///
/// Without duplicate address detection an IPv6 address works at once; nobody
/// announces routers here; strict reverse filters would hide what the ISPs are
/// to count.
pub(super) const QUIET: &[(&str, &str)] = &[
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/ip_local_port_range", "10000 64999"),
];

/// Whether a machine passes on packets that are not for it.
pub(super) fn forwarding(on: bool) -> [(&'static str, &'static str); 2] {
    let value = if on { "1" } else { "0" };
    [("ipv4/ip_forward", value), ("ipv6/conf/all/forwarding", value)]
}

/// An Ethernet cable from `device` here to `far_device` in the namespace at `far_end`.
pub(super) fn cable(device: &str, far_device: &str, far_end: &Path) -> String {
    format!("link add {device} type veth peer name {far_device} netns {}\n", far_end.display())
}

/// The switch of a LAN. No snooping: neighbour discovery is multicast.
pub(super) fn switch<'a>(ports: impl Iterator<Item = &'a str>) -> String {
    let mut batch = String::from("link add lan type bridge mcast_snooping 0 forward_delay 0\n");
    for port in ports {
        let _ = writeln!(batch, "link set {port} master lan up");
    }
    batch + "link set lan up\n"
}

/// The two cables of an ISP, to the router and to the internet.
pub(super) fn line_cables(number: usize, medium: Medium, router: &Path, internet: &Path) -> String {
    let to_customer = match medium {
        Medium::Ethernet => cable("customer", &format!("wan{number}"), router),
        Medium::PointToPoint => cable("trunk", &format!("line{number}"), router),
    };
    to_customer + &cable("core", &format!("isp{number}"), internet)
}

/// A device with its tagged part, if the LAN has tags; addresses go to the one returned.
fn lan_device(batch: &mut String, cable_end: &str, lan: Lan) -> String {
    let _ = writeln!(batch, "link set {cable_end} up");
    let Some(id) = lan.vlan else { return cable_end.to_owned() };
    let _ = writeln!(batch, "link add link {cable_end} name {cable_end}.{id} type vlan id {id}");
    let _ = writeln!(batch, "link set {cable_end}.{id} up");
    format!("{cable_end}.{id}")
}

/// A client: its address and its way out.
pub(super) fn client(lan: Lan, net: Nets, addresses: Pair, mac: &str) -> String {
    let mut batch = format!("link set lo up\nlink set eth0 address {mac}\n");
    let device = lan_device(&mut batch, "eth0", lan);
    address(&mut batch, &device, addresses, net);
    default_route(&mut batch, net.host(1), &device);
    batch
}

/// The router's side of a LAN.
pub(super) fn router_lan(cable_end: &str, lan: Lan, net: Nets) -> String {
    let mut batch = String::new();
    let device = lan_device(&mut batch, cable_end, lan);
    address(&mut batch, &device, net.host(1), net);
    batch
}

/// The router's side of line `number`.
pub(super) fn router_line(number: usize, medium: Medium) -> String {
    let device = format!("wan{number}");
    let mut batch = tunnel(&device, &format!("line{number}"), number, medium, [2, 1]);
    let _ = writeln!(batch, "link set {device} up");
    address(&mut batch, &device, line_net(number).host(2), line_net(number));
    batch
}

/// The default route of a router that has only line 1.
pub(super) fn router_default() -> String {
    let mut batch = String::new();
    default_route(&mut batch, line_net(1).host(1), "wan1");
    batch
}

/// The ISP of line `number`: the customer on one side, the internet on the other.
pub(super) fn isp(number: usize, medium: Medium) -> String {
    let mut batch = String::from("link set lo up\nlink set core up\n");
    batch += &tunnel("customer", "trunk", number, medium, [1, 2]);
    batch += "link set customer up\naddress add fe80::1/64 dev customer nodad\n";
    address(&mut batch, "customer", line_net(number).host(1), line_net(number));
    let customer = line_net(number).host(2).v6;
    let _ = writeln!(batch, "route add {} via {customer} dev customer", delegated_net(number));
    address(&mut batch, "core", core_net(number).host(1), core_net(number));
    default_route(&mut batch, core_net(number).host(2), "core");
    batch
}

/// The internet: one machine with all the servers' addresses and a way back through each ISP.
pub(super) fn internet(lines: usize, servers: &[Pair]) -> String {
    let mut batch = String::from("link set lo up\n");
    for server in servers.iter().flat_map(|server| server.both()) {
        let _ = writeln!(batch, "address add {server} dev lo nodad");
    }
    for number in 1..=lines {
        let _ = writeln!(batch, "link set isp{number} up");
        address(&mut batch, &format!("isp{number}"), core_net(number).host(2), core_net(number));
        for family in Family::BOTH {
            let (net, isp) = (customer_net(number).of(family), core_net(number).host(1).of(family));
            let _ = writeln!(batch, "route add {net} via {isp} dev isp{number}");
        }
    }
    batch
}

/// An ISP's filter: what its customer sends from others' addresses is dropped and counted.
/// Link-local and unspecified sources are neighbour discovery's.
pub(super) fn source_filter(sources: Nets) -> String {
    let Nets { v4, v6 } = sources;
    format!(
        "table inet lab {{
            counter strays {{ }}
            chain customers_sources {{
                type filter hook prerouting priority -300; policy accept;
                iifname \"customer\" ip saddr != {v4} counter name strays drop
                iifname \"customer\" ip6 saddr != {{ {v6}, fe80::/10, ::/128 }} counter name strays drop
            }}
        }}\n"
    )
}

/// The packets that [`source_filter`] dropped, from `nft list counter inet lab strays`.
pub(super) fn parse_strays(listing: &str) -> Option<u64> {
    listing.split_whitespace().skip_while(|&word| word != "packets").nth(1)?.parse().ok()
}

/// An ISP's shaping of both directions, at its own devices. The bucket holds 20 ms of
/// traffic and no less than a 64 KiB segment, the queue another 100 ms.
pub(super) fn shaping(rate: u32) -> String {
    let bucket = (u64::from(rate) * 2500).max(66_000);
    ["customer", "core"]
        .map(|device| {
            format!("qdisc add dev {device} root tbf rate {rate}mbit burst {bucket} latency 100ms\n")
        })
        .concat()
}

/// What to try on an empty machine to learn whether there are point-to-point lines.
pub(super) const PROBE_POINT_TO_POINT: &str = "link add try type gre local 192.0.2.1 remote 192.0.2.2\n";

/// What to try on an empty machine to learn whether there are tagged LANs.
pub(super) const PROBE_VLAN: &str =
    "link add below type veth peer name other\nlink add link below name try type vlan id 7\n";

/// The tunnel of a point-to-point line over the carrier's device; nothing for an Ethernet one.
fn tunnel(device: &str, carrier: &str, number: usize, medium: Medium, [here, there]: [u8; 2]) -> String {
    if medium == Medium::Ethernet {
        return String::new();
    }
    let (local, remote) = (carrier_net(number).host(here).v4, carrier_net(number).host(there).v4);
    format!(
        "link set {carrier} up\naddress add {local}/30 dev {carrier}\n\
         link add {device} type gre local {local} remote {remote} ttl 64\n"
    )
}

/// An address of each family on a device.
pub(super) fn address(batch: &mut String, device: &str, addresses: Pair, net: Nets) {
    for family in Family::BOTH {
        let (address, length) = (addresses.of(family), net.of(family).prefix_len());
        let _ = writeln!(batch, "address add {address}/{length} dev {device}{}", nodad(family));
    }
}

/// Ends the line that adds an address which must work at once.
pub(super) fn nodad(family: Family) -> &'static str {
    if family == Family::V6 { " nodad" } else { "" }
}

fn default_route(batch: &mut String, gateway: Pair, device: &str) {
    for (everything, family) in ["0.0.0.0/0", "::/0"].into_iter().zip(Family::BOTH) {
        let _ = writeln!(batch, "route add {everything} via {} dev {device}", gateway.of(family));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_isp_is_told_both_its_sides_in_both_families() {
        assert_eq!(
            isp(1, Medium::Ethernet),
            "link set lo up
link set core up
link set customer up
address add fe80::1/64 dev customer nodad
address add 198.51.100.1/24 dev customer
address add 2001:db8:1::1/64 dev customer nodad
route add 2001:db8:1:1::/64 via 2001:db8:1::2 dev customer
address add 100.64.1.1/30 dev core
address add fd00:64:1::1/64 dev core nodad
route add 0.0.0.0/0 via 100.64.1.2 dev core
route add ::/0 via fd00:64:1::2 dev core
"
        );
    }

    #[test]
    fn a_tagged_lan_has_its_addresses_on_the_tagged_device() {
        let batch =
            router_lan("lan0", Lan { clients: 1, vlan: Some(77) }, super::super::topology::lan_net(0));
        assert!(batch.contains("link add link lan0 name lan0.77 type vlan id 77\n"));
        assert!(batch.contains("address add 10.77.0.1/24 dev lan0.77\n"));
    }

    #[test]
    fn strays_are_read_from_nfts_listing() {
        let listing = "table inet lab {\n\tcounter strays {\n\t\tpackets 12 bytes 1008\n\t}\n}\n";
        assert_eq!(parse_strays(listing), Some(12));
        assert_eq!(parse_strays("table inet lab {}"), None);
    }
}
