//! Flows that were running before the first start, through whatever was there before: they live on.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use wansplit::engine::packet::Family;
use wansplit::lab::server::{Server, ServerSpec};
use wansplit::lab::traffic::{Pace, RunningTransfer, Transfer, UdpAnswers, UdpFlows};

use crate::router::*;

/// The port that is forwarded to a host in the LAN.
const FORWARDED: u16 = 5001;
/// A pause this long would mean that a flow hung; a lost packet is sent again sooner.
const HANG: Duration = Duration::from_secs(2);
/// TCP doubles the pause before it sends a lost segment again (RFC 6298, 5.5): what is heard of again
/// after a time without a way may have to wait for as long once more.
const BACK_OFF: u32 = 2;
/// Datagrams that each flow sends, and what is between them.
const DATAGRAMS: usize = 200;
const GAP: Duration = Duration::from_millis(20);
/// Datagrams of a flow that may go unanswered on a busy machine.
const UNANSWERED: usize = 75;

#[test]
fn flows_through_a_plain_masquerade_live_on() {
    for (backend, line) in backends().iter().zip([1, 2]) {
        let mut router = Router::new(backend, &[1, 1]);
        let before = [by_hand(&router, backend), masquerade(&router, backend, line)].concat();
        router.network.router.shell(&before).unwrap();
        live_on(&mut router, &[line], "", "");
    }
}

#[test]
fn flows_through_the_articles_rules_live_on_while_those_stay() {
    for (backend, marks) in backends().iter().zip([[2, 1], [1, 2]]) {
        let mut router = Router::new(backend, &[1, 1]);
        let before = [by_hand(&router, backend), article(&router, backend, marks)].concat();
        router.network.router.shell(&before).unwrap();
        live_on(&mut router, &[1, 2], "", "");
    }
}

#[test]
fn flows_through_the_articles_rules_live_on_when_those_go_before_the_start() {
    for (backend, marks) in backends().iter().zip([[1, 2], [2, 1]]) {
        let mut router = Router::new(backend, &[1, 1]);
        let before = [by_hand(&router, backend), article(&router, backend, marks)].concat();
        router.network.router.shell(&before).unwrap();
        let away = without_article(backend, marks);
        live_on(&mut router, &[1, 2], &away, "");
    }
}

#[test]
fn flows_through_the_articles_rules_live_on_when_those_go_after_the_start() {
    for (backend, marks) in backends().iter().zip([[2, 1], [2, 1]]) {
        let mut router = Router::new(backend, &[1, 1]);
        let before = [by_hand(&router, backend), article(&router, backend, marks)].concat();
        router.network.router.shell(&before).unwrap();
        let away = without_article(backend, marks);
        live_on(&mut router, &[1, 2], "", &away);
    }
}

/// Flows of every kind run while the program is started; nothing of them may hang, break or change its way.
fn live_on(router: &mut Router, entrances: &[usize], just_before: &str, just_after: &str) {
    let inside = router.network.lans[0].clients[1].clone();
    let addresses = inside.addresses.both();
    let _server = Server::start(&inside.host, ServerSpec::on(&addresses, &[ECHO], &[])).unwrap();
    let flows = Flows::start(router, entrances);
    flows.wait_for_bytes(&vec![0; flows.transfers.len()], router);

    let gone = Instant::now();
    router.network.router.shell(just_before).unwrap();
    router.start();
    // Where what was there before has gone, nothing sends these flows anywhere until the start is done.
    let no_way = if just_before.is_empty() { Duration::ZERO } else { gone.elapsed() };
    router.network.router.shell(just_after).unwrap();

    let at_the_start = flows.bytes();
    flows.wait_for_bytes(&at_the_start, router);
    let capture = router.capture();
    flows.wait_for_bytes(&flows.bytes(), router);
    thread::sleep(Duration::from_millis(300));
    let packets = router.judge(&capture.stop().unwrap());
    assert_eq!(packets.strays, [], "{}", router.said());
    assert_eq!(packets.split().count(), 0, "{}", router.said());
    flows.end(router, no_way);
    router.stop();
}

/// Flows in both directions and both families.
struct Flows {
    transfers: Vec<(String, RunningTransfer)>,
    datagrams: Vec<thread::JoinHandle<wansplit::lab::traffic::Report>>,
}

impl Flows {
    fn start(router: &Router, entrances: &[usize]) -> Flows {
        let client = &router.network.client().host;
        let (mut transfers, mut datagrams) = (Vec::new(), Vec::new());
        let transfer = |to: SocketAddr| Transfer {
            rate: Some(64 << 10),
            stall: HANG,
            ..Transfer::new(to, Duration::from_secs(60))
        };
        for family in Family::BOTH {
            for number in 0..2 {
                let running = transfer(router.echo(family)).start(client).unwrap();
                transfers.push((format!("outward {family} {number}"), running));
            }
            for &line in entrances {
                let to = SocketAddr::new(router.network.lines[line - 1].router.of(family), FORWARDED);
                let running = transfer(to).start(&router.network.internet).unwrap();
                transfers.push((format!("inward {family} by line {line}"), running));
            }
            let flows = UdpFlows {
                datagrams: DATAGRAMS,
                gap: GAP,
                answers: UdpAnswers::All,
                limit: Duration::from_millis(500),
                ..UdpFlows::new(router.echo(family), Pace::burst(4, 4))
            };
            let client = client.clone();
            datagrams.push(thread::spawn(move || flows.run(&client).unwrap()));
        }
        Flows { transfers, datagrams }
    }

