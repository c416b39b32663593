//! The policies: which of several usable uplinks a flow gets.
//!
//! All of them take the uplinks with their weights and the set of usable ones;
//! an uplink that is unusable or has weight 0 is never picked.

use std::cmp::Ordering;
use std::net::IpAddr;

use super::{MAX_UPLINKS, UplinkId, UplinkSet};
use crate::engine::flow::FlowKey;
use crate::engine::rule::model::{HashKey, Policy};

/// The first usable uplink.
pub fn ordered(uplinks: impl Iterator<Item = (UplinkId, u8)> + Clone, usable: UplinkSet) -> Option<UplinkId> {
    candidates(uplinks, usable).map(|(uplink, _)| uplink).next()
}

/// Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights by Schindelhauer and
/// Schomaker 2005): every uplink draws a lot that depends on the flow and on
/// itself alone, the best lot wins. So a lost uplink moves only its own flows, and
/// workers, restarts and versions agree without a word: the hash is fixed.
pub fn by_hash(
    uplinks: impl Iterator<Item = (UplinkId, u8)> + Clone,
    usable: UplinkSet,
    key: HashKey,
    flow: &FlowKey,
) -> Option<UplinkId> {
    let hash = hash(key, flow);
    candidates(uplinks, usable)
        .map(|(uplink, weight)| (draw(hash, uplink, weight), uplink))
        .min_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, uplink)| uplink)
}

/// A flow's lot among those of a line that is being filled, by the same parts of the flow as its policy.
#[must_use]
pub fn lot(policy: Policy, flow: &FlowKey) -> u8 {
    let key = match policy {
        Policy::Hash(key) => key,
        _ => HashKey::FiveTuple,
    };
    (hash(key, flow) >> 56) as u8
}

/// The state of one weighted round-robin.
///
/// Every uplink has a credit: the share of all turns so far that was its due, less the turns it
/// had, in units of one turn divided by the sum of weights. The order is that of
/// Tijdeman ("The chairman assignment problem", 1980), also known from
/// proportionate fair scheduling: of the uplinks with credit for a part of a
/// turn, the next is the one whose credit will be a whole turn first. While the
/// uplinks stay the same each has had its exact share at any moment to within
/// less than one turn, which taking the largest credit does not promise for
/// three and more of them. 3:1 gives 1, 1, 2, 1.
///
/// When an uplink goes or comes the others keep their credits, so that one that comes and goes
/// all the time does not favour any of them. Nobody is paid back for the time when
/// he was away: what a lost uplink was owed, or owes, is shared by weight.
#[derive(Debug, Clone)]
pub struct Rotation {
    taking_part: UplinkSet,
    /// The sum of the weights of those who take part: one turn.
    turn: i32,
    /// By uplink.
    credits: Box<[i32]>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    uplink: UplinkId,
    weight: i32,
}

impl Rotation {
    /// A round-robin among these uplinks and no others. All memory is taken here.
    #[must_use]
    pub fn among(uplinks: impl Iterator<Item = UplinkId>) -> Self {
        let places = uplinks.map(|uplink| usize::from(uplink.0) + 1).max().unwrap_or(0);
        let credits = vec![0; places.min(MAX_UPLINKS)].into();
        Rotation { taking_part: UplinkSet::EMPTY, turn: 0, credits }
    }

    /// The uplink whose turn it is; counts as its turn taken.
    pub fn next(
        &mut self,
        uplinks: impl Iterator<Item = (UplinkId, u8)> + Clone,
        usable: UplinkSet,
    ) -> Option<UplinkId> {
        let places = self.credits.len();
        let candidates = candidates(uplinks, usable)
            .filter(|(uplink, _)| usize::from(uplink.0) < places)
            .map(|(uplink, weight)| Candidate { uplink, weight: weight.into() });
        self.adapt_to(candidates.clone());
        for candidate in candidates.clone() {
            *self.credit(candidate.uplink) += candidate.weight;
        }
        let next = candidates.min_by_key(|&candidate| self.urgency(candidate))?;
        *self.credit(next.uplink) -= self.turn;
        Some(next.uplink)
    }

