//! Choices that outlive a flow: the next flow of the same client to the same place goes the same way.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::flow::{Facts, Millis};
use super::memory::{Memory, time_left};
use super::sniff::Name;
use super::uplink::UplinkId;

/// A rule may keep flows together for at most this long.
pub const MOST: Duration = Duration::from_secs(86_400);

/// What a rule says about the next flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sticky {
    /// Which flows go together.
    pub by: StickyBy,
    /// For how long after the last of them.
    pub lasts: Duration,
}

/// Which flows go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StickyBy {
    /// All of a client.
    Client,
    /// Those of a client to one address.
    ClientDestination,
    /// Those of a client to one site: the registrable domain of the name (`www.example.co.uk` and
    /// `static.example.co.uk` are `example.co.uk`), by the public suffix list. Without a name as
    /// [`StickyBy::ClientDestination`].
    ClientSite,
}

impl Default for Choices {
    /// The least room there is.
    fn default() -> Self {
        Choices::new(0)
    }
}

/// What goes together for one client.
#[expect(clippy::large_enum_variant, reason = "a key on the stack of a decision, which allocates nothing")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Subject {
    Everything,
    Address(IpAddr),
    Site(Name),
}

/// The choices of all rules. One for all: where two rules name the same line, a
/// client's site keeps it from the one to the other.
#[derive(Debug)]
pub struct Choices {
    memory: Memory<(IpAddr, Subject), UplinkId>,
}

/// A choice as it is written down for a later run: with the uplink's name, because another
/// configuration numbers them otherwise, and with the time it has left, because the clock begins anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    client: IpAddr,
    to: Destination,
    uplink: String,
    /// For how long it is still good.
    seconds: u64,
}

/// A [`Subject`] as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Destination {
    Everything,
    Address(IpAddr),
    Site(String),
}

impl Choices {
    /// Room for about so many choices.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Choices { memory: Memory::new(capacity) }
    }

    /// The uplink that an earlier flow went by.
    #[must_use]
    pub fn find(&self, sticky: Sticky, facts: &Facts, now: Millis) -> Option<UplinkId> {
        let key = (facts.key.src, subject(sticky.by, facts));
        self.memory.find(facts.key.src, &key, now, |uplink| *uplink)
    }

    /// A flow goes by this uplink, and those that belong to it shall for a while.
    pub fn keep(&self, sticky: Sticky, facts: &Facts, uplink: UplinkId, now: Millis) {
        let key = (facts.key.src, subject(sticky.by, facts));
        self.memory.keep(facts.key.src, key, uplink, now.after(sticky.lasts));
    }

    /// All choices that are still good. `uplinks` are the names of the uplinks, by number.
    #[must_use]
    pub fn entries(&self, uplinks: &[&str], now: Millis) -> Vec<Entry> {
        let entry = |(client, subject): &(IpAddr, Subject), uplink: &UplinkId, left: Duration| {
            let uplink = uplinks.get(usize::from(uplink.0)).filter(|name| !name.is_empty())?.to_string();
            let to = Destination::from(subject);
            Some(Entry { client: *client, to, uplink, seconds: left.as_secs() })
        };
        self.memory.entries(now, entry).into_iter().flatten().collect()
    }

    /// Takes in what an earlier run chose so long ago, as far as it is still good and there is room.
    /// What names an uplink that is none of these, or makes no sense, is left out.
    pub fn restore(&self, entries: &[Entry], uplinks: &[&str], passed: Duration, now: Millis) {
        for entry in entries {
            let left = time_left(entry.seconds, MOST, passed);
            if let (Some(subject), Some(uplink), Some(left)) =
                (entry.to.subject(), number(&entry.uplink, uplinks), left)
            {
                self.memory.keep(entry.client, (entry.client, subject), uplink, now.after(left));
            }
        }
    }
}

impl Destination {
    fn subject(&self) -> Option<Subject> {
        Some(match self {
            Destination::Everything => Subject::Everything,
            Destination::Address(address) => Subject::Address(*address),
            Destination::Site(name) => Subject::Site(Name::new(name.as_bytes())?),
        })
    }
}

impl From<&Subject> for Destination {
    fn from(subject: &Subject) -> Self {
        match subject {
            Subject::Everything => Destination::Everything,
            Subject::Address(address) => Destination::Address(*address),
            Subject::Site(name) => Destination::Site(name.to_string()),
        }
    }
}

fn number(name: &str, uplinks: &[&str]) -> Option<UplinkId> {
    let place = uplinks.iter().position(|uplink| *uplink == name)?;
    u8::try_from(place).ok().map(UplinkId)
}

fn subject(by: StickyBy, facts: &Facts) -> Subject {
    match by {
        StickyBy::Client => Subject::Everything,
        StickyBy::ClientDestination => Subject::Address(facts.key.dst),
        StickyBy::ClientSite => {
            let site = facts.name.as_ref().and_then(site);
            site.map_or(Subject::Address(facts.key.dst), Subject::Site)
        }
    }
}

