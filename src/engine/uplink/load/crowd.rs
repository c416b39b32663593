//! [`Crowd`]: how many flows share a line.

use super::Both;

/// Counts the flows of one line by what each of them moved in the same short time.
///
/// A flow counts by how much of the line it takes: the count is `(Σ bytes)² / Σ bytes²` (the
/// participation ratio; Herfindahl's index turned over). `n` flows that move the same are `n`; one
/// download beside a hundred idle shells is one, and beside a call a little more. No limit need be known that tells a
/// download from a shell, and it costs two sums.
#[derive(Debug, Clone, Copy, Default)]
pub struct Crowd {
    sum: Both<f64>,
    squares: Both<f64>,
}

impl Crowd {
    /// One more flow, with the bytes that it has moved.
    pub fn add(&mut self, bytes: Both<u64>) {
        let bytes = bytes.map(|bytes| bytes as f64);
        self.sum = Both { down: self.sum.down + bytes.down, up: self.sum.up + bytes.up };
        let square = |sum: f64, bytes: f64| bytes.mul_add(bytes, sum);
        self.squares =
            Both { down: square(self.squares.down, bytes.down), up: square(self.squares.up, bytes.up) };
    }

    /// How many they are.
    #[must_use]
    pub fn flows(&self) -> Both<f64> {
        let count = |sum: f64, squares: f64| if squares > 0.0 { sum * sum / squares } else { 0.0 };
        Both { down: count(self.sum.down, self.squares.down), up: count(self.sum.up, self.squares.up) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equals_count_one_each_and_the_idle_count_nothing() {
        assert_eq!(crowd([7000; 5]).down, 5.0);
        assert_eq!(crowd([0; 5]).down, 0.0);
        assert_eq!(crowd([9_000_000, 0, 0]).down, 1.0);
    }

    #[test]
    fn a_download_beside_a_hundred_shells_is_alone() {
        let mut flows = [100; 101];
        flows[50] = 5_000_000;
        let count = crowd(flows).down;
        assert!((1.0..1.01).contains(&count), "{count}");
    }

    proptest! {
        #[test]
        fn no_more_flows_are_counted_than_there_are_nor_fewer_than_one(bytes in prop::collection::vec(1..u64::MAX, 1..100)) {
            let most = bytes.len() as f64;
            let count = crowd(bytes).down;
            prop_assert!((0.999..most * 1.001).contains(&count), "{count} of {most}");
        }
    }

    fn crowd(bytes: impl IntoIterator<Item = u64>) -> Both<f64> {
        let mut crowd = Crowd::default();
        bytes.into_iter().for_each(|down| crowd.add(Both { down, up: 0 }));
        crowd.flows()
    }
}