    /// Carries the credits over to those who take part now.
    fn adapt_to(&mut self, candidates: impl Iterator<Item = Candidate> + Clone) {
        let taking_part = candidates.clone().map(|candidate| candidate.uplink).collect();
        let turn = candidates.clone().map(|candidate| candidate.weight).sum();
        if (taking_part, turn) == (self.taking_part, self.turn) {
            return;
        }
        for (uplink, credit) in (0..).map(UplinkId).zip(&mut self.credits) {
            *credit = if taking_part.contains(uplink) { scaled(*credit, turn, self.turn) } else { 0 };
        }
        (self.taking_part, self.turn) = (taking_part, turn);
        let surplus = self.credits.iter().sum();
        for Candidate { uplink, weight } in candidates {
            *self.credit(uplink) -= scaled(surplus, weight, turn);
        }
    }

    /// The smallest is the next: those without credit last, then those whose
    /// credit is a whole turn first, then the smaller weight (which has waited longer), then the first.
    fn urgency(&self, Candidate { uplink, weight }: Candidate) -> (bool, Due, i32) {
        let credit = self.credits[usize::from(uplink.0)];
        (credit <= 0, Due { missing: self.turn - credit, weight }, weight)
    }

    /// Candidates have a place: [`Rotation::next`] takes no others.
    fn credit(&mut self, uplink: UplinkId) -> &mut i32 {
        &mut self.credits[usize::from(uplink.0)]
    }
}

/// `number × by / of`, towards 0; 0 where `of` is.
fn scaled(number: i32, by: i32, of: i32) -> i32 {
    let product = i64::from(number) * i64::from(by);
    product.checked_div(of.into()).and_then(|quotient| quotient.try_into().ok()).unwrap_or(0)
}

/// How many turns from now a credit is a whole turn: `missing / weight`, ordered exactly.
#[derive(Debug, Clone, Copy)]
struct Due {
    missing: i32,
    weight: i32,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        let crosswise = |one: &Due, other: &Due| i64::from(one.missing) * i64::from(other.weight);
        crosswise(self, other).cmp(&crosswise(other, self))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

fn candidates(
    uplinks: impl Iterator<Item = (UplinkId, u8)> + Clone,
    usable: UplinkSet,
) -> impl Iterator<Item = (UplinkId, u8)> + Clone {
    uplinks.filter(move |&(uplink, weight)| weight > 0 && usable.contains(uplink))
}

fn hash(key: HashKey, flow: &FlowKey) -> u64 {
    let addresses = match key {
        HashKey::Client => stir(0, flow.src),
        HashKey::Destination => stir(0, flow.dst),
        HashKey::ClientDestination | HashKey::FiveTuple => stir(stir(0, flow.src), flow.dst),
    };
    match key {
        HashKey::Client | HashKey::Destination | HashKey::ClientDestination => addresses,
        HashKey::FiveTuple => mix(addresses ^ transport(flow)),
    }
}

fn transport(flow: &FlowKey) -> u64 {
    u64::from(flow.protocol) << 32 | u64::from(flow.src_port) << 16 | u64::from(flow.dst_port)
}

fn stir(hash: u64, address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => mix(hash ^ u64::from(address.to_bits())),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            mix(mix(hash ^ (bits >> 64) as u64) ^ bits as u64)
        }
    }
}

