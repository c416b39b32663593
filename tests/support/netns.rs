//! A network of its own for a test: a namespace that belongs to one thread and goes with it.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Runs the test in a fresh network namespace with loopback up; skips it, loudly, without privilege.
///
/// # Panics
/// When the test does, and in continuous integration (`CI=true`) also without privilege.
pub fn in_netns(test: impl FnOnce() + Send + 'static) {
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let thread = std::thread::Builder::new().name(name.clone()).spawn(move || match enter() {
        Ok(()) => test(),
        Err(errno) => skip(&name, errno),
    });
    if let Err(panic) = thread.expect("a thread").join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command line in the namespace of this thread and returns what it printed.
///
/// # Panics
/// When the command fails.
pub fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().expect("sh runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn enter() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    sh("ip link set lo up");
    Ok(())
}

fn skip(name: &str, errno: nix::errno::Errno) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{name}: no network namespace: {errno}");
    eprintln!("SKIPPED: needs root: {name}: {errno}");
}
