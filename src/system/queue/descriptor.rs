//! The file descriptor that the `nfq` crate (0.2.5) keeps to itself.
//!
//! Without it the receive buffer stays at 256 packets, whatever the queue's
//! length says, with silent drops beyond, and a receive cannot time out. The
//! descriptor is found by what distinguishes it: a netfilter netlink socket
//! with the port that the kernel tells of the queue.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, MsgFlags, NetlinkAddr, setsockopt, sockopt};
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

/// Sets the room for waiting messages, past the administrator's limit where we
/// may, and the longest wait; keeps the socket from programs that we start,
/// which would hold the queue open after our death.
pub(super) fn configure(number: RawFd, room: usize, wait: Duration) -> io::Result<()> {
    let descriptor = borrow(number);
    let socket = SockRef::from(&descriptor);
    if setsockopt(&descriptor, sockopt::RcvBufForce, &room).is_err() {
        socket.set_recv_buffer_size(room)?;
    }
    socket.set_read_timeout(Some(wait))?;
    socket.set_cloexec(true)
}

/// Whether a message is there, or comes within this time.
pub(super) fn has_message_within(number: RawFd, wait: Duration) -> io::Result<bool> {
    let descriptor = borrow(number);
    let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(descriptor, PollFlags::POLLIN)], timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Sends a message to the kernel.
pub(super) fn send(number: RawFd, message: &[u8]) -> io::Result<()> {
    socket::send(number, message, MsgFlags::empty())?;
    Ok(())
}

#[expect(unsafe_code, reason = "the nfq crate offers no other way to its descriptor")]
fn borrow<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the number was just listed in /proc/self/fd and serves one call of
    // getsockopt, setsockopt, fcntl or poll; were it closed meanwhile, the call would
    // answer EBADF. Numbers from the kernel's list are never -1.
    unsafe { BorrowedFd::borrow_raw(number) }
}
