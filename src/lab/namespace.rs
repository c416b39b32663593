//! A network namespace, held by a descriptor alone.
//!
//! It has no name under `/run/netns`: the kernel frees it, with its devices,
//! when the last descriptor, socket and process in it is gone. So a drop is
//! all the cleaning there is, and a killed program leaves nothing.
//!
//! A thread that enters a namespace never leaves it; so only threads made for
//! the purpose enter.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace of our own.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A new, empty one: only a loopback device, and that is down.
    ///
    /// # Errors
    /// Without the privilege (`CAP_SYS_ADMIN`) for it.
    pub fn new() -> Result<Self> {
        let file = on_new_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace (this needs root)")?;
            File::open("/proc/thread-self/ns/net").context("opening /proc/thread-self/ns/net")
        })?;
        Ok(Namespace { file })
    }

    /// Runs `work` inside, on a thread of its own, and returns what it returned.
    /// Sockets and processes it makes belong to the namespace. A panic in `work` goes on here.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_new_thread(|| self.join().map(|()| work()))
    }

    /// Runs `work` inside on a thread that goes on by itself.
    ///
    /// # Errors
    /// When there can be no thread. That the namespace cannot be entered is the thread's result.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let inside = Namespace { file: self.file.try_clone().context("copying a namespace's descriptor")? };
        let start = move || {
            inside.join()?;
            drop(inside);
            Ok(work())
        };
        thread::Builder::new().name(name.to_owned()).spawn(start).context("starting a thread")
    }

    /// A path by which other processes (`ip ... netns PATH`, `nsenter --net=PATH`) reach it
    /// for as long as this value lives.
    ///
    /// # Errors
    /// Without a `/proc`.
    pub fn path(&self) -> Result<PathBuf> {
        // Not getpid: /proc may show the numbers of an outer process namespace.
        let process = fs::read_link("/proc/self").context("reading /proc/self")?;
        Ok(PathBuf::from("/proc").join(process).join("fd").join(self.file.as_raw_fd().to_string()))
    }

    /// The kernel's number for it, as in `readlink /proc/PID/ns/net`.
    ///
    /// # Errors
    /// When the descriptor cannot be read.
    pub fn id(&self) -> Result<u64> {
        Ok(self.file.metadata().context("reading a namespace's number")?.ino())
    }

    fn join(&self) -> Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).context("entering a network namespace")
    }
}

fn on_new_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| panic::resume_unwind(panic))
}
