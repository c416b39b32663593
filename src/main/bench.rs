//! `wansplit bench`: makes flows or reads them from captures, shows how far it is, prints what was measured.

use std::path::{Path, PathBuf};
use std::time::Duration;

use wansplit::bench::{self, Flow};
use wansplit::config::Config;
use wansplit::daemon;
use wansplit::replay::{self, Replay, file};
use wansplit::ui::bench::{Source, View, progress};
use wansplit::ui::cli::{Args, Bench, Exit};
use wansplit::ui::progress::Progress;
use wansplit::ui::replay::progress as progress_of_file;
use wansplit::ui::style::Style;

/// Measures the rules of the configuration; a capture that is broken is named, and the others are read.
pub fn bench(args: &Args, asked: &Bench) -> anyhow::Result<Exit> {
    let config = daemon::load(&args.config_path())?;
    let mut bar = Progress::new(args.quiet);
    let mut show = |step| bar.show(|| progress(step));
    let most = asked.flows as usize;
    let (source, flows, exit) = if asked.files.is_empty() {
        (Source::Made { seed: asked.seed }, bench::make(&config, most, asked.seed, &mut show), Exit::Good)
    } else {
        let Captured { flows, left_out, exit } = captured(&config, &asked.files, most, args.quiet);
        let files = asked.files.iter().map(|file| file.display().to_string()).collect();
        (Source::Captured { files, left_out }, flows, exit)
    };
    if flows.is_empty() {
        bar.clear();
        eprintln!("wansplit: the files have no flow that could be decided");
        return Ok(Exit::Failed);
    }
    let time = Duration::from_secs(asked.seconds.into());
    let measured = bench::measure(&config, &flows, time, &mut show);
    bar.clear();
    let view = View { config: &config, source: &source, measured: &measured };
    if asked.json {
        println!("{}", view.to_json()?);
    } else {
        print!("{}", view.render(Style::of_stdout()));
    }
    Ok(exit)
}

/// The flows of captures.
struct Captured {
    flows: Vec<Flow>,
    /// Flows beyond those that were asked for.
    left_out: u64,
    exit: Exit,
}

fn captured(config: &Config, files: &[PathBuf], most: usize, quiet: bool) -> Captured {
    let mut replay = Replay::new(Some(config));
    let mut captured = Captured { flows: Vec::new(), left_out: 0, exit: Exit::Good };
    for path in files {
        if let Err(error) = captured.read(path, &mut replay, most, quiet) {
            eprintln!("wansplit: {}: {error:#}", path.display());
            captured.exit = Exit::Failed;
        }
    }
    replay.end(&mut |flow| captured.add(flow, most));
    captured
}

impl Captured {
    fn read(&mut self, path: &Path, replay: &mut Replay, most: usize, quiet: bool) -> anyhow::Result<()> {
        let (mut bar, name) = (Progress::new(quiet), path.display().to_string());
        let mut show = |read, length| bar.show(|| progress_of_file(&name, read, length));
        file::read(path, &mut show, &mut |frame| {
            replay.frame(frame, &mut |flow| self.add(flow, most));
            Ok(())
        })?;
        bar.clear();
        Ok(())
    }

    fn add(&mut self, flow: replay::flows::Flow, most: usize) {
        match flow.facts {
            Some(facts) if self.flows.len() < most => self.flows.push(Flow::captured(facts)),
            _ => self.left_out += 1,
        }
    }
}
