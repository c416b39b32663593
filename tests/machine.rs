//! Set-up and take-down: what the program does to a machine, and that it undoes all of it.

#[path = "support/dump.rs"]
mod dump;
#[path = "machine/failures.rs"]
mod failures;
#[path = "machine/older.rs"]
mod older;
#[path = "support/router.rs"]
mod router;

use std::process::Command;
use std::time::Duration;

use dump::Dump;
use router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::command::Output;
use wansplit::lab::traffic::{Pace, TcpFlows, UdpFlows};
use wansplit::system::conntrack::{Conntrack, Flow};

/// Rules, chains, routes, sets, settings and marks of other software.
const FOREIGN: &str = include_str!("support/foreign.sh");

#[test]
fn taking_down_leaves_a_bare_machine_as_it_was() {
    for backend in backends() {
        comes_and_goes(&mut Router::new(&backend, &[1, 1]));
    }
}

#[test]
fn taking_down_leaves_a_machine_full_of_others_things_as_it_was() {
    for backend in backends() {
        let mut router = Router::new(&backend, &[1, 1]);
        router.network.router.shell(FOREIGN).unwrap();
        comes_and_goes(&mut router);
    }
}

/// How a daemon ends, and with it everything of ours.
#[derive(Clone, Copy)]
enum End {
    StopAndDown,
    DownOnExit,
    KillAndDown,
}

fn comes_and_goes(router: &mut Router) {
    let before = dump(router);
    for end in [End::StopAndDown, End::DownOnExit, End::KillAndDown] {
        let arguments: &[&str] =
            if matches!(end, End::DownOnExit) { &["run", "--down-on-exit"] } else { &["run"] };
        router.launch_as(router.command(arguments));
        assert_eq!(router.wait_for_start(), None, "{}", router.said());
        assert!(dump(router).mentions("fwmark 0x1/0xff"), "nothing was set up");
        match end {
            End::KillAndDown => router.kill(),
            _ => router.stop(),
        }
        if !matches!(end, End::DownOnExit) {
            router.wansplit(&["down"]).unwrap();
        }
        assert_eq!(before.changes_to(&dump(router)), [""; 0], "{}", router.said());
    }
    router.wansplit(&["down"]).unwrap();
    assert_eq!(before.changes_to(&dump(router)), [""; 0]);
}

#[test]
fn others_bits_survive_on_packets_and_on_connections() {
    for backend in backends() {
        let mut router = Router::new(&backend, &[1, 1]);
        router.network.router.shell(FOREIGN).unwrap();
        router.start();
        for family in Family::BOTH {
            let client = &router.network.client().host;
            let tcp = TcpFlows::new(router.echo(family), Pace::burst(40, 20)).run(client).unwrap();
            assert_eq!(tcp.succeeded(), 40, "{:?}\n{}", tcp.failures(), router.said());
            // Ports in a row: the kernel might choose one twice, and there would be fewer connections.
            let pairs = UdpFlows::pairs(router.echo(family), Pace::burst(40, 20));
            let udp = UdpFlows { first_port: Some(20_000), ..pairs }.run(client).unwrap();
            assert_eq!(udp.succeeded(), 40, "{:?}", udp.failures());
        }
        assert!(counter(&router, "kept_packets") >= 4 * 40);
        assert_eq!((counter(&router, "lost_packets"), counter(&router, "lost_connections")), (0, 0));
        let marks = connection_marks(&router);
        assert!(marks.len() >= 4 * 40 && marks.iter().all(|mark| mark & 0x20000 != 0), "{marks:x?}");
        assert!(marks.iter().all(|mark| [1, 2].contains(&(mark & 0xff))), "{marks:x?}");
        router.stop();
        router.wansplit(&["down"]).unwrap();
        // Some may have expired meanwhile.
        let marks = connection_marks(&router);
        assert!(marks.len() >= 40 && marks.iter().all(|mark| mark & 0xff == 0), "{marks:x?}");
        assert!(marks.iter().all(|mark| mark & 0x20000 != 0), "{marks:x?}");
    }
}

