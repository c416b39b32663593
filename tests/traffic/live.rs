//! Running flows while their line dies and comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::*;
use crate::router::*;
use wansplit::engine::REMEMBER;
use wansplit::engine::packet::Family;
use wansplit::lab::host::Host;
use wansplit::lab::network::Network;

/// How long something that must happen is waited for: far longer than it takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A port for each answer to what becomes of running flows.
const KEEP: u16 = 1001;
const RESET: u16 = 1002;
const BACK: u16 = 1003;

/// The first line, else the second.
const RULES: &str = r#"
[[rule]]
name = "keep"
match = { dst_port = 1001 }
use = { policy = "ordered", uplinks = ["isp1", "isp2"] }
live = "keep"

[[rule]]
name = "reset on down"
match = { dst_port = 1002 }
use = { policy = "ordered", uplinks = ["isp1", "isp2"] }

[[rule]]
name = "move back"
match = { dst_port = 1003 }
use = { policy = "ordered", uplinks = ["isp1", "isp2"] }
live = "move-back"
"#;

#[test]
fn running_flows_follow_their_lines_as_their_rules_say() {
    side_by_side(flows_follow_lines);
}

fn flows_follow_lines(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    router.rule_file("10.toml", RULES);
    router.start();
    let two = router.network.servers[1];
    let _server = serve(&router.network.internet, &two.both(), &[KEEP, RESET, BACK]);
    let host = &router.network.client().host;
    let to = |family, port| SocketAddr::new(two.of(family), port);
    let line = |call: &Call| call.heard_from().map(|seen| line_of(&router.network, seen.ip()));
    let of = |family| Running::begin([KEEP, RESET, BACK].map(|port| (host, to(family, port))));
    let mut running = Family::BOTH.map(of);
    for flows in &running {
        assert_eq!(flows.calls.each_ref().map(line), [Some(0); 3], "{backend}");
    }

    Down::ByIsp.take(&router.network, 0);
    wait_for_line(&router, 0, false);
    for flows in &mut running {
        let [keep, reset, back] = &mut flows.idle;
        assert!(reset.is_reset(PATIENCE), "{backend}: a client that only listens hears of it");
        assert!(back.is_reset(PATIENCE), "{backend}");
        assert!(!keep.is_reset(HOPELESS), "{backend}: it waits for its line");
        assert_eq!(flows.calls.each_ref().map(line), [None, Some(1), Some(1)], "{backend}");
    }

    let mut later = Family::BOTH.map(of);
    Down::ByIsp.undo(&router.network, 0);
    wait_for_line(&router, 0, true);
    for (flows, later) in running.iter_mut().zip(&mut later) {
        assert!(flows.idle[0].answers(), "{backend}: it goes on when its line is back");
        assert!(later.idle[2].is_reset(REMEMBER + PATIENCE), "{backend}: its better line is back");
        assert!(later.idle[0].answers() && later.idle[1].answers(), "{backend}: nothing asked them to leave");
        assert_eq!(flows.calls.each_ref().map(line), [Some(0), Some(1), Some(0)], "{backend}");
    }
    router.stop();
}

#[test]
fn a_line_that_changes_its_address_ends_the_flows_that_had_the_old_one() {
    for_each_backend(addresses_change);
}

fn addresses_change(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    let fixed = "source = [\"198.51.100.2\", \"2001:db8:1::2\"]";
    let text = router.configuration();
    assert!(text.contains(fixed), "{text}");
    router.configure(&text.replace(fixed, "source = \"masquerade\""));
    router.rule_file("10.toml", RULES);
    router.start();
    let two = router.network.servers[1];
    let _server = serve(&router.network.internet, &two.both(), &[KEEP]);
    let host = &router.network.client().host;
    let to = SocketAddr::new(two.of(Family::V4), KEEP);
    let mut idle = Idle::open(host, to);
    let call = Call::begin(host, to);
    // In one go: while the line has no address flows go by the other one, and one that is kept stays there.
    let change = "address del 198.51.100.2/24 dev wan1\naddress add 198.51.100.77/24 dev wan1\n";
    router.network.router.feed(Command::new("ip").args(["-batch", "-"]), change).unwrap();
    assert!(idle.is_reset(PATIENCE), "{backend}: {}", router.said());
    let new: IpAddr = [198, 51, 100, 77].into();
    let deadline = Instant::now() + PATIENCE;
    while call.heard_from().map(|seen| seen.ip()) != Some(new) {
        assert!(Instant::now() < deadline, "{backend}: {}", router.said());
    }
    router.stop();
}

#[test]
fn a_delegated_prefix_that_changes_is_followed_and_ends_the_flows_that_had_the_old_one() {
    for_each_backend(prefixes_change);
}

