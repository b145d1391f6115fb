//! Two connections against each other, and against hand-written bytes.

mod closing;
mod forwarding;
mod handles;
mod heads;
mod interop;
mod parts;
mod reading;
mod sharing;
mod time;
mod traces;
mod waking;
mod write_timeouts;
mod writing;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex,
};

use super::*;
use echoring_proto::frame::{self, HEADER_BYTES_MAX, Header};
use echoring_proto::{Opcode, ProtocolError, Role, mask};

fn conn<S: Transport>(stream: S, role: Role, settings: &Settings) -> Conn<S> {
    Conn::new(stream, settings, Opened::new(role))
}

/// A server and a client over a stream that holds `bytes` in each direction.
fn pair_with(bytes: usize, settings: &Settings) -> (Conn<DuplexStream>, Conn<DuplexStream>) {
    let (ours, theirs) = duplex(bytes);
    (conn(ours, Role::Server, settings), conn(theirs, Role::Client, settings))
}

fn pair() -> (Conn<DuplexStream>, Conn<DuplexStream>) {
    pair_with(4096, &Settings::default())
}

/// A server whose peer is hand-written.
fn server_by_hand(settings: &Settings) -> (Conn<DuplexStream>, DuplexStream) {
    let (ours, theirs) = duplex(1 << 20);
    (conn(ours, Role::Server, settings), theirs)
}

/// Encodes a client's frame.
fn masked(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
    let key = [0x12, 0x80, 0x7f, 0xfe];
    let mut bytes = head(&Header::new(opcode, fin, Some(key), payload.len()));
    mask::append(&mut bytes, payload, key);
    bytes
}

fn head(header: &Header) -> Vec<u8> {
    let mut head = [0; HEADER_BYTES_MAX];
    let head_bytes = frame::encode(header, &mut head);
    head[..head_bytes].to_vec()
}

/// Reads the next frame that a server sent.
async fn frame_of(peer: &mut DuplexStream) -> (Header, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        if let Some((header, head_bytes)) = frame::decode(&bytes, Role::Client, true).expect("a good frame") {
            let mut payload = bytes.split_off(head_bytes);
            let here = payload.len();
            payload.resize(header.payload_bytes as usize, 0);
            peer.read_exact(&mut payload[here..]).await.expect("its payload");
            return (header, payload);
        }
        bytes.push(peer.read_u8().await.expect("a frame"));
    }
}

/// A transport that counts successful reads and writes.
struct Counted<S> {
    stream: S,
    reads: Arc<AtomicUsize>,
    writes: Arc<AtomicUsize>,
}

impl<S> Counted<S> {
    fn new(stream: S) -> Counted<S> {
        Counted { stream, reads: Arc::default(), writes: Arc::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, out);
        if polled.is_ready() {
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if polled.is_ready() {
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        if polled.is_ready() {
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
