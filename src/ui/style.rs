//! How text is shown: how wide, and whether in colour.

use std::ffi::OsStr;
use std::io::IsTerminal;

/// Width where nothing better is known, and the width all views are made for.
const USUAL_WIDTH: usize = 80;

/// Rows where nothing better is known.
const USUAL_HEIGHT: usize = 24;

/// How text is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Columns of the terminal, 60 to 400.
    pub width: usize,
    /// Rows of the terminal, 10 to 400.
    pub height: usize,
    /// Colour and bold by ANSI sequences (ECMA-48 SGR).
    pub colour: bool,
}

impl Style {
    /// 80 columns, 24 rows, no colour: for files, pipes and tests.
    pub const PLAIN: Style = Style { width: USUAL_WIDTH, height: USUAL_HEIGHT, colour: false };

    /// What suits standard output: colour on a terminal unless `NO_COLOR` is set
    /// (<https://no-color.org>) or `TERM` is "dumb"; the width from `COLUMNS`, else the
    /// terminal's, else 80; the height the terminal's, else 24.
    #[must_use]
    pub fn of_stdout() -> Self {
        Style::of(stdout_is_terminal())
    }

    /// What suits standard error, by the same rules.
    #[must_use]
    pub fn of_stderr() -> Self {
        Style::of(std::io::stderr().is_terminal())
    }

    fn of(terminal: bool) -> Self {
        let (no_color, term, columns) =
            (std::env::var_os("NO_COLOR"), std::env::var_os("TERM"), std::env::var_os("COLUMNS"));
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        let (rows, real_columns) = size.map_or((0, 0), |size| (size.ws_row.into(), size.ws_col.into()));
        let style = Style::choose(terminal, no_color.as_deref(), term.as_deref(), columns.as_deref());
        style.sized(rows, if columns.is_none() { real_columns } else { 0 })
    }

    /// With what the terminal says of its size; 0 is nothing.
    fn sized(self, rows: usize, columns: usize) -> Self {
        let width = if columns == 0 { self.width } else { columns.clamp(60, 400) };
        let height = if rows == 0 { self.height } else { rows.clamp(10, 400) };
        Style { width, height, ..self }
    }

    fn choose(
        terminal: bool,
        no_color: Option<&OsStr>,
        term: Option<&OsStr>,
        columns: Option<&OsStr>,
    ) -> Self {
        let refused = no_color.is_some_and(|value| !value.is_empty()) || term == Some(OsStr::new("dumb"));
        let columns = columns.and_then(OsStr::to_str).and_then(|columns| columns.parse().ok());
        let width = columns.unwrap_or(USUAL_WIDTH).clamp(60, 400);
        Style { width, height: USUAL_HEIGHT, colour: terminal && !refused }
    }

    /// `text` in a colour, where colours are on.
    pub(super) fn paint(self, paint: Paint, text: &str) -> String {
        match paint.code() {
            Some(code) if self.colour && !text.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

/// Whether standard output is a terminal, so that a live view may redraw itself.
#[must_use]
pub fn stdout_is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Whether standard error is a terminal, so that a bar may move there.
#[must_use]
pub fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// The bytes that empty the terminal.
pub const CLEAR: &str = "\x1b[H\x1b[2J";

/// The bytes that draw `frame` over the one before without flicker: home, each
/// line and the rest of its row, then clear what is below.
#[must_use]
pub fn redraw(frame: &str) -> String {
    let rows: String = frame.lines().map(|line| format!("{line}\x1b[K\r\n")).collect();
    format!("\x1b[H{rows}\x1b[J")
}

/// What a piece of text means, for its colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Paint {
    #[default]
    Plain,
    Title,
    Good,
    Bad,
    Warn,
    Faint,
}

impl Paint {
    fn code(self) -> Option<&'static str> {
        match self {
            Paint::Plain => None,
            Paint::Title => Some("1"),
            Paint::Good => Some("32"),
            Paint::Bad => Some("1;31"),
            Paint::Warn => Some("33"),
            Paint::Faint => Some("2"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_needs_a_terminal_and_nobody_who_refuses_it() {
        let colour = |terminal, no_color: Option<&str>, term: &str| {
            Style::choose(terminal, no_color.map(OsStr::new), Some(OsStr::new(term)), None).colour
        };
        assert!(colour(true, None, "xterm"));
        assert!(colour(true, Some(""), "xterm"), "an empty NO_COLOR asks for nothing");
        assert!(!colour(false, None, "xterm"));
        assert!(!colour(true, Some("1"), "xterm"));
        assert!(!colour(true, None, "dumb"));
    }

    #[test]
    fn the_width_is_eighty_unless_columns_says_something_sensible() {
        let width = |columns: &str| Style::choose(true, None, None, Some(OsStr::new(columns))).width;
        assert_eq!(width("132"), 132);
        assert_eq!(width("wide"), 80);
        assert_eq!((width("0"), width("9999999")), (60, 400));
    }

    #[test]
    fn a_terminal_that_knows_its_size_is_believed_within_reason() {
        assert_eq!(Style::PLAIN.sized(40, 120), Style { width: 120, height: 40, ..Style::PLAIN });
        assert_eq!(Style::PLAIN.sized(0, 0), Style::PLAIN);
        assert_eq!(Style::PLAIN.sized(1, 9999), Style { width: 400, height: 10, ..Style::PLAIN });
    }

    #[test]
    fn paint_leaves_no_trace_without_colour() {
        assert_eq!(Style::PLAIN.paint(Paint::Bad, "down"), "down");
        let colour = Style { colour: true, ..Style::PLAIN };
        assert_eq!(colour.paint(Paint::Bad, "down"), "\x1b[1;31mdown\x1b[0m");
    }

    #[test]
    fn a_redraw_clears_what_the_frame_before_left() {
        assert_eq!(redraw("a\nb\n"), "\x1b[Ha\x1b[K\r\nb\x1b[K\r\n\x1b[J");
    }
}
