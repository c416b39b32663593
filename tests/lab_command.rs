//! `wansplit lab`, as people run it: the built program, from its beginning to its end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use wansplit::lab::command::{self, Output};

/// No run takes longer, not even in an emulated machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Where probes called a line down, the machine was too busy for the daemon: its flows rightly move, and the run
/// says nothing.
const ATTEMPTS: usize = 3;

/// The user "nobody".
const NOBODY: u32 = 65534;

#[test]
fn both_families_go_by_the_lines_chosen_for_them_on_every_backend() {
    for backend in backends() {
        let Some(summary) = summary(&["--seconds", "3", "--backend", &backend]) else { return };
        assert_good(&summary);
        let kinds = ["tcp4", "tcp6", "udp4", "udp6", "ping4", "ping6", "forward", "hairpin", "router"];
        kinds
            .iter()
            .for_each(|kind| assert!(count(&summary["lab"]["tried"][kind]["ok"]) > 0, "{kind}: {summary:#}"));
        assert_eq!(summary["status"]["backend"], backend.as_str());
        for link in ["isp1", "isp2"] {
            assert!(count(&link_facts(&summary, link)["packets"]) > 100, "{summary:#}");
        }
    }
}

#[test]
fn rules_send_their_flows_where_they_say_and_the_reasons_are_told() {
    let Some(summary) = summary(&["--seconds", "3"]) else { return };
    let shells = rule(&summary, "shells stay on the first line");
    assert_eq!(count(&shells["uplinks"]["isp1"]["flows"]), count(&shells["flows"]), "{shells:#}");
    let calls = rule(&summary, "calls prefer the second line");
    assert_eq!(count(&calls["uplinks"]["isp2"]["flows"]), count(&calls["flows"]), "{calls:#}");
    assert!(count(&shells["flows"]) > 0 && count(&calls["flows"]) > 0);
    assert!(summary["status"]["recent"][0]["reason"].as_str().unwrap().contains("matched"), "{summary:#}");
}

#[test]
fn what_no_rule_matches_is_shared_as_the_weights_say() {
    for attempt in 1..=3 {
        let Some(summary) = summary(&["--seconds", "4", "--weights", "3,1"]) else { return };
        assert_good(&summary);
        let rules = summary["status"]["rules"].as_array().unwrap();
        let unmatched = rules.last().unwrap();
        let [first, second] = ["isp1", "isp2"].map(|line| count(&unmatched["uplinks"][line]["flows"]));
        // Each worker takes turns of its own in each family.
        let slack = 2 * summary["status"]["queues"].as_array().unwrap().len() as u64;
        let due = (first + second) * 3 / 4;
        if count(&summary["status"]["gate"]["closed_times"]) > 0 && attempt < 3 {
            continue;
        }
        assert!(first + second > 50 && first.abs_diff(due) <= slack, "{first} to {second}");
        return;
    }
}

#[test]
fn sixteen_lines_all_carry_flows() {
    let Some(summary) = summary(&["--seconds", "3", "--uplinks", "16"]) else { return };
    assert_good(&summary);
    let uplinks = summary["status"]["uplinks"].as_array().unwrap();
    assert_eq!(uplinks.len(), 16);
    assert!(uplinks.iter().all(|uplink| count(&uplink["flows_total"]) > 0), "{uplinks:#?}");
}