/// An uplink's lot; the smallest wins: exponentially distributed with its weight as rate.
fn draw(hash: u64, uplink: UplinkId, weight: u8) -> f64 {
    let drawn = mix(hash ^ mix(u64::from(uplink.0) + 1));
    // The upper 53 bits, all that an f64 holds, moved off 0 and 1.
    let uniform = ((drawn >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln() / f64::from(weight)
}

/// One step of SplitMix64 (Steele, Lea and Flood 2014): the golden ratio as step, Stafford's
/// variant 13 as mixer. Written out because its answers must never change.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_to_one_gives_1_1_2_1_and_equal_weights_alternate() {
        assert_eq!(turns(&[3, 1], 8), [0, 0, 1, 0, 0, 0, 1, 0]);
        assert_eq!(turns(&[1, 1], 6), [0, 1, 0, 1, 0, 1]);
        assert_eq!(turns(&[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn nobody_gets_a_turn_when_nobody_is_usable() {
        let mut rotation = rotation();
        assert_eq!(rotation.next(lines(&[3, 1]), UplinkSet::EMPTY), None);
        assert_eq!(rotation.next(lines(&[0, 0]), all(2)), None);
        assert_eq!(ordered(lines(&[3, 1]), UplinkSet::EMPTY), None);
        assert_eq!(by_hash(lines(&[3, 1]), UplinkSet::EMPTY, HashKey::Client, &flow(1)), None);
    }

    #[test]
    fn a_lost_uplink_leaves_the_others_their_exact_shares() {
        let mut rotation = rotation();
        for _ in 0..3 {
            let _ = rotation.next(lines(&[2, 5, 1]), all(3));
        }
        let usable = [UplinkId(0), UplinkId(2)].into_iter().collect();
        let picked: Vec<_> = (0..30).filter_map(|_| rotation.next(lines(&[2, 5, 1]), usable)).collect();
        let first = picked.iter().filter(|&&uplink| uplink == UplinkId(0)).count();
        assert!(picked.len() == 30 && (19..=21).contains(&first), "{first} of {}", picked.len());
    }

    #[test]
    fn an_uplink_that_comes_and_goes_with_every_flow_favours_none_of_the_others() {
        let mut rotation = rotation();
        let mut counts = [0_i32; 3];
        for flow in 0..3000_u16 {
            let uplink = rotation.next(lines(&[1, 1, 1]), all(2 + (flow % 2) as u8)).unwrap();
            counts[usize::from(uplink.0)] += 1;
        }
        assert!((counts[0] - counts[1]).abs() <= 2, "{counts:?}");
    }

    #[test]
    fn an_uplink_of_no_concern_coming_and_going_changes_nothing() {
        let mut rotation = rotation();
        let mut usable = [all(2), all(3)].into_iter().cycle();
        let picked: Vec<_> =
            (0..4).filter_map(|_| rotation.next(lines(&[3, 1]), usable.next().unwrap())).collect();
        assert_eq!(picked, [0, 0, 1, 0].map(UplinkId));
    }

    #[test]
    fn the_first_usable_uplink_is_the_first_of_the_rule_and_not_of_the_configuration() {
        let rule = [(UplinkId(2), 1), (UplinkId(0), 1)];
        assert_eq!(ordered(rule.into_iter(), all(3)), Some(UplinkId(2)));
        assert_eq!(ordered(rule.into_iter(), all(1)), Some(UplinkId(0)));
    }

    #[test]
    fn the_hash_never_changes() {
        let (src, dst) = (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into());
        let v6 = FlowKey { src, dst, ..flow(1) };
        let keys = [HashKey::Client, HashKey::Destination, HashKey::ClientDestination, HashKey::FiveTuple];
        let hashes = keys.map(|key| hash(key, &flow(1)) ^ hash(key, &v6));
        let expected = [
            11_078_521_124_954_368_463,
            3_923_809_058_039_047_266,
            1_279_158_943_439_528_297,
            12_963_599_086_093_943_935,
        ];
        assert_eq!(hashes, expected);
        // SplitMix64's published first number for seed 0.
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF);
    }

    #[test]
    fn each_hash_key_looks_at_its_own_parts_only() {
        let one = flow(1);
        let other_port = FlowKey { src_port: 9, ..one };
        let other_dst = FlowKey { dst: Ipv4Addr::new(192, 0, 2, 9).into(), ..other_port };
        assert_eq!(hash(HashKey::Client, &one), hash(HashKey::Client, &other_dst));
        assert_eq!(hash(HashKey::ClientDestination, &one), hash(HashKey::ClientDestination, &other_port));
        assert_ne!(hash(HashKey::ClientDestination, &one), hash(HashKey::ClientDestination, &other_dst));
        assert_ne!(hash(HashKey::Destination, &one), hash(HashKey::Destination, &other_dst));
        assert_ne!(hash(HashKey::FiveTuple, &one), hash(HashKey::FiveTuple, &other_port));
    }

    #[test]
    fn hashed_flows_are_shared_by_weight() {
        let weights = [5, 3, 2];
        let mut counts = [0_i32; 3];
        for client in 0..100_000 {
            let uplink = by_hash(lines(&weights), all(3), HashKey::Client, &flow(client)).unwrap();
            counts[usize::from(uplink.0)] += 1;
        }
        for (count, share) in counts.iter().zip([50_000, 30_000, 20_000]) {
            // Five standard deviations of a binomial count are below 800.
            assert!((count - share).abs() < 800, "{counts:?}");
        }
    }

    proptest! {
        #[test]
        fn every_uplink_always_has_its_share_to_within_one_flow(weights in vec(1..=255_u8, 1..16), flows in 1..1000_usize) {
            let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            let mut counts = vec![0.0; weights.len()];
            for (number, uplink) in turns(&weights, flows).into_iter().enumerate() {
                counts[usize::from(uplink)] += 1.0;
                for (count, weight) in counts.iter().zip(&weights) {
                    let share = (number + 1) as f64 * f64::from(*weight) / total;
                    prop_assert!((count - share).abs() < 1.0, "flow {number}: {count} and not {share}");
                }
            }
        }

        #[test]
        fn after_an_uplink_is_lost_the_others_have_their_shares_to_within_two_flows(
            weights in vec(1..=255_u8, 2..16), lost in any::<prop::sample::Index>(), before in 0..500_usize, after in 1..500_usize,
        ) {
            let mut rotation = rotation();
            let lost = UplinkId(lost.index(weights.len()) as u8);
            let usable = all(weights.len() as u8);
            for _ in 0..before {
                let _ = rotation.next(lines(&weights), usable);
            }
            let others: UplinkSet = usable.iter().filter(|&uplink| uplink != lost).collect();
            let total: f64 = others.iter().map(|uplink| f64::from(weights[usize::from(uplink.0)])).sum();
            let picked: Vec<_> = (0..after).filter_map(|_| rotation.next(lines(&weights), others)).collect();
            for uplink in others.iter() {
                let count = picked.iter().filter(|&&other| other == uplink).count() as f64;
                let share = after as f64 * f64::from(weights[usize::from(uplink.0)]) / total;
                prop_assert!((count - share).abs() < 2.0, "{uplink:?}: {count} and not {share}");
            }
        }

        #[test]
        fn any_stretch_of_flows_over_two_uplinks_is_exact_to_within_one(
            weights in [1..=50_u8, 1..=50_u8], begin in 0..200_usize, length in 1..200_usize,
        ) {
            let stretch = &turns(&weights, begin + length)[begin..];
            let first = stretch.iter().filter(|&&uplink| uplink == 0).count() as f64;
            let share = length as f64 * f64::from(weights[0]) / f64::from(weights[0] + weights[1]);
            prop_assert!((first - share).abs() < 1.0, "{first} and not {share}");
        }

        #[test]
        fn losing_an_uplink_moves_only_its_own_flows(weights in vec(1..=255_u8, 2..16), lost in any::<prop::sample::Index>(), client in any::<u32>()) {
            let lost = UplinkId(lost.index(weights.len()) as u8);
            let usable = all(weights.len() as u8);
            let others = usable.iter().filter(|&uplink| uplink != lost).collect();
            let before = by_hash(lines(&weights), usable, HashKey::FiveTuple, &flow(client)).unwrap();
            let after = by_hash(lines(&weights), others, HashKey::FiveTuple, &flow(client)).unwrap();
            prop_assert!(after != lost);
            prop_assert!(before == lost || before == after);
        }

        #[test]
        fn changing_weights_and_sets_never_panic_and_only_usable_uplinks_are_picked(
            steps in vec((vec(any::<u8>(), 0..64), any::<u64>()), 1..50),
        ) {
            let mut rotation = rotation();
            for (weights, usable) in steps {
                let usable = (0..64).map(UplinkId).filter(|uplink| usable >> uplink.0 & 1 == 1).collect();
                if let Some(uplink) = rotation.next(lines(&weights), usable) {
                    prop_assert!(usable.contains(uplink) && weights[usize::from(uplink.0)] > 0);
                }
            }
        }
    }

    fn rotation() -> Rotation {
        Rotation::among((0..64).map(UplinkId))
    }

    fn turns(weights: &[u8], flows: usize) -> Vec<u8> {
        let mut rotation = rotation();
        let usable = all(weights.len() as u8);
        (0..flows).filter_map(|_| rotation.next(lines(weights), usable)).map(|uplink| uplink.0).collect()
    }

    fn lines(weights: &[u8]) -> impl Iterator<Item = (UplinkId, u8)> + Clone {
        (0..64).map(UplinkId).zip(weights.iter().copied())
    }

    fn all(count: u8) -> UplinkSet {
        (0..count).map(UplinkId).collect()
    }

    fn flow(client: u32) -> FlowKey {
        let src = Ipv4Addr::from_bits(client).into();
        FlowKey { src, dst: Ipv4Addr::new(198, 51, 100, 7).into(), protocol: 6, src_port: 1, dst_port: 2 }
    }
}
