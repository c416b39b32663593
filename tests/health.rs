//! Lines that die, lie and come back behind a carrier, and who goes where meanwhile.

#[path = "support/router.rs"]
mod router;

#[path = "support/tun.rs"]
mod tun;

#[allow(dead_code, reason = "each test program uses its own part of this")]
#[path = "traffic/common.rs"]
mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::*;
use nix::sys::signal::Signal;
use router::*;
use serde_json::Value;
use wansplit::engine::packet::Family;
use wansplit::lab::host::Host;
use wansplit::lab::network::IspLine;

/// Much more than a verdict takes, on a machine that does much else.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_dead_path_with_a_carrier_is_left_by_new_flows_in_the_kernel_too_and_used_again_when_it_lives() {
    side_by_side(|backend| {
        let mut router = two_lines(backend, &PUBLIC);
        wait_for_health(&router, 0, "ipv4", "up");
        let client = &router.network.client().host.clone();
        soundly(&router, || {
            assert_eq!(by_line(&router.network, &tcp(client, router.echo(Family::V4), 10)), [5, 5])
        });

        let cut = Instant::now();
        ip(&router.network.lines[0].isp, "link set core down");
        for family in ["ipv4", "ipv6"] {
            wait_for_health(&router, 0, family, "down");
        }
        eprintln!("{backend}: a dead path was noticed after {:?}", cut.elapsed());
        wait_for_line(&router, 0, false);
        let status = router.status();
        assert_eq!(status["uplinks"][0]["ipv4"]["state"], "down");
        assert_eq!(status["uplinks"][0]["ipv4"]["why_not"], "too few targets answer");
        let explained = router.wansplit(&["explain", "--live", "tcp 10.77.0.10:4000 > 192.0.2.1:7"]).unwrap();
        assert!(explained.contains("avoided now: isp1: too few targets answer"), "{explained}");
        for family in Family::BOTH {
            soundly(&router, || {
                assert_eq!(by_line(&router.network, &tcp(client, router.echo(family), 10)), [0, 10])
            });
        }

        // Its routes are still there, for what goes on.
        let routes = router
            .network
            .router
            .run(std::process::Command::new("ip").args(["route", "show", "table", "101"]));
        assert!(routes.unwrap().contains("default via 198.51.100.1"));
        wait_for_the_plan(&router);

        // The kernel alone keeps off the line as well.
        router.kill();
        std::thread::sleep(Duration::from_millis(1500));
        let spread = udp(client, router.echo(Family::V4), 40);
        assert_eq!(by_line(&router.network, &spread), [0, 40]);

        ip(&router.network.lines[0].isp, "link set core up");
        bring_core_up(&router.network.lines[0]);
        router.start();
        wait_for_health(&router, 0, "ipv4", "up");
        wait_for_line(&router, 0, true);
        soundly(&router, || {
            assert_eq!(by_line(&router.network, &tcp(client, router.echo(Family::V4), 10)), [5, 5])
        });
        router.stop();
    });
}

#[test]
fn a_line_that_returns_takes_few_flows_first_and_its_whole_share_in_the_end() {
    let mut router = Router::new(&backends()[0], &[1, 1]);
    let text = router.configuration();
    // Longer than this part takes on the slowest machine.
    router.configure(&text.replace("health.fill = \"0s\"", "health.fill = \"10m\""));
    router.start();
    let client = &router.network.client().host.clone();
    let lose_and_regain = |router: &Router| {
        Down::ByIsp.take(&router.network, 1);
        wait_for_line(router, 1, false);
        Down::ByIsp.undo(&router.network, 1);
        wait_for_line(router, 1, true);
    };
    lose_and_regain(&router);
    for family in Family::BOTH {
        let lines = by_line(&router.network, &tcp(client, router.echo(family), 200));
        assert!((1..50).contains(&lines[1]) && lines[0] + lines[1] == 200, "{family}: {lines:?}");
    }
    router.stop();

    router.configure(&text.replace("health.fill = \"0s\"", "health.fill = \"1s\""));
    router.start();
    lose_and_regain(&router);
    std::thread::sleep(Duration::from_secs(2));
    for family in Family::BOTH {
        assert_eq!(by_line(&router.network, &tcp(client, router.echo(family), 200)), [100, 100]);
    }
    router.stop();
}

