//! What a list's reader fills: [`Entries`].

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use ipnet::IpNet;

use super::super::reader::quoted;
use super::{List, ListProblem};
use crate::engine::rule::hosts::{HostName, HostNames, HostSet, Reach};
use crate::engine::rule::texts::{Expressions, Texts};
use crate::engine::sniff::Name;

/// A list in a wrong format is wrong in every line: so many are shown.
const MOST_PROBLEMS: usize = 10;
/// Each is compiled to see whether it is one, which takes far longer than a name.
const MOST_EXPRESSIONS: usize = 10_000;

const NAME: &str = "a name like \"example.org\", with letters beyond ASCII as punycode (\"xn--...\")";

/// The entries of a list so far.
#[derive(Default)]
pub(super) struct Entries {
    names: HostNames,
    keywords: Vec<String>,
    expressions: Vec<String>,
    nets: Vec<IpNet>,
    skipped: usize,
    first_skipped: Range<usize>,
    problems: Vec<ListProblem>,
    /// How many more there are than are shown.
    unshown: usize,
    refused: Option<ListProblem>,
}

/// Why a line gave no entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unused {
    /// It says something that is of no use here.
    Skipped,
    /// It is wrong; in words that fit after "expected", or advice.
    Wrong(String),
}

impl Unused {
    /// The line is not what the words describe.
    pub(super) fn not_a(what: &str) -> Self {
        Unused::Wrong(format!("expected {what}"))
    }
}

impl Entries {
    /// Adds a name.
    pub(super) fn name(&mut self, name: &str, reach: Reach) -> Result<(), Unused> {
        let name = Name::new(name.as_bytes()).ok_or_else(|| Unused::not_a(NAME))?;
        self.names.add(&HostName { name, reach });
        Ok(())
    }

    /// Adds a word that stands anywhere in a name.
    pub(super) fn keyword(&mut self, word: &str) -> Result<(), Unused> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if word.is_empty() || !word.bytes().all(fits) {
            return Err(Unused::not_a("a part of a name"));
        }
        self.keywords.push(word.to_ascii_lowercase());
        Ok(())
    }

    /// Adds an expression that fits anywhere in a name.
    pub(super) fn expression(&mut self, pattern: &str) -> Result<(), Unused> {
        if self.expressions.len() == MOST_EXPRESSIONS {
            return Err(Unused::Wrong(format!("expected at most {MOST_EXPRESSIONS} regular expressions")));
        }
        let wrong = |error| Unused::Wrong(format!("expected a regular expression: {error}"));
        Expressions::check(pattern).map_err(wrong)?;
        self.expressions.push(pattern.to_owned());
        Ok(())
    }

    /// Adds a net.
    pub(super) fn net(&mut self, net: IpNet) {
        self.nets.push(net);
    }

    /// Counts what is of no use here.
    pub(super) fn skip(&mut self, span: Range<usize>) {
        if self.skipped == 0 {
            self.first_skipped = span;
        }
        self.skipped += 1;
    }

    /// Notes why a line gave no entry.
    pub(super) fn unused(&mut self, span: Range<usize>, line: &str, unused: Unused) {
        match unused {
            Unused::Skipped => self.skip(span),
            Unused::Wrong(hint) => {
                self.problem(span, format!("{} cannot stand here in a list", quoted(line)), hint);
            }
        }
    }

    /// Whether no more problems will be shown.
    pub(super) fn is_full(&self) -> bool {
        self.problems.len() == MOST_PROBLEMS
    }

    /// Notes something that is wrong.
    pub(super) fn problem(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        if self.is_full() {
            self.unshown += 1;
        } else {
            self.problems.push(ListProblem { span, message: message.into(), hint: hint.into() });
        }
    }

    /// The file cannot be used in the way it was named.
    pub(super) fn refuse(&mut self, message: impl Into<String>, hint: impl Into<String>) {
        let refused = ListProblem { span: 0..0, message: message.into(), hint: hint.into() };
        self.refused.get_or_insert(refused);
    }

    /// The finished list.
    pub(super) fn into_list(mut self) -> List {
        self.names.shrink();
        let (keywords, expressions) = (self.build_keywords(), self.build_expressions());
        if let Some(last) = self.problems.last_mut().filter(|_| self.unshown > 0) {
            last.hint.push_str(&format!(" ({} more lines are wrong)", self.unshown));
        }
        let mut nets = std::mem::take(&mut self.nets);
        nets.shrink_to_fit();
        List {
            hosts: Arc::new(HostSet { names: self.names, keywords, expressions }),
            nets: Arc::new(nets.iter().collect()),
            skipped: self.skipped,
            first_skipped: self.first_skipped,
            problems: self.problems,
            refused: self.refused,
        }
    }

    fn build_keywords(&mut self) -> Texts {
        let texts = Texts::exact(std::mem::take(&mut self.keywords));
        texts.unwrap_or_else(|error| {
            self.refuse("its keywords together are too large", error.to_string());
            Texts::default()
        })
    }

    fn build_expressions(&mut self) -> Expressions {
        let expressions = Expressions::new(std::mem::take(&mut self.expressions));
        expressions.unwrap_or_else(|error| {
            self.refuse("its regular expressions together are too large", error.to_string());
            Expressions::default()
        })
    }
}

/// A net or a single address. Bits behind the prefix count for nothing, as those who publish lists mean it.
pub(super) fn parse_net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}
