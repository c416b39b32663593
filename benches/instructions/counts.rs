//! Instructions an operation, as they are stored and as they were counted: which of them are too many.

use std::fmt;

/// How much more than is stored is too much, in percent.
pub const MOST: u64 = 5;
/// The same where another compiler, processor or valgrind counted: their code differs by itself.
pub const MOST_ELSEWHERE: u64 = 25;

/// Instructions of every case, and what they were counted with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Compiler, processor and valgrind.
    pub with: String,
    /// Cases in their order, with instructions an operation.
    pub cases: Vec<(String, u64)>,
}

impl Counts {
    /// What [`fmt::Display`] wrote: a line `with ...`, then a line a case; `#` begins a comment.
    ///
    /// # Errors
    /// The line that is none of these.
    pub fn parse(text: &str) -> Result<Counts, String> {
        let mut counts = Counts { with: String::new(), cases: Vec::new() };
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let case = line
                .rsplit_once(' ')
                .and_then(|(case, count)| Some((case.trim().into(), count.parse().ok()?)));
            match (line.strip_prefix("with "), case) {
                (Some(with), _) => counts.with = with.into(),
                (None, Some(case)) => counts.cases.push(case),
                (None, None) => return Err(format!("not a case and its count: {line:?}")),
            }
        }
        Ok(counts)
    }

    /// The count of a case.
    #[must_use]
    pub fn of(&self, case: &str) -> Option<u64> {
        self.cases.iter().find(|(other, _)| other == case).map(|(_, count)| *count)
    }

    /// What is wrong with `counted`, where these are stored: cases that take too many instructions, cases that
    /// are not stored, cases that are gone.
    #[must_use]
    pub fn faults(&self, counted: &Counts) -> Vec<String> {
        let most = if self.with == counted.with { MOST } else { MOST_ELSEWHERE };
        let too_many = counted.cases.iter().filter_map(|(case, count)| match self.of(case) {
            None => Some(format!("{case}: no count is stored")),
            Some(stored) if count * 100 > stored * (100 + most) => {
                Some(format!("{case}: {count} instructions, stored are {stored}: more than {most} % above"))
            }
            Some(_) => None,
        });
        let gone = self.cases.iter().filter(|(case, _)| counted.of(case).is_none());
        too_many.chain(gone.map(|(case, _)| format!("{case}: is stored, and was not counted"))).collect()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "# Instructions an operation. WANSPLIT_UPDATE=1 benches/instructions/run writes them anew."
        )?;
        writeln!(out, "with {}", self.with)?;
        self.cases.iter().try_for_each(|(case, count)| writeln!(out, "{case:<32} {count:>9}"))
    }
}
