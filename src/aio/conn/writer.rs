//! The writing half of a connection, and the writer of one message.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_sink::Sink;
use serde::Serialize;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::core::{Shared, Transport};
use super::error::Error;
use super::message::Message;
use super::prepared::PreparedMessage;
use super::sender::{Pump, Sender};
use super::sending::Writing;
use super::waking::WRITER;
use crate::connection::{CloseFrame, Kind};
use crate::limits::{FRAGMENT_BYTES_LONG, FRAGMENTS_PER_DOUBLING};
use crate::protocol::{CloseCode, Opcode, Utf8};

/// The half of a [`Conn`](super::Conn) that writes. There is only one; for several tasks that write, see
/// [`into_sender`](Writer::into_sender).
///
/// Each `write` is done when the transport has taken all that is queued: the message, what was before it, and answers to
/// the peer's pings. When its future is dropped, the message was either not queued at all, or it stays queued, whole, and is sent by whatever is polled
/// next: never a part of it.
pub struct Writer<S> {
    pub(super) shared: Arc<Shared<S>>,
}

impl<S: Transport> Writer<S> {
    pub(super) fn new(shared: Arc<Shared<S>>) -> Writer<S> {
        Writer { shared }
    }

    /// Sends a message as one frame, compressed where that was agreed on and makes it shorter.
    ///
    /// # Errors
    /// What ended the connection; [`Error::Closing`] behind a close of this end; [`Error::WriteTimeout`] at the write
    /// deadline, when the message may be queued and is then sent later; [`Error::TooLong`] past 2 GiB.
    pub async fn write(&mut self, message: impl Into<Message>) -> Result<(), Error> {
        let message = message.into();
        self.write_payload(message.kind(), message.as_bytes()).await
    }

    /// Sends a text. Errors as [`write`](Writer::write).
    ///
    /// # Errors
    /// As [`write`](Writer::write).
    pub async fn write_text(&mut self, text: &str) -> Result<(), Error> {
        self.write_payload(Kind::Text, text.as_bytes()).await
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// As [`write`](Writer::write).
    pub async fn write_binary(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.write_payload(Kind::Binary, bytes).await
    }

    /// Sends the JSON of `value` as a text.
    ///
    /// # Errors
    /// [`Error::Json`] when it has none, such as a map whose keys are no texts; otherwise as [`write`](Writer::write).
    pub async fn write_json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let json = serde_json::to_vec(value)?;
        self.write_payload(Kind::Text, &json).await
    }

    /// Sends a message that was prepared for many connections.
    ///
    /// # Errors
    /// As [`write`](Writer::write).
    pub async fn write_prepared(&mut self, message: &PreparedMessage) -> Result<(), Error> {
        self.room().await?;
        self.shared.act(|core| message.queue(core))?;
        self.drained().await
    }

