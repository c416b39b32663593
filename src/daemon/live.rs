//! The thread that follows running flows when lines die and come back.
//!
//! It is told that something changed, not what: it looks at all connections and ends
//! those that should no longer be where they are, so that being told twice, or late, changes
//! nothing. The kernel forgets an ended flow. The next datagram or ping is decided anew; the next
//! segment of a TCP connection meets the firewall's reset. A client that only receives would
//! wait for ever, so both ends in the LAN are nudged to speak; once more when there is a line for them
//! again, if there was none at the time.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use ipnet::IpNet;

use super::accounts::{TCP, key};
use super::report::Reporter;
use super::shared::Deciding;
use crate::engine::flow::{Facts, Millis};
use crate::engine::packet::Family;
use crate::engine::rule::model::RuleId;
use crate::engine::uplink::UplinkId;
use crate::engine::{REMEMBER, live};
use crate::plan::lines::Line;
use crate::system::clock;
use crate::system::conntrack::{Conntrack, Ends, Flow};
use crate::system::nudge::Nudger;

/// How long lines must have been as they are before flows move back: until then a flow that was
/// just decided would be decided as before. It is also calm for a line that flaps.
const CALM: Duration = REMEMBER;

/// With a device or its address goes what was masqueraded by it, before anybody can look. So
/// long ago that may have been.
const JUST_NOW: Duration = Duration::from_secs(5);

/// When connections are looked at once more after an address has gone: the kernel forgets what was masqueraded by it
/// in the background (net/netfilter/nf_nat_masquerade.c), and says so perhaps later than that the address went.
const ONCE_MORE: Duration = Duration::from_secs(1);

/// Most flows that are remembered because they lost their line when there was no other.
const STRANDED: usize = 4096;

/// How long ending flows may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// An uplink that is no more, whose flows are those of a dead one: in no set, and nobody's number.
const FORMER: UplinkId = UplinkId(u8::MAX);

/// Lines have changed; who waits until that was followed is told.
type News = Option<Sender<()>>;

/// Tells the thread; it ends when this is dropped.
pub struct Follower {
    news: Option<Sender<News>>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Starts to follow.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(reporter: Arc<Reporter>) -> io::Result<Self> {
        let (news, changes) = bounded(1);
        let addresses = Addresses::new(addresses(&reporter.plan().lines));
        let following = Following { reporter, addresses, stranded: Vec::new() };
        let thread = thread::Builder::new().name("live".into()).spawn(move || following.follow(&changes))?;
        Ok(Follower { news: Some(news), thread: Some(thread) })
    }

    /// Lines or their addresses have changed, and workers know it already.
    pub fn lines_changed(&self) {
        // One that waits already will do for this change too.
        if let Some(Err(TrySendError::Disconnected(_))) = self.news.as_ref().map(|news| news.try_send(None)) {
            tracing::error!("running flows no longer follow their lines");
        }
    }