#[test]
fn others_rules_see_every_first_packet_whether_older_or_younger_than_ours() {
    for backend in backends() {
        let mut router = Router::new(&backend, &[1, 1]);
        let program = if backend == "iptables-legacy" { "iptables-legacy" } else { "iptables-nft" };
        let count = |router: &Router, port: u16| {
            let rule = format!(
                "{program} -t mangle -A PREROUTING -i lan0 -p udp --sport {port}:{} -j RETURN",
                port + 19
            );
            router.network.router.shell(&rule).unwrap();
        };
        count(&router, 20000);
        router.start();
        count(&router, 30000);
        router.wansplit(&["reload"]).unwrap();
        for first_port in [20000, 30000] {
            let flows = UdpFlows {
                first_port: Some(first_port),
                ..UdpFlows::new(router.echo(Family::V4), Pace::burst(20, 5))
            };
            let report = flows.run(&router.network.client().host).unwrap();
            assert_eq!(report.succeeded(), 20, "{:?}", report.failures());
        }
        let list = router.network.router.shell(&format!("{program} -t mangle -v -S PREROUTING")).unwrap();
        let counted = list.lines().filter(|line| line.contains("-j RETURN") && line.contains("-c 20 "));
        assert_eq!(counted.count(), 2, "{list}");
        router.stop();
    }
}

#[test]
fn starting_again_changes_nothing_and_leaves_nothing_to_plan() {
    for backend in backends() {
        let mut router = Router::new(&backend, &[3, 1]);
        router.network.router.shell(FOREIGN).unwrap();
        router.start();
        assert_eq!(router.wansplit(&["plan"]).unwrap(), "", "while it runs");
        router.stop();
        assert_eq!(router.wansplit(&["plan"]).unwrap(), "", "after it stopped");
        let first = dump(&router);
        router.start();
        router.stop();
        assert_eq!(first.changes_to(&dump(&router)), [""; 0]);
        router.start();
        router.kill();
        router.start();
        router.stop();
        assert_eq!(first.changes_to(&dump(&router)), [""; 0], "after a kill");
    }
}

#[test]
fn what_plan_prints_typed_into_a_shell_makes_what_run_makes() {
    for backend in backends() {
        let mut router = Router::new(&backend, &[3, 1]);
        let before = dump(&router);
        let lines = router.wansplit(&["plan"]).unwrap();
        assert_eq!(before.changes_to(&dump(&router)), [""; 0], "planning changed something");
        router.start();
        router.stop();
        let ran = dump(&router);
        router.wansplit(&["down"]).unwrap();
        router.network.router.shell(&format!("{SYSCTL}\n{lines}")).unwrap();
        assert_eq!(ran.changes_to(&dump(&router)), [""; 0]);
    }
}

/// For machines without the program of this name.
const SYSCTL: &str = r#"sysctl() { echo "${2#*=}" >"/proc/sys/${2%%=*}"; }"#;

#[test]
fn a_second_daemon_is_refused_and_disturbs_nothing() {
    for backend in backends() {
        let mut router = Router::new(&backend, &[1, 1]);
        router.start();
        let before = dump(&router);
        let complaint = router.wansplit(&["run"]).unwrap_err();
        assert!(complaint.contains("already runs in this network namespace"), "{complaint}");
        let complaint = router.wansplit(&["down"]).unwrap_err();
        assert!(complaint.contains("already runs in this network namespace"), "{complaint}");
        let mut command = Command::new(program());
        command.arg("--config").arg(router.config());
        command.arg("--run-dir").arg(router.files.path().join("elsewhere")).arg("run");
        let output = finish(&router, &mut command);
        assert!(output.stderr.contains("cannot bind queue 0"), "{}", output.stderr);
        assert_eq!(before.changes_to(&dump(&router)), [""; 0]);
        router.stop();
    }
}

