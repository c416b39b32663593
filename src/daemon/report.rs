//! The answer to `wansplit status`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::accounts::{Account, Accounts, Sum, Sums};
use super::alone::Alone;
use super::explain::explain;
use super::health::{Lines, Report};
use super::load::Traffic;
use super::past::Past;
use super::quotas::{Ledger, Standing};
use super::shared::{Deciding, Event, Shared};
use crate::config::{self, Config};
use crate::control::message::{
    Explanation, Gate, Health, Heard, Holds, Lane, Names, PastQueues, Queue, Quota, Reason as ReasonCount,
    Recent, Response, Rule, Status, Tally, Uplink, UplinkFamily, Usable,
};
use crate::engine::flow::{FlowKey, Millis};
use crate::engine::gate::is_stale;
use crate::engine::hold::Counts;
use crate::engine::packet::Family;
use crate::engine::rule::model::RuleId;
use crate::engine::uplink::health::Estimates;
use crate::engine::uplink::load::{self, Capacity};
use crate::engine::uplink::quota::Level;
use crate::engine::uplink::{ByHand, UplinkId};
use crate::engine::verdict::{Action, Reason};
use crate::engine::watching;
use crate::plan::Plan;
use crate::plan::lines::{Line, NoWay};
use crate::system::clock;
use crate::system::firewall::Backend;
use crate::system::queue::counters;

/// Everything a status is made of; shared with the control socket's thread.
pub struct Reporter {
    /// Path of the configuration file.
    pub config_path: PathBuf,
    /// The backend in use.
    pub backend: Backend,
    /// When the daemon started.
    pub started: Instant,
    /// What the threads share.
    pub shared: Arc<Shared>,
    /// Who used what.
    pub accounts: Arc<Accounts>,
    /// What the kernel decided by itself.
    pub alone: Alone,
    /// How lines do.
    pub health: Arc<Lines>,
    /// The configuration and plan in force; replaced on reload and when the machine changes.
    pub current: Mutex<(Config, Plan)>,
    /// Why lists that have changed are not in force.
    pub lists_complaint: Mutex<Option<String>>,
    /// What the lines carry.
    pub traffic: Arc<Traffic>,
    /// What lines with a quota have carried this month.
    pub quotas: Arc<Ledger>,
    /// What went past the queues.
    pub past: Mutex<Past>,
    /// What people said of uplinks.
    pub by_hand: ArcSwap<ByHand>,
}

impl Reporter {
    /// What would become of a flow now.
    #[must_use]
    pub fn explain(&self, flow: &str, down: &[String]) -> Response {
        let (config, plan) = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let deciding = self.shared.deciding.load();
        match explain(&config, &deciding.snapshot, flow, down, Millis(clock::monotonic_ms())) {
            Ok(explanation) => {
                let family = config::flow(flow, &config).map(|facts| facts.family);
                let mut avoided =
                    family.map(|family| self.avoided(&config, &plan, family)).unwrap_or_default();
                avoided.extend(explanation.avoided);
                Response::Explained(Box::new(Explanation { avoided, ..explanation }))
            }
            Err(message) => Response::Failed { message },
        }
    }

