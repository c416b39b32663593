//! Lines whose targets answer as each test says, on a clock of their own.

use proptest::prelude::*;

use super::*;

const TARGETS: usize = 5;
/// In the defaults' order of things the gateway is one of the targets.
const GATEWAY: usize = 4;

#[test]
fn a_line_is_unknown_until_enough_targets_have_answered_and_up_then() {
    let mut line = Line::new(TARGETS);
    assert_eq!(line.health.state(), State::Unknown);
    line.runs(19, |_| quick());
    assert_eq!(line.health.state(), State::Unknown);
    line.runs(100, |_| quick());
    assert_eq!(line.health.state(), State::Up);
}

#[test]
fn a_line_on_which_nobody_answers_from_the_start_is_down_soon() {
    let mut line = Line::new(TARGETS);
    line.runs(1500, |_| Reply::Never);
    assert_eq!(line.health.state(), State::Down(Why::NoAnswer));
}

#[test]
fn a_dead_path_behind_an_answering_gateway_is_noticed_within_two_seconds_whenever_it_dies() {
    for phase in (0..1000).step_by(50) {
        let mut line = Line::new(TARGETS);
        line.runs(30_000 + phase, |_| quick());
        let died = line.now;
        line.runs_until(State::Down(Why::NoAnswer), behind_the_gateway(Reply::Never));
        assert!(line.now.0 - died.0 <= 1900, "{} ms", line.now.0 - died.0);
    }
}

#[test]
fn one_dead_target_of_several_takes_nothing_down_and_is_asked_in_peace() {
    let mut line = Line::new(TARGETS);
    let one_dead = |target| if target == 0 { Reply::Never } else { quick() };
    line.runs(30_000, |_| quick());
    line.runs(5_000, one_dead);
    let before = line.sent;
    line.runs(10_000, one_dead);
    assert_eq!((line.health.state(), line.changes), (State::Up, 1));
    assert!(line.sent - before <= 110, "{} probes in 10 s", line.sent - before);
}

#[test]
fn in_peace_each_target_is_asked_once_an_interval() {
    let mut line = Line::new(TARGETS);
    line.runs(10_000, |_| quick());
    let before = line.sent;
    line.runs(10_000, |_| quick());
    assert!((98..=102).contains(&(line.sent - before)), "{}", line.sent - before);
}

#[test]
fn a_captive_portal_is_down_although_it_answers() {
    let mut line = Line::new(1);
    line.runs(10_000, |_| quick());
    line.runs(2_000, |_| Reply::Wrong);
    assert_eq!(line.health.state(), State::Down(Why::NoAnswer));
}

#[test]
fn a_line_that_was_down_is_up_after_it_was_good_for_as_long_as_asked_for() {
    let mut line = Line::new(TARGETS);
    line.runs(60_000, |_| Reply::Never);
    let back = line.now;
    line.runs_until(State::Up, |_| quick());
    assert!((5_000..6_600).contains(&(line.now.0 - back.0)), "{} ms", line.now.0 - back.0);
}

#[test]
fn an_answer_now_and_then_does_not_bring_a_dead_line_back() {
    let mut line = Line::new(1);
    line.runs(10_000, |_| Reply::Never);
    for _ in 0..20 {
        line.runs(1_000, |_| quick());
        line.runs(3_000, |_| Reply::Never);
        assert_eq!(line.health.state(), State::Down(Why::NoAnswer));
    }
}

#[test]
fn a_fifth_lost_takes_no_line_down_with_the_default_limits_and_half_does() {
    let mut line = Line::new(TARGETS);
    let mut dice = Dice(7);
    line.runs(300_000, |_| dice.loses(20));
    assert_eq!((line.health.state(), line.changes), (State::Up, 1));
    line.runs(30_000, |_| dice.loses(50));
    assert_eq!(line.health.state(), State::Down(Why::Loss));
    line.runs(60_000, |_| quick());
    assert_eq!(line.health.state(), State::Up);
}

#[test]
fn loss_beyond_a_stricter_limit_is_noticed_and_its_end_too() {
    let settings =
        Settings { leave: Limits { loss: 10, ..Settings::default().leave }, ..Settings::default() };
    let mut line = Line::with(settings, 3);
    let mut dice = Dice(3);
    line.runs(10_000, |_| quick());
    line.runs(30_000, |_| dice.loses(20));
    assert_eq!(line.health.state(), State::Down(Why::Loss));
    line.runs(40_000, |_| quick());
    assert_eq!(line.health.state(), State::Up);
}

