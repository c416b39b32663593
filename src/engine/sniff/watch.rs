//! One flow under watch: its client's packets one after the other, until they have said what it is.

use super::stream::StreamAssembly;
use super::{Alpn, App, Hint, Name, Ports, Sniffed, quic};

/// Datagrams of a client that are looked at before its flow stays what it is taken for.
pub const DATAGRAMS: u8 = 8;

/// What is known of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// The protocol.
    pub app: Option<App>,
    /// The host that the client names.
    pub name: Option<Name>,
    /// What it offers to speak.
    pub alpn: Alpn,
    /// The name is a front's (see [`Hint::outer`]).
    pub outer: bool,
}

/// A flow whose client is listened to. Fixed bounds: [`DATAGRAMS`], and what the assemblies
/// of QUIC and of TCP streams keep.
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
    Datagrams { number: u8, quic: Option<Box<quic::Assembly>> },
    Stream(Box<StreamAssembly>),
}

impl Watch {
    /// Begins to watch a flow of datagrams.
    #[must_use]
    pub fn datagrams(ports: Ports) -> Self {
        let heard = Heard::Datagrams { number: 0, quic: Some(Box::default()) };
        Watch { ports, heard, known: Known::default(), over: false }
    }

    /// Begins to watch a TCP connection.
    #[must_use]
    pub fn stream(ports: Ports) -> Self {
        Watch { ports, heard: Heard::Stream(Box::default()), known: Known::default(), over: false }
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

    /// The client's next datagram; empty ones say nothing.
    pub fn datagram(&mut self, payload: &[u8]) {
        let Heard::Datagrams { number, quic } = &mut self.heard else { return };
        if self.over || payload.is_empty() {
            return;
        }
        *number += 1;
        let last = *number == DATAGRAMS;
        let by_quic = quic.as_mut().map_or(Sniffed::NotMine, |assembly| assembly.push(payload));
        let answer = match by_quic {
            Sniffed::NotMine => {
                *quic = None;
                super::datagram(payload, self.ports)
            }
            answer => {
                self.known.app = Some(App::Quic);
                answer
            }
        };
        self.take(answer, last);
    }

    /// The client's next segment: the sequence number of its first byte, and its bytes.
    pub fn segment(&mut self, sequence: u32, payload: &[u8]) {
        let Heard::Stream(stream) = &mut self.heard else { return };
        if self.over || payload.is_empty() {
            return;
        }
        stream.push(sequence, payload);
        let last = stream.is_full();
        let answer = super::stream(stream.contiguous(), self.ports).map(|hint| Known::from(&hint));
        self.learn(answer, last);
    }

    fn take(&mut self, answer: Sniffed<Hint<'_>>, last: bool) {
        self.learn(answer.map(|hint| Known::from(&hint)), last);
    }

    fn learn(&mut self, answer: Sniffed<Known>, last: bool) {
        match answer {
            Sniffed::Certain(known) => {
                self.known = known;
                self.over = true;
            }
            Sniffed::NeedMore => self.over = last,
            Sniffed::NotMine => self.over = true,
        }
    }
}

impl From<&Hint<'_>> for Known {
    fn from(hint: &Hint<'_>) -> Self {
        Known { app: Some(hint.app), name: hint.name, alpn: hint.alpn, outer: hint.outer }
    }
}
