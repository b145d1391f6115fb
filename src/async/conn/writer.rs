//! The writing half of a connection, and the writer of one message.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_sink::Sink;
use serde_core::Serialize;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::core::{Core, Shared, Transport};
use super::error::Error;
use super::message::Message;
use super::prepared::PreparedMessage;
use super::sender::{SendTask, Sender};
use super::sending::Writing;
use super::waiters::WRITER;
use crate::limits::{FRAGMENT_BYTES_LONG, FRAGMENTS_PER_DOUBLING};
use echoring_proto::connection::{CloseFrame, MessageKind};
use echoring_proto::{CloseCode, Opcode, Utf8};

/// The writing half of a [`Conn`](super::Conn). There is only one; for several writing tasks, see
/// [`into_sender`](Writer::into_sender).
///
/// A `write` returns once the transport has accepted all queued frames: the message, frames before it, and answers to
/// the peer's pings. If its future is dropped, the message either was not queued at all, or stays queued whole and is
/// sent by the next call. It is never sent in part.
///
/// ```
/// use echoring::{Conn, Error};
/// use tokio::net::TcpStream;
///
/// async fn echo(conn: Conn<TcpStream>) -> Result<(), Error> {
///     let (mut reader, mut writer) = conn.split();
///     loop {
///         writer.write(reader.read().await?).await?;
///     }
/// }
/// ```
pub struct Writer<S> {
    pub(super) shared: Arc<Shared<S>>,
}

impl<S: Transport> Writer<S> {
    pub(super) fn new(shared: Arc<Shared<S>>) -> Writer<S> {
        Writer { shared }
    }

    /// Sends a message as one frame, compressed if compression was negotiated and makes it smaller.
    ///
    /// # Errors
    /// The error that ended the connection; [`Error::Closing`] after this end has begun to close;
    /// [`Error::WriteTimeout`] at the write deadline, when the message may be queued and is then sent later;
    /// [`Error::SendTimeout`] after the connection's [write timeout](super::Settings::write_timeout), which ends it;
    /// [`Error::TooLong`] above 2 GiB.
    pub async fn write(&mut self, message: impl Into<Message>) -> Result<(), Error> {
        let mut message = Some(message.into());
        self.write_with(|core| message.take().map_or(Ok(()), |message| core.queue_message(message))).await
    }

    /// Queues a message without sending it, once there is room in the write buffer. Queued messages leave together: when the
    /// write buffer is full, when the reader of the connection has nothing more to read, or with the next
    /// [`flush`](Writer::flush) or `write`. So a program that answers messages feeds its answers, and need not flush:
    /// answers to messages that arrived together leave together.
    ///
    /// If the future is dropped, the message either was not queued, or is queued whole.
    ///
    /// # Errors
    /// As [`write`](Writer::write).
    pub async fn feed(&mut self, message: impl Into<Message>) -> Result<(), Error> {
        let mut message = Some(message.into());
        poll_fn(|cx| self.poll_feed(cx, &mut message)).await
    }

    #[inline]
    pub(super) fn poll_feed(
        &mut self,
        cx: &mut Context<'_>,
        message: &mut Option<Message>,
    ) -> Poll<Result<(), Error>> {
        let bytes_max = self.write_buffer_bytes();
        // With room, nothing is waited for.
        let now = |core: &mut Core<S>| {
            let has_room = core.has_room(bytes_max.min(core.config.queue_bytes));
            message.take_if(|_| has_room).map(|message| core.queue_fed(message))
        };
        let queued = self.shared.update(now);
        if let Some(queued) = queued {
            return Poll::Ready(queued);
        }
        self.shared.poll(WRITER, true, cx, |core, cx| {
            ready!(core.poll_room(bytes_max.min(core.config.queue_bytes), cx))?;
            Poll::Ready(message.take().map_or(Ok(()), |message| core.queue_message(message)))
        })
    }

