//! Arguments → command → exit code.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use wansplit::config::{self, Problem, Problems};
use wansplit::control::client;
use wansplit::control::message::{Request, Response, Status};
use wansplit::daemon::{self, Options};
use wansplit::system::state::RunDirectory;
use wansplit::ui::cli::{Args, Command, Exit};
use wansplit::ui::problems::{ProblemJson, Report, Severity};
use wansplit::ui::status;
use wansplit::ui::style::{Style, redraw, stdout_is_terminal};

fn main() -> ExitCode {
    let args = Args::parse();
    start_logging(&args);
    match execute(&args) {
        Ok(exit) => exit.into(),
        Err(error) => report(&error).into(),
    }
}

/// Lines for people on standard error; the journal has times of its own.
fn start_logging(args: &Args) {
    let directives = format!("{},netlink_packet_route=error,netlink_proto=error", args.log_level());
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(directives);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .init();
}

fn execute(args: &Args) -> anyhow::Result<Exit> {
    match &args.command {
        Command::Run { down_on_exit } => {
            daemon::run(&Options { down_on_exit: *down_on_exit, ..options(args) })?;
            Ok(Exit::Good)
        }
        Command::Check { json } => check(args, *json),
        Command::Plan { all, json } => plan(args, *all, *json),
        Command::Down => {
            daemon::down(args.run_dir.clone())?;
            Ok(Exit::Good)
        }
        Command::Status { json, watch, flows } => show_status(args, *json, *watch, *flows),
        Command::Reload => reload(args),
        Command::Lab(_) => anyhow::bail!("the lab is not wired yet"),
    }
}

fn options(args: &Args) -> Options {
    Options { config: args.config_path(), run_directory: args.run_dir.clone(), down_on_exit: false }
}

/// A broken configuration is told as it is, with its own exit code.
fn report(error: &anyhow::Error) -> Exit {
    match error.downcast_ref::<Problems>() {
        Some(problems) => {
            eprintln!("{problems}");
            Exit::Refused
        }
        None => {
            eprintln!("wansplit: {error:#}");
            Exit::Failed
        }
    }
}

fn check(args: &Args, json: bool) -> anyhow::Result<Exit> {
    let path = args.config_path();
    let sources = daemon::sources::read(&path)?;
    let (problems, rules) = match config::load(&sources.main, &sources.rules) {
        Ok(config) => (config::warnings(&config, &sources.rules), Some(config.rules.len())),
        Err(problems) => (problems, None),
    };
    if json {
        let problems = problems.iter().map(problem_json).collect();
        println!("{}", Report { config: path.display().to_string(), problems }.to_json());
    } else if !problems.is_empty() {
        eprintln!("{problems}");
    }
    let Some(rules) = rules else { return Ok(Exit::Refused) };
    if !json {
        println!("{}: good; {rules} rules in {} files", path.display(), sources.rules.len());
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
        Response::Reloaded { .. } => anyhow::bail!("the daemon answered something else"),
    }
}

fn reload(args: &Args) -> anyhow::Result<Exit> {
    match ask(args, Request::Reload)? {
        Response::Reloaded { rules } => {
            println!("{rules} rules are in force");
            Ok(Exit::Good)
        }
        Response::Failed { message } => {
            eprintln!("nothing was changed: {message}");
            Ok(Exit::Failed)
        }
        Response::Status(_) => anyhow::bail!("the daemon answered something else"),
    }
}

fn ask(args: &Args, request: Request) -> anyhow::Result<Response> {
    let socket = RunDirectory::new(args.run_dir.clone()).socket();
    Ok(client::ask(&socket, request)?)
}
