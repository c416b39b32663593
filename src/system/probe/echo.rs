//! ICMP echo, of both families: they differ in two numbers (RFC 792, RFC 4443 section 4).

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use pnet::packet::util::checksum;
use socket2::{Protocol, Type};

use super::{Exit, LONGEST, datagrams, on_line, took};
use crate::engine::packet::Family;

/// Type of a request and of its reply.
const fn types(family: Family) -> (u8, u8) {
    match family {
        Family::V4 => (8, 0),
        Family::V6 => (128, 129),
    }
}

/// Length of the header: type, code, checksum, identifier, sequence number.
const HEADER: usize = 8;

pub(super) async fn ask(address: IpAddr, exit: &Exit, number: u64) -> io::Result<Duration> {
    let (request, reply) = types(exit.family);
    let protocol = match exit.family {
        Family::V4 => Protocol::ICMPV4,
        Family::V6 => Protocol::ICMPV6,
    };
    let socket = datagrams(on_line(exit, Type::RAW, Some(protocol))?)?;
    socket.connect(SocketAddr::new(address, 0)).await?;
    let sent = Instant::now();
    socket.send(&message(request, address, exit.mark, number)).await?;
    let expected = message(reply, address, exit.mark, number);
    let mut bytes = [0; LONGEST];
    loop {
        let length = socket.recv(&mut bytes).await?;
        let answer = bytes.get(..length).unwrap_or_default();
        if is_repeated(&expected, after_the_header(answer, exit.family)) {
            return Ok(took(sent));
        }
    }
}

/// What is asked and what is answered differ in the type alone. The kernel sums up ICMPv6 itself.
///
/// The identifier is the same for all questions to one address by one line, so that the connection
/// table has one entry for them. What follows is known to nobody who has not seen the question.
fn message(kind: u8, address: IpAddr, mark: u32, number: u64) -> Vec<u8> {
    static SECRET: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let [.., id_high, id_low] = SECRET.hash_one((address, mark)).to_be_bytes();
    let [.., high, low] = number.to_be_bytes();
    let mut message = vec![kind, 0, 0, 0, id_high, id_low, high, low];
    message.extend(SECRET.hash_one((address, mark, number)).to_be_bytes());
    let sum = checksum(&message, 1).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

/// Whether an answer has all that was expected, but for the sum, which the kernel has looked at.
fn is_repeated(expected: &[u8], answer: &[u8]) -> bool {
    let is_kind = answer.get(..2) == expected.get(..2);
    let rest = HEADER - 4..;
    is_kind && answer.get(rest.clone()) == expected.get(rest)
}

/// A raw IPv4 socket gives the IP header too, an IPv6 one does not.
fn after_the_header(answer: &[u8], family: Family) -> &[u8] {
    let header = match family {
        Family::V4 => answer.first().map_or(0, |first| usize::from(first & 0xf) * 4),
        Family::V6 => 0,
    };
    answer.get(header..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reply_to_this_very_question_counts() {
        let address: IpAddr = "192.0.2.9".parse().unwrap();
        let expected = message(0, address, 1, 7);
        assert!(is_repeated(&expected, &message(0, address, 1, 7)));
        for other in [
            message(8, address, 1, 7),
            message(0, address, 1, 8),
            message(0, address, 2, 7),
            message(0, address, 1, 7 + (1 << 16)),
            message(0, "192.0.2.8".parse().unwrap(), 1, 7),
            expected[..15].to_vec(),
            vec![],
        ] {
            assert!(!is_repeated(&expected, &other), "{other:?}");
        }
    }

    #[test]
    fn a_header_that_is_cut_short_hides_nothing() {
        assert_eq!(after_the_header(&[0x4f; 20], Family::V4), [0; 0]);
        assert_eq!(after_the_header(&[], Family::V4), [0; 0]);
        assert_eq!(after_the_header(&[0x45; 21], Family::V4), [0x45]);
        assert_eq!(after_the_header(&[0x45; 2], Family::V6), [0x45; 2]);
    }

    #[test]
    fn the_sum_is_that_of_rfc_1071() {
        let message = message(8, "192.0.2.9".parse().unwrap(), 1, 1);
        assert_eq!(checksum(&message, usize::MAX), 0);
    }
}
