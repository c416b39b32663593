//! Statuses for the views' tests.

use std::collections::BTreeMap;

use crate::control::message::{
    Gate, Health, Heard, Holds, Lane, Names, PastQueues, Queue, Quota, Reason, Recent, Rule, Status, Tally,
    Uplink, UplinkFamily, Usable,
};

/// Two lines at 3:1, one of them without IPv4 at the moment.
pub(super) fn usual() -> Status {
    Status {
        version: "0.1.0".to_owned(),
        pid: 4321,
        up_seconds: 11_520,
        config: "/etc/wansplit/wansplit.toml".to_owned(),
        backend: "iptables-nft".to_owned(),
        gate: Gate { open: true, closed_times: 1 },
        uplinks: vec![first_uplink(), second_uplink()],
        rules: vec![
            rule("shells stay on the steady line", "rules/10-ssh.toml:4", &[("isp1", 12, 3_400_000)]),
            rule("bulk transfer goes by the cheap line", "rules/80-bulk.toml:9", &[]),
            rule(
                "(no rule: weighted round-robin)",
                "",
                &[("isp1", 9_000, 12_300_000_000), ("isp2", 3_000, 4_100_000_000)],
            ),
        ],
        reasons: vec![
            reason("rule", "a rule matched and one of its uplinks was usable", 12),
            reason("default", "no rule matched: weighted round-robin", 12_000),
            reason("unparsable", "the packet could not be read: the kernel's choice stands", 0),
        ],
        queues: vec![
            Queue { number: 0, decided: 6_010, flows: 6_004, ..Queue::default() },
            Queue {
                number: 1,
                worker: 1,
                cpu: Some(1),
                decided: 6_012,
                flows: 6_008,
                waiting: 2,
                dropped: 5,
                errors: 0,
            },
        ],
        past: PastQueues {
            limit: 50_000,
            limit_per_client: 10_000,
            over_limit: 1_204,
            over_share: 310_077,
            last_minute: 96,
        },
        names: Names { answers: 1234, learned: 2345, ambiguous: 12 },
        heard: Heard { watched: 431, named: 400, elsewhere: 12, reset: 3 },
        holds: Holds { held: 1070, waiting: 1, told: 1049, expired: 18, crowded: 2 },
        recent: vec![
            decision(
                2,
                "tcp 10.77.0.5:40000 > 198.51.100.7:22",
                Some("isp1"),
                "rule \"shells stay on the steady line\", ordered: its first usable uplink",
            ),
            decision(
                70,
                "udp [2001:db8:77::5]:50000 > [2001:db8:ffff:ffff::7]:443",
                Some("isp2"),
                "no rule matched: weighted round-robin",
            ),
            decision(3_700, "icmp 10.77.0.9 > 192.0.2.1", None, "rule \"no pings\": none of its uplinks is usable"),
        ],
        warnings: vec![
            "nothing keeps packets from isp1 to LAN addresses out: set guard = \"on\", or drop them in your own \
             firewall rules"
                .to_owned(),
        ],
    }
}

/// Two lines that have not seen a flow yet.
pub(super) fn fresh() -> Status {
    let mut status =
        Status { up_seconds: 1, gate: Gate::default(), warnings: vec![], recent: vec![], ..usual() };
    status.rules = vec![rule("(no rule: weighted round-robin)", "", &[])];
    status.reasons.iter_mut().for_each(|reason| reason.count = 0);
    status.queues = vec![Queue::default()];
    status.past = PastQueues::default();
    for uplink in &mut status.uplinks {
        uplink.flows_total = 0;
        uplink.flows_now = Some(0);
    }
    status
}

/// Sixteen lines whose names differ only at the end.
pub(super) fn sixteen() -> Status {
    let uplinks: Vec<Uplink> = (1..=16).map(nth_uplink).collect();
    let each: Vec<(String, u64, u64)> =
        (1..=16).map(|n| (nth_name(n), n * 123_456, n * 987_654_321_000)).collect();
    let each: Vec<(&str, u64, u64)> =
        each.iter().map(|(name, flows, bytes)| (name.as_str(), *flows, *bytes)).collect();
    Status {
        uplinks,
        rules: vec![rule(
            "a rule whose name is a whole sentence that somebody wrote on a long afternoon, to be clear",
            "rules/50-a-rather-long-file-name-for-a-rule-file-in-a-directory.toml:1234",
            &each,
        )],
        ..usual()
    }
}

