//! What is wrong with a file, and where: [`Problem`], and its two forms for people.
//!
//! The short form is one line, `file:line:column: message: hint`, for tests
//! and logs. The long form ([`Problems`]' `Display`) also shows the line and
//! points at the place, as compilers do.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

use super::SourceFile;

/// One thing that is wrong, at one place of one file.
#[derive(Clone)]
pub struct Problem {
    source: Arc<Source>,
    span: Range<usize>,
    severity: Severity,
    message: String,
    hint: String,
}

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration works, but probably not as its owner thinks.
    Warning,
}

impl Problem {
    /// The file's path, as it was given.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.source.path
    }

    /// The line, counted from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.source.line_of(self.span.start)
    }

    /// The column in characters, counted from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        let line_start = self.source.line_range(self.span.start).start;
        self.source.text[line_start..self.span.start].chars().count() + 1
    }

    /// The place in bytes of the file's text.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        let before = self.source.before;
        self.span.start + before..self.span.end + before
    }

    /// How bad it is.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// What is wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What was expected instead, or what helps.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// The long form: the message, the place, the line itself, and the hint below the place.
    fn render(&self) -> String {
        let shown = self.source.around(self.span.start);
        let text = &self.source.text[shown.clone()];
        let place = |offset: usize| offset.clamp(shown.start, shown.end) - shown.start;
        let span = place(self.span.start)..place(self.span.end);
        let annotation = AnnotationKind::Primary.span(span).label(&self.hint);
        let snippet = Snippet::source(text).line_start(self.line()).annotation(annotation);
        let title = self.level().primary_title(&self.message);
        // The renderer counts columns in what it is shown.
        let group = if shown == self.source.line_range(self.span.start) {
            title.element(snippet.path(self.file()))
        } else {
            let origin = Origin::path(self.file()).line(self.line()).char_column(self.column());
            title.element(origin).element(snippet)
        };
        Renderer::plain().render(&[group])
    }

    fn level(&self) -> Level<'static> {
        match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        }
    }
}

/// The short form: `file:line:column: message: hint`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}: {}", self.file(), self.line(), self.column(), self.message, self.hint)
    }
}

/// As [`fmt::Display`]: a derived one would print the whole file for each problem.
impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Everything that is wrong with a configuration, in the files' order and from top to bottom.
#[derive(Debug, Clone, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The problems, one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// Adds a file's problems.
    pub(super) fn extend(&mut self, problems: Vec<Problem>) {
        self.0.extend(problems);
    }

    /// In the files' order and from top to bottom.
    pub(super) fn sorted(mut self) -> Self {
        self.0.sort_by_key(|problem| (problem.source.order, problem.span().start));
        self
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The long form of each, an empty line between them.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, problem) in self.0.iter().enumerate() {
            let gap = if place == 0 { "" } else { "\n" };
            writeln!(f, "{gap}{}", problem.render())?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A file's text and where its lines begin, so that a place is found without counting from the top.
pub(super) struct Source {
    /// The file's place among all files of the configuration.
    order: usize,
    path: String,
    text: String,
    line_starts: Vec<usize>,
    /// Bytes and lines of the file before the text.
    before: usize,
    lines_before: usize,
}

impl Source {
    pub(super) fn new(order: usize, file: &SourceFile) -> Arc<Self> {
        let breaks = file.text.match_indices('\n').map(|(place, _)| place + 1);
        let line_starts = std::iter::once(0).chain(breaks).collect();
        let (path, text) = (file.path.clone(), file.text.clone());
        Arc::new(Source { order, path, text, line_starts, before: 0, lines_before: 0 })
    }

    /// One line of a file that is too large to be kept for its problems: the one that a place is in.
    pub(super) fn line_at(order: usize, path: &str, text: &str, place: usize) -> Arc<Self> {
        let (until, from) = text.split_at(text.floor_char_boundary(place));
        let before = until.rfind('\n').map_or(0, |end| end + 1);
        let end = until.len() + from.find('\n').unwrap_or(from.len());
        Arc::new(Source {
            order,
            path: path.to_owned(),
            text: text.get(before..end).unwrap_or_default().to_owned(),
            line_starts: vec![0],
            before,
            lines_before: until.matches('\n').count(),
        })
    }

    /// A problem at a place of this file; a place outside the text is moved to its ends.
    pub(super) fn problem(
        self: &Arc<Self>,
        severity: Severity,
        span: Range<usize>,
        message: String,
        hint: String,
    ) -> Problem {
        let start = self.text.floor_char_boundary(span.start.saturating_sub(self.before));
        let end = self.text.floor_char_boundary(span.end.saturating_sub(self.before)).max(start);
        Problem { source: Arc::clone(self), span: start..end, severity, message, hint }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// `path:line` of a place, the short way to name it in another message.
    pub(super) fn place(&self, offset: usize) -> String {
        format!("{}:{}", self.path, self.line_of(offset))
    }

    fn line_of(&self, offset: usize) -> usize {
        self.lines_before + self.line_index(offset) + 1
    }

    /// The place of a line among those of the text.
    fn line_index(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset).saturating_sub(1)
    }

    /// The bytes of a place's line that are worth showing: all of them, or of a very long line
    /// (which costs the renderer its length for every problem in it) those nearby.
    fn around(&self, offset: usize) -> Range<usize> {
        const NEARBY: usize = 200;
        let line = self.line_range(offset);
        let start = line.start.max(self.text.floor_char_boundary(offset.saturating_sub(NEARBY)));
        let end = line.end.min(self.text.ceil_char_boundary(offset.saturating_add(NEARBY)));
        start.min(line.end)..end.max(start.min(line.end))
    }

    /// The bytes of a place's line, without its end.
    fn line_range(&self, offset: usize) -> Range<usize> {
        let line = self.line_index(offset);
        let start = self.line_starts[line];
        let end = self.line_starts.get(line + 1).map_or(self.text.len(), |next| next - 1);
        let text = &self.text[start..end];
        start..start + text.trim_end_matches('\r').len()
    }
}
