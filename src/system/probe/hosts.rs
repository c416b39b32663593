//! Addresses of the hosts that pages are asked from, by the system's own resolver.
//!
//! A name is looked up at most every few minutes, never twice at the same time, and an address that
//! was found stays until another one is: with the line that led to the resolver names die too.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::wrong;
use crate::engine::packet::Family;

/// How long an address is used without another look.
const FRESH: Duration = Duration::from_secs(300);
/// How long after a look that found nothing the next one is.
const AGAIN: Duration = Duration::from_secs(5);

/// What was found. The configuration names at most a few hosts for each line, so nothing is thrown away.
#[derive(Default)]
pub(super) struct Hosts {
    known: Mutex<HashMap<(String, Family), Host>>,
}

#[derive(Clone, Copy, Default)]
struct Host {
    address: Option<IpAddr>,
    /// No look before this time.
    until: Option<Instant>,
}

impl Hosts {
    /// The address of a host, which may be an address already.
    pub(super) async fn address(&self, host: &str, family: Family) -> io::Result<IpAddr> {
        if let Ok(address) = host.parse() {
            return Ok(address);
        }
        if self.is_to_be_looked_up(host, family) {
            let found = tokio::net::lookup_host((host, 0)).await;
            let mut addresses = found.into_iter().flatten().map(|found| found.ip());
            self.note(host, family, addresses.find(|&address| Family::of(address) == family));
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let address = known.get(&(host.to_owned(), family)).and_then(|host| host.address);
        address.ok_or_else(|| wrong(format!("{host} has no address that is known")))
    }

    /// Nobody else looks it up while one does.
    fn is_to_be_looked_up(&self, host: &str, family: Family) -> bool {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let host = known.entry((host.to_owned(), family)).or_default();
        let is_due = host.until.is_none_or(|until| until <= now);
        if is_due {
            host.until = Some(now + AGAIN);
        }
        is_due
    }

    fn note(&self, host: &str, family: Family, found: Option<IpAddr>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let host = known.entry((host.to_owned(), family)).or_default();
        if found.is_some() {
            *host = Host { address: found, until: Some(Instant::now() + FRESH) };
        }
    }
}
