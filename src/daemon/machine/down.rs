//! Take-down: everything of ours goes, and what it changed goes back.

use std::fmt;

use anyhow::{Result, bail};

use super::flows::forget_flows;
use super::settings::put_back;
use crate::plan::routing::RoutingState;
use crate::plan::routing_diff::diff;
use crate::system::firewall::{self, Backend, Installed};
use crate::system::leftovers;
use crate::system::netlink::Netlink;
use crate::system::state::{RunDirectory, State};

/// Takes everything of ours out of this network namespace, whatever backend or
/// earlier run it comes from. Doing so twice changes nothing.
///
/// # Errors
/// When something could not be removed; the rest is removed all the same.
pub async fn down(run: &RunDirectory) -> Result<()> {
    take_down(&Netlink::open()?, run, Saved::Earlier).await
}

/// When the state was saved that is to be undone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Saved {
    /// By the set-up that has just failed.
    JustNow,
    /// Once; it is only believed while something of ours is there, because it
    /// may be that of an earlier namespace with the same directory.
    Earlier,
}

pub(super) async fn take_down(netlink: &Netlink, run: &RunDirectory, saved: Saved) -> Result<()> {
    let state = run.load();
    let mut failures = Failures::default();
    let mut found = remove_firewall(&state, &mut failures) || saved == Saved::JustNow;
    let routing = netlink.observe_routing().await?;
    found |= !routing.our_rules.is_empty() || !routing.our_routes.is_empty();
    let ours = RoutingState { rules: routing.our_rules, routes: routing.our_routes };
    for change in diff(&ours, &RoutingState::default()) {
        failures.note(netlink.apply(&change).await);
    }
    if found && state.backend.is_some() {
        put_back(&state.settings, &mut failures);
        failures.note(leftovers::remove(&state.chains_before));
    }
    if found && saved == Saved::Earlier {
        failures.note(forget_flows(state.mark_mask));
    }
    failures.into_result()?;
    run.remove();
    Ok(())
}

/// Removes what every backend holds of ours; whether there was any. A backend
/// that was not used may be one that does not work on this kernel.
fn remove_firewall(state: &State, failures: &mut Failures) -> bool {
    let (seen, unseen) = look_into_all_backends();
    let must_be_seen = |backend: Backend| seen.is_empty() || state.backend == Some(backend);
    let missed = unseen.into_iter().filter(|(backend, _)| must_be_seen(*backend));
    failures.texts.extend(missed.map(|(_, error)| error.to_string()));
    for installed in &seen {
        failures.note(firewall::run_all(&installed.down()));
    }
    let sets = firewall::remove_sets();
    if matches!(state.backend, Some(Backend::Iptables(_))) {
        failures.note(sets);
    }
    seen.iter().any(|installed| !installed.is_empty())
}

fn look_into_all_backends() -> (Vec<Installed>, Vec<(Backend, firewall::Error)>) {
    let (mut seen, mut unseen) = (Vec::new(), Vec::new());
    for backend in firewall::all_backends() {
        match firewall::observe(backend) {
            Ok(installed) => seen.push(installed),
            Err(error) => unseen.push((backend, error)),
        }
    }
    (seen, unseen)
}

/// Errors of steps that do not stop the others.
#[derive(Default)]
pub(super) struct Failures {
    texts: Vec<String>,
}

impl Failures {
    pub(super) fn note<T, E: fmt::Display>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.texts.push(format!("{error:#}"))).ok()
    }

    pub(super) fn into_result(self) -> Result<()> {
        if self.texts.is_empty() {
            Ok(())
        } else {
            bail!("not everything could be undone: {}", self.texts.join("; "))
        }
    }
}
