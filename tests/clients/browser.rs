//! Chromium without a window: its ClientHello with a post-quantum key share, over TCP and over QUIC.

use std::net::{IpAddr, SocketAddr};

use crate::http3::PAGE;
use crate::router::*;
use crate::town::{EACH, Town, name_of};
use crate::wanted::is_there;
use wansplit::engine::packet::Family;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The part of Chromium that needs no screen (Debian: `chromium-headless-shell`).
const PROGRAM: &str = "chromium-headless-shell";

/// Nothing but what a page needs: no sandbox for root, and nobody at home to call.
const FLAGS: &str = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update \
                     --timeout=15000 --dump-dom";

/// How the site's certificate, which nobody vouches for, is known to the browser: over QUIC there is no other way.
const KEY: &str = "openssl x509 -in cert.pem -pubkey -noout | openssl pkey -pubin -outform der | \
                   openssl dgst -sha256 -binary | openssl base64";

#[test]
fn a_browser_goes_by_the_line_of_the_name_over_tls_and_over_quic() {
    let backends = backends();
    let Some(backend) = backends.first().filter(|_| is_there(PROGRAM)) else { return };
    with_an_open_gate(|| visit_all(Town::new(backend)));
}

fn visit_all(mut town: Town) {
    for family in Family::BOTH {
        over_tls(&town, family);
        over_quic(&town, family);
    }
    let holds = &town.router.status()["holds"];
    // Its key share makes a hello of two datagrams; one that came late on a busy machine counts as well.
    assert!(holds["held"].as_u64() >= Some(2 * EACH as u64), "{holds}");
    town.router.stop();
}

/// The resolver's answer comes first, so the first connection is on the line of the name.
fn over_tls(town: &Town, family: Family) {
    let to = SocketAddr::new(town.site.of(family), 443);
    let address = format!("https://{}/", name_of(family));
    let command = visit(town, "--disable-quic", &address, "s_server");
    let by = town.lines_to(TCP, to, || town.run(0, resolver(town, family), &command, EACH));
    // A browser opens more connections than it needs, as it likes.
    assert!(by.keys().all(|line| **line == *"wan2"), "{family}: {by:?}\n{}", town.router.said());
    assert!(by.values().sum::<usize>() >= EACH, "{family}: {by:?}");
}

/// Without the resolver: the name is in the hello alone, over two datagrams.
fn over_quic(town: &Town, family: Family) {
    let to = SocketAddr::new(town.site.of(family), 443);
    for (name, line) in [("www.video.example", "wan2"), ("git.example", "wan1")] {
        let literal = if to.is_ipv6() { format!("[{}]", to.ip()) } else { to.ip().to_string() };
        let flags =
            format!("--origin-to-force-quic-on={name}:443 '--host-resolver-rules=MAP {name} {literal}'");
        let command = visit(town, &flags, &format!("https://{name}/"), PAGE);
        let by = town.lines_to(UDP, to, || town.run(1, resolver(town, family), &command, EACH));
        assert!(by.keys().all(|by| **by == *line), "{family} {name}: {by:?}\n{}", town.router.said());
        assert!(by.values().sum::<usize>() >= EACH, "{family} {name}: {by:?}");
    }
}

/// Looks at a page that must hold these words, with nothing remembered from before.
fn visit(town: &Town, flags: &str, address: &str, words: &str) -> String {
    let directory = town.router.files.path().display();
    format!(
        "cd {directory}; rm -rf browser; HOME=$PWD/browser {PROGRAM} {FLAGS} --user-data-dir=$PWD/browser \
         --ignore-certificate-errors-spki-list=$({KEY}) {flags} {address} 2> browser.log | \
         grep -q '{words}' || {{ tail -5 browser.log >&2; exit 1; }}"
    )
}

fn resolver(town: &Town, family: Family) -> IpAddr {
    town.resolvers[0].of(family)
}
