//! Sockets to netfilter's part of the kernel, for what speaks its netlink by itself.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Opens a socket that hears these multicast groups and waits this long for an answer.
///
/// # Errors
/// When no socket is to be had.
pub fn open(groups: u32, timeout: Duration) -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    let milliseconds = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(milliseconds))?;
    Ok(socket)
}