#[test]
fn it_works_without_root_where_user_namespaces_are_allowed() {
    if !nix::unistd::geteuid().is_root() {
        return skip("not root, so another user cannot be taken on");
    }
    let directory = open_directory();
    let copy = directory.path().join("wansplit");
    fs::copy(program(), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(copy);
    command.args(["lab", "--json", "--seconds", "3"]).uid(NOBODY).gid(NOBODY).current_dir("/");
    let Some(summary) = good(|| command::run(&mut command, "", LIMIT).unwrap()) else { return };
    assert_good(&summary);
}

#[test]
fn the_articles_own_file_is_tried_in_a_network_that_fits_it() {
    for backend in backends() {
        let text = format!("backend = \"{backend}\"\n{}", include_str!("data/article.toml"));
        let Some(summary) = summary_of_file(&text) else { return };
        assert_good(&summary);
        let interfaces: Vec<&str> =
            uplinks(&summary).map(|uplink| uplink["interface"].as_str().unwrap()).collect();
        assert_eq!(interfaces, ["eth1", "eth2"]);
        assert_eq!(summary["status"]["recent"][0]["lan"], "eth0");
        let tried = &summary["lab"]["tried"];
        assert!(count(&tried["forward"]["ok"]) > 0 && count(&tried["hairpin"]["ok"]) > 0, "{tried:#}");
        assert_eq!(tried["tcp6"], Value::Null, "the article's router has no IPv6");
    }
}

#[test]
fn gateways_left_to_the_routing_table_and_link_local_ones_are_found_in_the_fitted_network() {
    let text = r#"
        lan = { interfaces = ["wan2", "guests"] }
        uplink = [
          { name = "fibre", interface = "wan1", gateway = "auto", weight = 3 },
          { name = "cable", interface = "lan0", gateway = ["192.168.7.254", "fe80::7"], source = "192.168.7.20" },
        ]
        [[forward]]
        name = "cameras"
        protocol = "udp"
        port = "6000-6010"
        to = ["172.20.0.9:7000", "[fd12::9]:7000"]
        uplinks = "cable"
    "#;
    let Some(summary) = summary_of_file(text) else { return };
    assert_good(&summary);
    for uplink in uplinks(&summary) {
        assert_eq!(
            (&uplink["ipv4"]["state"], &uplink["ipv6"]["state"]),
            (&"up".into(), &"up".into()),
            "{uplink:#}"
        );
        assert!(count(&uplink["flows_total"]) > 0, "{uplink:#}");
    }
    let cable = uplinks(&summary).nth(1).unwrap();
    assert_eq!(
        (&cable["ipv4"]["gateway"], &cable["ipv6"]["gateway"]),
        (&"192.168.7.254".into(), &"fe80::7".into())
    );
    assert!(count(&summary["lab"]["tried"]["forward"]["ok"]) > 0, "{summary:#}");
}

#[test]
fn a_file_that_no_network_fits_is_refused_with_every_reason() {
    let text = include_str!("data/article.toml")
        .replace("source  = \"198.51.100.2\"", "source = \"203.0.113.9\"")
        .replace("source  = \"203.0.113.2\"", "source = \"none\"");
    let output = run_file(&text);
    if is_skipped(&output) {
        return;
    }
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    for part in ["198.51.100.1 and its source 203.0.113.9", "uplink isp2 leaves the clients' own addresses"] {
        assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
    }
}

#[test]
fn a_router_that_decides_nothing_is_no_success() {
    let text = format!("{}\n[bypass]\nclients = [\"10.77.0.0/24\"]", include_str!("data/article.toml"));
    let output = run_file(&text);
    if is_skipped(&output) {
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let summary: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(summary["verdict"], "nothing", "{summary:#}");
    assert!(count(&summary["lab"]["flows"]["compared"]) > 0, "answers to outside still go by their lines");
}

#[test]
fn a_broken_file_is_told_like_everywhere_and_touches_nothing() {
    let output = run_file("lan = 7");
    if is_skipped(&output) {
        return;
    }
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stderr.contains("router.toml:1"), "{}", output.stderr);
}

#[test]
fn nothing_is_left_after_an_interrupt_a_termination_or_a_kill() {
    let before = mounts();
    for (signal, code) in [(Signal::SIGINT, Some(0)), (Signal::SIGTERM, Some(0)), (Signal::SIGKILL, None)] {
        let mut lab = Running::start(&["--seconds", "60"]);
        let outer = lab.0.id();
        let Some(()) = wait_until_ready(lab.0.stderr.take().unwrap()) else { return };
        std::thread::sleep(Duration::from_secs(1));
        assert!(members(outer).len() >= 2, "the lab and its daemon");
        kill(Pid::from_raw(outer as i32), signal).unwrap();
        assert_eq!(lab.0.wait().unwrap().code(), code, "{signal}");
        wait_for(|| members(outer).is_empty());
    }
    assert_eq!(mounts(), before);
    assert!(!Path::new("/run/wansplit-lab").exists());
}

#[test]
fn a_kept_lab_can_be_entered_by_the_command_it_prints() {
    if command::run(Command::new("nsenter").arg("--help"), "", LIMIT).is_err() {
        return skip("there is no nsenter");
    }
    let mut lab = Running::start(&["--seconds", "1", "--keep", "--clients", "1"]);
    let outer = lab.0.id();
    let mut lines = BufReader::new(lab.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let Some(way_in) = lines.find(|line| line.contains("nsenter --target") || says_why_not(line)) else {
        panic!("it did not say how to enter: {:?}", lab.0.wait())
    };
    if says_why_not(&way_in) {
        return skip(&way_in);
    }
    let status = format!("{} -c '{} status --json'", way_in.trim(), program().display());
    let output = command::run(Command::new("sh").args(["-c", &status]), "", LIMIT).unwrap();
    assert!(output.stdout.contains("\"isp1\""), "{status}: {output:?}");
    kill(Pid::from_raw(outer as i32), Signal::SIGINT).unwrap();
    assert_eq!(lab.0.wait().unwrap().code(), Some(0));
    wait_for(|| members(outer).is_empty());
}

/// A good run's summary; `None`: this machine lets nobody make namespaces.
fn summary(arguments: &[&str]) -> Option<Value> {
    good(|| command::run(lab(&["--json"]).args(arguments), "", LIMIT).unwrap())
}

fn summary_of_file(text: &str) -> Option<Value> {
    good(|| run_file(text))
}

fn run_file(text: &str) -> Output {
    let directory = open_directory();
    let path = directory.path().join("router.toml");
    fs::write(&path, text).unwrap();
    let mut command = lab(&["--json", "--seconds", "3", "--config"]);
    command::run(command.arg(path), "", LIMIT).unwrap()
}

fn good(mut run: impl FnMut() -> Output) -> Option<Value> {
    for attempt in 1.. {
        let output = run();
        if is_skipped(&output) {
            break;
        }
        let summary = serde_json::from_str(&output.stdout);
        if attempt < ATTEMPTS && summary.as_ref().is_ok_and(calls_a_line_down) {
            eprintln!("the machine was too busy for the daemon: attempt {attempt} says nothing");
            continue;
        }
        assert_eq!(output.status.code(), Some(0), "{}\n{}", output.stdout, output.stderr);
        return Some(summary.expect("nothing but JSON on standard output"));
    }
    None
}

fn calls_a_line_down(summary: &Value) -> bool {
    uplinks(summary)
        .any(|uplink| ["ipv4", "ipv6"].iter().any(|family| uplink[family]["health"]["state"] == "down"))
}

fn is_skipped(output: &Output) -> bool {
    let skipped = says_why_not(&output.stderr);
    if skipped {
        skip(output.stderr.trim());
    }
    skipped
}

fn says_why_not(text: &str) -> bool {
    text.contains("does not let you")
}

fn skip(why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
    eprintln!("SKIPPED: {why}");
}

fn assert_good(summary: &Value) {
    assert_eq!(summary["verdict"], "good", "{summary:#}");
    assert_eq!(summary["strays"], 0);
    assert_eq!(summary["astray"], 0);
    assert_eq!(summary["connections"]["failed"], 0);
    let flows = &summary["lab"]["flows"];
    assert!(count(&flows["compared"]) * 10 >= count(&summary["flows"]) * 8, "few were compared: {flows:#}");
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn uplinks(summary: &Value) -> impl Iterator<Item = &Value> {
    summary["status"]["uplinks"].as_array().unwrap().iter()
}

fn rule<'a>(summary: &'a Value, name: &str) -> &'a Value {
    let rules = summary["status"]["rules"].as_array().unwrap();
    rules.iter().find(|rule| rule["name"] == name).unwrap()
}

fn link_facts<'a>(summary: &'a Value, name: &str) -> &'a Value {
    let links = summary["lab"]["links"].as_array().unwrap();
    links.iter().find(|link| link["uplink"] == name).unwrap()
}