    /// A writer of one message, which leaves in fragments of the size of the write buffer as it is written; once 64 KiB of
    /// it were sent, in fragments of at least as much. A message that fits into one is a single frame; only then it is
    /// compressed.
    pub fn next_writer(&mut self, kind: Kind) -> MessageWriter<'_, S> {
        MessageWriter {
            buffer: Vec::with_capacity(self.shared.write_buffer_bytes),
            writer: self,
            kind,
            utf8: Utf8::new(),
            begun: false,
            finished: false,
            queued_bytes: 0,
        }
    }

    /// Sends a ping with at most 125 bytes, in front of data that is queued.
    ///
    /// # Errors
    /// [`Error::TooLong`] for a longer payload; otherwise as [`write`](Writer::write).
    pub async fn ping(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.shared.act(|core| core.queue_control(Opcode::Ping, payload))?;
        self.drained().await
    }

    /// Sends a pong that nobody asked for, with at most 125 bytes (RFC 6455, 5.5.3).
    ///
    /// # Errors
    /// As [`ping`](Writer::ping).
    pub async fn pong(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.shared.act(|core| core.queue_control(Opcode::Pong, payload))?;
        self.drained().await
    }

    /// Closes behind what is queued: sends a Close frame, reads until the peer's, and returns that. Messages that come
    /// meanwhile are dropped. A reader in another task sees the end as well. A second call waits for the same end.
    ///
    /// # Errors
    /// [`Error::CloseTimeout`] when the peer does not answer in time, [`Error::Broken`] when its stream ends without a
    /// Close frame, and whatever had ended the connection before.
    pub async fn close(&mut self, code: CloseCode, reason: &str) -> Result<CloseFrame, Error> {
        self.shared.act(|core| core.begin_close(code, reason, false));
        match poll_fn(|cx| self.shared.poll(WRITER, true, cx, |core, cx| core.poll_closed(cx))).await {
            Error::Closed(frame) => Ok(frame),
            error => Err(error),
        }
    }

    /// Until when writing may wait; `None` for ever.
    pub fn set_write_deadline(&mut self, at: Option<Instant>) {
        self.shared.act(|core| core.write_deadline = at);
    }

    /// Whether messages are compressed from now on, where that was agreed on. They are unless this is called.
    pub fn enable_write_compression(&mut self, enabled: bool) {
        self.shared.act(|core| core.compresses = enabled);
    }

    /// The effort of compression from the next message on, from 1 (fast) to 9 (small).
    ///
    /// # Errors
    /// `InvalidInput` for any other level.
    pub fn set_compression_level(&mut self, level: u8) -> Result<(), Error> {
        if !(1..=9).contains(&level) {
            return Err(Error::Io(io::Error::new(io::ErrorKind::InvalidInput, "levels go from 1 to 9")));
        }
        self.shared.act(|core| core.set_compression_level(level));
        Ok(())
    }

    /// Many writers: senders that any number of tasks may hold, with a queue of at most `messages`, and the pump that
    /// sends what they send. The pump is a future that has to be polled, in a task of its own for instance.
    pub fn into_sender(self, messages: usize) -> (Sender, Pump<S>) {
        super::sender::channel(self, messages)
    }

    /// The subprotocol that was agreed on.
    pub fn subprotocol(&self) -> Option<&str> {
        self.shared.opened.subprotocol.as_deref()
    }

    /// This end's address, where the transport has one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.shared.opened.local
    }

    /// The peer's address, where the transport has one.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.shared.opened.peer
    }

    async fn write_payload(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Error> {
        self.room().await?;
        self.shared.act(|core| core.queue(kind, payload))?;
        self.drained().await
    }

    async fn room(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_room(false, cx)).await
    }

    async fn drained(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_drained(cx)).await
    }

    /// Waits for room in the queue; where messages are `gathered`, for room in the write buffer.
    pub(super) fn poll_room(&mut self, gathered: bool, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let gathered = gathered.then_some(self.shared.write_buffer_bytes);
        self.shared.poll(WRITER, true, cx, |core, cx| {
            let queue_bytes = core.config.queue_bytes;
            let bytes_max = gathered.map_or(queue_bytes, |bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
            core.poll_room(bytes_max.min(queue_bytes), cx)
        })
    }

    pub(super) fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.shared.poll(WRITER, true, cx, |core, cx| core.poll_drained(cx))
    }
}

/// Gathers messages up to the write buffer's size; a flush, or the message that passes it, sends them.
impl<S: Transport> Sink<Message> for Writer<S> {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.get_mut().poll_room(true, cx)
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), Error> {
        self.shared.act(|core| core.queue(message.kind(), message.as_bytes()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.get_mut().poll_drained(cx)
    }

    /// Closes with 1000 and waits for the peer's answer.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.shared.act(|core| core.begin_close(CloseCode::NORMAL, "", false));
        let error = ready!(self.shared.poll(WRITER, true, cx, |core, cx| core.poll_closed(cx)));
        Poll::Ready(if error.is_clean() { Ok(()) } else { Err(error) })
    }
}

