//! What is told of lines: to a hook, and to those who follow.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::*;
use crate::live::PATIENCE;
use crate::router::*;
use wansplit::lab::host::Process;

#[test]
fn a_hook_and_a_follower_hear_of_a_line_that_goes_and_comes_back() {
    for_each_backend(hook_and_follower);
}

fn hook_and_follower(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    let told = hook(&router, "env | grep ^WANSPLIT_ | sort | tr '\\n' ' '; echo");
    router.start();
    wait_for(&told, "WANSPLIT_EVENT=online WANSPLIT_FAMILY=IPv6");
    let followed = follow(&router);
    Down::ByIsp.take(&router.network, 0);
    let down = wait_for(&told, "WANSPLIT_EVENT=down WANSPLIT_FAMILY=IPv4");
    for fact in [
        "WANSPLIT_UPLINK=isp1",
        "WANSPLIT_INTERFACE=wan1",
        "WANSPLIT_STATE=down",
        "WANSPLIT_WHY=the link is down",
        "WANSPLIT_ADDRESSES=198.51.100.2",
        "WANSPLIT_MISSED=0",
    ] {
        assert!(down.contains(fact), "{fact} is not in {down}");
    }
    Down::ByIsp.undo(&router.network, 0);
    wait_for_line(&router, 0, true);
    router.wansplit(&["drain", "isp2", "--force"]).unwrap();
    wait_for(&told, "WANSPLIT_EVENT=drained WANSPLIT_FAMILY=IPv6");
    router.wansplit(&["uplink", "isp1", "down", "--force"]).unwrap();
    wait_for(&told, "WANSPLIT_WHY=it was taken down by hand");
    let same = |line: &str| -> Option<(u64, String)> {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        Some((event["number"].as_u64()?, event["event"].as_str()?.to_owned()))
    };
    let heard: Vec<_> = wait_for_lines(&followed.1, 4).lines().filter_map(same).collect();
    // Hooks take longer than those who follow.
    let (last, _) = heard.last().expect("an event");
    wait_for(&told, &format!("WANSPLIT_NUMBER={last} "));
    let fact = |line: &str, name: &str| {
        let value = line.split(&format!("WANSPLIT_{name}=")).nth(1)?.split(' ').next()?;
        Some(value.to_owned())
    };
    let run: Vec<_> = fs::read_to_string(&told)
        .unwrap()
        .lines()
        .filter_map(|line| Some((fact(line, "NUMBER")?.parse::<u64>().ok()?, fact(line, "EVENT")?)))
        .collect();
    assert!(run.is_sorted_by_key(|(number, _)| *number) && run[0].0 == 1, "{run:?}");
    for event in &heard {
        assert!(run.contains(event), "{event:?} is not in {run:?}");
    }
    router.stop();
}

#[test]
fn a_hook_that_hangs_delays_nothing_and_is_killed() {
    for_each_backend(hung_hook);
}

fn hung_hook(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    let told = hook(&router, "echo begun $$; exec sleep 1000");
    router.configure(&router.configuration().replace("timeout = \"10s\"", "timeout = \"2s\""));
    router.start();
    wait_for(&told, "begun");
    Down::ByIsp.take(&router.network, 0);
    wait_for_line(&router, 0, false);
    let host = &router.network.client().host;
    let server = router.echo(wansplit::engine::packet::Family::V4);
    assert_eq!(by_line(&router.network, &tcp(host, server, 10)), [0, 10], "{backend}");
    router.wait_until_said("killed after 2s");
    let first = fs::read_to_string(&told).unwrap();
    let process = first.split_whitespace().nth(1).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while fs::exists(format!("/proc/{process}")).unwrap() {
        assert!(Instant::now() < deadline, "{backend}: the hook lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
    router.stop();
}

/// Makes the router run a script on each change, and returns where its output goes.
fn hook(router: &Router, script: &str) -> std::path::PathBuf {
    let [program, told] = ["hook", "told"].map(|name| router.files.path().join(name));
    fs::write(&program, format!("#!/bin/sh\n{{ {script}; }} >>{}\n", told.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&told, "").unwrap();
    let section = format!("[hooks]\non_change = \"{}\"\ntimeout = \"10s\"", program.display());
    router.configure_more("", &section);
    told
}

/// Follows events, into a file.
fn follow(router: &Router) -> (Process, std::path::PathBuf) {
    let path = router.files.path().join("followed");
    let file = fs::File::create(&path).unwrap();
    let mut command = router.command(&["events", "--json"]);
    command.stdin(Stdio::null()).stdout(file).stderr(Stdio::null());
    let process = router.network.router.spawn(&mut command).expect("the program runs");
    // Until it follows: every status is answered after it.
    std::thread::sleep(Duration::from_millis(300));
    router.status();
    (process, path)
}

/// Waits for a line with these words.
fn wait_for(file: &std::path::Path, words: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(file).unwrap();
        if let Some(line) = text.lines().find(|line| line.contains(words)) {
            return line.to_owned();
        }
        assert!(Instant::now() < deadline, "no {words:?} in:\n{text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait_for_lines(file: &std::path::Path, count: usize) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(file).unwrap();
        if text.lines().count() >= count {
            return text;
        }
        assert!(Instant::now() < deadline, "only:\n{text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
