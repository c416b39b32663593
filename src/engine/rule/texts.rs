//! What is looked for anywhere in some bytes, all of it at once: [`Texts`] and [`Expressions`].

use std::fmt;

use aho_corasick::AhoCorasick;
use regex::bytes::{RegexSet, RegexSetBuilder};

/// Bytes that the expressions of one set may take when they are compiled.
const LARGEST_SET: usize = 64 << 20;
/// Bytes that one expression may take.
const LARGEST_EXPRESSION: usize = 1 << 20;

/// Byte strings of which one must be found. A search takes time linear in what is searched,
/// however many there are.
#[derive(Clone, Default)]
pub struct Texts {
    texts: Vec<Vec<u8>>,
    automaton: Option<AhoCorasick>,
}

/// Why a set of texts or expressions cannot be made, in words that fit after a colon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

impl Texts {
    /// These texts, as they are.
    ///
    /// # Errors
    /// Together they are too large (2^31 bytes).
    pub fn exact<T: Into<Vec<u8>>>(texts: impl IntoIterator<Item = T>) -> Result<Self, Unusable> {
        Texts::new(texts.into_iter().map(Into::into).collect(), false)
    }

    /// These texts, in capitals or not (of ASCII letters).
    ///
    /// # Errors
    /// Together they are too large (2^31 bytes).
    pub fn in_any_case<T: Into<Vec<u8>>>(texts: impl IntoIterator<Item = T>) -> Result<Self, Unusable> {
        Texts::new(texts.into_iter().map(Into::into).collect(), true)
    }

    /// The texts.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.texts.iter().map(Vec::as_slice)
    }

    /// Whether there are none: then none is found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Whether one of them stands anywhere in `bytes`.
    #[must_use]
    pub fn found_in(&self, bytes: &[u8]) -> bool {
        self.automaton.as_ref().is_some_and(|automaton| automaton.is_match(bytes))
    }

    fn new(texts: Vec<Vec<u8>>, in_any_case: bool) -> Result<Self, Unusable> {
        if texts.is_empty() {
            return Ok(Texts::default());
        }
        let automaton = AhoCorasick::builder().ascii_case_insensitive(in_any_case).build(&texts);
        let automaton = automaton.map_err(|error| Unusable(error.to_string()))?;
        Ok(Texts { automaton: Some(automaton), texts })
    }
}

impl PartialEq for Texts {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

impl Eq for Texts {}

impl fmt::Debug for Texts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.iter().map(String::from_utf8_lossy)).finish()
    }
}

/// Regular expressions of which one must be found, in time linear in what is searched.
///
/// They are those of the crate `regex`, over bytes: `.` is any byte but a line feed, `\d` and `\w` are ASCII.
#[derive(Clone, Default)]
pub struct Expressions(Option<RegexSet>);

impl Expressions {
    /// These expressions.
    ///
    /// # Errors
    /// One is no expression, or together they are too large.
    pub fn new<T: AsRef<str>>(patterns: impl IntoIterator<Item = T>) -> Result<Self, Unusable> {
        Expressions::within(LARGEST_SET, patterns)
    }

    /// Whether this alone is an expression.
    ///
    /// # Errors
    /// It is none, or is too large.
    pub fn check(pattern: &str) -> Result<(), Unusable> {
        Expressions::within(LARGEST_EXPRESSION, [pattern]).map(|_| ())
    }

    /// The expressions as they were written.
    #[must_use]
    pub fn patterns(&self) -> &[String] {
        self.0.as_ref().map_or(&[], RegexSet::patterns)
    }

    /// Whether there are none: then none is found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether one of them is found anywhere in `bytes`.
    #[must_use]
    pub fn found_in(&self, bytes: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|set| set.is_match(bytes))
    }

    fn within<T: AsRef<str>>(
        largest: usize,
        patterns: impl IntoIterator<Item = T>,
    ) -> Result<Self, Unusable> {
        let mut patterns = patterns.into_iter().peekable();
        if patterns.peek().is_none() {
            return Ok(Expressions::default());
        }
        let set = RegexSetBuilder::new(patterns).unicode(false).size_limit(largest).build();
        let set = set.map_err(|error| Unusable(last_line(&error.to_string())))?;
        Ok(Expressions(Some(set)))
    }
}

impl PartialEq for Expressions {
    fn eq(&self, other: &Self) -> bool {
        self.patterns() == other.patterns()
    }
}

impl Eq for Expressions {}

impl fmt::Debug for Expressions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.patterns()).finish()
    }
}

/// A syntax error first repeats the expression, and says what is wrong in its last line.
fn last_line(error: &str) -> String {
    let last = error.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_that_is_found_is_enough() {
        let texts = Texts::exact(["abc", "xy"]).unwrap();
        assert!(texts.found_in(b"..xy..") && texts.found_in(b"abc"));
        assert!(!texts.found_in(b"ABC") && !texts.found_in(b"x") && !texts.found_in(b""));
        assert!(Texts::in_any_case(["Curl/"]).unwrap().found_in(b"cURL/8.1"));
    }

    #[test]
    fn of_no_texts_and_no_expressions_none_is_found() {
        assert!(Texts::default().is_empty() && !Texts::default().found_in(b""));
        assert_eq!(Texts::exact([""; 0]).unwrap(), Texts::default());
        assert!(!Expressions::new([""; 0]).unwrap().found_in(b""));
        assert_eq!(Expressions::new([""; 0]).unwrap(), Expressions::default());
    }

    #[test]
    fn expressions_search_bytes_that_are_no_text() {
        let expressions = Expressions::new([r"^\x16\x03[\x00-\x04]", r"v\d+$"]).unwrap();
        assert!(expressions.found_in(b"\x16\x03\x01\xff") && expressions.found_in(b"\xffv12"));
        assert!(!expressions.found_in(b"\x17\x03\x01") && !expressions.found_in(b"v"));
    }

    #[test]
    fn what_is_no_expression_or_a_huge_one_is_refused_in_one_line() {
        assert_eq!(Expressions::check("a(").unwrap_err().to_string(), "unclosed group");
        for wrong in ["a{2,1}", "(a{1000}){1000}"] {
            assert!(!Expressions::check(wrong).unwrap_err().to_string().contains('\n'), "{wrong}");
        }
        assert_eq!(Expressions::check(r"^(.+\.)?example\.org$"), Ok(()));
    }
}
