//! Arguments → command → exit code.

#[path = "main/allocator.rs"]
mod allocator;
#[path = "main/bench.rs"]
mod bench;
#[path = "main/replay.rs"]
mod replay;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use nix::unistd::geteuid;
use wansplit::config::{self, Problem, Problems};
use wansplit::control::client;
use wansplit::control::message::{Request, Response, Status};
use wansplit::daemon::explain::{BadQuestion, decided_by_kernel};
use wansplit::daemon::sources::Unreadable;
use wansplit::daemon::{self, Options};
use wansplit::lab::fit::Unfit;
use wansplit::lab::interrupt::Interrupt;
use wansplit::lab::session::{self, Lab, RouterFile, Update};
use wansplit::lab::world::{Entered, World};
use wansplit::system::state::RunDirectory;
use wansplit::ui::cli::{self, Args, Command, Direction, Exit};
use wansplit::ui::explain as view_of_flow;
use wansplit::ui::human::counted;
use wansplit::ui::lab as view;
use wansplit::ui::problems::{ProblemJson, Report, Severity};
use wansplit::ui::status;
use wansplit::ui::style::{CLEAR, Style, redraw, stdout_is_terminal};

fn main() -> ExitCode {
    let args = Args::parse();
    let world = match &args.command {
        Command::Lab(lab) => match enter_world(&args, lab) {
            Ok(Entered::Inside(world)) => Some(world),
            Ok(Entered::Ended(code)) => return code.into(),
            Err(error) => return report(&error).into(),
        },
        _ => None,
    };
    start_logging(&args);
    match execute(&args, world) {
        Ok(exit) => exit.into(),
        Err(error) => report(&error).into(),
    }
}

/// Before there is any thread, and after all that can be wrong with what was typed.
fn enter_world(args: &Args, lab: &cli::Lab) -> anyhow::Result<Entered> {
    lab.check(args.config.is_some()).unwrap_or_else(|error| error.exit());
    World::enter()
}

/// Lines for people on standard error; the journal has times of its own.
fn start_logging(args: &Args) {
    let level = args.log_level();
    let filter = format!("{level},netlink_packet_route=error,netlink_proto=error,netlink_sys=error");
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(Style::of_stderr().colour)
        .with_target(false)
        .without_time()
        .init();
}

fn execute(args: &Args, world: Option<World>) -> anyhow::Result<Exit> {
    match &args.command {
        Command::Run { down_on_exit } => {
            require_root_with(args, "run")?;
            allocator::give_back_at_once();
            daemon::run(&Options { down_on_exit: *down_on_exit, ..options(args) })?;
            Ok(Exit::Good)
        }
        Command::Check { json } => check(args, *json),
        Command::Plan { all, json } => plan(args, *all, *json),
        Command::Down => {
            require_root("down")?;
            daemon::down(args.run_dir.clone())?;
            Ok(Exit::Good)
        }
        Command::Status { json, watch, flows } => show_status(args, *json, *watch, *flows),
        Command::Reload => reload(args),
        Command::Events { json } => follow_events(args, *json),
        Command::Drain { uplink, force, json } => order(args, uplink, "drain", *force, *json),
        Command::Undrain { uplink, json } => order(args, uplink, "undrain", false, *json),
        Command::Uplink { uplink, action: Direction::Down, force, json } => {
            order(args, uplink, "down", *force, *json)
        }
        Command::Uplink { uplink, action: Direction::Up, json, .. } => {
            order(args, uplink, "up", false, *json)
        }
        Command::Explain { flow, down, live, json } => explain(args, flow, down, *live, *json),
        Command::Replay { files, json } => replay::replay(args, files, *json),
        Command::Bench(asked) => bench::bench(args, asked),
        Command::Lab(lab) => try_lab(args, lab, world.context("the lab has a world of its own")?),
    }
}

fn options(args: &Args) -> Options {
    Options { config: args.config_path(), run_directory: args.run_dir.clone(), down_on_exit: false }
}

/// A broken or absent configuration is told as it is, with its own exit code.
fn report(error: &anyhow::Error) -> Exit {
    if let Some(problems) = error.downcast_ref::<Problems>() {
        eprintln!("{problems}");
        return Exit::Refused;
    }
    eprintln!("wansplit: {error:#}");
    match error.downcast_ref::<Unreadable>() {
        Some(file) => {
            if file.source.kind() == ErrorKind::NotFound {
                eprintln!("  name the configuration with `--config PATH`; the README has one to begin with");
            }
            Exit::Refused
        }
        None if error.is::<Unfit>() || error.is::<BadQuestion>() => Exit::Refused,
        None => Exit::Failed,
    }
}

/// What needs privilege says so before it tries, rather than by what fails first.
fn require_root(command: &str) -> anyhow::Result<()> {
    anyhow::ensure!(geteuid().is_root(), "`wansplit {command}` needs root");
    Ok(())
}

