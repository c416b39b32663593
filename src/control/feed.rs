//! What has happened, for those who follow it on the control socket.
//!
//! The latest events are kept once for all. Whoever follows has a place in them and takes the next one
//! when there is room in its socket; one who is so slow that events are forgotten before is told
//! how many. So nobody who listens costs memory, or waits for anybody.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::message::{Event, Response};

/// Events that are kept for those who are slow.
pub const KEPT: usize = 1024;

/// The latest events, and a way to wake those who wait for more.
#[derive(Debug)]
pub struct Feed {
    log: Mutex<Log>,
    wake: UnixStream,
    woken: UnixStream,
}

#[derive(Debug, Default)]
struct Log {
    latest: VecDeque<Vec<u8>>,
    /// The number of the next event, from 0.
    next: u64,
}

impl Feed {
    /// Without events.
    ///
    /// # Errors
    /// When no pair of sockets is to be had.
    pub fn new() -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        Ok(Feed { log: Mutex::default(), wake, woken })
    }

    /// Something happened. Never waits.
    pub fn publish(&self, event: Event) {
        let line = Response::Event(event).to_line();
        let mut log = self.log();
        log.next += 1;
        log.latest.push_back(line);
        if log.latest.len() > KEPT {
            log.latest.pop_front();
        }
        drop(log);
        // A socket that is full has woken them already.
        let _ = (&self.wake).write(&[0]);
    }

    /// The place behind all events so far.
    pub(super) fn now(&self) -> u64 {
        self.log().next
    }

    /// The line for who is at `place`, and the place behind it: the next event, or that some were left out.
    pub(super) fn line_at(&self, place: u64) -> Option<(Vec<u8>, u64)> {
        let log = self.log();
        let oldest = log.next - log.latest.len() as u64;
        if place < oldest {
            return Some((Response::LeftOut { events: oldest - place }.to_line(), oldest));
        }
        let line = log.latest.get(usize::try_from(place - oldest).ok()?)?;
        Some((line.clone(), place + 1))
    }

    /// What is readable when there is something new.
    pub(super) fn woken(&self) -> &UnixStream {
        &self.woken
    }

    /// There is nothing new any more.
    pub(super) fn rest(&self) {
        let mut bytes = [0; 256];
        while (&self.woken).read(&mut bytes).is_ok_and(|count| count == bytes.len()) {}
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_too_slow_is_told_how_many_events_were_left_out() {
        let feed = Feed::new().unwrap();
        let start = feed.now();
        for number in 0..KEPT as u64 + 7 {
            feed.publish(Event { number, ..Event::default() });
        }
        let (line, place) = feed.line_at(start).unwrap();
        assert_eq!(Response::from_line(&line).unwrap(), Response::LeftOut { events: 7 });
        let (line, place) = feed.line_at(place).unwrap();
        assert_eq!((place, number_of(&line)), (8, 7));
        let (line, place) = feed.line_at(feed.now() - 1).unwrap();
        assert_eq!((number_of(&line), feed.line_at(place)), (KEPT as u64 + 6, None));
    }

    fn number_of(line: &[u8]) -> u64 {
        let Ok(Response::Event(event)) = Response::from_line(line) else { panic!("no event") };
        event.number
    }
}
