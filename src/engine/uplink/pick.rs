//! The policies: which of several usable uplinks a flow gets.
//!
//! All of them take the uplinks with their weights and the set of usable ones;
//! an uplink that is unusable or has weight 0 is never picked.

use std::net::IpAddr;

use super::{MAX_UPLINKS, UplinkId, UplinkSet};
use crate::engine::flow::FlowKey;
use crate::engine::rule::model::HashKey;

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
        .map(|(uplink, weight)| (lot(hash, uplink, weight), uplink))
        .min_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, uplink)| uplink)
}

/// The state of one weighted round-robin.
///
/// The order is that of Tijdeman's chairman assignment ("The chairman assignment problem",
/// 1980), or of proportionate fair scheduling: with weights `w` of sum
/// `W`, uplink *i*'s turn number *k* (from 0) may come from flow `k·W/w` on and is due
/// before flow `(k+1)·W/w`; of those that may come, the one due first does. At any
/// moment each uplink has had its exact share of the flows so far to within less than one
/// flow, which the simpler credit counting does not promise for three and more
/// uplinks. 3:1 gives 1, 1, 2, 1.
///
/// It starts anew after each round of `W` flows, where the shares are exact, and when
/// the usable uplinks or the sum of their weights change: nobody is paid back
/// for the time in which he was away.
#[derive(Debug, Clone)]
pub struct Rotation {
    taking_part: UplinkSet,
    round: u32,
    turn: u32,
    given: [u8; MAX_UPLINKS],
}

impl Default for Rotation {
    fn default() -> Self {
        Rotation { taking_part: UplinkSet::EMPTY, round: 0, turn: 0, given: [0; MAX_UPLINKS] }
    }
}

impl Rotation {
    /// The uplink whose turn it is; counts as its turn taken.
    pub fn next(
        &mut self,
        uplinks: impl Iterator<Item = (UplinkId, u8)> + Clone,
        usable: UplinkSet,
    ) -> Option<UplinkId> {
        let candidates = candidates(uplinks, usable);
        self.begin_unless_same(candidates.clone());
        let (uplink, _) = candidates.min_by_key(|&(uplink, weight)| self.urgency(uplink, weight))?;
        self.give(uplink);
        Some(uplink)
    }

    fn begin_unless_same(&mut self, candidates: impl Iterator<Item = (UplinkId, u8)> + Clone) {
        let taking_part = candidates.clone().map(|(uplink, _)| uplink).collect();
        let round = candidates.map(|(_, weight)| u32::from(weight)).sum();
        if self.turn >= self.round || (taking_part, round) != (self.taking_part, self.round) {
            *self = Rotation { taking_part, round, ..Rotation::default() };
        }
    }

    /// Whose turn it is: those whose turn may come before the others, then those due first, then
    /// those that have waited longest for it (which is the smaller weight), then the first.
    fn urgency(&self, uplink: UplinkId, weight: u8) -> (bool, Due, u8) {
        let given = u32::from(self.given[usize::from(uplink.0)]);
        let too_early = given * self.round >= (self.turn + 1) * u32::from(weight);
        (too_early, Due { turns: given + 1, weight }, weight)
    }

    fn give(&mut self, uplink: UplinkId) {
        let given = &mut self.given[usize::from(uplink.0)];
        *given = given.saturating_add(1);
        self.turn += 1;
    }
}

/// The fraction `turns / weight`, ordered exactly.
#[derive(Debug, Clone, Copy)]
struct Due {
    turns: u32,
    weight: u8,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.turns * u32::from(other.weight)).cmp(&(other.turns * u32::from(self.weight)))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
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
fn lot(hash: u64, uplink: UplinkId, weight: u8) -> f64 {
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
        let mut rotation = Rotation::default();
        assert_eq!(rotation.next(lines(&[3, 1]), UplinkSet::EMPTY), None);
        assert_eq!(rotation.next(lines(&[0, 0]), all(2)), None);
        assert_eq!(ordered(lines(&[3, 1]), UplinkSet::EMPTY), None);
        assert_eq!(by_hash(lines(&[3, 1]), UplinkSet::EMPTY, HashKey::Client, &flow(1)), None);
    }

    #[test]
    fn a_lost_uplink_leaves_the_others_their_exact_shares() {
        let mut rotation = Rotation::default();
        let _ = rotation.next(lines(&[2, 5, 1]), all(3));
        let usable = [UplinkId(0), UplinkId(2)].into_iter().collect();
        let picked: Vec<_> = (0..6).filter_map(|_| rotation.next(lines(&[2, 5, 1]), usable)).collect();
        assert_eq!(picked, [0, 2, 0, 0, 2, 0].map(UplinkId));
    }

    #[test]
    fn an_uplink_of_no_concern_coming_and_going_changes_nothing() {
        let mut rotation = Rotation::default();
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
        fn every_uplink_always_has_its_share_to_within_one_flow(weights in vec(1..=255_u8, 1..16), flows in 1..3000_usize) {
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
            let mut rotation = Rotation::default();
            for (weights, usable) in steps {
                let usable = (0..64).map(UplinkId).filter(|uplink| usable >> uplink.0 & 1 == 1).collect();
                if let Some(uplink) = rotation.next(lines(&weights), usable) {
                    prop_assert!(usable.contains(uplink) && weights[usize::from(uplink.0)] > 0);
                }
            }
        }
    }

    fn turns(weights: &[u8], flows: usize) -> Vec<u8> {
        let mut rotation = Rotation::default();
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
