//! Numbers, times and names as people read them.

/// A count with thousands set apart: "12,345".
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count of things: "1 flow", "12,345 flows".
pub fn counted(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Bytes in decimal units: "999 B", "12.3 MB".
pub(super) fn bytes(number: u64) -> String {
    scaled(number, ["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// Bits per second: "0 bit/s", "1.2 Gbit/s".
pub(super) fn rate(bits: u64) -> String {
    scaled(bits, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s", "Pbit/s", "Ebit/s"])
}

/// One decimal below 100, none above, so that at most three digits are shown.
fn scaled(number: u64, units: [&str; 7]) -> String {
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 999.5 && unit < units.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = usize::from(unit > 0 && value < 99.95);
    format!("{value:.decimals$} {}", units[unit])
}

/// A part of a whole: "75.0%"; "-" of nothing.
pub(super) fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{:.1}%", part as f64 * 100.0 / whole as f64),
    }
}

/// The two largest units of a span of time: "42 s", "3 h 12 min".
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days} d {} h", hours % 24),
        () if hours > 0 => format!("{hours} h {} min", minutes % 60),
        () if minutes > 0 => format!("{minutes} min {} s", seconds % 60),
        () => format!("{seconds} s"),
    }
}

/// The largest unit of a span of time: "3 h".
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A bar of `width` characters, `part` of `whole` filled.
pub(super) fn bar(part: u64, whole: u64, width: usize) -> String {
    let share = if whole == 0 { 0.0 } else { part.min(whole) as f64 / whole as f64 };
    let filled = (share * width as f64).round() as usize;
    "#".repeat(filled) + &".".repeat(width - filled)
}

/// At most `width` characters: the middle gives way, because names of one family
/// ("fibre-north-1", "fibre-north-2") differ at the end.
pub(super) fn shorten(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(2);
    let tail = kept / 2;
    let head: String = text.chars().take(kept - tail).collect();
    let end: String = text.chars().skip(length - tail).collect();
    format!("{head}{}{end}", &".."[..width.min(2)])
}

/// `text` without characters that could steer a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_their_thousands_set_apart() {
        let counts = [0, 7, 999, 1000, 12_345, 1_234_567].map(count);
        assert_eq!(counts, ["0", "7", "999", "1,000", "12,345", "1,234,567"]);
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn one_thing_is_not_plural() {
        assert_eq!([0, 1, 2000].map(|number| counted(number, "flow")), ["0 flows", "1 flow", "2,000 flows"]);
    }

    #[test]
    fn bytes_show_at_most_three_digits_and_never_four() {
        let sizes = [0, 999, 1000, 12_345_678, 99_949, 99_950, 999_499, 999_500, u64::MAX].map(bytes);
        let expected =
            ["0 B", "999 B", "1.0 kB", "12.3 MB", "99.9 kB", "100 kB", "999 kB", "1.0 MB", "18.4 EB"];
        assert_eq!(sizes, expected);
    }

    #[test]
    fn rates_are_bits_per_second() {
        assert_eq!([0, 1_200_000_000].map(rate), ["0 bit/s", "1.2 Gbit/s"]);
    }

    #[test]
    fn a_part_of_nothing_is_a_dash() {
        assert_eq!([percent(3, 4), percent(0, 0), percent(0, 5)], ["75.0%", "-", "0.0%"]);
    }

    #[test]
    fn durations_show_two_units_and_ages_one() {
        let seconds = [0, 59, 60, 3599, 3600, 86_399, 86_400, 200_000];
        let expected =
            ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "23 h 59 min", "1 d 0 h", "2 d 7 h"];
        assert_eq!(seconds.map(duration), expected);
        assert_eq!(seconds.map(age), ["0 s", "59 s", "1 min", "59 min", "1 h", "23 h", "1 d", "2 d"]);
    }

    #[test]
    fn a_bar_is_always_as_wide_as_asked() {
        assert_eq!(bar(3, 4, 8), "######..");
        assert_eq!([bar(0, 0, 4), bar(9, 4, 4), bar(u64::MAX, u64::MAX, 4)], ["....", "####", "####"]);
    }

    #[test]
    fn a_shortened_name_keeps_its_head_and_its_end() {
        assert_eq!(shorten("fibre-north-12", 10), "fibr..h-12");
        assert_eq!(shorten("isp1", 4), "isp1");
        assert_eq!(shorten("größte-leitung", 8), "grö..ung");
        assert_eq!([shorten("isp1", 2), shorten("isp1", 1), shorten("isp1", 0)], ["..", ".", ""]);
    }

    #[test]
    fn nothing_printable_can_steer_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{9b}d"), "a?[2Jb?c?d");
    }
}
