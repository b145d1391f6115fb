//! A TCP listener, and the WebSocket connections that it accepts.
//!
//! Never: TLS, or requests that are not upgrades; accept those yourself, or use an HTTP server.

#![forbid(unsafe_code)]

use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::task::JoinSet;

use super::{Conn, UpgradeError, Upgrader};
use crate::accept;
use crate::limits::AIO_HANDSHAKES_MAX;

/// Accepts TCP connections on one or several sockets: `Listener::from` takes either, such as one socket for each
/// address of `localhost`.
///
/// ```
/// use echoring::{Listener, Upgrader, dial};
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
    /// Listens on the first usable address of `address`; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// The kernel's error, such as `AddrInUse`.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<Listener> {
        TcpListener::bind(address).await.map(Listener::from)
    }

    /// The address of the listener; with several sockets, that of the first.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.sockets.first().ok_or(io::ErrorKind::NotConnected)?.local_addr()
    }

    /// Accepts the next TCP connection, and returns its peer address. Connections that ended before they were accepted
    /// are skipped; if the process has no free descriptors, it waits for some. Cancel-safe.
    ///
    /// # Errors
    /// Failures of the listener itself.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            match self.accept_from_any().await {
                Ok(accepted) => return Ok(accepted),
                Err(error) => accept::retry("listener", error).await?,
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

    /// Accepts WebSocket connections, opened by `upgrader`.
    pub fn incoming(self, upgrader: &Upgrader) -> Incoming {
        Incoming { listener: self, upgrader: upgrader.clone(), handshakes: JoinSet::new() }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Listener {
        Listener { sockets: vec![listener] }
    }
}

/// An empty list never accepts anything.
impl From<Vec<TcpListener>> for Listener {
    fn from(sockets: Vec<TcpListener>) -> Listener {
        Listener { sockets }
    }
}

/// `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`.
#[cfg(unix)]
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// `WSAEMFILE`, `WSAENOBUFS`.
#[cfg(not(unix))]
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(10_024 | 10_055))
}

/// The WebSocket connections of a [`Listener`]. Handshakes run concurrently, so a slow client delays no other; dropping
/// this ends pending handshakes and the listener.
///
/// ```
/// use echoring::{Listener, Upgrader};
///
/// async fn greet_everybody() -> std::io::Result<()> {
///     let mut incoming = Listener::bind("127.0.0.1:0").await?.incoming(&Upgrader::new());
///     println!("listening on {}", incoming.local_addr()?);
///     loop {
///         let mut conn = incoming.next().await?;
///         tokio::spawn(async move { conn.write("welcome").await });
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Incoming {
    listener: Listener,
    upgrader: Upgrader,
    handshakes: JoinSet<Result<Conn<TcpStream>, UpgradeError>>,
}

impl Incoming {
    /// The address of the listener.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next open connection. Clients that are refused or disconnect are skipped; see [`Upgrader::on_refusal`].
    /// Cancel-safe. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// Failures of the listener itself.
    pub async fn next(&mut self) -> io::Result<Conn<TcpStream>> {
        loop {
            let has_room = self.handshakes.len() < AIO_HANDSHAKES_MAX;
            tokio::select! {
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Ok(conn)) => return Ok(conn),
                    Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
                    // A hook of the program panicked; the runtime has reported it.
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
