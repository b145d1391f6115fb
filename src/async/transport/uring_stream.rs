//! A TCP stream of tokio-uring with tokio's traits. Those are poll-based with borrowed buffers, while the ring works
//! with owned buffers. So each byte is copied once in each direction, and each call is one operation, whatever its length.
//!
//! Never: a buffer that is read, written or freed while its operation is pending.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_uring::net::TcpStream;

use crate::limits::{URING_BUFFER_BYTES_KEPT, URING_BUFFER_BYTES_MAX};

/// A TCP stream on the tokio-uring runtime, as a transport of a [`Conn`](crate::Conn), or for hyper inside a
/// [`TokioStream`](crate::TokioStream).
///
/// tokio-uring 0.5 ignores an `io_uring_enter` that the kernel refuses temporarily (EAGAIN, ENOMEM): the operation then
/// waits until something else makes the runtime enter its ring. On hosts that may run short of memory, run a task that
/// sleeps for some milliseconds in a loop, or use plain tokio.
///
/// Pending operations belong to the stream, not to the call that started them. Dropping a future does not cancel its
/// operation: a cancelled read stays pending, and its bytes are returned to the next caller. Dropping the stream shuts
/// the connection down, which ends them.
///
/// Not available with musl, which tokio-uring 0.5 does not build against; use tokio's streams there.
///
/// ```
/// use echoring::{Conn, UpgradeError, Upgrader, UringStream};
///
/// /// On the runtime of tokio-uring.
/// async fn open(stream: tokio_uring::net::TcpStream) -> Result<Conn<UringStream>, UpgradeError> {
///     Upgrader::new().accept(UringStream::new(stream)).await
/// }
/// ```
pub struct UringStream {
    stream: Rc<TcpStream>,
    read: Reading,
    write: Writing,
}

/// A pending operation, which owns its buffer.
type Operation<T> = Pin<Box<dyn Future<Output = (io::Result<T>, Vec<u8>)>>>;

enum Reading {
    /// Bytes that no caller has read yet: those of `bytes` from `taken` on.
    Ready {
        bytes: Vec<u8>,
        taken: usize,
    },
    Armed(Operation<usize>),
}

enum Writing {
    Idle(Vec<u8>),
    Underway(Operation<()>),
}

impl UringStream {
    /// Wraps `stream`. Must be called on its runtime.
    pub fn new(stream: TcpStream) -> UringStream {
        UringStream {
            stream: Rc::new(stream),
            read: Reading::Ready { bytes: Vec::new(), taken: 0 },
            write: Writing::Idle(Vec::new()),
        }
    }

    /// Moves a socket from tokio's reactor to the ring.
    pub(crate) fn from_tokio(stream: tokio::net::TcpStream) -> io::Result<UringStream> {
        let stream = stream.into_std()?;
        // The ring waits by itself; a non-blocking socket would return EAGAIN.
        stream.set_nonblocking(false)?;
        Ok(UringStream::new(TcpStream::from_std(stream)))
    }

    /// Waits for the pending write, if any, and returns its result.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Writing::Underway(operation) = &mut self.write {
            let (result, buffer) = ready!(operation.as_mut().poll(cx));
            self.write = Writing::idle(buffer);
            return Poll::Ready(result);
        }
        Poll::Ready(Ok(()))
    }

    /// Copies from `pieces`, of which the stream takes at most [`URING_BUFFER_BYTES_MAX`], and begins to write that. Returns the
    /// number of bytes taken.
    fn poll_begin_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_written(cx))?;
        let Writing::Idle(buffer) = &mut self.write else { return Poll::Ready(Ok(0)) };
        let mut buffer = std::mem::take(buffer);
        buffer.clear();
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let taken = bytes.min(URING_BUFFER_BYTES_MAX);
        buffer.reserve_exact(taken);
        for piece in pieces {
            let rest = taken - buffer.len();
            buffer.extend_from_slice(&piece[..piece.len().min(rest)]);
        }
        let stream = Rc::clone(&self.stream);
        let mut operation: Operation<()> = Box::pin(async move { stream.write_all(buffer).await });
        // The first poll submits it to the ring. Its result, even if immediate, is returned by the next write or
        // flush, because these bytes were accepted.
        match operation.as_mut().poll(cx) {
            Poll::Pending => self.write = Writing::Underway(operation),
            Poll::Ready((result, buffer)) => {
                self.write = Writing::idle(buffer);
                result?;
            }
        }
        Poll::Ready(Ok(taken))
    }
}

