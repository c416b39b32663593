//! Flows that are held until their client has said its name: a QUIC ClientHello over two datagrams.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};

use crate::common::*;
use crate::quic::two_datagrams;
use crate::router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::host::Host;

const RULES: &str = "[[rule]]\nname = \"video\"\nmatch = { host = \"*.video.example\" }\nuse = \"isp2\"\n\
                     [[rule]]\nname = \"rest\"\nuse = \"isp1\"\n";
const VIDEO: &str = "www.video.example";
const PORT: u16 = 443;
/// What surely comes too late where no `hold` is configured.
const LATE: Duration = Duration::from_millis(500);

#[test]
fn a_hello_over_two_datagrams_goes_whole_by_the_line_of_its_name() {
    for_each_backend(|backend| {
        let mut router = held_for(backend, "hold = \"1s\"\n");
        for family in Family::BOTH {
            for gap in [0, 5].map(Duration::from_millis) {
                assert_eq!(lines(&router, family, VIDEO, gap, 2), [0, 20], "{backend} {family} {gap:?}");
                assert_eq!(
                    lines(&router, family, "a.example", gap, 2),
                    [20, 0],
                    "{backend} {family} {gap:?}"
                );
            }
        }
        router.stop();
    });
}

#[test]
fn a_name_that_comes_too_late_or_never_splits_no_flow() {
    for_each_backend(|backend| {
        let mut router = held_for(backend, "");
        for family in Family::BOTH {
            assert_eq!(lines(&router, family, VIDEO, slowed(LATE), 2), [20, 0], "{backend} {family}");
            assert_eq!(lines(&router, family, VIDEO, Duration::ZERO, 1), [20, 0], "{backend} {family}");
        }
        let holds = &router.status()["holds"];
        assert_eq!(
            (&holds["held"], &holds["expired"], &holds["waiting"]),
            (&80.into(), &80.into(), &0.into())
        );
        router.stop();
    });
}

#[test]
fn with_a_hold_of_nothing_a_flow_goes_by_what_its_first_datagram_says() {
    for_each_backend(|backend| {
        let mut router = held_for(backend, "hold = \"0\"\n");
        for family in Family::BOTH {
            assert_eq!(lines(&router, family, VIDEO, Duration::ZERO, 2), [20, 0], "{backend} {family}");
        }
        assert_eq!(router.status()["holds"]["held"], 0);
        router.stop();
    });
}

#[test]
fn ten_thousand_flows_that_wait_at_once_are_neither_split_nor_lost() {
    for_each_backend(many_wait);
}

fn many_wait(backend: &str) {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit of open files");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("as many sockets as may be");
    // QUIC's keys take unoptimised code too long for more.
    let unoptimised = cfg!(debug_assertions) && std::env::var_os("WANSPLIT_PROGRAM").is_none();
    let flows = scaled(if unoptimised { 1_000 } else { 10_000 });
    let mut router = held_for(backend, "hold = \"1s\"\n");
    for family in Family::BOTH {
        let sink = Sink::start(&router, family);
        let sockets = sockets(&router.network.client().host, sink.at, flows);
        let hello = two_datagrams(VIDEO);
        for datagram in &hello {
            sockets.iter().for_each(|socket| assert_eq!(socket.send(datagram).unwrap(), datagram.len()));
        }
        let seen = sink.stop(2 * flows);
        assert_eq!(seen.len(), flows, "{backend} {family}: as many flows as sockets: none is split");
        // What found a queue full went past it, and may have come before what waited.
        let whole = |datagrams: &Vec<Vec<u8>>| {
            datagrams.len() == 2 && hello.iter().all(|part| datagrams.contains(part))
        };
        assert!(seen.values().all(whole), "{backend} {family}");
    }
    let holds = router.status()["holds"].clone();
    let [held, told, expired, crowded, waiting] =
        ["held", "told", "expired", "crowded", "waiting"].map(|key| holds[key].as_u64().unwrap());
    assert_eq!((held, waiting), (told + expired + crowded, 0), "{holds}");
    assert!(told > 0 && held <= 2 * flows as u64, "{holds}");
    router.stop();
}

#[test]
fn nobody_waits_behind_flows_that_are_held() {
    for_each_backend(|backend| {
        let mut router = held_for(backend, "hold = \"1s\"\n");
        for family in Family::BOTH {
            // A machine that stands still for a second proves nothing.
            assert!((0..3).any(|_| others_come_first(&router, family)), "{backend} {family}");
        }
        router.stop();
    });
}

/// Whether other flows are answered while some still wait that came before them.
fn others_come_first(router: &Router, family: Family) -> bool {
    let sink = Sink::start(router, family);
    let host = &router.network.client().host;
    let sockets = sockets(host, sink.at, 200);
    let hello = two_datagrams(VIDEO);
    sockets.iter().for_each(|socket| assert!(socket.send(&hello[0]).is_ok()));
    tcp(host, router.echo(family), 5);
    udp(host, router.echo(family), 5);
    let came_before = sink.count.load(Ordering::Relaxed);
    assert_eq!(sink.stop(200).len(), 200);
    came_before < 200
}

