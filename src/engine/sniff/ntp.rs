//! NTP: a client's question (RFC 5905, section 7.3).

use super::{App, Hint, Ports, Sniffed};

const PORT: u16 = 123;

/// Bytes of a header without extensions.
const HEADER: usize = 48;

/// Strata above are reserved.
const WORST_STRATUM: u8 = 16;

/// Whether a datagram asks for the time. Its few fixed bits fit much else, so it has to go to port 123.
#[must_use]
pub fn sniff(payload: &[u8], ports: Ports) -> Sniffed<Hint<'_>> {
    let Some(&[first, stratum]) = payload.first_chunk() else { return Sniffed::NotMine };
    let (version, mode) = (first >> 3 & 7, first & 7);
    let asks = (1..=4).contains(&version) && mode == 3 && stratum <= WORST_STRATUM;
    let whole = payload.len() >= HEADER && payload.len().is_multiple_of(4);
    if ports.dst == PORT && asks && whole { Sniffed::Certain(Hint::of(App::Ntp)) } else { Sniffed::NotMine }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_question_on_its_port_is_ntp() {
        let mut bytes = [0; HEADER];
        let ports = Ports { src: 40000, dst: PORT };
        for first in [0x0b, 0x13, 0x1b, 0x23, 0xe3] {
            bytes[0] = first;
            assert_eq!(sniff(&bytes, ports), Sniffed::Certain(Hint::of(App::Ntp)));
            assert_eq!(sniff(&bytes, Ports { dst: 124, ..ports }), Sniffed::NotMine);
            assert_eq!(sniff(&bytes[1..], ports), Sniffed::NotMine);
        }
        bytes[0] = 0x24;
        assert_eq!(sniff(&bytes, ports), Sniffed::NotMine);
    }
}
