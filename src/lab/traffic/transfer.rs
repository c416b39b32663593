//! One long transfer over one connection, both ways at once, that notices every hitch.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep_until, timeout};

use super::tcp::{open, read_line};
use crate::lab::host::{self, Host};
use crate::lab::server::parse_greeting;

/// Most bytes sent at a time.
const CHUNK: usize = 8 * 1024;

/// With a rate, this many chunks or more are sent each second.
const CHUNKS_PER_SECOND: u64 = 20;

/// Bytes may be under way from here and back for so long before the transfer counts as broken.
const DEAD: Duration = Duration::from_secs(20);

/// A transfer to an echo server and back.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// The server.
    pub to: SocketAddr,
    /// For how long; [`RunningTransfer::finish`] ends it earlier.
    pub time: Duration,
    /// Bytes per second each way; `None`: as many as go through.
    pub rate: Option<u64>,
    /// A pause between two arrivals longer than this is reported; well above the 50 ms
    /// that a slow transfer's sender itself pauses.
    pub stall: Duration,
}

impl Transfer {
    /// One Mbyte/s each way; pauses longer than half a second are reported.
    #[must_use]
    pub fn new(to: SocketAddr, time: Duration) -> Self {
        Transfer { to, time, rate: Some(1 << 20), stall: Duration::from_millis(500) }
    }

    /// Starts it on a machine; it goes on by itself.
    ///
    /// # Errors
    /// When the machine cannot be entered; a failed connection is in the report.
    pub fn start(self, host: &Host) -> Result<RunningTransfer> {
        let shared = Arc::new(Shared::default());
        let inside = Arc::clone(&shared);
        let thread = host.spawn_thread(|| host::block_on(|| self.run(inside)))?;
        Ok(RunningTransfer { shared, thread })
    }

    async fn run(self, shared: Arc<Shared>) -> TransferReport {
        let mut report = TransferReport::default();
        if let Err(error) = self.exchange(&shared, &mut report).await {
            report.failure = Some(error.to_string());
        }
        report.bytes = shared.bytes.load(Ordering::Relaxed);
        report
    }

    async fn exchange(&self, shared: &Arc<Shared>, report: &mut TransferReport) -> io::Result<()> {
        let mut stream =
            timeout(DEAD, open(self.to, None, 0)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        report.local = Some(stream.local_addr()?);
        report.seen_as = parse_greeting(&timeout(DEAD, read_line(&mut stream)).await??);
        let (reader, writer) = stream.into_split();
        let sending = tokio::spawn(send(writer, self.clone(), Arc::clone(shared)));
        receive(reader, self.stall, shared, report).await?;
        let sent = sending.await.map_err(io::Error::other)??;
        if sent != shared.bytes.load(Ordering::Relaxed) {
            return Err(io::Error::other("the connection was closed before everything came back"));
        }
        Ok(())
    }
}

/// A transfer under way.
#[derive(Debug)]
pub struct RunningTransfer {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<Result<TransferReport>>>,
}

impl RunningTransfer {
    /// Bytes that have come back so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Asks it to send no more; what is under way still comes back.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Whether it has come to its end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end of its time.
    ///
    /// # Errors
    /// When the machine could not be entered.
    pub fn wait(self) -> Result<TransferReport> {
        self.thread.join().map_err(|_| anyhow!("the transfer died"))??.context("transferring")
    }

    /// Sends no more, waits for what is under way, and ends.
    ///
    /// # Errors
    /// As [`RunningTransfer::wait`].
    pub fn finish(self) -> Result<TransferReport> {
        self.stop();
        self.wait()
    }
}

/// What became of a transfer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransferReport {
    /// The client's end.
    pub local: Option<SocketAddr>,
    /// The source address the server saw.
    pub seen_as: Option<SocketAddr>,
    /// Bytes that came back.
    pub bytes: u64,
    /// The pauses that were too long, at most 1,000.
    pub stalls: Vec<Stall>,
    /// Why it broke, if it did.
    pub failure: Option<String>,
}

/// A pause in a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// How long after the beginning it began.
    pub at: Duration,
    /// How long it was.
    pub length: Duration,
}

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicU64,
    stop: AtomicBool,
}

/// Sends for the time and at the rate asked for, then closes this direction. Returns the bytes sent.
async fn send(mut writer: OwnedWriteHalf, transfer: Transfer, shared: Arc<Shared>) -> io::Result<u64> {
    let begin = Instant::now();
    let chunk = vec![b'w'; chunk_size(transfer.rate)];
    let mut sent = 0;
    while begin.elapsed() < transfer.time && !shared.stop.load(Ordering::Relaxed) {
        timeout(DEAD, writer.write_all(&chunk)).await??;
        sent += chunk.len() as u64;
        if let Some(rate) = transfer.rate {
            sleep_until(begin + Duration::from_secs_f64(sent as f64 / rate.max(1) as f64)).await;
        }
    }
    writer.shutdown().await?;
    Ok(sent)
}

fn chunk_size(rate: Option<u64>) -> usize {
    rate.map_or(CHUNK, |rate| (rate / CHUNKS_PER_SECOND).clamp(1, CHUNK as u64) as usize)
}

/// Receives until the server has sent everything back, and notes the pauses.
async fn receive(
    mut reader: OwnedReadHalf,
    longest: Duration,
    shared: &Shared,
    report: &mut TransferReport,
) -> io::Result<()> {
    let begin = Instant::now();
    let mut last = begin;
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let received = timeout(DEAD, reader.read(&mut bytes)).await;
        let length = last.elapsed();
        if length > longest && report.stalls.len() < 1000 {
            report.stalls.push(Stall { at: last - begin, length });
        }
        match received?? {
            0 => return Ok(()),
            length => shared.bytes.fetch_add(length as u64, Ordering::Relaxed),
        };
        last = Instant::now();
    }
}
