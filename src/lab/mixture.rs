//! A household's traffic: a bit of everything, in both families, from every client.
//!
//! Each client has source ports of its own, so that the router has no reason to change one:
//! a captured flow is then the flow that was decided. The rate of all clients together does
//! not depend on how many they are.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::facts::{Kind, Outcome};
use super::flows::FlowId;
use super::host::Host;
use super::interrupt::Interrupt;
use super::server::{Server, ServerSpec};
use super::traffic::{Pace, Pings, Report, RunningTransfer, TcpFlows, Transfer, UdpFlows};
use crate::engine::packet::Family;

/// The bulk transfer's port; nothing else uses it.
const BULK: u16 = 873;

/// The ports on which the lab's servers answer, TCP and UDP.
const PORTS: [u16; 9] = [22, 25, 53, 80, 443, 5060, 8080, 27015, BULK];

/// The clients' source ports, shared out among them.
const FIRST_PORT: u16 = 10_000;
const CLIENT_PORTS: u16 = 50_000;

/// Time between two steps of all clients together: some 20 flows a step make about 130 a second.
const STEP: Duration = Duration::from_millis(20);

/// Time between two rounds from outside, and between two of the router's own.
const ROUND: Duration = Duration::from_millis(400);

/// A connection that takes longer has failed; the lab's longest way takes milliseconds.
const LIMIT: Duration = Duration::from_secs(5);

/// One step of a client: what, to which port, how many flows, how many bytes or datagrams.
#[derive(Debug, Clone, Copy)]
enum Step {
    Tcp { port: u16, flows: usize, bytes: usize },
    Udp { port: u16, flows: usize, datagrams: usize, bytes: usize },
    Ping,
}

/// What a household does, in a mixed order. Ports without a rule of the lab's outnumber the others,
/// so that the weights can be seen.
const STEPS: [Step; 12] = [
    Step::Tcp { port: 443, flows: 2, bytes: 4000 },
    Step::Udp { port: 53, flows: 3, datagrams: 1, bytes: 40 },
    Step::Tcp { port: 8080, flows: 3, bytes: 2000 },
    Step::Ping,
    Step::Tcp { port: 22, flows: 1, bytes: 500 },
    Step::Udp { port: 27015, flows: 2, datagrams: 3, bytes: 120 },
    Step::Tcp { port: 25, flows: 2, bytes: 3000 },
    Step::Udp { port: 443, flows: 1, datagrams: 3, bytes: 1200 },
    Step::Tcp { port: 80, flows: 2, bytes: 1500 },
    Step::Udp { port: 5060, flows: 1, datagrams: 2, bytes: 400 },
    Step::Tcp { port: 8080, flows: 3, bytes: 200 },
    Step::Udp { port: 53, flows: 3, datagrams: 1, bytes: 40 },
];

/// Who talks to whom.
#[derive(Debug, Clone)]
pub struct Cast {
    /// The clients.
    pub clients: Vec<Host>,
    /// The router.
    pub router: Host,
    /// The machine of all the servers.
    pub internet: Host,
    /// The clients' servers.
    pub servers: Vec<IpAddr>,
    /// The router's servers, others than the clients', so that the two never share a flow's name.
    pub routers_servers: Vec<IpAddr>,
    /// The ways in.
    pub doors: Vec<Door>,
}

/// A port forward on one line.
#[derive(Debug, Clone, Copy)]
pub struct Door {
    /// The router's address on the line, and the port outside.
    pub public: SocketAddr,
    /// IP protocol: TCP (6) or UDP (17).
    pub protocol: u8,
    /// Whether it opens from the LAN too.
    pub hairpin: bool,
    /// The line, counted from 0.
    pub line: usize,
}

/// The servers on the internet.
///
/// # Errors
/// When a port cannot be had.
pub fn serve(internet: &Host, addresses: &[IpAddr]) -> Result<Server> {
    Server::start(internet, ServerSpec::on(addresses, &PORTS, &[]))
}

/// Traffic under way.
#[derive(Debug)]
pub struct Mixture {
    shared: Arc<Shared>,
    makers: Vec<JoinHandle<Result<()>>>,
    bulk: Vec<(Kind, RunningTransfer)>,
}

/// What the makers tell the watcher.
#[derive(Debug, Default)]
struct Shared {
    stop: Interrupt,
    tried: Mutex<BTreeMap<Kind, Outcome>>,
    /// Answers to outside, and the line they must leave by.
    answers: Mutex<Vec<(FlowId, usize)>>,
}

