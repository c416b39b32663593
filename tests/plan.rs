//! The plan as an operator would type it, and what holds for every plan.
//!
//! Each directory of `tests/data/plan` holds a configuration with its rule
//! files, a machine, and what the plan for it reads like. Where the new text is
//! right, `WANSPLIT_UPDATE=1 cargo test --test plan` writes it down.
//!
//! `machine.txt` has a device a line: its name, largest packet and addresses;
//! a point-to-point address has its peer behind `>`.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use wansplit::config::{self, Config, Lists, SourceFile};
use wansplit::daemon::machine::Pending;
use wansplit::engine::flow::FlowKey;
use wansplit::engine::packet::{Family, parse as parse_packet};
use wansplit::engine::rule::model::HashKey;
use wansplit::engine::uplink::pick::slots::SlotHash;
use wansplit::lab::traffic::craft::Header;
use wansplit::plan::firewall::flow_hash::{bytecode, hidden_bytecode, slot_bytecode};
use wansplit::plan::firewall::iptables::{Flavour, PREFIX};
use wansplit::plan::firewall::model::Action;
use wansplit::plan::observed::{Address, Link, Observed};
use wansplit::plan::routing::{Hop, Route, RoutingState};
use wansplit::plan::routing_diff::diff;
use wansplit::plan::script::Step;
use wansplit::plan::workers::Workers;
use wansplit::plan::{Plan, plan, sysctls};
use wansplit::system::firewall::{self, Backend, Installed};

#[path = "support/netns.rs"]
mod netns;

use netns::{in_netns, sh};

const NFT: Backend = Backend::Nft;
const IPTABLES: [Backend; 2] = [Backend::Iptables(Flavour::Nft), Backend::Iptables(Flavour::Legacy)];

/// What the kernel allows: `XT_EXTENSION_MAXNAMELEN` less 1 for a chain, `IPSET_MAXNAMELEN` less 1 for a set.
const LONGEST_CHAIN: usize = 28;
const LONGEST_SET: usize = 31;

/// `XT_BPF_MAX_NUM_INSTR`.
const MOST_INSTRUCTIONS: usize = 64;

#[test]
fn every_plan_reads_as_it_is_written_down() {
    for case in cases() {
        assert_golden(&case.directory.join("ip.txt"), &case.routing_as_typed());
        assert_golden(&case.directory.join("nft.txt"), &typed(&case.steps(NFT)));
        assert_golden(&case.directory.join("iptables.txt"), &typed(&case.steps(IPTABLES[0])));
    }
}

#[test]
fn the_flavours_of_iptables_differ_only_by_their_programs_names() {
    for case in cases() {
        let [nft, legacy] = IPTABLES.map(|flavour| typed(&case.steps(flavour)));
        assert_eq!(nft.replace("tables-nft", "tables-legacy"), legacy, "{}", case.name());
    }
}

#[test]
fn nft_takes_every_plan_twice_and_gives_it_up_without_a_trace() {
    in_netns(|| {
        sh(
            "nft 'add table inet others; add chain inet others c { type filter hook prerouting priority -150; }; \
            add rule inet others c ct mark 7 accept'",
        );
        let before = sh("nft list ruleset");
        for case in cases() {
            load(&without_queue(case.steps(NFT)), &case);
            let first = observed(NFT);
            load(&without_queue(first.up(&case.plan.firewall)), &case);
            assert_eq!(observed(NFT), first, "{}", case.name());
            load(&first.down(), &case);
            assert_eq!(sh("nft list ruleset"), before, "{}", case.name());
        }
    });
}

#[test]
fn nft_goes_from_any_plan_to_any_other() {
    in_netns(|| {
        let cases = cases();
        for (from, to) in cases.iter().flat_map(|from| cases.iter().map(move |to| (from, to))) {
            load(&without_queue(observed(NFT).up(&from.plan.firewall)), from);
            load(&without_queue(observed(NFT).up(&to.plan.firewall)), to);
            let changed = observed(NFT);
            load(&changed.down(), to);
            load(&without_queue(to.steps(NFT)), to);
            assert_eq!(parts(&changed), parts(&observed(NFT)), "{} to {}", from.name(), to.name());
            load(&observed(NFT).down(), to);
        }
    });
}

