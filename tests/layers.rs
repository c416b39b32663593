//! The layout is the architecture: every folder of `src` may import those it
//! builds on and no other, and the pure ones have no clock, socket, file or process.

use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom (and itself).
const MAY_IMPORT: [(&str, &[&str]); 12] = [
    ("engine", &[]),
    ("config", &["engine"]),
    ("plan", &["engine", "config"]),
    ("system", &["engine", "plan"]),
    ("control", &[]),
    ("ui", &["engine", "config", "plan", "control", "lab", "replay", "bench"]),
    ("daemon", &["engine", "config", "plan", "system", "control"]),
    ("lab", &["engine", "config", "plan", "system", "control", "daemon"]),
    ("replay", &["engine", "config"]),
    ("bench", &["engine", "config"]),
    // The only place where what people type meets what is done.
    ("main", &["engine", "config", "plan", "system", "control", "ui", "daemon", "lab", "replay", "bench"]),
    ("lib", &[]),
];

/// Bytes, facts and `now` in, values out.
const PURE: [&str; 3] = ["engine", "config", "plan"];

/// What would make them impure. Their tests may read files.
const IMPURE: [&[&str]; 10] = [
    &["std", "fs"],
    &["TcpStream"],
    &["TcpListener"],
    &["UdpSocket"],
    &["Instant", "now"],
    &["SystemTime", "now"],
    &["Zoned", "now"],
    &["Timestamp", "now"],
    &["process", "Command"],
    &["thread", "sleep"],
];

#[test]
fn every_part_imports_only_what_it_builds_on() {
    let wrong: Vec<String> = sources().iter().flat_map(Source::wrong_imports).collect();
    assert!(wrong.is_empty(), "imports against the order of the layers:\n{}", wrong.join("\n"));
}

#[test]
fn the_pure_parts_have_no_clock_socket_file_or_process() {
    let pure = |source: &&Source| PURE.contains(&source.part.as_str());
    let wrong: Vec<String> = sources().iter().filter(pure).flat_map(Source::impurities).collect();
    assert!(wrong.is_empty(), "not pure:\n{}", wrong.join("\n"));
}

#[test]
fn the_sources_are_found() {
    let sources = sources();
    for part in PURE {
        assert!(sources.iter().any(|source| source.part == part), "no source of {part} was found");
    }
    assert!(sources.iter().any(|source| !source.paths.is_empty()));
}

#[test]
fn an_import_is_seen_however_it_is_written() {
    for text in [
        "use crate::system::queue;",
        "use crate::{engine::flow, system};",
        "use crate::{engine::{flow, rule as r}, system::{links}};",
        "fn f() -> crate::system::Queue { todo!() }",
        "use super::super::system;",
        "use super::super::{engine, system as s};",
        "mod tests { use super::super::super::system::queue; }",
        "mod a { fn f() {} } use super::super::system;",
        "const A: char = '\"'; use crate::system; const B: char = '\"';",
        "fn f<'a>(a: &'a str) { crate::system::f::<'a>(a) }",
        "const A: &str = r#\"\" \"#; use crate::system;",
    ] {
        let source = Source::new(Path::new("config/parts.rs"), text);
        assert_eq!(source.wrong_imports().len(), 1, "{text}");
    }
}

#[test]
fn what_only_looks_like_an_import_is_none() {
    for text in [
        "// use crate::system;",
        "/* /* */ use crate::system; */",
        "/// [`crate::system`]\nfn f() {}",
        "const A: &str = \"crate::system\";",
        "const A: &str = r#\" \" crate::system \"#;",
        "pub(crate) mod system;",
        "use super::system;",
        "mod tests { use super::super::system; }",
        "use serde::{super_system::crate_, system};",
        "use crate::engine::system;",
    ] {
        let source = Source::new(Path::new("config/parts.rs"), text);
        assert_eq!(source.wrong_imports(), [""; 0], "{text}");
    }
}

