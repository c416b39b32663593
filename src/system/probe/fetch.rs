//! An HTTP request, over TLS or not, whose answer must have the right status.
//!
//! Only the head of the answer is read, and of that no more than a few kilobytes. Over TLS the certificate
//! must be one that the system trusts, so that nobody on the way can answer in the host's place.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::connect::connect;
use super::{Exit, took, wrong};
use crate::engine::uplink::health::Page;

/// Longest head of an answer that is read.
const LONGEST: usize = 8192;
/// Most header lines of an answer.
const LINES: usize = 64;

/// Where distributions keep the certificates they trust: Debian, Fedora, Alpine. `SSL_CERT_FILE` comes first.
const STORES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Whom the system trusts; read when it is first needed.
#[derive(Default)]
pub(super) struct Trust {
    client: OnceLock<Result<Arc<ClientConfig>, String>>,
}

pub(super) async fn ask(page: &Page, address: IpAddr, exit: &Exit, trust: &Trust) -> io::Result<Duration> {
    let asked = Instant::now();
    let connection = connect(SocketAddr::new(address, page.port), exit).await?;
    connection.set_zero_linger()?;
    let status = if page.is_secure {
        let name = ServerName::try_from(page.host.clone()).map_err(io::Error::other)?;
        status(page, TlsConnector::from(trust.client()?).connect(name, connection).await?).await?
    } else {
        status(page, connection).await?
    };
    if page.is_right(status) { Ok(took(asked)) } else { Err(wrong(format!("{page} answers {status}"))) }
}

async fn status(page: &Page, mut connection: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<u16> {
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: wansplit\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        page.path,
        page.authority()
    );
    connection.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while head.len() < LONGEST {
        let mut bytes = [0; 1024];
        let length = connection.read(&mut bytes).await?;
        head.extend_from_slice(bytes.get(..length).unwrap_or_default());
        if let Some(status) = status_of(&head)? {
            return Ok(status);
        }
        if length == 0 {
            return Err(wrong("the answer ends before its head does"));
        }
    }
    Err(wrong("the answer has a head without end"))
}

/// The status, once the whole head is there.
fn status_of(head: &[u8]) -> io::Result<Option<u16>> {
    let mut lines = [httparse::EMPTY_HEADER; LINES];
    let mut answer = httparse::Response::new(&mut lines);
    let parsed = answer.parse(head).map_err(io::Error::other)?;
    Ok(if parsed.is_complete() { answer.code } else { None })
}

impl Trust {
    fn client(&self) -> io::Result<Arc<ClientConfig>> {
        self.client.get_or_init(client).clone().map_err(wrong)
    }
}

fn client() -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates()?);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.map_err(|error| error.to_string())?;
    Ok(Arc::new(versions.with_root_certificates(roots).with_no_client_auth()))
}

fn certificates() -> Result<Vec<CertificateDer<'static>>, String> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = STORES.into_iter().map(PathBuf::from);
    let file = named.into_iter().chain(usual).find(|path| path.exists());
    let file = file.ok_or("no certificates are installed (package ca-certificates)")?;
    let read = CertificateDer::pem_file_iter(&file).map_err(|error| error.to_string())?;
    Ok(read.flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_known_once_its_head_is_whole() {
        let whole = b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n";
        for length in 0..whole.len() {
            assert_eq!(status_of(&whole[..length]).unwrap(), None, "{length} bytes");
        }
        assert_eq!(status_of(whole).unwrap(), Some(302));
        assert!(status_of(b"SSH-2.0-OpenSSH_9.2\r\n").is_err());
    }

    #[test]
    fn a_page_that_promises_no_content_is_content_with_nothing_else() {
        let page = |path: &str| Page {
            is_secure: false,
            host: "example.com".into(),
            port: 80,
            path: path.into(),
            status: Page::usual_status(path),
        };
        assert!(page("/generate_204").is_right(204) && !page("/generate_204").is_right(200));
        assert!(page("/").is_right(200) && page("/").is_right(204));
        assert!(!page("/").is_right(302) && !page("/").is_right(511));
    }
}