#[test]
fn the_cpu_chooses_the_queue_where_each_worker_has_one() {
    let case = cases_with(&Workers { count: 2, cpus: vec![Some(0), Some(1)] }).remove(0);
    assert!(typed(&case.steps(NFT)).contains(" queue flags bypass,fanout to 0-1"));
    in_netns(move || {
        for backend in IPTABLES {
            let steps = case.steps(backend);
            assert!(typed(&steps).contains(" --queue-balance 0:1 --queue-bypass --queue-cpu-fanout"));
            load(&steps, &case);
            let first = observed(backend);
            load(&first.up(&case.plan.firewall), &case);
            assert_eq!(observed(backend), first);
            load(&first.down(), &case);
        }
    });
}

#[test]
fn both_flavours_of_iptables_take_every_plan_twice_and_give_it_up() {
    in_netns(|| {
        for (backend, case) in
            IPTABLES.into_iter().flat_map(|backend| cases().into_iter().map(move |case| (backend, case)))
        {
            load(&case.steps(backend), &case);
            let first = observed(backend);
            load(&first.up(&case.plan.firewall), &case);
            assert_eq!(observed(backend), first, "{}", case.name());
            load(&first.down(), &case);
            firewall::remove_sets().expect("our sets go");
            assert!(observed(backend).is_empty(), "{}", case.name());
        }
    });
}

#[test]
fn what_the_kernel_decides_by_itself_is_counted_in_every_backend() {
    in_netns(|| {
        let case = cases().into_iter().find(|case| case.name().ends_with("offload")).expect("the case");
        let chains = case.plan.firewall.chains.iter().filter(|chain| chain.counts()).count();
        for backend in [NFT, IPTABLES[0], IPTABLES[1]] {
            let steps = case.steps(backend);
            load(&if backend == NFT { without_queue(steps) } else { steps }, &case);
            let counts = firewall::counts(backend).expect("counts");
            assert_eq!((counts.len(), counts.values().sum::<u64>()), (chains, 0), "{}", backend.name());
        }
    });
}

#[test]
fn the_flow_hash_spreads_regular_ports_as_the_weights_say() {
    for (family, weights, step) in spreads() {
        let of: u32 = weights.iter().sum();
        let programs = shares(family, weights);
        let flows = 4096;
        let mut counts = vec![0_u32; weights.len()];
        for flow in 0..flows {
            let packet = udp_packet(family, 1024 + flow * step % 60_000);
            let fits: Vec<usize> =
                (0..programs.len()).filter(|&share| run(&programs[share], &packet) != 0).collect();
            let [share] = fits[..] else { panic!("{family} flow {flow} has shares {fits:?} of {weights:?}") };
            counts[share] += 1;
        }
        for (&count, &weight) in counts.iter().zip(weights) {
            let due = f64::from(flows) * f64::from(weight) / f64::from(of);
            // Four standard deviations of fair dice.
            let slack = 4.0 * (due * (1.0 - f64::from(weight) / f64::from(of))).sqrt();
            let off = (f64::from(count) - due).abs();
            assert!(off <= slack, "{family}, weights {weights:?}, ports by {step}: {counts:?}");
        }
    }
}

