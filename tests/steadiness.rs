//! Never an outage because of us: what is running lives on and what is new gets
//! through, whatever becomes of the daemon.

#[path = "support/load.rs"]
mod load;
#[path = "support/router.rs"]
mod router;

use std::thread::sleep;
use std::time::{Duration, Instant};

use load::Load;
use nix::sys::signal::Signal;
use router::*;

const RULES: &str = "[[rule]]\nname = \"all\"\nmatch = { protocol = [\"tcp\", \"udp\"] }\n\
                     use = { policy = \"round-robin\", uplinks = [\"isp1\", \"isp2\"] }\n";

#[test]
fn termination_restart_other_workers_and_new_rules_lose_no_packet() {
    for backend in backends() {
        termination_and_reload(&backend);
    }
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
    router.wait_until("the rules are read", |status| status["rules"].as_array().is_some_and(|r| r.len() == 2));
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
    for backend in backends() {
        kill_and_restart(&backend);
    }
}

fn kill_and_restart(backend: &str) {
    let mut router = running(backend, "workers = 2");
    let load = Load::start(&router, 0, Duration::from_secs(9));
    let begin = Instant::now();
    sleep(Duration::from_millis(1500));
    router.kill();
    router.start();
    sleep(Duration::from_secs(1));
    router.kill();
    let dead_from = begin.elapsed();
    sleep(Duration::from_secs(2));
    let dead_to = begin.elapsed();
    router.start();
    let outcome = load.finish(&router);
    eprintln!("{backend}: two kills lost {} first datagrams", outcome.unanswered());
    assert!(outcome.unanswered() <= 20, "{}", outcome.unanswered());
    assert_eq!(outcome.talk_lost, 0, "{}", router.said());
    outcome.assert_balanced(dead_from.as_secs_f64()..dead_to.as_secs_f64(), 2);
    router.stop();
}

#[test]
fn a_hung_daemon_loses_its_say_within_two_seconds_and_no_flow_its_way() {
    std::thread::scope(|scope| {
        for backend in backends() {
            scope.spawn(move || hang(&backend));
        }
    });
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

/// A router of two lines with the daemon running.
fn running(backend: &str, queue: &str) -> Router {
    let mut router = Router::new(backend, &[1, 1]);
    router.configure_more("", &format!("[queue]\n{queue}"));
    router.start();
    router
}
