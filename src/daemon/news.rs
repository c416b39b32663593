//! How each line stands, and what is new about it since it was last told. Pure.

use std::collections::BTreeMap;

use super::health::Lines;
use crate::config::Config;
use crate::control::message::Event;
use crate::engine::packet::Family;
use crate::engine::uplink::health::State as Health;
use crate::engine::uplink::{ByHand, UplinkId};
use crate::plan::lines::{Line, NoWay};

/// How an uplink stands with one address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub uplink: String,
    /// Its device.
    pub interface: String,
    /// How it is.
    pub state: State,
    /// Why it is not up.
    pub why: Option<&'static str>,
    /// The device's addresses.
    pub addresses: Vec<String>,
    /// The next hop, where there is one.
    pub gateway: Option<String>,
}

/// How an uplink is in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It takes new flows.
    Up,
    /// It takes no new flows, by hand; it works.
    Drained,
    /// New flows got no answers; it is being tried.
    Suspected,
    /// It does not work, or is down by hand.
    Down,
    /// The configuration does not use the family on it, or it has no address or gateway of the family.
    Unused,
}

impl State {
    /// Its name, which is also that of the event that it has become so.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Drained => "drained",
            State::Suspected => "suspected",
            State::Down => "down",
            State::Unused => "unused",
        }
    }

    /// Whether what is sent by it arrives, as far as is known.
    fn works(self) -> bool {
        matches!(self, State::Up | State::Drained | State::Suspected)
    }
}

/// All lines, each in both families.
pub type Standings = BTreeMap<(UplinkId, Family), Standing>;

/// How all lines stand.
#[must_use]
pub fn standings(config: &Config, lines: &[Line], health: &Lines, by_hand: ByHand) -> Standings {
    let each = config.uplinks.iter().zip(lines);
    let both = each.flat_map(|(uplink, line)| Family::BOTH.map(|family| (uplink, line, family)));
    let standing = both.map(|(uplink, line, family)| {
        let report = health.report(line.id, family).map(|report| report.state);
        let (state, why) = state(line, family, report, by_hand);
        let standing = Standing {
            uplink: uplink.name.clone(),
            interface: uplink.interface.clone(),
            state,
            why,
            addresses: line.addresses(family).map(|address| address.to_string()).collect(),
            gateway: line.way(family).ok().and_then(|way| way.hop.gateway).map(|to| to.to_string()),
        };
        ((uplink.id, family), standing)
    });
    standing.collect()
}

fn state(
    line: &Line,
    family: Family,
    health: Option<Health>,
    by_hand: ByHand,
) -> (State, Option<&'static str>) {
    match (line.way(family), health) {
        (Err(why @ (NoWay::NotConfigured | NoWay::NoAddress | NoWay::NoGateway)), _) => {
            (State::Unused, Some(why.explain()))
        }
        (Err(why), _) => (State::Down, Some(why.explain())),
        _ if by_hand.down.contains(line.id) => (State::Down, Some("it was taken down by hand")),
        (_, Some(health @ Health::Suspected)) => (State::Suspected, health.why()),
        (_, Some(health)) if health.is_avoided() => (State::Down, health.why()),
        _ if by_hand.drained.contains(line.id) => (State::Drained, Some("it was drained by hand")),
        _ => (State::Up, None),
    }
}

/// What happened between two looks, in order: what each line has become, where it has other addresses or
/// another gateway, and whether any line of a family works.
#[must_use]
pub fn news(before: &Standings, after: &Standings) -> Vec<Event> {
    let gone = before.iter().filter(|(key, _)| !after.contains_key(key));
    let gone = gone.map(|(key, standing)| event("removed", key.1, standing));
    let changed =
        after.iter().filter_map(|(key, now)| Some(event(change(before.get(key), now)?, key.1, now)));
    let connection = Family::BOTH.into_iter().filter_map(|family| {
        let works = |all: &Standings| all.iter().any(|((_, of), one)| *of == family && one.state.works());
        let name = match (works(before), works(after)) {
            (false, true) => "online",
            (true, false) => "offline",
            _ => return None,
        };
        Some(Event { event: name.into(), family: Some(family.to_string()), ..Event::default() })
    });
    gone.chain(changed).chain(connection).collect()
}

/// What became of a line; one that was never in use is no news.
fn change(before: Option<&Standing>, now: &Standing) -> Option<&'static str> {
    match before {
        None if now.state == State::Unused => None,
        None => Some(now.state.as_str()),
        Some(before) if before.state != now.state => Some(now.state.as_str()),
        Some(before) if (&before.addresses, &before.gateway) != (&now.addresses, &now.gateway) => {
            Some("address")
        }
        Some(_) => None,
    }
}

fn event(name: &str, family: Family, standing: &Standing) -> Event {
    Event {
        event: name.into(),
        uplink: Some(standing.uplink.clone()),
        interface: Some(standing.interface.clone()),
        family: Some(family.to_string()),
        state: Some(standing.state.as_str().into()),
        why: standing.why.map(str::to_owned),
        addresses: standing.addresses.clone(),
        gateway: standing.gateway.clone(),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: (UplinkId, Family) = (UplinkId(0), Family::V4);

    fn standing(state: State) -> Standing {
        Standing {
            uplink: "isp1".into(),
            interface: "wan1".into(),
            state,
            why: None,
            addresses: vec!["198.51.100.2".into()],
            gateway: None,
        }
    }

    fn names(
        before: &[((UplinkId, Family), Standing)],
        after: &[((UplinkId, Family), Standing)],
    ) -> Vec<String> {
        let all = |standings: &[((UplinkId, Family), Standing)]| standings.iter().cloned().collect();
        news(&all(before), &all(after)).into_iter().map(|event| event.event).collect()
    }

    #[test]
    fn what_a_line_has_become_is_told_once() {
        let [up, down] = [State::Up, State::Down].map(|state| (KEY, standing(state)));
        assert_eq!(names(&[], std::slice::from_ref(&up)), ["up", "online"]);
        assert_eq!(names(std::slice::from_ref(&up), std::slice::from_ref(&up)), [""; 0]);
        assert_eq!(names(std::slice::from_ref(&up), std::slice::from_ref(&down)), ["down", "offline"]);
        assert_eq!(names(&[up], &[]), ["removed", "offline"]);
    }

    #[test]
    fn another_address_of_a_line_that_stays_as_it_is_is_news_too() {
        let other = Standing { addresses: vec!["198.51.100.3".into()], ..standing(State::Up) };
        assert_eq!(names(&[(KEY, standing(State::Up))], &[(KEY, other)]), ["address"]);
    }

    #[test]
    fn a_family_that_a_line_never_had_is_no_news() {
        assert_eq!(names(&[], &[(KEY, standing(State::Unused))]), [""; 0]);
    }

    #[test]
    fn with_one_of_two_lines_left_a_family_is_not_offline() {
        let second = ((UplinkId(1), Family::V4), standing(State::Drained));
        let before = [(KEY, standing(State::Up)), second.clone()];
        assert_eq!(names(&before, &[(KEY, standing(State::Down)), second]), ["down"]);
    }
}
