//! Wiring: builds the parts and the threads, feeds them events, and ends them in order.

pub mod accounts;
pub mod changed_files;
pub mod explain;
pub mod health;
pub mod keeper;
pub mod learned;
pub mod listener;
pub mod live;
pub mod machine;
pub mod report;
pub mod shared;
pub mod sources;
pub mod vigil;

pub mod watcher;
pub mod worker;

use std::collections::HashMap;
use std::mem;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, mpsc as reply};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use self::accounts::{Accounts, Bookkeeping};
use self::changed_files::Watch;
use self::health::Lookout;
use self::keeper::Keeper;
use self::live::Follower;
use self::machine::{Machine, Pending};
use self::report::Reporter;
use self::shared::{Deciding, Shared};
use self::sources::Sources;
use self::vigil::Vigil;
use crate::config::{Config, Guard, Problems};
use crate::control::message::{Request, Response};
use crate::control::server::{Server, Serving};
use crate::engine::Snapshot;
use crate::engine::hold::MOST_PACKETS;
use crate::engine::names::Names;
use crate::engine::packet::Family;
use crate::engine::rule::RuleSet;
use crate::engine::sticky::Choices;
use crate::engine::uplink::Board;
use crate::plan::lines::Line;
use crate::plan::observed::Observed;
use crate::plan::{self, Plan};
use crate::system::gate::Gate;
use crate::system::links::Changes;
use crate::system::mark_writers::mark_writers;
use crate::system::queue::batch::BatchQueue;
use crate::system::queue::{A_PACKET, PacketQueue, SEVERAL_PACKETS};
use crate::system::state::{Lock, RunDirectory};
use crate::system::{clock, guard};

/// Decisions on their way to the accounts.
const EVENTS: usize = 65_536;
/// News about links comes in bursts; the machine is looked at when this long after the first.
const SETTLING: Duration = Duration::from_millis(100);
/// How often rules, routes and the firewall are looked at without news. The kernel gives news of
/// all but the firewall; while that is not whole, running connections may lose their line.
const REVIEW: Duration = Duration::from_secs(5);
/// How often the local time is set for rules that ask for it.
const TIME_STEP: Duration = Duration::from_secs(5);
/// A program that a killed daemon was just starting holds its lock for a moment.
const UNLOCKING: Duration = Duration::from_secs(1);
/// How often lists and databases are looked at. A change is taken in when it has lasted from one look to the next.
const LISTS_STEP: Duration = Duration::from_secs(1);
/// How long a client waits for a reload.
const RELOAD: Duration = Duration::from_secs(20);

/// Names of each kind that are remembered.
const NAMES: usize = 16_384;
/// Sticky choices that are remembered.
const CHOICES: usize = 65_536;

/// Packets that find room where flows wait: those that are held, and as many that have just come.
const WATCHED: u32 = 2 * MOST_PACKETS as u32;

type BoxedQueue = Box<dyn PacketQueue>;

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// The run directory, where another than the usual is wanted.
    pub run_directory: Option<PathBuf>,
    /// Take everything down at the end.
    pub down_on_exit: bool,
}

/// Reads and checks a configuration with its rule files.
///
/// # Errors
/// [`Problems`], or that a file cannot be read.
pub fn load(path: &std::path::Path) -> Result<Config> {
    Ok(sources::read(path)?.load()?)
}

/// Sets up, decides, until a signal ends it. Must not be called inside a tokio runtime.
///
/// # Errors
/// A broken configuration, or a set-up that failed and was rolled back.
pub fn run(options: &Options) -> Result<()> {
    let sources = sources::read(&options.config)?;
    let config = sources.load()?;
    runtime()?.block_on(async {
        let run = RunDirectory::new(options.run_directory.clone());
        let lock = lock(&run).await?;
        let signals = Signals::listen()?;
        let daemon = Daemon::start(options, sources, config, run.clone(), lock).await?;
        daemon.serve(signals).await?;
        if options.down_on_exit { machine::down(&run).await } else { Ok(()) }
    })
}

