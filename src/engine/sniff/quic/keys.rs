//! The keys of Initial packets, and how they are opened (RFC 9001, section 5; RFC 9369, section 3.3).

use std::ops::Range;
use std::sync::OnceLock;

use aes_gcm::aead::AeadInOut;
use aes_gcm::aes::Aes128;
use aes_gcm::aes::cipher::BlockCipherEncrypt;
use aes_gcm::{Aes128Gcm, KeyInit};
use hkdf::{Hkdf, HkdfExtract};
use sha2::Sha256;

use super::header::Initial;

/// Bytes in the longest packet that is opened: more than Ethernet carries.
pub(super) const PACKET: usize = 2048;

/// Bytes of an authentication tag (RFC 9001, section 5.3) and of a sample (section 5.4.3).
const TAG: usize = 16;
const SAMPLE: usize = 16;

/// The sample lies as if the packet number were the longest, RFC 9001, section 5.4.2.
const LONGEST_NUMBER: usize = 4;

/// How a version makes its keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version {
    /// Two where the version does not say: one of them.
    salts: (&'static Salt, Option<&'static Salt>),
    labels: &'static Labels,
    first_kind: u8,
}

/// A version's salt. HKDF-Extract begins with it, which is the same for all connections and done once.
#[derive(Debug)]
struct Salt {
    bytes: [u8; 20],
    begun: OnceLock<HkdfExtract<Sha256>>,
}

impl Salt {
    const fn new(bytes: [u8; 20]) -> Self {
        Salt { bytes, begun: OnceLock::new() }
    }

    fn extract(&self, id: &[u8]) -> Hkdf<Sha256> {
        let mut extract = self.begun.get_or_init(|| HkdfExtract::new(Some(&self.bytes))).clone();
        extract.input_ikm(id);
        extract.finalize().1
    }
}

/// For HKDF-Expand, as RFC 8446, section 7.1 encodes them without a context: the length of what is made, the label
/// behind its own length, nothing.
#[derive(Debug)]
struct Labels {
    key: &'static [u8],
    iv: &'static [u8],
    header: &'static [u8],
}

/// RFC 9001, section 5.1 and appendix A.1; RFC 9369, section 3.3.2.
const CLIENT: &[u8] = b"\x00\x20\x0ftls13 client in\x00";
const LABELS_1: Labels = Labels {
    key: b"\x00\x10\x0etls13 quic key\x00",
    iv: b"\x00\x0c\x0dtls13 quic iv\x00",
    header: b"\x00\x10\x0dtls13 quic hp\x00",
};
const LABELS_2: Labels = Labels {
    key: b"\x00\x10\x10tls13 quicv2 key\x00",
    iv: b"\x00\x0c\x0ftls13 quicv2 iv\x00",
    header: b"\x00\x10\x0ftls13 quicv2 hp\x00",
};

/// Salts, section 5.2 of draft-ietf-quic-tls-22, -23, -29 and RFC 9001; RFC 9369, section 3.3.1.
static DRAFT_22: Salt = Salt::new([
    0x7f, 0xbc, 0xdb, 0x0e, 0x7c, 0x66, 0xbb, 0xe9, 0x19, 0x3a, 0x96, 0xcd, 0x21, 0x51, 0x9e, 0xbd, 0x7a,
    0x02, 0x64, 0x4a,
]);
static DRAFT_23: Salt = Salt::new([
    0xc3, 0xee, 0xf7, 0x12, 0xc7, 0x2e, 0xbb, 0x5a, 0x11, 0xa7, 0xd2, 0x43, 0x2b, 0xb4, 0x63, 0x65, 0xbe,
    0xf9, 0xf5, 0x02,
]);
static DRAFT_29: Salt = Salt::new([
    0xaf, 0xbf, 0xec, 0x28, 0x99, 0x93, 0xd2, 0x4c, 0x9e, 0x97, 0x86, 0xf1, 0x9c, 0x61, 0x11, 0xe0, 0x43,
    0x90, 0xa8, 0x99,
]);
static RFC_9001: Salt = Salt::new([
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc,
    0xbb, 0x7f, 0x0a,
]);
static RFC_9369: Salt = Salt::new([
    0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb, 0xf9,
    0xbd, 0x2e, 0xd9,
]);

/// Version 2 while it was a draft: section 3.3.1 of draft-ietf-quic-v2-00 and -01. The first had the packet
/// types of version 1.
static DRAFT_V2: Salt = Salt::new([
    0xa7, 0x07, 0xc2, 0x03, 0xa5, 0x9b, 0x47, 0x18, 0x4a, 0x1d, 0x62, 0xca, 0x57, 0x04, 0x06, 0xea, 0x7a,
    0xe3, 0xe5, 0xd3,
]);