fn lab(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("lab").args(arguments);
    command
}

fn program() -> PathBuf {
    std::env::var_os("WANSPLIT_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_wansplit").into(), PathBuf::from)
}

fn backends() -> Vec<String> {
    let named = std::env::var("WANSPLIT_BACKENDS").unwrap_or_else(|_| "iptables-nft,iptables-legacy".into());
    named.split(',').map(String::from).collect()
}

/// A lab under way; dropped, it is killed.
struct Running(Child);

impl Running {
    fn start(arguments: &[&str]) -> Running {
        Running(lab(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory that every user can read.
fn open_directory() -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// `None`: it never will be, on this machine.
fn wait_until_ready(said: impl std::io::Read + Send + 'static) -> Option<()> {
    let mut lines = BufReader::new(said).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("ready after") || says_why_not(line));
    let line = line.expect("the lab gets ready");
    if says_why_not(&line) {
        skip(&line);
        return None;
    }
    // The lab must not die of a closed pipe.
    std::thread::spawn(move || lines.for_each(drop));
    Some(())
}

/// The processes of a lab: all have inherited the number of its outer process.
fn members(outer: u32) -> Vec<PathBuf> {
    let mark = format!("WANSPLIT_LAB_OUTER={outer}");
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let is_member = |process: &PathBuf| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
    };
    processes.filter(is_member).collect()
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mounts").unwrap()
}

fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come true within 20 seconds");
        std::thread::sleep(Duration::from_millis(20));
    }
}
