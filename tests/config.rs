//! Configurations and rule files from text to checked values, and everything that can be wrong with them.

use std::cell::RefCell;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use proptest::prelude::*;
use wansplit::config::{
    self, BackendChoice, Bypass, Config, Forward, Gateway, Guard, Health, Helper, Hooks, Lists, Mss, Offload,
    Pin, Queue, QueueSocket, RouterTraffic, Routing, Severity, Source, SourceFile, Uplink,
};
use wansplit::engine::flow::{LanId, Mac};
use wansplit::engine::geo::{Asn, Country, Geo, Places, Ranges};
use wansplit::engine::packet::Family;
use wansplit::engine::rule::hosts::{HostName, HostSet, Reach};
use wansplit::engine::rule::model::{
    Choice, HashKey, IcmpType, Live, Matchers, NoLine, OnMismatch, Payload, Percent, Policy, Rule, TimeSpan,
    WhenNone,
};
use wansplit::engine::rule::texts::{Expressions, Texts};
use wansplit::engine::sniff::App;
use wansplit::engine::sticky::{Sticky, StickyBy};
use wansplit::engine::uplink::UplinkId;
use wansplit::engine::uplink::health::{Limits, Page, Settings, Target};
use wansplit::engine::uplink::load::{Both, Direction};
use wansplit::engine::uplink::quota::Quota;
use wansplit::engine::verdict::Marks;

#[path = "support/mmdb.rs"]
mod mmdb;

const ARTICLE: &str = include_str!("data/article.toml");
const EVERY_KEY: &str = include_str!("data/every-key.toml");
const EVERY_RULE_KEY: &str = include_str!("data/every-rule-key.toml");

const ISP1: UplinkId = UplinkId(0);
const ISP2: UplinkId = UplinkId(1);
const ISP3: UplinkId = UplinkId(2);

#[test]
fn the_articles_router_needs_nothing_but_its_lines_and_its_forward() {
    let uplink = |id: UplinkId, interface: &str, net: &str| Uplink {
        id,
        name: format!("isp{}", id.0 + 1),
        interface: interface.to_owned(),
        weight: 1,
        gateway_v4: Gateway::Address(ip(&format!("{net}.1"))),
        gateway_v6: Gateway::Unused,
        source_v4: Source::Address(ip(&format!("{net}.2"))),
        source_v6: Source::Masquerade,
        table: 101 + u32::from(id.0),
        mss: Mss::Auto,
        optional: false,
        health: Health::default(),
        cost: 0,
        quota: None,
        capacity: Both::default(),
    };
    let slingbox = Forward {
        name: "slingbox".to_owned(),
        protocols: vec![6],
        ports: 5001..=5001,
        to: vec![ip("10.77.0.20")],
        to_port: None,
        uplinks: [ISP1, ISP2].into_iter().collect(),
        hairpin: true,
    };
    let expected = Config {
        lan: vec!["eth0".to_owned()],
        uplinks: vec![uplink(ISP1, "eth1", "198.51.100"), uplink(ISP2, "eth2", "203.0.113")],
        forwards: vec![slingbox],
        rules: Arc::default(),
        geo: Arc::default(),
        backend: BackendChoice::Auto,
        queue: Queue {
            first: 0,
            workers: None,
            limit: 20_000,
            limit_per_client: 400,
            length: 8192,
            socket: QueueSocket::Batch,
            pin: Pin::Auto,
            offload: Offload::Off,
        },
        marks: Marks { mask: 0xff, decided: 0x100, watched: 0x200, values: vec![1, 2], refused: 0xff },
        routing: Routing {
            first_table: 100,
            refused_table: 165,
            first_priority: 20_000,
            router: RouterTraffic::Multipath,
        },
        bypass: Bypass::default(),
        guard: Guard::Warn,
        helpers: vec![],
        hooks: Hooks { on_change: None, timeout: ms(10_000) },
        none: NoLine::Keep,
    };
    assert_eq!(load(ARTICLE, &[]), expected);
}

