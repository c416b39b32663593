//! Every protocol, fragments, options, and what belongs to a flow without being of it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockRef, Socket, Type};

use crate::common::*;
use crate::router::*;
use wansplit::engine::packet::Family;
use wansplit::lab::flows::Flows;
use wansplit::lab::host::Host;
use wansplit::lab::traffic::craft::{Header, esp, gre, protocol, sctp_init, udp as datagram};
use wansplit::lab::traffic::{Pace, UdpFlows, send_packets};

const ICMP: u8 = 1;
/// Packets of each flow, and flows of each protocol with ports.
const PACKETS: usize = 4;
const FLOWS: u16 = 16;

#[test]
fn every_protocol_leaves_by_one_line_a_flow_with_that_lines_source() {
    for_each_backend(every_protocol_keeps_its_line);
}

fn every_protocol_keeps_its_line(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    router.start();
    for family in Family::BOTH {
        let odd = [protocol::SCTP, protocol::GRE, protocol::ESP, protocol::EXPERIMENT];
        for (options, dscp) in [(false, 0), (true, 0), (false, 46)] {
            for protocol in odd {
                let flows = sent(&router, family, Header { options, dscp, ..plain(protocol) });
                let expected = if protocol == protocol::SCTP { usize::from(FLOWS) } else { 2 };
                assert_eq!(flows.carried.len(), expected, "protocol {protocol} {family}");
                assert_eq!(flows.packets() as usize, expected * PACKETS, "protocol {protocol} {family}");
            }
            let flows = sent(&router, family, Header { options, dscp, ..plain(protocol::UDP) });
            assert_eq!(flows.packets() as usize, usize::from(FLOWS) * PACKETS);
            let shares = flows.shares();
            assert!(shares.len() == 2 && shares.values().all(|&share| share >= 4), "{shares:?}");
        }
    }
    let flows = sent(&router, Family::V4, plain(ICMP));
    assert_eq!(flows.packets() as usize, usize::from(FLOWS) * PACKETS);
    let reasons = router.status()["reasons"].clone();
    let count = |name: &str| {
        let reasons = reasons.as_array().unwrap().iter();
        reasons
            .filter(|reason| reason["name"] == name)
            .map(|reason| reason["count"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!((count("unparsable"), count("fragment")), (0, 0), "{reasons}");
}

/// A header whose addresses are filled in by [`sent`].
fn plain(protocol: u8) -> Header {
    let any = IpAddr::from([0, 0, 0, 0]);
    Header::new(any, any, protocol)
}

/// Some packets of some flows to both servers, and what left of them.
fn sent(router: &Router, family: Family, header: Header) -> Flows {
    let client = router.network.client();
    let mut packets = Vec::new();
    for (place, server) in router.network.servers.iter().enumerate() {
        let (src, dst) = (client.addresses.of(family), server.of(family));
        let header = Header { src, dst, ..header };
        packets.extend(payloads(header, place as u16).iter().map(|payload| header.packet(payload)));
    }
    let (_, mut flows) = soundly(router, || {
        // Of packets that wait together the kernel keeps one, but for UDP; no real sender hurries so.
        for _ in 0..PACKETS {
            send_packets(&client.host, &packets).unwrap();
            thread::sleep(Duration::from_millis(100));
        }
    });
    flows
        .carried
        .retain(|flow, _| flow.protocol == header.protocol && flow.dst != client.addresses.of(family));
    flows
}

/// One payload for each flow to a server.
fn payloads(header: Header, server: u16) -> Vec<Vec<u8>> {
    let numbers = server * FLOWS / 2..(server + 1) * FLOWS / 2;
    let ports = numbers.map(|number| 20_000 + number);
    match header.protocol {
        protocol::SCTP => ports.map(|port| sctp_init(port, 5000)).collect(),
        protocol::GRE => vec![gre()],
        protocol::ESP => vec![esp(7)],
        ICMP => ports.map(timestamp_request).collect(),
        protocol::UDP => {
            ports.map(|port| datagram(header.src, header.dst, port, SILENT, &[b'w'; 40])).collect()
        }
        _ => vec![b"something".to_vec()],
    }
}

/// RFC 792, "Timestamp": type 13, an identifier, a sequence number, three times.
fn timestamp_request(id: u16) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 13;
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    let sum: u32 = packet.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    packet[2..4].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    packet
}

#[test]
fn all_fragments_of_a_datagram_leave_by_one_line() {
    for_each_backend(fragments_stay_together);
}

fn fragments_stay_together(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    router.start();
    let client = router.network.client();
    for family in Family::BOTH {
        let (src, dst) = (client.addresses.of(family), router.network.servers[0].of(family));
        let mut packets = Vec::new();
        for number in 0..FLOWS {
            let payload = datagram(src, dst, 20_000 + number, SILENT, &[b'w'; 1200]);
            packets.extend(
                Header { id: number + 1, ..Header::new(src, dst, protocol::UDP) }.fragments(&payload, 504),
            );
        }
        let (_, flows) = soundly(&router, || {
            send_packets(&client.host, &packets).unwrap();
            thread::sleep(Duration::from_millis(300));
        });
        assert_eq!(flows.carried.len(), usize::from(FLOWS));
        assert_eq!(flows.shares().len(), 2);
        // Real sockets, larger than a packet, and answered in fragments too.
        let report = soundly(&router, || {
            let to = router.echo(family);
            let large = UdpFlows { bytes: 4000, ..UdpFlows::new(to, Pace::burst(20, 5)) };
            large.run(&client.host).unwrap()
        });
        assert!(report.0.flows.iter().all(|flow| flow.answers == 1), "{:?}", report.0.failures());
    }
    let seen = router.server.seen();
    let large = seen.flows.keys().filter(|flow| flow.local.port() == SILENT).count();
    assert_eq!(large, 2 * usize::from(FLOWS), "datagrams that arrived whole");
}

#[test]
fn errors_about_a_flow_reach_its_client_and_never_user_space() {
    for_each_backend(errors_come_home);
}

fn errors_come_home(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    router.start();
    let host = router.network.client().host.clone();
    for family in Family::BOTH {
        let closed = SocketAddr::new(router.network.servers[0].of(family), 444);
        let before = decided(&router);
        for _ in 0..10 {
            assert_eq!(error_of(&host, closed, None), ErrorKind::ConnectionRefused);
        }
        for hops in [1, 2] {
            // The router itself, then the ISP, say that the packet has travelled too far.
            assert_eq!(error_of(&host, closed, Some(hops)), ErrorKind::HostUnreachable, "{hops} {family}");
        }
        // What dies at the router was decided before; errors add nothing.
        let new = decided(&router) - before;
        assert!((11..=12).contains(&new), "{new} packets in user space for 12 flows");
    }
}

/// Packets that user space has answered so far.
fn decided(router: &Router) -> u64 {
    let status = router.status();
    let queues = status["queues"].as_array().expect("queues").iter();
    queues.map(|queue| queue["decided"].as_u64().expect("a number")).sum()
}

/// The error a UDP socket meets after a datagram to nobody.
fn error_of(host: &Host, to: SocketAddr, hops: Option<u32>) -> ErrorKind {
    let ask = || -> std::io::Result<()> {
        let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let socket = UdpSocket::bind((any, 0))?;
        if let Some(hops) = hops {
            travel_at_most(&socket, hops, to.is_ipv4())?;
        }
        socket.connect(to)?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        socket.send(b"x")?;
        socket.recv(&mut [0; 10]).map(drop)
    };
    host.enter(ask).unwrap().expect_err("nobody answers").kind()
}

/// Errors that may pass are told too (`IP_RECVERR` and `IPV6_RECVERR`: ip(7), ipv6(7)).
fn travel_at_most(socket: &UdpSocket, hops: u32, v4: bool) -> std::io::Result<()> {
    if v4 {
        setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
        SockRef::from(socket).set_ttl_v4(hops)
    } else {
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
        SockRef::from(socket).set_unicast_hops_v6(hops)
    }
}

#[test]
fn a_helpers_expected_flow_comes_in_by_its_masters_line() {
    for_each_backend(active_ftp_works);
}

fn active_ftp_works(backend: &str) {
    let mut router = Router::new(backend, &[1, 1]);
    router.configure_more("helpers = [\"ftp\"]\nguard = \"on\"", "");
    router.start();
    let server = SocketAddr::new(router.network.servers[0].v4.into(), 21);
    let internet = router.network.internet.clone();
    let mut used = BTreeSet::new();
    for _ in 0..4 {
        let listener = internet.enter(|| TcpListener::bind(server)).unwrap().unwrap();
        let serving = internet.spawn_thread(move || serve_ftp(&listener)).unwrap();
        let before = decided(&router);
        let client = router.network.client();
        let greeting = client.host.enter(|| fetch(server, client.addresses.v4.into())).unwrap();
        let (called, data_from) = serving.join().unwrap().unwrap().unwrap();
        assert_eq!(greeting.unwrap(), "data\n");
        used.insert(called.ip());
        assert_eq!(data_from.ip(), called.ip(), "the data connection was sent to another line");
        assert_eq!(decided(&router) - before, 1, "only the control connection is for user space");
    }
    assert_eq!(used.len(), 2, "{used:?}");
}

/// Takes one control connection, connects back to where its PORT command says, and sends data.
/// Returns the control connection's source and the data connection's target.
fn serve_ftp(listener: &TcpListener) -> std::io::Result<(SocketAddr, SocketAddr)> {
    let (mut control, source) = listener.accept()?;
    control.set_read_timeout(Some(Duration::from_secs(5)))?;
    control.write_all(b"220 ready\r\n")?;
    let mut commands = BufReader::new(control.try_clone()?);
    let mut line = String::new();
    commands.read_line(&mut line)?;
    control.write_all(b"230 logged in\r\n")?;
    line.clear();
    commands.read_line(&mut line)?;
    let numbers: Vec<u8> =
        line.trim().trim_start_matches("PORT ").split(',').filter_map(|n| n.parse().ok()).collect();
    let [a, b, c, d, high, low] = numbers[..] else { return Err(std::io::Error::other(line)) };
    control.write_all(b"200 PORT command successful\r\n")?;
    let target = SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])));
    let data = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    data.bind(&SocketAddr::new(control.local_addr()?.ip(), 0).into())?;
    data.connect_timeout(&target.into(), Duration::from_secs(5))?;
    TcpStream::from(data).write_all(b"data\n")?;
    Ok((source, target))
}

/// The client's side of an active FTP transfer: what came by the data connection.
fn fetch(server: SocketAddr, own: IpAddr) -> std::io::Result<String> {
    let data = TcpListener::bind((own, 0))?;
    let IpAddr::V4(address) = own else { return Err(std::io::Error::other("IPv4 only")) };
    let [a, b, c, d] = address.octets();
    let [high, low] = data.local_addr()?.port().to_be_bytes();
    let control = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
    control.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answers = BufReader::new(control);
    let mut line = String::new();
    answers.read_line(&mut line)?;
    // The kernel's helper reads a line only after it has seen the end of another.
    answers.get_mut().write_all(b"USER anonymous\r\n")?;
    answers.read_line(&mut line)?;
    answers.get_mut().write_all(format!("PORT {a},{b},{c},{d},{high},{low}\r\n").as_bytes())?;
    answers.read_line(&mut line)?;
    SockRef::from(&data).set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    BufReader::new(data.accept()?.0).read_line(&mut text)?;
    Ok(text)
}
