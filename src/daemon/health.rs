//! Tries the lines: a thread of its own that sends the probes which [`Health`] asks for, and
//! tells the daemon which lines to keep off.
//!
//! The thread does nothing else, so that a daemon that is busy with the firewall does not take its
//! own slowness for the lines'. For the same reason answers that have arrived are looked at before
//! anything is called late. Nobody waits for it: it starts when all lines are in use already.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::load::Traffic;
use crate::config::{self, Config, Uplink};
use crate::engine::flow::Millis;
use crate::engine::packet::Family;
use crate::engine::uplink::health::{Estimates, Health, Outcome, Probe, State, Target, Why};
use crate::engine::uplink::{Avoided, UplinkId};
use crate::plan::lines::Line;
use crate::plan::observed::Observed;
use crate::system::probe::{Exit, Prober};
use crate::system::{clock, priority};

/// Probes that may be on their way at once, of all lines; more are sent when some of them are back.
const IN_FLIGHT: usize = 1024;
/// News from the daemon that may wait.
const NEWS: usize = 256;

/// What the daemon's main thread has of it.
pub struct Lookout {
    news: mpsc::Sender<News>,
    verdicts: watch::Receiver<Verdicts>,
    lines: Arc<Lines>,
    traffic: Arc<Traffic>,
    /// What was told last.
    exits: Vec<Exits>,
    /// How many configurations there have been.
    generation: u32,
}

/// How the probes of an uplink leave in one family; `None`: there is no way out.
type Exits = (UplinkId, Family, Option<Exit>);

/// Tells the thread of lines that look silent.
pub struct Suspicions {
    news: mpsc::Sender<News>,
}

/// The lines to keep off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Verdicts {
    avoided: Avoided,
    suspected: Avoided,
}

/// What there is to know about each line.
#[derive(Default)]
pub struct Lines {
    tried: Mutex<Vec<Tried>>,
}

/// How a line does in one family.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// How it is.
    pub state: State,
    /// For how long it has been so.
    pub for_how_long: Duration,
    /// What was measured of late.
    pub estimates: Estimates,
    /// Whether anybody is asked.
    pub is_tried: bool,
}

/// The daemon tells the thread.
enum News {
    /// How each line's probes leave from now on.
    Exits(Vec<Exits>),
    /// New flows on a line get no answers.
    Suspicion(UplinkId, Family),
}

/// One line in one family.
struct Tried {
    /// Since which configuration it is tried as it is now.
    generation: u32,
    uplink: UplinkId,
    name: String,
    family: Family,
    exit: Option<Exit>,
    targets: Vec<Target>,
    /// What the configuration says.
    wanted: config::Health,
    health: Health,
    /// The state that was told last.
    told: State,
}

