//! `wansplit explain`: the way of a flow through the rules.

use super::human::printable;
use super::style::{Paint, Style};
use crate::control::message::{Explanation, Tried, Without};

/// The explanation for people: the rules that were tried, what becomes of the flow, and what
/// would if a line were down.
#[must_use]
pub fn render(explanation: &Explanation, style: Style) -> String {
    let title = style.paint(Paint::Title, &printable(&explanation.flow));
    let mut text = format!("{title}{}\n\n", destination(explanation));
    text.extend(explanation.rules.iter().map(|tried| rule(tried, style)));
    text += &format!("{}\n", style.paint(Paint::Good, &printable(&explanation.reason)));
    if explanation.hold_ms > 0 {
        text += &format!("  held up to {} ms while its client says its name\n", explanation.hold_ms);
    }
    text.extend(explanation.without.iter().map(without));
    text
}

/// What is known of where the flow goes.
fn destination(explanation: &Explanation) -> String {
    let name = explanation.name.as_ref().map(|name| format!(", to {}", printable(name)));
    let country = explanation.country.as_ref().map(|country| format!(", in {}", printable(country)));
    let asn = explanation.asn.map(|asn| format!(", AS{asn}"));
    [name, country, asn].into_iter().flatten().collect()
}

fn rule(tried: &Tried, style: Style) -> String {
    let (sign, paint) = if tried.matches { ("+", Paint::Good) } else { ("-", Paint::Plain) };
    let why = match tried.why.as_str() {
        "" => "matches",
        why => why,
    };
    let name = format!("\"{}\" ({})", printable(&tried.name), printable(&tried.origin));
    format!("{} {name}: {}\n", style.paint(paint, sign), printable(why))
}

fn without(other: &Without) -> String {
    format!("  without {}: {}\n", printable(&other.down), printable(&other.reason))
}
