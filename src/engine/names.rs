//! Names of addresses, learned from DNS answers and from what clients said in earlier flows.
//!
//! One address serves many names, so an answer is first of all for the client that asked.
//! Where that client is not known to have asked (it kept the answer from before, it asked
//! over TLS), the name that somebody else was given for the address is the best guess.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::flow::Millis;
use super::memory::{Memory, time_left};
use super::sniff::Name;

/// An answer is believed for at least this long: programs keep addresses longer than they were told.
pub const LEAST: Duration = Duration::from_secs(300);
/// An answer is believed for at most this long.
pub const MOST: Duration = Duration::from_secs(86_400);
/// A name that a client said itself is believed for this long.
pub const SAID: Duration = Duration::from_secs(3600);

/// What all workers know of names. Shared, bounded, each look-up takes a short lock of its own shard.
#[derive(Debug)]
pub struct Names {
    /// Told to this client, about this address. A client's names are in one shard: one
    /// that asks for a million forgets its own.
    clients: Memory<(IpAddr, IpAddr), Name>,
    /// Said by this client to this address and port.
    said: Memory<(IpAddr, IpAddr, u16), Name>,
    /// Said by anybody to this address and port.
    services: Memory<(IpAddr, u16), Name>,
    /// Told to anybody about this address.
    addresses: Memory<IpAddr, Name>,
    learned: AtomicU64,
    ambiguous: AtomicU64,
}

impl Default for Names {
    /// The least room there is.
    fn default() -> Self {
        Names::new(0)
    }
}

/// Where a name comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A DNS answer to this client.
    Client,
    /// An earlier flow of this client to the address and port.
    Said,
    /// An earlier flow of another client to the address and port.
    Service,
    /// A DNS answer to another client.
    Address,
}

/// Names as they are written down for a later run, each with the time it has left: the clock of
/// that run begins anew.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries {
    clients: Vec<Entry<(IpAddr, IpAddr)>>,
    #[serde(default)]
    said: Vec<Entry<(IpAddr, IpAddr, u16)>>,
    services: Vec<Entry<(IpAddr, u16)>>,
    addresses: Vec<Entry<IpAddr>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry<K> {
    of: K,
    name: String,
    /// For how long it is still good.
    seconds: u64,
}

impl Names {
    /// Room for about so many names of each kind, at least a few per shard.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Names {
            clients: Memory::new(capacity),
            said: Memory::new(capacity),
            services: Memory::new(capacity),
            addresses: Memory::new(capacity),
            learned: AtomicU64::new(0),
            ambiguous: AtomicU64::new(0),
        }
    }

    /// A client was told that this name has this address, for so many seconds.
    pub fn told(&self, client: IpAddr, address: IpAddr, name: &Name, ttl: u32, now: Millis) {
        let until = now.after(Duration::from_secs(ttl.into()).clamp(LEAST, MOST));
        self.clients.keep(client, (client, address), *name, until);
        let other = self.addresses.find(address, &address, now, |known| known != name);
        self.addresses.keep(address, address, *name, until);
        self.count(other == Some(true));
    }

    /// A client asked this address and port for this name.
    pub fn said(&self, client: IpAddr, address: IpAddr, port: u16, name: &Name, now: Millis) {
        let key = (address, port);
        self.said.keep(client, (client, address, port), *name, now.after(SAID));
        let other = self.services.find(address, &key, now, |known| known != name);
        self.services.keep(address, key, *name, now.after(SAID));
        self.count(other == Some(true));
    }

    /// The name of an address that a client turns to.
    #[must_use]
    pub fn of(&self, client: IpAddr, address: IpAddr, port: u16, now: Millis) -> Option<(Name, Origin)> {
        let told =
            || Some((self.clients.find(client, &(client, address), now, Name::clone)?, Origin::Client));
        let own = || {
            let name = self.said.find(client, &(client, address, port), now, Name::clone)?;
            Some((name, Origin::Said))
        };
        let said =
            || Some((self.services.find(address, &(address, port), now, Name::clone)?, Origin::Service));
        let known = || Some((self.addresses.find(address, &address, now, Name::clone)?, Origin::Address));
        told().or_else(own).or_else(said).or_else(known)
    }

    /// All that is known and still good.
    #[must_use]
    pub fn entries(&self, now: Millis) -> Entries {
        Entries {
            clients: entries(&self.clients, now),
            said: entries(&self.said, now),
            services: entries(&self.services, now),
            addresses: entries(&self.addresses, now),
        }
    }

    /// Takes in what an earlier run knew so long ago, as far as it is still good and there is room.
    /// What cannot be a name, or claims to be good for longer than it could, is left out.
    pub fn restore(&self, entries: &Entries, passed: Duration, now: Millis) {
        restore(&self.clients, &entries.clients, |of| of.0, MOST, passed, now);
        restore(&self.said, &entries.said, |of| of.0, SAID, passed, now);
        restore(&self.services, &entries.services, |of| of.0, SAID, passed, now);
        restore(&self.addresses, &entries.addresses, |of| *of, MOST, passed, now);
    }

    fn count(&self, replaced: bool) {
        self.learned.fetch_add(1, Relaxed);
        self.ambiguous.fetch_add(replaced.into(), Relaxed);
    }

    /// Names learned so far.
    #[must_use]
    pub fn learned(&self) -> u64 {
        self.learned.load(Relaxed)
    }

    /// How often a name took the place of another one that was still good.
    #[must_use]
    pub fn ambiguous(&self) -> u64 {
        self.ambiguous.load(Relaxed)
    }
}

impl Entries {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.clients.len() + self.said.len() + self.services.len() + self.addresses.len()
    }
}

