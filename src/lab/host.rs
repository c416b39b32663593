//! One machine of the lab: a named namespace to run things in.

use std::fs;
use std::future::Future;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::command::{self, DEFAULT_LIMIT, Output};
use super::namespace::Namespace;

/// One machine of the lab. Clones are the same machine; it is gone with the last of them
/// (and of the processes in it).
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    namespace: Arc<Namespace>,
}

/// What went through a device since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Bytes that came in.
    pub received_bytes: u64,
    /// Packets that came in.
    pub received_packets: u64,
    /// Bytes that went out.
    pub sent_bytes: u64,
    /// Packets that went out.
    pub sent_packets: u64,
}

impl Host {
    /// A new machine with nothing but a loopback device.
    ///
    /// # Errors
    /// Without the privilege to make namespaces.
    pub fn new(name: &str) -> Result<Self> {
        let namespace = Namespace::new().with_context(|| format!("making the lab's {name}"))?;
        Ok(Host { name: name.to_owned(), namespace: Arc::new(namespace) })
    }

    /// What people call it: "router", "client1", "isp2" ...
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Runs a command that must succeed within 30 seconds; returns its standard output.
    ///
    /// # Errors
    /// When it fails (with what it said), does not end (it is killed) or cannot be started.
    pub fn run(&self, command: &mut Command) -> Result<String> {
        self.feed(command, "")
    }

    /// As [`Host::run`], with `input` as the command's standard input.
    ///
    /// # Errors
    /// As [`Host::run`].
    pub fn feed(&self, command: &mut Command, input: &str) -> Result<String> {
        let result = self.enter(|| command::check(command, input, DEFAULT_LIMIT))?;
        result.with_context(|| format!("on the lab's {}", self.name))
    }

    /// Runs a command that may fail, for at most `limit`.
    ///
    /// # Errors
    /// When it does not end (it is killed) or cannot be started.
    pub fn try_run(&self, command: &mut Command, limit: Duration) -> Result<Output> {
        self.enter(|| command::run(command, "", limit))?
            .with_context(|| format!("on the lab's {}", self.name))
    }

    /// Runs a shell script that stops at its first failing line; as [`Host::run`].
    ///
    /// # Errors
    /// As [`Host::run`].
    pub fn shell(&self, script: &str) -> Result<String> {
        self.run(Command::new("sh").args(["-euc", script]))
    }

    /// Starts a program that is killed when the guard is dropped.
    /// Where its output goes is the command's business.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Process> {
        let child = self.enter(|| command.spawn())?;
        let child = child.with_context(|| format!("starting {command:?} on the lab's {}", self.name))?;
        Ok(Process { child })
    }

    /// Runs `work` inside, on a thread of its own: its sockets are this machine's.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.enter(work).with_context(|| format!("on the lab's {}", self.name))
    }

    /// Runs `work` inside on a thread that goes on by itself.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn spawn_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        self.namespace.spawn(&self.name, work)
    }

    /// Runs a future inside, on a thread and a one-thread runtime of its own.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn block_on<F: Future>(&self, work: impl FnOnce() -> F + Send) -> Result<F::Output>
    where
        F::Output: Send,
    {
        self.enter(|| block_on(work))?
    }

    /// Sets sysctls, named as paths below `/proc/sys/net`: `("ipv4/ip_forward", "1")`.
    ///
    /// # Errors
    /// When one does not exist or takes no such value.
    pub fn set_sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        let set = |&(name, value): &(&str, &str)| {
            fs::write(format!("/proc/sys/net/{name}"), value)
                .with_context(|| format!("setting {name} to {value} on the lab's {}", self.name))
        };
        self.enter(|| settings.iter().try_for_each(set))?
    }

    /// Reads a sysctl, named as for [`Host::set_sysctls`].
    ///
    /// # Errors
    /// When it does not exist.
    pub fn sysctl(&self, name: &str) -> Result<String> {
        let value = self.enter(|| fs::read_to_string(format!("/proc/sys/net/{name}")))?;
        Ok(value.with_context(|| format!("reading {name} on the lab's {}", self.name))?.trim().to_owned())
    }

    /// What went through a device; `None`: there is no such device.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn device_counters(&self, device: &str) -> Result<Option<DeviceCounters>> {
        let table = self.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
        Ok(parse_counters(&table.context("reading /proc/thread-self/net/dev")?, device))
    }
}

/// A program in the lab; dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Its process number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The program itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends it a signal; none where it has ended already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        kill(Pid::from_raw(self.child.id() as i32), signal).with_context(|| format!("sending {signal}"))
    }

    /// Waits at most `limit` for its end; `None`: it still runs.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait()? {
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                ended => return Ok(ended),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a future on a one-thread runtime: every socket it makes is this thread's namespace's.
///
/// # Errors
/// When there can be no runtime.
pub(super) fn block_on<F: Future>(work: impl FnOnce() -> F) -> Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting a runtime")?;
    Ok(runtime.block_on(async { work().await }))
}

/// One line of `/proc/net/dev`: `name: received bytes, packets, 6 more, sent bytes, packets, 6 more`.
fn parse_counters(table: &str, device: &str) -> Option<DeviceCounters> {
    let (_, line) =
        table.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == device)?;
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    Some(DeviceCounters {
        received_bytes: *numbers.first()?,
        received_packets: *numbers.get(1)?,
        sent_bytes: *numbers.get(8)?,
        sent_packets: *numbers.get(9)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_those_of_the_device_with_exactly_this_name() {
        let table = "Inter-|   Receive   |  Transmit\n face |bytes packets ...\n  \
                     wan12: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  wan1: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n";
        let counters =
            DeviceCounters { received_bytes: 1, received_packets: 2, sent_bytes: 3, sent_packets: 4 };
        assert_eq!(parse_counters(table, "wan1"), Some(counters));
        assert_eq!(parse_counters(table, "wan"), None);
    }
}
