//! Packets for the engine's tests, put together byte by byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::IpNumber;
use etherparse::ip_number::{AUTH, IPV6_FRAG};

use super::Family;

/// Bytes of the transport header and data that [`Builder::ports`] adds.
pub(crate) const TRANSPORT: usize = 20;

/// The same packet in both families.
pub(crate) fn both(build: impl Fn(Builder) -> Builder) -> [(Family, Vec<u8>); 2] {
    Family::BOTH.map(|family| (family, build(Builder::new(family)).build()))
}

/// Source and destination of all packets made here.
pub(crate) fn addresses(family: Family) -> (IpAddr, IpAddr) {
    match family {
        Family::V4 => (Ipv4Addr::new(10, 77, 0, 5).into(), Ipv4Addr::new(198, 51, 100, 7).into()),
        Family::V6 => {
            let net = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0).to_bits();
            (Ipv6Addr::from_bits(net | 5).into(), Ipv6Addr::from_bits(net | 7).into())
        }
    }
}

/// One packet of every kind that the parser treats differently.
pub(crate) fn all_kinds() -> Vec<Vec<u8>> {
    let kinds: [fn(Builder) -> Builder; 8] = [
        |ip| ip.ports(6, 40000, 443),
        |ip| ip.ports(17, 40000, 53),
        |ip| ip.ports(47, 0, 0),
        |ip| ip.echo(99),
        |ip| ip.fragment(0, true).ports(17, 1, 2),
        |ip| ip.fragment(185, true).ports(17, 1, 2),
        |ip| ip.options(&[148, 4, 0, 0]).ports(6, 1, 2),
        |ip| ip.extension(AUTH, &[0; 16]).ports(6, 1, 2),
    ];
    kinds.iter().flat_map(both).map(|(_, bytes)| bytes).collect()
}

/// Puts one packet together; what one family does not have is left out there.
pub(crate) struct Builder {
    family: Family,
    dscp: u8,
    /// In units of 8 bytes, and "more follow".
    fragment: Option<(u16, bool)>,
    options: Vec<u8>,
    extensions: Vec<(IpNumber, Vec<u8>)>,
    protocol: u8,
    payload: Vec<u8>,
}

impl Builder {
    pub(crate) fn new(family: Family) -> Self {
        let (options, extensions, payload) = Default::default();
        Builder { family, dscp: 0, fragment: None, options, extensions, protocol: 59, payload }
    }

    pub(crate) fn dscp(self, dscp: u8) -> Self {
        Builder { dscp, ..self }
    }

    pub(crate) fn options(self, options: &[u8]) -> Self {
        Builder { options: options.to_vec(), ..self }
    }

    /// An IPv6 extension header of `body.len()` bytes, or AH in both families.
    pub(crate) fn extension(mut self, number: IpNumber, body: &[u8]) -> Self {
        let mut header = body.to_vec();
        header[1] = if number == AUTH { body.len() / 4 - 2 } else { body.len() / 8 - 1 } as u8;
        if self.family == Family::V6 || number == AUTH {
            self.extensions.push((number, header));
        }
        self
    }

    pub(crate) fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = Some((offset, more));
        if self.family == Family::V6 {
            let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
            self.extensions.push((IPV6_FRAG, vec![0, 0, high, low, 0, 0, 0, 1]));
        }
        self
    }

    pub(crate) fn payload(self, protocol: u8, payload: &[u8]) -> Self {
        Builder { protocol, payload: payload.to_vec(), ..self }
    }

    pub(crate) fn ports(self, protocol: u8, src: u16, dst: u16) -> Self {
        let mut payload = [src.to_be_bytes(), dst.to_be_bytes()].concat();
        payload.resize(TRANSPORT, 0xAA);
        self.payload(protocol, &payload)
    }

    /// A UDP datagram with these data.
    pub(crate) fn datagram(self, src: u16, dst: u16, data: &[u8]) -> Self {
        let length = (8 + data.len()) as u16;
        let header = [src, dst, length, 0].map(u16::to_be_bytes).concat();
        self.payload(17, &[&header[..], data].concat())
    }

    pub(crate) fn echo(self, id: u16) -> Self {
        let (protocol, kind) = if self.family == Family::V4 { (1, 8) } else { (58, 128) };
        let [high, low] = id.to_be_bytes();
        self.payload(protocol, &[kind, 0, 0, 0, high, low, 0, 1])
    }

    pub(crate) fn build(self) -> Vec<u8> {
        let body = self.body();
        let first = self.extensions.first().map_or(self.protocol, |(number, _)| number.0);
        let mut bytes = match self.family {
            Family::V4 => self.header_v4(first, body.len()),
            Family::V6 => self.header_v6(first, body.len()),
        };
        bytes.extend(body);
        bytes
    }

    /// Extension headers, each naming the one after it, and the payload.
    fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (place, (_, header)) in self.extensions.iter().enumerate() {
            let next = self.extensions.get(place + 1).map_or(self.protocol, |(number, _)| number.0);
            body.push(next);
            body.extend(&header[1..]);
        }
        body.extend(&self.payload);
        body
    }

    fn header_v4(&self, protocol: u8, body: usize) -> Vec<u8> {
        let length = 20 + self.options.len();
        let [high, low] = ((length + body) as u16).to_be_bytes();
        let (offset, more) = self.fragment.unwrap_or((0, false));
        let [part_high, part_low] = (offset | u16::from(more) << 13).to_be_bytes();
        let mut bytes = vec![0x40 | (length / 4) as u8, self.dscp << 2, high, low, 0, 1, part_high, part_low];
        bytes.extend([64, protocol, 0, 0]);
        self.append_addresses(&mut bytes);
        bytes.extend(&self.options);
        bytes
    }

    fn header_v6(&self, next: u8, body: usize) -> Vec<u8> {
        let [high, low] = (body as u16).to_be_bytes();
        let mut bytes = vec![0x60 | self.dscp >> 2, self.dscp << 6, 0, 0, high, low, next, 64];
        self.append_addresses(&mut bytes);
        bytes
    }

    fn append_addresses(&self, bytes: &mut Vec<u8>) {
        let (src, dst) = addresses(self.family);
        for address in [src, dst] {
            match address {
                IpAddr::V4(address) => bytes.extend(address.octets()),
                IpAddr::V6(address) => bytes.extend(address.octets()),
            }
        }
    }
}
