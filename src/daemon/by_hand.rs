//! What people do to uplinks by hand: drained, taken down, and back. It is kept in the run
//! directory, so that it outlives reloads and restarts.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::Daemon;
use crate::config;
use crate::control::message::{Ordered, Request, Response};
use crate::engine::packet::Family;
use crate::engine::uplink::{ByHand, Order, UplinkId};
use crate::plan::lines::last_for;

impl Daemon {
    /// Does what a client asks for.
    pub(super) async fn obey(&mut self, request: Request) -> Response {
        let done = match request {
            Request::Uplink { name, order, force } => self.order(&name, &order, force).await,
            Request::Reload => return self.reload().await,
            Request::Status | Request::Events | Request::Explain { .. } => {
                Err("the answer to that is no change".into())
            }
        };
        done.map_or_else(|message| Response::Failed { message }, Response::Ordered)
    }

    async fn order(&mut self, name: &str, order: &str, force: bool) -> Result<Ordered, String> {
        let id = config::uplink_named(&self.config, name)?.id;
        let order = order_named(order)?;
        let last = last_for(&self.plan.lines, id, order, self.health.avoided(), self.by_hand);
        if !force && !last.is_empty() {
            return Err(refusal(name, order, &last));
        }
        let before = self.by_hand;
        if self.by_hand.after(order, id) != before {
            tracing::info!("uplink {name}: {}", describe(order));
        }
        if let Err(error) = self.heed_people(before.after(order, id)).await {
            self.heed_people(before).await.map_err(|error| format!("{error:#}"))?;
            return Err(format!("nothing was changed: {error:#}"));
        }
        Ok(self.ordered(name, id))
    }

    /// New flows keep off what people say, and what they say is kept.
    async fn heed_people(&mut self, by_hand: ByHand) -> Result<()> {
        self.keep_by_hand(by_hand)?;
        if self.heed_health().await {
            return Ok(());
        }
        let complaint = self.complaint.clone().unwrap_or_default();
        Err(anyhow::anyhow!(complaint)).context("the kernel does not follow")
    }

    fn keep_by_hand(&mut self, by_hand: ByHand) -> Result<()> {
        let state = self.run.load();
        if state.by_hand != by_hand {
            self.run.save(&crate::system::state::State { by_hand, ..state })?;
        }
        self.by_hand = by_hand;
        self.reporter.by_hand.store(Arc::new(by_hand));
        Ok(())
    }

    /// What was said of uplinks that are no more is not for those that may have their numbers later.
    pub(super) fn forget_what_was_said_of_others(&mut self) {
        let present = self.config.uplinks.iter().map(|uplink| uplink.id).collect();
        if let Err(error) = self.keep_by_hand(self.by_hand.only(present)) {
            tracing::warn!("what was said of former uplinks cannot be forgotten: {error:#}");
        }
    }

    fn ordered(&self, name: &str, id: UplinkId) -> Ordered {
        let status = self.reporter.status();
        let uplink = status.uplinks.into_iter().find(|uplink| uplink.name == name);
        let about_it = format!("uplink {name} ");
        Ordered {
            uplink: name.to_owned(),
            by_hand: self.by_hand.of(id).map(str::to_owned),
            flows_now: uplink.and_then(|uplink| uplink.flows_now),
            warnings: status.warnings.into_iter().filter(|warning| warning.starts_with(&about_it)).collect(),
        }
    }
}

fn order_named(name: &str) -> Result<Order, String> {
    match name {
        "drain" => Ok(Order::Drain),
        "undrain" => Ok(Order::Undrain),
        "down" => Ok(Order::Down),
        "up" => Ok(Order::Up),
        _ => Err(format!("there is no order {name:?}: expected \"drain\", \"undrain\", \"down\" or \"up\"")),
    }
}

fn describe(order: Order) -> &'static str {
    match order {
        Order::Drain => "drained by hand, new flows keep off it",
        Order::Undrain => "no longer drained",
        Order::Down => "taken down by hand, it counts as dead",
        Order::Up => "no longer down by hand",
    }
}

fn refusal(name: &str, order: Order, last: &[Family]) -> String {
    let families = last.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let with_force = match order {
        Order::Drain => "new flows would use it all the same until another works",
        _ => "nothing would get out",
    };
    format!(
        "{name} is the last line that works for {families}, so nothing was changed; with --force {with_force}"
    )
}
