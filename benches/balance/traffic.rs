//! What clients want: flows that begin at random moments, most of them small, most bytes in few.

use wansplit::engine::uplink::load::Direction;

/// A flow that begins.
#[derive(Debug, Clone, Copy)]
pub struct Begins {
    /// When, in seconds.
    pub at: f64,
    /// Who.
    pub client: u8,
    /// Where to.
    pub site: u8,
    /// Which way its bytes go.
    pub direction: Direction,
    /// How many there are.
    pub bytes: f64,
    /// More than this it does not take, in bytes per second: the other end is slow, or it is a call.
    pub peak: f64,
}

/// What the traffic is like.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    /// Offered, in bytes per second.
    pub rate: f64,
    /// Smallest, and largest size of a flow.
    pub sizes: (f64, f64),
    /// The tail's exponent.
    pub tail: f64,
    /// How many clients there are.
    pub clients: u8,
    /// The part of the flows that go up.
    pub uploads: f64,
    /// The part of the flows whose other end is slow.
    pub slow: f64,
}

/// What a slow other end takes, in bytes per second: 4 Mbit/s.
const SLOW: f64 = 500_000.0;
/// How many sites there are; the second is half as popular as the first, and so on (Zipf).
const SITES: u8 = 50;

impl Traffic {
    /// All flows that begin in so many seconds, one after the other in time (Poisson).
    pub fn flows(self, seconds: f64, dice: &mut Dice) -> Vec<Begins> {
        let pause = self.mean() / self.rate;
        let mut at = 0.0;
        let next = || {
            at += pause * dice.exponential();
            Begins {
                at,
                client: (dice.uniform() * f64::from(self.clients)) as u8,
                site: zipf(dice),
                direction: if dice.uniform() < self.uploads { Direction::Up } else { Direction::Down },
                bytes: self.size(dice.uniform()),
                peak: if dice.uniform() < self.slow { SLOW } else { f64::INFINITY },
            }
        };
        std::iter::repeat_with(next).take_while(|flow| flow.at < seconds).collect()
    }

    /// Bounded Pareto by inversion.
    fn size(self, uniform: f64) -> f64 {
        let (least, most) = self.sizes;
        let cut = (least / most).powf(self.tail);
        least * (1.0 - uniform * (1.0 - cut)).powf(-1.0 / self.tail)
    }

    fn mean(self) -> f64 {
        let ((least, most), tail) = (self.sizes, self.tail);
        let cut = (least / most).powf(tail);
        let whole = tail / (tail - 1.0) * least * (1.0 - (least / most).powf(tail - 1.0));
        whole / (1.0 - cut)
    }
}

fn zipf(dice: &mut Dice) -> u8 {
    let total: f64 = (1..=SITES).map(|site| 1.0 / f64::from(site)).sum();
    let mut left = dice.uniform() * total;
    let behind = |site: &u8| {
        left -= 1.0 / f64::from(*site);
        left <= 0.0
    };
    (1..SITES).find(behind).unwrap_or(SITES)
}

/// Numbers that look random and are the same each time: SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// From 0 to 1, the latter not included.
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ mixed >> 31) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// With mean 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.uniform()).ln()
    }
}
