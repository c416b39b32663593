//! The program under trial, as a process on the lab's router: this same executable.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::host::{Host, Process};
use super::interrupt::Interrupt;
use crate::control::client;
use crate::control::message::{Request, Response, Status};
use crate::system::state::RunDirectory;

/// How long it may take until the daemon decides.
const READY: Duration = Duration::from_secs(60);

/// Lines of the daemon's log that an error shows.
const LOG_LINES: usize = 12;

/// A running daemon; dropped, it is killed.
#[derive(Debug)]
pub(super) struct Program {
    process: Process,
    socket: PathBuf,
    log: PathBuf,
}

impl Program {
    /// Starts it on the router, in a directory and with a configuration as seen from there,
    /// and waits until it decides.
    pub(super) fn start(
        router: &Host,
        [directory, config, log]: [&Path; 3],
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let said = File::create(log).with_context(|| format!("making {}", log.display()))?;
        let mut command = Command::new("/proc/self/exe");
        command.current_dir(directory).arg("--config").arg(config).arg("run");
        command.env_remove("WANSPLIT_RUN_DIR").env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let process = router.spawn(&mut command)?;
        let socket = router.enter(|| RunDirectory::new(None).socket())?;
        let mut program = Program { process, socket, log: log.to_owned() };
        program.wait_until_ready(interrupt)?;
        Ok(program)
    }

    /// How it stands.
    pub(super) fn status(&mut self) -> Result<Status> {
        match client::ask(&self.socket, Request::Status) {
            Ok(Response::Status(status)) => Ok(*status),
            Ok(_) => bail!("the router's daemon answered something else"),
            Err(error) => {
                self.must_run()?;
                Err(error.into())
            }
        }
    }

    fn wait_until_ready(&mut self, interrupt: &Interrupt) -> Result<()> {
        let deadline = Instant::now() + READY;
        while Instant::now() < deadline && !interrupt.is_wanted() {
            self.must_run()?;
            if self.socket.exists() && self.status()?.gate.open {
                return Ok(());
            }
            interrupt.sleep(Duration::from_millis(20));
        }
        if interrupt.is_wanted() {
            bail!("interrupted");
        }
        bail!("the router's daemon did not get ready within {READY:?}; it said:\n{}", self.said())
    }

    fn must_run(&mut self) -> Result<()> {
        match self.process.wait(Duration::ZERO)? {
            None => Ok(()),
            Some(status) => bail!("the router's daemon has ended ({status}); it said:\n{}", self.said()),
        }
    }

    /// The end of its log.
    fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}