/// The same, after the configuration's own errors.
fn require_root_with(args: &Args, command: &str) -> anyhow::Result<()> {
    if !geteuid().is_root() {
        daemon::load(&args.config_path())?;
    }
    require_root(command)
}

fn check(args: &Args, json: bool) -> anyhow::Result<Exit> {
    let path = args.config_path();
    let sources = daemon::sources::read(&path)?;
    let (problems, rules) = match sources.load(&config::Numbers::default()) {
        Ok(config) => (
            config::warnings(&config, &sources.rules, &sources.lists),
            Some((config.rules.len(), decided_by_kernel(&config))),
        ),
        Err(problems) => (problems, None),
    };
    if json {
        let problems = problems.iter().map(problem_json).collect();
        println!("{}", Report { config: path.display().to_string(), problems }.to_json());
    } else if !problems.is_empty() {
        eprintln!("{problems}");
    }
    let Some((rules, by_kernel)) = rules else { return Ok(Exit::Refused) };
    if !json {
        let (rules, files) = (counted(rules as u64, "rule"), counted(sources.rules.len() as u64, "file"));
        let alone = match by_kernel {
            0 => String::new(),
            _ => format!("; the kernel decides by {by_kernel} of them without asking"),
        };
        println!("{}: good; {rules} in {files}{alone}", path.display());
    }
    Ok(Exit::Good)
}

fn problem_json(problem: &Problem) -> ProblemJson {
    ProblemJson {
        severity: match problem.severity() {
            config::Severity::Error => Severity::Error,
            config::Severity::Warning => Severity::Warning,
        },
        file: problem.file().to_owned(),
        line: Some(problem.line()),
        column: Some(problem.column()),
        message: problem.message().to_owned(),
        help: Some(problem.hint().to_owned()),
    }
}

fn plan(args: &Args, all: bool, json: bool) -> anyhow::Result<Exit> {
    require_root_with(args, "plan")?;
    let (plan, pending) = daemon::pending(&options(args), all)?;
    let (fatal, warnings): (Vec<_>, Vec<_>) = plan.misfits.iter().partition(|misfit| misfit.is_fatal);
    if json {
        let texts = |misfits: &[&wansplit::plan::misfits::Misfit]| -> Vec<String> {
            misfits.iter().map(ToString::to_string).collect()
        };
        let commands: Vec<String> = pending.to_string().lines().map(String::from).collect();
        let value = serde_json::json!({
            "commands": commands, "obstacles": texts(&fatal), "warnings": texts(&warnings),
        });
        println!("{value:#}");
    } else {
        warnings.iter().for_each(|misfit| eprintln!("warning: {misfit}"));
        fatal.iter().for_each(|misfit| eprintln!("obstacle: {misfit}"));
        print!("{pending}");
    }
    Ok(if fatal.is_empty() { Exit::Good } else { Exit::Failed })
}

fn show_status(args: &Args, json: bool, watch: Option<u32>, flows: bool) -> anyhow::Result<Exit> {
    loop {
        let now = fetch_status(args)?;
        let text =
            if json { status::render_json(&now)? } else { status::render(&now, Style::of_stdout(), flows) };
        let Some(seconds) = watch else {
            println!("{}", text.trim_end());
            return Ok(Exit::Good);
        };
        if stdout_is_terminal() {
            print!("{}", redraw(&text))
        } else {
            println!("{text}")
        }
        thread::sleep(Duration::from_secs(seconds.into()));
    }
}

fn fetch_status(args: &Args) -> anyhow::Result<Status> {
    match ask(args, Request::Status)? {
        Response::Status(status) => Ok(*status),
        Response::Failed { message } => anyhow::bail!(message),
        _ => anyhow::bail!("the daemon answered something else"),
    }
}

fn reload(args: &Args) -> anyhow::Result<Exit> {
    match ask(args, Request::Reload)? {
        Response::Reloaded { rules, changes } => {
            changes.iter().for_each(|change| println!("{change}"));
            println!("{} in force", counted(rules as u64, "rule"));
            Ok(Exit::Good)
        }
        Response::Failed { message } => {
            eprintln!("nothing was changed: {message}");
            Ok(Exit::Failed)
        }
        _ => anyhow::bail!("the daemon answered something else"),
    }
}