    /// Sends the queued frames, and returns once the transport has accepted them.
    ///
    /// # Errors
    /// As [`write`](Writer::write).
    pub async fn flush(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_drained(cx)).await
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// As [`write`](Writer::write).
    pub async fn write_text(&mut self, text: &str) -> Result<(), Error> {
        self.write_payload(MessageKind::Text, text.as_bytes()).await
    }

    /// Sends a binary message.
    ///
    /// # Errors
    /// As [`write`](Writer::write).
    pub async fn write_binary(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.write_payload(MessageKind::Binary, bytes).await
    }

    /// Sends `value` as JSON in a text message.
    ///
    /// # Errors
    /// [`Error::Json`] if it cannot be serialised, such as a map whose keys are not strings; otherwise as
    /// [`write`](Writer::write).
    pub async fn write_json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let json = serde_json::to_vec(value)?;
        self.write_payload(MessageKind::Text, &json).await
    }

    /// Sends a message that was encoded for many connections.
    ///
    /// # Errors
    /// As [`write`](Writer::write).
    pub async fn write_prepared(&mut self, message: &PreparedMessage) -> Result<(), Error> {
        self.write_with(|core| message.queue(core)).await
    }

    /// A writer of one message, which is sent in fragments of the write buffer's size; after 64 KiB of it, in larger
    /// ones. A message that fits one fragment is sent as a single frame, and only then compressed.
    pub fn next_writer(&mut self, kind: MessageKind) -> MessageWriter<'_, S> {
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

    /// Sends a ping with at most 125 bytes of payload, ahead of queued data.
    ///
    /// # Errors
    /// [`Error::ControlTooLong`] for a longer payload; otherwise as [`write`](Writer::write).
    pub async fn ping(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.shared.update(|core| core.queue_control(Opcode::Ping, payload))?;
        self.flush().await
    }

    /// Sends an unsolicited pong with at most 125 bytes of payload (RFC 6455, 5.5.3).
    ///
    /// # Errors
    /// As [`ping`](Writer::ping).
    pub async fn pong(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.shared.update(|core| core.queue_control(Opcode::Pong, payload))?;
        self.flush().await
    }

    /// Closes behind the queued data: sends a Close frame, reads until the peer's, and returns that. Messages that
    /// arrive meanwhile are dropped. A reader in another task gets the end as well. A second call waits for the same
    /// end: its code and reason are not sent.
    ///
    /// A code that a Close frame may not carry ([`CloseCode::may_be_sent`]; RFC 6455, 7.4.1) makes a frame without code and reason, and
    /// the peer reads 1005. So the code and the reason of a received [`CloseFrame`] can be sent as they are, also 1005; to pass on an end
    /// without a Close frame (1006), see [`forward_close`](Writer::forward_close). A reason above 123 bytes is truncated at a character.
    ///
    /// ```
    /// use echoring::{CloseCode, Error, Transport, Writer};
    ///
    /// async fn end<S: Transport>(writer: &mut Writer<S>, result: Result<(), String>) -> Result<(), Error> {
    ///     let answer = match result {
    ///         Ok(()) => writer.close(CloseCode::NORMAL, "").await?,
    ///         Err(why) => writer.close(CloseCode::INTERNAL, &why).await?,
    ///     };
    ///     println!("the peer answered {answer}");
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Error::CloseTimeout`] if the peer does not answer in time, [`Error::Broken`] if its stream ends without a
    /// Close frame, or the error that ended the connection before.
    pub async fn close(&mut self, code: CloseCode, reason: &str) -> Result<CloseFrame, Error> {
        self.shared.update(|core| core.begin_close(code, reason, false));
        match poll_fn(|cx| self.shared.poll(WRITER, true, cx, |core, cx| core.poll_closed(cx))).await {
            Error::Closed(frame) => Ok(frame),
            error => Err(error),
        }
    }

    /// Sets the deadline of writes; `None` for no deadline. A time limit for each write of a connection is
    /// [`Settings::write_timeout`](super::Settings::write_timeout).
    pub fn set_write_deadline(&mut self, at: Option<Instant>) {
        self.shared.update(|core| core.write_deadline = at);
    }

    /// Enables or disables compression of outgoing messages, if compression was negotiated. Enabled by default.
    pub fn enable_write_compression(&mut self, enabled: bool) {
        self.shared.update(|core| core.compresses = enabled);
    }

    /// Sets the compression level from the next message on, 1 (fastest) to 9 (smallest).
    ///
    /// # Errors
    /// [`Error::CompressionLevel`] for any other level.
    pub fn set_compression_level(&mut self, level: u8) -> Result<(), Error> {
        if !(1..=9).contains(&level) {
            return Err(Error::CompressionLevel(level));
        }
        self.shared.update(|core| core.set_compression_level(level));
        Ok(())
    }

    /// Splits into senders that any number of tasks may clone, with a queue of at most `messages`, and a task that
    /// sends what they queue. The task is a future that must be polled, for example by spawning it.
    pub fn into_sender(self, messages: usize) -> (Sender, SendTask<S>) {
        super::sender::channel(self, messages)
    }

    /// The negotiated subprotocol.
    pub fn subprotocol(&self) -> Option<&str> {
        self.shared.opened.subprotocol.as_deref()
    }

    /// The local address, if the transport has one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.shared.opened.local
    }

    /// The peer's address, if the transport has one.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.shared.opened.peer
    }

    async fn write_payload(&mut self, kind: MessageKind, payload: &[u8]) -> Result<(), Error> {
        self.write_with(|core| core.queue(kind, payload)).await
    }

    /// Waits for room in the queue, calls `queue` once, and waits until all that is queued was accepted.
    async fn write_with(
        &mut self,
        mut queue: impl FnMut(&mut Core<S>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut queued = false;
        poll_fn(|cx| {
            self.shared.poll(WRITER, true, cx, |core, cx| {
                if !queued {
                    ready!(core.poll_room(core.config.queue_bytes, cx))?;
                    queue(core)?;
                    queued = true;
                }
                core.poll_drained(cx)
            })
        })
        .await
    }

    fn write_buffer_bytes(&self) -> u32 {
        u32::try_from(self.shared.write_buffer_bytes).unwrap_or(u32::MAX)
    }

    /// Waits for room in the write buffer.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let bytes_max = self.write_buffer_bytes();
        self.shared
            .poll(WRITER, true, cx, |core, cx| core.poll_room(bytes_max.min(core.config.queue_bytes), cx))
    }

    pub(super) fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.shared.poll(WRITER, true, cx, |core, cx| core.poll_drained(cx))
    }
}

/// Buffers messages up to the write buffer's size; a flush, or the message that exceeds it, sends them.
impl<S: Transport> Sink<Message> for Writer<S> {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.get_mut().poll_room(cx)
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), Error> {
        self.shared.update(|core| core.queue_message(message))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.get_mut().poll_drained(cx)
    }

    /// Closes with 1000 and waits for the peer's answer.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.shared.update(|core| core.begin_close(CloseCode::NORMAL, "", false));
        let error = ready!(self.shared.poll(WRITER, true, cx, |core, cx| core.poll_closed(cx)));
        Poll::Ready(if error.is_clean() { Ok(()) } else { Err(error) })
    }
}

impl<S> fmt::Debug for Writer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("opened", &self.shared.opened).finish_non_exhaustive()
    }
}

/// Writes one message in fragments. [`finish`](MessageWriter::finish) ends it. If the writer is dropped before that,
/// after a fragment was sent, nothing more can be written ([`Error::Unfinished`]): the connection can only be closed.
///
/// Fragments grow with the message, so that even the longest takes fewer than 4,096. A flush always makes a fragment,
/// though, and [`tokio::io::copy`] flushes whenever its reader has to wait: relay long messages with your own loop of
/// reads and writes.
///
/// Control frames may be sent between fragments, by other tasks too. A text that is not UTF-8 is refused with
/// [`io::ErrorKind::InvalidData`].
///
/// ```
/// use echoring::{Conn, Error, MessageKind};
/// use tokio::io::AsyncWriteExt;
/// use tokio::net::TcpStream;
///
/// async fn send_rows(conn: &mut Conn<TcpStream>) -> Result<(), Box<dyn std::error::Error>> {
///     let mut message = conn.next_writer(MessageKind::Text);
///     for row in 0..1_000_000 {
///         message.write_all(format!("row {row}\n").as_bytes()).await?;
///     }
///     message.finish().await?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct MessageWriter<'a, S: Transport> {
    writer: &'a mut Writer<S>,
    kind: MessageKind,
    buffer: Vec<u8>,
    utf8: Utf8,
    /// A fragment was queued.
    begun: bool,
    finished: bool,
    /// Bytes queued in fragments so far.
    queued_bytes: u64,
}

