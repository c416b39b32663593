//! Rules by place, and lists that change while the daemon runs.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;

use crate::common::*;
use crate::mmdb;
use crate::router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::traffic::{Pace, TcpFlows};

#[test]
fn a_country_and_a_system_choose_the_line_of_a_flow() {
    for_each_backend(places_choose_lines);
}

fn places_choose_lines(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    let [here, there] = [0, 1].map(|server: usize| router.network.servers[server].both());
    let nets = |record: fn(usize) -> mmdb::Record| {
        let hosts = here.iter().map(|address| (address, 0)).chain(there.iter().map(|address| (address, 1)));
        let nets: Vec<(String, mmdb::Record)> =
            hosts.map(|(address, server)| (whole(*address), record(server))).collect();
        let nets: Vec<(&str, mmdb::Record)> =
            nets.iter().map(|(net, record)| (net.as_str(), record.clone())).collect();
        mmdb::database(&nets, 28)
    };
    let countries = nets(|server| mmdb::country(["DE", "AT"][server]));
    let systems = nets(|server| mmdb::system([64_500, 64_501][server]));
    fs::write(router.files.path().join("country.mmdb"), countries).unwrap();
    fs::write(router.files.path().join("asn.mmdb"), systems).unwrap();
    router.configure_more("", "[geo]\ncountry = \"country.mmdb\"\nasn = \"asn.mmdb\"");
    let rules = "[[rule]]\nname = \"home\"\nmatch = { dst_country = \"de\" }\nuse = \"isp2\"\n\
                 [[rule]]\nname = \"away\"\nmatch = { dst_asn = \"AS64501\" }\nuse = \"isp1\"\n";
    router.rule_file("places.toml", rules);
    router.start();
    let _server = serve(&router.network.internet, &[here, there].concat(), &[80]);
    for family in Family::BOTH {
        for (server, expected) in [(0, [0, 6]), (1, [6, 0])] {
            assert_eq!(lines(&router, server, family), expected, "{backend} {family}: {}", router.said());
        }
    }
    let flow = format!("tcp 10.77.0.5:5 to {}:80", router.network.servers[1].v4);
    let words: Vec<&str> = ["explain", "--live", "--json"].into_iter().chain(flow.split(' ')).collect();
    let told: serde_json::Value = serde_json::from_str(&router.wansplit(&words).unwrap()).unwrap();
    assert_eq!((&told["country"], &told["asn"]), (&"at".into(), &64_501.into()), "{told}");
    router.stop();
}

#[test]
fn a_list_that_changes_is_taken_in_and_a_broken_one_leaves_the_old_one_in_force() {
    let mut router = Router::new(&backends()[0], &[1, 1]);
    let _server = serve(&router.network.internet, &router.network.servers[0].both(), &[80]);
    let rules = router.files.path().join("rules");
    let list = rules.join("list");
    router.rule_file("nets.toml", "[[rule]]\nname = \"a\"\nmatch.dst_list = \"list\"\nuse = \"isp2\"\n");
    let nets = |servers: &[usize]| {
        let addresses = servers.iter().flat_map(|&server| router.network.servers[server].both());
        addresses.map(|address| format!("{address}\n")).collect::<String>()
    };
    let (matching, other) = (nets(&[0]), nets(&[1]));
    fs::write(&list, &other).unwrap();
    router.start();
    assert_eq!(lines(&router, 0, Family::V4), [3, 3]);

    router.forget_what_was_said();
    fs::write(&list, &matching).unwrap();
    router.wait_until_said("lists have changed and are in force");
    assert_eq!(lines(&router, 0, Family::V4), [0, 6], "a list that is written anew");

    router.forget_what_was_said();
    fs::write(&list, "http://no.list/\n").unwrap();
    router.wait_until("the complaint", |status| !complaints(status).is_empty());
    assert_eq!(lines(&router, 0, Family::V6), [0, 6], "the list before is in force");
    std::thread::sleep(std::time::Duration::from_secs(3));
    let complaint = complaints(&router.status()).remove(0);
    assert!(complaint.contains("rules/list:1:1") && router.said().matches("no.list").count() == 1);

    fs::write(rules.join("new"), &other).unwrap();
    fs::rename(rules.join("new"), &list).unwrap();
    router.wait_until("it is whole again", |status| complaints(status).is_empty());
    assert_eq!(lines(&router, 0, Family::V4), [3, 3], "a list that is renamed over it");

    router.forget_what_was_said();
    fs::write(rules.join("matching"), &matching).unwrap();
    symlink("matching", rules.join("link")).unwrap();
    fs::rename(rules.join("link"), &list).unwrap();
    router.wait_until_said("lists have changed and are in force");
    assert_eq!(lines(&router, 0, Family::V6), [0, 6], "a link in its place");

    // The person who edits rules says when they are done; a list that changes does not say it for them.
    router.rule_file("nets.toml", "not even TOML");
    router.forget_what_was_said();
    fs::write(rules.join("matching"), &other).unwrap();
    router.wait_until_said("lists have changed and are in force");
    assert_eq!(lines(&router, 0, Family::V4), [3, 3], "what the link leads to");
    assert!(router.wansplit(&["reload"]).is_err());
    router.stop();
}

