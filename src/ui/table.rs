//! Plain text tables that fit a terminal. Numbers stand right, names left, and
//! names give way where the width does not suffice. A `char` counts as one column.

use super::human::{printable, shorten};
use super::style::{Paint, Style};

/// Columns that give way keep at least this many characters.
const LEAST_WIDTH: usize = 8;

/// Spaces between columns.
const GAP: usize = 2;

/// A space at which [`indented`] does not break a line.
pub(super) const UNBROKEN: &str = "\u{a0}";

/// A table under construction.
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Row>,
}

/// A line of the table.
enum Row {
    Cells(Vec<Cell>),
    /// Text across all columns.
    Note(String, Paint),
}

/// How a column is laid out.
pub(super) struct Column {
    title: &'static str,
    right: bool,
    gives_way: bool,
}

/// Text that stands left and is shortened where the width does not suffice.
pub(super) fn name(title: &'static str) -> Column {
    Column { title, right: false, gives_way: true }
}

/// Text that stands left.
pub(super) fn word(title: &'static str) -> Column {
    Column { title, right: false, gives_way: false }
}

/// Text that stands right.
pub(super) fn number(title: &'static str) -> Column {
    Column { title, right: true, gives_way: false }
}

/// One cell.
pub(super) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    /// Text in a colour.
    pub(super) fn painted(text: &str, paint: Paint) -> Self {
        Cell { text: printable(text), paint }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::painted(text, Paint::Plain)
    }
}

impl From<&String> for Cell {
    fn from(text: &String) -> Self {
        Cell::painted(text, Paint::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell::painted(&text, Paint::Plain)
    }
}

impl Table {
    /// A table without rows.
    pub(super) fn new(columns: Vec<Column>) -> Self {
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row; as many cells as there are columns.
    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(Row::Cells(cells));
    }

    /// Adds a line of text below the last row.
    pub(super) fn note(&mut self, text: &str, paint: Paint) {
        self.rows.push(Row::Note(printable(text), paint));
    }

    /// The titles and rows as lines; nothing without rows.
    pub(super) fn render(&self, style: Style) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let widths = self.widths(style.width);
        let titles: Vec<Cell> =
            self.columns.iter().map(|column| Cell::painted(column.title, Paint::Title)).collect();
        let mut text = self.line(&titles, &widths, style);
        for row in &self.rows {
            match row {
                Row::Cells(cells) => text += &self.line(cells, &widths, style),
                Row::Note(note, paint) => text += &indented(note, *paint, style),
            }
        }
        text
    }

    fn line(&self, cells: &[Cell], widths: &[usize], style: Style) -> String {
        let mut line = String::new();
        for ((cell, column), &width) in cells.iter().zip(&self.columns).zip(widths) {
            let text = if column.gives_way { shorten(&cell.text, width) } else { cell.text.clone() };
            let space = " ".repeat(width.saturating_sub(text.chars().count()));
            let text = style.paint(cell.paint, &text);
            line += &if column.right { space + &text } else { text + &space };
            line += &" ".repeat(GAP);
        }
        line.truncate(line.trim_end().len());
        line + "\n"
    }

    /// What the columns' longest texts need; the widest that give way do so, one
    /// character at a time, until the line fits.
    fn widths(&self, line: usize) -> Vec<usize> {
        let mut widths: Vec<usize> = (0..self.columns.len()).map(|column| self.longest(column)).collect();
        let gaps = GAP * self.columns.len().saturating_sub(1);
        let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(line);
        while excess > 0 {
            let candidates = (0..widths.len()).filter(|&column| self.columns[column].gives_way);
            let Some(widest) = candidates.max_by_key(|&column| widths[column]) else { break };
            if widths[widest] <= LEAST_WIDTH {
                break;
            }
            widths[widest] -= 1;
            excess -= 1;
        }
        widths
    }

