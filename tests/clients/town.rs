//! A router with rules for names and kinds, a site that speaks TLS, QUIC and SSH, and two resolvers.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::*;
use crate::http3;
use crate::router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::flows::Flows;
use wansplit::lab::host::{Host, Process};
use wansplit::lab::topology::Pair;

/// Flows of each kind: by chance they would rarely all go by one line.
pub const EACH: usize = 4;

/// No TCP connection is of a kind, as far as can be known when it begins.
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
[[rule]]
name = "calls"
match = { app = "sip" }
use = "isp1"
[[rule]]
name = "torrents"
match = { app = "bittorrent" }
use = "isp2"
"#;

/// What a resolver is told: a chain of two aliases, an alias, and names, all of one address and good
/// for no time at all.
const ALIASES: [&str; 3] =
    ["www.video.example,middle.example", "middle.example,edge.example", "git.example,edge.example"];
const NAMES: &str = "edge.example,plain.example";

/// Names of one family, for those who would choose one.
pub fn name_of(family: Family) -> &'static str {
    match family {
        Family::V4 => "four.video.example",
        Family::V6 => "six.video.example",
    }
}

/// A certificate of nobody, for names that are written out.
const CERTIFICATE: &str = "[req]\ndistinguished_name = nobody\nx509_extensions = names\n[nobody]\n[names]\n\
                           subjectAltName = DNS:www.video.example,DNS:four.video.example,\
                           DNS:six.video.example,DNS:git.example\n";

/// A router, a site, and two resolvers.
pub struct Town {
    pub router: Router,
    pub site: Pair,
    /// The address of the resolver on the router, and of the one outside.
    pub resolvers: [Pair; 2],
    _programs: Vec<Process>,
    _quic: Vec<http3::Site>,
}

impl Town {
    pub fn new(backend: &str) -> Town {
        let mut router = Router::new(backend, &[1, 1]);
        router.rule_file("names.toml", RULES);
        router.start();
        let network = &router.network;
        let (outside, site) = (network.servers[0], network.servers[1]);
        let inside = network.lans[0].router;
        let directory = router.files.path();
        let upstream = [format!("--server={}", outside.v4), "--cache-size=0".to_owned()];
        let mut programs = vec![
            dnsmasq(&network.internet, outside, &known(site)),
            dnsmasq(&network.router, inside, &upstream),
        ];
        certificate(&network.internet, directory);
        programs.extend(site.both().map(|address| tls_server(&network.internet, directory, address)));
        programs.push(banner(&network.internet));
        let quic = site
            .both()
            .map(|address| http3::Site::start(&network.internet, directory, SocketAddr::new(address, 443)));
        let resolvers = [inside, outside];
        let town = Town { site, resolvers, _programs: programs, _quic: quic.into(), router };
        town.wait_for_the_site();
        town
    }

    /// Runs a command several times on a client that asks this resolver.
    pub fn run(&self, client: usize, resolver: IpAddr, command: &str, times: usize) {
        let file = self.router.files.path().join("resolv.conf");
        fs::write(&file, format!("nameserver {resolver}\n")).unwrap();
        let script = format!(
            "mount --bind {} /etc/resolv.conf; for _ in $(seq {times}); do {{ {command}; }} < /dev/null; done",
            file.display()
        );
        let mut command_line = Command::new("unshare");
        command_line.args(["--mount", "sh", "-euc", &script]);
        let ended = self.client(client).try_run(&mut command_line, Duration::from_secs(120)).expect(command);
        assert!(ended.status.success(), "{command}: {}\n{}\n{}", ended.status, ended.stdout, ended.stderr);
    }

    pub fn client(&self, number: usize) -> Host {
        self.router.network.clients().nth(number).expect("a client").host.clone()
    }

    /// By which lines flows of a protocol went to a port of the site while something happened, and how many.
    pub fn lines_to(
        &self,
        protocol: u8,
        to: SocketAddr,
        happens: impl FnOnce(),
    ) -> BTreeMap<Arc<str>, usize> {
        let ((), flows): ((), Flows) = soundly(&self.router, happens);
        flows.shares_of(|flow| (flow.protocol, flow.dst, flow.dst_port) == (protocol, to.ip(), to.port()))
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

/// A server over UDP that answers datagram by datagram.
pub struct Answers {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Answers {
    pub fn start(
        host: &Host,
        at: SocketAddr,
        answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let socket = host.enter(|| UdpSocket::bind(at)).expect("a thread").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
        let is_over = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut asked = [0; 2048];
            while !is_over.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut asked) else { continue };
                if let Some(answer) = answer(&asked[..length]) {
                    socket.send_to(&answer, client).expect("an answer");
                }
            }
        });
        Answers { over, thread }
    }

    pub fn stop(self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("a server");
    }
}

/// What the resolver outside knows.
fn known(site: Pair) -> Vec<String> {
    let aliases = ALIASES.map(|alias| format!("--cname={alias}"));
    let both = format!("--host-record={NAMES},{},{}", site.v4, site.v6);
    let single = Family::BOTH.map(|family| format!("--host-record={},{}", name_of(family), site.of(family)));
    aliases.into_iter().chain([both]).chain(single).collect()
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
    fs::write(directory.join("names.cnf"), CERTIFICATE).unwrap();
    let words = "req -x509 -config names.cnf -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
                 -subj /CN=example -days 2 -keyout key.pem -out cert.pem";
    let mut command = Command::new("openssl");
    command.current_dir(directory).args(words.split_whitespace());
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