/// A name takes its own bytes, here some 25, and about 18 more; while its list is read, its line too, and
/// what tables and buffers have grown beyond.
#[test]
fn long_lists_take_little_more_memory_than_their_text() {
    let mut router = Router::new(&backends()[0], &[1, 1]);
    let rules = "[[rule]]\nname = \"a\"\nmatch.host_list = \"names\"\nuse = \"isp2\"\n\
                 [[rule]]\nname = \"b\"\nmatch.dst_list = \"nets\"\nuse = \"isp2\"\n";
    router.rule_file("lists.toml", rules);
    let mut memory_with = |names: u32, nets: u32| {
        let names: String = (0..names).map(|number| format!("{}\n", some_name(number))).collect();
        let nets: String = (0..nets).map(|number| format!("{}\n", some_net(number))).collect();
        fs::write(router.files.path().join("rules/names"), names).unwrap();
        fs::write(router.files.path().join("rules/nets"), nets).unwrap();
        router.start();
        let pid = router.status()["pid"].as_u64().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        router.stop();
        ["VmRSS:", "VmHWM:"].map(|key| kilobytes(&status, key))
    };
    let [few_stay, few_most] = memory_with(1, 1);
    let [stay, most] = memory_with(NAMES, NAMES / 10);
    eprintln!("with lists {stay} kB, at most {most} kB; without {few_stay} kB, at most {few_most} kB");
    let names = u64::from(NAMES);
    assert!(stay - few_stay < names * 80 / 1024, "{stay} kB, without lists {few_stay} kB");
    assert!(most - few_most < names * 160 / 1024, "at most {most} kB, without lists {few_most} kB");
}

const NAMES: u32 = 100_000;

/// Sites with one to five hosts each, of mixed lengths.
fn some_name(number: u32) -> String {
    let mixed = (number / 4).wrapping_mul(2_654_435_761);
    let host = ["www", "a", "static-images", "api.eu-west"][number as usize % 4];
    let top = ["com", "example", "co.uk", "de"][mixed as usize / 7 % 4];
    format!("{host}.site{}.{top}", &format!("{mixed:010}{mixed:010}")[..(mixed % 14 + 4) as usize])
}

fn some_net(number: u32) -> String {
    let [_, a, b, c] = number.to_be_bytes();
    if number.is_multiple_of(5) {
        format!("2a00:{a:x}{b:02x}:{c:x}::/48")
    } else {
        format!("{}.{b}.{c}.0/25", a + 20)
    }
}

fn kilobytes(status: &str, key: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(key)).expect(key);
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect(line)
}

/// What status says of lists.
fn complaints(status: &serde_json::Value) -> Vec<String> {
    let warnings = status["warnings"].as_array().into_iter().flatten();
    let texts = warnings.filter_map(|warning| warning.as_str().map(String::from));
    texts.filter(|warning| warning.contains("lists have changed and cannot be used")).collect()
}

/// Six connections to a server, by line.
fn lines(router: &Router, server: usize, family: Family) -> Vec<usize> {
    let to = SocketAddr::new(router.network.servers[server].of(family), 80);
    let flows = TcpFlows::new(to, Pace::burst(6, 2));
    by_line(&router.network, &worked(flows.run(&router.network.client().host).unwrap(), to))
}

fn whole(address: std::net::IpAddr) -> String {
    ipnet::IpNet::from(address).to_string()
}
