//! What of other programs a test wants, and what becomes of it where that is missing.

use std::io::Write;

/// Whether there is such a program; see [`skip_without`].
pub fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).exists());
    !skip_without(program, found)
}

/// Whether a test is skipped because something is not there. In continuous integration it fails.
pub fn skip_without(what: &str, is_there: bool) -> bool {
    if !is_there {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "there is no {what}");
        // Not captured, as `eprintln!` is.
        let _ = writeln!(std::io::stderr(), "SKIPPED: no {what}: setup/packages.sh tests installs it");
    }
    !is_there
}
