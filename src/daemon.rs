//! Wiring: builds the parts and the threads, feeds them events, and ends them in order.

pub mod accounts;
mod alone;
mod by_hand;
pub mod changed_files;
pub mod crew;
pub mod explain;
pub mod health;
mod herald;
pub mod keeper;
pub mod learned;
pub mod listener;
pub mod live;
pub mod load;
pub mod machine;
mod news;
pub mod past;
pub mod quotas;
mod reload;
pub mod report;
pub mod settling;
pub mod shared;
pub mod sources;
pub mod vigil;

pub mod watcher;
mod weighed;
pub mod worker;

use std::mem;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc as reply};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use self::accounts::{Accounts, Bookkeeping};
use self::alone::Alone;
use self::changed_files::Watch;
use self::crew::{Crew, Queues, workers};
use self::health::Lookout;
use self::herald::Herald;
use self::keeper::Keeper;
use self::live::Follower;
use self::load::Traffic;
use self::machine::{Machine, Pending};
use self::past::Past;
use self::quotas::Quotas;
use self::report::Reporter;
use self::settling::Settling;
use self::shared::{Deciding, Shared};
use self::sources::Sources;
use self::vigil::Vigil;
use crate::config::{Config, Guard, Numbers, Uplink};
use crate::control::feed::Feed;
use crate::control::message::{Request, Response};
use crate::control::server::{Server, Serving};
use crate::engine::Snapshot;
use crate::engine::flow::Millis;
use crate::engine::names::Names;
use crate::engine::packet::Family;
use crate::engine::rule::RuleSet;
use crate::engine::sticky::Choices;
use crate::engine::uplink::{Avoided, Board, ByHand};
use crate::plan::firewall::offload;
use crate::plan::lines::Line;
use crate::plan::misfits::Misfit;
use crate::plan::observed::Observed;
use crate::plan::{self, Plan};
use crate::system::gate::Gate;
use crate::system::links::Changes;
use crate::system::mark_writers::mark_writers;
use crate::system::state::{Lock, RunDirectory};
use crate::system::{clock, firewall, guard};

/// Decisions on their way to the accounts.
const EVENTS: usize = 65_536;
/// How often rules, routes and the firewall are looked at without news. The kernel gives news of
/// all but the firewall; while that is not whole, running connections may lose their line.
const REVIEW: Duration = Duration::from_secs(5);
/// How often the local time is set for rules that ask for it.
const TIME_STEP: Duration = Duration::from_secs(5);
/// A program that a killed daemon was just starting holds its lock for a moment.
const UNLOCKING: Duration = Duration::from_secs(1);
/// How often lists and databases are looked at. A change is taken in when it has lasted from one look to the next.
const LISTS_STEP: Duration = Duration::from_secs(1);
/// How long a client waits for a change.
const CHANGE: Duration = Duration::from_secs(20);

/// Names of each kind that are remembered.
const NAMES: usize = 16_384;
/// Sticky choices that are remembered.
const CHOICES: usize = 65_536;

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
/// [`crate::config::Problems`], or that a file cannot be read.
pub fn load(path: &std::path::Path) -> Result<Config> {
    Ok(sources::read(path)?.load(&Numbers::default())?)
}

