//! What the owner asks for: rules are tried in order, the first that matches decides.
//!
//! [`model`] says what a rule is. [`naive`] walks all rules and all their
//! matchers as a reader of the documentation would; it is the oracle. [`RuleSet`]
//! is what runs: compiled once, then asked for every new flow. Both must always
//! give the same answer.

pub mod hosts;
pub mod model;
pub mod naive;
pub mod nets;
pub mod texts;

mod compile;
mod index;
mod matcher;
mod nameless;
mod ranges;

#[cfg(test)]
pub(crate) mod arbitrary;

pub use compile::RuleSet;

/// Most rules a configuration may have: as many as [`model::RuleId`] can count.
pub const MAX_RULES: usize = 1 << 16;
