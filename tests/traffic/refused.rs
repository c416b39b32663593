//! Flows for which no line is left: refused at once, dropped, or tried all the same.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::common::*;
use crate::live::Idle;
use crate::router::*;
use wansplit::engine::gate::OPEN_FOR;
use wansplit::engine::packet::Family;
use wansplit::lab::host::Host;

/// How long something that must happen is waited for: far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A port for each answer to what becomes of flows without a line.
const REJECT: u16 = 1001;
const DROP: u16 = 1002;
const KEEP: u16 = 1003;
const PORTS: [u16; 3] = [REJECT, DROP, KEEP];

/// By the second line, or not at all.
const RULES: &str = r#"
[[rule]]
name = "reject"
match = { dst_port = 1001 }
use = "isp2"
none = "reject"

[[rule]]
name = "drop"
match = { dst_port = 1002 }
use = "isp2"
none = "drop"

[[rule]]
name = "keep"
match = { dst_port = 1003 }
use = "isp2"
none = "keep"
"#;

#[test]
fn a_flow_without_a_line_is_told_so_at_once_whoever_decides_and_leaves_by_no_other() {
    side_by_side(flows_are_refused);
}

fn flows_are_refused(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    router.rule_file("10.toml", RULES);
    router.start();
    let one = router.network.servers[0];
    let _server = serve(&router.network.internet, &one.both(), &PORTS);
    let host = &router.network.client().host.clone();
    let to = |family, port| SocketAddr::new(one.of(family), port);
    for (family, port) in each(&PORTS) {
        assert_eq!(connecting(host, to(family, port), PATIENCE), None, "{backend}: {family} {port}");
    }

    Down::ByIsp.take(&router.network, 1);
    wait_for_line(&router, 1, false);
    wait_for_the_plan(&router);
    for is_alive in [true, false] {
        if !is_alive {
            router.signal(Signal::SIGSTOP);
            thread::sleep(2 * OPEN_FOR);
        }
        let (_, flows) = soundly(&router, || {
            for family in Family::BOTH {
                let tcp = |port, limit| connecting(host, to(family, port), limit);
                let who = format!("{backend}: {family}, alive: {is_alive}");
                assert_eq!(tcp(REJECT, PATIENCE), Some(ErrorKind::ConnectionRefused), "{who}");
                assert_eq!(udp_error(host, to(family, REJECT)), Some(prohibited(family)), "{who}");
                if is_alive {
                    assert_eq!(tcp(DROP, HOPELESS), Some(ErrorKind::TimedOut), "{who}");
                }
                assert!(tcp(KEEP, PATIENCE).is_some(), "{who}");
                assert_eq!(connecting(host, router.echo(family), PATIENCE), None, "{who}");
            }
        });
        let left = flows.carried.keys().filter(|flow| PORTS.contains(&flow.dst_port)).count();
        assert_eq!(left, 0, "{backend}: alive: {is_alive}");
    }
    router.signal(Signal::SIGCONT);
    router.wait_until("the gate opens", |status| status["gate"]["open"] == true);
    let counted = reason(&router, "rejected-by-rule");
    assert!(counted >= 4, "{backend}: {counted}");

    Down::ByIsp.undo(&router.network, 1);
    wait_for_line(&router, 1, true);
    wait_for_the_plan(&router);
    for (family, port) in each(&PORTS) {
        assert_eq!(connecting(host, to(family, port), PATIENCE), None, "{backend}: {family} {port}");
    }
    router.stop();
    router.wansplit(&["down"]).unwrap();
}

#[test]
fn without_any_line_running_and_new_flows_are_refused_where_asked() {
    side_by_side(all_lines_die);
}

