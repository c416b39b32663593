//! Commands as values: what the firewall backends run, and how an operator would type it.

/// One program run with a script on its standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Program name.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What it reads.
    pub input: String,
    /// The same as single commands, for people.
    pub typed: Vec<String>,
}
