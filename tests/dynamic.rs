//! Lines whose addresses, gateways and devices come from others: DHCP, router advertisements, devices that vanish
//! and come back. Routes, rules and NAT follow, and flows of the other line lose nothing meanwhile.

#[path = "support/router.rs"]
mod router;

#[allow(dead_code, reason = "each test program uses its own part of this")]
#[path = "traffic/common.rs"]
mod common;

#[path = "support/tun.rs"]
mod tun;

#[allow(dead_code, reason = "each test program uses its own part of this")]
#[path = "support/wanted.rs"]
mod wanted;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::*;
use nix::sys::signal::Signal;
use router::{Router, backends, side_by_side};
use tun::Cable;
use wansplit::engine::packet::Family;
use wansplit::lab::host::{Host, Process};
use wansplit::lab::server::Server;

/// Much more than it takes on a machine that does much else.
const SOON: Duration = Duration::from_secs(30);

/// Ports whose flows go by the first line, or the second, and by no other.
const FIRST: u16 = 1001;
const SECOND: u16 = 1002;

const RULES: &str = r#"
[[rule]]
name = "first"
match = { dst_port = 1001 }
use = "isp1"
none = "drop"

[[rule]]
name = "second"
match = { dst_port = 1002 }
use = "isp2"
none = "drop"
"#;

#[test]
fn a_lease_with_another_address_net_and_gateway_is_followed_and_the_other_line_loses_no_packet() {
    side_by_side(leases_change);
}

fn leases_change(backend: &str) {
    lease_changes(backend, &UDHCPC);
}

#[test]
fn what_the_usual_dhcp_clients_set_is_followed_beside_rules_and_routes_of_theirs() {
    side_by_side(usual_clients_change);
}

fn usual_clients_change(backend: &str) {
    for client in [&DHCLIENT, &DHCPCD, &NETWORKD, &NETWORK_MANAGER] {
        if wanted::is_there(client.program) {
            lease_changes(backend, client);
        }
    }
}

fn lease_changes(backend: &str, program: &DhcpClient) {
    let what = format!("{}, {backend}", program.program);
    let (mut router, _server) = router_with(backend, "wan1");
    let isp = router.network.lines[0].isp.clone();
    ip(&router.network.router, "-4 address flush dev wan1");
    ip(&isp, "address add 198.51.100.129/25 dev customer");
    // Who asks for a lease has no address yet, and the lab's ISP takes nothing from such.
    isp.shell("nft delete table inet lab").unwrap();
    router.start();
    let calm = Stream::by_second_line(&router);

    let mut server = dhcp_server(&router, &isp, "198.51.100.100,198.51.100.110", "198.51.100.1");
    let begun = Instant::now();
    let mut client = program.start(&router);
    let first = first_source(&router, Family::V4, |_| true);
    eprintln!("{what}: from the client's start to the first good packet by {first}: {:?}", begun.elapsed());
    assert_eq!(first, wan1_address(&router), "{}", router.said());
    let mut idle = Idle::open(&router, FIRST);

    // The next server gives addresses of another net, with another gateway, and refuses the old one.
    server.signal(Signal::SIGKILL).unwrap();
    server.wait(SOON).unwrap();
    let _server = dhcp_server(&router, &isp, "198.51.100.200,198.51.100.210", "198.51.100.129");
    match program.renews_at {
        Some(signal) => client.signal(signal).unwrap(),
        None => {
            client.signal(Signal::SIGTERM).unwrap();
            client.wait(SOON).unwrap();
            client = program.start(&router);
        }
    }
    let news = wait_for_address(&router, |address| address != first);
    let second = first_source(&router, Family::V4, |source| source != first);
    eprintln!("{what}: from the new address to the first good packet by {second}: {:?}", news.elapsed());
    assert_eq!(second, wan1_address(&router), "{}", router.said());
    let gateway = router.network.router.shell("ip route show table 101").unwrap();
    assert!(gateway.contains("default via 198.51.100.129"), "{gateway}\n{}", router.said());
    assert!(idle.is_reset(), "a connection with the old address hears that it is gone\n{}", router.said());
    calm.assert_nothing_lost(&router);
    // dhcpcd has helpers of its own, who end with it unless it is killed.
    client.signal(Signal::SIGTERM).unwrap();
    client.wait(SOON).unwrap();
    router.stop();
}

