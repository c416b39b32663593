//! `wansplit bench` on rule files and captures made here.

use std::fs;
use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "support/frames.rs"]
mod frames;

use frames::{ACK, CLIENT, SERVER, SYN, capture, tcp, udp};

const CONFIG: &str = include_str!("data/two-lines.toml");

const RULES: &str = r#"[[rule]]
name = "web"
match = { protocol = ["tcp", "udp"], dst_port = [80, 443] }
use = "isp1"
[[rule]]
name = "video"
match = { protocol = "udp", dst_port = 443, host = "*.video.example" }
use = "isp2"
[[rule]]
name = "names"
match = { protocol = "udp", dst_port = 53 }
use = "isp1"
[[rule]]
name = "never at all"
match = { protocol = "tcp", dst_port = 22 }
not = { dst_port = "1-100" }
use = "isp2"
"#;

#[test]
fn a_rule_whose_flows_an_earlier_one_takes_is_named_with_its_taker() {
    let directory = directory(CONFIG, RULES);
    let report = json_of(&run(directory.path(), &["bench", "--flows", "1000", "--seconds", "1", "--json"]));
    assert_eq!((&report["flows"], &report["source"]), (&json!(1000), &json!({ "made": { "seed": 1 } })));
    let [web, names, video, never] =
        ["web", "names", "video", "never at all"].map(|name| rule(&report, name));
    let seen = ["place", "flows", "fitting", "taken"].map(|key| &video[key]);
    let taken = json!([{ "by": "web", "origin": "rules/10.toml:2", "flows": 200 }]);
    assert_eq!(seen, [&json!(2), &json!(0), &json!(200), &taken]);
    assert_eq!([&never["flows"], &never["fitting"]], [0, 0]);
    for hit in [web, names] {
        assert!(hit["flows"].as_u64() >= Some(200) && hit["fitting"] == 200, "{hit}");
        assert!(hit["ns"]["p50"].as_f64() > Some(0.0), "{hit}");
    }
    assert!(web["flows"].as_u64() > names["flows"].as_u64());
    assert_eq!(report["rules"][0]["name"], "web", "the most hit comes first");
    assert!(report["ns"]["p99"].as_f64() >= report["ns"]["p50"].as_f64());
}

