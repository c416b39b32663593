//! Neighbour discovery of an IPv6 gateway: a solicitation to it alone, as the kernel sends where it knew the
//! neighbour before (RFC 4861 section 7.2).

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::{Duration, Instant};

use socket2::{Protocol, Type};

use super::{Exit, LONGEST, datagrams, on_device, took};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Neighbours answer nothing that a router has passed on.
const HOP_LIMIT: u32 = 255;
/// Of both messages: type, code, checksum and flags, before the address.
const HEADER: usize = 8;

pub(super) async fn ask(gateway: Ipv6Addr, exit: &Exit) -> io::Result<Duration> {
    let socket = on_device(exit, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_unicast_hops_v6(HOP_LIMIT)?;
    let scope = if gateway.is_unicast_link_local() { exit.index } else { 0 };
    let socket = datagrams(socket)?;
    socket.connect(SocketAddrV6::new(gateway, 0, 0, scope)).await?;
    let asked = Instant::now();
    socket.send(&solicitation(gateway)).await?;
    let mut bytes = [0; LONGEST];
    loop {
        let length = socket.recv(&mut bytes).await?;
        let answer = bytes.get(..length).unwrap_or_default();
        if is_advertised(gateway, answer) {
            return Ok(took(asked));
        }
    }
}

/// The kernel sums it up.
fn solicitation(gateway: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    message[0] = SOLICITATION;
    message.extend(gateway.octets());
    message
}

fn is_advertised(gateway: Ipv6Addr, answer: &[u8]) -> bool {
    answer.first() == Some(&ADVERTISEMENT)
        && answer.get(HEADER..HEADER + 16) == Some(gateway.octets().as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_advertisement_of_the_gateway_is_an_answer() {
        let gateway = "fe80::1".parse().unwrap();
        let mut answer = solicitation(gateway);
        assert!(!is_advertised(gateway, &answer));
        answer[0] = ADVERTISEMENT;
        assert!(is_advertised(gateway, &answer));
        assert!(!is_advertised("fe80::2".parse().unwrap(), &answer));
        assert!(!is_advertised(gateway, &answer[..23]) && !is_advertised(gateway, &[]));
    }
}
