//! The checked configuration: every name resolved, every default filled in, every limit kept.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};

use crate::engine::Snapshot;
use crate::engine::geo::Geo;
use crate::engine::packet::Family;
use crate::engine::rule::model::{NoLine, Rule, WhenNone};
use crate::engine::uplink::cost::Cost;
use crate::engine::uplink::health::{Settings, Target};
use crate::engine::uplink::load::Both;
use crate::engine::uplink::pick::slots::SlotHash;
use crate::engine::uplink::quota::Quota;
use crate::engine::uplink::{UplinkId, UplinkSet};
use crate::engine::verdict::{Action, Decision, Marks};

/// A whole checked configuration: every name resolved, every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Names of the LAN's interfaces; [`crate::engine::flow::LanId`] counts them.
    pub lan: Vec<String>,
    /// The uplinks, in the file's order.
    pub uplinks: Vec<Uplink>,
    /// Port forwards.
    pub forwards: Vec<Forward>,
    /// The rules of all rule files, in order.
    pub rules: Arc<[Rule]>,
    /// Where addresses belong, from the databases that were named.
    pub geo: Arc<Geo>,
    /// Firewall backend.
    pub backend: BackendChoice,
    /// The queues to user space.
    pub queue: Queue,
    /// Mark bits, and each uplink's value.
    pub marks: Marks,
    /// Tables and rules.
    pub routing: Routing,
    /// What is never balanced.
    pub bypass: Bypass,
    /// Whether packets from uplinks to the LAN are kept out.
    pub guard: Guard,
    /// Connection helpers to attach.
    pub helpers: Vec<Helper>,
    /// What is run when a line changes.
    pub hooks: Hooks,
    /// What becomes of flows for which no rule and no line is left.
    pub none: NoLine,
}

impl Config {
    /// Whether any flow may be refused or dropped for want of a line.
    #[must_use]
    pub fn refuses(&self) -> bool {
        let refuses = |none: WhenNone| matches!(none, WhenNone::Stop(NoLine::Reject | NoLine::Drop));
        self.none != NoLine::Keep || self.rules.iter().any(|rule| refuses(rule.none))
    }

    /// Whether any rule asks what a flow's host is called.
    #[must_use]
    pub fn asks_for_names(&self) -> bool {
        self.rules.iter().any(Rule::asks_for_names)
    }

    /// What it costs to use each uplink while no quota is used up, by number.
    #[must_use]
    pub fn costs(&self) -> Vec<Cost> {
        self.by_number(|uplink| Cost::tier(uplink.map_or(0, |uplink| uplink.cost)))
    }

    /// The rules with every uplink usable, nothing learned: for what would be rather than what is.
    #[must_use]
    pub fn where_all_works(&self) -> Snapshot {
        let (rules, geo) = (Arc::clone(&self.rules), Arc::clone(&self.geo));
        let mut snapshot = Snapshot::where_all_works(rules, geo, self.weights_by_number());
        snapshot.hash = self.backend.slot_hash();
        snapshot.board.costs = self.costs();
        snapshot.none = self.none;
        snapshot
    }

    /// The uplink of a number.
    #[must_use]
    pub fn uplink(&self, id: UplinkId) -> Option<&Uplink> {
        self.uplinks.iter().find(|uplink| uplink.id == id)
    }

    /// What people call an uplink.
    #[must_use]
    pub fn uplink_name(&self, id: UplinkId) -> &str {
        self.uplink(id).map_or("?", |uplink| &uplink.name)
    }

    /// The names of the uplinks, by number; empty where no uplink has it.
    #[must_use]
    pub fn names_by_number(&self) -> Vec<&str> {
        self.by_number(|uplink| uplink.map_or("", |uplink| uplink.name.as_str()))
    }

    /// The weights of the uplinks, by number; 0 where no uplink has it.
    #[must_use]
    pub fn weights_by_number(&self) -> Vec<u8> {
        self.by_number(|uplink| uplink.map_or(0, |uplink| uplink.weight))
    }

    /// Something of each uplink, by number, up to the highest that an uplink has.
    pub fn by_number<'a, T>(&'a self, of: impl FnMut(Option<&'a Uplink>) -> T) -> Vec<T> {
        self.numbers().map(|id| self.uplink(id)).map(of).collect()
    }

