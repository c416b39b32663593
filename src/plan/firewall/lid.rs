//! The lid: the way into the queues, for as many as they can take. All others are counted and keep the kernel's choice.
//!
//! While the limit is not reached all get in. A client that finds it reached is known from then on. One of these that
//! begins more than its share floods; the others have a reserve, half as large as the limit: nobody loses by it that he
//! came when a flood began. Made-up addresses take little of it, for few become known; who comes again and again does
//! in the end.
//!
//! While anybody floods, his flows' hashes tell which few of them get in, so none is asked about by halves. That may be
//! one client; or all that are known, where their shares together are more than the limit and the reserve; or all others.
//! Whose few are too many still floods. What goes past the queue besides, until that is known, is counted by packets and
//! settled by notes (see [`settle`](super::settle)).
//!
//! What is answered is noted only while it is known that something goes past (see [`settle`](super::settle)), so that is said before
//! anything does: when most of the limit is used, or always where the limit is small, and by each flow of a client that
//! may be found flooding.
//!
//! What the hashes let past the queue is saved to its connection at once. That is sound while no earlier datagram of the
//! same flow waits in the queue, so it is settled by notes too for as long as one may: after a flood has begun, after
//! its client has become known. A client that is known and not flooding stays known while the others flood.
//!
//! A client is an address, in IPv6 too: a LAN's clients usually share their prefix.

use super::model::{Action, Chain, Match, Note, Past, Rate, Rule, Who, rule};
use super::note::KNOWN_RATE;
use crate::config::Config;
use crate::plan::workers::Workers;

/// The chain of what would go to the queue.
pub const ENTRY: &str = "lid";
/// The chain of what does, unless the limit is reached.
const LIMITED: &str = "limited";
/// The chain in which clients become known.
const MAY_BE_KNOWN: &str = "may-be-known";
/// The chain of a client that is found flooding while all that are known are.
const FLOODS_ALONE: &str = "floods-alone";

/// Of so many flows of those who flood one is decided: some thousand a second of a whole link's worth.
const ONE_IN: u32 = 64;
/// So much of the limit is the last that is used.
const REST: u32 = 20;
/// More packets than come to rules while one that was answered is interrupted on its way (`net.core.netdev_budget`, 300).
const TAKEN_AT_ONCE: u32 = 512;
/// Limiters of clients' shares: all of their flows, and the few that are decided of those who flood.
pub(super) const SHARES: [&str; 2] = ["share", "few"];

/// The chain that counts what goes past the queue.
pub(super) fn counting_chain(past: Past) -> &'static str {
    match past {
        Past::Share => "over-share",
        Past::Limit => "over-limit",
    }
}

/// All its chains.
pub fn chains(config: &Config, workers: &Workers) -> Vec<Chain> {
    let mut chains: Vec<Chain> =
        Past::ALL.map(|past| chain(counting_chain(past), vec![rule([], Action::Count(past))])).into();
    let floods = Who::ALL.map(|who| Flood::of(who, config));
    chains.extend(floods.iter().map(Flood::begins));
    chains.extend(become_known(config));
    chains.push(chain(LIMITED, limited(config, workers)));
    chains.push(floods_alone());
    chains.extend(floods.iter().flat_map(|flood| flood.goes_on(config)));
    chains.extend([chain("of-known", of_known(config)), chain(ENTRY, entry())]);
    chains
}

fn entry() -> Vec<Rule> {
    vec![
        goto([Note::Known.holds()], "of-known"),
        goto([Note::Flooding(Who::Strangers).holds()], flooding(Who::Strangers)),
        goto([], LIMITED),
    ]
}

/// A flow of a client that is known.
fn of_known(config: &Config) -> Vec<Rule> {
    let [share, _] = SHARES;
    vec![
        goto([Note::Flooding(Who::Known).holds()], flooding(Who::Known)),
        goto([Note::Flooding(Who::Client).holds()], flooding(Who::Client)),
        goto([Match::OverShare(share, config.queue.limit_per_client)], begins(Who::Client)),
        rule([Note::Flooding(Who::Strangers).holds()], Action::Note(Note::Known)),
        Note::Passing.take(),
        goto([], LIMITED),
    ]
}

/// A client that found the limit reached, unless too many did.
fn become_known(config: &Config) -> [Chain; 2] {
    let is_news = rule([Note::Known.is_over()], Action::Note(Note::Changed(Who::Client)));
    let rate = Rate::of((config.queue.limit / 10).min(KNOWN_RATE));
    [
        chain("becomes-known", vec![is_news, Note::Known.take()]),
        chain(MAY_BE_KNOWN, vec![rule([Match::Below("known", rate)], Action::Jump("becomes-known".into()))]),
    ]
}

/// What may be decided while the gate is open, up to the limit, and from the reserve.
fn limited(config: &Config, workers: &Workers) -> Vec<Rule> {
    let limit = config.queue.limit;
    let queue = Action::Queue { first: config.queue.first, count: workers.count, fan_out: workers.fan_out() };
    let reserve = Match::Below("reserve", Rate::of(limit / 2));
    let by_itself = Match::Below("beyond", Rate::of_what_goes_on(limit));
    let mut rules = vec![rule([Match::GateIsOpen(false)], Action::Return)];
    rules.extend(below(limit, &queue));
    rules.extend([
        rule([], Action::Jump(MAY_BE_KNOWN.into())),
        rule([Note::Known.holds(), reserve], queue),
        goto([by_itself], counting_chain(Past::Limit)),
        goto([Note::Known.holds()], begins(Who::Known)),
        goto([], begins(Who::Strangers)),
    ]);
    rules
}