#[test]
fn every_key_of_the_main_file_is_obeyed() {
    let limits = |loss, latency, jitter| Limits { loss, latency: ms(latency), jitter: Some(ms(jitter)) };
    let health = Health {
        targets: vec![
            Target::Echo(ip("192.0.2.9")),
            Target::Connect("192.0.2.10:443".parse().unwrap()),
            Target::Query { server: "192.0.2.11:53".parse().unwrap(), name: "example.com".to_owned() },
            Target::Fetch(Page {
                is_secure: true,
                host: "example.com".to_owned(),
                port: 443,
                path: "/generate_204".to_owned(),
                status: Some(204),
            }),
            Target::Gateway,
        ],
        settings: Settings {
            quorum: Some(2),
            interval: ms(250),
            leave: limits(20, 700, 100),
            rejoin: limits(3, 300, 50),
            rejoin_for: ms(8000),
        },
        fill: ms(30_000),
    };
    let uplink = |id: u8, interface: &str| Uplink {
        id: UplinkId(id),
        name: format!("isp{}", id + 1),
        interface: interface.to_owned(),
        weight: 1,
        gateway_v4: Gateway::Unused,
        gateway_v6: Gateway::Auto,
        source_v4: Source::Masquerade,
        source_v6: Source::Masquerade,
        table: 201 + u32::from(id),
        mss: Mss::Auto,
        optional: false,
        health: health.clone(),
        cost: 0,
        quota: None,
        capacity: Both::default(),
    };
    let isp1 = Uplink {
        weight: 3,
        gateway_v4: Gateway::Address(ip("198.51.100.1")),
        gateway_v6: Gateway::Address(ip("2001:db8:1::1")),
        source_v4: Source::Address(ip("198.51.100.2")),
        source_v6: Source::Prefix("2001:db8:1::/56".parse().unwrap()),
        table: 500,
        mss: Mss::Bytes(1400),
        health: Health {
            targets: vec![Target::Gateway],
            settings: Settings { quorum: Some(1), leave: limits(50, 700, 100), ..health.settings },
            ..health.clone()
        },
        ..uplink(0, "ppp0")
    };
    let isp2 = Uplink {
        gateway_v4: Gateway::Address(ip("203.0.113.1")),
        source_v4: Source::Untouched,
        source_v6: Source::Address(ip("2001:db8:2::2")),
        mss: Mss::Off,
        health: Health { targets: vec![], ..health.clone() },
        ..uplink(1, "eth2.35")
    };
    let isp3 = Uplink {
        gateway_v6: Gateway::Address(ip("fe80::1")),
        cost: 10,
        quota: Some(Quota { bytes: 100_000_000_000, reset_day: 15 }),
        capacity: Both { down: Some(312_500_000), up: Some(100_000) },
        ..uplink(2, "wwan0")
    };
    let games = Forward {
        name: "games".to_owned(),
        protocols: vec![6, 17],
        ports: 5000..=5010,
        to: vec![ip("10.77.0.20"), ip("2001:db8::20")],
        to_port: Some(6000),
        uplinks: [ISP1, ISP3].into_iter().collect(),
        hairpin: false,
    };
    let dns = Forward {
        name: "dns".to_owned(),
        protocols: vec![6, 17],
        ports: 53..=53,
        to: vec![ip("10.77.0.20")],
        to_port: None,
        uplinks: [ISP1, ISP2, ISP3].into_iter().collect(),
        hairpin: true,
    };
    let helper = |name, protocol, port| Helper { name, protocol, port };
    let expected = Config {
        lan: vec!["eth0".to_owned(), "eth0.20".to_owned()],
        uplinks: vec![isp1, isp2, isp3],
        forwards: vec![games, dns],
        rules: Arc::default(),
        geo: every_place(),
        backend: BackendChoice::IptablesNft,
        queue: Queue {
            first: 10,
            workers: Some(4),
            limit: 1000,
            limit_per_client: 300,
            length: 512,
            socket: QueueSocket::Nfq,
            pin: Pin::Off,
            offload: Offload::Auto,
        },
        marks: Marks {
            mask: 0xf00,
            decided: 0x10_0000,
            watched: 0x20_0000,
            values: vec![0x200, 0x100, 0x300],
            refused: 0xf00,
        },
        routing: Routing {
            first_table: 200,
            refused_table: 265,
            first_priority: 10_000,
            router: RouterTraffic::Uplink(ISP2),
        },
        bypass: Bypass {
            destinations: vec![net("192.0.2.0/24"), net("2001:db8:99::/48")],
            clients: vec![net("10.77.0.9/32")],
        },
        guard: Guard::On,
        helpers: vec![
            helper("ftp", 6, 21),
            helper("sip", 17, 5060),
            helper("RAS", 17, 1719),
            helper("Q.931", 6, 1720),
        ],
        hooks: Hooks {
            on_change: Some(["/usr/local/bin/line-changed", "-v"].map(String::from).into()),
            timeout: ms(3000),
        },
        none: NoLine::Reject,
    };
    assert_eq!(load(EVERY_KEY, &[]), expected);
}

