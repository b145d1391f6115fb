//! A TCP listener, and the connections that come of it.
//!
//! Never: TLS, or requests that are no upgrades; accept those yourself, or let an HTTP server do it.

#![forbid(unsafe_code)]

use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Conn, UpgradeError, Upgrader};
use crate::limits::{ACCEPT_PAUSE, AIO_HANDSHAKES_MAX};

/// Accepts TCP connections, of one socket or of several: `Listener::from` takes either, such as a socket for each of the
/// addresses of `localhost`.
///
/// ```
/// use echoring::aio::{Listener, Upgrader, dial};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = Listener::bind("127.0.0.1:0").await?;
/// let url = format!("ws://{}/", listener.local_addr()?);
/// tokio::spawn(async move {
///     let mut incoming = listener.incoming(&Upgrader::new());
///     while let Ok(mut conn) = incoming.next().await {
///         tokio::spawn(async move {
///             while let Ok(message) = conn.read().await {
///                 if conn.write(message).await.is_err() {
///                     break;
///                 }
///             }
///         });
///     }
/// });
/// let mut conn = dial(&url).await?;
/// conn.write("hello").await?;
/// assert_eq!(conn.read().await?.as_bytes(), b"hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Listener {
    /// At least one.
    sockets: Vec<TcpListener>,
}

impl Listener {
    /// Listens on the first of `address` that can be listened on; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// What the kernel says, such as `AddrInUse`.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<Listener> {
        TcpListener::bind(address).await.map(Listener::from)
    }

    /// Where it listens; the first, where there are several.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.sockets.first() {
            Some(socket) => socket.local_addr(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The next TCP connection, and whose it is. Connections that ended before they were accepted are passed over;
    /// where this process has no descriptors left, it waits for some. Cancel-safe.
    ///
    /// # Errors
    /// What is wrong with the listener itself.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let error = match self.accept_from_any().await {
                Ok(accepted) => return Ok(accepted),
                Err(error) => error,
            };
            match error.kind() {
                io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionRefused => {}
                _ if is_shortage(&error) => {
                    tracing::warn!(%error, "cannot accept; raise the limit of open files (ulimit -n)");
                    sleep(Duration::from_nanos(ACCEPT_PAUSE)).await;
                }
                _ => return Err(error),
            }
        }
    }

    async fn accept_from_any(&self) -> io::Result<(TcpStream, SocketAddr)> {
        if let [socket] = &self.sockets[..] {
            return socket.accept().await;
        }
        let mut accepting: Vec<_> = self.sockets.iter().map(|socket| Box::pin(socket.accept())).collect();
        poll_fn(|cx| {
            let mut polled = accepting.iter_mut().map(|accepting| accepting.as_mut().poll(cx));
            polled.find(Poll::is_ready).unwrap_or(Poll::Pending)
        })
        .await
    }

    /// The WebSocket connections that come in, opened by `upgrader`.
    pub fn incoming(self, upgrader: &Upgrader) -> Incoming {
        Incoming { listener: self, upgrader: upgrader.clone(), handshakes: JoinSet::new() }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Listener {
        Listener { sockets: vec![listener] }
    }
}

/// From none nothing is ever accepted.
impl From<Vec<TcpListener>> for Listener {
    fn from(sockets: Vec<TcpListener>) -> Listener {
        Listener { sockets }
    }
}

/// `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Connections of a [`Listener`]. Handshakes run beside each other, so that a slow client holds nobody up; dropping
/// this ends those under way and the listener.
#[derive(Debug)]
pub struct Incoming {
    listener: Listener,
    upgrader: Upgrader,
    handshakes: JoinSet<Result<Conn<TcpStream>, UpgradeError>>,
}

impl Incoming {
    /// Where it listens.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next open connection. Clients that are refused, or go away, are passed over; see
    /// [`Upgrader::on_refusal`]. Cancel-safe. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// What is wrong with the listener.
    pub async fn next(&mut self) -> io::Result<Conn<TcpStream>> {
        loop {
            let has_room = self.handshakes.len() < AIO_HANDSHAKES_MAX;
            tokio::select! {
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Ok(conn)) => return Ok(conn),
                    Ok(Err(error)) => tracing::debug!(%error, "no connection"),
                    // A hook of the program's panicked, which its runtime has told.
                    Err(_) => {}
                },
                accepted = self.listener.accept(), if has_room => {
                    let (stream, _) = accepted?;
                    let upgrader = self.upgrader.clone();
                    self.handshakes.spawn(async move { upgrader.accept_tcp(stream).await });
                }
            }
        }
    }
}
