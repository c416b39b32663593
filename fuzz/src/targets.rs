//! What is fuzzed. A target takes any bytes; it must not panic, and must end soon in little memory.
//!
//! The fuzzer calls them, and so does `tests/fuzz_corpus.rs` with all that the fuzzer has found.

use std::io::Cursor;
use std::sync::LazyLock;

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes_gcm::Aes128Gcm;
use aes_gcm::aead::AeadInOut;
use wansplit::config::{self, Config, Lists, SourceFile};
use wansplit::control::message::{Request, Response};
use wansplit::engine::flow::Arrival;
use wansplit::engine::packet::parse;
use wansplit::engine::sniff::watch::Watch;
use wansplit::engine::sniff::{self, Ports, quic};
use wansplit::engine::{Engine, Now, Snapshot};
use wansplit::replay::capture::{Capture, Frame};
use wansplit::replay::{Replay, tunnel};
use wansplit::ui::replay::FlowJson;

/// One of them.
pub struct Target {
    /// The name of its corpus.
    pub name: &'static str,
    /// The function.
    pub run: fn(&[u8]),
}

/// All of them.
pub const ALL: &[Target] = &[
    Target { name: "packet", run: packet },
    Target { name: "datagram", run: datagram },
    Target { name: "stream", run: stream },
    Target { name: "datagrams", run: datagrams },
    Target { name: "segments", run: segments },
    Target { name: "quic", run: quic },
    Target { name: "dns", run: dns },
    Target { name: "capture", run: capture },
    Target { name: "frames", run: frames },
    Target { name: "list", run: list },
    Target { name: "database", run: database },
    Target { name: "main_file", run: main_file },
    Target { name: "rule_file", run: rule_file },
    Target { name: "control", run: control },
    Target { name: "decide", run: decide },
];

/// The one of this name.
pub fn named(name: &str) -> Option<&'static Target> {
    ALL.iter().find(|target| target.name == name)
}

fn packet(bytes: &[u8]) {
    let _ = parse(bytes);
    let _ = tunnel::innermost(bytes);
}

/// Every sniffer of datagrams is asked, not only those before the first that is sure.
fn datagram(bytes: &[u8]) {
    let (ports, payload) = ports(bytes);
    let _ = sniff::datagram(payload, ports);
    let _ = sniff::dtls::sniff(payload);
    let _ = sniff::stun::sniff(payload, ports);
    let _ = sniff::wireguard::sniff(payload);
    let _ = sniff::bittorrent::sniff(payload);
    let _ = sniff::openvpn::sniff(payload);
    let _ = sniff::ipsec::sniff(payload, ports);
    let _ = sniff::sip::sniff(payload);
    let _ = sniff::snmp::sniff(payload);
    let _ = sniff::rdp::sniff(payload);
    let _ = sniff::dns::sniff(payload, ports);
    let _ = sniff::ntp::sniff(payload, ports);
    let _ = sniff::media::sniff(payload, ports);
    let _ = sniff::rtp::sniff(payload, ports);
}

/// Every sniffer of streams.
fn stream(bytes: &[u8]) {
    let (ports, payload) = ports(bytes);
    let _ = sniff::stream(payload, ports);
    let _ = sniff::tls::sniff(payload);
    let _ = sniff::http::sniff(payload);
    let _ = sniff::http2::sniff(payload);
    let _ = sniff::ssh::sniff(payload);
    let _ = sniff::bittorrent::sniff_stream(payload);
    let _ = sniff::rdp::sniff_stream(payload);
    let _ = sniff::stun::sniff_stream(payload);
    let _ = sniff::dns::sniff_stream(payload);
    let _ = sniff::openvpn::sniff_stream(payload);
    let _ = sniff::mail::sniff(payload, ports);
    let _ = sniff::mail::after_starttls(payload);
    let _ = sniff::ftp::sniff(payload, ports);
}

/// A client's datagrams, one after the other.
fn datagrams(bytes: &[u8]) {
    let (ports, rest) = ports(bytes);
    let mut watch = Watch::datagrams(ports);
    pieces(rest).for_each(|datagram| watch.datagram(datagram));
}

