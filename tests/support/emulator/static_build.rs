//! Statically linked builds of this package, for machines without libraries.
//!
//! They live in a target directory of their own, `target/static`, so that the
//! other flags do not rebuild the dependencies of an ordinary build.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::libraries;

/// The `wansplit` program.
pub fn wansplit() -> PathBuf {
    build(&["build", "--bin", "wansplit"])
}

/// The test program of `tests/<name>.rs`.
pub fn test_program(name: &str) -> PathBuf {
    build(&["test", "--no-run", "--test", name])
}

/// Runs cargo and returns the executable it names last, having checked that it
/// is static. Only the GNU target is
/// needed: its C library can be linked statically too. Naming the target keeps
/// the flags from build scripts and procedural macros.
fn build(arguments: &[&str]) -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--target", "x86_64-unknown-linux-gnu", "--message-format", "json", "--quiet"])
        .args(["--target-dir", "target/static"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env("CARGO_PROFILE_DEV_DEBUG", "none")
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("running cargo: {error}"));
    assert!(output.status.success(), "cargo {arguments:?} failed");
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages
        .lines()
        .filter_map(executable_of_message)
        .next_back()
        .unwrap_or_else(|| panic!("cargo {arguments:?} named no executable"));
    assert!(libraries::is_static(&executable), "{} is not static", executable.display());
    executable
}

fn executable_of_message(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    message["executable"].as_str().map(PathBuf::from)
}
