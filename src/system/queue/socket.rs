//! What both ways to a queue do to their sockets.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;

/// Room a waiting message takes in the socket's buffer: the kernel charges for
/// the whole `sk_buff`, about 832 bytes for a small packet and more with payload.
const ROOM_PER_MESSAGE: usize = 4096;

/// Makes room for so many waiting messages, past the administrator's limit where we may.
pub(super) fn make_room(socket: BorrowedFd, messages: u32) -> io::Result<()> {
    let messages = usize::try_from(messages).unwrap_or(usize::MAX);
    let room = messages.saturating_mul(ROOM_PER_MESSAGE).min(i32::MAX as usize / 2);
    setsockopt(&socket, sockopt::RcvBufForce, &room)
        .or_else(|_| SockRef::from(&socket).set_recv_buffer_size(room))
}

/// Whether a message is there, or comes within this time.
pub(super) fn has_message_within(socket: BorrowedFd, wait: Duration) -> io::Result<bool> {
    let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(socket, PollFlags::POLLIN)], timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
