//! What the program promises, tried with real packets: one set of scenarios for all backends.

#[path = "support/router.rs"]
mod router;

use router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::traffic::{Pace, Pings, TcpFlows, UdpFlows};

#[test]
fn shares_are_exact_and_every_flow_keeps_its_uplink() {
    for backend in backends() {
        for (weights, workers) in [(&[1, 1], 1), (&[3, 1], 1), (&[1, 1], 2), (&[3, 1], 4)] {
            with_an_open_gate(|| shares_are_exact(&backend, weights, workers));
        }
    }
}

#[test]
fn the_log_tells_what_was_set_up_and_when_it_is_ready() {
    for backend in backends() {
        let mut router = Router::new(&backend, &[1, 1]);
        router.start();
        for words in
            ["INFO uplink isp1: IPv4 by wan1 via ", &format!("INFO backend {backend}, "), "INFO ready\n"]
        {
            assert!(router.said().contains(words), "no {words:?} in:\n{}", router.said());
        }
        router.stop();
        router.wansplit(&["down"]).unwrap();
    }
}

fn shares_are_exact(backend: &str, weights: &[u8], workers: u16) {
    let count = scaled(1000);
    let mut router = Router::new(backend, weights);
    router.configure_more("", &format!("[queue]\nworkers = {workers}"));
    router.start();
    for family in Family::BOTH {
        let capture = router.capture();
        let host = &router.network.client().host;
        let tcp = TcpFlows::new(router.echo(family), Pace::burst(count, 50)).run(host).unwrap();
        assert_eq!(tcp.succeeded(), count, "{:?}\n{}", tcp.failures(), router.said());
        let udp = UdpFlows::new(router.echo(family), Pace::burst(count, 50));
        let udp = UdpFlows { first_port: Some(20_000), ..udp }.run(host).unwrap();
        assert_eq!(udp.succeeded(), count, "{:?}", udp.failures());
        let pings = Pings::new(router.network.servers[0].of(family), scaled(100) as u16).run(host).unwrap();
        assert!(pings.iter().all(|ping| ping.answered));
        let flows = router.judge(&capture.stop().unwrap());
        router.assert_sound(&flows);
        for protocol in [6, 17, if family == Family::V4 { 1 } else { 58 }] {
            let counts = flows.shares_of(|flow| flow.protocol == protocol);
            assert_shares(&counts, weights, f64::from(workers));
        }
    }
    router.stop();
    router.wansplit(&["down"]).unwrap();
}
