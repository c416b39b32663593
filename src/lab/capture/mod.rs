//! What really went over the wires: every IP packet of one machine, as it left or came,
//! but for neighbour discovery and its like, which machines say by themselves.
//!
//! One packet socket (packet(7)) sees all devices of a namespace, below
//! everything a firewall does: what it tells as leaving has its final source
//! address and its final device. It starts when [`Capture::start`] returns, and
//! counts what it could not keep, so that a test can be sure it has seen all.

mod record;

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_indextoname;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{LinkAddr, getsockopt, recvfrom, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::host::Host;
pub use record::{Direction, Record};

/// Bytes of each packet that are looked at: IPv6 with several extension headers, and ports.
const SNAPSHOT: usize = 512;

/// Receive buffer, in bytes, where the kernel lets us: some 50,000 small packets.
const BUFFER: usize = 64 << 20;

/// Which packets to keep.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Those of these devices; empty: of all but the loopback.
    pub devices: Vec<String>,
    /// Those that go this way; `None`: both.
    pub direction: Option<Direction>,
    /// At most this many (about 120 bytes each) at one time; more are counted.
    pub limit: usize,
}

impl Default for Filter {
    /// All that leaves, a million at most.
    fn default() -> Self {
        Filter { devices: Vec::new(), direction: Some(Direction::Out), limit: 1_000_000 }
    }
}

/// A running capture; dropped, it ends.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<Result<Result<()>>>>,
}

/// What a capture saw.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    /// The packets, in the order of the kernel.
    pub records: Vec<Record>,
    /// Packets the kernel dropped because the reader was too slow.
    pub missed: u64,
    /// Packets beyond the filter's limit.
    pub beyond_limit: u64,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    captured: Mutex<Captured>,
}

impl Capture {
    /// Starts to capture what goes through a machine.
    ///
    /// # Errors
    /// Without the privilege (`CAP_NET_RAW`) for packet sockets.
    pub fn start(host: &Host, filter: Filter) -> Result<Capture> {
        let socket = host.enter(open_socket)??;
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), captured: Mutex::default() });
        let reader = Reader { socket, filter, names: HashMap::new(), shared: Arc::clone(&shared) };
        let reader = host.spawn_thread(|| reader.run())?;
        Ok(Capture { shared, reader: Some(reader) })
    }

    /// Takes what was captured so far, for those who look while it runs.
    #[must_use]
    pub fn take(&self) -> Captured {
        std::mem::take(&mut *self.shared.captured())
    }

    /// Reads what has arrived to its end and stops. Returns what was not taken before.
    ///
    /// # Errors
    /// When the socket failed on the way.
    pub fn stop(mut self) -> Result<Captured> {
        self.end()?;
        Ok(self.take())
    }

    fn end(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let Some(reader) = self.reader.take() else { return Ok(()) };
        reader.join().map_err(|_| anyhow!("the capture died"))??
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Shared {
    fn captured(&self) -> MutexGuard<'_, Captured> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's side.
struct Reader {
    socket: Socket,
    filter: Filter,
    names: HashMap<usize, Option<Arc<str>>>,
    shared: Arc<Shared>,
}

impl Reader {
    fn run(mut self) -> Result<()> {
        loop {
            // Looked at before the socket: what arrived before the stop is read.
            let stopping = self.shared.stop.load(Ordering::Relaxed);
            self.read_all()?;
            self.shared.captured().missed += self.newly_missed()?;
            if stopping {
                return Ok(());
            }
            let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::from(20u8)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("waiting for packets"),
            }
        }
    }

    /// Reads until nothing is left; a flood cannot hold up the end for ever.
    fn read_all(&mut self) -> Result<()> {
        let mut bytes = [0; SNAPSHOT];
        for _ in 0..1_000_000 {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut bytes) {
                Ok((length, Some(link))) => self.keep(&bytes[..length.min(SNAPSHOT)], link),
                Ok((_, None)) | Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error).context("reading packets"),
            }
        }
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8], link: LinkAddr) {
        let direction = Direction::of(link.pkttype());
        if self.filter.direction.is_some_and(|wanted| wanted != direction) {
            return;
        }
        let Some(device) = self.device(link.ifindex()) else { return };
        let Some(record) = Record::parse(bytes, device, direction, Instant::now()) else { return };
        if record.is_link_chatter() {
            return;
        }
        let mut captured = self.shared.captured();
        if captured.records.len() < self.filter.limit {
            captured.records.push(record);
        } else {
            captured.beyond_limit += 1;
        }
    }

    /// The name of a device whose packets are wanted.
    fn device(&mut self, index: usize) -> Option<Arc<str>> {
        let filter = &self.filter;
        let look_up = || {
            let name = if_indextoname(index as libc::c_uint).ok()?.into_string().ok()?;
            let wanted =
                if filter.devices.is_empty() { name != "lo" } else { filter.devices.contains(&name) };
            wanted.then(|| name.into())
        };
        self.names.entry(index).or_insert_with(look_up).clone()
    }

    /// What the kernel dropped since the last call (packet(7): reading resets the counters).
    fn newly_missed(&self) -> Result<u64> {
        let counters = getsockopt(&self.socket, PacketStatistics).context("reading a capture's counters")?;
        Ok(u64::from(counters.tp_drops))
    }
}

/// `PACKET_STATISTICS` of packet(7).
#[derive(Debug, Clone, Copy)]
struct PacketStatistics;

nix::getsockopt_impl!(
    PacketStatistics,
    libc::SOL_PACKET,
    libc::PACKET_STATISTICS,
    libc::tpacket_stats,
    sockopt::GetStruct<libc::tpacket_stats>
);

/// A socket for all packets of the calling thread's namespace, from their IP header on.
fn open_socket() -> Result<Socket> {
    let everything = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(everything));
    let socket = socket.context("opening a packet socket (this needs root)")?;
    // Forcing needs real root; others get what net.core.rmem_max lets them have.
    if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &BUFFER).context("enlarging a receive buffer")?;
    }
    socket.set_nonblocking(true).context("preparing a packet socket")?;
    Ok(socket)
}