impl Mixture {
    /// Starts it; the bulk transfers end by themselves after `time`.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(cast: &Cast, time: Duration) -> Result<Mixture> {
        let mut mixture = Mixture { shared: Arc::default(), makers: Vec::new(), bulk: Vec::new() };
        let share = CLIENT_PORTS / cast.clients.len().max(1) as u16;
        for (client, number) in cast.clients.iter().zip(0..) {
            let ports = Ports::new(FIRST_PORT + number * share, share);
            let (client, cast) = (client.clone(), cast.clone());
            mixture.add(move |shared| behave(&client, &cast, number.into(), ports, shared))?;
        }
        let outside = cast.clone();
        mixture.add(move |shared| knock(&outside, shared))?;
        let router = cast.clone();
        mixture.add(move |shared| ask_as_the_router(&router, shared))?;
        if let Some(client) = cast.clients.first() {
            for &server in &cast.servers {
                let transfer = Transfer::new(SocketAddr::new(server, BULK), time);
                mixture.bulk.push((tcp_kind(server), transfer.start(client)?));
            }
        }
        Ok(mixture)
    }

    /// How the connections fared so far.
    #[must_use]
    pub fn tried(&self) -> BTreeMap<Kind, Outcome> {
        self.shared.tried()
    }

    /// The answers to outside since the last call, and the lines they must leave by.
    #[must_use]
    pub fn take_answers(&self) -> Vec<(FlowId, usize)> {
        std::mem::take(&mut *self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks the makers to come to their end.
    pub fn stop(&self) {
        self.shared.stop.raise();
        self.bulk.iter().for_each(|(_, bulk)| bulk.stop());
    }

    /// Whether all makers have come to their end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.makers.iter().all(JoinHandle::is_finished) && self.bulk.iter().all(|(_, bulk)| bulk.is_over())
    }

    /// How the connections fared in the end. Waits for nobody: a bulk transfer that is not over
    /// has failed, and makers that are not go on alone.
    ///
    /// # Errors
    /// When a maker could not make its traffic at all.
    pub fn finish(self) -> Result<BTreeMap<Kind, Outcome>> {
        for (kind, bulk) in self.bulk {
            let worked = bulk.is_over() && bulk.wait()?.failure.is_none();
            self.shared.count(kind, worked, 1);
        }
        for maker in self.makers.into_iter().filter(JoinHandle::is_finished) {
            maker.join().map_err(|_| anyhow!("a traffic maker died"))??;
        }
        Ok(self.shared.tried())
    }

    fn add(&mut self, work: impl FnOnce(&Shared) -> Result<()> + Send + 'static) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let work = move || work(&shared);
        let thread = std::thread::Builder::new().name("traffic".into()).spawn(work);
        self.makers.push(thread.context("starting a thread")?);
        Ok(())
    }
}

impl Shared {
    fn tried(&self) -> BTreeMap<Kind, Outcome> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, kind: Kind, worked: bool, flows: u64) {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = tried.entry(kind).or_default();
        if worked { outcome.ok += flows } else { outcome.failed += flows }
    }

    fn report(&self, kind: Kind, report: &Report) {
        let worked = report.succeeded();
        self.count(kind, true, worked as u64);
        self.count(kind, false, (report.flows.len() - worked) as u64);
    }
}

/// Source ports, each one after the other, round and round.
#[derive(Debug)]
struct Ports {
    first: u16,
    count: u16,
    next: u16,
}

impl Ports {
    fn new(first: u16, count: u16) -> Self {
        Ports { first, count, next: 0 }
    }

    /// The first of so many ports in a row.
    fn take(&mut self, wanted: usize) -> u16 {
        let wanted = wanted as u16;
        if self.next + wanted > self.count {
            self.next = 0;
        }
        let first = self.first + self.next;
        self.next += wanted;
        first
    }
}

/// A client's life. Each begins elsewhere in the list of steps, so that a short lab sees them all.
fn behave(client: &Host, cast: &Cast, number: usize, mut ports: Ports, shared: &Shared) -> Result<()> {
    let pause = STEP * cast.clients.len() as u32;
    let all = STEPS.len() * cast.servers.len();
    for place in (number * all / cast.clients.len().max(1)).. {
        if shared.stop.is_wanted() {
            break;
        }
        let begin = Instant::now();
        if !cast.servers.is_empty() {
            let server = cast.servers[place % cast.servers.len()];
            take_step(client, STEPS[place / cast.servers.len() % STEPS.len()], server, &mut ports, shared)?;
        }
        if place % STEPS.len() == 0 {
            go_out_and_in(client, cast, &mut ports, shared)?;
        }
        shared.stop.sleep(pause.saturating_sub(begin.elapsed()).max(Duration::from_millis(1)));
    }
    Ok(())
}

fn take_step(client: &Host, step: Step, server: IpAddr, ports: &mut Ports, shared: &Shared) -> Result<()> {
    match step {
        Step::Tcp { port, flows, bytes } => {
            let flows = tcp(SocketAddr::new(server, port), flows, bytes, Some(ports.take(flows)));
            shared.report(tcp_kind(server), &flows.run(client)?);
        }
        Step::Udp { port, flows, datagrams, bytes } => {
            let first_port = Some(ports.take(flows));
            let flows = UdpFlows::new(SocketAddr::new(server, port), Pace::burst(flows, flows));
            let flows = UdpFlows { first_port, datagrams, bytes, ..flows };
            shared.report(udp_kind(server), &flows.run(client)?);
        }
        Step::Ping => {
            let pings = Pings { first_id: ports.take(1), ..Pings::new(server, 1) };
            let answered = pings.run(client)?.iter().all(|ping| ping.answered);
            shared.count(ping_kind(server), answered, 1);
        }
    }
    Ok(())
}

