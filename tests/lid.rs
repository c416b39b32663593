//! Beyond the limit: what goes past the queues keeps its way, is counted, and takes nothing from others.

#[path = "support/router.rs"]
mod router;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::host::Host;
use wansplit::lab::network::Client;
use wansplit::lab::traffic::craft::{Header, protocol, tcp_syn, udp};
use wansplit::lab::traffic::{Pace, Report, TcpFlows, UdpFlows, send_packets};

/// What is for the server's ports is decided by a rule; floods of SYNs go to the port beside.
const RULE: &str = "[[rule]]\nname = \"served\"\nmatch = { protocol = [\"tcp\", \"udp\"], dst_port = [7, 9] }\n\
                    use = \"isp2\"\n";
const BESIDE_ECHO: u16 = ECHO + 1;

/// A flood: so many packets each tenth of a second, for three seconds.
const STEP: Duration = Duration::from_millis(100);
const STEPS: usize = 30;
const PACKETS: usize = 1000;
/// What goes past the queues is counted in the status by then.
const COUNTED: Duration = Duration::from_secs(6);

#[test]
fn a_flood_of_syns_from_one_client_takes_the_rules_from_nobody_else_and_all_is_counted() {
    for backend in backends() {
        with_an_open_gate(|| syn_flood(&backend));
    }
}

fn syn_flood(backend: &str) {
    let limit = scaled(500);
    let mut router = limited(backend, &format!("limit = {limit}"));
    for family in Family::BOTH {
        let (before, past_before) = (router.queued(), past(&router));
        let honest = beside_a_flood(&router, family, |client, step| {
            let (src, dst) = (of(client, family), router.echo(family).ip());
            let ports = (0..packets()).map(|place| 1024 + (step * packets() + place) as u16);
            let syn = |port| tcp_syn(src, dst, port, BESIDE_ECHO);
            ports.map(|port| Header::new(src, dst, protocol::TCP).packet(&syn(port))).collect()
        });
        assert_eq!(honest.failures(), [].into(), "{}", router.said());
        assert_eq!(by_rule(&router, &honest), honest.flows.len(), "{family}: {:?}", honest.by_source());

        let sent = (STEPS * packets() + honest.flows.len()) as u64;
        let queued = router.queued() - before;
        assert!(queued < sent / 2, "{queued} of {sent} packets of new flows were queued");
        router.wait_until("all is counted", |_| queued + past(&router).sum() == sent + past_before.sum());
        assert!(past(&router).over_share > past_before.over_share, "{}", router.status());
        let text = router.wansplit(&["status"]).unwrap();
        assert!(
            text.contains("PAST THE QUEUES") && text.contains(&format!("more than {limit} new ones")),
            "{text}"
        );
    }
    router.stop();
}

#[test]
fn a_flood_from_made_up_addresses_loses_no_flow_and_fills_no_table() {
    for backend in backends() {
        with_an_open_gate(|| made_up_addresses(&backend));
    }
}

fn made_up_addresses(backend: &str) {
    const LIMIT: u64 = 2000;
    let mut router = limited(backend, &format!("limit = {LIMIT}"));
    for family in Family::BOTH {
        let (capture, before, begin) = (router.capture(), router.queued(), Instant::now());
        let honest = beside_a_flood(&router, family, |_, step| {
            let dst = router.silent(family);
            let datagram = |number: usize| {
                let src = made_up(family, number);
                let datagram = udp(src, dst.ip(), 1024 + number as u16, dst.port(), b"flood");
                Header::new(src, dst.ip(), protocol::UDP).packet(&datagram)
            };
            (0..packets()).map(|place| datagram(step * packets() + place)).collect()
        });
        let noted = members(&router, backend, "known", family);
        let seconds = begin.elapsed().as_secs() + 1;
        // A tenth of the limit each second, and a fifth of that at once.
        assert!(noted > 0 && noted <= LIMIT / 10 * seconds + LIMIT / 50, "{noted} noted in {seconds} s");
        assert_eq!(honest.failures(), [].into(), "{}", router.said());
        sleep(STEP);
        let flows = router.judge(&capture.stop().unwrap());
        router.assert_sound(&flows);
        let carried = flows.carried.iter().filter(|(flow, _)| flow.dst_port == SILENT);
        assert_eq!(carried.flat_map(|(_, by)| by.values()).sum::<u64>() as usize, STEPS * packets());
        let queued = router.queued() - before;
        // As many as may are decided, until it is known for a flood.
        assert!(queued >= LIMIT / 2, "{queued}");
        eprintln!("{backend} {family}: {} of {} by the rule", by_rule(&router, &honest), honest.flows.len());
    }
    router.stop();
}

