//! `wansplit bench`: the rules by how often they decide, what each costs, and those that never do.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use serde::Serialize;

use super::human::{bar, count, counted, percent, printable, shorten};
use super::status::sections;
use super::style::{Paint, Style};
use super::table::{Cell, Table, indented, name, number};
use crate::bench::{Measured, Spread, Step, Tally};
use crate::config::Config;
use crate::engine::rule::model::{Rule, RuleId};

/// Rules in a table or a list for people; `--json` has all.
const MOST_ROWS: usize = 20;
/// Rules that are named as the slowest.
const SLOWEST: usize = 3;
/// A rule is slow from this many times the median of all flows.
const SLOW: f64 = 1.5;
/// An order is worth a thought from this share of the flows, and this many rules before.
const LARGE_SHARE: f64 = 0.2;
const MANY_RULES: usize = 4;

/// The flows that no rule decides.
const NO_RULE: &str = "(no rule: weighted round-robin)";

/// Where the flows came from.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Made for the rules.
    Made {
        /// What they were made from.
        seed: u64,
    },
    /// Of captures.
    Captured {
        /// The captures.
        files: Vec<String>,
        /// Flows beyond those that were asked for.
        left_out: u64,
    },
}

/// What was measured, and by what names.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The rules.
    pub config: &'a Config,
    /// Where the flows came from.
    pub source: &'a Source,
    /// What was measured.
    pub measured: &'a Measured,
}

/// All of it, for programs.
#[derive(Serialize)]
struct Report<'a> {
    source: &'a Source,
    flows: u64,
    compile_ms: f64,
    /// Of one core.
    decisions_per_second: Option<u64>,
    ns: Option<Ns>,
    /// In the order of their flows, the most first; then in their own.
    rules: Vec<RuleJson<'a>>,
    no_rule: RuleJson<'a>,
    always_compared: Vec<&'a str>,
    advice: Vec<String>,
}

/// One rule.
#[derive(Serialize)]
struct RuleJson<'a> {
    name: &'a str,
    /// Where it stands, and its number in the order in which rules are tried, from 1.
    origin: &'a str,
    place: Option<usize>,
    flows: u64,
    share: f64,
    /// Flows that fit it, and of these those that others decide.
    fitting: u64,
    taken: Vec<Taken<'a>>,
    /// On average, at most.
    compared: f64,
    ns: Option<Ns>,
}

/// Flows that another rule took.
#[derive(Serialize)]
struct Taken<'a> {
    by: &'a str,
    origin: &'a str,
    flows: u64,
}

/// Nanoseconds a decision: of batches of 64 the mean, and what a tenth, half ... of them stay below.
#[derive(Serialize)]
struct Ns {
    mean: f64,
    p10: f64,
    p50: f64,
    p90: f64,
    p99: f64,
}

impl From<Spread> for Ns {
    fn from(Spread { mean, p10, p50, p90, p99 }: Spread) -> Self {
        let [mean, p10, p50, p90, p99] = [mean, p10, p50, p90, p99].map(|ns| (ns * 10.0).round() / 10.0);
        Ns { mean, p10, p50, p90, p99 }
    }
}

/// A rule and its tally; none of the flows that no rule decides.
type Row<'a> = (Option<RuleId>, &'a Tally);

