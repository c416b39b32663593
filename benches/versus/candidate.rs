//! Who is compared.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use tempfile::TempDir;
use wansplit::lab::host::Process;

use crate::daemon;
use crate::world::{LINES, World};

/// A way to share flows among lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Candidate {
    /// The article's rules: iptables' `statistic --mode nth`.
    Article,
    /// The same in nftables: `numgen`.
    Nft,
    /// A program in C on libnetfilter_queue that decides nothing.
    Null,
    /// This program.
    Wansplit,
    /// This program without a rule, where the kernel decides by itself what it can.
    Offload,
}

/// What runs while a candidate is tried.
pub struct Running {
    /// The program, where there is one.
    pub program: Option<Process>,
    /// It is asked about every new flow.
    pub is_asked: bool,
    _files: TempDir,
}

impl Candidate {
    /// For people.
    pub fn describe(self) -> &'static str {
        match self {
            Candidate::Article => "article's rules",
            Candidate::Nft => "nft",
            Candidate::Null => "C",
            Candidate::Wansplit => "wansplit",
            Candidate::Offload => "wansplit, offload",
        }
    }

    /// Sets the router up. The limit is `None` where it shall be as the program has it.
    pub fn start(self, world: &World, limit: Option<u32>) -> Result<Running> {
        let files = TempDir::new()?;
        let program = match self {
            Candidate::Article => {
                world.router.shell(&(routes() + &restore() + &nth() + &save() + &translate()))?;
                None
            }
            Candidate::Nft => {
                world.router.shell(&routes())?;
                world.router.feed(Command::new("nft").args(["-f", "-"]), &nft())?;
                None
            }
            Candidate::Null => {
                world.router.shell(&(routes() + &restore() + &queue() + &translate()))?;
                Some(null(world, files.path())?)
            }
            Candidate::Wansplit => {
                let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/rules");
                let queue = limit.map(|limit| format!("limit = {limit}\n")).unwrap_or_default();
                Some(wansplit(world, files.path(), &format!("rules = \"{rules}\""), &queue)?)
            }
            Candidate::Offload => Some(wansplit(world, files.path(), "", "offload = \"auto\"\n")?),
        };
        let is_asked = matches!(self, Candidate::Null | Candidate::Wansplit);
        Ok(Running { program, is_asked, _files: files })
    }
}

/// That is [`crate::world::ROUTER_CORE`].
const ON_THE_ROUTERS_CORE: [&str; 3] = ["taskset", "-c", "0"];
/// As long as that of wansplit.
const QUEUE_LENGTH: &str = "8192";
/// The same for all that speak its language.
const IPTABLES: &str = "iptables-legacy";

fn routes() -> String {
    let mut text = String::from("ip rule add prio 10 lookup main suppress_prefixlength 0\n");
    for ((device, _, gateway), number) in LINES.iter().zip(1..) {
        text += &format!(
            "ip route add default via {gateway} dev {device} table {number}\n\
             ip rule add prio 20 fwmark {number} lookup {number}\n"
        );
    }
    text
}

fn restore() -> String {
    format!(
        "{IPTABLES} -t mangle -A PREROUTING -j CONNMARK --restore-mark\n\
         {IPTABLES} -t mangle -A PREROUTING -m mark ! --mark 0 -j ACCEPT\n"
    )
}

fn nth() -> String {
    format!(
        "{IPTABLES} -t mangle -A PREROUTING -i lan0 -m mark --mark 0 -m conntrack --ctstate NEW \
         -m statistic --mode nth --every 2 --packet 0 -j MARK --set-mark 1\n\
         {IPTABLES} -t mangle -A PREROUTING -i lan0 -m mark --mark 0 -m conntrack --ctstate NEW \
         -j MARK --set-mark 2\n"
    )
}

fn save() -> String {
    format!("{IPTABLES} -t mangle -A PREROUTING -j CONNMARK --save-mark\n")
}

fn queue() -> String {
    format!(
        "{IPTABLES} -t mangle -A PREROUTING -i lan0 -m conntrack --ctstate NEW -j NFQUEUE --queue-num 0\n\
         {IPTABLES} -t mangle -A POSTROUTING -m conntrack --ctstate NEW -j CONNMARK --save-mark\n"
    )
}

fn translate() -> String {
    LINES
        .iter()
        .map(|(device, address, _)| {
            format!("{IPTABLES} -t nat -A POSTROUTING -o {device} -j SNAT --to-source {address}\n")
        })
        .collect()
}

fn nft() -> String {
    let translations: String = LINES
        .iter()
        .map(|(device, address, _)| format!("oifname \"{device}\" snat ip to {address}\n"))
        .collect();
    format!(
        "table ip versus {{
            chain choose {{
                type filter hook prerouting priority mangle;
                meta mark set ct mark
                meta mark != 0 accept
                iifname \"lan0\" ct state new meta mark set numgen inc mod 2 offset 1
                ct mark set meta mark
            }}
            chain translate {{
                type nat hook postrouting priority srcnat;
                {translations}
            }}
        }}\n"
    )
}

/// Built here, as those who use the library build it.
fn null(world: &World, files: &Path) -> Result<Process> {
    let (source, built) = (concat!(env!("CARGO_MANIFEST_DIR"), "/benches/versus/null.c"), files.join("null"));
    let done = Command::new("gcc")
        .args(["-O2", "-o"])
        .arg(&built)
        .args([source, "-lnetfilter_queue", "-lnfnetlink"])
        .status()
        .context("gcc")?;
    if !done.success() {
        bail!("gcc cannot build {source}");
    }
    let [taskset, arguments @ ..] = ON_THE_ROUTERS_CORE;
    let mut pinned = Command::new(taskset);
    pinned.args(arguments).arg(built).args(["0", QUEUE_LENGTH]).stdout(Stdio::piped());
    let mut process = world.router.spawn(&mut pinned)?;
    let output = process.child().stdout.take().context("its output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    if line != "ready\n" {
        bail!("the program in C did not start");
    }
    Ok(process)
}

fn wansplit(world: &World, files: &Path, rules: &str, queue: &str) -> Result<Process> {
    let mut text = format!(
        "{rules}\nbackend = \"{IPTABLES}\"\nhealth.targets = []\n\
         [lan]\ninterfaces = [\"lan0\"]\n[queue]\n{queue}"
    );
    for ((device, address, gateway), number) in LINES.iter().zip(1..) {
        text += &format!(
            "[[uplink]]\nname = \"isp{number}\"\ninterface = \"{device}\"\ngateway = \"{gateway}\"\n\
             source = \"{address}\"\n"
        );
    }
    std::fs::write(files.join("wansplit.toml"), text)?;
    daemon::start(&world.router, files, &ON_THE_ROUTERS_CORE)
}
