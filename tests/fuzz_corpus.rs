//! What the fuzzer has found, without the fuzzer: every kept input of every target, and its
//! beginnings, run by the functions that the fuzzer runs.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/targets.rs"]
mod targets;

use targets::{ALL, named};

/// An input's beginnings that are run too.
const CUTS: usize = 16;

#[test]
fn no_kept_input_nor_any_beginning_of_one_breaks_its_target() {
    for target in ALL {
        for file in files(&corpus().join(target.name)) {
            let bytes = fs::read(&file).unwrap();
            println!("{}", file.display());
            let step = bytes.len() / CUTS + 1;
            (0..bytes.len()).step_by(step).for_each(|end| (target.run)(&bytes[..end]));
            (target.run)(&bytes);
        }
    }
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    for target in ALL {
        assert!(!files(&corpus().join(target.name)).is_empty(), "no corpus of {}", target.name);
    }
    for directory in files(&corpus()) {
        let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        assert!(named(name).is_some(), "no target of {name}");
    }
}

#[test]
fn the_corpus_is_small() {
    let inputs = files(&corpus()).into_iter().flat_map(|target| files(&target));
    let bytes: u64 = inputs.map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes < 1_000_000, "{bytes} bytes");
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
