//! What becomes of a flow: a [`Decision`] and its [`Reason`]; and how it is
//! written as a mark. The only code that knows mark bits.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::rule::model::{NoLine, Rule, RuleId};
use crate::engine::uplink::UplinkId;

/// What becomes of a flow, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of it.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// The rule that matched, where one had a say.
    pub rule: Option<RuleId>,
    /// Its first packets say a name that is worth knowing for the next flow.
    pub watch: bool,
}

/// What becomes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It leaves by this uplink.
    Route(UplinkId),
    /// It leaves as the kernel decided before it asked.
    Keep,
    /// Its packet is dropped.
    Drop,
    /// Its packet is refused, and its client told so.
    Reject,
    /// It is decided when its client has said its name, or after this time; its packets wait for
    /// that in a queue of their own.
    Hold(Duration),
}

/// Why a flow was decided as it was. Every way out of the engine has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A rule matched and one of its uplinks is usable.
    RuleMatched,
    /// Its client has begun to say its name, and a rule asks for it: decided when it has been said.
    Held,
    /// A rule matched, and an earlier flow of the same client went by one of its uplinks.
    Sticky,
    /// No rule matched: weighted round-robin over all usable uplinks.
    NoRule,
    /// A rule matched, none of its uplinks is usable, and it asked for any other.
    AnyAfterRule,
    /// A rule matched, none of its uplinks is usable, and it asked for the flow to be dropped.
    DroppedByRule,
    /// A rule matched, none of its uplinks is usable, and it asked for the flow to be refused.
    RejectedByRule,
    /// A rule matched, none of its uplinks is usable, and it asked for the flow to go by one of them all the same.
    KeptByRule,
    /// A further first packet of a flow just decided: the same answer again.
    Remembered,
    /// The packet had waited too long to be decided otherwise than the kernel did.
    Stale,
    /// The packet could not be read.
    Unparsable,
    /// One part of a packet that nobody had put together: the later parts have no ports, and
    /// all must go one way.
    Fragment,
    /// No uplink is usable in the flow's family.
    NoUplink,
}

impl Reason {
    /// All reasons, each at its [`Reason::index`].
    pub const ALL: [Reason; 13] = [
        Reason::RuleMatched,
        Reason::Held,
        Reason::Sticky,
        Reason::NoRule,
        Reason::AnyAfterRule,
        Reason::DroppedByRule,
        Reason::RejectedByRule,
        Reason::KeptByRule,
        Reason::Remembered,
        Reason::Stale,
        Reason::Unparsable,
        Reason::Fragment,
        Reason::NoUplink,
    ];

    /// Its place in [`Reason::ALL`]: for counting.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its short name, which stays the same from version to version.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::RuleMatched => "rule-matched",
            Reason::Held => "held",
            Reason::Sticky => "sticky",
            Reason::NoRule => "no-rule",
            Reason::AnyAfterRule => "any-after-rule",
            Reason::DroppedByRule => "dropped-by-rule",
            Reason::RejectedByRule => "rejected-by-rule",
            Reason::KeptByRule => "kept-by-rule",
            Reason::Remembered => "remembered",
            Reason::Stale => "stale",
            Reason::Unparsable => "unparsable",
            Reason::Fragment => "fragment",
            Reason::NoUplink => "no-uplink",
        }
    }
}

