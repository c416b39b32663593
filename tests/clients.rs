//! Programs that people use, by their names: curl, openssl, ssh and dig behind the router, with
//! dnsmasq as the resolver on the router and as one outside. Each goes by the line of its rule, on
//! its first flow, because the answer of DNS came before it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[path = "traffic/common.rs"]
#[allow(dead_code, reason = "each test program uses its own part of this")]
mod common;
#[path = "support/router.rs"]
mod router;

use common::*;
use router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::host::{Host, Process};
use wansplit::lab::topology::Pair;

/// Flows of each kind: by chance they would rarely all go by one line.
const EACH: usize = 4;

const RULES: &str = r#"
[[rule]]
name = "video"
match = { host = "*.video.example" }
use = "isp2"
[[rule]]
name = "sources"
match = { host = "git.example" }
use = "isp1"
[[rule]]
name = "questions"
match = { app = "dns" }
use = "isp2"
"#;

/// What a resolver is told: a chain of two aliases, an alias, and names, all of one address and good
/// for no time at all.
const ALIASES: [&str; 3] =
    ["www.video.example,middle.example", "middle.example,edge.example", "git.example,edge.example"];
const NAMES: &str = "edge.example,plain.example";

#[test]
fn programs_go_by_the_line_of_the_name_they_asked_for() {
    if let Some(backend) = backends().first() {
        with_an_open_gate(|| Town::new(backend).try_all());
    }
}

/// A router with rules for names, a site, and two resolvers.
struct Town {
    router: Router,
    site: Pair,
    /// The address of the resolver on the router, and of the one outside.
    resolvers: [Pair; 2],
    _programs: Vec<Process>,
}

impl Town {
    fn new(backend: &str) -> Town {
        let mut router = Router::new(backend, &[1, 1]);
        router.rule_file("names.toml", RULES);
        router.start();
        let network = &router.network;
        let (outside, site) = (network.servers[0], network.servers[1]);
        let inside = network.lans[0].router;
        let directory = router.files.path();
        let known: Vec<String> = ALIASES
            .map(|alias| format!("--cname={alias}"))
            .into_iter()
            .chain([format!("--host-record={NAMES},{},{}", site.v4, site.v6)])
            .collect();
        let upstream = [format!("--server={}", outside.v4), "--cache-size=0".to_owned()];
        let mut programs =
            vec![dnsmasq(&network.internet, outside, &known), dnsmasq(&network.router, inside, &upstream)];
        certificate(&network.internet, directory);
        programs.extend(site.both().map(|address| tls_server(&network.internet, directory, address)));
        programs.push(banner(&network.internet));
        let town = Town { site, resolvers: [inside, outside], _programs: programs, router };
        town.wait_for_the_site();
        town
    }

    fn try_all(mut self) {
        for (resolver, clients) in [(0, [0, 1]), (1, [2, 3])] {
            for family in Family::BOTH {
                self.names_choose(resolver, clients, family);
            }
        }
        self.router.stop();
    }

    fn names_choose(&self, resolver: usize, [one, other]: [usize; 2], family: Family) {
        let about = format!("resolver {resolver}, {family}");
        let at = self.resolvers[resolver].of(family);
        let tls = |words: &str| {
            let (flag, certain) = (flag(family), "-k --silent --output /dev/null --max-time 10");
            format!("curl {flag} {certain} {words}")
        };
        let hello = |name: &str| {
            format!("openssl s_client {} -connect {name}:443 -servername {name} -brief", flag(family))
        };
        let shell = |name: &str| {
            let quiet = "-o BatchMode=yes -o ConnectTimeout=5 -o StrictHostKeyChecking=no -F /dev/null";
            format!("ssh {} {quiet} {name} true || test $? = 255", flag(family))
        };
        for (client, port, line, command) in [
            (one, 443, "wan2", tls("https://www.video.example/")),
            (one, 443, "wan2", hello("www.video.example")),
            (one, 443, "wan2", key_share(&hello("www.video.example"))),
            // Another name of the same address, asked for by another client.
            (other, 22, "wan1", shell("git.example")),
            (other, 443, "wan1", tls("https://git.example/")),
            (other, 443, "wan1", hello("git.example")),
            // The first keeps the name that it was told.
            (one, 443, "wan2", tls("https://www.video.example/")),
        ] {
            let ((), flows) = soundly(&self.router, || self.run(client, at, &command, EACH));
            let to = SocketAddr::new(self.site.of(family), port);
            let by = flows.shares_of(|flow| (flow.dst, flow.dst_port) == (to.ip(), to.port()));
            assert_eq!(
                by,
                BTreeMap::from([(line.into(), EACH)]),
                "{about}: {command}\n{}",
                self.router.said()
            );
        }
        if resolver == 1 {
            self.questions_go_by_their_line(one, at);
        }
    }

