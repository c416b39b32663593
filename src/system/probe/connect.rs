//! A TCP connection, which is reset as soon as it stands: nothing of it stays in any table.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::{Protocol, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::{Exit, on_line, took};

pub(super) async fn ask(service: SocketAddr, exit: &Exit) -> io::Result<Duration> {
    let asked = Instant::now();
    let connection = connect(service, exit).await?;
    let took = took(asked);
    connection.set_zero_linger()?;
    Ok(took)
}

/// A connection that leaves by the line.
pub(super) async fn connect(service: SocketAddr, exit: &Exit) -> io::Result<TcpStream> {
    let socket = on_line(exit, Type::STREAM, Some(Protocol::TCP))?;
    TcpSocket::from_std_stream(socket.into()).connect(service).await
}