    fn longest(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| match row {
            Row::Cells(cells) => Some(cells[column].text.chars().count()),
            Row::Note(..) => None,
        });
        cells.chain([self.columns[column].title.chars().count()]).max().unwrap_or(0)
    }
}

/// `text` broken at spaces into lines that fit, each two columns in; longer words are shortened.
pub(super) fn indented(text: &str, paint: Paint, style: Style) -> String {
    let width = style.width.saturating_sub(2);
    let mut lines: Vec<String> = Vec::new();
    let mut last = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let word = shorten(&word.replace(UNBROKEN, " "), width);
        let length = word.chars().count();
        match lines.last_mut() {
            Some(line) if last + 1 + length <= width => {
                *line += &format!(" {word}");
                last += 1 + length;
            }
            _ => {
                lines.push(word);
                last = length;
            }
        }
    }
    lines.iter().map(|line| format!("  {}\n", style.paint(paint, line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_names_left() {
        let mut table = Table::new(vec![name("NAME"), number("flows")]);
        table.row(vec!["isp1".into(), "1,234".into()]);
        table.row(vec!["satellite".into(), "7".into()]);
        assert_eq!(table.render(Style::PLAIN), "NAME       flows\nisp1       1,234\nsatellite      7\n");
    }

    #[test]
    fn names_give_way_to_numbers_until_the_line_fits() {
        let mut table = Table::new(vec![name("NAME"), name("DEVICE"), number("n")]);
        table.row(vec!["n".repeat(100).into(), "d".repeat(30).into(), "1".repeat(20).into()]);
        let text = table.render(Style::PLAIN);
        assert!(text.lines().all(|line| line.chars().count() == 80), "{text}");
        assert!(text.contains(&"1".repeat(20)));
    }

    #[test]
    fn a_name_keeps_its_least_width_even_when_the_line_cannot_fit() {
        let mut table = Table::new(vec![name("NAME"), number("n")]);
        table.row(vec!["n".repeat(100).into(), "1".repeat(100).into()]);
        assert!(table.render(Style::PLAIN).contains("nnn..nnn"));
    }

    #[test]
    fn colour_changes_no_alignment() {
        let mut table = Table::new(vec![word("STATE"), number("n")]);
        table.row(vec![Cell::painted("up", Paint::Good), "1".into()]);
        let plain = table.render(Style::PLAIN);
        let mut painted = table.render(Style { colour: true, ..Style::PLAIN });
        for code in ["\x1b[1m", "\x1b[32m", "\x1b[0m"] {
            painted = painted.replace(code, "");
        }
        assert_eq!(painted, plain);
    }

    #[test]
    fn a_table_without_rows_is_nothing_at_all() {
        assert_eq!(Table::new(vec![name("NAME")]).render(Style::PLAIN), "");
    }

    #[test]
    fn cells_and_notes_cannot_steer_the_terminal() {
        let mut table = Table::new(vec![name("NAME")]);
        table.row(vec!["\x1b[2Jevil".into()]);
        table.note("a\nb", Paint::Plain);
        assert!(!table.render(Style::PLAIN).contains('\x1b'));
    }

    #[test]
    fn long_notes_are_broken_at_spaces() {
        let text = indented(&"word ".repeat(40), Paint::Plain, Style::PLAIN);
        assert!(text.lines().count() > 1 && text.lines().all(|line| line.len() <= 80), "{text}");
        assert_eq!(text.split_whitespace().count(), 40);
    }

    #[test]
    fn unbroken_spaces_hold_words_together_and_become_spaces() {
        let text = indented(&format!("{} a{UNBROKEN}b", "x".repeat(76)), Paint::Plain, Style::PLAIN);
        assert!(text.ends_with("\n  a b\n"), "{text}");
    }

    #[test]
    fn a_word_longer_than_the_line_is_shortened() {
        let text = indented(&"/path".repeat(40), Paint::Plain, Style::PLAIN);
        assert_eq!(text.trim_end().len(), 80, "{text}");
    }
}