/// What `run` would change, and what does not fit; changes nothing.
///
/// # Errors
/// A broken configuration, or a machine that cannot be read.
pub fn pending(options: &Options, all: bool) -> Result<(Plan, Pending)> {
    let config = load(&options.config)?;
    runtime()?.block_on(async {
        let run = RunDirectory::new(options.run_directory.clone());
        let machine = Machine::open(config.backend, run)?;
        let observed = Observed { avoided: machine.avoided(), ..machine.observe(&config).await? };
        let plan = plan::plan(&config, &observed, workers(&config));
        let pending = machine.pending(&plan, &observed, all)?;
        Ok((plan, pending))
    })
}

/// Takes everything of ours out of this network namespace.
///
/// # Errors
/// While a daemon runs; or when something could not be removed.
pub fn down(run_directory: Option<PathBuf>) -> Result<()> {
    let run = RunDirectory::new(run_directory);
    runtime()?.block_on(async {
        let _lock = lock(&run).await?;
        machine::down(&run).await
    })
}

/// Ticks that were missed, while the process was stopped say, are not made up for.
fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")
}

async fn lock(run: &RunDirectory) -> Result<Lock> {
    let deadline = Instant::now() + UNLOCKING;
    loop {
        match run.lock() {
            Ok(lock) => return Ok(lock),
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                return Err(error).context("cannot use the run directory (set-up needs root)");
            }
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(_) => bail!(
                "wansplit already runs in this network namespace; `wansplit status` shows it, SIGTERM ends it"
            ),
        }
    }
}

/// One queue a worker, one worker a core unless told otherwise.
fn workers(config: &Config) -> u16 {
    let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get().min(64) as u16);
    config.queue.workers.unwrap_or_else(cores)
}

/// The signals we heed; listened to from before set-up, which they must not cut in half.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// The running daemon.
struct Daemon {
    options: Options,
    run: RunDirectory,
    machine: Machine,
    /// What the configuration in force was read from.
    sources: Sources,
    watch: Watch,
    config: Config,
    observed: Observed,
    plan: Plan,
    rules: Arc<RuleSet>,
    shared: Arc<Shared>,
    reporter: Arc<Reporter>,
    reloads: mpsc::Receiver<reply::SyncSender<Response>>,
    keeper: Keeper,
    health: Lookout,
    follower: Follower,
    /// The board by which running flows were followed last.
    followed: Board,
    /// The workers, who listens to DNS answers, and who watches flows for their names.
    workers: Vec<JoinHandle<()>>,
    /// Why the machine could not be followed when it was looked at last.
    complaint: Option<String>,
    _serving: Serving,
    _bookkeeping: Bookkeeping,
    _lock: Lock,
}

