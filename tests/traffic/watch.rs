//! TCP connections whose clients say a name: the next connection goes by it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::common::*;
use crate::quic::client_hello;
use crate::router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::server::Server;
use wansplit::system::conntrack::Conntrack;

const VIDEO: &str = "www.video.example";
const HTTPS: u16 = 443;
const HTTP: u16 = 80;

/// The flag that connections under watch have, where nothing else is configured.
const WATCHED: u32 = 0x200;

#[test]
fn a_name_said_over_tcp_chooses_the_line_of_the_next_connection() {
    for_each_backend(|backend| {
        let (mut router, _server) = listening(backend, "keep");
        for family in Family::BOTH {
            for (port, hello) in [(HTTPS, tls(VIDEO)), (HTTP, http(VIDEO))] {
                for expected in [0, 1, 1] {
                    let mut talk = Talk::begin(&router, family, port);
                    assert_eq!(talk.line, expected, "{backend} {family} {port}");
                    talk.says(&hello).unwrap();
                    assert_eq!(watched(&router), 0, "{backend} {family} {port}: the kernel carries it alone");
                }
            }
        }
        let heard = &router.status()["heard"];
        // A packet that was on its way already when the name was heard begins a watch that hears nothing.
        assert!(heard["watched"].as_u64() >= Some(12) && heard["named"] == 12, "{heard}");
        assert_eq!((&heard["elsewhere"], &heard["reset"]), (&4.into(), &0.into()), "{heard}");
        router.stop();
    });
}

#[test]
fn nothing_of_a_connection_comes_to_user_space_once_it_was_heard() {
    for_each_backend(|backend| {
        let (mut router, _server) = listening(backend, "keep");
        for family in Family::BOTH {
            for first in [tls(VIDEO), vec![0xff; 100]] {
                let mut talk = Talk::begin(&router, family, HTTPS);
                talk.says(&first).unwrap();
                let queued = router.queued();
                (0..50).for_each(|_| talk.says(&[7; 100]).unwrap());
                assert_eq!(router.queued(), queued, "{backend} {family}");
            }
        }
        router.stop();
    });
}

#[test]
fn a_connection_that_never_says_anything_is_no_burden_and_one_that_speaks_late_is_heard() {
    for_each_backend(|backend| {
        let (mut router, _server) = listening(backend, "keep");
        for family in Family::BOTH {
            let mut talk = Talk::begin(&router, family, HTTPS);
            assert_eq!(watched(&router), 1, "{backend} {family}");
            thread::sleep(Duration::from_millis(300));
            talk.says(&tls(VIDEO)).unwrap();
            assert_eq!(watched(&router), 0, "{backend} {family}");
            assert_eq!(Talk::begin(&router, family, HTTPS).line, 1, "{backend} {family}");
        }
        router.stop();
    });
}

