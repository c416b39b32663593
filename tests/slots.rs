//! The kernel's firewalls find the slots that the engine finds.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use wansplit::daemon::accounts::Account;
use wansplit::engine::flow::FlowKey;
use wansplit::engine::packet::{Family, PROTOCOLS_WITH_PORTS, parse};
use wansplit::engine::rule::model::{HashKey, RuleId};
use wansplit::engine::uplink::UplinkId;
use wansplit::engine::uplink::pick::slots::SLOTS;
use wansplit::engine::verdict::Marks;
use wansplit::lab::host::Host;
use wansplit::lab::traffic::craft::{Header, protocol};
use wansplit::lab::traffic::send_packets;
use wansplit::plan::firewall::iptables::Flavour;
use wansplit::plan::firewall::model::{Action, Chain, Firewall, Hook, Match, rule};
use wansplit::system::firewall::{self, Backend, Installed};

#[path = "support/netns.rs"]
mod netns;

use netns::in_netns;

const BACKENDS: [Backend; 3] =
    [Backend::Nft, Backend::Iptables(Flavour::Nft), Backend::Iptables(Flavour::Legacy)];
const KEYS: [HashKey; 4] =
    [HashKey::Client, HashKey::Destination, HashKey::ClientDestination, HashKey::FiveTuple];
/// Where packets are counted whose ports the firewall does not see.
const HIDDEN: Account = (Some(RuleId(4)), UplinkId(0));
/// IP protocol numbers (IANA).
const AUTHENTICATION: u8 = 51;
const OPTIONS: u8 = 60;
const PACKETS: usize = 400;
/// How long packets may take through the loopback device.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn every_firewall_finds_the_slots_that_the_engine_finds_with_its_hash_or_does_not_look() {
    in_netns(|| {
        let packets =
            vec(any_packet(), PACKETS).new_tree(&mut TestRunner::default()).expect("packets").current();
        for backend in BACKENDS {
            let machine = Host::new("machine").expect("a machine");
            let counted = machine.enter(|| counted(&machine, backend, &packets)).expect("a machine");
            let expected = expected(backend, &packets);
            let differ = expected.iter().filter(|(account, count)| counted.get(account) != Some(count));
            let differ: Vec<_> =
                differ.map(|(account, count)| (account, count, counted.get(account))).collect();
            assert!(differ.is_empty(), "{}: {differ:?}", backend.name());
        }
    });
}

fn expected(backend: Backend, packets: &[Vec<u8>]) -> HashMap<Account, u64> {
    let mut counts: HashMap<Account, u64> = accounts().chain([HIDDEN]).map(|account| (account, 0)).collect();
    for packet in packets {
        let flow = FlowKey::of(&parse(packet).expect("a packet"));
        for (number, key) in (0..).zip(KEYS) {
            let slot = backend.slot_hash().slot(key, &flow);
            let is_hidden = key == HashKey::FiveTuple && hides_ports(backend, packet);
            let account = if is_hidden { HIDDEN } else { (Some(RuleId(number)), UplinkId(slot as u8)) };
            *counts.entry(account).or_default() += 1;
        }
    }
    counts
}

/// Whether this firewall may not see the ports. nft looks behind extension headers, but not behind IPsec's.
fn hides_ports(backend: Backend, packet: &[u8]) -> bool {
    match (parse(packet).expect("a packet").family, backend) {
        (Family::V4, _) => packet[9] == AUTHENTICATION,
        (Family::V6, Backend::Nft) if packet[6] == OPTIONS => packet[40] == AUTHENTICATION,
        (Family::V6, Backend::Nft) => packet[6] == AUTHENTICATION,
        (Family::V6, Backend::Iptables(_)) => [AUTHENTICATION, OPTIONS].contains(&packet[6]),
    }
}

