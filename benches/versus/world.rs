//! The network in which all are compared: a LAN port, a router, two lines that count and free what they get, and
//! a server that has the connections and echoes that would go by the lines.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, Result};
use wansplit::lab::host::Host;
use wansplit::system::conntrack::{Conntrack, Flow, Mark};

/// The core that does the router's work.
pub const ROUTER_CORE: u16 = 0;
/// The core that makes the load.
pub const LOAD_CORE: u16 = 1;

/// The hardware address of the router's LAN port.
pub const LAN_MAC: [u8; 6] = [0x02, 0x77, 0, 0, 0, 0xfe];
/// The client's device.
pub const CLIENT_DEVICE: &str = "eth0";
/// The client.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
/// Where a server listens; it has all of 198.18.0.0/15 (RFC 2544).
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 19, 2, 1);

/// The lines: device, the router's address, the gateway's.
pub const LINES: [(&str, Ipv4Addr, Ipv4Addr); 2] = [
    ("wan1", Ipv4Addr::new(198, 51, 100, 2), Ipv4Addr::new(198, 51, 100, 1)),
    ("wan2", Ipv4Addr::new(203, 0, 113, 2), Ipv4Addr::new(203, 0, 113, 1)),
];

/// Where the router's receive side runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// On the core of all else that the router does.
    BesideTheRouter,
    /// On the core of whoever sends.
    BesideTheSender,
}

/// The machines.
pub struct World {
    /// What is compared runs there.
    pub router: Host,
    /// Sends.
    pub client: Host,
    /// Answers.
    pub server: Host,
    /// New flows sent so far.
    pub flows: AtomicU64,
}

/// Frames for a line carry its own address: nobody on it answers ARP. The server's device has the same one.
const LINE_MAC: &str = "02:77:00:00:01:01";
/// Until what was forgotten is freed.
const FORGETTING: Duration = Duration::from_millis(300);

impl World {
    /// Builds it.
    pub fn build() -> Result<World> {
        let world = World {
            router: Host::new("router")?,
            client: Host::new("client")?,
            server: Host::new("server")?,
            flows: AtomicU64::new(0),
        };
        for host in [&world.router, &world.client, &world.server] {
            let loose = [("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/default/rp_filter", "0")];
            host.set_sysctls(&loose)?;
        }
        world.router.set_sysctls(&[("ipv4/ip_forward", "1")])?;
        let router = world.router.namespace().path()?;
        world.client.shell(&format!(
            "ip link add {CLIENT_DEVICE} type veth peer name lan0 netns {}\n\
             ip link set {CLIENT_DEVICE} up\n\
             ip address add {CLIENT}/16 dev {CLIENT_DEVICE}\n\
             ip route add default via 10.77.0.1\n",
            router.display()
        ))?;
        world.server.shell(&format!(
            "ip link add eth0 address {LINE_MAC} type veth peer name server0 netns {}\n\
             ip link set lo up\n\
             ip link set eth0 up\n\
             ip address add 100.64.0.2/30 dev eth0\n\
             ip route add default via 100.64.0.1\n\
             ip route add local 198.18.0.0/15 dev lo\n",
            router.display()
        ))?;
        let [a, b, c, d, e, f] = LAN_MAC;
        world.router.shell(&format!(
            "ip link set lo up\n\
             ip link set lan0 address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} up\n\
             ip address add 10.77.0.1/16 dev lan0\n\
             ip link set server0 up\n\
             ip address add 100.64.0.1/30 dev server0\n"
        ))?;
        for (device, address, _) in LINES {
            world.router.shell(&format!(
                "ip link add {device} address {LINE_MAC} type ifb\n\
                 ip link set {device} up\n\
                 ip address add {address}/24 dev {device}\n"
            ))?;
        }
        steer(&world.client, CLIENT_DEVICE, 1 << LOAD_CORE)?;
        Ok(world)
    }

    /// Chooses the core on which packets arrive at the router.
    pub fn steer(&self, arrivals: Arrivals) -> Result<()> {
        let cores = match arrivals {
            Arrivals::BesideTheRouter => 1 << ROUTER_CORE,
            Arrivals::BesideTheSender => 0,
        };
        steer(&self.router, "lan0", cores)
    }

    /// Lets the server have the connections and echoes that leave by a line. The others pay for a filter then.
    pub fn serve(&self) -> Result<()> {
        for (device, ..) in LINES {
            self.router.shell(&format!("tc qdisc add dev {device} clsact\n"))?;
            for protocol in [1, 6] {
                self.router.shell(&format!(
                    "tc filter add dev {device} egress protocol ip u32 match ip protocol {protocol} 0xff \
                     action mirred egress redirect dev server0\n"
                ))?;
            }
        }
        Ok(())
    }

    /// Forgets all connections.
    pub fn forget(&self) -> Result<()> {
        self.router.enter(|| Conntrack::open()?.delete_marked(Mark::new(0, 0)))?.context("forgetting")?;
        std::thread::sleep(FORGETTING);
        Ok(())
    }

    /// All connections.
    pub fn connections(&self, each: impl FnMut(Flow) + Send) -> Result<()> {
        self.router.enter(|| Conntrack::open()?.dump(None, each))?.context("reading connections")
    }

    /// Packets that the lines have got.
    pub fn sunk(&self) -> Result<u64> {
        let mut sunk = 0;
        for (device, ..) in LINES {
            sunk += self.router.device_counters(device)?.context("a line is missing")?.received_packets;
        }
        Ok(sunk)
    }

    /// Packets that queues have taken to a program.
    pub fn queued(&self) -> Result<u64> {
        let queues =
            self.router.enter(|| fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_queue"))?;
        // The number of the last one; queues from 256 on are not for new flows.
        let taken = |line: &str| {
            let words: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            if words.first().is_some_and(|&number| number < 256) { words.get(7).copied() } else { None }
        };
        Ok(queues.unwrap_or_default().lines().filter_map(taken).sum())
    }
}

/// The kernel shows a machine's devices where it was mounted in the machine.
fn steer(host: &Host, device: &str, cores: u32) -> Result<()> {
    let script =
        format!("mount -t sysfs none /sys && echo {cores:x} > /sys/class/net/{device}/queues/rx-0/rps_cpus");
    host.run(Command::new("unshare").args(["-m", "sh", "-euc", &script]))?;
    Ok(())
}

/// More connections than usual may be known while this lives; the number is one for all namespaces.
pub struct Room(String);

const MOST: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// Of a measure's connections, those of the flood before it included.
const WANTED: u64 = 4_000_000;

impl Room {
    /// Makes it.
    pub fn make() -> Result<Room> {
        let before = fs::read_to_string(MOST).with_context(|| format!("reading {MOST}"))?;
        if before.trim().parse::<u64>().is_ok_and(|most| most < WANTED) {
            fs::write(MOST, WANTED.to_string())
                .with_context(|| format!("writing {MOST} (this needs root)"))?;
        }
        Ok(Room(before))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::write(MOST, &self.0);
    }
}