#[test]
fn the_flow_hash_reads_ports_behind_options_and_none_where_there_are_none() {
    let halves = shares(Family::V4, &[1, 1]);
    let side = |packet: &[u8]| run(&halves[0], packet);
    let with_options = |port: u32| {
        let mut packet = udp_packet(Family::V4, port);
        packet[0] = 0x46;
        packet.splice(20..20, [1, 1, 1, 1]);
        packet
    };
    let gre = |port: u32| {
        let mut packet = udp_packet(Family::V4, port);
        packet[9] = 47;
        packet
    };
    assert!((1..200).all(|port| side(&with_options(port)) == side(&udp_packet(Family::V4, port))));
    assert!((1..200).all(|port| side(&gre(port)) == side(&gre(1))));
    assert!((1..200).any(|port| side(&udp_packet(Family::V4, port)) != side(&udp_packet(Family::V4, 1))));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_program_finds_the_slots_that_the_engine_finds(
        (src, dst) in prop_oneof![any::<[[u8; 4]; 2]>().prop_map(v4), any::<[[u8; 16]; 2]>().prop_map(v6)],
        protocol in prop_oneof![Just(6), Just(17), any::<u8>()],
        options in any::<bool>(),
        payload in any::<[u8; 32]>(),
        slots in any::<u128>(),
    ) {
        let packet = Header { options, ..Header::new(src, dst, protocol) }.packet(&payload);
        let family = Family::of(src);
        let is_hidden = match family {
            Family::V4 => protocol == 51,
            Family::V6 => run(&parse(&hidden_bytecode()), &packet) != 0,
        };
        prop_assert!(is_hidden || family == Family::V4 || !options);
        let Ok(parsed) = parse_packet(&packet) else { return Ok(()) };
        let flow = FlowKey::of(&parsed);
        for key in [HashKey::Client, HashKey::Destination, HashKey::ClientDestination, HashKey::FiveTuple] {
            let program = parse(&slot_bytecode(family, key, slots));
            prop_assert!(program.len() <= MOST_INSTRUCTIONS, "{} instructions", program.len());
            let slot = SlotHash::Murmur.slot(key, &flow);
            let fits = run(&program, &packet) != 0;
            prop_assert!(fits == (slots >> slot & 1 == 1) || is_hidden && key == HashKey::FiveTuple, "{key:?}");
        }
    }

    #[test]
    fn any_configuration_on_any_machine_gives_a_plan_within_the_kernels_limits(random in configuration()) {
        let (config, observed) = random;
        let made = plan(&config, &observed, &workers());
        prop_assert_eq!(&made, &plan(&config, &observed, &workers()));
        diff(&RoutingState::default(), &made.routing).iter().for_each(|change| drop(change.to_string()));
        prop_assert_eq!(nothing_of(NFT).up(&made.firewall).len(), 1);
        let chains = &made.firewall.chains;
        for action in chains.iter().flat_map(|chain| &chain.rules).map(|rule| &rule.action) {
            if let Action::Jump(to) | Action::Goto(to) = action {
                prop_assert!(chains.iter().any(|chain| chain.name == *to), "there is no chain {}", to);
            }
        }
        for step in IPTABLES.iter().flat_map(|&flavour| nothing_of(flavour).up(&made.firewall)) {
            for (name, longest) in names(&step) {
                prop_assert!(name.len() <= longest && name.starts_with(PREFIX), "{} is too long", name);
            }
            for program in step.input.split("--bytecode ").skip(1) {
                let length = parse(program.trim_start_matches('"').split('"').next().unwrap_or_default()).len();
                prop_assert!(length <= MOST_INSTRUCTIONS, "{} instructions", length);
            }
        }
    }
}

/// A directory of `tests/data/plan`.
struct Case {
    directory: PathBuf,
    plan: Plan,
}

impl Case {
    fn read(directory: PathBuf, workers: &Workers) -> Case {
        let rules = files(&directory.join("rules")).iter().map(|path| source(path)).collect::<Vec<_>>();
        let config = config::load(&source(&directory.join("config.toml")), &rules, &Lists::default())
            .unwrap_or_else(|problems| panic!("{}: {problems}", directory.display()));
        let machine = machine(&config, &read(&directory.join("machine.txt")));
        Case { plan: plan(&config, &machine, workers), directory }
    }

    fn name(&self) -> String {
        self.directory.display().to_string()
    }

    /// From a machine that has nothing of ours.
    fn steps(&self, backend: Backend) -> Vec<Step> {
        nothing_of(backend).up(&self.plan.firewall)
    }

    fn routing_as_typed(&self) -> String {
        let settings = self.plan.settings.clone();
        let routing = diff(&RoutingState::default(), &self.plan.routing);
        Pending { settings, routing, firewall: Vec::new() }.to_string()
    }
}

fn cases() -> Vec<Case> {
    cases_with(&workers())
}

fn cases_with(workers: &Workers) -> Vec<Case> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/plan");
    let cases: Vec<Case> = files(&directory).into_iter().map(|path| Case::read(path, workers)).collect();
    assert!(!cases.is_empty());
    cases
}

/// What is in a directory, in the order of names; nothing where there is none.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn source(path: &Path) -> SourceFile {
    SourceFile { path: path.display().to_string(), text: read(path) }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The machine of a `machine.txt`: all devices up, all settings as a kernel has them at first.
fn machine(config: &Config, text: &str) -> Observed {
    let links: Vec<Link> = text.lines().zip(1..).map(|(line, index)| link(line, index)).collect();
    let devices: Vec<String> = links.iter().map(|link| link.name.clone()).collect();
    let default = |name: &str| if name.ends_with("accept_ra") { "1" } else { "0" };
    Observed {
        main_routes: links.iter().flat_map(connected).collect(),
        sysctls: sysctls::names(config, &devices)
            .into_iter()
            .map(|name| (name.clone(), default(&name).into()))
            .collect(),
        utc_offset: 3600,
        links,
        ..Observed::default()
    }
}