    /// Waits, within bounds, until the flows that leave their lines have been ended.
    pub fn end_what_leaves(&self) {
        let (done, is_done) = bounded(1);
        let told = self.news.as_ref().is_some_and(|news| news.send_timeout(Some(done), PATIENCE).is_ok());
        if !told || is_done.recv_timeout(PATIENCE).is_err() {
            tracing::warn!("running flows are slow to follow their lines");
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.news = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Following {
    reporter: Arc<Reporter>,
    addresses: Addresses,
    /// TCP connections that were ended when nothing could carry what their clients said to that.
    stranded: Vec<Flow>,
}

impl Following {
    fn follow(mut self, changes: &Receiver<News>) {
        let (mut calm_at, mut once_more_at): (Option<Instant>, Option<Instant>) = (None, None);
        loop {
            let news = match calm_at.into_iter().chain(once_more_at).min() {
                Some(at) => changes.recv_deadline(at),
                None => changes.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let now = Instant::now();
            let waiting = match news {
                Ok(waiting) => {
                    calm_at = Some(now + self.calm());
                    waiting
                }
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let returned = calm_at.take_if(|at| *at <= now).is_some();
            once_more_at.take_if(|at| *at <= now);
            match self.end_what_leaves(now, returned) {
                Ok(Departed::Now) => once_more_at = Some(now + ONCE_MORE),
                Ok(Departed::NotNow) => {}
                Err(error) => tracing::warn!("running flows could not follow their lines: {error}"),
            }
            if let Some(waiting) = waiting {
                let _ = waiting.send(());
            }
        }
    }

    /// How long to wait until flows may move back: their line must take them all.
    fn calm(&self) -> Duration {
        let filled = self.reporter.shared.deciding.load().snapshot.filling.ends();
        let left = filled.map_or(0, |end| end.0.saturating_sub(clock::monotonic_ms()));
        CALM.max(Duration::from_millis(left))
    }

    fn end_what_leaves(&mut self, now: Instant, returned: bool) -> io::Result<Departed> {
        let (lines, deciding) = self.reporter.in_force();
        let departed = self.addresses.follow(addresses(&lines), now);
        let gone = self.addresses.gone();
        let looking =
            Looking { reporter: &self.reporter, deciding: &deciding, lines: &lines, gone, returned };
        let mut conntrack = Conntrack::open()?;
        let mut leaving = Vec::new();
        conntrack.dump(None, |flow| leaving.extend(looking.leaves(&flow).then_some(flow)))?;
        for flow in &leaving {
            conntrack.delete(flow)?;
        }
        if !leaving.is_empty() {
            tracing::info!("{} running flows were ended, to go on by other lines", leaving.len());
        }
        let just_now = clock::monotonic_ms().saturating_sub(JUST_NOW.as_millis() as u64);
        let forgotten = self.reporter.accounts.ended_since(just_now);
        leaving.extend(forgotten.into_iter().filter(|flow| looking.leaves(flow)));
        let told_again = self.stranded.extract_if(.., |flow| looking.gets_a_line(flow)).collect::<Vec<_>>();
        let stranded = leaving.iter().filter(|flow| flow.orig.protocol == TCP && !looking.gets_a_line(flow));
        self.stranded.extend(stranded.cloned());
        self.stranded.truncate(STRANDED);
        leaving.extend(told_again);
        nudge(&leaving, deciding.marks.decided)?;
        Ok(departed)
    }
}

type LineAddresses = BTreeSet<(UplinkId, IpNet)>;

/// The addresses of uplinks, delegated prefixes too, and those that went just now.
#[derive(Debug)]
struct Addresses {
    present: LineAddresses,
    /// By when they went, oldest first.
    gone: Vec<(Instant, (UplinkId, IpNet))>,
}

/// Whether an address went at this look.
#[derive(Debug, PartialEq, Eq)]
enum Departed {
    Now,
    NotNow,
}

impl Addresses {
    fn new(present: LineAddresses) -> Self {
        Addresses { present, gone: Vec::new() }
    }

    /// These are there now.
    fn follow(&mut self, present: LineAddresses, now: Instant) -> Departed {
        let departing: Vec<_> = self.present.difference(&present).map(|&address| (now, address)).collect();
        let departed = if departing.is_empty() { Departed::NotNow } else { Departed::Now };
        self.gone.extend(departing);
        self.gone.retain(|(at, address)| *at + JUST_NOW > now && !present.contains(address));
        self.present = present;
        departed
    }

    /// What went so lately that news of its flows may still come.
    fn gone(&self) -> LineAddresses {
        self.gone.iter().map(|&(_, address)| address).collect()
    }
}

/// One look at all connections.
struct Looking<'a> {
    reporter: &'a Reporter,
    deciding: &'a Deciding,
    lines: &'a [Line],
    /// Addresses that uplinks had and have no longer.
    gone: LineAddresses,
    returned: bool,
}

impl Looking<'_> {
    /// The router's own flows stay where their sockets are.
    fn leaves(&self, flow: &Flow) -> bool {
        let marks = &self.deciding.marks;
        if flow.mark & marks.mask == 0 {
            return false;
        }
        let on = marks.uplink(flow.mark).unwrap_or(FORMER);
        if self.is_address_of_a_line(flow.orig.src) || self.is_address_of_a_line(flow.reply.src) {
            return false;
        }
        let outside = [flow.reply.dst, flow.orig.dst];
        let has_gone = |&(line, net): &(UplinkId, IpNet)| {
            line == on && outside.iter().any(|address| net.contains(address))
        };
        if self.gone.iter().any(has_gone) {
            return true;
        }
        let comes_in = self.is_address_of_a_line(flow.orig.dst);
        let snapshot = &self.deciding.snapshot;
        let returned = self.returned && !comes_in;
        live::leaves(snapshot, &self.facts(flow), self.decided_by(flow), on, returned)
    }

    fn gets_a_line(&self, flow: &Flow) -> bool {
        live::gets_a_line(&self.deciding.snapshot, &self.facts(flow), self.decided_by(flow))
    }

    fn decided_by(&self, flow: &Flow) -> Option<RuleId> {
        self.reporter.accounts.decided_by(&key(&flow.orig))
    }

    fn facts(&self, flow: &Flow) -> Facts<'static> {
        let key = key(&flow.orig);
        let now = Millis(clock::monotonic_ms());
        let snapshot = &self.deciding.snapshot;
        let name = snapshot.names.of(key.src, key.dst, key.dst_port, now).map(|(name, _)| name);
        snapshot.placed(Facts { name, when: self.reporter.shared.local_time(), ..Facts::about(key) })
    }

    fn is_address_of_a_line(&self, address: IpAddr) -> bool {
        self.lines.iter().any(|line| line.addresses(Family::of(address)).any(|own| own == address))
    }
}

fn addresses(lines: &[Line]) -> LineAddresses {
    let of = |(line, family): (&Line, Family)| {
        line.public_nets(family).map(|net| (line.id, net)).collect::<Vec<_>>()
    };
    lines.iter().flat_map(|line| Family::BOTH.map(|family| (line, family))).flat_map(of).collect()
}

/// Makes the ends of these TCP connections in the LAN speak.
fn nudge(flows: &[Flow], mark: u32) -> io::Result<()> {
    for family in Family::BOTH {
        let of_family = |(_, to): &(SocketAddr, SocketAddr)| Family::of(to.ip()) == family;
        let mut ends = flows.iter().filter_map(inner_end).filter(of_family).peekable();
        if ends.peek().is_none() {
            continue;
        }
        let nudger = Nudger::open(family, mark)?;
        for (from, to) in ends {
            // One that cannot be reached will time out.
            let _ = nudger.nudge(from, to);
        }
    }
    Ok(())
}

/// The peer of a TCP connection's end in the LAN as that end knows it, and the end itself: who
/// opened it, or behind a translated destination who was called.
fn inner_end(flow: &Flow) -> Option<(SocketAddr, SocketAddr)> {
    let inner = if flow.orig.dst == flow.reply.src { flow.orig } else { flow.reply };
    let Ends::Ports { src, dst } = inner.ends else { return None };
    (inner.protocol == TCP).then(|| (SocketAddr::new(inner.dst, dst), SocketAddr::new(inner.src, src)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_of_an_address_that_went_leave_at_the_next_looks_too_unless_it_is_back() {
        let [first, second] =
            [1, 2].map(|host| (UplinkId(0), IpNet::from(IpAddr::from([198, 51, 100, host]))));
        let start = Instant::now();
        let mut addresses = Addresses::new([first].into());
        assert_eq!(addresses.follow([].into(), start), Departed::Now);
        assert_eq!(addresses.gone(), [first].into());
        let soon = start + ONCE_MORE;
        assert_eq!(addresses.follow([second].into(), soon), Departed::NotNow);
        assert_eq!(addresses.gone(), [first].into());
        assert_eq!(addresses.follow([first].into(), soon), Departed::Now);
        assert_eq!(addresses.gone(), [second].into());
        assert_eq!(addresses.follow([first].into(), soon + JUST_NOW), Departed::NotNow);
        assert_eq!(addresses.gone(), [].into());
    }
}