fn all_lines_die(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    router.configure_more("none = \"reject\"", "");
    router.start();
    let two = router.network.servers[1];
    let _server = serve(&router.network.internet, &two.both(), &[KEEP]);
    let host = &router.network.client().host.clone();
    let to = |family| SocketAddr::new(two.of(family), KEEP);
    // On a busy machine a line may be called down before it is found to work.
    wait_for_line(&router, 0, true);
    wait_for_line(&router, 1, true);
    wait_for_the_plan(&router);
    let mut idle = Family::BOTH.map(|family| Idle::open(host, to(family)));
    for line in [0, 1] {
        Down::ByIsp.take(&router.network, line);
    }
    for line in [0, 1] {
        wait_for_line(&router, line, false);
    }
    for idle in &mut idle {
        assert!(idle.is_reset(PATIENCE), "{backend}: a client that only listens hears of it");
    }
    for family in Family::BOTH {
        let refused = Some(ErrorKind::ConnectionRefused);
        assert_eq!(connecting(host, to(family), PATIENCE), refused, "{backend}: {family}");
        assert_eq!(udp_error(host, to(family)), Some(prohibited(family)), "{backend}: {family}");
    }
    Down::ByIsp.undo(&router.network, 0);
    wait_for_line(&router, 0, true);
    wait_for_the_plan(&router);
    for family in Family::BOTH {
        assert_eq!(connecting(host, to(family), PATIENCE), None, "{backend}: {family}");
    }
    router.stop();
    router.wansplit(&["down"]).unwrap();
}

#[test]
fn probes_that_call_every_line_down_are_believed_by_those_who_refuse_and_by_no_others() {
    side_by_side(all_lines_are_called_down);
}

fn all_lines_are_called_down(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    let (gateways, nobody) = ("\"arp://gateway\"", "[\"icmp://192.0.2.77\", \"icmp://2001:db8:ffff::77\"]");
    router.configure(&router.configuration().replace(gateways, nobody));
    router.rule_file("10.toml", RULES);
    router.start();
    let one = router.network.servers[0];
    let _server = serve(&router.network.internet, &one.both(), &PORTS);
    let host = &router.network.client().host.clone();
    let to = |family, port| SocketAddr::new(one.of(family), port);
    let called_down = |router: &Router| {
        router.wait_until("all lines are called down", |status| {
            let warnings = status["warnings"].to_string();
            Family::BOTH.iter().all(|family| warnings.contains(&format!("every line down for {family}")))
        });
        wait_for_the_plan(router);
    };
    called_down(&router);
    for family in Family::BOTH {
        let refused = Some(ErrorKind::ConnectionRefused);
        assert_eq!(connecting(host, to(family, REJECT), PATIENCE), refused, "{backend}: {family}");
        assert_eq!(connecting(host, to(family, KEEP), PATIENCE), None, "{backend}: {family}");
        assert_eq!(connecting(host, router.echo(family), PATIENCE), None, "{backend}: {family}");
    }
    router.stop();

    router.configure_more("none = \"reject\"", "");
    router.start();
    called_down(&router);
    for family in Family::BOTH {
        let refused = Some(ErrorKind::ConnectionRefused);
        assert_eq!(connecting(host, router.echo(family), PATIENCE), refused, "{backend}: {family}");
        assert_eq!(connecting(host, to(family, KEEP), PATIENCE), None, "{backend}: {family}");
    }
    router.stop();
    router.wansplit(&["down"]).unwrap();
}

fn each(ports: &[u16]) -> impl Iterator<Item = (Family, u16)> + '_ {
    Family::BOTH.into_iter().flat_map(move |family| ports.iter().map(move |&port| (family, port)))
}

/// What became of a connection, if nothing came of it.
fn connecting(host: &Host, to: SocketAddr, limit: Duration) -> Option<ErrorKind> {
    let connected = host.enter(|| TcpStream::connect_timeout(&to, limit)).unwrap();
    connected.err().map(|error| error.kind())
}

/// What a program hears that sends datagrams and waits for an answer.
fn udp_error(host: &Host, to: SocketAddr) -> Option<i32> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = host.enter(|| UdpSocket::bind(SocketAddr::new(any, 0))).unwrap().unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let heard = socket.send(b"hello").and_then(|_| socket.recv(&mut [0; 64]));
        match heard {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return error.raw_os_error(),
            Ok(_) => return None,
        }
    }
    None
}

/// What "administratively prohibited" becomes (net/ipv4/icmp.c, net/ipv6/icmp.c).
fn prohibited(family: Family) -> i32 {
    match family {
        Family::V4 => nix::libc::EHOSTUNREACH,
        Family::V6 => nix::libc::EACCES,
    }
}

fn reason(router: &Router, name: &str) -> u64 {
    let status = router.status();
    let reasons = status["reasons"].as_array().cloned().unwrap_or_default();
    let found = reasons.iter().find(|reason| reason["name"] == name);
    found.and_then(|reason| reason["count"].as_u64()).unwrap_or(0)
}