#[test]
fn a_net_that_is_advertised_anew_is_followed() {
    side_by_side(advertised_nets_change);
}

fn advertised_nets_change(backend: &str) {
    let (mut router, _server) = router_with(backend, "wan1");
    let isp = router.network.lines[0].isp.clone();
    ip(&router.network.router, "-6 address flush dev wan1 scope global");
    router.start();
    let calm = Stream::by_second_line(&router);
    let _advertiser = advertiser(&router, &isp);
    let old = first_source(&router, Family::V6, |_| true);
    assert!(old.to_string().starts_with("2001:db8:1:0:"), "{old}");
    ip(&isp, "address add 2001:db8:1:5::1/64 dev customer nodad");
    ip(&isp, "address del 2001:db8:1::1/64 dev customer");
    let begun = Instant::now();
    let new = first_source(&router, Family::V6, |source| source != old);
    eprintln!("{backend}: from the ISP's new net to the first good packet by {new}: {:?}", begun.elapsed());
    assert!(new.to_string().starts_with("2001:db8:1:5:"), "{new}");
    calm.assert_nothing_lost(&router);
    router.stop();
}

#[test]
fn a_device_that_is_pulled_out_and_put_in_again_is_used_again() {
    side_by_side(device_comes_back);
}

fn device_comes_back(backend: &str) {
    let (mut router, _server) = router_with(backend, "wan1");
    let text = router.configuration();
    router.configure(&text.replace(
        "interface = \"wan1\"\noptional = true",
        "interface = \"wan1\"\noptional = true\ngateway = [\"198.51.100.1\", \"2001:db8:1::1\"]",
    ));
    router.start();
    let calm = Stream::by_second_line(&router);
    for family in Family::BOTH {
        first_source(&router, family, |_| true);
    }
    // Once more, and it would count as flapping.
    for _ in 0..2 {
        ip(&router.network.router, "link del wan1");
        wait_for_line(&router, 0, false);
        let begun = Instant::now();
        plug_in(&router);
        let plugged_in = begun.elapsed();
        for family in Family::BOTH {
            let source = first_source(&router, family, |_| true);
            assert_eq!(source, router.network.lines[0].router.of(family));
        }
        eprintln!("{backend}: a new device is used {:?} after it was there", begun.elapsed() - plugged_in);
    }
    calm.assert_nothing_lost(&router);
    wait_for_the_plan(&router);
    router.stop();
}

#[test]
fn a_line_that_dials_anew_gets_another_device_and_another_address() {
    side_by_side(dials_anew);
}

fn dials_anew(backend: &str) {
    let (mut router, _server) = router_with(backend, "ppp0");
    router.start();
    let calm = Stream::by_second_line(&router);
    for host in ["77", "78", "79"] {
        let begun = Instant::now();
        let cable = dial(&router, host);
        for family in Family::BOTH {
            let source = first_source(&router, family, |_| true);
            assert!(source.to_string().ends_with(host), "{source}");
        }
        eprintln!("{backend}: dialled and used within {:?}", begun.elapsed());
        drop(cable);
        wait_for_line(&router, 0, false);
    }
    calm.assert_nothing_lost(&router);
    router.stop();
}

#[test]
fn others_default_routes_in_the_main_table_change_nothing_and_half_ones_are_told() {
    let (mut router, _server) = router_with(&backends()[0], "wan1");
    router.start();
    let calm = Stream::by_second_line(&router);
    let main = "ip route add default via 198.51.100.1 dev wan1 metric 100 proto dhcp
        ip route add default via 203.0.113.1 dev wan2 metric 101 proto dhcp
        ip -6 route add default via fe80::1 dev wan2 metric 100 proto ra";
    router.network.router.shell(main).unwrap();
    for (family, of_first) in [(Family::V4, "198.51.100.2"), (Family::V6, "2001:db8:1::2")] {
        if family == Family::V6 {
            ip(&router.network.router, "-6 route add default via fe80::1 dev wan1 metric 300 proto ra");
        }
        assert_eq!(first_source(&router, family, |_| true).to_string(), of_first);
    }
    let half = "ip route add 0.0.0.0/1 via 203.0.113.1 dev wan2";
    router.network.router.shell(half).unwrap();
    router.wait_until_said("half a default route");
    router
        .network
        .router
        .shell("ip route del 0.0.0.0/1; ip route flush exact 0/0; ip -6 route flush exact ::/0")
        .unwrap();
    calm.assert_nothing_lost(&router);
    router.stop();
}

