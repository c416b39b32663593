//! Bytes that arrive in pieces, in any order, put at their places.

/// Bytes that are kept at most, counted from the beginning.
pub(super) const MOST: usize = 16 * 1024;

/// Pieces that may lie apart from each other: the first and those behind gaps. Browsers cut a ClientHello
/// into ten or so and shuffle them.
const RUNS: usize = 64;

/// What has arrived of a row of bytes.
#[derive(Debug)]
pub(super) struct Pieces<S> {
    store: S,
    runs: [Run; RUNS],
}

/// Where pieces keep their bytes.
pub(super) trait Store: Default {
    /// Bytes there can be, at most [`MOST`].
    const ROOM: usize;

    /// The first `end` bytes; `end` is at most [`Store::ROOM`].
    fn until(&mut self, end: usize) -> &mut [u8];

    /// All bytes that were asked for.
    fn bytes(&self) -> &[u8];
}

/// What became of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// More bytes follow each other from the beginning.
    Grew,
    /// It is kept behind a gap.
    Apart,
    /// It brought nothing, or there is no room for it.
    Dropped,
}

/// Bytes of which all have arrived: `start` up to and without `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    start: usize,
    end: usize,
}

/// It touches no other run.
const UNUSED: Run = Run { start: usize::MAX, end: usize::MAX };

impl<S: Store> Pieces<S> {
    /// Puts a piece to its place, `at` bytes behind the beginning. Bytes that already followed the
    /// beginning stay as they were, and what lies behind [`Store::ROOM`] is cut off.
    pub(super) fn place(&mut self, at: usize, piece: &[u8]) -> Placed {
        let known = self.reach();
        let start = at.max(known);
        let new = piece.get(start - at..).unwrap_or_default();
        let end = start.saturating_add(new.len()).min(S::ROOM);
        if start >= end || !self.note(Run { start, end }) {
            return Placed::Dropped;
        }
        self.store.until(end)[start..].copy_from_slice(&new[..end - start]);
        if self.reach() > known { Placed::Grew } else { Placed::Apart }
    }

    /// The bytes that follow each other from the beginning.
    pub(super) fn contiguous(&self) -> &[u8] {
        self.store.bytes().get(..self.reach()).unwrap_or_default()
    }

    fn reach(&self) -> usize {
        self.runs.iter().find(|run| run.start == 0).map_or(0, |run| run.end)
    }

    /// Joins a run with those that it touches; false if it touches none and there are too many.
    fn note(&mut self, mut new: Run) -> bool {
        for run in &mut self.runs {
            if run.start <= new.end && new.start <= run.end {
                new = Run { start: run.start.min(new.start), end: run.end.max(new.end) };
                *run = UNUSED;
            }
        }
        let Some(free) = self.runs.iter_mut().find(|run| **run == UNUSED) else { return false };
        *free = new;
        true
    }
}

impl<S: Store> Default for Pieces<S> {
    fn default() -> Self {
        Pieces { store: S::default(), runs: [UNUSED; RUNS] }
    }
}

/// As long as the bytes need it.
impl Store for Vec<u8> {
    const ROOM: usize = MOST;

    fn until(&mut self, end: usize) -> &mut [u8] {
        if self.len() < end {
            self.resize(end, 0);
        }
        &mut self[..end]
    }

    fn bytes(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|at| (at * 7 % 251) as u8).collect()
    }

    #[test]
    fn pieces_in_reverse_order_follow_each_other_once_the_first_is_there() {
        let all = bytes(100);
        let mut pieces = Pieces::<Vec<u8>>::default();
        assert_eq!(pieces.place(60, &all[60..]), Placed::Apart);
        assert_eq!(pieces.place(20, &all[20..60]), Placed::Apart);
        assert_eq!(pieces.contiguous(), b"");
        assert_eq!(pieces.place(0, &all[..20]), Placed::Grew);
        assert_eq!(pieces.contiguous(), all);
    }

    #[test]
    fn bytes_that_followed_the_beginning_are_not_written_again() {
        let mut pieces = Pieces::<Vec<u8>>::default();
        pieces.place(0, b"abc");
        assert_eq!(pieces.place(0, b"xyz"), Placed::Dropped);
        assert_eq!(pieces.place(1, b"xyz"), Placed::Grew);
        assert_eq!(pieces.contiguous(), b"abcz");
    }

    #[test]
    fn no_more_than_sixty_three_gaps_are_kept() {
        let mut pieces = Pieces::<Vec<u8>>::default();
        for at in 0..64 {
            assert_ne!(pieces.place(at * 10, b"x"), Placed::Dropped);
        }
        assert_eq!(pieces.place(900, b"x"), Placed::Dropped);
        assert_eq!(pieces.place(631, b"x"), Placed::Apart);
        assert_eq!(pieces.place(1, &[b'y'; 700]), Placed::Grew);
        assert_eq!(pieces.contiguous().len(), 701);
        assert_eq!(pieces.place(900, b"x"), Placed::Apart);
    }

    #[test]
    fn what_lies_behind_the_room_is_cut_off() {
        let mut pieces = Pieces::<Vec<u8>>::default();
        assert_eq!(pieces.place(MOST, b"x"), Placed::Dropped);
        assert_eq!(pieces.place(usize::MAX, b"x"), Placed::Dropped);
        assert_eq!(pieces.place(usize::MAX - 1, b"xyz"), Placed::Dropped);
        assert_eq!(pieces.place(1, &bytes(MOST)), Placed::Apart);
        assert_eq!(pieces.place(0, &bytes(MOST)), Placed::Grew);
        assert_eq!(pieces.contiguous().len(), MOST);
    }

    proptest! {
        #[test]
        fn whatever_follows_the_beginning_is_what_was_sent(
            ranges in proptest::collection::vec((0..400_usize, 0..60_usize), 0..60),
        ) {
            let all = bytes(500);
            let mut pieces = Pieces::<Vec<u8>>::default();
            let mut sent = [false; 500];
            for (at, length) in ranges {
                if pieces.place(at, &all[at..at + length]) != Placed::Dropped {
                    sent[at..at + length].fill(true);
                }
                let known = pieces.contiguous();
                prop_assert_eq!(known, &all[..known.len()]);
                prop_assert_eq!(known.len(), sent.iter().take_while(|&&there| there).count());
            }
        }
    }
}
