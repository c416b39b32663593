//! The first bytes of one direction of a TCP connection, put together from its segments.

pub use super::pieces::Placed;
use super::pieces::{self, Pieces};

/// What one side of a TCP connection has sent so far: segments in any order, repeated and
/// overlapping ones too (RFC 9293, section 3.4). It keeps at most [`StreamAssembly::MOST`] bytes
/// and at most 63 gaps, and allocates nothing before the first byte.
#[derive(Debug, Default)]
pub struct StreamAssembly {
    /// Sequence number of the first byte, once it is known.
    start: Option<u32>,
    pieces: Pieces<Vec<u8>>,
}

impl StreamAssembly {
    /// Bytes that are kept at most: those behind them are not needed to know what a flow is.
    pub const MOST: usize = pieces::MOST;

    /// A stream whose SYN was seen, with its sequence number. Without one
    /// ([`StreamAssembly::default`]) the first segment with a payload is taken for the beginning.
    #[must_use]
    pub fn after_syn(syn: u32) -> Self {
        StreamAssembly { start: Some(syn.wrapping_add(1)), ..StreamAssembly::default() }
    }

    /// Takes a segment's payload; `seq` is the sequence number of the payload's first byte (behind
    /// a SYN with data it is one more than the segment's).
    pub fn push(&mut self, seq: u32, payload: &[u8]) -> Placed {
        if payload.is_empty() {
            return Placed::Dropped;
        }
        let start = *self.start.get_or_insert(seq);
        match seq.wrapping_sub(start).cast_signed() {
            ahead @ 0.. => self.pieces.place(ahead.unsigned_abs() as usize, payload),
            behind => {
                let ours = payload.get(behind.unsigned_abs() as usize..).unwrap_or_default();
                self.pieces.place(0, ours)
            }
        }
    }

    /// The bytes that follow each other from the beginning.
    #[must_use]
    pub fn contiguous(&self) -> &[u8] {
        self.pieces.contiguous()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_byte_is_the_one_behind_the_syn() {
        let mut stream = StreamAssembly::after_syn(999);
        assert_eq!(stream.push(1003, b"defg"), Placed::Apart);
        assert_eq!(stream.contiguous(), b"");
        assert_eq!(stream.push(1000, b"abcd"), Placed::Grew);
        assert_eq!(stream.contiguous(), b"abcdefg");
    }

    #[test]
    fn without_a_syn_the_first_payload_is_the_beginning() {
        let mut stream = StreamAssembly::default();
        assert_eq!(stream.push(4, b""), Placed::Dropped);
        stream.push(5, b"ab");
        stream.push(7, b"cd");
        assert_eq!(stream.contiguous(), b"abcd");
    }

    #[test]
    fn bytes_before_the_beginning_are_not_taken() {
        let mut stream = StreamAssembly::after_syn(99);
        assert_eq!(stream.push(90, b"0123456789"), Placed::Dropped);
        assert_eq!(stream.push(98, b"xxab"), Placed::Grew);
        assert_eq!(stream.push(100 + (1 << 31), b"far"), Placed::Dropped);
        assert_eq!(stream.contiguous(), b"ab");
    }

    #[test]
    fn a_stream_may_run_over_the_end_of_the_sequence_numbers() {
        let mut stream = StreamAssembly::after_syn(u32::MAX - 2);
        stream.push(1, b"def");
        stream.push(u32::MAX - 1, b"abc");
        assert_eq!(stream.contiguous(), b"abcdef");
        let mut stream = StreamAssembly::after_syn(u32::MAX);
        stream.push(0, b"abc");
        assert_eq!(stream.contiguous(), b"abc");
    }

    proptest! {
        #[test]
        fn a_stream_cut_anywhere_and_shuffled_is_the_same(
            all in proptest::collection::vec(any::<u8>(), 1..4000),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..15),
            syn in any::<u32>(),
            order in Just((0..16).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let cuts: Vec<_> = cuts.iter().map(|cut| cut.index(all.len())).collect();
            let segments = cut(&all, &cuts);
            let mut stream = StreamAssembly::after_syn(syn);
            for (at, segment) in order.iter().filter_map(|&place| segments.get(place)) {
                let seq = syn.wrapping_add(1).wrapping_add(*at as u32);
                stream.push(seq, segment);
                stream.push(seq, segment);
            }
            prop_assert_eq!(stream.contiguous(), all);
        }
    }

    fn cut<'a>(all: &'a [u8], cuts: &[usize]) -> Vec<(usize, &'a [u8])> {
        let mut cuts = [cuts, &[0, all.len()]].concat();
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| (pair[0], &all[pair[0]..pair[1]])).collect()
    }
}
