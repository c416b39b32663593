//! A world of one's own, for root and for others, and that nothing is left of it.
//!
//! No test harness: a process that enters a user namespace must not have threads yet.
//! The program starts itself, in the role the environment names, and judges what it did.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use wansplit::lab::command;
use wansplit::lab::network::Network;
use wansplit::lab::server::{Server, ServerSpec};
use wansplit::lab::topology::Topology;
use wansplit::lab::traffic::{Pace, TcpFlows};
use wansplit::lab::world::{Entered, World};

const ROLE: &str = "LAB_WORLD_TEST_ROLE";
const NOBODY: &str = "65534";
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match env::var(ROLE) {
        Ok(role) => inside(&role),
        Err(_) => {
            run_all();
            ExitCode::SUCCESS
        }
    }
}

fn run_all() {
    let tests: [(&str, fn()); 5] = [
        ("root_has_a_network_in_a_world_of_its_own", root_has_a_network_in_a_world_of_its_own),
        (
            "others_have_a_network_where_the_kernel_allows_it",
            others_have_a_network_where_the_kernel_allows_it,
        ),
        ("the_exit_code_of_the_inner_process_comes_out", the_exit_code_of_the_inner_process_comes_out),
        (
            "nothing_is_left_after_the_outer_process_is_killed",
            nothing_is_left_after_the_outer_process_is_killed,
        ),
        ("a_termination_reaches_the_inner_process", a_termination_reaches_the_inner_process),
    ];
    let filter = env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    for (name, test) in tests.into_iter().filter(|(name, _)| name.contains(&filter)) {
        println!("test {name} ...");
        test();
        println!("test {name} ... ok");
    }
}

fn root_has_a_network_in_a_world_of_its_own() {
    if !is_root() {
        return println!("SKIPPED: not root");
    }
    let before = (mounts(), names());
    let output = command::run(&mut in_role("network"), "", LIMIT).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.contains("20 of 20 connections"), "{output:?}");
    assert_eq!((mounts(), names()), before);
}

fn others_have_a_network_where_the_kernel_allows_it() {
    if !is_root() {
        return println!("SKIPPED: not root, so another user cannot be taken on");
    }
    let readable = tempfile::tempdir().unwrap();
    let program = copy_for_everybody(readable.path());
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(program).env(ROLE, "network");
    let output = command::run(command.current_dir("/"), "", LIMIT).unwrap();
    if output.stderr.contains("does not let you") {
        return println!("SKIPPED: {}", output.stderr.trim());
    }
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.contains("20 of 20 connections"), "{output:?}");
}

fn the_exit_code_of_the_inner_process_comes_out() {
    if !is_root() {
        return println!("SKIPPED: not root");
    }
    assert_eq!(command::run(&mut in_role("fail"), "", LIMIT).unwrap().status.code(), Some(7));
}

fn nothing_is_left_after_the_outer_process_is_killed() {
    if !is_root() {
        return println!("SKIPPED: not root");
    }
    let before = (mounts(), names());
    let mut outer = in_role("wait").stdout(Stdio::piped()).spawn().unwrap();
    let namespace = first_line(&mut outer);
    wait_for(|| !processes_in(&namespace).is_empty());
    outer.kill().unwrap();
    outer.wait().unwrap();
    wait_for(|| processes_in(&namespace).is_empty());
    assert_eq!((mounts(), names()), before);
}

fn a_termination_reaches_the_inner_process() {
    if !is_root() {
        return println!("SKIPPED: not root");
    }
    let mut outer = in_role("terminate").stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(first_line(&mut outer), "waiting");
    let begin = Instant::now();
    kill(Pid::from_raw(outer.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(outer.wait().unwrap().code(), Some(5));
    assert!(begin.elapsed() < Duration::from_secs(5));
}

/// What the roles do.
fn inside(role: &str) -> ExitCode {
    let world = match World::enter() {
        Ok(Entered::Inside(world)) => world,
        Ok(Entered::Ended(code)) => return ExitCode::from(code),
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    match role {
        "network" => use_a_network(&world),
        "wait" => wait_to_be_killed(),
        "terminate" => return wait_for_a_termination(),
        _ => return ExitCode::from(7),
    }
    ExitCode::SUCCESS
}

/// The world is private, the network in it works, its machines have names in it.
fn use_a_network(world: &World) {
    assert_eq!(fs::read_dir("/run").unwrap().count(), 0);
    assert_eq!(std::process::id(), 1);
    let network = Network::build(&Topology { router_default: true, ..Topology::default() }).unwrap();
    world.name_machines(&network).unwrap();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", "router", "ip", "-o", "link", "show", "wan2"]);
    assert!(command::check(&mut command, "", LIMIT).unwrap().contains("wan2"));
    network.router.set_sysctls(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]).unwrap();
    for program in ["iptables-nft", "ip6tables-nft"] {
        network.router.shell(&format!("{program} -t nat -A POSTROUTING -o wan1 -j MASQUERADE")).unwrap();
    }
    let server = network.servers[0].both();
    let _server = Server::start(&network.internet, ServerSpec::on(&server, &[7], &[])).unwrap();
    let connect = |to| TcpFlows::new(SocketAddr::new(to, 7), Pace::burst(10, 10)).run(&network.client().host);
    let succeeded: usize = server.into_iter().map(|to| connect(to).unwrap().succeeded()).sum();
    println!("{succeeded} of 20 connections");
}

/// Says in which namespace a child waits, which has more patience than the test.
fn wait_to_be_killed() {
    let network = Network::build(&Topology::default()).unwrap();
    let _child = network.router.spawn(Command::new("sleep").arg("1000")).unwrap();
    println!("net:[{}]", network.router.namespace().id().unwrap());
    thread::sleep(LIMIT);
}

fn wait_for_a_termination() -> ExitCode {
    let mut wanted = SigSet::empty();
    wanted.add(Signal::SIGTERM);
    wanted.thread_block().unwrap();
    println!("waiting");
    wanted.wait().unwrap();
    ExitCode::from(5)
}

fn in_role(role: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.env(ROLE, role);
    command
}

fn copy_for_everybody(directory: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let program = directory.join("lab_world");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();
    for path in [directory, &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    program
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    let output = child.stdout.take().unwrap().take(100);
    BufReader::new(output).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

fn processes_in(namespace: &str) -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let is_in =
        |process: &PathBuf| fs::read_link(process.join("ns/net")).is_ok_and(|it| it == Path::new(namespace));
    processes.filter(is_in).collect()
}

fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come true within 10 seconds");
        thread::sleep(Duration::from_millis(10));
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mounts").unwrap()
}

fn names() -> BTreeSet<PathBuf> {
    fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
