//! Network devices, their addresses, and the news that something about them or the routing changed.
//!
//! [`Changes`] carries no facts, only the news: whoever hears it observes
//! anew. So an overrun of the socket loses nothing, and a burst costs one look.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use futures_util::FutureExt;
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use rtnetlink::MulticastGroup;

use super::netlink::{Cause, Error, Netlink};
use crate::plan::observed::{Address, Link};

/// The news that links, addresses, routes or rules changed.
pub struct Changes {
    socket: TokioSocket,
}

/// What is listened to: `RTNLGRP_*` of include/uapi/linux/rtnetlink.h.
const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// `IFNAMSIZ` without its zero byte, include/uapi/linux/if.h; the kernel knows no longer names.
const LONGEST_NAME: usize = 15;

/// So many messages are taken for one change; a storm of them must not keep us from looking.
const LONGEST_BURST: usize = 4096;

impl Netlink {
    /// All network devices with their addresses, in the order of their indices.
    ///
    /// # Errors
    /// When the kernel refuses, or the socket is broken.
    pub async fn observe_links(&self) -> Result<Vec<Link>, Error> {
        let mut links = self.links().await.map_err(|cause| cause.during("ip link show"))?;
        let addresses = self.addresses().await.map_err(|cause| cause.during("ip address show"))?;
        add_addresses(&mut links, &addresses);
        Ok(links)
    }

    async fn links(&self) -> Result<Vec<Link>, Cause> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answers = self.dump(RouteNetlinkMessage::GetLink(request)).await?;
        let mut links: Vec<Link> = answers.iter().filter_map(link).collect();
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    async fn addresses(&self) -> Result<Vec<AddressMessage>, Cause> {
        let answers = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default())).await?;
        let addresses = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => Some(message),
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// Device names by index, to read routes by.
    pub(super) async fn names(&self) -> Result<HashMap<u32, String>, Cause> {
        Ok(self.links().await?.into_iter().map(|link| (link.index, link.name)).collect())
    }

    /// The index of a device, to write routes with.
    pub(super) async fn index(&self, name: &str) -> Result<u32, Cause> {
        let no_device = || Cause::NoDevice(name.to_owned());
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(no_device());
        }
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.get(RouteNetlinkMessage::GetLink(request)).await {
            Ok(Some(RouteNetlinkMessage::NewLink(message))) => Ok(message.header.index),
            Err(cause) if !cause.is_one_of(&[Errno::ENODEV]) => Err(cause),
            _ => Err(no_device()),
        }
    }
}

impl Changes {
    /// Starts to listen, in the network namespace of the calling thread, within a tokio runtime.
    ///
    /// # Errors
    /// When no socket is to be had.
    pub fn watch() -> Result<Self, Error> {
        let socket = listen().map_err(|error| Cause::from(error).during("ip monitor"))?;
        Ok(Self { socket })
    }

    /// Waits until something changed since the last call; many changes are one.
    /// Cancellation loses no news that were not yet told.
    ///
    /// # Errors
    /// When the socket is broken.
    pub async fn next(&mut self) -> Result<(), Error> {
        let mut heard = self.hear().await;
        for _ in 0..LONGEST_BURST {
            let Some(more) = self.hear().now_or_never() else { break };
            heard = heard.and(more);
        }
        match heard {
            Err(error) if !is_overrun(&error) => Err(Cause::from(error).during("ip monitor")),
            _ => Ok(()),
        }
    }

    /// Takes one message off the socket; what it says does not matter, so its first byte will do.
    async fn hear(&mut self) -> io::Result<()> {
        let mut first_byte = [0];
        self.socket.recv(&mut first_byte.as_mut_slice()).await.map(drop)
    }
}

fn listen() -> io::Result<TokioSocket> {
    tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let groups = GROUPS.iter().fold(0, |groups, group| groups | 1 << (*group as u32 - 1));
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    Ok(socket)
}

/// The kernel had more news than the socket could hold: news all the same.
fn is_overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOBUFS as i32)
}

fn link(answer: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let mtu = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    let flags = message.header.flags;
    Some(Link {
        index: message.header.index,
        name,
        up: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        enabled: flags.contains(LinkFlags::Up),
        mtu: mtu.unwrap_or_default(),
        point_to_point: flags.contains(LinkFlags::Pointopoint),
        hardware: hardware(message),
        addresses: Vec::new(),
    })
}

fn hardware(message: &LinkMessage) -> Option<[u8; 6]> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(address) => address.as_slice().try_into().ok(),
        _ => None,
    })
}

/// Gives each device its addresses: lasting ones first, then secondary and temporary ones.
fn add_addresses(links: &mut [Link], messages: &[AddressMessage]) {
    for secondary in [false, true] {
        for message in messages.iter().filter(|message| is_secondary(message) == secondary) {
            let Some(address) = address(message) else { continue };
            let Ok(place) = links.binary_search_by_key(&message.header.index, |link| link.index) else {
                continue;
            };
            links[place].addresses.push(address);
        }
    }
}

/// For IPv6 the same bit says "temporary" (RFC 8981).
fn is_secondary(message: &AddressMessage) -> bool {
    flags(message).contains(AddressFlags::Secondary)
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut far) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => far = Some(*address),
            _ => {}
        }
    }
    let own = local.or(far)?;
    if own.is_ipv6() && !is_usable(own, flags(message)) {
        return None;
    }
    let net = IpNet::new(own, message.header.prefix_len).ok()?;
    Some(Address { net, peer: far.filter(|far| *far != own) })
}

fn is_usable(address: IpAddr, flags: AddressFlags) -> bool {
    let unusable = AddressFlags::Tentative | AddressFlags::Deprecated | AddressFlags::Dadfailed;
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    !link_local && !flags.intersects(unusable)
}

/// The wide flags if the kernel sent them, else the eight of the header.
fn flags(message: &AddressMessage) -> AddressFlags {
    let wide = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    wide.unwrap_or(AddressFlags::from_bits_retain(message.header.flags.bits().into()))
}