fn link(line: &str, index: u32) -> Link {
    let mut words = line.split_whitespace();
    let name = words.next().expect("a name").to_owned();
    let mtu = words.next().and_then(|mtu| mtu.parse().ok()).expect("a size");
    let addresses: Vec<Address> = words.map(address).collect();
    let point_to_point = addresses.iter().any(|address| address.peer.is_some());
    Link { index, name, up: true, enabled: true, mtu, point_to_point, hardware: None, addresses }
}

fn address(word: &str) -> Address {
    let (net, peer) = word.split_once('>').map_or((word, None), |(net, peer)| (net, Some(peer)));
    Address { net: net.parse().expect("a net"), peer: peer.map(|peer| peer.parse().expect("an address")) }
}

fn connected(link: &Link) -> Vec<Route> {
    let hop = Hop { interface: link.name.clone(), gateway: None, weight: 1, onlink: false };
    let route = |address: &Address| Route {
        table: 254,
        destination: address.peer.map_or(address.net.trunc(), Into::into),
        metric: 0,
        preferred_source: None,
        hops: vec![hop.clone()],
    };
    link.addresses.iter().map(route).collect()
}

fn nothing_of(backend: Backend) -> Installed {
    match backend {
        Backend::Nft => Installed::Nft(Default::default()),
        Backend::Iptables(flavour) => Installed::Iptables(flavour, Default::default()),
    }
}

fn typed(steps: &[Step]) -> String {
    steps.iter().flat_map(|step| &step.typed).map(|line| format!("{line}\n")).collect()
}

fn assert_golden(path: &Path, text: &str) {
    if std::env::var_os("WANSPLIT_UPDATE").is_some() {
        fs::write(path, text).expect("the expected text");
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    let differs = expected.lines().zip(text.lines()).find(|(expected, line)| expected != line);
    assert!(expected == text, "{} differs, first in {differs:#?}", path.display());
}

/// The workers of all plans that are written down.
fn workers() -> Workers {
    Workers::anywhere(2)
}

fn load(steps: &[Step], case: &Case) {
    firewall::run_all(steps).unwrap_or_else(|error| panic!("{}: {error}", case.name()));
}

fn observed(backend: Backend) -> Installed {
    firewall::observe(backend).expect("the rules can be read")
}

/// The table's parts in any order: nft lists them in the order in which they were made.
fn parts(installed: &Installed) -> Vec<String> {
    let Installed::Nft(table) = installed else { panic!("not nft") };
    let (_, text) = table.text.split_once('\n').expect("the table's own line");
    let parts = text.split("\n\n").map(|part| part.trim_end_matches(['}', '\n', '\t']));
    let mut parts: Vec<String> = parts.map(String::from).collect();
    parts.sort();
    parts
}

/// Kernels without nft's queue take all the rest of a rule that has one.
fn without_queue(mut steps: Vec<Step>) -> Vec<Step> {
    for step in &mut steps {
        let rule = |line: &str| match line.split_once(" queue flags ") {
            Some((conditions, _)) => format!("{conditions} accept\n"),
            None => format!("{line}\n"),
        };
        step.input = step.input.lines().map(rule).collect();
    }
    steps
}

/// Names of the chains and sets that a step makes, with the longest the kernel takes.
fn names(step: &Step) -> Vec<(String, usize)> {
    let name = |line: &str, before: &str| {
        Some(line.strip_prefix(before)?.split_whitespace().next().unwrap_or_default().to_owned())
    };
    let named = |line: &str| {
        let chain = name(line, ":").map(|name| (name, LONGEST_CHAIN));
        chain.or_else(|| name(line, "create ").map(|name| (name, LONGEST_SET)))
    };
    step.input.lines().filter_map(named).collect()
}

fn spreads() -> impl Iterator<Item = (Family, &'static [u32], u32)> {
    const WEIGHTS: [&[u32]; 5] = [&[1, 1], &[1, 1, 1], &[4, 1], &[3, 1], &[1, 2, 3, 4]];
    let weighted = Family::BOTH.into_iter().flat_map(|family| WEIGHTS.map(|weights| (family, weights)));
    weighted.flat_map(|(family, weights)| [1, 2].map(|step| (family, weights, step)))
}

/// One program for each weight, as the firewall's rules have them.
fn shares(family: Family, weights: &[u32]) -> Vec<Vec<Instruction>> {
    let of = weights.iter().sum();
    let starts = weights.iter().scan(0, |end, &weight| {
        *end += weight;
        Some((*end - weight, *end))
    });
    starts.map(|(from, to)| parse(&bytecode(family, from, to, of))).collect()
}

fn udp_packet(family: Family, source_port: u32) -> Vec<u8> {
    let mut packet = match family {
        Family::V4 => vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 0, 5, 198, 51, 100, 7],
        Family::V6 => {
            let addresses =
                ["fd77::5", "2001:db8::7"].map(|text| text.parse::<std::net::Ipv6Addr>().unwrap().octets());
            [&[0x60, 0, 0, 0, 0, 8, 17, 64], addresses.concat().as_slice()].concat()
        }
    };
    packet.extend((source_port as u16).to_be_bytes());
    packet.extend([1, 187, 0, 8, 0, 0]);
    packet
}

