//! A household that never pauses: new flows of both kinds in both families, a
//! conversation of datagrams, and a transfer by every line, all at once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Range;
use std::thread::JoinHandle;
use std::time::Duration;

use wansplit::engine::packet::Family;
use wansplit::lab::capture::Capture;
use wansplit::lab::traffic::{FlowOutcome, Pace, Report, RunningTransfer, TcpFlows, Transfer, UdpFlows};

use crate::router::{Router, scaled};

/// New flows per second of each kind in each family, on a fast machine: 500 in all.
const RATE: usize = 125;
/// A pause that a running transfer may make.
pub const HITCH: Duration = Duration::from_secs(2);
/// Datagrams per second of a conversation, on a fast machine.
const TALK: usize = 200;

/// A running load.
pub struct Load {
    capture: Capture,
    new: Vec<JoinHandle<(&'static str, Family, Report)>>,
    talks: Vec<JoinHandle<Report>>,
    transfers: Vec<RunningTransfer>,
}

/// What became of it.
pub struct Outcome {
    /// The new TCP connections of each family.
    pub tcp: Vec<Report>,
    /// The new UDP flows of each family.
    pub udp: Vec<Report>,
    /// One long conversation of each family: datagrams that got no answer.
    pub talk_lost: usize,
}

impl Load {
    /// Starts it. `round` tells one load on a router from the next: each has ports of its own.
    pub fn start(router: &Router, round: u16, time: Duration) -> Load {
        let capture = router.capture();
        let transfers = transfers(router, time);
        let (mut new, mut talks) = (Vec::new(), Vec::new());
        // A socket of any address in IPv6 takes its port in IPv4 too.
        for (family, shift) in Family::BOTH.into_iter().zip([0, 2_000]) {
            let to = router.echo(family);
            let [host, talker] = [0, 1].map(|client| router.network.lans[0].clients[client].host.clone());
            let pace = Pace::steady(scaled(RATE) as u32, time);
            let patience = Duration::from_secs(20);
            let tcp = TcpFlows { limit: patience, ..TcpFlows::new(to, pace) };
            let first_port = Some(12_000 + 4_000 * round + shift);
            let udp = UdpFlows { first_port, limit: patience, ..UdpFlows::new(to, pace) };
            let side = host.clone();
            new.push(std::thread::spawn(move || ("tcp", family, tcp.run(&host).unwrap())));
            new.push(std::thread::spawn(move || ("udp", family, udp.run(&side).unwrap())));
            let talk = UdpFlows {
                first_port: Some(7_000 + round + shift),
                datagrams: time.as_secs() as usize * scaled(TALK),
                gap: Duration::from_secs(1) / scaled(TALK) as u32,
                ..UdpFlows::new(to, Pace::burst(1, 1))
            };
            talks.push(std::thread::spawn(move || talk.run(&talker).unwrap()));
        }
        Load { capture, new, talks, transfers }
    }

    /// Waits for its end, and checks what holds whatever happened: no flow was split, no
    /// connection refused, no transfer broken or held up.
    pub fn finish(self, router: &Router) -> Outcome {
        let mut outcome = Outcome { tcp: Vec::new(), udp: Vec::new(), talk_lost: 0 };
        for flows in self.new {
            let (kind, family, report) = flows.join().unwrap();
            match kind {
                "tcp" => {
                    assert_eq!(report.failures(), [].into(), "{family} tcp\n{}", router.said());
                    outcome.tcp.push(report);
                }
                _ => outcome.udp.push(report),
            }
        }
        for talk in self.talks {
            let report = talk.join().unwrap();
            outcome.talk_lost += report.flows.iter().filter_map(lost_of_talk).sum::<usize>();
        }
        check_transfers(self.transfers, router);
        // What closing connections say last is to be seen too.
        std::thread::sleep(Duration::from_millis(300));
        let captured = self.capture.stop().unwrap();
        router.assert_sound(&router.judge(&captured));
        outcome
    }
}

impl Outcome {
    /// New UDP flows that got no answer.
    pub fn unanswered(&self) -> usize {
        self.udp.iter().map(|report| report.flows.len() - report.succeeded()).sum()
    }

    /// Every line carried some of the new flows that began in this time after the load did.
    pub fn assert_balanced(&self, during: Range<f64>, lines: usize) {
        let place = |seconds: f64| (seconds * scaled(RATE) as f64) as usize;
        let places = place(during.start)..place(during.end);
        for report in self.tcp.iter().chain(&self.udp) {
            let flows = &report.flows[places.clone()];
            let sources: BTreeSet<IpAddr> =
                flows.iter().flat_map(|flow| &flow.seen_as).map(|source| source.ip()).collect();
            assert_eq!(sources.len(), lines, "{during:?}: {sources:?}");
        }
    }
}

/// New UDP flows that begin in some time.
pub fn began_within(time: Duration) -> usize {
    (time.as_secs_f64() * 2.0 * scaled(RATE) as f64) as usize
}

/// The datagrams of a conversation without an answer. The first ones begin the flow.
fn lost_of_talk(flow: &FlowOutcome) -> Option<usize> {
    let failure = flow.failure.as_deref()?;
    let wanted: usize = failure.split(' ').nth(2)?.parse().unwrap_or_else(|_| panic!("{failure}"));
    Some(wanted - flow.answers)
}

/// One transfer after the other: round-robin gives each line its own.
fn transfers(router: &Router, time: Duration) -> Vec<RunningTransfer> {
    let mut transfers = Vec::new();
    for family in Family::BOTH {
        for _ in &router.network.lines {
            let transfer = Transfer {
                rate: Some(scaled(256 * 1024) as u64),
                stall: HITCH,
                ..Transfer::new(router.echo(family), time)
            };
            let running = transfer.start(&router.network.client().host).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            transfers.push(running);
        }
    }
    transfers
}

fn check_transfers(transfers: Vec<RunningTransfer>, router: &Router) {
    let mut sources = BTreeSet::new();
    let expected = transfers.len();
    for transfer in transfers {
        let report = transfer.wait().unwrap();
        assert_eq!((&report.failure, report.stalls.as_slice()), (&None, &[][..]), "{}", router.said());
        sources.extend(report.seen_as.map(|source| source.ip()));
    }
    assert_eq!(sources.len(), expected, "transfers by every line: {sources:?}");
}
