//! `wansplit replay` over captures made here.

use std::fs;
use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use serde_json::{Value, json};

#[path = "support/frames.rs"]
mod frames;

use frames::{ACK, CLIENT, SERVER, SYN, capture, tcp, udp};

const RESOLVER: [u8; 4] = [10, 77, 0, 1];

const CONFIG: &str = include_str!("data/two-lines.toml");

const RULES: &str = r#"
[[rule]]
name = "video"
match = { host = "*.video.example" }
use = "isp2"
[[rule]]
name = "questions"
match = { app = "dns" }
use = "isp1"
"#;

#[test]
fn a_connection_is_named_by_the_answer_before_it_and_by_its_own_request() {
    let frames = [
        udp(CLIENT, 5000, RESOLVER, 53, &question("www.video.example")),
        udp(RESOLVER, 53, CLIENT, 5000, &answer("www.video.example", SERVER)),
        tcp(CLIENT, 6000, SERVER, 80, 100, SYN, b""),
        tcp(SERVER, 80, CLIENT, 6000, 900, SYN | ACK, b""),
        tcp(CLIENT, 6000, SERVER, 80, 101, ACK, b"GET / HTTP/1.1\r\nHost: cdn.oth"),
        tcp(CLIENT, 6000, SERVER, 80, 130, ACK, b"er.example\r\nUser-Agent: x\r\n\r\n"),
        tcp(CLIENT, 6001, SERVER, 80, 100, SYN, b""),
    ];
    let output = replay(&frames, true);
    let flows = output["flows"].as_array().unwrap();
    let seen = |flow: &Value| {
        ["protocol", "client", "server", "app", "name", "name_from", "packet", "rule", "uplink"]
            .map(|key| flow[key].to_string().replace('"', ""))
    };
    assert_eq!(
        seen(&flows[0]),
        [
            "udp",
            "10.77.0.5:5000",
            "10.77.0.1:53",
            "dns",
            "www.video.example",
            "own bytes",
            "1",
            "questions",
            "isp1"
        ]
    );
    // Its own name came too late for its line, which the answer had decided.
    assert_eq!(
        seen(&flows[1]),
        [
            "tcp",
            "10.77.0.5:6000",
            "198.51.100.7:80",
            "http",
            "cdn.other.example",
            "own bytes",
            "4",
            "video",
            "isp2"
        ]
    );
    assert_eq!(seen(&flows[2])[4..], ["www.video.example", "dns", "1", "video", "isp2"]);
    assert_eq!(output["totals"]["flows"], 3);
    assert_eq!(output["totals"]["rules"]["video"]["uplinks"]["isp2"], 2);
}

#[test]
fn a_flow_of_questions_tells_every_name_that_is_asked_for() {
    let frames = [
        udp(RESOLVER, 53, CLIENT, 5000, &answer("before.example", SERVER)),
        udp(CLIENT, 5000, RESOLVER, 53, &question("b.example")),
        udp(CLIENT, 5000, RESOLVER, 53, &question("*.A.example")),
        udp(CLIENT, 5000, RESOLVER, 53, &question("b.example")),
        udp(CLIENT, 5001, RESOLVER, 53, &question("my printer.example")),
        tcp(CLIENT, 6000, SERVER, 80, 101, ACK, b"GET / HTTP/1.1\r\nHost: 192.0.2.9\r\n\r\n"),
    ];
    let output = replay(&frames, false);
    let names = |at: usize| (&output["flows"][at]["name"], &output["flows"][at]["names"]);
    assert_eq!(names(0), (&"b.example".into(), &json!(["*.a.example", "b.example", "before.example"])));
    assert_eq!(names(1), (&"my\\ printer.example".into(), &json!(["my\\ printer.example"])));
    assert_eq!(names(2), (&"192.0.2.9".into(), &json!(["192.0.2.9"])));
    assert_eq!(output["flows"][0]["client"], "10.77.0.5:5000");
}

#[test]
fn fragments_are_put_together_and_a_first_one_stands_for_what_is_lost() {
    let mut big = answer("www.video.example", SERVER);
    big[7] = 60;
    for last in 1..60 {
        big.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 18, 0, last]);
    }
    let whole = udp(RESOLVER, 53, CLIENT, 5000, &big);
    let (first, last) = (fragment(&whole, 0, 512), fragment(&whole, 512, usize::MAX));
    let lost = udp(CLIENT, 5002, RESOLVER, 53, &question(&format!("a.example{}", ".b.example".repeat(20))));
    let frames = [
        udp(CLIENT, 5000, RESOLVER, 53, &question("www.video.example")),
        last,
        first,
        fragment(&lost, 0, 64),
        tcp(CLIENT, 6000, SERVER, 80, 100, SYN, b""),
    ];
    let output = replay(&frames, true);
    let flows = output["flows"].as_array().unwrap();
    let seen = |at: usize| ["client", "name", "rule"].map(|key| flows[at][key].as_str().unwrap_or("none"));
    assert_eq!(seen(1), ["10.77.0.5:6000", "www.video.example", "video"], "the answer taught it");
    assert_eq!(flows[0]["packets"], 2);
    assert_eq!((seen(2)[0], flows[2]["packets"].as_u64()), ("10.77.0.5:5002", Some(1)));
}

