//! What people see and type. Pure but for the look at the terminal in [`style`] and what [`progress`] shows there:
//! arguments become [`cli::Args`], a status becomes text.

pub mod bench;
pub mod cli;
#[cfg(test)]
mod example;
pub mod explain;
pub mod human;
pub mod lab;
pub mod problems;
pub mod progress;
pub mod replay;
pub mod status;
pub mod style;
mod table;
