//! `geosite.dat` and `geoip.dat`: many lists in one file, each under a category. They are messages of
//! Protocol Buffers (<https://protobuf.dev/programming-guides/encoding/>), of which these fields count
//! (v2ray-core, `app/router/routercommon/common.proto`):
//!
//! ```text
//! file      1 category*
//! category  1 code, 2 (domain | net)*, 3 inverse_match (of nets: all others are meant)
//! domain    1 type (0 keyword, 1 expression, 2 name and those under it, 3 name), 2 value, 3 attribute*
//! attribute 1 key
//! net       1 address, 2 prefix length
//! ```

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::reader::{nearest, quoted};
use super::entries::{Entries, Unused};
use crate::engine::rule::hosts::Reach;

/// Adds one category, or those of its names that have an attribute: `netflix`, `netflix@cn`.
pub(super) fn read(bytes: &[u8], category: Option<&str>, entries: &mut Entries) {
    let Some(category) = category else {
        let hint = "expected its category behind the name, like \"geosite.dat:netflix\"";
        return entries.refuse("a `.dat` file holds many lists", hint);
    };
    let (code, attribute) =
        category.split_once('@').map_or((category, None), |(code, key)| (code, Some(key)));
    let outcome = find(bytes, code).and_then(|found| match found {
        Some(items) => read_category(items, attribute, entries),
        None => refuse_category(bytes, code, entries),
    });
    if outcome.is_err() {
        entries.refuse("it is damaged", "expected a `geosite.dat` or a `geoip.dat`");
    }
}

/// The message of a category.
fn find<'a>(mut file: &'a [u8], wanted: &str) -> Result<Option<&'a [u8]>, Damaged> {
    while let Some(field) = next_field(&mut file)? {
        if let (1, Field::Bytes(category)) = field
            && code(category)?.eq_ignore_ascii_case(wanted)
        {
            return Ok(Some(category));
        }
    }
    Ok(None)
}

fn code(mut category: &[u8]) -> Result<&str, Damaged> {
    while let Some(field) = next_field(&mut category)? {
        if let (1, Field::Bytes(code)) = field {
            return str::from_utf8(code).map_err(|_| Damaged);
        }
    }
    Ok("")
}

fn refuse_category(mut file: &[u8], wanted: &str, entries: &mut Entries) -> Result<(), Damaged> {
    let mut known = Vec::new();
    while let Some(field) = next_field(&mut file)? {
        if let (1, Field::Bytes(category)) = field {
            known.push(code(category)?.to_ascii_lowercase());
        }
    }
    let hint = match nearest(wanted, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("expected one of its {} categories", known.len()),
    };
    entries.refuse(format!("it has no category {}", quoted(wanted)), hint);
    Ok(())
}

fn read_category(mut category: &[u8], attribute: Option<&str>, entries: &mut Entries) -> Result<(), Damaged> {
    while let Some(field) = next_field(&mut category)? {
        match field {
            (2, Field::Bytes(item)) => read_item(item, attribute, entries)?,
            (3, Field::Number(1..)) => {
                entries.refuse(
                    "the category means all nets but its own",
                    "use it under `not`, as a list of nets",
                );
            }
            _ => {}
        }
    }
    Ok(())
}

/// A domain or a net. The first field tells which: a domain's is a number, or missing if that is 0.
fn read_item(mut item: &[u8], attribute: Option<&str>, entries: &mut Entries) -> Result<(), Damaged> {
    let (mut kind, mut value, mut address, mut length) = (0, None, None, 0);
    let mut wanted = attribute.is_none();
    while let Some(field) = next_field(&mut item)? {
        match field {
            (1, Field::Number(number)) => kind = number,
            (1, Field::Bytes(bytes)) => address = Some(bytes),
            (2, Field::Number(number)) => length = number,
            (2, Field::Bytes(bytes)) => value = Some(str::from_utf8(bytes).map_err(|_| Damaged)?),
            (3, Field::Bytes(bytes)) => wanted |= Some(code(bytes)?) == attribute,
            _ => {}
        }
    }
    match (address, value) {
        _ if !wanted => {}
        (Some(address), _) => entries.net(net(address, length).ok_or(Damaged)?),
        (None, value) => add_domain(kind, value.ok_or(Damaged)?, entries),
    }
    Ok(())
}

fn add_domain(kind: u64, value: &str, entries: &mut Entries) {
    let outcome = match kind {
        0 => entries.keyword(value),
        1 => entries.expression(value),
        2 => entries.name(value, Reach::Both),
        3 => entries.name(value, Reach::Itself),
        _ => Err(Unused::Skipped),
    };
    if let Err(unused) = outcome {
        entries.unused(0..0, value, unused);
    }
}

fn net(address: &[u8], length: u64) -> Option<IpNet> {
    let address = match address.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
    };
    IpNet::new(address, u8::try_from(length).ok()?).ok()
}

/// These bytes are no message.
struct Damaged;

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Eight or four bytes; none of those that count.
    Fixed,
}

/// The next field of a message and its number; `None` at the end.
fn next_field<'a>(message: &mut &'a [u8]) -> Result<Option<(u64, Field<'a>)>, Damaged> {
    if message.is_empty() {
        return Ok(None);
    }
    let tag = varint(message)?;
    let field = match tag & 7 {
        0 => Field::Number(varint(message)?),
        1 => take(message, 8).map(|_| Field::Fixed)?,
        2 => {
            let length = varint(message)?;
            Field::Bytes(take(message, length)?)
        }
        5 => take(message, 4).map(|_| Field::Fixed)?,
        _ => return Err(Damaged),
    };
    Ok(Some((tag >> 3, field)))
}

fn take<'a>(message: &mut &'a [u8], length: u64) -> Result<&'a [u8], Damaged> {
    let length = usize::try_from(length).map_err(|_| Damaged)?;
    let (taken, rest) = message.split_at_checked(length).ok_or(Damaged)?;
    *message = rest;
    Ok(taken)
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn varint(message: &mut &[u8]) -> Result<u64, Damaged> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first().ok_or(Damaged)?;
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Damaged)
}
