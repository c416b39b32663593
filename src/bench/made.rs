//! Flows made for rules: for each rule such as it asks for, and as many that no rule was asked for.
//!
//! A flow made for a rule fits it, whether or not an earlier rule takes it. What a rule does not ask for is
//! drawn as a LAN's traffic would have it: ephemeral ports to well-known ones, any time of the week, every
//! other flow with a name. Contents are known of datagrams alone, as they are when a flow is decided. The
//! same seed makes the same flows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{Flow, Step};
use crate::config::Config;
use crate::engine::flow::{Facts, FlowKey, LanId, LocalTime};
use crate::engine::packet::Family;
use crate::engine::rule::hosts::{HostName, Reach};
use crate::engine::rule::model::{IcmpType, Matchers, Rule, RuleId, TimeSpan};
use crate::engine::rule::naive;
use crate::engine::sniff::{Alpn, App, Name};
use crate::engine::uplink::pick::mix;

/// Draws until a flow fits its rule in spite of `not`, or of conditions that seldom go together.
const TRIES: usize = 256;
/// Entries that are taken of long lists.
const MOST_ENTRIES: usize = 256;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// ICMP types of an echo request (RFC 792, RFC 4443).
const ECHO: [u8; 2] = [8, 128];

/// Where a LAN's flows mostly go, the web several times.
const USUAL_PORTS: [u16; 10] = [443, 443, 443, 443, 80, 53, 53, 22, 123, 8443];
/// Of ten flows six are TCP connections; where one is neither TCP nor UDP it is a ping.
const USUAL_PROTOCOLS: [Option<u8>; 10] =
    [Some(TCP), Some(TCP), Some(TCP), Some(TCP), Some(TCP), Some(TCP), Some(UDP), Some(UDP), Some(UDP), None];
/// The ports that Linux gives to clients (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;
const MINUTES: u16 = 1440;

/// About `count` flows in a random order, at least one for each rule that one can be made for.
#[must_use]
pub fn make(config: &Config, count: usize, seed: u64, progress: &mut dyn FnMut(Step)) -> Vec<Flow> {
    let mut dice = Dice::new(seed);
    let rules = config.rules.len();
    let each = (count / (rules + 1)).max(1);
    let mut flows = Vec::with_capacity(count);
    for (rule, id) in config.rules.iter().zip(0..=u16::MAX) {
        let draw = Draw::new(&rule.matches, config, &mut dice);
        flows.extend((0..each).map_while(|_| made_for(rule, RuleId(id), &draw, &mut dice)));
        progress(Step { what: "making flows", part: u64::from(id) + 1, whole: rules as u64 });
    }
    let anything = Matchers::default();
    let draw = Draw::new(&anything, config, &mut dice);
    let left = count.saturating_sub(flows.len()).max(1);
    flows.extend((0..left).filter_map(|_| draw.flow(&mut dice)));
    shuffle(&mut flows, &mut dice);
    flows
}

/// Nothing where the rule contradicts itself, or asks for what cannot be made up: an expression, contents of TCP.
fn made_for(rule: &Rule, id: RuleId, draw: &Draw<'_>, dice: &mut Dice) -> Option<Flow> {
    let drawn = (0..TRIES).filter_map(|_| draw.flow(dice));
    let flow = drawn.into_iter().find(|flow| naive::matches(rule, &flow.facts()))?;
    Some(Flow { made_for: Some(id), ..flow })
}

/// Fisher and Yates.
fn shuffle<T>(list: &mut [T], dice: &mut Dice) {
    for last in (1..list.len()).rev() {
        list.swap(last, dice.below(last + 1));
    }
}

/// Numbers that look random, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Dice(mix(seed))
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    fn pick<'t, T>(&mut self, list: &'t [T]) -> Option<&'t T> {
        if list.is_empty() { None } else { list.get(self.below(list.len())) }
    }

    fn within(&mut self, range: &RangeInclusive<u16>) -> u16 {
        let width = usize::from(range.end().saturating_sub(*range.start())) + 1;
        range.start() + self.below(width) as u16
    }

    /// At most [`MOST_ENTRIES`] of many, one as likely as the other (Vitter's algorithm R).
    fn some_of<T>(&mut self, many: impl Iterator<Item = T>) -> Vec<T> {
        let mut some = Vec::new();
        for (place, entry) in many.enumerate() {
            if some.len() < MOST_ENTRIES {
                some.push(entry);
            } else if let Some(other) = some.get_mut(self.below(place + 1)) {
                *other = entry;
            }
        }
        some
    }
}