#[test]
fn impurity_is_seen_however_it_is_written_but_not_in_tests() {
    for text in [
        "use std::fs;",
        "use std::{fs::File, net::IpAddr};",
        "fn f() { std::fs::read(\"a\"); }",
        "use std::net::{IpAddr, UdpSocket};",
        "fn f() { let _ = Instant::now(); }",
        "use std::process::{Command, Stdio};",
        "#[cfg(test)] mod tests {} fn f() { thread::sleep(d) }",
    ] {
        assert_eq!(Source::new(Path::new("plan/mod.rs"), text).impurities().len(), 1, "{text}");
    }
    let test = "#[cfg(test)] mod tests { fn f() { std::fs::read(\"a\"); } }";
    assert_eq!(Source::new(Path::new("plan/mod.rs"), test).impurities(), [""; 0]);
}

/// One file, and all paths (`a::b::c`) in it.
struct Source {
    file: PathBuf,
    /// Top folder, or name of a file at the top.
    part: String,
    paths: Vec<FoundPath>,
}

struct FoundPath {
    segments: Vec<String>,
    /// How many modules it stands in.
    depth: usize,
    in_test: bool,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |file: PathBuf| {
        let text = fs::read_to_string(&file).expect("a readable source file");
        Source::new(file.strip_prefix(&root).expect("a file under src"), &text)
    };
    rust_files(&root).into_iter().map(read).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).expect("a readable folder").map(|entry| entry.expect("an entry").path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs"));
    files.chain(folders.iter().flat_map(|folder| rust_files(folder))).collect()
}

impl Source {
    /// `file` is relative to `src`.
    fn new(file: &Path, text: &str) -> Self {
        let mut modules: Vec<String> =
            file.with_extension("").iter().map(|name| name.to_string_lossy().into_owned()).collect();
        let part = modules[0].clone();
        modules.retain(|name| !["mod", "main", "lib"].contains(&name.as_str()));
        Source { file: file.into(), part, paths: paths(&tokens(text), modules.len()) }
    }

    fn wrong_imports(&self) -> Vec<String> {
        let allowed = MAY_IMPORT.iter().find(|(part, _)| *part == self.part).map(|(_, allowed)| *allowed);
        let Some(allowed) = allowed else {
            return vec![format!("{}: no layer is called {}", self.file.display(), self.part)];
        };
        let imported = self.paths.iter().filter_map(FoundPath::imported_part);
        let wrong = imported.filter(|part| *part != self.part && !allowed.contains(part));
        wrong.map(|part| format!("{}: {} may not import {part}", self.file.display(), self.part)).collect()
    }

    fn impurities(&self) -> Vec<String> {
        let code = self.paths.iter().filter(|path| !path.in_test);
        let impure = code.filter(|path| IMPURE.iter().any(|impure| path.contains(impure)));
        impure.map(|path| format!("{}: {}", self.file.display(), path.segments.join("::"))).collect()
    }
}

impl FoundPath {
    /// The part of this crate that the path leads into, if it comes from its root.
    fn imported_part(&self) -> Option<&str> {
        let segments: Vec<&str> =
            self.segments.iter().map(String::as_str).skip_while(|name| *name == "self").collect();
        let ups = segments.iter().take_while(|name| **name == "super").count();
        let from_root = match segments.first() {
            Some(&"crate" | &"wansplit") => 1,
            Some(&"super") if ups == self.depth => ups,
            _ => return None,
        };
        segments.get(from_root).copied()
    }

    fn contains(&self, part: &[&str]) -> bool {
        self.segments.windows(part.len()).any(|window| window == part)
    }
}

/// All paths in the tokens of a file that is `depth` modules deep, `use` trees spread out.
fn paths(tokens: &[String], depth: usize) -> Vec<FoundPath> {
    let mut found = Vec::new();
    // Of the inline modules around us: the number of braces open outside, and whether it is a test.
    let mut modules: Vec<(usize, bool)> = Vec::new();
    let (mut braces, mut place) = (0, 0);
    while let Some(token) = tokens.get(place) {
        match token.as_str() {
            "mod" if tokens.get(place + 2).is_some_and(|next| next == "{") => {
                modules.push((braces, follows_cfg_test(&tokens[..place])));
            }
            "{" => braces += 1,
            "}" => {
                braces -= 1;
                modules.pop_if(|(outside, _)| *outside == braces);
            }
            _ if begins_path(tokens, place) => {
                let mut spread = Vec::new();
                place = spread_tree(tokens, place, &mut Vec::new(), &mut spread);
                let in_test = modules.iter().any(|(_, test)| *test);
                let depth = depth + modules.len();
                found.extend(spread.into_iter().map(|segments| FoundPath { segments, depth, in_test }));
                continue;
            }
            _ => {}
        }
        place += 1;
    }
    found
}

