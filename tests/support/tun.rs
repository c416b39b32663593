//! A point-to-point device in each of two machines, joined by a thread: what PPP is to the router.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use wansplit::lab::host::Host;

/// Two devices of one name; both are gone when it is dropped.
pub struct Cable {
    stop: Arc<AtomicBool>,
    /// How long it takes a packet to the other end, in milliseconds.
    delay: Arc<AtomicU64>,
    carries: Option<JoinHandle<()>>,
}

impl Cable {
    pub fn between(one: &Host, other: &Host, device: &str) -> Cable {
        let ends = [one, other].map(|host| host.enter(|| open(device)).expect("a machine"));
        let (stop, delay) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stops, delays) = (Arc::clone(&stop), Arc::clone(&delay));
        let carries = std::thread::spawn(move || {
            let mut on_the_way = VecDeque::new();
            while !stops.load(Relaxed) {
                take_in(&ends, Duration::from_millis(delays.load(Relaxed)), &mut on_the_way);
                hand_out(&ends, &mut on_the_way);
            }
        });
        Cable { stop, delay, carries: Some(carries) }
    }

    /// So long takes a packet from now on, in each direction; at first none at all.
    #[allow(dead_code, reason = "not every test program has slow lines")]
    pub fn delay(&self, delay: Duration) {
        self.delay.store(delay.as_millis() as u64, Relaxed);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.carries.take().map(JoinHandle::join);
    }
}

/// A packet, where it goes, and when it is there.
struct OnTheWay {
    at: Instant,
    to: usize,
    packet: Vec<u8>,
}

/// Takes a packet from each end that has one.
fn take_in(ends: &[File; 2], delay: Duration, on_the_way: &mut VecDeque<OnTheWay>) {
    let mut waiting = ends.each_ref().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
    let patience = if on_the_way.is_empty() { 20_u8 } else { 1 };
    let _ = poll(&mut waiting, PollTimeout::from(patience));
    let has_one = waiting.map(|end| end.any().unwrap_or(false));
    for (from, to) in [(0, 1), (1, 0)] {
        let mut packet = vec![0; 2048];
        if has_one[from]
            && let Ok(length) = (&ends[from]).read(&mut packet)
        {
            packet.truncate(length);
            on_the_way.push_back(OnTheWay { at: Instant::now() + delay, to, packet });
        }
    }
}

fn hand_out(ends: &[File; 2], on_the_way: &mut VecDeque<OnTheWay>) {
    while let Some(OnTheWay { to, packet, .. }) = on_the_way.pop_front_if(|first| first.at <= Instant::now())
    {
        // An end that is down takes nothing, as a cable that is not plugged in.
        let _ = (&ends[to]).write(&packet);
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
