//! New flows, one packet each, and a few that are timed among them.
//!
//! One thread on a core of its own sends both and spins between them: what is timed does not wait for a core.

use std::collections::HashMap;
use std::hint::spin_loop;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::sockopt::{ReceiveTimestampns, SndBufForce};
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, MultiHeaders, bind, recvmsg, send, sendmmsg, setsockopt,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};
use wansplit::system::affinity;

use crate::frame::{Frame, LENGTH, TOLD_APART, answered, datagram};
use crate::world::{CLIENT_DEVICE, LOAD_CORE, World};

/// New flows, so many a second.
#[derive(Debug, Clone, Copy)]
pub struct Flood {
    /// A second; 0: none, only what is timed.
    pub rate: u32,
    /// For how long.
    pub time: Duration,
}

/// Packets that are timed.
#[derive(Debug, Clone, Copy)]
pub struct Timed {
    /// The packet with a number.
    pub packet: fn(u64) -> Frame,
    /// From one to the next.
    pub every: Duration,
}

/// What was sent, and how long what was timed took.
#[derive(Debug, Default)]
pub struct Sent {
    /// New flows.
    pub flows: u64,
    /// Microseconds until the answer was back at the sender's device, sorted.
    pub took: Vec<f64>,
}

/// Packets back to back.
const BURST: u32 = 32;
/// Bytes that wait for the router's core count for the sender. With less room, one that is overloaded would slow
/// it down, as no network does.
const ROOM: usize = 64 << 20;
/// `ETH_P_IP`, include/uapi/linux/if_ether.h.
const IPV4: u16 = 0x0800;

impl Flood {
    /// Sends.
    pub fn run(self, world: &World, timed: Option<Timed>) -> Result<Sent> {
        let first = world.flows.load(Relaxed);
        world.client.enter(|| {
            on_core(LOAD_CORE)?;
            let mut clock = timed.map(|timed| Clock::start(timed, first)).transpose()?;
            let flows = self.send(first, &mut clock)?;
            let timed = clock.as_ref().map_or(first, |clock| clock.number);
            world.flows.store(timed.max(first + flows), Relaxed);
            Ok(Sent { flows, took: clock.map(Clock::took).unwrap_or_default() })
        })?
    }

    fn send(self, first: u64, clock: &mut Option<Clock>) -> Result<u64> {
        let socket = open(0)?;
        setsockopt(&socket, SndBufForce, &ROOM)?;
        let nobody = [const { None }; BURST as usize];
        let mut headers = MultiHeaders::<LinkAddr>::preallocate(BURST as usize, None);
        let begin = Instant::now();
        let end = begin + self.time;
        let every = (self.rate > 0).then(|| Duration::from_secs_f64(f64::from(BURST) / f64::from(self.rate)));
        let (mut next, mut sent) = (if every.is_some() { begin } else { end }, 0);
        loop {
            let frames: [Frame; BURST as usize] =
                std::array::from_fn(|place| datagram(first + sent + place as u64));
            while Instant::now() < next {
                match clock {
                    Some(clock) => clock.tick()?,
                    None => spin_loop(),
                }
            }
            let now = Instant::now();
            if now >= end {
                return Ok(sent);
            }
            // What is late is not made up for: it would come in one burst.
            next = (next + every.unwrap_or_default()).clamp(now.min(end), end);
            let slices = frames.each_ref().map(|frame| [IoSlice::new(frame)]);
            let mut left = &slices[..];
            while let [_, ..] = left {
                let to = &nobody[..left.len()];
                let done = sendmmsg(socket.as_raw_fd(), &mut headers, left, to, [], MsgFlags::empty());
                let taken = match done.map(|done| done.count()) {
                    Ok(taken) => taken,
                    // The router has no room for this one.
                    Err(Errno::ENOBUFS) => 1,
                    Err(error) => return Err(error.into()),
                };
                left = &left[taken..];
            }
            sent += u64::from(BURST);
            clock.as_mut().map(Clock::tick).transpose()?;
        }
    }
}

/// Sends what is timed when its time has come, and looks for answers.
struct Clock {
    timed: Timed,
    socket: Socket,
    next: Instant,
    number: u64,
    asked: HashMap<u64, Duration>,
    took: Vec<f64>,
}

impl Clock {
    fn start(timed: Timed, number: u64) -> Result<Clock> {
        let socket = open(IPV4)?;
        setsockopt(&socket, ReceiveTimestampns, &true)?;
        Ok(Clock { timed, socket, next: Instant::now(), number, asked: HashMap::new(), took: Vec::new() })
    }

    fn tick(&mut self) -> Result<()> {
        if Instant::now() >= self.next {
            self.next += self.timed.every;
            self.asked.insert(self.number % TOLD_APART, now()?);
            let packet = (self.timed.packet)(self.number);
            match send(self.socket.as_raw_fd(), &packet, MsgFlags::empty()) {
                Ok(_) | Err(Errno::ENOBUFS) => {}
                Err(error) => return Err(error.into()),
            }
            self.number += 1;
        }
        while self.hear()? {}
        Ok(())
    }

    /// The kernel says when an answer came to the device: how soon it is read does not matter.
    fn hear(&mut self) -> Result<bool> {
        let mut frame = [0; LENGTH];
        let mut slices = [IoSliceMut::new(&mut frame)];
        let mut control = nix::cmsg_space!(TimeSpec);
        let heard = recvmsg::<()>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC,
        );
        let heard = match heard {
            Ok(heard) => heard,
            Err(Errno::EAGAIN) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let came = heard.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(came) => Some(Duration::from(came)),
            _ => None,
        });
        let asked = answered(&frame).and_then(|number| self.asked.remove(&number));
        if let (Some(came), Some(asked)) = (came, asked) {
            self.took.push(came.saturating_sub(asked).as_secs_f64() * 1e6);
        }
        Ok(true)
    }

    fn took(mut self) -> Vec<f64> {
        self.took.sort_by(f64::total_cmp);
        self.took
    }
}

fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_REALTIME)?.into())
}

/// A packet socket that hears only this protocol of the client's device.
fn open(protocol: u16) -> Result<Socket> {
    let hears = Protocol::from(i32::from(protocol.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(hears)).context("a packet socket")?;
    bind(socket.as_raw_fd(), &device(CLIENT_DEVICE)?)?;
    Ok(socket)
}

/// What the kernel calls a device's own address names it to a packet socket.
fn device(name: &str) -> Result<LinkAddr> {
    let mut of_device = getifaddrs()?.filter(|address| address.interface_name == name);
    of_device
        .find_map(|address| address.address?.as_link_addr().copied())
        .with_context(|| format!("no device {name}"))
}

/// Keeps the calling thread on a core.
pub fn on_core(core: u16) -> Result<()> {
    affinity::bind(core).with_context(|| format!("there is no core {core}"))
}
