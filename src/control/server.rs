//! The daemon's side of the control socket.
//!
//! One thread serves all clients: it polls at most [`MOST_CLIENTS`] of them, so
//! that a silent, slow or garbled one costs a slot for a few seconds and nobody
//! else anything. The handler runs on that thread, one request at a time. Who
//! may open the socket may ask for the status; changes are for root and the
//! daemon's own user (`SO_PEERCRED`, unix(7)).
//!
//! Dropping [`Serving`] ends the thread after the request at hand and removes the socket.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use super::connection::Connection;
use super::feed::Feed;
use super::message::{Request, Response};

/// Most clients served at once; more wait in the socket's backlog.
pub const MOST_CLIENTS: usize = 16;

/// Most of them that follow events, so that there is room for others.
pub const MOST_FOLLOWERS: usize = 8;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Pause after an `accept` that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A socket that is bound and listens.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket's file.
    file: (u64, u64),
}

impl Server {
    /// Binds the socket at `path`, for its owner and group only (mode 0660); its
    /// directory is made (0755) where there is none. A socket that nobody
    /// listens on any more is replaced.
    ///
    /// # Errors
    /// [`ErrorKind::AddrInUse`] when a daemon answers at `path` or something
    /// other than a socket is there; else what the system said, with the path.
    pub fn bind(path: &Path) -> io::Result<Self> {
        bind(path).map_err(|error| {
            io::Error::new(error.kind(), format!("control socket {}: {error}", path.display()))
        })
    }

