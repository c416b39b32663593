//! `wansplit status`: a [`Status`] as text for an 80-column terminal.

use std::collections::BTreeMap;

use super::human::{age, bar, bytes, count, counted, duration, percent, printable, rate, shorten};
use super::style::{Paint, Style};
use super::table::{Cell, Table, UNBROKEN, indented, name, number, word};
use crate::control::message::{
    Event, Health, Heard, Holds, Lane, Names, Ordered, PastQueues, Quota, Recent, Status, Tally, Uplink,
    UplinkFamily, Usable,
};

/// Width of a bar of shares.
const BAR: usize = 10;

/// Longest name of an uplink in a list of several.
const LISTED_NAME: usize = 20;

/// The whole status; with the latest decisions where `flows` asks for them.
#[must_use]
pub fn render(status: &Status, style: Style, flows: bool) -> String {
    let latest = if flows { recent(&status.recent, style) } else { String::new() };
    sections([
        head(status, style),
        warnings(status, style),
        uplinks(status, style),
        lines(status, style),
        rules(status, style),
        reasons(status, style),
        queues(status, style),
        past(status, style),
        names(status),
        holds(status, style),
        heard(status, style),
        latest,
    ])
}

/// How a line is after something was done to it by hand.
#[must_use]
pub fn ordered(ordered: &Ordered) -> String {
    let flows = ordered.flows_now.map(|flows| format!("; {} on it now", counted(flows, "connection")));
    let state = match ordered.by_hand.as_deref() {
        Some("drained") => "is drained: no new flows",
        Some("down") => "is down by hand",
        _ => "is used if it works",
    };
    let name = printable(&ordered.uplink);
    let warnings = ordered.warnings.iter().map(|warning| format!("warning: {}\n", printable(warning)));
    format!("{name} {state}{}\n{}", flows.unwrap_or_default(), warnings.collect::<String>())
}

/// "2026-01-31T12:00:00Z isp1 IPv4 down: too few targets answer"
#[must_use]
pub fn event(event: &Event) -> String {
    let about = [event.uplink.as_deref(), event.family.as_deref()].into_iter().flatten();
    let about = about.chain([event.event.as_str()]).map(printable).collect::<Vec<_>>().join(" ");
    let details = match event.event.as_str() {
        "up" | "address" => event.addresses.join(", "),
        _ => event.why.clone().unwrap_or_default(),
    };
    let details = if details.is_empty() { details } else { format!(": {}", printable(&details)) };
    format!("{} {about}{details}", printable(&event.at))
}

/// The status for programs.
///
/// # Errors
/// Never with this version's [`Status`]; what `serde_json` says.
pub fn render_json(status: &Status) -> serde_json::Result<String> {
    serde_json::to_string_pretty(status)
}

/// The parts that are not empty, with an empty line between them.
pub(super) fn sections<const N: usize>(parts: [String; N]) -> String {
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n")
}

fn head(status: &Status, style: Style) -> String {
    let title = style.paint(Paint::Title, &printable(&format!("wansplit {}", or_dash(&status.version))));
    let backend = printable(or_dash(&status.backend));
    let config = shorten(&printable(or_dash(&status.config)), style.width - "configuration ".len());
    let up = duration(status.up_seconds);
    format!("{title}, pid {}, up {up}, backend {backend}\nconfiguration {config}\n", status.pid)
        + &gate(status, style)
}

fn gate(status: &Status, style: Style) -> String {
    let closed = match status.gate.closed_times {
        0 => String::new(),
        1 => "; it closed once".to_owned(),
        times => format!("; it closed {} times", count(times)),
    };
    let (state, paint, meaning) = match status.gate.open {
        true => ("open", Paint::Good, "new flows are decided by the rules"),
        false => ("closed", Paint::Bad, "the kernel balances new flows, without the rules"),
    };
    format!("gate {}: {meaning}{closed}\n", style.paint(paint, state))
}

fn warnings(status: &Status, style: Style) -> String {
    if status.warnings.is_empty() {
        return String::new();
    }
    let texts = status.warnings.iter().map(|text| indented(&printable(text), Paint::Warn, style));
    format!("{}\n{}", style.paint(Paint::Title, "WARNINGS"), texts.collect::<String>())
}

