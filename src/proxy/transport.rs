//! Streams of the runtime that the proxy runs on: tokio-uring's where io_uring is allowed, else tokio's.
//!
//! Never: knowing what is spoken over them.

#![forbid(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pump::Activity;
use crate::aio::{self, UringStream};

/// A stream of either runtime, with TLS or without. It stays on its thread.
pub(super) type Transport = Box<dyn Stream>;

/// What a transport is made of.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// What a thread of the proxy runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runtime {
    TokioUring,
    Tokio,
}

/// Connects to a host.
pub(super) async fn connect(runtime: Runtime, host: &str, port: u16) -> io::Result<Transport> {
    let stream = aio::connect_to(host, port).await?;
    Ok(match runtime {
        Runtime::Tokio => Box::new(stream),
        Runtime::TokioUring => Box::new(UringStream::from_tokio(stream)?),
    })
}

/// A stream that notes when bytes pass.
pub(super) struct Watched {
    stream: Transport,
    activity: Activity,
}

impl Watched {
    pub(super) fn new(stream: Transport, activity: Activity) -> Watched {
        Watched { stream, activity }
    }

    pub(super) fn into_inner(self) -> Transport {
        self.stream
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, out));
        self.activity.note();
        Poll::Ready(read)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.activity.note();
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Sockets that wait for clients.
pub(super) enum Listener {
    Uring(tokio_uring::net::TcpListener),
    Tokio(tokio::net::TcpListener),
}

impl Listener {
    /// A listener of the runtime that this is called on.
    pub(super) fn new(runtime: Runtime, listener: TcpListener) -> io::Result<Listener> {
        Ok(match runtime {
            Runtime::TokioUring => Listener::Uring(tokio_uring::net::TcpListener::from_std(listener)),
            Runtime::Tokio => {
                listener.set_nonblocking(true)?;
                Listener::Tokio(tokio::net::TcpListener::from_std(listener)?)
            }
        })
    }

    /// The next client.
    pub(super) async fn accept(&self) -> io::Result<(Transport, SocketAddr)> {
        match self {
            Listener::Uring(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Box::new(UringStream::new(stream)), peer))
            }
            Listener::Tokio(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Box::new(stream), peer))
            }
        }
    }
}