#[test]
fn every_key_of_a_rule_is_obeyed() {
    let config = load(EVERY_KEY, &[source("rules/10-every.toml", EVERY_RULE_KEY)]);
    let [all, pings, numbers, contents, rest] = &config.rules[..] else {
        panic!("{} rules", config.rules.len())
    };
    let span = |from: u16, to: u16| TimeSpan { from: from * 60, to: to * 60 };
    let matches = Matchers {
        protocol: vec![6, 17, 132],
        src: vec![net("10.77.0.0/16")],
        dst: vec![net("198.51.100.7/32"), net("198.51.100.0/25")],
        src_port: vec![1024..=65535],
        dst_port: vec![22..=22, 2200..=2299],
        icmp_type: vec![],
        src_mac: vec![Mac([2, 0, 0, 0, 0, 10])],
        lan: vec![LanId(1)],
        dscp: vec![8, 46, 1],
        family: vec![Family::V4],
        length: vec![60..=60, 100..=200],
        time: vec![TimeSpan { from: 8 * 60, to: 18 * 60 + 30 }, span(22, 6), span(20, 24)],
        weekday: vec![5, 6, 0, 2],
        ..Matchers::default()
    };
    let expected = Rule {
        name: "all conditions but ICMP's".to_owned(),
        origin: "rules/10-every.toml:3".to_owned(),
        matches,
        not: Matchers::default(),
        choice: Choice { policy: Policy::Hash(HashKey::FiveTuple), uplinks: vec![(ISP3, 200), (ISP1, 1)] },
        sticky: Some(Sticky { by: StickyBy::Client, lasts: Duration::from_secs(5400) }),
        none: WhenNone::Stop(NoLine::Drop),
        hold: Duration::from_millis(750),
        on_mismatch: OnMismatch::Reset,
        live: Live::MoveBack,
    };
    assert_eq!(*all, expected);

    let icmp = |family, kind, code| IcmpType { family, kind, code };
    assert_eq!(pings.matches.icmp_type, [icmp(Family::V4, 8, None), icmp(Family::V6, 128, None)]);
    assert_eq!(pings.not.src, [net("10.77.0.9/32")]);
    let own_weights = vec![(ISP1, 3), (ISP2, 1), (ISP3, 1)];
    assert_eq!(pings.choice, Choice { policy: Policy::RoundRobin, uplinks: own_weights });
    let with_codes = [icmp(Family::V4, 8, None), icmp(Family::V4, 3, Some(4)), icmp(Family::V6, 1, Some(1))];
    assert_eq!(numbers.matches.icmp_type, with_codes);
    assert_eq!(numbers.none, WhenNone::Any);
    assert_eq!(contents.matches, every_content());
    assert_eq!(contents.not.host_list, every_content().host_list);
    assert_eq!(rest.choice, Choice { policy: Policy::Ordered, uplinks: vec![(ISP1, 3)] });
    assert_eq!(rest.none, WhenNone::NextRule);
}

#[test]
fn policies_that_look_at_lines_have_directions_and_limits_of_their_own() {
    let (down, up) = (Direction::Down, Direction::Up);
    for (text, expected) in [
        ("policy = 'least-load'", Policy::LeastLoad(down)),
        ("policy = 'least-load', direction = 'up'", Policy::LeastLoad(up)),
        ("policy = 'overflow'", Policy::Overflow(down, Percent(80))),
        ("policy = 'overflow', limit = '100%', direction = 'up'", Policy::Overflow(up, Percent(100))),
        ("policy = 'lowest-latency'", Policy::LowestLatency),
        ("policy = 'best-quality'", Policy::BestQuality),
    ] {
        let rule = format!(
            "[[rule]]\nname = 'all'\nuse = {{ {text}, uplinks = ['isp2', 'isp1'], weights = [2, 1] }}\n"
        );
        let config = load(EVERY_KEY, &[source("rules/10.toml", &rule)]);
        let uplinks = vec![(ISP2, 2), (ISP1, 1)];
        assert_eq!(config.rules[0].choice, Choice { policy: expected, uplinks }, "{text}");
    }
}

/// What the databases of [`EVERY_KEY`] say.
fn every_place() -> Arc<Geo> {
    let (mut countries, mut systems) = (Ranges::default(), Ranges::default());
    for (start, inside) in [("203.0.113.0", true), ("203.0.114.0", false)] {
        let start = start.parse::<Ipv4Addr>().unwrap().to_bits();
        countries.begin(start, Country::new(b"de").filter(|_| inside));
        systems.begin(start, Asn::parse("3320").filter(|_| inside));
    }
    let countries = Places { v4: countries, v6: Ranges::default() };
    Arc::new(Geo { countries: Some(countries), systems: Some(Places { v4: systems, v6: Ranges::default() }) })
}

#[test]
fn an_examples_destination_belongs_where_the_databases_say_or_where_the_example_says() {
    let rules = r#"
        [[rule]]
        name = "home"
        match = { dst_country = "de", dst_asn = "AS3320" }
        use = "isp1"
        examples.match = ["tcp 10.0.0.1:1 > 203.0.113.9:2", "tcp 10.0.0.1:1 > 192.0.2.1:2 country=DE asn=3320"]
        examples.miss = ["tcp 10.0.0.1:1 > 192.0.2.1:2", "tcp 10.0.0.1:1 > 203.0.113.9:2 country=at"]
    "#;
    assert_eq!(load(EVERY_KEY, &[source("rules/10.toml", rules)]).rules.len(), 1);
}

/// What the rule about contents in [`EVERY_RULE_KEY`] asks.
fn every_content() -> Matchers {
    let host = |text| HostName::parse(text).unwrap();
    let both = HostName { reach: Reach::Both, ..host("example.com") };
    let names = HostSet { names: [both].iter().collect(), ..HostSet::default() };
    let listed = [net("203.0.113.0/24")].iter().collect();
    Matchers {
        dst_list: vec![Arc::new(listed)],
        dst_country: [&b"de"[..], b"at"].map(|letters| Country::new(letters).unwrap()).into(),
        dst_asn: ["3320", "15169"].map(|number| Asn::parse(number).unwrap()).into(),
        host: vec![host("www.example.org"), host("*.example.net")],
        host_list: vec![Arc::new(names)],
        app: vec![App::Quic, App::Http],
        alpn: vec![b"h3".to_vec(), b"http/1.1".to_vec()],
        http_method: vec![b"GET".to_vec()],
        user_agent: Texts::in_any_case(["curl"]).unwrap(),
        payload: Payload {
            at: vec![(0, vec![0x16, 3])],
            contains: Texts::exact(["abc"]).unwrap(),
            expressions: Expressions::new(["^GET "]).unwrap(),
        },
        ..Matchers::default()
    }
}

