//! From one configuration to the next while flows run: what differs, what cannot, and what must be
//! there in between.

use super::checked::{Config, Queue, Uplink};
use super::numbers::Numbers;
use crate::engine::uplink::UplinkSet;

/// The way from one configuration to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The next configuration, and in it the uplinks that it no longer has: they go when no new flow
    /// is sent by them any more.
    pub between: Config,
    /// These uplinks.
    pub leaving: UplinkSet,
    /// Marks that belong to other uplinks from now on. Flows that have them end.
    pub passed_on: Vec<u32>,
}

/// The way from `old` to `new`, where devices have had the numbers `known`.
#[must_use]
pub fn transition(old: &Config, new: &Config, known: &Numbers) -> Transition {
    let gone = old.uplinks.iter().filter(|uplink| new.uplink(uplink.id).is_none());
    let (replaced, leaving): (Vec<&Uplink>, Vec<&Uplink>) =
        gone.partition(|uplink| has_a_successor(uplink, old, new));
    let mut between = new.clone();
    for &uplink in &leaving {
        let place = usize::from(uplink.id.0);
        let values = &mut between.marks.values;
        values.resize(values.len().max(place + 1), 0);
        values[place] = old.marks.value(uplink.id);
        between.uplinks.push(uplink.clone());
    }
    let replaced = replaced.into_iter().map(|uplink| old.marks.value(uplink.id));
    let taken = known.passed_on(new).map(|id| new.marks.value(id));
    Transition {
        between,
        leaving: leaving.iter().map(|uplink| uplink.id).collect(),
        passed_on: replaced.chain(taken).collect(),
    }
}

/// Whether what an uplink had is another's in the next configuration.
fn has_a_successor(uplink: &Uplink, old: &Config, new: &Config) -> bool {
    let value = old.marks.value(uplink.id);
    new.marks.values.contains(&value)
        || new.marks.refused == value
        || new.routing.first_table == uplink.table
        || new.uplinks.iter().any(|other| other.table == uplink.table || other.interface == uplink.interface)
}

/// Why `new` cannot take the place of `old` while flows run: each a sentence, with what to do.
#[must_use]
pub fn obstacles(old: &Config, new: &Config) -> Vec<String> {
    let mut obstacles = Vec::new();
    let bits = |config: &Config| (config.marks.mask, config.marks.decided, config.marks.watched);
    if bits(old) != bits(new) {
        obstacles
            .push(format!("running flows have marks in the bits before, so {}", only_after_down("[marks]")));
    }
    for (before, after) in staying(old, new) {
        if old.marks.value(before.id) != new.marks.value(after.id) {
            let what = format!("the mark of uplink {}", after.name);
            obstacles.push(format!("running flows have the mark before, so {}", only_after_down(&what)));
        }
        let holder = old.uplinks.iter().find(|other| other.table == after.table && other.id != after.id);
        let holder = holder.filter(|other| new.uplink(other.id).is_some());
        obstacles.extend(holder.map(|other| table_is_taken(after.table, &after.name, &other.name)));
    }
    let holder = staying(old, new).find(|(before, _)| before.table == new.routing.first_table);
    obstacles.extend(
        holder.map(|(other, _)| table_is_taken(other.table, "the router's own traffic", &other.name)),
    );
    obstacles
}

fn only_after_down(what: &str) -> String {
    format!("{what} can change only after `wansplit down`: stop wansplit, take it down, and start it again")
}

fn table_is_taken(table: u32, user: &str, holder: &str) -> String {
    format!(
        "routing table {table}, meant for {user}, is that of uplink {holder} until now: \
         choose one that is free, or restart wansplit"
    )
}

/// The uplinks of both, before and after.
fn staying<'a>(old: &'a Config, new: &'a Config) -> impl Iterator<Item = (&'a Uplink, &'a Uplink)> {
    old.uplinks.iter().filter_map(|before| Some((before, new.uplink(before.id)?)))
}

/// What differs, for people: "uplink isp3 is new".
#[must_use]
pub fn differences(old: &Config, new: &Config) -> Vec<String> {
    let removed = old.uplinks.iter().filter(|uplink| new.uplink(uplink.id).is_none());
    let added = new.uplinks.iter().filter(|uplink| old.uplink(uplink.id).is_none());
    let mut differences: Vec<String> =
        removed.map(|uplink| format!("uplink {} is removed", uplink.name)).collect();
    differences.extend(added.map(|uplink| format!("uplink {} is new", uplink.name)));
    differences.extend(staying(old, new).filter_map(|(before, after)| difference(before, after)));
    let limits = |config: &Config| (config.queue.limit, config.queue.limit_per_client);
    let queue = |config: &Config| Queue { limit: 0, limit_per_client: 0, ..config.queue };
    let parts = [
        ("port forwards", old.forwards != new.forwards),
        ("LAN interfaces", old.lan != new.lan),
        ("queues", queue(old) != queue(new)),
        ("limits of the queues", limits(old) != limits(new)),
        ("rules", old.rules != new.rules),
        ("routing", old.routing != new.routing),
        ("bypassed nets", old.bypass != new.bypass),
        ("hooks", old.hooks != new.hooks),
    ];
    let changed = parts.into_iter().filter(|(_, differs)| *differs);
    differences.extend(changed.map(|(what, _)| format!("{what} have changed")));
    differences
}

