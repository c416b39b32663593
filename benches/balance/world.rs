//! Lines on virtual time: in each direction the flows share the capacity equally, but for those that want less.

use wansplit::engine::uplink::load::{Both, Direction};

use crate::contender::Contender;
use crate::traffic::Begins;

/// Seconds from one look at the lines to the next.
pub const TICK: f64 = 0.1;
/// Flows that have not ended when so many times the time has passed in which they began never will.
const LONG: f64 = 10.0;
/// Round trips before the first byte of an answer: one to connect, one to ask.
const HANDSHAKE: f64 = 2.0;
/// Bytes in the first window.
const FIRST: f64 = 14_600.0;
/// After so many doublings a window is larger than any line here needs.
const DOUBLINGS: f64 = 12.0;
/// Time constant by which a queue builds up and drains, in seconds.
const QUEUEING: f64 = 0.2;

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    /// In bytes per second.
    pub capacity: Both<f64>,
    /// Time to an answer while nothing waits, in seconds.
    pub latency: f64,
    /// How long packets wait when the line is full, in seconds.
    pub buffer: f64,
    /// Whether it carries anything.
    pub works: bool,
    /// Whether it is known to.
    pub usable: bool,
    /// Bytes carried since the beginning.
    pub carried: Both<f64>,
    /// How long packets wait now, in seconds.
    pub queue: f64,
}

impl Line {
    /// A line that works, with capacities in Mbit/s and latency in milliseconds.
    pub fn new(down: f64, up: f64, latency: f64) -> Self {
        let capacity = Both { down, up }.map(|mbit| mbit * 125_000.0);
        let latency = latency / 1000.0;
        Line {
            capacity,
            latency,
            buffer: 0.06,
            works: true,
            usable: true,
            carried: Both::default(),
            queue: 0.0,
        }
    }
}

/// A flow that runs.
#[derive(Debug, Clone)]
pub struct Running {
    /// As it began.
    pub begins: Begins,
    /// On which line.
    pub line: usize,
    /// Bytes to go.
    pub left: f64,
    /// Bytes since anybody asked.
    moved: f64,
    /// When it began on this line.
    since: f64,
    /// Seconds from a question to its answer, where flows begin slowly.
    round_trip: Option<f64>,
    /// Bytes per second that it could take now.
    wants: f64,
    /// Bytes per second now.
    pub rate: f64,
    /// How often it was moved.
    pub moves: u32,
}

impl Running {
    fn new(begins: Begins, line: usize, round_trip: Option<f64>) -> Self {
        let (left, since, wants) = (begins.bytes, begins.at, begins.peak);
        Running { begins, line, left, moved: 0.0, since, round_trip, wants, rate: 0.0, moves: 0 }
    }

    /// Ten segments after the handshake, and twice as many with every round trip (RFC 6928, RFC 5681). Returns
    /// when that will be.
    fn grow(&mut self, now: f64) -> f64 {
        let Some(round_trip) = self.round_trip else { return f64::INFINITY };
        let trips = (now - self.since) / round_trip + 1e-6;
        if trips < HANDSHAKE {
            self.wants = 0.0;
            return self.since + HANDSHAKE * round_trip;
        }
        let doublings = (trips - HANDSHAKE).floor();
        self.wants = self.begins.peak.min(FIRST / round_trip * doublings.exp2());
        if doublings > DOUBLINGS {
            (self.wants, self.round_trip) = (self.begins.peak, None);
        }
        self.since + (HANDSHAKE + doublings + 1.0) * round_trip
    }

    fn take_moved(&mut self) -> Moved {
        let mut bytes = Both::default();
        *of_mut(&mut bytes, self.begins.direction) = std::mem::take(&mut self.moved) as u64;
        Moved { line: self.line, bytes }
    }
}

/// What a flow moved over a line.
#[derive(Debug, Clone, Copy)]
pub struct Moved {
    /// Which.
    pub line: usize,
    /// How much.
    pub bytes: Both<u64>,
}

/// A flow that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// As it began.
    pub begins: Begins,
    /// How long it took, in seconds.
    pub took: f64,
    /// How often it was moved.
    pub moves: u32,
}