#[test]
fn an_example_can_say_what_the_client_asks_for() {
    let rules = source(
        "rules/10-names.toml",
        r#"
        rule = [{
            name = "video", match = { host = "*.example.org", app = ["quic", "tls"], alpn = "h3" }, use = "isp1",
            examples = {
                match = ["udp 10.0.0.1:1 > 192.0.2.1:443 host=WWW.example.org app=quic alpn=h3,h2"],
                miss = ["udp 10.0.0.1:1 > 192.0.2.1:443", "udp 10.0.0.1:1 > 192.0.2.1:443 host=example.org app=quic alpn=h3"],
            },
        }]"#,
    );
    assert_eq!(load(ARTICLE, &[rules]).rules.len(), 1);
}

#[test]
fn the_lists_that_rule_files_name_are_seen_from_them() {
    let text = "[[rule]]\nmatch = { host_list = [\"video.txt\", \"/srv/geosite.dat:a@b\", 1] }\nnot.dst_list = \"../nets\"";
    let asked = Rc::new(RefCell::new(Vec::new()));
    let noted = Rc::clone(&asked);
    let lists = Lists::new(move |path| {
        noted.borrow_mut().push(path.to_owned());
        Err("not now".to_owned())
    });
    let rules = [source("etc/rules/10.toml", text), source("rules/20.toml", "no TOML")];
    assert!(config::load(&source("wansplit.toml", ARTICLE), &rules, &lists).is_err());
    let expected = ["etc/rules/video.txt", "/srv/geosite.dat", "etc/rules/../nets"];
    assert_eq!(*asked.borrow(), expected);
}

#[test]
fn a_list_that_two_rules_name_is_in_memory_once() {
    let rule = |name: &str| {
        format!("[[rule]]\nname = \"{name}\"\nmatch = {{ host_list = \"names.txt\" }}\nuse = \"isp1\"\n")
    };
    let config = load(ARTICLE, &[source("rules/10.toml", &(rule("a") + &rule("b")))]);
    let [a, b] = [0, 1].map(|place: usize| &config.rules[place].matches.host_list[0]);
    assert!(Arc::ptr_eq(a, b));
}

