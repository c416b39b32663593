//! The machine that a plan is made for: read it, bring it to a plan, take ours away again.
//!
//! The order of set-up keeps every packet's way sound at each moment: the
//! uplinks' tables and the rules for marks first (nothing is marked yet), then
//! older flows get their marks, then the firewall begins to mark, then the
//! own-traffic table takes what is not marked, and forwarding is turned on last.
//! Whatever fails half-way is rolled back to what was there before.

mod down;
mod flows;
mod settings;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use anyhow::{Context, Result};

pub use self::down::down;
use self::down::{Failures, Saved, take_down};
use self::flows::{adopt_flows, give_back};
use self::settings::{read_setting, write_setting, write_settings};
use crate::config::{BackendChoice, Config, Numbers};
use crate::engine::uplink::{Avoided, ByHand, UplinkSet};
use crate::plan::firewall::iptables::Flavour;
use crate::plan::observed::{Link, Observed};
use crate::plan::routing::{RoutingChange, RoutingState};
use crate::plan::routing_diff::diff;
use crate::plan::sysctls::{self, Setting};
use crate::plan::{Plan, tables};
use crate::system::conntrack::Flow;
use crate::system::firewall::{self, Backend, Installed};
use crate::system::netlink::Netlink;
use crate::system::state::{RunDirectory, SavedSetting, State};
use crate::system::{clock, leases, leftovers, modules};

/// One network namespace, as wansplit sees it.
pub struct Machine {
    netlink: Netlink,
    backend: Backend,
    run: RunDirectory,
    /// Set-up has succeeded since [`Self::open`], whatever others have removed since.
    is_set_up: Cell<bool>,
}

/// What bringing the machine to a plan would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Kernel settings.
    pub settings: Vec<Setting>,
    /// Routing.
    pub routing: Vec<RoutingChange>,
    /// Firewall commands as an operator would type them.
    pub firewall: Vec<String>,
}

impl Pending {
    /// Whether the machine is as the plan has it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.routing.is_empty() && self.firewall.is_empty()
    }

    /// How much there is to do, in a few words.
    #[must_use]
    pub fn summary(&self) -> String {
        let firewall = if self.firewall.is_empty() { "as it was" } else { "filled anew" };
        format!(
            "{} settings, {} routing changes, firewall {firewall}",
            self.settings.len(),
            self.routing.len()
        )
    }
}

impl fmt::Display for Pending {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Setting { name, value } in &self.settings {
            writeln!(out, "sysctl -w {name}={value}")?;
        }
        for change in &self.routing {
            writeln!(out, "{change}")?;
        }
        for command in &self.firewall {
            writeln!(out, "{command}")?;
        }
        Ok(())
    }
}

/// The backends that a choice allows, the preferred one first.
pub fn candidates(choice: BackendChoice) -> Vec<Backend> {
    match choice {
        BackendChoice::Auto => firewall::all_backends().to_vec(),
        BackendChoice::Nft => vec![Backend::Nft],
        BackendChoice::IptablesNft => vec![Backend::Iptables(Flavour::Nft)],
        BackendChoice::IptablesLegacy => vec![Backend::Iptables(Flavour::Legacy)],
    }
}

impl Machine {
    /// Opens the machine with the backend asked for. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When no backend works or netlink is not to be had.
    pub fn open(choice: BackendChoice, run: RunDirectory) -> Result<Self> {
        let backend = firewall::probe(&candidates(choice))?;
        Ok(Self { netlink: Netlink::open()?, backend, run, is_set_up: Cell::new(false) })
    }

