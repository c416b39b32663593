//! The numbers for people: a table, and a plot.

use std::fmt::Write;

use crate::outcome::{Outcome, Spread};
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
    let spread = |number: fn(&Outcome) -> f64| Spread::of(outcomes, number);
    let seconds =
        |spread: Spread| format!("{:.3} ({:.3} to {:.3})", spread.median, spread.least, spread.most);
    let beside: Vec<Outcome> = outcomes
        .iter()
        .zip(told)
        .map(|(outcome, told)| Outcome { mean: 100.0 * (outcome.mean / told.mean - 1.0), ..*outcome })
        .collect();
    let beside = Spread::of(&beside, |outcome| outcome.mean);
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

const WIDTH: f64 = 760.0;
const LABELS: f64 = 270.0;
const ROW: f64 = 26.0;
const TOP: f64 = 44.0;

/// Bars of the mean times, with the least and the most; those beyond four times the ideal are cut.
pub fn svg(scenario: &Scenario, outcomes: &[(Kind, Vec<Outcome>)]) -> String {
    let means: Vec<(Kind, Spread)> = outcomes
        .iter()
        .map(|(kind, outcomes)| (*kind, Spread::of(outcomes, |outcome| outcome.mean)))
        .collect();
    let best = means.iter().map(|(_, mean)| mean.median).fold(f64::INFINITY, f64::min);
    let scale = (WIDTH - LABELS - 110.0) / (4.0 * best);
    let height = TOP + ROW * means.len() as f64 + 8.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"22\" font-weight=\"bold\">Mean time of a flow: {}</text>\n",
        scenario.about
    );
    for (row, (kind, mean)) in means.iter().enumerate() {
        text += &bar(TOP + ROW * row as f64, *kind, *mean, scale, 4.0 * best);
    }
    text + "</svg>\n"
}

fn bar(top: f64, kind: Kind, mean: Spread, scale: f64, most: f64) -> String {
    let colour = match kind {
        Kind::Ideal => "#888888",
        kind if kind.is_ours() => "#2f6f9f",
        _ => "#c98b3c",
    };
    let end = |number: f64| LABELS + number.min(most) * scale;
    let (middle, baseline) = (top + 9.0, top + 14.0);
    let (width, label) = (end(mean.median) - LABELS, end(mean.most.min(most)) + 8.0);
    let mut text =
        format!("<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\">{}</text>\n", LABELS - 8.0, kind.name());
    let _ = writeln!(
        text,
        "<rect x=\"{LABELS}\" y=\"{top}\" width=\"{width:.1}\" height=\"18\" fill=\"{colour}\"/>"
    );
    let _ = writeln!(
        text,
        "<path d=\"M{:.1} {middle}H{:.1}\" stroke=\"#000000\"/>",
        end(mean.least),
        end(mean.most)
    );
    let _ = writeln!(text, "<text x=\"{label:.1}\" y=\"{baseline}\">{:.2} s</text>", mean.median);
    text
}