fn entries<K: Copy + Hash + Eq>(memory: &Memory<K, Name>, now: Millis) -> Vec<Entry<K>> {
    memory.entries(now, |of, name, left| Entry { of: *of, name: name.to_string(), seconds: left.as_secs() })
}

fn restore<K: Copy + Hash + Eq>(
    memory: &Memory<K, Name>,
    entries: &[Entry<K>],
    shard: impl Fn(&K) -> IpAddr,
    most: Duration,
    passed: Duration,
    now: Millis,
) {
    for entry in entries {
        let left = time_left(entry.seconds, most, passed);
        if let (Some(name), Some(left)) = (Name::new(entry.name.as_bytes()), left) {
            memory.keep(shard(&entry.of), entry.of, name, now.after(left));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_000_000);

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn later(seconds: u64) -> Millis {
        NOW.after(Duration::from_secs(seconds))
    }

    #[test]
    fn two_clients_keep_the_names_they_were_given_for_one_address() {
        let names = Names::new(1000);
        names.told(ip(1), ip(9), &name("a.example"), 60, NOW);
        names.told(ip(2), ip(9), &name("b.example"), 60, NOW);
        assert_eq!(names.of(ip(1), ip(9), 443, NOW), Some((name("a.example"), Origin::Client)));
        assert_eq!(names.of(ip(2), ip(9), 443, NOW), Some((name("b.example"), Origin::Client)));
        assert_eq!(names.of(ip(3), ip(9), 443, NOW), Some((name("b.example"), Origin::Address)));
        assert_eq!((names.learned(), names.ambiguous()), (2, 1));
    }

    #[test]
    fn what_a_client_said_to_a_port_counts_before_what_another_was_told() {
        let names = Names::new(1000);
        names.told(ip(2), ip(9), &name("told.example"), 60, NOW);
        names.said(ip(3), ip(9), 443, &name("own.example"), NOW);
        names.said(ip(4), ip(9), 443, &name("said.example"), NOW);
        assert_eq!(names.of(ip(3), ip(9), 443, NOW), Some((name("own.example"), Origin::Said)));
        assert_eq!(names.of(ip(1), ip(9), 443, NOW), Some((name("said.example"), Origin::Service)));
        assert_eq!(names.of(ip(1), ip(9), 80, NOW), Some((name("told.example"), Origin::Address)));
    }

    #[test]
    fn what_was_known_is_known_after_a_restart_for_the_time_it_had_left() {
        let (before, after) = (Names::new(1000), Names::new(1000));
        before.told(ip(1), ip(9), &name("a.example"), 900, NOW);
        before.told(ip(2), ip(9), &name("b.example"), 900, NOW);
        before.said(ip(1), ip(8), 443, &name("said.example"), NOW);
        before.told(ip(1), ip(7), &name("soon.example"), 300, NOW);
        let written = serde_json::to_string(&before.entries(later(200))).unwrap();
        let read: Entries = serde_json::from_str(&written).unwrap();
        assert_eq!(read.count(), 7);

        // Another clock, and 100 s in between.
        let (passed, now) = (Duration::from_secs(100), Millis(7));
        after.restore(&read, passed, now);
        for (client, address, expected) in [
            (1, 9, Some((name("a.example"), Origin::Client))),
            (3, 9, Some((name("b.example"), Origin::Address))),
            (1, 8, Some((name("said.example"), Origin::Said))),
            (3, 8, Some((name("said.example"), Origin::Service))),
            (1, 7, None),
        ] {
            assert_eq!(after.of(ip(client), ip(address), 443, now), expected);
        }
        assert!(after.of(ip(1), ip(9), 443, now.after(Duration::from_secs(599))).is_some());
        assert!(after.of(ip(1), ip(9), 443, now.after(Duration::from_secs(600))).is_none());
        assert_eq!((after.learned(), after.ambiguous()), (0, 0));
    }

    #[test]
    fn nonsense_is_left_out_of_what_is_restored_and_the_rest_is_kept() {
        let entry = |of: u8, name: &str, seconds| Entry { of: ip(of), name: name.into(), seconds };
        let entries = Entries {
            addresses: vec![
                entry(1, "not a name", 60),
                entry(2, "192.0.2.1", 60),
                entry(3, "too-long.example", 86_401),
                entry(4, "for-ever.example", u64::MAX),
                entry(5, "over.example", 0),
                entry(6, "Good.Example.", 60),
            ],
            ..Entries::default()
        };
        let names = Names::new(1000);
        names.restore(&entries, Duration::ZERO, NOW);
        for last in 1..6 {
            assert_eq!(names.of(ip(99), ip(last), 443, NOW), None, "{last}");
        }
        assert_eq!(names.of(ip(99), ip(6), 443, NOW), Some((name("good.example"), Origin::Address)));
    }

    #[test]
    fn more_than_there_is_room_for_is_not_restored() {
        let entry = |of| Entry { of: (ip(1), of), name: "a.example".into(), seconds: 60 };
        let entries = Entries { services: (0..10_000).map(entry).collect(), ..Entries::default() };
        let names = Names::new(0);
        names.restore(&entries, Duration::ZERO, NOW);
        let kept = names.entries(NOW).count();
        assert!((8..=16).contains(&kept), "{kept}");
    }

    #[test]
    fn an_answer_without_a_life_of_its_own_lives_for_the_least_time() {
        let names = Names::new(1000);
        names.told(ip(1), ip(9), &name("a.example"), 0, NOW);
        names.told(ip(1), ip(8), &name("b.example"), u32::MAX, NOW);
        assert!(names.of(ip(1), ip(9), 1, later(299)).is_some());
        assert!(names.of(ip(1), ip(9), 1, later(301)).is_none());
        assert!(names.of(ip(1), ip(8), 1, later(86_399)).is_some());
        assert!(names.of(ip(1), ip(8), 1, later(86_401)).is_none());
    }
}
