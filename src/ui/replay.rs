//! `wansplit replay`: a line for each flow as it ends, then what all of them came to.

use std::collections::BTreeMap;

use serde::Serialize;

use super::human::{bar, bytes, count, counted, percent, printable, shorten};
use super::status::sections;
use super::style::{Paint, Style};
use super::table::{Table, name, number, word};
use crate::config::Config;
use crate::engine::flow::protocol_name;
use crate::engine::verdict::Decision;
use crate::replay::Counted;
use crate::replay::flows::Flow;

/// One flow, for programs.
#[derive(Debug, Serialize)]
pub struct FlowJson {
    /// "tcp", "udp", ...
    pub protocol: String,
    /// Address and port of the side that began, IPv6 in brackets.
    pub client: String,
    /// Address and port of the other side.
    pub server: String,
    /// What it was taken for.
    pub app: Option<&'static str>,
    /// What it is called.
    pub name: Option<String>,
    /// How that was learned: "own bytes", "dns", "earlier flow".
    pub name_from: Option<&'static str>,
    /// All its names: those of every DNS question where it asks several, else the one above.
    pub names: Vec<String>,
    /// At which packet of the flow, counted from 1.
    pub packet: Option<u64>,
    /// The rule that matched.
    pub rule: Option<String>,
    /// The line it would leave by.
    pub uplink: Option<String>,
    /// Why, in a sentence; nothing without a configuration.
    pub reason: Option<String>,
    /// Packets of both sides.
    pub packets: u64,
    /// Bytes of both sides.
    pub bytes: u64,
}

/// What all flows came to.
#[derive(Debug, Default, Serialize)]
pub struct Totals {
    /// Flows.
    pub flows: u64,
    /// Those with a name.
    pub named: u64,
    /// Bytes of all flows.
    pub bytes: u64,
    /// By what flows were taken for.
    pub apps: BTreeMap<&'static str, Total>,
    /// By rule.
    pub rules: BTreeMap<String, RuleTotal>,
}

/// Some of the flows.
#[derive(Debug, Default, Serialize)]
pub struct Total {
    /// How many.
    pub flows: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The flows of one rule.
#[derive(Debug, Default, Serialize)]
pub struct RuleTotal {
    /// How many.
    pub flows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many by each line.
    pub uplinks: BTreeMap<String, u64>,
}

/// Flows for which no rule had an answer.
const NO_RULE: &str = "(no rule: weighted round-robin)";

/// Flows that were taken for nothing.
const UNKNOWN: &str = "(unknown)";

impl FlowJson {
    /// The flow as the configuration names things.
    #[must_use]
    pub fn new(flow: &Flow, config: Option<&Config>) -> Self {
        let decided = flow.decision.zip(config);
        let name = flow.known_as();
        FlowJson {
            protocol: protocol_name(flow.key.protocol).into_owned(),
            client: flow.client(),
            server: flow.server(),
            app: flow.app.map(|app| app.as_str()),
            name: name.as_ref().map(|(name, ..)| name.clone()),
            names: all_names(flow, name.as_ref().map(|(name, ..)| name.as_str())),
            name_from: name.as_ref().map(|(_, from, _)| from.as_str()),
            packet: name.map(|(.., packet)| packet),
            rule: decided.and_then(|(decision, config)| rule(&decision, config)),
            uplink: decided.and_then(|(decision, config)| config.uplink_of(&decision).map(String::from)),
            reason: decided.map(|(decision, config)| config.explain(&decision)),
            packets: flow.packets,
            bytes: flow.bytes,
        }
    }

    /// One line for people.
    #[must_use]
    pub fn line(&self, style: Style) -> String {
        let app = self.app.unwrap_or("-");
        let mut line = format!("{} {} > {}  {app}", self.protocol, self.client, self.server);
        if let (Some(name), Some(from), Some(packet)) = (&self.name, self.name_from, self.packet) {
            let name = style.paint(Paint::Title, &printable(name));
            line += &format!("  {name} ({from}, packet {packet})");
        }
        if let Some(uplink) = &self.uplink {
            let rule = self.rule.as_deref().map_or("no rule".into(), |rule| format!("\"{rule}\""));
            line += &format!("  by {} ({})", printable(uplink), printable(&rule));
        }
        line + "\n"
    }
}

impl Totals {
    /// Counts a flow.
    pub fn add(&mut self, flow: &FlowJson, was_decided: bool) {
        self.flows += 1;
        self.named += u64::from(flow.name.is_some());
        self.bytes += flow.bytes;
        let app = self.apps.entry(flow.app.unwrap_or(UNKNOWN)).or_default();
        app.flows += 1;
        app.bytes += flow.bytes;
        if was_decided {
            let rule = flow.rule.clone().unwrap_or_else(|| NO_RULE.to_owned());
            let rule = self.rules.entry(rule).or_default();
            rule.flows += 1;
            rule.bytes += flow.bytes;
            *rule.uplinks.entry(flow.uplink.clone().unwrap_or_else(|| "-".to_owned())).or_default() += 1;
        }
    }

    /// The totals for people.
    #[must_use]
    pub fn render(&self, counted: &Counted, style: Style) -> String {
        sections([self.head(counted), self.apps(style), self.rules(style)])
    }

    fn head(&self, read: &Counted) -> String {
        let others = match read.others {
            0 => String::new(),
            others => format!(" ({} without a readable IP packet)", count(others)),
        };
        format!(
            "{}{others}, {}, {} of them named, {}\n",
            counted(read.frames, "frame"),
            counted(self.flows, "flow"),
            percent(self.named, self.flows),
            bytes(self.bytes),
        )
    }

    fn apps(&self, style: Style) -> String {
        let mut table = Table::new(vec![word("TAKEN FOR"), number("FLOWS"), number("BYTES")]);
        for (app, total) in &self.apps {
            table.row(vec![(*app).into(), count(total.flows).into(), bytes(total.bytes).into()]);
        }
        table.render(style)
    }

    fn rules(&self, style: Style) -> String {
        let mut table = Table::new(vec![name("RULE"), number("FLOWS"), number("BYTES"), word("BY")]);
        for (rule, total) in &self.rules {
            let shares: Vec<String> =
                total.uplinks.iter().map(|(uplink, flows)| format!("{uplink} {}", count(*flows))).collect();
            let flows = count(total.flows);
            table.row(vec![rule.into(), flows.into(), bytes(total.bytes).into(), shares.join(", ").into()]);
        }
        table.render(style)
    }
}

/// How far a file is read; of one without a length only how much was.
#[must_use]
pub fn progress(file: &str, read: u64, length: u64) -> String {
    let file = shorten(&printable(file), 30);
    match length {
        0 => format!("{file}: {}", bytes(read)),
        _ => format!("{file} [{}] {} of {}", bar(read, length, 30), bytes(read), bytes(length)),
    }
}

fn all_names(flow: &Flow, name: Option<&str>) -> Vec<String> {
    match flow.asked.is_empty() {
        true => name.map(str::to_owned).into_iter().collect(),
        false => flow.asked.iter().map(ToString::to_string).collect(),
    }
}

fn rule(decision: &Decision, config: &Config) -> Option<String> {
    let rule = config.rules.get(usize::from(decision.rule?.0))?;
    Some(rule.name.clone())
}
