//! A point-to-point device in each of two machines, joined by a thread: what PPP is to the router.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use wansplit::lab::host::Host;

/// Two devices of one name; both are gone when it is dropped.
pub struct Cable {
    stop: Arc<AtomicBool>,
    carries: Option<JoinHandle<()>>,
}

impl Cable {
    pub fn between(one: &Host, other: &Host, device: &str) -> Cable {
        let ends = [one, other].map(|host| host.enter(|| open(device)).expect("a machine"));
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let carries = std::thread::spawn(move || {
            while !stops.load(Relaxed) {
                carry(&ends);
            }
        });
        Cable { stop, carries: Some(carries) }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.carries.take().map(JoinHandle::join);
    }
}

/// Takes a packet from each end that has one to the other.
fn carry(ends: &[File; 2]) {
    let mut waiting = ends.each_ref().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
    let _ = poll(&mut waiting, PollTimeout::from(20_u8));
    let has_one = waiting.map(|end| end.any().unwrap_or(false));
    for (from, to) in [(0, 1), (1, 0)] {
        let mut packet = [0; 2048];
        if has_one[from]
            && let Ok(length) = (&ends[from]).read(&mut packet)
        {
            // An end that is down takes nothing, as a cable that is not plugged in.
            let _ = (&ends[to]).write(&packet[..length]);
        }
    }
}

#[allow(unsafe_code, reason = "a tun device is made by an ioctl that nix does not know")]
fn open(device: &str) -> File {
    let file = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    // SAFETY: all bytes of an ifreq may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
    // SAFETY: the kernel reads an ifreq, and writes the device's name into it.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) };
    assert_eq!(made, 0, "{device}: {}", std::io::Error::last_os_error());
    file
}