/// Up to the limit. Before the last of it is used it is said that some will go past soon; it fills again before that is
/// forgotten. The last of a small limit would be too little: then it is always said.
fn below(limit: u32, queue: &Action) -> Vec<Rule> {
    let last = Rate { limit: limit / REST, ..Rate::of(limit / 2) };
    let up_to = |name, rate| rule([Match::Below(name, rate)], queue.clone());
    if last.burst < TAKEN_AT_ONCE {
        return vec![Note::Passing.take(), up_to("limit", Rate::of(limit))];
    }
    vec![up_to("limit", Rate::of(limit - last.limit)), Note::Passing.take(), up_to("rest", last)]
}

/// While all that are known flood: a client of whose flows even the few that are decided are many. What is let through
/// of them does not change by that, so nothing is left to settle once nothing is of the flood of all.
fn floods_alone() -> Chain {
    let too_soon = goto([Note::Changed(Who::Known).holds()], LIMITED);
    let rules = vec![too_soon, Note::Flooding(Who::Client).take(), Note::Known.take(), goto([], LIMITED)];
    chain(FLOODS_ALONE, rules)
}

/// How flows of these are let through while they flood.
struct Flood {
    who: Who,
    /// So few of the few that are decided that it is none any more.
    is_calm: Match,
    past: Past,
}

/// What a client that floods exceeds by the few of its flows that are decided.
fn share_of_few(config: &Config) -> u32 {
    (config.queue.limit_per_client / ONE_IN).max(1)
}

impl Flood {
    fn of(who: Who, config: &Config) -> Flood {
        let [_, few] = SHARES;
        let of_all = Rate::of(config.queue.limit / ONE_IN);
        let (is_calm, past) = match who {
            Who::Client => (Match::WithinShare(few, share_of_few(config)), Past::Share),
            Who::Known => (Match::Below("few-known", of_all), Past::Limit),
            Who::Strangers => (Match::Below("few-others", of_all), Past::Limit),
        };
        Flood { who, is_calm, past }
    }

    /// The first that is too many.
    fn begins(&self) -> Chain {
        let [news, flooding] = self.noted();
        chain(begins(self.who), vec![news, flooding, self.past()])
    }

    /// It begins or goes on.
    fn noted(&self) -> [Rule; 2] {
        let flooding = Note::Flooding(self.who);
        [rule([flooding.is_over()], Action::Note(Note::Changed(self.who))), flooding.take()]
    }

    fn goes_on(&self, config: &Config) -> [Chain; 2] {
        [chain(few(self.who), self.of_few(config)), chain(flooding(self.who), self.of_all())]
    }

    /// The few that are decided tell whether it goes on. Who is known stays so, to be found flooding; others may become so.
    fn of_few(&self, config: &Config) -> Vec<Rule> {
        let [_, share] = SHARES;
        let alone = goto([Match::OverShare(share, share_of_few(config))], FLOODS_ALONE);
        let known = match self.who {
            Who::Client | Who::Known => Note::Known.take(),
            Who::Strangers => rule([], Action::Jump(MAY_BE_KNOWN.into())),
        };
        let [news, noted] = self.noted();
        let rest = [goto([self.is_calm.clone()], LIMITED), news, noted, known, goto([], LIMITED)];
        (self.who == Who::Known).then_some(alone).into_iter().chain(rest).collect()
    }

    /// The hash tells which are the few.
    fn of_all(&self) -> Vec<Rule> {
        let mut rules = vec![goto([Match::Share { from: 0, to: 1, of: ONE_IN }], few(self.who))];
        rules.extend(self.may_wait().map(|note| goto([note.holds()], counting_chain(self.past))));
        rules.extend([rule([], Action::Save), self.past()]);
        rules
    }

    /// While one of these is true an earlier datagram of a flow may wait in the queue.
    fn may_wait(&self) -> impl Iterator<Item = Note> {
        let of_client = (self.who == Who::Known).then_some(Note::Changed(Who::Client));
        [Note::Changed(self.who)].into_iter().chain(of_client)
    }

    fn past(&self) -> Rule {
        goto([], counting_chain(self.past))
    }
}

fn begins(who: Who) -> &'static str {
    match who {
        Who::Client => "begins-to-flood",
        Who::Known => "known-begin",
        Who::Strangers => "others-begin",
    }
}

fn flooding(who: Who) -> &'static str {
    match who {
        Who::Client => "flooding",
        Who::Known => "known-flood",
        Who::Strangers => "others-flood",
    }
}

fn few(who: Who) -> &'static str {
    match who {
        Who::Client => "few",
        Who::Known => "few-known",
        Who::Strangers => "few-others",
    }
}

fn goto(matches: impl Into<Vec<Match>>, chain: &str) -> Rule {
    rule(matches, Action::Goto(chain.into()))
}

fn chain(name: &str, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), hook: None, rules }
}
