//! Packets for tests, sealed as a client does.

use aes_gcm::aead::AeadInOut;

use super::keys::{unmask, version};
use crate::engine::sniff::tls::samples::Sample;

pub const V1: u32 = 1;
pub const V2: u32 = 0x6b33_43cf;
/// Its second draft, which has its packet types too.
const DRAFT_V2: u32 = 0x709a_50c4;

/// RFC 9001, appendix A.
pub const CONNECTION_ID: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];

/// How packets are sealed.
#[derive(Debug, Clone)]
pub struct Seal {
    pub version: u32,
    /// Which of the version's salts the keys come from.
    pub salt: usize,
    pub id: Vec<u8>,
    /// The connection id that the keys come from.
    pub keys_of: Vec<u8>,
    pub token: Vec<u8>,
    pub number: u8,
    pub number_length: usize,
}

impl Seal {
    pub fn new(version: u32) -> Seal {
        let id = CONNECTION_ID.to_vec();
        Seal { version, salt: 0, keys_of: id.clone(), id, token: Vec::new(), number: 0, number_length: 1 }
    }

    /// A datagram of at least 1200 bytes.
    pub fn datagram(&self, frames: &[u8]) -> Vec<u8> {
        let around = self.header(0, 1000).len() + self.number_length + 16;
        let mut frames = frames.to_vec();
        frames.resize(frames.len().max(1200 - around), 0);
        self.packet(&frames)
    }

    /// An Initial packet.
    pub fn packet(&self, frames: &[u8]) -> Vec<u8> {
        let keys = version(self.version).unwrap().keys(&self.keys_of).nth(self.salt).unwrap();
        let mut header = self.header(0, self.number_length + frames.len().max(4) + 16);
        header[0] |= self.number_length as u8 - 1;
        let number_at = header.len();
        header.resize(number_at + self.number_length - 1, 0);
        header.push(self.number);
        let mut sealed = frames.to_vec();
        sealed.resize(frames.len().max(4), 0);
        let nonce = keys.nonce(&header[number_at..]).into();
        let tag = keys.seal.encrypt_inout_detached(&nonce, &header, (&mut sealed[..]).into()).unwrap();
        let mut packet = [&header[..], &sealed, &tag].concat();
        let mask = keys.mask(packet[number_at + 4..].first_chunk().unwrap());
        packet[0] ^= mask[0] & 0x0f;
        unmask(&mut packet[number_at..number_at + self.number_length], &mask);
        packet
    }

    /// A long header up to the packet number, of a packet of this kind (RFC 9000, table 5).
    pub fn header(&self, kind: u8, length: usize) -> Vec<u8> {
        let is_v2 = matches!(self.version, V2 | DRAFT_V2);
        let kind = if is_v2 { (kind + 1) & 3 } else { kind };
        let mut header = vec![0xc0 | kind << 4];
        header.extend(self.version.to_be_bytes());
        header.push(self.id.len() as u8);
        header.extend(&self.id);
        header.push(0);
        if matches!((is_v2, kind), (true, 1) | (_, 0)) {
            header.extend(if self.token.is_empty() { vec![0] } else { number(self.token.len()) });
            header.extend(&self.token);
        }
        header.extend(number(length));
        header
    }
}

/// The first datagrams of a client that wants this host, its ClientHello cut at these places.
pub fn datagrams_of(host: &str, cuts: &[usize]) -> Vec<Vec<u8>> {
    let hello = Sample::default().large().name(host.as_bytes()).alpn(&["h3"]).handshake();
    let ends = [cuts, &[hello.len()]].concat();
    let parts = [&[0], cuts].concat().into_iter().zip(ends).zip(0..);
    let seal = |number| Seal { number, ..Seal::new(V1) };
    parts.map(|((from, to), number)| seal(number).datagram(&crypto(from, &hello[from..to]))).collect()
}

/// A CRYPTO frame.
pub fn crypto(at: usize, data: &[u8]) -> Vec<u8> {
    let at = if at == 0 { vec![0] } else { number(at) };
    [&[6], &at[..], &number(data.len()), data].concat()
}

/// An ACK frame with this many ranges behind the first.
pub fn ack(ranges: usize) -> Vec<u8> {
    [&[2, 9, 0], &number(ranges)[..], &[0], &vec![0; 2 * ranges]].concat()
}

/// `hello` in CRYPTO frames, cut at these places, in this order.
pub fn frames_of(hello: &[u8], cuts: &[usize], order: &[usize]) -> Vec<Vec<u8>> {
    let mut cuts = [cuts, &[0, hello.len()]].concat();
    cuts.sort_unstable();
    let frames: Vec<_> = cuts.windows(2).map(|cut| crypto(cut[0], &hello[cut[0]..cut[1]])).collect();
    order.iter().filter_map(|&at| frames.get(at).cloned()).collect()
}

/// The ClientHello of RFC 9001, appendix A.2.
pub fn rfc_hello() -> Vec<u8> {
    hex(concat!(
        "010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000c0",
        "00000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e0005",
        "00050100000000003300260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748",
        "002b0003020304000d0010000e0403050306030203080408050806002d00020101001c00024001003900320408ffffffff",
        "ffffffff05048000ffff07048000ffff0801100104800075300901100f088394c8f03e51570806048000ffff",
    ))
    .into()
}

/// The bytes that these digits spell.
pub fn hex(digits: &str) -> Box<[u8]> {
    let digits: Vec<_> = digits.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

/// RFC 9000, section 16, in two bytes.
fn number(number: usize) -> Vec<u8> {
    (0x4000 | number as u16).to_be_bytes().to_vec()
}
