//! Never an outage because of us: what is running lives on and what is new gets
//! through, whatever becomes of the daemon.

#[path = "support/load.rs"]
mod load;
#[path = "support/router.rs"]
mod router;

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use load::{Load, began_within};
use nix::sys::signal::Signal;
use router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::traffic::{Pace, RunningTransfer, TcpFlows, Transfer, UdpAnswers, UdpFlows};

const RULES: &str = "[[rule]]\nname = \"all\"\nmatch = { protocol = [\"tcp\", \"udp\"] }\n\
                     use = { policy = \"round-robin\", uplinks = [\"isp1\", \"isp2\"] }\n";

#[test]
fn termination_restart_other_workers_and_new_rules_lose_no_packet() {
    side_by_side(termination_and_reload);
}

fn termination_and_reload(backend: &str) {
    let mut router = running(backend, "workers = 2");
    let load = Load::start(&router, 0, Duration::from_secs(9));
    let begin = Instant::now();
    sleep(Duration::from_secs(1));
    router.stop();
    let dead_from = begin.elapsed();
    sleep(Duration::from_secs(2));
    let dead_to = begin.elapsed();
    router.configure(&router.configuration().replace("workers = 2", "workers = 1"));
    router.start();
    router.rule_file("rules.toml", RULES);
    router.signal(Signal::SIGHUP);
    router
        .wait_until("the rules are read", |status| status["rules"].as_array().is_some_and(|r| r.len() == 2));
    router.rule_file("rules.toml", "[[rule]]\nname = \"broken\"\nuse = \"nobody\"\n");
    router.signal(Signal::SIGHUP);
    router.wait_until_said("nothing was changed");
    let refusal = router.wansplit(&["reload"]).unwrap_err();
    assert!(refusal.contains("nobody"), "{refusal}");
    assert_eq!(router.status()["rules"][0]["name"], "all", "a broken file changes nothing");
    let outcome = load.finish(&router);
    assert_eq!((outcome.unanswered(), outcome.talk_lost), (0, 0), "{}", router.said());
    outcome.assert_balanced(dead_from.as_secs_f64()..dead_to.as_secs_f64(), 2);
    router.stop();
}

#[test]
fn a_killed_daemon_costs_at_most_the_packets_that_waited_and_its_successor_none() {
    side_by_side(kill_and_restart);
}

fn kill_and_restart(backend: &str) {
    let mut router = running(backend, "workers = 2");
    let load = Load::start(&router, 0, Duration::from_secs(9));
    let begin = Instant::now();
    sleep(Duration::from_millis(1500));
    let first = kill(&mut router);
    router.start();
    sleep(Duration::from_secs(1));
    let dying = first + kill(&mut router);
    let dead_from = begin.elapsed();
    sleep(Duration::from_secs(2));
    let dead_to = begin.elapsed();
    router.start();
    let outcome = load.finish(&router);
    let lost = outcome.unanswered();
    eprintln!("{backend}: two kills, of {dying:.1?}, lost {lost} first datagrams");
    assert!(lost <= 20 + began_within(dying), "{lost}");
    assert_eq!(outcome.talk_lost, 0, "{}", router.said());
    outcome.assert_balanced(dead_from.as_secs_f64()..dead_to.as_secs_f64(), 2);
    router.stop();
}

/// How long it took: until a process is gone, the kernel goes on to put packets into its queues.
fn kill(router: &mut Router) -> Duration {
    let begin = Instant::now();
    router.kill();
    begin.elapsed()
}

#[test]
fn a_hung_daemon_loses_its_say_within_two_seconds_and_no_flow_its_way() {
    side_by_side(hang);
}

fn hang(backend: &str) {
    let mut router = running(backend, "workers = 2");
    let load = Load::start(&router, 0, Duration::from_secs(14));
    let begin = Instant::now();
    sleep(Duration::from_secs(1));
    router.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    sleep(Duration::from_secs(2));
    let from = begin.elapsed();
    let (queued, looked) = (router.queued(), stopped.elapsed());
    sleep(Duration::from_secs(8));
    assert_eq!(router.queued(), queued, "packets were still queued {looked:?} after the hang began");
    router.signal(Signal::SIGCONT);
    let to = begin.elapsed();
    router.wait_until("the gate opens", |status| status["gate"]["open"] == true);
    let outcome = load.finish(&router);
    assert!(router.queued() > queued, "the daemon has its say again");
    assert_eq!((outcome.unanswered(), outcome.talk_lost), (0, 0), "{}", router.said());
    outcome.assert_balanced(from.as_secs_f64()..to.as_secs_f64(), 2);
    router.stop();
}

#[test]
fn both_datagrams_of_a_pair_leave_by_one_line_however_much_the_queue_lets_pass() {
    for backend in backends() {
        for queue in ["", "length = 8", "limit = 50", "length = 8\nlimit = 2000"] {
            pairs_under_pressure(&backend, queue);
        }
    }
}

