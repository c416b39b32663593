//! wansplit makes a Linux router use all its internet lines well.
//!
//! The kernel makes a safe choice of uplink for every new flow, user space may
//! better it by what the flow *is*, the connection's mark remembers the
//! answer, and no later packet leaves the kernel.
//!
//! The modules follow a packet's journey: [`engine`] decides, [`config`] says
//! what the owner wants, [`plan`] says what the kernel must look like for it,
//! [`system`] makes it so, [`control`] and [`ui`] tell people about it, and
//! [`daemon`] wires the parts together. [`lab`] builds a whole network in
//! namespaces to see it work, [`replay`] judges captured traffic, [`mod@bench`] measures
//! a configuration's own rules. `engine`, `config` and `plan` are pure: bytes,
//! facts and `now` in, values out.

pub mod bench;
pub mod config;
pub mod control;
pub mod daemon;
pub mod engine;
pub mod lab;
pub mod plan;
pub mod replay;
pub mod system;
pub mod ui;
