//! Carries the firewall's part of a plan out: which backend works here, what of
//! ours is there, and the steps from one to the other.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{self, Write};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use crate::engine::packet::Family;
use crate::engine::uplink::pick::slots::SlotHash;
use crate::plan::firewall::iptables::{self, Flavour, Table};
use crate::plan::firewall::model::{Firewall, PastCounts};
use crate::plan::firewall::nft;
use crate::plan::firewall::offload::{self, Account};
use crate::plan::script::Step;

/// How long the kernel may take to let go of sets.
const FREEING: Duration = Duration::from_secs(5);

/// A firewall backend that was found to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// nftables.
    Nft,
    /// iptables and ipset.
    #[serde(untagged)]
    Iptables(Flavour),
}

impl Backend {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Backend::Nft => "nft",
            Backend::Iptables(Flavour::Nft) => "iptables-nft",
            Backend::Iptables(Flavour::Legacy) => "iptables-legacy",
        }
    }

    /// The hash of the policy `hash` that its rules can compute.
    #[must_use]
    pub fn slot_hash(self) -> SlotHash {
        match self {
            Backend::Nft => SlotHash::Jenkins,
            Backend::Iptables(_) => SlotHash::Murmur,
        }
    }
}

/// Why a firewall operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program could not be started.
    #[error("cannot run {program}: {error}")]
    NotRun {
        /// The program.
        program: String,
        /// The system's reason.
        error: io::Error,
    },
    /// A program failed.
    #[error("{program} failed: {complaint}")]
    Failed {
        /// The program.
        program: String,
        /// What it wrote to its standard error.
        complaint: String,
    },
    /// The caller may not change the network.
    #[error("this needs root: CAP_NET_ADMIN, and CAP_SYS_ADMIN for trying the firewall out apart")]
    NotPermitted,
    /// No backend works.
    #[error("no firewall backend works here:\n{0}")]
    NoBackend(String),
}

/// The first of these that works here. Each is tried in an empty network
/// namespace of its own, so that nothing here is touched.
///
/// # Errors
/// When none works; the message says why for each.
pub fn probe(candidates: &[Backend]) -> Result<Backend, Error> {
    let mut complaints = Vec::new();
    for &backend in candidates {
        match try_out(backend) {
            Ok(()) => return Ok(backend),
            Err(Error::NotPermitted) => return Err(Error::NotPermitted),
            Err(error) => complaints.push(format!("  {}: {error}", backend.name())),
        }
    }
    let advice = "  Debian's packages nftables, or iptables and ipset, and a kernel with NFQUEUE are needed";
    complaints.push(advice.into());
    Err(Error::NoBackend(complaints.join("\n")))
}

/// Loads one rule with each thing we cannot do without.
fn try_out(backend: Backend) -> Result<(), Error> {
    let trial = move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
            Errno::EPERM => Error::NotPermitted,
            errno => Error::NotRun { program: "a trial".into(), error: errno.into() },
        })?;
        trial_steps(backend).iter().try_for_each(run)
    };
    thread::spawn(trial)
        .join()
        .unwrap_or_else(|_| Err(Error::Failed { program: "a trial".into(), complaint: "it panicked".into() }))
}

fn trial_steps(backend: Backend) -> Vec<Step> {
    let step = |program: &str, arguments: &[&str], input: &str| Step {
        program: program.into(),
        arguments: arguments.iter().map(ToString::to_string).collect(),
        input: input.into(),
        typed: Vec::new(),
    };
    match backend {
        Backend::Nft => {
            let rules = "table inet wansplit-trial {\n\
                 chain trial { type filter hook prerouting priority -149; \
                 jhash ip saddr . ip daddr mod 2 seed 0x1 0 queue flags bypass to 0-1\n }\n \
                 chain refuse { type filter hook forward priority -1; \
                 meta l4proto tcp reject with tcp reset\n }\n}\n";
            vec![step("nft", &["-f", "-"], rules)]
        }
        Backend::Iptables(flavour) => {
            let set = "create wansplit-trial hash:net timeout 1\n";
            let rules = "*mangle\n:wansplit-trial - [0:0]\n\
                 -A wansplit-trial -m set --match-set wansplit-trial src -m bpf --bytecode \"1,6 0 0 1\" \
                 -j NFQUEUE --queue-balance 0:1 --queue-bypass\nCOMMIT\n\
                 *filter\n:wansplit-trial - [0:0]\n\
                 -A wansplit-trial -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n";
            let program = flavour.program(Family::V4, "-restore");
            vec![step("ipset", &["-exist", "restore"], set), step(&program, &["--noflush", "-w", "5"], rules)]
        }
    }
}

