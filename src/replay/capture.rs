//! Capture files, pcap and pcapng, frame by frame, in constant memory.
//!
//! Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng. Files come from strangers
//! and from tools that break the rules, so only what is used is looked at, and what
//! is used is checked. A file that ends in the middle of a frame ends before it.

use std::io::{self, BufRead, ErrorKind, Read};
use std::time::Duration;

/// Bytes in the longest frame or block that is read: what libpcap takes (`MAXIMUM_SNAPLEN`).
const LONGEST: u32 = 262_144;

/// Interfaces of one pcapng section; frames of more have no known link type.
const INTERFACES: usize = 1024;

/// One captured frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// When, since 1970.
    pub at: Duration,
    /// Its link type, a number of tcpdump's LINKTYPE registry.
    pub link: u32,
    /// Its bytes, as far as they were captured.
    pub bytes: &'a [u8],
}

/// Why a capture cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not begin like a capture.
    #[error("not a capture: neither pcap nor pcapng")]
    Foreign,
    /// It contradicts itself.
    #[error("broken after {frames} frames: {what}")]
    Broken {
        /// Frames before that.
        frames: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A capture that is being read.
#[derive(Debug)]
pub struct Capture<R> {
    source: R,
    format: Format,
    order: Order,
    /// The frame or block that was read last.
    buffer: Vec<u8>,
    frames: u64,
}

#[derive(Debug)]
enum Format {
    Pcap { link: u32, nanoseconds: bool },
    Pcapng { interfaces: Vec<Interface> },
}

/// One interface of a pcapng section.
#[derive(Debug, Clone, Copy)]
struct Interface {
    link: u32,
    /// Time units in a second.
    resolution: u64,
}

/// How numbers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

/// Where in the buffer a frame stands.
struct Place {
    at: Duration,
    link: u32,
    from: usize,
    length: usize,
}

/// What a pcapng block was.
enum Block {
    Frame(Place),
    Other,
}

impl<R: BufRead> Capture<R> {
    /// Begins to read.
    ///
    /// # Errors
    /// When it is not a capture, or cannot be read.
    pub fn new(mut source: R) -> Result<Self, Error> {
        let magic = read_chunk::<4>(&mut source)?.ok_or(Error::Foreign)?;
        let (order, format) = match (u32::from_le_bytes(magic), u32::from_be_bytes(magic)) {
            (0x0a0d_0d0a, _) => return Self::pcapng(source),
            (0xa1b2_c3d4, _) => (Order::Little, false),
            (0xa1b2_3c4d, _) => (Order::Little, true),
            (_, 0xa1b2_c3d4) => (Order::Big, false),
            (_, 0xa1b2_3c4d) => (Order::Big, true),
            _ => return Err(Error::Foreign),
        };
        let header = read_chunk::<20>(&mut source)?.ok_or(Error::Foreign)?;
        // The upper bits tell of frame check sequences.
        let link = order.u32(&header, 16).unwrap_or_default() & 0x03ff_ffff;
        let format = Format::Pcap { link, nanoseconds: format };
        Ok(Capture { source, format, order, buffer: Vec::new(), frames: 0 })
    }

    fn pcapng(source: R) -> Result<Self, Error> {
        let format = Format::Pcapng { interfaces: Vec::new() };
        let mut capture = Capture { source, format, order: Order::Little, buffer: Vec::new(), frames: 0 };
        match capture.section()? {
            Some(()) => Ok(capture),
            None => Err(Error::Foreign),
        }
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// When the rest cannot be read.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Error> {
        let place = match self.format {
            Format::Pcap { link, nanoseconds } => self.record(link, nanoseconds)?,
            Format::Pcapng { .. } => self.framed_block()?,
        };
        let Some(Place { at, link, from, length }) = place else { return Ok(None) };
        self.frames += 1;
        let behind = self.buffer.get(from..).unwrap_or_default();
        Ok(Some(Frame { at, link, bytes: &behind[..length.min(behind.len())] }))
    }

    /// A record of pcap: seconds, their fraction, captured length, length.
    fn record(&mut self, link: u32, nanoseconds: bool) -> Result<Option<Place>, Error> {
        let Some(header) = read_chunk::<16>(&mut self.source)? else { return Ok(None) };
        let number = |at| self.order.u32(&header, at).unwrap_or_default();
        let fraction = if nanoseconds { number(4) } else { number(4).saturating_mul(1000) };
        let at = Duration::from_secs(number(0).into()) + Duration::from_nanos(fraction.into());
        let length = number(8);
        Ok(self.fill(length)?.then_some(Place { at, link, from: 0, length: length as usize }))
    }

    /// The next block that holds a frame.
    fn framed_block(&mut self) -> Result<Option<Place>, Error> {
        loop {
            let Some(head) = read_chunk::<4>(&mut self.source)? else { return Ok(None) };
            // A section's type reads the same in both orders.
            if head == [0x0a, 0x0d, 0x0d, 0x0a] {
                let Some(()) = self.section()? else { return Ok(None) };
                continue;
            }
            let kind = self.order.u32(&head, 0).unwrap_or_default();
            let Some(length) = read_chunk::<4>(&mut self.source)? else { return Ok(None) };
            let Some(()) = self.block(length)? else { return Ok(None) };
            if let Block::Frame(place) = self.understand(kind) {
                return Ok(Some(place));
            }
        }
    }

    /// A section begins: its numbers may be in another order, its interfaces are others.
    fn section(&mut self) -> Result<Option<()>, Error> {
        let Some(length) = read_chunk::<4>(&mut self.source)? else { return Ok(None) };
        let Some(magic) = read_chunk::<4>(&mut self.source)? else { return Ok(None) };
        self.order = match magic {
            [0x4d, 0x3c, 0x2b, 0x1a] => Order::Little,
            [0x1a, 0x2b, 0x3c, 0x4d] => Order::Big,
            _ => return Err(self.broken("a section without its byte-order magic")),
        };
        self.format = Format::Pcapng { interfaces: Vec::new() };
        let length = self.order.u32(&length, 0).unwrap_or_default();
        let rest = length.checked_sub(12).ok_or_else(|| self.broken("a section that is too short"))?;
        Ok(self.fill(rest)?.then_some(()))
    }

    /// Reads a block behind its type and length, the repeated length at its end included.
    fn block(&mut self, length: [u8; 4]) -> Result<Option<()>, Error> {
        let length = self.order.u32(&length, 0).unwrap_or_default();
        let rest = length.checked_sub(8).filter(|rest| *rest >= 4 && rest % 4 == 0);
        let rest = rest.ok_or_else(|| self.broken("a block with an impossible length"))?;
        if !self.fill(rest)? {
            return Ok(None);
        }
        self.buffer.truncate(rest as usize - 4);
        Ok(Some(()))
    }

    /// Of the blocks only those that bring interfaces or frames matter.
    fn understand(&mut self, kind: u32) -> Block {
        let Format::Pcapng { interfaces } = &mut self.format else { return Block::Other };
        let (order, body) = (self.order, &self.buffer[..]);
        let place = match kind {
            1 => {
                if interfaces.len() < INTERFACES {
                    interfaces.extend(Interface::read(order, body));
                }
                None
            }
            2 => packet(order, body, interfaces, order.u16(body, 0).map(usize::from)),
            3 => simple_packet(order, body, interfaces),
            6 => packet(order, body, interfaces, order.u32(body, 0).map(|number| number as usize)),
            _ => None,
        };
        place.map_or(Block::Other, Block::Frame)
    }

    /// Reads so many bytes into the buffer; false where the file ends before.
    fn fill(&mut self, length: u32) -> Result<bool, Error> {
        if length > LONGEST {
            return Err(self.broken("a frame or block longer than 262,144 bytes"));
        }
        self.buffer.clear();
        let read = (&mut self.source).take(length.into()).read_to_end(&mut self.buffer)?;
        Ok(read == length as usize)
    }

    fn broken(&self, what: &'static str) -> Error {
        Error::Broken { frames: self.frames, what }
    }
}

/// A packet block (of old) or enhanced packet block: interface, time in two words, length, frame.
fn packet(order: Order, body: &[u8], interfaces: &[Interface], interface: Option<usize>) -> Option<Place> {
    let interface = interfaces.get(interface?)?;
    let (high, low) = (order.u32(body, 4)?, order.u32(body, 8)?);
    let at = interface.time(u64::from(high) << 32 | u64::from(low));
    Some(Place { at, link: interface.link, from: 20, length: order.u32(body, 12)? as usize })
}

/// A simple packet block has no time, and its frame may be cut to what fits.
fn simple_packet(order: Order, body: &[u8], interfaces: &[Interface]) -> Option<Place> {
    let link = interfaces.first()?.link;
    Some(Place { at: Duration::ZERO, link, from: 4, length: order.u32(body, 0)? as usize })
}

impl Interface {
    /// Microseconds, unless an option says otherwise.
    const USUAL: u64 = 1_000_000;

    fn read(order: Order, body: &[u8]) -> Option<Interface> {
        let link = order.u16(body, 0)?.into();
        let mut options = body.get(8..).unwrap_or_default();
        let mut resolution = Self::USUAL;
        // Code and length, then the value, filled up to four bytes; 9 is `if_tsresol`.
        while let (Some(code), Some(length)) = (order.u16(options, 0), order.u16(options, 2)) {
            if let (9, Some(&value)) = (code, options.get(4)) {
                resolution = Self::units(value);
            }
            let next = 4 + usize::from(length).next_multiple_of(4);
            options = options.get(next..).unwrap_or_default();
        }
        Some(Interface { link, resolution })
    }

    /// A power of ten, or with the highest bit set of two.
    fn units(value: u8) -> u64 {
        let power: u32 = (value & 0x7f).into();
        let base: u64 = if value & 0x80 == 0 { 10 } else { 2 };
        base.checked_pow(power).unwrap_or(Self::USUAL)
    }

    fn time(self, units: u64) -> Duration {
        let rest = u128::from(units % self.resolution) * 1_000_000_000 / u128::from(self.resolution);
        Duration::new(units / self.resolution, rest as u32)
    }
}

impl Order {
    fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Order::Little => u32::from_le_bytes(bytes),
            Order::Big => u32::from_be_bytes(bytes),
        })
    }

    fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Order::Little => u16::from_le_bytes(bytes),
            Order::Big => u16::from_be_bytes(bytes),
        })
    }
}

