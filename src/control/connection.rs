//! One client of the control socket: read a line, answer it, done.
//!
//! A state machine over a non-blocking stream. Its memory is bounded by
//! [`LINE_LIMIT`] and its life by [`PATIENCE`] for each half, however slowly the
//! client dribbles: the deadline is for the whole line, not for the next byte.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use super::message::{Request, Response};

/// Longest request in bytes; real ones have some forty.
pub(super) const LINE_LIMIT: usize = 64 * 1024;

/// How long a client may take to send its request, and to take its answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// A client that is being served.
pub(super) struct Connection<S> {
    stream: S,
    may_change: bool,
    deadline: Instant,
    state: State,
}

/// Which half it is in.
enum State {
    Reading(Vec<u8>),
    Writing { line: Vec<u8>, sent: usize },
}

impl<S: Read + Write> Connection<S> {
    /// A new client; `may_change` says whether it may ask for more than to be told.
    pub(super) fn new(stream: S, may_change: bool) -> Self {
        let state = State::Reading(Vec::new());
        Connection { stream, may_change, deadline: Instant::now() + PATIENCE, state }
    }

    /// The stream, for polling.
    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    /// When the client's time is up.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether it waits for the client to take the answer, rather than for the request.
    pub(super) fn is_writing(&self) -> bool {
        matches!(self.state, State::Writing { .. })
    }

    /// Goes as far as it can without waiting; false: finished or broken, drop it.
    pub(super) fn advance(&mut self, handler: &mut impl FnMut(Request) -> Response) -> bool {
        match self.read().and_then(|()| self.answer(handler)) {
            Ok(finished) => !finished,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    /// Reads up to the newline or the limit.
    fn read(&mut self) -> io::Result<()> {
        let State::Reading(line) = &mut self.state else { return Ok(()) };
        let mut chunk = [0; 4096];
        loop {
            let count = match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = chunk[..count].iter().position(|&byte| byte == b'\n');
            line.extend_from_slice(&chunk[..end.unwrap_or(count)]);
            if end.is_some() || line.len() > LINE_LIMIT {
                return Ok(());
            }
        }
    }

    /// Asks the handler once, then writes; true: all is written.
    fn answer(&mut self, handler: &mut impl FnMut(Request) -> Response) -> io::Result<bool> {
        if let State::Reading(line) = &self.state {
            let line = respond(line, self.may_change, handler).to_line();
            self.state = State::Writing { line, sent: 0 };
            self.deadline = Instant::now() + PATIENCE;
        }
        self.write()
    }

    fn write(&mut self) -> io::Result<bool> {
        let State::Writing { line, sent } = &mut self.state else { return Ok(false) };
        while *sent < line.len() {
            match self.stream.write(&line[*sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => *sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn respond(line: &[u8], may_change: bool, handler: &mut impl FnMut(Request) -> Response) -> Response {
    if line.len() > LINE_LIMIT {
        return Response::Failed { message: format!("the request is longer than {LINE_LIMIT} bytes") };
    }
    match Request::from_line(line) {
        Ok(request) if request.changes_something() && !may_change => {
            Response::Failed { message: "only root and the daemon's own user may ask for changes".to_owned() }
        }
        Ok(request) => handler(request),
        Err(message) => Response::Failed { message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_in_many_small_pieces_is_answered_once_and_whole() {
        let mut connection = Connection::new(Script::new(Request::Status.to_line(), 3), false);
        let mut asked = 0;
        let mut turns = 0;
        while connection.advance(&mut |_| {
            asked += 1;
            Response::Reloaded { rules: 7, changes: Vec::new() }
        }) {
            turns += 1;
            assert!(turns < 1000, "never finishes");
        }
        assert_eq!(asked, 1);
        assert_eq!(connection.stream.output, Response::Reloaded { rules: 7, changes: Vec::new() }.to_line());
    }

    #[test]
    fn a_client_without_rights_gets_status_but_no_reload() {
        assert_eq!(
            ask(Request::Status.to_line(), false),
            Response::Reloaded { rules: 1, changes: Vec::new() }
        );
        let Response::Failed { message } = ask(Request::Reload.to_line(), false) else { panic!("reloaded") };
        assert!(message.contains("only root"), "{message}");
        assert_eq!(
            ask(Request::Reload.to_line(), true),
            Response::Reloaded { rules: 1, changes: Vec::new() }
        );
    }

    #[test]
    fn a_line_longer_than_the_limit_is_refused_with_bounded_memory() {
        let mut connection = Connection::new(Script::new(vec![b'x'; 10 * LINE_LIMIT], usize::MAX), true);
        while connection.advance(&mut |_| panic!("asked")) {}
        assert!(connection.stream.input.len() >= 10 * LINE_LIMIT - LINE_LIMIT - 4096, "read on and on");
        assert!(String::from_utf8_lossy(&connection.stream.output).contains("longer than 65536 bytes"));
    }

    #[test]
    fn a_client_that_goes_away_before_the_newline_is_dropped() {
        let mut connection = Connection::new(Script::new(b"{\"request\":".to_vec(), usize::MAX), true);
        connection.stream.ends = true;
        assert!(!connection.advance(&mut |_| panic!("asked")));
    }

    fn ask(line: Vec<u8>, may_change: bool) -> Response {
        let mut connection = Connection::new(Script::new(line, usize::MAX), may_change);
        while connection.advance(&mut |_| Response::Reloaded { rules: 1, changes: Vec::new() }) {}
        Response::from_line(&connection.stream.output).unwrap()
    }

    /// A stream that takes and gives `piece` bytes at a time and would block in between.
    struct Script {
        input: Vec<u8>,
        output: Vec<u8>,
        piece: usize,
        blocks: bool,
        ends: bool,
    }

    impl Script {
        fn new(input: Vec<u8>, piece: usize) -> Self {
            Script { input, output: Vec::new(), piece, blocks: false, ends: false }
        }

        /// Every second call blocks.
        fn turn(&mut self) -> io::Result<()> {
            self.blocks = !self.blocks;
            if self.blocks || self.piece == usize::MAX { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
        }
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.turn()?;
            let count = self.input.len().min(buffer.len()).min(self.piece);
            if count == 0 && !self.ends {
                return Err(ErrorKind::WouldBlock.into());
            }
            buffer[..count].copy_from_slice(&self.input[..count]);
            self.input.drain(..count);
            Ok(count)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.turn()?;
            let count = bytes.len().min(self.piece);
            self.output.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