/// How many a set of the firewall holds.
fn members(router: &Router, backend: &str, set: &str, family: Family) -> u64 {
    let version = family.version();
    let (list, each) = match backend {
        "nft" => (format!("nft list set inet wansplit {set}{version}"), "expires"),
        _ => (format!("ipset save wansplit-{set}{version}"), "add "),
    };
    router.network.router.shell(&list).unwrap().matches(each).count() as u64
}

#[test]
fn a_limit_tears_no_flow_of_several_datagrams() {
    for backend in backends() {
        with_an_open_gate(|| several_datagrams(&backend));
    }
}

/// The rule sends them all by one line, the kernel's choice half of them by the other.
fn several_datagrams(backend: &str) {
    let mut router = limited(backend, "limit = 300");
    let capture = router.capture();
    scope(|scope| {
        let clients = router.network.lans[0].clients.iter().zip(Family::BOTH.into_iter().cycle());
        for ((client, family), port) in clients.zip((10_000..).step_by(2_000)) {
            let pace = Pace::steady(scaled(400) as u32, Duration::from_secs(4));
            let flows = UdpFlows::unanswered(router.silent(family), pace, 4);
            let flows = UdpFlows { first_port: Some(port), ..flows };
            scope.spawn(move || flows.run(&client.host).unwrap());
        }
    });
    sleep(Duration::from_millis(200));
    let flows = router.judge(&capture.stop().unwrap());
    router.assert_sound(&flows);
    let shares = flows.shares();
    eprintln!("{backend}: {shares:?}, {:?}", past(&router));
    assert!(shares["wan1"] > 0 && shares["wan2"] > shares["wan1"], "{shares:?}");
    router.stop();
}

#[test]
fn the_hash_chooses_which_flows_of_a_client_that_floods_are_decided() {
    side_by_side(|backend| {
        with_an_open_gate(|| chosen_flows(backend, "limit = 100\nlimit_per_client = 10", one_client));
    });
}

#[test]
fn the_hash_chooses_which_flows_of_many_clients_within_their_shares_are_decided() {
    side_by_side(|backend| {
        with_an_open_gate(|| chosen_flows(backend, "limit = 120\nlimit_per_client = 120", many_clients));
    });
}

#[test]
fn the_hash_chooses_which_flows_from_made_up_addresses_are_decided() {
    side_by_side(|backend| {
        with_an_open_gate(|| chosen_flows(backend, "limit = 100\nlimit_per_client = 100", nobodies));
    });
}

/// For how long a flood goes on, and when nothing of its flows can wait any more that came before it was known for one.
const LONG: Duration = Duration::from_secs(16);
const SETTLED: Duration = Duration::from_secs(9);
/// In which it is watched then.
const WATCHED: Duration = Duration::from_secs(5);
/// Datagrams of each flow.
const OF_A_FLOW: usize = 4;

/// Once nothing of a flow can wait any more, the rest needs no notes.
fn chosen_flows(backend: &str, queue: &str, flood: impl Fn(&Router, Family) + Sync) {
    let mut router = limited(backend, queue);
    let capture = router.capture();
    scope(|scope| {
        for family in Family::BOTH {
            let (router, flood) = (&router, &flood);
            scope.spawn(move || flood(router, family));
        }
        sleep(SETTLED);
        let before = (router.queued(), past(&router).sum());
        sleep(WATCHED);
        let noted: u64 = Family::BOTH.into_iter().map(|of| members(&router, backend, "early", of)).sum();
        let (queued, passed) = (router.queued() - before.0, past(&router).sum() - before.1);
        // Of 64 flows one, with up to four datagrams that wait; of each other flow one goes past the queue.
        assert!(queued > 0 && passed > 8 * queued, "{queued} were queued, {passed} were not");
        assert_eq!(noted, 0);
    });
    sleep(STEP);
    let flows = router.judge(&capture.stop().unwrap());
    router.assert_sound(&flows);
    let shares = flows.shares();
    assert!(shares["wan1"] > 0 && shares["wan2"] > 0, "{shares:?}");
    router.stop();
}

fn one_client(router: &Router, family: Family) {
    datagrams(router, family, &router.network.client().host, scaled(400), None);
}

fn many_clients(router: &Router, family: Family) {
    scope(|scope| {
        // No two have a port in common, by which flows are told apart outside.
        for (client, port) in router.network.lans[0].clients.iter().zip((10_000..).step_by(2_000)) {
            scope.spawn(move || datagrams(router, family, &client.host, scaled(45), Some(port)));
        }
    });
}

/// New flows, so many a second.
fn datagrams(router: &Router, family: Family, client: &Host, flows: usize, first_port: Option<u16>) {
    let pace = Pace::steady(flows as u32, LONG);
    let flows = UdpFlows::unanswered(router.silent(family), pace, OF_A_FLOW);
    UdpFlows { first_port, ..flows }.run(client).unwrap();
}