/// What of ours a backend holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installed {
    /// In nft.
    Nft(nft::Installed),
    /// In one flavour of iptables.
    Iptables(Flavour, iptables::Installed),
}

impl Installed {
    /// Whether nothing of ours is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Installed::Nft(installed) => !installed.table,
            Installed::Iptables(_, installed) => installed.is_empty(),
        }
    }

    /// The steps that make the plan the state, from here.
    #[must_use]
    pub fn up(&self, firewall: &Firewall) -> Vec<Step> {
        match self {
            Installed::Nft(installed) => nft::up(firewall, installed),
            Installed::Iptables(flavour, installed) => iptables::up(firewall, *flavour, installed),
        }
    }

    /// The steps from here back to an earlier state, after a failure half-way.
    #[must_use]
    fn back_to(&self, before: &Installed) -> Vec<Step> {
        match (self, before) {
            (Installed::Iptables(flavour, now), Installed::Iptables(_, before)) => {
                iptables::back(before, *flavour, now)
            }
            (Installed::Nft(now), Installed::Nft(before)) => nft::back(before, now),
            // A machine keeps one backend.
            _ => Vec::new(),
        }
    }

    /// The steps that take away all that is ours.
    #[must_use]
    pub fn down(&self) -> Vec<Step> {
        match self {
            Installed::Nft(installed) => nft::down(installed),
            Installed::Iptables(flavour, installed) => iptables::down(*flavour, installed),
        }
    }
}

/// Every backend, for looking for traces of an earlier run.
#[must_use]
pub fn all_backends() -> [Backend; 3] {
    [Backend::Nft, Backend::Iptables(Flavour::Nft), Backend::Iptables(Flavour::Legacy)]
}

/// What of ours this backend holds; a backend whose programs are missing holds nothing.
///
/// # Errors
/// When its programs are there and fail.
pub fn observe(backend: Backend) -> Result<Installed, Error> {
    match backend {
        Backend::Nft => Ok(Installed::Nft(observe_nft()?)),
        Backend::Iptables(flavour) => Ok(Installed::Iptables(flavour, observe_iptables(flavour)?)),
    }
}

fn observe_nft() -> Result<nft::Installed, Error> {
    let tables = listing("nft", &["list", "tables"])?;
    if !tables.lines().any(|line| line.strip_prefix("table ") == Some(nft::TABLE)) {
        return Ok(nft::Installed::default());
    }
    let (family, name) = nft::TABLE.split_once(' ').unwrap_or_default();
    Ok(nft::Installed::read_list(&listing("nft", &["--stateless", "list", "table", family, name])?))
}

fn observe_iptables(flavour: Flavour) -> Result<iptables::Installed, Error> {
    let mut installed = iptables::Installed::default();
    for family in Family::BOTH {
        for table in loaded_tables(flavour, family) {
            let save = listing(&flavour.program(family, "-save"), &["-t", table.name()])?;
            installed.read_save(family, table, &save);
        }
    }
    installed.sets = our_sets()?;
    for family in Family::BOTH {
        let stay = iptables::stay_set(family);
        if installed.sets.contains(&stay) {
            installed.read_stay(family, &listing("ipset", &["save", &stay])?);
        }
    }
    Ok(installed)
}

/// How many packets went past the queue since its rules were filled the last time (iptables) or made
/// (nft).
///
/// # Errors
/// When the backend's programs fail.
pub fn past_counts(backend: Backend) -> Result<PastCounts, Error> {
    let Backend::Iptables(flavour) = backend else {
        let (family, name) = nft::TABLE.split_once(' ').unwrap_or_default();
        return Ok(nft::past_counts(&listing("nft", &["list", "counters", "table", family, name])?));
    };
    let mut counts = PastCounts::default();
    for family in Family::BOTH {
        let table = Table::Mangle.name();
        let saved = listing(&flavour.program(family, "-save"), &["-c", "-t", table])?;
        let PastCounts { share, limit } = iptables::past_counts(&saved);
        counts = PastCounts { share: counts.share + share, limit: counts.limit + limit };
    }
    Ok(counts)
}

/// Flows that the kernel decided by itself, by rule and uplink, for as long as each is counted.
///
/// # Errors
/// When the backend's programs fail.
pub fn counts(backend: Backend) -> Result<HashMap<Account, u64>, Error> {
    let mut counts = HashMap::new();
    let mut add = |(chain, flows): (&str, u64)| {
        if let Some(account) = offload::account(chain) {
            *counts.entry(account).or_default() += flows;
        }
    };
    match backend {
        Backend::Nft => {
            let (family, name) = nft::TABLE.split_once(' ').unwrap_or_default();
            let text = listing("nft", &["list", "counters", "table", family, name])?;
            nft::read_counts(&text).for_each(&mut add);
        }
        Backend::Iptables(flavour) => {
            for family in Family::BOTH {
                let program = flavour.program(family, "-save");
                let text = listing(&program, &["-c", "-t", Table::Mangle.name()])?;
                iptables::read_counts(&text).for_each(&mut add);
            }
        }
    }
    Ok(counts)
}

