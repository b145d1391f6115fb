//! A stream that gives and takes exactly as much as its script allows, and knows whether whoever waits for it was woken.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A waker that remembers whether it was called.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Flag>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Flag {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
pub struct Wire {
    /// What the peer sent, and what the connection has not read of it.
    pub incoming: Vec<u8>,
    pub read_bytes: usize,
    /// The peer's stream has ended.
    pub ends: bool,
    /// The transport has failed.
    pub failed: bool,
    /// Bytes that may be written.
    pub room: usize,
    pub sent: Vec<u8>,
    /// The connection has ended its stream.
    pub shut: bool,
    /// A flush takes a second call.
    pub lazy_flush: bool,
    flushing: bool,
    reading: Option<Waker>,
    writing: Option<Waker>,
}

impl Wire {
    /// The peer sends `bytes`.
    pub fn deliver(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
        self.wake_reader();
    }

    /// The peer's stream ends, or fails.
    pub fn end(&mut self, fails: bool) {
        self.ends = true;
        self.failed |= fails;
        self.wake_reader();
        if fails {
            self.wake_writer();
        }
    }

    /// The peer takes `bytes` more.
    pub fn take(&mut self, bytes: usize) {
        self.room = self.room.saturating_add(bytes);
        self.wake_writer();
    }

    fn wake_reader(&mut self) {
        if let Some(waker) = self.reading.take() {
            waker.wake();
        }
    }

    fn wake_writer(&mut self) {
        if let Some(waker) = self.writing.take() {
            waker.wake();
        }
    }
}

/// The connection's end.
#[derive(Clone, Debug, Default)]
pub struct Pipe(pub Rc<RefCell<Wire>>);

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.0.borrow_mut();
        let at = wire.read_bytes;
        let here = (wire.incoming.len() - at).min(out.remaining());
        if here > 0 {
            out.put_slice(&wire.incoming[at..at + here]);
            wire.read_bytes += here;
        } else if wire.failed {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        } else if !wire.ends {
            wire.reading = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut wire = self.0.borrow_mut();
        assert!(!wire.shut, "bytes behind the end of the stream");
        if wire.failed {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let taken = bytes.len().min(wire.room);
        if taken == 0 && !bytes.is_empty() {
            wire.writing = Some(cx.waker().clone());
            return Poll::Pending;
        }
        wire.room -= taken;
        wire.sent.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // As a socket: as much of all pieces as there is room for.
        let mut taken = 0;
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            match self.as_mut().poll_write(cx, piece) {
                Poll::Ready(Ok(bytes)) => {
                    taken += bytes;
                    if bytes < piece.len() {
                        break;
                    }
                }
                Poll::Pending if taken > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.0.borrow_mut();
        if wire.lazy_flush && !wire.flushing {
            wire.flushing = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        wire.flushing = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().shut = true;
        Poll::Ready(Ok(()))
    }
}
