//! What must be known to undo set-up, kept where a restart, a crash's survivor
//! or `wansplit down` finds it: a file in a directory of `/run`, which a power
//! cut empties together with the kernel's state that it describes. Beside it lies what was
//! learned, for the next run. What lines have carried this month must outlive a power cut; it lies in `/var/lib`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::firewall::Backend;
use crate::engine::uplink::{Avoided, ByHand, UplinkId, UplinkSet};

/// What is kept over restarts may be at most so long, in bytes: the directory is in memory.
pub const MOST_LEARNED: u64 = 16 << 20;

/// The directory of one instance: one network namespace has one.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    path: PathBuf,
    /// Where the month's bytes are kept.
    lasting: PathBuf,
}

/// Names of files in the directory.
const STATE: &str = "state.json";
const LEARNED: &str = "learned.json";
const USAGE: &str = "usage.json";

/// What lines have carried may be at most so long, in bytes: 64 lines have some 20 KB.
const MOST_USAGE: u64 = 1 << 20;

/// Kept while the daemon lives, so that a second one does not start.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<fs::File>,
}

/// What set-up changed and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The backend that was used.
    pub backend: Option<Backend>,
    /// Kernel settings as they were and as we left them, in the order of writing.
    pub settings: Vec<SavedSetting>,
    /// nf_tables tables ("ip mangle") and chains ("ip mangle FORWARD") that were there before us.
    pub chains_before: BTreeSet<String>,
    /// The mark bits on connections that are ours.
    pub mark_mask: u32,
    /// The uplinks that probes called down.
    #[serde(default)]
    pub avoided: Avoided,
    /// The uplinks that did not have their whole share of new flows.
    #[serde(default)]
    pub unfilled: Avoided,
    /// The uplinks whose quotas are used up.
    #[serde(default)]
    pub used_up: UplinkSet,
    /// What people said of uplinks.
    #[serde(default)]
    pub by_hand: ByHand,
    /// The numbers of the uplinks, by their devices: running flows are marked with them.
    #[serde(default)]
    pub numbers: BTreeMap<String, UplinkId>,
    /// Fingerprint of the firewall that was asked for.
    pub asked: u64,
    /// Fingerprint of the firewall as it was read back.
    pub read_back: u64,
}

/// A kernel setting that may have to be put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSetting {
    /// Path below `/proc/sys`.
    pub name: String,
    /// Its value before us.
    pub before: String,
    /// Its value as we left it.
    pub after: String,
}

impl RunDirectory {
    /// The directory given, or the usual one of the calling thread's network
    /// namespace: `/run/wansplit`, and below it `net-INODE` in any namespace but the first process's.
    /// In the usual one of the first process the month's bytes lie apart, so that they outlive the machine's restart;
    /// other namespaces do not outlive it either.
    #[must_use]
    pub fn new(given: Option<PathBuf>) -> Self {
        let usual = PathBuf::from("/run/wansplit");
        match given.or_else(|| namespace_inode().map(|inode| usual.join(format!("net-{inode}")))) {
            Some(path) => Self { lasting: path.clone(), path },
            None => Self { path: usual, lasting: PathBuf::from("/var/lib/wansplit") },
        }
    }

