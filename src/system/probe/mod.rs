//! Probes: questions that leave by one line, whatever the routing says, and how long the answer took.
//!
//! Each is a future of its own on the runtime of whoever asks, with a socket of its own that is bound
//! to the line's device and address and carries the line's mark. None of them ends by itself where
//! nobody answers: whoever asks gives up when it likes, by dropping the future.
//!
//! Everybody on the way can answer, so an answer counts only if it comes from whom was asked and
//! repeats what only the question held.

mod arp;
mod connect;
mod echo;
mod fetch;
mod hosts;
mod neighbour;
mod query;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use self::fetch::Trust;
use self::hosts::Hosts;
use crate::engine::packet::Family;
use crate::engine::uplink::health::Target;

/// Room for an IPv4 header with options, and for any answer that is not a stream.
const LONGEST: usize = 512;

/// How a line's probes leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The family that is tried.
    pub family: Family,
    /// The line's device.
    pub device: String,
    /// The device's kernel index.
    pub index: u32,
    /// The line's mark.
    pub mark: u32,
    /// The line's own address, where it has one.
    pub source: Option<IpAddr>,
    /// The device's hardware address, where it is one of Ethernet.
    pub hardware: Option<[u8; 6]>,
    /// The next hop, where there is one that can be asked.
    pub gateway: Option<IpAddr>,
}

/// Asks targets. Clones share what they know.
#[derive(Clone, Default)]
pub struct Prober {
    hosts: Arc<Hosts>,
    trust: Arc<Trust>,
}

impl Prober {
    /// Asks a target and waits for the right answer; returns how long that took. `number` is repeated by
    /// targets that can.
    ///
    /// # Errors
    /// The question could not be sent, was refused, or was answered wrongly.
    pub async fn ask(&self, target: &Target, exit: &Exit, number: u64) -> io::Result<Duration> {
        match target {
            Target::Echo(address) => echo::ask(*address, exit, number).await,
            Target::Connect(service) => connect::ask(*service, exit).await,
            Target::Query { server, name } => query::ask(*server, name, exit).await,
            Target::Fetch(page) => {
                let address = self.hosts.address(&page.host, exit.family).await?;
                fetch::ask(page, address, exit, &self.trust).await
            }
            Target::Gateway => match exit.gateway.ok_or_else(|| wrong("there is no gateway"))? {
                IpAddr::V4(gateway) => arp::ask(gateway, exit).await,
                IpAddr::V6(gateway) => neighbour::ask(gateway, exit).await,
            },
        }
    }
}

/// A socket that leaves by the line: from its device, with its mark.
fn on_device(exit: &Exit, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
    let domain = match exit.family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, kind.nonblocking(), protocol)?;
    socket.bind_device(Some(exit.device.as_bytes()))?;
    socket.set_mark(exit.mark)?;
    Ok(socket)
}

/// The same, from the line's own address.
fn on_line(exit: &Exit, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
    let socket = on_device(exit, kind, protocol)?;
    if let Some(source) = exit.source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

/// A raw or packet socket for the runtime: it is read and written like one of UDP.
fn datagrams(socket: Socket) -> io::Result<UdpSocket> {
    UdpSocket::from_std(socket.into())
}

fn took(since: Instant) -> Duration {
    since.elapsed()
}

/// An answer that is not what was hoped for.
fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}
