//! What happens to one packet. Pure: bytes, facts and `now` in, a decision out.
//!
//! The order of the modules is the order of the steps:
//! [`packet`] parses, [`flow`] names the flow and its facts, [`rule`] finds the
//! first rule that matches, [`uplink`] picks one of its uplinks, and
//! [`verdict`] turns the pick into a mark and a reason.

pub mod flow;
pub mod gate;
pub mod packet;
pub mod rule;
pub mod uplink;
pub mod verdict;
