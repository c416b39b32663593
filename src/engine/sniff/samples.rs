//! First bytes of every protocol, for the tests.

use super::{App, Ports};

/// A first payload, the ports it goes by, and what it is.
pub(super) struct Sample {
    pub app: App,
    pub bytes: Vec<u8>,
    pub ports: Ports,
}

/// First datagrams, one or more of each protocol over UDP.
pub(super) fn datagrams() -> Vec<Sample> {
    let mut question = vec![0; 74];
    question[..8].copy_from_slice(&[0, 1, 0, 70, 9, 8, 7, 6]);
    let mut time = vec![0; 48];
    time[0] = 0x23;
    let mut remote = vec![0; 1232];
    remote[..16].copy_from_slice(&[255, 255, 255, 255, 0, 64, 0, 1, 1, 2, 3, 4, 4, 208, 4, 208]);
    vec![
        sample(App::Dns, 53, &dns_query("www.example.org", 1)),
        sample(App::Mdns, 5353, &dns_query("printer.local", 12)),
        sample(App::Stun, 3478, &stun(&[])),
        sample(App::Stun, 3478, &[&[0, 1, 0, 0][..], &[0x5a; 16]].concat()),
        sample(App::Stun, 3478, &[0x40, 1, 0, 4, 1, 2, 3, 4]),
        sample(App::Teams, 3480, &stun(&[0x80, 0x55, 0, 4, 0, 1, 0, 0])),
        sample(App::Discord, 50001, &question),
        sample(App::Zoom, 8801, &[&[5, 0, 1, 0, 0, 0, 0, 0, 15][..], &[0; 18], &rtp(112, 40)].concat()),
        sample(App::Rtp, 16384, &rtp(0, 160)),
        sample(App::Rtcp, 16385, &[0x80, 201, 0, 1, 1, 2, 3, 4]),
        sample(App::Sip, 5060, b"REGISTER sip:example.org SIP/2.0\r\nVia: x\r\n\r\n"),
        sample(App::Wireguard, 51820, &[&[1, 0, 0, 0][..], &[0x5a; 144]].concat()),
        sample(App::Openvpn, 1194, &[&[0x38][..], &[0x5a; 8], &[0; 5]].concat()),
        sample(App::Ipsec, 500, &ike()),
        sample(App::Ipsec, 4500, &[&[0; 4][..], &ike()].concat()),
        sample(App::Ipsec, 4500, &[&[0xc0, 1, 2, 3, 0, 0, 0, 1][..], &[0x77; 40]].concat()),
        sample(App::Ipsec, 4500, &[0xff]),
        sample(App::Bittorrent, 6881, b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe"),
        sample(App::Bittorrent, 6969, &[0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 1, 2, 3, 4]),
        sample(App::Bittorrent, 6881, &[0x41, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 16, 0, 0, 7, 8, 0, 0]),
        sample(App::Ntp, 123, &time),
        sample(App::Snmp, 161, &[0x30, 15, 2, 1, 1, 4, 6, b'p', b'u', b'b', b'l', b'i', b'c', 0xa0, 2, 5, 0]),
        sample(App::Rdp, 3389, &remote),
    ]
}

/// What clients send first in a stream, one or more of each protocol over TCP.
pub(super) fn streams() -> Vec<Sample> {
    let query = dns_query("www.example.org", 1);
    let cookie = [&[3, 0, 0, 32, 27, 0xe0, 0, 0, 0, 0, 0][..], b"Cookie: mstshash=me\r\n"].concat();
    vec![
        sample(
            App::Http,
            80,
            b"GET / HTTP/1.1\r\nHost: a.example\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n",
        ),
        sample(App::Http, 3128, b"CONNECT a.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n"),
        sample(App::Http2, 80, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        sample(App::Bittorrent, 80, b"GET /announce?info_hash=%12 HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        sample(App::Bittorrent, 6881, &[&b"\x13BitTorrent protocol"[..], &[0; 8]].concat()),
        sample(App::Dns, 53, &[&(query.len() as u16).to_be_bytes()[..], &query].concat()),
        sample(App::Ssh, 22, b"SSH-2.0-OpenSSH_9.6\r\n"),
        sample(App::Stun, 3478, &stun(&[])),
        sample(App::Sip, 5060, b"INVITE sip:a@example.org SIP/2.0\r\n"),
        sample(App::Openvpn, 1194, &[&[0, 14, 0x38][..], &[0x5a; 8], &[0; 5]].concat()),
        sample(App::Smtp, 25, b"EHLO laptop.example\r\nSTARTTLS\r\n"),
        sample(App::Imap, 143, b"a1 CAPABILITY\r\n"),
        sample(App::Pop3, 110, b"CAPA\r\n"),
        sample(App::Pop3, 110, b"USER me\r\nPASS pw\r\n"),
        sample(App::Ftp, 21, b"USER me\r\nPASS pw\r\n"),
        sample(App::Ftp, 21, b"AUTH TLS\r\n"),
        sample(App::Rdp, 3389, &cookie),
    ]
}

/// A query with one question.
pub(super) fn dns_query(name: &str, kind: u16) -> Vec<u8> {
    let header = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&header[..], &dns_name(name), &kind.to_be_bytes(), &[0, 1]].concat()
}

/// An answer with records of owner, type, TTL and data.
pub(super) fn dns_answer(name: &str, kind: u16, records: &[(&str, u16, u32, &[u8])]) -> Vec<u8> {
    let mut message = dns_query(name, kind);
    message[2] = 0x81;
    message[3] = 0x80;
    message[7] = records.len() as u8;
    for (owner, kind, ttl, data) in records {
        message.extend(dns_name(owner));
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message.extend(ttl.to_be_bytes());
        message.extend((data.len() as u16).to_be_bytes());
        message.extend_from_slice(data);
    }
    message
}

/// A name as DNS writes it.
pub(super) fn dns_name(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> =
        labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    bytes.push(0);
    bytes
}

fn sample(app: App, dst: u16, bytes: &[u8]) -> Sample {
    Sample { app, bytes: bytes.to_vec(), ports: Ports { src: 40000, dst } }
}

fn stun(body: &[u8]) -> Vec<u8> {
    [&[0, 1, 0, body.len() as u8, 0x21, 0x12, 0xa4, 0x42][..], &[0x3c; 12], body].concat()
}

fn rtp(payload_type: u8, media: usize) -> Vec<u8> {
    [&[0x80, payload_type, 0, 9, 0, 0, 0, 160, 1, 2, 3, 4][..], &vec![0xd5; media]].concat()
}

fn ike() -> Vec<u8> {
    [&[7; 8][..], &[0; 8], &[33, 0x20, 34, 8, 0, 0, 0, 0, 0, 0, 0, 40], &[9; 12]].concat()
}
