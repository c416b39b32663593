//! Runs a program of the owner's, for a bounded time, with nothing of ours open in it.

use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// What is kept of a program's output, in bytes; it may write more.
const OUTPUT: usize = 16 * 1024;
/// How often it is looked whether it has ended, in milliseconds.
const STEP: u16 = 50;

/// What became of it.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended; `None`: it took too long and was killed, with all that it had started.
    pub status: Option<ExitStatus>,
    /// What it wrote, cut at [`OUTPUT`].
    pub output: String,
}

/// Runs a command with these variables beside our own, and waits for its end.
///
/// # Errors
/// When it cannot be started.
pub fn run(command: &[String], variables: &[(&str, String)], timeout: Duration) -> io::Result<Outcome> {
    let deadline = Instant::now() + timeout;
    let (mut reader, mut child) = start(command, variables)?;
    let mut output = Vec::new();
    let status = loop {
        listen(&mut reader, &mut output)?;
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= deadline {
            break status;
        }
    };
    if status.is_none() {
        // It leads a group of its own, so that what it started dies with it.
        let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
        child.wait()?;
    }
    Ok(Outcome { status, output: String::from_utf8_lossy(&output).into_owned() })
}

fn start(command: &[String], variables: &[(&str, String)]) -> io::Result<(PipeReader, Child)> {
    let [program, arguments @ ..] = command else { return Err(io::ErrorKind::InvalidInput.into()) };
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(program);
    command.args(arguments).envs(variables.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    close_on_exec(&mut command);
    Ok((reader, command.spawn()?))
}

/// Our descriptors close themselves, but for one that another thread may just be opening.
#[expect(unsafe_code, reason = "only between fork and exec is it known what a program would inherit")]
fn close_on_exec(command: &mut Command) {
    let mark_all = || {
        // SAFETY: one system call that takes numbers only, and allocates nothing. Kernels that do not
        // know it (before 5.11) answer with an error, and nothing is marked.
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        Ok(())
    };
    // SAFETY: the closure does nothing but that.
    unsafe { command.pre_exec(mark_all) };
}

/// Takes what it has written, or waits a moment for it. One that has closed its output is waited for too.
fn listen(reader: &mut PipeReader, output: &mut Vec<u8>) -> io::Result<()> {
    let mut ready = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    let count = poll(&mut ready, PollTimeout::from(STEP)).unwrap_or(0);
    if count == 0 {
        return Ok(());
    }
    let mut chunk = [0; 4096];
    let length = reader.read(&mut chunk)?;
    if length == 0 {
        std::thread::sleep(Duration::from_millis(STEP.into()));
    }
    let room = OUTPUT - output.len().min(OUTPUT);
    output.extend_from_slice(&chunk[..length.min(room)]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, timeout: Duration) -> Outcome {
        let command = ["/bin/sh", "-c", script].map(String::from);
        run(&command, &[("FACT", "a b".into())], timeout).unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn it_sees_the_facts_and_what_it_writes_is_kept() {
        let outcome = sh("echo \"$FACT\"; echo to stderr >&2; exit 3", LONG);
        assert_eq!((outcome.output.as_str(), outcome.status.unwrap().code()), ("a b\nto stderr\n", Some(3)));
    }

    #[test]
    fn one_that_hangs_dies_with_all_that_it_started() {
        let begin = Instant::now();
        let outcome = sh("sleep 1000 & sleep 1000", Duration::from_millis(300));
        assert!(outcome.status.is_none() && begin.elapsed() < LONG);
    }

    #[test]
    fn one_that_writes_without_end_costs_no_memory() {
        let outcome = sh("yes | head -c 1000000", LONG);
        assert_eq!((outcome.output.len(), outcome.status.unwrap().success()), (OUTPUT, true));
    }

    #[test]
    fn what_it_leaves_running_is_not_waited_for() {
        let begin = Instant::now();
        assert!(sh("sleep 100 & exit 0", LONG).status.unwrap().success());
        assert!(begin.elapsed() < LONG);
    }

    #[test]
    fn it_inherits_nothing_but_its_standard_streams() {
        let outcome = sh("ls /proc/self/fd | tr '\\n' ' '", LONG);
        // The last one is the listing's own.
        assert_eq!(outcome.output, "0 1 2 3 ");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        assert!(run(&["/absent/program".to_owned()], &[], LONG).is_err());
    }
}