#[test]
fn only_the_family_whose_path_is_dead_is_left() {
    let mut router = two_lines(&backends()[0], &PUBLIC);
    cut(&router.network.lines[0], "meta nfproto ipv6");
    wait_for_health(&router, 0, "ipv4", "up");
    router.wait_until("IPv6 is left", |status| status["uplinks"][0]["ipv6"]["state"] == "down");
    let client = &router.network.client().host.clone();
    assert_eq!(by_line(&router.network, &tcp(client, router.echo(Family::V4), 10)), [5, 5]);
    assert_eq!(by_line(&router.network, &tcp(client, router.echo(Family::V6), 10)), [0, 10]);
    heal(&router.network.lines[0]);
    wait_for_health(&router, 0, "ipv6", "up");
    router.stop();
}

#[test]
fn one_dead_target_of_three_takes_no_line_down() {
    let targets = ["icmp://192.0.2.1", "icmp://192.0.2.2", "icmp://192.0.2.77"];
    let mut router = two_lines(&backends()[0], &targets);
    wait_for_health(&router, 0, "ipv4", "up");
    cut(&router.network.lines[0], "ip daddr 192.0.2.77");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(health(&router.status(), 0, "ipv4")["state"], "up");
    cut(&router.network.lines[0], "ip daddr 192.0.2.2");
    wait_for_health(&router, 0, "ipv4", "down");
    assert_eq!(health(&router.status(), 1, "ipv4")["state"], "up");
    router.stop();
}

#[test]
fn a_captive_portal_counts_as_down_and_an_honest_page_as_up() {
    let mut router = Router::new(&backends()[0], &[1, 1]);
    let page = Page::serve(&router.network.internet, "192.0.2.1:80", 204);
    let portal = Page::serve(&router.network.lines[0].isp, "100.64.1.1:8080", 302);
    try_by(&router, &["http://192.0.2.1/generate_204"]);
    router.start();
    for line in [0, 1] {
        wait_for_health(&router, line, "ipv4", "up");
    }
    sh(
        &router.network.lines[0].isp,
        "nft 'table ip portal { chain c { type nat hook prerouting priority -100; \
         tcp dport 80 dnat to 100.64.1.1:8080; }; }'",
    );
    for status in [302, 200, 511] {
        portal.answer(status);
        wait_for_health(&router, 0, "ipv4", "down");
    }
    sh(&router.network.lines[0].isp, "nft delete table ip portal");
    wait_for_health(&router, 0, "ipv4", "up");
    page.answer(503);
    for line in [0, 1] {
        wait_for_health(&router, line, "ipv4", "down");
    }
    router.stop();
}

#[test]
fn every_kind_of_target_answers_in_both_families() {
    let mut router = Router::new(&backends()[0], &[1, 1]);
    let _pages =
        ["192.0.2.1:80", "[2001:db8:ffff::1]:80"].map(|at| Page::serve(&router.network.internet, at, 200));
    let _resolvers =
        ["192.0.2.1:53", "[2001:db8:ffff::1]:53"].map(|at| Resolver::serve(&router.network.internet, at));
    let targets = [
        "icmp://192.0.2.1",
        "icmp://2001:db8:ffff::1",
        "tcp://192.0.2.1:7",
        "tcp://[2001:db8:ffff::1]:7",
        "dns://192.0.2.1/example.com",
        "dns://2001:db8:ffff::1/example.com",
        "http://192.0.2.1/",
        "http://[2001:db8:ffff::1]/",
        "arp://gateway",
    ];
    try_by(&router, &targets);
    router.configure(&router.configuration().replace("health.targets", "health.quorum = 5\nhealth.targets"));
    router.start();
    let capture = router.capture();
    for line in [0, 1] {
        for family in ["ipv4", "ipv6"] {
            wait_for_health(&router, line, family, "up");
            let health = health(&router.status(), line, family);
            assert!(health["latency_ms"].as_f64().is_some_and(|latency| latency < 500.0), "{health}");
        }
    }
    // Every probe left by its own line, with that line's address.
    router.assert_sound(&router.judge(&capture.stop().unwrap()));
    router.stop();
}