    fn bytes(&self) -> Vec<u64> {
        self.transfers.iter().map(|(_, transfer)| transfer.bytes()).collect()
    }

    /// Waits until more has come back on every transfer.
    fn wait_for_bytes(&self, before: &[u64], router: &Router) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.bytes().iter().zip(before).any(|(now, before)| now < &(before + 10_000)) {
            let state = || self.transfers.iter().map(|(name, transfer)| (name, transfer.bytes()));
            assert!(
                Instant::now() < deadline,
                "from {before:?}: {:?}\n{}",
                state().collect::<Vec<_>>(),
                router.said()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(self, router: &Router, no_way: Duration) {
        let lost = (no_way.as_millis() / GAP.as_millis()) as usize;
        for (name, transfer) in self.transfers {
            let mut report = transfer.finish().unwrap();
            report.stalls.retain(|stall| stall.length >= HANG + BACK_OFF * no_way);
            assert_eq!((report.failure, report.stalls), (None, vec![]), "{name}: {}", router.said());
        }
        for datagrams in self.datagrams {
            for flow in datagrams.join().unwrap().flows {
                assert_eq!(flow.seen_as.len(), 1, "{flow:?}");
                assert!(flow.answers + lost + UNANSWERED >= DATAGRAMS, "{flow:?}");
            }
        }
    }
}

/// The program of the backend's flavour, for one family.
fn iptables(backend: &str, family: Family) -> String {
    let flavour = if backend == "iptables-legacy" { "legacy" } else { "nft" };
    let six = if family == Family::V6 { "6" } else { "" };
    format!("ip{six}tables-{flavour}")
}

/// What every router set up by hand has: forwarding, and a forwarded port.
fn by_hand(router: &Router, backend: &str) -> String {
    let inside = router.network.lans[0].clients[1].addresses;
    let mut script = String::from(
        "echo 1 >/proc/sys/net/ipv4/ip_forward\necho 1 >/proc/sys/net/ipv6/conf/all/forwarding\n",
    );
    for family in Family::BOTH {
        let (program, to) = (iptables(backend, family), SocketAddr::new(inside.of(family), ECHO));
        script += &format!(
            "{program} -t nat -A PREROUTING -i wan+ -p tcp --dport {FORWARDED} -j DNAT --to-destination {to}\n"
        );
    }
    script
}

fn masquerade(router: &Router, backend: &str, line: usize) -> String {
    let uplink = &router.network.lines[line - 1];
    let mut script = String::new();
    for family in Family::BOTH {
        let (program, six) = (iptables(backend, family), if family == Family::V6 { "-6" } else { "-4" });
        script += &format!(
            "ip {six} route add default via {} dev {}\n{program} -t nat -A POSTROUTING -o {} -j MASQUERADE\n",
            uplink.gateway.of(family),
            uplink.device,
            uplink.device
        );
    }
    script
}

/// The old article's scripts: every second new connection by each line, remembered in its mark.
fn article(router: &Router, backend: &str, marks: [u32; 2]) -> String {
    let mut script = String::new();
    for family in Family::BOTH {
        let program = iptables(backend, family);
        let six = if family == Family::V6 { "-6" } else { "-4" };
        let lan = router.network.lans[0].net.of(family);
        let mangle = format!("{program} -t mangle -A PREROUTING");
        let new = "-m conntrack --ctstate NEW";
        script += &format!("{mangle} -j CONNMARK --restore-mark\n{mangle} -m mark ! --mark 0 -j ACCEPT\n");
        for (line, mark) in router.network.lines.iter().zip(marks) {
            let (device, gateway, source): (_, IpAddr, IpAddr) =
                (&line.device, line.gateway.of(family), line.router.of(family));
            let table = 200 + mark;
            script += &format!(
                "ip {six} route add default via {gateway} dev {device} table {table}\n\
                 ip {six} route add {lan} dev lan0 table {table}\n\
                 ip {six} rule add fwmark {mark} table {table}\n\
                 {mangle} -i {device} {new} -j MARK --set-mark {mark}\n\
                 {program} -t nat -A POSTROUTING -o {device} -j SNAT --to-source {source}\n"
            );
        }
        let [first, second] = marks;
        script += &format!(
            "{mangle} -i lan0 {new} -m statistic --mode nth --every 2 --packet 0 -j MARK --set-mark {first}\n\
             {mangle} -i lan0 {new} -m mark --mark 0 -j MARK --set-mark {second}\n\
             {mangle} -j CONNMARK --save-mark\n"
        );
        let line = &router.network.lines[0];
        script +=
            &format!("ip {six} route add default via {} dev {}\n", line.gateway.of(family), line.device);
    }
    script
}

/// Takes away what of [`article`] would send packets; deletes its rules one by one, as its owner would.
fn without_article(backend: &str, marks: [u32; 2]) -> String {
    let mut script = String::new();
    for family in Family::BOTH {
        let (program, six) = (iptables(backend, family), if family == Family::V6 { "-6" } else { "-4" });
        script += &format!("for number in 1 2 3 4 5 6 7; do {program} -t mangle -D PREROUTING 1; done\n");
        for mark in marks {
            script += &format!("ip {six} rule del fwmark {mark} table {}\n", 200 + mark);
        }
    }
    script
}
