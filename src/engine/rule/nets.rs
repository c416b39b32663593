//! [`NetSet`]: nets of both families, asked in logarithmic time.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::ranges::Ranges;

/// Nets as sorted ranges of addresses that do not overlap: 8 bytes for an IPv4 net, 32 for one of IPv6.
/// An IPv4-mapped IPv6 address is an IPv6 address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetSet {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl NetSet {
    /// Whether an address is in one of the nets.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(address.to_bits()),
            IpAddr::V6(address) => self.v6.contains(address.to_bits()),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.iter().next().is_none() && self.v6.iter().next().is_none()
    }

    /// Nets that together hold the same addresses; not always those that the set was made of.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> {
        let v4 = self.v4.iter().flat_map(|(first, last)| Ipv4Subnets::new(first.into(), last.into(), 0));
        let v6 = self.v6.iter().flat_map(|(first, last)| Ipv6Subnets::new(first.into(), last.into(), 0));
        v4.map(IpNet::V4).chain(v6.map(IpNet::V6))
    }
}

impl<'a> FromIterator<&'a IpNet> for NetSet {
    fn from_iter<I: IntoIterator<Item = &'a IpNet>>(nets: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match net {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        NetSet { v4: Ranges::new(v4.into_iter()), v6: Ranges::new(v6.into_iter()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::arbitrary::{any_address, any_net};
    use super::*;

    proptest! {
        #[test]
        fn a_set_of_nets_answers_like_its_nets_one_by_one(
            nets in vec(any_net(), 0..12),
            asked in vec(any_address(), 1..40),
        ) {
            let set: NetSet = nets.iter().collect();
            let again: NetSet = set.nets().collect::<Vec<_>>().iter().collect();
            prop_assert_eq!(set.is_empty(), nets.is_empty());
            for address in asked {
                let expected = nets.iter().any(|net| net.contains(&address));
                prop_assert_eq!(set.contains(address), expected, "{}", address);
                prop_assert_eq!(again.contains(address), expected, "{} again", address);
            }
        }
    }
}