#[test]
fn latency_that_triples_below_the_limit_changes_nothing_and_beyond_it_takes_the_line_down() {
    let mut line = Line::new(TARGETS);
    line.runs(10_000, |_| Reply::After(200));
    line.runs(30_000, |_| Reply::After(600));
    assert_eq!((line.health.state(), line.changes), (State::Up, 1));
    line.runs(6_000, |_| Reply::After(900));
    assert_eq!(line.health.state(), State::Down(Why::Latency));
    // Good enough to stay is not good enough to come back.
    line.runs(60_000, |_| Reply::After(600));
    assert_eq!(line.health.state(), State::Down(Why::Latency));
    line.runs(20_000, |_| Reply::After(200));
    assert_eq!(line.health.state(), State::Up);
}

#[test]
fn jitter_has_limits_of_its_own() {
    let jitter = Some(Duration::from_millis(50));
    let settings = Settings { leave: Limits { jitter, ..Settings::default().leave }, ..Settings::default() };
    let mut line = Line::with(settings, 1);
    line.runs(10_000, |_| quick());
    let mut is_long = false;
    line.runs(10_000, |_| {
        is_long = !is_long;
        Reply::After(if is_long { 150 } else { 20 })
    });
    assert_eq!(line.health.state(), State::Down(Why::Jitter));
}

#[test]
fn a_quorum_of_one_is_content_with_one() {
    let mut line = Line::with(Settings { quorum: Some(1), ..Settings::default() }, 3);
    line.runs(30_000, |target| if target == 1 { quick() } else { Reply::Never });
    assert_eq!(line.health.state(), State::Up);
    line.runs(2_000, |_| Reply::Never);
    assert_eq!(line.health.state(), State::Down(Why::NoAnswer));
}

#[test]
fn a_lost_link_is_down_at_once_asks_nothing_and_is_unknown_when_it_is_back() {
    let mut line = Line::new(TARGETS);
    line.runs(10_000, |_| quick());
    line.health.lost(line.now);
    assert_eq!(line.health.state(), State::Down(Why::NoWay));
    assert_eq!((line.health.next_deadline(line.now), line.health.poll(line.now)), (None, None));
    line.health.came(TARGETS, line.now.after(Duration::from_secs(1)));
    assert_eq!(line.health.state(), State::Unknown);
}

#[test]
fn a_link_that_flaps_changes_decisions_a_few_times_and_then_not_until_it_holds() {
    for targets in [0, TARGETS] {
        let mut line = Line::new(targets);
        line.runs(10_000, |_| quick());
        let mut avoided = Vec::new();
        for _ in 0..50 {
            line.health.lost(line.now);
            line.runs(50, |_| quick());
            line.health.came(targets, line.now);
            avoided.push(line.health.state().is_avoided());
            line.runs(50, |_| quick());
        }
        assert_eq!(avoided.iter().filter(|avoided| !**avoided).count(), LOSSES - 1);
        assert_eq!(line.health.state(), State::Down(Why::Flapping));
        line.runs(4_000, |_| quick());
        assert_eq!(line.health.state(), State::Down(Why::Flapping));
        line.runs(2_000, |_| quick());
        assert!(!line.health.state().is_avoided());
    }
}

#[test]
fn a_suspected_line_is_avoided_until_enough_targets_have_answered_anew() {
    let mut line = Line::new(TARGETS);
    line.runs(10_000, |_| quick());
    line.health.suspect(line.now);
    assert!(line.health.state().is_avoided());
    line.runs(150, |_| quick());
    assert_eq!(line.health.state(), State::Up);
    line.health.suspect(line.now);
    line.runs(1_500, behind_the_gateway(Reply::Never));
    assert_eq!(line.health.state(), State::Down(Why::NoAnswer));
}

#[test]
fn a_line_that_is_never_asked_is_never_avoided_while_it_has_a_way() {
    let mut line = Line::new(0);
    line.runs(60_000, |_| quick());
    line.health.suspect(line.now);
    assert_eq!((line.health.state(), line.sent), (State::Unknown, 0));
}

#[test]
fn estimates_tell_loss_latency_and_jitter() {
    let mut line = Line::new(2);
    line.runs(30_000, |_| Reply::After(40));
    let estimates = line.health.estimates();
    assert_eq!((estimates.loss, estimates.jitter), (0.0, Duration::ZERO));
    assert_eq!(estimates.latency, Some(Duration::from_millis(40)));
}