/// From the LAN to a forward, by one of the router's public addresses.
fn go_out_and_in(client: &Host, cast: &Cast, ports: &mut Ports, shared: &Shared) -> Result<()> {
    let doors: Vec<&Door> = cast.doors.iter().filter(|door| door.hairpin).collect();
    let first = ports.take(1);
    let Some(door) = doors.get(usize::from(first) % doors.len().max(1)) else { return Ok(()) };
    shared.report(Kind::Hairpin, &through(door, None, first).run(client)?);
    Ok(())
}

/// From outside, by every line at the same time.
fn knock(cast: &Cast, shared: &Shared) -> Result<()> {
    let share = CLIENT_PORTS / cast.doors.len().max(1) as u16;
    let mut ports: Vec<Ports> =
        (0..cast.doors.len() as u16).map(|number| Ports::new(FIRST_PORT + number * share, share)).collect();
    while !shared.stop.is_wanted() {
        for (door, ports) in cast.doors.iter().zip(&mut ports) {
            let from = cast.servers.iter().chain(&cast.routers_servers);
            let from = from.copied().find(|server| server.is_ipv4() == door.public.is_ipv4());
            let report = through(door, from, ports.take(1)).run(&cast.internet)?;
            shared.report(Kind::Forward, &report);
            note_answers(door, &report, shared);
        }
        shared.stop.sleep(ROUND);
    }
    Ok(())
}

/// The answers to these connections must leave by the line they came in on.
fn note_answers(door: &Door, report: &Report, shared: &Shared) {
    let mut answers = shared.answers.lock().unwrap_or_else(PoisonError::into_inner);
    for client in report.flows.iter().filter_map(|flow| flow.local) {
        let (dst, dst_port) = (client.ip(), client.port());
        let flow = FlowId { protocol: door.protocol, dst, dst_port, src_port: door.public.port() };
        answers.push((flow, door.line));
    }
}

fn ask_as_the_router(cast: &Cast, shared: &Shared) -> Result<()> {
    let mut id = 0_u16;
    while !shared.stop.is_wanted() {
        for &server in &cast.routers_servers {
            let report = tcp(SocketAddr::new(server, 80), 1, 500, None).run(&cast.router)?;
            shared.report(Kind::Router, &report);
            let names = UdpFlows::new(SocketAddr::new(server, 53), Pace::burst(1, 1));
            shared.report(Kind::Router, &names.run(&cast.router)?);
            id = id.wrapping_add(1);
            let ping = Pings { first_id: id, ..Pings::new(server, 1) };
            let answered = ping.run(&cast.router)?.iter().all(|ping| ping.answered);
            shared.count(Kind::Router, answered, 1);
        }
        shared.stop.sleep(ROUND);
    }
    Ok(())
}

/// One connection through a door.
enum Through {
    Tcp(TcpFlows),
    Udp(UdpFlows),
}

fn through(door: &Door, from: Option<IpAddr>, port: u16) -> Through {
    match door.protocol {
        17 => {
            let flows = UdpFlows::new(door.public, Pace::burst(1, 1));
            Through::Udp(UdpFlows { from, first_port: Some(port), ..flows })
        }
        _ => Through::Tcp(TcpFlows { from, ..tcp(door.public, 1, 500, Some(port)) }),
    }
}

impl Through {
    fn run(&self, host: &Host) -> Result<Report> {
        match self {
            Through::Tcp(flows) => flows.run(host),
            Through::Udp(flows) => flows.run(host),
        }
    }
}

fn tcp(to: SocketAddr, flows: usize, bytes: usize, first_port: Option<u16>) -> TcpFlows {
    TcpFlows { first_port, bytes, limit: LIMIT, ..TcpFlows::new(to, Pace::burst(flows, flows)) }
}

fn tcp_kind(to: IpAddr) -> Kind {
    by_family(to, Kind::Tcp4, Kind::Tcp6)
}

fn udp_kind(to: IpAddr) -> Kind {
    by_family(to, Kind::Udp4, Kind::Udp6)
}

fn ping_kind(to: IpAddr) -> Kind {
    by_family(to, Kind::Ping4, Kind::Ping6)
}

fn by_family(to: IpAddr, v4: Kind, v6: Kind) -> Kind {
    match Family::of(to) {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_go_round_within_their_share_and_never_past_its_end() {
        let mut ports = Ports::new(100, 5);
        let taken: Vec<u16> = [2, 2, 2, 1, 3].into_iter().map(|wanted| ports.take(wanted)).collect();
        assert_eq!(taken, [100, 102, 100, 102, 100]);
    }

    #[test]
    fn every_step_has_a_server_and_no_step_is_on_the_bulk_transfers_port() {
        for step in STEPS {
            if let Step::Tcp { port, .. } | Step::Udp { port, .. } = step {
                assert!(PORTS.contains(&port) && port != BULK, "{step:?}");
            }
        }
    }
}
