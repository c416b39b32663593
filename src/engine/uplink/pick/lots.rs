//! Lots: what a line draws for something depends on that and on the line alone.

use std::net::IpAddr;

use super::candidates;
use crate::engine::flow::FlowKey;
use crate::engine::rule::model::{HashKey, Policy};
use crate::engine::uplink::{UplinkId, UplinkSet};

/// Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights by Schindelhauer and
/// Schomaker 2005): every usable uplink draws a lot, the best one wins. So a lost uplink moves only what was its own.
pub fn by_lot(
    uplinks: impl Iterator<Item = (UplinkId, u8)> + Clone,
    usable: UplinkSet,
    hash: u64,
) -> Option<UplinkId> {
    candidates(uplinks, usable)
        .map(|(uplink, weight)| (draw(hash, uplink, weight), uplink))
        .min_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, uplink)| uplink)
}

/// Always the same uplink for the same flow, while the same ones are usable.
pub fn by_flow(
    uplinks: impl Iterator<Item = (UplinkId, u8)> + Clone,
    usable: UplinkSet,
    flow: &FlowKey,
) -> Option<UplinkId> {
    by_lot(uplinks, usable, hash(HashKey::FiveTuple, flow))
}

/// A flow's lot among those of a line that is being filled, by the same parts of the flow as its policy.
#[must_use]
pub fn lot(policy: Policy, flow: &FlowKey) -> u8 {
    let key = if let Policy::Hash(key) = policy { key } else { HashKey::FiveTuple };
    (hash(key, flow) >> 56) as u8
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
pub(super) fn draw(hash: u64, uplink: UplinkId, weight: u8) -> f64 {
    let drawn = mix(hash ^ mix(u64::from(uplink.0) + 1));
    // The upper 53 bits, all that an f64 holds, moved off 0 and 1.
    let uniform = ((drawn >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln() / f64::from(weight)
}

/// One step of SplitMix64 (Steele, Lea and Flood 2014): the golden ratio as step, Stafford's
/// variant 13 as mixer. Written out because its answers must never change.
#[must_use]
pub fn mix(value: u64) -> u64 {
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

    use super::super::testing::{all, flow, lines};
    use super::*;

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
    fn flows_are_shared_by_weight() {
        let weights = [5, 3, 2];
        let mut counts = [0_i32; 3];
        for client in 0..100_000 {
            let uplink = by_flow(lines(&weights), all(3), &flow(client)).unwrap();
            counts[usize::from(uplink.0)] += 1;
        }
        for (count, share) in counts.iter().zip([50_000, 30_000, 20_000]) {
            // Five standard deviations of a binomial count are below 800.
            assert!((count - share).abs() < 800, "{counts:?}");
        }
    }

    #[test]
    fn nobody_is_picked_when_nobody_is_usable() {
        assert_eq!(by_flow(lines(&[3, 1]), UplinkSet::EMPTY, &flow(1)), None);
    }

    proptest! {
        #[test]
        fn losing_an_uplink_moves_only_its_own_flows(weights in vec(1..=255_u8, 2..16), lost in any::<prop::sample::Index>(), client in any::<u32>()) {
            let lost = UplinkId(lost.index(weights.len()) as u8);
            let usable = all(weights.len() as u8);
            let others = usable.iter().filter(|&uplink| uplink != lost).collect();
            let before = by_flow(lines(&weights), usable, &flow(client)).unwrap();
            let after = by_flow(lines(&weights), others, &flow(client)).unwrap();
            prop_assert!(after != lost);
            prop_assert!(before == lost || before == after);
        }
    }
}