#[test]
fn a_line_on_which_new_flows_get_no_answers_is_suspected_and_tried_at_once() {
    let mut router = Router::new(&backends()[0], &[1, 1]);
    try_by(&router, &PUBLIC);
    let text = router.configuration();
    router.configure(&text.replace("health.targets", "health.interval = \"60s\"\nhealth.targets"));
    router.start();
    for line in [0, 1] {
        wait_for_health(&router, line, "ipv4", "up");
    }
    let client = &router.network.client().host.clone();
    // One answer is enough for a line whose targets answer.
    cut(&router.network.lines[0], "meta l4proto tcp");
    router.wait_until("isp1 is suspected", |_| {
        for server in &router.network.servers {
            let _ = connects(client, SocketAddr::new(server.of(Family::V4), ECHO));
        }
        router.said().contains("uplink isp1 is avoided for IPv4: new flows get no answers")
    });
    wait_for_health(&router, 0, "ipv4", "up");
    heal(&router.network.lines[0]);
    cut(&router.network.lines[0], "meta l4proto { tcp, icmp }");
    let begun = Instant::now();
    while health(&router.status(), 0, "ipv4")["state"] != "down" {
        assert!(begun.elapsed() < SOON, "nobody suspects a thing:\n{}", router.said());
        for server in &router.network.servers {
            let _ = connects(client, SocketAddr::new(server.of(Family::V4), ECHO));
        }
    }
    assert_eq!(health(&router.status(), 1, "ipv4")["state"], "up");
    router.stop();
}

#[test]
fn a_page_over_tls_counts_only_with_a_certificate_that_the_system_trusts() {
    let mut router = Router::new(&backends()[0], &[1, 1]);
    let [key, trusted] =
        ["key.pem", "cert.pem"].map(|name| router.files.path().join(name).display().to_string());
    let made = router.network.internet.run(
        std::process::Command::new("openssl").args(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=page \
         -addext subjectAltName=IP:192.0.2.1 -addext basicConstraints=critical,CA:FALSE -keyout"
                .split_whitespace()
                .chain([key.as_str(), "-out", &trusted]),
        ),
    );
    if let Err(error) = made {
        eprintln!("SKIPPED: no certificate without openssl: {error:#}");
        return;
    }
    let server = format!("openssl s_server -accept 192.0.2.1:443 -key {key} -cert {trusted} -www -quiet");
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", &format!("exec {server}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _server = router.network.internet.spawn(&mut command).expect("a server");
    try_by(&router, &["https://192.0.2.1/"]);
    let mut daemon = router.command(&["-v", "run"]);
    daemon.env("SSL_CERT_FILE", &trusted);
    router.launch_as(daemon);
    wait_for_health(&router, 0, "ipv4", "up");
    router.stop();
    // The system knows nothing of it.
    let mut daemon = router.command(&["-v", "run"]);
    daemon.env_remove("SSL_CERT_FILE");
    router.launch_as(daemon);
    wait_for_health(&router, 0, "ipv4", "down");
    assert!(router.said().contains("https://192.0.2.1/ by wan1: "), "{}", router.said());
    router.stop();
}

#[test]
fn lines_that_are_all_called_down_are_used_all_the_same_and_status_says_so() {
    let mut router = Router::new(&backends()[0], &[1, 1]);
    try_by(&router, &["icmp://192.0.2.77", "icmp://2001:db8:ffff::77"]);
    router.start();
    let client = &router.network.client().host.clone();
    // Nobody waits for the first verdict.
    assert_eq!(by_line(&router.network, &tcp(client, router.echo(Family::V4), 10)), [5, 5]);
    for line in [0, 1] {
        wait_for_health(&router, line, "ipv4", "down");
        wait_for_health(&router, line, "ipv6", "down");
    }
    router.wait_until("all lines are used again", |status| {
        [0, 1].iter().all(|&line: &usize| status["uplinks"][line]["ipv4"]["state"] == "up")
    });
    assert!(router.status()["warnings"].to_string().contains("probes call every line down for IPv4"));
    assert_eq!(by_line(&router.network, &tcp(client, router.echo(Family::V4), 10)), [5, 5]);
    // A line without a carrier is another matter.
    ip(&router.network.lines[0].isp, "link set customer down");
    wait_for_line(&router, 0, false);
    assert_eq!(by_line(&router.network, &tcp(client, router.echo(Family::V4), 10)), [0, 10]);
    router.stop();
}

