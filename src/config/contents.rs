//! Readers of what rules ask about contents: names, applications, what the first bytes of a client look like.

use toml::de::DeTable;

use super::reader::{Fault, Read, Value, quoted, suggestion};
use super::values::{number, spelled, text};
use crate::engine::geo::{Asn, Country};
use crate::engine::rule::hosts::HostName;
use crate::engine::rule::model::Payload;
use crate::engine::rule::texts::{Expressions, Texts, Unusable};
use crate::engine::sniff::App;

/// Longest text that is looked for.
const LONGEST: usize = 255;
/// Longest name of a protocol that is told apart: what [`crate::engine::sniff::Alpn`] has room for.
const LONGEST_ALPN: usize = 61;

const HOST: &str =
    "a name like \"example.org\" or \"*.example.org\" (with letters beyond ASCII as \"xn--...\")";

const PAYLOAD: &str = "{ at = 0, bytes = \"16 03\" }, { contains = \"text\" } or { regex = \"...\" }";

/// A host name, or those under one.
pub(super) fn host(value: &Value) -> Read<HostName> {
    text(HOST, HostName::parse)(value)
}

/// A country.
pub(super) fn country(value: &Value) -> Read<Country> {
    text("the two letters of a country, like \"de\"", |letters| Country::new(letters.as_bytes()))(value)
}

/// The number of an autonomous system.
pub(super) fn asn(value: &Value) -> Read<Asn> {
    spelled("the number of an autonomous system, like 3320 or \"AS3320\"", Asn::parse)(value)
}

/// An application or protocol that flows are taken for.
pub(super) fn app(value: &Value) -> Read<App> {
    let word = value.get_ref().as_str().ok_or_else(|| Fault::not_a("the name of an application"))?;
    let hint = || suggestion(word, App::ALL.iter().map(|app| app.as_str()));
    App::named(word).ok_or_else(|| Fault::Refused { hint: hint() })
}

/// A protocol's ALPN id.
pub(super) fn alpn(value: &Value) -> Read<Vec<u8>> {
    let fits =
        |id: &str| (1..=LONGEST_ALPN).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    text("the name of a protocol like \"h2\", \"h3\" or \"http/1.1\"", |id| fits(id).then(|| id.into()))(
        value,
    )
}

/// An HTTP method; those of RFC 9110 are in capitals, and so are all others in use.
pub(super) fn http_method(value: &Value) -> Read<Vec<u8>> {
    let fits = |word: &str| {
        (1..=32).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
    };
    text("an HTTP method like \"GET\"", |word| fits(word).then(|| word.to_ascii_uppercase().into()))(value)
}

/// A part of a program's name for itself.
pub(super) fn user_agent(value: &Value) -> Read<Vec<u8>> {
    text("a part of a User-Agent, of 1 to 255 characters", short)(value)
}

/// One pattern for the first bytes of a client.
pub(super) enum Pattern {
    At(u16, Vec<u8>),
    Contains(Vec<u8>),
    Regex(String),
}

/// Reads [`PAYLOAD`].
pub(super) fn pattern(value: &Value) -> Read<Pattern> {
    let table = value.get_ref().as_table().ok_or_else(|| Fault::not_a(PAYLOAD))?;
    let word = |key: &str| table.get(key).and_then(|value| value.get_ref().as_str());
    let pattern = match (table.len(), word("bytes"), word("contains"), word("regex")) {
        (2, Some(bytes), None, None) => bytes_at(table, bytes),
        (1, None, Some(text), None) => short(text).map(Pattern::Contains),
        (1, None, None, Some(regex)) => return expression(regex),
        _ => None,
    };
    pattern.ok_or_else(|| Fault::not_a(PAYLOAD))
}

/// All patterns of a rule.
pub(super) fn payload(patterns: Vec<Pattern>) -> Result<Payload, Unusable> {
    let (mut at, mut contains, mut expressions) = (Vec::new(), Vec::new(), Vec::new());
    for pattern in patterns {
        match pattern {
            Pattern::At(start, bytes) => at.push((start, bytes)),
            Pattern::Contains(text) => contains.push(text),
            Pattern::Regex(regex) => expressions.push(regex),
        }
    }
    Ok(Payload { at, contains: Texts::exact(contains)?, expressions: Expressions::new(expressions)? })
}

fn bytes_at(table: &DeTable, bytes: &str) -> Option<Pattern> {
    let start = number(0..=u64::from(u16::MAX))(table.get("at")?).ok()?;
    hex(bytes).map(|bytes| Pattern::At(start, bytes))
}

/// Pairs of hexadecimal digits, perhaps with spaces between them.
fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| *c != ' ')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let (pairs, rest) = digits.as_deref()?.as_chunks::<2>();
    let fits = rest.is_empty() && (1..=LONGEST).contains(&pairs.len());
    fits.then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

fn expression(regex: &str) -> Read<Pattern> {
    let wrong = |error: Unusable| Fault::Because {
        message: format!("{} is no regular expression", quoted(regex)),
        hint: error.to_string(),
    };
    Expressions::check(regex).map_err(wrong)?;
    Ok(Pattern::Regex(regex.to_owned()))
}

fn short(text: &str) -> Option<Vec<u8>> {
    (1..=LONGEST).contains(&text.len()).then(|| text.into())
}
