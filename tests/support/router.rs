//! The lab's network with the real program running on its router.
//!
//! Every scenario takes the backend as an argument, so that one set of
//! scenarios serves all of them; [`backends`] says which work on this kernel.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wansplit::engine::gate::OPEN_FOR;
use wansplit::engine::packet::Family;
use wansplit::lab::article::configuration;
use wansplit::lab::capture::{Capture, Captured, Filter};
use wansplit::lab::flows::{Flows, flows_by_uplink};
use wansplit::lab::host::Process;
use wansplit::lab::network::Network;
use wansplit::lab::server::{Server, ServerSpec};
use wansplit::lab::topology::{Lan, Topology};
use wansplit::system::queue::counters;

/// The servers' port that answers, and the one that never does.
pub const ECHO: u16 = 7;
pub const SILENT: u16 = 9;

/// A network, a server in it, and a configured router; the program runs or not.
pub struct Router {
    pub network: Network,
    pub server: Server,
    pub files: TempDir,
    daemon: Option<Process>,
    /// How much the log held when the daemon was launched.
    said_before: usize,
}

impl Router {
    /// The article's network with these weights, one a line, ready for [`Router::start`].
    pub fn new(backend: &str, weights: &[u8]) -> Router {
        let mut topology = Topology::with_lines(weights.len());
        topology.lans = vec![Lan { clients: 4, vlan: None }];
        Router::of(backend, weights, &topology)
    }

    /// The same for any network.
    pub fn of(backend: &str, weights: &[u8], topology: &Topology) -> Router {
        let network = Network::build(topology).expect("the lab's network");
        let addresses: Vec<IpAddr> = network.servers.iter().flat_map(|server| server.both()).collect();
        let server = Server::start(&network.internet, ServerSpec::on(&addresses, &[ECHO], &[SILENT]))
            .expect("the lab's server");
        let router = Router {
            network,
            server,
            files: TempDir::new().expect("a directory"),
            daemon: None,
            said_before: 0,
        };
        router.configure(&format!("backend = \"{backend}\"\n{}", configuration(&router.network, weights)));
        router
    }

    /// Replaces the configuration file.
    pub fn configure(&self, text: &str) {
        std::fs::write(self.config(), text).expect("the configuration file");
    }

    /// The text of the configuration file.
    pub fn configuration(&self) -> String {
        std::fs::read_to_string(self.config()).expect("the configuration file")
    }

    /// Adds keys of the top level before, and tables after, what the configuration says already.
    pub fn configure_more(&self, before: &str, after: &str) {
        self.configure(&format!("{before}\n{}\n{after}\n", self.configuration()));
    }

    /// Writes a rule file.
    pub fn rule_file(&self, name: &str, text: &str) {
        let directory = self.files.path().join("rules");
        std::fs::create_dir_all(&directory).expect("the rules directory");
        std::fs::write(directory.join(name), text).expect("a rule file");
    }

    pub fn config(&self) -> PathBuf {
        self.files.path().join("wansplit.toml")
    }