/// Names learned from DNS answers, where any were looked at.
fn names(status: &Status) -> String {
    if status.names.answers == 0 {
        return String::new();
    }
    let Names { answers, learned, ambiguous } = &status.names;
    let several = match ambiguous {
        0 => String::new(),
        times => format!("; {} for an address with another name", count(*times)),
    };
    format!("{} learned from {}{several}\n", counted(*learned, "name"), counted(*answers, "DNS answer"))
}

/// What became of flows that were held for their names, where any were.
fn holds(status: &Status, style: Style) -> String {
    let Holds { held, waiting, told, expired, crowded } = status.holds;
    if held == 0 {
        return String::new();
    }
    let titles = ["told in time", "too late", "no room", "waiting"];
    let columns = [word("HELD")].into_iter().chain(titles.map(number)).collect();
    let mut table = Table::new(columns);
    table.row([held, told, expired, crowded, waiting].map(|number| count(number).into()).into());
    table.render(style)
}

/// What was heard of TCP connections, where any were listened to.
fn heard(status: &Status, style: Style) -> String {
    let Heard { watched, named, elsewhere, reset } = status.heard;
    if watched == 0 {
        return String::new();
    }
    let titles = ["named", "another line's", "reset"];
    let columns = [word("HEARD")].into_iter().chain(titles.map(number)).collect();
    let mut table = Table::new(columns);
    table.row([watched, named, elsewhere, reset].map(|number| count(number).into()).into());
    table.render(style)
}

/// Who may be chosen, and who was: each line's share of the decided flows
/// beside the share that is its due by weight among the cheapest, and a bar that is full for the busiest line.
fn uplinks(status: &Status, style: Style) -> String {
    let mut table = Table::new(vec![
        name("UPLINK"),
        name("device"),
        word("IPv4"),
        word("IPv6"),
        number("open"),
        number("flows"),
        number("due"),
        number("share"),
        word(""),
    ]);
    let flows = decided_flows(status);
    let most = status.uplinks.iter().map(|uplink| uplink.flows_total).max().unwrap_or(0);
    let cheapest = status.uplinks.iter().map(price).min();
    let due = |uplink: &Uplink| if Some(price(uplink)) == cheapest { u64::from(uplink.weight) } else { 0 };
    let weights: u64 = status.uplinks.iter().map(due).sum();
    for uplink in &status.uplinks {
        table.row(vec![
            (&uplink.name).into(),
            (&uplink.interface).into(),
            usable(&uplink.ipv4, uplink.by_hand.as_deref()),
            usable(&uplink.ipv6, uplink.by_hand.as_deref()),
            uplink.flows_now.map_or("-".to_owned(), count).into(),
            count(uplink.flows_total).into(),
            percent(due(uplink), weights).into(),
            percent(uplink.flows_total, flows).into(),
            bar(uplink.flows_total, most, BAR).into(),
        ]);
        for why in why_not(uplink) {
            table.note(&why, Paint::Bad);
        }
    }
    table.render(style)
}

/// New flows get the lines of the lowest.
fn price(uplink: &Uplink) -> (bool, u8) {
    (uplink.quota.as_ref().is_some_and(|quota| quota.used_up), uplink.cost)
}

/// Flows user space sent by any uplink.
pub(super) fn decided_flows(status: &Status) -> u64 {
    status.uplinks.iter().fold(0, |sum, uplink| sum.saturating_add(uplink.flows_total))
}

fn usable(family: &UplinkFamily, by_hand: Option<&str>) -> Cell {
    match family.state {
        Usable::Down if by_hand == Some("drained") => Cell::painted("drained", Paint::Bad),
        Usable::Up => Cell::painted("up", Paint::Good),
        Usable::Down => Cell::painted("DOWN", Paint::Bad),
        Usable::Unused => Cell::painted("-", Paint::Faint),
    }
}

fn why_not(uplink: &Uplink) -> Vec<String> {
    let families = [("IPv4", &uplink.ipv4), ("IPv6", &uplink.ipv6)];
    let down = families.into_iter().filter(|(_, family)| family.state == Usable::Down);
    down.filter_map(|(name, family)| Some(format!("{name} is down: {}", family.why_not.as_ref()?))).collect()
}

