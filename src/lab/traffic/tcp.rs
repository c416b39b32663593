//! TCP connections that say a little and end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::pace::payload;
use super::{FlowOutcome, Pace, Report, Tally};
use crate::lab::host::Host;
use crate::lab::server::parse_greeting;

/// Many connections to one server.
#[derive(Debug, Clone)]
pub struct TcpFlows {
    /// The server: greets, then echoes.
    pub to: SocketAddr,
    /// How many, how fast.
    pub pace: Pace,
    /// The first flow's source port, the next one's the next; `None`: the kernel chooses.
    pub first_port: Option<u16>,
    /// The source address; `None`: the kernel chooses.
    pub from: Option<IpAddr>,
    /// Bytes sent and expected back.
    pub bytes: usize,
    /// How long a connection may take, from its first packet to its end.
    pub limit: Duration,
}

impl TcpFlows {
    /// Connections from ports of the kernel's choice, that say 64 bytes within 10 seconds.
    #[must_use]
    pub fn new(to: SocketAddr, pace: Pace) -> Self {
        TcpFlows { to, pace, first_port: None, from: None, bytes: 64, limit: Duration::from_secs(10) }
    }

    /// Makes them, and returns when the last has ended.
    ///
    /// # Errors
    /// When the machine cannot be entered; failed connections are in the report.
    pub fn run(&self, host: &Host) -> Result<Report> {
        self.run_counted(host, &Tally::default())
    }

    /// As [`TcpFlows::run`], counted while it runs.
    ///
    /// # Errors
    /// As [`TcpFlows::run`].
    pub fn run_counted(&self, host: &Host, tally: &Tally) -> Result<Report> {
        let payload = payload(self.bytes);
        host.block_on(|| self.pace.drive(tally, |index| connect(self.clone(), index, Arc::clone(&payload))))
    }
}

async fn connect(flows: TcpFlows, index: usize, payload: Arc<[u8]>) -> FlowOutcome {
    let mut outcome = FlowOutcome { index, local: None, seen_as: Vec::new(), answers: 0, failure: None };
    let result = tokio::time::timeout(flows.limit, converse(&flows, &payload, &mut outcome)).await;
    outcome.failure = match result {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no end after {:?}", flows.limit)),
    };
    outcome
}

async fn converse(flows: &TcpFlows, payload: &[u8], outcome: &mut FlowOutcome) -> io::Result<()> {
    let mut stream = open(flows.to, flows.from, port(flows.first_port, outcome.index)).await?;
    outcome.local = Some(stream.local_addr()?);
    let greeting = read_line(&mut stream).await?;
    outcome.seen_as.extend(parse_greeting(&greeting));
    stream.write_all(payload).await?;
    let mut echo = vec![0; payload.len()];
    stream.read_exact(&mut echo).await?;
    if echo != payload {
        return Err(io::Error::other("the echo is not what was sent"));
    }
    outcome.answers = 1;
    Ok(())
}

/// Connects from a given address or port, where one is given.
pub(super) async fn open(to: SocketAddr, from: Option<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if from.is_some() || port != 0 {
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(from.unwrap_or(unspecified(to)), port))?;
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The source port of one of many flows; 0 leaves it to the kernel.
pub(super) fn port(first: Option<u16>, index: usize) -> u16 {
    first.map_or(0, |first| first.wrapping_add(index as u16))
}

/// "Any address" of the family of another.
pub(super) fn unspecified(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    }
}

/// Reads to the end of the first line and no further; a greeting is short.
pub(super) async fn read_line(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    while line.len() < 100 && line.last() != Some(&b'\n') {
        line.push(stream.read_u8().await?);
    }
    Ok(line)
}
