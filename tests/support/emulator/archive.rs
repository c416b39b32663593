//! The machine's root file system, as a cpio archive the kernel unpacks.
//!
//! The format is "newc": per entry a header of thirteen hexadecimal numbers, a
//! name and the contents, each padded to four bytes. Names are kept as on a
//! Debian with merged `/usr`: `/bin`, `/sbin`, `/lib` and `/lib64` are links.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;

const MERGED_DIRECTORIES: &[&str] = &["bin", "lib", "lib64", "sbin"];

/// Directories that a file system or a tool expects to find.
const EMPTY_DIRECTORIES: &[&str] = &["dev", "etc", "mnt", "proc", "run", "sys", "tmp", "usr", "var"];

const DIRECTORY: u32 = 0o040_755;
const REGULAR_FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_777;

/// Files by name without the leading slash; a later file of the same name takes
/// the place of the earlier.
#[derive(Clone, Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone)]
struct Entry {
    mode: u32,
    contents: Rc<[u8]>,
}

impl Archive {
    pub fn file(&mut self, name: &str, permissions: u32, contents: Vec<u8>) {
        self.insert(name, REGULAR_FILE | permissions, &contents);
    }

    pub fn symlink(&mut self, name: &str, target: &str) {
        self.insert(name, SYMLINK, target.as_bytes());
    }

    /// Writes directories before what is in them, as the kernel needs it.
    pub fn write(&self, output: &mut impl Write) -> io::Result<()> {
        let mut all = self.skeleton();
        all.extend(self.entries.iter().map(|(name, entry)| (name.as_str(), entry.clone())));
        for (number, (name, entry)) in all.iter().enumerate() {
            write_entry(output, number, name, entry)?;
        }
        write_entry(output, 0, "TRAILER!!!", &Entry::new(0, &[]))
    }

    fn insert(&mut self, name: &str, mode: u32, contents: &[u8]) {
        self.entries.insert(merged(name), Entry::new(mode, contents));
    }

    /// The links of a merged `/usr`, and every directory that holds something.
    fn skeleton(&self) -> BTreeMap<&str, Entry> {
        let mut skeleton = BTreeMap::new();
        for &name in MERGED_DIRECTORIES {
            skeleton.insert(name, Entry::new(SYMLINK, format!("usr/{name}").as_bytes()));
        }
        let parents = self.entries.keys().flat_map(|name| Path::new(name).ancestors().skip(1));
        for name in parents.filter_map(Path::to_str).chain(EMPTY_DIRECTORIES.iter().copied()) {
            if !name.is_empty() {
                skeleton.insert(name, Entry::new(DIRECTORY, &[]));
            }
        }
        skeleton
    }
}

impl Entry {
    fn new(mode: u32, contents: &[u8]) -> Entry {
        Entry { mode, contents: contents.into() }
    }
}

fn merged(name: &str) -> String {
    let name = name.trim_start_matches('/');
    let first = name.split('/').next().unwrap_or(name);
    if MERGED_DIRECTORIES.contains(&first) { format!("usr/{name}") } else { name.to_string() }
}

fn write_entry(output: &mut impl Write, number: usize, name: &str, entry: &Entry) -> io::Result<()> {
    const HEADER_LENGTH: usize = 6 + 13 * 8;
    let name_length = name.len() + 1;
    write!(
        output,
        "070701{number:08x}{mode:08x}{zero:08x}{zero:08x}{links:08x}{zero:08x}{length:08x}\
         {zero:08x}{zero:08x}{zero:08x}{zero:08x}{name_length:08x}{zero:08x}{name}\0",
        mode = entry.mode,
        links = 1,
        length = entry.contents.len(),
        zero = 0,
    )?;
    pad(output, HEADER_LENGTH + name_length)?;
    output.write_all(&entry.contents)?;
    pad(output, entry.contents.len())
}

fn pad(output: &mut impl Write, written: usize) -> io::Result<()> {
    let to_multiple_of_four = written.next_multiple_of(4) - written;
    output.write_all(&[0; 3][..to_multiple_of_four])
}