#[test]
fn a_connection_on_the_wrong_line_is_reset_once_in_a_minute_where_its_rule_says_so() {
    for_each_backend(|backend| {
        let (mut router, _server) = listening(backend, "reset");
        for family in Family::BOTH {
            let mut wrong = Talk::begin(&router, family, HTTPS);
            assert_eq!(wrong.line, 0, "{backend} {family}");
            let error = wrong.says(&tls(VIDEO)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{backend} {family}");
            wrong.is_over_at_the_server(&router);
            let mut right = Talk::begin(&router, family, HTTPS);
            assert_eq!(right.line, 1, "{backend} {family}");
            right.says(&tls(VIDEO)).unwrap();
            let mut wrong_again = Talk::begin(&router, family, HTTP);
            assert_eq!(wrong_again.line, 0, "{backend} {family}: nothing was said to this port");
            wrong_again.says(&http(VIDEO)).unwrap();
        }
        let heard = &router.status()["heard"];
        assert_eq!((&heard["elsewhere"], &heard["reset"]), (&4.into(), &2.into()), "{heard}");
        router.stop();
    });
}

#[test]
fn a_connection_that_says_all_at_once_is_reset_at_both_ends() {
    for_each_backend(|backend| {
        for _ in 0..5 {
            let (mut router, _server) = listening(backend, "reset");
            for family in Family::BOTH {
                let mut wrong = Talk::begin(&router, family, HTTPS);
                let error = wrong.says_in_segments(&tls(VIDEO), Duration::ZERO).expect_err("a reset");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{backend} {family}");
                wrong.is_over_at_the_server(&router);
            }
            router.stop();
        }
    });
}

#[test]
fn a_connection_outlives_a_program_that_dies_or_restarts_while_it_listens() {
    for_each_backend(|backend| {
        let (mut router, _server) = listening(backend, "reset");
        for family in Family::BOTH {
            for end in [Router::kill, Router::stop] {
                let hello = tls("a.example");
                let (one, two) = hello.split_at(600);
                let mut talk = Talk::begin(&router, family, HTTPS);
                talk.says(one).unwrap();
                end(&mut router);
                talk.says(two).unwrap();
                router.start();
                talk.says(&[7; 100]).unwrap();
                let mut next = Talk::begin(&router, family, HTTPS);
                next.says(&tls("a.example")).unwrap();
                assert_eq!((talk.line, next.line), (0, 0), "{backend} {family}");
            }
        }
        router.stop();
    });
}

/// A router whose rules send a site by the second line and all else by the first; and a server.
fn listening(backend: &str, on_mismatch: &str) -> (Router, Server) {
    let mut router = Router::new(backend, &[1, 1]);
    let rules = format!(
        "[[rule]]\nname = \"video\"\nmatch = {{ host = \"*.video.example\" }}\nuse = \"isp2\"\n\
         on_mismatch = \"{on_mismatch}\"\n[[rule]]\nname = \"rest\"\nuse = \"isp1\"\n"
    );
    router.rule_file("names.toml", &rules);
    router.start();
    let server = serve(&router.network.internet, &router.network.servers[1].both(), &[HTTP, HTTPS]);
    (router, server)
}

/// A connection of the first client to the second server.
struct Talk {
    stream: BufReader<TcpStream>,
    /// By which line the server sees it.
    line: usize,
    /// The client's port.
    port: u16,
}

impl Talk {
    fn begin(router: &Router, family: Family, port: u16) -> Self {
        let to = SocketAddr::new(router.network.servers[1].of(family), port);
        let host = &router.network.client().host;
        let stream =
            host.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(10))).unwrap().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_nodelay(true).unwrap();
        let port = stream.local_addr().unwrap().port();
        let mut stream = BufReader::new(stream);
        let mut greeting = String::new();
        stream.read_line(&mut greeting).unwrap();
        let source: SocketAddr = greeting.trim().rsplit(' ').next().unwrap().parse().expect("a greeting");
        let is_of = |source: IpAddr| {
            router.network.lines.iter().position(|line| line.sources.contains(source)).expect("a line")
        };
        Talk { stream, line: is_of(source.ip()), port }
    }

    /// Says something in segments of 500 bytes, and hears its echo.
    fn says(&mut self, words: &[u8]) -> io::Result<()> {
        self.says_in_segments(words, Duration::from_millis(2))
    }

    fn says_in_segments(&mut self, words: &[u8], pause: Duration) -> io::Result<()> {
        for part in words.chunks(500) {
            self.stream.get_mut().write_all(part)?;
            thread::sleep(pause);
        }
        let mut echo = vec![0; words.len()];
        self.stream.read_exact(&mut echo)?;
        assert!(echo == words, "another echo");
        Ok(())
    }

    fn is_over_at_the_server(&self, router: &Router) {
        let known = || (0..100).any(|_| at_the_server(router, self.port) == 0 || pause());
        assert!(known(), "{}: its server does not know", self.port);
    }
}

fn tls(host: &str) -> Vec<u8> {
    let hello = client_hello(host);
    [&[22, 3, 1][..], &(hello.len() as u16).to_be_bytes(), &hello].concat()
}

fn http(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// Connections that the router's kernel has under watch.
fn watched(router: &Router) -> usize {
    let count = || -> io::Result<usize> {
        let mut watched = 0;
        Conntrack::open()?.dump(None, |flow| watched += usize::from(flow.mark & WATCHED != 0))?;
        Ok(watched)
    };
    router.network.router.enter(count).unwrap().unwrap()
}

/// For what happens elsewhere.
fn pause() -> bool {
    thread::sleep(Duration::from_millis(20));
    false
}

/// How many established connections with this port of the client the server has (proc_net_tcp.txt: the
/// third column is the peer, the fourth the state).
fn at_the_server(router: &Router, port: u16) -> usize {
    let read = || {
        ["tcp", "tcp6"]
            .map(|file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")))
            .map(Result::unwrap)
    };
    let tables = router.network.internet.enter(read).unwrap().concat();
    let is_ours = |line: &&str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns.get(2).is_some_and(|peer| peer.ends_with(&format!(":{port:04X}")))
            && columns.get(3) == Some(&"01")
    };
    tables.lines().filter(is_ours).count()
}
