//! The whole configuration changes while flows run, again and again: what runs by a line that
//! stays loses nothing, nothing is left behind, and what cannot be taken in changes nothing.

#[path = "support/dump.rs"]
mod dump;
#[path = "support/router.rs"]
mod router;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use dump::Dump;
use router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::host::Host;
use wansplit::lab::traffic::{Pace, Report, RunningTransfer, TcpFlows, Transfer, UdpFlows};
use wansplit::system::queue::nfq::NfqQueue;

/// New flows per second of each kind in each family, on a fast machine: 500 in all.
const RATE: usize = 125;
/// A pause that a running transfer may make.
const HITCH: Duration = Duration::from_secs(2);
/// Between two datagrams of a call.
const WORD: Duration = Duration::from_millis(20);

#[test]
fn reload_after_reload_costs_no_flow_of_a_line_that_stays_a_packet_and_leaves_nothing_behind() {
    let backends = backends();
    let (most, others) = backends.split_last().expect("a backend");
    others.iter().for_each(|backend| reloads(backend, count(10)));
    reloads(most, count(40));
}

/// How many reloads: WANSPLIT_RELOADS of them where that is set.
fn count(usual: usize) -> usize {
    let wanted = std::env::var("WANSPLIT_RELOADS").ok().and_then(|wanted| wanted.parse().ok());
    wanted.unwrap_or_else(|| scaled(usual).max(5))
}

#[test]
fn flows_stay_on_their_lines_whatever_their_uplinks_are_called_and_wherever_they_stand() {
    backends().iter().for_each(|backend| other_names_and_places(backend));
}

fn other_names_and_places(backend: &str) {
    let (mut router, files) = three_lines(backend);
    router.start();
    let load = Load::start(&router);
    // The third line comes first, the second goes to the end; then the first two swap their names.
    reload(&router, &files[1]);
    let swapped =
        files[2].replace("\"isp1\"", "\"x\"").replace("\"isp2\"", "\"isp1\"").replace("\"x\"", "\"isp2\"");
    router.rule_file("10.toml", &rule(&router, 1, "isp2"));
    router.rule_file("20.toml", &rule(&router, 2, "isp1"));
    let said = reload(&router, &swapped);
    assert!(said.contains("uplink isp1 is called isp2 now"), "{said}");
    router.stop();
    router.configure(&files[3].replace("isp1", "one").replace("isp2", "two"));
    router.rule_file("10.toml", &rule(&router, 1, "one"));
    router.rule_file("20.toml", &rule(&router, 2, "two"));
    router.start();
    load.finish(&router);
    router.stop();
}

#[test]
fn flows_of_a_line_that_is_removed_go_on_by_another_or_hear_of_it() {
    backends().iter().for_each(|backend| removed(backend));
}

fn removed(backend: &str) {
    let (mut router, files) = three_lines(backend);
    router.configure(&files[1]);
    router.rule_file("30.toml", &rule(&router, 3, "isp3"));
    router.start();
    let host = router.network.lans[0].clients[3].host.clone();
    let to = router.echo(Family::V4);
    let third = router.network.lines[2].router.of(Family::V4);
    let stop = Arc::new(AtomicBool::new(false));
    let calling = spawn({
        let (host, stop) = (host.clone(), Arc::clone(&stop));
        move || call(&host, to, &stop)
    });
    let mut idle = host.enter(|| TcpStream::connect(to)).unwrap().unwrap();
    let greeted = idle.read(&mut [0; 256]).unwrap();
    assert!(greeted > 0);
    router.rule_file("30.toml", &rule(&router, 3, "isp1"));
    reload(&router, &files[0]);
    idle.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let heard = idle.read(&mut [0; 256]).map_err(|error| error.kind());
    assert_eq!(heard, Err(ErrorKind::ConnectionReset), "{}", router.said());
    sleep(Duration::from_millis(500));
    stop.store(true, Relaxed);
    let first = router.network.lines[0].router.of(Family::V4);
    assert_eq!(calling.join().unwrap().heard_from, [third, first].into(), "{}", router.said());
    router.stop();
}

