//! IPsec over UDP: IKE, and ESP behind NAT (RFC 7296, RFC 2408, RFC 3948).

use super::bytes::u32_at;
use super::{App, Hint, Ports, Sniffed};

/// Where NAT is traversed; what is there without a marker is ESP.
const NAT_PORT: u16 = 4500;

/// Bytes of an IKE header (RFC 7296, section 3.1).
const IKE_HEADER: usize = 28;

/// Bytes of the shortest ESP packet: SPI, sequence number, one padded block, and 8 of a checksum.
const ESP_LEAST: usize = 20;

/// Sequence numbers above are not those of a flow that begins.
const ESP_SOON: u32 = 1 << 24;

/// Whether a datagram is IKE, on any port and with a non-ESP marker or not, or ESP or a keepalive
/// on port 4500.
#[must_use]
pub fn sniff(payload: &[u8], ports: Ports) -> Sniffed<Hint<'_>> {
    let marked = payload.strip_prefix(&[0; 4]);
    let nat = ports.src == NAT_PORT || ports.dst == NAT_PORT;
    let fits =
        is_ike(payload) || marked.is_some_and(is_ike) || (nat && (is_esp(payload) || payload == [0xff]));
    if fits { Sniffed::Certain(Hint::of(App::Ipsec)) } else { Sniffed::NotMine }
}

/// An initiator's SPI, a version and exchange that belong together, and a length that is right.
fn is_ike(message: &[u8]) -> bool {
    let Some(&[_, version, exchange, flags]) = message.get(16..).and_then(<[u8]>::first_chunk) else {
        return false;
    };
    let known = match version {
        0x10 => matches!(exchange, 1..=6 | 32..=34) && flags < 8,
        0x20 => matches!(exchange, 34..=44) && flags & !0x38 == 0,
        _ => false,
    };
    known
        && message.len() >= IKE_HEADER
        && message.get(..8) != Some(&[0; 8])
        && u32_at(message, 24).is_some_and(|length| usize::try_from(length) == Ok(message.len()))
}

/// An SPI that is not reserved (RFC 4303, section 2.1), and a small sequence number.
fn is_esp(payload: &[u8]) -> bool {
    let begins = u32_at(payload, 4).is_some_and(|sequence| (1..ESP_SOON).contains(&sequence));
    begins
        && u32_at(payload, 0).is_some_and(|spi| spi > 255)
        && payload.len() >= ESP_LEAST
        && payload.len().is_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ike(version: u8, exchange: u8) -> Vec<u8> {
        let mut message = vec![7; 8];
        message.extend([0; 8]);
        message.extend([1, version, exchange, 0x08 * (version >> 5)]);
        message.extend([0, 0, 0, 0, 0, 0, 0, 40]);
        message.extend([9; 12]);
        message
    }

    #[test]
    fn ike_of_both_versions_is_told_by_its_header() {
        let ports = Ports { src: 500, dst: 500 };
        for message in [ike(0x10, 2), ike(0x10, 4), ike(0x20, 34)] {
            let marked = [&[0; 4], &message[..]].concat();
            for bytes in [&message, &marked] {
                assert_eq!(sniff(bytes, ports), Sniffed::Certain(Hint::of(App::Ipsec)));
                assert_eq!(sniff(&bytes[..bytes.len() - 1], ports), Sniffed::NotMine);
            }
        }
        assert_eq!(sniff(&ike(0x20, 2), ports), Sniffed::NotMine);
        assert_eq!(sniff(&ike(0x30, 34), ports), Sniffed::NotMine);
    }

    #[test]
    fn esp_and_keepalives_are_believed_on_their_port_only() {
        let esp = [&[0, 1, 2, 3, 0, 0, 0, 1][..], &[0x77; 40]].concat();
        for bytes in [&esp[..], &[0xff]] {
            assert_eq!(sniff(bytes, Ports { src: 4500, dst: 4500 }), Sniffed::Certain(Hint::of(App::Ipsec)));
            assert_eq!(sniff(bytes, Ports { src: 4501, dst: 4501 }), Sniffed::NotMine);
        }
        let reserved = [&[0, 0, 0, 3, 0, 0, 0, 1][..], &[0x77; 40]].concat();
        assert_eq!(sniff(&reserved, Ports { src: 4500, dst: 4500 }), Sniffed::NotMine);
    }
}
