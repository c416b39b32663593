//! The file descriptor that the `nfq` crate (0.2.5) keeps to itself.
//!
//! Without it the receive buffer stays at 256 packets, whatever the queue's
//! length says, with silent drops beyond, and a receive cannot time out. The
//! descriptor is found by what distinguishes it: a netfilter netlink socket
//! with the port that the kernel tells of the queue.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{self, NetlinkAddr};
use socket2::{Domain, Protocol, SockRef};

/// The netfilter netlink socket of this process that has this port.
pub(super) fn netfilter_socket(port: u32) -> Option<RawFd> {
    let descriptors = std::fs::read_dir("/proc/self/fd").ok()?.flatten();
    let mut numbers = descriptors.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.find(|&number| is_netfilter(number) && port_of(number) == Some(port))
}

fn is_netfilter(number: RawFd) -> bool {
    let descriptor = borrow(number);
    let socket = SockRef::from(&descriptor);
    let domain = socket.domain().is_ok_and(|domain| domain == Domain::from(libc::AF_NETLINK));
    let protocol = || socket.protocol().ok().flatten();
    domain && protocol() == Some(Protocol::from(libc::NETLINK_NETFILTER))
}

fn port_of(number: RawFd) -> Option<u32> {
    socket::getsockname::<NetlinkAddr>(number).ok().map(|address| address.pid())
}

/// Sets the longest wait, and keeps the socket from programs that we start, which would hold the
/// queue open after our death.
pub(super) fn configure(number: RawFd, wait: Duration) -> io::Result<()> {
    let descriptor = borrow(number);
    let socket = SockRef::from(&descriptor);
    socket.set_read_timeout(Some(wait))?;
    socket.set_cloexec(true)
}

/// The descriptor, for one call.
#[expect(unsafe_code, reason = "the nfq crate offers no other way to its descriptor")]
pub(super) fn borrow<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the number was just listed in /proc/self/fd and serves one call of
    // getsockopt, setsockopt, fcntl, poll or send; were it closed meanwhile, the call would
    // answer EBADF. Numbers from the kernel's list are never -1.
    unsafe { BorrowedFd::borrow_raw(number) }
}