impl Daemon {
    /// Closes the gate that an earlier run may have left open, binds the
    /// queues, sets the kernel up, starts the threads, and lets the gate open.
    async fn start(
        options: &Options,
        mut sources: Sources,
        config: Config,
        run: RunDirectory,
        lock: Lock,
    ) -> Result<Self> {
        let watch = Watch::new(sources.seen());
        sources.forget_lists();
        let machine = Machine::open(config.backend, run.clone())?;
        let observed = machine.observe(&config).await?;
        let plan = plan::plan(&config, &observed, workers(&config));
        heed_misfits(&plan)?;
        let mut gate = Gate::new(machine.backend()).context("cannot reach the kernel's firewall")?;
        // Without an earlier run there is no gate to close.
        let _ = gate.close();
        let Queues { of_workers, of_names, of_watch } = Queues::open(&config)?;
        machine.apply(&config, &plan, &observed).await?;

        let rules = Arc::new(RuleSet::compile(Arc::clone(&config.rules)));
        let snapshot = Snapshot {
            names: Arc::new(Names::new(NAMES)),
            choices: Arc::new(Choices::new(CHOICES)),
            ..Snapshot::default()
        };
        learned::restore(&run, &config, &snapshot);
        let shared =
            Arc::new(Shared::new(deciding(&config, &plan, &observed, &rules, &snapshot), of_workers.len()));
        shared.set_local_time(clock::local_time());
        let accounts = Arc::new(Accounts::default());
        let (events, decisions) = crossbeam_channel::bounded(EVENTS);
        let mut health = Lookout::start(&config)?;
        let bookkeeping = accounts.keep(decisions, Vigil::new(health.suspicions()))?;
        let mut workers = Vec::new();
        for (place, queue) in of_workers.into_iter().enumerate() {
            workers.push(worker::start(place, queue, Arc::clone(&shared), events.clone())?);
        }
        workers.push(listener::start(of_names, Arc::clone(&shared))?);
        workers.push(watcher::start(of_watch, Arc::clone(&shared), events)?);
        let keeper = Keeper::start(gate, Arc::clone(&shared))?;
        health.follow(&config, &plan.lines, &observed);
        let followed = shared.deciding.load().snapshot.board.clone();
        let reporter = Arc::new(Reporter {
            config_path: options.config.clone(),
            backend: machine.backend(),
            started: Instant::now(),
            shared: Arc::clone(&shared),
            accounts,
            health: health.lines(),
            current: Mutex::new((config.clone(), plan.clone())),
            lists_complaint: Mutex::default(),
            last_counters: Mutex::new((Instant::now(), HashMap::new())),
        });
        let follower = Follower::start(Arc::clone(&reporter))?;
        // Flows that run by a line which died while nobody looked.
        follower.lines_changed();
        let (reload, reloads) = mpsc::channel(16);
        let serving = serve_control(&run, &reporter, reload)?;
        Ok(Self {
            options: options.clone(),
            run,
            machine,
            sources,
            watch,
            config,
            observed,
            plan,
            rules,
            shared,
            reporter,
            reloads,
            keeper,
            health,
            follower,
            followed,
            workers,
            complaint: None,
            _serving: serving,
            _bookkeeping: bookkeeping,
            _lock: lock,
        })
    }

    /// Handles signals, requests and news of the machine until a signal ends it.
    async fn serve(mut self, mut signals: Signals) -> Result<()> {
        let mut changes = Changes::watch()?;
        let mut review = every(REVIEW);
        let mut time = every(TIME_STEP);
        let mut lists = every(LISTS_STEP);
        let mut followed = true;
        self.announce();
        let end = loop {
            tokio::select! {
                _ = signals.terminate.recv() => break Ok(()),
                _ = signals.interrupt.recv() => break Ok(()),
                _ = signals.hang_up.recv() => drop(self.reload().await),
                Some(answer) = self.reloads.recv() => {
                    let response = self.reload().await;
                    let _ = answer.try_send(response);
                }
                // A change that failed and was undone is news too: without this it would go round and round.
                news = changes.next(), if followed => {
                    if let Err(error) = news {
                        break Err(error.into());
                    }
                    self.leave_lost_lines().await;
                    tokio::time::sleep(SETTLING).await;
                    followed = self.follow_machine().await;
                }
                () = self.health.changed() => followed = self.heed_health().await,
                _ = review.tick() => followed = self.follow_machine().await,
                _ = lists.tick() => self.follow_lists().await,
                _ = time.tick() => {
                    self.shared.set_local_time(clock::local_time());
                    if self.workers.iter().any(JoinHandle::is_finished) {
                        break Err(anyhow!("a worker lost its queue; the kernel goes on balancing alone"));
                    }
                }
            }
        };
        self.stop();
        end
    }

