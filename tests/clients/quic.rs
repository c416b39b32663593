//! A QUIC client that has asked no resolver: its first datagram names the host.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::http3;
use crate::router::*;
use crate::town::{EACH, Town};
use wansplit::engine::packet::Family;

const UDP: u8 = 17;

#[test]
fn a_quic_client_goes_by_the_line_of_the_name_that_its_first_datagram_says() {
    if let Some(backend) = backends().first() {
        with_an_open_gate(|| names_choose(Town::new(backend)));
    }
}

fn names_choose(mut town: Town) {
    for family in Family::BOTH {
        let to = SocketAddr::new(town.site.of(family), 443);
        for (name, line) in [("www.video.example", "wan2"), ("git.example", "wan1")] {
            let visit = || http3::visit(&town.client(0), town.router.files.path(), to, name);
            let by = town.lines_to(UDP, to, || (0..EACH).for_each(|_| visit()));
            assert_eq!(by, BTreeMap::from([(line.into(), EACH)]), "{family} {name}\n{}", town.router.said());
        }
    }
    town.router.stop();
}