    /// Only those to the resolver outside leave by a line at all.
    fn questions_go_by_their_line(&self, client: usize, resolver: IpAddr) {
        let command = "dig +short +tries=1 www.video.example A | grep -q edge.example";
        let ((), flows) = soundly(&self.router, || self.run(client, resolver, command, EACH));
        let by = flows.shares_of(|flow| (flow.dst, flow.dst_port) == (resolver, 53));
        assert_eq!(by, BTreeMap::from([("wan2".into(), EACH)]), "questions to {resolver}");
    }

    /// Runs a command several times on a client that asks this resolver.
    fn run(&self, client: usize, resolver: IpAddr, command: &str, times: usize) {
        let file = self.router.files.path().join("resolv.conf");
        fs::write(&file, format!("nameserver {resolver}\n")).unwrap();
        let script = format!(
            "mount --bind {} /etc/resolv.conf; for _ in $(seq {times}); do {{ {command}; }} < /dev/null; done",
            file.display()
        );
        let host = &self.client(client);
        host.run(Command::new("unshare").args(["--mount", "sh", "-euc", &script])).expect(command);
    }

    fn client(&self, number: usize) -> Host {
        self.router.network.clients().nth(number).expect("a client").host.clone()
    }

    /// Programs say at different times that they are ready, so they are asked.
    fn wait_for_the_site(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        for resolver in self.resolvers.iter().flat_map(|resolver| resolver.both()) {
            let question = format!("dig +short +tries=1 +timeout=1 @{resolver} plain.example A");
            let ask = || self.router.network.router.shell(&question).unwrap_or_default();
            while !ask().contains(&self.site.v4.to_string()) {
                assert!(Instant::now() < deadline, "no answer from {resolver}");
            }
        }
        let internet = &self.router.network.internet;
        for address in self.site.both() {
            let connect = || TcpStream::connect(SocketAddr::new(address, 443)).is_ok();
            while !internet.enter(connect).expect("a thread") {
                assert!(Instant::now() < deadline, "no TLS on {address}");
            }
        }
    }
}

fn dnsmasq(host: &Host, at: Pair, more: &[String]) -> Process {
    let mut command = Command::new("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
    ]);
    command.args(["--bind-interfaces", "--pid-file=", "--log-facility=-"]);
    command.args(at.both().map(|address| format!("--listen-address={address}")));
    command.args(more).stdout(Stdio::null()).stderr(Stdio::null());
    host.spawn(&mut command).expect("dnsmasq")
}

fn certificate(host: &Host, directory: &Path) {
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=example -days 2";
    let mut command = Command::new("openssl");
    command.current_dir(directory).args(words.split(' ')).args(["-keyout", "key.pem", "-out", "cert.pem"]);
    host.run(&mut command).expect("a certificate");
}

fn tls_server(host: &Host, directory: &Path, address: IpAddr) -> Process {
    let at = SocketAddr::new(address, 443).to_string();
    let mut command = Command::new("openssl");
    command
        .current_dir(directory)
        .args(["s_server", "-quiet", "-www", "-key", "key.pem", "-cert", "cert.pem"]);
    command.args(["-accept", &at]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    host.spawn(&mut command).expect("openssl")
}

/// As much of a server as says that it is one of SSH.
fn banner(host: &Host) -> Process {
    let mut command = Command::new("busybox");
    command.args(["nc", "-ll", "-p", "22", "-e", "echo", "SSH-2.0-banner"]);
    host.spawn(command.stdout(Stdio::null()).stderr(Stdio::null())).expect("busybox")
}

/// With a key share that takes a second segment, where this version of openssl has it (3.5).
fn key_share(command: &str) -> String {
    format!(
        "if openssl list -kem-algorithms | grep -q X25519MLKEM768; then {command} -groups X25519MLKEM768; \
             else {command} -groups P-521:X25519; fi"
    )
}

fn flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}
