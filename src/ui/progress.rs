//! How far something long is, on standard error.

use std::time::{Duration, Instant};

use super::style::stderr_is_terminal;

/// Where people see how far something long is: a bar on a terminal, else a line now and then.
#[derive(Debug)]
pub struct Progress {
    quiet: bool,
    live: bool,
    last: Instant,
    shown: bool,
}

impl Progress {
    /// What is shorter shows nothing.
    const PATIENCE: Duration = Duration::from_secs(2);

    /// Begins now; `quiet`: nothing is shown.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        Progress { quiet, live: stderr_is_terminal(), last: Instant::now(), shown: false }
    }

    /// Shows how far it is, if it is time to.
    pub fn show(&mut self, line: impl FnOnce() -> String) {
        let wait = if self.shown && self.live { Duration::from_millis(200) } else { Self::PATIENCE };
        if self.quiet || self.last.elapsed() < wait {
            return;
        }
        self.last = Instant::now();
        self.shown = true;
        let line = line();
        if self.live { eprint!("\r{line}\x1b[K") } else { eprintln!("{line}") }
    }

    /// Makes room for what comes out.
    pub fn clear(&self) {
        if self.shown && self.live {
            eprint!("\r\x1b[K");
        }
    }
}
