//! What was decided is saved to the connection.
//!
//! While a first datagram waits in the queue, a sibling may go past it. Each has a connection entry of its own then,
//! so no mark can tell the one of the other, and both must go one way. Each leaves a note, in a set, before it reads
//! the other's: what user space answered is noted as sent, what went past the queue as early. So an answered
//! datagram that finds no early sibling keeps its way and later ones follow it; one that finds an early sibling takes
//! that one's way, the kernel's, which is the same each time. If both notes come at one moment, neither knows what
//! the other has read: then the early one is torn, and dropped in the forward chain. It leaves a note too, for its own is
//! no evidence any more: who finds both goes the answered way, unless an answered one has noted that it kept the kernel's.
//!
//! Notes cost more than all else here together, so what is answered is noted only while something goes past the
//! queue: a datagram that does says so for all, and for a time in which whatever waits is answered. What goes past
//! is most of a flood: it looks for an answered sibling in one set for all uplinks, however many they are.
//!
//! The first packet of a TCP connection says whether its client is to be listened to, and the packets of such
//! connections are settled in the forward chain: iptables' nat table does not see them.
//!
//! Some kernels (6.1, not 6.18) look for the connection once more when the answer comes: a datagram that waited with
//! an entry of its own then has its sibling's, which is decided, and follows it.

use super::model::{Action, Chain, Hook, Match, Note, Rule, rule};
use super::{UDP, adopt};
use crate::config::Config;
use crate::engine::uplink::UplinkId;

/// What is noted as early was torn, as far as anybody knows.
const NO_EVIDENCE: [Match; 2] = [Match::Torn, Match::NotKept];

/// Prerouting, after the queues: every chain that what was decided goes through, in the order of jumps.
pub fn chains(config: &Config) -> Vec<Chain> {
    let chain = |name: &str, rules: Vec<Rule>| Chain { name: name.into(), hook: None, rules };
    vec![
        chain("follow", vec![rule([], Action::ClearDecided), rule([], Action::Restore)]),
        chain("keep", save()),
        chain("overtaken", overtaken()),
        chain("crowded", crowded(config)),
        chain("answered", answered()),
        chain("sent", sent(config)),
        chain("torn", vec![rule([], Action::NoteTorn), rule([], Action::FlagDecided)]),
        chain("behind", behind()),
        chain("passed", passed()),
        chain("save", saved(config)),
        Chain { name: "settle".into(), hook: Some(Hook::Settle), rules: settle(config) },
    ]
}

fn save() -> Vec<Rule> {
    vec![rule([], Action::ClearDecided), rule([], Action::Save)]
}

/// Answered, after a sibling went past the queue.
fn overtaken() -> Vec<Rule> {
    vec![
        rule(NO_EVIDENCE, Action::Goto("keep".into())),
        rule([], Action::NoteKept),
        rule([], Action::Clear),
        rule([], Action::Jump("choose".into())),
        rule([], Action::Save),
    ]
}

/// Answered, while something goes past the queues. Who finds the note that belongs to all uplinks finds that of one.
fn crowded(config: &Config) -> Vec<Rule> {
    let by_its_uplink = config.uplinks.iter().map(|uplink| {
        rule([Match::PacketUplink(config.marks.value(uplink.id))], Action::NoteSent(Some(uplink.id)))
    });
    let mut rules: Vec<Rule> = by_its_uplink.collect();
    rules.push(rule([], Action::NoteSent(None)));
    rules.push(rule([Match::Early], Action::Goto("overtaken".into())));
    rules.extend(save());
    rules
}

fn answered() -> Vec<Rule> {
    let mut rules = vec![rule([Note::Passing.holds()], Action::Goto("crowded".into()))];
    rules.extend(save());
    rules
}

/// Past the queue, after a sibling was answered.
fn behind() -> Vec<Rule> {
    vec![
        rule(NO_EVIDENCE, Action::Goto("sent".into())),
        rule([Match::Early], Action::Goto("keep".into())),
        rule([], Action::Goto("sent".into())),
    ]
}

/// The way of the answered sibling.
fn sent(config: &Config) -> Vec<Rule> {
    let follow = |uplink: UplinkId| rule([Match::Sent(Some(uplink))], Action::Goto(adopt(uplink)));
    let mut rules: Vec<Rule> = config.uplinks.iter().map(|uplink| follow(uplink.id)).collect();
    rules.push(rule([], Action::NoteEarly));
    rules.extend(save());
    rules
}

/// Past the queue.
fn passed() -> Vec<Rule> {
    let mut rules = vec![
        Note::Passing.take(),
        rule([Match::Sent(None)], Action::Goto("behind".into())),
        rule([], Action::NoteEarly),
        rule([Match::Sent(None)], Action::Goto("torn".into())),
    ];
    rules.extend(save());
    rules
}

fn saved(config: &Config) -> Vec<Rule> {
    let mut rules = vec![
        rule([Match::Protocol(UDP), Match::Decided(true)], Action::Goto("answered".into())),
        rule([Match::Protocol(UDP)], Action::Goto("passed".into())),
    ];
    rules.extend(save());
    if config.asks_for_names() {
        rules.extend(begin_watch());
    }
    rules
}

/// The flag goes from the packet to its connection.
fn begin_watch() -> [Rule; 2] {
    [rule([Match::Watched(true)], Action::Watch), rule([Match::Watched(true)], Action::ClearWatched)]
}

fn settle(config: &Config) -> Vec<Rule> {
    let listened = config.lan.iter().filter(|_| config.asks_for_names()).map(|lan| {
        let watched = [Match::In(lan.clone()), Match::ConnectionWatched(true)];
        rule(watched, Action::Return)
    });
    let from_lan = config.lan.iter().flat_map(|lan| {
        let followed = [Match::In(lan.clone()), Match::Decided(true), Match::ConnectionHasUplink(true)];
        let chosen =
            [Match::In(lan.clone()), Match::PacketHasUplink(true), Match::ConnectionHasUplink(false)];
        [rule(followed, Action::Jump("follow".into())), rule(chosen, Action::Jump("save".into()))]
    });
    listened.chain(from_lan).collect()
}
