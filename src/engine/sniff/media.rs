//! Calls of some well-known programs, by the headers that are theirs alone.

use super::{App, Hint, Ports, Sniffed, rtp};

/// A Discord client asks a voice server for its own address: type 1, 70 bytes follow (Discord's
/// developer documentation, "Voice Connections", "IP Discovery").
const DISCORD_QUESTION: [u8; 4] = [0, 1, 0, 70];
const DISCORD_LENGTH: usize = 74;

/// Where Zoom's media servers listen (Zoom's "network firewall settings").
const ZOOM_PORTS: std::ops::RangeInclusive<u16> = 8801..=8810;

/// Zoom's headers have not been published; these are after Michel et al., "Enabling passive
/// measurement of Zoom performance in production networks", IMC 2022. The outer one is of 8 bytes:
/// its type, and at the end its direction.
const ZOOM_OUTER: usize = 8;
const ZOOM_MEDIA: u8 = 5;
const ZOOM_DIRECTIONS: [u8; 2] = [0, 4];

/// Attributes of STUN that Microsoft has added ([MS-TURN], section 2.2.2; [MS-ICE2], section 2.2.1):
/// version, sequence number, candidate identifier, service quality, implementation version,
/// alternate mapped address, multiplexed session.
const MICROSOFT: [u16; 7] = [0x8008, 0x8050, 0x8054, 0x8055, 0x8070, 0x8090, 0x8095];

/// Whether a datagram is Discord's or Zoom's. Teams speaks STUN first: see [`is_teams`].
#[must_use]
pub fn sniff(payload: &[u8], ports: Ports) -> Sniffed<Hint<'_>> {
    if is_discord(payload) {
        return Sniffed::Certain(Hint::of(App::Discord));
    }
    let zoom = ZOOM_PORTS.contains(&ports.src) || ZOOM_PORTS.contains(&ports.dst);
    if zoom && is_zoom(payload) { Sniffed::Certain(Hint::of(App::Zoom)) } else { Sniffed::NotMine }
}

/// Whether a STUN attribute of this type is one of Microsoft's.
pub(super) fn is_teams(attribute: u16) -> bool {
    MICROSOFT.contains(&attribute)
}

/// The question leaves address and port open: all zeros behind the stream's number.
fn is_discord(payload: &[u8]) -> bool {
    payload.len() == DISCORD_LENGTH
        && payload.starts_with(&DISCORD_QUESTION)
        && payload.get(8..).is_some_and(|open| open.iter().all(|&byte| byte == 0))
}

/// An outer header, an inner one of a known kind, and RTP or RTCP where that kind has it.
fn is_zoom(payload: &[u8]) -> bool {
    let Some((outer, inner)) = payload.split_at_checked(ZOOM_OUTER) else { return false };
    if outer.first() != Some(&ZOOM_MEDIA) || !outer.last().is_some_and(|last| ZOOM_DIRECTIONS.contains(last))
    {
        return false;
    }
    let rtp_at = |at: usize| inner.get(at..).is_some_and(rtp::is_rtp);
    match inner.first() {
        // Screen of a server's stream, sound, picture.
        Some(13) => rtp_at(27),
        Some(15) => rtp_at(19),
        Some(16) => rtp_at(24) || rtp_at(20),
        Some(33..=35) => inner.get(16..).is_some_and(rtp::is_rtcp),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZOOM: Ports = Ports { src: 50000, dst: 8801 };

    #[test]
    fn a_discord_client_asks_for_its_address() {
        let mut question = [0; DISCORD_LENGTH];
        question[..8].copy_from_slice(&[0, 1, 0, 70, 9, 8, 7, 6]);
        assert_eq!(sniff(&question, Ports::default()), Sniffed::Certain(Hint::of(App::Discord)));
        question[70] = 1;
        assert_eq!(sniff(&question, Ports::default()), Sniffed::NotMine);
    }

    #[test]
    fn zoom_wraps_rtp_in_two_headers() {
        let outer = [5, 0, 1, 0, 0, 0, 0, 0];
        let packet = [0x80, 112, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1, 0xaa, 0xbb];
        for (kind, length) in [(13, 27), (15, 19), (16, 20), (16, 24)] {
            let mut inner = vec![0; length];
            inner[0] = kind;
            let bytes = [&outer[..], &inner, &packet].concat();
            assert_eq!(sniff(&bytes, ZOOM), Sniffed::Certain(Hint::of(App::Zoom)));
            assert_eq!(sniff(&bytes, Ports { dst: 8811, ..ZOOM }), Sniffed::NotMine);
            assert_eq!(sniff(&bytes[..bytes.len() - 3], ZOOM), Sniffed::NotMine);
        }
        assert_eq!(sniff(&[&outer[..], &[99], &packet].concat(), ZOOM), Sniffed::NotMine);
    }
}
