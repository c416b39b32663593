//! What rules note in sets and look for again: kernel memory of seconds, which needs no user space.

use super::model::{Action, Match, Rule, rule};

/// Seconds for which a flow that went past the queue is remembered as such: longer than a sibling can wait for its
/// answer (a second for its name, and one until the gate closes).
pub(super) const EARLY_SECONDS: u32 = 4;
/// Flows remembered as past the queue. Beyond that a split of an unlucky pair is possible again, and what is worse, each
/// further flow makes the kernel look for old ones; so these are more than come in that time.
pub(super) const EARLY_MOST: u32 = 1 << 20;
/// Seconds for which an answered flow is noted: longer than its first datagram needs
/// from there to the end of its way, where its connection becomes known to all.
pub(super) const SENT_SECONDS: u32 = 1;
/// And flows noted as answered by one uplink, of which a second brings no more than the limits let in.
pub(super) const SENT_MOST: u32 = 1 << 17;

/// Seconds for which a flood, and a client that found the limit reached, is known as such.
const FLOOD_SECONDS: u32 = 10;
/// Seconds for which a client's share is remembered, where the firewall keeps it in a set.
pub(super) const SHARE_SECONDS: u32 = FLOOD_SECONDS;
/// Clients in each set, and their shares. A full set would be searched for what has expired, which
/// takes long, and where there is no room for a share the kernel drops the packet: so clients are noted
/// at [`KNOWN_RATE`] at most, and neither is ever full.
pub(super) const CLIENTS_MOST: u32 = 65_536;
/// Clients noted a second. Their shares last for two seconds or three after their last packet.
pub(super) const KNOWN_RATE: u32 = CLIENTS_MOST / (FLOOD_SECONDS + 6);

/// Something that is true for some seconds after it was noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// Datagrams went past the queue.
    Passing,
    /// The client found the limit reached.
    Known,
    /// These begin more than they may, so the flow's hash tells which few of their flows are decided.
    Flooding(Who),
    /// Less is queued of these than was before, so earlier datagrams of their flows may wait in the queue.
    Changed(Who),
}

/// Whose flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// One client's.
    Client,
    /// Those of all clients that are [`Note::Known`].
    Known,
    /// Those of all others.
    Strangers,
}

impl Who {
    /// All of them.
    pub const ALL: [Who; 3] = [Who::Client, Who::Known, Who::Strangers];
}

impl Note {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Note> {
        let changed = Who::ALL.into_iter().map(Note::Changed);
        [Note::Passing, Note::Known].into_iter().chain(Note::floods()).chain(changed)
    }

    /// Those that may end at any time: what was not decided is saved.
    pub fn floods() -> impl Iterator<Item = Note> {
        Who::ALL.into_iter().map(Note::Flooding)
    }

    /// Of its set.
    pub(super) fn name(self) -> &'static str {
        match self {
            Note::Passing => "passing",
            Note::Known => "known",
            Note::Flooding(Who::Client) => "flooding",
            Note::Flooding(Who::Known) => "flooding-known",
            Note::Flooding(Who::Strangers) => "flooding-others",
            Note::Changed(Who::Client) => "changed",
            Note::Changed(Who::Known) => "changed-known",
            Note::Changed(Who::Strangers) => "changed-others",
        }
    }

    /// How long it is true.
    pub(super) fn seconds(self) -> u32 {
        match self {
            Note::Passing | Note::Changed(_) => EARLY_SECONDS,
            Note::Known | Note::Flooding(_) => FLOOD_SECONDS,
        }
    }

    /// Whether it is about one client; else it is about all.
    pub(super) fn is_of_a_client(self) -> bool {
        matches!(self, Note::Known | Note::Flooding(Who::Client) | Note::Changed(Who::Client))
    }

    /// That it is true.
    pub(super) fn holds(self) -> Match {
        Match::Noted(self, true)
    }

    /// That it is not.
    pub(super) fn is_over(self) -> Match {
        Match::Noted(self, false)
    }

    /// Notes it.
    pub(super) fn take(self) -> Rule {
        rule([], Action::Note(self))
    }
}
