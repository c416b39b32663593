//! What the LAN sends, ready for the cable. No two flows have an address and a port in common with the same server,
//! so that translation finds its port free, as it does nearly always.

use std::net::Ipv4Addr;

use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::util::{checksum, ipv4_checksum};

use crate::world::{CLIENT, LAN_MAC};

/// The least that Ethernet carries, without its checksum.
pub const LENGTH: usize = 60;
/// One packet.
pub type Frame = [u8; LENGTH];

const ETHERNET: usize = 14;
const IP: usize = 20;
const PAYLOAD: usize = ETHERNET + IP;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Answers tell the numbers of so many packets apart.
pub const TOLD_APART: u64 = PORTS;
/// Machines that begin flows in turns.
const CLIENTS: u64 = 200;
/// Ports of each.
const PORTS: u64 = 60_000;
const FIRST_PORT: u16 = 1024;
/// The "discard" service, which no rule asks for and nobody offers.
const PORT: u16 = 9;
/// Which of a machine's echo requests belong together.
const ECHO: u16 = 0x7777;

/// The first datagram of a flow.
pub fn datagram(number: u64) -> Frame {
    let (client, server) = (number % CLIENTS, number / (CLIENTS * PORTS));
    let ends = [[10, 77, 2, client as u8 + 1], [198, 18, client as u8 + 1, server as u8]];
    let mut frame = packet(UDP, ends);
    frame[PAYLOAD..PAYLOAD + 2].copy_from_slice(&port(number / CLIENTS).to_be_bytes());
    frame[PAYLOAD + 2..PAYLOAD + 4].copy_from_slice(&PORT.to_be_bytes());
    frame[PAYLOAD + 5] = (LENGTH - PAYLOAD) as u8;
    frame
}

/// The first segment of a connection that nobody takes.
pub fn opening(number: u64) -> Frame {
    let (from, to) = (CLIENT.octets(), [198, 19, 0, (number / PORTS) as u8]);
    let mut frame = packet(TCP, [from, to]);
    frame[PAYLOAD..PAYLOAD + 2].copy_from_slice(&port(number).to_be_bytes());
    frame[PAYLOAD + 2..PAYLOAD + 4].copy_from_slice(&PORT.to_be_bytes());
    // Five words of header and one of an option that ends them, SYN, a window.
    frame[PAYLOAD + 12..PAYLOAD + 16].copy_from_slice(&[6 << 4, 2, 0xff, 0xff]);
    let [from, to] = [from, to].map(Ipv4Addr::from);
    let sum = ipv4_checksum(&frame[PAYLOAD..], 8, &[], &from, &to, IpNextHeaderProtocols::Tcp);
    frame[PAYLOAD + 16..PAYLOAD + 18].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// An echo request; all belong to one flow.
pub fn echo(number: u64) -> Frame {
    let mut frame = packet(ICMP, [CLIENT.octets(), [198, 19, 1, 1]]);
    frame[PAYLOAD] = 8;
    frame[PAYLOAD + 4..PAYLOAD + 6].copy_from_slice(&ECHO.to_be_bytes());
    frame[PAYLOAD + 6..PAYLOAD + 8].copy_from_slice(&((number % TOLD_APART) as u16).to_be_bytes());
    let sum = checksum(&frame[PAYLOAD..], 1);
    frame[PAYLOAD + 2..PAYLOAD + 4].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Which [`opening`] or [`echo`] this answers, of [`TOLD_APART`].
pub fn answered(frame: &[u8]) -> Option<u64> {
    let payload = frame.get(PAYLOAD..PAYLOAD + 8)?;
    match (frame[ETHERNET + 9], payload) {
        (TCP, [_, _, high, low, ..]) => {
            Some(u64::from(u16::from_be_bytes([*high, *low]).checked_sub(FIRST_PORT)?))
        }
        (ICMP, [0, 0, _, _, _, _, high, low]) => Some(u64::from(u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}

fn port(number: u64) -> u16 {
    FIRST_PORT + (number % PORTS) as u16
}

fn packet(protocol: u8, [from, to]: [[u8; 4]; 2]) -> Frame {
    let mut frame = [0; LENGTH];
    frame[..6].copy_from_slice(&LAN_MAC);
    frame[6..12].copy_from_slice(&[0x02, 0x77, 0, 0, 0, 1]);
    frame[12..ETHERNET].copy_from_slice(&[8, 0]);
    let length = (LENGTH - ETHERNET) as u8;
    frame[ETHERNET..ETHERNET + 12].copy_from_slice(&[0x45, 0, 0, length, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
    frame[ETHERNET + 12..PAYLOAD].copy_from_slice(&[from, to].concat());
    let sum = checksum(&frame[ETHERNET..PAYLOAD], 5);
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    frame
}
