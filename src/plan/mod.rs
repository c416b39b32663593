//! Config + Observed → the kernel state we want, as a value; what must change; and both as text.

pub mod observed;
pub mod routing;
pub mod routing_diff;