#[test]
fn what_waits_when_the_program_stops_is_not_lost() {
    for_each_backend(|backend| {
        for family in Family::BOTH {
            let mut router = held_for(backend, "hold = \"1s\"\n");
            let sink = Sink::start(&router, family);
            let sockets = sockets(&router.network.client().host, sink.at, 50);
            let hello = two_datagrams(VIDEO);
            sockets.iter().for_each(|socket| assert!(socket.send(&hello[0]).is_ok()));
            router.stop();
            sockets.iter().for_each(|socket| assert!(socket.send(&hello[1]).is_ok()));
            let seen = sink.stop(100);
            assert_eq!(seen.len(), 50, "{backend} {family}");
            assert!(seen.values().all(|datagrams| datagrams[..] == hello), "{backend} {family}");
        }
    });
}

/// A router whose rules send a site by the second line and all else by the first.
fn held_for(backend: &str, hold: &str) -> Router {
    let mut router = Router::new(backend, &[1, 1]);
    router.rule_file("names.toml", &format!("{hold}{RULES}"));
    router.start();
    router
}

/// How many flows of twenty went by each line, of those whose second datagram followed the first by
/// `gap`. Each must arrive whole and in order.
fn lines(router: &Router, family: Family, host: &str, gap: Duration, datagrams: usize) -> [usize; 2] {
    let sink = Sink::start(router, family);
    let sockets = sockets(&router.network.client().host, sink.at, 20);
    let hello = &two_datagrams(host)[..datagrams];
    // Those that are late all at once, because each costs its time.
    for batch in sockets.chunks(if gap < LATE { 1 } else { 20 }) {
        for (place, datagram) in hello.iter().enumerate() {
            thread::sleep(if place > 0 { gap } else { Duration::ZERO });
            batch.iter().for_each(|socket| assert!(socket.send(datagram).is_ok()));
        }
    }
    let seen = sink.stop(20 * datagrams);
    assert_eq!(seen.len(), 20, "as many flows as sockets: none is split");
    let mut lines = [0; 2];
    for ((from, port), arrived) in seen {
        assert!(arrived == hello, "{from} {port}: not the whole hello in its order");
        let line = router.network.lines.iter().position(|line| line.sources.contains(from)).expect("a line");
        lines[line] += 1;
    }
    lines
}

/// Sockets all connected to one server. The kernel would give a port again that an earlier socket had,
/// and the router knows the flow of that one still: so each takes the next.
fn sockets(host: &Host, to: SocketAddr, count: usize) -> Vec<UdpSocket> {
    static PORTS: AtomicU16 = AtomicU16::new(0);
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let bind =
        || UdpSocket::bind(SocketAddr::new(any, 1024 + PORTS.fetch_add(1, Ordering::Relaxed) % 64_000));
    let open = || {
        let socket = std::iter::repeat_with(bind).take(100).find_map(Result::ok).expect("a socket");
        socket.connect(to).expect("a route");
        socket
    };
    host.enter(|| std::iter::repeat_with(open).take(count).collect()).expect("the host")
}

/// A server that answers nothing and remembers who sent what, in order.
struct Sink {
    at: SocketAddr,
    over: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: JoinHandle<Seen>,
}

/// The datagrams from each address and port.
type Seen = HashMap<(IpAddr, u16), Vec<Vec<u8>>>;

impl Sink {
    fn start(router: &Router, family: Family) -> Self {
        let at = SocketAddr::new(router.network.servers[1].of(family), PORT);
        let socket = bind(&router.network.internet, at);
        setsockopt(&socket, sockopt::RcvBufForce, &(256 << 20)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let count = Arc::default();
        let (told, counted) = (Arc::clone(&over), Arc::clone(&count));
        let thread = thread::spawn(move || receive(&socket, &told, &counted));
        Sink { at, over, count, thread }
    }

    /// Waits until so many datagrams have come, and a little longer for those that should not come.
    fn stop(self, datagrams: usize) -> Seen {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.count.load(Ordering::Relaxed) < datagrams && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// A program that another scenario is just starting has our descriptors until it is executed, the
/// last sink's too.
fn bind(host: &Host, at: SocketAddr) -> UdpSocket {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match host.enter(|| UdpSocket::bind(at)).expect("the host") {
            Ok(socket) => return socket,
            Err(error) => assert!(Instant::now() < deadline, "{at}: {error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn receive(socket: &UdpSocket, over: &AtomicBool, count: &AtomicUsize) -> Seen {
    let mut seen = Seen::new();
    let mut datagram = [0; 2048];
    loop {
        match socket.recv_from(&mut datagram) {
            Ok((length, from)) => {
                seen.entry((from.ip(), from.port())).or_default().push(datagram[..length].to_vec());
                count.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) if over.load(Ordering::Relaxed) => return seen,
            Err(_) => {}
        }
    }
}