fn follows_cfg_test(before: &[String]) -> bool {
    before.ends_with(&["#", "[", "cfg", "(", "test", ")", "]"].map(String::from))
}

/// A word with `::` behind it and none before.
fn begins_path(tokens: &[String], place: usize) -> bool {
    let is_separator =
        |place: Option<usize>| place.and_then(|place| tokens.get(place)).is_some_and(|token| token == "::");
    is_word(&tokens[place]) && is_separator(Some(place + 1)) && !is_separator(place.checked_sub(1))
}

/// Spreads `a::{b, c::d}` into `a::b` and `a::c::d`; returns the place behind it.
fn spread_tree(
    tokens: &[String],
    mut place: usize,
    path: &mut Vec<String>,
    out: &mut Vec<Vec<String>>,
) -> usize {
    let before = path.len();
    while let Some(token) = tokens.get(place).filter(|token| is_word(token) || *token == "*") {
        path.push(token.clone());
        place += 1;
        if tokens.get(place).is_none_or(|next| next != "::") {
            break;
        }
        place += 1;
    }
    if tokens.get(place).is_some_and(|token| token == "{") && tokens[place - 1] == "::" {
        place = spread_group(tokens, place + 1, path, out);
    } else {
        out.push(path.clone());
    }
    path.truncate(before);
    place
}

/// The inside of braces of a `use` tree; returns the place behind the closing one.
fn spread_group(
    tokens: &[String],
    mut place: usize,
    path: &mut Vec<String>,
    out: &mut Vec<Vec<String>>,
) -> usize {
    while let Some(token) = tokens.get(place) {
        match token.as_str() {
            "}" => return place + 1,
            "as" => place += 2,
            token if is_word(token) => place = spread_tree(tokens, place, path, out),
            _ => place += 1,
        }
    }
    place
}

fn is_word(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Words, `::` and single signs; comments and what is in quotes left out.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => block_comment(rest),
            '"' => quoted(rest),
            '\'' => character(rest),
            _ if raw_string(rest).is_some() => raw_string(rest).unwrap_or(1),
            _ => {
                let length = token(rest, first);
                tokens.push(rest[..length].to_string());
                length
            }
        };
        rest = &rest[length..];
    }
    tokens.retain(|token| !token.trim().is_empty());
    tokens
}

fn token(rest: &str, first: char) -> usize {
    match first {
        ':' if rest.starts_with("::") => 2,
        _ if first.is_alphanumeric() || first == '_' => {
            rest.find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(rest.len())
        }
        _ => first.len_utf8(),
    }
}

fn block_comment(rest: &str) -> usize {
    let mut open = 0_usize;
    for (place, _) in rest.char_indices() {
        if rest[place..].starts_with("/*") {
            open += 1;
        } else if rest[place..].starts_with("*/") {
            open -= 1;
            if open == 0 {
                return place + 2;
            }
        }
    }
    rest.len()
}

fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (place, sign) in rest.char_indices().skip(1) {
        match sign {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return place + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character in quotes, or the quote of a lifetime.
fn character(rest: &str) -> usize {
    let mut signs = rest.char_indices().skip(1);
    match (signs.next(), signs.next()) {
        (Some((_, '\\')), Some((escaped, _))) => {
            rest[escaped + 1..].find('\'').map_or(rest.len(), |place| escaped + 1 + place + 1)
        }
        (Some(_), Some((end, '\''))) => end + 1,
        _ => 1,
    }
}

/// The length of a raw string (`r"…"`, `br#"…"#`) that `rest` begins with.
fn raw_string(rest: &str) -> Option<usize> {
    let behind = ["r", "br", "cr"].iter().find_map(|prefix| rest.strip_prefix(prefix))?;
    let inside = behind.trim_start_matches('#').strip_prefix('"')?;
    let hashes = behind.len() - inside.len() - 1;
    let end = format!("\"{}", "#".repeat(hashes));
    let close = inside.find(&end).map_or(inside.len(), |place| place + end.len());
    Some(rest.len() - inside.len() + close)
}
