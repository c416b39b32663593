//! The machine changes while the daemon runs: lines come and go, addresses
//! change, others delete what is ours. It is followed, or mended, within seconds.

#[path = "support/router.rs"]
mod router;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::traffic::{Pace, Report, TcpFlows, Transfer};

/// A change is followed within this time on a machine that has other things to do as well.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_line_that_goes_down_is_left_alone_and_used_again_when_it_is_back() {
    for backend in backends() {
        line_goes_and_comes(&backend);
    }
}

fn line_goes_and_comes(backend: &str) {
    let mut router = running(backend);
    // The kernel forgets a device's IPv6 addresses when it is taken down.
    let [line, back] = [
        "ip link set wan1 down",
        "ip link set wan1 up; ip -6 address replace 2001:db8:1::2/64 dev wan1 nodad",
    ];
    router.network.router.shell(line).unwrap();
    expect_sources(&router, &[2]);
    router.network.router.shell(back).unwrap();
    expect_sources(&router, &[1, 2]);
    let isp = &router.network.lines[1].isp;
    isp.shell("ip link set customer down").unwrap();
    expect_sources(&router, &[1]);
    isp.shell(
        "ip link set customer up; ip -6 address replace 2001:db8:2::1/64 dev customer nodad; \
               ip -6 address replace fe80::1/64 dev customer nodad",
    )
    .unwrap();
    expect_sources(&router, &[1, 2]);
    router.stop();
}

#[test]
fn a_line_that_changes_its_address_is_used_with_the_new_one() {
    for backend in backends() {
        address_changes(&backend);
    }
}

fn address_changes(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    let configuration = router.configuration();
    let kept = configuration.lines().filter(|line| !line.starts_with("source"));
    router.configure(&kept.collect::<Vec<_>>().join("\n"));
    router.start();
    // A second address of a net goes with the first one, unless it is promoted.
    let script = "echo 1 > /proc/sys/net/ipv4/conf/all/promote_secondaries
        ip address add 198.51.100.77/24 dev wan1; ip address del 198.51.100.2/24 dev wan1
        ip address add 2001:db8:1::77/64 dev wan1 nodad; ip address del 2001:db8:1::2/64 dev wan1";
    router.network.router.shell(script).unwrap();
    let new = |family| match family {
        Family::V4 => IpAddr::from([198, 51, 100, 77]),
        Family::V6 => "2001:db8:1::77".parse().unwrap(),
    };
    let expected = |family| [new(family), router.network.lines[1].router.of(family)].into();
    expect(&router, expected);
    router.stop();
}

#[test]
fn rules_routes_and_chains_that_others_delete_come_back_and_transfers_live_on() {
    for backend in backends() {
        deleted_by_others(&backend);
    }
}

fn deleted_by_others(backend: &str) {
    let mut router = running(backend);
    let whole = dump(&router);
    let transfers = Family::BOTH.into_iter().flat_map(|family| [family; 2]).map(|family| {
        let transfer =
            Transfer { rate: Some(1 << 17), ..Transfer::new(router.echo(family), Duration::from_secs(120)) };
        let running = transfer.start(&router.network.client().host).unwrap();
        sleep(Duration::from_millis(50));
        running
    });
    let transfers: Vec<_> = transfers.collect();
    let flush_firewall = match backend {
        "nft" => "nft flush chain inet wansplit decide",
        "iptables-nft" => "iptables-nft -t mangle -F; ip6tables-nft -t mangle -F",
        _ => "iptables-legacy -t mangle -F; ip6tables-legacy -t mangle -F",
    };
    let flush_rules =
        "for family in -4 -6; do ip $family rule flush; ip $family rule add pref 32766 lookup main; done";
    let flush_routes = "for family in -4 -6; do for table in 100 101 102; do ip $family route flush table $table; done; done";
    for harm in [flush_rules, flush_routes, flush_firewall] {
        let begin = Instant::now();
        router.network.router.shell(harm).unwrap();
        while dump(&router) != whole {
            assert!(begin.elapsed() < SOON, "{harm}:\n{whole}\nis now\n{}\n{}", dump(&router), router.said());
            sleep(Duration::from_millis(20));
        }
        eprintln!("{backend}: mended after {:?}: {harm}", begin.elapsed());
        expect_sources(&router, &[1, 2]);
    }
    for transfer in transfers {
        let report = transfer.finish().unwrap();
        assert_eq!(report.failure, None, "{report:?}\n{}", router.said());
    }
    router.stop();
}

