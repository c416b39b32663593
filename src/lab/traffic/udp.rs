//! UDP flows: each from a port of its own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::pace::payload;
use super::tcp::{port, unspecified};
use super::{FlowOutcome, Pace, Report, Tally};
use crate::lab::host::Host;
use crate::lab::server::parse_greeting;

/// Receive buffer, in bytes: some 1,000 small answers that came while datagrams went out back to back,
/// where `net.core.rmem_max` allows it.
const BUFFER: usize = 1 << 20;

/// What a flow waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdpAnswers {
    /// An answer to each datagram; fewer are a failure.
    All,
    /// Nothing: the server is silent.
    None,
}

/// Many flows to one server.
#[derive(Debug, Clone)]
pub struct UdpFlows {
    /// The server.
    pub to: SocketAddr,
    /// How many, how fast.
    pub pace: Pace,
    /// The first flow's source port, the next one's the next; `None`: the kernel chooses,
    /// and may choose a port again once its flow has ended.
    pub first_port: Option<u16>,
    /// The source address; `None`: the kernel chooses.
    pub from: Option<IpAddr>,
    /// Datagrams of one flow.
    pub datagrams: usize,
    /// Time between two datagrams of a flow; zero: back to back, before any answer.
    pub gap: Duration,
    /// Bytes in a datagram.
    pub bytes: usize,
    /// What a flow waits for.
    pub answers: UdpAnswers,
    /// How long it waits after its last datagram.
    pub limit: Duration,
}

impl UdpFlows {
    /// Flows of one datagram of 64 bytes that is answered within 5 seconds.
    #[must_use]
    pub fn new(to: SocketAddr, pace: Pace) -> Self {
        UdpFlows {
            to,
            pace,
            first_port: None,
            from: None,
            datagrams: 1,
            gap: Duration::ZERO,
            bytes: 64,
            answers: UdpAnswers::All,
            limit: Duration::from_secs(5),
        }
    }

    /// Flows of two datagrams back to back.
    #[must_use]
    pub fn pairs(to: SocketAddr, pace: Pace) -> Self {
        UdpFlows { datagrams: 2, ..UdpFlows::new(to, pace) }
    }

    /// Flows of so many datagrams that are never answered.
    #[must_use]
    pub fn unanswered(to: SocketAddr, pace: Pace, datagrams: usize) -> Self {
        UdpFlows { datagrams, answers: UdpAnswers::None, ..UdpFlows::new(to, pace) }
    }

    /// Makes them, and returns when the last has ended.
    ///
    /// # Errors
    /// When the machine cannot be entered; failed flows are in the report.
    pub fn run(&self, host: &Host) -> Result<Report> {
        self.run_counted(host, &Tally::default())
    }

    /// As [`UdpFlows::run`], counted while it runs.
    ///
    /// # Errors
    /// As [`UdpFlows::run`].
    pub fn run_counted(&self, host: &Host, tally: &Tally) -> Result<Report> {
        let payload = payload(self.bytes);
        host.block_on(|| self.pace.drive(tally, |index| converse(self.clone(), index, Arc::clone(&payload))))
    }
}

async fn converse(flows: UdpFlows, index: usize, payload: Arc<[u8]>) -> FlowOutcome {
    let mut outcome = FlowOutcome { index, local: None, seen_as: Vec::new(), answers: 0, failure: None };
    let result = exchange(&flows, &payload, &mut outcome).await;
    outcome.failure = match result {
        Err(error) => Some(error.to_string()),
        Ok(()) if flows.answers == UdpAnswers::All && outcome.answers < flows.datagrams => {
            Some(format!("{} of {} datagrams answered", outcome.answers, flows.datagrams))
        }
        Ok(()) => None,
    };
    outcome
}

async fn exchange(flows: &UdpFlows, payload: &[u8], outcome: &mut FlowOutcome) -> io::Result<()> {
    let socket = open(flows, outcome.index).await?;
    outcome.local = Some(socket.local_addr()?);
    for number in 0..flows.datagrams {
        if number > 0 && !flows.gap.is_zero() {
            pause(&socket, flows, outcome).await?;
        }
        socket.send(payload).await?;
    }
    match flows.answers {
        UdpAnswers::All => collect(&socket, Instant::now() + flows.limit, flows.datagrams, outcome).await,
        UdpAnswers::None => Ok(()),
    }
}

async fn open(flows: &UdpFlows, index: usize) -> io::Result<UdpSocket> {
    let address = flows.from.unwrap_or(unspecified(flows.to));
    let socket = UdpSocket::bind(SocketAddr::new(address, port(flows.first_port, index))).await?;
    SockRef::from(&socket).set_recv_buffer_size(BUFFER)?;
    socket.connect(flows.to).await?;
    Ok(socket)
}

/// The time between two datagrams; answers are taken in meanwhile.
async fn pause(socket: &UdpSocket, flows: &UdpFlows, outcome: &mut FlowOutcome) -> io::Result<()> {
    let end = Instant::now() + flows.gap;
    if flows.answers == UdpAnswers::All {
        collect(socket, end, flows.datagrams, outcome).await?;
    }
    sleep_until(end).await;
    Ok(())
}

/// Takes in answers until there are as many as wanted or the time is over.
async fn collect(
    socket: &UdpSocket,
    end: Instant,
    wanted: usize,
    outcome: &mut FlowOutcome,
) -> io::Result<()> {
    let mut answer = vec![0; 2048];
    while outcome.answers < wanted {
        let Ok(received) = timeout_at(end, socket.recv(&mut answer)).await else { return Ok(()) };
        let source = parse_greeting(&answer[..received?]);
        outcome.answers += 1;
        outcome.seen_as.extend(source.filter(|source| !outcome.seen_as.contains(source)));
    }
    Ok(())
}
