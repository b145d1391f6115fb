//! Passes on the messages of one connection to another, and the reason of its end: one direction of a proxy.
//!
//! Never: more than one message between the two, besides the write buffer of the second.

use std::future::poll_fn;
use std::task::Poll;

use super::core::Transport;
use super::error::Error;
use super::message::Message;
use super::reader::Reader;
use super::waiters::WRITER;
use super::writer::Writer;
use echoring_proto::connection::CloseFrame;
use echoring_proto::{CloseCode, Role};

impl<S: Transport> Reader<S> {
    /// Passes each message on to `writer`, as `change` returns it: another message, the same, or `None` for none. Ends with either
    /// connection, and returns the error that ended it.
    ///
    /// A proxy awaits both directions with `tokio::join!`. Then close both connections when one ends:
    ///
    /// - **The reader's end is passed on** by [`Writer::forward_close`], behind the messages before it. This waits for the closing
    ///   handshake, at most [`Settings::close_timeout`](super::Settings::close_timeout).
    /// - **If the writer's connection ends**, this returns at once and closes nothing: the other direction reads the reason, and passes
    ///   it on here. A writer that is only too slow ([`Error::WriteTimeout`]) is closed.
    ///
    /// A writer whose peer does not read makes this wait, and the reader's peer with it: besides one message, no more than the write buffer
    /// is kept. Messages that arrived together leave together. Each connection answers pings itself, sends heartbeats of its own,
    /// and has its own compression and fragments; while a direction waits for its writer, its reader does neither.
    ///
    /// Messages are read whole. For longer ones than [`set_read_limit`](Reader::set_read_limit) allows, copy from
    /// [`next_reader`](Reader::next_reader) to [`next_writer`](Writer::next_writer). If the change has to wait, for example for a database,
    /// write the loop yourself: `read`, `write`, and `forward_close` with the error of `read`.
    ///
    /// Cancel-safe: a message is read when there is room for it in the write buffer, and is queued there at once.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use echoring::{CloseCode, Conn, Message, Opened, Role, Settings, Transport};
    ///
    /// async fn proxy<C: Transport, S: Transport>(client: Conn<C>, server: Conn<S>) {
    ///     let (mut from_client, mut to_client) = client.split();
    ///     let (mut from_server, mut to_server) = server.split();
    ///     let in_capitals = |message: Message| message.as_text().map(|text| text.to_uppercase().into());
    ///     tokio::join!(
    ///         from_client.forward_to(&mut to_server, |message| message),
    ///         from_server.forward_to(&mut to_client, in_capitals),
    ///     );
    /// }
    /// # let conn = |stream, role| Conn::new(stream, &Settings::default(), Opened::new(role));
    /// # let (one, other) = (tokio::io::duplex(4096), tokio::io::duplex(4096));
    /// # tokio::spawn(proxy(conn(one.0, Role::Server), conn(other.0, Role::Client)));
    /// # let (mut client, mut server) = (conn(one.1, Role::Client), conn(other.1, Role::Server));
    ///
    /// server.write("hello").await?;
    /// assert_eq!(client.read().await?, "HELLO".into());
    /// let closing = tokio::spawn(async move { client.close(CloseCode(4000), "enough").await });
    /// assert_eq!(server.read().await.unwrap_err().close_code(), Some(CloseCode(4000)));
    /// # closing.await??;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn forward_to<T: Transport, M: Into<Option<Message>>>(
        &mut self,
        writer: &mut Writer<T>,
        mut change: impl FnMut(Message) -> M,
    ) -> Error {
        loop {
            let message = match self.next_for(writer).await {
                Ok(Ok(message)) => message,
                Ok(Err(end)) => {
                    // If this fails, the writer's connection has ended too, and nobody is left to be told.
                    let _ = writer.forward_close(&end).await;
                    return end;
                }
                Err(failed) => return writer.close_if_open(failed).await,
            };
            if let Some(message) = change(message).into()
                && let Err(failed) = writer.shared.update(|core| core.queue_message(message))
            {
                return writer.close_if_open(failed).await;
            }
        }
    }

    /// The next message, or the error that ended reading, once `writer` has room. Before this waits, all that was passed on is sent.
    ///
    /// # Errors
    /// Those of `writer`, also while this waits.
    async fn next_for<T: Transport>(
        &mut self,
        writer: &mut Writer<T>,
    ) -> Result<Result<Message, Error>, Error> {
        let room = poll_fn(|cx| writer.poll_room(cx)).await;
        match room {
            Ok(()) => {}
            // A call before this one may have been cancelled while it passed on the end of this reader.
            Err(Error::Closing) => {
                let end = self.read_received().await.filter(Result::is_err);
                return end.ok_or(Error::Closing);
            }
            Err(failed) => return Err(failed),
        }
        if let Some(read) = self.read_received().await {
            return Ok(read);
        }
        writer.flush().await?;
        self.read_or_fail(writer).await
    }

    /// The next message or the end, if it was received already.
    async fn read_received(&mut self) -> Option<Result<Message, Error>> {
        poll_fn(|cx| match self.poll_read_message(cx) {
            Poll::Ready(read) => Poll::Ready(Some(read)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Waits for the next message, and for the end of `writer`'s connection.
    async fn read_or_fail<T: Transport>(
        &mut self,
        writer: &mut Writer<T>,
    ) -> Result<Result<Message, Error>, Error> {
        poll_fn(|cx| match self.poll_read_message(cx) {
            Poll::Ready(read) => Poll::Ready(Ok(read)),
            // The end of the connection wakes all who wait for it.
            Poll::Pending => writer.shared.poll(WRITER, false, cx, |core, _| match core.write_error() {
                Some(failed) => Poll::Ready(Err(failed)),
                None => Poll::Pending,
            }),
        })
        .await
    }
}

impl<S: Transport> Writer<S> {
    /// Closes because another connection ended with `end`: for proxies. [`forward_to`](Reader::forward_to) does this.
    ///
    /// | `end` | this peer gets |
    /// |---|---|
    /// | a Close frame | the same code and reason; if there was no code (1005), none |
    /// | any other, on a server's connection: the server behind it is lost | 1014 (bad gateway) |
    /// | any other, on a client's connection: the client is lost | 1001 (going away) |
    ///
    /// 1005, 1006 and 1015 are never sent (RFC 6455, 7.4.1).
    ///
    /// ```
    /// use echoring::{Error, Message, Reader, Transport, Writer};
    ///
    /// /// One direction of a proxy that looks up each message.
    /// async fn pass<F: Transport, T: Transport>(mut from: Reader<F>, mut to: Writer<T>) -> Result<(), Error> {
    ///     loop {
    ///         match from.read().await {
    ///             Ok(message) => to.write(look_up(message).await).await?,
    ///             Err(end) => return to.forward_close(&end).await.map(drop),
    ///         }
    ///     }
    /// }
    /// # async fn look_up(message: Message) -> Message { message }
    /// ```
    ///
    /// # Errors
    /// As [`close`](Writer::close).
    pub async fn forward_close(&mut self, end: &Error) -> Result<CloseFrame, Error> {
        match (end, self.shared.opened.role) {
            (Error::Closed(frame), _) => self.close(frame.code, &frame.reason).await,
            (_, Role::Server) => self.close(CloseCode::BAD_GATEWAY, "the server is lost").await,
            (_, Role::Client) => self.close(CloseCode::GOING_AWAY, "the client is lost").await,
        }
    }

    /// Closes after a write has failed for another reason than the end of the connection.
    async fn close_if_open(&mut self, failed: Error) -> Error {
        if self.shared.update(|core| core.write_error().is_none()) {
            // Whether or not the peer answers in time, the connection has ended then.
            let _ = self.forward_close(&failed).await;
        }
        failed
    }
}
