//! Servers that tell whom they saw.
//!
//! Every answer begins with the line `source ADDRESS:PORT`, so that a client
//! learns by which uplink it came; all that follows is echoed. A silent port
//! takes datagrams and never answers. Each address has sockets of its own:
//! an answer comes from the address that was asked.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::host::{self, Host};

/// Most flows that are remembered; more are only counted.
const MOST_FLOWS: usize = 200_000;

/// A connection on which nothing happens for so long is closed.
const IDLE: Duration = Duration::from_secs(120);

/// Connections waiting to be accepted, and bytes of datagrams waiting to be read, on one socket.
const BACKLOG: i32 = 4096;
const BUFFER: usize = 4 << 20;

/// Where to serve.
#[derive(Debug, Clone, Default)]
pub struct ServerSpec {
    /// TCP: greeting, then echo.
    pub tcp: Vec<SocketAddr>,
    /// UDP: greeting and echo in one answer.
    pub udp: Vec<SocketAddr>,
    /// UDP: no answer.
    pub silent: Vec<SocketAddr>,
}

impl ServerSpec {
    /// The same TCP and UDP echo ports, and silent UDP ports, on each address.
    #[must_use]
    pub fn on(addresses: &[IpAddr], echo: &[u16], silent: &[u16]) -> Self {
        let all = |ports: &[u16]| -> Vec<SocketAddr> {
            addresses
                .iter()
                .flat_map(|&ip| ports.iter().map(move |&port| SocketAddr::new(ip, port)))
                .collect()
        };
        ServerSpec { tcp: all(echo), udp: all(echo), silent: all(silent) }
    }
}

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A flow as its server saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SeenFlow {
    /// TCP or UDP.
    pub transport: Transport,
    /// Where it came from.
    pub source: SocketAddr,
    /// Where it was received.
    pub local: SocketAddr,
}

/// What the servers saw.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Connections (always 1), or datagrams of one source.
    pub flows: HashMap<SeenFlow, u64>,
    /// Connections and datagrams of flows for which there was no room.
    pub beyond_limit: u64,
}

impl Seen {
    /// How many flows came from each address.
    #[must_use]
    pub fn flows_by_source(&self, transport: Transport) -> BTreeMap<IpAddr, usize> {
        let mut by_source = BTreeMap::new();
        let sources =
            self.flows.keys().filter(|flow| flow.transport == transport).map(|flow| flow.source.ip());
        sources.for_each(|source| *by_source.entry(source).or_default() += 1);
        by_source
    }

    fn count(&mut self, flow: SeenFlow) {
        if self.flows.len() < MOST_FLOWS || self.flows.contains_key(&flow) {
            *self.flows.entry(flow).or_default() += 1;
        } else {
            self.beyond_limit += 1;
        }
    }
}

/// Running servers; dropped, they and their connections are gone.
pub struct Server {
    seen: Arc<Mutex<Seen>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Starts servers on a machine; they can be asked when it returns.
    ///
    /// # Errors
    /// When an address or port cannot be had.
    pub fn start(host: &Host, spec: ServerSpec) -> Result<Server> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::sync_channel(1);
        let counter = Counter(Arc::clone(&seen));
        let thread = host.spawn_thread(|| host::block_on(|| serve(spec, counter, ready, stopped)))?;
        is_ready.recv().context("the server's thread died")??;
        Ok(Server { seen, stop: Some(stop), thread: Some(thread) })
    }

    /// What they saw so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As [`Server::seen`], and forgets it.
    #[must_use]
    pub fn take_seen(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Counter(Arc<Mutex<Seen>>);

impl Counter {
    fn count(&self, transport: Transport, source: SocketAddr, local: SocketAddr) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.count(SeenFlow { transport, source, local });
    }
}