/// Something that happens to a line.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// When, in seconds.
    pub at: f64,
    /// To which.
    pub line: usize,
    /// What.
    pub what: What,
}

/// What happens to a line.
#[derive(Debug, Clone, Copy)]
pub enum What {
    /// It can carry this much from now on, in Mbit/s.
    Carries(f64, f64),
    /// It carries nothing any more.
    Dies,
    /// It is known not to.
    IsMissed,
    /// It carries again.
    Returns,
    /// It is known to.
    IsUsed,
}

/// All lines and flows.
#[derive(Debug)]
pub struct World {
    /// Seconds since the beginning.
    pub now: f64,
    /// The lines.
    pub lines: Vec<Line>,
    /// Whether flows begin slowly, as TCP does.
    pub slow_start: bool,
    /// The flows that run.
    pub flows: Vec<Running>,
    /// The flows that have ended.
    pub ended: Vec<Ended>,
}

impl World {
    /// Lines without flows.
    pub fn new(lines: Vec<Line>, slow_start: bool) -> Self {
        World { now: 0.0, lines, slow_start, flows: Vec::new(), ended: Vec::new() }
    }

    /// Lets it all happen: flows begin until `close`, and run on until the last has ended, or for nine times as long. Returns the part of what
    /// all lines could carry that was used until `close`, in the direction in which that was more.
    pub fn run(
        &mut self,
        begins: &[Begins],
        changes: &[Change],
        contender: &mut dyn Contender,
        close: f64,
    ) -> f64 {
        let (mut begins, mut changes) = (begins.iter().peekable(), changes.iter().peekable());
        let mut tick = TICK;
        let (mut possible, mut used) = (Both { down: 0.0, up: 0.0 }, Both { down: 0.0, up: 0.0 });
        while self.now < LONG * close && (begins.peek().is_some() || !self.flows.is_empty()) {
            let next_begin = begins.peek().map_or(f64::INFINITY, |next| next.at);
            let next_change = changes.peek().map_or(f64::INFINITY, |next| next.at);
            let next_end = self.share_out();
            let next = next_begin.min(next_change).min(tick).min(next_end);
            if next <= close {
                for direction in [Direction::Down, Direction::Up] {
                    *of_mut(&mut possible, direction) += (next - self.now) * self.capacity(direction);
                    *of_mut(&mut used, direction) += (next - self.now) * self.rate(direction);
                }
            }
            self.advance(next);
            self.end_flows();
            if let Some(change) = changes.next_if(|change| change.at <= next) {
                self.change(*change, contender);
            }
            if tick <= next {
                tick += TICK;
                contender.look(self);
            }
            if let Some(begins) = begins.next_if(|begins| begins.at <= next) {
                let line = contender.choose(begins, self);
                self.flows.push(Running::new(*begins, line, self.round_trip(line)));
            }
        }
        f64::max(used.down / possible.down, used.up / possible.up)
    }

    fn round_trip(&self, line: usize) -> Option<f64> {
        self.slow_start.then_some(self.lines[line].latency)
    }

    /// What all lines that work can carry.
    fn capacity(&self, direction: Direction) -> f64 {
        self.lines.iter().filter(|line| line.works).map(|line| *line.capacity.of(direction)).sum()
    }

    /// What they carry.
    fn rate(&self, direction: Direction) -> f64 {
        let flows = self.flows.iter().filter(|flow| flow.begins.direction == direction);
        flows.map(|flow| flow.rate).sum()
    }

    /// What each flow that runs has moved since this was asked last, as the kernel's counters tell it.
    pub fn take_moved(&mut self) -> Vec<Moved> {
        self.flows.iter_mut().map(Running::take_moved).collect()
    }

    /// Flows of a line and direction.
    pub fn count(&self, line: usize, direction: Direction) -> usize {
        self.flows.iter().filter(|flow| flow.line == line && flow.begins.direction == direction).count()
    }

