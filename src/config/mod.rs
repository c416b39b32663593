//! What the owner wants: text → as written → checked [`Config`]. Pure: files come in as text.
//!
//! *Text* is a [`SourceFile`]. *As written* is TOML's own tree, in which every
//! key and value knows its place; `reader` walks it and collects every fault
//! instead of stopping at the first. *Checked* is [`Config`], in which nothing
//! can be wrong any more but what only the running machine can tell.
//!
//! A file that is not TOML is one problem. In all others every problem is
//! found at once, each with its file, line, column, the line itself and what
//! was expected. A fault never causes a second message about its consequences.

mod changes;
mod checked;
mod contents;
mod covered;
mod example;
mod forwards;
mod health;
mod hooks;
mod lists;
mod marks;
mod mmdb;
mod names;
mod numbers;
mod problem;
mod reader;
mod router;
mod routing;
mod rules;
mod uplinks;
mod values;
mod warnings;
mod words;

use std::path::Path;

use reader::Fault;

use crate::engine::flow::Facts;
use crate::engine::rule::model::Rule;

pub use changes::{Transition, differences, obstacles, transition};
pub use checked::*;
pub use lists::Lists;
pub use numbers::Numbers;
pub use problem::{Problem, Problems, Severity};
pub use warnings::warnings;

/// A file that was read already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path, as people see it in messages.
    pub path: String,
    /// All of its text.
    pub text: String,
}

/// Checks a whole configuration: the main file, the rule files in the order in which rules are tried, and the
/// lists and databases that these name.
///
/// # Errors
/// All problems of all files, a rule's example that does not hold included.
pub fn load(main: &SourceFile, rule_files: &[SourceFile], lists: &Lists) -> Result<Config, Problems> {
    load_numbered(main, rule_files, lists, &Numbers::default())
}

/// The same, where uplinks have had numbers before.
///
/// # Errors
/// As [`load`].
pub fn load_numbered(
    main: &SourceFile,
    rule_files: &[SourceFile],
    lists: &Lists,
    known: &Numbers,
) -> Result<Config, Problems> {
    let mut problems = Problems::default();
    let router = reader::read_file(0, main, &mut problems, |root| router::read(root, lists, known));
    let (names, config) = router.unzip();
    let names = names.unwrap_or_default();
    let rules = rules::read_files(rule_files, &names, lists, &mut problems);
    match config {
        Some(config) if problems.is_empty() => Ok(Config { rules: rules.into(), ..config }),
        _ => Err(problems.sorted()),
    }
}

/// Checks rule files against a configuration that is in use, for a reload.
///
/// # Errors
/// All problems of all rule files.
pub fn load_rules(config: &Config, rule_files: &[SourceFile], lists: &Lists) -> Result<Vec<Rule>, Problems> {
    let mut problems = Problems::default();
    let rules = rules::read_files(rule_files, &names::Names::of(config), lists, &mut problems);
    if problems.is_empty() { Ok(rules) } else { Err(problems.sorted()) }
}

/// The directory of the rule files: the main file's key `rules` (default "rules"), seen from the main file's
/// own directory. Needed before [`load`], which wants those files.
///
/// # Errors
/// The main file is not TOML, or the key is not a path. [`load`] then tells all that is wrong with it.
pub fn rules_directory(main: &SourceFile) -> Result<String, Problems> {
    let mut problems = Problems::default();
    let directory = reader::read_file(0, main, &mut problems, router::rules_directory);
    match directory {
        Some(directory) if problems.is_empty() => Ok(beside(&main.path, &directory)),
        _ => Err(problems.sorted()),
    }
}

/// The uplink that people call so.
///
/// # Errors
/// That there is none, and the nearest name.
pub fn uplink_named<'c>(config: &'c Config, name: &str) -> Result<&'c Uplink, String> {
    let known = config.uplinks.iter().map(|uplink| uplink.name.as_str());
    let found = config.uplinks.iter().find(|uplink| uplink.name == name);
    found.ok_or_else(|| sentence(names::unknown("uplink", name, known)))
}

/// The flow that a text like `tcp 10.77.0.5:40000 > 198.51.100.7:22 host=www.example.org` describes, as
/// rules' examples do.
///
/// # Errors
/// What is wrong with it, and what was expected.
pub fn flow(text: &str, config: &Config) -> Result<Facts<'static>, String> {
    example::parse(text, &names::Names::of(config)).map_err(sentence)
}

fn sentence(fault: Fault) -> String {
    match fault {
        Fault::Refused { hint } => hint,
        Fault::Because { message, hint } => format!("{message}: {hint}"),
        Fault::Elsewhere => "a name in it is not known".into(),
    }
}

/// `path`, seen from the directory that `file` is in.
fn beside(file: &str, path: &str) -> String {
    let directory = Path::new(file).parent().unwrap_or(Path::new(""));
    directory.join(path).to_string_lossy().into_owned()
}
