//! Many writers of one connection: a bounded queue, and the task that sends its messages.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use serde_core::Serialize;
use tokio::sync::mpsc;

use super::core::Transport;
use super::error::Error;
use super::message::Message;
use super::prepared::PreparedMessage;
use super::waiters::WRITER;
use super::writer::Writer;
use echoring_proto::CloseCode;

pub(super) fn channel<S: Transport>(writer: Writer<S>, messages: usize) -> (Sender, SendTask<S>) {
    let (sender, orders) = mpsc::channel(messages.max(1));
    (Sender(sender), SendTask { writer, orders, next: None, stage: Stage::Sending })
}

/// An entry of the send queue.
#[derive(Debug)]
enum QueueItem {
    Send(Message),
    SendPrepared(PreparedMessage),
    Close(CloseCode, String),
}

/// One of many senders on a connection: created by [`Writer::into_sender`], cloned for each task.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use echoring::{Conn, Opened, Settings};
/// use echoring::Role;
///
/// let (ours, theirs) = tokio::io::duplex(1024);
/// let server = Conn::new(ours, &Settings::default(), Opened::new(Role::Server));
/// let mut client = Conn::new(theirs, &Settings::default(), Opened::new(Role::Client));
///
/// let (_reader, writer) = server.split();
/// let (sender, send_task) = writer.into_sender(16);
/// let send_task = tokio::spawn(send_task);
/// for n in 0..2 {
///     let sender = sender.clone();
///     tokio::spawn(async move { sender.send(format!("from task {n}")).await });
/// }
/// drop(sender);
/// for _ in 0..2 {
///     assert!(client.read().await?.as_text().unwrap().starts_with("from task"));
/// }
/// send_task.await.expect("no panic")?;
/// # Ok::<(), echoring::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Sender(mpsc::Sender<QueueItem>);

impl Sender {
    /// Queues a message once there is room. Cancel-safe: the message is queued, or it is not.
    ///
    /// # Errors
    /// [`Error::Closing`] if the send task has ended, because the connection has ended (its reader has the cause) or is
    /// closing.
    pub async fn send(&self, message: impl Into<Message>) -> Result<(), Error> {
        self.queue(QueueItem::Send(message.into())).await
    }

    /// Queues a message that was encoded for many connections.
    ///
    /// # Errors
    /// As [`send`](Sender::send).
    pub async fn send_prepared(&self, message: &PreparedMessage) -> Result<(), Error> {
        self.queue(QueueItem::SendPrepared(message.clone())).await
    }

    /// Queues `value` as JSON in a text message, once there is room.
    ///
    /// # Errors
    /// [`Error::Json`] if it cannot be serialised; otherwise as [`send`](Sender::send).
    pub async fn send_json<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Error> {
        self.send(serde_json::to_string(value)?).await
    }

    /// Queues a message that was encoded for many connections, if there is room now.
    ///
    /// # Errors
    /// A copy of the message, and why it was not queued.
    pub fn try_send_prepared(&self, message: &PreparedMessage) -> Result<(), TrySendError> {
        self.0.try_send(QueueItem::SendPrepared(message.clone())).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => TrySendError::Full(message.message().clone()),
            mpsc::error::TrySendError::Closed(_) => TrySendError::Closed(message.message().clone()),
        })
    }

    /// Queues a message if there is room now.
    ///
    /// # Errors
    /// The message, and why it was not queued.
    pub fn try_send(&self, message: impl Into<Message>) -> Result<(), TrySendError> {
        self.0.try_send(QueueItem::Send(message.into())).map_err(|error| match error {
            mpsc::error::TrySendError::Full(QueueItem::Send(message)) => TrySendError::Full(message),
            mpsc::error::TrySendError::Closed(QueueItem::Send(message)) => TrySendError::Closed(message),
            _ => unreachable!("the queue returns the entry that was sent"),
        })
    }

    /// Closes the connection behind the queued messages. Messages that are queued later are dropped. Code and reason are sent as by
    /// [`Writer::close`](super::Writer::close).
    ///
    /// # Errors
    /// As [`send`](Sender::send).
    pub async fn close(&self, code: CloseCode, reason: &str) -> Result<(), Error> {
        self.queue(QueueItem::Close(code, reason.to_owned())).await
    }

    /// Whether nothing more can be sent.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until nothing more can be sent.
    pub async fn closed(&self) {
        self.0.closed().await;
    }

    async fn queue(&self, queue: QueueItem) -> Result<(), Error> {
        self.0.send(queue).await.map_err(|_| Error::Closing)
    }
}