#[test]
fn what_cannot_be_taken_in_is_refused_and_changes_nothing() {
    backends().iter().for_each(|backend| refused(backend));
}

fn refused(backend: &str) {
    let (mut router, files) = three_lines(backend);
    router.start();
    let other = if backend == "nft" { "iptables-nft" } else { "nft" };
    let taken = router.network.router.enter(|| NfqQueue::open(102, 16, 64)).unwrap().unwrap();
    let two = &files[0];
    let swapped =
        two.replace("\"isp1\"", "\"isp1\"\ntable = 102").replace("\"isp2\"", "\"isp2\"\ntable = 101");
    let before = Dump::of(&router.network.router);
    for (file, why) in [
        (two.replace(&format!("\"{backend}\""), &format!("\"{other}\"")), "`backend`"),
        (format!("{two}[marks]\nmask = \"0xff0000\"\n"), "[marks]"),
        (two.replace("\"isp1\"", "\"isp1\"\nmark = 9"), "the mark of uplink isp1"),
        (swapped, "is that of uplink isp2"),
        (two.replace("workers = 2", "workers = 3\nfirst = 100"), "cannot bind queue 102"),
        (two.replace("\"wan2\"", "\"gone9\""), "gone9 does not exist"),
        (two.replace("weight", "wieght"), "did you mean `weight`"),
    ] {
        router.configure(&file);
        let refusal = router.wansplit(&["reload"]).unwrap_err();
        assert!(refusal.contains("nothing was changed") && refusal.contains(why), "{refusal}");
        assert_eq!(before.changes_to(&Dump::of(&router.network.router)), [""; 0], "{why}: {refusal}");
    }
    drop(taken);
    router.wait_until("the gate opens", |status| status["gate"]["open"] == true);
    reload(&router, &two.replace("workers = 2", "workers = 3\nfirst = 100\nlength = 64"));
    router.wait_until("the gate opens", |status| status["gate"]["open"] == true);
    let status = router.status();
    let numbers: Vec<u64> =
        status["queues"].as_array().unwrap().iter().map(|queue| queue["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [100, 101, 102]);
    let udp = UdpFlows::new(router.echo(Family::V4), Pace::burst(20, 4));
    assert_eq!(udp.run(&router.network.client().host).unwrap().succeeded(), 20);
    router.stop();
}

fn reloads(backend: &str, count: usize) {
    let (mut router, files) = three_lines(backend);
    router.start();
    // All that comes with the first time is there before it is looked at.
    for file in files.iter().chain(&files[..1]) {
        reload(&router, file);
    }
    let before = (Dump::of(&router.network.router), Holdings::of(&mut router));
    let load = Load::start(&router);
    let begin = Instant::now();
    for number in 0..count {
        reload(&router, &files[step(number)]);
    }
    let took = begin.elapsed();
    load.finish(&router);
    reload(&router, &files[0]);
    let changes = before.0.changes_to(&Dump::of(&router.network.router));
    assert_eq!(changes, [""; 0], "{backend}: what {count} reloads left behind");
    let after = Holdings::of(&mut router);
    eprintln!("{backend}: {count} reloads in {took:.1?}: {:?}, then {after:?}", before.1);
    // Some come with the first flows.
    let few = |before: usize, after: usize| after <= before + 2;
    assert!(
        few(before.1.descriptors, after.descriptors) && few(before.1.threads, after.threads),
        "{backend}"
    );
    assert!(after.kilobytes < before.1.kilobytes + (32 << 10), "{backend}: memory grows");
    router.stop();
}

/// Which configuration comes next: most often one of those with two lines, now and then one with a third, and
/// seldom one with another number of workers, for that takes longest.
fn step(number: usize) -> usize {
    match number {
        _ if number % 25 == 24 => 5,
        _ if number % 5 == 3 => 1 + number % 2 * 2,
        _ => number % 3 * 2,
    }
}

/// A router of three lines, of which two have a client of their own, and configurations that all have these two.
fn three_lines(backend: &str) -> (Router, Vec<String>) {
    let router = Router::new(backend, &[1, 1, 1]);
    router.rule_file("10.toml", &rule(&router, 1, "isp1"));
    router.rule_file("20.toml", &rule(&router, 2, "isp2"));
    // On a busy machine lines would count as dead, and that is not what is tried here.
    let text = router.configuration().replace("\"arp://gateway\"", "[]");
    let parts: Vec<&str> = text.split("\n[[uplink]]\n").collect();
    let file = |lines: &[(usize, u8)], more: &str| {
        let line = |&(line, weight): &(usize, u8)| {
            format!("[[uplink]]\n{}\n", parts[line].replace("weight = 1", &format!("weight = {weight}")))
        };
        format!("{}\n{}{more}\n", parts[0], lines.iter().map(line).collect::<String>())
    };
    let forward = "[[forward]]\nname = \"a\"\nprotocol = \"tcp\"\nport = 5001\nto = \"10.77.0.2\"\n";
    let two = "[queue]\nworkers = 2\n";
    let files = vec![
        file(&[(1, 1), (2, 1)], two),
        file(&[(3, 2), (1, 3), (2, 1)], &format!("{two}{forward}")),
        file(&[(2, 1), (1, 5)], two),
        file(&[(2, 1), (3, 1), (1, 1)], two),
        file(&[(1, 1), (2, 1)], &format!("[bypass]\nclients = [\"10.77.0.99\"]\n{two}{forward}")),
        file(&[(1, 1), (2, 1)], "[queue]\nworkers = 1\nsocket = \"nfq\"\n"),
    ];
    router.configure(&files[0]);
    (router, files)
}

/// All of a client goes by this line.
fn rule(router: &Router, client: usize, uplink: &str) -> String {
    let of = router.network.lans[0].clients[client].addresses;
    let fits = format!("match = {{ src = [\"{}\", \"{}\"] }}", of.v4, of.v6);
    format!("[[rule]]\nname = \"client {client}\"\n{fits}\nuse = \"{uplink}\"\n")
}

fn reload(router: &Router, file: &str) -> String {
    router.configure(file);
    router.wansplit(&["reload"]).unwrap_or_else(|error| panic!("{error}\n{}", router.said()))
}

/// What the daemon holds.
#[derive(Debug)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    kilobytes: usize,
}

impl Holdings {
    /// The daemon is asked after what it did last has settled.
    fn of(router: &mut Router) -> Holdings {
        sleep(Duration::from_millis(500));
        let process = format!("/proc/{}", router.daemon().id());
        let count = |what: &str| std::fs::read_dir(format!("{process}/{what}")).unwrap().count();
        let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        let kilobytes = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        Holdings { descriptors: count("fd"), threads: count("task"), kilobytes }
    }
}

/// New flows, calls and transfers until told to end.
struct Load {
    stop: Arc<AtomicBool>,
    new: Vec<JoinHandle<Vec<Report>>>,
    calls: Vec<(IpAddr, JoinHandle<Call>)>,
    transfers: Vec<(IpAddr, RunningTransfer)>,
}

impl Load {
    fn start(router: &Router) -> Load {
        router.wait_until("the gate opens", |status| status["gate"]["open"] == true);
        let stop = Arc::new(AtomicBool::new(false));
        let mut load =
            Load { stop: Arc::clone(&stop), new: Vec::new(), calls: Vec::new(), transfers: Vec::new() };
        let host = |client: usize| router.network.lans[0].clients[client].host.clone();
        for family in Family::BOTH {
            let to = router.echo(family);
            load.new.push(repeat(&stop, host(0), move |host| tcp(host, to)));
            load.new.push(repeat(&stop, host(0), move |host| udp(host, to)));
            for (client, line) in [(1, 0), (2, 1)] {
                let source = router.network.lines[line].router.of(family);
                let (stop, host) = (Arc::clone(&stop), host(client));
                let transfer = Transfer {
                    rate: Some(scaled(128 * 1024) as u64),
                    stall: HITCH,
                    ..Transfer::new(to, Duration::from_secs(3600))
                };
                load.transfers.push((source, transfer.start(&host).unwrap()));
                load.calls.push((source, spawn(move || call(&host, to, &stop))));
            }
        }
        load
    }

    fn finish(self, router: &Router) {
        self.stop.store(true, Relaxed);
        let mut flows = 0;
        for reports in self.new {
            for report in reports.join().unwrap() {
                assert_eq!(report.failures(), [].into(), "new flows\n{}", router.said());
                flows += report.flows.len();
            }
        }
        for (line, call) in self.calls {
            let call = call.join().unwrap();
            assert_eq!((call.lost, call.heard_from), (0, [line].into()), "a call\n{}", router.said());
        }
        for (line, transfer) in self.transfers {
            let report = transfer.finish().unwrap();
            assert_eq!((&report.failure, report.stalls.as_slice()), (&None, &[][..]), "{}", router.said());
            assert_eq!(report.seen_as.map(|source| source.ip()), Some(line));
        }
        let dropped: u64 = router.network.strays().expect("the ISPs' counters").iter().sum();
        assert_eq!(dropped, 0, "packets that the ISPs dropped for their source");
        eprintln!("{flows} new flows");
    }
}

fn repeat(
    stop: &Arc<AtomicBool>,
    host: Host,
    flows: impl Fn(&Host) -> Report + Send + 'static,
) -> JoinHandle<Vec<Report>> {
    let stop = Arc::clone(stop);
    spawn(move || {
        let mut reports = Vec::new();
        while !stop.load(Relaxed) {
            reports.push(flows(&host));
        }
        reports
    })
}

fn pace() -> Pace {
    Pace::steady(scaled(RATE) as u32, Duration::from_secs(2))
}

fn tcp(host: &Host, to: SocketAddr) -> Report {
    TcpFlows { limit: Duration::from_secs(20), ..TcpFlows::new(to, pace()) }.run(host).unwrap()
}

fn udp(host: &Host, to: SocketAddr) -> Report {
    UdpFlows { limit: Duration::from_secs(20), ..UdpFlows::new(to, pace()) }.run(host).unwrap()
}

/// One flow with a datagram every 20 ms.
struct Call {
    lost: usize,
    heard_from: BTreeSet<IpAddr>,
}

fn call(host: &Host, to: SocketAddr, stop: &AtomicBool) -> Call {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = host.enter(|| UdpSocket::bind(SocketAddr::new(any, 0))).unwrap().unwrap();
    socket.connect(to).unwrap();
    let mut call = Call { lost: 0, heard_from: BTreeSet::new() };
    while !stop.load(Relaxed) {
        socket.send(b"a word").unwrap();
        call.lost += 1;
        let next = Instant::now() + WORD;
        while let Some(left) = next.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            call.hear(&socket, left);
        }
    }
    for _ in 0..call.lost {
        call.hear(&socket, Duration::from_secs(1));
    }
    call
}

impl Call {
    fn hear(&mut self, socket: &UdpSocket, within: Duration) {
        socket.set_read_timeout(Some(within)).unwrap();
        let mut answer = [0; 256];
        match socket.recv(&mut answer) {
            Ok(length) => {
                let line = std::str::from_utf8(&answer[..length]).unwrap().lines().next().unwrap();
                let source: SocketAddr = line.strip_prefix("source ").unwrap().parse().unwrap();
                self.heard_from.insert(source.ip());
                self.lost -= 1;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
}
