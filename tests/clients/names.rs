//! curl, openssl, ssh and dig: on the first flow by the line of the name that DNS has answered for.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::router::*;
use crate::town::{EACH, Town};
use wansplit::engine::packet::Family;

const TCP: u8 = 6;
const UDP: u8 = 17;

#[test]
fn programs_go_by_the_line_of_the_name_they_asked_for() {
    if let Some(backend) = backends().first() {
        with_an_open_gate(|| try_all(Town::new(backend)));
    }
}

fn try_all(mut town: Town) {
    for (resolver, clients) in [(0, [0, 1]), (1, [2, 3])] {
        for family in Family::BOTH {
            names_choose(&town, resolver, clients, family);
        }
    }
    town.router.stop();
}

fn names_choose(town: &Town, resolver: usize, [one, other]: [usize; 2], family: Family) {
    let about = format!("resolver {resolver}, {family}");
    let at = town.resolvers[resolver].of(family);
    let tls = |words: &str| {
        let (flag, certain) = (flag(family), "-k --silent --output /dev/null --max-time 10");
        format!("curl {flag} {certain} {words}")
    };
    let hello = |name: &str| {
        format!("openssl s_client {} -connect {name}:443 -servername {name} -brief", flag(family))
    };
    let shell = |name: &str| {
        let quiet = "-o BatchMode=yes -o ConnectTimeout=5 -o StrictHostKeyChecking=no -F /dev/null";
        format!("ssh {} {quiet} {name} true || test $? = 255", flag(family))
    };
    for (client, port, line, command) in [
        (one, 443, "wan2", tls("https://www.video.example/")),
        (one, 443, "wan2", hello("www.video.example")),
        (one, 443, "wan2", key_share(&hello("www.video.example"))),
        // Another name of the same address, asked for by another client.
        (other, 22, "wan1", shell("git.example")),
        (other, 443, "wan1", tls("https://git.example/")),
        (other, 443, "wan1", hello("git.example")),
        // The first keeps the name that it was told.
        (one, 443, "wan2", tls("https://www.video.example/")),
    ] {
        let to = SocketAddr::new(town.site.of(family), port);
        let by = town.lines_to(TCP, to, || town.run(client, at, &command, EACH));
        let wanted = BTreeMap::from([(line.into(), EACH)]);
        assert_eq!(by, wanted, "{about}: {command}\n{}", town.router.said());
    }
    if resolver == 1 {
        questions_go_by_their_line(town, one, at);
    }
}

/// Only those to the resolver outside leave by a line at all.
fn questions_go_by_their_line(town: &Town, client: usize, resolver: IpAddr) {
    let command = "dig +short +tries=1 www.video.example A | grep -q edge.example";
    let to = SocketAddr::new(resolver, 53);
    let by = town.lines_to(UDP, to, || town.run(client, resolver, command, EACH));
    assert_eq!(by, BTreeMap::from([("wan2".into(), EACH)]), "questions to {resolver}");
}

/// With a key share that takes a second segment, where this version of openssl has it (3.5).
fn key_share(command: &str) -> String {
    format!(
        "if openssl list -kem-algorithms | grep -q X25519MLKEM768; then {command} -groups X25519MLKEM768; \
             else {command} -groups P-521:X25519; fi"
    )
}

fn flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}
