//! The conversations of a capture: who is the client, what is known of each, which have ended.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use foldhash::quality::RandomState;

use crate::engine::flow::{Facts, FlowKey, Millis};
use crate::engine::names::{Names, Origin};
use crate::engine::packet::Packet;
use crate::engine::sniff::watch::{Known, Watch};
use crate::engine::sniff::{Alpn, App, Name, Ports, dns};
use crate::engine::verdict::Decision;

/// Conversations that are kept at one time; with more, those that were silent longest end.
const MOST: usize = 65_536;
/// Conversations that are listened to at one time: each keeps some kilobytes.
const LISTENED_TO: usize = 8_192;
/// Names in DNS questions that are kept of all conversations together; of further ones only the first.
const ASKED: usize = 65_536;
/// A conversation that was silent for so long has ended.
const SILENCE: Duration = Duration::from_secs(300);

const TCP: u8 = 6;
const UDP: u8 = 17;
const DNS: u16 = 53;

/// One conversation.
#[derive(Debug)]
pub struct Flow {
    /// Its place in the order of first packets, from 0.
    pub number: u64,
    /// As its client sends.
    pub key: FlowKey,
    /// The ports are real ones.
    pub has_ports: bool,
    /// Packets of both sides.
    pub packets: u64,
    /// Bytes of both sides, IP headers included.
    pub bytes: u64,
    /// What it was taken for.
    pub app: Option<App>,
    /// What its client asks for that can be no host's name, and at which packet: an address in place
    /// of a host, an odd name in a DNS question.
    pub said: Option<(Box<str>, u64)>,
    /// All names in its DNS questions, in lower case.
    pub asked: BTreeSet<Box<str>>,
    /// What its client offers to speak.
    pub alpn: Alpn,
    /// What it is called.
    pub name: Option<Learned>,
    /// What the engine decides about it.
    pub decision: Option<Decision>,
    /// What it is decided by, where there are rules to decide it.
    pub facts: Option<Facts<'static>>,
    watch: Option<Box<Watch>>,
    /// When its last packet came.
    pub(super) last: Duration,
    closing: bool,
}

/// A name, and how it was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learned {
    /// The name.
    pub name: Name,
    /// How.
    pub from: From,
    /// At which packet of the flow, counted from 1.
    pub packet: u64,
}

/// How a name was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The client said it itself.
    OwnBytes,
    /// A DNS answer gave the name this address.
    Dns,
    /// An earlier flow to the same address and port.
    EarlierFlow,
}

impl From {
    /// Its name for programs and people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            From::OwnBytes => "own bytes",
            From::Dns => "dns",
            From::EarlierFlow => "earlier flow",
        }
    }
}

/// A packet's place among conversations.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub packet: Packet<'a>,
    pub at: Duration,
    /// TCP's head, where it is TCP.
    pub tcp: Option<Tcp>,
    /// What the transport protocol carries.
    pub data: &'a [u8],
}

/// What matters of a TCP header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tcp {
    pub sequence: u32,
    pub syn: bool,
    pub ack: bool,
    /// FIN or RST.
    pub ends: bool,
}

/// Conversations by both ends, whoever is named first.
#[derive(Debug)]
pub(super) struct Flows {
    open: HashMap<FlowKey, Flow, RandomState>,
    listened_to: usize,
    /// Names in DNS questions.
    asked: usize,
    began: u64,
    /// Packets since the silent ones were last looked for.
    since: usize,
}

impl Flows {
    pub(super) fn new() -> Self {
        Flows {
            open: HashMap::with_hasher(RandomState::default()),
            listened_to: 0,
            asked: 0,
            began: 0,
            since: 0,
        }
    }

    /// Adds a packet to its conversation, new or not; what has ended meanwhile goes to `ended`.
    pub(super) fn add(&mut self, seen: &Seen<'_>, names: &Names, ended: &mut dyn FnMut(Flow)) -> &mut Flow {
        self.forget_silent(seen.at, ended);
        let key = conversation(&seen.packet);
        let both = either_way(key);
        if self.open.get(&both).is_some_and(|flow| flow.is_over_for(seen))
            && let Some(flow) = self.open.remove(&both)
        {
            self.end(flow, ended);
        }
        let Flows { open, listened_to, asked, began, .. } = self;
        let flow = open.entry(both).or_insert_with(|| {
            let key = client_first(key, seen);
            let watch = if *listened_to < LISTENED_TO { watch(&seen.packet, key) } else { None };
            *listened_to += usize::from(watch.is_some());
            *began += 1;
            Flow::new(*began - 1, key, seen, watch)
        });
        if flow.listen(seen, names) {
            *listened_to -= 1;
        }
        if *asked < ASKED {
            *asked += flow.listen_for_questions(seen);
        }
        flow
    }