    /// The plan in force.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// The lines, and what is decided by, of one configuration.
    #[must_use]
    pub fn in_force(&self) -> (Vec<Line>, Arc<Deciding>) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        (current.1.lines.clone(), self.shared.deciding.load_full())
    }

    /// How things are now.
    #[must_use]
    pub fn status(&self) -> Status {
        let (config, plan) = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut sums, marked) = self.accounts.sums(&self.shared.deciding.load()).unwrap_or_default();
        self.alone.read();
        let alone = self.alone.sums();
        alone.iter().for_each(|(account, flows)| sums.entry(*account).or_default().flows += flows);
        let now = clock::monotonic_ms();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            up_seconds: self.started.elapsed().as_secs(),
            config: self.config_path.display().to_string(),
            backend: self.backend.name().into(),
            gate: Gate {
                open: !is_stale(now, self.shared.open_until.load(Relaxed)),
                closed_times: self.shared.lapses.load(Relaxed),
            },
            uplinks: self.uplinks(&config, &plan, &sums, &marked),
            rules: rules(&config, &sums, &alone, now),
            reasons: self.reasons(),
            queues: self.queues(&config),
            past: self.past(&config),
            names: Names {
                answers: self.shared.listener.packets.load(Relaxed),
                learned: self.shared.names.learned(),
                ambiguous: self.shared.names.ambiguous(),
            },
            holds: holds(&self.shared.holds.load()),
            heard: heard(&self.shared.heard.load()),
            recent: self.accounts.recent().iter().map(|event| recent(event, &config, now)).collect(),
            warnings: self.warnings(&config, &plan),
        }
    }

    fn uplinks(&self, config: &Config, plan: &Plan, sums: &Sums, marked: &HashMap<u32, u64>) -> Vec<Uplink> {
        let uplinks = config.uplinks.iter().zip(&plan.lines).map(|(uplink, line)| {
            let value = config.marks.value(uplink.id);
            let decided = sums.iter().filter(|((_, id), _)| *id == uplink.id);
            let held = marked.iter().filter(|(mark, _)| *mark & config.marks.mask == value);
            let (counters, load) = self.traffic.report(uplink.id).unwrap_or_default();
            Uplink {
                name: uplink.name.clone(),
                interface: uplink.interface.clone(),
                weight: uplink.weight,
                by_hand: self.by_hand.load().of(uplink.id).map(str::to_owned),
                ipv4: self.family(line, Family::V4),
                ipv6: self.family(line, Family::V6),
                mark: format!("{value:#x}"),
                table: uplink.table,
                flows_now: Some(held.map(|(_, count)| count).sum()),
                flows_total: decided.map(|(_, sum)| sum.flows).sum(),
                bytes_out: counters.sent,
                bytes_in: counters.received,
                rate_out: load.up.rate * 8,
                rate_in: load.down.rate * 8,
                down: lane(&load.down),
                up: lane(&load.up),
                cost: uplink.cost,
                quota: self.quotas.standing(uplink.id).map(quota),
            }
        });
        uplinks.collect()
    }

    fn family(&self, line: &Line, of: Family) -> UplinkFamily {
        let health = self.health.report(line.id, of);
        family(line, of, health, self.why_avoided(line.id, of))
    }

    /// Why new flows keep off a line although there is a way.
    fn why_avoided(&self, id: UplinkId, family: Family) -> Option<&'static str> {
        let by_hand = self.by_hand.load();
        if by_hand.down.contains(id) {
            return Some("it was taken down by hand");
        }
        let by_probes = self.health.report(id, family).filter(|report| report.state.is_avoided());
        let drained = || by_hand.drained.contains(id).then_some("it is drained, flows that run on it stay");
        by_probes.and_then(|report| report.state.why()).or_else(drained)
    }

    /// The lines that new flows of a family keep off although there is a way, and why.
    fn avoided(&self, config: &Config, plan: &Plan, family: Family) -> Vec<String> {
        let avoided = plan.lines.iter().filter(|line| line.avoided.contains(&family));
        let why = |line: &Line| self.why_avoided(line.id, family).unwrap_or("it was down");
        avoided.map(|line| format!("{}: {}", config.uplink_name(line.id), why(line))).collect()
    }

    /// What does not fit, lists that cannot be used, and families of which every line is called down.
    fn warnings(&self, config: &Config, plan: &Plan) -> Vec<String> {
        let misfits = plan.misfits.iter().map(ToString::to_string);
        let called_down = |family: &Family| {
            let is_called_down =
                |id| self.health.report(id, *family).is_some_and(|report| report.state.is_avoided());
            let mut with_a_way = plan.lines.iter().filter(|line| line.way(*family).is_ok()).peekable();
            with_a_way.peek().is_some() && with_a_way.all(|line| is_called_down(line.id))
        };
        let last = Family::BOTH.into_iter().filter(called_down).map(|family| {
            let then = match plan.usable(family).is_empty() {
                true => "new flows are refused, as `none` says",
                false => "those with a link are used all the same",
            };
            format!("probes call every line down for {family}: {then}")
        });
        let lists = self.lists_complaint.lock().unwrap_or_else(PoisonError::into_inner).clone();
        misfits.chain(lists).chain(last).chain(self.drained_in_vain(config, plan)).collect()
    }

    /// Drained lines that new flows use for want of another.
    fn drained_in_vain(&self, config: &Config, plan: &Plan) -> Vec<String> {
        let drained = self.by_hand.load().drained;
        let used = plan.lines.iter().filter(|line| drained.contains(line.id)).flat_map(|line| {
            let families = Family::BOTH.into_iter().filter(|&family| line.is_usable(family));
            families.map(|family| {
                format!(
                    "uplink {} is drained, but no other works for {family}: new flows use it",
                    config.uplink_name(line.id)
                )
            })
        });
        used.collect()
    }

    fn reasons(&self) -> Vec<ReasonCount> {
        let count = |reason: Reason| ReasonCount {
            name: reason.as_str().into(),
            text: reason.describe().into(),
            count: self.shared.reason_count(reason),
        };
        Reason::ALL.into_iter().map(count).collect()
    }

    fn past(&self, config: &Config) -> PastQueues {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        PastQueues {
            limit: config.queue.limit,
            limit_per_client: config.queue.limit_per_client,
            over_limit: past.total().limit,
            over_share: past.total().share,
            last_minute: past.lately(Instant::now()),
        }
    }

    fn queues(&self, config: &Config) -> Vec<Queue> {
        let kernel = counters::read();
        let cpus = self.shared.cpus.load();
        let queue = |(place, tally): (usize, &super::shared::Tally)| {
            let worker = place as u16;
            let number = config.queue.first + worker;
            let of_kernel = kernel.iter().find(|queue| queue.number == number);
            Queue {
                number,
                worker,
                cpu: cpus.get(place).copied().flatten(),
                waiting: of_kernel.map_or(0, |queue| queue.waiting),
                decided: tally.packets.load(Relaxed),
                flows: tally.flows.load(Relaxed),
                dropped: of_kernel.map_or(0, |queue| queue.queue_dropped + queue.user_dropped),
                errors: tally.errors.load(Relaxed),
            }
        };
        self.shared.workers().iter().enumerate().map(queue).collect()
    }
}

