//! Set-up made to fail at each step: a clear error, and the machine as before.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use wansplit::lab::command::Output;

use super::{dump, finish};
use crate::router::*;

#[test]
fn a_missing_device_is_named_and_may_be_missing_where_the_owner_says_so() {
    for backend in backends() {
        let mut router = Router::new(&backend, &[1, 1]);
        let configuration = router.configuration().replace("\"wan2\"", "\"gone9\"");
        router.configure(&configuration);
        refused(&router, &["gone9 does not exist", "optional = true"]);
        router.configure(&configuration.replace("\"gone9\"", "\"gone9\"\noptional = true"));
        router.start();
        router.stop();
    }
}

#[test]
fn taken_tables_and_priorities_are_named_with_who_has_them() {
    for backend in backends() {
        let router = Router::new(&backend, &[1, 1]);
        let foreign = |line: &str| router.network.router.shell(line).unwrap();
        foreign("ip route add 10.98.0.0/16 dev lan0 table 101");
        refused(&router, &["table 101", "first_table"]);
        foreign("ip route flush table 101");
        foreign("ip -6 rule add priority 20003 to fd00:98::/32 lookup main");
        refused(&router, &["20003", "fd00:98::/32", "first_priority"]);
    }
}

#[test]
fn without_permission_the_error_says_so() {
    for backend in backends() {
        let router = Router::new(&backend, &[1, 1]);
        fs::set_permissions(router.files.path(), fs::Permissions::from_mode(0o777)).unwrap();
        for arguments in [&["run"], &["down"]] {
            let mut command = router.command(arguments);
            let output = finish(&router, command.uid(65534).gid(65534));
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", output.stderr);
            assert!(output.stderr.contains("root"), "{arguments:?}: {}", output.stderr);
        }
    }
}

#[test]
fn whichever_call_of_a_backend_fails_the_machine_is_as_before() {
    for backend in backends() {
        let mut router = Router::new(&backend, &[1, 1]);
        router.network.router.shell(super::FOREIGN).unwrap();
        let calls = fails_at_each_call(&mut router);
        assert!(calls > 3, "{backend}: only {calls} calls");
    }
}

#[test]
fn whichever_call_fails_at_a_restart_the_old_state_stays() {
    for backend in backends() {
        let mut router = Router::new(&backend, &[3, 1]);
        router.start();
        router.stop();
        router.configure(&router.configuration().replace("weight = 3", "weight = 2\nmss = 1300"));
        router.configure_more("guard = \"on\"", "[bypass]\ndestinations = [\"192.0.2.128/25\"]");
        let calls = fails_at_each_call(&mut router);
        assert!(calls > 3, "{backend}: only {calls} calls");
    }
}

/// Lets the first call of an outside program fail, then the second, and so on
/// until a start succeeds; returns how many failed.
fn fails_at_each_call(router: &mut Router) -> usize {
    let before = dump(router);
    let saboteur = router.files.path().join("saboteur");
    let counter = router.files.path().join("calls");
    for call in 1.. {
        write_wrappers(&saboteur, &counter, &PROGRAMS, call, "echo 'made to fail' >&2; exit 1");
        router.launch_as(sabotaged(router, &saboteur));
        let Some(status) = router.wait_for_start() else {
            router.kill();
            return call - 1;
        };
        assert_eq!(status.code(), Some(1), "call {call}: {}", router.said());
        assert!(router.said().contains("made to fail"), "call {call}: {}", router.said());
        let changes = before.changes_to(&dump(router));
        assert_eq!(changes, [""; 0], "call {call}: {}", router.said());
        router.forget_what_was_said();
    }
    unreachable!("the loop has no end of its own")
}

#[test]
fn whichever_call_fails_at_a_reload_the_configuration_before_stays() {
    for backend in backends() {
        let mut router = Router::new(&backend, &[1, 1, 1]);
        let (three, two) = (router.configuration(), without_the_second_line(&router));
        router.configure(&two);
        let saboteur = router.files.path().join("saboteur");
        router.launch_as(sabotaged(&router, &saboteur));
        assert_eq!(router.wait_for_start(), None);
        for (from, to) in [(&two, &three), (&three, &two)] {
            let calls = fails_at_each_call_of_a_reload(&router, &saboteur, from, to);
            assert!(calls > 3, "{backend}: only {calls} calls");
        }
        router.stop();
    }
}

fn without_the_second_line(router: &Router) -> String {
    let text = router.configuration();
    let parts: Vec<&str> = text.split("\n[[uplink]]\n").collect();
    [parts[0], parts[1], &parts[3].replace("weight = 1", "weight = 7")].join("\n[[uplink]]\n")
}

