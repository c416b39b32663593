//! A private world for a whole process: whatever it does, nothing is left of it.
//!
//! The process starts itself again, as the first process of a process
//! namespace, with mounts, `/run`, `/proc`, `/sys` and a network of its own.
//! When it ends, in whatever way, the kernel kills every process in there and
//! frees the rest; when the outer process dies, the inner one is killed.
//! Without root all this happens in a user namespace where the caller is root.
//!
//! Call [`World::enter`] first thing in `main`: a process with threads cannot
//! enter a user namespace.

use std::env;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{Gid, Pid, Uid, getpid};

use super::network::Network;

/// Names the outer process to the inner one.
const OUTER: &str = "WANSPLIT_LAB_OUTER";

/// How long the inner process may take to end after an interrupt or a termination.
const GRACE: Duration = Duration::from_secs(10);

/// `si_code` of signals that the kernel, not a process, has sent (include/uapi/asm-generic/siginfo.h).
const SI_KERNEL: i32 = 0x80;

/// Proof that this process is inside.
#[derive(Debug)]
pub struct World {
    /// This process, as the machine numbers it.
    process: String,
}

/// Where [`World::enter`] returned.
#[derive(Debug)]
pub enum Entered {
    /// In the inner process: go on here.
    Inside(World),
    /// In the outer process, after the inner one has ended: exit with this code.
    Ended(u8),
}

impl World {
    /// Starts this program again with the same arguments in a world of its own, and waits for its end.
    ///
    /// SIGINT, SIGTERM and SIGHUP of the outer process are passed on; an inner process that has
    /// not ended 10 seconds later is killed. The inner process must handle them itself: as the
    /// first process of its namespace it is not ended by them otherwise.
    ///
    /// # Errors
    /// Where the kernel allows no namespaces to this user, and says how it could be made to.
    pub fn enter() -> Result<Entered> {
        match env::var(OUTER) {
            // A program started inside, this one included, inherits the variable; it is not the first.
            Ok(outer) if getpid() == Pid::from_raw(1) => settle(&outer).map(Entered::Inside),
            _ => {
                leave_the_machine()?;
                Ok(Entered::Ended(attend(start_again()?)?))
            }
        }
    }

    /// The command that brings somebody on the machine, who began this world, into it:
    /// a command to run inside is to follow.
    #[must_use]
    pub fn way_in(&self) -> String {
        let users = match fs::read_to_string("/proc/self/uid_map") {
            Ok(map) if !is_whole(&map) => " --user --preserve-credentials",
            _ => "",
        };
        format!("nsenter --target {}{users} --mount --pid", self.process)
    }

    /// Gives the network's machines names under the private `/run/netns`, so that
    /// `ip netns exec router ...` works from inside.
    ///
    /// # Errors
    /// When a name cannot be made.
    pub fn name_machines(&self, network: &Network) -> Result<()> {
        fs::create_dir_all("/run/netns").context("making /run/netns")?;
        network.hosts().try_for_each(|host| {
            let name = format!("/run/netns/{}", host.name());
            fs::write(&name, "").with_context(|| format!("making {name}"))?;
            let namespace = host.namespace().path()?;
            bind(&namespace.to_string_lossy(), &name)
        })
    }
}

