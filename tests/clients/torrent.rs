//! BitTorrent peers (libtorrent): a tracker over UDP, the DHT and uTP, each by its first datagram.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::soundly;
use crate::router::*;
use crate::town::{Answers, Town};
use crate::wanted::skip_without;
use wansplit::engine::packet::Family;
use wansplit::lab::host::{Host, Process};
use wansplit::lab::topology::Pair;

const UDP: u8 = 17;

/// Debian's, which has libtorrent.
const PYTHON: &str = "/usr/bin/python3";

/// See there.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/peer.py");

/// Where the tracker listens, and the peers.
const TRACKER: u16 = 6969;
const PEER: u16 = 51_413;

/// A peer's home, and its way to the rest of the internet.
const HOME: Pair =
    Pair { v4: Ipv4Addr::new(192, 0, 2, 130), v6: Ipv6Addr::new(0x2001, 0xdb8, 0xfffe, 0, 0, 0, 0, 2) };
const GATEWAY: Pair =
    Pair { v4: Ipv4Addr::new(192, 0, 2, 129), v6: Ipv6Addr::new(0x2001, 0xdb8, 0xfffe, 0, 0, 0, 0, 1) };

/// Peers behind the router.
const CLIENTS: usize = 4;

/// Bytes of the file: some seconds of uTP would say no more.
const BYTES: usize = 2_000_000;

#[test]
fn torrents_go_by_their_line_on_every_first_datagram() {
    let has_libtorrent = || Command::new(PYTHON).args(["-c", "import libtorrent"]).output();
    let is_there = has_libtorrent().is_ok_and(|output| output.status.success());
    let backends = backends();
    let Some(backend) = backends.first().filter(|_| !skip_without("libtorrent", is_there)) else { return };
    with_an_open_gate(|| {
        let mut town = Town::new(backend);
        let home = home(&town.router.network.internet);
        Family::BOTH.iter().for_each(|&family| peers_choose(&town, &home, family));
        town.router.stop();
    });
}

fn peers_choose(town: &Town, home: &Host, family: Family) {
    let there = HOME.of(family);
    let swarm = Swarm::new(town.router.files.path().join(format!("{family}")), there);
    let tracker = Answers::start(home, SocketAddr::new(there, TRACKER), move |asked| answer(asked, there));
    let _seeder = swarm.seed(home);
    let all_fetch = || {
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (host, swarm) = (town.client(client), &swarm);
                scope.spawn(move || swarm.fetch(&host, client));
            }
        });
    };
    let ((), flows) = soundly(&town.router, all_fetch);
    for port in [TRACKER, PEER] {
        let by = flows.shares_of(|flow| (flow.protocol, flow.dst, flow.dst_port) == (UDP, there, port));
        assert!(by.keys().all(|line| **line == *"wan2"), "{family} {port}: {by:?}\n{}", town.router.said());
        assert!(by.values().sum::<usize>() >= CLIENTS, "{family} {port}: {by:?}");
    }
    tracker.stop();
}

/// A machine behind the internet's: libtorrent binds its sockets to devices, and those with an address on
/// loopback hear nobody.
fn home(internet: &Host) -> Host {
    let home = Host::new("home").expect("a machine");
    let path = home.namespace().path().expect("its namespace");
    let [v4, v6] = GATEWAY.both();
    let script = format!(
        "ip link add home type veth peer name eth0 netns {}
         ip link set home up; ip address add {v4}/30 dev home; ip address add {v6}/64 dev home nodad",
        path.display()
    );
    internet.shell(&script).expect("a cable");
    internet.set_sysctls(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]).expect("a router");
    let script = format!(
        "ip link set lo up; ip link set eth0 up
         ip address add {}/30 dev eth0; ip address add {}/64 dev eth0 nodad
         ip route add default via {v4}; ip route add default via {v6}",
        HOME.v4, HOME.v6
    );
    home.shell(&script).expect("addresses");
    home
}

/// Those who share a file.
struct Swarm {
    directory: PathBuf,
    seeder: SocketAddr,
}

impl Swarm {
    fn new(directory: PathBuf, seeder: IpAddr) -> Self {
        Swarm { directory, seeder: SocketAddr::new(seeder, PEER) }
    }

    /// Makes a file and its torrent, and offers it.
    fn seed(&self, host: &Host) -> Process {
        let data = self.directory.join("seeder");
        fs::create_dir_all(&data).unwrap();
        let bytes: Vec<u8> = (0..BYTES).map(|at| ((at * at) >> 7) as u8).collect();
        fs::write(data.join("file"), bytes).unwrap();
        let tracker = format!("udp://{}/announce", SocketAddr::new(self.seeder.ip(), TRACKER));
        let log = self.directory.join("seeder.log");
        let out = fs::File::create(&log).unwrap();
        let mut command = self.peer("seed", &data, &self.seeder.to_string(), &tracker);
        let seeder = host.spawn(command.stdout(out).stderr(Stdio::inherit())).expect("a seeder");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !fs::read_to_string(&log).is_ok_and(|said| said.contains("seeding")) {
            assert!(Instant::now() < deadline, "no seeder");
            thread::sleep(Duration::from_millis(50));
        }
        seeder
    }

    fn fetch(&self, host: &Host, client: usize) {
        let data = self.directory.join(format!("client{client}"));
        fs::create_dir_all(&data).unwrap();
        let any = if self.seeder.is_ipv4() { "0.0.0.0" } else { "[::]" };
        let mut command = self.peer("fetch", &data, &format!("{any}:{PEER}"), &self.seeder.to_string());
        let log = self.directory.join(format!("client{client}.log"));
        let out = fs::File::create(&log).unwrap();
        let mut peer = host.spawn(command.stdout(out).stderr(Stdio::inherit())).expect("a peer");
        let ended = peer.wait(Duration::from_secs(60)).expect("a wait");
        let said = || fs::read_to_string(&log).unwrap_or_default();
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}: {}", said());
        assert!(fs::metadata(data.join("file")).is_ok_and(|file| file.len() == BYTES as u64));
    }

    fn peer(&self, mode: &str, data: &Path, listen: &str, other: &str) -> Command {
        let mut command = Command::new(PYTHON);
        command.args([SCRIPT, mode]).arg(self.directory.join("torrent")).arg(data).args([listen, other]);
        command
    }
}

/// A tracker that knows one peer (BEP 15): to "connect" (action 0) a connection id; to "announce" (1) when to
/// ask again, nobody who wants the file, one who has it, and its address.
fn answer(asked: &[u8], peer: IpAddr) -> Option<Vec<u8>> {
    let (action, transaction) = (asked.get(8..12)?, asked.get(12..16)?);
    let address = match peer {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    match action {
        [0, 0, 0, 0] => Some([action, transaction, &[7; 8]].concat()),
        [0, 0, 0, 1] => {
            let numbers = [60_u32, 0, 1].map(u32::to_be_bytes).concat();
            Some([action, transaction, &numbers, &address, &PEER.to_be_bytes()].concat())
        }
        _ => None,
    }
}