fn v4([src, dst]: [[u8; 4]; 2]) -> (IpAddr, IpAddr) {
    (src.into(), dst.into())
}

fn v6([src, dst]: [[u8; 16]; 2]) -> (IpAddr, IpAddr) {
    (src.into(), dst.into())
}

/// An instruction of classic BPF: code, the two jumps, operand.
type Instruction = (u16, u8, u8, u32);

/// Reads what `--bytecode` takes.
fn parse(text: &str) -> Vec<Instruction> {
    let mut parts = text.split(',');
    let length: usize = parts.next().and_then(|length| length.parse().ok()).expect("a length");
    let instruction = |part: &str| {
        let numbers: Vec<u32> = part.split(' ').map(|number| number.parse().expect("a number")).collect();
        let [code, if_true, if_false, operand] = numbers[..] else { panic!("{part}") };
        (code as u16, if_true as u8, if_false as u8, operand)
    };
    let program: Vec<Instruction> = parts.map(instruction).collect();
    assert_eq!(program.len(), length);
    program
}

/// Runs a program as the kernel would (Documentation/networking/filter.rst);
/// a load beyond the packet ends it with 0.
fn run(program: &[Instruction], packet: &[u8]) -> u32 {
    let word = |at: usize| Some(u32::from_be_bytes(packet.get(at..at + 4)?.try_into().ok()?));
    let byte = |at: usize| Some(u32::from(*packet.get(at)?));
    let (mut a, mut x, mut memory, mut at) = (0_u32, 0_u32, [0_u32; 16], 0);
    loop {
        let (code, if_true, if_false, k) = program[at];
        let skip = |holds: bool| usize::from(if holds { if_true } else { if_false });
        let loaded = match code {
            0x20 => word(k as usize),
            0x30 => byte(k as usize),
            0x40 => word(x as usize + k as usize),
            0xb1 => byte(k as usize),
            0x00 => Some(k),
            0x60 => Some(memory[k as usize]),
            _ => Some(0),
        };
        let Some(loaded) = loaded else { return 0 };
        at += 1;
        match code {
            0x00 | 0x20 | 0x30 | 0x40 | 0x60 => a = loaded,
            0xb1 => x = 4 * (loaded & 0xf),
            0x61 => x = memory[k as usize],
            0x02 => memory[k as usize] = a,
            0x03 => memory[k as usize] = x,
            0x24 => a = a.wrapping_mul(k),
            0x94 => a %= k,
            0xac => a ^= x,
            0x54 => a &= k,
            0x74 => a >>= k,
            0x7c => a >>= x,
            0x07 => x = a,
            0x87 => a = x,
            0x05 => at += k as usize,
            0x15 => at += skip(a == k),
            0x35 => at += skip(a >= k),
            0x45 => at += skip(a & k != 0),
            0x06 => return k,
            0x16 => return a,
            _ => panic!("no such instruction: {code:#x}"),
        }
    }
}