#[test]
fn what_is_cut_short_tells_what_is_there_of_it() {
    let name = b"www.video.example";
    let name = [&[0, 0, 0, 22, 0, 20, 0, 0, 17][..], name].concat();
    let body = [&[3, 3][..], &[5; 32], &[0, 0, 2, 0x13, 1, 1, 0, 2, 0], &name].concat();
    let hello = [&[22, 3, 1, 2, 47, 1, 0, 2, 43][..], &body].concat();
    let frames = [
        tcp(CLIENT, 6000, SERVER, 443, 100, SYN, b""),
        tcp(CLIENT, 6000, SERVER, 443, 101, ACK, &hello),
        tcp(CLIENT, 6001, SERVER, 80, 101, ACK, b"GET / HTTP/1.1\r\nHost: a.example\r\nUser-A"),
        tcp(CLIENT, 6002, SERVER, 80, 101, ACK, b"GET / HTTP/1.1\r\nHost: a.exam"),
        tcp(CLIENT, 6003, SERVER, 80, 101, ACK, b"GET / HTTP/1.1\r\nHost: %S:80\r\n\r\n"),
    ];
    let output = replay(&frames, true);
    let seen =
        |at: usize| ["app", "name", "rule"].map(|key| output["flows"][at][key].as_str().unwrap_or("none"));
    assert_eq!(seen(0), ["tls", "www.video.example", "none"], "it is decided by its first packet");
    assert_eq!(seen(1), ["http", "a.example", "none"]);
    assert_eq!(seen(2)[1], "none", "a name that is cut is none");
    assert_eq!(seen(3), ["http", "%s", "none"]);
}

#[test]
fn who_answers_is_the_server_even_where_the_capture_begins_with_it() {
    let frames = [
        tcp(SERVER, 8080, CLIENT, 6000, 900, ACK, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        tcp(CLIENT, 6000, SERVER, 8080, 101, ACK, b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        tcp(SERVER, 4433, CLIENT, 6001, 900, ACK, &[22, 3, 3, 0, 90, 2, 0, 0, 86, 3, 3]),
        tcp(SERVER, 9000, CLIENT, 6002, 900, SYN | ACK, b""),
    ];
    let output = replay(&frames, false);
    for (at, server) in [8080, 4433, 9000].iter().enumerate() {
        assert_eq!(output["flows"][at]["server"], format!("198.51.100.7:{server}"));
    }
    assert_eq!(output["flows"][0]["name"], "a.example");
}

#[test]
fn without_a_configuration_flows_are_named_and_not_decided() {
    let frames = [udp(CLIENT, 5000, RESOLVER, 53, &question("a.example"))];
    let output = replay(&frames, false);
    let flow = &output["flows"][0];
    assert_eq!(
        (&flow["name"], &flow["rule"], &flow["uplink"]),
        (&"a.example".into(), &Value::Null, &Value::Null)
    );
}

#[test]
fn people_read_one_line_a_flow_and_the_totals() {
    let directory = tempfile::tempdir().unwrap();
    let file = capture(directory.path(), &[udp(CLIENT, 5000, RESOLVER, 53, &question("a.example"))]);
    let output = run(directory.path(), &["replay", &file]);
    let text = String::from_utf8(output.stdout).unwrap();
    let line = "udp 10.77.0.5:5000 > 10.77.0.1:53  dns  a.example (own bytes, packet 1)\n";
    assert!(text.starts_with(line), "{text}");
    assert!(text.contains("1 frame, 1 flow, 100.0% of them named"), "{text}");
}

#[test]
fn a_file_that_is_no_capture_is_named_and_the_others_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let good = capture(directory.path(), &[udp(CLIENT, 5000, RESOLVER, 53, &question("a.example"))]);
    let bad = directory.path().join("notes.txt");
    fs::write(&bad, "not a capture").unwrap();
    let output = run(directory.path(), &["replay", "--json", bad.to_str().unwrap(), &good]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains("notes.txt: not a capture: neither pcap nor pcapng"), "{complaint}");
    let flows: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(flows["flows"].as_array().unwrap().len(), 1);
}

/// What `replay --json` prints about these frames; with the rules above or without any.
fn replay(frames: &[Vec<u8>], with_rules: bool) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let file = capture(directory.path(), frames);
    let config = directory.path().join("wansplit.toml");
    let mut arguments = vec!["replay", "--json", &file];
    if with_rules {
        fs::write(&config, CONFIG).unwrap();
        fs::create_dir(directory.path().join("rules")).unwrap();
        fs::write(directory.path().join("rules/10.toml"), RULES).unwrap();
        arguments.extend(["--config", config.to_str().unwrap()]);
    }
    let output = run(directory.path(), &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn run(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::cargo_bin("wansplit").unwrap();
    command.env_remove("WANSPLIT_CONFIG").current_dir(directory).args(arguments).output().unwrap()
}

/// Bytes `from` up to `to` of what a frame's IP packet holds, as a fragment; both are multiples of 8.
fn fragment(frame: &[u8], from: usize, to: usize) -> Vec<u8> {
    let (header, data) = frame.split_at(14 + 20);
    let to = to.min(data.len());
    let more = if to < data.len() { 0x2000 } else { 0 };
    let mut fragment = [header, &data[from..to]].concat();
    fragment[16..18].copy_from_slice(&(20 + (to - from) as u16).to_be_bytes());
    fragment[20..22].copy_from_slice(&(more | (from / 8) as u16).to_be_bytes());
    fragment
}

fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

fn answer(name: &str, address: [u8; 4]) -> Vec<u8> {
    let mut message = question(name);
    message[2] |= 0x80;
    message[7] = 1;
    message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    message.extend(address);
    message
}