fn difference(before: &Uplink, after: &Uplink) -> Option<String> {
    if before.name != after.name {
        return Some(format!("uplink {} is called {} now", before.name, after.name));
    }
    (before != after).then(|| format!("uplink {} has changed", after.name))
}

#[cfg(test)]
mod tests {
    use super::super::{Lists, SourceFile, load_numbered};
    use super::*;
    use crate::engine::uplink::UplinkId;

    /// Uplinks by device, name and further keys; and more keys of the file.
    fn config(uplinks: &[(&str, &str, &str)], more: &str, known: &Numbers) -> Config {
        let uplink = |(device, name, keys): &(&str, &str, &str)| {
            format!("[[uplink]]\nname = \"{name}\"\ninterface = \"{device}\"\n{keys}\n")
        };
        let uplinks: String = uplinks.iter().map(uplink).collect();
        let text = format!("lan.interfaces = [\"lan\"]\n{more}\n{uplinks}");
        let file = SourceFile { path: "test.toml".into(), text };
        load_numbered(&file, &[], &Lists::default(), known).unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn next(old: &Config, uplinks: &[(&str, &str, &str)], more: &str) -> (Config, Transition) {
        let known = Numbers::default().with(old);
        let new = config(uplinks, more, &known);
        let transition = transition(old, &new, &known);
        (new, transition)
    }

    fn three() -> Config {
        config(&[("a", "one", ""), ("b", "two", ""), ("c", "three", "")], "", &Numbers::default())
    }

    #[test]
    fn uplinks_that_stay_keep_their_marks_and_tables_in_any_order_and_by_any_name() {
        let (new, transition) =
            next(&three(), &[("d", "two", ""), ("c", "three", ""), ("a", "first", "")], "");
        let marks: Vec<u32> = new.uplinks.iter().map(|uplink| new.marks.value(uplink.id)).collect();
        assert_eq!(marks, [4, 3, 1]);
        assert_eq!(new.uplinks.iter().map(|uplink| uplink.table).collect::<Vec<_>>(), [104, 103, 101]);
        assert_eq!(transition.leaving, [UplinkId(1)].into_iter().collect());
        assert_eq!(transition.passed_on, [0; 0]);
        assert_eq!(obstacles(&three(), &new), [""; 0]);
        let said = ["uplink two is removed", "uplink two is new", "uplink one is called first now"];
        assert_eq!(differences(&three(), &new), said);
    }

    #[test]
    fn a_leaving_uplink_is_there_in_between_with_its_own_mark_and_table() {
        let (new, Transition { between, .. }) = next(&three(), &[("a", "one", ""), ("d", "four", "")], "");
        assert_eq!(between.uplinks[..2], new.uplinks[..]);
        assert_eq!(between.uplinks[2..], three().uplinks[1..]);
        assert_eq!(between.marks.values, [1, 2, 3, 4]);
    }

    #[test]
    fn flows_of_an_uplink_whose_mark_is_anothers_now_end() {
        let (_, transition) = next(&three(), &[("a", "one", ""), ("d", "four", "mark = 2")], "");
        assert_eq!(transition.leaving, [UplinkId(2)].into_iter().collect());
        assert_eq!(transition.passed_on, [2]);
        let full = ["a", "b", "c", "d", "e", "f"].map(|device| (device, device, ""));
        let small = config(&full, "marks.mask = \"0x7\"", &Numbers::default());
        let known = Numbers::default().with(&small);
        let uplinks = [("g", "x", ""), ("h", "y", ""), ("b", "b", "")];
        let new = config(&uplinks, "marks.mask = \"0x7\"", &known);
        assert_eq!(transition_values(&small, &new, &known), [1, 3]);
    }

    fn transition_values(old: &Config, new: &Config, known: &Numbers) -> Vec<u32> {
        let mut values = transition(old, new, known).passed_on;
        values.dedup();
        values
    }

    #[test]
    fn marks_and_tables_of_uplinks_that_stay_are_not_taken_from_them() {
        let old = three();
        let refused = |uplinks: &[(&str, &str, &str)], more: &str| {
            obstacles(&old, &config(uplinks, more, &Numbers::default().with(&old)))
        };
        let same = [("a", "one", ""), ("b", "two", "")];
        assert!(refused(&same, "marks.mask = \"0xff00\"")[0].contains("[marks]"));
        assert!(refused(&[("a", "one", "mark = 9")], "")[0].contains("the mark of uplink one"));
        let swapped = [("a", "one", "table = 102"), ("b", "two", "table = 101")];
        assert!(refused(&swapped, "")[0].contains("that of uplink two"));
        assert!(refused(&same, "routing.first_table = 101").concat().contains("own traffic"));
        assert_eq!(refused(&[("a", "one", "table = 7")], ""), [""; 0]);
    }
}