/// The registrable domain; a public suffix itself has none.
#[must_use]
pub fn site(name: &Name) -> Option<Name> {
    Name::new(psl::domain(name.as_bytes())?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::rule::arbitrary::facts;

    const NOW: Millis = Millis(1000);

    fn sticky(by: StickyBy) -> Sticky {
        Sticky { by, lasts: Duration::from_secs(600) }
    }

    fn named(text: &str) -> Facts<'static> {
        Facts { name: Name::new(text.as_bytes()), ..facts() }
    }

    fn from(mut facts: Facts<'_>, client: [u8; 4]) -> Facts<'_> {
        facts.key.src = client.into();
        facts
    }

    fn to(mut facts: Facts<'_>, server: [u8; 4]) -> Facts<'_> {
        facts.key.dst = server.into();
        facts
    }

    #[test]
    fn hosts_of_one_site_go_together_and_of_another_site_do_not() {
        let (choices, by) = (Choices::new(1000), sticky(StickyBy::ClientSite));
        choices.keep(by, &named("www.bank.co.uk"), UplinkId(1), NOW);
        for (flow, expected) in [
            (to(named("static.bank.co.uk"), [192, 0, 2, 99]), Some(UplinkId(1))),
            (named("bank.co.uk"), Some(UplinkId(1))),
            (named("other.co.uk"), None),
            (named("notbank.co.uk"), None),
            (from(named("www.bank.co.uk"), [10, 0, 0, 99]), None),
        ] {
            assert_eq!(choices.find(by, &flow, NOW), expected, "{:?}", flow.name);
        }
    }

    #[test]
    fn without_a_name_the_address_takes_its_place() {
        let (choices, by) = (Choices::new(1000), sticky(StickyBy::ClientSite));
        choices.keep(by, &facts(), UplinkId(2), NOW);
        assert_eq!(choices.find(by, &facts(), NOW), Some(UplinkId(2)));
        assert_eq!(choices.find(by, &to(facts(), [192, 0, 2, 98]), NOW), None);
        assert_eq!(choices.find(by, &named("www.bank.example"), NOW), None);
    }

    #[test]
    fn a_choice_lasts_as_long_as_was_said_after_its_last_flow() {
        for by in [StickyBy::Client, StickyBy::ClientDestination].map(sticky) {
            let choices = Choices::new(1000);
            choices.keep(by, &facts(), UplinkId(0), NOW);
            assert_eq!(choices.find(by, &facts(), NOW.after(Duration::from_secs(599))), Some(UplinkId(0)));
            assert_eq!(choices.find(by, &facts(), NOW.after(Duration::from_secs(600))), None);
        }
        let choices = Choices::new(1000);
        choices.keep(sticky(StickyBy::Client), &facts(), UplinkId(0), NOW);
        assert_eq!(
            choices.find(sticky(StickyBy::Client), &to(facts(), [1, 2, 3, 4]), NOW),
            Some(UplinkId(0))
        );
    }

    #[test]
    fn a_choice_outlives_a_restart_by_its_uplinks_name() {
        let (before, after) = (Choices::new(1000), Choices::new(1000));
        let bank = named("www.bank.co.uk");
        let (address, client) = (sticky(StickyBy::ClientDestination), sticky(StickyBy::Client));
        before.keep(sticky(StickyBy::ClientSite), &bank, UplinkId(0), NOW);
        before.keep(address, &facts(), UplinkId(1), NOW);
        before.keep(client, &facts(), UplinkId(2), NOW);
        before.keep(client, &from(facts(), [10, 0, 0, 99]), UplinkId(3), NOW);
        let written = serde_json::to_string(&before.entries(&["cable", "dsl", "lte"], NOW)).unwrap();
        let read: Vec<Entry> = serde_json::from_str(&written).unwrap();

        // Another clock, another configuration, and 100 s in between.
        let (passed, now) = (Duration::from_secs(100), Millis(7));
        after.restore(&read, &["fibre", "lte", "cable"], passed, now);
        let site = |after_seconds| {
            let then = now.after(Duration::from_secs(after_seconds));
            after.find(sticky(StickyBy::ClientSite), &to(bank, [192, 0, 2, 99]), then)
        };
        assert_eq!((site(499), site(500)), (Some(UplinkId(2)), None));
        assert_eq!(after.find(address, &facts(), now), None, "dsl is no more");
        assert_eq!(after.find(client, &facts(), now), Some(UplinkId(1)));
        assert_eq!(after.find(client, &from(facts(), [10, 0, 0, 99]), now), None, "it had no name");
    }

    #[test]
    fn nonsense_is_left_out_of_what_is_restored_and_the_rest_is_kept() {
        let client = facts().key.src;
        let entry = |to, seconds| Entry { client, to, uplink: "dsl".into(), seconds };
        let entries = [
            entry(Destination::Site("not a site".into()), 60),
            entry(Destination::Address(facts().key.dst), 86_401),
            entry(Destination::Everything, 60),
        ];
        let choices = Choices::new(1000);
        choices.restore(&entries, &["dsl"], Duration::ZERO, NOW);
        assert_eq!(choices.find(sticky(StickyBy::ClientDestination), &facts(), NOW), None);
        assert_eq!(choices.entries(&["dsl"], NOW), entries[2..]);
    }

    #[test]
    fn a_public_suffix_is_no_site() {
        let site_of = |text: &str| site(&Name::new(text.as_bytes()).unwrap()).map(|site| site.to_string());
        assert_eq!(site_of("co.uk"), None);
        assert_eq!(site_of("a.b.example.co.uk").as_deref(), Some("example.co.uk"));
        assert_eq!(site_of("user.github.io").as_deref(), Some("user.github.io"));
        assert_eq!(site_of("printer"), None);
    }
}
