//! How counted instructions are compared with the stored ones, and that those of the repository can be read.

#[path = "../benches/instructions/counts.rs"]
mod counts;

use counts::Counts;

const STORED: &str = include_str!("../benches/instructions/stored.txt");

#[test]
fn up_to_five_percent_more_is_let_through_and_what_is_beyond_is_not() {
    let stored = of("a", &[("parse", 1000), ("match", 20)]);
    assert_eq!(stored.faults(&of("a", &[("parse", 1050), ("match", 21)])), [""; 0]);
    assert_eq!(stored.faults(&of("a", &[("parse", 10), ("match", 1)])), [""; 0]);
    let faults = stored.faults(&of("a", &[("parse", 1051), ("match", 22)]));
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("parse: 1051 instructions, stored are 1000"), "{faults:?}");
}

#[test]
fn what_another_compiler_made_may_differ_more_but_not_without_bound() {
    let stored = of("rustc 1", &[("parse", 1000)]);
    assert_eq!(stored.faults(&of("rustc 2", &[("parse", 1250)])), [""; 0]);
    assert_eq!(stored.faults(&of("rustc 2", &[("parse", 1251)])).len(), 1);
}

#[test]
fn a_case_that_is_new_or_gone_is_a_fault() {
    let faults = of("a", &[("old", 1)]).faults(&of("a", &[("new", 1)]));
    assert_eq!(faults, ["new: no count is stored", "old: is stored, and was not counted"]);
}

#[test]
fn what_is_written_is_read_and_nothing_else() {
    let counts = of("rustc 1.95.0, aes", &[("match/10 hit", 7), ("parse", 123_456_789_012)]);
    assert_eq!(Counts::parse(&counts.to_string()), Ok(counts));
    assert!(Counts::parse("parse many").is_err());
}

#[test]
fn the_stored_counts_can_be_read_and_are_of_every_part() {
    let stored = Counts::parse(STORED).unwrap();
    assert!(stored.with.contains("rustc"), "{stored}");
    for part in ["parse/", "sniff/", "match/", "pick/", "decide/", "names/", "reload/"] {
        assert!(stored.cases.iter().any(|(case, count)| case.starts_with(part) && *count > 0), "{part}");
    }
}

fn of(with: &str, cases: &[(&str, u64)]) -> Counts {
    let cases = cases.iter().map(|(case, count)| ((*case).into(), *count)).collect();
    Counts { with: with.into(), cases }
}
