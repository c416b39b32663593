//! [`FlowTable`]: one value per flow, for a fixed time or until so many newer flows have come.
//!
//! All values live equally long, so they expire in the order in which they
//! came: a ring holds them oldest first, and a hash table of ring places finds
//! them. Every new value clears at most [`SWEEP`] expired ones away, and the oldest where there
//! is no room, so no packet ever pays for a scan. Both parts are allocated once and never grow.
//!
//! A flow is known by a hash of 64 bits alone, so that the table stays near the core; it is seeded at random, because
//! the keys are chosen by strangers. Of eight thousand flows two are taken for one by less than one chance in 10¹¹, and then
//! the younger gets the elder's value.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::time::Duration;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use super::{FlowKey, Millis};

/// Expired values cleared away per new one: with one, a table full of expired
/// values would stay full; two empty it as it is used.
const SWEEP: usize = 2;

/// A bounded memory of flows.
#[derive(Debug)]
pub struct FlowTable<V> {
    lifetime: Duration,
    capacity: usize,
    ring: Ring<V>,
    /// Numbers of the ring's entries, by the hash of their keys.
    numbers: HashTable<u32>,
    hasher: RandomState,
}

/// What a table knows of a flow.
#[derive(Debug)]
pub enum Lookup<'a, V> {
    /// This.
    Known(V),
    /// Nothing.
    New(Vacancy<'a, V>),
}

/// Room for the value of one flow.
#[derive(Debug)]
pub struct Vacancy<'a, V> {
    table: &'a mut FlowTable<V>,
    hash: u64,
    expires: Millis,
}

impl<V: Copy> FlowTable<V> {
    /// A table for at most `capacity` flows (at least one, at most 2³¹), the latest, that
    /// keeps each for `lifetime`. All memory is taken here.
    #[must_use]
    pub fn new(capacity: usize, lifetime: Duration) -> Self {
        let capacity = capacity.clamp(1, 1 << 31);
        FlowTable {
            lifetime,
            capacity,
            ring: Ring { entries: VecDeque::with_capacity(capacity), first: 0 },
            // Half empty, so that the marks which removed entries leave are
            // swept in place and the table is never moved.
            numbers: HashTable::with_capacity(2 * capacity),
            hasher: RandomState::default(),
        }
    }

    /// What is known of `key` at `now`; a value that `stands` denies is as good as expired.
    pub fn look_up(&mut self, key: FlowKey, now: Millis, stands: impl FnOnce(&V) -> bool) -> Lookup<'_, V> {
        let hash = self.hasher.hash_one(key);
        if let Some(value) = self.find(hash, now).filter(stands) {
            return Lookup::Known(value);
        }
        self.sweep(now);
        let expires = now.after(self.lifetime);
        Lookup::New(Vacancy { table: self, hash, expires })
    }

    /// Keeps a value, in place of an older one.
    pub fn replace(&mut self, key: FlowKey, value: V, now: Millis) {
        if let Lookup::New(vacancy) = self.look_up(key, now, |_| false) {
            vacancy.remember(value);
        }
    }

    fn find(&self, hash: u64, now: Millis) -> Option<V> {
        let number = *self.numbers.find(hash, |&number| self.ring.hash(number) == hash)?;
        let entry = self.ring.get(number)?;
        (now < entry.expires).then_some(entry.value)
    }

    fn sweep(&mut self, now: Millis) {
        for _ in 0..SWEEP {
            let Some(forgotten) = self.ring.pop_if(|oldest| oldest.expires <= now) else { return };
            self.forget(forgotten);
        }
    }

    fn forget(&mut self, (number, hash): (u32, u64)) {
        // A flow whose value was replaced is found under its newer number only.
        if let Ok(entry) = self.numbers.find_entry(hash, |&other| other == number) {
            entry.remove();
        }
    }

    fn insert(&mut self, entry: Entry<V>) {
        let is_full = self.ring.entries.len() >= self.capacity;
        if let Some(oldest) = self.ring.pop_if(|_| is_full) {
            self.forget(oldest);
        }
        let hash = entry.hash;
        let number = self.ring.push(entry);
        match self.numbers.find_mut(hash, |&older| self.ring.hash(older) == hash) {
            Some(older) => *older = number,
            None => {
                self.numbers.insert_unique(hash, number, |&other| self.ring.hash(other));
            }
        }
    }
}

impl<V: Copy> Vacancy<'_, V> {
    /// Keeps the value.
    pub fn remember(self, value: V) {
        let Vacancy { table, hash, expires } = self;
        table.insert(Entry { hash, expires, value });
    }
}

/// Entries in the order in which they came, numbered; the numbers wrap around.
#[derive(Debug)]
struct Ring<V> {
    /// Oldest first.
    entries: VecDeque<Entry<V>>,
    /// Number of the oldest.
    first: u32,
}

#[derive(Debug)]
struct Entry<V> {
    hash: u64,
    expires: Millis,
    value: V,
}

impl<V> Ring<V> {
    fn get(&self, number: u32) -> Option<&Entry<V>> {
        self.entries.get(number.wrapping_sub(self.first) as usize)
    }

