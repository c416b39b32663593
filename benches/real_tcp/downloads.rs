//! Downloads: a server that sends as many bytes as it is asked for, and clients that ask.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use wansplit::lab::host::Host;
use wansplit::lab::network::Network;

/// A download that a client wants.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// When it begins.
    pub at: Duration,
    /// The client's number.
    pub client: usize,
    /// How long it is.
    pub bytes: u64,
}

/// What became of them.
#[derive(Debug, Default)]
pub struct Downloads {
    /// How long each took, in the order of what was wanted; `None`: it was given up.
    pub took: Vec<Option<Duration>>,
    /// How many each line had.
    pub by_line: Vec<u64>,
    /// Bytes that each line carried to the LAN while downloads began.
    pub carried: Vec<u64>,
}

const PORT: u16 = 8080;
/// Bytes written at a time.
const CHUNK: usize = 64 * 1024;

type Sources = Arc<Mutex<BTreeMap<IpAddr, u64>>>;

impl Downloads {
    /// Makes all of them, over a router that is set up, and waits until they have ended or patience has.
    pub fn run(network: &Network, wanted: &[Wanted], window: Duration, patience: Duration) -> Result<Self> {
        let sources = Sources::default();
        let server = Server::start(&network.internet, Arc::clone(&sources))?;
        let to = SocketAddr::new(network.servers[0].v4.into(), PORT);
        let begin = Instant::now() + Duration::from_millis(200);
        let deadline = begin + window + patience;
        let before = carried(network)?;
        let (took, after) = thread::scope(|scope| {
            let clients: Vec<_> = network
                .clients()
                .enumerate()
                .map(|(number, client)| {
                    let own: Vec<(usize, Wanted)> = wanted
                        .iter()
                        .copied()
                        .enumerate()
                        .filter(|(_, wanted)| wanted.client == number)
                        .collect();
                    scope.spawn(move || client.host.block_on(|| download(own, to, begin, deadline)))
                })
                .collect();
            thread::sleep((begin + window).saturating_duration_since(Instant::now()));
            let after = carried(network);
            let took =
                clients.into_iter().map(|client| client.join().map_err(|_| anyhow!("a client died"))?);
            (took.collect::<Result<Vec<_>>>(), after)
        });
        drop(server);
        let ended: BTreeMap<usize, Duration> = took?.into_iter().flatten().collect();
        let sources = sources.lock().unwrap_or_else(PoisonError::into_inner);
        let of_line = |address: Ipv4Addr| sources.get(&address.into()).copied().unwrap_or(0);
        Ok(Downloads {
            took: (0..wanted.len()).map(|number| ended.get(&number).copied()).collect(),
            by_line: network.lines.iter().map(|line| of_line(line.router.v4)).collect(),
            carried: after?.iter().zip(before).map(|(after, before)| after - before).collect(),
        })
    }
}

/// Bytes that each ISP has sent to the router.
fn carried(network: &Network) -> Result<Vec<u64>> {
    let of = |line: &wansplit::lab::network::IspLine| {
        Ok(line.isp.device_counters("customer")?.context("the ISP's device")?.sent_bytes)
    };
    network.lines.iter().map(of).collect()
}

/// All downloads of one client.
async fn download(
    wanted: Vec<(usize, Wanted)>,
    to: SocketAddr,
    begin: Instant,
    deadline: Instant,
) -> Vec<(usize, Duration)> {
    let mut running = JoinSet::new();
    for (number, wanted) in wanted {
        running.spawn(async move {
            let at = begin + wanted.at;
            sleep_until(at).await;
            let ended = timeout_at(deadline, fetch(to, wanted.bytes)).await;
            matches!(ended, Ok(Ok(()))).then(|| (number, at.elapsed()))
        });
    }
    running.join_all().await.into_iter().flatten().collect()
}

async fn fetch(to: SocketAddr, bytes: u64) -> io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(&bytes.to_be_bytes()).await?;
    let (mut left, mut buffer) = (bytes, vec![0; CHUNK]);
    while left > 0 {
        match stream.read(&mut buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => left = left.saturating_sub(read as u64),
        }
    }
    Ok(())
}

/// Runs until it is dropped.
struct Server {
    _stop: oneshot::Sender<()>,
}

impl Server {
    fn start(host: &Host, sources: Sources) -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let inside = host.clone();
        thread::spawn(move || {
            inside.block_on(move || async move {
                let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await;
                let bound = listener.as_ref().map(drop).map_err(io::Error::kind);
                let _ = ready.send(bound);
                let Ok(listener) = listener else { return };
                tokio::select! {
                    () = serve(listener, sources) => {}
                    _ = stopped => {}
                }
            })
        });
        is_ready.recv()?.map_err(io::Error::from).context("the server cannot listen")?;
        Ok(Server { _stop: stop })
    }
}

async fn serve(listener: TcpListener, sources: Sources) {
    let mut running = JoinSet::new();
    while let Ok((stream, source)) = listener.accept().await {
        *sources.lock().unwrap_or_else(PoisonError::into_inner).entry(source.ip()).or_default() += 1;
        running.spawn(send(stream));
        while running.try_join_next().is_some() {}
    }
}

async fn send(mut stream: TcpStream) -> io::Result<()> {
    let mut left = stream.read_u64().await?;
    let chunk = vec![0; CHUNK];
    while left > 0 {
        let length = left.min(CHUNK as u64);
        stream.write_all(&chunk[..length as usize]).await?;
        left -= length;
    }
    stream.shutdown().await
}