#[test]
fn a_lost_carrier_is_left_at_once_by_new_flows_and_probes_say_nothing_of_it() {
    let mut router = two_lines(&backends()[0], &PUBLIC);
    wait_for_health(&router, 0, "ipv4", "up");
    let cut = Instant::now();
    ip(&router.network.lines[0].isp, "link set customer down");
    let pulled = cut.elapsed();
    while !router.said().contains("uplink isp1 is not usable for IPv4: the link is down") {
        assert!(cut.elapsed() < SOON, "{}", router.said());
        std::thread::sleep(Duration::from_millis(1));
    }
    eprintln!("a lost carrier was left {:?} after the command that took {pulled:?}", cut.elapsed() - pulled);
    let client = &router.network.client().host.clone();
    assert_eq!(by_line(&router.network, &tcp(client, router.echo(Family::V4), 10)), [0, 10]);
    wait_for_line(&router, 0, false);
    assert!(!router.said().contains("uplink isp1 is avoided"), "{}", router.said());
    assert_eq!(health(&router.status(), 0, "ipv4"), Value::Null);
    router.stop();
}

#[test]
fn a_carrier_that_flaps_ten_times_a_second_is_left_until_it_holds() {
    let mut router = two_lines(&backends()[0], &PUBLIC);
    wait_for_health(&router, 0, "ipv4", "up");
    router.forget_what_was_said();
    for _ in 0..50 {
        ip(&router.network.lines[0].isp, "link set customer down");
        std::thread::sleep(Duration::from_millis(50));
        ip(&router.network.lines[0].isp, "link set customer up");
        std::thread::sleep(Duration::from_millis(50));
    }
    bring_up(&router.network.lines[0]);
    let begun = Instant::now();
    wait_for_health(&router, 0, "ipv4", "up");
    assert!(begun.elapsed() > Duration::from_secs(3), "it came back after {:?}", begun.elapsed());
    let taken_back = router.said().matches("uplink isp1 works for IPv4").count();
    assert!((1..=4).contains(&taken_back), "taken back {taken_back} times:\n{}", router.said());
    router.stop();
}

#[test]
fn a_fifth_of_the_packets_lost_is_measured_and_no_reason_to_leave_and_most_of_them_is() {
    let mut router = two_lines(&backends()[0], &PUBLIC);
    wait_for_health(&router, 0, "ipv4", "up");
    router.forget_what_was_said();
    cut(&router.network.lines[0], "numgen random mod 100 < 10");
    std::thread::sleep(Duration::from_secs(12));
    let said = router.said();
    assert!(!said.contains("avoided"), "{said}");
    let health = health(&router.status(), 0, "ipv4");
    assert!(health["loss_percent"].as_f64().is_some_and(|loss| loss > 2.0), "{health}");
    heal(&router.network.lines[0]);
    cut(&router.network.lines[0], "numgen random mod 100 < 60");
    wait_for_health(&router, 0, "ipv4", "down");
    heal(&router.network.lines[0]);
    wait_for_health(&router, 0, "ipv4", "up");
    router.stop();
}

