//! The shared libraries of the host's programs, as `ldd` names them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The libraries that the programs need, the dynamic loader among them.
/// Statically linked programs have none.
pub fn of(programs: &[&Path]) -> BTreeSet<PathBuf> {
    if programs.is_empty() {
        return BTreeSet::new();
    }
    output_of(Path::new("ldd"), programs).lines().filter_map(library_of_line).collect()
}

/// Whether a program runs without a dynamic loader.
pub fn is_static(program: &Path) -> bool {
    of(&[program]).is_empty()
}

/// Standard output of a host program. Its exit code is of no interest: `ldd`
/// fails when given a static program.
pub fn output_of<A: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = A>) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("running {}: {error}", program.display()));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Reads `name => /path (address)` and `/path (address)`. The headings of
/// several programs, `/path:`, have no address.
fn library_of_line(line: &str) -> Option<PathBuf> {
    let (found, _address) = line.trim().rsplit_once(" (0x")?;
    let path = found.rsplit(" => ").next()?;
    path.starts_with('/').then(|| PathBuf::from(path))
}