impl Lookout {
    /// Starts the thread, which tells `traffic` how long answers take. No line has an exit before [`Lookout::follow`].
    ///
    /// # Errors
    /// When no thread is to be had.
    pub fn start(config: &Config, traffic: Arc<Traffic>) -> Result<Self> {
        let (news, heard) = mpsc::channel(NEWS);
        let (tells, verdicts) = watch::channel(Verdicts::default());
        let lines = Arc::<Lines>::default();
        lines.follow(config, 0);
        let trials = Trials {
            lines: Arc::clone(&lines),
            traffic: Arc::clone(&traffic),
            news: heard,
            tells,
            prober: Prober::default(),
            in_flight: JoinSet::new(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("health".into());
        let trying = move || {
            priority::go_first();
            runtime.block_on(trials.run());
        };
        thread.spawn(trying).context("no thread for probes")?;
        Ok(Self { news, verdicts, lines, traffic, exits: Vec::new(), generation: 0 })
    }

    /// The lines to keep off now.
    #[must_use]
    pub fn avoided(&self) -> Avoided {
        self.verdicts.borrow().avoided
    }

    /// Those among them that are only suspected.
    #[must_use]
    pub fn suspected(&self) -> Avoided {
        self.verdicts.borrow().suspected
    }

    /// Waits until there are others to keep off.
    pub async fn changed(&mut self) {
        if self.verdicts.changed().await.is_err() {
            // The thread is gone, and with it all opinions.
            std::future::pending::<()>().await;
        }
    }

    /// Tries what another configuration says, as it says. What is known of lines that are tried as before
    /// stays known.
    pub fn reconfigure(&mut self, config: &Config) {
        self.generation += 1;
        self.lines.follow(config, self.generation);
        self.exits.clear();
    }

    /// Tells how lines stand now.
    pub fn follow(&mut self, config: &Config, lines: &[Line], observed: &Observed) {
        self.traffic.follow(config, observed);
        let exits = exits(config, lines, observed);
        if exits != self.exits && self.news.try_send(News::Exits(exits.clone())).is_ok() {
            self.exits = exits;
        }
    }

    /// To tell that new flows on a line get no answers.
    #[must_use]
    pub fn suspicions(&self) -> Suspicions {
        Suspicions { news: self.news.clone() }
    }

    /// How each line does, for others.
    #[must_use]
    pub fn lines(&self) -> Arc<Lines> {
        Arc::clone(&self.lines)
    }
}

impl Suspicions {
    /// New flows on a line get no answers.
    pub fn tell(&self, uplink: UplinkId, family: Family) {
        // Where there is so much news already, one suspicion more does not matter.
        let _ = self.news.try_send(News::Suspicion(uplink, family));
    }
}

impl Lines {
    fn follow(&self, config: &Config, generation: u32) {
        let now = Millis(clock::monotonic_ms());
        let mut tried = self.tried();
        let mut before: Vec<Tried> = tried.drain(..).collect();
        let each = config.uplinks.iter().flat_map(|uplink| Family::BOTH.map(|family| (uplink, family)));
        *tried = each
            .map(|(uplink, family)| match before.iter().position(|tried| tried.is_of(uplink, family)) {
                Some(place) => Tried { name: uplink.name.clone(), ..before.swap_remove(place) },
                None => Tried::new(uplink, family, generation, now),
            })
            .collect();
    }

    /// How a line does in one family.
    #[must_use]
    pub fn report(&self, uplink: UplinkId, family: Family) -> Option<Report> {
        let now = clock::monotonic_ms();
        find(&mut self.tried(), uplink, family).map(|tried| Report {
            state: tried.health.state(),
            for_how_long: Duration::from_millis(now.saturating_sub(tried.health.since().0)),
            estimates: tried.health.estimates(),
            is_tried: tried.exit.is_some() && !tried.targets.is_empty(),
        })
    }

    fn tried(&self) -> MutexGuard<'_, Vec<Tried>> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(tried: &mut [Tried], uplink: UplinkId, family: Family) -> Option<&mut Tried> {
    tried.iter_mut().find(|tried| (tried.uplink, tried.family) == (uplink, family))
}

/// How the probes of each line leave in each family; none where there is no way out.
fn exits(config: &Config, lines: &[Line], observed: &Observed) -> Vec<Exits> {
    let both =
        |line: &Line| Family::BOTH.map(|family| (line.id, family, exit(config, line, family, observed)));
    lines.iter().flat_map(both).collect()
}

fn exit(config: &Config, line: &Line, family: Family, observed: &Observed) -> Option<Exit> {
    let way = line.way(family).ok()?;
    let link = observed.link(&line.interface)?;
    Some(Exit {
        family,
        device: line.interface.clone(),
        index: link.index,
        mark: config.marks.value(line.id),
        source: line.addresses(family).next(),
        hardware: link.hardware,
        // Where there are no neighbours nobody resolves anything.
        gateway: way.hop.gateway.filter(|_| !link.point_to_point && link.hardware.is_some()),
    })
}

impl Tried {
    fn new(uplink: &Uplink, family: Family, generation: u32, now: Millis) -> Self {
        let health = Health::new(uplink.health.settings, now);
        Tried {
            generation,
            uplink: uplink.id,
            name: uplink.name.clone(),
            family,
            exit: None,
            targets: Vec::new(),
            wanted: uplink.health.clone(),
            told: health.state(),
            health,
        }
    }

    /// Whether this is how the uplink is to be tried in this family.
    fn is_of(&self, uplink: &Uplink, family: Family) -> bool {
        (self.uplink, self.family) == (uplink.id, family) && self.wanted == uplink.health
    }

    fn follow(&mut self, exit: Option<Exit>, now: Millis) {
        if exit == self.exit {
            return;
        }
        if exit.is_some() {
            let has_gateway = exit.as_ref().is_some_and(|exit| exit.gateway.is_some());
            self.targets = self.wanted.targets(self.family);
            self.targets.retain(|target| *target != Target::Gateway || has_gateway);
            self.health.came(self.targets.len(), now);
        } else {
            self.health.lost(now);
        }
        self.exit = exit;
    }

    /// A number for a host whose answers come over the whole line. The gateway's may not: it often is the
    /// modem, before which nothing waits.
    fn passes_the_line(&self, target: usize) -> Option<u64> {
        let is_gateway = matches!(self.targets.get(target)?, Target::Gateway);
        let number = target * Family::BOTH.len() + usize::from(self.family == Family::V6);
        (!is_gateway).then_some(number as u64)
    }

    /// Says what has changed, once.
    fn tell(&mut self) {
        let state = self.health.state();
        if state == std::mem::replace(&mut self.told, state) {
            return;
        }
        let (name, family) = (&self.name, self.family);
        match (state, state.why()) {
            // The machine's own news of lost links and addresses says so already.
            (State::Down(Why::NoWay) | State::Unknown, _) => {}
            (_, None) => tracing::info!("uplink {name} works for {family}: enough targets answer"),
            (_, Some(why)) => tracing::warn!("uplink {name} is avoided for {family}: {why}"),
        }
    }
}

/// The thread's side.
struct Trials {
    lines: Arc<Lines>,
    traffic: Arc<Traffic>,
    news: mpsc::Receiver<News>,
    tells: watch::Sender<Verdicts>,
    prober: Prober,
    in_flight: JoinSet<Heard>,
}

/// What became of a probe, and of whose.
struct Heard {
    generation: u32,
    uplink: UplinkId,
    family: Family,
    probe: Probe,
    outcome: Option<Outcome>,
}

impl Trials {
    /// Until the daemon ends.
    async fn run(mut self) {
        loop {
            self.send_what_is_due();
            self.tell();
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                Some(heard) = self.in_flight.join_next() => self.note(heard),
                news = self.news.recv() => match news {
                    Some(news) => self.heed(news),
                    None => return,
                },
                () = wait(deadline) => {}
            }
            self.note_what_has_arrived().await;
        }
    }

    fn send_what_is_due(&mut self) {
        let now = Millis(clock::monotonic_ms());
        for tried in self.lines.tried().iter_mut() {
            while self.in_flight.len() < IN_FLIGHT
                && let Some(probe) = tried.health.poll(now)
            {
                let (Some(exit), Some(target)) = (&tried.exit, tried.targets.get(probe.target)) else {
                    break;
                };
                let (prober, target, exit) = (self.prober.clone(), target.clone(), exit.clone());
                let patience = tried.wanted.settings.patience();
                let Tried { generation, uplink, family, .. } = *tried;
                self.in_flight.spawn(async move {
                    let answer =
                        tokio::time::timeout(patience, prober.ask(&target, &exit, probe.number)).await;
                    let outcome = outcome(answer, &target, &exit);
                    Heard { generation, uplink, family, probe, outcome }
                });
            }
        }
    }

    /// Lets the probes see what their sockets have, and notes it.
    async fn note_what_has_arrived(&mut self) {
        tokio::task::yield_now().await;
        while let Some(heard) = self.in_flight.try_join_next() {
            self.note(heard);
        }
    }

    fn note(&self, heard: Result<Heard, tokio::task::JoinError>) {
        let Ok(Heard { generation, uplink, family, probe, outcome: Some(outcome) }) = heard else { return };
        if let Some(tried) = find(&mut self.lines.tried(), uplink, family)
            && tried.generation == generation
        {
            tried.health.heard(probe, outcome, Millis(clock::monotonic_ms()));
            if let (Outcome::Answered(took), Some(asked)) = (outcome, tried.passes_the_line(probe.target)) {
                self.traffic.answered(tried.uplink, asked, took);
            }
        }
    }

    fn heed(&self, news: News) {
        let now = Millis(clock::monotonic_ms());
        let mut lines = self.lines.tried();
        match news {
            News::Exits(exits) => {
                for (uplink, family, exit) in exits {
                    if let Some(tried) = find(&mut lines, uplink, family) {
                        tried.follow(exit, now);
                    }
                }
            }
            News::Suspicion(uplink, family) => {
                if let Some(tried) = find(&mut lines, uplink, family) {
                    tried.health.suspect(now);
                }
            }
        }
    }

    fn tell(&self) {
        let mut lines = self.lines.tried();
        lines.iter_mut().for_each(Tried::tell);
        let those = |is_so: fn(State) -> bool| {
            let such = lines.iter().filter(|tried| is_so(tried.health.state()));
            such.fold(Avoided::default(), |all, tried| all.with(tried.family, tried.uplink))
        };
        let verdicts = Verdicts {
            avoided: those(State::is_avoided),
            suspected: those(|state| state == State::Suspected),
        };
        self.tells.send_if_modified(|before| std::mem::replace(before, verdicts) != verdicts);
    }

    /// How long there is nothing to do, if nothing is heard.
    fn next_deadline(&self) -> Option<Duration> {
        let now = Millis(clock::monotonic_ms());
        let lines = self.lines.tried();
        let next = lines.iter().filter_map(|tried| tried.health.next_deadline(now)).min()?;
        // The clock goes in steps of a few milliseconds: what is due now is due at its next step.
        Some(Duration::from_millis(next.0.saturating_sub(now.0).max(1)))
    }
}

async fn wait(long: Option<Duration>) {
    match long {
        Some(long) => tokio::time::sleep(long).await,
        None => std::future::pending().await,
    }
}

/// `None`: nobody has answered.
fn outcome(
    answer: Result<io::Result<Duration>, tokio::time::error::Elapsed>,
    target: &Target,
    exit: &Exit,
) -> Option<Outcome> {
    match answer {
        Ok(Ok(took)) => Some(Outcome::Answered(took)),
        Ok(Err(error)) => {
            tracing::debug!("{target} by {}: {error}", exit.device);
            Some(Outcome::Failed)
        }
        Err(_) => None,
    }
}
