//! Sockets to parts of the kernel, for what speaks netlink by itself and may wait.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

pub use nix::sys::socket::SockProtocol;
use nix::sys::socket::{
    self, AddressFamily, NetlinkAddr, SockFlag, SockType, bind, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Opens a socket to this part of the kernel, in the network namespace of the calling thread. It hears these
/// multicast groups and waits this long for an answer.
///
/// # Errors
/// When no socket is to be had.
pub fn open(protocol: SockProtocol, groups: u32, timeout: Duration) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    let milliseconds = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(milliseconds))?;
    Ok(socket)
}

/// Receives one datagram from the kernel; what other processes send counts as empty.
///
/// # Errors
/// When there is none in time, or the socket is broken.
pub fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (length, sender) = socket::recvfrom::<NetlinkAddr>(socket.as_raw_fd(), buffer)?;
    let from_kernel = sender.is_some_and(|sender| sender.pid() == 0);
    Ok(if from_kernel { length } else { 0 })
}
