//! What network to build, and every address in it.
//!
//! Only private, documentation and benchmarking ranges (RFC 1918, 4193, 5737,
//! 3849, 2544, 6598), the same in every lab:
//!
//! | what | IPv4 | IPv6 |
//! |---|---|---|
//! | LAN *i* (from 0), router `.1`, client *c* `.10+c` | 10.(77+*i*).0.0/24 | fd00:(77+*i*)::/64 |
//! | line 1, ISP `.1`, router `.2` | 198.51.100.0/24 | 2001:db8:1::/64 |
//! | line 2 | 203.0.113.0/24 | 2001:db8:2::/64 |
//! | line *n* | 198.18.*n*.0/24 | 2001:db8:*n*::/64 |
//! | delegated by the ISP of line *n* | | 2001:db8:*n*:1::/64 |
//! | between ISP *n* `.1` and the internet `.2` | 100.64.*n*.0/30 | fd00:64:*n*::/64 |
//! | below a tunnelled line *n*, ISP `.1`, router `.2` | 100.65.*n*.0/30 | |
//! | server *s* (from 1) | 192.0.2.*s* | 2001:db8:ffff::*s* |
//!
//! Numbers within IPv6 addresses are written in hexadecimal, `fd00:77` and
//! `fd00:64` apart, which are meant to look like their IPv4 partners.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::engine::packet::Family;

/// Most lines of a lab: the third byte of an IPv4 address counts them, twice over.
pub const MAX_LINES: usize = 64;

/// What network to build. The default is the smallest whole one: two lines, one LAN of two clients, two servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The internet lines; `wan1` is the first. 1 to [`MAX_LINES`].
    pub lines: Vec<Line>,
    /// The LANs; `lan0` is the first. 1 to 4.
    pub lans: Vec<Lan>,
    /// How many addresses the internet's server has in each family, 1 to 200.
    pub servers: u8,
    /// The router's main table has a default route by line 1, as a router with one line has.
    pub router_default: bool,
}

/// One internet line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Line {
    /// What kind of device the router has for it.
    pub medium: Medium,
    /// Speed in Mbit/s each way; `None`: as fast as it goes.
    pub rate: Option<u32>,
}

/// What kind of device the router has for a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Medium {
    /// Ethernet: the ISP's router is a neighbour to be found.
    #[default]
    Ethernet,
    /// A point-to-point device (GRE over an Ethernet `line`*n*): there are no neighbours.
    PointToPoint,
}

/// One LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lan {
    /// How many clients, 1 to 200. One is joined directly to the router, more by a switch.
    pub clients: u8,
    /// The VLAN in whose tags all of its packets are; the router's device is then `lan0.ID`.
    pub vlan: Option<u16>,
}

impl Default for Topology {
    fn default() -> Self {
        Topology::with_lines(2)
    }
}

impl Topology {
    /// The default network with this many lines.
    #[must_use]
    pub fn with_lines(lines: usize) -> Self {
        Topology {
            lines: vec![Line::default(); lines],
            lans: vec![Lan { clients: 2, vlan: None }],
            servers: 2,
            router_default: false,
        }
    }

    /// Whether the numbers are within what the addresses have room for.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn check(&self) -> Result<()> {
        let clients_fit = self.lans.iter().all(|lan| (1..=200).contains(&lan.clients));
        ensure!((1..=MAX_LINES).contains(&self.lines.len()), "a lab has 1 to {MAX_LINES} lines");
        ensure!((1..=4).contains(&self.lans.len()), "a lab has 1 to 4 LANs");
        ensure!(clients_fit, "a LAN of the lab has 1 to 200 clients");
        ensure!((1..=200).contains(&self.servers), "a lab has 1 to 200 servers");
        Ok(())
    }
}

/// An address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pair {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Pair {
    /// The address of one family.
    #[must_use]
    pub fn of(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// Both.
    #[must_use]
    pub fn both(self) -> [IpAddr; 2] {
        Family::BOTH.map(|family| self.of(family))
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.v4, self.v6)
    }
}

/// A net of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nets {
    /// IPv4.
    pub v4: Ipv4Net,
    /// IPv6.
    pub v6: Ipv6Net,
}

impl Nets {
    /// The net of one family.
    #[must_use]
    pub fn of(self, family: Family) -> IpNet {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// Whether an address, of either family, is in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.of(Family::of(address)).contains(&address)
    }

    /// The address with this number in both nets.
    #[must_use]
    pub(super) fn host(self, number: u8) -> Pair {
        let v4 = u32::from(self.v4.network()) | u32::from(number);
        let v6 = u128::from(self.v6.network()) | u128::from(number);
        Pair { v4: v4.into(), v6: v6.into() }
    }
}

