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

#[cfg(test)]
mod tests {
    use super::super::{Config, Lists, Problems, SourceFile, load};

    fn with(hook: &str) -> Result<Config, Problems> {
        let uplink = "[[uplink]]\nname = \"a\"\ninterface = \"a\"\n";
        let text = format!("lan.interfaces = [\"lan\"]\nhooks.on_change = {hook}\n{uplink}");
        load(&SourceFile { path: "test.toml".into(), text }, &[], &Lists::default())
    }

    #[test]
    fn a_command_is_words_or_a_list_of_them() {
        let command = |hook| with(hook).unwrap().hooks.on_change.unwrap();
        assert_eq!(command("\"/bin/x  -a b\""), ["/bin/x", "-a", "b"]);
        assert_eq!(command("[\"/bin/x\", \"-a b\"]"), ["/bin/x", "-a b"]);
    }

    #[test]
    fn a_command_without_the_path_of_a_program_is_refused_where_it_stands() {
        for hook in ["\"\"", "\"x -a\"", "[]", "[\"/bin/x\", 1]", "7", "\"/bin/\\u0000\""] {
            let problems = with(hook).unwrap_err().to_string();
            assert!(problems.contains("test.toml:2:") && problems.contains("absolute path"), "{problems}");
        }
    }
}
