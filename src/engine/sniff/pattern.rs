//! A user's own patterns: bytes at a place, bytes anywhere, and regular expressions, asked all at once.
//!
//! A payload is read at most three times, whatever the number of patterns: by one automaton of all
//! bytes that may be anywhere, and by one of all expressions, first for any and then for which.
//! Nothing is allocated for a payload that no expression matches.

use aho_corasick::{AhoCorasick, MatchKind};
use regex::bytes::{RegexBuilder, RegexSet, RegexSetBuilder};

/// Patterns in a set, at most.
pub const MOST: usize = 256;

/// Bytes that one expression may take when it is compiled, and that all of a set may.
const EXPRESSION_SIZE: usize = 1 << 20;
const ALL_EXPRESSIONS_SIZE: usize = 16 << 20;

/// What a payload has to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// These bytes behind so many others.
    At(usize, Vec<u8>),
    /// These bytes in any place.
    Anywhere(Vec<u8>),
    /// An expression in the syntax of the crate `regex`, over bytes: `.` is any byte but LF, `\xff`
    /// one byte, `\w` and the like are ASCII.
    Regex(String),
}

/// Why a set of patterns cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// More than [`MOST`].
    #[error("more than {MOST} patterns")]
    TooMany,
    /// No bytes to look for, which are everywhere.
    #[error("an empty pattern")]
    Empty {
        /// Which one, counted from 0.
        index: usize,
    },
    /// Not an expression, or too large a one.
    #[error("{why}")]
    Regex {
        /// Which one, counted from 0.
        index: usize,
        /// What is wrong with it.
        why: String,
    },
    /// All together are too large.
    #[error("{0}")]
    TooLarge(String),
}

/// Patterns ready to be asked.
#[derive(Debug, Clone)]
pub struct Patterns {
    /// Bytes at a place, and the pattern's number.
    fixed: Vec<(usize, Vec<u8>, usize)>,
    /// Bytes anywhere, and the numbers of their patterns.
    anywhere: Option<(AhoCorasick, Vec<usize>)>,
    /// Expressions, and the numbers of their patterns.
    expressions: (RegexSet, Vec<usize>),
}

/// Numbers of patterns that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Matches([u64; MOST / 64]);

impl Patterns {
    /// Compiles patterns; each is known by its index from then on.
    ///
    /// # Errors
    /// [`PatternError`] for the first that is empty or no expression, and for too many or too large ones.
    pub fn new(patterns: &[Pattern]) -> Result<Patterns, PatternError> {
        if patterns.len() > MOST {
            return Err(PatternError::TooMany);
        }
        let (mut fixed, mut words, mut expressions) = (Vec::new(), Vec::new(), Vec::new());
        for (index, pattern) in patterns.iter().enumerate() {
            match pattern {
                Pattern::At(_, bytes) | Pattern::Anywhere(bytes) if bytes.is_empty() => {
                    return Err(PatternError::Empty { index });
                }
                Pattern::At(offset, bytes) => fixed.push((*offset, bytes.clone(), index)),
                Pattern::Anywhere(bytes) => words.push((bytes, index)),
                Pattern::Regex(text) => expressions.push((checked(text, index)?, index)),
            }
        }
        Ok(Patterns { fixed, anywhere: automaton(words)?, expressions: set(expressions)? })
    }

    /// The patterns that a payload has.
    #[must_use]
    pub fn matches(&self, payload: &[u8]) -> Matches {
        let mut matches = Matches::default();
        for (offset, bytes, index) in &self.fixed {
            if payload.get(*offset..).is_some_and(|rest| rest.starts_with(bytes)) {
                matches.insert(*index);
            }
        }
        if let Some((automaton, indices)) = &self.anywhere {
            let found = automaton.find_overlapping_iter(payload).map(|found| found.pattern().as_usize());
            found.filter_map(|place| indices.get(place)).for_each(|&index| matches.insert(index));
        }
        let (set, indices) = &self.expressions;
        if set.is_match(payload) {
            let found = set.matches(payload);
            found.iter().filter_map(|place| indices.get(place)).for_each(|&index| matches.insert(index));
        }
        matches
    }
}

impl Matches {
    /// Whether nothing matched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; MOST / 64]
    }

    /// Whether this pattern matched.
    #[must_use]
    pub fn contains(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// The patterns that matched, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        let matches = *self;
        (0..MOST).filter(move |&index| matches.contains(index))
    }

    fn insert(&mut self, index: usize) {
        if let Some(word) = self.0.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }
}

