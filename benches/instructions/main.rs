//! How many instructions the engine's steps take, to see a regression on a machine whose clock tells nothing.
//!
//! `benches/instructions/run` builds and starts it. It starts itself once more under valgrind's callgrind,
//! which counts only inside of [`measured`] and writes a file each time that is left; setting up and warming up
//! count nothing. The counts are compared with `stored.txt`, or stored there with `WANSPLIT_UPDATE=1`.
//!
//! The engine is a module of this program, so that nothing else has to be built optimised for it.

use std::fs;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, ExitCode};

#[allow(dead_code, unused_imports, missing_docs, reason = "the bench uses its own part of the engine")]
#[path = "../../src/engine/mod.rs"]
mod engine;

#[allow(dead_code, reason = "each bench uses its own part of this")]
#[path = "../fixtures/mod.rs"]
mod fixtures;

mod counts;

use counts::{Counts, MOST_ELSEWHERE};
use engine::flow::{Arrival, Millis};
use engine::names::Names;
use engine::packet::parse;
use engine::rule::RuleSet;
use engine::rule::model::{Rule, RuleId};
use engine::sniff::{self, Name, Ports, dns};
use engine::{Engine, Now};
use fixtures::*;

const STORED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/stored.txt");

/// What this program is called with when valgrind runs it.
const INSIDE: &str = "--inside";

/// Flows that a case takes in turns, so that it is no single one's luck with a hash.
const FLOWS: usize = 256;

/// Runs of which the median is taken: hashes have another seed in each.
const RUNS: usize = 3;

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == INSIDE) {
        run_cases();
        return ExitCode::SUCCESS;
    }
    match count().and_then(|counted| judge(&counted)) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// An operation, and how often it is counted.
struct Case {
    name: String,
    times: u64,
    operation: Box<dyn FnMut()>,
}

fn case(name: impl Into<String>, times: u64, operation: impl FnMut() + 'static) -> Case {
    Case { name: name.into(), times, operation: Box::new(operation) }
}

/// A list's entries, one after the other, again and again.
struct Turns<T>(Vec<T>, usize);

impl<T> Turns<T> {
    fn next(&mut self) -> &T {
        self.1 = (self.1 + 1) % self.0.len();
        &self.0[self.1]
    }
}

/// All that callgrind counts; it knows the function by its name.
#[inline(never)]
fn measured(times: u64, operation: &mut dyn FnMut()) {
    for _ in 0..times {
        operation();
    }
}

/// Prints what the processor has, and each case before it is counted.
fn run_cases() {
    println!("{}", processor());
    for mut case in cases() {
        (case.operation)();
        println!("{} {}", case.name, case.times);
        measured(case.times, &mut case.operation);
    }
}

fn cases() -> Vec<Case> {
    [parsing(), sniffing(), matching(), picking(), deciding(), naming(), reloading()]
        .into_iter()
        .flatten()
        .collect()
}

fn parsing() -> Vec<Case> {
    let packets = [("ipv4-udp", udp_v4(7)), ("ipv6-udp-3-extensions", udp_v6(&[0, 60, 43]))];
    let parsed = |(name, packet): (&str, Vec<u8>)| {
        case(format!("parse/{name}"), 100, move || _ = black_box(parse(black_box(&packet))))
    };
    packets.map(parsed).into()
}

fn sniffing() -> Vec<Case> {
    let (web, resolver) = (Ports { src: 40_000, dst: 443 }, Ports { src: 40_000, dst: 53 });
    let (hello, answer) = (tls_hello("www.example.org"), dns_answer());
    let again = answer.clone();
    let initial = include_bytes!("../quic-initial.bin");
    vec![
        case("sniff/tls-hello", 100, move || _ = black_box(sniff::stream(black_box(&hello), web))),
        case("sniff/quic-initial", 20, move || _ = black_box(sniff::datagram(black_box(initial), web))),
        case("sniff/dns-answer", 100, move || _ = black_box(sniff::datagram(black_box(&answer), resolver))),
        case("sniff/dns-answer-names", 100, move || {
            dns::answers(black_box(&again), |answer| _ = black_box(answer));
        }),
        case("sniff/unknown-datagram", 100, move || {
            _ = black_box(sniff::datagram(black_box(&[7; 148]), web))
        }),
        case("sniff/unknown-stream", 100, move || _ = black_box(sniff::stream(black_box(&[7; 148]), web))),
    ]
}

