//! Echo requests (RFC 792, RFC 4443), each with an identifier of its own: each is a flow.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use pnet::packet::icmp::{self, IcmpTypes};
use pnet::packet::icmpv6::Icmpv6Types;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::engine::packet::Family;
use crate::lab::host::Host;

/// Many echo requests to one address.
#[derive(Debug, Clone)]
pub struct Pings {
    /// Whom to ask.
    pub to: IpAddr,
    /// How many.
    pub count: u16,
    /// The first one's identifier, the next one's the next.
    pub first_id: u16,
    /// Requests per second.
    pub per_second: u32,
    /// How long to wait after the last.
    pub limit: Duration,
}

/// What became of one echo request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PingOutcome {
    /// Its identifier.
    pub id: u16,
    /// Whether it was answered.
    pub answered: bool,
}

impl Pings {
    /// Requests with identifiers from 1, 500 a second, answered within 3 seconds.
    #[must_use]
    pub fn new(to: IpAddr, count: u16) -> Self {
        Pings { to, count, first_id: 1, per_second: 500, limit: Duration::from_secs(3) }
    }

    /// Sends them, and returns when all are answered or the time is over.
    ///
    /// # Errors
    /// Without the privilege (`CAP_NET_RAW`) for raw sockets, or when a request cannot be sent.
    pub fn run(&self, host: &Host) -> Result<Vec<PingOutcome>> {
        let answered = host.enter(|| self.exchange())?.with_context(|| format!("pinging {}", self.to))?;
        let outcome = |(number, answered)| PingOutcome { id: self.first_id.wrapping_add(number), answered };
        Ok((0..).zip(answered).map(outcome).collect())
    }

    /// Which of them were answered.
    fn exchange(&self) -> Result<Vec<bool>> {
        let socket = self.socket()?;
        let sending = Duration::from_secs_f64(f64::from(self.count) / f64::from(self.per_second.max(1)));
        let deadline = Instant::now() + sending + self.limit;
        thread::scope(|scope| {
            let answers = scope.spawn(|| self.collect(&socket, deadline));
            self.send_all(&socket)?;
            answers.join().map_err(|_| anyhow!("the receiving thread died"))?.context("receiving")
        })
    }

    fn socket(&self) -> Result<Socket> {
        let (domain, protocol) = match Family::of(self.to) {
            Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
            Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))
            .context("opening a raw socket (this needs root)")?;
        socket.set_recv_buffer_size(4 << 20)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(socket)
    }

    fn send_all(&self, socket: &Socket) -> Result<()> {
        let to = SockAddr::from(SocketAddr::new(self.to, 0));
        let begin = Instant::now();
        for number in 0..self.count {
            let due = begin + Duration::from_secs_f64(f64::from(number) / f64::from(self.per_second.max(1)));
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let request = echo_request(Family::of(self.to), self.first_id.wrapping_add(number));
            socket.send_to(&request, &to).context("sending")?;
        }
        Ok(())
    }

    fn collect(&self, mut socket: &Socket, deadline: Instant) -> io::Result<Vec<bool>> {
        let mut answered = vec![false; usize::from(self.count)];
        let mut bytes = [0; 2048];
        while Instant::now() < deadline && answered.contains(&false) {
            match socket.read(&mut bytes) {
                Ok(length) => {
                    let id = answer_id(Family::of(self.to), &bytes[..length]);
                    let place = id.map(|id| usize::from(id.wrapping_sub(self.first_id)));
                    if let Some(known) = place.and_then(|place| answered.get_mut(place)) {
                        *known = true;
                    }
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(answered)
    }
}

/// An echo request of 16 bytes of data. The kernel writes the checksum of ICMPv6 (RFC 3542, 3.1).
fn echo_request(family: Family, id: u16) -> Vec<u8> {
    let kind = match family {
        Family::V4 => IcmpTypes::EchoRequest.0,
        Family::V6 => Icmpv6Types::EchoRequest.0,
    };
    let [high, low] = id.to_be_bytes();
    let mut packet = vec![kind, 0, 0, 0, high, low, 0, 1];
    packet.extend([b'w'; 16]);
    if let (Family::V4, Some(view)) = (family, icmp::IcmpPacket::new(&packet)) {
        let sum = icmp::checksum(&view).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    packet
}

/// The identifier of an echo reply; a raw IPv4 socket also gives the IP header, an IPv6 one does not.
fn answer_id(family: Family, bytes: &[u8]) -> Option<u16> {
    let (message, reply) = match family {
        Family::V4 => (bytes.get(usize::from(bytes.first()? & 0xf) * 4..)?, IcmpTypes::EchoReply.0),
        Family::V6 => (bytes, Icmpv6Types::EchoReply.0),
    };
    let id = message.get(4..6)?;
    (message[0] == reply).then(|| u16::from_be_bytes([id[0], id[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_request_has_a_checksum_that_makes_its_words_sum_to_all_ones() {
        let packet = echo_request(Family::V4, 0x1234);
        let sum: u32 = packet.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn only_replies_have_an_identifier() {
        let request = echo_request(Family::V6, 7);
        assert_eq!(answer_id(Family::V6, &request), None);
        let reply = [&[Icmpv6Types::EchoReply.0], &request[1..]].concat();
        assert_eq!(answer_id(Family::V6, &reply), Some(7));
        assert_eq!(answer_id(Family::V4, &[0x45]), None);
    }
}