/// Google's own, as its QUIC code had them (quic/core/crypto/crypto_utils.cc).
static Q050: Salt = Salt::new([
    0x50, 0x45, 0x74, 0xef, 0xd0, 0x66, 0xfe, 0x2f, 0x9d, 0x94, 0x5c, 0xfc, 0xdb, 0xd3, 0xa7, 0xf0, 0xd3,
    0xb5, 0x6b, 0x45,
]);
static T050: Salt = Salt::new([
    0x7f, 0xf5, 0x79, 0xe5, 0xac, 0xd0, 0x72, 0x91, 0x55, 0x80, 0x30, 0x4c, 0x43, 0xa2, 0x36, 0x7c, 0x60,
    0x48, 0x83, 0x10,
]);
static T051: Salt = Salt::new([
    0x7a, 0x4e, 0xde, 0xf4, 0xe7, 0xcc, 0xee, 0x5f, 0xa4, 0x50, 0x6c, 0x19, 0x12, 0x4f, 0xc8, 0xcc, 0xda,
    0x6e, 0x03, 0x3d,
]);

/// How a version makes its keys, if it is one that encrypts Initials and its salt is known.
pub(super) fn version(number: u32) -> Option<Version> {
    let mut other = None;
    let salt = match number {
        1 | 0xff00_0021..=0xff00_0022 | 0xface_b003..=0xface_b004 => &RFC_9001,
        0xff00_0016 | 0xface_b001 => &DRAFT_22,
        0xff00_0017..=0xff00_001c | 0xface_b002 | 0xface_b00e => &DRAFT_23,
        0xff00_001d..=0xff00_0020 => &DRAFT_29,
        0x6b33_43cf => return Some(Version { salts: (&RFC_9369, None), labels: &LABELS_2, first_kind: 1 }),
        0x709a_50c4 => return Some(Version { salts: (&DRAFT_V2, None), labels: &LABELS_2, first_kind: 1 }),
        0xff02_0000 => return Some(Version { salts: (&DRAFT_V2, None), labels: &LABELS_2, first_kind: 0 }),
        // Clients take the keys of the version that they would speak.
        _ if is_reserved(number) => {
            other = Some(&DRAFT_29);
            &RFC_9001
        }
        _ => match &number.to_be_bytes() {
            b"Q050" => &Q050,
            b"T050" => &T050,
            b"T051" => &T051,
            _ => return None,
        },
    };
    Some(Version { salts: (salt, other), labels: &LABELS_1, first_kind: 0 })
}

/// Whether a version exists only to ask for a version negotiation (RFC 9000, section 15).
pub(super) fn is_reserved(version: u32) -> bool {
    version & 0x0f0f_0f0f == 0x0a0a_0a0a
}

impl Version {
    /// The number that stands for an Initial in a header's type: version 2 has other numbers for
    /// all types, in the same order (RFC 9369, section 3.2).
    pub(super) fn first_kind(self) -> u8 {
        self.first_kind
    }

    /// A client's keys for Initial packets, one of these.
    pub(super) fn keys(self, id: &[u8]) -> impl Iterator<Item = Keys> {
        let (salt, other) = self.salts;
        [salt].into_iter().chain(other).filter_map(move |salt| Keys::client(salt, self.labels, id))
    }
}

/// The frames of an Initial packet, or `None` if it was not sealed with keys of this connection id.
/// They are decrypted in `room`.
pub(super) fn open<'r>(initial: &Initial, id: &[u8], room: &'r mut [u8; PACKET]) -> Option<&'r [u8]> {
    let text = initial.version.keys(id).find_map(|keys| open_with(&keys, initial, room))?;
    room.get(text)
}

/// Where the frames are then in `room`.
fn open_with(keys: &Keys, initial: &Initial, room: &mut [u8; PACKET]) -> Option<Range<usize>> {
    let packet = room.get_mut(..initial.packet.len())?;
    packet.copy_from_slice(initial.packet);
    let mask = keys.mask(packet.get(initial.number_at + LONGEST_NUMBER..)?.first_chunk()?);
    let first = packet.first_mut()?;
    *first ^= mask[0] & 0x0f;
    let number_end = initial.number_at + number_length(*first);
    let (header, sealed) = packet.split_at_mut_checked(number_end)?;
    let number = header.get_mut(initial.number_at..)?;
    unmask(number, &mask);
    let nonce = keys.nonce(number);
    let (text, tag) = sealed.split_last_chunk_mut::<TAG>()?;
    let tag = (*tag).into();
    keys.seal.decrypt_inout_detached(&nonce.into(), header, (&mut *text).into(), &tag).ok()?;
    Some(number_end..number_end + text.len())
}