/// A message that was not queued.
///
/// ```
/// use echoring::{Sender, TrySendError};
///
/// fn offer(sender: &Sender, text: &str) {
///     match sender.try_send(text) {
///         Ok(()) => {}
///         Err(TrySendError::Full(message)) => println!("too slow for {} bytes", message.len()),
///         Err(error) => println!("{error}"),
///     }
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrySendError {
    /// The queue is full.
    Full(Message),
    /// The connection has ended or is closing.
    Closed(Message),
}

impl fmt::Display for TrySendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrySendError::Full(_) => "the queue is full",
            TrySendError::Closed(_) => "the connection has ended",
        })
    }
}

impl std::error::Error for TrySendError {}

echoring_proto::error_debug!(
    enum TrySendError {
        Full(message),
        Closed(message),
    }
);

/// Sends the messages that [`Sender`]s queue: a future to be spawned. It resolves when all senders are dropped and
/// their messages are sent, when a sender has closed the connection, or when the connection has ended, with an error
/// unless the close was clean. It does not read: the [`Reader`](super::Reader) must be polled too.
///
/// ```
/// use echoring::{Conn, Error};
/// use tokio::net::TcpStream;
///
/// async fn serve(conn: Conn<TcpStream>) -> Result<(), Error> {
///     let (mut reader, writer) = conn.split();
///     let (sender, send_task) = writer.into_sender(16);
///     sender.send("welcome").await?;
///     tokio::select! {
///         ended = send_task => ended,
///         error = reader.discard_reads() => Err(error),
///     }
/// }
/// ```
#[must_use = "nothing is sent unless it is polled"]
#[derive(Debug)]
pub struct SendTask<S> {
    writer: Writer<S>,
    orders: mpsc::Receiver<QueueItem>,
    next: Option<QueueItem>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Sending,
    /// All senders are dropped; the queue is being emptied.
    Emptying,
    /// A Close frame is queued.
    Closing,
}

impl<S: Transport> SendTask<S> {
    /// Carries out the current queue entry.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.next.is_some() {
            ready!(self.writer.poll_room(cx))?;
        }
        match self.next.take() {
            None => {}
            Some(QueueItem::Send(message)) => {
                self.writer.shared.update(|core| core.queue_message(message))?;
            }
            Some(QueueItem::SendPrepared(message)) => {
                self.writer.shared.update(|core| message.queue(core))?
            }
            Some(QueueItem::Close(code, reason)) => {
                self.writer.shared.update(|core| core.begin_close(code, &reason, false));
                self.orders.close();
                self.stage = Stage::Closing;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// While there is nothing to send, waits for the connection's end and for the next heartbeat.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Only the timer wakes this task by itself; the reader's task wakes it for all other events.
        self.writer.shared.poll(WRITER, false, cx, |core, cx| {
            if let Some(error) = core.write_error() {
                return Poll::Ready(Err(error));
            }
            core.poll_heartbeat(cx).map(Ok)
        })
    }

    fn poll_sending(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            ready!(self.poll_next(cx))?;
            if self.stage == Stage::Closing {
                let closed =
                    ready!(self.writer.shared.poll(WRITER, true, cx, |core, cx| core.poll_closed(cx)));
                return Poll::Ready(Err(closed));
            }
            if self.stage == Stage::Sending {
                match self.orders.poll_recv(cx) {
                    Poll::Ready(Some(queue)) => {
                        self.next = Some(queue);
                        continue;
                    }
                    Poll::Ready(None) => self.stage = Stage::Emptying,
                    Poll::Pending => {}
                }
            }
            ready!(self.writer.poll_drained(cx))?;
            if self.stage == Stage::Emptying {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_idle(cx))?;
        }
    }
}

impl<S: Transport> Future for SendTask<S> {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        let done = ready!(this.poll_sending(cx));
        this.orders.close();
        Poll::Ready(match done {
            Err(error) if error.is_clean() => Ok(()),
            done => done,
        })
    }
}
