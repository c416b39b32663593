//! Debian's stock kernel, emulated: that it has what our rules need, and the
//! network scenarios once more on it, with the backends that it has.

use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;

use emulator::{Emulator, Skip, static_build};

#[path = "support/emulator.rs"]
mod emulator;

const TIME_LIMIT: Duration = Duration::from_secs(120);

/// What the program and its scenarios run.
const TOOLS: &[&str] = &[
    "ip",
    "nft",
    "ipset",
    "iptables-nft",
    "iptables-nft-save",
    "iptables-nft-restore",
    "ip6tables-nft",
    "ip6tables-nft-save",
    "ip6tables-nft-restore",
    "iptables-legacy",
    "iptables-legacy-save",
    "iptables-legacy-restore",
    "ip6tables-legacy",
    "ip6tables-legacy-save",
    "ip6tables-legacy-restore",
];

/// Prints the rules that the kernel has after loading the file `/rules`.
const LOAD_RULES: &str = "
set -e
ip netns add lan
ip link add wan0 type veth peer name lan0 netns lan
ip addr add 192.0.2.1/24 dev wan0
ip link set wan0 up
ip -n lan addr add 192.0.2.2/24 dev lan0
ip -n lan link set lan0 up
ping -c 1 -W 5 192.0.2.2 > /dev/null
nft -f /rules
nft list ruleset
";

const RULES: &str = "table inet wansplit {
	set local_clients {
		type ipv4_addr
		size 65535
		flags dynamic,timeout
		timeout 1h
	}

	chain prerouting {
		type filter hook prerouting priority mangle; policy accept;
		fib daddr type local accept
		ct state new add @local_clients { ip saddr }
		ct mark set jhash ip saddr . tcp dport mod 2 offset 1
		ct mark 0x00000001 meta mark set 0x00000100
		queue flags bypass to 0
	}
}
";

/// How long one crate of network scenarios may take, the boot included.
const SCENARIOS_LIMIT: Duration = Duration::from_secs(600);

/// Flows are fewer, and times longer, by this factor: the machine is some ten times slower than the host.
const SCALE: u32 = 10;

/// Makes a test of each crate of network scenarios, `tests/<name>.rs`: with which
/// backends, and which of its scenarios by parts of their names (none: all). Those of the host
/// show the program's part; here are those whose rules or kernel are others.
macro_rules! in_the_machine {
    ($($name:ident: $backends:literal, $scenarios:expr;)*) => {
        $(
            #[test]
            fn $name() {
                super::scenarios_pass(stringify!($name), $backends, &$scenarios);
            }
        )*
    };
}

mod every_scenario_holds_on_debians_kernel {
    in_the_machine! {
        scenarios: "nft", ["the_log"];
        machine: "nft", ["starting_again"];
        traffic: "nft", [
            "contents::a_first", "live::a_line", "refused::a_flow", "watch::a_connection_on", "hold::a_hello", "every_condition",
        ];
        kernel_alone: "nft", [];
        offload: "nft", ["kernel_and_engine"];
    }
}

/// One scenario at a time: processes that ask for a kernel module while another
/// process's request loads it are told that it does not exist.
fn scenarios_pass(name: &str, backends: &str, scenarios: &[&str]) {
    let emulator = match machine_with_scenarios(name) {
        Ok(emulator) => emulator,
        Err(skip) => return skip.announce(),
    };
    let command = format!(
        "export WANSPLIT_PROGRAM=/bin/wansplit WANSPLIT_BACKENDS={backends} WANSPLIT_SCALE={SCALE}\n\
         scenario --test-threads 1 {}",
        scenarios.join(" ")
    );
    let outcome = emulator.run(&command, SCENARIOS_LIMIT);
    println!("{outcome}");
    outcome.expect_success();
}

/// What set-up and scenarios run; the kernel's helpers for iptables come by its modules.
fn machine_with_scenarios(name: &str) -> Result<Emulator, Skip> {
    let mut emulator = Emulator::find()?;
    for tool in TOOLS {
        emulator = emulator.tool(tool)?;
    }
    Ok(emulator
        .program(Path::new(env!("CARGO_BIN_EXE_wansplit")), "/bin/wansplit")
        .program(&static_build::ordinary_test_program(name), "/bin/scenario"))
}

#[test]
fn the_kernel_takes_rules_that_queue_and_gives_them_back() {
    let emulator = match router() {
        Ok(emulator) => emulator,
        Err(skip) => return skip.announce(),
    };
    let outcome = emulator.file("/rules", RULES).run(LOAD_RULES, TIME_LIMIT);
    assert_eq!(outcome.expect_success(), RULES, "{outcome}");
}

#[test]
fn a_program_of_ours_runs_as_root_and_its_exit_code_comes_back() {
    let emulator = match Emulator::find() {
        Ok(emulator) => emulator,
        Err(skip) => return skip.announce(),
    };
    let ourselves = env::current_exe().expect("a test program knows its path");
    let outcome = emulator
        .program(&ourselves, "/bin/scenario")
        .run("scenario --quiet --ignored --exact --nocapture says_who_runs_it && exit 7", TIME_LIMIT);
    assert_eq!(outcome.exit_code, Some(7), "{outcome}");
    assert!(outcome.output.contains("user 0 of host emulator\n"), "{outcome}");
}

#[test]
#[ignore = "runs inside the emulated machine"]
fn says_who_runs_it() {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("/proc is mounted");
    print!("user {} of host {host}", nix::unistd::geteuid());
}

#[test]
#[ignore = "builds the package once more"]
fn statically_linked_builds_are_static_and_run() {
    let emulator = match Emulator::find() {
        Ok(emulator) => emulator,
        Err(skip) => return skip.announce(),
    };
    let wansplit = static_build::wansplit();
    let scenario = static_build::test_program("emulated");
    let outcome = emulator
        .program(&wansplit, "/bin/wansplit")
        .program(&scenario, "/bin/scenario")
        .run("wansplit --version; scenario --ignored --exact says_who_runs_it", TIME_LIMIT);
    outcome.expect_success();
}

#[test]
fn the_time_limit_stops_the_machine() {
    let emulator = match Emulator::find() {
        Ok(emulator) => emulator,
        Err(skip) => return skip.announce(),
    };
    let outcome = emulator.run("sleep 600", Duration::from_secs(4));
    assert!(outcome.timed_out && outcome.exit_code.is_none(), "{outcome}");
}

#[test]
fn a_kernel_panic_ends_the_run_and_shows_in_the_report() {
    let emulator = match Emulator::find() {
        Ok(emulator) => emulator,
        Err(skip) => return skip.announce(),
    };
    let outcome = emulator.run("echo c > /proc/sysrq-trigger; sleep 600", TIME_LIMIT);
    assert!(!outcome.timed_out && outcome.exit_code.is_none(), "{outcome}");
    assert!(outcome.to_string().contains("the kernel panicked"), "{outcome}");
}

fn router() -> Result<Emulator, Skip> {
    Emulator::find()?.tool("nft")?.tool("ip")?.tool("ping")
}