    fn announce(&self) {
        for misfit in &self.plan.misfits {
            tracing::warn!("{misfit}");
        }
        for writer in mark_writers(self.config.marks.ours()) {
            tracing::warn!(
                "another rule writes mark bits that are ours: {writer}; give it a mask without {:#x}, or \
                 choose other bits with `mask`, `decided` and `watched` under [marks]",
                self.config.marks.ours()
            );
        }
        if self.config.guard == Guard::Warn && !guard::something_guards() {
            tracing::warn!(
                "nothing stops packets that an ISP sends to LAN addresses without a port forward; \
                 set `guard = \"on\"` to keep them out"
            );
        }
        for line in &self.plan.lines {
            for family in Family::BOTH {
                let name = &self.config.uplinks[usize::from(line.id.0)].name;
                match line.way(family) {
                    Ok(way) => tracing::info!(
                        "uplink {name}: {family} by {} {}",
                        line.interface,
                        way.hop.gateway.map(|gateway| format!("via {gateway}")).unwrap_or_default()
                    ),
                    Err(why) => tracing::debug!("uplink {name}: no {family}: {}", why.explain()),
                }
            }
        }
        let (queues, rules) = (self.shared.workers.len(), self.config.rules.len());
        tracing::info!("backend {}, {queues} queues, {rules} rules", self.machine.backend().name());
        tracing::info!("ready");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }

    /// Reads the rule files again and takes them in as a whole, or not at all.
    async fn reload(&mut self) -> Response {
        match self.take_in_files().await {
            Ok(()) => {
                let rules = self.config.rules.len();
                tracing::info!("{rules} rules read");
                Response::Reloaded { rules }
            }
            Err(error) => refused(&error),
        }
    }

    async fn take_in_files(&mut self) -> Result<()> {
        let sources = sources::read(&self.options.config)?;
        let fresh = sources.load()?;
        if without_rules(&fresh) != without_rules(&self.config) {
            tracing::warn!("the configuration file has changed too; restart to take that in (flows live on)");
        }
        self.take_in_rules(fresh).await?;
        self.sources = sources;
        self.watch_lists();
        self.complain_of_lists(None);
        Ok(())
    }

    /// Takes in lists and databases that have changed, as a whole, or none of them.
    async fn follow_lists(&mut self) {
        if !self.watch.have_changed() {
            return;
        }
        let loaded = self.sources.load();
        self.watch_lists();
        let taken_in = match loaded {
            Ok(fresh) => self.take_in_rules(fresh).await.map_err(|error| format!("{error:#}")),
            Err(problems) => Err(first_of(&problems)),
        };
        if taken_in.is_ok() {
            tracing::info!("lists have changed and are in force");
        }
        self.complain_of_lists(taken_in.err());
    }

    /// The lists and databases that were just read are watched from now on, and no longer kept.
    fn watch_lists(&mut self) {
        self.watch = Watch::new(self.sources.seen());
        self.sources.forget_lists();
    }

    /// What stays wrong is said once; status shows it until it is mended.
    fn complain_of_lists(&self, why: Option<String>) {
        let why = why.map(|why| format!("lists have changed and cannot be used; those before stay: {why}"));
        let mut complaint = self.reporter.lists_complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = why.iter().find(|_| why != *complaint) {
            tracing::error!("{why}");
        }
        *complaint = why;
    }

    /// Puts fresh rules in force, and what they ask.
    async fn take_in_rules(&mut self, fresh: Config) -> Result<()> {
        let config = Config { rules: fresh.rules, geo: fresh.geo, ..self.config.clone() };
        let observed = self.observe(&config).await?;
        let plan = plan::plan(&config, &observed, self.shared.workers.len() as u16);
        self.machine.apply(&config, &plan, &observed).await?;
        self.rules = Arc::new(RuleSet::compile(Arc::clone(&config.rules)));
        self.config = config;
        self.observed = observed;
        self.plan = plan;
        self.reporter.accounts.rules_changed();
        self.publish();
        Ok(())
    }

    /// Looks at the machine and mends or follows what has changed; tells whether that could be done.
    async fn follow_machine(&mut self) -> bool {
        let complaint = self.try_to_follow().await.err().map(|error| format!("{error:#}"));
        // What stays wrong is said once, not at every look.
        if let Some(complaint) = complaint.iter().find(|_| complaint != self.complaint) {
            tracing::error!("{complaint}");
        }
        self.complaint = complaint;
        self.complaint.is_none()
    }