#[test]
fn entries_of_a_list_that_are_left_out_give_a_warning() {
    let rules =
        source("rules/10.toml", "[[rule]]\nname = \"a\"\nmatch = { host_list = \"ads\" }\nuse = \"isp1\"\n");
    let text = "||ads.example^\n@@||good.example^\n/banner\n";
    let lists = Lists::from_iter([("rules/ads".to_owned(), Ok(text.into()))]);
    let rules = [rules];
    let config = config::load(&source("wansplit.toml", ARTICLE), &rules, &lists).unwrap();
    let warnings = config::warnings(&config, &rules, &lists);
    let lines: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let expected = [
        "rules/ads:2:1: 2 entries of this list are left out: the first of them; none is about a whole site or net",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_gateway_of_one_family_leaves_the_other_unused_unless_auto_stands_beside_it() {
    let gateways = |value: &str| {
        let line = if value.is_empty() { String::new() } else { format!("gateway = {value}") };
        let uplink = load(&one_uplink(&line), &[]).uplinks.remove(0);
        (uplink.gateway_v4, uplink.gateway_v6)
    };
    let v4 = Gateway::Address(ip("198.51.100.1"));
    let v6 = Gateway::Address(ip("fe80::1"));
    assert_eq!(gateways(""), (Gateway::Auto, Gateway::Auto));
    assert_eq!(gateways(r#""auto""#), (Gateway::Auto, Gateway::Auto));
    assert_eq!(gateways(r#""198.51.100.1""#), (v4, Gateway::Unused));
    assert_eq!(gateways(r#""fe80::1""#), (Gateway::Unused, v6));
    assert_eq!(gateways(r#"["198.51.100.1", "auto"]"#), (v4, Gateway::Auto));
    assert_eq!(gateways(r#"["fe80::1", "198.51.100.1"]"#), (v4, v6));
}

#[test]
fn a_source_of_one_family_leaves_the_other_masqueraded() {
    let sources = |value: &str| {
        let uplink = load(&one_uplink(&format!("source = {value}")), &[]).uplinks.remove(0);
        (uplink.source_v4, uplink.source_v6)
    };
    let v4 = Source::Address(ip("198.51.100.2"));
    let prefix = Source::Prefix("2001:db8:1::/48".parse().unwrap());
    assert_eq!(sources(r#""none""#), (Source::Untouched, Source::Untouched));
    assert_eq!(sources(r#""198.51.100.2""#), (v4.clone(), Source::Masquerade));
    assert_eq!(sources(r#"["198.51.100.2", "none"]"#), (v4, Source::Untouched));
    assert_eq!(sources(r#""npt 2001:db8:1::/48""#), (Source::Masquerade, prefix));
    let delegated = Source::PrefixOf("pd1".into());
    assert_eq!(
        sources(r#"["198.51.100.2", "npt of pd1"]"#),
        (Source::Address(ip("198.51.100.2")), delegated)
    );
}

#[test]
fn the_flag_bit_is_the_first_free_one_above_the_mask_or_else_below() {
    let decided =
        |mask: &str| load(&format!("{}[marks]\nmask = \"{mask}\"\n", one_uplink("")), &[]).marks.decided;
    assert_eq!(decided("0x3f00"), 0x4000);
    assert_eq!(decided("0xff000000"), 0x80_0000);
    assert_eq!(decided("0x80000001"), 0x4000_0000);
}

#[test]
fn a_quota_is_a_number_of_bytes_as_providers_write_it() {
    let quota = |keys: &str| load(&one_uplink(keys), &[]).uplinks[0].quota;
    assert_eq!(quota(""), None);
    for (monthly, bytes) in [
        ("500mb", 500_000_000),
        ("100gb", 100_000_000_000),
        ("2 TB", 2_000_000_000_000),
        ("1gib", 1 << 30),
        ("1.5gb", 1_500_000_000),
    ] {
        let expected = Some(Quota { bytes, reset_day: 1 });
        assert_eq!(quota(&format!("monthly = \"{monthly}\"")), expected, "{monthly}");
    }
    assert_eq!(quota("monthly = \"1gb\"\nreset_day = 31").map(|quota| quota.reset_day), Some(31));
}

#[test]
fn the_rules_directory_is_seen_from_the_main_file() {
    let directory = |path: &str, text: &str| config::rules_directory(&source(path, text)).unwrap();
    assert_eq!(directory("/etc/wansplit/wansplit.toml", ARTICLE), "/etc/wansplit/rules");
    assert_eq!(directory("wansplit.toml", EVERY_KEY), "shared/rules");
    assert_eq!(directory("a/wansplit.toml", "rules = \"/srv/rules\""), "/srv/rules");
    let problems = config::rules_directory(&source("wansplit.toml", "rules = 1")).unwrap_err();
    assert_eq!(problems.to_string().lines().next(), Some("error: `rules` cannot be 1"));
}

#[test]
fn rules_can_be_loaded_again_for_a_configuration_in_use() {
    let config = load(EVERY_KEY, &[]);
    let rules =
        config::load_rules(&config, &[source("rules/10-every.toml", EVERY_RULE_KEY)], &every_list()).unwrap();
    assert_eq!(rules, load(EVERY_KEY, &[source("rules/10-every.toml", EVERY_RULE_KEY)]).rules.to_vec());

    let broken = source("rules/20-new.toml", "[[rule]]\nname = \"new\"\nuse = \"isp4\"\n");
    let problems = config::load_rules(&config, &[broken], &Lists::default()).unwrap_err();
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["rules/20-new.toml:3:7: there is no uplink \"isp4\": did you mean `isp1`?"]);
}

#[test]
fn every_broken_configuration_gives_exactly_the_expected_problems() {
    let directories = entries(Path::new("tests/data/broken"));
    assert!(directories.len() >= 40, "only {} broken configurations", directories.len());
    for directory in directories {
        let expected = fs::read_to_string(directory.join("expected.txt")).unwrap();
        assert_eq!(problems_of(&directory), expected, "in {}", directory.display());
    }
}

#[test]
fn a_problem_is_shown_with_its_line_and_what_was_expected() {
    let directory = Path::new("tests/data/broken/many-at-once");
    let rules = rule_files(&directory.join("rules"), directory);
    let problems = config::load(&file(directory, "config.toml"), &rules, &Lists::default()).unwrap_err();
    let golden = fs::read_to_string("tests/data/many-at-once.rendered.txt").unwrap();
    assert_eq!(problems.to_string(), golden);
}

#[test]
fn a_very_long_line_is_shown_in_part_and_its_column_is_still_right() {
    let line = format!("helpers = [{}\"fpt\"]", " ".repeat(10_000));
    let problems =
        config::load(&source("wansplit.toml", &format!("{line}\n{ARTICLE}")), &[], &Lists::default())
            .unwrap_err();
    let shown = problems.to_string();
    assert!(shown.contains("wansplit.toml:1:10012\n"), "{shown}");
    assert!(shown.contains("^^^^^ did you mean `ftp`?"), "{shown}");
    assert!(shown.len() < 2000, "{shown}");
}

#[test]
fn the_parts_of_a_problem_can_be_asked_for() {
    let main = source("wansplit.toml", &one_uplink("weight = 0"));
    let problems = config::load(&main, &[], &Lists::default()).unwrap_err();
    let [problem] = &problems.iter().collect::<Vec<_>>()[..] else { panic!("{problems}") };
    assert_eq!((problem.file(), problem.line(), problem.column()), ("wansplit.toml", 6, 10));
    assert_eq!(&main.text[problem.span()], "0");
    assert_eq!(problem.message(), "`weight` cannot be 0");
    assert_eq!(problem.hint(), "expected a number from 1 to 255");
    assert_eq!(problem.severity(), Severity::Error);
}

#[test]
fn the_shipped_rules_load_with_any_configuration_and_their_examples_hold() {
    for main in [ARTICLE, EVERY_KEY] {
        let config = load(main, &shipped_rules());
        assert!(config.rules.len() >= 8, "only {} rules", config.rules.len());
    }
}

#[test]
fn every_shipped_rule_has_examples_of_both_kinds() {
    for file in shipped_rules() {
        let tree: toml::Table = file.text.parse().unwrap();
        for rule in tree["rule"].as_array().unwrap() {
            for kind in ["match", "miss"] {
                let examples = rule
                    .get("examples")
                    .and_then(|examples| examples.get(kind))
                    .and_then(|list| list.as_array());
                assert!(
                    examples.is_some_and(|list| !list.is_empty()),
                    "{}: {} lacks {kind}",
                    file.path,
                    rule["name"]
                );
            }
        }
    }
}

#[test]
fn no_shipped_rule_takes_an_example_of_a_later_one() {
    let config = load(ARTICLE, &shipped_rules());
    let warnings = config::warnings(&config, &shipped_rules(), &Lists::default());
    assert!(warnings.is_empty(), "{warnings}");
}

#[test]
fn a_rule_that_no_flow_reaches_gives_a_warning() {
    let rules = source(
        "rules/10-a.toml",
        r#"
        rule = [
            { name = "tcp", match = { protocol = "tcp" }, use = "isp1" },
            { name = "ssh", match = { protocol = "tcp", dst_port = 22 }, use = "isp2", examples = { match = ["tcp 10.0.0.1:1 > 192.0.2.1:22"] } },
            { name = "falls through", use = "isp1" },
            { name = "takes all", use = { policy = "round-robin" } },
            { name = "too late", use = "isp2" },
        ]"#,
    );
    let config = load(ARTICLE, std::slice::from_ref(&rules));
    let warnings = config::warnings(&config, &[rules], &Lists::default());
    let lines: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let expected = [
        "rules/10-a.toml:4:110: this example of rule \"ssh\" goes elsewhere: rule \"tcp\" (rules/10-a.toml:3) takes it first",
        "rules/10-a.toml:7:22: rule \"too late\" is never reached: rule \"takes all\" (rules/10-a.toml:6) takes every flow",
    ];
    assert_eq!(lines, expected);
    assert!(warnings.iter().all(|warning| warning.severity() == Severity::Warning));
}

#[test]
fn a_rule_whose_hosts_an_earlier_rule_takes_gives_a_warning() {
    let warned = |first: &str, second: &str| {
        let text = format!(
            "[[rule]]\nname = \"a\"\n{first}\nuse = \"isp1\"\n[[rule]]\nname = \"b\"\n{second}\nuse = \"isp2\"\n"
        );
        let rules = [source("rules/10-a.toml", &text)];
        let config = load(ARTICLE, &rules);
        let warnings = config::warnings(&config, &rules, &every_list());
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let only = "rule \"b\" decides only while no uplink of an earlier rule is usable: rule \"a\" (rules/10-a.toml:2)";
    for (first, second) in [
        ("match.host = \"*.example.org\"", "match.host = [\"a.example.org\", \"*.b.example.org\"]"),
        ("match.host_list = \"names.txt\"", "match.host = [\"example.com\", \"a.b.example.com\"]"),
        ("match.host = [\"*.com\"]", "match = { host_list = \"names.txt\", dst_port = 443 }"),
        ("match.host_list = \"names.txt\"", "match = { host_list = \"names.txt\", dst_port = 443 }"),
        (
            "match = { host = \"*.example.org\", dst_port = \"1-600\", src = \"10.0.0.0/8\" }",
            "match = { host = \"a.example.org\", dst_port = [80, \"400-443\"], src = \"10.1.0.0/16\", app = \"quic\" }",
        ),
    ] {
        assert!(warned(first, second).contains(only), "{first}\n{second}\n{}", warned(first, second));
        let dropping = format!("{first}\nnone = \"drop\"");
        let never = "rule \"b\" is never reached: rule \"a\" (rules/10-a.toml:2) takes all of its hosts";
        assert!(warned(&dropping, second).contains(never), "{}", warned(&dropping, second));
        assert_eq!(warned(second, first), "", "the narrower rule comes first");
    }
    for (first, second) in [
        ("match.host = \"a.example.org\"", "match.host = \"a.example.org\""),
        ("match.host = \"*.example.org\"", "match.host = [\"a.example.org\", \"example.org\"]"),
        ("match.host = \"a.example.org\"", "match.host = \"*.a.example.org\""),
        ("match = { host = \"*.example.org\", dst_port = 443 }", "match.host = \"a.example.org\""),
        ("match.host = \"*.example.org\"\nnot.dst_port = 80", "match.host = \"a.example.org\""),
    ] {
        assert_eq!(warned(first, second), "", "{first}\n{second}");
    }
}

#[test]
fn thousands_of_rules_for_hosts_are_compared_without_comparing_each_with_each() {
    let rule = |number: usize| {
        let hosts = format!("[\"*.example.org\", \"a{number}.example.net\", \"b{number}.example.com\"]");
        format!(
            "[[rule]]\nname = \"{number}\"\nmatch = {{ host = {hosts}, host_list = \"names.txt\" }}\nuse = \"isp1\"\n"
        )
    };
    let rules = [source("rules/10.toml", &(0..4_000).map(rule).collect::<String>())];
    let config = load(ARTICLE, &rules);
    assert!(config::warnings(&config, &rules, &every_list()).is_empty());
}

#[test]
fn a_country_that_the_database_does_not_know_gives_a_warning() {
    let rules = "[[rule]]\nname = \"a\"\nmatch.dst_country = [\"de\", \"uk\"]\nuse = \"isp1\"\n";
    let rules = [source("rules/10.toml", rules)];
    let warnings = config::warnings(&load(EVERY_KEY, &rules), &rules, &every_list());
    let lines: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let expected = "rules/10.toml:2:8: rule \"a\" asks for country \"uk\", which the database does not know: expected the two letters of ISO 3166-1, like \"gb\" for the United Kingdom";
    assert_eq!(lines, [expected]);
}

#[test]
fn what_a_tcp_connection_does_not_say_rules_nothing_out_and_gives_a_warning() {
    let warned = |keys: &str| {
        let rules = format!("[[rule]]\nname = \"a\"\n{keys}\nuse = \"isp1\"\n");
        let rules = [source("rules/10-a.toml", &rules)];
        let warnings = config::warnings(&load(ARTICLE, &rules), &rules, &Lists::default());
        warnings.iter().map(|warning| warning.message().to_owned()).collect::<Vec<_>>()
    };
    for (key, keys) in [
        ("app", "match.protocol = \"tcp\"\nnot.app = \"quic\""),
        ("app", "not.app = [\"tls\", \"ssh\"]"),
        ("user_agent", "not.user_agent = \"curl\""),
    ] {
        let message = format!(
            "`{key}` under `not` of rule \"a\" rules nothing out: it cannot be known when a TCP connection begins"
        );
        assert_eq!(warned(keys), [message], "{keys}");
    }
    for keys in
        ["match.protocol = \"tcp\"\nnot.host = \"example.org\"", "match.dst_port = 443\nnot.app = \"quic\""]
    {
        assert_eq!(warned(keys), [""; 0], "{keys}");
    }
}

#[test]
fn what_a_tcp_connection_does_not_say_when_it_begins_gives_a_warning() {
    let warned = |matches: &str| {
        let text = format!("[[rule]]\nname = \"a\"\nmatch = {{ {matches} }}\nuse = \"isp1\"\n");
        let rules = [source("rules/10-a.toml", &text)];
        let config = load(ARTICLE, &rules);
        let warnings = config::warnings(&config, &rules, &Lists::default());
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    for (key, matches) in [
        ("app", r#"app = "tls""#),
        ("app", r#"protocol = ["tcp", "udp"], app = ["tls", "http", "http2", "ssh"], alpn = "h2""#),
        ("app", r#"app = ["smtp", "imap", "pop3", "ftp"]"#),
        ("app", r#"protocol = "tcp", app = ["bittorrent", "dns"]"#),
        ("http_method", r#"http_method = "GET", dst_port = 80"#),
        ("user_agent", r#"protocol = "udp", user_agent = "curl""#),
        ("alpn", r#"protocol = ["tcp", 6], alpn = "h2", dst_port = 443"#),
        ("payload", r#"protocol = "tcp", payload = { contains = "x" }"#),
    ] {
        let expected = format!(
            "rules/10-a.toml:2:8: rule \"a\" never matches: `{key}` cannot be known when a TCP connection begins: \
             ask for `host`, `host_list`, `dst_list` or `dst_port` instead; see \"Rules\" in the README"
        );
        assert_eq!(warned(matches), expected, "{matches}");
    }
    for matches in [
        r#"protocol = "tcp", host = "*.example.org", dst_port = 443"#,
        r#"app = ["tls", "quic"]"#,
        r#"protocol = ["tcp", "udp"], app = ["bittorrent", "dns"]"#,
        r#"protocol = "udp", alpn = "h3""#,
        r#"alpn = "h3""#,
        r#"protocol = ["tcp", "udp"], payload = { contains = "x" }"#,
    ] {
        assert_eq!(warned(matches), "", "{matches}");
    }
}

#[test]
fn ten_thousand_rules_load_within_seconds() {
    let rule = |number: usize| {
        format!(
            "[[rule]]\nname = \"rule {number}\"\nmatch = {{ protocol = \"tcp\", dst_port = {} }}\nuse = \"isp1\"\n\
             examples = {{ match = [\"tcp 10.0.0.1:1 > 192.0.2.1:{}\"] }}\n",
            number + 1,
            number + 1
        )
    };
    let rules = source("rules/10-many.toml", &(0..10_000).map(rule).collect::<String>());
    let wrong = source("rules/10-many.toml", &rules.text.replace("isp1", "isp7"));
    let begin = Instant::now();
    let config = load(ARTICLE, std::slice::from_ref(&rules));
    assert!(config::warnings(&config, &[rules], &Lists::default()).is_empty());
    let problems = config::load(&source("wansplit.toml", ARTICLE), &[wrong], &Lists::default()).unwrap_err();
    assert_eq!(problems.to_string().matches("error: ").count(), 10_000);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(main in ".*", rules in "(\\[\\[rule\\]\\]\n)?.*") {
        let problems = config::load(&source("main", &main), &[source("rules", &rules)], &Lists::default()).unwrap_err();
        assert_points_into_its_text(&problems, &[&main, &rules]);
    }

    #[test]
    fn no_damage_to_a_good_configuration_makes_the_reader_panic(
        in_main in damage(EVERY_KEY),
        in_rules in damage(EVERY_RULE_KEY),
    ) {
        if let Err(problems) = config::load(&source("main", &in_main), &[source("rules", &in_rules)], &every_list()) {
            assert_points_into_its_text(&problems, &[&in_main, &in_rules]);
        }
    }
}

/// A text with a few of its words and signs swapped for others, doubled or cut out.
fn damage(text: &'static str) -> impl Strategy<Value = String> {
    let pieces: Vec<&str> = text.split_inclusive(|c: char| !c.is_alphanumeric()).collect();
    let spare = [
        "[",
        "]",
        "{",
        "}",
        "=",
        "\"",
        "\n",
        "\r\n",
        "0",
        "-1",
        "999999999999999999999",
        "ä🦀",
        "\u{7}",
        ".",
        ",",
    ];
    let all: Vec<String> = pieces.iter().chain(&spare).map(|piece| (*piece).to_owned()).collect();
    let edit = (0..pieces.len(), proptest::sample::select(all), 0..3_u8);
    proptest::collection::vec(edit, 1..6).prop_map(move |edits| {
        let mut damaged: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        for (place, piece, kind) in edits {
            match kind {
                0 => damaged[place] = piece,
                1 => damaged[place].push_str(&piece),
                _ => damaged[place].clear(),
            }
        }
        damaged.concat()
    })
}

fn assert_points_into_its_text(problems: &config::Problems, texts: &[&str]) {
    assert!(!problems.is_empty());
    let lines: usize = texts.iter().map(|text| text.lines().count() + 1).sum();
    assert!(problems.iter().all(|problem| (1..=lines).contains(&problem.line()) && problem.column() >= 1));
    assert!(problems.to_string().starts_with("error: "));
}

fn load(main: &str, rule_files: &[SourceFile]) -> Config {
    config::load(&source("wansplit.toml", main), rule_files, &every_list())
        .unwrap_or_else(|problems| panic!("{problems}"))
}

fn one_uplink(line: &str) -> String {
    format!("[lan]\ninterfaces = [\"eth0\"]\n[[uplink]]\nname = \"isp1\"\ninterface = \"eth1\"\n{line}\n")
}

fn shipped_rules() -> Vec<SourceFile> {
    rule_files(Path::new("rules"), Path::new("."))
}

fn source(path: &str, text: &str) -> SourceFile {
    SourceFile { path: path.to_owned(), text: text.to_owned() }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn problems_of(directory: &Path) -> String {
    let main = file(directory, "config.toml");
    let rules = directory.join("rules");
    let rule_files: Vec<SourceFile> = if rules.is_dir() { rule_files(&rules, directory) } else { Vec::new() };
    let problems = config::load(&main, &rule_files, &lists(directory)).err().unwrap_or_default();
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

/// The lists and databases of [`EVERY_KEY`] and [`EVERY_RULE_KEY`].
fn every_list() -> Lists {
    let file = |path: &str, bytes: Vec<u8>| (path.to_owned(), Ok(bytes));
    let database = |record| mmdb::database(&[("203.0.113.0/24", record)], 24);
    Lists::from_iter([
        file("rules/names.txt", b"example.com\n".into()),
        file("rules/nets.txt", b"203.0.113.0/24\n".into()),
        file("country.mmdb", database(mmdb::country("DE"))),
        file("/srv/asn.mmdb", database(mmdb::system(3320))),
    ])
}

/// The lists that rule files name, read from below a directory.
fn lists(below: &Path) -> Lists {
    let below = below.to_owned();
    Lists::new(move |path| fs::read(below.join(path)).map_err(|error| error.to_string()))
}

fn rule_files(rules: &Path, below: &Path) -> Vec<SourceFile> {
    let rules =
        entries(rules).into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "toml"));
    let names = rules.map(|path| path.strip_prefix(below).unwrap_or(&path).to_path_buf());
    names.map(|name| file(below, name.to_str().unwrap())).collect()
}

fn file(directory: &Path, name: &str) -> SourceFile {
    SourceFile { path: name.to_owned(), text: fs::read_to_string(directory.join(name)).unwrap() }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}