#[test]
fn the_same_seed_gives_the_same_flows_and_another_one_others() {
    let directory = directory(CONFIG, RULES);
    let flows = |seed: &str| {
        let arguments = ["bench", "--flows", "500", "--seconds", "1", "--json", "--seed", seed];
        let report = json_of(&run(directory.path(), &arguments));
        report["rules"].as_array().unwrap().iter().map(|rule| rule["flows"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(flows("7"), flows("7"));
    assert_ne!(flows("7"), flows("8"));
}

#[test]
fn people_read_the_rules_in_the_order_of_their_flows_and_those_that_never_decide() {
    let directory = directory(CONFIG, RULES);
    let output = run(directory.path(), &["bench", "--flows", "1000", "--seconds", "1"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let text = text.replace("\n  ", " ");
    let place = |words: &str| text.find(words).unwrap_or_else(|| panic!("no {words:?} in\n{text}"));
    assert!(place("4 rules in 1 file") < place("RULE "));
    assert!(place("web ") < place("names "));
    assert!(place("names ") < place("These never decide"));
    place("\"video\" (rules/10.toml:6): all flows that fit it (200) go to \"web\"");
    place("\"never at all\" (rules/10.toml:14): no flow that fits it could be made");
}

#[test]
fn flows_of_a_capture_are_counted_and_their_order_decides() {
    let directory = directory(CONFIG, RULES);
    let frames = [
        udp(CLIENT, 5000, SERVER, 53, b"?"),
        udp(CLIENT, 5001, SERVER, 53, b"?"),
        tcp(CLIENT, 6000, SERVER, 443, 100, SYN, b""),
        tcp(CLIENT, 6001, SERVER, 9999, 100, SYN, b""),
        udp(CLIENT, 5000, SERVER, 53, b"?"),
        tcp(SERVER, 443, CLIENT, 6000, 900, SYN | ACK, b""),
    ];
    let file = capture(directory.path(), &frames);
    let report = json_of(&run(directory.path(), &["bench", "--seconds", "1", "--json", &file]));
    let flows = ["names", "web", "video"].map(|name| rule(&report, name)["flows"].clone());
    assert_eq!(flows, [2, 1, 0]);
    assert_eq!((&report["no_rule"]["flows"], &rule(&report, "names")["share"]), (&json!(1), &json!(0.5)));
    assert_eq!(report["source"], json!({ "captured": { "files": [file], "left_out": 0 } }));
    let few = json_of(&run(directory.path(), &["bench", "--seconds", "1", "--flows", "3", "--json", &file]));
    assert_eq!((&few["flows"], &few["source"]["captured"]["left_out"]), (&json!(3), &json!(1)));
}

#[test]
fn a_rule_that_fits_captured_flows_and_decides_none_is_named_with_its_taker() {
    let shadowed = "[[rule]]\nname = \"late\"\nmatch = { dst_port = 443 }\nuse = \"isp2\"\n";
    let directory = directory(CONFIG, &format!("{RULES}{shadowed}"));
    let file = capture(directory.path(), &[tcp(CLIENT, 6000, SERVER, 443, 100, SYN, b"")]);
    let output = run(directory.path(), &["bench", "--seconds", "1", &file]);
    let text = String::from_utf8(output.stdout).unwrap().replace("\n  ", " ");
    assert!(text.contains("\"late\" (rules/10.toml:19): all flows that fit it (1) go to \"web\""), "{text}");
    assert!(text.contains("\"names\" (rules/10.toml:10): no flow fits it"), "{text}");
}

#[test]
fn what_is_wrong_ends_with_its_own_code() {
    let directory = directory(CONFIG, RULES);
    let good = capture(directory.path(), &[udp(CLIENT, 5000, SERVER, 53, b"?")]);
    fs::write(directory.path().join("notes.txt"), "not a capture").unwrap();
    let broken = run(directory.path(), &["bench", "--seconds", "1", "--json", "notes.txt", &good]);
    assert_eq!(broken.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&broken.stderr).contains("notes.txt: not a capture"), "{broken:?}");
    assert_eq!(serde_json::from_slice::<Value>(&broken.stdout).unwrap()["flows"], 1);
    let none = run(directory.path(), &["bench", "--seconds", "1", "notes.txt"]);
    assert_eq!((none.status.code(), none.stdout.as_slice()), (Some(1), &b""[..]));
    assert!(String::from_utf8_lossy(&none.stderr).contains("no flow that could be decided"), "{none:?}");
    for arguments in
        [&["bench", "--seed", "2", &good][..], &["bench", "--flows", "0"], &["bench", "-c", "absent"]]
    {
        assert_eq!(run(directory.path(), arguments).status.code(), Some(2), "{arguments:?}");
    }
    fs::write(directory.path().join("rules/20.toml"), "[[rule]]\nname = 1\n").unwrap();
    let bad = run(directory.path(), &["bench"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("rules/20.toml:2:8"), "{bad:?}");
}

#[test]
fn a_router_without_rules_is_measured_too() {
    let directory = directory(CONFIG, "");
    let report = json_of(&run(directory.path(), &["bench", "--flows", "100", "--seconds", "1", "--json"]));
    assert_eq!((&report["rules"], &report["no_rule"]["flows"]), (&json!([]), &json!(100)));
}

fn rule<'r>(report: &'r Value, name: &str) -> &'r Value {
    let rules = report["rules"].as_array().unwrap();
    rules.iter().find(|rule| rule["name"] == name).unwrap_or_else(|| panic!("no {name:?} in {report}"))
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn directory(config: &str, rules: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("wansplit.toml"), config).unwrap();
    fs::create_dir(directory.path().join("rules")).unwrap();
    fs::write(directory.path().join("rules/10.toml"), rules).unwrap();
    directory
}

/// With the configuration of the directory, unless the arguments name another.
fn run(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::cargo_bin("wansplit").unwrap();
    command.env("WANSPLIT_CONFIG", "wansplit.toml").current_dir(directory).args(arguments).output().unwrap()
}
