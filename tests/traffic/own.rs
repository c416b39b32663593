//! The router's own traffic, whatever the main table's default route is.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::common::*;
use crate::router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::network::IspLine;
use wansplit::lab::traffic::{Pace, Pings, TcpFlows, UdpFlows};

/// What may stand in the main table before or while the program runs.
const DEFAULTS: [&[&str]; 5] = [
    &[],
    &["route replace default via 198.51.100.1 dev wan1", "route replace default via 2001:db8:1::1 dev wan1"],
    &["route replace default via 203.0.113.1 dev wan2", "route replace default via 2001:db8:2::1 dev wan2"],
    &["route replace default via 10.77.0.14 dev lan0", "route replace default via fd00:77::e dev lan0"],
    &["route replace unreachable default", "-6 route replace unreachable default metric 1024"],
];

#[test]
fn the_routers_own_traffic_uses_every_line_whatever_the_main_default_is() {
    for_each_backend(|backend| {
        for router in ["multipath", "rules"] {
            own_traffic_works(backend, router);
        }
    });
}

fn own_traffic_works(backend: &str, router_traffic: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    router.configure_more("", &format!("[routing]\nrouter = \"{router_traffic}\""));
    let mut is_running = false;
    for commands in DEFAULTS {
        commands.iter().for_each(|command| ip(&router.network.router, command));
        if !is_running {
            router.start();
            is_running = true;
        }
        wait_for_the_plan(&router);
        for family in Family::BOTH {
            soundly(&router, || unbound_flows_spread(&router, family, commands));
            // One line after the other: from each, the kernel may choose the same ports.
            for line in &router.network.lines {
                if router_traffic == "multipath" {
                    soundly(&router, || bound_flows_go_by_their_address(&router, line, family));
                }
                soundly(&router, || flows_of_a_device_go_by_it(&router, line, family));
            }
        }
    }
}

fn unbound_flows_spread(router: &Router, family: Family, commands: &[&str]) {
    let (host, to) = (&router.network.router, router.echo(family));
    for report in from_fresh_ports(host, to, 40) {
        let lines = by_line(&router.network, &report);
        assert!(lines.iter().all(|&flows| flows > 5), "{commands:?}: {lines:?}");
        assert_eq!(lines.iter().sum::<usize>(), 40);
    }
    let pings = Pings::new(to.ip(), 10).run(host).unwrap();
    assert!(pings.iter().all(|ping| ping.answered), "{commands:?}");
}

fn bound_flows_go_by_their_address(router: &Router, line: &IspLine, family: Family) {
    let (host, to) = (&router.network.router, router.echo(family));
    let address = line.router.of(family);
    let from = Some(address);
    let pace = Pace::burst(5, 5);
    let tcp = worked(TcpFlows { from, ..TcpFlows::new(to, pace) }.run(host).unwrap(), to);
    let udp = worked(UdpFlows { from, ..UdpFlows::new(to, pace) }.run(host).unwrap(), to);
    for report in [tcp, udp] {
        assert_eq!(report.by_source().into_iter().collect::<Vec<_>>(), [(address, 5)]);
    }
}

fn flows_of_a_device_go_by_it(router: &Router, line: &IspLine, family: Family) {
    for _ in 0..4 {
        let source = source_of_a_bound_connection(router, line, router.echo(family));
        assert_eq!(source, line.router.of(family), "{}", line.device);
    }
}

/// The address the server sees of a connection from a socket bound to a line's device.
fn source_of_a_bound_connection(router: &Router, line: &IspLine, to: SocketAddr) -> IpAddr {
    let connect = || -> std::io::Result<String> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind_device(Some(line.device.as_bytes()))?;
        socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"x")?;
        let mut answer = vec![0; 100];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    let answer = router.network.router.enter(connect).unwrap();
    let answer = answer.unwrap_or_else(|error| panic!("{} to {to}: {error}", line.device));
    let source: SocketAddr = answer.lines().next().unwrap().strip_prefix("source ").unwrap().parse().unwrap();
    source.ip()
}

#[test]
fn the_routers_own_traffic_goes_by_one_line_while_that_works() {
    for_each_backend(own_traffic_goes_by_its_favourite);
}

fn own_traffic_goes_by_its_favourite(backend: &str) {
    let mut router = Router::new(backend, &[1, 1, 1]);
    router.configure_more("", "[routing]\nrouter = \"isp2\"");
    router.start();
    let all_by = |line: Option<usize>| {
        for family in Family::BOTH {
            for report in from_fresh_ports(&router.network.router, router.echo(family), 20) {
                let by = by_line(&router.network, &report);
                match line {
                    Some(line) => assert_eq!(by[line], 20, "{by:?}"),
                    None => assert!(by[1] == 0 && by[0] > 0 && by[2] > 0, "{by:?}"),
                }
            }
        }
    };
    all_by(Some(1));
    ip(&router.network.lines[1].isp, "link set customer down");
    wait_for_line(&router, 1, false);
    all_by(None);
    bring_up(&router.network.lines[1]);
    wait_for_line(&router, 1, true);
    all_by(Some(1));
}

#[test]
fn the_routers_own_traffic_can_be_shared_and_ruled_like_the_lans() {
    for_each_backend(own_traffic_obeys_rules);
}

fn own_traffic_obeys_rules(backend: &str) {
    let mut router = Router::new(backend, &[3, 1]);
    router.configure_more("", "[queue]\nworkers = 1\n[routing]\nrouter = \"rules\"");
    router.rule_file(
        "10.toml",
        "[[rule]]\nname = \"second server\"\nmatch = { dst = [\"192.0.2.2\", \"2001:db8:ffff::2\"] }\nuse = \"isp2\"\n",
    );
    router.start();
    for family in Family::BOTH {
        let ruled = SocketAddr::new(router.network.servers[1].of(family), ECHO);
        for flows in [tcp, udp] {
            assert_eq!(by_line(&router.network, &flows(&router.network.router, ruled, 12)), [0, 12]);
            let report = flows(&router.network.router, router.echo(family), 200);
            let by = by_line(&router.network, &report);
            assert!(by[0].abs_diff(150) <= 1, "{by:?}\n{}", router.status());
        }
    }
}
