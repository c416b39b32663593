//! One flow under watch: its client's packets one after the other, until they have said what it is.

use super::stream::{Placed, StreamAssembly};
use super::{Alpn, App, Hint, Name, Odd, Ports, Sniffed, mail, quic, rdp, rtp, tls};

/// Datagrams of a client that are looked at; after them its flow stays what it is taken for.
pub const DATAGRAMS: u8 = quic::Assembly::DATAGRAMS;

/// As much of a first datagram as the second is compared with.
const COMPARED: usize = 2048;

/// What is known of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// The protocol.
    pub app: Option<App>,
    /// The host that the client names.
    pub name: Option<Name>,
    /// What the client names in place of a host.
    pub odd: Option<Odd>,
    /// What it offers to speak.
    pub alpn: Alpn,
    /// The name is a front's (see [`Hint::outer`]).
    pub outer: bool,
}

/// A flow whose client is listened to, within fixed bounds: [`DATAGRAMS`], and
/// [`StreamAssembly::MOST`] bytes of a stream.
#[derive(Debug)]
pub struct Watch {
    ports: Ports,
    heard: Heard,
    known: Known,
    /// Nothing more will be learned.
    over: bool,
}

#[derive(Debug)]
enum Heard {
    Datagrams(Datagrams),
    Stream(Option<Box<StreamAssembly>>),
}

#[derive(Debug, Default)]
struct Datagrams {
    number: u8,
    /// While it may be QUIC.
    quic: Option<quic::Assembly>,
    /// The beginning of the first, where it alone did not tell.
    first: Vec<u8>,
}

impl Watch {
    /// Begins to watch a flow of datagrams.
    #[must_use]
    pub fn datagrams(ports: Ports) -> Self {
        let datagrams = Datagrams { quic: Some(quic::Assembly::default()), ..Datagrams::default() };
        Watch::new(ports, Heard::Datagrams(datagrams))
    }

    /// Begins to watch a TCP connection.
    #[must_use]
    pub fn stream(ports: Ports) -> Self {
        Watch::new(ports, Heard::Stream(None))
    }

    fn new(ports: Ports, heard: Heard) -> Self {
        Watch { ports, heard, known: Known::default(), over: false }
    }

    /// What is known by now.
    #[must_use]
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Whether nothing more will be learned.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// What is known when nothing more comes: also what a message has told that is cut.
    #[must_use]
    pub fn so_far(&self) -> Known {
        let hint = match &self.heard {
            Heard::Datagrams(datagrams) => datagrams.quic.as_ref().and_then(quic::Assembly::so_far),
            Heard::Stream(stream) => {
                stream.as_ref().and_then(|stream| super::stream_so_far(stream.contiguous()))
            }
        };
        hint.filter(|_| self.known.name.is_none()).map_or(self.known, |hint| Known::from(&hint))
    }

    /// The client's next datagram; empty ones say nothing.
    pub fn datagram(&mut self, payload: &[u8]) {
        let Heard::Datagrams(heard) = &mut self.heard else { return };
        if self.over || payload.is_empty() {
            return;
        }
        let answer = heard.next(payload, self.ports);
        if heard.is_quic() {
            self.known.app = Some(App::Quic);
        }
        self.over = heard.number >= DATAGRAMS;
        self.learn(answer);
    }

    /// The client's next segment: the sequence number of its header, whether it is a SYN, its data.
    pub fn segment(&mut self, sequence: u32, syn: bool, data: &[u8]) {
        let Heard::Stream(stream) = &mut self.heard else { return };
        if self.over {
            return;
        }
        if syn {
            stream.get_or_insert_with(|| Box::new(StreamAssembly::after_syn(sequence)));
        }
        let stream = stream.get_or_insert_default();
        if stream.push(sequence.wrapping_add(syn.into()), data) != Placed::Grew {
            return;
        }
        let bytes = stream.contiguous();
        self.over = bytes.len() >= StreamAssembly::MOST;
        let answer = super::stream(bytes, self.ports).map(|hint| Known::from(&hint));
        let answer = behind_starttls(bytes, answer);
        self.learn(answer);
    }

    fn learn(&mut self, answer: Sniffed<Known>) {
        match answer {
            Sniffed::Certain(known) => {
                self.known = known;
                self.over |= known.name.is_some() || !may_start_tls(known.app);
            }
            Sniffed::NeedMore => {}
            Sniffed::NotMine => self.over = true,
        }
    }
}

impl Datagrams {
    fn next(&mut self, payload: &[u8], ports: Ports) -> Sniffed<Known> {
        self.number = self.number.saturating_add(1);
        if let Some(assembly) = &mut self.quic {
            match assembly.push(payload) {
                Sniffed::NotMine => self.quic = None,
                answer => return answer.map(|hint| Known::from(&hint)),
            }
        }
        if self.number == 2 && rtp::continues(&self.first, payload) {
            return Sniffed::Certain(Known { app: Some(App::Rtp), ..Known::default() });
        }
        if self.number == 1 {
            self.first = payload[..payload.len().min(COMPARED)].to_vec();
        }
        super::datagram(payload, ports).map(|hint| Known::from(&hint))
    }

    fn is_quic(&self) -> bool {
        self.quic.is_some()
    }
}

/// Whether TLS may begin in the middle of the stream.
fn may_start_tls(app: Option<App>) -> bool {
    matches!(app, Some(App::Smtp | App::Imap | App::Pop3 | App::Ftp | App::Rdp))
}

/// Mail, files and desktops stay what they are when TLS begins, and get the name that it tells.
fn behind_starttls(bytes: &[u8], answer: Sniffed<Known>) -> Sniffed<Known> {
    let Sniffed::Certain(known) = answer else { return answer };
    if !may_start_tls(known.app) {
        return answer;
    }
    let behind = mail::after_starttls(bytes).or_else(|| rdp::after_negotiation(bytes));
    match behind.map(tls::sniff) {
        Some(Sniffed::Certain(hint)) => Sniffed::Certain(Known { app: known.app, ..Known::from(&hint) }),
        _ => answer,
    }
}

impl Known {
    /// The same as a hint, where the protocol is known.
    #[must_use]
    pub fn hint(&self) -> Option<Hint<'static>> {
        let Known { app, name, odd, alpn, outer } = *self;
        app.map(|app| Hint { name, odd, alpn, outer, ..Hint::of(app) })
    }
}

impl From<&Hint<'_>> for Known {
    fn from(hint: &Hint<'_>) -> Self {
        let Hint { app, name, odd, alpn, outer, .. } = *hint;
        Known { app: Some(app), name, odd, alpn, outer }
    }
}
