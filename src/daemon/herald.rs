//! Tells the world what becomes of lines: those who follow on the control socket, and the hook.
//!
//! The hook is a program of the owner's, run by a thread of its own, one at a time and in order. However
//! long it takes, the daemon does not wait: events that find no room are left out and counted.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::news::{Standings, news};
use crate::config::Hooks;
use crate::control::feed::Feed;
use crate::control::message::Event;
use crate::system::hook::{self, Outcome};

/// Events that may wait for the hook.
const WAITING: usize = 256;

/// Who tells.
pub struct Herald {
    feed: Arc<Feed>,
    hooks: Hooks,
    errands: Sender<Errand>,
    /// How lines stood when it was told last.
    told: Standings,
    /// Events so far.
    number: u64,
    /// Events that the hook has missed since it was last run.
    missed: u64,
}

/// One run of the hook.
struct Errand {
    command: Vec<String>,
    timeout: Duration,
    event: Event,
    missed: u64,
}

impl Herald {
    /// Starts the hook's thread. It is not waited for at the end: a hook that runs then is left alone.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(feed: Arc<Feed>, hooks: Hooks) -> io::Result<Self> {
        let (errands, waiting) = bounded(WAITING);
        thread::Builder::new().name("hooks".into()).spawn(move || run_errands(&waiting))?;
        Ok(Herald { feed, hooks, errands, told: Standings::new(), number: 0, missed: 0 })
    }

    /// From now on this hook.
    pub fn reconfigure(&mut self, hooks: &Hooks) {
        self.hooks = hooks.clone();
    }

    /// Tells what is new.
    pub fn tell(&mut self, now: Standings) {
        for event in news(&self.told, &now) {
            self.number += 1;
            let event = Event { number: self.number, at: jiff::Timestamp::now().to_string(), ..event };
            self.feed.publish(event.clone());
            self.send_hook(event);
        }
        self.told = now;
    }

    fn send_hook(&mut self, event: Event) {
        let Some(command) = self.hooks.on_change.clone() else { return };
        let errand = Errand { command, timeout: self.hooks.timeout, event, missed: self.missed };
        match self.errands.try_send(errand) {
            Ok(()) => self.missed = 0,
            Err(_) => {
                self.missed += 1;
                tracing::warn!("the hook is too slow: {} events were left out so far", self.missed);
            }
        }
    }
}

fn run_errands(waiting: &Receiver<Errand>) {
    for Errand { command, timeout, event, missed } in waiting {
        let name = command.first().cloned().unwrap_or_default();
        match hook::run(&command, &environment(&event, missed), timeout) {
            Ok(Outcome { output, status }) => {
                output.lines().for_each(|line| tracing::info!("hook {name}: {}", line.escape_debug()));
                match status {
                    Some(status) if status.success() => {}
                    Some(status) => tracing::warn!("hook {name} for event {}: {status}", event.event),
                    None => tracing::warn!("hook {name} for event {}: killed after {timeout:?}", event.event),
                }
            }
            Err(error) => tracing::warn!("hook {name} cannot be run: {error}"),
        }
    }
}

/// The facts; what an event does not have is empty.
fn environment(event: &Event, missed: u64) -> Vec<(&'static str, String)> {
    let or_empty = |value: &Option<String>| value.clone().unwrap_or_default();
    vec![
        ("WANSPLIT_EVENT", event.event.clone()),
        ("WANSPLIT_NUMBER", event.number.to_string()),
        ("WANSPLIT_TIME", event.at.clone()),
        ("WANSPLIT_UPLINK", or_empty(&event.uplink)),
        ("WANSPLIT_INTERFACE", or_empty(&event.interface)),
        ("WANSPLIT_FAMILY", or_empty(&event.family)),
        ("WANSPLIT_STATE", or_empty(&event.state)),
        ("WANSPLIT_WHY", or_empty(&event.why)),
        ("WANSPLIT_ADDRESSES", event.addresses.join(" ")),
        ("WANSPLIT_GATEWAY", or_empty(&event.gateway)),
        ("WANSPLIT_MISSED", missed.to_string()),
    ]
}