/// What flows for one rule are drawn from.
struct Draw<'c> {
    matchers: &'c Matchers,
    config: &'c Config,
    destinations: Vec<IpNet>,
    hosts: Vec<HostName>,
    apps: Vec<App>,
    payloads: Vec<Box<[u8]>>,
}

impl<'c> Draw<'c> {
    fn new(matchers: &'c Matchers, config: &'c Config, dice: &mut Dice) -> Self {
        let listed = matchers.dst_list.iter().flat_map(|list| list.nets());
        let destinations = dice.some_of(matchers.dst.iter().copied().chain(listed));
        let apps = matchers.app.iter().copied().filter(|app| !app.only_over_tcp()).collect();
        let hosts = hosts(matchers, dice);
        Draw { matchers, config, destinations, hosts, apps, payloads: payloads(matchers) }
    }

    /// One flow; nothing where two conditions cannot go together, or were drawn so.
    fn flow(&self, dice: &mut Dice) -> Option<Flow> {
        let family = self.family(dice);
        let protocol = self.protocol(family, dice);
        let (src, dst) = self.ends(family, dice)?;
        let mut facts = Facts::about(FlowKey { src, dst, protocol, src_port: 0, dst_port: 0 });
        self.give_ports(&mut facts, dice);
        self.give_surroundings(&mut facts, dice);
        facts = facts.placed(&self.config.geo);
        facts.country = dice.pick(&self.matchers.dst_country).copied().or(facts.country);
        facts.asn = dice.pick(&self.matchers.dst_asn).copied().or(facts.asn);
        facts.name = self.name(dice);
        let payload = self.say_something(&mut facts, dice);
        Some(Flow { known: facts, payload, made_for: None })
    }

    fn family(&self, dice: &mut Dice) -> Family {
        let nets = if self.matchers.src.is_empty() { &self.destinations } else { &self.matchers.src };
        let of_net = dice.pick(nets).map(|net| Family::of(net.addr()));
        let of_icmp = dice.pick(&self.matchers.icmp_type).map(|icmp| icmp.family);
        let asked = dice.pick(&self.matchers.family).copied();
        // Three of four flows where both are asked for alike.
        let usual = if dice.below(4) == 0 { Family::V6 } else { Family::V4 };
        asked.or(of_net).or(of_icmp).unwrap_or(usual)
    }

    fn protocol(&self, family: Family, dice: &mut Dice) -> u8 {
        let asks = self.matchers;
        let ping = if family == Family::V4 { ICMP } else { ICMPV6 };
        let asks_what_is_said = !asks.app.is_empty() || !asks.alpn.is_empty() || !asks.payload.is_empty();
        let usual = match () {
            () if asks_what_is_said => UDP,
            () if !asks.icmp_type.is_empty() => ping,
            () if !asks.src_port.is_empty() || !asks.dst_port.is_empty() => {
                if dice.below(2) == 0 {
                    TCP
                } else {
                    UDP
                }
            }
            () => dice.pick(&USUAL_PROTOCOLS).copied().flatten().unwrap_or(ping),
        };
        dice.pick(&asks.protocol).copied().unwrap_or(usual)
    }

    fn ends(&self, family: Family, dice: &mut Dice) -> Option<(IpAddr, IpAddr)> {
        let [clients, servers] = match family {
            Family::V4 => ["10.77.0.0/24", "198.18.0.0/15"],
            Family::V6 => ["2001:db8:77::/64", "2001:db8:8000::/33"],
        };
        let end = |nets: &[IpNet], usual: &str, dice: &mut Dice| {
            let fitting: Vec<IpNet> =
                nets.iter().copied().filter(|net| Family::of(net.addr()) == family).collect();
            let usual = usual.parse().ok().filter(|_| nets.is_empty());
            dice.pick(&fitting).copied().or(usual).map(|net| address_in(net, dice))
        };
        Some((end(&self.matchers.src, clients, dice)?, end(&self.destinations, servers, dice)?))
    }

