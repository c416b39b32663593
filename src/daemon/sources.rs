//! Configuration, rule and list files and databases, from the disk.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};

use super::changed_files::{Seen, Stamp};
use crate::config::{self, Config, Lists, Numbers, Problems, SourceFile};

/// A configuration file larger than this is no configuration file.
const LARGEST: u64 = 16 << 20;
/// A list or database larger than this is not read: the largest that are published have some ten megabytes.
const LARGEST_LIST: u64 = 256 << 20;

/// The configuration file and the rule files it names, as text, and where the lists and databases come from
/// that these name.
#[derive(Debug)]
pub struct Sources {
    /// The configuration file.
    pub main: SourceFile,
    /// The rule files, in the order of their names.
    pub rules: Vec<SourceFile>,
    /// The lists and databases, which are read when they are asked for.
    pub lists: Lists,
    /// What was asked for.
    seen: Rc<RefCell<Seen>>,
}

impl Sources {
    /// Checks it all. `known` are the numbers that uplinks have had before.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load(&self, known: &Numbers) -> Result<Config, Problems> {
        config::load_numbered(&self.main, &self.rules, &self.lists, known)
    }

    /// Forgets the lists and databases, to read them anew when they are asked for; the texts stay.
    pub fn forget_lists(&mut self) {
        *self = Sources::new(std::mem::take(&mut self.main), std::mem::take(&mut self.rules));
    }

    /// The lists and databases that were read, as they were before.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    fn new(main: SourceFile, rules: Vec<SourceFile>) -> Self {
        let seen = Rc::new(RefCell::new(Seen::new()));
        let noted = Rc::clone(&seen);
        let lists = Lists::new(move |path| {
            noted.borrow_mut().insert(path.to_owned(), Stamp::of(path));
            read_list(Path::new(path)).map_err(|error| error.to_string())
        });
        Sources { main, rules, lists, seen }
    }
}

/// A configuration or rule file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}")]
pub struct Unreadable {
    /// Where it should be.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Reads the configuration file and the `*.toml` files of its rules directory.
/// A directory that is only the default need not exist.
///
/// # Errors
/// [`Unreadable`]; and [`config::Problems`] when the configuration
/// file is so broken that its rules directory is not known.
pub fn read(path: &Path) -> Result<Sources> {
    let main = read_file(path)?;
    let directory = match config::rules_directory(&main) {
        Ok(directory) => directory,
        // Loading reports these problems, and all others.
        Err(_) => return Ok(Sources::new(main, Vec::new())),
    };
    let rules = read_rules(Path::new(&directory))?;
    Ok(Sources::new(main, rules))
}

fn read_rules(directory: &Path) -> Result<Vec<SourceFile>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(format!("cannot read {}", directory.display())),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", directory.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| read_file(path)).collect()
}

fn read_list(path: &Path) -> io::Result<Vec<u8>> {
    let size = fs::metadata(path)?.len();
    if size > LARGEST_LIST {
        return Err(io::Error::other(format!("it has {size} bytes; a list has at most {LARGEST_LIST}")));
    }
    fs::read(path)
}

fn read_file(path: &Path) -> Result<SourceFile> {
    let name = path.display().to_string();
    let unreadable = |source| Unreadable { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > LARGEST {
        bail!("{name} has {size} bytes; a configuration file has at most {LARGEST}");
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    Ok(SourceFile { path: name, text })
}