impl Writing {
    /// Nothing is written. A long buffer is freed: a connection that is idle does not hold it.
    fn idle(buffer: Vec<u8>) -> Writing {
        Writing::Idle(if buffer.capacity() > URING_BUFFER_BYTES_KEPT { Vec::new() } else { buffer })
    }
}

impl AsyncRead for UringStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let this = self.get_mut();
        loop {
            match &mut this.read {
                Reading::Ready { bytes, taken } if *taken < bytes.len() => {
                    let end = bytes.len().min(*taken + out.remaining());
                    out.put_slice(&bytes[*taken..end]);
                    *taken = end;
                    return Poll::Ready(Ok(()));
                }
                Reading::Ready { bytes, .. } => {
                    // As long as what the caller takes, so that a connection's reads grow and shrink with its peer's messages.
                    let wanted = out.remaining().min(URING_BUFFER_BYTES_MAX);
                    let mut buffer = std::mem::take(bytes);
                    buffer.clear();
                    if buffer.capacity() != wanted {
                        buffer = Vec::with_capacity(wanted);
                    }
                    let stream = Rc::clone(&this.stream);
                    this.read = Reading::Armed(Box::pin(async move { stream.read(buffer).await }));
                }
                Reading::Armed(operation) => {
                    let (result, bytes) = ready!(operation.as_mut().poll(cx));
                    this.read = Reading::Ready { bytes, taken: 0 };
                    if result? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

impl AsyncWrite for UringStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_begin_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_begin_write(cx, pieces)
    }

    /// Pieces are copied once, into one operation.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_written(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_written(cx))?;
        Poll::Ready(self.stream.shutdown(Shutdown::Write))
    }
}

impl Drop for UringStream {
    fn drop(&mut self) {
        // A pending read holds the descriptor; without the shutdown the peer would never see the end.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl fmt::Debug for UringStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringStream")
            .field("read_armed", &matches!(self.read, Reading::Armed(_)))
            .field("write_underway", &matches!(self.write, Writing::Underway(_)))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read as _, Write as _};
    use std::time::Duration;

    use super::*;
    use crate::{Conn, Error, Opened, Settings};
    use echoring_proto::Role;