#[test]
fn what_others_remove_is_put_back_and_the_settings_of_before_are_not_forgotten() {
    for backend in backends() {
        let mut router = Router::new(&backend, &[1, 1]);
        let before = dump(&router);
        router.start();
        let during = dump(&router);
        router.network.router.shell(REMOVE_ALL).unwrap();
        router.wait_until("all of ours is back", |_| during.changes_to(&dump(&router)).is_empty());
        router.stop();
        router.wansplit(&["down"]).unwrap();
        assert_eq!(before.changes_to(&dump(&router)), [""; 0], "{}", router.said());
    }
}

/// First the firewall, of which nobody tells, then the routing rules, of which the kernel does.
const REMOVE_ALL: &str = "
for program in iptables-nft ip6tables-nft iptables-legacy ip6tables-legacy; do
    for table in raw nat mangle; do
        case $($program-save -t $table 2>/dev/null) in
            *wansplit*) $program -t $table -F && $program -t $table -X ;;
        esac
    done
done
nft delete table inet wansplit 2>/dev/null || true
for family in -4 -6; do
    for priority in 20000 20001 20002 20003 20004 20005; do
        while ip $family rule del priority $priority 2>/dev/null; do :; done
    done
done
";

#[test]
fn what_of_others_gets_in_the_way_is_said_at_start_and_nothing_else() {
    for backend in backends() {
        let mut router = Router::new(&backend, &[1, 1]);
        router.network.router.shell(FOREIGN).unwrap();
        start_and_listen(&mut router);
        for harmless in ["mark bits", "half a default", "comes before our rules"] {
            assert!(!router.said().contains(harmless), "{}", router.said());
        }
        router.stop();
        router.network.router.shell(IN_THE_WAY).unwrap();
        router.forget_what_was_said();
        start_and_listen(&mut router);
        for saying in [
            "half a default route",
            "0.0.0.0/1",
            "`priority 50 fwmark 0x3/0x7 lookup 300` looks at mark bits 0x7",
            "iptables-nft -t mangle -A PREROUTING -i lan0 -p sctp -j MARK --set-xmark 0x1/0xffffffff",
            "nft table ip6 rude, chain early: meta l4proto",
            "`priority 60 lookup 300` comes before our rules",
        ] {
            assert!(router.said().contains(saying), "{saying} is not in:\n{}", router.said());
        }
        router.stop();
    }
}

/// What wansplit cannot live with well.
const IN_THE_WAY: &str = "
ip route add 0.0.0.0/1 via 203.0.113.1 dev wan2
ip rule add priority 50 fwmark 0x3/0x7 lookup 300
ip -6 rule add priority 60 lookup 300
iptables-nft -t mangle -A PREROUTING -i lan0 -p sctp -j MARK --set-mark 1
nft 'add table ip6 rude'
nft 'add chain ip6 rude early { type filter hook prerouting priority -150; }'
nft 'add rule ip6 rude early meta l4proto sctp ct mark set meta mark'
";

/// Starts the daemon and waits until it has said all it has to say.
fn start_and_listen(router: &mut Router) {
    router.start();
    let log = &*router;
    log.wait_until("it says that it is ready", |_| log.said().contains("INFO ready"));
}

fn dump(router: &Router) -> Dump {
    Dump::of(&router.network.router)
}

/// Runs a command on the router to its end.
fn finish(router: &Router, command: &mut Command) -> Output {
    router.network.router.try_run(command, Duration::from_secs(60)).unwrap()
}

/// What a named counter of the foreign table has counted.
fn counter(router: &Router, name: &str) -> u64 {
    let listing = router.network.router.shell(&format!("nft list counter inet foreign {name}")).unwrap();
    let mut words = listing.split_whitespace().skip_while(|&word| word != "packets");
    words.nth(1).unwrap().parse().unwrap()
}

/// The marks of all connections from the LAN.
fn connection_marks(router: &Router) -> Vec<u32> {
    let mut marks = Vec::new();
    let lan = router.network.lans[0].net;
    let of_lan = |flow: &Flow| lan.of(Family::of(flow.orig.src)).contains(&flow.orig.src);
    let dump = || {
        Conntrack::open()?.dump(None, |flow| {
            if of_lan(&flow) {
                marks.push(flow.mark)
            }
        })
    };
    router.network.router.enter(dump).unwrap().unwrap();
    marks
}