fn first_uplink() -> Uplink {
    Uplink {
        name: "isp1".to_owned(),
        by_hand: None,
        interface: "eth1".to_owned(),
        weight: 3,
        ipv4: up("198.51.100.2", "198.51.100.1"),
        ipv6: up("2001:db8:1::2", "fe80::1"),
        mark: "0x1".to_owned(),
        table: 101,
        flows_now: Some(1_204),
        flows_total: 9_012,
        bytes_out: 1_230_000_000,
        bytes_in: 45_600_000_000,
        rate_out: 12_340_000,
        rate_in: 1_200_000_000,
        down: lane(2_500_000_000, "given", 48, false),
        up: lane(12_500_000, "measured", 99, true),
        cost: 0,
        quota: None,
    }
}

fn second_uplink() -> Uplink {
    Uplink {
        name: "isp2".to_owned(),
        interface: "ppp0".to_owned(),
        weight: 1,
        ipv4: UplinkFamily {
            state: Usable::Down,
            why_not: Some("ppp0 has no address of this family".to_owned()),
            ..UplinkFamily::default()
        },
        ipv6: UplinkFamily::default(),
        mark: "0x2".to_owned(),
        table: 102,
        flows_now: None,
        flows_total: 3_000,
        down: lane(20_000_000, "seen", 3, false),
        cost: 10,
        quota: Some(Quota { bytes: 100_000_000_000, reset_day: 15, used: 101_200_000_000, used_up: true }),
        ..Uplink::default()
    }
}

fn nth_uplink(n: u64) -> Uplink {
    Uplink {
        name: nth_name(n),
        by_hand: None,
        interface: format!("enp{n}s0f1np1.{}", 100 + n),
        weight: 255,
        ipv4: up("198.51.100.2", "198.51.100.1"),
        ipv6: up("2001:db8:1234:5678:9abc:def0:1234:5678", "fe80::9abc:def0:1234:5678"),
        mark: format!("{:#x}", n << 16),
        table: 100 + n as u32,
        flows_now: Some(n * 65_536),
        flows_total: n * 123_456,
        bytes_out: n * 987_654_321_000,
        bytes_in: u64::MAX,
        rate_out: n * 999_499_999,
        rate_in: n * 99_949_999,
        down: lane(n * 999_499_999, "seen", 100, true),
        up: lane(n * 999_499_999, "measured", 100, true),
        cost: 255,
        quota: Some(Quota { bytes: u64::MAX, reset_day: 31, used: u64::MAX, used_up: true }),
    }
}

fn lane(capacity: u64, capacity_is: &str, used_percent: u64, is_full: bool) -> Lane {
    Lane {
        capacity: Some(capacity),
        capacity_is: capacity_is.to_owned(),
        used_percent: Some(used_percent),
        is_full: Some(is_full),
    }
}

fn nth_name(n: u64) -> String {
    format!("the-provider-with-the-long-name-{n}")
}

fn up(address: &str, gateway: &str) -> UplinkFamily {
    UplinkFamily {
        state: Usable::Up,
        why_not: None,
        addresses: vec![address.to_owned()],
        gateway: Some(gateway.to_owned()),
        health: Some(Health {
            state: "up".to_owned(),
            why: None,
            for_seconds: 11_520,
            loss_percent: 1.6,
            latency_ms: Some(12.34),
            jitter_ms: 0.4,
        }),
    }
}

fn rule(name: &str, origin: &str, uplinks: &[(&str, u64, u64)]) -> Rule {
    let uplinks: BTreeMap<String, Tally> =
        uplinks.iter().map(|&(name, flows, bytes)| (name.to_owned(), Tally { flows, bytes })).collect();
    let flows = uplinks.values().map(|tally| tally.flows).sum();
    Rule {
        by_kernel: 0,
        name: name.to_owned(),
        origin: origin.to_owned(),
        flows,
        bytes: uplinks.values().map(|tally| tally.bytes).sum(),
        last_seconds_ago: (flows > 0).then_some(3),
        uplinks,
    }
}

fn reason(name: &str, text: &str, count: u64) -> Reason {
    Reason { name: name.to_owned(), text: text.to_owned(), count }
}

fn decision(seconds_ago: u64, flow: &str, uplink: Option<&str>, reason: &str) -> Recent {
    Recent {
        seconds_ago,
        flow: flow.to_owned(),
        lan: "eth0".to_owned(),
        uplink: uplink.map(str::to_owned),
        reason: reason.to_owned(),
    }
}
