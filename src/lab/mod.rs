//! A whole network in namespaces: LAN, router, internet lines and servers, on one machine.
//!
//! ```text
//!  client1 ─┐                    ┌─ wan1 ── isp1 ─┐
//!  client2 ─┼─ lan ─── lan0 router                ├─ internet: servers
//!  ...     ─┘                    └─ wan2 ── isp2 ─┘
//! ```
//!
//! The `wansplit lab` command shows the program at work in it, and the
//! integration tests judge the program by it; both use this one module.
//! Nothing here knows how the program balances: the lab carries packets,
//! makes traffic and tells what it saw.
//!
//! In the order of use: [`world`] makes a process private (optional),
//! [`topology`] says what to build, [`network`] builds it, [`host`] runs things
//! in a part of it, [`server`] answers, [`traffic`] asks, [`capture`] and
//! [`flows`] tell which packet went where.
//!
//! Three invariants:
//! - **Nothing is left behind.** A [`namespace`] has no name and no mount; the
//!   kernel removes it with the last descriptor, also after `kill -9`.
//! - **Nothing gets out.** No device of the lab is ever in the machine's own
//!   namespace, so two labs never meet and no packet reaches a real network.
//! - **Nothing waits for ever.** Every command, flow and server has an end.

pub mod article;
pub mod capture;
pub mod command;
pub mod facts;
pub mod fit;
pub mod flows;
pub mod host;
pub mod interrupt;
pub mod ledger;
pub mod mixture;
pub mod namespace;
pub mod network;
mod program;
mod renumber;
pub mod server;
pub mod session;
pub mod topology;
pub mod traffic;
mod wiring;
pub mod world;
