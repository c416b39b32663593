//! What a flow is, by the bytes its client sends: a payload to a [`Hint`].
//!
//! A sniffer is one file and one pure function. It sees what a client sent and
//! answers that it is sure, that the bytes so far could become its protocol, or
//! that they are something else. It is asked with hostile bytes: it never panics,
//! allocates nothing, and takes time linear in the bytes it is given.
//!
//! Sniffers say [`Sniffed::Certain`] only on structure, never on a port alone: a
//! port may break a tie between protocols that a payload fits equally well.

mod bytes;
mod pieces;

pub mod bittorrent;
pub mod dns;
pub mod dtls;
pub mod ftp;
pub mod http;
pub mod http2;
pub mod ipsec;
pub mod mail;
pub mod media;
pub mod ntp;
pub mod openvpn;
pub mod pattern;
pub mod quic;
pub mod rdp;
pub mod rtp;
pub mod sip;
pub mod snmp;
pub mod ssh;
pub mod stream;
pub mod stun;
pub mod text;
pub mod tls;
pub mod watch;
pub mod wireguard;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

pub use text::{Alpn, Name, Odd};

/// One sniffer; most need no ports.
type Sniffer = for<'a> fn(&'a [u8], Ports) -> Sniffed<Hint<'a>>;

/// Those of datagrams: the surer a signature is, the earlier it is asked for.
const DATAGRAM: &[Sniffer] = &[
    |payload, _| quic::sniff(payload),
    |payload, _| dtls::sniff(payload),
    stun::sniff,
    |payload, _| wireguard::sniff(payload),
    |payload, _| bittorrent::sniff(payload),
    |payload, _| openvpn::sniff(payload),
    ipsec::sniff,
    |payload, _| whole(sip::sniff(payload)),
    |payload, _| snmp::sniff(payload),
    |payload, _| rdp::sniff(payload),
    dns::sniff,
    ntp::sniff,
    media::sniff,
    rtp::sniff,
];

/// Those of streams.
const STREAM: &[Sniffer] = &[
    |bytes, _| tls::sniff(bytes),
    |bytes, _| http::sniff(bytes),
    |bytes, _| http2::sniff(bytes),
    |bytes, _| ssh::sniff(bytes),
    |bytes, _| bittorrent::sniff_stream(bytes),
    |bytes, _| rdp::sniff_stream(bytes),
    |bytes, _| stun::sniff_stream(bytes),
    |bytes, _| sip::sniff(bytes),
    |bytes, _| dns::sniff_stream(bytes),
    |bytes, _| openvpn::sniff_stream(bytes),
    mail::sniff,
    ftp::sniff,
];

/// What a UDP flow is, by its first datagram. [`Sniffed::NeedMore`] asks for the next one too.
#[must_use]
pub fn datagram(payload: &[u8], ports: Ports) -> Sniffed<Hint<'_>> {
    ask(DATAGRAM, payload, ports)
}

/// What a TCP flow is, by all that its client has sent from its first byte on.
#[must_use]
pub fn stream(bytes: &[u8], ports: Ports) -> Sniffed<Hint<'_>> {
    ask(STREAM, bytes, ports)
}

/// What the beginning of a stream has told of a flow that is cut before it says all: a name that stands in the
/// part which is there. Whether that is a front's is not known then.
#[must_use]
pub fn stream_so_far(bytes: &[u8]) -> Option<Hint<'_>> {
    tls::so_far(bytes).or_else(|| http::so_far(bytes)).filter(|hint| hint.name.is_some())
}

/// The first that is sure; else whether any of them waits.
fn ask<'a>(sniffers: &[Sniffer], bytes: &'a [u8], ports: Ports) -> Sniffed<Hint<'a>> {
    let mut answer = Sniffed::NotMine;
    for sniffer in sniffers {
        match sniffer(bytes, ports) {
            Sniffed::NotMine => {}
            Sniffed::NeedMore => answer = Sniffed::NeedMore,
            certain => return certain,
        }
    }
    answer
}

/// The answer about a protocol of which no message goes on in a second datagram.
fn whole(answer: Sniffed<Hint<'_>>) -> Sniffed<Hint<'_>> {
    if answer == Sniffed::NeedMore { Sniffed::NotMine } else { answer }
}

/// A sniffer's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniffed<T> {
    /// It is this, and all that can be learned is learned.
    Certain(T),
    /// It may be, or it is and has not said its name: the next bytes of the client will tell.
    NeedMore,
    /// It is something else.
    NotMine,
}

/// What a client's bytes say about its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint<'a> {
    /// The protocol.
    pub app: App,
    /// The host that the client names as the one it wants.
    pub name: Option<Name>,
    /// What the client names in place of a host.
    pub odd: Option<Odd>,
    /// What it offers to speak, where it says so.
    pub alpn: Alpn,
    /// The name is that of an outer ClientHello (RFC 9849): a front's, not the site's.
    pub outer: bool,
    /// HTTP request method.
    pub method: Option<&'a [u8]>,
    /// HTTP `User-Agent`.
    pub user_agent: Option<&'a [u8]>,
}

