//! The machine that a plan is made for: read it, bring it to a plan, take ours away again.
//!
//! The order of set-up keeps every packet's way sound at each moment: the
//! uplinks' tables and the rules for marks first (nothing is marked yet), then
//! older flows get their marks, then the firewall begins to mark, then the
//! own-traffic table takes what is not marked, and forwarding is turned on last.
//! Whatever fails half-way is rolled back to what was there before.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::config::{BackendChoice, Config};
use crate::engine::packet::Family;
use crate::plan::observed::Observed;
use crate::plan::routing::{RoutingChange, RoutingState};
use crate::plan::routing_diff::diff;
use crate::plan::sysctls::{self, FORWARD_ALL_V6, Setting};
use crate::plan::{Plan, tables};
use crate::system::conntrack::{Conntrack, Flow, Mark};
use crate::system::firewall::{self, Backend, Installed};
use crate::system::netlink::Netlink;
use crate::system::state::{RunDirectory, SavedSetting, State};
use crate::system::sysctl::Sysctl;
use crate::system::{clock, leases, modules};

/// One network namespace, as wansplit sees it.
pub struct Machine {
    netlink: Netlink,
    backend: Backend,
    run: RunDirectory,
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

impl Machine {
    /// Opens the machine with the backend asked for. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When no backend works or netlink is not to be had.
    pub fn open(choice: BackendChoice, run: RunDirectory) -> Result<Self> {
        let backend = firewall::probe(choice)?;
        Ok(Self { netlink: Netlink::open()?, backend, run })
    }

    /// The backend in use.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Reads all that a plan for this configuration depends on.
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
        let before = firewall::observe(self.backend)?;
        let was_ours = !before.is_empty() || !observed.our_rules.is_empty();
        let state = if was_ours { self.run.load() } else { self.fresh_state() };
        let state = self.remember_settings(state, observed);
        self.run.save(&state).context("cannot keep what undoing needs")?;
        match self.carry_out(config, plan, observed, &before, was_ours, state).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let undone = self.roll_back(observed, &before, was_ours).await;
                undone.with_context(|| format!("{error:#}; and the rollback failed too"))?;
                Err(error.context("set-up failed and was rolled back"))
            }
        }
    }

    async fn carry_out(
        &self,
        config: &Config,
        plan: &Plan,
        observed: &Observed,
        before: &Installed,
        was_ours: bool,
        mut state: State,
    ) -> Result<()> {
        let changes = diff(&ours(observed), &plan.routing);
        let (own_traffic, marked): (Vec<_>, Vec<_>) =
            changes.iter().partition(|change| takes_the_unmarked(change, config));
        let (forwarding, other): (Vec<_>, Vec<_>) =
            plan.settings.iter().partition(|setting| setting.name.ends_with("forwarding"));

        self.route(&marked).await?;
        write_settings(&other)?;
        if !was_ours {
            adopt_flows(config, plan).context("older flows could not be given their uplinks")?;
        }
        modules::load(&plan.firewall.helpers);
        firewall::run_all(&before.up(&plan.firewall))?;
        self.route(&own_traffic).await?;
        write_settings(&forwarding)?;

        state.backend = Some(self.backend);
        state.asked = asked(plan, self.backend);
        state.read_back = fingerprint(&firewall::observe(self.backend)?);
        for saved in &mut state.settings {
            saved.after = read_setting(&saved.name).unwrap_or_default();
        }
        self.run.save(&state).context("cannot keep what undoing needs")
    }

    async fn route(&self, changes: &[&RoutingChange]) -> Result<()> {
        for change in changes {
            self.netlink.apply(change).await?;
        }
        Ok(())
    }

    /// Back to what was there before a failed [`Self::apply`].
    async fn roll_back(&self, observed: &Observed, before: &Installed, was_ours: bool) -> Result<()> {
        if !was_ours {
            return take_down(&self.netlink, &self.run).await;
        }
        let now = firewall::observe(self.backend)?;
        firewall::run_all(&now.back_to(before))?;
        let routing = self.netlink.observe_routing().await?;
        let current = RoutingState { rules: routing.our_rules, routes: routing.our_routes };
        self.route(&diff(&current, &ours(observed)).iter().collect::<Vec<_>>()).await
    }

    fn fresh_state(&self) -> State {
        State { tables_before: nf_tables(), backend: Some(self.backend), ..State::default() }
    }

    /// Settings that were never seen before are remembered with their values; the others keep theirs.
    fn remember_settings(&self, mut state: State, observed: &Observed) -> State {
        let known: BTreeSet<String> = state.settings.iter().map(|saved| saved.name.clone()).collect();
        let new = observed.sysctls.iter().filter(|(name, _)| !known.contains(*name));
        state.settings.extend(new.map(|(name, value)| SavedSetting {
            name: name.clone(),
            before: value.clone(),
            after: value.clone(),
        }));
        state
    }
}

/// Takes everything of ours out of this network namespace, whatever backend or
/// earlier run it comes from. Doing so twice changes nothing.
///
/// # Errors
/// When something could not be removed; the rest is removed all the same.
pub async fn down(run: &RunDirectory) -> Result<()> {
    take_down(&Netlink::open()?, run).await
}

async fn take_down(netlink: &Netlink, run: &RunDirectory) -> Result<()> {
    let state = run.load();
    let mut failures = Failures::default();
    let mut found = false;
    for backend in firewall::all_backends() {
        let Some(installed) = failures.note(firewall::observe(backend)) else { continue };
        found |= !installed.is_empty();
        failures.note(firewall::run_all(&installed.down()));
    }
    failures.note(firewall::remove_sets());
    let routing = netlink.observe_routing().await?;
    found |= !routing.our_rules.is_empty();
    let ours = RoutingState { rules: routing.our_rules, routes: routing.our_routes };
    for change in diff(&ours, &RoutingState::default()) {
        failures.note(netlink.apply(&change).await);
    }
    if found {
        failures.note(put_back(&state.settings));
        remove_empty_tables(&state, &mut failures);
    }
    failures.into_result()?;
    run.remove();
    Ok(())
}