impl Reason {
    /// What it means, for people, without the particulars of one decision.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Reason::RuleMatched => "a rule matched",
            Reason::Held => "held for its name, and decided after",
            Reason::Sticky => "a rule matched: as the client's flow before",
            Reason::NoRule => "no rule matched: weighted round-robin",
            Reason::AnyAfterRule => "a rule matched, none of its uplinks is usable: any other",
            Reason::DroppedByRule => "a rule matched, none of its uplinks is usable: dropped",
            Reason::RejectedByRule => "a rule matched, none of its uplinks is usable: refused",
            Reason::KeptByRule => "a rule matched, none of its uplinks is usable: one all the same",
            Reason::Remembered => "a further first packet of a flow just decided",
            Reason::Stale => "waited too long: the kernel's choice stands",
            Reason::Unparsable => "cannot be read: the kernel's choice stands",
            Reason::Fragment => "a fragment: the kernel's choice stands",
            Reason::NoUplink => "no uplink is usable: as `none` says",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Decision {
    /// A flow that leaves by `uplink`.
    #[must_use]
    pub fn route(uplink: UplinkId, reason: Reason, rule: Option<RuleId>) -> Self {
        Decision { action: Action::Route(uplink), reason, rule, watch: false }
    }

    /// A flow that the kernel's choice stands for.
    #[must_use]
    pub fn keep(reason: Reason, rule: Option<RuleId>) -> Self {
        Decision { action: Action::Keep, reason, rule, watch: false }
    }

    /// A flow that waits for its name, for at most so long.
    #[must_use]
    pub fn hold(most: Duration) -> Self {
        Decision { action: Action::Hold(most), reason: Reason::Held, rule: None, watch: false }
    }

    /// A flow that a rule drops.
    #[must_use]
    pub fn drop_by(rule: RuleId) -> Self {
        Decision { action: Action::Drop, reason: Reason::DroppedByRule, rule: Some(rule), watch: false }
    }

    /// A flow that a rule refuses.
    #[must_use]
    pub fn reject_by(rule: RuleId) -> Self {
        Decision { action: Action::Reject, reason: Reason::RejectedByRule, rule: Some(rule), watch: false }
    }

    /// A flow for which no line of any rule is left.
    #[must_use]
    pub fn without_line(none: NoLine, rule: Option<RuleId>) -> Self {
        let action = match none {
            NoLine::Keep => Action::Keep,
            NoLine::Reject => Action::Reject,
            NoLine::Drop => Action::Drop,
        };
        Decision { action, reason: Reason::NoUplink, rule, watch: false }
    }

    /// The decision in a sentence, for people; what has no name here is named by its number.
    #[must_use]
    pub fn explain(&self, rules: &[Rule], uplinks: &[impl AsRef<str>]) -> String {
        let why = self.why(rules);
        match self.action {
            Action::Route(uplink) => format!("{why}: by {}", uplink_name(uplink, uplinks)),
            Action::Keep => format!("{why}: as the kernel chose"),
            Action::Drop => format!("{why}: dropped"),
            Action::Reject => format!("{why}: refused"),
            Action::Hold(_) => format!("{why}: held"),
        }
    }

    fn why(&self, rules: &[Rule]) -> String {
        let rule = self.rule.map(|rule| rule_name(rule, rules)).unwrap_or_default();
        match self.reason {
            Reason::RuleMatched => format!("{rule} matched"),
            Reason::Held => "its client is still saying its name".into(),
            Reason::Sticky => format!("{rule} matched, as the client's flow before"),
            Reason::NoRule => "no rule matched, the next turn by weight".into(),
            Reason::AnyAfterRule => {
                format!("{rule} matched, none of its uplinks is usable, any other will do")
            }
            Reason::DroppedByRule | Reason::RejectedByRule => {
                format!("{rule} matched, none of its uplinks is usable")
            }
            Reason::KeptByRule => format!("{rule} matched, none of its uplinks is usable, one all the same"),
            Reason::Remembered => "decided a moment ago".into(),
            Reason::Stale => "the packet waited too long".into(),
            Reason::Unparsable => "the packet cannot be read".into(),
            Reason::Fragment => "the packet is a fragment".into(),
            Reason::NoUplink => "no uplink is usable".into(),
        }
    }
}

fn rule_name(id: RuleId, rules: &[Rule]) -> String {
    match rules.get(usize::from(id.0)) {
        Some(rule) => format!("\"{}\" ({})", rule.name, rule.origin),
        None => format!("rule {}", id.0),
    }
}

fn uplink_name(id: UplinkId, uplinks: &[impl AsRef<str>]) -> String {
    match uplinks.get(usize::from(id.0)) {
        Some(name) => name.as_ref().into(),
        None => format!("uplink {}", id.0),
    }
}

/// Which bits of packet and connection marks are ours, and what they mean.
///
/// All reads and writes are masked: other bits belong to other software.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// The uplink bits; contiguous or not.
    pub mask: u32,
    /// The flag bit that says "user space decided this packet"; outside `mask`,
    /// only ever on a packet, never on a connection.
    pub decided: u32,
    /// The flag bit that says of a TCP connection "its client is still listened to", and of a packet
    /// that begins one that this shall be so, of any other that it is over; outside `mask`.
    pub watched: u32,
    /// The value of each uplink inside `mask`, by [`UplinkId`]; 0 for a number that no uplink has.
    pub values: Vec<u32>,
    /// The value inside `mask` that says "this packet is refused"; no uplink's, never 0, never on a
    /// connection that lives.
    pub refused: u32,
}

