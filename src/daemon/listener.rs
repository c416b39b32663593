//! One thread with a queue of its own: DNS answers on their way to the LAN teach names, and go on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};

use super::shared::{Shared, add};
use crate::engine::flow::Millis;
use crate::engine::packet::parse;
use crate::engine::sniff::dns;
use crate::system::queue::{LONGEST_WAIT, PacketQueue, Verdict};
use crate::system::{clock, priority};

/// A UDP header (RFC 768).
const UDP_HEADER: usize = 8;

/// Starts to listen.
///
/// # Errors
/// When no thread can be started.
pub fn start(queue: Box<dyn PacketQueue>, shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("names".into()).spawn(move || {
        priority::go_first();
        listen(queue, &shared);
    })
}

/// Until told to stop; a broken socket ends it too, and the gate with it.
fn listen(mut queue: Box<dyn PacketQueue>, shared: &Shared) {
    let tally = &shared.listener;
    while !shared.stop.load(Relaxed) {
        let turn = queue.turn(LONGEST_WAIT, &mut |packet| {
            learn(packet.bytes, shared);
            add(&tally.packets, 1);
            Some(Verdict::Keep)
        });
        if let Err(error) = tally.turned(turn, false) {
            tracing::error!("no names can be learned, their queue is broken: {error}");
            return;
        }
    }
}

/// The answer is for whom it is addressed to.
fn learn(bytes: &[u8], shared: &Shared) {
    let now = Millis(clock::monotonic_ms());
    let Ok(packet) = parse(bytes) else { return };
    let Some(message) = packet.payload.get(UDP_HEADER..) else { return };
    dns::answers(message, |answer| {
        shared.names.told(packet.dst, answer.address, &answer.name, answer.ttl, now);
    });
}
