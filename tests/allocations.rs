//! Deciding takes no memory: whatever packet comes, by whatever kind of rule it is decided.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use allocation_counter::measure;
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};
use wansplit::config::{self, Config, Lists, SourceFile};
use wansplit::engine::flow::{Arrival, Millis};
use wansplit::engine::names::Names;
use wansplit::engine::packet::Family;
use wansplit::engine::rule::RuleSet;
use wansplit::engine::sniff::Name;
use wansplit::engine::uplink::{Board, UplinkId, UplinkSet};
use wansplit::engine::{Engine, Now, Snapshot};

const FLOWS: u16 = 200;
/// A port for each policy.
const POLICIES: &str = r#"
[[rule]]
name = "turns"
match = { dst_port = 2001 }
use = { policy = "round-robin", uplinks = ["isp1", "isp2"] }
[[rule]]
name = "hash"
match = { dst_port = 2002 }
use = { policy = "hash", by = "client" }
[[rule]]
name = "load"
match = { dst_port = 2003 }
use = { policy = "least-load" }
[[rule]]
name = "overflow"
match = { dst_port = 2004 }
use = { policy = "overflow", uplinks = ["isp1", "isp2"] }
[[rule]]
name = "latency"
match = { dst_port = 2005 }
use = { policy = "lowest-latency" }
[[rule]]
name = "quality"
match = { dst_port = 2006 }
use = { policy = "best-quality" }
[[rule]]
name = "bytes"
match = { payload = [{ regex = "^hello [a-z]+" }, { contains = "needle" }, { at = 2, bytes = "16 03" }] }
use = "isp2"
[[rule]]
name = "hosts"
match = { host = ["*.video.example", "www.example.org"] }
use = "isp1"
"#;

#[test]
fn a_flow_is_decided_without_an_allocation_by_every_policy_and_matcher() {
    let snapshot = snapshot();
    let mut engine = Engine::new(65_536);
    let mut now = Now { at: Millis(1), ..Now::default() };
    let mut decide = |packet: &[u8]| {
        now.at.0 += 1;
        engine.decide(&snapshot, packet, &Arrival::default(), now)
    };
    for family in Family::BOTH {
        for (what, packet) in packets(family) {
            // Expressions make room when they are first asked.
            decide(&packet(1));
            let packets: Vec<Vec<u8>> = (2..FLOWS).map(packet).collect();
            let mut by_rule = 0;
            let taken = measure(|| {
                by_rule = packets.iter().filter(|packet| decide(packet).decision.rule.is_some()).count();
            });
            assert!(by_rule == packets.len() || !what.contains(" to 200"), "{what}: a policy is not asked");
            assert_eq!((taken.count_total, taken.bytes_total), (0, 0), "{family} {what}");
            let again = measure(|| _ = decide(&packets[0]));
            assert_eq!(again.count_total, 0, "{family} {what}, again");
        }
    }
}

#[test]
fn an_allocation_is_seen() {
    assert_eq!(measure(|| drop(std::hint::black_box(Box::new(7)))).count_total, 1);
}

type Make = Box<dyn Fn(u16) -> Vec<u8>>;

/// First packets of flows, made of the client's port.
fn packets(family: Family) -> Vec<(String, Make)> {
    let datagrams: [(&str, u16, Vec<u8>); 6] = [
        ("a QUIC Initial", 443, include_bytes!("../benches/quic-initial.bin").to_vec()),
        ("a question", 53, question()),
        ("a text", 9, b"hello world".to_vec()),
        ("a long text", 9, vec![b'a'; 1200]),
        ("a name that is known", 9, vec![]),
        ("bytes that are nothing", 40_000, vec![0xff; 148]),
    ];
    let mut packets: Vec<(String, Make)> = Vec::new();
    for (what, port, data) in datagrams {
        packets.push((what.to_owned(), Box::new(move |client| udp(family, client, port, &data))));
    }
    for port in [22, 25, 80, 443, 993, 2001, 2002, 2003, 2004, 2005, 2006] {
        packets.push((format!("a connection to {port}"), Box::new(move |client| syn(family, client, port))));
    }
    packets.push((
        "a cut packet".to_owned(),
        Box::new(move |client| udp(family, client, 9, &[])[..26].to_vec()),
    ));
    packets
}

fn udp(family: Family, client: u16, port: u16, data: &[u8]) -> Vec<u8> {
    let builder = ip(family).udp(client, port);
    let mut packet = vec![0; builder.size(data.len())];
    builder.write_to_slice(&mut packet, data).expect("a packet");
    packet
}

fn syn(family: Family, client: u16, port: u16) -> Vec<u8> {
    let builder = ip(family).tcp(client, port, 1, 1000).syn();
    let mut packet = vec![0; builder.size(0)];
    builder.write_to_slice(&mut packet, &[]).expect("a packet");
    packet
}

fn ip(family: Family) -> PacketBuilderStep<IpHeaders> {
    match family {
        Family::V4 => PacketBuilder::ipv4([10, 77, 0, 5], [198, 51, 100, 7], 64),
        Family::V6 => PacketBuilder::ipv6(V6, V6, 64),
    }
}

const V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

/// RFC 1035, section 4.1: for the address of www.example.org.
fn question() -> Vec<u8> {
    let header = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&header[..], b"\x03www\x07example\x03org\x00", &[0, 1, 0, 1]].concat()
}

/// The rules that are shipped and those above, with a name for the server.
fn snapshot() -> Snapshot {
    let config = configuration();
    let usable: UplinkSet = [UplinkId(0), UplinkId(1)].into_iter().collect();
    let board = Board { usable_v4: usable, usable_v6: usable, weights: vec![3, 1], ..Board::default() };
    let names = Arc::new(Names::new(1000));
    let name = Name::new(b"www.example.org").expect("a name");
    for (client, server) in
        [([10, 77, 0, 5].into(), [198, 51, 100, 7].into()), (IpAddr::from(V6), IpAddr::from(V6))]
    {
        names.told(client, server, &name, u32::MAX, Millis(0));
    }
    let rules = Arc::new(RuleSet::compile(config.rules));
    Snapshot { rules, board, names, ..Snapshot::default() }
}

fn configuration() -> Config {
    let main = source("wansplit.toml", include_str!("data/two-lines.toml"));
    let mut files = vec![source("00-policies.toml", POLICIES)];
    let shipped = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("rules")).expect("rules");
    let text = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("a file").path();
        source(&path.display().to_string(), &std::fs::read_to_string(&path).expect("its text"))
    };
    files.extend(shipped.map(text).filter(|file| file.path.ends_with(".toml")));
    files.sort_by(|one, other| one.path.cmp(&other.path));
    let no_lists = Lists::new(|path| Err(format!("{path} is not there")));
    config::load(&main, &files, &no_lists).unwrap_or_else(|problems| panic!("{problems}"))
}

fn source(path: &str, text: &str) -> SourceFile {
    SourceFile { path: path.to_owned(), text: text.to_owned() }
}
