//! A DNS query over UDP (RFC 1035 section 4). What is answered is of no interest, but that
//! the resolver says the name exists, or that it does not.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::{Protocol, Type};

use super::{Exit, LONGEST, datagrams, on_line, took, wrong};
use crate::engine::packet::Family;

/// Length of a message's header.
const HEADER: usize = 12;
/// In the third byte: this is a response.
const RESPONSE: u8 = 0x80;
/// In the fourth byte: the response code; 0 and 3 say that the name exists and that it does not.
const CODE: u8 = 0x0f;
/// In the third byte: recursion is desired.
const RECURSION: u8 = 0x01;

pub(super) async fn ask(server: SocketAddr, name: &str, exit: &Exit) -> io::Result<Duration> {
    let socket = datagrams(on_line(exit, Type::DGRAM, Some(Protocol::UDP))?)?;
    socket.connect(server).await?;
    let query = query(name, exit.family);
    let asked = Instant::now();
    socket.send(&query).await?;
    let mut answer = [0; LONGEST];
    loop {
        let length = socket.recv(&mut answer).await?;
        let Some(code) = answer.get(..length).and_then(|answer| code(&query, answer)) else { continue };
        return if matches!(code, 0 | 3) {
            Ok(took(asked))
        } else {
            Err(wrong(format!("the resolver answers with code {code}")))
        };
    }
}

/// For the address of a name, of the family that is tried.
fn query(name: &str, family: Family) -> Vec<u8> {
    const INTERNET: u8 = 1;
    let [high, low, ..] = RandomState::new().hash_one(name).to_be_bytes();
    let mut query = vec![high, low, RECURSION, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        // At most 63: the configuration was checked.
        query.push(label.len() as u8);
        query.extend(label.bytes());
    }
    let kind = match family {
        Family::V4 => 1,
        Family::V6 => 28,
    };
    query.extend([0, 0, kind, 0, INTERNET]);
    query
}

/// The response code, if this is a response to the query and repeats its question.
fn code(query: &[u8], answer: &[u8]) -> Option<u8> {
    let is_response = answer.get(..2) == query.get(..2) && *answer.get(2)? & RESPONSE != 0;
    let is_repeated = answer.get(HEADER..query.len()) == query.get(HEADER..);
    if is_response && is_repeated { answer.get(3).map(|byte| byte & CODE) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_response_with_the_same_number_and_question_has_a_code() {
        let query = query("example.com", Family::V4);
        let mut answer = query.clone();
        assert_eq!(code(&query, &answer), None);
        (answer[2], answer[3]) = (RESPONSE, 0x83);
        assert_eq!(code(&query, &answer), Some(3));
        for place in [0, 1, HEADER, query.len() - 1] {
            let mut other = answer.clone();
            other[place] ^= 1;
            assert_eq!(code(&query, &other), None, "byte {place}");
        }
        for length in 0..query.len() {
            assert_eq!(code(&query, &answer[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn the_query_is_as_others_read_it() {
        let bytes = query("www.example.com", Family::V6);
        let message = domain::base::Message::from_octets(bytes).unwrap();
        let question = message.sole_question().unwrap();
        assert_eq!(question.qname().to_string(), "www.example.com");
        assert_eq!(question.qtype(), domain::base::iana::Rtype::AAAA);
        assert!(message.header().rd());
    }
}