fn pairs_under_pressure(backend: &str, queue: &str) {
    let mut router = running(backend, &format!("workers = 2\n{queue}"));
    let capture = router.capture();
    let before = router.queued();
    let pace = Pace::burst(scaled(2500), 32);
    let partly: usize = Family::BOTH.map(|family| send_pairs(&router, family, pace)).iter().sum();
    let queued = router.queued() - before;
    // A datagram that meets its sibling at the very moment of its note is dropped.
    let torn = torn(&router, backend);
    assert!(torn == 0 || !queue.is_empty(), "a queue that takes everything has nothing to tear");
    assert!(partly <= torn, "{partly} pairs answered in part, {torn} datagrams torn: {}", router.said());
    let flows = router.judge(&capture.stop().unwrap());
    eprintln!("{backend} {queue:?}: {} flows, {queued} packets queued", flows.carried.len());
    router.assert_sound(&flows);
    let pairs = 4 * scaled(2500);
    assert_eq!((flows.carried.len(), flows.packets() as usize), (pairs, 2 * pairs - torn));
    router.stop();
}

/// Datagrams that the forward chain dropped because they were torn.
fn torn(router: &Router, backend: &str) -> usize {
    let list = match backend {
        "nft" => "nft list chain inet wansplit unsettled".to_owned(),
        iptables => {
            let of = |program: &str| format!("{program} -t mangle -v -S wansplit-unsettled");
            format!("{} && {}", of(iptables), of(&iptables.replace("iptables", "ip6tables")))
        }
    };
    let listed = router.network.router.shell(&list).unwrap();
    let drops = listed.lines().filter(|line| line.to_lowercase().contains("drop"));
    let counts = drops.map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| !["-c", "packets"].contains(word));
        words.nth(1).unwrap_or_else(|| panic!("no count in {line}")).parse::<usize>().unwrap()
    });
    counts.sum()
}

/// Pairs to the server that answers and to the one that does not, at the same time;
/// how many were answered in part.
fn send_pairs(router: &Router, family: Family, pace: Pace) -> usize {
    std::thread::scope(|scope| {
        let send = |client: usize, to, answers| {
            let host = &router.network.lans[0].clients[client].host;
            let flows = UdpFlows { answers, first_port: Some(10_000), ..UdpFlows::pairs(to, pace) };
            scope.spawn(move || flows.run(host).unwrap())
        };
        let asking = send(0, router.echo(family), UdpAnswers::All);
        send(1, router.silent(family), UdpAnswers::None);
        let report = asking.join().unwrap();
        report.flows.len() - report.succeeded()
    })
}

#[test]
fn pairs_stay_together_while_the_daemon_hangs_dies_and_comes_back() {
    side_by_side(pairs_through_deaths);
}

fn pairs_through_deaths(backend: &str) {
    let mut router = running(backend, "workers = 2\nlength = 64");
    let capture = router.capture();
    let senders = Family::BOTH.map(|family| {
        let host = router.network.client().host.clone();
        let pace = Pace::steady(scaled(800) as u32, Duration::from_secs(9));
        let shift = if family == Family::V4 { 10_000 } else { 20_000 };
        let pairs =
            UdpFlows { first_port: Some(shift), ..UdpFlows::unanswered(router.silent(family), pace, 2) };
        std::thread::spawn(move || pairs.run(&host).unwrap().flows.len())
    });
    for workers in [1, 4] {
        sleep(Duration::from_millis(500));
        router.signal(Signal::SIGSTOP);
        sleep(Duration::from_millis(1500));
        router.signal(Signal::SIGCONT);
        sleep(Duration::from_millis(300));
        router.kill();
        router.configure(&router.configuration().replace("workers = 2", &format!("workers = {workers}")));
        router.start();
        sleep(Duration::from_millis(300));
        router.stop();
        router.start();
    }
    let flows: usize = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
    sleep(Duration::from_millis(200));
    let carried = router.judge(&capture.stop().unwrap());
    router.assert_sound(&carried);
    assert!(carried.carried.len() > flows - 100, "{} of {flows} flows", carried.carried.len());
    router.stop();
}

#[test]
fn a_flow_that_is_never_answered_is_decided_once_and_stays_in_the_kernel() {
    for backend in backends() {
        never_answered(&backend);
    }
}

fn never_answered(backend: &str) {
    let mut router = running(backend, "workers = 2");
    for family in Family::BOTH {
        let (capture, before) = (router.capture(), router.queued());
        let flow = UdpFlows {
            gap: Duration::from_micros(500),
            ..UdpFlows::unanswered(router.silent(family), Pace::burst(1, 1), 1000)
        };
        flow.run(&router.network.client().host).unwrap();
        sleep(Duration::from_millis(100));
        let flows = router.judge(&capture.stop().unwrap());
        router.assert_sound(&flows);
        assert_eq!((flows.carried.len(), flows.packets()), (1, 1000));
        let queued = router.queued() - before;
        assert!((1..=10).contains(&queued), "{queued} of its datagrams went to user space");
    }
    assert_eq!(decided_flows(&router), 2, "{}", router.status());
    router.stop();
}