/// What the lines carry, and how the kernel knows them.
fn lines(status: &Status, style: Style) -> String {
    let mut table = Table::new(vec![
        name("LINE"),
        number("out now"),
        number("in now"),
        number("out"),
        number("in"),
        number("weight"),
        number("mark"),
        number("table"),
    ]);
    for uplink in &status.uplinks {
        table.row(vec![
            (&uplink.name).into(),
            rate(uplink.rate_out).into(),
            rate(uplink.rate_in).into(),
            bytes(uplink.bytes_out).into(),
            bytes(uplink.bytes_in).into(),
            uplink.weight.to_string().into(),
            (&uplink.mark).into(),
            uplink.table.to_string().into(),
        ]);
        let is_full = [&uplink.down, &uplink.up].iter().any(|lane| lane.is_full == Some(true));
        if let Some(fullness) = fullness(uplink) {
            table.note(&fullness, if is_full { Paint::Warn } else { Paint::Faint });
        }
        if let Some(quota) = &uplink.quota {
            table.note(&used(quota), if quota.used_up { Paint::Bad } else { Paint::Faint });
        }
        if uplink.cost > 0 {
            table.note(&format!("cost {}: used where no cheaper line is left", uplink.cost), Paint::Faint);
        }
        for way in [&uplink.ipv4, &uplink.ipv6].into_iter().filter_map(way_out) {
            table.note(&way, Paint::Faint);
        }
        for (family, health) in [("IPv4", &uplink.ipv4.health), ("IPv6", &uplink.ipv6.health)] {
            if let Some(health) = health {
                let paint = if health.why.is_some() { Paint::Bad } else { Paint::Faint };
                table.note(&tried(family, health), paint);
            }
        }
    }
    table.render(style)
}

/// "in 43% of 100 Mbit/s; out full at 19 Mbit/s (measured)", as far as it is known.
fn fullness(uplink: &Uplink) -> Option<String> {
    let lanes = [("in", &uplink.down), ("out", &uplink.up)];
    let known: Vec<String> =
        lanes.into_iter().filter_map(|(way, lane)| Some(format!("{way} {}", lane_text(lane)?))).collect();
    (!known.is_empty()).then(|| known.join("; "))
}

fn lane_text(lane: &Lane) -> Option<String> {
    let full = if lane.is_full == Some(true) { ", full" } else { "" };
    let (capacity, used) = (rate(lane.capacity?), lane.used_percent?);
    Some(match lane.capacity_is.as_str() {
        "given" => format!("{used}% of {capacity}{full}"),
        "measured" => format!("{used}% of {capacity} (measured){full}"),
        _ => format!("{used}% of the {capacity} seen so far{full}"),
    })
}

/// "81.2 GB of 100 GB used, until day 1 of the month"
fn used(quota: &Quota) -> String {
    let Quota { bytes: all, reset_day, used, used_up } = quota;
    let what = if *used_up { "quota used up: " } else { "quota: " };
    format!("{what}{} of {}, until day {reset_day} of the month", bytes(*used), bytes(*all))
}

/// "IPv4 works for 3h 12m: loss 0%, latency 12.3 ms, jitter 0.4 ms"
fn tried(family: &str, health: &Health) -> String {
    let Health { loss_percent, latency_ms, jitter_ms, .. } = health;
    let long = duration(health.for_seconds);
    let state = match &health.why {
        None if health.state == "up" => format!("works for {long}"),
        None => "is being tried".to_owned(),
        Some(why) => format!("is avoided for {long}, {}", printable(why)),
    };
    let measured = latency_ms.map(|latency| {
        format!(": loss {loss_percent:.0}%, latency {latency:.1} ms, jitter {jitter_ms:.1} ms")
    });
    format!("{family} {state}{}", measured.unwrap_or_default())
}

/// "198.51.100.2 via 198.51.100.1".
fn way_out(family: &UplinkFamily) -> Option<String> {
    let addresses = family.addresses.join(", ");
    match (&family.gateway, addresses.is_empty()) {
        (None, true) => None,
        (None, false) => Some(addresses),
        (Some(gateway), true) => Some(format!("via {gateway}")),
        (Some(gateway), false) => Some(format!("{addresses} via {gateway}")),
    }
}