async fn serve(
    spec: ServerSpec,
    counter: Counter,
    ready: SyncSender<Result<()>>,
    stopped: oneshot::Receiver<()>,
) {
    let mut tasks = JoinSet::new();
    let outcome = start_all(&spec, &counter, &mut tasks);
    let failed = outcome.is_err();
    let _ = ready.send(outcome);
    if !failed {
        // An error, too, means that the guard is gone.
        let _ = stopped.await;
    }
}

fn start_all(spec: &ServerSpec, counter: &Counter, tasks: &mut JoinSet<()>) -> Result<()> {
    for &address in &spec.tcp {
        let socket = bind(address, Type::STREAM, Protocol::TCP)?;
        socket.listen(BACKLOG).with_context(|| format!("listening on {address}"))?;
        let listener =
            TcpListener::from_std(socket.into()).with_context(|| format!("listening on {address}"))?;
        tasks.spawn(accept(listener, counter.clone()));
    }
    let udp = spec.udp.iter().map(|&address| (address, true));
    for (address, answers) in udp.chain(spec.silent.iter().map(|&address| (address, false))) {
        let socket = bind(address, Type::DGRAM, Protocol::UDP)?;
        let socket =
            UdpSocket::from_std(socket.into()).with_context(|| format!("serving UDP on {address}"))?;
        tasks.spawn(datagrams(socket, address, answers, counter.clone()));
    }
    Ok(())
}

fn bind(address: SocketAddr, kind: Type, protocol: Protocol) -> Result<Socket> {
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if kind == Type::STREAM {
            socket.set_reuse_address(true)?;
        }
        socket.set_recv_buffer_size(BUFFER)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    open().map_err(|error| anyhow!(error)).with_context(|| format!("binding {address}"))
}

async fn accept(listener: TcpListener, counter: Counter) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, source)) => {
                    if let Ok(local) = stream.local_addr() {
                        counter.count(Transport::Tcp, source, local);
                    }
                    connections.spawn(converse(stream, source));
                }
                // Out of descriptors, or the client was gone already.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(mut stream: TcpStream, source: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(greeting(source).as_bytes()).await?;
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(length) = tokio::time::timeout(IDLE, stream.read(&mut bytes)).await {
        match length? {
            0 => break,
            length => stream.write_all(&bytes[..length]).await?,
        }
    }
    Ok(())
}

async fn datagrams(socket: UdpSocket, address: SocketAddr, answers: bool, counter: Counter) {
    let mut bytes = vec![0; 65_536];
    loop {
        // An ICMP error from an earlier answer comes back here; it is nobody's end.
        let Ok((length, source)) = socket.recv_from(&mut bytes).await else { continue };
        counter.count(Transport::Udp, source, address);
        if answers {
            let answer = [greeting(source).as_bytes(), &bytes[..length]].concat();
            let _ = socket.send_to(&answer, source).await;
        }
    }
}

/// The line every answer begins with.
fn greeting(source: SocketAddr) -> String {
    format!("source {source}\n")
}

/// The address a server saw, from the first line of its answer.
pub(super) fn parse_greeting(answer: &[u8]) -> Option<SocketAddr> {
    let line = answer.split(|&byte| byte == b'\n').next()?;
    std::str::from_utf8(line).ok()?.strip_prefix("source ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_says_the_same_to_its_reader() {
        for source in ["198.51.100.2:40000", "[2001:db8:1::2]:40000"] {
            let source = source.parse().unwrap();
            let answer = greeting(source) + "payload\n";
            assert_eq!(parse_greeting(answer.as_bytes()), Some(source));
        }
        assert_eq!(parse_greeting(b"payload"), None);
    }

    #[test]
    fn flows_beyond_the_limit_are_counted_but_not_kept() {
        let mut seen = Seen::default();
        let local = "192.0.2.1:7".parse().unwrap();
        for number in 0..=MOST_FLOWS as u32 {
            let source = SocketAddr::new(IpAddr::from(number.to_be_bytes()), 1);
            seen.count(SeenFlow { transport: Transport::Udp, source, local });
        }
        assert_eq!((seen.flows.len(), seen.beyond_limit), (MOST_FLOWS, 1));
    }
}