#[test]
fn bulk_transfers_answers_and_errors_never_reach_user_space() {
    for backend in backends() {
        only_first_packets(&backend);
    }
}

fn only_first_packets(backend: &str) {
    let mut router = running(backend, "workers = 2");
    let host = router.network.client().host.clone();
    let started = Family::BOTH.into_iter().flat_map(|family| [family; 2]).map(|family| {
        let transfer = Transfer { rate: None, ..Transfer::new(router.echo(family), Duration::from_secs(5)) };
        transfer.start(&host).unwrap()
    });
    let transfers: Vec<RunningTransfer> = started.collect();
    for family in Family::BOTH {
        // Nobody listens there: each is answered with an ICMP error.
        let refused = SocketAddr::new(router.network.servers[0].of(family), 1);
        UdpFlows::unanswered(refused, Pace::burst(20, 4), 1).run(&host).unwrap();
    }
    let bytes: u64 = transfers.into_iter().map(|transfer| transfer.wait().unwrap().bytes).sum();
    let flows = 4 + 2 * 20;
    let queued = router.queued();
    assert!(bytes > scaled(10 << 20) as u64, "only {bytes} bytes");
    assert!((flows..flows + 10).contains(&queued), "{queued} packets went to user space for {flows} flows");
    assert_eq!(decided_flows(&router), flows, "{}", router.status());
    router.stop();
}

#[test]
fn shares_are_exact_with_any_number_of_queues_from_any_number_on() {
    for backend in backends() {
        for workers in [1, 2, 4] {
            queues_from_a_hundred(&backend, workers);
        }
    }
}

fn queues_from_a_hundred(backend: &str, workers: usize) {
    let mut router = running(backend, &format!("workers = {workers}\nfirst = 100"));
    let capture = router.capture();
    std::thread::scope(|scope| {
        let ports = (10_000..).step_by(1_000);
        let clients = router.network.lans[0].clients.iter();
        let each = clients.flat_map(|client| Family::BOTH.map(|family| (client, family)));
        for ((client, family), port) in each.zip(ports) {
            let flows = UdpFlows::new(router.echo(family), Pace::burst(scaled(125), 10));
            let flows = UdpFlows { first_port: Some(port), ..flows };
            scope.spawn(move || assert_eq!(flows.run(&client.host).unwrap().succeeded(), scaled(125)));
        }
    });
    let flows = router.judge(&capture.stop().unwrap());
    router.assert_sound(&flows);
    let status = router.status();
    let numbers = status["queues"].as_array().unwrap().iter().map(|queue| queue["number"].as_u64().unwrap());
    assert!(numbers.eq(100..100 + workers as u64), "{status}");
    if status["gate"]["closed_times"] == 0 {
        // Each worker deals the flows of each family in turn.
        assert_shares(&flows.shares(), &[1, 1], workers as f64);
    }
    router.stop();
}

#[test]
fn a_flood_of_new_flows_takes_neither_service_nor_memory() {
    for backend in backends() {
        flood(&backend);
    }
}

fn flood(backend: &str) {
    let mut router = running(backend, "workers = 2");
    let before = resident(&mut router);
    let capture = router.capture();
    std::thread::scope(|scope| {
        let floods = [(Family::V4, 10_000), (Family::V6, 10_000), (Family::V4, 30_000)];
        for (client, (family, port)) in router.network.lans[0].clients[1..].iter().zip(floods) {
            let flood = UdpFlows::unanswered(router.silent(family), Pace::burst(scaled(10_000), 64), 2);
            let flood = UdpFlows { first_port: Some(port), ..flood };
            scope.spawn(move || flood.run(&client.host).unwrap());
        }
        for family in Family::BOTH {
            let echoes =
                TcpFlows::new(router.echo(family), Pace::steady(scaled(50) as u32, Duration::from_secs(2)));
            let report = echoes.run(&router.network.client().host).unwrap();
            assert_eq!(report.failures(), [].into(), "{}", router.said());
        }
    });
    router.assert_sound(&router.judge(&capture.stop().unwrap()));
    let grown = resident(&mut router).saturating_sub(before);
    eprintln!("{backend}: grown by {grown} KiB, {}", router.status()["queues"]);
    assert!(grown < 64 << 10, "the daemon grew by {grown} KiB");
    router.stop();
}

/// Memory of the daemon in KiB (proc(5), VmRSS).
fn resident(router: &mut Router) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", router.daemon().id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn decided_flows(router: &Router) -> u64 {
    let status = router.status();
    let queues = status["queues"].as_array().unwrap();
    queues.iter().map(|queue| queue["flows"].as_u64().unwrap()).sum()
}

/// A router of two lines with the daemon running.
fn running(backend: &str, queue: &str) -> Router {
    let mut router = Router::new(backend, &[1, 1]);
    router.configure_more("", &format!("[queue]\n{queue}"));
    router.start();
    router
}