impl<'a> View<'a> {
    /// For people.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let parts = [
            self.head(style),
            self.table(style),
            self.slowest(style),
            self.never(style),
            self.advised(style),
        ];
        sections(parts)
    }

    /// For programs.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn to_json(&self) -> serde_json::Result<String> {
        let measured = self.measured;
        let report = Report {
            source: self.source,
            flows: measured.flows,
            compile_ms: measured.compiled_in.as_secs_f64() * 1000.0,
            decisions_per_second: measured.all.map(per_second),
            ns: measured.all.map(Ns::from),
            rules: self.by_hits().into_iter().map(|row| self.row_json(row)).collect(),
            no_rule: self.row_json((None, &measured.no_rule)),
            always_compared: measured
                .always_compared
                .iter()
                .filter_map(|&id| Some(self.rule(id)?.name.as_str()))
                .collect(),
            advice: self.advice(),
        };
        serde_json::to_string_pretty(&report)
    }

    fn row_json(&self, (id, tally): Row<'a>) -> RuleJson<'a> {
        let (name, origin) = self.called(id);
        let taken = by_flows(tally).into_iter().map(|(taker, flows)| {
            let (by, origin) = self.called(taker);
            Taken { by, origin, flows }
        });
        RuleJson {
            name,
            origin,
            place: id.map(|id| usize::from(id.0) + 1),
            flows: tally.hits,
            share: self.share(tally),
            fitting: tally.fitting,
            taken: taken.collect(),
            compared: tally.mean_compared(),
            ns: tally.time.map(Ns::from),
        }
    }

    fn head(&self, style: Style) -> String {
        let measured = self.measured;
        let files: BTreeSet<&str> =
            self.config.rules.iter().filter_map(|rule| Some(rule.origin.rsplit_once(':')?.0)).collect();
        let [rules, files] = [(measured.rules.len(), "rule"), (files.len(), "file")]
            .map(|(number, thing)| counted(number as u64, thing));
        let milliseconds = measured.compiled_in.as_secs_f64() * 1000.0;
        let speed = measured.all.map_or(String::new(), |all| {
            let Spread { p50, p90, p99, .. } = all;
            let decisions = count(per_second(all));
            format!(
                "{decisions} decisions a second on one core\n\
                 ns a decision, by batches of 64: median {p50:.0}, p90 {p90:.0}, p99 {p99:.0}\n"
            )
        });
        format!("{rules} in {files}, compiled in {milliseconds:.1} ms\n{}\n{speed}", self.flows(style))
    }

    fn flows(&self, style: Style) -> String {
        let flows = counted(self.measured.flows, "flow");
        match self.source {
            Source::Made { seed } => format!("{flows}, as many made for each rule (--seed {seed})"),
            Source::Captured { files, left_out } => {
                let files = shorten(&printable(&files.join(", ")), style.width / 2);
                let others = format!("; {} more left out", count(*left_out));
                format!("{flows} of {files}{}", if *left_out > 0 { &others } else { "" })
            }
        }
    }

    fn table(&self, style: Style) -> String {
        let mut table = Table::new(vec![
            name("RULE"),
            name("WHERE"),
            number("FLOWS"),
            number("SHARE"),
            number("COMPARED"),
            number("NS"),
            number("10-90 %"),
        ]);
        let rows = self.by_hits();
        let hit = rows.iter().filter(|(_, tally)| tally.hits > 0);
        for row in hit.clone().take(MOST_ROWS) {
            table.row(self.cells(row));
        }
        let hidden = hit.count().saturating_sub(MOST_ROWS);
        if hidden > 0 {
            table
                .note(&format!("and {} more (--json has all)", counted(hidden as u64, "rule")), Paint::Faint);
        }
        if self.measured.no_rule.hits > 0 {
            table.row(self.cells(&(None, &self.measured.no_rule)));
        }
        table.render(style)
    }

    fn cells(&self, (id, tally): &Row<'_>) -> Vec<Cell> {
        let (name, origin) = self.called(*id);
        let ns = |of: fn(Spread) -> String| tally.time.map_or("-".to_owned(), of);
        vec![
            name.into(),
            origin.into(),
            count(tally.hits).into(),
            percent(tally.hits, self.measured.flows).into(),
            format!("{:.1}", tally.mean_compared()).into(),
            ns(|time| format!("{:.0}", time.p50)).into(),
            ns(|time| format!("{:.0}-{:.0}", time.p10, time.p90)).into(),
        ]
    }

    /// The dearest rules, where they are dearer than the others.
    fn slowest(&self, style: Style) -> String {
        let Some(usual) = self.measured.all.map(|all| all.p50) else { return String::new() };
        let mut timed: Vec<(&Rule, f64)> = self
            .by_hits()
            .into_iter()
            .filter_map(|(id, tally)| Some((self.rule(id?)?, tally.time?.p50)))
            .collect();
        timed.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let slow = timed.iter().take(SLOWEST).filter(|(_, ns)| *ns > SLOW * usual);
        let lines =
            slow.map(|(rule, ns)| format!("{}: {ns:.0} ns, {:.1} times the usual", named(rule), ns / usual));
        section("Slowest", lines.collect(), style)
    }

    /// Rules that decide nothing, or little of what fits them.
    fn never(&self, style: Style) -> String {
        let rows = || self.rows().filter_map(|(id, tally)| Some((self.rule(id?)?, tally)));
        let never = rows().filter(|(_, tally)| tally.hits == 0);
        let never = never.map(|(rule, tally)| format!("{}: {}", named(rule), self.why_never(rule, tally)));
        let seldom = rows().filter(|(_, tally)| tally.hits > 0 && taken(tally) * 2 > tally.fitting);
        let seldom = seldom.map(|(rule, tally)| {
            format!(
                "{}: {} of the flows made for it go to {}",
                named(rule),
                percent(taken(tally), tally.fitting),
                self.takers(tally)
            )
        });
        let parts = [
            section("These never decide", never.collect(), style),
            section("These decide less than half of the flows made for them", seldom.collect(), style),
        ];
        sections(parts)
    }

    fn why_never(&self, rule: &Rule, tally: &Tally) -> String {
        let untold = untold(rule, self.config);
        match self.source {
            _ if tally.fitting > 0 => {
                format!("all flows that fit it ({}) go to {}", count(tally.fitting), self.takers(tally))
            }
            Source::Made { .. } => "no flow that fits it could be made: it asks for an expression, for what cannot be known in time, or for what contradicts itself".into(),
            Source::Captured { .. } if !untold.is_empty() => format!("captures do not tell what it asks for ({})", untold.join(", ")),
            Source::Captured { .. } => "no flow fits it".into(),
        }
    }

    /// Who decides the flows that fit a rule and do not get to it.
    fn takers(&self, tally: &Tally) -> String {
        let takers = by_flows(tally);
        let mut named_takers: Vec<String> = takers
            .iter()
            .take(2)
            .map(|(id, _)| id.and_then(|id| self.rule(id)).map_or_else(|| "no rule".into(), named))
            .collect();
        if takers.len() > 2 {
            named_takers.push(format!("{} more", count(takers.len() as u64 - 2)));
        }
        named_takers.join(" and ")
    }

    fn advised(&self, style: Style) -> String {
        section("What the order costs", self.advice(), style)
    }

    /// Only where it is sound: a look-up rules most rules out, and their order costs nothing.
    fn advice(&self) -> Vec<String> {
        let always = &self.measured.always_compared;
        if always.len() < MANY_RULES {
            return Vec::new();
        }
        let mut advice = vec![format!(
            "every flow is compared with {} whose `match` has no host, port, net, protocol or other key to look up, \
             as far as they stand before the one that decides; the others are looked up, and the order of those costs next to nothing",
            counted(always.len() as u64, "rule")
        )];
        if matches!(self.source, Source::Captured { .. }) {
            advice.extend(self.rows().filter_map(|(id, tally)| self.better_place(id?, tally)));
        }
        advice
    }

    fn better_place(&self, id: RuleId, tally: &Tally) -> Option<String> {
        let before = self.measured.always_compared.iter().filter(|&&other| other < id).count();
        let is_worth_it = self.share(tally) >= LARGE_SHARE && before >= MANY_RULES;
        is_worth_it.then_some(())?;
        Some(format!(
            "{} decides {} of the flows, each after {before} such rules; before them it costs less, but then it also wins \
             over them where both fit",
            named(self.rule(id)?),
            percent(tally.hits, self.measured.flows)
        ))
    }

    fn rows(&self) -> impl Iterator<Item = Row<'a>> {
        (0..=u16::MAX).map(|id| Some(RuleId(id))).zip(&self.measured.rules)
    }

    /// The most hit first; of equals the first.
    fn by_hits(&self) -> Vec<Row<'a>> {
        let mut rows: Vec<Row<'a>> = self.rows().collect();
        rows.sort_by_key(|(_, tally)| Reverse(tally.hits));
        rows
    }

    fn rule(&self, id: RuleId) -> Option<&'a Rule> {
        self.config.rules.get(usize::from(id.0))
    }

    /// Name and place.
    fn called(&self, id: Option<RuleId>) -> (&'a str, &'a str) {
        id.and_then(|id| self.rule(id)).map_or((NO_RULE, ""), |rule| (&rule.name, &rule.origin))
    }

    fn share(&self, tally: &Tally) -> f64 {
        tally.hits as f64 / self.measured.flows.max(1) as f64
    }
}

