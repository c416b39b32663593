//! Lists and databases that others change while the daemon runs.
//!
//! They are looked at again and again, by their paths: that sees a file that is written anew, one that is
//! renamed over it, and a symbolic link that is turned, on network file systems too.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Files by their paths, as they were just before they were read; `None`: there was none.
pub type Seen = BTreeMap<String, Option<Stamp>>;

/// What differs when a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Device and inode.
    file: (u64, u64),
    size: u64,
    /// Seconds and nanoseconds of the last change of its bytes, and of anything about it.
    times: [(i64, i64); 2],
}

impl Stamp {
    /// Of the file that the path leads to now.
    #[must_use]
    pub fn of(path: &str) -> Option<Stamp> {
        let about = fs::metadata(path).ok()?;
        let times = [(about.mtime(), about.mtime_nsec()), (about.ctime(), about.ctime_nsec())];
        Some(Stamp { file: (about.dev(), about.ino()), size: about.size(), times })
    }
}

/// Watches files that were read.
#[derive(Debug, Default)]
pub struct Watch {
    seen: Seen,
    /// How they were at the last look, if that was not how they were read.
    changing: Option<Seen>,
}

impl Watch {
    /// Watches these files.
    #[must_use]
    pub fn new(seen: Seen) -> Self {
        Watch { seen, changing: None }
    }

    /// Looks at the files. Whether they have changed since they were read and not since the last look:
    /// one that is still being written is not worth reading.
    pub fn have_changed(&mut self) -> bool {
        let now: Seen = self.seen.keys().map(|path| (path.clone(), Stamp::of(path))).collect();
        if now == self.seen {
            self.changing = None;
            return false;
        }
        let are_settled = self.changing.as_ref() == Some(&now);
        self.changing = Some(now);
        are_settled
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    #[test]
    fn a_file_has_changed_once_it_is_the_same_at_two_looks() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("list");
        fs::write(&path, "a").unwrap();
        let mut watch = watch(&path);
        assert!(!watch.have_changed());
        fs::write(&path, "ab").unwrap();
        assert!(!watch.have_changed());
        fs::write(&path, "abc").unwrap();
        assert!(!watch.have_changed(), "it was still being written");
        assert!(watch.have_changed());
    }

    #[test]
    fn a_file_that_is_renamed_over_it_or_linked_to_or_removed_is_a_change() {
        let directory = tempfile::TempDir::new().unwrap();
        let [path, other, link] = ["list", "other", "link"].map(|name| directory.path().join(name));
        fs::write(&path, "a").unwrap();
        fs::write(&other, "a").unwrap();
        symlink(&path, &link).unwrap();
        let mut linked = watch(&link);
        fs::remove_file(&link).unwrap();
        symlink(&other, &link).unwrap();
        assert!(!linked.have_changed() && linked.have_changed());
        let mut watch = watch(&path);
        fs::rename(&other, &path).unwrap();
        assert!(!watch.have_changed() && watch.have_changed());
        fs::remove_file(&path).unwrap();
        assert!(!watch.have_changed() && watch.have_changed());
    }

    fn watch(path: &Path) -> Watch {
        let path = path.display().to_string();
        let stamp = Stamp::of(&path);
        Watch::new(Seen::from([(path, stamp)]))
    }
}
