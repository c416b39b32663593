//! Source addresses, segment sizes, bypasses; many lines, strange lines, several and tagged LANs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::common::*;
use crate::router::*;
use nix::sys::socket::{getsockopt, sockopt};
use wansplit::engine::packet::Family;
use wansplit::lab::article::configuration;
use wansplit::lab::network::missing;
use wansplit::lab::topology::{Lan, Line, Medium, Topology};
use wansplit::lab::traffic::{Pace, Report, TcpFlows, UdpFlows};

#[test]
fn sixteen_lines_share_exactly() {
    for_each_backend(sixteen_lines_work);
}

fn sixteen_lines_work(backend: &str) {
    let mut router = Router::of(backend, &[1; 16], &Topology::with_lines(16));
    router.configure_more("", "[queue]\nworkers = 1");
    router.start();
    for family in Family::BOTH {
        let host = &router.network.client().host;
        let to = router.echo(family);
        let (report, flows) = soundly(&router, || {
            let udp =
                UdpFlows { first_port: Some(10_000), ..UdpFlows::new(to, Pace::burst(scaled(1600), 50)) };
            worked(udp.run(host).unwrap(), to);
            worked(TcpFlows::new(to, Pace::burst(scaled(320), 50)).run(host).unwrap(), to)
        });
        assert_eq!(by_line(&router.network, &report).len(), 16);
        assert_shares(&flows.shares_of(|flow| flow.protocol == 17), &[1; 16], 1.0);
        assert_shares(&flows.shares_of(|flow| flow.protocol == 6), &[1; 16], 1.0);
    }
}

#[test]
fn sources_are_translated_as_each_line_wants_it() {
    for_each_backend(|backend| {
        masquerade_and_fixed_addresses_work(backend);
        prefixes_are_translated_and_untouched_sources_stay(backend);
    });
}

fn masquerade_and_fixed_addresses_work(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    let text = router
        .configuration()
        .replace("source = [\"203.0.113.2\", \"2001:db8:2::2\"]", "source = \"masquerade\"");
    // Line 1 has a second address in each family, and flows leave from that.
    ip(&router.network.router, "address add 198.51.100.77/24 dev wan1");
    ip(&router.network.router, "address add 2001:db8:1::77/64 dev wan1 nodad");
    router.configure(
        &text.replace("\"198.51.100.2\", \"2001:db8:1::2\"", "\"198.51.100.77\", \"2001:db8:1::77\""),
    );
    router.start();
    for family in Family::BOTH {
        let to = router.echo(family);
        let (report, _) = soundly(&router, || tcp(&router.network.client().host, to, 10));
        let expected: [IpAddr; 2] = match family {
            Family::V4 => ["198.51.100.77", "203.0.113.2"],
            Family::V6 => ["2001:db8:1::77", "2001:db8:2::2"],
        }
        .map(|address| address.parse().unwrap());
        assert_eq!(report.by_source(), expected.map(|source| (source, 5)).into());
    }
}

/// The LAN has addresses that ISP 1 gave; line 2 translates them to its own prefix.
fn prefixes_are_translated_and_untouched_sources_stay(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    let text = router.configuration().replace("\"2001:db8:1::2\"]\nweight", "\"none\"]\nweight");
    router.configure(&text.replace("\"2001:db8:2::2\"]\nweight", "\"npt 2001:db8:2:1::/64\"]\nweight"));
    ip(&router.network.router, "address add 2001:db8:1:1::1/64 dev lan0 nodad");
    let client = router.network.client().clone();
    ip(&client.host, "address add 2001:db8:1:1::b/64 dev eth0 nodad");
    router.start();
    let from: IpAddr = "2001:db8:1:1::b".parse().unwrap();
    let to = router.echo(Family::V6);
    let (report, _) = soundly(&router, || {
        let flows = TcpFlows { from: Some(from), ..TcpFlows::new(to, Pace::burst(10, 5)) };
        worked(flows.run(&client.host).unwrap(), to)
    });
    let mapped: IpAddr = "2001:db8:2:1::b".parse().unwrap();
    assert_eq!(report.by_source(), BTreeMap::from([(from, 5), (mapped, 5)]));
    soundly(&router, || tcp(&client.host, router.echo(Family::V4), 6));
    // The router's own flows have no address of those nets, and still get out.
    soundly(&router, || tcp(&router.network.router, to, 20));
}

#[test]
fn segments_fit_the_smaller_line_both_ways() {
    for_each_backend(segments_are_clamped);
}

