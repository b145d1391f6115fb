//! The reading half of a connection, and the reader of one message.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use serde_core::de::DeserializeOwned;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::core::{Shared, Transport};
use super::error::Error;
use super::handlers::{ControlReply, Handlers};
use super::heartbeat::{Heartbeat, HeartbeatTimer};
use super::incoming::Incoming;
use super::message::Message;
use super::receiving::Found;
use super::waiters::READER;
use echoring_proto::CloseCode;
use echoring_proto::connection::{MessageKind, Pings};

/// The reading half of a [`Conn`](super::Conn). There is only one, so two tasks cannot split a message.
///
/// Reading also answers pings and Close frames, enforces deadlines and runs the heartbeat. So an application that only
/// writes must read too, with [`discard_reads`](Reader::discard_reads).
pub struct Reader<S> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) handlers: Handlers,
    /// The stream has returned its last item.
    pub(super) told: bool,
}

impl<S: Transport> Reader<S> {
    pub(super) fn new(shared: Arc<Shared<S>>) -> Reader<S> {
        Reader { shared, handlers: Handlers::default(), told: false }
    }

    /// The shared state, and the reader's own state.
    /// Reads the next message.
    ///
    /// Cancel-safe: if the future is dropped, a partly received message is kept for the next call.
    ///
    /// # Errors
    /// [`Error::Closed`] after a clean close; an error that ends the connection is returned by every later call too.
    /// [`Error::ReadTimeout`] at the read deadline, after which reading may continue.
    pub async fn read(&mut self) -> Result<Message, Error> {
        poll_fn(|cx| self.poll_read_message(cx)).await
    }

    // One function, and not a part of each future that reads, so that its hot path is compact.
    #[inline(never)]
    pub(super) fn poll_read_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        loop {
            let mut core = self.shared.lock();
            if let Some(message) = core.next_message() {
                self.shared.unlock(core, READER);
                return Poll::Ready(Ok(message));
            }
            // What `Shared::poll` does, with another poll where tasks compete: one for both is not inlined, which costs a turn 48
            // instructions.
            let found = if core.waiters.has_competitor(READER, cx.waker()) {
                self.shared.poll_shared(core, READER, cx.waker(), |core, cx| {
                    core.poll_until(cx, &mut Incoming::take)
                })
            } else {
                let found = core.poll_message(cx);
                self.shared.end_lone_poll(core, READER, true, found.is_ready(), cx.waker());
                found
            };
            match ready!(found)? {
                Found::Wanted(message) => return Poll::Ready(Ok(message)),
                Found::ControlEvent(control_event) => self.handlers.handle(control_event, &self.shared),
            }
        }
    }

    /// Reads the next message, text or binary, as JSON.
    ///
    /// # Errors
    /// [`Error::Json`] if it is not a `T`; the next message can still be read. Otherwise as [`read`](Reader::read).
    pub async fn read_json<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        let message = self.read().await?;
        Ok(serde_json::from_slice(message.as_bytes())?)
    }

    /// A reader that streams the next message without holding it whole, unless it is compressed. It is returned as soon
    /// as the message begins. The next call skips the unread rest.
    ///
    /// Cancel-safe, like [`read`](Reader::read).
    ///
    /// # Errors
    /// As [`read`](Reader::read).
    pub async fn next_reader(&mut self) -> Result<MessageReader<'_, S>, Error> {
        let kind = poll_fn(|cx| self.poll_until(cx, &mut |incoming| incoming.kind())).await?;
        Ok(MessageReader { reader: self, kind })
    }

    /// Reads and discards messages until the connection ends: for applications that only write, because the peer's
    /// pings and Close frame must still be answered.
    pub async fn discard_reads(&mut self) -> Error {
        loop {
            match self.next_reader().await {
                Ok(reader) => drop(reader),
                Err(error) => return error,
            }
        }
    }

    /// Sets the maximum size of a received message in bytes, from the next frame on; a longer message closes the
    /// connection with 1009 and the read fails. The highest limit is 2^31.
    pub fn set_read_limit(&mut self, bytes: u64) {
        self.shared.update(|core| core.set_read_limit(bytes));
    }

    /// Sets the deadline of reads; `None` for no deadline. Reading may continue after a timeout.
    pub fn set_read_deadline(&mut self, at: Option<Instant>) {
        self.shared.update(|core| core.read_deadline = at);
    }

    /// Restarts the heartbeat with new settings, or stops it.
    pub fn set_heartbeat(&mut self, heartbeat: Option<Heartbeat>) {
        self.shared.update(|core| {
            core.heartbeat_timer = heartbeat.map(|heartbeat| HeartbeatTimer::new(heartbeat, Instant::now()))
        });
    }

    /// Calls `handler` for each ping, instead of answering with the ping's payload.
    pub fn set_ping_handler(&mut self, handler: impl FnMut(&[u8]) -> ControlReply + Send + 'static) {
        self.handlers.each().ping = Some(Box::new(handler));
        self.shared.update(|core| core.config.pings = Pings::Shown);
    }

    /// Calls `handler` for each pong.
    pub fn set_pong_handler(&mut self, handler: impl FnMut(&[u8]) -> ControlReply + Send + 'static) {
        self.handlers.each().pong = Some(Box::new(handler));
        self.shared.update(|core| core.shows_pongs = true);
    }

    /// Calls `handler` to answer the peer's Close frame, instead of repeating its code.
    pub fn set_close_handler(
        &mut self,
        handler: impl FnMut(CloseCode, &str) -> ControlReply + Send + 'static,
    ) {
        self.handlers.each().close = Some(Box::new(handler));
        self.shared.update(|core| core.config.answers_closes = false);
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

    /// Reads until `want` returns something; handlers are called for control frames before that.
    fn poll_until<T>(
        &mut self,
        cx: &mut Context<'_>,
        want: &mut impl FnMut(&mut Incoming) -> Option<T>,
    ) -> Poll<Result<T, Error>> {
        loop {
            let found = self.shared.poll(READER, true, cx, |core, cx| core.poll_until(cx, want));
            match ready!(found)? {
                Found::Wanted(wanted) => return Poll::Ready(Ok(wanted)),
                Found::ControlEvent(control_event) => self.handlers.handle(control_event, &self.shared),
            }
        }
    }
}

