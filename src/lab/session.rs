//! The lab from beginning to end: builds a network, runs the program on its router, makes
//! traffic, watches, and tells.
//!
//! Nothing is printed here: what goes on is told by [`Update`], what came of it by [`Outcome`].

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::article;
use super::capture::{Capture, Filter};
use super::command;
use super::facts::{LabFacts, LinkFacts};
use super::fit::{Fit, fit};
use super::host::Host;
use super::interrupt::Interrupt;
use super::ledger::{Ledger, parse_flow};
use super::mixture::{self, Cast, Door, Mixture};
use super::network::Network;
use super::program::Program;
use super::server::{Server, ServerSpec};
use super::topology::{Lan, Pair, Topology};
use super::world::World;
use crate::config::{Config, Forward, Gateway};
use crate::control::message::Status;
use crate::daemon;
use crate::engine::packet::Family;

/// Where the lab's files are: in the world's own `/run`, so they are gone with it.
const FILES: &str = "/run/wansplit-lab";

/// How often everything is looked at. The daemon remembers its latest 50 decisions; so often, none is missed.
const LOOK: Duration = Duration::from_millis(200);

/// How long connections under way may take to end after the traffic's time: longer than each may take,
/// shorter than the outer process's patience after an interrupt.
const LAST_CONNECTIONS: Duration = Duration::from_secs(7);

/// How long the last packets may take to be captured, and the last decisions to be told.
const SETTLE: Duration = Duration::from_millis(300);

/// Servers of the lab; the last is the router's own.
const SERVERS: u8 = 3;

/// What lab to make.
#[derive(Debug, Clone)]
pub struct Options {
    /// The router's configuration.
    pub router: RouterFile,
    /// Computers in each LAN, 1 to 200.
    pub clients: u8,
    /// How long the traffic runs.
    pub time: Duration,
}

/// The router's configuration.
#[derive(Debug, Clone)]
pub enum RouterFile {
    /// The article's, with these weights, one a line, and this backend's name.
    Own {
        /// Each line's share of new flows.
        weights: Vec<u8>,
        /// As the configuration names it.
        backend: String,
    },
    /// Somebody's file; the network is made to fit it.
    Given(PathBuf),
}

/// What goes on.
#[derive(Debug)]
pub enum Update<'a> {
    /// A step of the building has begun.
    Step(&'a str),
    /// Traffic runs.
    Traffic(&'a Status, &'a LabFacts),
}

/// What came of the traffic.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The daemon's last word.
    pub status: Status,
    /// What the lab saw.
    pub facts: LabFacts,
}

/// A network with a deciding router in it; dropped, it is gone.
#[derive(Debug)]
pub struct Lab {
    network: Network,
    config: Config,
    program: Program,
    interrupt: Interrupt,
    _servers: Vec<Server>,
}

