//! Lines that are full, and new flows that keep off them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use crate::common::*;
use crate::router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::article::configuration;
use wansplit::lab::network::Network;
use wansplit::lab::topology::{Lan, Line, Topology};

const RULES: &str = r#"
[[rule]]
name = "the download"
match = { dst_port = 1001 }
use = "isp1"

[[rule]]
name = "the rest"
use = { policy = "least-load" }
"#;

#[test]
fn new_flows_leave_a_full_line_alone() {
    for_each_backend(full_line);
}

/// Nobody says what the lines can carry: 20 Mbit/s each.
fn full_line(backend: &str) {
    let line = Line { rate: Some(20), ..Line::default() };
    let lans = vec![Lan { clients: 1, vlan: None }];
    let topology = Topology { lines: vec![line; 2], lans, ..Topology::default() };
    let mut router = Router::of(backend, &[1, 1], &topology);
    router.configure(&format!("backend = \"{backend}\"\n{}", asking_behind_the_lines(&router)));
    router.rule_file("10.toml", RULES);
    router.start();
    let host = &router.network.client().host;
    assert_eq!(by_line(&router.network, &tcp(host, router.echo(Family::V4), 8)), [4, 4], "both are idle");

    let download = Download::start(&router.network);
    router.wait_until("the line is full", |status| status["uplinks"][0]["down"]["is_full"] == true);
    // Flows that began are counted in until they show.
    for family in Family::BOTH.iter().cycle().take(4) {
        sleep(Duration::from_millis(1200));
        let lines = by_line(&router.network, &tcp(host, router.echo(*family), 1));
        assert_eq!(lines, [0, 1], "{backend} {family}: {:#}", router.status()["uplinks"]);
    }
    let down = router.status()["uplinks"][0]["down"].clone();
    let capacity = down["capacity"].as_u64().expect("a number");
    assert!((15_000_000..=23_000_000).contains(&capacity), "{down}");
    assert_eq!(down["capacity_is"], "measured", "{down}");
    drop(download);
    router.stop();
}

/// A client receives as fast as its line can; until it is dropped.
struct Download {
    client: TcpStream,
    threads: Vec<JoinHandle<()>>,
}

impl Download {
    fn start(network: &Network) -> Download {
        let to = SocketAddr::new(network.servers[1].v4.into(), 1001);
        let server = network.internet.enter(|| TcpListener::bind(to)).unwrap().unwrap();
        let client = network.client().host.enter(|| TcpStream::connect(to)).unwrap().unwrap();
        let (mut sender, _) = server.accept().unwrap();
        let mut receiver = client.try_clone().unwrap();
        let threads = vec![
            spawn(move || while sender.write_all(&[0; 65_536]).is_ok() {}),
            spawn(move || while receiver.read(&mut [0; 65_536]).is_ok_and(|bytes| bytes > 0) {}),
        ];
        Download { client, threads }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let _ = self.client.shutdown(Shutdown::Both);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// The gateways are before what is slow; the servers are behind it.
fn asking_behind_the_lines(router: &Router) -> String {
    let servers = router.network.servers.iter().flat_map(|server| server.both());
    let targets: Vec<String> = servers.map(|server| format!("\"icmp://{server}\"")).collect();
    let targets = format!("health.targets = [{}]", targets.join(", "));
    configuration(&router.network, &[1, 1]).replace("health.targets = \"arp://gateway\"", &targets)
}