#[test]
fn a_carrier_that_flaps_costs_about_one_look_a_second_and_the_other_line_nothing() {
    let (mut router, _server) = router_with(&backends()[0], "wan1");
    let text = router.configuration();
    router.configure(&text.replace("optional = true", "gateway = [\"198.51.100.1\", \"2001:db8:1::1\"]"));
    router.start();
    let calm = Stream::by_second_line(&router);
    let isp = &router.network.lines[0].isp;
    for _ in 0..100 {
        ip(isp, "link set customer down");
        std::thread::sleep(Duration::from_millis(50));
        ip(isp, "link set customer up");
        std::thread::sleep(Duration::from_millis(50));
    }
    let followed = router.said().matches("followed a change of the machine").count();
    eprintln!("a hundred flaps were followed {followed} times");
    assert!(followed < 50, "{}", router.said());
    calm.assert_nothing_lost(&router);
    bring_up(&router.network.lines[0]);
    first_source(&router, Family::V4, |_| true);
    router.stop();
}

/// A router whose first line is told nothing about its addresses and gateways, and a server on both ports.
fn router_with(backend: &str, device: &str) -> (Router, Server) {
    let router = Router::new(backend, &[1, 1]);
    let [_, second] = &router.network.lines[..] else { unreachable!("two lines") };
    router.configure(&format!(
        "backend = \"{backend}\"\nhealth.targets = []\nhealth.fill = \"0s\"\nlan.interfaces = [\"lan0\"]\n\
         [[uplink]]\nname = \"isp1\"\ninterface = \"{device}\"\noptional = true\n\
         [[uplink]]\nname = \"isp2\"\ninterface = \"wan2\"\ngateway = [\"{}\", \"{}\"]\n",
        second.gateway.v4, second.gateway.v6
    ));
    router.rule_file("10.toml", RULES);
    let addresses: Vec<IpAddr> = router.network.servers[0].both().to_vec();
    let server = serve(&router.network.internet, &addresses, &[FIRST, SECOND]);
    (router, server)
}

/// A program that is killed with its guard, and says nothing.
fn program(host: &Host, line: &str) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec {line}")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    host.spawn(&mut command).expect(line)
}

fn dhcp_server(router: &Router, isp: &Host, range: &str, gateway: &str) -> Process {
    let leases = router.files.path().join("leases");
    let _ = std::fs::remove_file(&leases);
    let server = format!(
        "dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --port=0 --interface=customer --bind-interfaces \
         --dhcp-authoritative --no-ping --pid-file= --dhcp-range={range},255.255.255.128,2m \
         --dhcp-option=3,{gateway} --dhcp-leasefile={}",
        leases.display()
    );
    program(isp, &server)
}

fn advertiser(router: &Router, isp: &Host) -> Process {
    let server = format!(
        "dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --port=0 --interface=customer --bind-dynamic \
         --enable-ra --ra-param=customer,4,60 --pid-file= --dhcp-range=::,constructor:customer,ra-only,64,2m \
         --dhcp-leasefile={}",
        router.files.path().join("leases6").display()
    );
    program(isp, &server)
}

/// A program that asks for leases on wan1, and does what it does with them.
struct DhcpClient {
    program: &'static str,
    /// How it is started, in a directory of its own; its shell may prepare what the program finds there.
    line: &'static str,
    /// What makes it ask anew; `None`: only a start does.
    renews_at: Option<Signal>,
}

/// What the scripts of DHCP clients do: the address, and a default route of their own in the main table.
const LEASE_SCRIPT: &str = r#"#!/bin/sh
case "$1" in
    deconfig) ip -4 address flush dev $interface; ip link set $interface up ;;
    bound | renew)
        ip -4 address show dev $interface | grep -q "inet $ip/" || ip -4 address flush dev $interface
        ip -4 address replace $ip/$mask dev $interface
        ip -4 route replace default via $router dev $interface metric 210 ;;
esac
"#;

const UDHCPC: DhcpClient = DhcpClient {
    program: "busybox",
    line: "exec busybox udhcpc -f -i wan1 -T 1 -A 1 -s $PWD/lease.sh",
    renews_at: Some(Signal::SIGUSR1),
};

