//! What the kernel holds to while the daemon does not answer.

#[path = "support/router.rs"]
mod router;

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use router::*;
use wansplit::daemon::machine::Machine;
use wansplit::engine::gate::OPEN_FOR;
use wansplit::engine::packet::Family;
use wansplit::lab::traffic::{Pace, TcpFlows, UdpFlows};
use wansplit::plan::plan;
use wansplit::plan::workers::Workers;
use wansplit::system::queue::counters;
use wansplit::system::state::RunDirectory;

/// Queues, and workers.
const QUEUES: u16 = 2;

#[test]
fn filling_the_rules_anew_loses_no_packet_that_waits() {
    for backend in backends() {
        // Where nothing is sent before the gate has closed, nothing waits, and nothing is shown.
        let shown = (0..5).any(|_| waiting_packets_outlive_a_refill(&backend));
        assert!(shown, "{backend}: nothing ever waits");
    }
}

#[test]
fn a_flow_that_may_use_one_line_only_uses_no_other_whoever_decides() {
    for backend in backends() {
        the_line_is_kept_to(&backend);
    }
}

/// Every kind of matcher that fits the test's datagrams, so that the kernel has to go through all.
const ONE_LINE_ONLY: &str = r#"
[[rule]]
name  = "calls by the second line or not at all"
match = { protocol = ["udp", "sctp"], src = ["10.0.0.0/8", "fd00::/8", "2001:db8::/32"], src_port = "1-65535", dst_port = [7, "5000-5100"], lan = "lan0", dscp = [0, "ef"], length = [60, "61-1000"], time = "00:00-24:00", weekday = "mon-sun" }
not   = { dst = "192.0.2.200", icmp_type = "echo-request" }
use   = "isp2"
none  = "drop"
"#;

fn the_line_is_kept_to(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    router.rule_file("10-calls.toml", ONE_LINE_ONLY);
    router.start();
    assert_eq!(udp_by_line(&router, 20), [0, 20], "{backend}: user space");
    router.daemon().signal(Signal::SIGSTOP).unwrap();
    thread::sleep(2 * OPEN_FOR);
    assert_eq!(udp_by_line(&router, 20), [0, 20], "{backend}: the kernel");
    router.daemon().signal(Signal::SIGCONT).unwrap();
    router.network.router.shell("ip link set wan2 down").unwrap();
    let noticed = || router.said().contains("isp2 is not usable for IPv6");
    router.wait_until("the loss of a line is noticed", |_| noticed());
    assert_eq!(udp_by_line(&router, 0), [0, 0], "{backend}: user space without the line");
    router.daemon().signal(Signal::SIGSTOP).unwrap();
    thread::sleep(2 * OPEN_FOR);
    assert_eq!(udp_by_line(&router, 0), [0, 0], "{backend}: the kernel without the line");
    let tcp = TcpFlows::new(router.echo(Family::V6), Pace::burst(20, 20));
    assert_eq!(tcp.run(&router.network.client().host).unwrap().succeeded(), 20, "{backend}");
    router.daemon().signal(Signal::SIGCONT).unwrap();
    router.stop();
    router.wansplit(&["down"]).unwrap();
}

/// How many UDP flows each line carried, of some in each family, of which so many must be answered.
fn udp_by_line(router: &Router, answered: usize) -> [usize; 2] {
    let capture = router.capture();
    for family in Family::BOTH {
        let flows = UdpFlows {
            limit: Duration::from_secs(if answered > 0 { 10 } else { 1 }),
            ..UdpFlows::new(router.echo(family), Pace::burst(10, 10))
        };
        let report = flows.run(&router.network.client().host).unwrap();
        assert_eq!(report.succeeded(), answered / 2, "{:?}\n{}", report.failures(), router.said());
    }
    let shares = router.judge(&capture.stop().unwrap()).shares_of(|flow| flow.protocol == 17);
    ["wan1", "wan2"].map(|line| shares.get(line).copied().unwrap_or(0))
}

/// Whether any packet waited.
fn waiting_packets_outlive_a_refill(backend: &str) -> bool {
    let mut router = Router::new(backend, &[1, 1]);
    router.configure_more("", &format!("[queue]\nworkers = {QUEUES}"));
    router.start();
    let capture = router.capture();
    router.daemon().signal(Signal::SIGSTOP).unwrap();
    let flows = UdpFlows {
        limit: Duration::from_secs(30),
        ..UdpFlows::new(router.echo(Family::V4), Pace::burst(100, 100))
    };
    let client = router.network.client().host.clone();
    let traffic = thread::spawn(move || flows.run(&client).unwrap());
    let before = settled_waiting(&router);
    refill(&router);
    refill(&router);
    assert_eq!(settled_waiting(&router), before, "{backend}: packets that waited are gone");
    router.daemon().signal(Signal::SIGCONT).unwrap();
    let report = traffic.join().unwrap();
    assert_eq!(report.succeeded(), 100, "{backend}: {:?}\n{}", report.failures(), router.said());
    router.assert_sound(&router.judge(&capture.stop().unwrap()));
    router.stop();
    router.wansplit(&["down"]).unwrap();
    before > 0
}

/// How many packets wait, once no more come: the gate is closed by then.
fn settled_waiting(router: &Router) -> u64 {
    let waiting = || -> u64 {
        let queues = router.network.router.enter(counters::read).unwrap();
        queues.iter().map(|queue| queue.waiting).sum()
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut before = waiting();
    loop {
        thread::sleep(Duration::from_millis(500));
        let now = waiting();
        if now > 0 && now == before || Instant::now() > deadline {
            return now;
        }
        before = now;
    }
}

/// Does what a reload does, from outside the daemon, which is stopped.
fn refill(router: &Router) {
    let config = wansplit::daemon::load(&router.config()).unwrap();
    let run = RunDirectory::new(Some(router.files.path().join("run")));
    let refilled = router.network.router.block_on(|| async move {
        let machine = Machine::open(config.backend, run)?;
        let observed = machine.observe(&config).await?;
        machine.apply(&config, &plan(&config, &observed, &Workers::anywhere(QUEUES)), &observed).await
    });
    refilled.unwrap().unwrap();
}