/// What is being done, and how much of it is done.
#[must_use]
pub fn progress(Step { what, part, whole }: Step) -> String {
    format!("{what} [{}] {}", bar(part, whole, 30), percent(part.min(whole), whole))
}

fn per_second(all: Spread) -> u64 {
    (1e9 / all.mean) as u64
}

fn taken(tally: &Tally) -> u64 {
    tally.taken.values().sum()
}

/// Who took flows, the most first.
fn by_flows(tally: &Tally) -> Vec<(Option<RuleId>, u64)> {
    let mut takers: Vec<_> = tally.taken.iter().map(|(id, flows)| (*id, *flows)).collect();
    takers.sort_by_key(|(_, flows)| Reverse(*flows));
    takers
}

/// The keys of a rule that a capture does not tell.
fn untold(rule: &Rule, config: &Config) -> Vec<&'static str> {
    let asks = &rule.matches;
    let keys = [
        ("payload", !asks.payload.is_empty()),
        ("http_method", !asks.http_method.is_empty()),
        ("user_agent", !asks.user_agent.is_empty()),
        ("src_mac", !asks.src_mac.is_empty()),
        ("lan", !asks.lan.is_empty() && config.lan.len() > 1),
    ];
    keys.into_iter().filter(|(_, asked)| *asked).map(|(key, _)| key).collect()
}

fn named(rule: &Rule) -> String {
    format!("\"{}\" ({})", printable(&rule.name), printable(&rule.origin))
}