    /// Ports, or the ICMP type in their place.
    fn give_ports(&self, facts: &mut Facts<'_>, dice: &mut Dice) {
        let key = &mut facts.key;
        if facts.has_ports {
            let [src, dst] = [&self.matchers.src_port, &self.matchers.dst_port].map(|ranges| {
                let range = dice.pick(ranges).cloned();
                range.map(|range| dice.within(&range))
            });
            key.src_port = src.unwrap_or_else(|| dice.within(&EPHEMERAL));
            key.dst_port = dst.or_else(|| dice.pick(&USUAL_PORTS).copied()).unwrap_or_default();
        } else if [ICMP, ICMPV6].contains(&key.protocol) {
            let echo = IcmpType { family: facts.family, kind: ECHO[facts.family as usize], code: None };
            let IcmpType { kind, code, .. } = dice.pick(&self.matchers.icmp_type).copied().unwrap_or(echo);
            let code = code.unwrap_or(0);
            facts.icmp = Some((kind, code));
            key.dst_port = u16::from_be_bytes([kind, code]);
        }
    }

    /// What a packet and its time are, beside where it goes.
    fn give_surroundings(&self, facts: &mut Facts<'_>, dice: &mut Dice) {
        let asks = self.matchers;
        let lan = LanId(dice.below(self.config.lan.len().max(1)) as u8);
        facts.lan = dice.pick(&asks.lan).copied().or(Some(lan));
        facts.src_mac = dice.pick(&asks.src_mac).copied();
        facts.dscp = dice.pick(&asks.dscp).copied().unwrap_or(0);
        let usual = if facts.key.protocol == TCP { 60..=60 } else { 60..=1280 };
        let length = dice.pick(&asks.length).cloned().unwrap_or(usual);
        facts.length = dice.within(&length).into();
        let weekday = dice.below(7) as u8;
        let weekday = dice.pick(&asks.weekday).copied().unwrap_or(weekday);
        facts.when = LocalTime { weekday, minute: self.minute(dice) };
    }

    fn minute(&self, dice: &mut Dice) -> u16 {
        let whole_day = TimeSpan { from: 0, to: MINUTES };
        let TimeSpan { from, to } = dice.pick(&self.matchers.time).copied().unwrap_or(whole_day);
        let width = if from < to { to - from } else { to + MINUTES - from };
        (from + dice.below(width.into()) as u16) % MINUTES
    }

    fn name(&self, dice: &mut Dice) -> Option<Name> {
        let label = format!("host{}", dice.below(1_000_000));
        let Some(host) = dice.pick(&self.hosts) else {
            let is_named = dice.below(2) == 0 && !self.matchers.ask_for_names();
            return Name::new(format!("{label}.example.net").as_bytes()).filter(|_| is_named);
        };
        let below = match host.reach {
            Reach::Itself => false,
            Reach::Below => true,
            Reach::Both => dice.below(2) == 0,
        };
        if below { Name::new(format!("{label}.{}", host.name).as_bytes()) } else { Some(host.name) }
    }

    /// What a datagram's client says; a connection's says nothing in time.
    fn say_something(&self, facts: &mut Facts<'_>, dice: &mut Dice) -> Box<[u8]> {
        if facts.key.protocol != UDP {
            return Box::default();
        }
        let offers = dice.pick(&self.matchers.alpn);
        facts.app = dice.pick(&self.apps).copied().or(offers.map(|_| App::Quic));
        facts.alpn = offers.into_iter().fold(Alpn::default(), |list, id| list.with(id));
        // What a resolver is asked for is not the host that the flow goes to.
        facts.name = facts.name.filter(|_| !matches!(facts.app, Some(App::Dns | App::Mdns)));
        dice.pick(&self.payloads).cloned().unwrap_or_default()
    }
}

fn address_in(net: IpNet, dice: &mut Dice) -> IpAddr {
    let random = u128::from(dice.roll()) << 64 | u128::from(dice.roll());
    match net {
        IpNet::V4(net) => {
            let host = random as u32 & net.hostmask().to_bits();
            Ipv4Addr::from_bits(net.network().to_bits() | host).into()
        }
        IpNet::V6(net) => {
            let host = random & net.hostmask().to_bits();
            Ipv6Addr::from_bits(net.network().to_bits() | host).into()
        }
    }
}

