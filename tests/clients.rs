//! Programs that people use, by their names, behind the router: curl, openssl, ssh, dig, a browser, a QUIC
//! client, a SIP client and BitTorrent peers, with dnsmasq as the resolver on the router and as one outside.
//! Each goes by the line of its rule.
//!
//! Chromium, sipsak and libtorrent are not everywhere: `setup/packages.sh tests` installs them, and a
//! test without its program says that it is skipped.

#[path = "traffic/common.rs"]
#[allow(dead_code, reason = "each test program uses its own part of this")]
mod common;
#[path = "support/http3.rs"]
mod http3;
#[path = "support/router.rs"]
mod router;
#[path = "support/wanted.rs"]
mod wanted;

#[path = "clients/browser.rs"]
mod browser;
#[path = "clients/kinds.rs"]
mod kinds;
#[path = "clients/names.rs"]
mod names;
#[path = "clients/quic.rs"]
mod quic;
#[path = "clients/torrent.rs"]
mod torrent;
#[path = "clients/town.rs"]
mod town;
