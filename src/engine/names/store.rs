//! A bounded, shared memory that forgets the oldest first.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;

use crate::engine::flow::Millis;
use crate::engine::sniff::Name;

/// Shards, so that workers seldom wait for each other.
const SHARDS: usize = 64;

/// Names by key, in shards that are chosen by an address.
#[derive(Debug)]
pub(super) struct Store<K> {
    shards: Vec<Mutex<Generations<K>>>,
    /// Entries of one generation of one shard.
    capacity: usize,
    hasher: RandomState,
}

/// When the young are as many as may be, they become the old, and the old are forgotten:
/// no entry is ever searched for, and a flood pushes out only what is older.
#[derive(Debug)]
struct Generations<K> {
    young: HashMap<K, Entry, RandomState>,
    old: HashMap<K, Entry, RandomState>,
}

#[derive(Debug)]
struct Entry {
    name: Box<[u8]>,
    until: Millis,
}

impl<K: Hash + Eq> Store<K> {
    pub(super) fn new(capacity: usize) -> Self {
        let hasher = RandomState::default();
        let empty = || {
            let map = || HashMap::with_hasher(hasher.clone());
            Mutex::new(Generations { young: map(), old: map() })
        };
        let shards = std::iter::repeat_with(empty).take(SHARDS).collect();
        Store { shards, capacity: (capacity / SHARDS / 2).max(8), hasher }
    }

    /// Keeps a name; whether it takes the place of another one that was still good.
    pub(super) fn insert(&self, shard: IpAddr, key: K, name: &Name, until: Millis, now: Millis) -> bool {
        let mut generations = self.shard(shard);
        let other = generations.find(&key, now).is_some_and(|before| *before != *name.as_bytes());
        if generations.young.len() >= self.capacity && !generations.young.contains_key(&key) {
            generations.old =
                std::mem::replace(&mut generations.young, HashMap::with_hasher(self.hasher.clone()));
        }
        generations.young.insert(key, Entry { name: name.as_bytes().into(), until });
        other
    }

    pub(super) fn find(&self, shard: IpAddr, key: &K, now: Millis) -> Option<Name> {
        self.shard(shard).find(key, now).and_then(Name::new)
    }

    fn shard(&self, address: IpAddr) -> MutexGuard<'_, Generations<K>> {
        // A thread that panics while it inserts leaves maps that are whole.
        self.shards[self.shard_of(address)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn shard_of(&self, address: IpAddr) -> usize {
        self.hasher.hash_one(address) as usize % SHARDS
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let lengths = self.shards.iter().map(|shard| {
            let shard = shard.lock().unwrap();
            shard.young.len() + shard.old.len()
        });
        lengths.sum()
    }
}

impl<K: Hash + Eq> Generations<K> {
    fn find(&self, key: &K, now: Millis) -> Option<&[u8]> {
        let entry = self.young.get(key).or_else(|| self.old.get(key))?;
        (entry.until > now).then_some(&*entry.name)
    }
}