/// A title and a paragraph each; nothing without any.
fn section(title: &str, lines: Vec<String>, style: Style) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let hidden = lines.len().saturating_sub(MOST_ROWS);
    let more = (hidden > 0).then(|| format!("and {} more (--json has all)", counted(hidden as u64, "rule")));
    let shown = lines.iter().take(MOST_ROWS).chain(&more);
    let text: String = shown.map(|line| indented(line, Paint::Plain, style)).collect();
    format!("{}\n{text}", style.paint(Paint::Title, title))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{self, Lists, SourceFile};
    use crate::engine::rule::arbitrary::rule;
    use crate::engine::rule::model::Matchers;

    const USUAL: Spread = Spread { mean: 100.0, p10: 90.0, p50: 100.0, p90: 110.0, p99: 120.0 };

    #[test]
    fn the_dearest_rule_is_named_where_it_is_dearer_than_the_usual() {
        let slow = Tally { time: Some(Spread { p50: 260.0, ..USUAL }), ..hit(10) };
        let text = made(vec![hit(10), slow]);
        assert!(
            text.contains("Slowest\n  \"rule 1\" (rules/10.toml:2): 260 ns, 2.6 times the usual\n"),
            "{text}"
        );
        assert!(!made(vec![hit(10), hit(10)]).contains("Slowest"));
    }

    #[test]
    fn a_rule_that_decides_little_of_its_own_is_named_with_the_two_that_take_most() {
        let taken = [(Some(RuleId(0)), 50), (Some(RuleId(1)), 20), (None, 5)].into();
        let text = made(vec![hit(10), hit(10), Tally { fitting: 100, taken, ..hit(25) }]);
        let told = "75.0% of the flows made for it go to \"rule 0\" (rules/10.toml:1) and \"rule 1\" (rules/10.toml:2) and 1 more";
        assert!(text.replace("\n  ", " ").contains(told), "{text}");
    }

    #[test]
    fn another_place_is_advised_only_to_a_large_share_of_captured_flows_behind_many_rules() {
        let tallies = || [2, 2, 2, 2, 1, 91].map(hit).into();
        let always = |count| (0..count).map(RuleId).collect::<Vec<_>>();
        let captured = || Source::Captured { files: vec!["a.pcap".into()], left_out: 3 };
        let advised = |source, always| view(source, tallies(), always).contains("decides 91.0% of the flows");
        assert!(advised(captured(), always(4)));
        assert!(!advised(captured(), always(3)));
        assert!(!advised(Source::Made { seed: 1 }, always(4)));
    }

    #[test]
    fn what_a_capture_does_not_tell_is_no_rule_s_fault() {
        let source = Source::Captured { files: vec!["a.pcap".into()], left_out: 0 };
        let asks = Matchers { src_mac: vec![crate::engine::flow::Mac([2; 6])], ..Matchers::default() };
        let text = view_of(source, vec![Tally::default()], Vec::new(), &asks);
        assert!(text.contains("captures do not tell what it asks for (src_mac)"), "{text}");
    }

    #[test]
    fn many_rules_are_cut_short_and_say_so() {
        let text = made((0..60).map(|place| if place < 30 { hit(10) } else { Tally::default() }).collect());
        assert_eq!(text.matches("and 10 rules more (--json has all)").count(), 2, "{text}");
    }

    fn hit(hits: u64) -> Tally {
        Tally { hits, time: Some(USUAL), ..Tally::default() }
    }

    fn made(tallies: Vec<Tally>) -> String {
        view(Source::Made { seed: 1 }, tallies, Vec::new())
    }

    fn view(source: Source, rules: Vec<Tally>, always_compared: Vec<RuleId>) -> String {
        view_of(source, rules, always_compared, &Matchers::default())
    }

    /// All rules ask for the same.
    fn view_of(source: Source, rules: Vec<Tally>, always_compared: Vec<RuleId>, asks: &Matchers) -> String {
        let text = include_str!("../../tests/data/two-lines.toml").into();
        let router = SourceFile { path: "wansplit.toml".into(), text };
        let config = config::load(&router, &[], &Lists::default()).unwrap();
        let named = (0..rules.len()).map(|place| Rule {
            name: format!("rule {place}"),
            origin: format!("rules/10.toml:{}", place + 1),
            ..rule(asks.clone(), Matchers::default())
        });
        let config = Config { rules: named.collect(), ..config };
        let measured = Measured {
            flows: rules.iter().map(|tally| tally.hits).sum(),
            compiled_in: Duration::from_millis(3),
            all: Some(USUAL),
            rules,
            no_rule: Tally::default(),
            always_compared,
        };
        let text = View { config: &config, source: &source, measured: &measured }.render(Style::PLAIN);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        text
    }
}
