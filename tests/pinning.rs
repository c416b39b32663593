//! Workers beside the CPUs by which packets come.

#[path = "support/router.rs"]
mod router;

use std::process::Command;
use std::thread::scope;

use router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::traffic::{Pace, UdpFlows};
use wansplit::system::affinity;

#[test]
fn workers_run_where_packets_are_steered_to_and_each_flow_keeps_one_line() {
    let Some(cpus) = two_cpus() else { return };
    for backend in backends() {
        with_an_open_gate(|| steered(&backend, cpus));
    }
}

fn steered(backend: &str, [low, high]: [u16; 2]) {
    let mut router = Router::new(backend, &[1, 1]);
    steer(&router, 1 << low | 1 << high);
    launch(&mut router);
    assert_eq!(bound_to(&router), cpus_of([low, high]), "{}", router.said());
    let first = decided(&router);
    pairs(&router);
    let second = decided(&router);
    let bound = bound_to(&router);
    for ((before, after), cpu) in first.iter().zip(&second).zip(&bound) {
        assert_eq!(after > before, cpu.is_some(), "{first:?}, {second:?} on {bound:?}");
    }

    // What is found at a reload counts from then on.
    steer(&router, 1 << high);
    router.wansplit(&["reload"]).unwrap();
    router.wait_until("the gate opens", |status| status["gate"]["open"] == true);
    assert_eq!(bound_to(&router), [Some(high)]);
    pairs(&router);
    steer(&router, 0);
    router.wansplit(&["reload"]).unwrap();
    router.wait_until("the gate opens", |status| status["gate"]["open"] == true);
    assert!(bound_to(&router).iter().all(Option::is_none), "nothing steers, no interrupt tells");
    pairs(&router);
    router.stop();
}

#[test]
fn nothing_is_bound_where_somebody_wants_it_so() {
    let Some([low, high]) = two_cpus() else { return };
    let mut router = Router::new(&backends()[0], &[1, 1]);
    router.configure_more("", "[queue]\nworkers = 2\npin = \"off\"");
    steer(&router, 1 << low | 1 << high);
    launch(&mut router);
    assert_eq!(bound_to(&router), [None, None]);
    router.stop();
}

/// Pairs of datagrams back to back, from several clients in both families; each by one line.
fn pairs(router: &Router) {
    let capture = router.capture();
    scope(|scope| {
        let clients = router.network.lans[0].clients.iter().zip(Family::BOTH.into_iter().cycle());
        for ((client, family), port) in clients.zip((10_000..).step_by(1_000)) {
            let flows = UdpFlows::pairs(router.echo(family), Pace::burst(scaled(500), 16));
            let flows = UdpFlows { first_port: Some(port), ..flows };
            scope.spawn(move || assert_eq!(flows.run(&client.host).unwrap().succeeded(), scaled(500)));
        }
    });
    let flows = router.judge(&capture.stop().unwrap());
    router.assert_sound(&flows);
    assert_eq!((flows.carried.len(), flows.packets() as usize), (4 * scaled(500), 8 * scaled(500)));
}

/// The first two CPUs, where there are two.
fn two_cpus() -> Option<[u16; 2]> {
    let mut cpus = affinity::allowed().into_iter().filter(|&cpu| cpu < 32);
    let two = cpus.next().zip(cpus.next());
    if two.is_none() {
        eprintln!("skipped: this takes two CPUs");
    }
    two.map(|(low, high)| [low, high])
}

/// Has the router's LAN packets steered to these CPUs.
fn steer(router: &Router, mask: u32) {
    let device = &router.network.lans[0].device;
    let write = format!("echo {mask:x} > /sys/class/net/{device}/queues/rx-0/rps_cpus");
    router
        .network
        .router
        .run(Command::new("unshare").args(["-m", "sh", "-euc", &with_sysfs(&write)]))
        .unwrap();
}

/// Starts the daemon where /sys is that of its network namespace.
fn launch(router: &mut Router) {
    let daemon = router.command(&["-v", "run"]);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-euc", &with_sysfs("exec \"$@\""), "sh"]).arg(daemon.get_program());
    command.args(daemon.get_args());
    router.launch_as(command);
    router.wait_until("the gate opens", |status| status["gate"]["open"] == true);
}

fn with_sysfs(command: &str) -> String {
    format!("mount -t sysfs sysfs /sys; {command}")
}

/// The CPU of each worker, as the kernel has it; status says the same.
fn bound_to(router: &Router) -> Vec<Option<u16>> {
    let status = router.status();
    let queues = status["queues"].as_array().unwrap();
    let cpus = queues.iter().map(|queue| queue["cpu"].as_u64().map(|cpu| cpu as u16)).collect::<Vec<_>>();
    let all = affinity::allowed().len();
    for (place, cpu) in cpus.iter().enumerate() {
        let allowed = allowed_for(&format!("worker-{place}"), &status);
        match cpu {
            Some(cpu) => assert_eq!(allowed, cpu.to_string()),
            None => assert!(all == 1 || allowed.parse::<u16>().is_err(), "worker {place} runs on {allowed}"),
        }
    }
    cpus
}

/// The CPUs that the daemon's thread of this name may run on (proc(5), Cpus_allowed_list).
fn allowed_for(thread: &str, status: &serde_json::Value) -> String {
    let threads = std::fs::read_dir(format!("/proc/{}/task", status["pid"])).unwrap();
    let texts = threads
        .map(|entry| std::fs::read_to_string(entry.unwrap().path().join("status")).unwrap_or_default());
    let mut named = texts.filter(|text| text.lines().next() == Some(&format!("Name:\t{thread}")));
    let text = named.next().unwrap_or_else(|| panic!("no thread {thread}"));
    let line = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    line.trim().to_owned()
}

/// Where the worker of each place is to be, for CPUs that have one each.
fn cpus_of([low, high]: [u16; 2]) -> Vec<Option<u16>> {
    let count = (2..).find(|count| low % count != high % count).unwrap();
    (0..count).map(|worker| [low, high].into_iter().find(|cpu| cpu % count == worker)).collect()
}

/// Packets that each worker has decided.
fn decided(router: &Router) -> Vec<u64> {
    let status = router.status();
    status["queues"].as_array().unwrap().iter().map(|queue| queue["decided"].as_u64().unwrap()).collect()
}
