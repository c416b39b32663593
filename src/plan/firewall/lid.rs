//! The lid: the way into the queues, for as many as they can take. All others are counted and keep the kernel's choice.
//!
//! While the limit is not reached all get in. A client that finds it reached is noted. One of these that begins more
//! than its share is flooding: for a while the flow's hash tells which few of its flows get in, so the limit is soon
//! the others' again, and none of its flows is asked about by halves. Those who are noted and within
//! their share have a reserve, half as large as the limit: nobody loses by it that he came when a flood began.
//! Made-up addresses take little of it, for few are noted; who comes again and again is noted in the end.
//!
//! A client is an address, in IPv6 too: a LAN's clients usually share their prefix.

use super::iptables::PRESSING_RATE;
use super::model::{Action, Chain, Match, Past, Rule, rule};
use crate::config::Config;
use crate::plan::workers::Workers;

/// The chain of what would go to the queue.
pub const ENTRY: &str = "lid";
/// The chain of what does, unless the limit is reached.
pub const LIMITED: &str = "limited";
/// The chain of what does not, because its client floods.
pub const OVER_SHARE: &str = "over-share";

/// Of so many flows of a client that floods one is decided: a few hundred a second of a whole link's worth.
const ONE_IN: u32 = 64;

/// All its chains.
pub fn chains(config: &Config, workers: &Workers) -> Vec<Chain> {
    let (first, count, fan_out) = (config.queue.first, workers.count, workers.fan_out());
    let goto = |matches: Vec<Match>, chain: &str| rule(matches, Action::Goto(chain.into()));
    let is_over_share = Match::OverShare("share", config.queue.limit_per_client);
    let begins =
        vec![rule([], Action::NoteNewFlood), rule([], Action::NoteFlooding), goto(vec![], OVER_SHARE)];
    let noted = vec![
        goto(vec![Match::Flooding], "flooding"),
        goto(vec![is_over_share], "flood-begins"),
        goto(vec![], LIMITED),
    ];
    let entry = vec![goto(vec![Match::Pressing], "noted"), goto(vec![], LIMITED)];
    let chain = |name: &str, rules: Vec<Rule>| Chain { name: name.into(), hook: None, rules };
    let mut chains = vec![
        chain(OVER_SHARE, vec![rule([], Action::Count(Past::Share))]),
        chain(LIMITED, limited(config.queue.limit, Action::Queue { first, count, fan_out })),
        chain("flood-begins", begins),
    ];
    chains.extend(flooding(config));
    chains.extend([chain("noted", noted), chain(ENTRY, entry)]);
    chains
}

/// What may be decided, up to the limit, and from the reserve.
fn limited(limit: u32, queue: Action) -> Vec<Rule> {
    let noted = (limit / 10).clamp(1, PRESSING_RATE);
    vec![
        rule([Match::Below("limit", limit)], queue.clone()),
        rule([Match::Below("pressing", noted)], Action::NotePressing),
        rule([Match::Pressing, Match::Below("reserve", (limit / 2).max(1))], queue),
        rule([], Action::Count(Past::Limit)),
    ]
}

/// A flow of a client that floods. While an earlier datagram of it may wait in the queue, the choice is settled as
/// that of all that goes past it; later nothing of it waits there, so it is saved at once. The few that are decided
/// tell whether the flood goes on.
fn flooding(config: &Config) -> [Chain; 3] {
    let few = Match::Share { from: 0, to: 1, of: ONE_IN };
    let many_of_few = Match::OverShare("few", (config.queue.limit_per_client / ONE_IN).max(1));
    let chain = |name: &str, rules: Vec<Rule>| Chain { name: name.into(), hook: None, rules };
    [
        chain("flood-goes-on", vec![rule([], Action::NotePressing), rule([], Action::NoteFlooding)]),
        chain(
            "few",
            vec![
                rule([many_of_few], Action::Jump("flood-goes-on".into())),
                rule([], Action::Goto(LIMITED.into())),
            ],
        ),
        chain(
            "flooding",
            vec![
                rule([few], Action::Goto("few".into())),
                rule([Match::NewFlood], Action::Goto(OVER_SHARE.into())),
                rule([], Action::Save),
                rule([], Action::Goto(OVER_SHARE.into())),
            ],
        ),
    ]
}