#[test]
fn a_daemon_that_was_stopped_for_seconds_takes_no_line_for_dead() {
    side_by_side(|backend| {
        let mut router = two_lines(backend, &PUBLIC);
        for line in [0, 1] {
            wait_for_health(&router, line, "ipv4", "up");
            wait_for_health(&router, line, "ipv6", "up");
        }
        router.forget_what_was_said();
        let client = &router.network.client().host.clone();
        for _ in 0..5 {
            router.signal(Signal::SIGSTOP);
            // Flows that begin meanwhile, and wait for an answer so long, are no evidence either.
            let (client, to) = (client.clone(), router.echo(Family::V4));
            let flows = std::thread::spawn(move || udp(&client, to, 20));
            std::thread::sleep(Duration::from_secs(2));
            router.signal(Signal::SIGCONT);
            flows.join().unwrap();
            std::thread::sleep(Duration::from_secs(2));
        }
        assert!(!router.said().contains("is avoided"), "{}", router.said());
        router.stop();
    });
}

#[test]
fn a_line_that_is_called_down_when_the_program_ends_stays_out_of_the_kernels_choice_and_that_is_said() {
    side_by_side(|backend| {
        let mut router = two_lines(backend, &PUBLIC);
        wait_for_health(&router, 0, "ipv4", "up");
        cut(&router.network.lines[0], "meta nfproto ipv4");
        wait_for_health(&router, 0, "ipv4", "down");
        wait_for_the_plan(&router);
        router.stop();
        let said = "uplink isp1 was called down for IPv4 and stays out of the kernel's choice";
        assert!(router.said().contains(said), "{}", router.said());
        assert!(!router.said().contains("isp2 was called down"), "{}", router.said());
        let client = &router.network.client().host.clone();
        assert_eq!(by_line(&router.network, &udp(client, router.echo(Family::V4), 40)), [0, 40]);
        let both = by_line(&router.network, &udp(client, router.echo(Family::V6), 40));
        assert!(both.iter().all(|&count| count > 0), "{both:?}");
        // Whoever starts it again has it found out anew.
        heal(&router.network.lines[0]);
        router.start();
        wait_for_health(&router, 0, "ipv4", "up");
        assert_eq!(by_line(&router.network, &tcp(client, router.echo(Family::V4), 10)), [5, 5]);
        router.stop();
    });
}

#[test]
fn answers_that_take_three_times_as_long_count_where_the_limit_says_so_and_nowhere_else() {
    let mut router = Router::new(&backends()[0], &[1, 1]);
    let slow = tun::Cable::between(&router.network.router, &router.network.lines[0].isp, "ppp0");
    let isp = &router.network.lines[0].isp;
    for (host, here, there) in [(&router.network.router, "77", "76"), (isp, "76", "77")] {
        ip(host, &format!("address add 198.51.100.{here} peer 198.51.100.{there} dev ppp0"));
        ip(host, "link set ppp0 up");
    }
    let limits = "leave = { latency = \"300ms\" }, rejoin = { latency = \"280ms\", for = \"2s\" }";
    router.configure(&format!(
        "backend = \"{}\"\nlan.interfaces = [\"lan0\"]\n[health]\ntargets = [\"icmp://192.0.2.1\"]\n\
         [[uplink]]\nname = \"isp1\"\ninterface = \"ppp0\"\nhealth = {{ {limits} }}\n\
         [[uplink]]\nname = \"isp2\"\ninterface = \"wan2\"\ngateway = \"203.0.113.1\"\n",
        backends()[0]
    ));
    slow.delay(Duration::from_millis(80));
    router.start();
    wait_for_health(&router, 0, "ipv4", "up");
    let latency = health(&router.status(), 0, "ipv4")["latency_ms"].as_f64().unwrap();
    assert!(latency >= 160.0, "{latency}");
    slow.delay(Duration::from_millis(240));
    wait_for_health(&router, 0, "ipv4", "down");
    assert!(router.said().contains("isp1 is avoided for IPv4: answers take too long"), "{}", router.said());
    assert_eq!(health(&router.status(), 1, "ipv4")["state"], "up");
    slow.delay(Duration::from_millis(80));
    wait_for_health(&router, 0, "ipv4", "up");
    router.stop();

    // The default limit is beyond that.
    router.configure(&router.configuration().replace(&format!("health = {{ {limits} }}\n"), ""));
    router.start();
    wait_for_health(&router, 0, "ipv4", "up");
    router.forget_what_was_said();
    slow.delay(Duration::from_millis(240));
    std::thread::sleep(Duration::from_secs(8));
    let latency = health(&router.status(), 0, "ipv4")["latency_ms"].as_f64().unwrap();
    assert!(latency >= 480.0, "{latency}");
    assert!(!router.said().contains("isp1 is avoided"), "{}", router.said());
    router.stop();
}