fn segments_are_clamped(backend: &str) {
    let mut router = Router::new(backend, &[1]);
    let client = router.network.client().host.clone();
    let to = client_server(&router);
    router.configure_more(
        "",
        &format!(
            "[[forward]]\nname = \"inside\"\nprotocol = \"tcp\"\nport = 5001\nto = [\"{}\", \"{}\"]\n",
            to.v4, to.v6
        ),
    );
    router.start();
    ip(&router.network.router, "link set wan1 mtu 1400");
    wait_for_the_plan(&router);
    for (family, headers) in Family::BOTH.into_iter().zip([40, 60]) {
        let largest = 1400 - headers;
        let server = SocketAddr::new(router.network.servers[0].of(family), 5001);
        let inside = SocketAddr::new(to.of(family), 5001);
        let from_lan = segments(&client, &router.network.internet, server, server);
        let public = SocketAddr::new(router.network.lines[0].router.of(family), 5001);
        let from_outside = segments(&router.network.internet, &client, public, inside);
        for sizes in [from_lan, from_outside] {
            // Time stamps take 12 bytes of each segment.
            assert!(
                sizes.iter().all(|&size| size <= largest && size >= largest - 12),
                "{sizes:?} of {largest}"
            );
        }
    }
}

fn client_server(router: &Router) -> wansplit::lab::topology::Pair {
    router.network.client().addresses
}

/// The largest segments both ends of a connection may send.
fn segments(
    client: &wansplit::lab::host::Host,
    server: &wansplit::lab::host::Host,
    to: SocketAddr,
    listen: SocketAddr,
) -> [u32; 2] {
    let listener = server.enter(|| TcpListener::bind(listen)).unwrap().unwrap();
    let asked = client.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(5))).unwrap().unwrap();
    let answered = listener.accept().unwrap().0;
    [asked, answered].map(|end| getsockopt(&end, sockopt::TcpMaxSeg).unwrap())
}

#[test]
fn bypassed_nets_and_clients_go_as_the_main_table_says() {
    for_each_backend(bypasses_work);
}

fn bypasses_work(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    let clients: Vec<_> = router.network.clients().cloned().collect();
    router.configure_more(
        "",
        &format!(
            "[bypass]\ndestinations = [\"192.0.2.2\", \"2001:db8:ffff::2\"]\nclients = [\"{}\", \"{}\"]\n",
            clients[1].addresses.v4, clients[1].addresses.v6
        ),
    );
    ip(&router.network.router, "route add default via 203.0.113.1 dev wan2");
    ip(&router.network.router, "route add default via 2001:db8:2::1 dev wan2");
    router.start();
    for family in Family::BOTH {
        let other = SocketAddr::new(router.network.servers[1].of(family), ECHO);
        let by = |report: Report| by_line(&router.network, &report);
        soundly(&router, || assert_eq!(by(tcp(&clients[0].host, other, 6)), [0, 6]));
        soundly(&router, || assert_eq!(by(tcp(&clients[1].host, router.echo(family), 6)), [0, 6]));
        soundly(&router, || assert_eq!(by(tcp(&clients[0].host, router.echo(family), 6)), [3, 3]));
    }
    assert_eq!(
        router.status()["queues"]
            .as_array()
            .unwrap()
            .iter()
            .map(|q| q["flows"].as_u64().unwrap())
            .sum::<u64>(),
        12
    );
}

#[test]
fn point_to_point_lines_and_tagged_lans_work() {
    let tunnels =
        Topology { lines: vec![Line { medium: Medium::PointToPoint, rate: None }; 2], ..Topology::default() };
    let tagged = Topology {
        lans: vec![Lan { clients: 2, vlan: Some(20) }, Lan { clients: 1, vlan: None }],
        ..Topology::default()
    };
    for topology in [tunnels, tagged] {
        match missing(&topology).unwrap() {
            Some(what) => eprintln!("SKIPPED: this kernel has no {what}"),
            None => for_each_backend(|backend| strange_devices_work(backend, &topology)),
        }
    }
}

/// With gateways found by themselves where a line is point-to-point.
fn strange_devices_work(backend: &str, topology: &Topology) {
    let mut router = Router::of(backend, &[1, 1], topology);
    if topology.lines[0].medium == Medium::PointToPoint {
        let text = configuration(&router.network, &[1, 1]);
        let auto = |line: &str| {
            if line.starts_with("gateway") { "gateway = \"auto\"".into() } else { line.to_owned() }
        };
        let lines: Vec<String> = text.lines().map(auto).collect();
        router.configure(&format!("backend = \"{backend}\"\n{}", lines.join("\n")));
    }
    router.start();
    for family in Family::BOTH {
        let to = router.echo(family);
        let clients: Vec<_> = router.network.clients().cloned().collect();
        for host in clients.iter().map(|client| &client.host) {
            let (report, _) = soundly(&router, || tcp(host, to, 10));
            assert_eq!(by_line(&router.network, &report), [5, 5]);
        }
        let (reports, _) = soundly(&router, || from_fresh_ports(&router.network.router, to, 40));
        for report in reports {
            let lines = by_line(&router.network, &report);
            assert!(lines.iter().all(|&flows| flows > 5), "{lines:?}");
        }
    }
}
