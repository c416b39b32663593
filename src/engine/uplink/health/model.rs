//! What a line is tried by and judged by: [`Target`], [`Settings`], and what comes out of it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::engine::packet::Family;

/// Most targets that one line is tried by.
pub const MAX_TARGETS: usize = 16;

/// Something outside that answers while a line works.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// An ICMP echo, answered by this host.
    Echo(IpAddr),
    /// A TCP connection to this service.
    Connect(SocketAddr),
    /// A DNS query for the address of a name, at this resolver.
    Query {
        /// The resolver.
        server: SocketAddr,
        /// The name; it need not exist, an answer is enough.
        name: String,
    },
    /// An HTTP request that must be answered as [`Page::is_right`] says.
    Fetch(Page),
    /// The line's own gateway, by ARP or neighbour discovery.
    Gateway,
}

/// What an HTTP request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Page {
    /// Over TLS.
    pub is_secure: bool,
    /// A host's name, or an address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path and query, from the slash on.
    pub path: String,
    /// The status that it must be answered with; `None`: any success.
    pub status: Option<u16>,
}

impl Target {
    /// Whether the target can be asked by this family. A name and the gateway can by either.
    #[must_use]
    pub fn is_of(&self, family: Family) -> bool {
        let address = match self {
            Target::Echo(address) => Some(*address),
            Target::Connect(service) | Target::Query { server: service, .. } => Some(service.ip()),
            Target::Fetch(page) => page.host.parse().ok(),
            Target::Gateway => None,
        };
        address.is_none_or(|address| Family::of(address) == family)
    }
}

/// As the configuration writes it.
impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Echo(address) => write!(out, "icmp://{address}"),
            Target::Connect(service) => write!(out, "tcp://{service}"),
            Target::Query { server, name } => write!(out, "dns://{server}/{name}"),
            Target::Fetch(page) => write!(out, "{page}"),
            Target::Gateway => write!(out, "arp://gateway"),
        }
    }
}

impl fmt::Display for Page {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(out, "{scheme}://{}{}", self.authority(), self.path)?;
        match self.status {
            Some(status) if self.status != Self::usual_status(&self.path) => write!(out, "#{status}"),
            _ => Ok(()),
        }
    }
}

impl Page {
    /// The port that need not be written (RFC 9110 section 4.2).
    #[must_use]
    pub fn usual_port(is_secure: bool) -> u16 {
        if is_secure { 443 } else { 80 }
    }

    /// The status that a path promises: `/generate_204` and its like are answered without contents, by captive
    /// portals with a page of theirs.
    #[must_use]
    pub fn usual_status(path: &str) -> Option<u16> {
        path.ends_with("204").then_some(204)
    }

    /// Whether this is the status that was hoped for.
    #[must_use]
    pub fn is_right(&self, status: u16) -> bool {
        self.status.map_or((200..300).contains(&status), |expected| expected == status)
    }

    /// Host and port as URLs and requests write them.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == Self::usual_port(self.is_secure) { host } else { format!("{host}:{}", self.port) }
    }
}

/// How a line is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// So many targets of a family must be good; `None`: more than half of them.
    pub quorum: Option<u8>,
    /// How often each target is asked while all is well.
    pub interval: Duration,
    /// A target beyond any of these is no longer good.
    pub leave: Limits,
    /// A target within all of these is good again.
    pub rejoin: Limits,
    /// How long enough targets must have been good again before the line is up.
    pub rejoin_for: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            quorum: None,
            interval: Duration::from_millis(500),
            leave: Limits { loss: 30, latency: Duration::from_millis(800), jitter: None },
            rejoin: Limits { loss: 5, latency: Duration::from_millis(400), jitter: None },
            rejoin_for: Duration::from_secs(5),
        }
    }
}

impl Settings {
    /// How many of so many targets must be good.
    #[must_use]
    pub fn needed(&self, targets: usize) -> usize {
        self.quorum.map_or(targets / 2 + 1, usize::from).min(targets)
    }

    /// How long an answer is waited for: longer than any latency that the limits allow.
    #[must_use]
    pub fn patience(&self) -> Duration {
        const LEAST: Duration = Duration::from_secs(1);
        LEAST.max(self.leave.latency + self.leave.latency / 4)
    }
}

/// How bad answers may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Lost probes in percent, 0 to 100.
    pub loss: u8,
    /// Time to an answer.
    pub latency: Duration,
    /// Mean difference between the times to two answers in a row; `None`: any.
    pub jitter: Option<Duration>,
}

/// How a line is, in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody has answered yet, and nobody has failed to for long enough.
    Unknown,
    /// Enough targets are good.
    Up,
    /// New flows got no answers; targets are being asked.
    Suspected,
    /// Not to be used.
    Down(Why),
}

impl State {
    /// Whether new flows should keep off the line although it has a way. Where there is none, nothing more
    /// need be said.
    #[must_use]
    pub fn is_avoided(self) -> bool {
        match self {
            State::Unknown | State::Up | State::Down(Why::NoWay) => false,
            State::Suspected | State::Down(_) => true,
        }
    }

    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::Up => "up",
            State::Suspected => "suspected",
            State::Down(_) => "down",
        }
    }

    /// Why new flows should keep off the line.
    #[must_use]
    pub fn why(self) -> Option<&'static str> {
        match self {
            State::Unknown | State::Up => None,
            State::Suspected => Some("new flows get no answers"),
            State::Down(why) => Some(why.explain()),
        }
    }
}

/// Why a line is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It has no carrier, address or gateway.
    NoWay,
    /// Its carrier, address or gateway was lost again and again.
    Flapping,
    /// Too few targets answer.
    NoAnswer,
    /// Too many probes are lost.
    Loss,
    /// Answers take too long.
    Latency,
    /// Answers take now long, now short.
    Jitter,
}

impl Why {
    /// The reason in words.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Why::NoWay => "it has no carrier, address or gateway",
            Why::Flapping => "its carrier, address or gateway comes and goes",
            Why::NoAnswer => "too few targets answer",
            Why::Loss => "too many probes are lost",
            Why::Latency => "answers take too long",
            Why::Jitter => "answers take now long, now short",
        }
    }
}

/// What was measured of late, over the targets that answer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Estimates {
    /// Lost probes, 0 to 1.
    pub loss: f64,
    /// Time to an answer, of the target that answers quickest; `None`: nobody has answered.
    pub latency: Option<Duration>,
    /// Mean difference between the times to two answers in a row, of the same target.
    pub jitter: Duration,
}
