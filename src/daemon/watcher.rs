//! One thread with a queue of its own: flows wait here until their clients have said their names.
//!
//! Workers hand over the packets of such flows, and nobody else's wait behind them. The kernel sends
//! the first packets of TCP connections here too whose clients may say a name for the next one; they
//! go on at once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::cache::Cache;
use crossbeam_channel::Sender;

use super::accounts::TCP;
use super::shared::{Deciding, Event, Shared, add};
use crate::engine::Now;
use crate::engine::hold::{Holding, MOST_PACKETS, Release, Ticket};
use crate::engine::packet::{Family, Packet, parse};
use crate::engine::uplink::UplinkId;
use crate::engine::watching::{Next, Watching};
use crate::system::nudge::Nudger;
use crate::system::priority;
use crate::system::queue::{LONGEST_WAIT, PacketQueue, Turn, Verdict, Waiting};

/// Flows that began in the last seconds and are remembered.
const FLOWS: usize = 65_536;

/// Packets that are taken before it is looked whose time is over: what has come in time counts, even
/// where this thread is late.
const AT_ONCE: u32 = 64;

/// Starts to watch.
///
/// # Errors
/// When no thread can be started.
pub fn start(
    queue: Box<dyn PacketQueue>,
    shared: Arc<Shared>,
    events: Sender<Event>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("watcher".into()).spawn(move || {
        priority::go_first();
        let (holding, watching) = (Holding::new(FLOWS, MOST_PACKETS), Watching::default());
        let watcher = Watcher { queue, holding, watching, events };
        if let Err(error) = watcher.watch(&shared) {
            tracing::error!("no flow can wait for its name, the queue is broken: {error}");
        }
    })
}

struct Watcher {
    queue: Box<dyn PacketQueue>,
    holding: Holding,
    watching: Watching,
    events: Sender<Event>,
}

impl Watcher {
    /// Until told to stop; a broken socket ends it too, and the gate with it.
    fn watch(mut self, shared: &Shared) -> io::Result<()> {
        let mut deciding = Cache::new(&shared.deciding);
        let mut taken = 0;
        while !shared.stop.load(Relaxed) {
            let longest = self.time_left(shared.now().0);
            let (holding, watching) = (&mut self.holding, &mut self.watching);
            let (mut releases, mut resets) = (Vec::new(), Vec::new());
            let turn = self.queue.turn(longest, &mut |packet| {
                // Looked at for each packet: a turn may have waited long for its first.
                let deciding = deciding.load();
                // Packets of TCP connections are heard and go on; datagrams may wait.
                if let Some(uplink) = watched(packet, deciding) {
                    return Some(hear(watching, packet, uplink, deciding, shared, &mut resets));
                }
                releases.extend(take(holding, packet, deciding, shared));
                None
            });
            // Answered only now is what came before in these connections: a reset that overtakes it is not believed.
            resets.iter().for_each(Reset::tell_server);
            for release in releases {
                self.answer(&release, deciding.load(), shared)?;
            }
            taken += turn.as_ref().map_or(0, |turn| turn.packets);
            let is_idle = turn.as_ref().is_ok_and(Turn::is_idle);
            shared.watcher.turned(turn, self.holding.next_deadline().is_some())?;
            if is_idle || taken >= AT_ONCE {
                taken = 0;
                self.expire(deciding.load(), shared)?;
            }
            self.tell_counts(shared);
        }
        Ok(())
    }

    /// Answers all whose time is over.
    fn expire(&mut self, deciding: &Deciding, shared: &Shared) -> io::Result<()> {
        let (now, stale) = shared.now();
        while let Some(release) = self.holding.expire(&deciding.snapshot, stale, now) {
            self.answer(&release, deciding, shared)?;
        }
        Ok(())
    }

    /// How long a packet may be waited for.
    fn time_left(&self, now: Now) -> Duration {
        let left = |deadline: u64| Duration::from_millis(deadline.saturating_sub(now.at.0));
        self.holding.next_deadline().map_or(LONGEST_WAIT, |deadline| left(deadline.0))
    }

    fn answer(&mut self, release: &Release, deciding: &Deciding, shared: &Shared) -> io::Result<()> {
        let Release { decided, arrival, packets } = release;
        let tally = &shared.watcher;
        if let (true, Some(key)) = (decided.first, decided.key) {
            let at = shared.now().0.at.0;
            tally.tell(&self.events, Event { at, key, lan: arrival.lan, decision: decided.decision });
        }
        let mut decided = *decided;
        for ticket in packets {
            tally.decided(&decided);
            decided = decided.and_again();
            self.queue.answer(ticket.id, deciding.verdict(&decided.decision, ticket.mark))?;
        }
        Ok(())
    }

    fn tell_counts(&self, shared: &Shared) {
        let counts = self.holding.counts();
        if **shared.holds.load() != counts {
            shared.holds.store(Arc::new(counts));
        }
        let heard = self.watching.counts();
        if **shared.heard.load() != heard {
            shared.heard.store(Arc::new(heard));
        }
    }
}

fn take(
    holding: &mut Holding,
    packet: &Waiting<'_>,
    deciding: &Deciding,
    shared: &Shared,
) -> Option<Release> {
    let (now, stale) = shared.now();
    let ticket = Ticket { id: packet.id, mark: packet.mark };
    holding.take(&deciding.snapshot, packet.bytes, ticket, &deciding.arrival(packet, stale), now)
}

/// The line of a TCP connection that this packet belongs to. Connections are listened to, never held.
fn watched(packet: &Waiting<'_>, deciding: &Deciding) -> Option<UplinkId> {
    let is_tcp = parse(packet.bytes).is_ok_and(|packet| packet.protocol == TCP);
    deciding.marks.uplink(packet.mark).filter(|_| is_tcp)
}

/// The packet of such a connection goes on at once.
fn hear(
    watching: &mut Watching,
    packet: &Waiting<'_>,
    on: UplinkId,
    deciding: &Deciding,
    shared: &Shared,
    resets: &mut Vec<Reset>,
) -> Verdict {
    let (now, stale) = shared.now();
    add(&shared.watcher.packets, 1);
    let arrival = deciding.arrival(packet, stale);
    let over = |reset| Verdict::Mark(deciding.marks.watch_over(packet.mark, reset));
    match watching.hear(&deciding.snapshot, packet.bytes, on, &arrival, now) {
        Next::GoOn => Verdict::Keep,
        Next::Over => over(false),
        Next::Reset { sequence } => {
            resets.extend(Reset::of(packet.bytes, sequence));
            over(true)
        }
    }
}

/// A connection that is reset. The firewall tells its client; its server is told here.
struct Reset {
    client: SocketAddr,
    server: SocketAddr,
    /// With which the client would have gone on.
    sequence: u32,
}

impl Reset {
    fn of(bytes: &[u8], sequence: u32) -> Option<Self> {
        let Packet { src, dst, ports: Some(ports), .. } = parse(bytes).ok()? else { return None };
        let (client, server) = (SocketAddr::new(src, ports.src), SocketAddr::new(dst, ports.dst));
        Some(Reset { client, server, sequence })
    }

    /// One that cannot be told will time out.
    fn tell_server(&self) {
        let Reset { client, server, sequence } = *self;
        let nudger = Nudger::open(Family::of(client.ip()), 0);
        let _ = nudger.and_then(|nudger| nudger.reset(client, server, sequence));
    }
}
