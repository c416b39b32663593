//! How people's commands talk to the running daemon: one line of JSON there, one line back, over a unix socket.
//!
//! [`message`] says what can be asked and answered, [`server`] answers inside
//! the daemon, [`client`] asks. Messages are plain strings and numbers, so that
//! an older command understands a newer daemon and any script can read them:
//!
//! ```text
//! $ echo '{"request":"status"}' | socat - UNIX-CONNECT:/run/wansplit/control.sock
//! ```

pub mod client;
mod connection;
pub mod feed;
pub mod message;
pub mod server;

/// Name of the socket's file inside the run directory.
pub const SOCKET_NAME: &str = "control.sock";