/// A client's segments: each begins with the lower half of its sequence number.
fn segments(bytes: &[u8]) {
    let (ports, rest) = ports(bytes);
    let mut watch = Watch::stream(ports);
    for segment in pieces(rest) {
        let Some((&[high, low], data)) = segment.split_first_chunk() else { continue };
        let sequence = u16::from_be_bytes([high, low]);
        watch.segment(sequence.into(), sequence == 0, data);
    }
}

/// Frames of Initial packets, behind the encryption that no mutation would get through.
fn quic(bytes: &[u8]) {
    let mut assembly = quic::Assembly::default();
    for (number, frames) in (0..).zip(pieces(bytes)) {
        let _ = assembly.push(&initial(number, frames));
    }
}

fn dns(bytes: &[u8]) {
    let mut told = 0;
    sniff::dns::answers(bytes, |_| told += 1);
    // At most 64 records; one of a service may hold as many addresses as fit.
    assert!(told <= 64 * bytes.len());
}

/// A file as `replay` reads it.
fn capture(bytes: &[u8]) {
    let Ok(mut capture) = Capture::new(Cursor::new(bytes)) else { return };
    let mut replay = Replay::new(None);
    while let Ok(Some(frame)) = capture.next_frame() {
        replay.frame(&frame, &mut |_| ());
    }
    replay.end(&mut |flow| drop(FlowJson::new(&flow, None)));
}

/// Frames of a link type, with nothing between the fuzzer and what they hold.
fn frames(bytes: &[u8]) {
    let Some((&[link], rest)) = bytes.split_first_chunk() else { return };
    let mut replay = Replay::new(Some(&CONFIG));
    for (at, bytes) in (0..).map(std::time::Duration::from_secs).zip(pieces(rest)) {
        replay.frame(&Frame { at, link: link.into(), bytes }, &mut |_| ());
    }
    replay.end(&mut |flow| drop(FlowJson::new(&flow, Some(&CONFIG))));
}

/// A list, of which the first byte says how its file is called.
fn list(bytes: &[u8]) {
    let Some((&kind, content)) = bytes.split_first() else { return };
    let (name, asked) =
        [("l.txt", "l.txt"), ("l.json", "l.json"), ("l.dat", "l.dat:cn"), ("l.dat", "l.dat:a@b")]
            [usize::from(kind % 4)];
    let lists = Lists::from_iter([(format!("rules/{name}"), Ok(content.to_vec()))]);
    for key in ["host_list", "dst_list"] {
        let text = format!("[[rule]]\nname = \"r\"\nmatch = {{ {key} = \"{asked}\" }}\nuse = \"isp1\"\n");
        let _ = config::load_rules(&CONFIG, &[source("rules/10.toml", text)], &lists);
    }
}

/// A database of places, read as one of countries and as one of systems.
fn database(bytes: &[u8]) {
    let main = include_str!("../../tests/data/two-lines.toml");
    let main = source("wansplit.toml", format!("{main}\n[geo]\ncountry = \"x.mmdb\"\nasn = \"x.mmdb\"\n"));
    let lists = Lists::from_iter([("x.mmdb".to_owned(), Ok(bytes.to_vec()))]);
    let _ = config::load(&main, &[], &lists);
}

fn main_file(bytes: &[u8]) {
    let main = source("wansplit.toml", String::from_utf8_lossy(bytes).into_owned());
    let _ = config::rules_directory(&main);
    describe(config::load(&main, &[], &Lists::default()).err());
}

fn rule_file(bytes: &[u8]) {
    let files = [source("rules/10.toml", String::from_utf8_lossy(bytes).into_owned())];
    describe(config::load_rules(&CONFIG, &files, &Lists::default()).err());
}

/// Lines of the control socket, from both sides, and the flow that one may ask about. What was
/// understood can be written and read again.
fn control(bytes: &[u8]) {
    if let Ok(request) = Request::from_line(bytes) {
        if let Request::Explain { flow, .. } = &request {
            let _ = config::flow(flow, &CONFIG);
        }
        let _ = Request::from_line(&request.to_line()).expect("a request can be read again");
    }
    if let Ok(response) = Response::from_line(bytes) {
        let _ = Response::from_line(&response.to_line()).expect("a response can be read again");
    }
}