#[test]
fn what_cannot_be_mended_is_said_once_and_new_flows_go_on() {
    side_by_side(not_mendable);
}

/// The run directory, which a change needs, is a file.
fn not_mendable(backend: &str) {
    let mut router = running(backend);
    let run = router.files.path().join("run");
    std::fs::remove_dir_all(&run).unwrap();
    std::fs::write(&run, "").unwrap();
    router.network.router.shell("ip rule del from 198.51.100.2").unwrap();
    sleep(Duration::from_secs(11));
    let said = router.said();
    assert_eq!(said.matches("ERROR").count(), 1, "{said}");
    expect_sources(&router, &[1, 2]);
    router.stop();
}

#[test]
fn clients_of_the_control_socket_that_misbehave_hinder_nobody() {
    for backend in backends() {
        rude_clients(&backend);
    }
}

fn rude_clients(backend: &str) {
    let mut router = running(backend);
    let socket = || UnixStream::connect(router.files.path().join("run/control.sock"));
    let mut silent: Vec<_> = (0..40).filter_map(|_| socket().ok()).collect();
    for client in &mut silent {
        let _ = client.write_all(&[0xff; 1000]);
    }
    for _ in 0..20 {
        // Asks, and is gone before the answer.
        let _ = socket().and_then(|mut client| client.write_all(b"{\"request\":\"status\"}\n"));
    }
    expect_sources(&router, &[1, 2]);
    drop(silent);
    router.wait_until("status answers", |status| status["gate"]["open"] == true);
    router.stop();
}

/// What of ours the kernel holds: rules, routes, chains.
fn dump(router: &Router) -> String {
    let script = "set +e
        for family in -4 -6; do
            ip $family rule | grep -v 'lookup \\(main\\|default\\|local\\) *$'
            for table in 100 101 102; do ip $family route show table $table | sed 's/expires.*//'; done
        done
        for tool in nft legacy; do
            for family in ip ip6; do ${family}tables-$tool-save -t mangle | grep wansplit | grep ^-; done
        done 2>/dev/null
        nft list chain inet wansplit decide 2>/dev/null
        true";
    router.network.router.shell(script).unwrap()
}

/// New flows of both families soon leave by these lines (counted from 1), all of them, and by no other.
fn expect_sources(router: &Router, lines: &[usize]) {
    expect(router, |family| {
        lines.iter().map(|line| router.network.lines[line - 1].router.of(family)).collect()
    });
}

fn expect(router: &Router, sources: impl Fn(Family) -> BTreeSet<IpAddr>) {
    for family in Family::BOTH {
        let deadline = Instant::now() + SOON;
        loop {
            let report = try_out(router, family);
            let seen: BTreeSet<IpAddr> = report.by_source().into_keys().collect();
            if report.failures().is_empty() && seen == sources(family) {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{family}: {seen:?}, expected {:?}; {:?}\n{}",
                sources(family),
                report.failures(),
                router.said()
            );
        }
    }
}

fn try_out(router: &Router, family: Family) -> Report {
    let flows = TcpFlows {
        limit: Duration::from_millis(700),
        ..TcpFlows::new(router.echo(family), Pace::burst(24, 24))
    };
    flows.run(&router.network.client().host).unwrap()
}

fn running(backend: &str) -> Router {
    let mut router = Router::new(backend, &[1, 1]);
    router.configure_more("", "[queue]\nworkers = 1");
    router.start();
    router
}