/// What each rule did, line by line, so that it can be tuned by what it does.
pub(super) fn rules(status: &Status, style: Style) -> String {
    let columns = vec![name("RULE"), number("flows"), number("bytes"), number("last")];
    let mut table = Table::new(columns);
    for rule in &status.rules {
        // The kernel counts, and does not say when.
        let unknown = if rule.by_kernel > 0 { "-" } else { "never" };
        let last = rule.last_seconds_ago.map_or(unknown.to_owned(), |seconds| age(seconds) + " ago");
        table.row(vec![(&rule.name).into(), count(rule.flows).into(), bytes(rule.bytes).into(), last.into()]);
        if !rule.origin.is_empty() {
            table.note(&rule.origin, Paint::Faint);
        }
        if rule.flows > 0 {
            table.note(&tallies(&rule.uplinks, status, rule.flows), Paint::Plain);
        }
        if rule.by_kernel > 0 {
            let flows = counted(rule.by_kernel, "flow");
            table.note(&format!("{flows} by the kernel alone"), Paint::Faint);
        }
    }
    table.render(style)
}

/// "isp1 75.0% 3 flows 1.2 MB; isp2 ...", in the configuration's order, then any other names.
fn tallies(uplinks: &BTreeMap<String, Tally>, status: &Status, flows: u64) -> String {
    let place = |name: &str| status.uplinks.iter().position(|uplink| uplink.name == name);
    let mut used: Vec<_> = uplinks.iter().filter(|(_, tally)| tally.flows > 0).collect();
    used.sort_by_key(|(name, _)| place(name).unwrap_or(usize::MAX));
    let text = used.into_iter().map(|(name, tally)| {
        let name = shorten(name, LISTED_NAME);
        format!(
            "{name} {} {} {}",
            percent(tally.flows, flows),
            counted(tally.flows, "flow"),
            bytes(tally.bytes)
        )
    });
    text.map(|item| item.replace(' ', UNBROKEN)).collect::<Vec<_>>().join("; ")
}

/// The reasons that happened.
pub(super) fn reasons(status: &Status, style: Style) -> String {
    let mut table = Table::new(vec![number("count"), name("REASON")]);
    for reason in status.reasons.iter().filter(|reason| reason.count > 0) {
        let text = if reason.text.is_empty() { &reason.name } else { &reason.text };
        table.row(vec![count(reason.count).into(), text.into()]);
    }
    table.render(style)
}

fn queues(status: &Status, style: Style) -> String {
    let titles = ["worker", "CPU", "packets", "flows", "waiting", "dropped", "errors"];
    let columns = [word("QUEUE")].into_iter().chain(titles.map(number)).collect();
    let mut table = Table::new(columns);
    for queue in &status.queues {
        table.row(vec![
            queue.number.to_string().into(),
            queue.worker.to_string().into(),
            queue.cpu.map_or("any".to_owned(), |cpu| cpu.to_string()).into(),
            count(queue.decided).into(),
            count(queue.flows).into(),
            count(queue.waiting).into(),
            complaint(queue.dropped),
            complaint(queue.errors),
        ]);
    }
    table.render(style)
}

/// What went past the queues, where anything did.
fn past(status: &Status, style: Style) -> String {
    let PastQueues { limit, limit_per_client, over_limit, over_share, last_minute } = status.past;
    if over_limit == 0 && over_share == 0 {
        return String::new();
    }
    let (limit, share) = (count(limit.into()), count(limit_per_client.into()));
    let mut table = Table::new(vec![number("packets"), name("PAST THE QUEUES, without the rules")]);
    table.row(vec![count(over_limit).into(), format!("more than {limit} new ones a second came").into()]);
    table.row(vec![
        count(over_share).into(),
        format!("of clients with more than {share} a second then").into(),
    ]);
    table.row(vec![count(last_minute).into(), "of these in the last minute".into()]);
    table.render(style)
}

/// A count that should be 0.
pub(super) fn complaint(number: u64) -> Cell {
    Cell::painted(&count(number), if number == 0 { Paint::Plain } else { Paint::Bad })
}

