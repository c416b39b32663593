//! What the sniffers share: numbers, words and lines at the beginning of hostile bytes.

use super::Sniffed;

/// The 16-bit big-endian number at a place.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The 32-bit big-endian number at a place.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Whether the byte at a place has this value, or has not come yet.
pub(super) fn may_be(bytes: &[u8], at: usize, value: u8) -> bool {
    bytes.get(at).is_none_or(|&byte| byte == value)
}

/// What follows one of these words, with which the bytes must begin.
pub(super) fn after<'a>(bytes: &'a [u8], words: &[&[u8]]) -> Sniffed<&'a [u8]> {
    after_word(bytes, words, |ours, theirs| ours == theirs)
}

/// The same, whether in capital letters or in small ones.
pub(super) fn after_any_case<'a>(bytes: &'a [u8], words: &[&[u8]]) -> Sniffed<&'a [u8]> {
    after_word(bytes, words, <[u8]>::eq_ignore_ascii_case)
}

/// The first line without its end, and what follows. Its end is LF, with CR before it or not.
pub(super) fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let (line, rest) = bytes.split_at_checked(end)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), rest.get(1..)?))
}

fn after_word<'a>(
    bytes: &'a [u8],
    words: &[&[u8]],
    same: impl Fn(&[u8], &[u8]) -> bool,
) -> Sniffed<&'a [u8]> {
    let mut answer = Sniffed::NotMine;
    for word in words {
        match bytes.split_at_checked(word.len()) {
            Some((start, rest)) if same(start, word) => return Sniffed::Certain(rest),
            None if word.get(..bytes.len()).is_some_and(|start| same(bytes, start)) => {
                answer = Sniffed::NeedMore;
            }
            _ => {}
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_there_or_may_come_or_will_not() {
        let words: &[&[u8]] = &[b"AUTH ", b"AUTHOR"];
        assert_eq!(after(b"AUTH x", words), Sniffed::Certain(b"x".as_slice()));
        assert_eq!(after(b"AUTHOR", words), Sniffed::Certain(b"".as_slice()));
        assert_eq!(after(b"AUTH", words), Sniffed::NeedMore);
        assert_eq!(after(b"", words), Sniffed::NeedMore);
        assert_eq!(after(b"auth x", words), Sniffed::NotMine);
        assert_eq!(after_any_case(b"auth x", words), Sniffed::Certain(b"x".as_slice()));
    }

    #[test]
    fn a_line_ends_with_lf_and_perhaps_cr() {
        assert_eq!(split_line(b"a\r\nb"), Some((b"a".as_slice(), b"b".as_slice())));
        assert_eq!(split_line(b"a\nb"), Some((b"a".as_slice(), b"b".as_slice())));
        assert_eq!(split_line(b"\n"), Some((b"".as_slice(), b"".as_slice())));
        assert_eq!(split_line(b"a\r"), None);
    }
}
