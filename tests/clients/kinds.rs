//! Clients that are known by what they say in their first datagram: calls.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;

use crate::router::*;
use crate::town::{Answers, EACH, Town};
use crate::wanted::is_there;

const UDP: u8 = 17;
const SIP: u16 = 5060;

#[test]
fn a_sip_client_goes_by_the_line_of_calls_on_its_first_datagram() {
    let backends = backends();
    let Some(backend) = backends.first().filter(|_| is_there("sipsak")) else { return };
    with_an_open_gate(|| calls_choose(Town::new(backend)));
}

/// sipsak speaks IPv4 alone.
fn calls_choose(mut town: Town) {
    let to = SocketAddr::new(town.site.v4.into(), SIP);
    let exchange = Answers::start(&town.router.network.internet, to, answer);
    let call = || {
        let mut command = Command::new("sipsak");
        command.args(["-v", "-s", &format!("sip:echo@{to}")]);
        town.client(0).run(&mut command).expect("an answer");
    };
    let by = town.lines_to(UDP, to, || (0..EACH).for_each(|_| call()));
    assert_eq!(by, BTreeMap::from([("wan1".into(), EACH)]), "{}", town.router.said());
    exchange.stop();
    town.router.stop();
}

/// "OK", with the headers by which a client knows the answer to its request again (RFC 3261, section 8.2.6).
fn answer(request: &[u8]) -> Option<Vec<u8>> {
    let request = String::from_utf8_lossy(request);
    let known = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
    let kept = request.lines().filter(|line| known.iter().any(|name| line.starts_with(name)));
    let headers: String = kept.map(|line| format!("{}\r\n", line.trim_end())).collect();
    Some(format!("SIP/2.0 200 OK\r\n{headers}Content-Length: 0\r\n\r\n").into_bytes())
}