    /// The machine as it is, and what probes have found.
    async fn observe(&self, config: &Config) -> Result<Observed> {
        let observed = self.machine.observe(config).await?;
        Ok(Observed { avoided: self.health.avoided(), ..observed })
    }

    /// New flows leave lines that have lost their link at once; all else waits until the news have settled.
    async fn leave_lost_lines(&mut self) {
        let Ok(links) = self.machine.links().await else { return };
        let observed = Observed { links, ..self.observed.clone() };
        let mut lines = self.plan.lines.clone();
        for (line, now) in lines.iter_mut().zip(plan::lines::lines(&self.config, &observed)) {
            if Family::BOTH.iter().any(|&family| line.way(family).is_ok() && now.way(family).is_err()) {
                *line = now;
            }
        }
        if lines != self.plan.lines {
            plan::lines::keep_off(&mut lines, self.health.avoided());
            self.health.follow(&self.config, &lines, &observed);
            self.tell_usability(&lines);
            self.plan.lines = lines;
            self.tell_workers();
        }
    }

    /// New flows keep off the lines that probes call down at once, and the kernel's own choice soon after.
    async fn heed_health(&mut self) -> bool {
        plan::lines::keep_off(&mut self.plan.lines, self.health.avoided());
        self.tell_workers();
        self.follow_machine().await
    }

    async fn try_to_follow(&mut self) -> Result<()> {
        let observed = self.observe(&self.config).await?;
        let plan = plan::plan(&self.config, &observed, self.shared.workers.len() as u16);
        let pending = self.machine.pending(&plan, &observed, false)?;
        if !pending.is_empty() {
            self.machine.apply(&self.config, &plan, &observed).await?;
            tracing::info!("followed a change of the machine: {}", pending.summary());
        }
        self.tell_usability(&plan.lines);
        self.health.follow(&self.config, &plan.lines, &observed);
        self.observed = observed;
        self.plan = plan;
        self.publish();
        Ok(())
    }

    fn tell_usability(&self, lines: &[Line]) {
        for (before, after) in self.plan.lines.iter().zip(lines) {
            let name = &self.config.uplinks[usize::from(after.id.0)].name;
            for family in Family::BOTH {
                match (before.way(family), after.way(family)) {
                    (Err(_), Ok(_)) => tracing::info!("uplink {name} is usable for {family}"),
                    (Ok(_), Err(why)) => {
                        tracing::warn!("uplink {name} is not usable for {family}: {}", why.explain());
                    }
                    _ => {}
                }
            }
        }
    }

    /// Workers and status get the configuration and plan in force.
    fn publish(&mut self) {
        self.tell_workers();
        let board = self.shared.deciding.load().snapshot.board.clone();
        let current = (self.config.clone(), self.plan.clone());
        let last =
            mem::replace(&mut *self.reporter.current.lock().unwrap_or_else(PoisonError::into_inner), current);
        // Running flows wait for the kernel: before that they would only come back to where they were.
        if mem::replace(&mut self.followed, board.clone()) != board || last.1.lines != self.plan.lines {
            self.follower.lines_changed();
        }
    }

    /// Workers need not wait for the kernel; status does, for it tells what is in force.
    fn tell_workers(&self) {
        let before = self.shared.deciding.load_full();
        let mut deciding = deciding(&self.config, &self.plan, &self.observed, &self.rules, &before.snapshot);
        deciding.snapshot.board.suspected = self.health.suspected();
        // The queues stay, whatever becomes of the cores that they were counted by.
        deciding.watch_queue = before.watch_queue;
        self.shared.deciding.store(Arc::new(deciding));
    }

    /// Stops deciding without losing a packet; the kernel's part stays, and what was learned.
    fn stop(self) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.keeper.close_and_drain();
        self.shared.stop.store(true, Relaxed);
        for worker in self.workers {
            let _ = worker.join();
        }
        learned::save(&self.run, &self.config, &self.shared.deciding.load().snapshot);
        tracing::info!("stopped; the kernel goes on balancing (`wansplit down` takes it all away)");
    }
}

