//! `wansplit replay`: reads the files, shows how far it is, prints what comes out.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use wansplit::config::Config;
use wansplit::daemon;
use wansplit::replay::capture::Capture;
use wansplit::replay::flows::Flow;
use wansplit::replay::{Counted, Replay};
use wansplit::ui::cli::{Args, Exit};
use wansplit::ui::replay::{FlowJson, Totals, progress};
use wansplit::ui::style::{Style, stderr_is_terminal};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// Frames between two looks at the clock.
const FRAMES: u64 = 4096;

/// Judges the files; a broken one is named and does not keep the others from being read.
pub fn replay(args: &Args, files: &[PathBuf], json: bool) -> anyhow::Result<Exit> {
    let config = configuration(args)?;
    let mut replay = Replay::new(config.as_ref());
    let mut printer = Printer::new(config.as_ref(), json);
    let mut exit = Exit::Good;
    printer.begin()?;
    for path in files {
        if let Err(error) = judge(path, &mut replay, &mut printer, args.quiet) {
            if is_closed_pipe(&error) {
                return Ok(Exit::Good);
            }
            eprintln!("wansplit: {}: {error:#}", path.display());
            exit = Exit::Failed;
        }
    }
    replay.end(&mut |flow| printer.flow(&flow));
    printer.end(&replay.counted)?;
    Ok(exit)
}

/// The configuration, where there is one: flows can be named without it.
fn configuration(args: &Args) -> anyhow::Result<Option<Config>> {
    let path = args.config_path();
    if args.config.is_none() && !path.exists() {
        if !args.quiet {
            eprintln!("wansplit: no {}: flows are named, not decided (`--config PATH`)", path.display());
        }
        return Ok(None);
    }
    daemon::load(&path).map(Some)
}

fn judge(path: &Path, replay: &mut Replay, printer: &mut Printer<'_>, quiet: bool) -> anyhow::Result<()> {
    let (source, length) = open(path)?;
    let (source, read) = Counting::new(source);
    let mut capture = Capture::new(BufReader::with_capacity(CHUNK, source))?;
    let mut screen = Screen::new(path, length, quiet);
    let mut frames = 0u64;
    while let Some(frame) = capture.next_frame()? {
        replay.frame(&frame, &mut |flow| printer.flow(&flow));
        frames += 1;
        if frames.is_multiple_of(FRAMES) {
            screen.show(read.load(Relaxed));
        }
    }
    screen.clear();
    printer.result()
}

/// The file and its length; `-` is standard input, whose length nobody knows.
fn open(path: &Path) -> anyhow::Result<(Box<dyn Read>, u64)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), 0));
    }
    let file = File::open(path).context("cannot be opened")?;
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    Ok((Box::new(file), length))
}

/// Counts what is read through it.
struct Counting<R> {
    source: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Counting<R> {
    fn new(source: R) -> (Self, Arc<AtomicU64>) {
        let read = Arc::new(AtomicU64::new(0));
        (Counting { source, read: Arc::clone(&read) }, read)
    }
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.read.fetch_add(length as u64, Relaxed);
        Ok(length)
    }
}

/// Prints flows as they end; the first failure is kept and ends the printing.
struct Printer<'c> {
    config: Option<&'c Config>,
    json: bool,
    style: Style,
    out: io::BufWriter<io::StdoutLock<'static>>,
    totals: Totals,
    failed: Option<io::Error>,
}

impl<'c> Printer<'c> {
    fn new(config: Option<&'c Config>, json: bool) -> Self {
        let out = io::BufWriter::new(io::stdout().lock());
        Printer { config, json, style: Style::of_stdout(), out, totals: Totals::default(), failed: None }
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        if self.json {
            write!(self.out, "{{\"flows\": [")?;
        }
        Ok(())
    }

    fn flow(&mut self, flow: &Flow) {
        if self.failed.is_some() {
            return;
        }
        let separator = if self.totals.flows == 0 { "\n" } else { ",\n" };
        let flow = FlowJson::new(flow, self.config);
        self.totals.add(&flow, self.config.is_some());
        let written = if self.json {
            serde_json::to_string(&flow)
                .map_err(io::Error::from)
                .and_then(|text| write!(self.out, "{separator}{text}"))
        } else {
            write!(self.out, "{}", flow.line(self.style))
        };
        self.failed = written.err();
    }

    fn result(&mut self) -> anyhow::Result<()> {
        self.failed.take().map_or(Ok(()), |error| Err(error.into()))
    }

    fn end(&mut self, counted: &Counted) -> anyhow::Result<()> {
        self.result()?;
        if self.json {
            let totals = serde_json::to_string(&self.totals)?;
            writeln!(self.out, "\n], \"totals\": {totals}}}")?;
        } else if counted.frames > 0 {
            write!(self.out, "\n{}", self.totals.render(counted, self.style))?;
        }
        self.out.flush()?;
        Ok(())
    }
}

/// Where people see how far a long file is read: a bar on a terminal, else a line now and then.
struct Screen<'a> {
    path: &'a Path,
    length: u64,
    quiet: bool,
    last: Instant,
    shown: bool,
}

impl<'a> Screen<'a> {
    /// What is shorter shows nothing.
    const PATIENCE: Duration = Duration::from_secs(2);

    fn new(path: &'a Path, length: u64, quiet: bool) -> Self {
        Screen { path, length, quiet, last: Instant::now(), shown: false }
    }

    fn show(&mut self, read: u64) {
        let live = stderr_is_terminal();
        let wait = if self.shown && live { Duration::from_millis(200) } else { Self::PATIENCE };
        if self.quiet || self.last.elapsed() < wait {
            return;
        }
        self.last = Instant::now();
        self.shown = true;
        let line = progress(&self.path.display().to_string(), read, self.length);
        if live { eprint!("\r{line}\x1b[K") } else { eprintln!("{line}") }
    }

    fn clear(&self) {
        if self.shown && stderr_is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}

/// Who reads our output has seen enough.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