impl<S> fmt::Debug for Writer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("opened", &self.shared.opened).finish_non_exhaustive()
    }
}

/// Writes one message in fragments. [`finish`](MessageWriter::finish) ends it; dropped before that, when a fragment has
/// left already, it leaves a connection on which nothing can be written any more ([`Error::Unfinished`]): all that is
/// left is to close.
///
/// Fragments grow with the message, so that even the longest takes under 4,096 of them. Flushing makes one of what there
/// is, though, and so does [`tokio::io::copy`] whenever its reader has to wait: a relay of long messages reads and writes
/// by itself.
///
/// Control frames may go between the fragments, from other tasks too. A text that is not UTF-8 is refused, as
/// [`io::ErrorKind::InvalidData`].
#[derive(Debug)]
pub struct MessageWriter<'a, S: Transport> {
    writer: &'a mut Writer<S>,
    kind: Kind,
    buffer: Vec<u8>,
    utf8: Utf8,
    /// A fragment has been queued.
    begun: bool,
    finished: bool,
    /// Bytes of the fragments so far.
    queued_bytes: u64,
}

impl<S: Transport> MessageWriter<'_, S> {
    /// Sends the rest, and with it the message's end. An empty message is one, too.
    ///
    /// # Errors
    /// As [`Writer::write`]; [`Error::NotText`] when a text stops in the middle of a character.
    pub async fn finish(mut self) -> Result<(), Error> {
        if self.kind == Kind::Text && self.utf8.finish().is_err() {
            return Err(Error::NotText);
        }
        self.writer.room_for_fragment().await?;
        self.writer.shared.act(|core| {
            if self.begun {
                core.queue_fragment(self.kind, false, true, &self.buffer)
            } else {
                core.queue(self.kind, &self.buffer)
            }
        })?;
        self.finished = true;
        self.writer.drained().await
    }

    fn queue_buffer(&mut self) -> Result<(), Error> {
        self.writer.shared.act(|core| core.queue_fragment(self.kind, !self.begun, false, &self.buffer))?;
        self.begun = true;
        self.queued_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Bytes of the next fragment.
    fn fragment_bytes(&self) -> usize {
        let short = self.writer.shared.write_buffer_bytes;
        if self.queued_bytes < FRAGMENT_BYTES_LONG as u64 {
            return short;
        }
        let share = self.queued_bytes / FRAGMENTS_PER_DOUBLING;
        short.max(FRAGMENT_BYTES_LONG).max(usize::try_from(share).unwrap_or(usize::MAX))
    }
}

impl<S: Transport> Writer<S> {
    async fn room_for_fragment(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_room(true, cx)).await
    }
}

impl<S: Transport> AsyncWrite for MessageWriter<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut bytes_max = this.fragment_bytes();
        // One that is full leaves when more comes: the last fragment is the one that ends the message.
        if this.buffer.len() >= bytes_max && !bytes.is_empty() {
            ready!(this.writer.poll_room(true, cx)).map_err(io::Error::from)?;
            this.queue_buffer().map_err(io::Error::from)?;
            bytes_max = this.fragment_bytes();
        }
        let taken = bytes.len().min(bytes_max - this.buffer.len());
        if this.kind == Kind::Text && this.utf8.push(&bytes[..taken]).is_err() {
            return Poll::Ready(Err(Error::NotText.into()));
        }
        this.buffer.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    /// What was written so far leaves, as a fragment of its own.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.buffer.is_empty() {
            ready!(this.writer.poll_room(true, cx)).map_err(io::Error::from)?;
            this.queue_buffer().map_err(io::Error::from)?;
        }
        this.writer.poll_drained(cx).map_err(io::Error::from)
    }

    /// The same as a flush: only [`finish`](MessageWriter::finish) ends the message.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl<S: Transport> Drop for MessageWriter<'_, S> {
    fn drop(&mut self) {
        if self.begun && !self.finished {
            self.writer.shared.act(|core| core.writing = Writing::Torn);
        }
    }
}
