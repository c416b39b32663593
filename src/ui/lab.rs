//! What `wansplit lab` shows: a live view while the traffic runs, and at the end
//! a summary that anybody understands. Pure rendering: the daemon's [`Status`]
//! says what was decided and why, [`LabFacts`] what the lab's own providers,
//! clients and servers saw of it.

use serde::Serialize;

use super::human::{bar, bytes, count, counted, percent, printable};
use super::status::{complaint, decided_flows, reasons, recent, rules, sections};
use super::style::{Paint, Style};
use super::table::{Cell, Table, UNBROKEN, indented, name, number, word};
use crate::control::message::Status;
use crate::lab::facts::{LabFacts, Outcome};

/// Width of a bar of shares.
const BAR: usize = 10;

/// Lines of the latest decisions below which the live view rather does without the list of what worked.
const LEAST_RECENT: usize = 7;

/// Decisions the summary shows as examples.
const EXAMPLES: usize = 6;

/// What the lab proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every flow left by its line and worked.
    Good,
    /// Packets or flows left by a line that was not theirs.
    Strays,
    /// Connections failed.
    Failures,
    /// No flow was decided at all, or none was seen to leave.
    Nothing,
}

/// What the lab proved; the worst finding counts.
#[must_use]
pub fn verdict(status: &Status, facts: &LabFacts) -> Verdict {
    let astray = facts.strays().saturating_add(facts.astray());
    let proved = decided_flows(status).min(facts.flows.compared);
    match (astray, facts.outcome().failed, proved) {
        (1.., _, _) => Verdict::Strays,
        (0, 1.., _) => Verdict::Failures,
        (0, 0, 0) => Verdict::Nothing,
        (0, 0, 1..) => Verdict::Good,
    }
}

/// The live view, never higher than the terminal; see [`super::style::redraw`] for how to put it there.
#[must_use]
pub fn frame(status: &Status, facts: &LabFacts, style: Style) -> String {
    // The cursor comes to stand on the row below.
    let rows = style.height.saturating_sub(1);
    let above = sections([head(status, facts, style), links(status, facts, style)]);
    let details = sections([above.clone(), outcomes(facts, style)]);
    let above = if details.lines().count() + LEAST_RECENT <= rows { details } else { above };
    // Two lines a decision, below an empty line and a heading.
    let room = rows.saturating_sub(above.lines().count() + 2) / 2;
    let latest = &status.recent[..status.recent.len().min(room.max(1))];
    let frame = sections([above, recent(latest, style)]);
    frame.lines().take(rows).map(|line| format!("{line}\n")).collect()
}

fn head(status: &Status, facts: &LabFacts, style: Style) -> String {
    let Outcome { ok, failed } = facts.outcome();
    let title = style.paint(Paint::Title, "wansplit lab");
    let flows = counted(decided_flows(status), "flow");
    let paint = if failed > 0 { Paint::Bad } else { Paint::Plain };
    let failed = style.paint(paint, &format!("{} failed", count(failed)));
    format!("{title}: {} s left; {flows} decided; {} worked, {failed}\n", facts.seconds_left, count(ok))
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
        due(facts),
        tried(facts, style),
        titled("Which rule sent them there:", rules(status, style)),
        titled("Why:", reasons(status, style)),
        titled("The latest of them:", recent(examples, style)),
        conclusion(status, facts, style),
    ])
}

/// Why shares need not be what the weights say.
fn due(facts: &LabFacts) -> String {
    match facts.links[..] {
        [] => String::new(),
        _ => "Rules may send their flows elsewhere; what no rule matches is shared as due.\n".to_owned(),
    }
}

/// A part with a sentence above it; nothing where the part is nothing.
fn titled(title: &str, part: String) -> String {
    if part.is_empty() { part } else { format!("{title}\n\n{part}") }
}

/// How to look around in a lab that stays up. `way_in` is the command that leads into its world.
#[must_use]
pub fn doors(way_in: &str, machines: &[&str], program: &str) -> String {
    let names = indented(&machines.join(" "), Paint::Plain, Style::PLAIN);
    format!(
        "\nThe lab stays up until Ctrl-C here. From another terminal, a shell on its router:\n\n  \
         {way_in} ip netns exec router sh\n\nand in there, what wansplit does:\n\n  \
         {program} status --flows\n\nThe lab's machines, any of which can stand for \"router\":\n\n{names}"
    )
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
        "astray": facts.astray(),
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
    let flows = &facts.flows;
    let followed = format!(
        "Followed on the wire: {}; {} by another line, {} by two lines.\n",
        counted(flows.compared, "flow"),
        count(flows.misrouted),
        count(flows.split)
    );
    let missed = match flows.packets_missed {
        0 => String::new(),
        missed => format!("{} went by too fast to be looked at.\n", counted(missed, "packet")),
    };
    let followed = if flows.compared == 0 { String::new() } else { followed };
    followed + &missed + &style.paint(paint, &sentence(status, facts)) + "\n"
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
            let (packets, astray) = (counted(facts.strays(), "packet"), counted(facts.astray(), "flow"));
            format!("{packets} and {astray} left by a line that was not theirs; {failed} failed.")
        }
        Verdict::Nothing => "No flow was decided and seen to leave: nothing is proved.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::example;
    use super::*;
    use crate::lab::facts::{FlowFacts, Kind, LinkFacts};

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
        assert!(sentence(&status, &failing).starts_with("3 packets and 0 flows left by a line that was"));
        failing.links[1].strays = 0;
        failing.flows.split = 1;
        assert_eq!(verdict(&status, &failing), Verdict::Strays);
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
        assert!((20..24).contains(&frame.lines().count()), "{frame}");
    }

    #[test]
    fn the_live_view_of_sixteen_lines_has_room_for_a_decision_and_its_reason() {
        let status = Status { recent: example::usual().recent, ..example::sixteen() };
        let small = frame(&status, &facts(), Style::PLAIN);
        assert_eq!(small.lines().count(), 23, "{small}");
        assert!(small.contains("ordered: its first usable uplink") && !small.contains("WORKED"), "{small}");
        let large = frame(&status, &facts(), Style { height: 40, ..Style::PLAIN });
        assert!(large.contains("WORKED") && large.lines().count() < 40, "{large}");
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
            flows: FlowFacts { seen: 12_200, compared: 12_112, ..FlowFacts::default() },
        }
    }
}