    /// The backend in use.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Reads the devices and their addresses alone.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn links(&self) -> Result<Vec<Link>> {
        Ok(self.netlink.observe_links().await?)
    }

    /// Ends the connections that have one of these marks: who had the marks is no more.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn end_flows(&self, mask: u32, values: &[u32]) -> Result<()> {
        flows::end(mask, values)
    }

    /// The uplinks that the last set-up kept off.
    #[must_use]
    pub fn avoided(&self) -> Avoided {
        self.run.load().avoided
    }

    /// The uplinks whose quotas were used up at the last set-up.
    #[must_use]
    pub fn used_up(&self) -> UplinkSet {
        self.run.load().used_up
    }

    /// The uplinks that did not have their whole share at the last set-up.
    #[must_use]
    pub fn unfilled(&self) -> Avoided {
        self.run.load().unfilled
    }

    /// What people said of uplinks.
    #[must_use]
    pub fn by_hand(&self) -> ByHand {
        self.run.load().by_hand
    }

    /// Reads all that a plan for this configuration depends on, but for what probes have found and people said.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn observe(&self, config: &Config) -> Result<Observed> {
        let links = self.netlink.observe_links().await?;
        let routing = self.netlink.observe_routing().await?;
        let devices: Vec<String> = links.iter().map(|link| link.name.clone()).collect();
        let names = sysctls::names(config, &devices);
        let settings = names.into_iter().filter_map(|name| {
            let value = read_setting(&name)?;
            Some((name, value))
        });
        Ok(Observed {
            lease_routers: leases::routers(Path::new("/"), &links, jiff::Timestamp::now()),
            sysctls: settings.collect(),
            avoided: Avoided::default(),
            used_up: UplinkSet::EMPTY,
            unfilled: Avoided::default(),
            by_hand: ByHand::default(),
            links,
            main_routes: routing.main_routes,
            main_refuses: routing.main_refuses,
            our_rules: routing.our_rules,
            our_routes: routing.our_routes,
            foreign_rules: routing.foreign_rules,
            foreign_tables: routing.foreign_tables,
            utc_offset: clock::utc_offset(),
        })
    }

    /// What [`Self::apply`] would do; with `all`, as if nothing were there yet.
    ///
    /// # Errors
    /// When the firewall cannot be read.
    pub fn pending(&self, plan: &Plan, observed: &Observed, all: bool) -> Result<Pending> {
        if all {
            return Ok(Pending {
                settings: plan.settings.clone(),
                routing: diff(&RoutingState::default(), &plan.routing),
                firewall: typed(&nothing_of(self.backend), plan),
            });
        }
        let installed = firewall::observe(self.backend)?;
        let state = self.run.load();
        let is_same = state.asked == asked(plan, self.backend) && state.read_back == fingerprint(&installed);
        let differs = |setting: &&Setting| observed.sysctls.get(&setting.name) != Some(&setting.value);
        Ok(Pending {
            settings: plan.settings.iter().filter(differs).cloned().collect(),
            routing: diff(&ours(observed), &plan.routing),
            firewall: if is_same { Vec::new() } else { typed(&installed, plan) },
        })
    }

    /// Brings the machine to the plan, or leaves it as it was.
    ///
    /// # Errors
    /// What failed, after the rollback; and what of the rollback failed.
    pub async fn apply(&self, config: &Config, plan: &Plan, observed: &Observed) -> Result<()> {
        let firewall = firewall::observe(self.backend)?;
        let was_ours = self.is_set_up.get() || !firewall.is_empty() || !observed.our_rules.is_empty();
        let mut before = Before { observed, firewall, was_ours, adopted: Vec::new() };
        let state = if was_ours { self.run.load() } else { self.fresh_state()? };
        let state = remember(state, config, plan, observed);
        self.run.save(&state).context("cannot keep what undoing needs")?;
        let Err(error) = self.carry_out(config, plan, &mut before, state).await else { return Ok(()) };
        let undone = self.roll_back(config, plan, &before).await;
        undone.with_context(|| format!("{error:#}; and the rollback failed too"))?;
        Err(error.context("set-up failed and was rolled back"))
    }

    async fn carry_out(
        &self,
        config: &Config,
        plan: &Plan,
        before: &mut Before<'_>,
        mut state: State,
    ) -> Result<()> {
        let changes = diff(&ours(before.observed), &plan.routing);
        let (own_traffic, marked): (Vec<_>, Vec<_>) =
            changes.iter().partition(|change| takes_the_unmarked(change, config, before.observed));
        let (forwarding, other): (Vec<_>, Vec<_>) =
            plan.settings.iter().partition(|setting| setting.name.ends_with("forwarding"));

        write_settings(&other)?;
        self.route(&marked).await?;
        if !before.was_ours {
            let adopted = adopt_flows(config, plan, &mut before.adopted);
            adopted.context("older flows could not be given their uplinks")?;
        }
        modules::load(&plan.firewall.helpers);
        firewall::run_all(&before.firewall.up(&plan.firewall))?;
        firewall::remove_stale_sets(&plan.firewall, self.backend);
        self.route(&own_traffic).await?;
        write_settings(&forwarding)?;

        state.backend = Some(self.backend);
        state.asked = asked(plan, self.backend);
        state.read_back = fingerprint(&firewall::observe(self.backend)?);
        for saved in &mut state.settings {
            saved.after = read_setting(&saved.name).unwrap_or_default();
        }
        self.run.save(&state).context("cannot keep what undoing needs")?;
        self.is_set_up.set(true);
        Ok(())
    }

    async fn route(&self, changes: &[&RoutingChange]) -> Result<()> {
        for change in changes {
            self.netlink.apply(change).await?;
        }
        Ok(())
    }

    async fn roll_back(&self, config: &Config, plan: &Plan, before: &Before<'_>) -> Result<()> {
        if !before.was_ours {
            take_down(&self.netlink, &self.run, Saved::JustNow).await?;
            return give_back(&before.adopted, config);
        }
        let mut failures = Failures::default();
        failures.note(self.firewall_back_to(&before.firewall));
        failures.note(self.routing_back_to(before.observed).await);
        for setting in &plan.settings {
            let value = before.observed.sysctls.get(&setting.name).unwrap_or(&setting.value);
            failures.note(write_setting(&setting.name, value));
        }
        failures.into_result()
    }

    fn firewall_back_to(&self, before: &Installed) -> Result<(), firewall::Error> {
        firewall::go_back(&firewall::observe(self.backend)?, before)
    }

    async fn routing_back_to(&self, before: &Observed) -> Result<()> {
        let routing = self.netlink.observe_routing().await?;
        let current = RoutingState { rules: routing.our_rules, routes: routing.our_routes };
        self.route(&diff(&current, &ours(before)).iter().collect::<Vec<_>>()).await
    }

    fn fresh_state(&self) -> Result<State> {
        let chains_before = leftovers::tables_and_chains()?;
        Ok(State { chains_before, backend: Some(self.backend), ..State::default() })
    }
}

