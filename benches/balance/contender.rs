//! Those who decide which line a flow gets: others' ways, and the ideal. wansplit's are in `ours`.

use crate::traffic::{Begins, Dice};
use crate::world::World;

/// Decides.
pub trait Contender {
    /// The line for a flow.
    fn choose(&mut self, begins: &Begins, world: &mut World) -> usize;

    /// Once a tick: what can be seen of the lines.
    fn look(&mut self, _world: &mut World) {}
}

/// The article's: `nth` matches of iptables, every flow to the next line.
#[derive(Debug, Default)]
pub struct Nth(usize);

impl Contender for Nth {
    fn choose(&mut self, _begins: &Begins, world: &mut World) -> usize {
        let usable = usable(world);
        self.0 += 1;
        usable[(self.0 - 1) % usable.len()]
    }
}

/// mwan3's: `statistic --mode random` with the probabilities of the weights.
#[derive(Debug)]
pub struct Random {
    /// By line.
    pub weights: Vec<u8>,
    /// Its luck.
    pub dice: Dice,
}

impl Contender for Random {
    fn choose(&mut self, _begins: &Begins, world: &mut World) -> usize {
        by_weight(world, &self.weights, self.dice.uniform())
    }
}

/// The kernel's multipath routes: a hash of both addresses.
#[derive(Debug)]
pub struct Ecmp {
    /// By line.
    pub weights: Vec<u8>,
}

impl Contender for Ecmp {
    fn choose(&mut self, begins: &Begins, world: &mut World) -> usize {
        let mut hash = Dice(u64::from(begins.client) << 8 | u64::from(begins.site));
        by_weight(world, &self.weights, hash.uniform())
    }
}

/// Knows at every moment what each line can carry and which flows share it, and takes the line that gives the flow most.
#[derive(Debug, Default)]
pub struct Ideal;

impl Contender for Ideal {
    fn choose(&mut self, begins: &Begins, world: &mut World) -> usize {
        let gets = |&line: &usize| part_of(world, line, begins);
        usable(world).into_iter().max_by(|one, other| gets(one).total_cmp(&gets(other))).unwrap_or(0)
    }
}

/// What one more flow would get.
fn part_of(world: &World, line: usize, begins: &Begins) -> f64 {
    let direction = begins.direction;
    let capacity = if world.lines[line].works { *world.lines[line].capacity.of(direction) } else { 0.0 };
    let of_lane = world.flows.iter().filter(|flow| flow.line == line && flow.begins.direction == direction);
    let (mut left, mut hungry) = (capacity, 1.0);
    let (mut modest, mut others): (Vec<f64>, f64) = (Vec::new(), 0.0);
    for flow in of_lane {
        if flow.begins.peak.is_finite() { modest.push(flow.begins.peak) } else { others += 1.0 }
    }
    hungry += others + modest.len() as f64;
    modest.sort_by(f64::total_cmp);
    for peak in modest {
        if peak < left / hungry {
            (left, hungry) = (left - peak, hungry - 1.0);
        }
    }
    left / hungry
}

fn by_weight(world: &World, weights: &[u8], uniform: f64) -> usize {
    let usable = usable(world);
    let weight = |line: usize| f64::from(weights[line]);
    let mut left = uniform * usable.iter().map(|&line| weight(line)).sum::<f64>();
    let behind = |line: &&usize| {
        left -= weight(**line);
        left < 0.0
    };
    usable.iter().find(behind).or(usable.last()).copied().unwrap_or(0)
}

/// The lines that are known to work; all where none is.
pub fn usable(world: &World) -> Vec<usize> {
    let all = 0..world.lines.len();
    let usable: Vec<usize> = all.clone().filter(|&line| world.lines[line].usable).collect();
    if usable.is_empty() { all.collect() } else { usable }
}