/// Packets through the whole engine; its rules ask for all that can be asked for.
fn decide(bytes: &[u8]) {
    let mut engine = Engine::new(16);
    for packet in pieces(bytes) {
        let decided = engine.decide(&SNAPSHOT, packet, &Arrival::default(), Now::default());
        let again = engine.decide(&SNAPSHOT, packet, &Arrival::default(), Now::default());
        assert!(!decided.first || decided.decision.action == again.decision.action, "one flow, two answers");
    }
}

/// Where problems are, and what they say: from there people read them.
fn describe(problems: Option<config::Problems>) {
    for problem in problems.iter().flat_map(config::Problems::iter) {
        assert!(problem.line() > 0 && problem.column() > 0 && !problem.message().is_empty());
    }
}

fn source(path: &str, text: String) -> SourceFile {
    SourceFile { path: path.to_owned(), text }
}

/// Two ports, and what is left; where there is less, ports of no protocol.
fn ports(bytes: &[u8]) -> (Ports, &[u8]) {
    match bytes.split_first_chunk() {
        Some((&[a, b, c, d], rest)) => {
            (Ports { src: u16::from_be_bytes([a, b]), dst: u16::from_be_bytes([c, d]) }, rest)
        }
        None => (Ports::default(), bytes),
    }
}

/// Pieces, each behind its length in two bytes; the last may be cut.
fn pieces(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&length, rest) = bytes.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(length));
        let (piece, rest) = rest.split_at(length.min(rest.len()));
        bytes = rest;
        Some(piece)
    })
}

/// An Initial with these frames, sealed with the keys of RFC 9001, appendix A.1.
fn initial(number: u8, frames: &[u8]) -> Vec<u8> {
    const KEY: [u8; 16] = 0x1f36_9613_dd76_d546_7730_efcb_e3b1_a22d_u128.to_be_bytes();
    const IV: [u8; 12] = [0xfa, 0x04, 0x4b, 0x2f, 0x42, 0xa3, 0xfd, 0x3b, 0x46, 0xfb, 0x25, 0x5c];
    const MASK: [u8; 16] = 0x9f50_449e_04a0_e810_283a_1e99_33ad_edd2_u128.to_be_bytes();
    let mut frames = frames.to_vec();
    frames.resize(frames.len().max(1200), 0);
    let length = (0x8000_0000 | (frames.len() + 17) as u32).to_be_bytes();
    let id = [8, 0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
    let mut header = [&[0xc0, 0, 0, 0, 1][..], &id, &[0, 0], &length, &[number]].concat();
    let mut nonce = IV;
    nonce[11] ^= number;
    let cipher = Aes128Gcm::new(&KEY.into());
    let tag = cipher.encrypt_inout_detached(&nonce.into(), &header, (&mut frames[..]).into()).expect("short");
    // The sample begins four bytes behind the packet number's first.
    let mut mask: [u8; 16] = *frames[3..].first_chunk().expect("long");
    let mut block = mask.into();
    Aes128::new(&MASK.into()).encrypt_block(&mut block);
    mask = block.into();
    header[0] ^= mask[0] & 0x0f;
    *header.last_mut().expect("not empty") ^= mask[1];
    [&header[..], &frames, &tag].concat()
}

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let main = source("wansplit.toml", include_str!("../../tests/data/two-lines.toml").to_owned());
    let rules = source("rules/10.toml", RULES.to_owned());
    config::load(&main, &[rules], &Lists::default()).expect("it is good")
});

static SNAPSHOT: LazyLock<Snapshot> =
    LazyLock::new(|| Snapshot::where_all_works(CONFIG.rules.clone(), CONFIG.geo.clone(), vec![2, 1]));

const RULES: &str = r#"
[[rule]]
name = "names"
match = { host = ["*.video.example", "a.example"], alpn = ["h3"] }
use = "isp2"
[[rule]]
name = "bytes"
match = { payload = [{ at = 1, bytes = "45 54" }, { contains = "needle" }, { regex = "^[a-z]+ [0-9]{2,5}" }] }
use = "isp1"
[[rule]]
name = "kinds"
match = { app = ["dns", "bittorrent", "stun", "rtp"] }
use = { policy = "ordered", uplinks = ["isp1", "isp2"] }
sticky = { by = "client+site", for = "10m" }
[[rule]]
name = "ports"
match = { protocol = ["tcp", "udp"], dst_port = [443, "5000-6000"] }
use = { policy = "ordered", uplinks = ["isp1", "isp2"] }
"#;
