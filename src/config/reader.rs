//! TOML's tree → typed values, with every fault collected.
//!
//! A [`Section`] is a table that remembers which keys were asked for, so that
//! the code that reads a key is the only place that knows it: what nobody
//! asked for is unknown, and [`Section::finish`] says so. A reader of values
//! (see `values.rs`) is a function from a value to `Read<T>`; it does not know
//! key or place, the section adds both.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::SourceFile;
use super::problem::{Problem, Problems, Severity, Source};

/// A value and its place.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// What a reader of values answers.
pub(super) type Read<T> = Result<T, Fault>;

/// Why a value was refused.
pub(super) enum Fault {
    /// The key cannot have this value.
    Refused {
        /// What was expected, or what helps.
        hint: String,
    },
    /// Something that needs words of its own.
    Because {
        /// What is wrong.
        message: String,
        /// What was expected, or what helps.
        hint: String,
    },
    /// It follows from a fault that is reported at another place.
    Elsewhere,
}

impl Fault {
    /// The value is not what the words describe: "a number from 1 to 255".
    pub(super) fn not_a(what: impl std::fmt::Display) -> Self {
        Fault::Refused { hint: format!("expected {what}") }
    }
}

/// Reads one file. `None` when it is not TOML; that is its one problem then.
pub(super) fn read_file<T>(
    order: usize,
    file: &SourceFile,
    problems: &mut Problems,
    read: impl FnOnce(Section) -> T,
) -> Option<T> {
    let report = Report { source: Source::new(order, file), problems: RefCell::default() };
    let tree = DeTable::parse(&file.text).map_err(|error| report.syntax(&error)).ok();
    let answer =
        tree.map(|tree| read(Section::new(String::new(), Body::Table(tree.get_ref()), 0..0, &report)));
    problems.extend(report.problems.into_inner());
    answer
}

/// The problems of one file, as they are found.
pub(super) struct Report {
    source: Arc<Source>,
    problems: RefCell<Vec<Problem>>,
}

impl Report {
    /// Adds an error.
    pub(super) fn error(&self, span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Error, span, message.into(), hint.into());
    }

    /// Adds a warning.
    pub(super) fn warning(&self, span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Warning, span, message.into(), hint.into());
    }

    /// How many problems there are so far.
    pub(super) fn count(&self) -> usize {
        self.problems.borrow().len()
    }

    /// The file's path.
    pub(super) fn path(&self) -> &str {
        self.source.path()
    }

    /// `path:line` of a place.
    pub(super) fn place(&self, offset: usize) -> String {
        self.source.place(offset)
    }

    fn add(&self, severity: Severity, span: Range<usize>, message: String, hint: String) {
        self.problems.borrow_mut().push(self.source.problem(severity, span, message, hint));
    }

    fn syntax(&self, error: &toml::de::Error) {
        self.error(error.span().unwrap_or(0..0), "this is not TOML", error.message().replace('\n', ", "));
    }
}

/// A table that is being read.
pub(super) struct Section<'a> {
    /// Its name for people: "", "lan", "rule.match".
    name: String,
    body: Body<'a>,
    span: Range<usize>,
    report: &'a Report,
    asked: RefCell<Vec<&'static str>>,
}

/// What a section reads from.
#[derive(Clone, Copy)]
enum Body<'a> {
    Table(&'a DeTable<'a>),
    /// The file has no such table: all of its keys are missing.
    Absent,
    /// Something else stands in its place, which was reported: its keys are of no interest.
    Broken,
}

impl<'a> Section<'a> {
    fn new(name: String, body: Body<'a>, span: Range<usize>, report: &'a Report) -> Self {
        Section { name, body, span, report, asked: RefCell::default() }
    }