/// What a machine counts of packets that come to it.
fn counted(machine: &Host, backend: Backend, packets: &[Vec<u8>]) -> HashMap<Account, u64> {
    machine
        .shell("ip link set lo up; ip route add local default dev lo; ip -6 route add local default dev lo")
        .expect("routes");
    let nothing = match backend {
        Backend::Nft => Installed::Nft(Default::default()),
        Backend::Iptables(flavour) => Installed::Iptables(flavour, Default::default()),
    };
    firewall::run_all(&nothing.up(&counting())).expect("the rules");
    send_packets(machine, packets).expect("sent");
    let deadline = Instant::now() + SOON;
    loop {
        let counts = firewall::counts(backend).expect("counts");
        // Each packet is counted once by each key.
        if counts.values().sum::<u64>() >= (KEYS.len() * packets.len()) as u64 || Instant::now() > deadline {
            return counts;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Counts packets by their slots and drops them.
fn counting() -> Firewall {
    let marks = Marks { mask: 0xff, decided: 0x100, watched: 0x200, values: vec![1], refused: 0xff };
    let name = |(rule, uplink): Account| format!("take-{}-{}", rule.expect("a rule").0 + 1, uplink.0 + 1);
    let count = |account| {
        let name = name(account);
        Chain { rules: vec![rule([], Action::Tally(name.clone()))], name, hook: None }
    };
    let by_slot = |(id, uplink): Account| {
        let key = KEYS[usize::from(id.expect("a rule").0)];
        rule([Match::Slot { key, slots: 1 << uplink.0 }], Action::Jump(name((id, uplink))))
    };
    let (by_ports, by_addresses): (Vec<Account>, Vec<Account>) =
        accounts().partition(|(id, _)| *id == Some(RuleId(3)));
    let hidden = [Action::Jump(name(HIDDEN)), Action::Drop].map(|action| rule([Match::PortsHidden], action));
    let rules = by_addresses.into_iter().map(by_slot).chain(hidden).chain(by_ports.into_iter().map(by_slot));
    let decide = Chain {
        name: "decide".into(),
        hook: Some(Hook::Decide),
        rules: rules.chain([rule([], Action::Drop)]).collect(),
    };
    let chains = accounts().chain([HIDDEN]).map(count).chain([decide]).collect();
    Firewall { marks, stay: vec![], helpers: vec![], chains }
}

/// One for each slot by each key.
fn accounts() -> impl Iterator<Item = Account> {
    (0..KEYS.len() as u16)
        .flat_map(|key| (0..SLOTS as u8).map(move |slot| (Some(RuleId(key)), UplinkId(slot))))
}

/// A packet of any protocol, with options or extension headers or without.
fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let mut protocols = PROTOCOLS_WITH_PORTS.to_vec();
    protocols.extend([protocol::GRE, protocol::ESP, protocol::EXPERIMENT, AUTHENTICATION]);
    let addresses = (any::<bool>(), any::<u128>(), any::<u128>()).prop_map(|(v6, src, dst)| {
        let v6_address =
            |net: u128, rest: u128| std::net::Ipv6Addr::from_bits(net << 112 | rest >> 16).into();
        let v4_address =
            |net: u32, rest: u128| std::net::Ipv4Addr::from_bits(net << 24 | rest as u32 >> 8).into();
        if v6 {
            (v6_address(0xfd77, src), v6_address(0x2001, dst))
        } else {
            (v4_address(10, src), v4_address(198, dst))
        }
    });
    let icmp = any::<bool>();
    (addresses, proptest::sample::select(protocols), icmp, any::<bool>(), any::<[u8; 4]>()).prop_map(
        |((src, dst), kind, is_icmp, options, ports)| {
            let kind = if is_icmp { protocol::ICMP[Family::of(src) as usize] } else { kind };
            // Of the next protocol, of words; reserved; index and sequence of IPsec's header (RFC 4302).
            let before: &[u8] =
                if kind == AUTHENTICATION { &[protocol::TCP, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1] } else { &[] };
            let payload = [before, &ports, &[0x50; 24]].concat();
            Header { options, ..Header::new(src, dst, kind) }.packet(&payload)
        },
    )
}
