//! One client of the control socket: read a line, answer it, done.
//!
//! A state machine over a non-blocking stream. Its memory is bounded by
//! [`LINE_LIMIT`] and its life by [`PATIENCE`] for each half, however slowly the
//! client dribbles: the deadline is for the whole line, not for the next byte.
//! Who follows events has no deadline, and gets one line after the other.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use super::feed::Feed;
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
    Following { line: Vec<u8>, sent: usize, place: u64 },
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

    /// When the client's time is up; `None`: it follows events.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.is_following()).then_some(self.deadline)
    }

    /// Whether it is told events.
    pub(super) fn is_following(&self) -> bool {
        matches!(self.state, State::Following { .. })
    }

    /// Whether it waits for the client to take the answer, rather than to say something or go.
    pub(super) fn is_writing(&self) -> bool {
        match &self.state {
            State::Reading(_) => false,
            State::Writing { .. } => true,
            State::Following { line, sent, .. } => *sent < line.len(),
        }
    }

    /// Goes as far as it can without waiting; false: finished or broken, drop it. `feed` is what it may
    /// follow, if it may.
    pub(super) fn advance(
        &mut self,
        feed: &Feed,
        may_follow: bool,
        handler: &mut impl FnMut(Request) -> Response,
    ) -> bool {
        if self.is_following() {
            return self.follow(feed).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        }
        let mut handler = |request| match request {
            Request::Events if may_follow => Response::Following,
            Request::Events => Response::Failed { message: "too many follow events already".to_owned() },
            request => handler(request),
        };
        match self.read().and_then(|()| self.answer(feed, &mut handler)) {
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
    fn answer(&mut self, feed: &Feed, handler: &mut impl FnMut(Request) -> Response) -> io::Result<bool> {
        if let State::Reading(line) = &self.state {
            let response = respond(line, self.may_change, handler);
            let line = response.to_line();
            self.state = match response {
                Response::Following => State::Following { line, sent: 0, place: feed.now() },
                _ => State::Writing { line, sent: 0 },
            };
            self.deadline = Instant::now() + PATIENCE;
        }
        match &mut self.state {
            State::Writing { line, sent } => write(&mut self.stream, line, sent).map(|()| true),
            _ => self.follow(feed).map(|()| true),
        }
    }

    /// Writes what there is to tell; the error is at least that there is no more.
    fn follow(&mut self, feed: &Feed) -> io::Result<()> {
        if is_gone(&mut self.stream) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let State::Following { line, sent, place } = &mut self.state else { return Ok(()) };
        loop {
            write(&mut self.stream, line, sent)?;
            let Some((next, behind)) = feed.line_at(*place) else { return Err(ErrorKind::WouldBlock.into()) };
            (*line, *sent, *place) = (next, 0, behind);
        }
    }
}

/// Whether a client that has nothing more to say has closed its end.
fn is_gone(stream: &mut impl Read) -> bool {
    match stream.read(&mut [0; 256]) {
        Ok(count) => count == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}

fn write(stream: &mut impl Write, line: &[u8], sent: &mut usize) -> io::Result<()> {
    while *sent < line.len() {
        match stream.write(&line[*sent..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => *sent += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
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
    use super::super::message::Event;
    use super::*;

    #[test]
    fn a_request_in_many_small_pieces_is_answered_once_and_whole() {
        let mut connection = Connection::new(Script::new(Request::Status.to_line(), 3), false);
        let mut asked = 0;
        let mut turns = 0;
        while connection.advance(&feed(), false, &mut |_| {
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
        while connection.advance(&feed(), false, &mut |_| panic!("asked")) {}
        assert!(connection.stream.input.len() >= 10 * LINE_LIMIT - LINE_LIMIT - 4096, "read on and on");
        assert!(String::from_utf8_lossy(&connection.stream.output).contains("longer than 65536 bytes"));
    }

    #[test]
    fn a_client_that_goes_away_before_the_newline_is_dropped() {
        let mut connection = Connection::new(Script::new(b"{\"request\":".to_vec(), usize::MAX), true);
        connection.stream.ends = true;
        assert!(!connection.advance(&feed(), false, &mut |_| panic!("asked")));
    }

    fn feed() -> Feed {
        Feed::new().unwrap()
    }

    #[test]
    fn who_follows_is_told_each_event_once_and_only_while_there_is_room_for_him() {
        let feed = feed();
        let mut follower = Connection::new(Script::new(Request::Events.to_line(), usize::MAX), false);
        for number in 1..4 {
            for _ in 0..3 {
                assert!(follower.advance(&feed, true, &mut |_| panic!("asked")));
            }
            feed.publish(Event { number, ..Event::default() });
        }
        let output = String::from_utf8(follower.stream.output).unwrap();
        let lines: Vec<_> =
            output.lines().map(|line| Response::from_line(line.as_bytes()).unwrap()).collect();
        let event = |number| Response::Event(Event { number, ..Event::default() });
        assert_eq!(lines, [Response::Following, event(1), event(2)]);

        let mut refused = Connection::new(Script::new(Request::Events.to_line(), usize::MAX), false);
        assert!(!refused.advance(&feed, false, &mut |_| panic!("asked")));
        assert!(String::from_utf8_lossy(&refused.stream.output).contains("too many"));
    }

    #[test]
    fn a_follower_that_goes_away_is_dropped() {
        let feed = feed();
        let mut follower = Connection::new(Script::new(Request::Events.to_line(), usize::MAX), false);
        assert!(follower.advance(&feed, true, &mut |_| panic!("asked")));
        follower.stream.ends = true;
        assert!(!follower.advance(&feed, true, &mut |_| panic!("asked")));
    }

    fn ask(line: Vec<u8>, may_change: bool) -> Response {
        let mut connection = Connection::new(Script::new(line, usize::MAX), may_change);
        while connection
            .advance(&feed(), false, &mut |_| Response::Reloaded { rules: 1, changes: Vec::new() })
        {}
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
