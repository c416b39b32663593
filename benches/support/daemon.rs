//! The program itself, on a router of the lab. `WANSPLIT_PROGRAM` names another build of it.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use wansplit::lab::host::{Host, Process};

/// How long it may take to start.
const START: Duration = Duration::from_secs(30);

/// Starts it with the `wansplit.toml` of this directory, by way of a command such as `taskset -c 0` or none, and
/// waits until it decides.
pub fn start(router: &Host, files: &Path, by_way_of: &[&str]) -> Result<Process> {
    let log = std::fs::File::create(files.join("log"))?;
    let mut run = command(files, by_way_of, &["run"]);
    let process = router.spawn(run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log))?;
    let deadline = Instant::now() + START;
    while Instant::now() < deadline {
        let status = router.try_run(&mut command(files, &[], &["status", "--json"]), START)?;
        if status.stdout.replace(' ', "").contains("\"open\":true") {
            return Ok(process);
        }
        thread::sleep(Duration::from_millis(50));
    }
    bail!("the program did not start:\n{}", std::fs::read_to_string(files.join("log"))?)
}

fn command(files: &Path, by_way_of: &[&str], arguments: &[&str]) -> Command {
    let program =
        std::env::var_os("WANSPLIT_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_wansplit").into());
    let mut words = by_way_of.iter().map(OsString::from).chain([program]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).arg("--config").arg(files.join("wansplit.toml"));
    command.arg("--run-dir").arg(files.join("run")).args(arguments);
    command
}
