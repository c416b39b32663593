//! Opens and closes the gate in front of the queues: one set element a family.
//!
//! The element is renewed some times a second, so this speaks netlink itself
//! rather than start a program each time. ipset refreshes an element that is
//! added again; nft does not, so there it is added, deleted and added in one
//! transaction.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{self, MsgFlags, NetlinkAddr};

use super::attributes::{NESTED, put};
use super::firewall::Backend;
use super::message::{self, NLM_F_ACK, NLM_F_CREATE, NLMSG_ERROR};
use super::sockets::{self, SockProtocol};
use crate::engine::gate::OPEN_FOR;
use crate::engine::packet::Family;
use crate::plan::firewall::iptables::gate_set;
use crate::plan::firewall::nft;

/// The gate of one backend, in the network namespace of the thread that opened it.
pub struct Gate {
    socket: OwnedFd,
    backend: Backend,
    sequence: u32,
}

/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// `NLA_F_NET_BYTEORDER`, which ipset insists on.
const NETWORK_ORDER: u16 = 0x4000;

/// include/uapi/linux/netfilter/ipset/ip_set.h
mod ipset {
    pub const SUBSYSTEM: u16 = 6;
    pub const FLUSH: u16 = 4;
    pub const ADD: u16 = 9;
    pub const PROTOCOL_VERSION: u8 = 6;
    pub const PROTOCOL: u16 = 1;
    pub const SET_NAME: u16 = 2;
    pub const DATA: u16 = 7;
    pub const IP: u16 = 1;
    pub const CIDR: u16 = 3;
    pub const TIMEOUT: u16 = 6;
    pub const ADDRESS_V4: u16 = 1;
    pub const ADDRESS_V6: u16 = 2;
}

/// include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h
mod tables {
    pub const SUBSYSTEM: u16 = 10;
    pub const BATCH_BEGIN: u16 = 0x10;
    pub const BATCH_END: u16 = 0x11;
    pub const NEW_ELEMENT: u16 = 12;
    pub const DELETE_ELEMENT: u16 = 14;
    pub const TABLE: u16 = 1;
    pub const SET: u16 = 2;
    pub const ELEMENTS: u16 = 3;
    pub const ELEMENT: u16 = 1;
    pub const KEY: u16 = 1;
    pub const TIMEOUT: u16 = 4;
    pub const VALUE: u16 = 1;
    /// `NFPROTO_INET`
    pub const INET: u8 = 1;
}

impl Gate {
    /// Opens the way to the kernel; the gate itself stays as it is.
    ///
    /// # Errors
    /// When no socket is to be had.
    pub fn new(backend: Backend) -> io::Result<Self> {
        let socket = sockets::open(SockProtocol::NetlinkNetFilter, 0, PATIENCE)?;
        Ok(Self { socket, backend, sequence: 0 })
    }

    /// Opens the gate, or keeps it open, for [`OPEN_FOR`] from now.
    ///
    /// # Errors
    /// When the kernel refuses: the set is gone, or the caller may not.
    pub fn open(&mut self) -> io::Result<()> {
        match self.backend {
            Backend::Nft => {
                self.transaction(&[tables::NEW_ELEMENT, tables::DELETE_ELEMENT, tables::NEW_ELEMENT])
            }
            Backend::Iptables(_) => self.renew_sets(),
        }
    }