    /// Where problems go.
    pub(super) fn report(&self) -> &'a Report {
        self.report
    }

    /// The place of the table's head.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The value of a key, unread.
    pub(super) fn value(&self, key: &'static str) -> Option<&'a Value<'a>> {
        self.asked.borrow_mut().push(key);
        self.table()?.get(key)
    }

    /// The value of a key that may be missing.
    pub(super) fn optional<T>(
        &self,
        key: &'static str,
        read: impl Fn(&Value) -> Read<T>,
    ) -> Option<Spanned<T>> {
        self.read(key, self.value(key)?, &read)
    }

    /// The value of a key, or a default.
    pub(super) fn or<T>(&self, key: &'static str, default: T, read: impl Fn(&Value) -> Read<T>) -> T {
        self.optional(key, read).map_or(default, Spanned::into_inner)
    }

    /// The value of a key that must be there; `what` describes it.
    pub(super) fn required<T>(
        &self,
        key: &'static str,
        what: &str,
        read: impl Fn(&Value) -> Read<T>,
    ) -> Option<Spanned<T>> {
        if self.value(key).is_none() {
            self.missing(key, what);
        }
        self.optional(key, read)
    }

    /// The good values of a key that takes one value or a list; a missing key is an empty list.
    pub(super) fn list<T>(&self, key: &'static str, read: impl Fn(&Value) -> Read<T>) -> Vec<Spanned<T>> {
        let items = self.value(key).map_or(&[][..], items);
        items.iter().filter_map(|item| self.read(key, item, &read)).collect()
    }

    /// As [`Section::list`], but an empty list is an error.
    pub(super) fn some<T>(&self, key: &'static str, read: impl Fn(&Value) -> Read<T>) -> Vec<Spanned<T>> {
        if let Some(value) = self.value(key)
            && items(value).is_empty()
        {
            self.report.error(value.span(), format!("`{key}` is empty"), "expected at least one value");
        }
        self.list(key, read)
    }

    /// As [`Section::some`], but the key must be there; `what` describes its values.
    pub(super) fn required_some<T>(
        &self,
        key: &'static str,
        what: &str,
        read: impl Fn(&Value) -> Read<T>,
    ) -> Vec<Spanned<T>> {
        if self.value(key).is_none() {
            self.missing(key, what);
        }
        self.some(key, read)
    }

    /// A table inside this one; if it is missing, so are all of its keys.
    pub(super) fn section(&self, key: &'static str) -> Section<'a> {
        let Some(value) = self.value(key) else {
            return Section::new(self.path(key), Body::Absent, self.span(), self.report);
        };
        self.table_of(key, value, "a table")
    }

    /// The tables of an array of tables.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Section<'a>> {
        let what = format!("one `[[{key}]]` for each");
        match self.value(key).map(|value| (value, value.get_ref())) {
            None => Vec::new(),
            Some((_, DeValue::Array(array))) => {
                array.iter().map(|item| self.table_of(key, item, &what)).collect()
            }
            Some((value, _)) => {
                self.report.error(
                    value.span(),
                    format!("`{key}` is not a list of tables"),
                    format!("expected {what}"),
                );
                Vec::new()
            }
        }
    }

    /// Reports a key that must be there.
    pub(super) fn missing(&self, key: &str, what: &str) {
        if matches!(self.body, Body::Broken) {
            return;
        }
        self.report.error(
            self.span(),
            format!("missing key `{}`", self.path(key)),
            format!("expected {what}"),
        );
    }

    /// Says which keys nobody asked for. To be called when everything was read.
    pub(super) fn finish(self) {
        let mut known = self.asked.take();
        known.sort_unstable();
        known.dedup();
        let unknown = self.table().into_iter().flat_map(|table| table.keys());
        for key in unknown.filter(|key| known.binary_search(&key.get_ref().as_ref()).is_err()) {
            let message = format!("unknown key {}", quoted(key.get_ref()));
            self.report.error(key.span(), message, suggestion(key.get_ref(), known.iter().copied()));
        }
    }

    /// A value that should be a table, as a section.
    fn table_of(&self, key: &str, value: &'a Value<'a>, what: &str) -> Section<'a> {
        let body = match value.get_ref() {
            DeValue::Table(table) => Body::Table(table),
            _ => Body::Broken,
        };
        if matches!(body, Body::Broken) {
            self.refuse(key, value, format!("expected {what}"));
        }
        Section::new(self.path(key), body, value.span(), self.report)
    }

    fn table(&self) -> Option<&'a DeTable<'a>> {
        match self.body {
            Body::Table(table) => Some(table),
            Body::Absent | Body::Broken => None,
        }
    }

    fn read<T>(&self, key: &str, value: &Value, read: &impl Fn(&Value) -> Read<T>) -> Option<Spanned<T>> {
        match read(value) {
            Ok(answer) => return Some(Spanned::new(value.span(), answer)),
            Err(Fault::Refused { hint }) => self.refuse(key, value, hint),
            Err(Fault::Because { message, hint }) => self.report.error(value.span(), message, hint),
            Err(Fault::Elsewhere) => {}
        }
        None
    }

    fn refuse(&self, key: &str, value: &Value, hint: String) {
        self.report.error(value.span(), format!("`{key}` cannot be {}", describe(value)), hint);
    }

    /// A key's full name.
    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

/// Values without their places.
pub(super) fn values_of<T>(items: Vec<Spanned<T>>) -> Vec<T> {
    items.into_iter().map(Spanned::into_inner).collect()
}

/// What helps with a word that is not known: the nearest known one, or all of them.
pub(super) fn suggestion<'k>(word: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    match nearest(word, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!(
            "expected one of {}",
            known.map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", ")
        ),
    }
}

/// A word of the user's, made fit to be shown: control characters escaped, long ones cut.
pub(super) fn quoted(word: &str) -> String {
    const SHOWN: usize = 60;
    let cut: String = word.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    let rest = if word.chars().nth(SHOWN).is_some() { "..." } else { "" };
    format!("\"{cut}{rest}\"")
}

/// The known word with the fewest typing slips, if they are few: one in three letters.
pub(super) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    // Longer words than any key are not slips, and the distance costs length times length.
    const LONGEST: usize = 64;
    let slips = |known: &str| strsim::damerau_levenshtein(&word.to_lowercase(), &known.to_lowercase());
    let candidates = known.filter(|_| word.len() <= LONGEST).map(|known| (slips(known), known));
    candidates.filter(|(slips, known)| *slips <= known.len().div_ceil(3)).min().map(|(_, known)| known)
}

/// One value, or the values of a list.
fn items<'i, 'a>(value: &'a Value<'i>) -> &'a [Value<'i>] {
    match value.get_ref() {
        DeValue::Array(array) => array,
        _ => std::slice::from_ref(value),
    }
}

/// A value, for a message.
fn describe(value: &Value) -> String {
    match value.get_ref() {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Datetime(when) => when.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