    /// Gives each flow its rate. Returns when the first one ends, or can take more.
    fn share_out(&mut self) -> f64 {
        let now = self.now;
        let grows = self.flows.iter_mut().map(|flow| flow.grow(now)).fold(f64::INFINITY, f64::min);
        for line in 0..self.lines.len() {
            for direction in [Direction::Down, Direction::Up] {
                self.share_out_lane(line, direction);
            }
        }
        let ends = self.flows.iter().filter(|flow| flow.rate > 0.0).map(|flow| flow.left / flow.rate);
        grows.min(self.now + ends.fold(f64::INFINITY, f64::min))
    }

    /// Max-min fair: those that want less than their share leave the rest to the others.
    fn share_out_lane(&mut self, line: usize, direction: Direction) {
        let works = self.lines[line].works;
        let mut left = if works { *self.lines[line].capacity.of(direction) } else { 0.0 };
        let mut hungry = self.count(line, direction) as f64;
        let mut share = left / hungry.max(1.0);
        let mut modest_below = 0.0;
        loop {
            let of_lane = |flow: &&mut Running| flow.line == line && flow.begins.direction == direction;
            let is_modest = |flow: &&mut Running| flow.wants < share && flow.wants >= modest_below;
            let modest = self.flows.iter_mut().filter(of_lane).filter(is_modest);
            let (sum, count) = modest.fold((0.0, 0.0), |(sum, count), flow| (sum + flow.wants, count + 1.0));
            if count == 0.0 {
                break;
            }
            (left, hungry, modest_below) = (left - sum, hungry - count, share);
            share = if hungry > 0.0 { left / hungry } else { f64::INFINITY };
        }
        for flow in
            self.flows.iter_mut().filter(|flow| flow.line == line && flow.begins.direction == direction)
        {
            flow.rate = flow.wants.min(share);
        }
    }

    fn advance(&mut self, to: f64) {
        let time = to - self.now;
        let mut used = vec![Both { down: 0.0, up: 0.0 }; self.lines.len()];
        for flow in &mut self.flows {
            flow.left -= flow.rate * time;
            flow.moved += flow.rate * time;
            *of_mut(&mut used[flow.line], flow.begins.direction) += flow.rate;
        }
        for (line, used) in self.lines.iter_mut().zip(used) {
            line.carried.down += used.down * time;
            line.carried.up += used.up * time;
            let is_full = used.down >= 0.99 * line.capacity.down || used.up >= 0.99 * line.capacity.up;
            let goal = if is_full { line.buffer } else { 0.0 };
            line.queue += (goal - line.queue) * (1.0 - (-time / QUEUEING).exp());
        }
        self.now = to;
    }

    fn end_flows(&mut self) {
        let now = self.now;
        let mut place = 0;
        while let Some(flow) = self.flows.get(place) {
            if flow.left > 0.5 {
                place += 1;
                continue;
            }
            let flow = self.flows.swap_remove(place);
            self.ended.push(Ended { begins: flow.begins, took: now - flow.begins.at, moves: flow.moves });
        }
    }

    fn change(&mut self, change: Change, contender: &mut dyn Contender) {
        let line = &mut self.lines[change.line];
        match change.what {
            What::Carries(down, up) => line.capacity = Both { down, up }.map(|mbit| mbit * 125_000.0),
            What::Dies => line.works = false,
            What::Returns => line.works = true,
            What::IsUsed => line.usable = true,
            What::IsMissed => {
                line.usable = false;
                self.move_from(change.line, contender);
            }
        }
    }

    /// Clients whose flows are reset go on with what is left.
    fn move_from(&mut self, line: usize, contender: &mut dyn Contender) {
        for place in 0..self.flows.len() {
            if self.flows[place].line == line {
                let begins = self.flows[place].begins;
                let other = contender.choose(&begins, self);
                let (since, round_trip) = (self.now, self.round_trip(other));
                let flow = &mut self.flows[place];
                (flow.line, flow.since, flow.round_trip, flow.moves) =
                    (other, since, round_trip, flow.moves + 1);
            }
        }
    }
}

/// That of one direction.
fn of_mut<T>(both: &mut Both<T>, direction: Direction) -> &mut T {
    match direction {
        Direction::Down => &mut both.down,
        Direction::Up => &mut both.up,
    }
}
