//! What the README shows, and what is shipped beside the program, can be used as it stands.

use wansplit::config::{self, Config, Lists, Problems, SourceFile};

const README: &str = include_str!("../README.md");
const UNIT: &str = include_str!("../packaging/wansplit.service");
const ARTICLE: &str = include_str!("data/article.toml");

#[test]
fn every_router_in_the_readme_loads() {
    let routers = blocks("toml", |text| text.contains("[[uplink]]"));
    assert_eq!(routers.len(), 2);
    for router in routers {
        load(&router, &[]).unwrap_or_else(|problems| panic!("{router}\n{problems}"));
    }
}

#[test]
fn the_first_router_in_the_readme_is_the_article_s() {
    let readme = load(&blocks("toml", |text| text.contains("[[uplink]]"))[0], &[]).unwrap();
    assert_eq!(readme, load(ARTICLE, &[]).unwrap());
}

#[test]
fn the_rules_in_the_readme_load_and_their_examples_hold() {
    let rules = blocks("toml", |text| text.starts_with("[[rule]]"));
    let config = load(ARTICLE, &rules).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((rules.len(), config.rules.len()), (2, 4));
}

#[test]
fn the_defaults_in_the_readme_are_the_defaults() {
    let [defaults] = &blocks("toml", |text| text.contains("[bypass]"))[..] else { panic!("one block") };
    assert_eq!(load(&format!("{defaults}\n{ARTICLE}"), &[]).unwrap(), load(ARTICLE, &[]).unwrap());
}

/// Netlink for the kernel, UNIX for the control socket, INET and INET6 for probes and resets, PACKET for ARP.
#[test]
fn the_systemd_unit_lets_the_program_open_every_kind_of_socket_that_it_needs() {
    let allowed = UNIT.lines().find_map(|line| line.strip_prefix("RestrictAddressFamilies=")).unwrap();
    let allowed: Vec<&str> = allowed.split(' ').collect();
    for family in ["AF_NETLINK", "AF_UNIX", "AF_INET", "AF_INET6", "AF_PACKET"] {
        assert!(allowed.contains(&family), "no {family} in {allowed:?}");
    }
}

#[test]
fn every_key_of_an_uplink_and_a_forward_is_in_the_readme() {
    for section in ["[[uplink]]", "[[forward]]"] {
        for key in keys(section) {
            assert!(README.contains(&format!("| `{key}` |")), "{section} {key}");
        }
    }
}

#[test]
fn the_mistake_in_the_readme_is_shown_as_the_program_shows_it() {
    let broken = ARTICLE.replacen("gateway", "gatway", 1);
    let shown = blocks("text", |text| text.contains("gatway")).remove(0);
    let problems = load(&broken, &[]).unwrap_err().to_string();
    for line in problems.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        assert!(shown.contains(line), "no {line:?} in:\n{shown}");
    }
}

/// The keys that the program itself names where one is unknown.
fn keys(section: &str) -> Vec<String> {
    let text = format!("{ARTICLE}\n{section}\nqqqqqqqq = 1\n");
    let problems = load(&text, &[]).unwrap_err();
    let problem = problems.iter().find(|problem| problem.message().contains("qqqqqqqq")).expect("a problem");
    problem.hint().split('`').skip(1).step_by(2).map(String::from).collect()
}

/// The texts of the fenced blocks of a language that are of one kind.
fn blocks(language: &str, of_a_kind: impl Fn(&str) -> bool) -> Vec<String> {
    let begin = format!("```{language}\n");
    let blocks = README.split(&begin).skip(1).filter_map(|rest| rest.split("```").next());
    blocks.filter(|text| of_a_kind(text)).map(String::from).collect()
}

fn load(text: &str, rules: &[String]) -> Result<Config, Problems> {
    let file = |path: &str, text: &str| SourceFile { path: path.into(), text: text.into() };
    let rules: Vec<SourceFile> = rules.iter().map(|text| file("rules/10-readme.toml", text)).collect();
    config::load(&file("/etc/wansplit/wansplit.toml", text), &rules, &Lists::default())
}
