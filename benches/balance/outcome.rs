//! What came of one run.

use crate::world::{Ended, World};

/// What came of one run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// Mean time that a flow took, in seconds.
    pub mean: f64,
    /// What 95 of 100 flows took at most, in seconds.
    pub slowest: f64,
    /// The part of what all lines could carry that was used while flows began.
    pub used: f64,
    /// Jain's index of the clients' speeds, 1: all the same ("A quantitative measure of fairness", 1984).
    pub fairness: f64,
    /// Flows that were moved.
    pub moved: f64,
}

impl Outcome {
    /// Of a world that has ended; `used` as measured when flows no longer began.
    pub fn of(world: &World, used: f64, clients: u8) -> Self {
        let mut times: Vec<f64> = world.ended.iter().map(|flow| flow.took).collect();
        times.extend(world.flows.iter().map(|flow| world.now - flow.begins.at));
        times.sort_by(f64::total_cmp);
        let count = times.len().max(1);
        Outcome {
            mean: times.iter().sum::<f64>() / count as f64,
            slowest: times.get(count * 95 / 100).copied().unwrap_or(0.0),
            used,
            fairness: jain((0..clients).map(|client| speed(&world.ended, client))),
            moved: world.ended.iter().filter(|flow| flow.moves > 0).count() as f64,
        }
    }
}

/// Bytes of a client per second that it waited for them.
fn speed(ended: &[Ended], client: u8) -> f64 {
    let flows = ended.iter().filter(|flow| flow.begins.client == client);
    let (bytes, time) =
        flows.fold((0.0, 0.0), |(bytes, time), flow| (bytes + flow.begins.bytes, time + flow.took));
    if time > 0.0 { bytes / time } else { 0.0 }
}

fn jain(speeds: impl Iterator<Item = f64>) -> f64 {
    let (count, sum, squares) = speeds.fold((0.0, 0.0, 0.0), |(count, sum, squares), speed| {
        (count + 1.0, sum + speed, squares + speed * speed)
    });
    if squares > 0.0 { sum * sum / (count * squares) } else { 1.0 }
}
