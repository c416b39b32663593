//! From outside: forwards and the router's own services on every line at once, hairpins, the guard.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::thread;

use crate::common::*;
use crate::router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::network::{Client, IspLine, Network};
use wansplit::lab::server::{Server, Transport};
use wansplit::lab::traffic::{Pace, TcpFlows, UdpFlows};

/// The inner port of most forwards, and where the router itself serves.
const INSIDE: u16 = 5001;
const ROUTERS: u16 = 8022;

#[test]
fn what_comes_in_by_a_line_is_answered_by_it() {
    for_each_backend(|backend| {
        for guard in ["on", "off"] {
            answers_leave_where_questions_came_in(backend, guard);
        }
    });
}

fn answers_leave_where_questions_came_in(backend: &str, guard: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    router.configure_more(&format!("guard = \"{guard}\""), &forwards(&router.network));
    router.start();
    let inside = lan_server(&router.network);
    let on_router = router_server(&router.network);
    for family in Family::BOTH {
        let from = outsider(&router.network, family);
        for (place, port) in [INSIDE, 8080, 6000, 6003, ROUTERS].into_iter().enumerate() {
            soundly(&router, || call_on_all_lines(&router.network, family, port, place));
            let server = if port == ROUTERS { &on_router } else { &inside };
            let seen = server.take_seen();
            let sources = seen.flows_by_source(Transport::Tcp);
            assert_eq!(sources, BTreeMap::from([(from, 40)]), "port {port}");
            assert_eq!(seen.flows_by_source(Transport::Udp), sources, "port {port}");
        }
        let [one, two] =
            [0, 1].map(|line| SocketAddr::new(router.network.lines[line].router.of(family), 7000));
        assert!(!connects(&router.network.internet, one), "the forward of line 2 listens on line 1");
        soundly(&router, || tcp(&router.network.internet, two, 1));
        let _ = inside.take_seen();
    }
}

#[test]
fn the_lan_reaches_its_own_servers_by_every_public_address() {
    for_each_backend(hairpins_work);
}

fn hairpins_work(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    router.configure_more("guard = \"on\"", &forwards(&router.network));
    router.start();
    let _inside = lan_server(&router.network);
    let clients = &router.network.lans[0].clients;
    for family in Family::BOTH {
        for line in &router.network.lines {
            for client in &clients[..2] {
                tcp(&client.host, SocketAddr::new(line.router.of(family), INSIDE), 2);
                udp(&client.host, SocketAddr::new(line.router.of(family), 8080), 2);
            }
            let without = SocketAddr::new(line.router.of(family), 7001);
            assert!(!connects(&clients[1].host, without), "a hairpin that was not asked for");
            tcp(&router.network.internet, without, 1);
        }
    }
}

#[test]
fn the_guard_keeps_out_what_an_isp_sends_to_lan_addresses() {
    for_each_backend(|backend| {
        assert!(!gets_in(backend, "on").0);
        let (in_by_default, said) = gets_in(backend, "warn");
        assert!(in_by_default && said.contains(UNGUARDED), "{said}");
        let (in_when_off, said) = gets_in(backend, "off");
        assert!(in_when_off && !said.contains(UNGUARDED), "{said}");
    });
}

const UNGUARDED: &str = "nothing stops packets";

/// Whether datagrams of both ISPs to a LAN address arrive, and what the daemon said.
fn gets_in(backend: &str, guard: &str) -> (bool, String) {
    let mut router = Router::new(backend, &[1, 1]);
    router.configure_more(&format!("guard = \"{guard}\""), "");
    router.start();
    let inside = lan_server(&router.network);
    let network = &router.network;
    for family in Family::BOTH {
        let to = SocketAddr::new(network.client().addresses.of(family), INSIDE);
        for line in &network.lines {
            ip(&line.isp, &format!("route add {} via {} dev customer", to.ip(), line.router.of(family)));
            let flow = UdpFlows { limit: HOPELESS, ..UdpFlows::new(to, Pace::burst(1, 1)) };
            flow.run(&line.isp).unwrap();
        }
    }
    let seen = inside.seen().flows.len();
    assert!(seen == 0 || seen == 4, "some got in and some did not: {seen}");
    (seen == 4, router.said())
}

#[test]
fn a_firewall_that_drops_forwarded_packets_needs_no_warning() {
    for_each_backend(|backend| {
        for firewall in [
            "iptables-nft -P FORWARD DROP",
            "nft 'table inet f { chain f { type filter hook forward priority 0; ct state new iifname \"wan*\" drop; }; }'",
        ] {
            let mut router = Router::new(backend, &[1, 1]);
            router.network.router.run(Command::new("sh").args(["-c", firewall])).unwrap();
            router.start();
            assert!(!router.said().contains(UNGUARDED), "{firewall}:\n{}", router.said());
        }
    });
}

/// The second client is the LAN's server.
fn inner(network: &Network) -> &Client {
    &network.lans[0].clients[0]
}

fn lan_server(network: &Network) -> Server {
    let client = inner(network);
    serve(&client.host, &client.addresses.both(), &[INSIDE, 6000, 6001, 6002, 6003, 7000, 7001])
}

fn router_server(network: &Network) -> Server {
    let addresses: Vec<IpAddr> = network.lines.iter().flat_map(|line| line.router.both()).collect();
    serve(&network.router, &addresses, &[ROUTERS])
}

fn forwards(network: &Network) -> String {
    let [v4, v6] = inner(network).addresses.both();
    let forward = |name: &str, port: &str, to_port: Option<u16>, more: &str| {
        let to = |address: IpAddr| match to_port {
            Some(port) => SocketAddr::new(address, port).to_string(),
            None => address.to_string(),
        };
        format!(
            "[[forward]]\nname = \"{name}\"\nprotocol = \"tcp+udp\"\nport = {port}\n\
             to = [\"{}\", \"{}\"]\n{more}\n",
            to(v4),
            to(v6)
        )
    };
    [
        forward("same-port", "5001", None, ""),
        forward("other-port", "8080", Some(INSIDE), ""),
        forward("range", "\"6000-6003\"", None, ""),
        forward("second-line", "7000", None, "uplinks = [\"isp2\"]"),
        forward("no-hairpin", "7001", None, "hairpin = false"),
    ]
    .concat()
}

/// TCP and UDP from the internet to a port of the router, on each line at the same time.
fn call_on_all_lines(network: &Network, family: Family, port: u16, place: usize) {
    let from = Some(outsider(network, family));
    let call = |line: &IspLine, number: usize| {
        let to = SocketAddr::new(line.router.of(family), port);
        let first_port = Some(20_000 + (place * 200 + number * 100) as u16);
        let pace = Pace::burst(20, 10);
        worked(TcpFlows { from, first_port, ..TcpFlows::new(to, pace) }.run(&network.internet).unwrap(), to);
        worked(UdpFlows { from, first_port, ..UdpFlows::new(to, pace) }.run(&network.internet).unwrap(), to);
    };
    thread::scope(|scope| {
        for (number, line) in network.lines.iter().enumerate() {
            scope.spawn(move || call(line, number));
        }
    });
}
