//! `wansplit explain` from files.

use std::fs;
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;

const CONFIG: &str = include_str!("data/two-lines.toml");

const RULES: &str = r#"
[[rule]]
name = "shells"
match = { protocol = "tcp", dst_port = 22 }
use = "isp1"
[[rule]]
name = "video"
match = { host = "*.video.example" }
not = { src = "10.77.0.9" }
use = { policy = "ordered", uplinks = ["isp2", "isp1"] }
on_mismatch = "reset"
live = "move-back"
[[rule]]
name = "games"
match = { protocol = "tcp", dst_port = 27015 }
use = { policy = "lowest-latency" }
[[rule]]
name = "the rest stays where it is"
match = { protocol = "udp" }
use = "isp2"
none = "drop"
"#;

const VIDEO: &str = "tcp 10.77.0.5:40000 to 198.51.100.7:443 host=www.video.example";

#[test]
fn the_rules_before_say_why_they_did_not_match_and_each_line_what_would_be_without_it() {
    let told = explain(VIDEO, &[]);
    assert_eq!((&told["uplink"], &told["name"]), (&"isp2".into(), &"www.video.example".into()));
    let rules = told["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 2, "the others were not tried");
    assert_eq!((&rules[0]["matches"], &rules[0]["why"]), (&false.into(), &"`dst_port` does not fit".into()));
    assert_eq!((&rules[1]["name"], &rules[1]["matches"]), (&"video".into(), &true.into()));
    let without = |line: usize| (&told["without"][line]["down"], &told["without"][line]["uplink"]);
    assert_eq!(without(0), (&"isp1".into(), &"isp2".into()));
    assert_eq!(without(1), (&"isp2".into(), &"isp1".into()));
}

#[test]
fn a_policy_that_looks_at_lines_says_what_it_sees_of_them() {
    let game = "tcp 10.77.0.5:40000 to 198.51.100.7:27015";
    let weighed = &explain(game, &[])["weighed"];
    assert_eq!((&weighed[0]["uplink"], &weighed[1]["uplink"]), (&"isp1".into(), &"isp2".into()));
    let text = String::from_utf8(run(game, &[]).stdout).unwrap();
    assert!(text.contains("  isp1: nothing is known of it\n"), "{text}");
    assert_eq!(explain(VIDEO, &[])["weighed"], Value::Array(Vec::new()));
}

#[test]
fn a_line_that_is_thought_of_as_down_is_not_chosen() {
    assert_eq!(explain(VIDEO, &["--down", "isp2"])["uplink"], "isp1");
    let dropped = explain("udp 10.77.0.5:40000 to 198.51.100.7:443", &["--down", "isp2"]);
    assert_eq!(dropped["uplink"], Value::Null);
    assert!(dropped["reason"].as_str().unwrap().ends_with("dropped"), "{dropped}");
    assert_eq!(dropped["rules"][3]["why"], "none of its uplinks is usable: dropped");
}

#[test]
fn a_fitting_key_under_not_is_an_objection() {
    let told = explain(&VIDEO.replace("10.77.0.5", "10.77.0.9"), &[]);
    assert_eq!(told["rules"][1]["why"], "`src` under `not` fits");
    assert_eq!(told["reason"], "no rule matched, the next turn by weight: by isp1");
}

#[test]
fn a_flow_that_is_still_saying_its_name_is_held_where_a_rule_asks_for_it() {
    let quic = "udp 10.77.0.5:40000 to 198.51.100.7:443 app=quic";
    assert_eq!(explain(quic, &[])["hold_ms"], 20);
    assert_eq!(explain(&format!("{quic} host=www.video.example"), &[])["hold_ms"], 0);
    assert_eq!(explain(&quic.replace("10.77.0.5", "10.77.0.9"), &[])["hold_ms"], 0);
    let text = String::from_utf8(run(quic, &[]).stdout).unwrap();
    assert!(text.contains("  held up to 20 ms while its client says its name\n"), "{text}");
}

#[test]
fn what_becomes_of_a_flow_later_is_told() {
    let nameless = VIDEO.replace(" host=www.video.example", "");
    let told = |flow: &str| explain(flow, &[]);
    let late = |flow: &str, rule: usize| told(flow)["rules"][rule]["on_mismatch"].clone();
    assert_eq!((late(&nameless, 0), late(&nameless, 1)), ("".into(), "reset".into()));
    assert_eq!(
        late(&nameless.replace("10.77.0.5", "10.77.0.9"), 1),
        "",
        "its source is excluded all the same"
    );
    assert_eq!(late(&nameless.replace("tcp", "udp"), 1), "", "a datagram is decided with its name");
    assert_eq!(late(VIDEO, 1), "", "its name is known");
    let live = |flow: &str| told(flow)["live"].clone();
    assert_eq!((live(VIDEO), live(&nameless)), ("move-back".into(), "reset-on-down".into()));
    let dropped = explain("udp 10.77.0.5:40000 to 198.51.100.7:443", &["--down", "isp2"]);
    assert_eq!(dropped["live"], "");
    let text = String::from_utf8(run(&nameless, &[]).stdout).unwrap();
    for line in [
        "\n    says its client such a name later, it is reset where that is another line\n",
        "\n  if its line dies while it runs, it is ended, and goes on by another\n",
    ] {
        assert!(text.contains(line), "no {line:?} in:\n{text}");
    }
}

#[test]
fn people_read_the_way_through_the_rules() {
    let output = run(VIDEO, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    for line in
        ["- \"shells\" (", "): `dst_port` does not fit", "+ \"video\" (", "  without isp2: \"video\" ("]
    {
        assert!(text.contains(line), "no {line:?} in:\n{text}");
    }
}

#[test]
fn a_question_that_cannot_be_read_says_what_was_expected() {
    for (flow, options, expected) in [
        ("tcp 10.77.0.5:40000 198.51.100.7:443", &[][..], "expected text like"),
        (VIDEO, &["--down", "isp3"], "there is no uplink \"isp3\": did you mean `isp1`?"),
    ] {
        let output = run(flow, options);
        assert_eq!(output.status.code(), Some(2));
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.contains(expected), "{complaint}");
    }
}

fn explain(flow: &str, options: &[&str]) -> Value {
    let output = run(flow, &[options, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn run(flow: &str, options: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("wansplit.toml");
    fs::write(&config, CONFIG).unwrap();
    fs::create_dir(directory.path().join("rules")).unwrap();
    fs::write(directory.path().join("rules/10.toml"), RULES).unwrap();
    let mut command = Command::cargo_bin("wansplit").unwrap();
    command.arg("--config").arg(&config).arg("explain").args(flow.split(' ')).args(options).output().unwrap()
}
