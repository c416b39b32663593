//! Looks after some of the TCP connections that workers have decided, whether they get answers.

use super::health::Suspicions;
use super::shared::Event;
use crate::engine::flow::{FlowKey, Millis};
use crate::engine::uplink::silence::Silence;
use crate::engine::verdict::Action;
use crate::system::clock;
use crate::system::conntrack::{Conntrack, Ends, Tuple};

/// `IPS_SEEN_REPLY`, include/uapi/linux/netfilter/nf_conntrack_common.h.
const SEEN_REPLY: u32 = 1 << 1;

/// What one thread watches.
pub struct Vigil {
    silence: Silence,
    /// Opened when it is first needed, by the thread that needs it.
    table: Option<Conntrack>,
    suspicions: Suspicions,
}

impl Vigil {
    /// Tells these of lines that fall silent.
    #[must_use]
    pub fn new(suspicions: Suspicions) -> Self {
        Self { silence: Silence::default(), table: None, suspicions }
    }

    /// A worker has decided a flow.
    pub fn decided(&mut self, event: &Event) {
        if let Action::Route(uplink) = event.decision.action {
            self.silence.began(event.key, uplink, Millis(event.at));
        }
    }

    /// Looks at the connections whose time has come. One that is over says nothing, nor does a table
    /// that cannot be read.
    pub fn look(&mut self) {
        while let Some(begun) = self.silence.poll(Millis(clock::monotonic_ms())) {
            let Some(is_answered) = self.is_answered(&begun.key) else { continue };
            if let Some((uplink, family)) = self.silence.seen(&begun, is_answered) {
                self.suspicions.tell(uplink, family);
            }
        }
    }

    fn is_answered(&mut self, key: &FlowKey) -> Option<bool> {
        if self.table.is_none() {
            self.table = Conntrack::open().ok();
        }
        let flow = self.table.as_mut()?.find(&tuple(key)).ok()??;
        Some(flow.status & SEEN_REPLY != 0)
    }
}

fn tuple(key: &FlowKey) -> Tuple {
    let ends = Ends::Ports { src: key.src_port, dst: key.dst_port };
    Tuple { src: key.src, dst: key.dst, protocol: key.protocol, ends }
}
