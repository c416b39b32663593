//! Who balances: the program with one rule for everything, or the article's commands without the program.

use std::fmt::Write;

use anyhow::Result;
use clap::ValueEnum;
use tempfile::TempDir;
use wansplit::lab::article::configuration;
use wansplit::lab::host::Process;
use wansplit::lab::network::Network;

use crate::daemon;

/// A way to balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Balancer {
    /// The article's: iptables' `statistic --mode nth`, with no program at all.
    Nth,
    /// wansplit's round-robin without weights.
    RoundRobin,
    /// The same with the true weights.
    Weighted,
    /// A hash of addresses and ports, as ECMP does it.
    Hash,
    /// wansplit's `least-load` that is told nothing.
    LeastLoad,
    /// The same that is told the capacities.
    LeastLoadTold,
}

/// What runs while a balancer is tried.
pub struct Running {
    _daemon: Option<Process>,
    _files: TempDir,
}

impl Balancer {
    /// All of them, in the order of the table.
    pub const ALL: [Balancer; 6] = [
        Balancer::LeastLoad,
        Balancer::LeastLoadTold,
        Balancer::Weighted,
        Balancer::RoundRobin,
        Balancer::Nth,
        Balancer::Hash,
    ];

    /// For people.
    pub fn describe(self) -> &'static str {
        match self {
            Balancer::Nth => "the article's nth",
            Balancer::RoundRobin => "round-robin 1:1",
            Balancer::Weighted => "round-robin, true weights",
            Balancer::Hash => "hash of addresses and ports",
            Balancer::LeastLoad => "least-load",
            Balancer::LeastLoadTold => "least-load, capacities given",
        }
    }

    /// Sets the router up.
    pub fn start(self, network: &Network, lines: &[u32]) -> Result<Running> {
        let files = TempDir::new()?;
        if self == Balancer::Nth {
            network.router.set_sysctls(&[("ipv4/ip_forward", "1")])?;
            network.router.shell(&article(network))?;
            return Ok(Running { _daemon: None, _files: files });
        }
        std::fs::create_dir(files.path().join("rules"))?;
        std::fs::write(files.path().join("rules/all.toml"), self.rule())?;
        std::fs::write(files.path().join("wansplit.toml"), self.configuration(network, lines))?;
        let daemon = daemon::start(&network.router, files.path(), &[])?;
        Ok(Running { _daemon: Some(daemon), _files: files })
    }

    fn rule(self) -> String {
        let policy = match self {
            Balancer::Hash => "\"hash\", by = \"five-tuple\"",
            Balancer::LeastLoad | Balancer::LeastLoadTold => "\"least-load\"",
            Balancer::RoundRobin | Balancer::Weighted | Balancer::Nth => "\"round-robin\"",
        };
        format!("[[rule]]\nname = \"all\"\nuse = {{ policy = {policy} }}\n")
    }

    /// Probes go to the servers' machine, behind the ISPs: so answers wait where a line is full.
    fn configuration(self, network: &Network, lines: &[u32]) -> String {
        let slowest = lines.iter().min().copied().unwrap_or(1).max(1);
        let weights: Vec<u8> = match self {
            Balancer::Weighted => lines.iter().map(|rate| (rate / slowest).min(255) as u8).collect(),
            _ => vec![1; lines.len()],
        };
        let targets: Vec<String> =
            network.servers.iter().map(|server| format!("\"icmp://{}\"", server.v4)).collect();
        let targets = format!("health.targets = [{}]", targets.join(", "));
        let text = configuration(network, &weights).replace("health.targets = \"arp://gateway\"", &targets);
        if self != Balancer::LeastLoadTold {
            return text;
        }
        let mut rates = lines.iter();
        let told = |line: &str| match rates.next_if_weight(line) {
            Some(rate) => format!("{line}\ncapacity = {{ down = \"{rate}mbit\", up = \"{rate}mbit\" }}\n"),
            None => format!("{line}\n"),
        };
        text.lines().map(told).collect()
    }
}

/// Each uplink's table ends with its weight.
trait NextIfWeight<'a> {
    fn next_if_weight(&mut self, line: &str) -> Option<&'a u32>;
}

impl<'a> NextIfWeight<'a> for std::slice::Iter<'a, u32> {
    fn next_if_weight(&mut self, line: &str) -> Option<&'a u32> {
        if line.starts_with("weight = ") { self.next() } else { None }
    }
}

/// What the article types, for two lines and more: every n-th connection gets the n-th line.
fn article(network: &Network) -> String {
    let mut text = String::from(
        "ip rule add prio 10 lookup main suppress_prefixlength 0\n\
         iptables-legacy -t mangle -A PREROUTING -j CONNMARK --restore-mark\n",
    );
    let count = network.lines.len();
    for (line, number) in network.lines.iter().zip(1..) {
        let (device, gateway) = (&line.device, line.gateway.v4);
        let left = count + 1 - number;
        let _ = write!(
            text,
            "ip route add default via {gateway} dev {device} table {number}\n\
             ip rule add prio 20 fwmark {number} lookup {number}\n\
             iptables-legacy -t mangle -A PREROUTING -i lan0 -m mark --mark 0 -m conntrack --ctstate NEW \
             -m statistic --mode nth --every {left} --packet 0 -j MARK --set-mark {number}\n\
             iptables-legacy -t nat -A POSTROUTING -o {device} -j SNAT --to-source {}\n",
            line.router.v4
        );
    }
    text + "iptables-legacy -t mangle -A PREROUTING -j CONNMARK --save-mark\n"
}