const DHCLIENT: DhcpClient = DhcpClient {
    program: "dhclient",
    line: "exec dhclient -d -4 -pf $PWD/pid -lf $PWD/leases wan1",
    renews_at: None,
};

const DHCPCD: DhcpClient = DhcpClient {
    program: "dhcpcd",
    line: "mkdir -p /run/dhcpcd && mount -t tmpfs none /run/dhcpcd && mount -t tmpfs none /var/lib/dhcpcd && \
           exec dhcpcd --nobackground --ipv4only --noarp --config /dev/null wan1",
    renews_at: Some(Signal::SIGHUP),
};

/// It follows the kernel's view of devices where it cannot write to /sys, as in a container, and udev's elsewhere.
const NETWORKD: DhcpClient = DhcpClient {
    program: "/lib/systemd/systemd-networkd",
    line: "mkdir -p /run/systemd /etc/systemd/network && mount -t tmpfs none /run/systemd && \
           mount -t tmpfs none /etc/systemd/network && mount -t sysfs -o ro none /sys && \
           install -d -o systemd-network /run/systemd/netif/links /run/systemd/netif/leases && \
           printf '[Match]\nName=wan1\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\nLinkLocalAddressing=no\nKeepConfiguration=no\n' \
               >/etc/systemd/network/wan1.network && \
           exec /lib/systemd/systemd-networkd",
    renews_at: None,
};

/// It speaks on a bus of its own, and looks at devices as [`NETWORKD`] does.
const NETWORK_MANAGER: DhcpClient = DhcpClient {
    program: "NetworkManager",
    line: "mkdir -p /run/NetworkManager && mount -t tmpfs none /run/NetworkManager && \
           mount -t tmpfs none /var/lib/NetworkManager && mount -t tmpfs none /etc/NetworkManager && \
           mount -t sysfs -o ro none /sys && \
           printf '[main]\nplugins=keyfile\ndns=none\nno-auto-default=*\n[keyfile]\nunmanaged-devices=*,except:interface-name:wan1\n[device]\nkeep-configuration=no\n' \
               >/etc/NetworkManager/NetworkManager.conf && \
           install -d /etc/NetworkManager/system-connections && umask 077 && \
           printf '[connection]\nid=wan1\ntype=ethernet\ninterface-name=wan1\n[ipv4]\nmethod=auto\n[ipv6]\nmethod=ignore\n' \
               >/etc/NetworkManager/system-connections/wan1.nmconnection && \
           rm -f bus && { setpriv --pdeathsig KILL dbus-daemon --session --nofork --address=unix:path=$PWD/bus & } && \
           while ! [ -S bus ]; do sleep 0.05; done && \
           export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$PWD/bus && exec NetworkManager --no-daemon",
    renews_at: None,
};

impl DhcpClient {
    /// Starts it with files of its own, among them the machine's list of name servers.
    fn start(&self, router: &Router) -> Process {
        let folder = router.files.path().join("dhcp");
        std::fs::create_dir_all(&folder).unwrap();
        let script = folder.join("lease.sh");
        std::fs::write(&script, LEASE_SCRIPT).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let line = format!(
            "cd {} && touch resolv.conf leases && mount --bind resolv.conf /etc/resolv.conf && {}",
            folder.display(),
            self.line
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &line]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        router.network.router.spawn(&mut command).expect(self.program)
    }
}

fn wan1_address(router: &Router) -> IpAddr {
    let shown = router.network.router.shell("ip -4 -o address show dev wan1 scope global").unwrap();
    let address = shown.split_whitespace().nth(3).and_then(|net| net.split('/').next());
    address.and_then(|address| address.parse().ok()).unwrap_or([0; 4].into())
}

