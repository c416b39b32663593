//! What was learned, carried over a restart: names of addresses and sticky choices, in a file of
//! the run directory. They are a help, not a duty: no failure here ends or holds up anything.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::engine::flow::Millis;
use crate::engine::{Snapshot, names, sticky};
use crate::system::clock;
use crate::system::state::RunDirectory;

#[derive(Debug, Serialize, Deserialize)]
struct Learned {
    /// When it was written, by the clock on the wall: the monotonic one begins anew with the kernel.
    written: u64,
    names: names::Entries,
    choices: Vec<sticky::Entry>,
}

/// Writes down what the snapshot's memories hold.
pub fn save(run: &RunDirectory, config: &Config, snapshot: &Snapshot) {
    let now = Millis(clock::monotonic_ms());
    let learned = Learned {
        written: clock::wall_seconds(),
        names: snapshot.names.entries(now),
        choices: snapshot.choices.entries(&config.names_by_number(), now),
    };
    let saved =
        serde_json::to_vec(&learned).map_err(io::Error::from).and_then(|bytes| run.save_learned(&bytes));
    match saved {
        Ok(()) => tracing::debug!("kept for the next run: {}", learned.summary()),
        Err(error) => tracing::debug!("what was learned is not kept for the next run: {error}"),
    }
}

/// Takes in what an earlier run wrote down.
pub fn restore(run: &RunDirectory, config: &Config, snapshot: &Snapshot) {
    match load(run) {
        Ok(learned) => learned.restore(config, snapshot),
        Err(error) => tracing::debug!("nothing was learned before: {error}"),
    }
}

fn load(run: &RunDirectory) -> io::Result<Learned> {
    Ok(serde_json::from_slice(&run.load_learned()?)?)
}

impl Learned {
    fn restore(&self, config: &Config, snapshot: &Snapshot) {
        let now = Millis(clock::monotonic_ms());
        // A clock that was set back meanwhile cannot tell; then nothing outlives its full time, at least.
        let passed = Duration::from_secs(clock::wall_seconds().saturating_sub(self.written));
        snapshot.names.restore(&self.names, passed, now);
        snapshot.choices.restore(&self.choices, &config.names_by_number(), passed, now);
        tracing::debug!("from {} s ago: {}", passed.as_secs(), self.summary());
    }

    fn summary(&self) -> String {
        format!("{} names, {} choices", self.names.count(), self.choices.len())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::engine::sniff::Name;

    fn config() -> Config {
        let article = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/article.toml");
        crate::daemon::load(&article).unwrap()
    }

    fn knows_the_name(snapshot: &Snapshot) -> bool {
        let now = Millis(clock::monotonic_ms());
        snapshot.names.of([10, 0, 0, 1].into(), [192, 0, 2, 1].into(), 443, now).is_some()
    }

    #[test]
    fn what_one_run_saved_the_next_one_knows_unless_the_file_is_broken_or_too_old() {
        let directory = tempfile::TempDir::new().unwrap();
        let run = RunDirectory::new(Some(directory.path().into()));
        let known_again = || {
            let snapshot = Snapshot::default();
            restore(&run, &config(), &snapshot);
            knows_the_name(&snapshot)
        };
        assert!(!known_again(), "there is no file");

        let before = Snapshot::default();
        let (name, now) = (Name::new(b"www.example.org").unwrap(), Millis(clock::monotonic_ms()));
        before.names.told([10, 0, 0, 1].into(), [192, 0, 2, 1].into(), &name, 86_400, now);
        save(&run, &config(), &before);
        assert!(known_again());

        let file = directory.path().join("learned.json");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, &text[..text.len() - 1]).unwrap();
        assert!(!known_again(), "the file is cut off");
        let mut learned: Learned = serde_json::from_str(&text).unwrap();
        learned.written -= 86_400;
        fs::write(&file, serde_json::to_vec(&learned).unwrap()).unwrap();
        assert!(!known_again(), "it is a day old");
    }
}