    /// A command of the program, with this router's files.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.arg("--config").arg(self.config()).arg("--run-dir").arg(self.files.path().join("run"));
        command.args(arguments);
        command
    }

    /// Runs a command of the program to its end; standard output, and the error where it failed.
    pub fn wansplit(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self
            .network
            .router
            .try_run(&mut self.command(arguments), Duration::from_secs(60))
            .expect("the program runs");
        if output.status.success() { Ok(output.stdout) } else { Err(output.stderr) }
    }

    /// Starts the daemon and waits until it says that it is ready and the gate is open.
    pub fn start(&mut self) {
        self.launch();
        self.wait_until("the gate opens", |status| status["gate"]["open"] == true && self.is_ready());
    }

    /// Whether the daemon that was launched last has said that it is ready.
    fn is_ready(&self) -> bool {
        self.said()[self.said_before..].contains("INFO ready")
    }

    /// Starts the daemon and waits for nothing.
    pub fn launch(&mut self) {
        self.said_before = self.said().len();
        self.launch_as(self.command(&["-v", "run"]));
    }

    /// Starts a command of the program as the daemon, and waits for nothing.
    pub fn launch_as(&mut self, mut command: Command) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.log()).expect("the daemon's log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.daemon = Some(self.network.router.spawn(&mut command).expect("the daemon starts"));
    }

    /// Waits until the daemon has opened the gate, or has ended: then with its exit status.
    pub fn wait_for_start(&mut self) -> Option<std::process::ExitStatus> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.daemon().wait(Duration::ZERO).expect("a wait") {
                self.daemon = None;
                return Some(status);
            }
            if self.status()["gate"]["open"] == true {
                return None;
            }
            assert!(Instant::now() < deadline, "neither a start nor an end:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> PathBuf {
        self.files.path().join("daemon.log")
    }

    /// What the daemon said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Begins the daemon's log anew.
    pub fn forget_what_was_said(&self) {
        std::fs::write(self.log(), "").expect("the daemon's log");
    }

    pub fn daemon(&mut self) -> &mut Process {
        self.daemon.as_mut().expect("the daemon was started")
    }

    /// `status --json`, or null while nobody answers.
    pub fn status(&self) -> serde_json::Value {
        let answer = self.wansplit(&["status", "--json"]).unwrap_or_default();
        serde_json::from_str(&answer).unwrap_or_default()
    }

    pub fn wait_until(&self, what: &str, mut is_so: impl FnMut(&serde_json::Value) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_so(&self.status()) {
            assert!(Instant::now() < deadline, "{what}: did not happen; the daemon said:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the daemon has said this.
    pub fn wait_until_said(&self, words: &str) {
        self.wait_until(words, |_| self.said().contains(words));
    }

    /// Ends the daemon with SIGTERM and checks that it went well.
    pub fn stop(&mut self) {
        let mut daemon = self.daemon.take().expect("the daemon was started");
        daemon.signal(nix::sys::signal::Signal::SIGTERM).expect("a signal");
        let status = daemon.wait(Duration::from_secs(20)).expect("a wait");
        assert!(status.is_some_and(|status| status.success()), "{status:?}:\n{}", self.said());
    }

    /// Ends the daemon with SIGKILL.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("the daemon was started");
        daemon.signal(nix::sys::signal::Signal::SIGKILL).expect("a signal");
        daemon.wait(Duration::from_secs(20)).expect("a wait");
    }

    /// Sends the daemon a signal.
    pub fn signal(&mut self, signal: nix::sys::signal::Signal) {
        self.daemon().signal(signal).expect("a signal");
    }

    /// Packets that the router's kernel has ever put into its present queues.
    pub fn queued(&self) -> u64 {
        let queues = self.network.router.enter(counters::read).expect("the kernel's counters");
        queues.iter().map(|queue| queue.queued).sum()
    }

    /// The first server's address and the port that answers.
    pub fn echo(&self, family: Family) -> SocketAddr {
        SocketAddr::new(self.network.servers[0].of(family), ECHO)
    }

    pub fn silent(&self, family: Family) -> SocketAddr {
        SocketAddr::new(self.network.servers[0].of(family), SILENT)
    }

    /// Captures what crosses the router's devices.
    pub fn capture(&self) -> Capture {
        Capture::start(&self.network.router, Filter::default()).expect("a capture")
    }

    /// Sorts a complete capture by uplink.
    pub fn judge(&self, captured: &Captured) -> Flows {
        assert_eq!((captured.missed, captured.beyond_limit), (0, 0), "the capture is not complete");
        flows_by_uplink(&captured.records, &self.network.lines)
    }

    /// No packet with a wrong source left by any line, and no flow by two.
    pub fn assert_sound(&self, flows: &Flows) {
        assert_eq!(flows.strays, [], "strays");
        assert_eq!(flows.split().collect::<Vec<_>>(), Vec::<&_>::new(), "split flows");
        let dropped: u64 = self.network.strays().expect("the ISPs' counters").iter().sum();
        assert_eq!(dropped, 0, "packets that the ISPs dropped for their source");
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A daemon that was late says so late.
            std::thread::sleep(OPEN_FOR);
        }
        let said = self.said();
        let was_late = LATE.iter().any(|words| said.contains(words));
        WAS_LATE.set(WAS_LATE.get() || was_late);
    }
}

thread_local! {
    /// Whether a daemon of this thread's scenario has said that it was late.
    static WAS_LATE: Cell<bool> = const { Cell::new(false) };
}

/// What a daemon says that did not keep its gate open, or did not hear the answers to its probes, in time.
const LATE: [&str; 2] = ["WARN the gate closed for a while", "is avoided for"];

/// How often a scenario is begun until its daemon is never late.
const ATTEMPTS: usize = 5;

/// Runs a scenario that counts flows by the line that was decided, with lines that work. On a machine
/// too busy for the daemon the gate closes and the kernel decides, or lines count as dead: a failure then
/// says nothing, and the scenario is run again. Any other failure is final.
pub fn with_an_open_gate(scenario: impl Fn()) {
    for attempt in 1.. {
        WAS_LATE.set(false);
        let Err(failure) = catch_unwind(AssertUnwindSafe(&scenario)) else { return };
        if !WAS_LATE.get() || attempt == ATTEMPTS {
            resume_unwind(failure);
        }
        eprintln!("the machine was too busy for the daemon: attempt {attempt} says nothing");
    }
}

/// The program under test.
pub fn program() -> PathBuf {
    std::env::var_os("WANSPLIT_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_wansplit").into(), PathBuf::from)
}

/// The backends to try: those named in WANSPLIT_BACKENDS, or both flavours of iptables.
pub fn backends() -> Vec<String> {
    let named = std::env::var("WANSPLIT_BACKENDS").unwrap_or_else(|_| "iptables-nft,iptables-legacy".into());
    named.split(',').map(String::from).collect()
}

/// Scenarios that mostly wait can do so for all backends at the same time.
pub fn side_by_side(scenario: fn(&str)) {
    std::thread::scope(|scope| {
        for backend in backends() {
            scope.spawn(move || scenario(&backend));
        }
    });
}

/// A number of flows, fewer where WANSPLIT_SCALE asks for it (a slow machine).
pub fn scaled(flows: usize) -> usize {
    flows / scale() as usize
}

/// A time in which the program shall have done something, longer on a slow machine.
pub fn slowed(time: std::time::Duration) -> std::time::Duration {
    time * scale()
}

fn scale() -> u32 {
    std::env::var("WANSPLIT_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1)
}

/// Asserts that counts are as the weights say, to within `slack` flows each.
pub fn assert_shares(counts: &BTreeMap<std::sync::Arc<str>, usize>, weights: &[u8], slack: f64) {
    let total: usize = counts.values().sum();
    let of: usize = weights.iter().map(|&weight| usize::from(weight)).sum();
    for (place, &weight) in weights.iter().enumerate() {
        let name = format!("wan{}", place + 1);
        let count = counts.get(name.as_str()).copied().unwrap_or(0);
        let due = total as f64 * f64::from(weight) / of as f64;
        assert!((count as f64 - due).abs() <= slack, "{name} has {count} of {total}, due {due}: {counts:?}");
    }
}
