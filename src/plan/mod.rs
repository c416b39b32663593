//! Config + Observed → the kernel state we want, as a value; what must change; and both as text.

pub mod firewall;
pub mod lines;
pub mod observed;
pub mod routing;
pub mod script;
pub mod tables;
