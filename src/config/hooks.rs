//! `[hooks]`: the program that is run when a line changes.

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::checked::Hooks;
use super::reader::{Fault, Read, Section, Value};
use super::values;

/// Most words of a command.
const MOST_WORDS: usize = 64;
/// How long it may run unless the section says otherwise.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the section.
pub(super) fn read(section: Section) -> Hooks {
    let hooks = Hooks {
        on_change: section.optional("on_change", command).map(Spanned::into_inner),
        timeout: section.or("timeout", TIMEOUT, values::duration),
    };
    section.finish();
    hooks
}

/// A program and its arguments: words between spaces, or a list. There is no shell.
fn command(value: &Value) -> Read<Vec<String>> {
    let words: Option<Vec<String>> = match value.get_ref() {
        DeValue::String(text) => Some(text.split_whitespace().map(String::from).collect()),
        DeValue::Array(words) => words.iter().map(|word| word.get_ref().as_str().map(String::from)).collect(),
        _ => None,
    };
    let is_command = |words: &Vec<String>| {
        let program = words.first().is_some_and(|program| program.starts_with('/'));
        program && words.len() <= MOST_WORDS && words.iter().all(|word| !word.contains('\0'))
    };
    let expected = "the absolute path of a program and its arguments, like \"/usr/local/bin/line-changed -v\" or \
                    [\"/bin/sh\", \"-c\", \"...\"]";
    words.filter(is_command).ok_or_else(|| Fault::not_a(expected))
}