/// Names that a rule asks for, and some that have a word of its lists in them.
fn hosts(matchers: &Matchers, dice: &mut Dice) -> Vec<HostName> {
    let lists = &matchers.host_list;
    let mut listed: Vec<(&[u8], Reach)> = lists.iter().flat_map(|list| list.names.iter()).collect();
    // A list holds its names in no order, which would not be the same in the next run.
    listed.sort_unstable_by_key(|(name, _)| *name);
    let listed =
        listed.into_iter().filter_map(|(name, reach)| Some(HostName { name: Name::new(name)?, reach }));
    let words = lists.iter().flat_map(|list| list.keywords.iter()).filter_map(|word| {
        let name = Name::new(&[b"a", word, b"z.example"].concat())?;
        Some(HostName { name, reach: Reach::Itself })
    });
    dice.some_of(matchers.host.iter().copied().chain(listed).chain(words))
}

/// First bytes that fit one of a rule's patterns each; none for expressions.
fn payloads(matchers: &Matchers) -> Vec<Box<[u8]>> {
    let patterns = &matchers.payload;
    let at = patterns.at.iter().map(|(start, bytes)| [&vec![0; usize::from(*start)], &bytes[..]].concat());
    at.chain(patterns.contains.iter().map(<[u8]>::to_vec)).map(Vec::into_boxed_slice).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{self, Lists, SourceFile};
    use crate::engine::rule::arbitrary::{any_rules, rule};

    const ROUTER: &str = include_str!("../../tests/data/two-lines.toml");

    #[test]
    fn the_same_seed_makes_the_same_flows_and_another_others() {
        let list = Vec::from_iter((0..1000).map(|number| format!("host{number}.example")));
        let lists = Lists::new(move |_| Ok(list.join("\n").into()));
        let text = "[[rule]]\nname = \"listed\"\nmatch = { host_list = \"a.txt\" }\nuse = \"isp1\"\n";
        let router = SourceFile { path: "wansplit.toml".into(), text: ROUTER.into() };
        let rules = SourceFile { path: "rules/10.toml".into(), text: text.into() };
        let load = || config::load(&router, std::slice::from_ref(&rules), &lists).unwrap();
        let made = |seed| format!("{:?}", make(&load(), 50, seed, &mut |_| ()));
        assert_eq!(made(7), made(7));
        assert_ne!(made(7), made(8));
    }

    #[test]
    fn a_rule_that_no_flow_can_fit_gets_none_and_any_other_its_part() {
        let port = |port| Matchers { dst_port: vec![port..=port], ..Matchers::default() };
        let impossible = rule(port(22), port(22));
        let over_tcp = Matchers { protocol: vec![TCP], app: vec![App::Ssh], ..Matchers::default() };
        let config = with(vec![impossible, rule(port(22), port(23)), rule(over_tcp, Matchers::default())]);
        let flows = make(&config, 400, 1, &mut |_| ());
        let of = |id| flows.iter().filter(|flow| flow.made_for == id).count();
        assert_eq!([0, 1, 2].map(|id| of(Some(RuleId(id)))), [0, 100, 0]);
        assert_eq!((of(None), flows.len()), (300, 400));
    }

    #[test]
    fn spans_over_midnight_nets_and_names_below_others_are_drawn_from() {
        let asks = Matchers {
            time: vec![TimeSpan { from: 1430, to: 10 }],
            dst: vec!["2001:db8:5::/48".parse().unwrap()],
            host: vec![HostName::parse("*.example.org").unwrap()],
            ..Matchers::default()
        };
        let config = with(vec![rule(asks, Matchers::default())]);
        let flows = make(&config, 40, 1, &mut |_| ());
        assert_eq!(flows.iter().filter(|flow| flow.made_for.is_some()).count(), 20);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn a_flow_fits_the_rule_that_it_was_made_for(rules in any_rules(), seed: u64) {
            let config = with(rules);
            for flow in make(&config, 60, seed, &mut |_| ()) {
                if let Some(id) = flow.made_for {
                    let rule = &config.rules[usize::from(id.0)];
                    prop_assert!(naive::matches(rule, &flow.facts()));
                    prop_assert!(flow.known.key.protocol == UDP || flow.known.app.is_none());
                }
            }
        }
    }

    fn with(rules: Vec<Rule>) -> Config {
        let router = SourceFile { path: "wansplit.toml".into(), text: ROUTER.into() };
        let config = config::load(&router, &[], &Lists::default()).unwrap();
        Config { rules: rules.into(), ..config }
    }
}
