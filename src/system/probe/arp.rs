//! ARP of an IPv4 gateway (RFC 826), on Ethernet.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Exit, LONGEST, datagrams, took, wrong};

/// `ETH_P_ARP`, include/uapi/linux/if_ether.h.
const ARP: u16 = 0x0806;
const BROADCAST: [u8; 6] = [0xff; 6];
/// Ethernet, IPv4, and how long the addresses of both are.
const KINDS: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

pub(super) async fn ask(gateway: Ipv4Addr, exit: &Exit) -> io::Result<Duration> {
    let own = exit.hardware.ok_or_else(|| wrong("the device is not of Ethernet"))?;
    let socket = open(exit)?;
    let source = match exit.source {
        Some(IpAddr::V4(source)) => source,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let asked = Instant::now();
    socket.send_to(&request(own, source, gateway), &link(exit.index, BROADCAST)?)?;
    let socket = datagrams(socket)?;
    let mut bytes = [0; LONGEST];
    loop {
        let length = socket.recv(&mut bytes).await?;
        let answer = bytes.get(..length).unwrap_or_default();
        if is_reply(source, gateway, answer) {
            return Ok(took(asked));
        }
    }
}

/// Opened for nothing at first: what is heard before it is bound would come from any device.
fn open(exit: &Exit) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking(), Some(Protocol::from(0)))?;
    socket.bind(&link(exit.index, BROADCAST)?)?;
    Ok(socket)
}

/// `struct sockaddr_ll` (include/uapi/linux/if_packet.h): neither socket2 nor nix make one.
#[expect(unsafe_code, reason = "socket2 takes an address of a kind it does not know only as memory")]
fn link(index: u32, address: [u8; 6]) -> io::Result<SockAddr> {
    let [a, b, c, d, e, f] = address;
    let link = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ARP.to_be(),
        sll_ifindex: i32::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [a, b, c, d, e, f, 0, 0],
    };
    // SAFETY: the storage is larger than a `sockaddr_ll` and aligned for every kind of address; the length is that
    // of what is written.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            storage.cast::<libc::sockaddr_ll>().write(link);
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    Ok(address)
}

fn request(own: [u8; 6], source: Ipv4Addr, gateway: Ipv4Addr) -> Vec<u8> {
    let parts: [&[u8]; 6] = [&KINDS, &REQUEST, &own, &source.octets(), &[0; 6], &gateway.octets()];
    parts.concat()
}

fn is_reply(source: Ipv4Addr, gateway: Ipv4Addr, answer: &[u8]) -> bool {
    answer.get(..8) == Some([KINDS.as_slice(), &REPLY].concat().as_slice())
        && answer.get(14..18) == Some(&gateway.octets())
        && answer.get(24..28) == Some(&source.octets())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reply_of_the_gateway_to_us_counts() {
        let [own, gateway, other] = [2, 1, 3].map(|last| Ipv4Addr::new(198, 51, 100, last));
        let reply = |from: Ipv4Addr, to: Ipv4Addr| {
            [&KINDS[..], &REPLY, &[2; 6], &from.octets(), &[4; 6], &to.octets()].concat()
        };
        assert!(is_reply(own, gateway, &reply(gateway, own)));
        assert!(!is_reply(own, gateway, &reply(other, own)));
        assert!(!is_reply(own, gateway, &reply(gateway, other)));
        assert!(!is_reply(own, gateway, &request([2; 6], gateway, own)));
        assert!(!is_reply(own, gateway, &reply(gateway, own)[..27]) && !is_reply(own, gateway, &[]));
    }
}
