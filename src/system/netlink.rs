//! The kernel's routing socket: one request, its answers, and what went wrong.
//!
//! [`Netlink`] is a handle on a connection that runs on the tokio runtime it
//! was opened on, in the network namespace of the thread that opened it. What
//! is asked over it lives beside: devices in [`super::links`], rules in
//! [`super::rules`], routes and changes in [`super::routes`].
//!
//! Requests are built as messages here and not with rtnetlink's builders:
//! those know no mask, no protocol number and no suppressed prefix of a rule.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;

use super::attributes::Attributes;

/// A connection to the kernel's routing tables; clones share it.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
}

/// What failed, as an operator would type it, and why.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {cause}")]
pub struct Error {
    /// The operation and its object, such as `ip route replace default via 198.51.100.1 dev eth1 table 101`.
    pub operation: String,
    /// Why it failed.
    #[source]
    pub cause: Cause,
}

/// Why a request to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The kernel refused.
    #[error("{}{}", errno.desc(), explanation(message.as_deref()))]
    Kernel {
        /// Its error number.
        errno: Errno,
        /// Its own words, if it had any.
        message: Option<String>,
    },
    /// A device that is named does not exist.
    #[error("no device {0}")]
    NoDevice(String),
    /// The value stands for something that only others have.
    #[error("not a rule that wansplit can make")]
    NotOurs,
    /// Others changed the tables faster than they could be read.
    #[error("changed while it was read, {DUMP_ATTEMPTS} times over")]
    Unstable,
    /// The kernel did not answer within [`ANSWER_TIMEOUT`].
    #[error("no answer from the kernel")]
    NoAnswer,
    /// The socket could not be opened, or broke.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
}

/// The kernel answers within the call that sends the request; this only keeps a bug from hanging us.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a dump is started anew because the table changed meanwhile.
const DUMP_ATTEMPTS: usize = 8;

/// `NLMSGERR_ATTR_MSG`, include/uapi/linux/netlink.h: the error in words.
const ERROR_ATTRIBUTE_MESSAGE: u16 = 1;

/// Length of `struct nlmsghdr`; a capped error message repeats this much of the request.
const MESSAGE_HEADER: usize = 16;

type Answer = NetlinkMessage<RouteNetlinkMessage>;

impl Netlink {
    /// Connects to the kernel, in the network namespace of the calling thread; within a tokio
    /// runtime that has I/O and time enabled.
    ///
    /// # Errors
    /// When there is no tokio runtime to run the connection, or no socket to be had.
    pub fn open() -> Result<Self, Error> {
        Self::connect().map_err(|error| Cause::from(error).during("open a route netlink socket"))
    }

    fn connect() -> io::Result<Self> {
        let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        let (mut connection, handle, _unsolicited) = rtnetlink::new_connection()?;
        connection.set_forward_done(true);
        let socket = rtnetlink::sys::AsyncSocket::socket_mut(connection.socket_mut());
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        runtime.spawn(connection);
        Ok(Self { handle })
    }

    /// Everything of one kind the kernel has; read again when it changed meanwhile.
    pub(super) async fn dump(&self, request: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Cause> {
        for _ in 0..DUMP_ATTEMPTS {
            let answers = self.request(request.clone(), NLM_F_DUMP).await?;
            if !answers.iter().any(|answer| answer.header.flags & NLM_F_DUMP_INTR != 0) {
                return contents(answers);
            }
        }
        Err(Cause::Unstable)
    }

    /// Tells the kernel to do something; success is its acknowledgement.
    pub(super) async fn command(&self, request: RouteNetlinkMessage, flags: u16) -> Result<(), Cause> {
        contents(self.request(request, NLM_F_ACK | flags).await?).map(drop)
    }

    /// Asks the kernel for one thing.
    pub(super) async fn get(
        &self,
        request: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, Cause> {
        Ok(contents(self.request(request, 0).await?)?.into_iter().next())
    }

    async fn request(&self, request: RouteNetlinkMessage, flags: u16) -> Result<Vec<Answer>, Cause> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        let answers = self.handle.clone().request(message).map_err(|_| Cause::Socket(broken_pipe()))?;
        let all = answers.collect::<Vec<_>>();
        tokio::time::timeout(ANSWER_TIMEOUT, all).await.map_err(|_| Cause::NoAnswer)
    }
}

impl Cause {
    /// The error that says during what it happened.
    pub(super) fn during(self, operation: impl ToString) -> Error {
        Error { operation: operation.to_string(), cause: self }
    }

    /// Whether the kernel refused with one of these error numbers.
    pub(super) fn is_one_of(&self, numbers: &[Errno]) -> bool {
        matches!(self, Cause::Kernel { errno, .. } if numbers.contains(errno))
    }
}

fn contents(answers: Vec<Answer>) -> Result<Vec<RouteNetlinkMessage>, Cause> {
    let mut contents = Vec::with_capacity(answers.len());
    for answer in answers {
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => contents.push(message),
            NetlinkPayload::Error(error) => acknowledged(&error, answer.header.flags)?,
            NetlinkPayload::Done(done) if done.code < 0 => return Err(refused(done.code, None)),
            _ => {}
        }
    }
    Ok(contents)
}

/// An error message whose number is zero is the acknowledgement.
fn acknowledged(error: &ErrorMessage, flags: u16) -> Result<(), Cause> {
    match error.code {
        None => Ok(()),
        Some(code) if flags & NLM_F_ACK_TLVS != 0 => Err(refused(code.get(), error_text(&error.header))),
        Some(code) => Err(refused(code.get(), None)),
    }
}

fn refused(code: i32, message: Option<String>) -> Cause {
    Cause::Kernel { errno: Errno::from_raw(code.saturating_neg()), message }
}

/// The kernel's words in the attributes after the repeated request header.
fn error_text(payload: &[u8]) -> Option<String> {
    let attributes = payload.get(MESSAGE_HEADER..)?;
    let text = Attributes::new(attributes)
        .find_map(|(kind, value)| (kind == ERROR_ATTRIBUTE_MESSAGE).then_some(value))?;
    let text = String::from_utf8_lossy(text);
    Some(text.trim_end_matches(['\0', '.']).to_owned())
}

fn explanation(message: Option<&str>) -> String {
    message.map(|message| format!(" ({message})")).unwrap_or_default()
}

fn broken_pipe() -> io::Error {
    io::Error::from(io::ErrorKind::BrokenPipe)
}
