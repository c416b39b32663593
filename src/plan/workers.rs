//! How many workers there are, and on which CPUs.
//!
//! A worker that runs where its packets are received answers them ten times sooner than one elsewhere:
//! nobody is woken on another CPU, and what the packet brought is in the cache. For that the kernel
//! chooses the queue by the CPU (`fanout`), and worker i is bound to the CPU whose packets it gets. This
//! is sound only where all packets of a flow come by one CPU: two that come by two CPUs before the first
//! is decided would be decided by two workers that know nothing of each other. Devices that spread flows
//! over queues with an interrupt each do that, and so does receive packet steering (`rps_cpus`). The
//! router's own packets come by any CPU: where the rules decide them too, the flow's hash chooses.

use std::collections::BTreeSet;

use crate::config::{Config, MAX_WORKERS, Pin, RouterTraffic};

/// Numbers of CPUs.
pub type Cpus = BTreeSet<u16>;

/// Most workers where nobody says how many.
const MOST: u16 = 64;

/// The workers, a queue each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// How many.
    pub count: u16,
    /// The CPU that each is bound to, where one of its residue (`CPU % count`) receives packets; empty: all
    /// run anywhere, and the flow's hash chooses among them.
    pub cpus: Vec<Option<u16>>,
}

/// What tells how many workers there should be, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// CPUs' worth of time that this process may take.
    pub cores: u16,
    /// CPUs that it may run on.
    pub allowed: Cpus,
    /// For each LAN device the CPUs that its packets come by, each flow's by one; `None`: by any.
    pub receiving: Vec<Option<Cpus>>,
}

impl Workers {
    /// Workers that run anywhere.
    #[must_use]
    pub fn anywhere(count: u16) -> Self {
        Workers { count, cpus: Vec::new() }
    }

    /// Whether the CPU by which a packet came chooses its queue.
    #[must_use]
    pub fn fan_out(&self) -> bool {
        self.count > 1 && !self.cpus.is_empty()
    }
}

/// The workers for this configuration on this machine.
#[must_use]
pub fn workers(config: &Config, machine: &Machine) -> Workers {
    let anywhere = || config.queue.workers.unwrap_or(machine.cores.clamp(1, MOST));
    beside_their_packets(config, machine).unwrap_or_else(|| Workers::anywhere(anywhere()))
}

fn beside_their_packets(config: &Config, machine: &Machine) -> Option<Workers> {
    if config.queue.pin == Pin::Off || config.routing.router == RouterTraffic::Rules {
        return None;
    }
    let receiving: Option<Vec<&Cpus>> = machine.receiving.iter().map(Option::as_ref).collect();
    let cpus: Cpus = receiving?.into_iter().flatten().copied().collect();
    if cpus.is_empty() || !cpus.is_subset(&machine.allowed) {
        return None;
    }
    let count = match config.queue.workers {
        Some(count) => has_one_each(&cpus, count).then_some(count),
        None => (1..=MAX_WORKERS).find(|&count| has_one_each(&cpus, count)),
    };
    count.map(|count| bound(&cpus, count))
}

/// Whether no two of the CPUs share one of so many workers.
fn has_one_each(cpus: &Cpus, count: u16) -> bool {
    cpus.iter().map(|cpu| cpu % count).collect::<Cpus>().len() == cpus.len()
}

fn bound(cpus: &Cpus, count: u16) -> Workers {
    let of = |worker: u16| cpus.iter().copied().find(|cpu| cpu % count == worker);
    Workers { count, cpus: (0..count).map(of).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Lists, SourceFile, load};

    #[test]
    fn each_receiving_cpu_gets_a_worker_of_its_own_on_it() {
        assert_eq!(on("", &[Some(&[0, 1])]), (2, vec![Some(0), Some(1)]));
        assert_eq!(on("", &[Some(&[2, 3])]), (2, vec![Some(2), Some(3)]));
        assert_eq!(on("", &[Some(&[0]), Some(&[1])]), (2, vec![Some(0), Some(1)]));
        assert_eq!(on("", &[Some(&[3])]), (1, vec![Some(3)]));
    }

    #[test]
    fn cpus_that_would_share_a_queue_get_as_many_queues_as_keep_them_apart() {
        assert_eq!(on("", &[Some(&[0, 2])]), (3, vec![Some(0), None, Some(2)]));
        assert_eq!(on("", &[Some(&[1, 3, 4])]), (4, vec![Some(4), Some(1), None, Some(3)]));
    }

    #[test]
    fn workers_run_anywhere_where_flows_may_come_by_any_cpu_or_somebody_wants_it_otherwise() {
        let anywhere = (4, vec![]);
        assert_eq!(on("", &[Some(&[0, 1]), None]), anywhere);
        assert_eq!(on("", &[Some(&[])]), anywhere);
        assert_eq!(on("", &[Some(&[0, 9])]), anywhere, "a CPU that we may not use");
        assert_eq!(on("[queue]\npin = \"off\"", &[Some(&[0, 1])]), anywhere);
        assert_eq!(on("[routing]\nrouter = \"rules\"", &[Some(&[0, 1])]), anywhere);
    }

    #[test]
    fn a_number_of_workers_that_is_given_stays() {
        assert_eq!(on("[queue]\nworkers = 2", &[Some(&[0, 1])]), (2, vec![Some(0), Some(1)]));
        assert_eq!(on("[queue]\nworkers = 3", &[Some(&[0, 1])]), (3, vec![Some(0), Some(1), None]));
        assert_eq!(on("[queue]\nworkers = 1", &[Some(&[0, 1])]), (1, vec![]));
        assert_eq!(on("[queue]\nworkers = 7", &[None]), (7, vec![]));
    }

    /// On a machine of eight CPUs of which four cores' time is ours.
    fn on(more: &str, receiving: &[Option<&[u16]>]) -> (u16, Vec<Option<u16>>) {
        let text = format!(
            "[lan]\ninterfaces = [\"lan0\"]\n[[uplink]]\nname = \"a\"\ninterface = \"wan1\"\n{more}\n"
        );
        let file = SourceFile { path: "wansplit.toml".into(), text };
        let config = load(&file, &[], &Lists::default()).unwrap();
        let receiving = receiving.iter().map(|cpus| cpus.map(|cpus| cpus.iter().copied().collect()));
        let machine = Machine { cores: 4, allowed: (0..8).collect(), receiving: receiving.collect() };
        let Workers { count, cpus } = workers(&config, &machine);
        (count, cpus)
    }
}
