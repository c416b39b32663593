//! I/O: one file per outside thing.

pub mod affinity;
mod attributes;
pub mod clock;
pub mod conntrack;
pub mod device_counters;
pub mod firewall;
pub mod gate;
pub mod guard;
pub mod hook;
pub mod leases;
pub mod leftovers;
pub mod links;
pub mod mark_writers;
mod message;
pub mod modules;
pub mod netlink;
pub mod nudge;
pub mod priority;
pub mod probe;
pub mod queue;
pub mod receiving;
pub mod routes;
pub mod rules;
mod sockets;
pub mod state;
pub mod sysctl;
