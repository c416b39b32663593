//! The numbers for people: a table, and a plot.

use crate::chart::{self, Bar, Spread};
use crate::outcome::Outcome;
use crate::scenario::{Kind, Scenario};

/// The table in Markdown: medians, and in brackets the least and the most. The last column but two is the mean
/// time beside that of round-robin with the true weights in the same run.
pub fn table(scenario: &Scenario, outcomes: &[(Kind, Vec<Outcome>)]) -> String {
    let runs = outcomes.first().map_or(0, |(_, outcomes)| outcomes.len());
    let told = outcomes.iter().find(|(kind, _)| *kind == Kind::TurnsTold).map(|(_, outcomes)| &outcomes[..]);
    let mut text = format!("{}: {} ({runs} runs)\n\n", scenario.name, scenario.about);
    text += "| who decides | mean time, s | beside told turns | 95 % within, s | used | fairness | moved |\n";
    text += "|---|---|---|---|---|---|---|\n";
    text.extend(outcomes.iter().map(|(kind, outcomes)| row(*kind, outcomes, told.unwrap_or_default())));
    text
}

fn row(kind: Kind, outcomes: &[Outcome], told: &[Outcome]) -> String {
    let spread = |number: fn(&Outcome) -> f64| Spread::of(outcomes.iter().map(number));
    let seconds =
        |spread: Spread| format!("{:.3} ({:.3} to {:.3})", spread.median, spread.least, spread.most);
    let beside: Vec<Outcome> = outcomes
        .iter()
        .zip(told)
        .map(|(outcome, told)| Outcome { mean: 100.0 * (outcome.mean / told.mean - 1.0), ..*outcome })
        .collect();
    let beside = Spread::of(beside.iter().map(|outcome| outcome.mean));
    format!(
        "| {} | {} | {:+.0} % ({:+.0} to {:+.0}) | {} | {:.1} % | {:.2} | {:.0} |\n",
        kind.name(),
        seconds(spread(|outcome| outcome.mean)),
        beside.median,
        beside.least,
        beside.most,
        seconds(spread(|outcome| outcome.slowest)),
        100.0 * spread(|outcome| outcome.used).median,
        spread(|outcome| outcome.fairness).median,
        spread(|outcome| outcome.moved).median,
    )
}

/// Bars of the mean times; those beyond four times the ideal are cut.
pub fn svg(scenario: &Scenario, outcomes: &[(Kind, Vec<Outcome>)]) -> String {
    let bar = |(kind, outcomes): &(Kind, Vec<Outcome>)| Bar {
        name: kind.name().to_owned(),
        colour: match kind {
            Kind::Ideal => chart::MEASURE,
            kind if kind.is_ours() => chart::OURS,
            _ => chart::OTHERS,
        },
        spread: Spread::of(outcomes.iter().map(|outcome| outcome.mean)),
        unit: "s",
    };
    let bars: Vec<Bar> = outcomes.iter().map(bar).collect();
    let best = bars.iter().map(|bar| bar.spread.median).fold(f64::INFINITY, f64::min);
    chart::svg(&format!("Mean time of a flow: {}", scenario.about), &bars, 4.0 * best)
}