fn prefixes_change(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    let fixed = "\"2001:db8:1::2\"]";
    let text = router.configuration();
    assert!(text.contains(fixed), "{text}");
    router.configure(&text.replacen(fixed, "\"npt of pd1\"]", 1));
    router.rule_file("10.toml", RULES);
    let at = &router.network.router.clone();
    let own = router.network.lines[0].router.v6;
    ip(&router.network.lines[0].isp, &format!("route add 2001:db8:1:2::/64 via {own} dev customer"));
    ip(at, "link add pd1 type veth peer name pd1x");
    ip(at, "link set pd1 up");
    ip(at, "link set pd1x up");
    ip(at, "address add 2001:db8:1:1::1/64 dev pd1 nodad");
    router.start();
    let two = router.network.servers[1];
    let _server = serve(&router.network.internet, &two.both(), &[KEEP]);
    let host = &router.network.client().host;
    let to = SocketAddr::new(two.of(Family::V6), KEEP);
    let inside = router.network.client().addresses.v6.segments();
    let mapped = |net: u16| {
        let [.., a, b, c, d] = inside;
        IpAddr::from([0x2001, 0xdb8, 1, net, a, b, c, d])
    };
    let mut idle = Idle::open(host, to);
    let call = Call::begin(host, to);
    let comes_from = |source: IpAddr| {
        let begin = Instant::now();
        while call.heard_from().map(|seen| seen.ip()) != Some(source) {
            assert!(begin.elapsed() < PATIENCE, "{backend}: {source}: {}", router.said());
        }
        begin.elapsed()
    };
    comes_from(mapped(1));
    let change = "address del 2001:db8:1:1::1/64 dev pd1\naddress add 2001:db8:1:2::1/64 dev pd1 nodad\n";
    at.feed(Command::new("ip").args(["-batch", "-"]), change).unwrap();
    let took = comes_from(mapped(2));
    eprintln!("{backend}: the new prefix is in use after {took:.1?}");
    assert!(idle.is_reset(PATIENCE), "{backend}: {}", router.said());
    ip(at, "link delete pd1");
    comes_from(own.into());
    router.wait_until_said("device pd1 has no IPv6 prefix");
    router.stop();
}

/// The place of the line that has this address.
pub fn line_of(network: &Network, address: IpAddr) -> usize {
    network.lines.iter().position(|line| line.sources.contains(address)).expect("an address of a line")
}

/// A connection and a call to each of the ports.
struct Running {
    idle: [Idle; 3],
    calls: [Call; 3],
}

impl Running {
    fn begin(to: [(&Host, SocketAddr); 3]) -> Running {
        Running {
            idle: to.map(|(host, to)| Idle::open(host, to)),
            calls: to.map(|(host, to)| Call::begin(host, to)),
        }
    }
}

/// A connection whose client says nothing.
pub struct Idle(TcpStream);

impl Idle {
    pub fn open(host: &Host, to: SocketAddr) -> Idle {
        let stream = host.enter(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().unwrap();
        let mut idle = Idle(stream);
        idle.0.set_read_timeout(Some(PATIENCE)).unwrap();
        let greeting = idle.0.read(&mut [0; 256]).unwrap();
        assert!(greeting > 0);
        idle
    }

    pub fn is_reset(&mut self, within: Duration) -> bool {
        self.0.set_read_timeout(Some(within)).unwrap();
        match self.0.read(&mut [0; 256]) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            other => panic!("neither silence nor a reset: {other:?}"),
        }
    }

    pub fn answers(&mut self) -> bool {
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        self.0.write_all(b"still there?").is_ok() && self.0.read(&mut [0; 256]).is_ok_and(|length| length > 0)
    }
}

/// A datagram every 20 ms from one socket, as in a call.
pub struct Call(UdpSocket);

impl Call {
    pub fn begin(host: &Host, to: SocketAddr) -> Call {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let socket = host.enter(|| UdpSocket::bind(SocketAddr::new(any, 0))).unwrap().unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Call(socket)
    }

    /// Goes on for half a second: the address that the server saw last, if it was heard at the end.
    pub fn heard_from(&self) -> Option<SocketAddr> {
        let mut heard = None;
        for _ in 0..25 {
            // While there is no way, the kernel says so here.
            let _ = self.0.send(b"a word");
            let mut answer = [0; 256];
            let Ok(length) = self.0.recv(&mut answer) else {
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            let line = std::str::from_utf8(&answer[..length]).unwrap().lines().next().unwrap();
            heard = line.strip_prefix("source ").map(|source| source.parse().unwrap());
        }
        heard
    }
}