/// Errors of steps that do not stop the others.
#[derive(Default)]
struct Failures {
    texts: Vec<String>,
}

impl Failures {
    fn note<T, E: fmt::Display>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.texts.push(format!("{error:#}"))).ok()
    }

    fn into_result(self) -> Result<()> {
        if self.texts.is_empty() {
            Ok(())
        } else {
            bail!("not everything was removed: {}", self.texts.join("; "))
        }
    }
}

fn ours(observed: &Observed) -> RoutingState {
    RoutingState { rules: observed.our_rules.clone(), routes: observed.our_routes.clone() }
}

/// The last rule sends unmarked packets to the own-traffic table; it must wait for the marks.
fn takes_the_unmarked(change: &RoutingChange, config: &Config) -> bool {
    let last = config.routing.first_priority + tables::PRIORITIES - 1;
    matches!(change, RoutingChange::AddRule(rule) if rule.priority == last)
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

fn setting(name: &str) -> Option<Sysctl> {
    name.parse().ok()
}

fn read_setting(name: &str) -> Option<String> {
    setting(name)?.read()
}

fn write_settings(settings: &[&Setting]) -> Result<()> {
    for Setting { name, value } in settings {
        if read_setting(name).is_some_and(|now| now != *value)
            && let Some(sysctl) = setting(name)
        {
            sysctl.write(value)?;
        }
    }
    Ok(())
}

/// What somebody else has changed since is theirs and stays. IPv6 forwarding
/// goes first, because the kernel copies it to every device.
fn put_back(saved: &[SavedSetting]) -> Result<()> {
    let (all, each): (Vec<_>, Vec<_>) = saved.iter().partition(|saved| saved.name == FORWARD_ALL_V6);
    let copied = all.iter().any(|saved| put_back_one(saved, false).is_ok_and(|written| written));
    for saved in each {
        let follows =
            copied && saved.name.starts_with("net/ipv6/conf/") && saved.name.ends_with("/forwarding");
        put_back_one(saved, follows)?;
    }
    Ok(())
}

/// Returns whether the setting was written.
fn put_back_one(saved: &SavedSetting, follows: bool) -> Result<bool> {
    let Some(now) = read_setting(&saved.name) else { return Ok(false) };
    let is_ours = now == saved.after || follows;
    if now == saved.before || !is_ours {
        return Ok(false);
    }
    if let Some(sysctl) = setting(&saved.name) {
        sysctl.write(&saved.before)?;
    }
    Ok(true)
}

/// Flows that are older than us, and marks in our bits that others left, get
/// the uplink whose address they are known by outside.
fn adopt_flows(config: &Config, plan: &Plan) -> Result<()> {
    let mut conntrack = Conntrack::open()?;
    let mut flows: Vec<(Flow, u32)> = Vec::new();
    conntrack.dump(None, |flow| {
        let wanted = uplink_mark(config, plan, &flow).unwrap_or(0);
        if flow.mark & config.marks.mask != wanted {
            flows.push((flow, wanted));
        }
    })?;
    for (flow, wanted) in &flows {
        conntrack.set_mark(flow, Mark::new(*wanted, config.marks.mask))?;
    }
    tracing::debug!("{} older flows were given their uplinks", flows.len());
    Ok(())
}

/// A flow from the LAN is answered at its uplink's address; one from outside was sent to it.
fn uplink_mark(config: &Config, plan: &Plan, flow: &Flow) -> Option<u32> {
    let known_by = |address: IpAddr| {
        let family = Family::of(address);
        plan.lines.iter().find(|line| line.public_addresses(family).contains(&address))
    };
    let line = known_by(flow.reply.dst).or_else(|| known_by(flow.orig.dst))?;
    Some(config.marks.value(line.id))
}

/// The tables that iptables-nft may make, as `nft list tables` prints them.
const SHARED_TABLES: [&str; 6] = ["ip raw", "ip nat", "ip mangle", "ip6 raw", "ip6 nat", "ip6 mangle"];

fn nf_tables() -> Vec<String> {
    let tables = firewall::listing("nft", &["list", "tables"]).unwrap_or_default();
    tables.lines().filter_map(|line| line.strip_prefix("table ")).map(String::from).collect()
}

/// iptables-nft leaves its tables and empty base chains behind; those that it
/// made for us and nobody has used since go.
fn remove_empty_tables(state: &State, failures: &mut Failures) {
    let now = nf_tables();
    for table in SHARED_TABLES {
        let is_new = !state.tables_before.iter().any(|before| before == table);
        if is_new && now.iter().any(|name| name == table) && is_unused(table) {
            let (family, name) = table.split_once(' ').unwrap_or_default();
            failures.note(firewall::listing("nft", &["delete", "table", family, name]));
        }
    }
}

/// Only base chains that accept, and no rule.
fn is_unused(table: &str) -> bool {
    let (family, name) = table.split_once(' ').unwrap_or_default();
    let text = firewall::listing("nft", &["list", "table", family, name]).unwrap_or_default();
    text.lines().map(str::trim).all(|line| {
        line.is_empty()
            || line == "}"
            || line.starts_with("table ")
            || line.starts_with("chain ")
            || (line.starts_with("type ") && line.ends_with("policy accept;"))
            || line.starts_with('#')
    })
}