impl Lab {
    /// Builds the network and starts the program on its router.
    ///
    /// # Errors
    /// [`crate::config::Problems`] of a given file, [`super::fit::Unfit`] where no network fits it;
    /// what is missing on this machine; what the daemon said when it did not start.
    pub fn build(
        world: &World,
        options: &Options,
        interrupt: &Interrupt,
        show: &mut dyn FnMut(Update<'_>),
    ) -> Result<Lab> {
        let begin = Instant::now();
        require_programs()?;
        fs::create_dir_all(FILES).with_context(|| format!("making {FILES}"))?;
        show(Update::Step("building the network: clients, router, providers, servers"));
        let (network, path) = prepare(options)?;
        let config = daemon::load(&path)?;
        world.name_machines(&network)?;
        ensure!(!interrupt.is_wanted(), "interrupted");
        show(Update::Step("starting the servers"));
        let servers = start_servers(&network, &config)?;
        show(Update::Step("starting wansplit on the router"));
        let log = Path::new(FILES).join("daemon.log");
        let (directory, file) = seen_from_its_directory(&path)?;
        let program = Program::start(&network.router, [&directory, &file, &log], interrupt)?;
        show(Update::Step(&format!("ready after {:.1} s", begin.elapsed().as_secs_f64())));
        Ok(Lab { network, config, program, interrupt: interrupt.clone(), _servers: servers })
    }

    /// Makes traffic for its time, or until an interrupt, and watches it.
    ///
    /// # Errors
    /// When the daemon dies, or traffic cannot be made at all.
    pub fn try_out(&mut self, time: Duration, show: &mut dyn FnMut(Update<'_>)) -> Result<Outcome> {
        let capture = Capture::start(&self.network.router, self.lines_only())?;
        let mixture = Mixture::start(&self.cast(), time)?;
        let mut watch = Watch { lab: self, capture, ledger: Ledger::default(), mixture };
        let end = Instant::now() + time;
        while Instant::now() < end && !watch.lab.interrupt.is_wanted() {
            let outcome = watch.look(end)?;
            show(Update::Traffic(&outcome.status, &outcome.facts));
            let pause = LOOK.min(end.saturating_duration_since(Instant::now()));
            watch.lab.interrupt.sleep(pause);
        }
        watch.finish(show)
    }

    /// Waits for an interrupt.
    ///
    /// # Errors
    /// When the daemon dies meanwhile.
    pub fn keep(&mut self) -> Result<()> {
        while !self.interrupt.is_wanted() {
            self.program.status()?;
            self.interrupt.sleep(Duration::from_secs(1));
        }
        Ok(())
    }

    /// The machines' names.
    pub fn machines(&self) -> impl Iterator<Item = &str> {
        self.network.hosts().map(Host::name)
    }

    fn lines_only(&self) -> Filter {
        let devices = self.network.lines.iter().map(|line| line.device.clone()).collect();
        Filter { devices, ..Filter::default() }
    }

    fn cast(&self) -> Cast {
        let families: Vec<Family> = Family::BOTH.into_iter().filter(|&family| self.is_used(family)).collect();
        let addresses = |servers: &[Pair]| -> Vec<IpAddr> {
            servers.iter().flat_map(|server| families.iter().map(|&family| server.of(family))).collect()
        };
        let (own, clients) = self.network.servers.split_last().unzip();
        Cast {
            clients: self.network.clients().map(|client| client.host.clone()).collect(),
            router: self.network.router.clone(),
            internet: self.network.internet.clone(),
            servers: addresses(clients.unwrap_or_default()),
            routers_servers: addresses(own.map(std::slice::from_ref).unwrap_or_default()),
            doors: self.doors(),
        }
    }

    /// Whether any line has this family.
    fn is_used(&self, family: Family) -> bool {
        self.config.uplinks.iter().any(|uplink| *uplink.gateway(family) != Gateway::Unused)
    }

    fn doors(&self) -> Vec<Door> {
        let lines = || self.config.uplinks.iter().zip(&self.network.lines).enumerate();
        let mut doors = Vec::new();
        for forward in &self.config.forwards {
            for (number, (uplink, line)) in
                lines().filter(|(_, (uplink, _))| forward.uplinks.contains(uplink.id))
            {
                let families = forward.to.iter().map(|&target| Family::of(target));
                for family in families.filter(|&family| *uplink.gateway(family) != Gateway::Unused) {
                    let public = SocketAddr::new(line.router.of(family), *forward.ports.start());
                    doors.extend(forward.protocols.iter().map(|&protocol| Door {
                        public,
                        protocol,
                        hairpin: forward.hairpin,
                        line: number,
                    }));
                }
            }
        }
        doors
    }
}

/// The programs that build the network, and what installs them.
fn require_programs() -> Result<()> {
    for (program, package) in [("ip", "iproute2"), ("nft", "nftables")] {
        let found = command::run(Command::new(program).arg("-V"), "", command::DEFAULT_LIMIT);
        found.with_context(|| format!("the lab needs the program {program} (Debian's package {package})"))?;
    }
    Ok(())
}

/// A file's directory and its name there: rules are told by their place beside it.
fn seen_from_its_directory(path: &Path) -> Result<(PathBuf, PathBuf)> {
    let whole = fs::canonicalize(path).with_context(|| format!("finding {}", path.display()))?;
    let (directory, name) =
        whole.parent().zip(whole.file_name()).context("a configuration file has a name")?;
    Ok((directory.to_owned(), name.into()))
}

/// Builds the network and finds or writes the router's configuration.
fn prepare(options: &Options) -> Result<(Network, PathBuf)> {
    match &options.router {
        RouterFile::Own { weights, backend } => {
            let topology = Topology {
                lans: vec![Lan { clients: options.clients, vlan: None }],
                servers: SERVERS,
                ..Topology::with_lines(weights.len())
            };
            let network = Network::build(&topology)?;
            let path = write_own(&network, weights, backend)?;
            Ok((network, path))
        }
        RouterFile::Given(path) => {
            let fit = fit(&daemon::load(path)?)?;
            let network = build_fitting(&fit, options.clients)?;
            Ok((network, path.clone()))
        }
    }
}

fn build_fitting(fit: &Fit, clients: u8) -> Result<Network> {
    let mut network = Network::build(&Topology { servers: SERVERS, ..fit.topology(clients) })?;
    network.renumber(fit).context("the network cannot be made to fit the file")?;
    Ok(network)
}

fn write_own(network: &Network, weights: &[u8], backend: &str) -> Result<PathBuf> {
    let (path, rules) = (Path::new(FILES).join("wansplit.toml"), Path::new(FILES).join("rules"));
    let text = article::configuration(network, weights) + &article::forward(network);
    fs::create_dir_all(&rules).context("making the rules directory")?;
    fs::write(rules.join("lab.toml"), article::RULES).context("writing the rules")?;
    fs::write(&path, format!("backend = \"{backend}\"\n{text}")).context("writing the configuration")?;
    Ok(path)
}

/// The internet's servers, and one behind each port forward.
fn start_servers(network: &Network, config: &Config) -> Result<Vec<Server>> {
    let addresses: Vec<IpAddr> = network.servers.iter().flat_map(|server| server.both()).collect();
    let mut servers = vec![mixture::serve(&network.internet, &addresses)?];
    for forward in &config.forwards {
        for &target in &forward.to {
            servers.push(start_target(network, forward, target)?);
        }
    }
    Ok(servers)
}

fn start_target(network: &Network, forward: &Forward, target: IpAddr) -> Result<Server> {
    let by_address = network.clients().find(|client| client.addresses.both().contains(&target));
    let in_its_lan =
        || network.lans.iter().find(|lan| lan.net.contains(target)).and_then(|lan| lan.clients.first());
    let Some(client) = by_address.or_else(in_its_lan) else {
        bail!("forward {} leads to {target}, which is in no LAN of the lab", forward.name)
    };
    let address = SocketAddr::new(target, forward.to_port.unwrap_or(*forward.ports.start()));
    let served = |protocol| if forward.protocols.contains(&protocol) { vec![address] } else { Vec::new() };
    Server::start(&client.host, ServerSpec { tcp: served(6), udp: served(17), silent: Vec::new() })
}

/// The eyes on the traffic.
struct Watch<'a> {
    lab: &'a mut Lab,
    capture: Capture,
    ledger: Ledger,
    mixture: Mixture,
}

impl Watch<'_> {
    /// Takes in all that is new.
    fn look(&mut self, end: Instant) -> Result<Outcome> {
        let now = Instant::now();
        let status = self.lab.program.status()?;
        for decision in &status.recent {
            let line =
                status.uplinks.iter().position(|uplink| decision.uplink.as_ref() == Some(&uplink.name));
            if let (Some(flow), Some(line)) = (parse_flow(&decision.flow), line) {
                self.ledger.choose(flow, line, now);
            }
        }
        for (flow, line) in self.mixture.take_answers() {
            self.ledger.choose(flow, line, now);
        }
        let captured = self.capture.take();
        self.ledger.capture(&captured.records, &self.lab.network.lines);
        self.ledger.miss(captured.missed + captured.beyond_limit);
        self.ledger.forget(now);
        let facts = LabFacts {
            seconds_left: end.saturating_duration_since(now).as_secs_f64().ceil() as u64,
            links: self.links()?,
            tried: self.mixture.tried(),
            flows: self.ledger.facts(),
        };
        Ok(Outcome { status, facts })
    }

