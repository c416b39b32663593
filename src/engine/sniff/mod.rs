//! What a flow is, by the bytes its client sends: a payload to a [`Hint`].
//!
//! A sniffer is one file and one pure function. It sees what a client sent and
//! answers that it is sure, that the bytes so far could become its protocol, or
//! that they are something else. It is asked with hostile bytes: it never panics,
//! allocates nothing, and takes time linear in the bytes it is given.
//!
//! Sniffers say [`Sniffed::Certain`] only on structure, never on a port alone: a
//! port may break a tie between protocols that a payload fits equally well.

pub mod dtls;
pub mod quic;
pub mod stream;
pub mod text;
pub mod tls;

mod pieces;

pub use text::{Alpn, Name};

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
        Hint { app, name: None, alpn: Alpn::default(), outer: false, method: None, user_agent: None }
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