/// The ports of a flow as its client sends: where a payload fits several protocols, they decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ports {
    /// The client's.
    pub src: u16,
    /// The server's.
    pub dst: u16,
}

impl Hint<'_> {
    /// A flow of which only the protocol is known.
    #[must_use]
    pub fn of(app: App) -> Self {
        Hint {
            app,
            name: None,
            odd: None,
            alpn: Alpn::default(),
            outer: false,
            method: None,
            user_agent: None,
        }
    }

    /// A flow whose client names its host.
    #[must_use]
    pub fn named(app: App, name: Option<Name>) -> Self {
        Hint { name, ..Hint::of(app) }
    }
}

impl<T> Sniffed<T> {
    /// The same answer about something made of it.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Sniffed<U> {
        match self {
            Sniffed::Certain(value) => Sniffed::Certain(make(value)),
            Sniffed::NeedMore => Sniffed::NeedMore,
            Sniffed::NotMine => Sniffed::NotMine,
        }
    }

    /// The answer about what follows something of which this is the answer.
    pub fn and_then<U>(self, next: impl FnOnce(T) -> Sniffed<U>) -> Sniffed<U> {
        match self {
            Sniffed::Certain(value) => next(value),
            Sniffed::NeedMore => Sniffed::NeedMore,
            Sniffed::NotMine => Sniffed::NotMine,
        }
    }

    /// The answer of both: whichever is sure, this one first; else whether one of them waits.
    pub fn or(self, other: impl FnOnce() -> Sniffed<T>) -> Sniffed<T> {
        match self {
            Sniffed::Certain(_) => self,
            Sniffed::NotMine => other(),
            Sniffed::NeedMore => match other() {
                Sniffed::NotMine => Sniffed::NeedMore,
                answer => answer,
            },
        }
    }
}

macro_rules! apps {
    ($($(#[$doc:meta])* $app:ident = $name:literal,)*) => {
        /// What a flow was taken for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum App {
            $($(#[$doc])* $app,)*
        }

        impl App {
            /// All of them, each at its [`App::index`].
            pub const ALL: &'static [App] = &[$(App::$app,)*];

            /// Its name in rules and in what people read.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(App::$app => $name,)*
                }
            }
        }
    };
}

apps! {
    /// TLS over TCP (RFC 8446).
    Tls = "tls",
    /// QUIC in any version, Google's own included (RFC 9000, RFC 9369).
    Quic = "quic",
    /// HTTP/1 (RFC 9112).
    Http = "http",
    /// HTTP/2 in the clear (RFC 9113).
    Http2 = "http2",
    /// DNS (RFC 1035).
    Dns = "dns",
    /// Multicast DNS (RFC 6762).
    Mdns = "mdns",
    /// DTLS (RFC 9147).
    Dtls = "dtls",
    /// SSH (RFC 4253).
    Ssh = "ssh",
    /// STUN and TURN (RFC 8489, RFC 8656).
    Stun = "stun",
    /// RTP (RFC 3550).
    Rtp = "rtp",
    /// RTCP (RFC 3550).
    Rtcp = "rtcp",
    /// SIP (RFC 3261).
    Sip = "sip",
    /// WireGuard.
    Wireguard = "wireguard",
    /// OpenVPN.
    Openvpn = "openvpn",
    /// IKE and ESP in UDP (RFC 7296, RFC 3948).
    Ipsec = "ipsec",
    /// BitTorrent: peers, DHT, trackers (BEP 3, 5, 15, 29).
    Bittorrent = "bittorrent",
    /// Mail to a server (RFC 5321).
    Smtp = "smtp",
    /// Mail read on a server (RFC 9051).
    Imap = "imap",
    /// Mail fetched from a server (RFC 1939).
    Pop3 = "pop3",
    /// FTP's control connection (RFC 959).
    Ftp = "ftp",
    /// Remote desktops ([MS-RDPBCGR]).
    Rdp = "rdp",
    /// Time (RFC 5905).
    Ntp = "ntp",
    /// Network management (RFC 3416).
    Snmp = "snmp",
    /// Media of Microsoft Teams.
    Teams = "teams",
    /// Media of Zoom.
    Zoom = "zoom",
    /// Media of Discord.
    Discord = "discord",
}

impl App {
    /// Its place in [`App::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// Whether [`stream()`] tells it and [`datagram`] never does.
    #[must_use]
    pub fn only_over_tcp(self) -> bool {
        use App::{Ftp, Http, Http2, Imap, Pop3, Smtp, Ssh, Tls};
        matches!(self, Tls | Http | Http2 | Ssh | Smtp | Imap | Pop3 | Ftp)
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<App> {
        App::ALL.iter().copied().find(|app| app.as_str() == name)
    }
}

impl std::fmt::Display for App {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.as_str())
    }
}