    /// Ends all that are left, in the order in which they began.
    pub(super) fn end_all(&mut self, ended: &mut dyn FnMut(Flow)) {
        self.end_those(|_| true, ended);
    }

    fn end(&mut self, flow: Flow, ended: &mut dyn FnMut(Flow)) {
        self.listened_to -= usize::from(flow.watch.is_some());
        self.asked -= flow.asked.len();
        ended(flow);
    }

    /// Looks at all conversations, but only after as many packets as there are of them.
    fn forget_silent(&mut self, now: Duration, ended: &mut dyn FnMut(Flow)) {
        self.since += 1;
        if self.open.len() >= MOST {
            let oldest = self.median_age();
            self.end_those(|flow| flow.last <= oldest, ended);
        } else if self.since > self.open.len() + 1000 {
            self.end_those(|flow| now.saturating_sub(flow.last) > SILENCE, ended);
        }
    }

    fn median_age(&self) -> Duration {
        let mut ages: Vec<Duration> = self.open.values().map(|flow| flow.last).collect();
        let middle = ages.len() / 2;
        *ages.select_nth_unstable(middle).1
    }

    fn end_those(&mut self, is_over: impl Fn(&Flow) -> bool, ended: &mut dyn FnMut(Flow)) {
        self.since = 0;
        let mut over: Vec<Flow> =
            self.open.extract_if(|_, flow| is_over(flow)).map(|(_, flow)| flow).collect();
        over.sort_by_key(|flow| flow.number);
        over.into_iter().for_each(|flow| self.end(flow, ended));
    }
}

impl Flow {
    fn new(number: u64, key: FlowKey, seen: &Seen<'_>, watch: Option<Box<Watch>>) -> Self {
        Flow {
            number,
            key,
            has_ports: seen.packet.ports.is_some(),
            packets: 0,
            bytes: 0,
            app: None,
            said: None,
            asked: BTreeSet::new(),
            alpn: Alpn::default(),
            name: None,
            decision: None,
            facts: None,
            watch,
            last: seen.at,
            closing: false,
        }
    }

    /// What it is called, how that was learned, and at which packet. What a client asks for that
    /// can be no host's name is better than nothing.
    #[must_use]
    pub fn known_as(&self) -> Option<(String, From, u64)> {
        let name = self.name.map(|learned| (learned.name.to_string(), learned.from, learned.packet));
        let said = self.said.as_ref().map(|(said, packet)| (said.to_string(), From::OwnBytes, *packet));
        match name {
            Some((_, From::OwnBytes, _)) => name,
            _ => said.or(name),
        }
    }

    /// The client's address, with its port where there are ports.
    #[must_use]
    pub fn client(&self) -> String {
        self.end(self.key.src, self.key.src_port)
    }

    /// The server's address, with its port where there are ports.
    #[must_use]
    pub fn server(&self) -> String {
        self.end(self.key.dst, self.key.dst_port)
    }

    fn end(&self, address: IpAddr, port: u16) -> String {
        if self.has_ports { SocketAddr::new(address, port).to_string() } else { address.to_string() }
    }

    /// Whether the client sent this packet.
    fn is_clients(&self, packet: &Packet<'_>) -> bool {
        let key = conversation(packet);
        (key.src, key.src_port) == (self.key.src, self.key.src_port)
    }

    /// Whether its client may still say what it is.
    pub(super) fn is_listened_to(&self) -> bool {
        self.watch.is_some()
    }

    /// Whether a packet with the same ends begins another conversation.
    fn is_over_for(&self, seen: &Seen<'_>) -> bool {
        let begins = seen.tcp.is_some_and(|tcp| tcp.syn && !tcp.ack);
        (self.closing && begins) || seen.at.saturating_sub(self.last) > SILENCE
    }

    /// Counts a packet and takes in what it says; true when nothing more will be said.
    fn listen(&mut self, seen: &Seen<'_>, names: &Names) -> bool {
        self.packets += 1;
        self.bytes += u64::from(seen.packet.length);
        self.last = seen.at;
        self.closing |= seen.tcp.is_some_and(|tcp| tcp.ends);
        if self.packets == 1 {
            self.name = self.known_name(names, millis(seen.at));
        }
        let is_clients = self.is_clients(&seen.packet);
        let Some(watch) = self.watch.as_mut().filter(|_| is_clients) else { return false };
        match seen.tcp {
            Some(tcp) => watch.segment(tcp.sequence, tcp.syn, seen.data),
            None => watch.datagram(seen.data),
        }
        let (known, over) = (*watch.known(), watch.is_over());
        self.take_in(&known, seen, names);
        if over {
            self.watch = None;
        }
        over
    }