impl<S: Transport> MessageWriter<'_, S> {
    /// Sends the rest and ends the message, which may be empty.
    ///
    /// # Errors
    /// As [`Writer::write`]; [`Error::NotText`] if a text ends inside a character.
    pub async fn finish(mut self) -> Result<(), Error> {
        if self.kind == MessageKind::Text && self.utf8.finish().is_err() {
            return Err(Error::NotText);
        }
        poll_fn(|cx| self.writer.poll_room(cx)).await?;
        self.writer.shared.update(|core| {
            if self.begun {
                core.queue_fragment(self.kind, false, true, &self.buffer)
            } else {
                core.queue(self.kind, &self.buffer)
            }
        })?;
        self.finished = true;
        self.writer.flush().await
    }

    fn queue_buffer(&mut self) -> Result<(), Error> {
        self.writer.shared.update(|core| core.queue_fragment(self.kind, !self.begun, false, &self.buffer))?;
        self.begun = true;
        self.queued_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Size of the next fragment in bytes.
    fn fragment_bytes(&self) -> usize {
        let short = self.writer.shared.write_buffer_bytes;
        if self.queued_bytes < FRAGMENT_BYTES_LONG as u64 {
            return short;
        }
        let share = self.queued_bytes / FRAGMENTS_PER_DOUBLING;
        short.max(FRAGMENT_BYTES_LONG).max(usize::try_from(share).unwrap_or(usize::MAX))
    }
}

