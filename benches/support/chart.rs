//! What several runs came to, and plots of it.

use std::fmt::Write;

/// Median, least and most over several runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spread {
    /// In the middle.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of one number of each run.
    pub fn of(numbers: impl Iterator<Item = f64>) -> Self {
        let mut numbers: Vec<f64> = numbers.collect();
        numbers.sort_by(f64::total_cmp);
        let at = |place: usize| numbers.get(place).copied().unwrap_or(0.0);
        Spread { median: at(numbers.len() / 2), least: at(0), most: at(numbers.len().saturating_sub(1)) }
    }
}

/// A row of a plot.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Before the bar.
    pub name: String,
    /// Of the bar, as SVG has it.
    pub colour: &'static str,
    /// How long it is, and the line from the least to the most in it.
    pub spread: Spread,
    /// Behind the median.
    pub unit: &'static str,
}

/// Colour of what is ours.
pub const OURS: &str = "#2f6f9f";
/// Colour of what is others'.
pub const OTHERS: &str = "#c98b3c";
/// Colour of what all are compared with.
pub const MEASURE: &str = "#888888";

const WIDTH: f64 = 760.0;
const LABELS: f64 = 270.0;
const ROW: f64 = 26.0;
const TOP: f64 = 44.0;

/// Bars with the least and the most; those beyond `most` are cut.
pub fn svg(title: &str, bars: &[Bar], most: f64) -> String {
    let scale = (WIDTH - LABELS - 110.0) / most;
    let height = TOP + ROW * bars.len() as f64 + 8.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"22\" font-weight=\"bold\">{title}</text>\n"
    );
    for (row, bar) in bars.iter().enumerate() {
        text += &drawn(TOP + ROW * row as f64, bar, scale, most);
    }
    text + "</svg>\n"
}

fn drawn(top: f64, bar: &Bar, scale: f64, most: f64) -> String {
    let Bar { name, colour, spread, unit } = bar;
    let end = |number: f64| LABELS + number.min(most) * scale;
    let (middle, baseline) = (top + 9.0, top + 14.0);
    let (width, label) = (end(spread.median) - LABELS, end(spread.most.min(most)) + 8.0);
    let mut text =
        format!("<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\">{name}</text>\n", LABELS - 8.0);
    let _ = writeln!(
        text,
        "<rect x=\"{LABELS}\" y=\"{top}\" width=\"{width:.1}\" height=\"18\" fill=\"{colour}\"/>"
    );
    let _ = writeln!(
        text,
        "<path d=\"M{:.1} {middle}H{:.1}\" stroke=\"#000000\"/>",
        end(spread.least),
        end(spread.most)
    );
    let _ = writeln!(text, "<text x=\"{label:.1}\" y=\"{baseline}\">{:.2} {unit}</text>", spread.median);
    text
}