/// When the first line had such an address.
fn wait_for_address(router: &Router, is_wanted: impl Fn(IpAddr) -> bool) -> Instant {
    let deadline = Instant::now() + SOON;
    loop {
        let address = wan1_address(router);
        if !address.is_unspecified() && is_wanted(address) {
            return Instant::now();
        }
        assert!(Instant::now() < deadline, "{address}\n{}", router.said());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The first such address that the server sees of new flows by the first line.
fn first_source(router: &Router, family: Family, is_wanted: impl Fn(IpAddr) -> bool) -> IpAddr {
    let host = &router.network.client().host;
    let to = SocketAddr::new(router.network.servers[0].of(family), FIRST);
    let deadline = Instant::now() + SOON;
    loop {
        match source_of_a_new_flow(host, to) {
            Some(source) if is_wanted(source) => return source,
            other => assert!(Instant::now() < deadline, "{family}: {other:?}\n{}", router.said()),
        }
    }
}

fn source_of_a_new_flow(host: &Host, to: SocketAddr) -> Option<IpAddr> {
    let socket = socket(host, to, Duration::from_millis(50));
    socket.send(b"who am I?").ok()?;
    let mut answer = [0; 256];
    let length = socket.recv(&mut answer).ok()?;
    let text = std::str::from_utf8(answer.get(..length)?).ok()?;
    let source: SocketAddr = text.lines().next()?.strip_prefix("source ")?.parse().ok()?;
    Some(source.ip())
}

fn socket(host: &Host, to: SocketAddr, patience: Duration) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = host.enter(|| UdpSocket::bind(SocketAddr::new(any, 0))).unwrap().unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket
}

/// Puts the first line's device into the router again, as the lab made it.
fn plug_in(router: &Router) {
    let line = &router.network.lines[0];
    let far = router.network.router.namespace().path().unwrap();
    let peer = format!("link add customer type veth peer name wan1 netns {}", far.display());
    ip(&line.isp, &peer);
    ip(&line.isp, &format!("address add {}/24 dev customer", line.gateway.v4));
    bring_up(line);
    for address in [format!("{}/24", line.router.v4), format!("{}/64", line.router.v6)] {
        ip(&router.network.router, &format!("address add {address} dev wan1"));
    }
    ip(&router.network.router, "link set wan1 up");
}

/// A point-to-point device like those of PPP, between the router and its first ISP.
fn dial(router: &Router, host: &str) -> Cable {
    let isp = &router.network.lines[0].isp;
    let cable = Cable::between(&router.network.router, isp, "ppp0");
    ip(isp, "link set ppp0 up");
    ip(isp, &format!("route replace 198.51.100.{host} dev ppp0"));
    ip(isp, &format!("-6 route replace 2001:db8:1::{host} dev ppp0"));
    ip(&router.network.router, &format!("address add 198.51.100.{host} peer 198.51.100.1 dev ppp0"));
    ip(&router.network.router, &format!("address add 2001:db8:1::{host}/64 dev ppp0 nodad"));
    ip(&router.network.router, "link set ppp0 up");
    cable
}

/// A flow by the second line that counts its packets.
struct Stream {
    stop: Arc<AtomicBool>,
    counts: JoinHandle<(usize, usize)>,
}

impl Stream {
    fn by_second_line(router: &Router) -> Stream {
        let host = router.network.client().host.clone();
        let to = SocketAddr::new(router.network.servers[0].of(Family::V4), SECOND);
        let socket = socket(&host, to, SOON);
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let counts = std::thread::spawn(move || {
            let (mut sent, mut answered) = (0, 0);
            while !stops.load(Relaxed) {
                sent += 1;
                // One after the other: what is lost is waited for, once.
                let answer = socket.send(b"still there?").and_then(|_| socket.recv(&mut [0; 256]));
                let Ok(_) = answer else { break };
                answered += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            (sent, answered)
        });
        Stream { stop, counts }
    }

    fn assert_nothing_lost(self, router: &Router) {
        self.stop.store(true, Relaxed);
        let (sent, answered) = self.counts.join().unwrap();
        eprintln!("the other line answered {answered} of {sent}");
        assert_eq!(sent, answered, "{}", router.said());
    }
}

/// A connection whose client says nothing.
struct Idle(std::net::TcpStream);

impl Idle {
    fn open(router: &Router, port: u16) -> Idle {
        let to = SocketAddr::new(router.network.servers[0].of(Family::V4), port);
        let host = &router.network.client().host;
        let stream = host.enter(|| std::net::TcpStream::connect_timeout(&to, SOON)).unwrap().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut idle = Idle(stream);
        assert!(std::io::Read::read(&mut idle.0, &mut [0; 256]).unwrap() > 0);
        idle
    }

    fn is_reset(&mut self) -> bool {
        let heard = std::io::Read::read(&mut self.0, &mut [0; 256]);
        heard.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    }
}