/// Sets up, decides, until a signal ends it. Must not be called inside a tokio runtime.
///
/// # Errors
/// A broken configuration, or a set-up that failed and was rolled back.
pub fn run(options: &Options) -> Result<()> {
    let sources = sources::read(&options.config)?;
    let run = RunDirectory::new(options.run_directory.clone());
    let config = sources.load(&numbers(&run))?;
    runtime()?.block_on(async {
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
    let run = RunDirectory::new(options.run_directory.clone());
    let config = sources::read(&options.config)?.load(&numbers(&run))?;
    runtime()?.block_on(async {
        let machine = Machine::open(config.backend, run)?;
        let observed = Observed {
            avoided: machine.avoided(),
            used_up: machine.used_up(),
            unfilled: machine.unfilled(),
            by_hand: machine.by_hand(),
            ..machine.observe(&config).await?
        };
        let plan = plan::plan(&config, &observed, &workers(&config));
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

/// The numbers that uplinks have had here.
fn numbers(run: &RunDirectory) -> Numbers {
    Numbers(run.load().numbers)
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

/// What a client asks to be changed, and where the answer goes.
type Asked = (Request, reply::SyncSender<Response>);

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
    orders: mpsc::Receiver<Asked>,
    keeper: Keeper,
    health: Lookout,
    quotas: Quotas,
    /// What people said of uplinks.
    by_hand: ByHand,
    herald: Herald,
    follower: Follower,
    /// The board by which running flows were followed last.
    followed: Board,
    crew: Crew,
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
        let traffic = Arc::<Traffic>::default();
        let quotas = Quotas::start(&config, &run, Arc::clone(&traffic))?;
        let by_hand = machine.by_hand().only(config.uplinks.iter().map(|uplink| uplink.id).collect());
        let observed = Observed { used_up: quotas.used_up(), by_hand, ..machine.observe(&config).await? };
        let workers = workers(&config);
        let plan = plan::plan(&config, &observed, &workers);
        heed_misfits(&plan)?;
        let mut gate = Gate::new(machine.backend()).context("cannot reach the kernel's firewall")?;
        // Without an earlier run there is no gate to close.
        let _ = gate.close();
        let queues = Queues::open(&config, workers)?;
        machine.apply(&config, &plan, &observed).await?;

        let rules = Arc::new(RuleSet::compile(Arc::clone(&config.rules)));
        let snapshot = Snapshot {
            names: Arc::new(Names::new(NAMES)),
            choices: Arc::new(Choices::new(CHOICES)),
            hash: machine.backend().slot_hash(),
            ..Snapshot::default()
        };
        learned::restore(&run, &config, &snapshot);
        let mut first = deciding(&config, &plan, &observed, &rules, &snapshot);
        let unknown = Avoided::default();
        first.snapshot.board.suspected = plan::lines::staying(&plan.lines, unknown, unknown, by_hand);
        let shared = Arc::new(Shared::new(first));
        shared.set_local_time(clock::local_time());
        let accounts = Arc::new(Accounts::default());
        let (events, decisions) = crossbeam_channel::bounded(EVENTS);
        let mut health = Lookout::start(&config, Arc::clone(&traffic))?;
        let vigil = Vigil::new(health.suspicions());
        let bookkeeping = accounts.keep(decisions, vigil, Arc::clone(&traffic), Arc::clone(&shared))?;
        let crew = Crew::start(queues, Arc::clone(&shared), events)?;
        let keeper = Keeper::start(gate, Arc::clone(&shared))?;
        health.follow(&config, &plan.lines, &observed);
        load::start(&traffic, &shared, health.lines())?;
        let followed = shared.deciding.load().snapshot.board.clone();
        let reporter = Arc::new(Reporter {
            config_path: options.config.clone(),
            backend: machine.backend(),
            started: Instant::now(),
            shared: Arc::clone(&shared),
            accounts,
            alone: Alone::new(machine.backend(), &shared),
            health: health.lines(),
            current: Mutex::new((config.clone(), plan.clone())),
            lists_complaint: Mutex::default(),
            traffic,
            quotas: quotas.ledger(),
            past: Mutex::new(Past::since(firewall::past_counts(machine.backend()).unwrap_or_default())),
            by_hand: ArcSwap::from_pointee(by_hand),
        });
        let follower = Follower::start(Arc::clone(&reporter))?;
        // Flows that run by a line which died while nobody looked.
        follower.lines_changed();
        let (asked, orders) = mpsc::channel(16);
        let feed = Arc::new(Feed::new()?);
        let herald = Herald::start(Arc::clone(&feed), config.hooks.clone())?;
        let serving = serve_control(&run, &reporter, feed, asked)?;
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
            orders,
            keeper,
            health,
            quotas,
            by_hand,
            herald,
            follower,
            followed,
            crew,
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
        let (mut followed, mut settling) = (true, Settling::default());
        self.announce();
        self.tell_news();
        let end = loop {
            tokio::select! {
                _ = signals.terminate.recv() => break Ok(()),
                _ = signals.interrupt.recv() => break Ok(()),
                _ = signals.hang_up.recv() => drop(self.reload().await),
                Some((request, answer)) = self.orders.recv() => {
                    let response = self.obey(request).await;
                    let _ = answer.try_send(response);
                }
                // A change that failed and was undone is news too: without this it would go round and round.
                news = changes.next(), if followed => {
                    if let Err(error) = news {
                        break Err(error.into());
                    }
                    self.leave_lost_lines().await;
                    settling.heard(Instant::now());
                }
                () = settling.settled() => {
                    settling.looks(Instant::now());
                    followed = self.follow_machine().await;
                }
                () = self.health.changed() => followed = self.heed_health().await,
                () = self.quotas.changed() => followed = self.heed_quotas().await,
                _ = review.tick() => {
                    self.count_past();
                    followed = self.follow_machine().await;
                }
                _ = lists.tick() => self.follow_lists().await,
                _ = time.tick() => {
                    self.shared.set_local_time(clock::local_time());
                    if self.crew.has_lost_one() {
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
                let name = self.config.uplink_name(line.id);
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
        let (queues, rules) = (self.crew.workers().count, self.config.rules.len());
        tracing::info!("backend {}, {queues} queues, {rules} rules", self.machine.backend().name());
        tracing::info!("ready");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
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
        let (avoided, used_up) = (self.health.avoided(), self.quotas.used_up());
        let unfilled = unfilled(config, &self.shared.deciding.load().snapshot);
        Ok(Observed { avoided, used_up, unfilled, by_hand: self.by_hand, ..observed })
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
            plan::lines::keep_off(&mut lines, self.health.avoided(), self.by_hand, self.config.none);
            self.health.follow(&self.config, &lines, &observed);
            self.tell_usability(&lines);
            self.plan.lines = lines;
            self.tell_workers();
        }
    }

    /// New flows keep off the lines that probes or people call down at once, and the kernel's own choice soon after.
    async fn heed_health(&mut self) -> bool {
        plan::lines::keep_off(&mut self.plan.lines, self.health.avoided(), self.by_hand, self.config.none);
        self.tell_workers();
        self.follow_machine().await
    }

    /// New flows keep off the lines whose quotas are used up at once, and the kernel's own choice soon after.
    async fn heed_quotas(&mut self) -> bool {
        plan::lines::price(&mut self.plan.lines, &self.config, self.quotas.used_up());
        self.tell_workers();
        self.follow_machine().await
    }

    async fn try_to_follow(&mut self) -> Result<()> {
        let observed = self.observe(&self.config).await?;
        let plan = plan::plan(&self.config, &observed, self.crew.workers());
        let pending = self.machine.pending(&plan, &observed, false)?;
        if !pending.is_empty() {
            self.apply(&self.config, &plan, &observed).await?;
            tracing::info!("followed a change of the machine: {}", pending.summary());
        }
        self.tell_usability(&plan.lines);
        self.tell_misfits(&plan);
        self.health.follow(&self.config, &plan.lines, &observed);
        self.observed = observed;
        self.plan = plan;
        self.publish();
        Ok(())
    }

    /// Brings the machine to the plan. Filling rules makes their counters begin anew.
    async fn apply(&self, config: &Config, plan: &Plan, observed: &Observed) -> Result<()> {
        self.count_past();
        let applied = self.machine.apply(config, plan, observed).await;
        self.count_past();
        applied
    }

    /// Reads what went past the queues.
    fn count_past(&self) {
        match firewall::past_counts(self.machine.backend()) {
            Ok(reading) => {
                let mut past = self.reporter.past.lock().unwrap_or_else(PoisonError::into_inner);
                past.read(reading, Instant::now());
            }
            Err(error) => tracing::debug!("what went past the queues cannot be read: {error}"),
        }
    }

    fn tell_usability(&self, lines: &[Line]) {
        for (before, after) in self.plan.lines.iter().zip(lines) {
            let name = self.config.uplink_name(after.id);
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

    /// What others have done to the machine since, and does not fit.
    fn tell_misfits(&self, plan: &Plan) {
        let is_new = |misfit: &&Misfit| !self.plan.misfits.contains(misfit);
        plan.misfits.iter().filter(is_new).for_each(|misfit| tracing::warn!("{misfit}"));
    }

    /// Workers and status get the configuration and plan in force.
    fn publish(&mut self) {
        let reporter = Arc::clone(&self.reporter);
        let mut current = reporter.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell_workers();
        let last = mem::replace(&mut *current, (self.config.clone(), self.plan.clone()));
        drop(current);
        let board = self.shared.deciding.load().snapshot.board.clone();
        // Running flows wait for the kernel: before that they would only come back to where they were.
        if mem::replace(&mut self.followed, board.clone()) != board || last.1.lines != self.plan.lines {
            self.follower.lines_changed();
        }
    }

    /// Workers need not wait for the kernel; status does, for it tells what is in force.
    fn tell_workers(&mut self) {
        self.shared.deciding.rcu(|before| {
            let mut deciding =
                deciding(&self.config, &self.plan, &self.observed, &self.rules, &before.snapshot);
            deciding.snapshot.board.suspected = self.staying(&self.plan.lines);
            fill_what_returned(&self.config, &before.snapshot, &mut deciding.snapshot);
            deciding
        });
        self.tell_news();
    }

    fn tell_news(&mut self) {
        let health = self.health.lines();
        let now = news::standings(&self.config, &self.plan.lines, &health, self.by_hand);
        self.herald.tell(now);
    }

    /// The lines that running flows stay on although new ones keep off.
    fn staying(&self, lines: &[Line]) -> Avoided {
        plan::lines::staying(lines, self.health.avoided(), self.health.suspected(), self.by_hand)
    }

    /// Stops deciding without losing a packet; the kernel's part stays, and what was learned.
    fn stop(mut self) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        let _gate = self.keeper.close_and_drain();
        self.crew.stop();
        learned::save(&self.run, &self.config, &self.shared.deciding.load().snapshot);
        tell_what_stays_avoided(&self.config, &self.plan);
        tracing::info!("stopped; the kernel goes on balancing (`wansplit down` takes it all away)");
    }
}

/// A line that comes back gets its flows little by little.
fn fill_what_returned(config: &Config, before: &Snapshot, after: &mut Snapshot) {
    let takes = config.by_number(|uplink| uplink.map_or(Duration::ZERO, |uplink| uplink.health.fill));
    let now = Millis(clock::monotonic_ms());
    after.filling = before.filling.follow(&before.board, &after.board, &takes, now);
}

/// The lines that are being filled, and those that will be when they come back: user space alone does that.
fn unfilled(config: &Config, snapshot: &Snapshot) -> Avoided {
    let now = Millis(clock::monotonic_ms());
    let is_filled = |family: Family, uplink: &Uplink| {
        let held_back = snapshot.filling.held_back(family, u8::MAX, now);
        snapshot.board.usable(family).contains(uplink.id) && !held_back.contains(uplink.id)
    };
    let each = config.uplinks.iter().flat_map(|uplink| Family::BOTH.map(|family| (family, uplink)));
    let filled_later = each.filter(|(_, uplink)| !uplink.health.fill.is_zero());
    let unfilled = filled_later.filter(|&(family, uplink)| !is_filled(family, uplink));
    unfilled.fold(Avoided::default(), |all, (family, uplink)| all.with(family, uplink.id))
}

/// The kernel is left with what was last known, rather than sent to lines that were dead a moment ago: whoever
/// restarts the program would lose flows by that, and the kernel follows no other change by itself either.
fn tell_what_stays_avoided(config: &Config, plan: &Plan) {
    for line in &plan.lines {
        let name = config.uplink_name(line.id);
        let is_left_out = |&&family: &&Family| line.is_doubted(family) && !line.is_usable(family);
        for family in Family::BOTH.iter().filter(is_left_out) {
            tracing::warn!("uplink {name} was called down for {family} and stays out of the kernel's choice");
        }
    }
}

fn heed_misfits(plan: &Plan) -> Result<()> {
    let fatal: Vec<String> =
        plan.misfits.iter().filter(|misfit| misfit.is_fatal).map(ToString::to_string).collect();
    if fatal.is_empty() { Ok(()) } else { bail!("this machine does not fit:\n  {}", fatal.join("\n  ")) }
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
                doubted: plan.doubted(),
                weights: config.weights_by_number(),
                costs: plan.costs(),
                ..Board::default()
            },
            none: config.none,
            ..learned.clone()
        },
        lan: config.lan.iter().map(index).collect(),
        marks: config.marks.clone(),
        watch_queue: config.queue.of_watch(),
        alone: offload::accounts(config).collect(),
        addresses: plan
            .lines
            .iter()
            .flat_map(|line| Family::BOTH.map(|family| line.public_addresses(family)))
            .flatten()
            .collect(),
    }
}

/// Status is answered by the socket's own thread; changes are the main thread's.
fn serve_control(
    run: &RunDirectory,
    reporter: &Arc<Reporter>,
    feed: Arc<Feed>,
    orders: mpsc::Sender<Asked>,
) -> Result<Serving> {
    let reporter = Arc::clone(reporter);
    let server = Server::bind(&run.socket())?;
    Ok(server.serve(feed, move |request| match request {
        Request::Status => Response::Status(Box::new(reporter.status())),
        Request::Explain { flow, down } => reporter.explain(&flow, &down),
        // The server answers that itself.
        Request::Events => Response::Following,
        Request::Reload | Request::Uplink { .. } => {
            let (answer, answered) = reply::sync_channel(1);
            let sent = orders.try_send((request, answer)).is_ok();
            let response = if sent { answered.recv_timeout(CHANGE).ok() } else { None };
            response.unwrap_or_else(|| Response::Failed { message: "the daemon is busy".into() })
        }
    })?)
}
