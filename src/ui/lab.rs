//! What `wansplit lab` shows: a live view while the traffic runs, and at the end
//! a summary that anybody understands. Pure rendering: the daemon's [`Status`]
//! says what was decided and why, [`LabFacts`] what the lab's own providers,
//! clients and servers saw of it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::human::{bar, bytes, count, counted, percent, printable};
use super::status::{complaint, decided_flows, reasons, recent, rules, sections};
use super::style::{Paint, Style};
use super::table::{Cell, Table, UNBROKEN, indented, name, number, word};
use crate::control::message::Status;

/// Width of a bar of shares.
const BAR: usize = 10;

/// Lines of a terminal that the live view tries to keep to.
const SCREEN: usize = 24;

/// Decisions the summary shows as examples.
const EXAMPLES: usize = 6;

/// What the lab itself saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LabFacts {
    /// Seconds of traffic still to come.
    pub seconds_left: u64,
    /// What each line's provider saw, in the configuration's order.
    pub links: Vec<LinkFacts>,
    /// How the connections of each kind fared.
    pub tried: BTreeMap<Kind, Outcome>,
}

/// What the provider at the other end of a line saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LinkFacts {
    /// Name of the uplink.
    pub uplink: String,
    /// Packets it forwarded, both ways.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
    /// Packets it dropped because their source was not this line's.
    pub strays: u64,
}

/// A kind of connection the lab tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// LAN to a server, TCP over IPv4.
    Tcp4,
    /// LAN to a server, TCP over IPv6.
    Tcp6,
    /// LAN to a server, UDP over IPv4.
    Udp4,
    /// LAN to a server, UDP over IPv6.
    Udp6,
    /// LAN to a server, ICMP echo.
    Ping4,
    /// LAN to a server, ICMPv6 echo.
    Ping6,
    /// From outside to a port forward.
    Forward,
    /// From the LAN to a port forward by the router's public address.
    Hairpin,
    /// The router's own.
    Router,
}

impl Kind {
    /// The kind as people say it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Kind::Tcp4 => "TCP IPv4",
            Kind::Tcp6 => "TCP IPv6",
            Kind::Udp4 => "UDP IPv4",
            Kind::Udp6 => "UDP IPv6",
            Kind::Ping4 => "ping IPv4",
            Kind::Ping6 => "ping IPv6",
            Kind::Forward => "from outside to a forward",
            Kind::Hairpin => "from the LAN to a forward's public address",
            Kind::Router => "the router's own",
        }
    }
}

/// How connections fared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Those that worked from beginning to end.
    pub ok: u64,
    /// Those that did not.
    pub failed: u64,
}

/// What the lab proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every flow left by its line and worked.
    Good,
    /// Packets left by a line that was not theirs.
    Strays,
    /// Connections failed.
    Failures,
    /// No flow was decided at all.
    Nothing,
}

impl LabFacts {
    /// Packets that left by a line that was not theirs, on all lines.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.links.iter().fold(0, |sum, link| sum.saturating_add(link.strays))
    }

    /// Connections of all kinds.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.tried.values().fold(Outcome::default(), |sum, one| Outcome {
            ok: sum.ok.saturating_add(one.ok),
            failed: sum.failed.saturating_add(one.failed),
        })
    }
}

/// What the lab proved; the worst finding counts.
#[must_use]
pub fn verdict(status: &Status, facts: &LabFacts) -> Verdict {
    match (facts.strays(), facts.outcome().failed, decided_flows(status)) {
        (1.., _, _) => Verdict::Strays,
        (0, 1.., _) => Verdict::Failures,
        (0, 0, 0) => Verdict::Nothing,
        (0, 0, 1..) => Verdict::Good,
    }
}

/// The live view; see [`super::style::redraw`] for how to put it on a terminal.
#[must_use]
pub fn frame(status: &Status, facts: &LabFacts, style: Style) -> String {
    let title = style.paint(Paint::Title, "wansplit lab");
    let head = format!(
        "{title}: {} s left, {} decided, backend {}\n",
        facts.seconds_left,
        counted(decided_flows(status), "flow"),
        printable(&status.backend)
    );
    let above = sections([head, links(status, facts, style), outcomes(facts, style)]);
    let room = SCREEN.saturating_sub(above.lines().count() + 3) / 2;
    let latest = &status.recent[..status.recent.len().min(room.max(1))];
    sections([above, recent(latest, style)])
}

