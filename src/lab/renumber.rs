//! A network that is built takes the devices' names and the addresses that a file asks for.
//!
//! Only what differs from the lab's own is told anew. What a router with such a file has
//! beside it comes too: default routes by every line, for gateways that the file leaves
//! to the routing table and for traffic that it never balances.

use std::fmt::Write;
use std::process::Command;

use anyhow::Result;

use super::fit::{Fit, LanFit, LineFit};
use super::network::{IspLine, LanSegment, Network, batch};
use super::topology::{Nets, Pair, core_net};
use super::wiring;
use crate::engine::packet::Family;

/// Metric of the first line's default route; the others' follow.
const FIRST_METRIC: usize = 100;

impl Network {
    /// Gives it the names and addresses of a file, whose [`Fit::topology`] it was built from.
    ///
    /// # Errors
    /// When the kernel refuses a name or an address.
    pub fn renumber(&mut self, fit: &Fit) -> Result<()> {
        self.rename_devices(fit)?;
        batch("ip", &self.internet, &self.old_ways_back(fit))?;
        for (lan, fit) in self.lans.iter_mut().zip(&fit.lans) {
            lan.renumber(fit)?;
        }
        for ((line, fit), number) in self.lines.iter_mut().zip(&fit.lines).zip(1..) {
            line.renumber(fit)?;
            batch("ip", &self.internet, &way_back(line, number))?;
        }
        batch("ip", &self.router, &self.routers_addresses())
    }

    /// By way of names that no file has, so that two devices may change theirs with each other.
    fn rename_devices(&self, fit: &Fit) -> Result<()> {
        let old = self.lans.iter().map(|lan| &lan.device).chain(self.lines.iter().map(|line| &line.device));
        let new = fit.lans.iter().map(|lan| &lan.device).chain(fit.lines.iter().map(|line| &line.device));
        let (mut aside, mut final_names) = (String::new(), String::new());
        for ((old, new), number) in old.zip(new).zip(0..) {
            let _ = writeln!(aside, "link set {old} down\nlink set {old} name renamed-{number}");
            let _ = writeln!(final_names, "link set renamed-{number} name {new}\nlink set {new} up");
            let _ = writeln!(final_names, "address flush dev {new} scope global");
        }
        batch("ip", &self.router, &(aside + &final_names))
    }

    fn old_ways_back(&self, fit: &Fit) -> String {
        let moved =
            self.lines.iter().zip(&fit.lines).zip(1..).filter(|((line, fit), _)| line.sources != fit.sources);
        let nets = moved
            .flat_map(|((line, _), number)| Family::BOTH.map(|family| (line.sources.of(family), number)));
        nets.map(|(net, number)| format!("route del {net} dev isp{number}\n")).collect()
    }

    fn routers_addresses(&self) -> String {
        let mut text = String::new();
        for lan in &self.lans {
            wiring::address(&mut text, &lan.device, lan.router, lan.net);
        }
        for line in &self.lines {
            wiring::address(&mut text, &line.device, line.router, line.net);
        }
        for (line, number) in self.lines.iter().zip(FIRST_METRIC..) {
            for (everything, family) in ["0.0.0.0/0", "::/0"].into_iter().zip(Family::BOTH) {
                let (gateway, device) = (line.gateway.of(family), &line.device);
                let _ = writeln!(text, "route add {everything} via {gateway} dev {device} metric {number}");
            }
        }
        text
    }
}

impl LanSegment {
    fn renumber(&mut self, fit: &LanFit) -> Result<()> {
        self.device.clone_from(&fit.device);
        if self.net != fit.net {
            self.net = fit.net;
            self.router = fit.net.host(1);
            for (client, number) in self.clients.iter_mut().zip(11..) {
                client.addresses = fit.net.host(number);
                batch("ip", &client.host, &moved_client(client.addresses, fit.net))?;
            }
        }
        let known = |target| self.clients.iter().any(|client| client.addresses.both().contains(&target));
        let homeless = fit.targets.iter().filter(|target| !known(**target));
        let text: String = homeless
            .map(|target| {
                let length = fit.net.of(Family::of(*target)).prefix_len();
                format!("address add {target}/{length} dev eth0{}\n", wiring::nodad(Family::of(*target)))
            })
            .collect();
        batch("ip", &self.clients[0].host, &text)
    }
}

impl IspLine {
    fn renumber(&mut self, fit: &LineFit) -> Result<()> {
        if (self.net, self.sources, self.gateway) != (fit.net, fit.sources, fit.gateway) {
            batch("ip", &self.isp, &moved_isp(fit))?;
            self.isp.run(Command::new("nft").args(["delete", "table", "inet", "lab"]))?;
            self.isp.feed(Command::new("nft").args(["-f", "-"]), &wiring::source_filter(fit.sources))?;
        }
        if let Some(gateway) = fit.link_local {
            batch("ip", &self.isp, &format!("address replace {gateway}/64 dev customer nodad\n"))?;
        }
        self.name.clone_from(&fit.name);
        self.device.clone_from(&fit.device);
        (self.router, self.gateway, self.net) = (fit.router, fit.gateway, fit.net);
        (self.sources, self.delegated) = (fit.sources, fit.delegated);
        Ok(())
    }
}

fn moved_client(addresses: Pair, net: Nets) -> String {
    let mut text = String::from("address flush dev eth0 scope global\n");
    wiring::address(&mut text, "eth0", addresses, net);
    for (everything, family) in ["0.0.0.0/0", "::/0"].into_iter().zip(Family::BOTH) {
        let _ = writeln!(text, "route replace {everything} via {} dev eth0", net.host(1).of(family));
    }
    text
}

fn moved_isp(fit: &LineFit) -> String {
    let mut text = String::from("address flush dev customer scope global\n");
    wiring::address(&mut text, "customer", fit.gateway, fit.net);
    let _ = writeln!(text, "route replace {} via {} dev customer", fit.delegated, fit.router.v6);
    text
}

fn way_back(line: &IspLine, number: usize) -> String {
    let way = |family| {
        let (net, isp) = (line.sources.of(family), core_net(number).host(1).of(family));
        format!("route replace {net} via {isp} dev isp{number}\n")
    };
    Family::BOTH.map(way).concat()
}