/// A configuration with one to sixteen uplinks and rules that drop, and a machine that has some of it.
fn configuration() -> impl Strategy<Value = (Config, Observed)> {
    let uplinks = proptest::collection::vec((uplink_keys(), any::<bool>()), 1..=16);
    let rules = proptest::collection::vec(rule_keys(), 0..4);
    (uplinks, rules, top_keys(), any::<bool>()).prop_map(|(uplinks, rules, top, lan_is_there)| {
        let mut text = format!("{top}\n[lan]\ninterfaces = [\"a-long-lan-name\"]\n");
        let mut machine =
            String::from(if lan_is_there { "a-long-lan-name 1500 10.77.0.1/24 fd77::1/64\n" } else { "" });
        for (place, (keys, is_there)) in uplinks.iter().enumerate() {
            let device = format!("a-long-device{place:02}");
            let keys = keys.replace('#', &place.to_string());
            text += &format!("[[uplink]]\nname = \"uplink{place}\"\ninterface = \"{device}\"\n{keys}\n");
            if *is_there {
                machine += &format!("{device} 1500 198.18.{place}.2/24 2001:db8:{place}::2/64\n");
            }
        }
        let rules: String = rules
            .iter()
            .enumerate()
            .map(|(place, keys)| format!("[[rule]]\nname = \"rule {place}\"\n{keys}\n"))
            .collect();
        let file = |path: &str, text: &str| SourceFile { path: path.into(), text: text.into() };
        let config =
            config::load(&file("wansplit.toml", &text), &[file("rules/10.toml", &rules)], &Lists::default())
                .unwrap_or_else(|problems| panic!("{problems}\n{text}\n{rules}"));
        let observed = self::machine(&config, &machine);
        (config, observed)
    })
}

/// The keys of an uplink; # stands for its number.
fn uplink_keys() -> impl Strategy<Value = String> {
    const WAYS: [&str; 7] = [
        "gateway = \"auto\"",
        "gateway = \"198.18.#.1\"\nsource = \"none\"",
        "gateway = \"2001:db8:#::1\"\nsource = \"npt 2001:db8:#::/64\"",
        "gateway = [\"198.18.#.1\", \"2001:db8:#::1\"]\nsource = [\"198.18.#.2\", \"none\"]",
        "gateway = [\"auto\", \"fe80::1\"]\nsource = [\"198.18.#.99\", \"2001:db8:#::99\"]",
        "gateway = \"auto\"\nsource = [\"198.18.#.99\", \"npt 2001:db8:#::/64\"]\nmss = 1280",
        "gateway = \"auto\"\nsource = \"none\"\nmss = \"off\"",
    ];
    let way = proptest::sample::select(&WAYS[..]);
    (way, 1..=255_u8).prop_map(|(way, weight)| format!("{way}\nweight = {weight}"))
}

fn rule_keys() -> impl Strategy<Value = String> {
    let matches = proptest::sample::select(
        &[
            "{ protocol = \"udp\", dst_port = [53, \"1000-2000\"] }",
            "{ dst = [\"198.51.100.0/24\", \"2001:db8:f::/48\"], dscp = [8, \"ef\"] }",
            "{ icmp_type = \"echo-request\", length = \"60-100\" }",
            "{ time = [\"22:00-06:00\"], weekday = [\"sat-mon\"] }",
            "{ src_mac = \"02:00:00:00:00:0a\", lan = \"a-long-lan-name\" }",
        ][..],
    );
    let choice = proptest::sample::select(
        &[
            "\"uplink0\"",
            "{ policy = \"round-robin\" }",
            "{ policy = \"ordered\", uplinks = [\"uplink0\"] }",
            "{ policy = \"hash\", by = \"client\" }",
        ][..],
    );
    let none = proptest::sample::select(&["next-rule", "any", "drop"][..]);
    (matches, choice, none)
        .prop_map(|(matches, choice, none)| format!("match = {matches}\nuse = {choice}\nnone = \"{none}\""))
}

fn top_keys() -> impl Strategy<Value = String> {
    let guard = proptest::sample::select(&["on", "off", "warn"][..]);
    let helpers = proptest::sample::select(&["[]", "[\"ftp\", \"sip\"]"][..]);
    let router = proptest::sample::select(&["multipath", "rules", "uplink0"][..]);
    let offload = proptest::sample::select(&["off", "auto"][..]);
    (guard, helpers, router, offload).prop_map(|(guard, helpers, router, offload)| {
        format!(
            "guard = \"{guard}\"\nhelpers = {helpers}\nrouting.router = \"{router}\"\nqueue.offload = \"{offload}\""
        )
    })
}
