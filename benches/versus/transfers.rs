//! Connections that carry as much as they can.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::world::{SERVER, World};

const PORT: u16 = 5001;
/// Bytes written or read at a time.
const CHUNK: usize = 128 * 1024;
/// Until all are at their speed.
const START: Duration = Duration::from_millis(300);

/// Bytes that so many connections carry from the client to the server within the time.
pub fn carried(world: &World, connections: usize, time: Duration) -> Result<u64> {
    let listener = world.server.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))?;
    let listener = listener.context("the server cannot listen")?;
    let connect = || (0..connections).map(|_| TcpStream::connect((SERVER, PORT))).collect();
    let streams: Vec<TcpStream> =
        world.client.enter(|| -> std::io::Result<_> { connect() })?.context("connecting")?;
    let (received, end) = (AtomicU64::new(0), Instant::now() + START + time);
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for stream in streams {
            workers.push(scope.spawn(move || send(stream, end)));
            let (stream, _) = listener.accept()?;
            let received = &received;
            workers.push(scope.spawn(move || receive(stream, received)));
        }
        thread::sleep(START);
        let before = received.load(Relaxed);
        thread::sleep(end.saturating_duration_since(Instant::now()));
        let carried = received.load(Relaxed) - before;
        for worker in workers {
            worker.join().map_err(|_| anyhow!("a connection's thread died"))?.context("a connection")?;
        }
        Ok(carried)
    })
}

fn send(mut stream: TcpStream, end: Instant) -> std::io::Result<()> {
    let chunk = vec![0; CHUNK];
    stream.set_write_timeout(Some(Duration::from_millis(200)))?;
    while Instant::now() < end {
        match stream.write(&chunk) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn receive(mut stream: TcpStream, received: &AtomicU64) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            length => received.fetch_add(length as u64, Relaxed),
        };
    }
}
