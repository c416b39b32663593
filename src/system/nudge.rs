//! Makes a host speak that only listens, or tells it that a connection is over.
//!
//! In the middle of a connection a TCP answers a segment that does not fit with where it stands
//! (RFC 9293, 3.10.7.4: "an unacceptable segment ... sends an acknowledgment"). So a bare
//! acknowledgment, written in the name of its peer, makes a host show which connections it still has.

use std::io;
use std::net::{IpAddr, SocketAddr};

use etherparse::{PacketBuilder, PacketBuilderStep, TcpHeader};
use socket2::{Domain, Protocol, Socket, Type};

use crate::engine::packet::Family;

/// `IPPROTO_RAW` (raw(7), ipv6(7)): what is sent has its IP header with it.
const HEADER_INCLUDED: i32 = 255;

/// An IP header without options, at most 40 bytes (RFC 8200), and a TCP header without options, 20 (RFC 9293).
const ROOM: usize = 60;

/// The segment stays in the LAN.
const HOP_LIMIT: u8 = 64;

/// Any will do: that it fits is one chance in 65,536, and then it is only one acknowledgment more.
const SEQUENCE: u32 = 0;

/// Sets the flag that a segment has.
type Flag = fn(PacketBuilderStep<TcpHeader>) -> PacketBuilderStep<TcpHeader>;

/// Sends nudges with a mark, in one family.
#[derive(Debug)]
pub struct Nudger(Socket);

impl Nudger {
    /// Opens the socket, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the caller lacks `CAP_NET_RAW` or `CAP_NET_ADMIN`, or the kernel lacks the family.
    pub fn open(family: Family, mark: u32) -> io::Result<Self> {
        let domain = match family {
            Family::V4 => Domain::IPV4,
            Family::V6 => Domain::IPV6,
        };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(HEADER_INCLUDED)))?;
        socket.set_mark(mark)?;
        socket.set_nonblocking(true)?;
        Ok(Nudger(socket))
    }

    /// Nudges the host at `to` about its connection with `from`.
    ///
    /// # Errors
    /// When there is no way to the host, or no room for one more packet.
    pub fn nudge(&self, from: SocketAddr, to: SocketAddr) -> io::Result<()> {
        self.send(from, to, |segment| segment.ack(SEQUENCE), SEQUENCE)
    }

    /// Tells the host at `to` that `from`, who would have gone on with this sequence number, has reset
    /// their connection.
    ///
    /// # Errors
    /// When there is no way to the host, or no room for one more packet.
    pub fn reset(&self, from: SocketAddr, to: SocketAddr, sequence: u32) -> io::Result<()> {
        self.send(from, to, PacketBuilderStep::rst, sequence)
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, flag: Flag, sequence: u32) -> io::Result<()> {
        let mut room = [0; ROOM];
        let Some(packet) = segment(from, to, flag, sequence, &mut room) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // A raw socket takes no port (ipv6(7)).
        self.0.send_to(packet, &SocketAddr::new(to.ip(), 0).into()).map(drop)
    }
}

/// The packet, its checksums included; `None` between families.
fn segment(
    from: SocketAddr,
    to: SocketAddr,
    flag: Flag,
    sequence: u32,
    room: &mut [u8; ROOM],
) -> Option<&[u8]> {
    let builder = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), HOP_LIMIT),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), HOP_LIMIT),
        _ => return None,
    };
    let segment = flag(builder.tcp(from.port(), to.port(), sequence, 0));
    let length = segment.size(0);
    segment.write_to_slice(room, &[]).ok()?;
    room.get(..length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::packet::parse;

    #[test]
    fn a_nudge_is_a_whole_packet_from_the_peer_to_the_host() {
        for (from, to) in [("192.0.2.1:443", "10.0.0.5:40000"), ("[2001:db8::1]:443", "[fd00::5]:40000")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let mut room = [0; ROOM];
            let ack: Flag = |segment| segment.ack(SEQUENCE);
            let packet = parse(segment(from, to, ack, SEQUENCE, &mut room).unwrap()).unwrap();
            let ports = packet.ports.unwrap();
            assert_eq!((packet.src, ports.src), (from.ip(), from.port()));
            assert_eq!((packet.dst, ports.dst, packet.protocol), (to.ip(), to.port(), 6));
            assert_eq!(packet.payload.len(), 20);
            assert_eq!(packet.payload[13], 0x10, "only ACK is set");
            let packet = parse(segment(from, to, PacketBuilderStep::rst, 7, &mut room).unwrap()).unwrap();
            assert_eq!((packet.payload[7], packet.payload[13]), (7, 0x04), "only RST is set");
        }
    }
}
