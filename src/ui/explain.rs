//! `wansplit explain`: the way of a flow through the rules.

use super::human::{self, printable};
use super::style::{Paint, Style};
use crate::control::message::{Explanation, Tried, Weighed, Without};

/// The explanation for people: lines to keep off, the rules that were tried, what becomes of the flow, now, later,
/// and if a line were down.
#[must_use]
pub fn render(explanation: &Explanation, style: Style) -> String {
    let title = style.paint(Paint::Title, &printable(&explanation.flow));
    let mut text = format!("{title}{}\n\n", destination(explanation));
    text.extend(explanation.avoided.iter().map(|line| format!("avoided now: {}\n", printable(line))));
    text.extend(explanation.rules.iter().map(|tried| rule(tried, style)));
    text += &format!("{}\n", style.paint(Paint::Good, &printable(&explanation.reason)));
    text += &by_kernel(&explanation.by_kernel);
    if explanation.hold_ms > 0 {
        text += &format!("  held up to {} ms while its client says its name\n", explanation.hold_ms);
    }
    text += live(&explanation.live);
    text.extend(explanation.weighed.iter().map(weighed));
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
    format!("{} {name}: {}\n{}", style.paint(paint, sign), printable(why), late(&tried.on_mismatch))
}

fn late(on_mismatch: &str) -> &'static str {
    match on_mismatch {
        "keep" => "    says its client such a name later, it stays; its next connections go by this rule\n",
        "reset" => "    says its client such a name later, it is reset where that is another line\n",
        _ => "",
    }
}

fn by_kernel(lines: &[String]) -> String {
    match lines {
        [] => String::new(),
        [_] => "  the kernel decides this by itself, without asking\n".into(),
        lines => {
            let lines: Vec<String> = lines.iter().map(|line| printable(line)).collect();
            format!(
                "  the kernel decides this by itself: the flow's hash picks one of {}\n",
                lines.join(", ")
            )
        }
    }
}

fn live(live: &str) -> &'static str {
    match live {
        "keep" => "  if its line dies while it runs, it waits for it\n",
        "reset-on-down" => "  if its line dies while it runs, it is ended, and goes on by another\n",
        "move-back" => {
            "  if its line dies while it runs, or a better one comes back, it is ended, and goes on there\n"
        }
        _ => "",
    }
}

/// What the policy saw of a line.
fn weighed(line: &Weighed) -> String {
    let rate = |bytes: u64| human::rate(bytes.saturating_mul(8));
    let millis = |micros: u64| format!("{:.1} ms", micros as f64 / 1000.0);
    let capacity = |bytes: u64| format!("of {} ({})", rate(bytes), printable(&line.capacity_is));
    let seen = [
        line.rate.map(|bytes| format!("carries {}", rate(bytes))),
        line.capacity.map(capacity),
        (line.full == Some(true)).then(|| "is full".to_owned()),
        line.flows_tenths.map(|tenths| format!("{:.1} flows", tenths as f64 / 10.0)),
        line.offer.map(|bytes| format!("a new one would get {}", rate(bytes))),
        line.latency_us.map(|micros| format!("answers in {}", millis(micros))),
        line.jitter_us.map(|micros| format!("jitter {}", millis(micros))),
        line.loss_permille.map(|thousandths| format!("loss {:.1} %", thousandths as f64 / 10.0)),
        line.rating.map(|rating| format!("rated {rating} of 93")),
    ];
    let seen: Vec<String> = seen.into_iter().flatten().collect();
    let seen = if seen.is_empty() { "nothing is known of it".to_owned() } else { seen.join(", ") };
    format!("  {}: {seen}\n", printable(&line.uplink))
}

fn without(other: &Without) -> String {
    format!("  without {}: {}\n", printable(&other.down), printable(&other.reason))
}