/// By sets like ClassBench's access lists.
fn matching() -> Vec<Case> {
    let of_count = |count| {
        let rules = access_list(count);
        [("hit", listed_flows(&rules, FLOWS)), ("miss", unlisted_flows(FLOWS))].map(|(kind, flows)| {
            let (set, mut turns) = (RuleSet::compile(rules.as_slice()), Turns(flows, 0));
            case(format!("match/{count} {kind}"), FLOWS as u64, move || {
                _ = black_box(set.first_match_from(RuleId(0), turns.next()));
            })
        })
    };
    [10, 1_000, 10_000].into_iter().flat_map(of_count).collect()
}

fn picking() -> Vec<Case> {
    let by = |(name, policy)| {
        let (mut engine, snapshot) = (Engine::new(1), snapshot(&[by_policy(policy)]));
        let mut turns = Turns(unlisted_flows(FLOWS), 0);
        case(format!("pick/{name}"), FLOWS as u64, move || {
            _ = black_box(engine.judge(&snapshot, turns.next(), Millis(0)));
        })
    };
    POLICIES.map(by).into()
}

fn deciding() -> Vec<Case> {
    let few: Vec<Rule> = (0..10).map(for_client).collect();
    let many: Vec<Rule> = lists(20_000, 5_000).into_iter().chain((2..10_000).map(for_client)).collect();
    let new = |(name, rules): (&str, Vec<Rule>)| {
        let (mut engine, snapshot) = (Engine::new(4096), snapshot(&rules));
        let (mut now, mut packet, mut flow) = (Now::default(), udp_v4(0), 0_u32);
        case(format!("decide/{name}"), FLOWS as u64, move || {
            flow += 1;
            now.at.0 += 1;
            packet[12..16].copy_from_slice(&flow.to_be_bytes());
            _ = black_box(engine.decide(&snapshot, &packet, &Arrival::default(), now));
        })
    };
    let (mut engine, snapshot, packet) = (Engine::new(4096), snapshot(&[]), udp_v4(7));
    let again = case("decide/remembered", 100, move || {
        _ = black_box(engine.decide(&snapshot, black_box(&packet), &Arrival::default(), Now::default()));
    });
    [("no-rules", Vec::new()), ("10", few), ("10000-with-lists", many)]
        .map(new)
        .into_iter()
        .chain([again])
        .collect()
}

/// What an address is known by, and whether a list has a name.
fn naming() -> Vec<Case> {
    let address = |number: u32| IpAddr::from(Ipv4Addr::from_bits(number));
    let ask = |kind, first: u32| {
        let names = Names::new(16_384);
        let name = Name::new(b"www.example.org").expect("a name");
        (0..1000).for_each(|number| {
            names.told(address(number % 25), address(1 << 24 | number), &name, u32::MAX, Millis(0))
        });
        let mut number = 0;
        case(format!("names/of-address {kind}"), FLOWS as u64, move || {
            number += 1;
            _ = black_box(names.of(address(number % 25), address(first | number), 443, Millis(1)));
        })
    };
    // Of names that are not there each label is looked for: they share none.
    let listed = |kind: &str, name: fn(usize) -> String| {
        let [hosts, _] = lists(20_000, 1);
        let list = hosts.matches.host_list[0].clone();
        let names = (0..FLOWS).filter_map(|number| Name::new(name(number).as_bytes()));
        let mut turns = Turns(names.collect(), 0);
        case(format!("names/in-a-list {kind}"), FLOWS as u64, move || {
            _ = black_box(list.contains(turns.next()));
        })
    };
    let asked = [
        listed("hit", |number| format!("site{number}.example")),
        listed("miss", |number| format!("site{number}.zone{number}")),
    ];
    let known = [ask("hit", 1 << 24), ask("miss", 2 << 24)];
    known.into_iter().chain(asked).collect()
}

