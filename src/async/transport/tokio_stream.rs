//! A tokio stream with hyper's I/O traits.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Maximum bytes per read; the buffer is on the stack.
const READ_BYTES: usize = 4 * 1024;

/// A tokio stream, for hyper.
///
/// ```
/// use std::convert::Infallible;
///
/// use echoring::TokioStream;
/// use hyper::body::Incoming;
/// use hyper::service::service_fn;
/// use hyper::{Request, Response};
/// use tokio::net::TcpStream;
///
/// async fn serve(stream: TcpStream) -> Result<(), hyper::Error> {
///     let answer = async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new("hello\n".to_owned()));
///     let http = hyper::server::conn::http1::Builder::new();
///     http.serve_connection(TokioStream(stream), service_fn(answer)).await
/// }
/// ```
#[derive(Debug)]
pub struct TokioStream<S>(pub S);

impl<S: AsyncRead + Unpin> Read for TokioStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; READ_BYTES];
        let room = out.remaining().min(READ_BYTES);
        let mut read = ReadBuf::new(&mut bytes[..room]);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut read))?;
        out.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Write for TokioStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
