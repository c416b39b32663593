//! The commands' side of the control socket.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::message::{Request, Response};

/// How long a status may take; above what the server grants a full house of silent clients.
const STATUS_PATIENCE: Duration = Duration::from_secs(6);

/// How long a change may take: thousands of rules are read and compiled.
const CHANGE_PATIENCE: Duration = Duration::from_secs(30);

/// Longest answer in bytes: thousands of rules over dozens of uplinks fit.
const ANSWER_LIMIT: usize = 64 << 20;

/// Why the daemon gave no answer; each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "wansplit is not running (nobody answers at {path}): start it with `wansplit run` or \
         `systemctl start wansplit`; if it runs in another network namespace, name its --run-dir"
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is there and may not be opened.
    #[error("no permission to open {path}: run this command as root")]
    PermissionDenied {
        /// The socket.
        path: PathBuf,
    },
    /// No answer in time.
    #[error("wansplit did not answer at {path} within {seconds} s: it is stopped, hung or very busy")]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long it was waited.
        seconds: u64,
    },
    /// The connection failed in another way.
    #[error("cannot talk to wansplit at {path}: {source}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What came back is no answer.
    #[error("the answer from {path} is not understood ({source}): is the daemon of another version?")]
    NotUnderstood {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Asks the daemon that listens at `path`, and waits for its answer for a bounded time.
///
/// # Errors
/// [`ClientError`]; a daemon that says no is an answer, [`Response::Failed`].
pub fn ask(path: &Path, request: Request) -> Result<Response, ClientError> {
    let patience = match request {
        Request::Status | Request::Events | Request::Explain { .. } => STATUS_PATIENCE,
        Request::Reload | Request::Uplink { .. } => CHANGE_PATIENCE,
    };
    ask_within(path, request, patience)
}

/// Tells `each` of all that happens, as long as it wants more and the daemon runs.
///
/// # Errors
/// [`ClientError`]; that the daemon has ended is none.
pub fn follow(path: &Path, mut each: impl FnMut(Response) -> bool) -> Result<(), ClientError> {
    let broken = |error| client_error(path, STATUS_PATIENCE, error);
    let mut stream = connect(path, STATUS_PATIENCE).map_err(broken)?;
    stream.write_all(&Request::Events.to_line()).map_err(broken)?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let limit = ANSWER_LIMIT as u64;
        (&mut lines).take(limit).read_until(b'\n', &mut line).map_err(broken)?;
        if line.is_empty() {
            return Ok(());
        }
        let not_understood = |source| ClientError::NotUnderstood { path: path.to_owned(), source };
        if !each(Response::from_line(&line).map_err(not_understood)?) {
            return Ok(());
        }
    }
}

fn ask_within(path: &Path, request: Request, patience: Duration) -> Result<Response, ClientError> {
    let line = exchange(path, request, patience).map_err(|error| client_error(path, patience, error))?;
    Response::from_line(&line).map_err(|source| ClientError::NotUnderstood { path: path.to_owned(), source })
}

fn exchange(path: &Path, request: Request, patience: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + patience;
    let mut stream = connect(path, patience)?;
    match stream.write_all(&request.to_line()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => read_line(&mut stream, deadline),
    }
}

/// The send time-out bounds the connection too (`unix_stream_connect` in net/unix/af_unix.c).
fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(patience))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

/// Each read gets what is left of the time, so that a daemon that dribbles is given up too.
fn read_line(stream: &mut UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut chunk = [0; 16 * 1024];
    while line.last() != Some(&b'\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "it closed the connection")),
            Ok(count) => line.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if line.len() > ANSWER_LIMIT {
            return Err(io::Error::new(ErrorKind::InvalidData, "the answer is too long"));
        }
    }
    Ok(line)
}

fn client_error(path: &Path, patience: Duration, source: io::Error) -> ClientError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NotRunning { path },
        ErrorKind::PermissionDenied => ClientError::PermissionDenied { path },
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            ClientError::TimedOut { path, seconds: patience.as_secs() }
        }
        _ => ClientError::Broken { path, source },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn without_a_socket_the_error_says_how_to_start_the_daemon() {
        let directory = TempDir::new().unwrap();
        let error = ask(&directory.path().join("none/control.sock"), Request::Status).unwrap_err();
        assert!(matches!(error, ClientError::NotRunning { .. }));
        assert!(error.to_string().contains("start it with `wansplit run`"), "{error}");
    }

    #[test]
    fn without_permission_the_error_says_to_be_root() {
        let error = client_error(Path::new("/s"), STATUS_PATIENCE, ErrorKind::PermissionDenied.into());
        assert_eq!(error.to_string(), "no permission to open /s: run this command as root");
    }

    #[test]
    fn a_daemon_that_never_answers_is_given_up_in_time() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("control.sock");
        let _silent = UnixListener::bind(&path).unwrap();
        let asked = Instant::now();
        let error = ask_within(&path, Request::Status, Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
        assert!(asked.elapsed() < Duration::from_secs(2), "waited {:?}", asked.elapsed());
    }

    #[test]
    fn a_daemon_that_dribbles_for_ever_is_given_up_in_time() {
        let answer = |stream: &mut UnixStream| {
            while stream.write_all(b" ").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        };
        let error = ask_a_daemon_that(answer, Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
    }

    #[test]
    fn a_daemon_that_answers_nonsense_is_named_as_such() {
        let answer = |stream: &mut UnixStream| stream.write_all(b"hello\n").unwrap();
        let error = ask_a_daemon_that(answer, Duration::from_secs(5)).unwrap_err();
        assert!(matches!(error, ClientError::NotUnderstood { .. }), "{error}");
    }

    #[test]
    fn a_daemon_that_hangs_up_is_named_as_such() {
        let error = ask_a_daemon_that(|_| (), Duration::from_secs(5)).unwrap_err();
        assert!(matches!(error, ClientError::Broken { .. }), "{error}");
    }

    fn ask_a_daemon_that(
        answer: impl FnOnce(&mut UnixStream) + Send,
        patience: Duration,
    ) -> Result<Response, ClientError> {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 256]).unwrap();
                answer(&mut stream);
            });
            ask_within(&path, Request::Status, patience)
        })
    }
}
