//! The whole network: LANs, router, internet lines, servers.
//!
//! The router is bare: devices `lan0`, `lan1` ... and `wan1`, `wan2` ... with
//! their addresses, forwarding off, no default route (unless asked for), no
//! firewall. All else is up to the program under test.

use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use ipnet::Ipv6Net;

use super::host::Host;
use super::topology::{
    Lan, Line, Medium, Nets, Pair, Topology, customer_net, delegated_net, lan_net, line_net, server,
};
use super::wiring;

/// A network that works; dropped, it is gone.
#[derive(Debug)]
pub struct Network {
    /// The router.
    pub router: Host,
    /// The router's LANs, `lan0` first.
    pub lans: Vec<LanSegment>,
    /// The internet lines, `wan1` first.
    pub lines: Vec<IspLine>,
    /// The one machine behind all ISPs; it has all the servers' addresses.
    pub internet: Host,
    /// The servers' addresses.
    pub servers: Vec<Pair>,
}

/// One LAN.
#[derive(Debug)]
pub struct LanSegment {
    /// The router's device: `lan0`, or `lan0.ID` with tags.
    pub device: String,
    /// Its net.
    pub net: Nets,
    /// The router's addresses in it.
    pub router: Pair,
    /// The machines in it.
    pub clients: Vec<Client>,
    /// The machine that joins them, where there is more than one client.
    pub switch: Option<Host>,
    shape: Lan,
}

/// One machine of a LAN.
#[derive(Debug, Clone)]
pub struct Client {
    /// The machine.
    pub host: Host,
    /// Its addresses.
    pub addresses: Pair,
    /// Its hardware address, `02:77:00:00:LAN:CLIENT` with the LAN from 00, the client from 01.
    pub mac: String,
}

/// One internet line and the ISP at its other end.
#[derive(Debug)]
pub struct IspLine {
    /// `isp1`, `isp2` ...
    pub name: String,
    /// The router's device: `wan1`, `wan2` ...
    pub device: String,
    /// The router's addresses on it.
    pub router: Pair,
    /// The next hops; in IPv6 `fe80::1` is one as well.
    pub gateway: Pair,
    /// The net between both.
    pub net: Nets,
    /// All addresses the ISP takes packets from: `net`, and a larger one in IPv6.
    pub sources: Nets,
    /// A net the ISP routes to the router's address.
    pub delegated: Ipv6Net,
    /// The ISP: its device `customer` faces the router, `core` the internet.
    pub isp: Host,
    shape: Line,
}

impl Network {
    /// Builds it.
    ///
    /// # Errors
    /// Without privilege, where a program (`ip`, `nft`, `tc` for shaping) or a feature of the
    /// kernel is missing (see [`missing`]), or where the topology has no sense.
    pub fn build(topology: &Topology) -> Result<Network> {
        topology.check()?;
        let network = Network::empty(topology)?;
        network.quieten()?;
        network.lay_cables()?;
        network.configure(topology.router_default)?;
        network.police()?;
        Ok(network)
    }

    /// All LANs' clients.
    pub fn clients(&self) -> impl Iterator<Item = &Client> {
        self.lans.iter().flat_map(|lan| &lan.clients)
    }

    /// The first client of the first LAN.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.lans[0].clients[0]
    }

    /// Every machine, for those who want to look into each.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        let lan =
            self.lans.iter().flat_map(|lan| lan.switch.iter().chain(lan.clients.iter().map(|c| &c.host)));
        lan.chain([&self.router, &self.internet]).chain(self.lines.iter().map(|line| &line.isp))
    }

    /// How many packets with a source of somebody else's each ISP has dropped, in the lines' order.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn strays(&self) -> Result<Vec<u64>> {
        self.lines.iter().map(IspLine::strays).collect()
    }

    fn empty(topology: &Topology) -> Result<Network> {
        let lans = topology.lans.iter().enumerate().map(|(number, &lan)| LanSegment::empty(number, lan));
        let lines = topology.lines.iter().zip(1..).map(|(&line, number)| IspLine::empty(number, line));
        Ok(Network {
            router: Host::new("router")?,
            lans: lans.collect::<Result<_>>()?,
            lines: lines.collect::<Result<_>>()?,
            internet: Host::new("internet")?,
            servers: (1..=topology.servers).map(server).collect(),
        })
    }

    fn quieten(&self) -> Result<()> {
        self.hosts().try_for_each(|host| host.set_sysctls(wiring::QUIET))?;
        self.router.set_sysctls(&wiring::forwarding(false))?;
        self.lines.iter().try_for_each(|line| line.isp.set_sysctls(&wiring::forwarding(true)))
    }

    /// Every cable is laid from the end that is not the router's, in order, so that the
    /// router's devices are numbered as they are named.
    fn lay_cables(&self) -> Result<()> {
        let router = self.router.namespace().path()?;
        let internet = self.internet.namespace().path()?;
        for (lan, number) in self.lans.iter().zip(0..) {
            lan.lay_cables(&format!("lan{number}"), &router)?;
        }
        for (line, number) in self.lines.iter().zip(1..) {
            batch("ip", &line.isp, &wiring::line_cables(number, line.shape.medium, &router, &internet))?;
        }
        Ok(())
    }

    /// All machines at once: each is told only about itself.
    fn configure(&self, router_default: bool) -> Result<()> {
        let mut tasks = vec![
            (&self.router, self.router_batch(router_default)),
            (&self.internet, wiring::internet(self.lines.len(), &self.servers)),
        ];
        for lan in &self.lans {
            tasks.extend(lan.clients.iter().map(|client| (&client.host, lan.client_batch(client))));
        }
        tasks.extend(
            self.lines
                .iter()
                .zip(1..)
                .map(|(line, number)| (&line.isp, wiring::isp(number, line.shape.medium))),
        );
        thread::scope(|scope| {
            let running: Vec<_> =
                tasks.iter().map(|(host, text)| scope.spawn(move || batch("ip", host, text))).collect();
            running
                .into_iter()
                .try_for_each(|task| task.join().map_err(|_| anyhow!("a set-up thread died"))?)
        })
    }

    fn router_batch(&self, default: bool) -> String {
        let lans = self.lans.iter().enumerate();
        let lines = self.lines.iter().zip(1..);
        let mut text = String::from("link set lo up\n");
        text.extend(
            lans.map(|(number, lan)| wiring::router_lan(&format!("lan{number}"), lan.shape, lan.net)),
        );
        text.extend(lines.map(|(line, number)| wiring::router_line(number, line.shape.medium)));
        if default {
            text += &wiring::router_default();
        }
        text
    }

    /// The ISPs' filters and speeds.
    fn police(&self) -> Result<()> {
        for line in &self.lines {
            line.isp.feed(Command::new("nft").args(["-f", "-"]), &wiring::source_filter(line.sources))?;
            if let Some(rate) = line.shape.rate {
                batch("tc", &line.isp, &wiring::shaping(rate))?;
            }
        }
        Ok(())
    }
}

