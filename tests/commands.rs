//! What the commands say, and how they end, where something is wrong before they begin.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A user without any right; Debian's nobody.
const NOBODY: u32 = 65_534;

const GOOD: &str = include_str!("data/article.toml");

#[test]
fn an_absent_configuration_ends_with_two_and_names_the_option() {
    for command in ["check", "run", "plan"] {
        let output = wansplit().args(["-c", "/absent/wansplit.toml", command]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = errors(&output);
        assert!(said.contains("/absent/wansplit.toml") && said.contains("--config"), "{said}");
    }
}

#[test]
fn a_directory_in_place_of_the_configuration_ends_with_two() {
    let output = wansplit().args(["-c", "/", "check"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn an_unknown_command_ends_with_two() {
    assert_eq!(wansplit().arg("fly").output().unwrap().status.code(), Some(2));
}

#[test]
fn without_a_daemon_status_and_reload_end_with_one_and_say_how_to_start_it() {
    let directory = TempDir::new().unwrap();
    for command in ["status", "reload"] {
        let output = wansplit().arg("--run-dir").arg(directory.path()).arg(command).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(errors(&output).contains("wansplit run"), "{output:?}");
    }
}

#[test]
fn what_needs_root_says_so_to_others() {
    for command in ["run", "plan", "down"] {
        let output = as_nobody(GOOD, command);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(errors(&output), format!("wansplit: `wansplit {command}` needs root\n"));
    }
}

#[test]
fn a_bad_configuration_is_told_to_others_before_that_root_is_needed() {
    for command in ["run", "plan", "check"] {
        let output = as_nobody("[lan]\ninterfaces = []\n", command);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(errors(&output).contains("wansplit.toml:2:14"), "{output:?}");
    }
}

/// Runs a command with a configuration as a user who is not root.
fn as_nobody(configuration: &str, command: &str) -> Output {
    let directory = TempDir::new().unwrap();
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let config = directory.path().join("wansplit.toml");
    fs::write(&config, configuration).unwrap();
    let mut run = Command::new(copy_for_everybody(directory.path()));
    run.env_remove("WANSPLIT_CONFIG").current_dir("/").arg("-c").arg(&config).arg(command);
    if nix::unistd::geteuid().is_root() {
        run.uid(NOBODY).gid(NOBODY);
    }
    run.output().unwrap()
}

/// The build directory may be closed to others. Copied by another process: a file that this one
/// writes may still be open in a child that another test's thread is just starting (ETXTBSY).
fn copy_for_everybody(directory: &Path) -> PathBuf {
    let copy = directory.join("wansplit");
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_wansplit")).arg(&copy).status().unwrap();
    assert!(copied.success());
    copy
}

fn wansplit() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wansplit"));
    command.env_remove("WANSPLIT_CONFIG");
    command
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