/// A rule of the set has changed: it is compiled, and what the others remember is carried over.
fn reloading() -> Vec<Case> {
    let mut rules = access_list(1_000);
    let (mut engine, mut number) = (Engine::new(1), 0);
    vec![case("reload/1000", 2, move || {
        number += 1;
        rules[0] = for_port(number);
        engine.follow(&snapshot(&rules));
    })]
}

/// The medians of some runs.
fn count() -> Result<Counts, String> {
    let folder = std::env::temp_dir().join(format!("wansplit-instructions-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let runs = (0..RUNS).map(|_| count_in(&folder)).collect::<Result<Vec<_>, _>>();
    let _ = fs::remove_dir_all(&folder);
    let mut runs = runs?;
    let mut medians = runs.pop().ok_or("no run")?;
    for (case, count) in &mut medians.cases {
        let mut counts: Vec<u64> = runs.iter().filter_map(|run| run.of(case)).chain([*count]).collect();
        counts.sort_unstable();
        *count = counts[counts.len() / 2];
    }
    Ok(medians)
}

/// Runs this program under valgrind.
fn count_in(folder: &Path) -> Result<Counts, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let out = folder.join("part");
    let valgrind = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*measured", "--dump-after=*measured"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .arg(INSIDE)
        .output()
        .map_err(|error| format!("valgrind: {error}; setup/packages.sh counts installs it"))?;
    if !valgrind.status.success() {
        return Err(String::from_utf8_lossy(&valgrind.stderr).into_owned());
    }
    let said = String::from_utf8_lossy(&valgrind.stdout);
    let mut lines = said.lines();
    let processor = lines.next().unwrap_or_default();
    let with = format!("{}, {}, {processor}", version("rustc", "-V")?, version("valgrind", "--version")?);
    let cases = lines.enumerate().map(|(place, line)| read_case(&out, place + 1, line));
    Ok(Counts { with, cases: cases.collect::<Result<_, _>>()? })
}

/// A case's name and times, and the part that callgrind wrote of it.
fn read_case(out: &Path, part: usize, line: &str) -> Result<(String, u64), String> {
    let (name, times) = line.rsplit_once(' ').ok_or("a case without its times")?;
    let times: u64 = times.parse().map_err(|_| format!("{line}: how often?"))?;
    let path = format!("{}.{part}", out.display());
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<u64>().ok());
    let total = total.filter(|total| *total > 0).ok_or_else(|| format!("{name}: nothing was counted"))?;
    Ok((name.into(), total / times))
}

fn version(program: &str, option: &str) -> Result<String, String> {
    let output = Command::new(program).arg(option).output().map_err(|error| format!("{program}: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

/// What code asks for when it runs, as valgrind shows it to the program.
fn processor() -> String {
    let mut features = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    features.extend(
        [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("aes", is_x86_feature_detected!("aes")),
            ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
        ]
        .into_iter()
        .filter_map(|(name, has)| has.then_some(name)),
    );
    features.join(" ")
}

fn judge(counted: &Counts) -> Result<ExitCode, String> {
    if std::env::var_os("WANSPLIT_UPDATE").is_some() {
        fs::write(STORED, counted.to_string()).map_err(|error| format!("{STORED}: {error}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let stored = Counts::parse(&fs::read_to_string(STORED).map_err(|error| format!("{STORED}: {error}"))?)?;
    for (case, count) in &counted.cases {
        let change = stored.of(case).map(|stored| (*count as f64 / stored.max(1) as f64 - 1.0) * 100.0);
        println!("{case:<32} {count:>9} {:>+7.1} %", change.unwrap_or(f64::NAN));
    }
    if stored.with != counted.with {
        eprintln!("instructions: WARNING: stored with  {}", stored.with);
        eprintln!("instructions: WARNING: counted with {}", counted.with);
        eprintln!("instructions: WARNING: so only more than {MOST_ELSEWHERE} % above fails; store them anew");
    }
    let faults = stored.faults(counted);
    faults.iter().for_each(|fault| eprintln!("instructions: {fault}"));
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
