//! [`Memory`]: a bounded, shared memory that forgets the oldest first.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::quality::RandomState;

use super::flow::Millis;

/// Shards, so that workers seldom wait for each other.
const SHARDS: usize = 64;

/// Values by key, in shards that are chosen by an address: whoever floods the memory
/// under one address pushes out only what is in the same shard.
#[derive(Debug)]
pub struct Memory<K, V> {
    shards: Vec<Mutex<Generations<K, V>>>,
    /// Entries of one generation of one shard.
    capacity: usize,
    hasher: RandomState,
}

/// When the young are as many as may be, they become the old, and the old are forgotten:
/// no entry is ever searched for.
#[derive(Debug)]
struct Generations<K, V> {
    young: Entries<K, V>,
    old: Entries<K, V>,
}

type Entries<K, V> = HashMap<K, Entry<V>, RandomState>;

#[derive(Debug)]
struct Entry<V> {
    value: V,
    until: Millis,
}

impl<K: Hash + Eq, V> Memory<K, V> {
    /// Room for about so many values, at least a few per shard.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let hasher = RandomState::default();
        let empty = || {
            let map = || HashMap::with_hasher(hasher.clone());
            Mutex::new(Generations { young: map(), old: map() })
        };
        let shards = std::iter::repeat_with(empty).take(SHARDS).collect();
        Memory { shards, capacity: (capacity / SHARDS / 2).max(8), hasher }
    }

    /// Keeps a value until that time, in place of an older one.
    pub fn keep(&self, shard: IpAddr, key: K, value: V, until: Millis) {
        let mut generations = self.shard(shard);
        if generations.young.len() >= self.capacity && !generations.young.contains_key(&key) {
            let empty = HashMap::with_hasher(self.hasher.clone());
            generations.old = std::mem::replace(&mut generations.young, empty);
        }
        generations.young.insert(key, Entry { value, until });
    }

    /// What `read` makes of a value that is still good.
    pub fn find<T>(&self, shard: IpAddr, key: &K, now: Millis, read: impl FnOnce(&V) -> T) -> Option<T> {
        let generations = self.shard(shard);
        let entry = generations.young.get(key).or_else(|| generations.old.get(key))?;
        (entry.until > now).then(|| read(&entry.value))
    }

    /// What `read` makes of every value that is still good and of the time it has left. The older
    /// ones come first, so that a memory they are kept in again forgets them first.
    #[must_use]
    pub fn entries<T>(&self, now: Millis, read: impl Fn(&K, &V, Duration) -> T) -> Vec<T> {
        let (mut old, mut young) = (Vec::new(), Vec::new());
        for shard in &self.shards {
            let generations = whole(shard);
            let replaced = |key: &K| generations.young.contains_key(key);
            let not_replaced = good(&generations.old, now).filter(|(key, ..)| !replaced(key));
            old.extend(not_replaced.map(|(key, value, left)| read(key, value, left)));
            young.extend(good(&generations.young, now).map(|(key, value, left)| read(key, value, left)));
        }
        old.append(&mut young);
        old
    }

    fn shard(&self, address: IpAddr) -> MutexGuard<'_, Generations<K, V>> {
        whole(&self.shards[self.shard_of(address)])
    }

    pub(super) fn shard_of(&self, address: IpAddr) -> usize {
        self.hasher.hash_one(address) as usize % SHARDS
    }
}

/// The time that is left of so many seconds when `passed` is over: none where they are over too, or
/// were more than `most`.
#[must_use]
pub fn time_left(seconds: u64, most: Duration, passed: Duration) -> Option<Duration> {
    let before = Some(Duration::from_secs(seconds)).filter(|before| *before <= most)?;
    before.checked_sub(passed).filter(|left| !left.is_zero())
}

/// A thread that panics while it inserts leaves maps that are whole.
fn whole<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn good<K, V>(map: &Entries<K, V>, now: Millis) -> impl Iterator<Item = (&K, &V, Duration)> {
    let good = map.iter().filter(move |(_, entry)| entry.until > now);
    good.map(move |(key, entry)| (key, &entry.value, Duration::from_millis(entry.until.0 - now.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1000);

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn get(memory: &Memory<u32, u32>, shard: u8, key: u32, now: Millis) -> Option<u32> {
        memory.find(ip(shard), &key, now, |value| *value)
    }

    #[test]
    fn a_value_is_found_until_its_time_is_over() {
        let memory = Memory::new(1000);
        memory.keep(ip(1), 7, 70, Millis(2000));
        assert_eq!(get(&memory, 1, 7, NOW), Some(70));
        assert_eq!(get(&memory, 1, 7, Millis(2000)), None);
        memory.keep(ip(1), 7, 71, Millis(3000));
        assert_eq!(get(&memory, 1, 7, Millis(2000)), Some(71));
    }

    #[test]
    fn the_entries_are_those_that_are_still_good_each_once_with_the_time_it_has_left() {
        let memory = Memory::new(0);
        for (key, value, until) in [(7, 70, 9000), (8, 80, 500), (9, 90, 9000)] {
            memory.keep(ip(1), key, value, Millis(until));
        }
        // The least room: eight to a generation.
        for filler in 100..105 {
            memory.keep(ip(1), filler, 0, NOW);
        }
        memory.keep(ip(1), 7, 71, Millis(4000));
        memory.keep(ip(1), 9, 91, NOW);
        let entries = memory.entries(NOW, |&key, &value, left| (key, value, left));
        assert_eq!(entries, [(7, 71, Duration::from_secs(3))]);
    }

    #[test]
    fn older_entries_come_first_and_are_the_first_to_be_forgotten_again() {
        let (memory, again) = (Memory::new(0), Memory::new(0));
        for key in 0..12 {
            memory.keep(ip(1), key, key, Millis(2000));
        }
        let entries = memory.entries(NOW, |&key, &value, _| (key, value));
        assert!(entries[..8].iter().all(|(key, _)| *key < 8), "{entries:?}");
        assert_eq!(entries.len(), 12);
        for (key, value) in entries.into_iter().chain((20..24).map(|key| (key, key))) {
            again.keep(ip(1), key, value, Millis(2000));
        }
        assert!((8..12).all(|key| get(&again, 1, key, NOW) == Some(key)));
        again.keep(ip(1), 30, 30, Millis(2000));
        assert_eq!(get(&again, 1, 0, NOW), None);
    }

    #[test]
    fn a_flood_under_one_address_pushes_out_its_own_oldest_and_nothing_else() {
        let memory = Memory::new(64 * 2 * 16);
        let others: Vec<u8> =
            (1..=255).filter(|&last| memory.shard_of(ip(last)) != memory.shard_of(ip(0))).collect();
        for &other in &others[..10] {
            memory.keep(ip(other), other.into(), 1, Millis(u64::MAX));
        }
        for key in 1000..11_000 {
            memory.keep(ip(0), key, 2, Millis(u64::MAX));
        }
        assert!(others[..10].iter().all(|&other| get(&memory, other, other.into(), NOW) == Some(1)));
        assert_eq!(get(&memory, 0, 1000, NOW), None);
        assert!((11_000 - 16..11_000).all(|key| get(&memory, 0, key, NOW) == Some(2)));
        let kept = (1000..11_000).filter(|&key| get(&memory, 0, key, NOW).is_some()).count();
        assert!(kept <= 2 * 16, "{kept}");
    }
}