/// One line of progress, for output that is no terminal.
#[must_use]
pub fn progress(status: &Status, facts: &LabFacts) -> String {
    let Outcome { ok, failed } = facts.outcome();
    let shares = status
        .uplinks
        .iter()
        .map(|uplink| format!("{} {}", printable(&uplink.name), count(uplink.flows_total)));
    format!(
        "{} s left: {} decided ({}); {} worked, {} failed; {}\n",
        facts.seconds_left,
        counted(decided_flows(status), "flow"),
        shares.collect::<Vec<_>>().join(", "),
        counted(ok, "connection"),
        count(failed),
        counted(facts.strays(), "stray")
    )
}

/// The end of the lab: which flow went where and why, what each line carried,
/// what failed, and one sentence that says what it proved.
#[must_use]
pub fn summary(status: &Status, facts: &LabFacts, style: Style) -> String {
    let examples = &status.recent[..status.recent.len().min(EXAMPLES)];
    sections([
        titled(
            "Which line took how many flows, and what its provider saw of them:",
            links(status, facts, style),
        ),
        tried(facts, style),
        titled("Which rule sent them there:", rules(status, style)),
        titled("Why:", reasons(status, style)),
        titled("The latest of them:", recent(examples, style)),
        conclusion(status, facts, style),
    ])
}

/// A part with a sentence above it; nothing where the part is nothing.
fn titled(title: &str, part: String) -> String {
    if part.is_empty() { part } else { format!("{title}\n\n{part}") }
}

/// The summary for programs: verdict, facts and the daemon's last status.
///
/// # Errors
/// Never with this version's types; what `serde_json` says.
pub fn summary_json(status: &Status, facts: &LabFacts) -> serde_json::Result<String> {
    let summary = serde_json::json!({
        "verdict": verdict(status, facts),
        "text": sentence(status, facts),
        "flows": decided_flows(status),
        "strays": facts.strays(),
        "connections": facts.outcome(),
        "lab": facts,
        "status": status,
    });
    serde_json::to_string_pretty(&summary)
}

/// Shares beside weights, and what the line's provider saw.
fn links(status: &Status, facts: &LabFacts, style: Style) -> String {
    let titles = ["weight", "flows", "due", "share"].map(number);
    let seen = ["packets", "bytes", "strays"].map(number);
    let columns = [name("LINE")].into_iter().chain(titles).chain([word("")]).chain(seen);
    let mut table = Table::new(columns.collect());
    let flows = decided_flows(status);
    let most = status.uplinks.iter().map(|uplink| uplink.flows_total).max().unwrap_or(0);
    let weights: u64 = status.uplinks.iter().map(|uplink| u64::from(uplink.weight)).sum();
    for uplink in &status.uplinks {
        let link = facts.links.iter().find(|link| link.uplink == uplink.name).cloned().unwrap_or_default();
        table.row(vec![
            (&uplink.name).into(),
            uplink.weight.to_string().into(),
            count(uplink.flows_total).into(),
            percent(uplink.weight.into(), weights).into(),
            percent(uplink.flows_total, flows).into(),
            bar(uplink.flows_total, most, BAR).into(),
            count(link.packets).into(),
            bytes(link.bytes).into(),
            complaint(link.strays),
        ]);
    }
    table.render(style)
}

/// The kinds that were tried, in few lines.
fn outcomes(facts: &LabFacts, style: Style) -> String {
    let each = facts.tried.iter().map(|(kind, outcome)| {
        let failed =
            if outcome.failed > 0 { format!(" ({} FAILED)", count(outcome.failed)) } else { String::new() };
        format!("{} {}{failed}", kind.label(), count(outcome.ok)).replace(' ', UNBROKEN)
    });
    let list = each.collect::<Vec<_>>().join(", ");
    if list.is_empty() {
        return list;
    }
    let paint = if facts.outcome().failed > 0 { Paint::Bad } else { Paint::Plain };
    format!("{}\n{}", style.paint(Paint::Title, "WORKED"), indented(&list, paint, style))
}

fn tried(facts: &LabFacts, style: Style) -> String {
    let mut table = Table::new(vec![word("TRIED"), number("worked"), number("failed")]);
    for (kind, outcome) in &facts.tried {
        table.row(vec![kind.label().into(), count(outcome.ok).into(), complaint(outcome.failed)]);
    }
    if !facts.tried.is_empty() {
        let Outcome { ok, failed } = facts.outcome();
        table.row(vec![Cell::painted("all", Paint::Title), count(ok).into(), complaint(failed)]);
    }
    table.render(style)
}

fn conclusion(status: &Status, facts: &LabFacts, style: Style) -> String {
    let paint = if verdict(status, facts) == Verdict::Good { Paint::Good } else { Paint::Bad };
    style.paint(paint, &sentence(status, facts)) + "\n"
}

