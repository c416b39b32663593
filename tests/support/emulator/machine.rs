//! One run of the emulated machine, from the archive to its outcome.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::archive::Archive;

/// Kernel parameters. `panic` and `reboot` make qemu end at once when the
/// kernel goes down; the rest saves time or keeps a busy host from looking like
/// a fault of the guest.
const KERNEL_PARAMETERS: &str = "console=ttyS0 quiet panic=-1 oops=panic reboot=t \
     printk.devkmsg=on mitigations=off nokaslr audit=0 random.trust_cpu=on no_timer_check \
     cryptomgr.notests nowatchdog rcupdate.rcu_cpu_stall_suppress=1";

/// The processor is qemu's plainest: a kernel that finds fewer features to use
/// boots faster in emulation.
const QEMU_ARGUMENTS: &str = "-machine q35 -accel tcg,thread=multi -cpu qemu64 -smp 2 -m 1024 \
     -display none -nodefaults -no-reboot -serial file:console -serial file:output \
     -initrd initramfs";

/// Qemu 7.2 crashes one in five boots of Debian 13's kernel 6.12, with one
/// processor or two; Debian 12's 6.1 boots reliably. The command has not run by
/// then, so booting again changes no result.
const MOST_BOOTS: u32 = 4;

/// Ten times what a boot takes on an idle host.
const BOOT_LIMIT: Duration = Duration::from_secs(20);

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How much of the console and of the output a report shows.
const REPORTED_LINES: usize = 50;

/// Emulation takes every core there is.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How a command went.
#[derive(Debug)]
pub struct Outcome {
    /// The command's exit code; `None` when the machine went down or was
    /// stopped before it had one.
    pub exit_code: Option<i32>,
    /// What the command wrote to standard output and standard error.
    pub output: String,
    /// Whether the machine was stopped at the time limit.
    pub timed_out: bool,
    /// The kernel's messages, and qemu's own.
    pub console: String,
    /// How often the machine was started until the command ran.
    pub boots: u32,
    /// From starting qemu to its end.
    pub took: Duration,
}

impl Outcome {
    /// The output of a command that has to succeed.
    #[track_caller]
    pub fn expect_success(&self) -> &str {
        assert!(self.exit_code == Some(0), "{self}");
        &self.output
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.exit_code {
            Some(code) => format!("the command ended with exit code {code}"),
            None if self.timed_out => "the time limit passed".to_string(),
            None if self.console.contains("Kernel panic") => "the kernel panicked".to_string(),
            None => "the machine went down before the command ended".to_string(),
        };
        let seconds = self.took.as_secs_f32();
        writeln!(formatter, "{how} after {seconds:.1} s, at boot {}", self.boots)?;
        writeln!(formatter, "--- console\n{}", last_lines(&self.console))?;
        writeln!(formatter, "--- output\n{}", last_lines(&self.output))
    }
}

/// Boots the kernel with the archive as its root file system.
pub fn run(qemu: &Path, kernel: &Path, archive: &Archive, time_limit: Duration) -> Outcome {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let files = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap_or_else(|error| panic!("making a directory for the machine: {error}"));
    write_archive(archive, &files.path().join("initramfs"))
        .unwrap_or_else(|error| panic!("writing the machine's file system: {error}"));
    let started = Instant::now();
    let deadline = started + time_limit;
    let mut boots = 0;
    let timed_out = loop {
        boots += 1;
        let mut machine = Machine::start(qemu, kernel, &files)
            .unwrap_or_else(|error| panic!("starting {}: {error}", qemu.display()));
        let boot_deadline = deadline.min(Instant::now() + BOOT_LIMIT);
        machine.ends_by(boot_deadline, || command_has_started(&files));
        if command_has_started(&files) || boots == MOST_BOOTS || Instant::now() >= deadline {
            break !machine.ends_by(deadline, || false);
        }
    };
    let console = (text(&files, "console") + &text(&files, "errors")).replace('\r', "");
    Outcome {
        exit_code: exit_code(&console),
        output: text(&files, "output"),
        timed_out,
        console,
        boots,
        took: started.elapsed(),
    }
}

/// A running qemu, killed when dropped.
struct Machine(Child);

impl Machine {
    /// `setpriv` has qemu killed even if this process dies without cleaning up.
    fn start(qemu: &Path, kernel: &Path, files: &TempDir) -> io::Result<Machine> {
        let errors = File::create(files.path().join("errors"))?;
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(qemu)
            .args(QEMU_ARGUMENTS.split_whitespace())
            .args(["-append", KERNEL_PARAMETERS, "-kernel"])
            .arg(kernel)
            .current_dir(files.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .map(Machine)
    }

    /// Waits for qemu's end or for something else, but not past the deadline.
    /// Returns whether qemu has ended.
    fn ends_by(&mut self, deadline: Instant, or: impl Fn() -> bool) -> bool {
        loop {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return true;
            }
            if Instant::now() >= deadline || or() {
                return false;
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only if the process is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn write_archive(archive: &Archive, path: &Path) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    archive.write(&mut file)?;
    file.flush()
}

fn command_has_started(files: &TempDir) -> bool {
    text(files, "console").contains("emulator: command starts")
}

fn text(files: &TempDir, name: &str) -> String {
    let bytes = fs::read(files.path().join(name)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads what `/init` logs when the command has ended.
fn exit_code(console: &str) -> Option<i32> {
    let (_, code) = console.rsplit_once("emulator: exit code ")?;
    code.lines().next()?.trim().parse().ok()
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(REPORTED_LINES)..].join("\n")
}
