//! Other programs, run with an end in time and with all they said.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long a command may take when nobody says otherwise.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(30);

/// Most bytes kept of what a command says.
const MOST_OUTPUT: u64 = 16 << 20;

/// Once a command has ended, its children may hold its output open; nobody waits for them longer than this.
const AFTER_THE_END: Duration = Duration::from_millis(500);

/// What became of a command.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a command with `input` as its standard input.
///
/// # Errors
/// When it cannot be started or runs longer than `limit` (it is killed then).
pub fn run(command: &mut Command, input: &str, limit: Duration) -> Result<Output> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {shown}"))?;
    feed(&mut child, input);
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = wait(&mut child, limit).with_context(|| format!("running {shown}"))?;
    Ok(Output { status, stdout: collected(&stdout), stderr: collected(&stderr) })
}

/// Runs a command that must succeed, and returns its standard output.
///
/// # Errors
/// As [`run`], and when it fails: with what it said.
pub fn check(command: &mut Command, input: &str, limit: Duration) -> Result<String> {
    let output = run(command, input, limit)?;
    ensure!(output.status.success(), "{command:?} failed ({}): {}", output.status, output.stderr.trim());
    Ok(output.stdout)
}

/// Waits for a child to end, and kills it when it does not.
///
/// # Errors
/// When it ran longer than `limit`.
pub(super) fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    let _ = child.wait();
    bail!("no end after {limit:?}");
}

fn feed(child: &mut Child, input: &str) {
    let (Some(mut pipe), input) = (child.stdin.take(), input.to_owned()) else { return };
    // A command that does not read its input to the end says so by its status.
    thread::spawn(move || pipe.write_all(input.as_bytes()));
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    let Some(mut pipe) = pipe else { return receiver };
    thread::spawn(move || {
        let mut chunk = [0; 8192];
        let mut left = MOST_OUTPUT as usize;
        while let Ok(length @ 1..) = pipe.read(&mut chunk) {
            let kept = length.min(left);
            left -= kept;
            if sender.send(chunk[..kept].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

fn collected(chunks: &Receiver<Vec<u8>>) -> String {
    let mut bytes = Vec::new();
    while let Ok(chunk) = chunks.recv_timeout(AFTER_THE_END) {
        bytes.extend(chunk);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_does_not_end_is_killed_at_its_limit() {
        let begin = Instant::now();
        let result = run(Command::new("sleep").arg("30"), "", Duration::from_millis(100));
        assert!(result.unwrap_err().chain().any(|cause| cause.to_string().contains("no end after")));
        assert!(begin.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_failing_commands_own_words_are_in_the_error() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo the reason >&2; exit 3"]);
        let error = check(&mut command, "", DEFAULT_LIMIT).unwrap_err().to_string();
        assert!(error.contains("the reason") && error.contains('3'), "{error}");
    }

    #[test]
    fn input_larger_than_a_pipe_comes_back_whole() {
        let input = "0123456789abcdef".repeat(64 * 1024);
        let output = check(&mut Command::new("cat"), &input, DEFAULT_LIMIT).unwrap();
        assert_eq!(output.len(), input.len());
    }

    #[test]
    fn a_child_that_keeps_the_output_open_holds_nobody_up() {
        let begin = Instant::now();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 5 & echo done"]);
        assert_eq!(check(&mut command, "", DEFAULT_LIMIT).unwrap().trim(), "done");
        assert!(begin.elapsed() < Duration::from_secs(4));
    }
}