/// A client's keys for Initial packets.
pub(super) struct Keys {
    pub(super) seal: Aes128Gcm,
    iv: [u8; 12],
    header: Aes128,
}

impl Keys {
    fn client(salt: &Salt, labels: &Labels, id: &[u8]) -> Option<Keys> {
        let secret = client_secret(salt, id)?;
        Some(Keys {
            seal: Aes128Gcm::new(&expand::<16>(&secret, labels.key)?.into()),
            iv: expand(&secret, labels.iv)?,
            header: Aes128::new(&expand::<16>(&secret, labels.header)?.into()),
        })
    }

    /// What a header's first byte and its packet number are masked with (RFC 9001, section 5.4.3).
    pub(super) fn mask(&self, sample: &[u8; SAMPLE]) -> [u8; SAMPLE] {
        let mut block = (*sample).into();
        self.header.encrypt_block(&mut block);
        block.into()
    }

    /// A client's first packets have small numbers: what stands in the packet is the whole number.
    pub(super) fn nonce(&self, number: &[u8]) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, digit) in nonce.iter_mut().rev().zip(number.iter().rev()) {
            *byte ^= digit;
        }
        nonce
    }
}

/// Masks a packet number, or takes the mask off.
pub(super) fn unmask(number: &mut [u8], mask: &[u8; SAMPLE]) {
    for (digit, mask) in number.iter_mut().zip(mask.iter().skip(1)) {
        *digit ^= mask;
    }
}

fn number_length(first: u8) -> usize {
    usize::from(first & 3) + 1
}

fn client_secret(salt: &Salt, id: &[u8]) -> Option<Hkdf<Sha256>> {
    let secret: [u8; 32] = expand(&salt.extract(id), CLIENT)?;
    Hkdf::from_prk(&secret).ok()
}

/// HKDF-Expand-Label (RFC 8446, section 7.1).
fn expand<const N: usize>(secret: &Hkdf<Sha256>, label: &[u8]) -> Option<[u8; N]> {
    let mut key = [0; N];
    secret.expand(label, &mut key).ok()?;
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{CONNECTION_ID, Seal, V1, V2, crypto, hex, rfc_hello};
    use super::*;
    use crate::engine::sniff::{App, Hint, Name, Sniffed};

    #[test]
    fn the_keys_are_those_of_the_rfcs() {
        // RFC 9001, appendix A.1 and RFC 9369, appendix A.1.
        for (number, key, iv, header) in [
            (
                V1,
                "1f369613dd76d5467730efcbe3b1a22d",
                "fa044b2f42a3fd3b46fb255c",
                "9f50449e04a0e810283a1e9933adedd2",
            ),
            (
                V2,
                "8b1a0bc121284290a29e0971b5cd045d",
                "91f73e2351d8fa91660e909f",
                "45b95e15235d6f45a6b19cbcb0294ba9",
            ),
        ] {
            let version = version(number).unwrap();
            let secret = client_secret(version.salts.0, &CONNECTION_ID).unwrap();
            assert_eq!(expand::<16>(&secret, version.labels.key).unwrap(), *hex(key));
            assert_eq!(expand::<12>(&secret, version.labels.iv).unwrap(), *hex(iv));
            assert_eq!(expand::<16>(&secret, version.labels.header).unwrap(), *hex(header));
        }
    }

    #[test]
    fn a_sealed_packet_begins_and_ends_as_in_the_rfcs_and_tells_its_name() {
        // RFC 9001, appendix A.2 and RFC 9369, appendix A.2.
        for (number, begin, end) in [
            (
                V1,
                "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11d242b123dc9b",
                "e221af44860018ab0856972e194cd934",
            ),
            (
                V2,
                "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485dd04de806071",
                "a18b2faa745b6fe189cf772a9f84cbfc",
            ),
        ] {
            let seal = Seal { number: 2, number_length: 4, ..Seal::new(number) };
            let packet = seal.datagram(&crypto(0, &rfc_hello()));
            assert_eq!(packet.len(), 1200);
            assert!(packet.starts_with(&hex(begin)), "{:02x?}", &packet[..40]);
            assert!(packet.ends_with(&hex(end)), "{:02x?}", &packet[1180..]);
            let Sniffed::Certain(hint) = super::super::sniff(&packet) else { panic!("not certain") };
            let name = Name::new(b"example.com");
            assert_eq!(hint, Hint { alpn: hint.alpn, ..Hint::named(App::Quic, name) });
            assert_eq!(hint.alpn.ids().collect::<Vec<_>>(), [b"alpn"]);
        }
    }
}
