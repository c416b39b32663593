//! What the owner asks for: rules are tried in order, the first that matches decides.

pub mod model;
pub mod naive;
