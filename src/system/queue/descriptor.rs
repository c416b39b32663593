//! The file descriptor that the `nfq` crate (0.2.5) keeps to itself.
//!
//! Without it the receive buffer stays at 256 packets, whatever the queue's
//! length says, with silent drops beyond, and a receive cannot time out. The
//! new descriptor is found by what distinguishes it: a netfilter netlink
//! socket that was not there before.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, MsgFlags, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef};

/// All netfilter netlink sockets of this process.
pub(super) fn netfilter_sockets() -> io::Result<BTreeSet<RawFd>> {
    let mut sockets = BTreeSet::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(descriptor) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if is_netfilter(descriptor) {
            sockets.insert(descriptor);
        }
    }
    Ok(sockets)
}

fn is_netfilter(number: RawFd) -> bool {
    let descriptor = borrow(number);
    let socket = SockRef::from(&descriptor);
    let domain = socket.domain().is_ok_and(|domain| domain == Domain::from(libc::AF_NETLINK));
    let protocol = || socket.protocol().ok().flatten();
    domain && protocol() == Some(Protocol::from(libc::NETLINK_NETFILTER))
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
