//! Whole IP packets, sent as they are.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::craft::destination;
use crate::lab::host::Host;

/// `IPPROTO_RAW`: the caller writes the IP header, in both families (raw(7), ipv6(7)).
const HEADER_INCLUDED: i32 = 255;

/// Sends whole packets, of either family, in order. The machine routes them by their
/// destination; the source may be anybody's. IPv4 checksums and lengths are the kernel's.
///
/// # Errors
/// Without the privilege (`CAP_NET_RAW`) for raw sockets, for bytes that are not an IP packet,
/// and where there is no route or a packet is longer than the device takes.
pub fn send_packets(host: &Host, packets: &[Vec<u8>]) -> Result<()> {
    host.enter(|| -> Result<()> {
        let v4 = socket(Domain::IPV4)?;
        let v6 = socket(Domain::IPV6)?;
        for packet in packets {
            let to = destination(packet).context("these bytes are not an IP packet")?;
            let socket = if to.is_ipv4() { &v4 } else { &v6 };
            send(socket, packet, to)?;
        }
        Ok(())
    })?
}

fn socket(domain: Domain) -> Result<Socket> {
    let protocol = Protocol::from(HEADER_INCLUDED);
    Socket::new(domain, Type::RAW, Some(protocol)).context("opening a raw socket (this needs root)")
}

fn send(socket: &Socket, packet: &[u8], to: IpAddr) -> Result<()> {
    let address = SockAddr::from(SocketAddr::new(to, 0));
    socket.send_to(packet, &address).with_context(|| format!("sending {} bytes to {to}", packet.len()))?;
    Ok(())
}