    fn take_in(&mut self, known: &Known, seen: &Seen<'_>, names: &Names) {
        self.app = known.app.or(self.app);
        self.alpn = known.alpn;
        if let (Some(odd), None) = (known.odd, &self.said) {
            self.said = Some((odd.to_string().into(), self.packets));
        }
        let said = known.name.filter(|_| self.name.is_none_or(|learned| learned.from != From::OwnBytes));
        let Some(name) = said else { return };
        self.name = Some(Learned { name, from: From::OwnBytes, packet: self.packets });
        if self.key.protocol == TCP && !known.outer {
            names.said(self.key.src, self.key.dst, self.key.dst_port, &name, millis(seen.at));
        }
    }

    /// A capture may end, or its packets be cut, in the middle of what the client says.
    pub(super) fn take_what_is_there(&mut self) {
        let Some(watch) = self.watch.take() else { return };
        let known = watch.so_far();
        self.app = known.app.or(self.app);
        if let Some(name) =
            known.name.filter(|_| self.name.is_none_or(|learned| learned.from != From::OwnBytes))
        {
            self.alpn = known.alpn;
            self.name = Some(Learned { name, from: From::OwnBytes, packet: self.packets });
        }
    }

    /// Takes in what a DNS message asks; an answer repeats it, so one without its question tells it
    /// too. Returns how many new names there are.
    fn listen_for_questions(&mut self, seen: &Seen<'_>) -> usize {
        let is_dns = matches!(self.app, Some(App::Dns | App::Mdns));
        let ports = Ports { src: self.key.src_port, dst: self.key.dst_port };
        // Over TCP each message stands behind its length, and usually in a segment of its own.
        let message = if seen.tcp.is_some() { seen.data.get(2..) } else { Some(seen.data) };
        let (Some(message), true) = (message, is_dns || ports.dst == DNS) else { return 0 };
        let before = self.asked.len();
        dns::questions(message, ports, |name| {
            let name = name.into_boxed_str();
            self.app.get_or_insert(App::Dns);
            self.said.get_or_insert_with(|| (name.clone(), self.packets));
            self.asked.insert(name);
        });
        self.asked.len() - before
    }

    fn known_name(&self, names: &Names, now: Millis) -> Option<Learned> {
        let (name, origin) = names.of(self.key.src, self.key.dst, self.key.dst_port, now)?;
        let from = match origin {
            Origin::Client | Origin::Address => From::Dns,
            Origin::Said | Origin::Service => From::EarlierFlow,
        };
        Some(Learned { name, from, packet: 1 })
    }
}

/// Capture time on the clock of the engine.
pub(super) fn millis(at: Duration) -> Millis {
    Millis(u64::try_from(at.as_millis()).unwrap_or(u64::MAX))
}

fn watch(packet: &Packet<'_>, key: FlowKey) -> Option<Box<Watch>> {
    let ports = Ports { src: key.src_port, dst: key.dst_port };
    match packet.protocol {
        TCP => Some(Box::new(Watch::stream(ports))),
        UDP => Some(Box::new(Watch::datagrams(ports))),
        _ => None,
    }
}

/// A packet's key; without ports both ends count as one, so that a ping's answer belongs to it.
fn conversation(packet: &Packet<'_>) -> FlowKey {
    let key = FlowKey::of(packet);
    if packet.ports.is_some() { key } else { FlowKey { dst_port: key.src_port, ..key } }
}

/// One key for both directions.
fn either_way(key: FlowKey) -> FlowKey {
    let back = reverse(key);
    if (key.src, key.src_port) <= (key.dst, key.dst_port) { key } else { back }
}

fn reverse(key: FlowKey) -> FlowKey {
    FlowKey { src: key.dst, dst: key.src, src_port: key.dst_port, dst_port: key.src_port, ..key }
}

/// The key as the client sends. Who sends first is the client, unless the handshake, a well-known
/// port or what is said tells that the capture begins with an answer.
fn client_first(key: FlowKey, seen: &Seen<'_>) -> FlowKey {
    let is_answer = match seen.tcp {
        Some(tcp) if tcp.syn => tcp.ack,
        _ if seen.packet.ports.is_none() => false,
        _ => (key.src_port < 1024 && key.dst_port >= 1024) || speaks_as_server(seen.data),
    };
    if is_answer { reverse(key) } else { key }
}

/// An HTTP/1 status line, or a TLS handshake record with a ServerHello.
fn speaks_as_server(data: &[u8]) -> bool {
    data.starts_with(b"HTTP/1.") || matches!(data, [22, 3, _, _, _, 2, ..])
}