impl Marks {
    /// The value of an uplink's bits.
    #[must_use]
    pub fn value(&self, uplink: UplinkId) -> u32 {
        self.values[usize::from(uplink.0)]
    }

    /// All uplinks, in the order of their numbers.
    pub fn uplinks(&self) -> impl Iterator<Item = UplinkId> + '_ {
        let numbered = (0..=u8::MAX).map(UplinkId).zip(&self.values);
        numbered.filter(|(_, value)| **value != 0).map(|(uplink, _)| uplink)
    }

    /// The uplink a mark names, if it names one.
    #[must_use]
    pub fn uplink(&self, mark: u32) -> Option<UplinkId> {
        let bits = mark & self.mask;
        self.uplinks().find(|&uplink| self.value(uplink) == bits)
    }

    /// All bits that wansplit writes on connections.
    #[must_use]
    pub fn on_connections(&self) -> u32 {
        self.mask | self.watched
    }

    /// All bits that wansplit writes on packets.
    #[must_use]
    pub fn ours(&self) -> u32 {
        self.mask | self.decided | self.watched
    }

    /// `mark` with the uplink's bits and the decided flag in place of ours.
    #[must_use]
    pub fn decided(&self, mark: u32, uplink: UplinkId) -> u32 {
        mark & !self.ours() | self.value(uplink) | self.decided
    }

    /// `mark` of a packet that user space refuses.
    #[must_use]
    pub fn refuse(&self, mark: u32) -> u32 {
        mark & !self.ours() | self.refused | self.decided
    }

    /// The mark of a packet on its way through a watched connection, when the watch is over; `reset`: it
    /// is refused, and its sender told so.
    #[must_use]
    pub fn watch_over(&self, mark: u32, reset: bool) -> u32 {
        mark | self.watched | if reset { self.decided } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::rule::arbitrary::rule;
    use crate::engine::rule::model::Matchers;

    #[test]
    fn every_reason_is_found_at_its_index_and_has_a_name_of_its_own() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), place);
            assert_eq!(Reason::ALL.iter().filter(|other| other.as_str() == reason.as_str()).count(), 1);
        }
    }

    #[test]
    fn a_reason_is_written_by_serde_as_by_its_name() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{reason}\""));
        }
    }

    #[test]
    fn an_explanation_names_rule_and_uplink_or_their_numbers() {
        let rules = [rule(Matchers::default(), Matchers::default())];
        let decision = Decision::route(UplinkId(1), Reason::RuleMatched, Some(RuleId(0)));
        assert_eq!(decision.explain(&rules, &["isp1", "isp2"]), "\"test\" (test.toml:1) matched: by isp2");
        assert_eq!(decision.explain(&[], &["isp1"]), "rule 0 matched: by uplink 1");
        let kept = Decision::keep(Reason::NoUplink, None);
        assert_eq!(kept.explain(&rules, &["isp1"]), "no uplink is usable: as the kernel chose");
    }

    #[test]
    fn others_bits_of_a_mark_survive_and_ours_are_replaced() {
        let values = vec![0x10, 0x20];
        let marks = Marks { mask: 0x0f0, decided: 0x100, watched: 0x200, values, refused: 0xf0 };
        let mark = marks.decided(0xffff_ffff, UplinkId(1));
        assert_eq!(mark, 0xffff_fd2f);
        assert_eq!([false, true].map(|reset| marks.watch_over(0x8020, reset)), [0x8220, 0x8320]);
        assert_eq!(marks.decided(0, UplinkId(0)), 0x110);
        assert_eq!(marks.uplink(mark), Some(UplinkId(1)));
        assert_eq!(marks.refuse(0xffff_ffff), 0xffff_fdff);
        assert_eq!([0, 0x30, 0xf0].map(|mark| marks.uplink(mark)), [None, None, None]);
    }
}