/// The latest decisions: which flow went where, and why below it.
pub(super) fn recent(decisions: &[Recent], style: Style) -> String {
    let mut table = Table::new(vec![number("ago"), name("FLOW"), name("from"), name("uplink")]);
    for decision in decisions {
        let uplink = match &decision.uplink {
            Some(uplink) => uplink.into(),
            None => Cell::painted("dropped", Paint::Bad),
        };
        let lan = if decision.lan.is_empty() { "router" } else { &decision.lan };
        table.row(vec![age(decision.seconds_ago).into(), (&decision.flow).into(), lan.into(), uplink]);
        table.note(&decision.reason, Paint::Faint);
    }
    table.render(style)
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;
    use crate::control::message::Rule;

    #[test]
    fn a_usual_status_reads_like_this() {
        insta::assert_snapshot!(render(&example::usual(), Style::PLAIN, true));
    }

    #[test]
    fn a_status_of_nothing_reads_like_this() {
        insta::assert_snapshot!(render(&Status::default(), Style::PLAIN, true));
    }

    #[test]
    fn a_daemon_that_has_just_started_reads_like_this() {
        insta::assert_snapshot!(render(&example::fresh(), Style::PLAIN, true));
    }

    #[test]
    fn sixteen_uplinks_with_long_names_read_like_this() {
        insta::assert_snapshot!(render(&example::sixteen(), Style::PLAIN, true));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in [80, 100, 132] {
            let style = Style { width, ..Style::PLAIN };
            for status in [example::usual(), example::sixteen(), Status::default()] {
                for line in render(&status, style, true).lines() {
                    assert!(line.chars().count() <= width, "{width}: {line}");
                }
            }
        }
    }

    #[test]
    fn a_rules_uplinks_stand_in_the_configurations_order_and_former_ones_last() {
        let mut status = example::usual();
        status.uplinks.reverse();
        let tally = Tally { flows: 1, bytes: 2 };
        let uplinks = ["former", "isp1", "isp2"].map(|name| (name.to_owned(), tally));
        let text = tallies(&BTreeMap::from(uplinks), &status, 3).replace(UNBROKEN, " ");
        assert_eq!(text, "isp2 33.3% 1 flow 2 B; isp1 33.3% 1 flow 2 B; former 33.3% 1 flow 2 B");
    }

    #[test]
    fn decisions_are_shown_only_when_asked_for() {
        assert!(!render(&example::usual(), Style::PLAIN, false).contains("FLOW"));
        assert!(render(&example::usual(), Style::PLAIN, true).contains("FLOW"));
    }

    #[test]
    fn colour_says_what_is_wrong_and_changes_no_text() {
        let painted = render(&example::usual(), Style { colour: true, ..Style::PLAIN }, true);
        assert!(painted.contains("\x1b[1;31mDOWN\x1b[0m"));
        let mut plain = String::new();
        let mut rest = painted.as_str();
        while let Some((before, after)) = rest.split_once("\x1b[") {
            plain += before;
            rest = after.split_once('m').unwrap().1;
        }
        assert_eq!(plain + rest, render(&example::usual(), Style::PLAIN, true));
    }

    #[test]
    fn no_text_from_outside_can_steer_the_terminal() {
        let evil = "\x1b]0;evil\x07\u{9b}2J\r".to_owned();
        let mut status = example::usual();
        status.version = evil.clone();
        status.config = evil.clone();
        status.warnings = vec![evil.clone()];
        status.uplinks[1].ipv4.why_not = Some(evil.clone());
        status.uplinks[0].ipv4.gateway = Some(evil.clone());
        status.rules.push(Rule {
            name: evil.clone(),
            origin: evil.clone(),
            uplinks: BTreeMap::from([(evil.clone(), Tally { flows: 1, bytes: 1 })]),
            flows: 1,
            ..Rule::default()
        });
        status.recent[0].flow = evil.clone();
        status.recent[0].reason = evil;
        let text = render(&status, Style::PLAIN, true);
        assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text:?}");
    }

    #[test]
    fn the_json_is_the_status_itself() {
        let json = render_json(&example::sixteen()).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), example::sixteen());
    }
}
