//! `wansplit replay`: judges the flows of the files, and prints what comes out.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use wansplit::config::Config;
use wansplit::daemon;
use wansplit::replay::flows::Flow;
use wansplit::replay::{Counted, Replay, file};
use wansplit::ui::cli::{Args, Exit};
use wansplit::ui::progress::Progress;
use wansplit::ui::replay::{FlowJson, Totals, progress};
use wansplit::ui::style::Style;

/// Judges the files; a broken one is named and does not keep the others from being read.
pub fn replay(args: &Args, files: &[PathBuf], json: bool) -> anyhow::Result<Exit> {
    let config = configuration(args)?;
    let mut replay = Replay::new(config.as_ref());
    let mut printer = Printer::new(config.as_ref(), json);
    let mut exit = Exit::Good;
    printer.begin()?;
    for path in files {
        let read = judge(path, &mut replay, &mut printer, args.quiet);
        if let Err(error) = read {
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
    let (mut bar, name) = (Progress::new(quiet), path.display().to_string());
    let mut show = |read, length| bar.show(|| progress(&name, read, length));
    file::read(path, &mut show, &mut |frame| {
        replay.frame(frame, &mut |flow| printer.flow(&flow));
        printer.result()
    })?;
    bar.clear();
    Ok(())
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

/// Who reads our output has seen enough.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
