//! `[marks]`: which bits are ours, and each uplink's value in them.

use std::collections::HashMap;

use toml::Spanned;

use super::reader::{Fault, Read, Section, Value};
use super::uplinks::Written;
use super::values::bits;
use crate::engine::uplink::UplinkId;
use crate::engine::verdict::Marks;

/// Room for 255 uplinks in the lowest byte, which most other software leaves alone.
const DEFAULT_MASK: u32 = 0xff;

/// Reads the mask and the flag bits, and gives every uplink its value.
pub(super) fn read(section: Section, ids: &[UplinkId], uplinks: &[Written]) -> Marks {
    let absent = section.value("mask").is_none();
    let written = section.optional("mask", bits);
    let mask = written.or(absent.then(|| Spanned::new(section.span(), DEFAULT_MASK)));
    // A mask that was refused: nothing can be said about the rest.
    let mask = mask.unwrap_or(Spanned::new(section.span(), u32::MAX >> 2));
    let (decided, watched) = flags(&section, &mask);
    let (values, refused) = values(&section, &mask, ids, uplinks);
    let marks = Marks { mask: *mask.get_ref(), decided, watched, values, refused };
    section.finish();
    marks
}

/// How many uplinks the mask has values for, where it is a mask: one value is for what is refused.
pub(super) fn room(section: &Section) -> usize {
    let mask = section.value("mask").and_then(|value| bits(value).ok()).unwrap_or(DEFAULT_MASK);
    (u32::MAX >> mask.count_zeros()).saturating_sub(1) as usize
}

/// The flag bits, each as written, or the first free one above the mask, or else below its highest bit.
fn flags(section: &Section, mask: &Spanned<u32>) -> (u32, u32) {
    if mask.get_ref().count_zeros() < 2 {
        let hint = "expected at least two bits left for `marks.decided` and `marks.watched`";
        let taken = if *mask.get_ref() == u32::MAX { "all" } else { "31 of" };
        section.report().error(mask.span(), format!("the mask takes {taken} 32 bits"), hint);
    }
    let bits = *mask.get_ref();
    let written = section.optional("watched", |value| flag_bit(value, bits));
    let taken = bits | written.as_ref().map_or(0, |watched| *watched.get_ref());
    let decided = section.or("decided", free(bits, taken), |value| flag_bit(value, taken));
    let watched = written.map_or(free(bits, taken | decided), Spanned::into_inner);
    (decided, watched)
}

/// The first bit above the mask that is not taken, or else the highest below.
fn free(mask: u32, taken: u32) -> u32 {
    let highest = mask.ilog2();
    let mut bits = (highest + 1..32).chain((0..highest).rev()).map(|bit| 1 << bit);
    bits.find(|bit| taken & bit == 0).unwrap_or_default()
}

fn flag_bit(value: &Value, taken: u32) -> Read<u32> {
    let expected = || Fault::not_a("one single bit outside the mask, like \"0x100\"");
    let bit = bits(value).map_err(|_| expected())?;
    if bit.is_power_of_two() && bit & taken == 0 { Ok(bit) } else { Err(expected()) }
}

/// The value of each uplink, by its number: that which it names or its number counted from 1, moved into the mask;
/// and the value of what is refused: the highest that is left.
fn values(section: &Section, mask: &Spanned<u32>, ids: &[UplinkId], uplinks: &[Written]) -> (Vec<u32>, u32) {
    let most = u32::MAX >> mask.get_ref().count_zeros();
    if uplinks.len() >= most as usize {
        let message = format!("the mask is too small for {} uplinks", uplinks.len());
        let hint =
            format!("expected more bits, these have {most} values above 0, one of them for what is refused");
        section.report().error(mask.span(), message, hint);
    }
    for mark in uplinks.iter().flat_map(|uplink| &uplink.mark).filter(|mark| *mark.get_ref() > most) {
        let message = format!("mark {} does not fit into the mask", mark.get_ref());
        section.report().error(mark.span(), message, format!("expected a number from 1 to {most}"));
    }
    let numbers: Vec<u32> = ids.iter().zip(uplinks).map(|(&id, uplink)| number(id, uplink)).collect();
    report_collisions(section, &numbers, uplinks);
    let in_mask = |number| deposit(number, *mask.get_ref());
    let refused = (1..=most).rev().find(|number| !numbers.contains(number)).unwrap_or_default();
    let mut values = vec![0; ids.iter().map(|id| usize::from(id.0) + 1).max().unwrap_or(0)];
    for (id, number) in ids.iter().zip(numbers) {
        values[usize::from(id.0)] = in_mask(number);
    }
    (values, in_mask(refused))
}

fn number(id: UplinkId, uplink: &Written) -> u32 {
    uplink.mark.as_ref().map_or(u32::from(id.0) + 1, |mark| *mark.get_ref())
}

/// Two uplinks with one number: the place is the later number that was written out.
fn report_collisions(section: &Section, numbers: &[u32], uplinks: &[Written]) {
    let mut first: HashMap<u32, &Written> = HashMap::new();
    for (&number, uplink) in numbers.iter().zip(uplinks) {
        let Some(other) = first.insert(number, uplink) else { continue };
        let Some((mark, label)) = uplink
            .mark
            .as_ref()
            .map(|mark| (mark, other.label()))
            .or_else(|| other.mark.as_ref().map(|mark| (mark, uplink.label())))
        else {
            continue;
        };
        let message = format!("mark {number} belongs to uplink {label} already");
        section.report().error(
            mark.span(),
            message,
            "expected another number (default: the uplink's position)",
        );
    }
}

/// The bits of `number`, from the lowest, put where `mask` has ones, from the lowest. For a mask without
/// gaps this is a shift.
fn deposit(number: u32, mask: u32) -> u32 {
    let places = (0..32).filter(|bit| mask >> bit & 1 == 1);
    (0..32).zip(places).fold(0, |bits, (bit, place)| bits | (number >> bit & 1) << place)
}

#[cfg(test)]
mod tests {
    use super::deposit;

    #[test]
    fn a_mask_without_gaps_shifts_the_number() {
        assert_eq!(deposit(5, 0xff00), 0x500);
    }

    #[test]
    fn a_mask_with_gaps_spreads_the_number() {
        assert_eq!(deposit(0b111, 0b1010_0100), 0b1010_0100);
        assert_eq!(deposit(0b101, 0b1010_0100), 0b1000_0100);
    }
}