/// Each address begins one flow.
fn nobodies(router: &Router, family: Family) {
    let (begin, dst) = (Instant::now(), router.silent(family));
    let flows = scaled(40);
    for step in (0..).take_while(|_| begin.elapsed() < LONG) {
        let datagram = |number: usize| {
            let src = made_up(family, number);
            let datagram = udp(src, dst.ip(), 1024 + number as u16, dst.port(), b"flood");
            Header::new(src, dst.ip(), protocol::UDP).packet(&datagram)
        };
        let packets: Vec<Vec<u8>> = (0..flows).map(|place| datagram(step * flows + place)).collect();
        for _ in 0..OF_A_FLOW {
            send_packets(&router.network.client().host, &packets).unwrap();
        }
        sleep(STEP);
    }
}

#[test]
fn limits_change_while_flows_run() {
    side_by_side(|backend| with_an_open_gate(|| changed_limits(backend)));
}

/// Two clients, each within its share, begin more together than the limit.
fn changed_limits(backend: &str) {
    let mut router = limited(backend, "limit = 30\nlimit_per_client = 30");
    scope(|scope| {
        let (router, pace) = (&router, Pace::steady(25, Duration::from_secs(12)));
        let flows = TcpFlows::new(router.echo(Family::V4), pace);
        let [one, other, ..] = &router.network.lans[0].clients[..] else { panic!("two clients") };
        let echoes = [one, other].map(|client| {
            let flows = flows.clone();
            scope.spawn(move || flows.run(&client.host).unwrap())
        });
        router.wait_until("the limit is reached", |_| past(router).over_limit > 0);
        router.configure(&router.configuration().replace("= 30", "= 700"));
        let said = router.wansplit(&["reload"]).unwrap();
        assert!(said.contains("limits of the queues have changed"), "{said}");
        assert_eq!(router.status()["past"]["limit_per_client"], 700);
        let (queued, before) = (router.queued(), past(router).sum());
        assert!(before > 0, "what was counted stays");
        for echoes in echoes {
            assert_eq!(echoes.join().unwrap().failures(), [].into(), "{}", router.said());
        }
        assert!(router.queued() > queued + 50, "all are decided now");
        sleep(COUNTED);
        assert_eq!(past(router).sum(), before);
    });
    router.stop();
}

/// New connections to the echo from one client while another sends a flood, made for each of its steps.
fn beside_a_flood(
    router: &Router,
    family: Family,
    step: impl Fn(&Client, usize) -> Vec<Vec<u8>> + Sync,
) -> Report {
    let [honest, flooding, ..] = &router.network.lans[0].clients[..] else { panic!("two clients") };
    scope(|scope| {
        scope.spawn(|| {
            for packets in (0..STEPS).map(|number| step(flooding, number)) {
                send_packets(&flooding.host, &packets).unwrap();
                sleep(STEP);
            }
        });
        sleep(3 * STEP);
        let pace = Pace::steady(20, STEP * (STEPS as u32 - 6));
        TcpFlows::new(router.echo(family), pace).run(&honest.host).unwrap()
    })
}

fn packets() -> usize {
    scaled(PACKETS)
}

/// One of many hosts beside the LAN's.
fn made_up(family: Family, number: usize) -> IpAddr {
    let number = number as u32;
    match family {
        Family::V4 => Ipv4Addr::from_bits(Ipv4Addr::new(10, 99, 0, 0).to_bits() + number).into(),
        Family::V6 => Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, (number >> 16) as u16, number as u16).into(),
    }
}

fn of(client: &Client, family: Family) -> IpAddr {
    client.addresses.of(family)
}

/// Flows that the server saw from the line that the rule demands.
fn by_rule(router: &Router, report: &Report) -> usize {
    let demanded = router.network.lines[1].sources;
    report
        .flows
        .iter()
        .filter(|flow| flow.seen_as.iter().all(|source| demanded.contains(source.ip())))
        .count()
}

/// What went past the queues, as status has it.
#[derive(Debug, Clone, Copy)]
struct Past {
    over_limit: u64,
    over_share: u64,
}

impl Past {
    fn sum(self) -> u64 {
        self.over_limit + self.over_share
    }
}

fn past(router: &Router) -> Past {
    let past = &router.status()["past"];
    let [over_limit, over_share] = ["over_limit", "over_share"].map(|key| past[key].as_u64().unwrap());
    Past { over_limit, over_share }
}

/// A router of two equal lines with the rule and this limit, and the daemon running.
fn limited(backend: &str, queue: &str) -> Router {
    let mut router = Router::new(backend, &[1, 1]);
    router.configure_more("", &format!("[queue]\n{queue}"));
    router.rule_file("10-served.toml", RULE);
    router.start();
    router
}