impl LanSegment {
    fn empty(number: usize, shape: Lan) -> Result<Self> {
        let device = format!("lan{number}");
        let net = lan_net(number);
        Ok(LanSegment {
            device: shape.vlan.map_or(device.clone(), |id| format!("{device}.{id}")),
            net,
            router: net.host(1),
            clients: (1..=shape.clients)
                .map(|client| Client::empty(number, client))
                .collect::<Result<_>>()?,
            switch: (shape.clients > 1).then(|| Host::new(&format!("switch{number}"))).transpose()?,
            shape,
        })
    }

    fn lay_cables(&self, router_end: &str, router: &Path) -> Result<()> {
        let Some(switch) = &self.switch else {
            let client = &self.clients[0].host;
            return batch("ip", client, &wiring::cable("eth0", router_end, router));
        };
        let mut text = wiring::cable("router", router_end, router);
        for client in &self.clients {
            text += &wiring::cable(client.host.name(), "eth0", &client.host.namespace().path()?);
        }
        let ports = self.clients.iter().map(|client| client.host.name()).chain(["router"]);
        batch("ip", switch, &(text + &wiring::switch(ports)))
    }

    fn client_batch(&self, client: &Client) -> String {
        wiring::client(self.shape, self.net, client.addresses, &client.mac)
    }
}

impl Client {
    fn empty(lan: usize, number: u8) -> Result<Self> {
        let name = if lan == 0 { format!("client{number}") } else { format!("lan{lan}-client{number}") };
        Ok(Client {
            host: Host::new(&name)?,
            addresses: lan_net(lan).host(10 + number),
            mac: format!("02:77:00:00:{lan:02x}:{number:02x}"),
        })
    }
}

impl IspLine {
    /// How many packets with a source of somebody else's this ISP has dropped.
    ///
    /// # Errors
    /// When the counter cannot be read.
    pub fn strays(&self) -> Result<u64> {
        // Under load nft was seen to list nothing and call it a success; so it is asked again.
        for _ in 0..5 {
            let list = ["list", "counter", "inet", "lab", "strays"];
            let listing = self.isp.run(Command::new("nft").args(list))?;
            if let Some(strays) = wiring::parse_strays(&listing) {
                return Ok(strays);
            }
        }
        bail!("nft lists no counter on the lab's {}", self.isp.name())
    }

    fn empty(number: usize, shape: Line) -> Result<Self> {
        let net = line_net(number);
        Ok(IspLine {
            name: format!("isp{number}"),
            device: format!("wan{number}"),
            router: net.host(2),
            gateway: net.host(1),
            net,
            sources: customer_net(number),
            delegated: delegated_net(number),
            isp: Host::new(&format!("isp{number}"))?,
            shape,
        })
    }
}

/// What of a topology this machine's kernel does not have; `None`: all is there.
/// A test that needs it says so and is skipped.
///
/// # Errors
/// Without the privilege to make namespaces.
pub fn missing(topology: &Topology) -> Result<Option<&'static str>> {
    let tagged = topology.lans.iter().any(|lan| lan.vlan.is_some());
    if tagged && !works(wiring::PROBE_VLAN)? {
        return Ok(Some("VLAN devices"));
    }
    let tunnelled = topology.lines.iter().any(|line| line.medium == Medium::PointToPoint);
    if tunnelled && !works(wiring::PROBE_POINT_TO_POINT)? {
        return Ok(Some("GRE tunnels"));
    }
    Ok(None)
}

fn works(probe: &str) -> Result<bool> {
    Ok(batch("ip", &Host::new("probe")?, probe).is_ok())
}

/// Hands a program all its lines at once; it stops at the first that fails and names it.
pub(super) fn batch(program: &str, host: &Host, lines: &str) -> Result<()> {
    host.feed(Command::new(program).args(["-batch", "-"]), lines)
        .map(drop)
        .with_context(|| format!("of these lines:\n{}", numbered(lines)))
}

fn numbered(lines: &str) -> String {
    lines.lines().zip(1..).map(|(line, number)| format!("{number:4}  {line}\n")).collect()
}