/// The net of a LAN, counted from 0.
pub(super) fn lan_net(lan: usize) -> Nets {
    let looks_like = [0x77, 0x78, 0x79, 0x80];
    nets(Ipv4Addr::new(10, 77 + small(lan), 0, 0), 24, [0xfd00, looks_like[lan % 4], 0, 0])
}

/// The net between the router and the ISP of line `number` (from 1).
pub(super) fn line_net(number: usize) -> Nets {
    let v4 = match number {
        1 => Ipv4Addr::new(198, 51, 100, 0),
        2 => Ipv4Addr::new(203, 0, 113, 0),
        _ => Ipv4Addr::new(198, 18, small(number), 0),
    };
    nets(v4, 24, [0x2001, 0xdb8, segment(number), 0])
}

/// The IPv6 net an ISP routes to its customer, to give to the LAN or to translate to.
pub(super) fn delegated_net(number: usize) -> Ipv6Net {
    v6_net([0x2001, 0xdb8, segment(number), 1], 64)
}

/// Everything an ISP lets its customer send from, and the internet sends back by it.
pub(super) fn customer_net(number: usize) -> Nets {
    Nets { v6: v6_net([0x2001, 0xdb8, segment(number), 0], 48), ..line_net(number) }
}

/// The net between the ISP of line `number` and the internet.
pub(super) fn core_net(number: usize) -> Nets {
    nets(Ipv4Addr::new(100, 64, small(number), 0), 30, [0xfd00, 0x64, segment(number), 0])
}

/// The net that carries the tunnel of a point-to-point line; only its IPv4 part is used.
pub(super) fn carrier_net(number: usize) -> Nets {
    nets(Ipv4Addr::new(100, 65, small(number), 0), 30, [0xfd00, 0x65, segment(number), 0])
}

/// The addresses of server `number` (from 1).
pub(super) fn server(number: u8) -> Pair {
    nets(Ipv4Addr::new(192, 0, 2, 0), 24, [0x2001, 0xdb8, 0xffff, 0]).host(number)
}

fn nets(v4: Ipv4Addr, v4_length: u8, v6: [u16; 4]) -> Nets {
    Nets { v4: Ipv4Net::new_assert(v4, v4_length), v6: v6_net(v6, 64) }
}

fn v6_net(first: [u16; 4], length: u8) -> Ipv6Net {
    let [a, b, c, d] = first;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), length)
}

/// [`Topology::check`] has seen that counts fit.
fn small(number: usize) -> u8 {
    number as u8
}

fn segment(number: usize) -> u16 {
    number as u16
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_nets_of_the_largest_lab_overlap() {
        let lines =
            (1..=MAX_LINES).flat_map(|number| [customer_net(number), core_net(number), carrier_net(number)]);
        let all: Vec<Nets> = lines.chain((0..4).map(lan_net)).collect();
        for (place, one) in all.iter().enumerate() {
            let overlaps = |other: &Nets| {
                Family::BOTH.iter().any(|&family| {
                    one.contains(other.of(family).addr()) || other.contains(one.of(family).addr())
                })
            };
            assert!(!all[place + 1..].iter().any(overlaps), "{one:?} is not alone");
        }
    }

    #[test]
    fn servers_have_addresses_of_their_own_outside_every_line() {
        let servers: HashSet<Pair> = (1..=200).map(server).collect();
        assert_eq!(servers.len(), 200);
        let outside = |pair: &Pair| {
            (1..=MAX_LINES).all(|line| !pair.both().iter().any(|&ip| customer_net(line).contains(ip)))
        };
        assert!(servers.iter().all(outside));
    }

    #[test]
    fn the_first_two_lines_are_those_of_the_documentation() {
        assert_eq!(line_net(1).host(2).to_string(), "198.51.100.2 2001:db8:1::2");
        assert_eq!(line_net(2).host(1).to_string(), "203.0.113.1 2001:db8:2::1");
        assert_eq!(line_net(16).host(2).to_string(), "198.18.16.2 2001:db8:10::2");
        assert_eq!(lan_net(0).host(20).to_string(), "10.77.0.20 fd00:77::14");
    }

    #[test]
    fn a_lab_without_lines_or_with_too_many_is_refused() {
        assert!(Topology::with_lines(0).check().is_err());
        assert!(Topology::with_lines(MAX_LINES + 1).check().is_err());
        assert!(Topology::with_lines(MAX_LINES).check().is_ok());
    }
}