    /// Runs `test` with an accepted stream and its peer, unless io_uring is denied.
    fn with_stream<F: Future<Output = ()>>(test: impl FnOnce(UringStream, std::net::TcpStream) -> F) {
        if let Err(error) = crate::ring_allowed() {
            assert!(std::env::var_os("CI").is_none(), "io_uring is denied here: {error}");
            eprintln!("io_uring is denied here ({error}): nothing to test");
            return;
        }
        tokio_uring::start(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
            let peer =
                std::net::TcpStream::connect(listener.local_addr().expect("its address")).expect("a peer");
            let (accepted, _) =
                tokio_uring::net::TcpListener::from_std(listener).accept().await.expect("accepted");
            test(UringStream::new(accepted), peer).await;
        });
    }

    async fn read(stream: &mut UringStream, bytes_max: usize) -> Vec<u8> {
        let mut bytes = vec![0; bytes_max];
        let mut buffer = ReadBuf::new(&mut bytes);
        poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut buffer)).await.expect("bytes");
        buffer.filled().to_vec()
    }

    #[test]
    fn a_peer_that_does_not_read_ends_the_connection_after_the_write_timeout() {
        with_stream(|stream, mut peer| async move {
            let settings = Settings::default().write_timeout(Duration::from_millis(50));
            let mut conn = Conn::new(stream, &settings, Opened::new(Role::Server));
            let mut accepted = 0;
            let error = loop {
                match conn.write(vec![7; 1 << 20]).await {
                    Ok(()) => accepted += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::SendTimeout), "{error:?} after {accepted} messages");
            assert!(matches!(conn.read().await, Err(Error::SendTimeout)));
            drop(conn);
            // The operation in flight does not keep the socket open.
            let mut got = Vec::new();
            peer.read_to_end(&mut got).expect("what the kernel holds, and the end");
            assert!(got.len() >= accepted << 20);
        });
    }

    #[test]
    fn a_cancelled_read_loses_no_bytes() {
        with_stream(|mut stream, mut peer| async move {
            // Nothing was sent: the read is pending, and its caller is cancelled.
            let given_up = tokio::select! {
                biased;
                _ = read(&mut stream, 64) => false,
                () = tokio::task::yield_now() => true,
            };
            assert!(given_up);
            peer.write_all(b"hello, ring").expect("sent");
            // Smaller than the received bytes: the rest stays for the next caller.
            assert_eq!(read(&mut stream, 5).await, b"hello");
            assert_eq!(read(&mut stream, 64).await, b", ring");
        });
    }

    #[test]
    fn bytes_written_arrive_in_order_and_then_the_end() {
        with_stream(|mut stream, mut peer| async move {
            let reader = std::thread::spawn(move || {
                let mut received = Vec::new();
                peer.read_to_end(&mut received).map(|_| received)
            });
            let sent: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
            let mut rest = &sent[..];
            while !rest.is_empty() {
                let taken = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, rest)).await.expect("taken");
                rest = &rest[taken..];
            }
            poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await.expect("shut down");
            assert_eq!(reader.join().expect("reader").expect("read"), sent);
        });
    }

    #[test]
    fn one_operation_takes_pieces_and_long_messages_and_an_idle_stream_holds_little() {
        with_stream(|mut stream, mut peer| async move {
            let (head, body) = ([1; 10], vec![2; 64 << 10]);
            let pieces = [IoSlice::new(&head), IoSlice::new(&[]), IoSlice::new(&body)];
            let taken =
                poll_fn(|cx| Pin::new(&mut stream).poll_write_vectored(cx, &pieces)).await.expect("taken");
            assert_eq!(taken, head.len() + body.len());
            let reader = std::thread::spawn(move || {
                let mut received = vec![0; taken];
                peer.read_exact(&mut received).map(|()| (peer, received))
            });
            poll_fn(|cx| Pin::new(&mut stream).poll_flush(cx)).await.expect("written");
            let (mut peer, received) = reader.join().expect("reader").expect("read");
            assert_eq!(received, [&head[..], &body].concat());
            let Writing::Idle(kept) = &stream.write else { panic!("nothing is being written") };
            assert!(kept.capacity() <= URING_BUFFER_BYTES_KEPT);

            peer.write_all(&body).expect("sent");
            // All of it has arrived, so one operation can read it.
            let mut rest = body.len();
            while rest > 0 {
                rest -= read(&mut stream, 68 << 10).await.len();
            }
            // The next read is as long as its caller wants.
            peer.write_all(&[3; 5]).expect("sent");
            assert_eq!(read(&mut stream, 1000).await, [3; 5]);
            let Reading::Ready { bytes, .. } = &stream.read else { panic!("nothing is being read") };
            assert_eq!(bytes.capacity(), 1000);
        });
    }

    #[test]
    fn dropping_the_stream_ends_the_connection_despite_a_pending_read() {
        with_stream(|mut stream, mut peer| async move {
            let armed = tokio::select! {
                biased;
                _ = read(&mut stream, 64) => false,
                () = tokio::task::yield_now() => true,
            };
            assert!(armed);
            drop(stream);
            let ended = tokio::task::spawn_blocking(move || peer.read(&mut [0; 1])).await.expect("reader");
            assert_eq!(ended.expect("the end of the stream"), 0);
        });
    }
}