/// Ends without an item after a clean close, and with an error after any other end.
impl<S: Transport> Stream for Reader<S> {
    type Item = Result<Message, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        let this = self.get_mut();
        if this.told {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(this.poll_read_message(cx)) {
            Ok(message) => Some(Ok(message)),
            Err(Error::ReadTimeout) => Some(Err(Error::ReadTimeout)),
            Err(error) => {
                this.told = true;
                (!error.is_clean()).then_some(Err(error))
            }
        })
    }
}

impl<S> fmt::Debug for Reader<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("opened", &self.shared.opened).finish_non_exhaustive()
    }
}

/// Reads one message as a byte stream that ends with the message. Its memory is bounded by the read buffer or 64 KiB,
/// regardless of the message's size; only a compressed message is held whole, because it is decompressed whole.
///
/// Errors of the connection are returned as [`io::Error`]; [`io::Error::downcast`] returns the original [`Error`].
///
/// ```
/// use echoring::Conn;
/// use tokio::io::AsyncReadExt;
/// use tokio::net::TcpStream;
///
/// async fn length(conn: &mut Conn<TcpStream>) -> Result<usize, Box<dyn std::error::Error>> {
///     let mut message = conn.next_reader().await?;
///     let (mut buffer, mut bytes) = ([0; 4096], 0);
///     loop {
///         match message.read(&mut buffer).await? {
///             0 => return Ok(bytes),
///             read => bytes += read,
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct MessageReader<'a, S: Transport> {
    reader: &'a mut Reader<S>,
    kind: MessageKind,
}

impl<S: Transport> MessageReader<'_, S> {
    /// The type of the message. A text is validated as it arrives: if the stream ends without an error, it was UTF-8.
    pub fn kind(&self) -> MessageKind {
        self.kind
    }
}

impl<S: Transport> AsyncRead for MessageReader<'_, S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let given = ready!(self.get_mut().reader.poll_until(cx, &mut |incoming| incoming.copy_to(out)));
        Poll::Ready(given.map_err(io::Error::from))
    }
}

impl<S: Transport> Drop for MessageReader<'_, S> {
    fn drop(&mut self) {
        self.reader.shared.update(|core| core.incoming.skip());
    }
}