    /// Closes the gate at once.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn close(&mut self) -> io::Result<()> {
        match self.backend {
            Backend::Nft => self.transaction(&[tables::NEW_ELEMENT, tables::DELETE_ELEMENT]),
            Backend::Iptables(_) => Family::BOTH.into_iter().try_for_each(|family| {
                let request = self.ipset(ipset::FLUSH, family);
                self.exchange(&request.finish(), 1)
            }),
        }
    }

    /// Two nets of prefix length 1, because ipset takes no net of length 0.
    fn renew_sets(&mut self) -> io::Result<()> {
        for family in Family::BOTH {
            for half in [0, 0x80] {
                let mut request = self.ipset(ipset::ADD, family);
                request.nested(ipset::DATA, |data| {
                    data.nested(ipset::IP, |ip| ip.address(family, half));
                    data.put(ipset::CIDR, &[1]);
                    let seconds = OPEN_FOR.as_secs() as u32;
                    data.put(ipset::TIMEOUT | NETWORK_ORDER, &seconds.to_be_bytes());
                });
                self.exchange(&request.finish(), 1)?;
            }
        }
        Ok(())
    }

    fn ipset(&mut self, command: u16, family: Family) -> Request {
        let kind = ipset::SUBSYSTEM << 8 | command;
        let mut request = Request::new(kind, NLM_F_ACK, self.next(), protocol_family(family), 0);
        request.put(ipset::PROTOCOL, &[ipset::PROTOCOL_VERSION]);
        request.put(ipset::SET_NAME, &zero_terminated(&gate_set(family)));
        request
    }

    /// Does these commands with both families' elements, all or none.
    fn transaction(&mut self, commands: &[u16]) -> io::Result<()> {
        let mut batch = self.batch_edge(tables::BATCH_BEGIN);
        for &command in commands {
            let kind = tables::SUBSYSTEM << 8 | command;
            let create = if command == tables::NEW_ELEMENT { NLM_F_CREATE } else { 0 };
            let mut request = Request::new(kind, NLM_F_ACK | create, self.next(), tables::INET, 0);
            let name = nft::TABLE.rsplit(' ').next().unwrap_or(nft::TABLE);
            request.put(tables::TABLE, &zero_terminated(name));
            request.put(tables::SET, &zero_terminated(nft::GATE));
            request.nested(tables::ELEMENTS, |elements| {
                Family::BOTH.into_iter().for_each(|family| elements.element(family));
            });
            batch.extend(request.finish());
        }
        batch.extend(self.batch_edge(tables::BATCH_END));
        self.exchange(&batch, commands.len())
    }

    fn batch_edge(&mut self, kind: u16) -> Vec<u8> {
        Request::new(kind, 0, self.next(), 0, tables::SUBSYSTEM).finish()
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Sends requests and waits for so many acknowledgements.
    fn exchange(&mut self, requests: &[u8], mut awaited: usize) -> io::Result<()> {
        socket::sendto(self.socket.as_raw_fd(), requests, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut buffer = [0; 8192];
        while awaited > 0 {
            let length = socket::recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            awaited = awaited.saturating_sub(acknowledged(&buffer[..length])?);
        }
        Ok(())
    }
}

/// Counts acknowledgements; the first error ends it.
fn acknowledged(answers: &[u8]) -> io::Result<usize> {
    let answers = message::messages(answers).filter(|answer| answer.kind == NLMSG_ERROR);
    answers.map(|answer| answer.errno()).try_fold(0, |count, errno| match errno {
        0 => Ok(count + 1),
        errno => Err(io::Error::from_raw_os_error(errno)),
    })
}

fn zero_terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
fn protocol_family(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// A netfilter netlink message in the making, or the attributes nested in one.
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) -> Self {
        let mut bytes = message::begin(kind, flags, sequence);
        bytes.extend_from_slice(&[family, 0]);
        bytes.extend_from_slice(&resource.to_be_bytes());
        Self { bytes }
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        put(&mut self.bytes, kind, value);
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Request)) {
        let mut inner = Request { bytes: Vec::new() };
        fill(&mut inner);
        self.put(kind | NESTED, &inner.bytes);
    }

    /// An ipset address whose first byte is `first` and whose others are 0.
    fn address(&mut self, family: Family, first: u8) {
        let mut octets = [0; 16];
        octets[0] = first;
        match family {
            Family::V4 => self.put(ipset::ADDRESS_V4 | NETWORK_ORDER, &octets[..4]),
            Family::V6 => self.put(ipset::ADDRESS_V6 | NETWORK_ORDER, &octets),
        }
    }

    /// An nft set element: a family's number, with the gate's time-out.
    fn element(&mut self, family: Family) {
        let milliseconds = OPEN_FOR.as_millis() as u64;
        self.nested(tables::ELEMENT, |element| {
            element.nested(tables::KEY, |key| key.put(tables::VALUE, &[protocol_family(family)]));
            element.put(tables::TIMEOUT, &milliseconds.to_be_bytes());
        });
    }

    fn finish(self) -> Vec<u8> {
        message::finish(self.bytes)
    }
}