fn sentence(status: &Status, facts: &LabFacts) -> String {
    let flows = counted(decided_flows(status), "flow");
    let failed = counted(facts.outcome().failed, "connection");
    match verdict(status, facts) {
        Verdict::Good => format!("All {flows} left by the line that was chosen for them; 0 strays."),
        Verdict::Failures => {
            format!("All {flows} left by the line that was chosen for them, but {failed} failed.")
        }
        Verdict::Strays => {
            let strays = counted(facts.strays(), "packet");
            format!("{strays} left by a line that was not theirs; {failed} failed.")
        }
        Verdict::Nothing => "No flow reached the router's rules: nothing is proved.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn the_live_view_reads_like_this() {
        insta::assert_snapshot!(frame(&example::usual(), &facts(), Style::PLAIN));
    }

    #[test]
    fn the_summary_reads_like_this() {
        insta::assert_snapshot!(summary(&example::usual(), &facts(), Style::PLAIN));
    }

    #[test]
    fn the_summary_of_a_lab_in_which_nothing_happened_reads_like_this() {
        insta::assert_snapshot!(summary(&Status::default(), &LabFacts::default(), Style::PLAIN));
    }

    #[test]
    fn a_line_of_progress_tells_flows_connections_and_strays() {
        assert_eq!(
            progress(&example::usual(), &facts()),
            "12 s left: 12,012 flows decided (isp1 9,012, isp2 3,000); 12,212 connections worked, 0 failed; \
             0 strays\n"
        );
    }

    #[test]
    fn the_verdict_is_good_only_without_strays_and_failures_and_with_flows() {
        let status = example::usual();
        assert_eq!(verdict(&status, &facts()), Verdict::Good);
        assert_eq!(verdict(&example::fresh(), &facts()), Verdict::Nothing);
        let mut failing = facts();
        failing.tried.insert(Kind::Ping6, Outcome { ok: 0, failed: 2 });
        assert_eq!(verdict(&status, &failing), Verdict::Failures);
        assert!(sentence(&status, &failing).contains("2 connections failed"));
        failing.links[1].strays = 3;
        assert_eq!(verdict(&status, &failing), Verdict::Strays);
        assert!(sentence(&status, &failing).starts_with("3 packets left by a line that was not theirs"));
    }

    #[test]
    fn a_failure_is_seen_in_the_live_view() {
        let mut failing = facts();
        failing.tried.insert(Kind::Hairpin, Outcome { ok: 5, failed: 1 });
        assert!(frame(&example::usual(), &failing, Style::PLAIN).contains("public address 5 (1 FAILED)"));
    }

    #[test]
    fn the_live_view_fits_a_screen_with_two_lines_and_many_decisions() {
        let mut status = example::usual();
        status.recent = status.recent.iter().cycle().take(50).cloned().collect();
        let frame = frame(&status, &facts(), Style::PLAIN);
        assert!((20..=SCREEN).contains(&frame.lines().count()), "{frame}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for status in [example::usual(), example::sixteen(), Status::default()] {
            let texts = [frame(&status, &facts(), Style::PLAIN), summary(&status, &facts(), Style::PLAIN)];
            for line in texts.iter().flat_map(|text| text.lines()) {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }

    #[test]
    fn the_json_has_the_verdict_the_facts_and_the_status() {
        let json: serde_json::Value =
            serde_json::from_str(&summary_json(&example::usual(), &facts()).unwrap()).unwrap();
        assert_eq!(json["verdict"], "good");
        assert_eq!(json["connections"], serde_json::json!({ "ok": 12_212, "failed": 0 }));
        assert_eq!(json["lab"]["tried"]["tcp4"]["ok"], 4_000);
        assert_eq!(json["status"]["uplinks"][0]["name"], "isp1");
    }

    fn facts() -> LabFacts {
        let link =
            |uplink: &str, packets, bytes| LinkFacts { uplink: uplink.to_owned(), packets, bytes, strays: 0 };
        let worked = |ok| Outcome { ok, failed: 0 };
        LabFacts {
            seconds_left: 12,
            links: vec![link("isp1", 123_456, 98_765_432), link("isp2", 41_152, 32_921_810)],
            tried: BTreeMap::from([
                (Kind::Tcp4, worked(4_000)),
                (Kind::Tcp6, worked(4_000)),
                (Kind::Udp4, worked(2_000)),
                (Kind::Udp6, worked(2_000)),
                (Kind::Ping4, worked(6)),
                (Kind::Ping6, worked(6)),
                (Kind::Forward, worked(100)),
                (Kind::Hairpin, worked(50)),
                (Kind::Router, worked(50)),
            ]),
        }
    }
}
