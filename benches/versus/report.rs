//! The numbers for people, for programs, and as a plot.

use std::collections::BTreeSet;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;

use crate::candidate::Candidate;
use crate::chart::{self, Bar, Spread};
use crate::measure::{Measure, Number};

/// One number of one candidate in one round.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// Which round.
    pub round: u32,
    /// What was asked.
    pub measure: Measure,
    /// Of whom.
    pub candidate: Candidate,
    /// The answer.
    pub number: Number,
}

/// A line of the table: a measure, and one of its numbers.
type Row = (Measure, &'static str);

/// Whose ratios the table shows.
const OURS: [Candidate; 2] = [Candidate::Wansplit, Candidate::Offload];
/// What all are compared with, and the rival among programs.
const BESIDE: [Candidate; 2] = [Candidate::Article, Candidate::Null];

impl Taken {
    /// While it runs.
    pub fn line(&self) -> String {
        let Number { name, unit, value } = self.number;
        format!("round {}: {}: {name}: {} {unit}", self.round + 1, self.candidate.describe(), short(value))
    }

    fn row(&self) -> Row {
        (self.measure, self.number.name)
    }
}

/// The table in Markdown: medians, and in brackets the least and the most. The last columns are this program's
/// ratios to others in the same round.
pub fn table(taken: &[Taken], candidates: &[Candidate]) -> String {
    let mut text = String::from("| |");
    text.extend(candidates.iter().map(|candidate| format!(" {} |", candidate.describe())));
    let pairs = || OURS.iter().flat_map(|&ours| BESIDE.map(|beside| (ours, beside)));
    text.extend(pairs().map(|(ours, beside)| format!(" {} ÷ {} |", ours.describe(), beside.describe())));
    text += "\n|---|";
    text += &"---|".repeat(candidates.len() + pairs().count());
    for row in rows(taken) {
        let (measure, name) = row;
        let unit = of_row(taken, row).next().map_or("", |taken| taken.number.unit);
        text += &format!("\n| {}: {name}, {unit} |", measure.describe());
        let cell = |spread: Option<Spread>| spread.map_or_else(String::new, show);
        text.extend(candidates.iter().map(|&of| format!(" {} |", cell(spread(taken, row, of)))));
        text.extend(pairs().map(|(ours, beside)| format!(" {} |", cell(ratio(taken, row, ours, beside)))));
    }
    text
}

/// Every number, with its ratios.
pub fn json(taken: &[Taken]) -> Result<String> {
    let of = |spread: Option<Spread>| {
        spread.map(|Spread { median, least, most }| json!({"median": median, "least": least, "most": most}))
    };
    let mut all = Vec::new();
    for row in rows(taken) {
        let candidates: BTreeSet<Candidate> = of_row(taken, row).map(|taken| taken.candidate).collect();
        for candidate in candidates {
            let values = of_row(taken, row).filter(|taken| taken.candidate == candidate);
            all.push(json!({
                "measure": row.0.describe(),
                "name": row.1,
                "unit": of_row(taken, row).next().map(|taken| taken.number.unit),
                "candidate": candidate.describe(),
                "spread": of(spread(taken, row, candidate)),
                "beside_article": of(ratio(taken, row, candidate, Candidate::Article)),
                "beside_c": of(ratio(taken, row, candidate, Candidate::Null)),
                "values": values.map(|taken| taken.number.value).collect::<Vec<_>>(),
            }));
        }
    }
    Ok(serde_json::to_string_pretty(&all)?)
}

/// In the order in which they were taken first.
fn rows(taken: &[Taken]) -> Vec<Row> {
    let mut rows = Vec::new();
    for row in taken.iter().map(Taken::row) {
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    rows.sort_by_key(|(measure, _)| *measure);
    rows
}

fn of_row(taken: &[Taken], row: Row) -> impl Iterator<Item = &Taken> {
    taken.iter().filter(move |taken| taken.row() == row)
}

fn spread(taken: &[Taken], row: Row, of: Candidate) -> Option<Spread> {
    let values: Vec<f64> =
        of_row(taken, row).filter(|taken| taken.candidate == of).map(|taken| taken.number.value).collect();
    (!values.is_empty()).then(|| Spread::of(values.into_iter()))
}

/// Round by round.
fn ratio(taken: &[Taken], row: Row, of: Candidate, to: Candidate) -> Option<Spread> {
    let own = of_row(taken, row).filter(|taken| taken.candidate == of);
    let ratios: Vec<f64> = own
        .filter_map(|own| {
            let other = of_row(taken, row).find(|other| other.candidate == to && other.round == own.round)?;
            Some(own.number.value / other.number.value).filter(|ratio| ratio.is_finite())
        })
        .collect();
    (!ratios.is_empty()).then(|| Spread::of(ratios.into_iter()))
}

fn show(spread: Spread) -> String {
    format!("{} ({} to {})", short(spread.median), short(spread.least), short(spread.most))
}

fn short(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// The rows that the plot shows: a name for people, a measure and its number.
const SHOWN: [(&str, Row); 5] = [
    ("new flows a second", (Measure::Limit, "held")),
    ("processor time of one", (Measure::Cost, "router")),
    ("first packet's delay", (Measure::Delay, "light, p50")),
    ("64 connections", (Measure::Throughput, "64 connections")),
    ("passed at 3 × limit", (Measure::Overload, "3 ×: passed")),
];
/// Longer bars are cut.
const LONGEST: f64 = 4.0;

/// Everybody's ratios to the article's rules.
pub fn svg(taken: &[Taken]) -> String {
    let bars = SHOWN.iter().flat_map(|&(name, row)| {
        Candidate::value_variants().iter().filter_map(move |&candidate| {
            Some(Bar {
                name: format!("{name}: {}", candidate.describe()),
                colour: match candidate {
                    Candidate::Article => chart::MEASURE,
                    ours if OURS.contains(&ours) => chart::OURS,
                    _ => chart::OTHERS,
                },
                spread: ratio(taken, row, candidate, Candidate::Article)?,
                unit: "×",
            })
        })
    });
    let bars: Vec<Bar> = bars.collect();
    chart::svg("Beside the article's rules, which never leave the kernel", &bars, LONGEST)
}
