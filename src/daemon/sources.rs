//! Configuration, rule and list files, from the disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::config::{self, Lists, SourceFile};

/// A configuration file larger than this is no configuration file.
const LARGEST: u64 = 16 << 20;
/// A list larger than this is not read: the largest that are published have some ten megabytes.
const LARGEST_LIST: u64 = 256 << 20;

/// The configuration file, the rule files it names, as text, and the lists that these name.
#[derive(Debug)]
pub struct Sources {
    /// The configuration file.
    pub main: SourceFile,
    /// The rule files, in the order of their names.
    pub rules: Vec<SourceFile>,
    /// The lists; also those that cannot be read, so that a check can say where they are named.
    pub lists: Lists,
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

/// Reads the configuration file, the `*.toml` files of its rules directory, and the lists they name.
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
        Err(_) => return Ok(Sources { main, rules: Vec::new(), lists: Lists::default() }),
    };
    let rules = read_rules(Path::new(&directory))?;
    let lists = config::list_files(&rules).into_iter().map(|path| {
        let bytes = read_list(Path::new(&path)).map_err(|error| error.to_string());
        (path, bytes)
    });
    Ok(Sources { main, lists: lists.collect(), rules })
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
