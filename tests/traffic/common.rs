//! What several of these scenarios do.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::capture::{Capture, Filter};
use wansplit::lab::flows::Flows;
use wansplit::lab::host::Host;
use wansplit::lab::network::{IspLine, Network};
use wansplit::lab::server::{Server, ServerSpec};
use wansplit::lab::traffic::{Pace, Report, TcpFlows, UdpFlows};

/// How long a flow that must not work is waited for.
pub const HOPELESS: Duration = Duration::from_millis(700);

/// Runs a scenario for every backend, with a gate that stays open.
pub fn for_each_backend(scenario: impl Fn(&str)) {
    backends().iter().for_each(|backend| with_an_open_gate(|| scenario(backend)));
}

/// Runs `ip` with these words on a machine.
pub fn ip(host: &Host, words: &str) {
    host.run(Command::new("ip").args(words.split(' '))).expect(words);
}

/// TCP and UDP servers that answer on these ports of some of a machine's addresses.
pub fn serve(host: &Host, addresses: &[IpAddr], ports: &[u16]) -> Server {
    Server::start(host, ServerSpec::on(addresses, ports, &[])).expect("a server")
}

/// The second server's address: whom the outside calls by.
pub fn outsider(network: &Network, family: Family) -> IpAddr {
    network.servers[1].of(family)
}

/// TCP connections, a few at a time, that must all work.
pub fn tcp(host: &Host, to: SocketAddr, count: usize) -> Report {
    worked(TcpFlows::new(to, Pace::burst(count, 20)).run(host).unwrap(), to)
}

/// UDP flows, a few at a time, that must all be answered.
pub fn udp(host: &Host, to: SocketAddr, count: usize) -> Report {
    worked(UdpFlows::new(to, Pace::burst(count, 20)).run(host).unwrap(), to)
}

/// TCP and UDP flows, from ports that no other flow of the test program has, bound to no
/// address. A socket without a port is routed before it gets one: some kernels then send
/// all flows to one service by one hop, and from each line's address they may choose the same port.
pub fn from_fresh_ports(host: &Host, to: SocketAddr, count: u16) -> [Report; 2] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let pace = Pace::burst(count.into(), 20);
    // Below the ports that the lab's machines choose from.
    let fresh = || Some(1_100 + NEXT.fetch_add(count, Ordering::Relaxed) % 8_800);
    let tcp = TcpFlows { first_port: fresh(), ..TcpFlows::new(to, pace) };
    let udp = UdpFlows { first_port: fresh(), ..UdpFlows::new(to, pace) };
    [worked(tcp.run(host).unwrap(), to), worked(udp.run(host).unwrap(), to)]
}

/// The report, when every flow in it worked.
pub fn worked(report: Report, to: SocketAddr) -> Report {
    assert_eq!(report.failures(), Default::default(), "to {to}");
    report
}

/// Whether a TCP connection can be made in a short time.
pub fn connects(host: &Host, to: SocketAddr) -> bool {
    let flow = TcpFlows { limit: HOPELESS, ..TcpFlows::new(to, Pace::burst(1, 1)) };
    flow.run(host).unwrap().succeeded() == 1
}

/// Captures what leaves the router while something happens, and finds it sound.
pub fn soundly<T>(router: &Router, happens: impl FnOnce() -> T) -> (T, Flows) {
    let capture = Capture::start(&router.network.router, Filter::default()).expect("a capture");
    let result = happens();
    let flows = router.judge(&capture.stop().expect("a capture"));
    router.assert_sound(&flows);
    (result, flows)
}

/// How many flows the server saw from each line, in their order.
pub fn by_line(network: &Network, report: &Report) -> Vec<usize> {
    let sources = report.by_source();
    let of = |line: &IspLine| {
        sources.iter().filter(|(source, _)| line.sources.contains(**source)).map(|(_, count)| count).sum()
    };
    network.lines.iter().map(of).collect()
}

/// Waits until the daemon says whether it uses a line for a family.
pub fn wait_for_line(router: &Router, line: usize, is_up: bool) {
    let state = if is_up { "up" } else { "down" };
    router.wait_until(&format!("line {} is {state}", line + 1), |status| {
        let uplink = &status["uplinks"][line];
        ["ipv4", "ipv6"].iter().all(|family| uplink[family]["state"] == state)
    });
}

/// Waits until the daemon has followed what changed on the machine: nothing is left to do.
pub fn wait_for_the_plan(router: &Router) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let to_do = router.wansplit(&["plan"]).expect("a plan");
        if to_do.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "still to do:\n{to_do}{}", router.said());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Gives an ISP's device back its link, and what IPv6 loses with a link.
pub fn bring_up(line: &IspLine) {
    ip(&line.isp, "link set customer up");
    ip(&line.isp, "address add fe80::1/64 dev customer nodad");
    ip(&line.isp, &format!("address add {}/64 dev customer nodad", line.gateway.v6));
    ip(&line.isp, &format!("route replace {} via {} dev customer", line.delegated, line.router.v6));
}

/// How a line goes down.
#[derive(Clone, Copy)]
pub enum Down {
    ByIsp,
    ByRouter,
}

impl Down {
    pub fn take(self, network: &Network, line: usize) {
        match self {
            Down::ByIsp => ip(&network.lines[line].isp, "link set customer down"),
            Down::ByRouter => ip(&network.router, &format!("link set {} down", network.lines[line].device)),
        }
    }

    pub fn undo(self, network: &Network, line: usize) {
        let lost = &network.lines[line];
        match self {
            Down::ByIsp => bring_up(lost),
            Down::ByRouter => {
                ip(&network.router, &format!("link set {} up", lost.device));
                let address = format!("address add {}/64 dev {} nodad", lost.router.v6, lost.device);
                ip(&network.router, &address);
            }
        }
    }
}
