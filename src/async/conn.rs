//! `Conn`: an open WebSocket connection for asynchronous code, over any stream of tokio's traits.
//!
//! This module moves bytes between the connection state machine, which the shards and the load generator use too, and a
//! transport. It presents the state machine's events as messages, byte streams and errors. Nothing is spawned: all work
//! is done by the tasks that read or write.
//!
//! Never: protocol logic, which is the state machine's; a lock across an await; a handler called under a lock.

mod buffers;
mod control;
mod core;
mod error;
mod forwarding;
mod handlers;
mod head;
mod heartbeat;
mod incoming;
mod message;
mod origin;
mod outgoing;
mod parts;
mod prepared;
mod reader;
mod receiving;
mod sender;
mod sending;
mod settings;
#[cfg(test)]
mod tests;
mod timers;
mod trace;
mod waiters;
mod writer;

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_sink::Sink;
use serde_core::Serialize;
use serde_core::de::DeserializeOwned;
use tokio::time::Instant;

pub use buffers::BufferPool;
pub use control::Control;
pub use core::Transport;
pub use error::Error;
pub use handlers::ControlReply;
pub use heartbeat::Heartbeat;
pub use message::Message;
pub(crate) use origin::{Head, Origin};
pub use parts::{ReuniteError, StreamRef};
pub use prepared::PreparedMessage;
pub use reader::{MessageReader, Reader};
pub use sender::{SendTask, Sender, TrySendError};
pub use settings::{Opened, Settings};
pub(crate) use trace::Trace;
pub use writer::{MessageWriter, Writer};

use echoring_proto::CloseCode;
use echoring_proto::connection::{CloseFrame, MessageKind};

/// An open WebSocket connection, in either role.
///
/// Reading is [cancel-safe](Conn::read). Pongs and the closing handshake are sent while the application reads; an
/// application that only writes also calls [`discard_reads`](Conn::discard_reads). Dropping a connection ends its
/// stream without a Close frame; [`close`](Conn::close) sends one.
///
/// Deadlines, heartbeats and closing need a tokio runtime with its timer enabled; tokio-uring's has one.
///
/// Each connection has a span of `tracing`, `websocket` at the level `debug`, from its handshake to its end, with `role`,
/// `peer`, `subprotocol`, `compressed`, `handshake_us`, `received_messages`, `received_bytes`, `sent_messages` and
/// `sent_bytes` (payload), `close_code` and `error`. A peer's violation of the protocol is an event in it. Where no
/// subscriber wants the span, nothing is counted, formatted or allocated.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use echoring::{Conn, Error, Opened, Settings};
/// use echoring::{CloseCode, Role};
///
/// // Two ends of a stream on which the handshake has been done.
/// let (ours, theirs) = tokio::io::duplex(4096);
/// let mut server = Conn::new(ours, &Settings::default(), Opened::new(Role::Server));
/// let mut client = Conn::new(theirs, &Settings::default(), Opened::new(Role::Client));
///
/// let echo = tokio::spawn(async move {
///     loop {
///         match server.read().await {
///             Ok(message) => server.write(message).await?,
///             Err(error) if error.is_clean() => return Ok::<(), Error>(()),
///             Err(error) => return Err(error),
///         }
///     }
/// });
/// client.write("Hello, World!").await?;
/// assert_eq!(client.read().await?, "Hello, World!".into());
/// let answer = client.close(CloseCode::NORMAL, "done").await?;
/// assert_eq!(answer.code, CloseCode::NORMAL);
/// echo.await.expect("no panic")?;
/// # Ok::<(), Error>(()) }).unwrap();
/// ```
pub struct Conn<S> {
    reader: Reader<S>,
    writer: Writer<S>,
}

impl<S: Transport> Conn<S> {
    /// A connection on `stream`, after the handshake.
    pub fn new(stream: S, settings: &Settings, opened: Opened) -> Conn<S> {
        let origin = Origin { head: None, trace: Trace::adopt(opened.role) };
        Conn::with_origin(stream, settings, opened, origin)
    }

    /// A connection whose handshake was done here.
    pub(crate) fn with_origin(stream: S, settings: &Settings, opened: Opened, origin: Origin) -> Conn<S> {
        let shared = core::Shared::new(stream, settings, opened, origin);
        Conn { reader: Reader::new(shared.clone()), writer: Writer::new(shared) }
    }

    /// Splits the connection into a reading and a writing half, for two tasks. Neither can be cloned: the types allow
    /// only one reader and one writer.
    ///
    /// ```
    /// # use echoring::{Conn, Opened, Settings};
    /// # use echoring::Role;
    /// # let conn = Conn::new(tokio::io::duplex(64).0, &Settings::default(), Opened::new(Role::Server));
    /// let (mut reader, mut writer) = conn.split();
    /// let reading = async move { while reader.read().await.is_ok() {} };
    /// let writing = async move { writer.write("a message").await };
    /// # drop((reading, writing));
    /// ```
    pub fn split(self) -> (Reader<S>, Writer<S>) {
        (self.reader, self.writer)
    }

