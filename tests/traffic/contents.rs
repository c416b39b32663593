//! Rules about what packets say: names from DNS answers, and first datagrams.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::common::*;
use crate::router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::host::Host;
use wansplit::lab::topology::Pair;
use wansplit::lab::traffic::{Pace, TcpFlows};

#[test]
fn a_name_from_a_dns_answer_chooses_the_line_of_the_first_connection() {
    for_each_backend(names_choose_lines);
}

fn names_choose_lines(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    let rule = "[[rule]]\nname = \"video\"\nmatch = { host = \"*.video.example\" }\nuse = \"isp2\"\n";
    router.rule_file("video.toml", rule);
    router.start();
    let resolver =
        Resolver::start(&router.network.internet, router.network.servers[0], router.network.servers[1]);
    let _server = serve(&router.network.internet, &router.network.servers[1].both(), &[80]);
    let clients: Vec<_> = router.network.clients().cloned().collect();
    let lines = |router: &Router, client: usize, family| {
        let to = SocketAddr::new(router.network.servers[1].of(family), 80);
        let flows = TcpFlows::new(to, Pace::burst(8, 2));
        by_line(&router.network, &worked(flows.run(&clients[client].host).unwrap(), to))
    };
    for family in Family::BOTH {
        let asked = SocketAddr::new(router.network.servers[0].of(family), 53);
        let to = router.network.servers[1].of(family);
        let lines = |client| lines(&router, client, family);
        assert_eq!(ask(&clients[0].host, asked, "www.video.example"), to);
        assert_eq!(lines(0), [0, 8], "{backend} {family}: the one that asked: {}", router.said());
        assert_eq!(ask(&clients[1].host, asked, "www.other.example"), to);
        assert_eq!(lines(1), [4, 4], "{backend} {family}: another name of the same address");
        assert_eq!(lines(0), [0, 8], "{backend} {family}: it keeps the name it was told");
        router.wansplit(&["reload"]).unwrap();
        assert_eq!(lines(0), [0, 8], "{backend} {family}: names outlive a reload");
    }
    let client = router.network.clients().next().unwrap().addresses.v4;
    let flow = format!("tcp {client}:5 to {}:80", router.network.servers[1].v4);
    let words: Vec<&str> = ["explain", "--live", "--json"].into_iter().chain(flow.split(' ')).collect();
    let told: serde_json::Value = serde_json::from_str(&router.wansplit(&words).unwrap()).unwrap();
    assert_eq!((&told["name"], &told["uplink"]), (&"www.video.example".into(), &"isp2".into()), "{told}");
    let names = &router.status()["names"];
    assert!(names["learned"].as_u64() >= Some(4), "{names}");
    router.stop();
    router.start();
    for family in Family::BOTH {
        assert_eq!(lines(&router, 0, family), [0, 8], "{backend} {family}: names outlive a restart");
        assert_eq!(lines(&router, 1, family), [4, 4], "{backend} {family}: those of others too");
    }
    resolver.stop();
    router.stop();
}

#[test]
fn a_first_datagram_that_says_what_it_is_goes_by_the_line_of_its_kind() {
    for_each_backend(kinds_choose_lines);
}

fn kinds_choose_lines(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    let rule = "[[rule]]\nname = \"tunnels\"\nmatch = { app = \"wireguard\" }\nuse = \"isp2\"\n";
    router.rule_file("tunnels.toml", rule);
    router.start();
    for family in Family::BOTH {
        let to = router.echo(family);
        let host = &router.network.client().host;
        // A handshake initiation: type 1, three bytes of zero, 148 bytes in all.
        let mut handshake = [7; 148];
        handshake[..4].copy_from_slice(&[1, 0, 0, 0]);
        let ((), flows) = soundly(&router, || {
            (0..8).for_each(|_| exchange(host, to, &handshake));
        });
        assert_eq!(flows.shares().values().copied().collect::<Vec<_>>(), [8], "{backend} {family}");
        assert!(
            flows.shares().keys().all(|line| **line == *"wan2"),
            "{backend} {family}: {:?}",
            flows.shares()
        );
        let ((), flows) = soundly(&router, || {
            (0..8).for_each(|_| exchange(host, to, &[9; 148]));
        });
        assert_eq!(flows.shares().values().copied().collect::<Vec<_>>(), [4, 4], "{backend} {family}");
    }
    router.stop();
}

/// Sends a datagram from a new socket and waits for an answer.
fn exchange(host: &Host, to: SocketAddr, payload: &[u8]) {
    let answered = host.enter(|| {
        let socket = UdpSocket::bind(SocketAddr::new(unspecified(to), 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.send_to(payload, to)?;
        socket.recv(&mut [0; 2048])
    });
    answered.unwrap().unwrap();
}

fn unspecified(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() }
}

/// Asks a resolver for the address of a name, in the family of the resolver.
fn ask(host: &Host, resolver: SocketAddr, name: &str) -> IpAddr {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, if resolver.is_ipv4() { 1 } else { 28 }, 0, 1]);
    let answer = host.enter(|| {
        let socket = UdpSocket::bind(SocketAddr::new(unspecified(resolver), 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send_to(&query, resolver).unwrap();
        let mut answer = vec![0; 512];
        let length = socket.recv(&mut answer).unwrap();
        answer.truncate(length);
        answer
    });
    let answer = answer.unwrap();
    if resolver.is_ipv4() {
        <[u8; 4]>::try_from(&answer[answer.len() - 4..]).unwrap().into()
    } else {
        <[u8; 16]>::try_from(&answer[answer.len() - 16..]).unwrap().into()
    }
}

/// Answers every question with one address, behind an alias, good for no time at all.
struct Resolver {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Resolver {
    fn start(host: &Host, at: Pair, answer: Pair) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let threads = Family::BOTH.map(|family| {
            let (host, over) = (host.clone(), Arc::clone(&over));
            let socket = host.enter(|| UdpSocket::bind(SocketAddr::new(at.of(family), 53))).unwrap().unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            thread::spawn(move || {
                let mut query = [0; 512];
                while !over.load(Ordering::Relaxed) {
                    let Ok((length, client)) = socket.recv_from(&mut query) else { continue };
                    socket.send_to(&answer_to(&query[..length], answer), client).unwrap();
                }
            })
        });
        Resolver { over, threads: threads.into() }
    }

    fn stop(self) {
        self.over.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// The question, an alias `cdn.example` for its name, and the alias's address.
fn answer_to(query: &[u8], address: Pair) -> Vec<u8> {
    let alias = b"\x03cdn\x07example\x00";
    let kind = query[query.len() - 3];
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    answer[7] = 2;
    answer.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 0, 0, alias.len() as u8]);
    answer.extend(alias);
    answer.extend(alias);
    answer.extend([0, kind, 0, 1, 0, 0, 0, 0]);
    match if kind == 1 { address.of(Family::V4) } else { address.of(Family::V6) } {
        IpAddr::V4(address) => answer.extend([&[0, 4][..], &address.octets()].concat()),
        IpAddr::V6(address) => answer.extend([&[0, 16][..], &address.octets()].concat()),
    }
    answer
}