proptest! {
    #[test]
    fn whatever_happens_the_line_asks_no_more_than_it_may_and_says_nothing_that_cannot_be(
        events in proptest::collection::vec((0_u8..8, 0_u64..700, 0_usize..6, 0_u64..40), 1..400),
        targets in 0_usize..5,
    ) {
        let mut health = Health::new(Settings::default(), Millis(0));
        let (mut now, mut has_way, mut sent) = (Millis(0), false, Vec::new());
        for (kind, wait, target, back) in events {
            now = Millis(now.0 + wait);
            let number = (sent.len() as u64).saturating_sub(back);
            let probe = Probe { target, number };
            match kind {
                0 => { health.lost(now); has_way = false; }
                1 => { health.came(targets, now); has_way = true; }
                2 => health.suspect(now),
                3 => health.heard(probe, Outcome::Failed, now),
                _ => health.heard(probe, Outcome::Answered(Duration::from_millis(wait)), now),
            }
            let before = sent.len();
            while let Some(probe) = health.poll(now) {
                prop_assert!(has_way && probe.target < targets);
                sent.push(probe);
            }
            prop_assert!(sent.len() - before <= targets, "a target was asked twice at once");
            let deadline = health.next_deadline(now);
            prop_assert!(deadline.is_none_or(|at| at > now), "{deadline:?} is not after {now:?}");
            prop_assert_eq!(deadline.is_some_and(|_| !has_way), false);
            prop_assert!(!has_way || targets == 0 || deadline.is_some());
            if !has_way {
                prop_assert!(matches!(health.state(), State::Down(Why::NoWay | Why::Flapping)));
            }
            prop_assert!(health.since() <= now);
            let estimates = health.estimates();
            prop_assert!((0.0..=1.0).contains(&estimates.loss));
        }
    }
}

/// How a target replies to a probe.
#[derive(Clone, Copy)]
enum Reply {
    /// So many milliseconds after it was sent.
    After(u64),
    Wrong,
    Never,
}

fn quick() -> Reply {
    Reply::After(20)
}

fn behind_the_gateway(reply: Reply) -> impl FnMut(usize) -> Reply {
    move |target| if target == GATEWAY { Reply::After(1) } else { reply }
}

/// A line and what is on its way to it.
struct Line {
    health: Health,
    now: Millis,
    on_their_way: Vec<(Millis, Probe, Outcome)>,
    sent: usize,
    /// How often the state changed.
    changes: usize,
}

impl Line {
    fn new(targets: usize) -> Line {
        Line::with(Settings::default(), targets)
    }

    fn with(settings: Settings, targets: usize) -> Line {
        let now = Millis(123_456);
        let mut health = Health::new(settings, now);
        health.came(targets, now);
        Line { health, now, on_their_way: Vec::new(), sent: 0, changes: 0 }
    }

    fn runs(&mut self, millis: u64, mut reply: impl FnMut(usize) -> Reply) {
        let end = Millis(self.now.0 + millis);
        while self.steps(end, &mut reply) {}
    }

    fn runs_until(&mut self, state: State, mut reply: impl FnMut(usize) -> Reply) {
        let end = Millis(self.now.0 + 60_000);
        while self.health.state() != state {
            assert!(self.steps(end, &mut reply), "never {state:?}");
        }
    }

    /// Goes on to the next thing that happens; false at the end.
    fn steps(&mut self, end: Millis, reply: &mut impl FnMut(usize) -> Reply) -> bool {
        let before = self.health.state();
        while let Some(probe) = self.health.poll(self.now) {
            self.sent += 1;
            let arrival = |millis| self.now.after(Duration::from_millis(millis));
            match reply(probe.target) {
                Reply::After(millis) => {
                    let took = Outcome::Answered(Duration::from_millis(millis));
                    self.on_their_way.push((arrival(millis), probe, took));
                }
                Reply::Wrong => self.on_their_way.push((arrival(20), probe, Outcome::Failed)),
                Reply::Never => {}
            }
        }
        let answers = self.on_their_way.iter().map(|(at, ..)| *at);
        let next = answers.chain(self.health.next_deadline(self.now)).min().unwrap_or(end).min(end);
        let is_over = next == self.now && next == end;
        self.now = next;
        let arrived = self.on_their_way.extract_if(.., |(at, ..)| *at <= next);
        for (_, probe, outcome) in arrived.collect::<Vec<_>>() {
            self.health.heard(probe, outcome, self.now);
        }
        self.changes += usize::from(self.health.state() != before);
        !is_over && next < end
    }
}

/// The same throws in every run.
struct Dice(u64);

impl Dice {
    fn loses(&mut self, percent: u64) -> Reply {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if (self.0 >> 33) % 100 < percent { Reply::Never } else { quick() }
    }
}
