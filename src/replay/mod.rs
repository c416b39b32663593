//! Captures judged as if their packets came now: what each flow was taken for, its name, its rule
//! and its uplink.

pub mod capture;
pub mod link;