/// Targets of three operators, as it were, and the gateway.
const PUBLIC: [&str; 5] = [
    "icmp://192.0.2.1",
    "icmp://192.0.2.2",
    "icmp://2001:db8:ffff::1",
    "icmp://2001:db8:ffff::2",
    "arp://gateway",
];

/// A router with two lines that are tried by these targets, started.
fn two_lines(backend: &str, targets: &[&str]) -> Router {
    let mut router = Router::new(backend, &[1, 1]);
    try_by(&router, targets);
    router.start();
    router
}

/// Has lines tried by these targets instead of their gateways.
fn try_by(router: &Router, targets: &[&str]) {
    let text = router.configuration();
    let other = text.replace("health.targets = \"arp://gateway\"", &format!("health.targets = {targets:?}"));
    assert_ne!(text, other);
    router.configure(&other);
}

fn health(status: &Value, line: usize, family: &str) -> Value {
    status["uplinks"][line][family]["health"].clone()
}

/// Waits until probes say this of a line.
fn wait_for_health(router: &Router, line: usize, family: &str, state: &str) {
    let begun = Instant::now();
    router.wait_until(&format!("isp{} is {state} for {family}", line + 1), |status| {
        assert!(begun.elapsed() < 2 * SOON, "{}\n{}", health(status, line, family), router.said());
        health(status, line, family)["state"] == state
    });
}

fn sh(host: &Host, command: &str) {
    host.run(std::process::Command::new("sh").args(["-c", command])).expect(command);
}

/// Has an ISP drop what it passes on and what fits this.
fn cut(line: &IspLine, what: &str) {
    sh(
        &line.isp,
        &format!(
            "nft 'table inet cut {{ chain c {{ type filter hook forward priority 0; }}; }}; \
             add rule inet cut c {what} drop'"
        ),
    );
}

/// Has an ISP drop nothing any more.
fn heal(line: &IspLine) {
    sh(&line.isp, "nft delete table inet cut");
}

/// What an ISP's core device loses with its link in IPv6, and its routes.
fn bring_core_up(line: &IspLine) {
    let number = line.name.trim_start_matches("isp");
    sh(
        &line.isp,
        &format!(
            "ip address replace fd00:64:{number}::1/64 dev core nodad; \
        ip route replace default via 100.64.{number}.2; ip -6 route replace default via fd00:64:{number}::2"
        ),
    );
}

/// An HTTP server that answers everything with one status.
struct Page {
    status: Arc<AtomicU16>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Page {
    fn serve(host: &Host, at: &str, status: u16) -> Page {
        let at: SocketAddr = at.parse().unwrap();
        let listener = host.enter(move || TcpListener::bind(at)).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let status = Arc::new(AtomicU16::new(status));
        let stop = Arc::new(AtomicBool::new(false));
        let (answers, stops) = (Arc::clone(&status), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stops.load(Relaxed) {
                let Ok((mut connection, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                let _ = connection.set_nonblocking(false);
                let _ = connection.set_read_timeout(Some(Duration::from_secs(1)));
                let _ = connection.read(&mut [0; 1024]);
                let status = answers.load(Relaxed);
                let _ = write!(
                    connection,
                    "HTTP/1.1 {status} So\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
            }
        });
        Page { status, stop, thread: Some(thread) }
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Relaxed);
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A resolver that knows of no name.
struct Resolver {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    fn serve(host: &Host, at: &str) -> Resolver {
        let at: SocketAddr = at.parse().unwrap();
        let socket = host.enter(move || UdpSocket::bind(at)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 512];
            while !stops.load(Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut bytes) else { continue };
                (bytes[2], bytes[3]) = (0x81, 0x83);
                let _ = socket.send_to(&bytes[..length], from);
            }
        });
        Resolver { stop, thread: Some(thread) }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