fn without_rules(config: &Config) -> Config {
    Config { rules: Arc::default(), geo: Arc::default(), ..config.clone() }
}

/// The first of all that is wrong, in one line.
fn first_of(problems: &Problems) -> String {
    let first = problems.iter().next().map(ToString::to_string).unwrap_or_default();
    match problems.iter().count() {
        0 | 1 => first,
        more => format!("{first} (and {} more)", more - 1),
    }
}

fn heed_misfits(plan: &Plan) -> Result<()> {
    let fatal: Vec<String> =
        plan.misfits.iter().filter(|misfit| misfit.is_fatal).map(ToString::to_string).collect();
    if fatal.is_empty() { Ok(()) } else { bail!("this machine does not fit:\n  {}", fatal.join("\n  ")) }
}

/// All queues: one for each worker, behind them one for DNS answers, and one for flows that wait.
struct Queues {
    of_workers: Vec<BoxedQueue>,
    of_names: BoxedQueue,
    of_watch: BoxedQueue,
}

impl Queues {
    fn open(config: &Config) -> Result<Self> {
        let (queue, workers) = (config.queue, workers(config));
        let of_workers = (queue.first..queue.of_names(workers))
            .map(|number| open_queue(number, queue.length, A_PACKET))
            .collect::<Result<_>>()?;
        let of_names = open_queue(queue.of_names(workers), queue.length, A_PACKET)?;
        let of_watch = open_queue(queue.of_watch(workers), WATCHED, SEVERAL_PACKETS)?;
        Ok(Queues { of_workers, of_names, of_watch })
    }
}

fn open_queue(number: u16, length: u32, range: u16) -> Result<BoxedQueue> {
    let queue = BatchQueue::open(number, length, range).with_context(|| {
        format!(
            "cannot bind queue {number} (needs root; another program may have it, see `first` under [queue])"
        )
    })?;
    Ok(Box::new(queue))
}

/// What workers decide by; what was learned stays.
fn deciding(
    config: &Config,
    plan: &Plan,
    observed: &Observed,
    rules: &Arc<RuleSet>,
    learned: &Snapshot,
) -> Deciding {
    let index = |lan: &String| observed.link(lan).map_or(0, |link| link.index);
    Deciding {
        snapshot: Snapshot {
            rules: Arc::clone(rules),
            geo: Arc::clone(&config.geo),
            board: Board {
                usable_v4: plan.usable(Family::V4),
                usable_v6: plan.usable(Family::V6),
                weights: config.uplinks.iter().map(|uplink| uplink.weight).collect(),
                ..Board::default()
            },
            ..learned.clone()
        },
        lan: config.lan.iter().map(index).collect(),
        marks: config.marks.clone(),
        watch_queue: config.queue.of_watch(workers(config)),
    }
}

/// Status is answered by the socket's own thread; a reload is the main thread's.
fn serve_control(
    run: &RunDirectory,
    reporter: &Arc<Reporter>,
    reload: mpsc::Sender<reply::SyncSender<Response>>,
) -> Result<Serving> {
    let reporter = Arc::clone(reporter);
    let server = Server::bind(&run.socket())?;
    Ok(server.serve(move |request| match request {
        Request::Status => Response::Status(Box::new(reporter.status())),
        Request::Explain { flow, down } => reporter.explain(&flow, &down),
        Request::Reload => {
            let (answer, answered) = reply::sync_channel(1);
            let sent = reload.try_send(answer).is_ok();
            let response = if sent { answered.recv_timeout(RELOAD).ok() } else { None };
            response.unwrap_or_else(|| Response::Failed { message: "the daemon is busy".into() })
        }
    })?)
}

fn refused(error: &anyhow::Error) -> Response {
    tracing::error!("nothing was changed: {error:#}");
    Response::Failed { message: format!("{error:#}") }
}