    /// A handle that sends pings, pongs and Close frames from other tasks.
    pub fn control(&self) -> Control<S> {
        Control::new(&self.reader.shared)
    }
}

/// Reading; see [`Reader`].
impl<S: Transport> Conn<S> {
    /// Reads the next message. Cancel-safe. See [`Reader::read`].
    ///
    /// # Errors
    /// [`Error::Closed`] after a clean close, and others; see [`Reader::read`].
    pub async fn read(&mut self) -> Result<Message, Error> {
        poll_fn(|cx| self.reader.poll_read_message(cx)).await
    }

    /// Reads the next message as JSON. See [`Reader::read_json`].
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # use echoring::{Conn, Opened, Settings};
    /// # use echoring::Role;
    /// # let (ours, theirs) = tokio::io::duplex(4096);
    /// # let mut server = Conn::new(ours, &Settings::default(), Opened::new(Role::Server));
    /// # let mut client = Conn::new(theirs, &Settings::default(), Opened::new(Role::Client));
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Said {
    ///     user: String,
    ///     content: String,
    /// }
    ///
    /// client.write_json(&Said { user: "ada".into(), content: "hello".into() }).await?;
    /// let said: Said = server.read_json().await?;
    /// assert_eq!((said.user.as_str(), said.content.as_str()), ("ada", "hello"));
    /// # Ok::<(), echoring::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// See [`Reader::read_json`].
    pub async fn read_json<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        self.reader.read_json().await
    }

    /// A reader that streams the next message. See [`Reader::next_reader`].
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # use echoring::{Conn, Opened, Settings};
    /// # use echoring::Role;
    /// # use tokio::io::AsyncReadExt as _;
    /// # let (ours, theirs) = tokio::io::duplex(4096);
    /// # let mut server = Conn::new(ours, &Settings::default(), Opened::new(Role::Server));
    /// # let mut client = Conn::new(theirs, &Settings::default(), Opened::new(Role::Client));
    /// client.write("a message").await?;
    /// let mut reader = server.next_reader().await?;
    /// let mut text = String::new();
    /// reader.read_to_string(&mut text).await?;
    /// assert_eq!(text, "a message");
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// See [`Reader::read`].
    pub async fn next_reader(&mut self) -> Result<MessageReader<'_, S>, Error> {
        self.reader.next_reader().await
    }

    /// Reads and discards messages until the connection ends. See [`Reader::discard_reads`].
    pub async fn discard_reads(&mut self) -> Error {
        self.reader.discard_reads().await
    }

    /// Sets the maximum size of a received message in bytes. See [`Reader::set_read_limit`].
    pub fn set_read_limit(&mut self, bytes: u64) {
        self.reader.set_read_limit(bytes);
    }

    /// Sets the deadline of reads. See [`Reader::set_read_deadline`].
    pub fn set_read_deadline(&mut self, at: Option<Instant>) {
        self.reader.set_read_deadline(at);
    }

    /// Restarts the heartbeat with new settings, or stops it.
    pub fn set_heartbeat(&mut self, heartbeat: Option<Heartbeat>) {
        self.reader.set_heartbeat(heartbeat);
    }

    /// Calls `handler` for each ping, instead of answering with the ping's payload.
    ///
    /// ```
    /// # use echoring::{Conn, ControlReply, Opened, Settings};
    /// # use echoring::Role;
    /// # let mut conn = Conn::new(tokio::io::duplex(64).0, &Settings::default(), Opened::new(Role::Server));
    /// let mut pings = 0;
    /// conn.set_ping_handler(move |payload| {
    ///     pings += 1;
    ///     println!("ping {pings}: {payload:?}");
    ///     ControlReply::Default
    /// });
    /// ```
    pub fn set_ping_handler(&mut self, handler: impl FnMut(&[u8]) -> ControlReply + Send + 'static) {
        self.reader.set_ping_handler(handler);
    }

    /// Calls `handler` for each pong.
    pub fn set_pong_handler(&mut self, handler: impl FnMut(&[u8]) -> ControlReply + Send + 'static) {
        self.reader.set_pong_handler(handler);
    }

    /// Calls `handler` to answer the peer's Close frame, instead of repeating its code.
    pub fn set_close_handler(
        &mut self,
        handler: impl FnMut(CloseCode, &str) -> ControlReply + Send + 'static,
    ) {
        self.reader.set_close_handler(handler);
    }
}

/// Writing; see [`Writer`].
impl<S: Transport> Conn<S> {
    /// Sends a message. See [`Writer::write`] for what happens when its future is dropped.
    ///
    /// # Errors
    /// See [`Writer::write`].
    pub async fn write(&mut self, message: impl Into<Message>) -> Result<(), Error> {
        self.writer.write(message).await
    }

