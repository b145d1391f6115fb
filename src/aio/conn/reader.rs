//! The reading half of a connection, and the reader of one message.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::core::{Shared, Transport};
use super::error::Error;
use super::handlers::{ControlReply, Handlers};
use super::heartbeat::{Heartbeat, Pulse};
use super::message::Message;
use super::receiving::{Found, Incoming};
use super::waking::READER;
use crate::connection::Kind;
use crate::protocol::CloseCode;

/// The half of a [`Conn`](super::Conn) that reads. There is only one, so no two tasks can tear a message apart.
///
/// Reading also does what a connection owes its peer: it answers pings and Close frames, keeps deadlines, and runs the
/// heartbeat. An application that only writes reads too, by [`discard_reads`](Reader::discard_reads).
pub struct Reader<S> {
    pub(super) shared: Arc<Shared<S>>,
    handlers: Handlers,
    /// The end was told to whoever reads this as a stream.
    told: bool,
}

impl<S: Transport> Reader<S> {
    pub(super) fn new(shared: Arc<Shared<S>>) -> Reader<S> {
        Reader { shared, handlers: Handlers::default(), told: false }
    }

    /// The next message, whole.
    ///
    /// Cancel-safe: when the future is dropped, what has arrived of a message is kept for the next call.
    ///
    /// # Errors
    /// [`Error::Closed`] at the clean end; any error that tells of the end is told again by every later call.
    /// [`Error::ReadTimeout`] at the read deadline, after which reading may go on.
    pub async fn read(&mut self) -> Result<Message, Error> {
        poll_fn(|cx| self.poll_read_message(cx)).await
    }

    pub(super) fn poll_read_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        self.poll_until(cx, &mut Incoming::take)
    }

    /// The next message as the JSON of a `T`, whatever its type.
    ///
    /// # Errors
    /// [`Error::Json`] when it is not; the next message can still be read. Otherwise as [`read`](Reader::read).
    pub async fn read_json<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        let message = self.read().await?;
        Ok(serde_json::from_slice(message.as_bytes())?)
    }

    /// A reader of the next message, which never holds the whole of it, unless it came compressed. It is there as soon as the
    /// message begins. What is not read of it is skipped by the next call.
    ///
    /// Cancel-safe, as [`read`](Reader::read) is.
    ///
    /// # Errors
    /// As [`read`](Reader::read).
    pub async fn next_reader(&mut self) -> Result<MessageReader<'_, S>, Error> {
        let kind = poll_fn(|cx| self.poll_until(cx, &mut |incoming| incoming.kind())).await?;
        Ok(MessageReader { reader: self, kind })
    }

    /// Reads to the end of the connection and throws away what comes: for applications that only write, whose peer's
    /// pings and Close frame still want their answers.
    pub async fn discard_reads(&mut self) -> Error {
        loop {
            match self.next_reader().await {
                Ok(reader) => drop(reader),
                Err(error) => return error,
            }
        }
    }

    /// Bytes of a message of the peer, at most, from its next frame on; past it the peer is told 1009 and reading fails.
    /// 2^31 is the most that can be allowed.
    pub fn set_read_limit(&mut self, bytes: u64) {
        self.shared.act(|core| core.set_read_limit(bytes));
    }

    /// Until when reading may wait; `None` for ever. Reading can go on after it.
    pub fn set_read_deadline(&mut self, at: Option<Instant>) {
        self.shared.act(|core| core.read_deadline = at);
    }

    /// Begins a heartbeat anew, or ends it.
    pub fn set_heartbeat(&mut self, heartbeat: Option<Heartbeat>) {
        self.shared.act(|core| core.pulse = heartbeat.map(|heartbeat| Pulse::new(heartbeat, Instant::now())));
    }

    /// Asks `handler` about each ping, instead of answering it with its own payload.
    pub fn set_ping_handler(&mut self, handler: impl FnMut(&[u8]) -> ControlReply + Send + 'static) {
        self.handlers.on_ping(Box::new(handler), &self.shared);
    }

    /// Shows each pong to `handler`.
    pub fn set_pong_handler(&mut self, handler: impl FnMut(&[u8]) -> ControlReply + Send + 'static) {
        self.handlers.on_pong(Box::new(handler), &self.shared);
    }

    /// Asks `handler` how the peer's Close frame is answered, instead of repeating its code.
    pub fn set_close_handler(
        &mut self,
        handler: impl FnMut(CloseCode, &str) -> ControlReply + Send + 'static,
    ) {
        self.handlers.on_close(Box::new(handler), &self.shared);
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

    /// Reads until `want` finds what it looks for, and lets handlers handle what comes before it.
    fn poll_until<T>(
        &mut self,
        cx: &mut Context<'_>,
        want: &mut impl FnMut(&mut Incoming) -> Option<T>,
    ) -> Poll<Result<T, Error>> {
        loop {
            let found = self.shared.poll(READER, true, cx, |core, cx| core.poll_until(cx, want));
            match ready!(found)? {
                Found::Wanted(wanted) => return Poll::Ready(Ok(wanted)),
                Found::Notice(notice) => self.handlers.handle(notice, &self.shared),
            }
        }
    }
}

/// Ends after a clean close without an item, and after any other end with its error.
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

/// Reads one message as a stream of bytes, whose end is the message's. Its memory is bounded by the read buffer, or 64 KiB,
/// however long the message is; only a message that came compressed is held whole, for it is inflated so.
///
/// Errors of the connection come as [`io::Error`]s, from which [`io::Error::downcast`] gets the [`Error`] back.
#[derive(Debug)]
pub struct MessageReader<'a, S: Transport> {
    reader: &'a mut Reader<S>,
    kind: Kind,
}

impl<S: Transport> MessageReader<'_, S> {
    /// The message's type. A text is checked as it comes: where it ends well, it was UTF-8.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl<S: Transport> AsyncRead for MessageReader<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let given = ready!(self.reader.poll_until(cx, &mut |incoming| incoming.give(out)));
        Poll::Ready(given.map_err(io::Error::from))
    }
}

impl<S: Transport> Drop for MessageReader<'_, S> {
    fn drop(&mut self) {
        self.reader.shared.act(|core| core.incoming.skip());
    }
}
