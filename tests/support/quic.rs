//! First datagrams of a QUIC client (RFC 9000, RFC 9001), sealed here by the book and not by the program.

use aes_gcm::aead::AeadInOut;
use aes_gcm::aes::Aes128;
use aes_gcm::aes::cipher::BlockCipherEncrypt;
use aes_gcm::{Aes128Gcm, KeyInit};
use hkdf::Hkdf;
use sha2::Sha256;

/// The server's connection id that this client chooses; all keys come from it.
const CONNECTION_ID: [u8; 8] = [7; 8];

/// RFC 9001, section 5.2.
const SALT: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc,
    0xbb, 0x7f, 0x0a,
];

/// Bytes of a ClientHello in the first datagram; the rest is in the second.
const FIRST_PART: usize = 1000;

/// The two datagrams of a client that wants this host and has a post-quantum key share.
pub fn two_datagrams(host: &str) -> [Vec<u8>; 2] {
    let hello = client_hello(host);
    let (one, two) = hello.split_at(FIRST_PART);
    [initial(0, 0, one), initial(1, FIRST_PART, two)]
}

/// RFC 8446, section 4.1.2, with a name behind a large extension.
pub fn client_hello(host: &str) -> Vec<u8> {
    let name = long(&[&[0], &long(host.as_bytes())[..]].concat());
    let extensions =
        [extension(51, &[9; 1220]), extension(0, &name), extension(16, b"\0\x03\x02h3")].concat();
    let body = [&[3, 3][..], &[5; 32], &[0, 0, 2, 0x13, 1, 1, 0], &long(&extensions)].concat();
    [&[1], &(body.len() as u32).to_be_bytes()[1..], &body].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &long(data)].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// An Initial packet of 1200 bytes with one CRYPTO frame.
fn initial(number: u8, at: usize, data: &[u8]) -> Vec<u8> {
    let mut frames = [&[6][..], &varint(at), &varint(data.len()), data].concat();
    let mut packet = [&[0xc0, 0, 0, 0, 1, 8][..], &CONNECTION_ID, &[0, 0]].concat();
    frames.resize(1200 - packet.len() - 3 - 16, 0);
    packet.extend(varint(1 + frames.len() + 16));
    let number_at = packet.len();
    packet.push(number);

    let (_, initial) = Hkdf::<Sha256>::extract(Some(&SALT), &CONNECTION_ID);
    let secret: [u8; 32] = expand(&initial, b"client in");
    let secret = Hkdf::<Sha256>::from_prk(&secret).unwrap();
    let mut nonce: [u8; 12] = expand(&secret, b"quic iv");
    nonce[11] ^= number;
    let seal = Aes128Gcm::new(&expand::<16>(&secret, b"quic key").into());
    let tag = seal.encrypt_inout_detached(&nonce.into(), &packet, (&mut frames[..]).into()).unwrap();
    packet.extend(frames);
    packet.extend(tag);

    let mut mask = <[u8; 16]>::try_from(&packet[number_at + 4..number_at + 20]).unwrap().into();
    Aes128::new(&expand::<16>(&secret, b"quic hp").into()).encrypt_block(&mut mask);
    packet[0] ^= mask[0] & 0x0f;
    packet[number_at] ^= mask[1];
    packet
}

/// HKDF-Expand-Label (RFC 8446, section 7.1).
fn expand<const N: usize>(secret: &Hkdf<Sha256>, label: &[u8]) -> [u8; N] {
    let label = [b"tls13 ", label].concat();
    let info = [&(N as u16).to_be_bytes()[..], &[label.len() as u8], &label, &[0]].concat();
    let mut key = [0; N];
    secret.expand(&info, &mut key).unwrap();
    key
}

/// RFC 9000, section 16, in two bytes.
fn varint(number: usize) -> [u8; 2] {
    (0x4000 | number as u16).to_be_bytes()
}