    /// All numbers up to the highest that an uplink has.
    fn numbers(&self) -> impl Iterator<Item = UplinkId> {
        let highest = self.uplinks.iter().map(|uplink| uplink.id.0).max();
        (0..=u8::MAX).take(highest.map_or(0, |highest| usize::from(highest) + 1)).map(UplinkId)
    }

    /// What people call the uplink that a flow leaves by, where the decision names one.
    #[must_use]
    pub fn uplink_of(&self, decision: &Decision) -> Option<&str> {
        match decision.action {
            Action::Route(id) => Some(self.uplink_name(id)),
            Action::Keep | Action::Drop | Action::Reject | Action::Hold(_) => None,
        }
    }

    /// A decision in a sentence.
    #[must_use]
    pub fn explain(&self, decision: &Decision) -> String {
        decision.explain(&self.rules, &self.names_by_number())
    }
}

/// One internet line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its number.
    pub id: UplinkId,
    /// What people call it.
    pub name: String,
    /// The kernel's device.
    pub interface: String,
    /// Share of new flows, 1 to 255.
    pub weight: u8,
    /// What it can carry, in bytes per second; `None`: to be learned.
    pub capacity: Both<Option<u64>>,
    /// The next hop for IPv4.
    pub gateway_v4: Gateway,
    /// The next hop for IPv6.
    pub gateway_v6: Gateway,
    /// Source translation for IPv4.
    pub source_v4: Source,
    /// Source translation for IPv6.
    pub source_v6: Source,
    /// Number of its routing table.
    pub table: u32,
    /// Clamping of the TCP maximum segment size.
    pub mss: Mss,
    /// The device may be missing at start (PPP, a tunnel); it is used once it appears.
    pub optional: bool,
    /// How it is tried.
    pub health: Health,
    /// Its tier: it is used only where no line of a lower one is usable for a flow.
    pub cost: u8,
    /// What it may carry in a month.
    pub quota: Option<Quota>,
}

impl Uplink {
    /// The next hop of one family.
    #[must_use]
    pub fn gateway(&self, family: Family) -> &Gateway {
        match family {
            Family::V4 => &self.gateway_v4,
            Family::V6 => &self.gateway_v6,
        }
    }

    /// The source translation of one family.
    #[must_use]
    pub fn source(&self, family: Family) -> &Source {
        match family {
            Family::V4 => &self.source_v4,
            Family::V6 => &self.source_v6,
        }
    }
}

/// What a line is tried by, and how it is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whom to ask, of both families; none: the line is never tried.
    pub targets: Vec<Target>,
    /// How to judge the answers.
    pub settings: Settings,
    /// How long it takes until a line that comes back has its whole share of new flows again.
    pub fill: Duration,
}

impl Health {
    /// The targets that one family is tried by.
    #[must_use]
    pub fn targets(&self, family: Family) -> Vec<Target> {
        self.targets.iter().filter(|target| target.is_of(family)).cloned().collect()
    }
}

/// The next hop of an uplink in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    /// From the routing table, a DHCP lease or the point-to-point peer; none found: the family is not used.
    Auto,
    /// This router.
    Address(IpAddr),
    /// The family is not used on this uplink (the other family's gateway was given alone).
    Unused,
}

/// What becomes of the source address of flows that leave by an uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The interface's address at the time.
    Masquerade,
    /// This address.
    Address(IpAddr),
    /// Untouched (except that of the router's own flows that had another uplink's).
    Untouched,
    /// The prefix is replaced, the rest kept (stateful RFC 6296-like translation).
    Prefix(Ipv6Net),
    /// The same, with the prefix that this device has at the time, from whoever delegates it; as long as it has none,
    /// the interface's address.
    PrefixOf(String),
}

/// TCP maximum segment size on an uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mss {
    /// What fits the interface's MTU.
    Auto,
    /// This many bytes for IPv4 (IPv6: 20 less).
    Bytes(u16),
    /// Untouched.
    Off,
}