impl<S: Transport> AsyncWrite for MessageWriter<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut bytes_max = this.fragment_bytes();
        // A full buffer is sent only when more comes, because the last fragment must end the message.
        if this.buffer.len() >= bytes_max && !bytes.is_empty() {
            ready!(this.writer.poll_room(cx)).map_err(io::Error::from)?;
            this.queue_buffer().map_err(io::Error::from)?;
            bytes_max = this.fragment_bytes();
        }
        let taken = bytes.len().min(bytes_max - this.buffer.len());
        if this.kind == MessageKind::Text && this.utf8.push(&bytes[..taken]).is_err() {
            return Poll::Ready(Err(Error::NotText.into()));
        }
        this.buffer.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    /// Sends the bytes written so far as a fragment.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.buffer.is_empty() {
            ready!(this.writer.poll_room(cx)).map_err(io::Error::from)?;
            this.queue_buffer().map_err(io::Error::from)?;
        }
        this.writer.poll_drained(cx).map_err(io::Error::from)
    }

    /// Flushes: only [`finish`](MessageWriter::finish) ends the message.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl<S: Transport> Drop for MessageWriter<'_, S> {
    fn drop(&mut self) {
        if self.begun && !self.finished {
            self.writer.shared.update(|core| core.writing = Writing::Abandoned);
        }
    }
}