/// Leaves all namespaces but, where possible, the machine's users.
fn leave_the_machine() -> Result<()> {
    let all = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET;
    match unshare(all) {
        Err(Errno::EPERM) => become_root_of_a_user_namespace(all).context(ADVICE)?,
        result => result.context("making namespaces")?,
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("making mounts private")
        .context(ADVICE)?;
    mount_new("tmpfs", "/run")
}

/// What hinders an ordinary user, by kernel and distribution.
const ADVICE: &str = "the lab needs namespaces of its own, and this machine does not let you make them: \
run it as root, or allow user namespaces (sysctl user.max_user_namespaces above 0; on Debian \
kernel.unprivileged_userns_clone=1; on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0; \
containers often forbid them)";

fn become_root_of_a_user_namespace(others: CloneFlags) -> Result<()> {
    let (user, group) = (Uid::effective(), Gid::effective());
    unshare(CloneFlags::CLONE_NEWUSER | others).context("making a user namespace")?;
    // user_namespaces(7): an unprivileged gid_map needs setgroups denied first.
    fs::write("/proc/self/setgroups", "deny").context("writing /proc/self/setgroups")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("writing /proc/self/uid_map")?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1")).context("writing /proc/self/gid_map")
}

fn start_again() -> Result<Child> {
    Command::new("/proc/self/exe")
        .args(env::args_os().skip(1))
        .env(OUTER, getpid().to_string())
        .spawn()
        .context("starting this program again in a world of its own")
}

/// Waits for the inner process, passes signals on, and returns the exit code (128 + signal for a killed one).
fn attend(mut inner: Child) -> Result<u8> {
    let mut wanted = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD]
        .into_iter()
        .for_each(|s| wanted.add(s));
    wanted.thread_block().context("blocking signals")?;
    let signals = SignalFd::new(&wanted).context("making a signal descriptor")?;
    let mut deadline = None;
    loop {
        if let Some(status) = inner.try_wait()? {
            return Ok(status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1) as u8);
        }
        if let Some(received) = next_signal(&signals)?.filter(|received| received.signal != Signal::SIGCHLD) {
            deadline.get_or_insert(Instant::now() + GRACE);
            pass_on(&received, &inner);
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            inner.kill()?;
        }
    }
}

struct Received {
    signal: Signal,
    /// The terminal sent it: to the inner process as well.
    from_terminal: bool,
}

/// The next signal within half a second.
fn next_signal(signals: &SignalFd) -> Result<Option<Received>> {
    let mut ready = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    match poll(&mut ready, PollTimeout::from(500u16)) {
        Ok(0) | Err(Errno::EINTR) => return Ok(None),
        result => result.context("waiting for signals")?,
    };
    let Some(info) = signals.read_signal().context("reading a signal")? else { return Ok(None) };
    let signal = Signal::try_from(info.ssi_signo as i32).context("reading a signal")?;
    Ok(Some(Received { signal, from_terminal: info.ssi_code == SI_KERNEL }))
}

fn pass_on(received: &Received, inner: &Child) {
    if !received.from_terminal {
        // It may have ended just now.
        let _ = kill(Pid::from_raw(inner.id() as i32), received.signal);
    }
}

/// The inner process makes itself at home.
fn settle(outer: &str) -> Result<World> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("asking to be killed with the outer process")?;
    // /proc is still the machine's here: it tells whether the outer process died before that.
    if real_parent()? != outer {
        bail!("the outer process is gone");
    }
    let process = fs::read_link("/proc/self").context("reading /proc/self")?.display().to_string();
    mount_new("proc", "/proc")?;
    mount_new("sysfs", "/sys")?;
    Ok(World { process })
}

/// Whether a map of users (user_namespaces(7)) is that of a machine: all to themselves.
fn is_whole(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn real_parent() -> Result<String> {
    let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Ok(parent.context("no PPid in /proc/self/status")?.trim().to_owned())
}

/// Mounts a file system afresh. Machines that hide parts of `/proc` or `/sys` refuse a new one
/// (`mount_too_revealing` in fs/namespace.c): then the old one stays, which only shows more.
fn mount_new(kind: &str, place: &str) -> Result<()> {
    match mount(Some(kind), place, Some(kind), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, None::<&str>) {
        Err(Errno::EPERM) if kind != "tmpfs" => Ok(()),
        result => result.with_context(|| format!("mounting {kind} on {place}")),
    }
}

fn bind(source: &str, target: &str) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(io::Error::from)
        .with_context(|| format!("binding {source} to {target}"))
}
