//! What must be known to undo set-up, kept where a restart, a crash's survivor
//! or `wansplit down` finds it: a file in a directory of `/run`, which a power
//! cut empties together with the kernel's state that it describes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::firewall::Backend;

/// The directory of one instance: one network namespace has one.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    path: PathBuf,
}

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
    #[must_use]
    pub fn new(given: Option<PathBuf>) -> Self {
        let usual = PathBuf::from("/run/wansplit");
        let path = given.unwrap_or_else(|| match namespace_inode() {
            Some(inode) => usual.join(format!("net-{inode}")),
            None => usual,
        });
        Self { path }
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
        let text = fs::read_to_string(self.file()).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Replaces the saved state as a whole.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, state: &State) -> io::Result<()> {
        fs::create_dir_all(&self.path)?;
        let fresh = self.path.join("state.json.new");
        let mut file = fs::File::create(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(state)?)?;
        file.sync_all()?;
        fs::rename(fresh, self.file())
    }

    /// Removes the directory with all that is ours in it.
    pub fn remove(&self) {
        for name in ["state.json", "state.json.new", "control.sock", "lock"] {
            let _ = fs::remove_file(self.path.join(name));
        }
        let _ = fs::remove_dir(&self.path);
        if let Some(parent) = self.path.parent().filter(|parent| parent.ends_with("wansplit")) {
            let _ = fs::remove_dir(parent);
        }
    }

    fn file(&self) -> PathBuf {
        self.path.join("state.json")
    }
}

/// The inode of the calling thread's network namespace, unless it is the first process's too. Only
/// root may look at that; others, who can set up nothing, are taken to be where it is.
fn namespace_inode() -> Option<u64> {
    let inode = |path: &str| fs::metadata(Path::new(path)).map(|file| file.ino()).ok();
    let own = inode("/proc/thread-self/ns/net")?;
    let first = inode("/proc/1/ns/net");
    (first != Some(own) && (first.is_some() || geteuid().is_root())).then_some(own)
}