    /// The control socket's path.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Takes the lock of this directory, which it makes.
    ///
    /// # Errors
    /// `WouldBlock` when another instance has it.
    pub fn lock(&self) -> io::Result<Lock> {
        fs::create_dir_all(&self.path)?;
        let file = fs::OpenOptions::new().create(true).append(true).open(self.path.join("lock"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Lock { _file: file }),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    /// The saved state; an absent or unreadable file is an empty one.
    #[must_use]
    pub fn load(&self) -> State {
        let text = fs::read_to_string(self.path.join(STATE)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Replaces the saved state as a whole.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, state: &State) -> io::Result<()> {
        replace(&self.path, STATE, 0o644, &serde_json::to_vec_pretty(state)?)
    }

    /// What [`RunDirectory::save_learned`] left.
    ///
    /// # Errors
    /// When there is no such file, it cannot be read, or it is longer than [`MOST_LEARNED`].
    pub fn load_learned(&self) -> io::Result<Vec<u8>> {
        read(&self.path.join(LEARNED), MOST_LEARNED)
    }

    /// Replaces what was learned as a whole. Nobody but root may read it: it tells who asked for what.
    ///
    /// # Errors
    /// When the file cannot be written, or would be longer than [`MOST_LEARNED`].
    pub fn save_learned(&self, learned: &[u8]) -> io::Result<()> {
        heed_length(learned, MOST_LEARNED)?;
        replace(&self.path, LEARNED, 0o600, learned)
    }

    /// What [`RunDirectory::save_usage`] left.
    ///
    /// # Errors
    /// When there is no such file, it cannot be read, or it is too long.
    pub fn load_usage(&self) -> io::Result<Vec<u8>> {
        read(&self.lasting.join(USAGE), MOST_USAGE)
    }

    /// Replaces what lines have carried as a whole.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save_usage(&self, usage: &[u8]) -> io::Result<()> {
        replace(&self.lasting, USAGE, 0o600, usage)
    }

    /// Removes the directory with all that is ours in it.
    pub fn remove(&self) {
        for name in [STATE, LEARNED, USAGE] {
            let _ = fs::remove_file(self.path.join(name));
            let _ = fs::remove_file(fresh(&self.path, name));
        }
        for name in ["control.sock", "lock"] {
            let _ = fs::remove_file(self.path.join(name));
        }
        let _ = fs::remove_dir(&self.path);
        if let Some(parent) = self.path.parent().filter(|parent| parent.ends_with("wansplit")) {
            let _ = fs::remove_dir(parent);
        }
    }
}

fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    heed_length(&bytes, most)?;
    Ok(bytes)
}

/// Whoever reads meanwhile, and whoever starts after a power cut, finds all of it or all of what was before.
fn replace(directory: &Path, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let fresh = fresh(directory, name);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(fresh, directory.join(name))
}

/// Where a file is written before it takes the other's place.
fn fresh(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.new"))
}

fn heed_length(bytes: &[u8], most: u64) -> io::Result<()> {
    if bytes.len() as u64 > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
}

/// The inode of the calling thread's network namespace, unless it is the first process's too. Only
/// root may look at that; others, who can set up nothing, are taken to be where it is.
fn namespace_inode() -> Option<u64> {
    let inode = |path: &str| fs::metadata(Path::new(path)).map(|file| file.ino()).ok();
    let own = inode("/proc/thread-self/ns/net")?;
    let first = inode("/proc/1/ns/net");
    (first != Some(own) && (first.is_some() || geteuid().is_root())).then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_directory() -> (tempfile::TempDir, RunDirectory) {
        let directory = tempfile::TempDir::new().unwrap();
        let run = RunDirectory::new(Some(directory.path().join("run")));
        (directory, run)
    }

    #[test]
    fn what_was_learned_is_for_root_alone_and_goes_with_the_directory() {
        let (directory, run) = run_directory();
        assert_eq!(run.load_learned().unwrap_err().kind(), io::ErrorKind::NotFound);
        run.save_learned(b"old and long").unwrap();
        run.save_learned(b"new").unwrap();
        assert_eq!(run.load_learned().unwrap(), b"new");
        let mode = fs::metadata(directory.path().join("run/learned.json")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        run.remove();
        assert!(!directory.path().join("run").exists());
    }

    #[test]
    fn what_was_learned_is_neither_written_nor_read_where_it_is_too_long() {
        let (directory, run) = run_directory();
        run.save_learned(b"before").unwrap();
        let error = run.save_learned(&vec![0; MOST_LEARNED as usize + 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(run.load_learned().unwrap(), b"before");
        let file = fs::File::create(directory.path().join("run/learned.json")).unwrap();
        file.set_len(MOST_LEARNED + 1).unwrap();
        assert_eq!(run.load_learned().unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