/// How many failed until the reload from one configuration to the next had no more calls.
fn fails_at_each_call_of_a_reload(router: &Router, saboteur: &Path, from: &str, to: &str) -> usize {
    let counter = router.files.path().join("calls");
    let sabotage =
        |call| write_wrappers(saboteur, &counter, &CHANGING, call, "echo 'made to fail' >&2; exit 1");
    let reload = |file| {
        router.configure(file);
        router.wansplit(&["reload"])
    };
    for call in 1.. {
        sabotage(0);
        reload(from).unwrap();
        let before = dump(router);
        sabotage(call);
        let outcome = reload(to);
        let calls: usize = fs::read_to_string(&counter).unwrap().trim().parse().unwrap();
        sabotage(0);
        match outcome {
            Ok(_) if calls < call => return call - 1,
            // A look at the machine in between met the failure, or one that does not matter did.
            Ok(_) => {}
            Err(error) => {
                assert!(error.contains("made to fail"), "call {call}: {error}");
                let changes = before.changes_to(&dump(router));
                assert_eq!(changes, [""; 0], "call {call}: {error}\n{}", router.said());
            }
        }
    }
    unreachable!("the loop has no end of its own")
}

#[test]
fn whenever_set_up_is_killed_down_finds_all_of_it() {
    for backend in backends() {
        let mut router = Router::new(&backend, &[1, 1]);
        let before = dump(&router);
        let saboteur = router.files.path().join("saboteur");
        for call in 1.. {
            let counter = router.files.path().join("calls");
            write_wrappers(&saboteur, &counter, &CHANGING, call, "kill -9 $PPID; exit 1");
            router.launch_as(sabotaged(&router, &saboteur));
            let was_killed = router.wait_for_start().is_some();
            if !was_killed {
                router.kill();
            }
            router.wansplit(&["down"]).unwrap();
            assert_eq!(before.changes_to(&dump(&router)), [""; 0], "call {call}: {}", router.said());
            if !was_killed {
                assert!(call > 3, "{backend}: only {call} calls");
                break;
            }
        }
    }
}

/// `run`, with other programs put before the real ones.
fn sabotaged(router: &Router, saboteur: &Path) -> Command {
    let mut command = router.command(&["run"]);
    command.env("PATH", format!("{}:{}", saboteur.display(), std::env::var("PATH").unwrap()));
    command
}

/// Programs that fail at one call of all, at none if it is 0, and are themselves at the others.
fn write_wrappers(directory: &Path, counter: &Path, programs: &[&str], failing: usize, instead: &str) {
    fs::create_dir_all(directory).unwrap();
    fs::write(counter, "0").unwrap();
    for program in programs {
        let Some(real) = find(program) else { continue };
        let counter = counter.display();
        let script = format!(
            "#!/bin/sh\nread calls <{counter}\necho $((calls + 1)) >{counter}\n\
             if [ $calls -eq $(({failing} - 1)) ]; then {instead}; fi\nexec {real} \"$@\"\n",
        );
        // A daemon that runs may be about to call it.
        let fresh = directory.join("fresh");
        fs::write(&fresh, script).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&fresh, directory.join(program)).unwrap();
    }
}

/// The programs that change something.
const CHANGING: [&str; 6] = [
    "nft",
    "ipset",
    "iptables-nft-restore",
    "ip6tables-nft-restore",
    "iptables-legacy-restore",
    "ip6tables-legacy-restore",
];

/// Those, and those that look.
const PROGRAMS: [&str; 10] = [
    "nft",
    "ipset",
    "iptables-nft-save",
    "ip6tables-nft-save",
    "iptables-nft-restore",
    "ip6tables-nft-restore",
    "iptables-legacy-save",
    "ip6tables-legacy-save",
    "iptables-legacy-restore",
    "ip6tables-legacy-restore",
];

fn find(program: &str) -> Option<String> {
    let path = std::env::var("PATH").ok()?;
    let paths = path.split(':').map(|directory| Path::new(directory).join(program));
    paths.into_iter().find(|path| path.exists()).map(|path| path.display().to_string())
}

/// The text of a configuration from `tests/data/broken`, which may not be at hand where the test runs.
macro_rules! broken {
    ($name:literal) => {
        ($name, include_str!(concat!("../data/broken/", $name, "/config.toml")))
    };
}

const BROKEN: [(&str, &str); 5] = [
    broken!("many-at-once"),
    broken!("unknown-keys"),
    broken!("syntax-error"),
    broken!("mark-collisions"),
    broken!("no-uplink"),
];

#[test]
fn a_broken_configuration_is_refused_before_anything_is_touched() {
    let router = Router::new(&backends()[0], &[1, 1]);
    let before = dump(&router);
    for (broken, text) in BROKEN {
        router.configure(text);
        for arguments in [&["check"], &["run"], &["plan"]] {
            let output = finish(&router, &mut router.command(arguments));
            assert_eq!(output.status.code(), Some(2), "{broken} {arguments:?}: {}", output.stderr);
            assert!(output.stderr.contains("wansplit.toml:"), "{broken} {arguments:?}: {}", output.stderr);
        }
    }
    assert_eq!(before.changes_to(&dump(&router)), [""; 0]);
}

/// `run` ends with exit code 1, says all of this, and leaves everything as it was.
fn refused(router: &Router, sayings: &[&str]) {
    let before = dump(router);
    let Output { status, stderr, .. } = finish(router, &mut router.command(&["run"]));
    assert_eq!(status.code(), Some(1), "{stderr}");
    for saying in sayings {
        assert!(stderr.contains(saying), "{saying} is not in: {stderr}");
    }
    assert_eq!(before.changes_to(&dump(router)), [""; 0], "{stderr}");
}
