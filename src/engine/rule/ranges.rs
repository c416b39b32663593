//! Sets of numbers, stored for quick asking: [`Ranges`] and [`ByteSet`].

/// A set of numbers as sorted ranges that do not overlap; asked in logarithmic time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges<T>(Box<[(T, T)]>);

impl<T: Ord + Copy> Ranges<T> {
    /// The numbers in any of `ranges`, each from its first to its last number.
    pub(super) fn new(ranges: impl Iterator<Item = (T, T)>) -> Self {
        let mut sorted: Vec<(T, T)> = ranges.filter(|(first, last)| first <= last).collect();
        sorted.sort_unstable();
        sorted.dedup_by(|next, kept| {
            let overlap = next.0 <= kept.1;
            if overlap {
                kept.1 = kept.1.max(next.1);
            }
            overlap
        });
        Ranges(sorted.into())
    }

    /// The ranges, each as its first and its last number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (T, T)> {
        self.0.iter().copied()
    }

    pub(super) fn contains(&self, number: T) -> bool {
        let begun = self.0.partition_point(|(first, _)| *first <= number);
        begun.checked_sub(1).is_some_and(|place| number <= self.0[place].1)
    }
}

/// A set of numbers below 256, one bit each.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ByteSet([u64; 4]);

impl ByteSet {
    pub(super) fn contains(self, number: u8) -> bool {
        self.0[usize::from(number / 64)] >> (number % 64) & 1 != 0
    }
}

impl FromIterator<u8> for ByteSet {
    fn from_iter<I: IntoIterator<Item = u8>>(numbers: I) -> Self {
        let mut set = ByteSet::default();
        for number in numbers {
            set.0[usize::from(number / 64)] |= 1 << (number % 64);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_hold_what_any_of_them_holds(ranges in proptest::collection::vec((0..40_u8, 0..40_u8), 0..12)) {
            let set = Ranges::new(ranges.iter().copied());
            for number in 0..=255 {
                let expected = ranges.iter().any(|(first, last)| (*first..=*last).contains(&number));
                prop_assert_eq!(set.contains(number), expected, "{} in {:?}", number, set);
            }
        }

        #[test]
        fn a_byte_set_holds_what_was_put_in(numbers in proptest::collection::vec(any::<u8>(), 0..20)) {
            let set: ByteSet = numbers.iter().copied().collect();
            for number in 0..=255 {
                prop_assert_eq!(set.contains(number), numbers.contains(&number));
            }
        }
    }
}
