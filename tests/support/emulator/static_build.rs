//! Builds of this package to run in the machine.
//!
//! Statically linked ones need no libraries there. They live in a target
//! directory of their own, `target/static`, so that the other flags do not
//! rebuild the dependencies of an ordinary build.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::libraries;

/// The `wansplit` program, statically linked.
pub fn wansplit() -> PathBuf {
    static_build("wansplit", &["build", "--bin", "wansplit"])
}

/// The test program of `tests/<name>.rs`, statically linked.
pub fn test_program(name: &str) -> PathBuf {
    static_build(name, &["test", "--no-run", "--test", name])
}

/// The test program of `tests/<name>.rs` as the ordinary test command builds
/// it; where that command is what runs now, it is built already.
pub fn ordinary_test_program(name: &str) -> PathBuf {
    let release: &[&str] = if cfg!(debug_assertions) { &[] } else { &["--release"] };
    executable(name, cargo(&[&["test", "--no-run", "--test", name], release].concat()))
}

/// Runs cargo and checks that what it built is static. Emulation is slow enough
/// to be worth a little optimization. Only the GNU target is
/// needed: its C library can be linked statically too. Naming the target keeps
/// the flags from build scripts and procedural macros.
fn static_build(name: &str, arguments: &[&str]) -> PathBuf {
    let mut cargo = cargo(arguments);
    cargo
        .args(["--target", "x86_64-unknown-linux-gnu", "--target-dir", "target/static"])
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env("CARGO_PROFILE_DEV_DEBUG", "none")
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
    let executable = executable(name, cargo);
    assert!(libraries::is_static(&executable), "{} is not static", executable.display());
    executable
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(arguments)
        .args(["--message-format", "json", "--quiet"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .stderr(Stdio::inherit());
    cargo
}

/// Runs cargo and returns the executable of the target with this name; a test
/// program brings the package's own program along.
fn executable(name: &str, mut cargo: Command) -> PathBuf {
    let output = cargo.output().unwrap_or_else(|error| panic!("running cargo: {error}"));
    assert!(output.status.success(), "{cargo:?} failed");
    let messages = String::from_utf8_lossy(&output.stdout);
    messages
        .lines()
        .find_map(|message| executable_of(name, message))
        .unwrap_or_else(|| panic!("{cargo:?} named no executable"))
}

fn executable_of(name: &str, message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["target"]["name"] != name {
        return None;
    }
    message["executable"].as_str().map(PathBuf::from)
}