/// Until the daemon ends, or nobody reads any more.
fn follow_events(args: &Args, json: bool) -> anyhow::Result<Exit> {
    let socket = RunDirectory::new(args.run_dir.clone()).socket();
    let mut refusal = None;
    client::follow(&socket, |response| {
        let line = match response {
            Response::Event(event) if json => serde_json::to_string(&event).unwrap_or_default(),
            Response::Event(event) => status::event(&event),
            Response::LeftOut { events } if json => serde_json::json!({ "left_out": events }).to_string(),
            Response::LeftOut { events } => format!("({events} events were left out)"),
            Response::Failed { message } => {
                refusal = Some(message);
                return false;
            }
            _ => return true,
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
    })?;
    refusal.map_or(Ok(Exit::Good), |message| Err(anyhow::anyhow!(message)))
}

fn order(args: &Args, uplink: &str, order: &str, force: bool, json: bool) -> anyhow::Result<Exit> {
    let request = Request::Uplink { name: uplink.to_owned(), order: order.to_owned(), force };
    match ask(args, request)? {
        Response::Ordered(ordered) if json => println!("{}", serde_json::to_string_pretty(&ordered)?),
        Response::Ordered(ordered) => print!("{}", status::ordered(&ordered)),
        Response::Failed { message } => anyhow::bail!(message),
        _ => anyhow::bail!("the daemon answered something else"),
    }
    Ok(Exit::Good)
}

fn explain(args: &Args, flow: &[String], down: &[String], live: bool, json: bool) -> anyhow::Result<Exit> {
    // The shell makes `>` hard to type.
    let words = flow.iter().flat_map(|words| words.split_whitespace());
    let flow = words.map(|word| if word == "to" { ">" } else { word }).collect::<Vec<_>>().join(" ");
    let explanation = if live {
        match ask(args, Request::Explain { flow, down: down.to_vec() })? {
            Response::Explained(explanation) => *explanation,
            Response::Failed { message } => anyhow::bail!(message),
            _ => anyhow::bail!("the daemon answered something else"),
        }
    } else {
        daemon::explain::offline(&args.config_path(), &flow, down)?
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&explanation)?);
    } else {
        print!("{}", view_of_flow::render(&explanation, Style::of_stdout()));
    }
    Ok(Exit::Good)
}

fn ask(args: &Args, request: Request) -> anyhow::Result<Response> {
    let socket = RunDirectory::new(args.run_dir.clone()).socket();
    Ok(client::ask(&socket, request)?)
}

fn try_lab(args: &Args, lab: &cli::Lab, world: World) -> anyhow::Result<Exit> {
    let interrupt = Interrupt::listen()?;
    let options = lab_options(args, lab)?;
    let mut screen = Screen { json: lab.json, quiet: args.quiet, last: None };
    let mut running = Lab::build(&world, &options, &interrupt, &mut |update| screen.show(update))?;
    let session::Outcome { status, facts } =
        running.try_out(options.time, &mut |update| screen.show(update))?;
    screen.clear();
    if lab.json {
        println!("{}", view::summary_json(&status, &facts)?);
    } else {
        print!("{}", view::summary(&status, &facts, Style::of_stdout()));
    }
    if lab.keep && !interrupt.is_wanted() {
        let machines: Vec<&str> = running.machines().collect();
        let program = std::env::current_exe().context("finding this program")?;
        eprint!("{}", view::doors(&world.way_in(), &machines, &program.display().to_string()));
        running.keep()?;
    }
    Ok(if view::verdict(&status, &facts) == view::Verdict::Good { Exit::Good } else { Exit::Failed })
}

fn lab_options(args: &Args, lab: &cli::Lab) -> anyhow::Result<session::Options> {
    let router = match &args.config {
        Some(path) => RouterFile::Given(path.clone()),
        None => RouterFile::Own { weights: lab.line_weights()?, backend: lab.backend.name().into() },
    };
    Ok(session::Options { router, clients: lab.clients, time: Duration::from_secs(lab.seconds.into()) })
}

/// Where the lab shows what goes on: a live view on a terminal, else a line now and then.
struct Screen {
    json: bool,
    quiet: bool,
    last: Option<Instant>,
}

impl Screen {
    /// Time between two lines of progress.
    const STEP: Duration = Duration::from_secs(2);

    fn show(&mut self, update: Update<'_>) {
        match update {
            _ if self.quiet => {}
            Update::Step(step) => eprintln!("wansplit lab: {step}"),
            Update::Traffic(status, facts) if self.is_live() => {
                if self.last.replace(Instant::now()).is_none() {
                    print!("{CLEAR}");
                }
                print!("{}", redraw(&view::frame(status, facts, Style::of_stdout())));
                let _ = std::io::stdout().flush();
            }
            Update::Traffic(status, facts) => self.tell(&view::progress(status, facts)),
        }
    }

    /// Lines between do not mix with JSON.
    fn tell(&mut self, line: &str) {
        if self.last.is_some_and(|last| last.elapsed() < Self::STEP) {
            return;
        }
        self.last = Some(Instant::now());
        if self.json { eprint!("{line}") } else { print!("{line}") }
    }

    /// Makes room for the summary.
    fn clear(&self) {
        if self.is_live() && self.last.is_some() {
            print!("{CLEAR}");
        }
    }

    fn is_live(&self) -> bool {
        !self.json && stdout_is_terminal()
    }
}