fn holds(counts: &Counts) -> Holds {
    let Counts { held, told, expired, crowded } = *counts;
    Holds { held, waiting: counts.waiting(), told, expired, crowded }
}

fn heard(counts: &watching::Counts) -> Heard {
    let watching::Counts { watched, named, elsewhere, reset } = *counts;
    Heard { watched, named, elsewhere, reset }
}

/// Bits, where the engine counts bytes.
fn lane(lane: &load::Lane) -> Lane {
    let used = |bytes: u64| u128::from(lane.rate) * 100 / u128::from(bytes.max(1));
    let capacity_is = match lane.capacity {
        Capacity::Unknown => "unknown",
        Capacity::AtLeast(_) => "seen",
        Capacity::Measured(_) => "measured",
        Capacity::Given(_) => "given",
    };
    Lane {
        capacity: lane.capacity.bytes().map(|bytes| bytes * 8),
        capacity_is: capacity_is.into(),
        used_percent: lane.capacity.bytes().map(|bytes| used(bytes) as u64),
        is_full: lane.is_full,
    }
}

fn quota(standing: Standing) -> Quota {
    let Standing { quota, used, level } = standing;
    let used_up = level == Level::UsedUp;
    Quota { bytes: quota.bytes, reset_day: quota.reset_day, used, used_up }
}

fn family(
    line: &Line,
    family: Family,
    report: Option<Report>,
    why_avoided: Option<&'static str>,
) -> UplinkFamily {
    let way = line.way(family);
    let avoided = || why_avoided.filter(|_| !line.is_usable(family));
    UplinkFamily {
        state: match way {
            Ok(_) if line.is_usable(family) => Usable::Up,
            Err(NoWay::NotConfigured | NoWay::NoAddress | NoWay::NoGateway) => Usable::Unused,
            Ok(_) | Err(NoWay::NoDevice | NoWay::LinkDown) => Usable::Down,
        },
        why_not: way.err().map(NoWay::explain).or_else(avoided).map(str::to_owned),
        addresses: line.addresses(family).map(|address| address.to_string()).collect(),
        gateway: way.ok().and_then(|way| way.hop.gateway).map(|gateway| gateway.to_string()),
        health: report.filter(|report| report.is_tried).map(health),
    }
}