    /// The hash of an entry's key. The hash table holds numbers of entries in
    /// the ring only, so there always is one.
    fn hash(&self, number: u32) -> u64 {
        self.get(number).map_or(0, |entry| entry.hash)
    }

    fn push(&mut self, entry: Entry<V>) -> u32 {
        let number = self.first.wrapping_add(self.entries.len() as u32);
        self.entries.push_back(entry);
        number
    }

    /// Takes the oldest entry away if it is such; its number and its hash.
    fn pop_if(&mut self, is_such: impl FnOnce(&Entry<V>) -> bool) -> Option<(u32, u64)> {
        let oldest = self.entries.pop_front_if(|oldest| is_such(oldest))?;
        let number = self.first;
        self.first = number.wrapping_add(1);
        Some((number, oldest.hash))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const LIFETIME: Duration = Duration::from_millis(100);

    #[test]
    fn a_value_is_known_until_its_lifetime_is_over() {
        let mut table = FlowTable::new(8, LIFETIME);
        remember(&mut table, 1, 0, 'a');
        assert_eq!(known(&mut table, 1, 99), Some('a'));
        assert_eq!(known(&mut table, 1, 100), None);
    }

    #[test]
    fn looking_a_value_up_does_not_prolong_its_life() {
        let mut table = FlowTable::new(8, LIFETIME);
        remember(&mut table, 1, 0, 'a');
        assert_eq!(known(&mut table, 1, 60), Some('a'));
        assert_eq!(known(&mut table, 1, 120), None);
    }

    #[test]
    fn a_full_table_forgets_the_oldest_flow_for_a_new_one() {
        let mut table = FlowTable::new(2, LIFETIME);
        for (flow, value) in [(1, 'a'), (2, 'b'), (3, 'c')] {
            remember(&mut table, flow, 0, value);
        }
        assert_eq!([1, 2, 3].map(|flow| known(&mut table, flow, 50)), [None, Some('b'), Some('c')]);
    }

    #[test]
    fn a_value_that_no_longer_stands_is_replaced_and_the_new_one_outlives_it() {
        let mut table = FlowTable::new(8, LIFETIME);
        remember(&mut table, 1, 0, 'a');
        let Lookup::New(vacancy) = table.look_up(key(1), Millis(50), |_| false) else {
            panic!("still known")
        };
        vacancy.remember('b');
        remember(&mut table, 2, 110, 'c');
        assert_eq!(known(&mut table, 1, 149), Some('b'));
        assert_eq!(known(&mut table, 1, 150), None);
    }

    #[test]
    fn the_memory_never_grows_however_many_flows_come() {
        let mut table = FlowTable::new(64, LIFETIME);
        let before = (table.numbers.capacity(), table.ring.entries.capacity());
        table.ring.first = u32::MAX - 1000;
        for flow in 0..100_000_u64 {
            remember(&mut table, flow as u32, flow * 2, 'x');
        }
        assert_eq!((table.numbers.capacity(), table.ring.entries.capacity()), before);
        assert!(table.numbers.len() <= table.ring.entries.len());
    }

    proptest! {
        #[test]
        fn it_answers_like_a_map_with_times(steps in proptest::collection::vec((0..20_u32, 0..30_u64, any::<bool>()), 0..300)) {
            let mut table = FlowTable::new(16, LIFETIME);
            let mut model: HashMap<u32, (u64, u64)> = HashMap::new();
            let mut order: Vec<(u32, u64)> = Vec::new();
            let mut now = 0;
            for (flow, pause, stands) in steps {
                now += pause;
                let expected = model.get(&flow).filter(|(expires, _)| stands && now < *expires).map(|(_, value)| *value);
                match table.look_up(key(flow), Millis(now), |_| stands) {
                    Lookup::Known(value) => prop_assert_eq!(Some(value), expected),
                    Lookup::New(vacancy) => {
                        prop_assert_eq!(None, expected);
                        vacancy.remember(now);
                        model.insert(flow, (now + 100, now));
                        order.retain(|&(_, expires)| now < expires);
                        order.push((flow, now + 100));
                        let too_many = order.len().saturating_sub(16);
                        for (old, expires) in order.drain(..too_many) {
                            model.retain(|&flow, kept| (flow, kept.0) != (old, expires));
                        }
                    }
                }
                prop_assert!(table.ring.entries.len() <= 16);
            }
        }
    }

    fn known<V: Copy>(table: &mut FlowTable<V>, flow: u32, now: u64) -> Option<V> {
        match table.look_up(key(flow), Millis(now), |_| true) {
            Lookup::Known(value) => Some(value),
            Lookup::New(_) => None,
        }
    }

    fn remember<V: Copy>(table: &mut FlowTable<V>, flow: u32, now: u64, value: V) {
        match table.look_up(key(flow), Millis(now), |_| true) {
            Lookup::New(vacancy) => vacancy.remember(value),
            Lookup::Known(_) => panic!("flow {flow} is no new flow"),
        }
    }

    fn key(flow: u32) -> FlowKey {
        let src = Ipv4Addr::from_bits(flow).into();
        FlowKey { src, dst: Ipv4Addr::LOCALHOST.into(), protocol: 17, src_port: 1, dst_port: 2 }
    }
}