    fn links(&self) -> Result<Vec<LinkFacts>> {
        let link = |(number, line): (usize, &super::network::IspLine)| {
            let seen = line.isp.device_counters("customer")?.unwrap_or_default();
            Ok(LinkFacts {
                uplink: line.name.clone(),
                packets: seen.received_packets + seen.sent_packets,
                bytes: seen.received_bytes + seen.sent_bytes,
                strays: self.ledger.strays(number),
            })
        };
        self.lab.network.lines.iter().enumerate().map(link).collect()
    }

    /// Lets the connections under way end, and looks a last time, at the ISPs' own counters too.
    fn finish(mut self, show: &mut dyn FnMut(Update<'_>)) -> Result<Outcome> {
        self.mixture.stop();
        let deadline = Instant::now() + LAST_CONNECTIONS;
        while !self.mixture.is_over() && Instant::now() < deadline {
            let outcome = self.look(deadline.min(Instant::now()))?;
            show(Update::Traffic(&outcome.status, &outcome.facts));
            std::thread::sleep(LOOK / 2);
        }
        std::thread::sleep(SETTLE);
        let mut outcome = self.look(Instant::now())?;
        outcome.facts.tried = self.mixture.finish()?;
        for (link, dropped) in outcome.facts.links.iter_mut().zip(self.lab.network.strays()?) {
            link.strays = link.strays.max(dropped);
        }
        Ok(outcome)
    }
}