fn health(report: Report) -> Health {
    let Estimates { loss, latency, jitter } = report.estimates;
    let millis = |time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
    Health {
        state: report.state.as_str().into(),
        why: report.state.why().map(str::to_owned),
        for_seconds: report.for_how_long.as_secs(),
        loss_percent: (loss * 1000.0).round() / 10.0,
        latency_ms: latency.map(millis),
        jitter_ms: millis(jitter),
    }
}

/// The rules in their order, and last what no rule decided.
fn rules(config: &Config, sums: &Sums, alone: &HashMap<Account, u64>, now: u64) -> Vec<Rule> {
    let named = config
        .rules
        .iter()
        .enumerate()
        .map(|(place, rule)| (Some(RuleId(place as u16)), rule.name.as_str(), rule.origin.as_str()));
    let unnamed = (None, "(no rule: weighted round-robin)", "");
    let by_kernel = |id| alone.iter().filter(|((rule, _), _)| *rule == id).map(|(_, flows)| flows).sum();
    let line = |(id, name, origin): (Option<RuleId>, &str, &str)| Rule {
        by_kernel: by_kernel(id),
        ..rule_line(id, name, origin, config, sums, now)
    };
    named.chain([unnamed]).map(line).collect()
}

fn rule_line(id: Option<RuleId>, name: &str, origin: &str, config: &Config, sums: &Sums, now: u64) -> Rule {
    let own: Vec<(UplinkId, Sum)> =
        sums.iter().filter(|((rule, _), _)| *rule == id).map(|((_, uplink), sum)| (*uplink, *sum)).collect();
    let last = own.iter().map(|(_, sum)| sum.last).max().filter(|&last| last > 0);
    Rule {
        name: name.into(),
        origin: origin.into(),
        flows: own.iter().map(|(_, sum)| sum.flows).sum(),
        bytes: own.iter().map(|(_, sum)| sum.bytes).sum(),
        last_seconds_ago: last.map(|last| now.saturating_sub(last) / 1000),
        uplinks: own
            .into_iter()
            .map(|(uplink, sum)| (uplink_name(config, uplink), Tally { flows: sum.flows, bytes: sum.bytes }))
            .collect(),
        ..Rule::default()
    }
}

fn uplink_name(config: &Config, uplink: UplinkId) -> String {
    config.uplink(uplink).map_or_else(String::new, |uplink| uplink.name.clone())
}

fn recent(event: &Event, config: &Config, now: u64) -> Recent {
    let lan = event.lan.and_then(|lan| config.lan.get(usize::from(lan.0)));
    Recent {
        seconds_ago: now.saturating_sub(event.at) / 1000,
        flow: flow(&event.key),
        lan: lan.cloned().unwrap_or_else(|| "this router".into()),
        uplink: match event.decision.action {
            Action::Route(uplink) => Some(uplink_name(config, uplink)),
            Action::Keep => Some("(the kernel's choice)".into()),
            Action::Drop | Action::Reject | Action::Hold(_) => None,
        },
        reason: config.explain(&event.decision),
    }
}

/// `tcp 10.77.0.5:40000 > 198.51.100.7:22`
fn flow(key: &FlowKey) -> String {
    use std::net::SocketAddr;
    let name = crate::engine::flow::protocol_name(key.protocol);
    match key.protocol {
        1 | 58 => format!("{name} {} > {} id {}", key.src, key.dst, key.src_port),
        _ if key.src_port == 0 && key.dst_port == 0 => format!("{name} {} > {}", key.src, key.dst),
        _ => format!(
            "{name} {} > {}",
            SocketAddr::new(key.src, key.src_port),
            SocketAddr::new(key.dst, key.dst_port)
        ),
    }
}
