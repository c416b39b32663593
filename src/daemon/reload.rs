//! Files that have changed are taken in while flows run: all of them or nothing.
//!
//! The order keeps every packet's way sound. What the next configuration needs is put beside what
//! the one before has, where the kernel already keeps new flows off the uplinks that leave; then
//! workers decide by the next one; when they have done with what they took before, running flows
//! leave the uplinks that go, so that none of them is ever without a way; and then what only the one
//! before had goes. Whatever fails on the way leaves all as it was, but for flows that have left.
//!
//! Other queues cannot be had beside the present ones. While they are changed, which takes
//! less than a second, the gate is closed and the kernel decides.

use std::sync::{Arc, PoisonError};

use anyhow::{Context, Result, bail};

use super::changed_files::Watch;
use super::keeper::wait_for_turns;
use super::machine::candidates;
use super::{Daemon, deciding, heed_misfits, numbers, sources};
use crate::config::{self, Config, Numbers, Problems, Transition};
use crate::control::message::Response;
use crate::engine::rule::RuleSet;
use crate::plan::observed::Observed;
use crate::plan::{self, Plan};

impl Daemon {
    /// Reads all files again and takes them in as a whole, or not at all.
    pub(super) async fn reload(&mut self) -> Response {
        match self.take_in_files().await {
            Ok(changes) => {
                let rules = self.config.rules.len();
                tracing::info!("the configuration was read again: {rules} rules");
                changes.iter().for_each(|change| tracing::info!("{change}"));
                Response::Reloaded { rules, changes }
            }
            Err(error) => {
                tracing::error!("nothing was changed: {error:#}");
                Response::Failed { message: format!("{error:#}") }
            }
        }
    }

    async fn take_in_files(&mut self) -> Result<Vec<String>> {
        let sources = sources::read(&self.options.config)?;
        let fresh = sources.load(&self.numbers())?;
        self.heed_obstacles(&fresh)?;
        let changes = config::differences(&self.config, &fresh);
        self.take_in(fresh).await?;
        self.sources = sources;
        self.watch_lists();
        self.complain_of_lists(None);
        Ok(changes)
    }

    /// Takes in lists and databases that have changed, as a whole, or none of them.
    pub(super) async fn follow_lists(&mut self) {
        if !self.watch.have_changed() {
            return;
        }
        let loaded = self.sources.load(&self.numbers());
        self.watch_lists();
        let taken_in = match loaded {
            Ok(fresh) => self.take_in(fresh).await.map_err(|error| format!("{error:#}")),
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

    /// The numbers that uplinks have and have had.
    fn numbers(&self) -> Numbers {
        numbers(&self.run).with(&self.config)
    }

    fn heed_obstacles(&self, fresh: &Config) -> Result<()> {
        let backend = self.machine.backend();
        let mut obstacles = config::obstacles(&self.config, fresh);
        if !candidates(fresh.backend).contains(&backend) {
            obstacles.push(format!(
                "`backend` can change only after `wansplit down`; it is {} now: stop wansplit, take it down, and \
                 start it again",
                backend.name()
            ));
        }
        if obstacles.is_empty() { Ok(()) } else { bail!(obstacles.join("\n")) }
    }

    /// Puts a configuration in force.
    async fn take_in(&mut self, fresh: Config) -> Result<()> {
        if self.crew.suits(&fresh) {
            return self.change_to(fresh).await;
        }
        let gate = self.keeper.close_and_drain().context("nobody keeps the gate")?;
        let changed = self.change_queues_and_all(fresh).await;
        self.keeper.resume(gate)?;
        changed
    }

    async fn change_queues_and_all(&mut self, fresh: Config) -> Result<()> {
        let before = self.config.clone();
        self.crew.change_to(&fresh)?;
        let changed = self.change_to(fresh).await;
        if changed.is_err() {
            self.crew.change_to(&before)?;
        }
        changed
    }

    async fn change_to(&mut self, fresh: Config) -> Result<()> {
        self.reporter.alone.read();
        let Transition { between, leaving, passed_on } =
            config::transition(&self.config, &fresh, &self.numbers());
        let mut observed = self.observe(&between).await?;
        observed.by_hand.drained = observed.by_hand.drained.union(leaving);
        let mut plan = self.planned(&fresh, &observed);
        heed_misfits(&plan)?;
        self.machine.end_flows(fresh.marks.mask, &passed_on)?;
        self.apply(&between, &self.planned(&between, &observed), &observed).await?;

        let rules = self.compiled(&fresh);
        let before = self.shared.deciding.load_full();
        let mut next = deciding(&fresh, &plan, &observed, &rules, &before.snapshot);
        next.snapshot.board.suspected = self.staying(&plan.lines);
        self.shared.deciding.store(Arc::new(next));
        if !leaving.is_empty() {
            wait_for_turns(&self.shared);
            self.follower.end_what_leaves();
            match self.let_go(&fresh).await {
                Ok(now) => (observed, plan) = now,
                Err(error) => {
                    self.shared.deciding.store(before);
                    return Err(self.go_back().await.err().unwrap_or(error));
                }
            }
        }
        self.put_in_force(fresh, observed, plan, rules);
        Ok(())
    }

    /// Takes away what the configuration does not need.
    async fn let_go(&self, fresh: &Config) -> Result<(Observed, Plan)> {
        let observed = self.observe(fresh).await?;
        let plan = self.planned(fresh, &observed);
        self.apply(fresh, &plan, &observed).await?;
        Ok((observed, plan))
    }

    /// Back to the configuration in force, after a failure half-way.
    async fn go_back(&self) -> Result<()> {
        let undone = self.let_go(&self.config).await;
        undone.context("the configuration before could not be brought back whole").map(drop)
    }

    fn planned(&self, config: &Config, observed: &Observed) -> Plan {
        plan::plan(config, observed, self.crew.workers())
    }

    /// Rules that have not changed need no new compilation, and keep their turns.
    fn compiled(&self, fresh: &Config) -> Arc<RuleSet> {
        match fresh.rules == self.config.rules {
            true => Arc::clone(&self.rules),
            false => Arc::new(RuleSet::compile(Arc::clone(&fresh.rules))),
        }
    }

    fn put_in_force(&mut self, fresh: Config, observed: Observed, plan: Plan, rules: Arc<RuleSet>) {
        if !Arc::ptr_eq(&rules, &self.rules) {
            self.reporter.accounts.rules_changed();
            self.reporter.alone.rules_changed();
        }
        self.tell_misfits(&plan);
        self.health.reconfigure(&fresh);
        self.reporter.quotas.follow(&fresh);
        self.health.follow(&fresh, &plan.lines, &observed);
        self.herald.reconfigure(&fresh.hooks);
        (self.config, self.observed, self.plan, self.rules) = (fresh, observed, plan, rules);
        self.forget_what_was_said_of_others();
        self.publish();
    }
}

/// The first of all that is wrong, in one line.
fn first_of(problems: &Problems) -> String {
    let first = problems.iter().next().map(ToString::to_string).unwrap_or_default();
    match problems.iter().count() {
        0 | 1 => first,
        more => format!("{first} (and {} more)", more - 1),
    }
}