/// What a failed set-up goes back to.
struct Before<'a> {
    observed: &'a Observed,
    firewall: Installed,
    /// An earlier set-up of ours is in place.
    was_ours: bool,
    /// Flows whose marks set-up has changed, with the marks they had.
    adopted: Vec<Flow>,
}

/// What undoing needs to know before anything is done, so that it can be done
/// after a crash half-way. Settings that were never seen before are remembered
/// with their values; the others keep theirs.
fn remember(mut state: State, config: &Config, plan: &Plan, observed: &Observed) -> State {
    let known: BTreeSet<String> = state.settings.iter().map(|saved| saved.name.clone()).collect();
    let new = observed.sysctls.iter().filter(|(name, _)| !known.contains(*name));
    state.settings.extend(new.map(|(name, value)| SavedSetting {
        name: name.clone(),
        before: value.clone(),
        after: value.clone(),
    }));
    for saved in &mut state.settings {
        let planned = plan.settings.iter().find(|setting| setting.name == saved.name);
        saved.after = planned.map_or_else(|| saved.after.clone(), |setting| setting.value.clone());
    }
    state.mark_mask |= config.marks.on_connections();
    state.avoided = observed.avoided;
    state.used_up = observed.used_up;
    state.unfilled = observed.unfilled;
    state.numbers = Numbers(state.numbers).with(config).0;
    state
}

fn ours(observed: &Observed) -> RoutingState {
    RoutingState { rules: observed.our_rules.clone(), routes: observed.our_routes.clone() }
}

/// The last rule sends unmarked packets to the own-traffic table: it must wait for the marks. A line
/// that is new in that table must wait for the firewall, which keeps off it what would leave with a
/// source that is not the line's.
fn takes_the_unmarked(change: &RoutingChange, config: &Config, observed: &Observed) -> bool {
    let routing = &config.routing;
    match change {
        RoutingChange::AddRule(rule) => rule.priority == routing.first_priority + tables::PRIORITIES - 1,
        RoutingChange::PutRoute(route) if route.table == routing.first_table => {
            let before = observed.our_routes.iter().filter(|before| before.table == route.table);
            let known: BTreeSet<&str> =
                before.flat_map(|route| &route.hops).map(|hop| hop.interface.as_str()).collect();
            route.hops.iter().any(|hop| !known.contains(hop.interface.as_str()))
        }
        _ => false,
    }
}

fn nothing_of(backend: Backend) -> Installed {
    match backend {
        Backend::Nft => Installed::Nft(Default::default()),
        Backend::Iptables(flavour) => Installed::Iptables(flavour, Default::default()),
    }
}

fn typed(installed: &Installed, plan: &Plan) -> Vec<String> {
    installed.up(&plan.firewall).into_iter().flat_map(|step| step.typed).collect()
}

fn fingerprint(of: &impl fmt::Debug) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{of:?}").hash(&mut hasher);
    hasher.finish()
}

/// What is asked of the firewall, whatever is there now.
fn asked(plan: &Plan, backend: Backend) -> u64 {
    fingerprint(&nothing_of(backend).up(&plan.firewall))
}