/// A service behind the router, reachable from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// What people call it.
    pub name: String,
    /// IP protocols, TCP (6) and UDP (17), or both.
    pub protocols: Vec<u8>,
    /// Ports outside.
    pub ports: RangeInclusive<u16>,
    /// Hosts inside, at most one of each family.
    pub to: Vec<IpAddr>,
    /// First port inside; `None`: the same as outside.
    pub to_port: Option<u16>,
    /// The uplinks it listens on.
    pub uplinks: UplinkSet,
    /// Reachable from the LAN by the uplinks' addresses too.
    pub hairpin: bool,
}

/// Firewall backend, as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// The first that works of nft, iptables-nft, iptables-legacy.
    #[default]
    Auto,
    /// nftables.
    Nft,
    /// `iptables-nft` and `ip6tables-nft`.
    IptablesNft,
    /// `iptables-legacy` and `ip6tables-legacy`.
    IptablesLegacy,
}

impl BackendChoice {
    /// The hash of the policy `hash` with this backend, or with the one that is tried first.
    #[must_use]
    pub fn slot_hash(self) -> SlotHash {
        match self {
            BackendChoice::Auto | BackendChoice::Nft => SlotHash::Jenkins,
            BackendChoice::IptablesNft | BackendChoice::IptablesLegacy => SlotHash::Murmur,
        }
    }
}

/// What is run when a line changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// A program and its arguments; `None`: nothing.
    pub on_change: Option<Vec<String>>,
    /// How long it may run.
    pub timeout: Duration,
}

/// Most worker threads.
pub const MAX_WORKERS: u16 = 256;

/// The queues to user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Number of the first.
    pub first: u16,
    /// How many worker threads, one queue each; `None`: one per core.
    pub workers: Option<u16>,
    /// Most new packets per second that go to user space; those above keep the kernel's choice.
    pub limit: u32,
    /// Most of them that are one client's, once the limit is reached.
    pub limit_per_client: u32,
    /// Packets that may wait in one queue.
    pub length: u32,
    /// How packets are taken from it.
    pub socket: QueueSocket,
    /// Where workers run.
    pub pin: Pin,
    /// What the kernel decides without asking.
    pub offload: Offload,
}

/// Where workers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pin {
    /// Each on the CPU by which its packets come, where each flow's come by one CPU.
    #[default]
    Auto,
    /// Anywhere.
    Off,
}

/// What the kernel decides by itself, so that it never comes to a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Offload {
    /// Nothing.
    #[default]
    Off,
    /// Flows that need no user space.
    Auto,
}

/// How packets are taken from a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueueSocket {
    /// All that wait, which are answered together.
    #[default]
    Batch,
    /// One by one, by the nfq crate: what the other is compared with.
    Nfq,
}

impl Queue {
    /// Number of the queue for DNS answers, behind those of as many workers as there can be.
    #[must_use]
    pub fn of_names(&self) -> u16 {
        self.first + MAX_WORKERS
    }

    /// Number of the queue for flows whose names are waited for.
    #[must_use]
    pub fn of_watch(&self) -> u16 {
        self.first + MAX_WORKERS + 1
    }
}

/// Tables and rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    /// The own-traffic table; uplinks' tables follow unless they name theirs.
    pub first_table: u32,
    /// The table of flows that are refused: the first free one behind those of all uplinks.
    pub refused_table: u32,
    /// Priority of the first of our rules.
    pub first_priority: u32,
    /// How the router's own new flows are routed.
    pub router: RouterTraffic,
}

/// How the router's own new flows are routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterTraffic {
    /// Weighted over all usable uplinks.
    Multipath,
    /// By this uplink while it has a route, else over the others.
    Uplink(UplinkId),
    /// By the rules, like the LAN's.
    Rules,
}

/// What is never balanced: it goes as the main table says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bypass {
    /// Destination nets.
    pub destinations: Vec<IpNet>,
    /// Source nets.
    pub clients: Vec<IpNet>,
}

/// Whether packets from uplinks to the LAN are kept out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guard {
    /// Only answers, related packets and port forwards get in.
    On,
    /// A warning at start where nothing keeps them out.
    #[default]
    Warn,
    /// No check.
    Off,
}

/// A connection helper of the kernel, attached to the port its protocol uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Helper {
    /// The kernel's name for it: "ftp", "sip" ...
    pub name: &'static str,
    /// IP protocol number.
    pub protocol: u8,
    /// Its well-known port.
    pub port: u16,
}