fn our_sets() -> Result<BTreeSet<String>, Error> {
    let sets = listing("ipset", &["list", "-n"])?;
    Ok(sets.lines().filter(|set| set.starts_with(iptables::PREFIX)).map(String::from).collect())
}

/// Takes the sets of former uplinks away. One that the kernel holds for too long, for rules that it
/// has taken out and not freed yet, goes another time: it costs a little memory, and nothing else.
pub fn remove_stale_sets(firewall: &Firewall, backend: Backend) {
    if backend != Backend::Nft
        && let Err(error) = remove_sets_but(&iptables::set_names(firewall))
    {
        tracing::debug!("sets of former uplinks are still there: {error}");
    }
}

/// Takes us from here back to an earlier state, after a failure half-way.
///
/// # Errors
/// The failed step's program and complaint.
pub fn go_back(now: &Installed, before: &Installed) -> Result<(), Error> {
    run_all(&now.back_to(before))?;
    match before {
        Installed::Nft(_) => Ok(()),
        Installed::Iptables(_, before) => remove_sets_but(&before.sets),
    }
}

fn remove_sets_but(wanted: &BTreeSet<String>) -> Result<(), Error> {
    remove_unused(|| our_sets().map(|sets| sets.difference(wanted).cloned().collect()))
}

/// Takes our sets away, when no rule uses them any more.
///
/// # Errors
/// When a set is still in use for too long.
pub fn remove_sets() -> Result<(), Error> {
    remove_unused(our_sets)
}

/// The kernel frees the rules of iptables-nft some time after it has taken them out.
fn remove_unused(sets: impl Fn() -> Result<BTreeSet<String>, Error>) -> Result<(), Error> {
    let deadline = Instant::now() + FREEING;
    loop {
        let Some(step) = iptables::destroy_sets(&sets()?) else { return Ok(()) };
        match run(&step) {
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
}

/// Looking into a legacy table loads it, for good; so only those that are loaded are looked into.
fn loaded_tables(flavour: Flavour, family: Family) -> Vec<Table> {
    let file = match (flavour, family) {
        (Flavour::Nft, _) => return Table::ALL.into(),
        (Flavour::Legacy, Family::V4) => "/proc/thread-self/net/ip_tables_names",
        (Flavour::Legacy, Family::V6) => "/proc/thread-self/net/ip6_tables_names",
    };
    let loaded = fs::read_to_string(file).unwrap_or_default();
    Table::ALL.into_iter().filter(|table| loaded.lines().any(|name| name == table.name())).collect()
}

/// What every `iptables-save` prints, with the name of the program that changes it.
/// Legacy tables that are not loaded are left out, and stay so.
#[must_use]
pub fn iptables_listings() -> Vec<(String, Result<String, Error>)> {
    let programs = Flavour::BOTH.into_iter().flat_map(|flavour| Family::BOTH.map(|family| (flavour, family)));
    programs
        .map(|(flavour, family)| {
            (flavour.program(family, ""), listing(&flavour.program(family, "-save"), &[]))
        })
        .collect()
}

/// What a program prints; nothing where it is missing. nft writes times of day in its
/// own time zone; ours are in UTC.
///
/// # Errors
/// When it is there and cannot be run, or fails.
pub fn listing(program: &str, arguments: &[&str]) -> Result<String, Error> {
    match Command::new(program).args(arguments).env("TZ", "UTC").stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(failure(program, &output)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Error::NotRun { program: program.into(), error }),
    }
}

fn failure(program: &str, output: &Output) -> Error {
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Error::Failed { program: program.into(), complaint }
}

/// Runs the steps in order and stops at the first that fails.
///
/// # Errors
/// The failed step's program and complaint.
pub fn run_all(steps: &[Step]) -> Result<(), Error> {
    steps.iter().try_for_each(run)
}

fn run(step: &Step) -> Result<(), Error> {
    let output = feed(step).map_err(|error| Error::NotRun { program: step.program.clone(), error })?;
    if output.status.success() { Ok(()) } else { Err(failure(&step.program, &output)) }
}

/// The plan's times of day are in UTC (see [`listing`]).
fn feed(step: &Step) -> io::Result<Output> {
    let mut child = Command::new(&step.program)
        .args(&step.arguments)
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A program that stops reading says why on its standard error.
        let _ = input.write_all(step.input.as_bytes());
    }
    child.wait_with_output()
}
