//! Captures made for a test: Ethernet frames of TCP and UDP over IPv4.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pcap_file::pcap::{PcapPacket, PcapWriter};

pub const CLIENT: [u8; 4] = [10, 77, 0, 5];
pub const SERVER: [u8; 4] = [198, 51, 100, 7];
pub const SYN: u8 = 2;
pub const ACK: u8 = 16;

/// A datagram.
pub fn udp(from: [u8; 4], src_port: u16, to: [u8; 4], dst_port: u16, data: &[u8]) -> Vec<u8> {
    let length = (8 + data.len() as u16).to_be_bytes();
    let header = [src_port.to_be_bytes(), dst_port.to_be_bytes(), length, [0, 0]].concat();
    ethernet(17, from, to, &[&header, data].concat())
}

/// A segment.
pub fn tcp(
    from: [u8; 4],
    src_port: u16,
    to: [u8; 4],
    dst_port: u16,
    sequence: u32,
    flags: u8,
    data: &[u8],
) -> Vec<u8> {
    let mut segment = [src_port.to_be_bytes(), dst_port.to_be_bytes()].concat();
    segment.extend(sequence.to_be_bytes());
    segment.extend([0, 0, 0, 0, 5 << 4, flags, 255, 255, 0, 0, 0, 0]);
    segment.extend(data);
    ethernet(6, from, to, &segment)
}

fn ethernet(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    frame.extend([from, to].concat());
    frame.extend(payload);
    frame
}

/// A capture of these frames, a millisecond apart; its path.
pub fn capture(directory: &Path, frames: &[Vec<u8>]) -> String {
    let path = directory.join("capture.pcap");
    let mut writer = PcapWriter::new(fs::File::create(&path).unwrap()).unwrap();
    for (number, frame) in (0..).zip(frames) {
        let at = Duration::from_millis(1_700_000_000_000 + number);
        writer.write_packet(&PcapPacket::new(at, frame.len() as u32, frame)).unwrap();
    }
    path.to_str().unwrap().to_owned()
}