/// The expression, if it can be compiled by itself: of a set one would not learn which of them cannot.
fn checked(text: &str, index: usize) -> Result<&str, PatternError> {
    let built = RegexBuilder::new(text).unicode(false).size_limit(EXPRESSION_SIZE).build();
    built.map(|_| text).map_err(|error| PatternError::Regex { index, why: error.to_string() })
}

fn automaton(words: Vec<(&Vec<u8>, usize)>) -> Result<Option<(AhoCorasick, Vec<usize>)>, PatternError> {
    if words.is_empty() {
        return Ok(None);
    }
    let (words, indices): (Vec<_>, _) = words.into_iter().unzip();
    // Standard: the one kind that finds words within words.
    let built = AhoCorasick::builder().match_kind(MatchKind::Standard).build(words);
    built
        .map(|automaton| Some((automaton, indices)))
        .map_err(|error| PatternError::TooLarge(error.to_string()))
}

fn set(expressions: Vec<(&str, usize)>) -> Result<(RegexSet, Vec<usize>), PatternError> {
    let (texts, indices): (Vec<_>, _) = expressions.into_iter().unzip();
    let built = RegexSetBuilder::new(texts).unicode(false).size_limit(ALL_EXPRESSIONS_SIZE).build();
    built.map(|set| (set, indices)).map_err(|error| PatternError::TooLarge(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matching(patterns: &[Pattern], payload: &[u8]) -> Vec<usize> {
        Patterns::new(patterns).unwrap().matches(payload).iter().collect()
    }

    fn regex(text: &str) -> Pattern {
        Pattern::Regex(text.into())
    }

    #[test]
    fn every_kind_of_pattern_is_known_by_its_index() {
        let patterns = [
            regex("^GET "),
            Pattern::Anywhere(b"host".to_vec()),
            Pattern::At(4, b"/x".to_vec()),
            regex(r"(?i)HOST: \w+\.example"),
            Pattern::Anywhere(b"os".to_vec()),
            Pattern::At(5, b"/x".to_vec()),
            regex("never"),
        ];
        assert_eq!(matching(&patterns, b"GET /x host: a.example"), [0, 1, 2, 3, 4]);
        assert_eq!(matching(&patterns, b""), [0; 0]);
        assert!(Patterns::new(&patterns).unwrap().matches(b"nothing").is_empty());
    }

    #[test]
    fn expressions_are_over_bytes_and_not_over_unicode() {
        assert_eq!(matching(&[regex(r"^\xff.\x00$")], b"\xff\xc3\x00"), [0]);
    }

    #[test]
    fn no_patterns_match_nothing() {
        assert!(matching(&[], b"GET").is_empty());
    }

    #[test]
    fn the_last_of_as_many_as_may_be_is_found_and_one_more_is_refused() {
        let mut patterns: Vec<_> =
            (0..MOST).map(|n| Pattern::Anywhere(format!("<{n}>").into_bytes())).collect();
        assert_eq!(matching(&patterns, b"<0> <255>"), [0, 255]);
        patterns.push(regex("x"));
        assert_eq!(Patterns::new(&patterns).unwrap_err(), PatternError::TooMany);
    }

    #[test]
    fn a_pattern_that_cannot_be_is_told_with_its_index() {
        let with = |pattern| Patterns::new(&[regex("a"), pattern]).unwrap_err();
        assert!(
            matches!(with(regex("(")), PatternError::Regex { index: 1, why } if why.contains("unclosed"))
        );
        assert!(matches!(with(regex("(?:a{500}){500}")), PatternError::Regex { index: 1, .. }));
        assert_eq!(with(Pattern::Anywhere(Vec::new())), PatternError::Empty { index: 1 });
        assert_eq!(with(Pattern::At(3, Vec::new())), PatternError::Empty { index: 1 });
    }

    proptest! {
        #[test]
        fn bytes_anywhere_are_found_like_by_looking_at_every_place(
            words in proptest::collection::vec(proptest::collection::vec(0..3_u8, 1..4), 0..8),
            payload in proptest::collection::vec(0..3_u8, 0..40),
        ) {
            let patterns: Vec<_> = words.iter().cloned().map(Pattern::Anywhere).collect();
            let expected: Vec<_> = (0..words.len())
                .filter(|&word| payload.windows(words[word].len()).any(|window| window == words[word]))
                .collect();
            prop_assert_eq!(matching(&patterns, &payload), expected);
        }
    }
}