    /// Answers with `handler`, and tells what is in `feed`, on a thread of its own, until the handle is dropped.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn serve(
        self,
        feed: Arc<Feed>,
        handler: impl FnMut(Request) -> Response + Send + 'static,
    ) -> io::Result<Serving> {
        let (stop, stopped) = UnixStream::pair()?;
        let thread = thread::Builder::new().name("control".to_owned()).spawn(move || {
            if let Err(error) = self.run(&stopped, &feed, handler) {
                tracing::error!("control socket {} is given up: {error}", self.path.display());
            }
        })?;
        Ok(Serving { stop: Some(stop), thread: Some(thread) })
    }

    /// Polls, lets every client go as far as it can, accepts new ones; until `stopped` hangs up.
    fn run(
        &self,
        stopped: &UnixStream,
        feed: &Feed,
        mut handler: impl FnMut(Request) -> Response,
    ) -> io::Result<()> {
        let mut clients = Vec::new();
        let mut accept_from = Instant::now();
        while !wait(stopped, feed, &self.listener, &clients, accept_from)? {
            let now = Instant::now();
            feed.rest();
            let mut followers =
                clients.iter().filter(|client: &&Connection<_>| client.is_following()).count();
            clients.retain_mut(|client: &mut Connection<_>| {
                let before = client.is_following();
                let goes_on = client.advance(feed, followers < MOST_FOLLOWERS, &mut handler);
                followers += usize::from(!before && client.is_following());
                goes_on && client.deadline().is_none_or(|deadline| deadline > now)
            });
            if let Err(error) = self.accept(&mut clients) {
                tracing::warn!("control socket {}: cannot accept: {error}", self.path.display());
                accept_from = now + ACCEPT_PAUSE;
            }
        }
        Ok(())
    }

    /// Takes in waiting clients while there is room.
    fn accept(&self, clients: &mut Vec<Connection<UnixStream>>) -> io::Result<()> {
        while clients.len() < MOST_CLIENTS {
            match self.listener.accept() {
                Ok((stream, _)) => clients.push(connection(stream)?),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for Server {
    /// Removes the socket's file unless another one has taken its place. The
    /// listener still holds the inode here, so its number cannot have been reused.
    fn drop(&mut self) {
        if file_of(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A running server; dropping it waits for the request at hand, cuts off the
/// clients and removes the socket.
#[derive(Debug)]
pub struct Serving {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn bind(path: &Path) -> io::Result<Server> {
    make_directory(path)?;
    let listener = match listen(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_stale(path)?;
            listen(path)?
        }
        other => other?,
    };
    Ok(Server { listener, path: path.to_owned(), file: file_of(path)? })
}

/// The directory's mode is set after it is made, because the process' umask may have narrowed it.
fn make_directory(socket: &Path) -> io::Result<()> {
    let Some(directory) = socket.parent().filter(|directory| !directory.as_os_str().is_empty()) else {
        return Ok(());
    };
    if directory.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(0o755))
}

/// On Linux the file gets the mode that the socket has before it is bound
/// (`unix_bind_bsd` in net/unix/af_unix.c), so it is never open to more than it
/// should; the second change undoes what the umask took away.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    fchmod(&socket, Mode::from_bits_truncate(0o660))?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(0o660))?;
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Without blocking: a daemon that is stopped with a full backlog answers
/// `WouldBlock`, and it is alive. A file that is no socket refuses as well.
fn remove_stale(path: &Path) -> io::Result<()> {
    let in_use = |what| Err(io::Error::new(ErrorKind::AddrInUse, what));
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return in_use("something other than a socket is in its place");
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => in_use("another wansplit is running"),
    }
}

fn file_of(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn connection(stream: UnixStream) -> io::Result<Connection<UnixStream>> {
    stream.set_nonblocking(true)?;
    let peer = getsockopt(&stream, PeerCredentials)?.uid();
    Ok(Connection::new(stream, may_change(peer, geteuid().as_raw())))
}

/// Whether a user may ask for more than to be told, of a daemon that runs as `own`.
fn may_change(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own
}

/// Sleeps until there is something to do; true: stop.
fn wait(
    stopped: &UnixStream,
    feed: &Feed,
    listener: &UnixListener,
    clients: &[Connection<UnixStream>],
    accept_from: Instant,
) -> io::Result<bool> {
    let now = Instant::now();
    let mut wakes: Vec<Instant> = clients.iter().filter_map(Connection::deadline).collect();
    let mut fds =
        [stopped, feed.woken()].map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN)).to_vec();
    fds.extend(clients.iter().map(poll_fd));
    match accept_from > now {
        true => wakes.push(accept_from),
        false if clients.len() < MOST_CLIENTS => fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN)),
        false => {}
    }
    let sleep = wakes.iter().min().map(|wake| wake.saturating_duration_since(now));
    match poll(&mut fds, poll_timeout(sleep)) {
        Ok(_) => Ok(fds[0].any().unwrap_or(true)),
        Err(nix::Error::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn poll_fd(client: &Connection<UnixStream>) -> PollFd<'_> {
    let flags = if client.is_writing() { PollFlags::POLLOUT } else { PollFlags::POLLIN };
    PollFd::new(client.stream().as_fd(), flags)
}

/// Rounded up to whole milliseconds, so that a deadline has passed when the poll returns.
fn poll_timeout(sleep: Option<Duration>) -> PollTimeout {
    let Some(sleep) = sleep else { return PollTimeout::NONE };
    PollTimeout::try_from(sleep.as_millis() + 1).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};

    use tempfile::TempDir;

    use super::*;
    use crate::control::client::{ClientError, ask};
    use crate::control::message::{Event, Status};

    #[test]
    fn two_clients_at_once_get_their_own_answers() {
        let lab = Lab::new();
        let _serving = lab.serve();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        assert!(matches!(ask(&lab.path, Request::Status), Ok(Response::Status(_))));
                        assert_eq!(
                            ask(&lab.path, Request::Reload).unwrap(),
                            Response::Reloaded { rules: 7, changes: Vec::new() }
                        );
                    }
                });
            }
        });
    }

    #[test]
    fn an_answer_larger_than_the_socket_buffer_arrives_whole() {
        let lab = Lab::new();
        let warnings = vec!["w".repeat(100); 20_000];
        let status = Status { warnings, ..Status::default() };
        let answer = Response::Status(Box::new(status));
        let expected = answer.clone();
        let _serving = Server::bind(&lab.path).unwrap().serve(feed(), move |_| answer.clone()).unwrap();
        assert_eq!(ask(&lab.path, Request::Status).unwrap(), expected);
    }

    #[test]
    fn garbage_is_answered_with_a_failure_and_the_next_client_is_served() {
        let lab = Lab::new();
        let _serving = lab.serve();
        for garbage in [&b"\xff\x00\x1b[2J\n"[..], b"\n", b"{}\n", b"GET / HTTP/1.1\r\n"] {
            let answer = lab.say(garbage);
            assert!(answer.contains("not a request"), "{answer}");
        }
        assert!(ask(&lab.path, Request::Status).is_ok());
    }

    #[test]
    fn an_oversized_line_is_refused_without_being_read_to_its_end() {
        let lab = Lab::new();
        let _serving = lab.serve();
        let mut client = UnixStream::connect(&lab.path).unwrap();
        let written = client.write_all(&vec![b'x'; 8 << 20]);
        assert!(written.is_err(), "eight megabytes were taken");
        let mut answer = String::new();
        BufReader::new(&client).read_line(&mut answer).unwrap();
        assert!(answer.contains("longer than"), "{answer}");
        assert!(ask(&lab.path, Request::Status).is_ok());
    }

    #[test]
    fn silent_clients_hold_up_nobody_and_are_cut_off() {
        let lab = Lab::new();
        let _serving = lab.serve();
        let silent: Vec<_> = (0..MOST_CLIENTS - 1).map(|_| UnixStream::connect(&lab.path).unwrap()).collect();
        let asked = Instant::now();
        assert!(ask(&lab.path, Request::Status).is_ok());
        assert!(asked.elapsed() < Duration::from_secs(1), "waited {:?}", asked.elapsed());
        for mut client in silent {
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "not cut off");
        }
    }

    #[test]
    fn even_when_every_slot_is_silent_the_next_client_is_served_in_the_end() {
        let lab = Lab::new();
        let _serving = lab.serve();
        let _silent: Vec<_> = (0..MOST_CLIENTS).map(|_| UnixStream::connect(&lab.path).unwrap()).collect();
        assert!(ask(&lab.path, Request::Status).is_ok());
    }

    #[test]
    fn a_client_that_never_takes_its_answer_holds_up_nobody() {
        let lab = Lab::new();
        let status = Status { version: "v".repeat(4 << 20), ..Status::default() };
        let answer = Response::Status(Box::new(status));
        let _serving = Server::bind(&lab.path).unwrap().serve(feed(), move |_| answer.clone()).unwrap();
        let mut deaf = UnixStream::connect(&lab.path).unwrap();
        deaf.write_all(&Request::Status.to_line()).unwrap();
        assert!(ask(&lab.path, Request::Status).is_ok());
    }

    #[test]
    fn the_socket_is_for_owner_and_group_and_its_directory_for_all_to_enter() {
        let lab = Lab::new();
        let _server = Server::bind(&lab.path).unwrap();
        assert_eq!(mode_of(&lab.path), 0o660);
        assert_eq!(mode_of(lab.path.parent().unwrap()), 0o755);
    }

    #[test]
    fn a_second_server_at_the_same_place_is_refused_and_the_first_goes_on() {
        let lab = Lab::new();
        let _serving = lab.serve();
        let error = Server::bind(&lab.path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains("another wansplit is running"), "{error}");
        assert!(ask(&lab.path, Request::Status).is_ok());
    }

    #[test]
    fn a_socket_that_a_killed_daemon_left_behind_is_replaced() {
        let lab = Lab::new();
        fs::create_dir(lab.path.parent().unwrap()).unwrap();
        drop(UnixListener::bind(&lab.path).unwrap());
        assert!(matches!(ask(&lab.path, Request::Status), Err(ClientError::NotRunning { .. })));
        let _serving = lab.serve();
        assert!(ask(&lab.path, Request::Status).is_ok());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let lab = Lab::new();
        fs::create_dir(lab.path.parent().unwrap()).unwrap();
        fs::write(&lab.path, "precious").unwrap();
        assert_eq!(Server::bind(&lab.path).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&lab.path).unwrap(), "precious");
    }

    #[test]
    fn only_root_and_the_daemons_own_user_may_change_anything() {
        assert!(may_change(0, 0) && may_change(0, 990) && may_change(990, 990));
        assert!(!may_change(1000, 0) && !may_change(1000, 990));
    }

    #[test]
    fn the_end_removes_the_socket() {
        let lab = Lab::new();
        drop(lab.serve());
        assert!(!lab.path.exists());
        assert!(matches!(ask(&lab.path, Request::Status), Err(ClientError::NotRunning { .. })));
    }

    #[test]
    fn the_end_leaves_a_socket_that_another_put_in_its_place() {
        let lab = Lab::new();
        let serving = lab.serve();
        fs::remove_file(&lab.path).unwrap();
        let _successor = UnixListener::bind(&lab.path).unwrap();
        drop(serving);
        assert!(lab.path.exists());
    }

    #[test]
    fn a_path_that_is_too_long_for_a_socket_is_an_error_with_the_path() {
        let lab = Lab::new();
        let path = lab.path.with_file_name("x".repeat(200));
        let error = Server::bind(&path).unwrap_err();
        assert!(error.to_string().contains("xxx"), "{error}");
    }

    #[test]
    fn followers_hear_what_is_published_and_leave_room_for_others() {
        let lab = Lab::new();
        let feed = feed();
        let answer = |_| Response::Status(Box::default());
        let _serving = Server::bind(&lab.path).unwrap().serve(Arc::clone(&feed), answer).unwrap();
        let mut lines: Vec<_> = (0..MOST_FOLLOWERS).map(|_| lab.follow()).collect();
        for follower in &mut lines {
            assert_eq!(next(follower), Response::Following);
        }
        assert!(matches!(next(&mut lab.follow()), Response::Failed { .. }));
        assert!(ask(&lab.path, Request::Status).is_ok());
        let event = Event { number: 1, ..Event::default() };
        feed.publish(event.clone());
        for follower in &mut lines {
            assert_eq!(next(follower), Response::Event(event.clone()));
        }
        drop(lines);
        let deadline = Instant::now() + Duration::from_secs(20);
        while next(&mut lab.follow()) != Response::Following {
            assert!(Instant::now() < deadline, "nobody makes room");
        }
    }

    fn feed() -> Arc<Feed> {
        Arc::new(Feed::new().unwrap())
    }

    fn next(follower: &mut BufReader<UnixStream>) -> Response {
        let mut line = String::new();
        follower.read_line(&mut line).unwrap();
        Response::from_line(line.as_bytes()).unwrap()
    }

    /// A directory with a place for a socket.
    struct Lab {
        _directory: TempDir,
        path: PathBuf,
    }

    impl Lab {
        fn new() -> Self {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join("run/control.sock");
            Lab { _directory: directory, path }
        }

        fn serve(&self) -> Serving {
            let answer = |request| match request {
                Request::Explain { flow, .. } => Response::Failed { message: flow },
                Request::Status | Request::Events => Response::Status(Box::default()),
                Request::Uplink { name, .. } => Response::Failed { message: name },
                Request::Reload => Response::Reloaded { rules: 7, changes: Vec::new() },
            };
            Server::bind(&self.path).unwrap().serve(feed(), answer).unwrap()
        }

        fn follow(&self) -> BufReader<UnixStream> {
            let mut client = UnixStream::connect(&self.path).unwrap();
            client.write_all(&Request::Events.to_line()).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            BufReader::new(client)
        }

        /// Sends raw bytes and returns the line that comes back.
        fn say(&self, bytes: &[u8]) -> String {
            let mut client = UnixStream::connect(&self.path).unwrap();
            client.write_all(bytes).unwrap();
            let mut answer = String::new();
            BufReader::new(client).read_line(&mut answer).unwrap();
            answer
        }
    }

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }
}