/// The next bytes; `None` where the file ends first.
fn read_chunk<const N: usize>(source: &mut impl Read) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    match source.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::io::Cursor;

    use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
    use pcap_file::pcapng::blocks::interface_description::{
        InterfaceDescriptionBlock, InterfaceDescriptionOption,
    };
    use pcap_file::{DataLink, Endianness, TsResolution};
    use proptest::prelude::*;

    use super::*;

    type Read = (Duration, u32, Vec<u8>);

    fn read(file: &[u8]) -> Result<Vec<Read>, Error> {
        let mut capture = Capture::new(Cursor::new(file))?;
        let mut frames = Vec::new();
        while let Some(frame) = capture.next_frame()? {
            frames.push((frame.at, frame.link, frame.bytes.to_vec()));
        }
        Ok(frames)
    }

    fn frames() -> Vec<Read> {
        let at = |number: u64| Duration::new(1_700_000_000 + number, 123_456_000);
        (0..5).map(|number| (at(number), 1, vec![number as u8; 60 + number as usize])).collect()
    }

    fn pcap(endianness: Endianness, ts_resolution: TsResolution) -> Vec<u8> {
        let header =
            PcapHeader { endianness, ts_resolution, datalink: DataLink::ETHERNET, ..Default::default() };
        let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
        for (at, _, bytes) in frames() {
            writer.write_packet(&PcapPacket::new(at, bytes.len() as u32, &bytes)).unwrap();
        }
        writer.into_writer()
    }

    fn pcapng(endianness: Endianness) -> Vec<u8> {
        let mut writer = PcapNgWriter::with_endianness(Vec::new(), endianness).unwrap();
        let options = vec![
            InterfaceDescriptionOption::IfName(Cow::Borrowed("lan")),
            InterfaceDescriptionOption::IfTsResol(9),
        ];
        let interface = InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: 0, options };
        writer.write_pcapng_block(interface).unwrap();
        for (timestamp, _, bytes) in frames() {
            let original_len = bytes.len() as u32;
            let data = Cow::Owned(bytes);
            let block =
                EnhancedPacketBlock { interface_id: 0, timestamp, original_len, data, options: vec![] };
            writer.write_pcapng_block(block).unwrap();
        }
        writer.into_inner()
    }

    #[test]
    fn every_form_is_read_alike() {
        for endianness in [Endianness::Little, Endianness::Big] {
            for resolution in [TsResolution::MicroSecond, TsResolution::NanoSecond] {
                assert_eq!(read(&pcap(endianness, resolution)).unwrap(), frames());
            }
            assert_eq!(read(&pcapng(endianness)).unwrap(), frames());
        }
    }

    #[test]
    fn a_file_that_is_cut_ends_with_its_last_whole_frame() {
        for file in [pcap(Endianness::Little, TsResolution::MicroSecond), pcapng(Endianness::Big)] {
            let whole = read(&file).unwrap();
            for length in (28..file.len()).step_by(7) {
                let cut = read(&file[..length]).unwrap();
                assert_eq!(cut, whole[..cut.len()]);
            }
        }
    }

    #[test]
    fn what_is_no_capture_says_so() {
        for file in [&b""[..], b"#!/bin/sh\necho", &[0xd4, 0xc3, 0xb2, 0xa1]] {
            assert!(matches!(read(file), Err(Error::Foreign)));
        }
    }

    #[test]
    fn an_impossible_length_is_said_and_not_allocated() {
        let mut file = pcap(Endianness::Little, TsResolution::MicroSecond);
        file[24 + 8..24 + 12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(read(&file), Err(Error::Broken { frames: 0, .. })));
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(
            pcapng_not_pcap: bool,
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        ) {
            let mut file = if pcapng_not_pcap {
                pcapng(Endianness::Little)
            } else {
                pcap(Endianness::Big, TsResolution::NanoSecond)
            };
            for (place, byte) in changes {
                let place = place.index(file.len());
                file[place] = byte;
            }
            let _ = read(&file);
        }
    }
}
