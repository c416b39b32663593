//! A site over QUIC (RFC 9000), as small as browsers take one: quinn speaks QUIC, and every request gets
//! the same page over HTTP/3 (RFC 9114). And a client, which wants no page.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, Incoming, RecvStream, SendStream, ServerConfig,
    TokioRuntime,
};
use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::oneshot;
use wansplit::lab::host::Host;

/// What stands on the page.
pub const PAGE: &str = "a page over QUIC";

/// How long a client waits for a connection.
const LIMIT: Duration = Duration::from_secs(10);

/// Frames (RFC 9114, section 7.2) and the stream that says how a side speaks (section 6.2.1).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTROL_STREAM_WITHOUT_SETTINGS: &[u8] = &[0, 4, 0];

/// `:status: 200`, the 25th entry of the static table (RFC 9204, appendix A), behind a prefix of two bytes.
const STATUS_200: &[u8] = &[0, 0, 0xc0 | 25];

/// A site that runs until it is dropped.
pub struct Site {
    _stop: oneshot::Sender<()>,
    _thread: JoinHandle<anyhow::Result<()>>,
}

impl Site {
    /// Begins to serve, with the certificate `cert.pem` and the key `key.pem` of a directory.
    pub fn start(host: &Host, directory: &Path, at: SocketAddr) -> Site {
        let config = server_config(directory);
        let (stop, stopped) = oneshot::channel();
        let thread = host.spawn_thread(move || in_runtime(serve(at, config, stopped)));
        Site { _stop: stop, _thread: thread.expect("a thread") }
    }
}

/// Connects from a port of its own to the site, by this name of it, and leaves again.
pub fn visit(host: &Host, directory: &Path, to: SocketAddr, name: &str) {
    let config = client_config(directory);
    let in_time = async { tokio::time::timeout(LIMIT, connect(config, to, name)).await };
    let visit = host.enter(|| in_runtime(in_time));
    visit.expect("a thread").expect("an answer in time");
}

fn in_runtime<F: Future>(work: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

async fn connect(config: ClientConfig, to: SocketAddr, name: &str) {
    let any = SocketAddr::new(if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() }, 0);
    let endpoint = endpoint(any, None);
    let connection = endpoint.connect_with(config, to, name).expect("a name").await.expect("a connection");
    connection.close(0u8.into(), b"");
    endpoint.wait_idle().await;
}

async fn serve(at: SocketAddr, config: ServerConfig, stopped: oneshot::Receiver<()>) {
    let endpoint = endpoint(at, Some(config));
    let accept = async {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(answer(incoming));
        }
    };
    tokio::select! { () = accept => {}, _ = stopped => {} }
}

fn endpoint(at: SocketAddr, config: Option<ServerConfig>) -> Endpoint {
    let socket = UdpSocket::bind(at).expect("a socket");
    Endpoint::new(EndpointConfig::default(), config, socket, Arc::new(TokioRuntime)).expect("an endpoint")
}

/// Browsers leave connections as they please.
async fn answer(incoming: Incoming) -> Option<()> {
    let connection: Connection = incoming.await.ok()?;
    let mut control = connection.open_uni().await.ok()?;
    control.write_all(CONTROL_STREAM_WITHOUT_SETTINGS).await.ok()?;
    while let Ok((answer, request)) = connection.accept_bi().await {
        send_page(answer, request).await;
    }
    Some(())
}

async fn send_page(mut answer: SendStream, mut request: RecvStream) -> Option<()> {
    request.read_to_end(64 * 1024).await.ok()?;
    answer.write_all(&frame(HEADERS, STATUS_200)).await.ok()?;
    answer.write_all(&frame(DATA, PAGE.as_bytes())).await.ok()?;
    answer.finish().ok()
}

/// Type, length and body; the first two are below 64 and so take a byte each.
fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, body.len() as u8], body].concat()
}

fn server_config(directory: &Path) -> ServerConfig {
    let key = PrivateKeyDer::from_pem_file(directory.join("key.pem")).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate(directory)], key);
    let mut config = config.expect("a certificate");
    config.alpn_protocols = vec![b"h3".to_vec()];
    ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).expect("TLS 1.3")))
}

fn client_config(directory: &Path) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(directory)).expect("a certificate");
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h3".to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).expect("TLS 1.3")))
}

fn certificate(directory: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(directory.join("cert.pem")).expect("a certificate")
}