    /// Queues a message that leaves with others: when nothing more is to be read, at the latest. See [`Writer::feed`].
    ///
    /// ```
    /// # use echoring::{Conn, Error, Transport};
    /// async fn echo<S: Transport>(mut conn: Conn<S>) -> Result<(), Error> {
    ///     loop {
    ///         let message = conn.read().await?;
    ///         conn.feed(message).await?;
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// See [`Writer::write`].
    pub async fn feed(&mut self, message: impl Into<Message>) -> Result<(), Error> {
        let mut message = Some(message.into());
        poll_fn(|cx| self.writer.poll_feed(cx, &mut message)).await
    }

    /// Sends the queued frames. See [`Writer::flush`].
    ///
    /// # Errors
    /// See [`Writer::write`].
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.writer.flush().await
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// See [`Writer::write`].
    pub async fn write_text(&mut self, text: &str) -> Result<(), Error> {
        self.writer.write_text(text).await
    }

    /// Sends a binary message.
    ///
    /// # Errors
    /// See [`Writer::write`].
    pub async fn write_binary(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.writer.write_binary(bytes).await
    }

    /// Sends `value` as JSON in a text message.
    ///
    /// # Errors
    /// See [`Writer::write_json`].
    pub async fn write_json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.writer.write_json(value).await
    }

    /// Sends a message that was encoded for many connections.
    ///
    /// # Errors
    /// See [`Writer::write`].
    pub async fn write_prepared(&mut self, message: &PreparedMessage) -> Result<(), Error> {
        self.writer.write_prepared(message).await
    }

    /// A writer that sends one message in fragments. See [`Writer::next_writer`].
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # use echoring::{Conn, MessageKind, Opened, Settings};
    /// # use echoring::Role;
    /// # use tokio::io::AsyncWriteExt as _;
    /// # let (ours, theirs) = tokio::io::duplex(4096);
    /// # let mut server = Conn::new(ours, &Settings::default(), Opened::new(Role::Server));
    /// # let mut client = Conn::new(theirs, &Settings::default(), Opened::new(Role::Client));
    /// let mut writer = client.next_writer(MessageKind::Text);
    /// writer.write_all(b"piece by ").await?;
    /// writer.write_all(b"piece").await?;
    /// writer.finish().await?;
    /// assert_eq!(server.read().await?, "piece by piece".into());
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub fn next_writer(&mut self, kind: MessageKind) -> MessageWriter<'_, S> {
        self.writer.next_writer(kind)
    }

    /// Sends a ping with at most 125 bytes of payload.
    ///
    /// # Errors
    /// See [`Writer::ping`].
    pub async fn ping(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.writer.ping(payload).await
    }

    /// Sends an unsolicited pong.
    ///
    /// # Errors
    /// See [`Writer::ping`].
    pub async fn pong(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.writer.pong(payload).await
    }

    /// Performs the closing handshake. See [`Writer::close`], also for codes that are not sent.
    ///
    /// # Errors
    /// See [`Writer::close`].
    pub async fn close(&mut self, code: CloseCode, reason: &str) -> Result<CloseFrame, Error> {
        self.writer.close(code, reason).await
    }

    /// Sets the deadline of writes. A time limit for each of them is [`Settings::write_timeout`].
    pub fn set_write_deadline(&mut self, at: Option<Instant>) {
        self.writer.set_write_deadline(at);
    }

    /// Enables or disables compression of outgoing messages, if compression was negotiated.
    pub fn enable_write_compression(&mut self, enabled: bool) {
        self.writer.enable_write_compression(enabled);
    }

    /// Sets the compression level from the next message on, 1 (fastest) to 9 (smallest).
    ///
    /// # Errors
    /// [`Error::CompressionLevel`] for any other level.
    pub fn set_compression_level(&mut self, level: u8) -> Result<(), Error> {
        self.writer.set_compression_level(level)
    }

    /// The negotiated subprotocol.
    pub fn subprotocol(&self) -> Option<&str> {
        self.reader.subprotocol()
    }

    /// The local address, if the transport has one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.reader.local_addr()
    }

    /// The peer's address, if the transport has one.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.reader.peer_addr()
    }
}

/// Ends without an item after a clean close, and with an error after any other end.
impl<S: Transport> Stream for Conn<S> {
    type Item = Result<Message, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        Pin::new(&mut self.reader).poll_next(cx)
    }
}

/// Buffers messages up to the write buffer's size; a flush, or the message that exceeds it, sends them.
impl<S: Transport> Sink<Message> for Conn<S> {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.writer).poll_ready(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), Error> {
        Pin::new(&mut self.writer).start_send(message)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.writer).poll_close(cx)
    }
}

impl<S> fmt::Debug for Conn<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("reader", &self.reader).finish_non_exhaustive()
    }
}
