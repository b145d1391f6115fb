//! Many writers of one connection: a bounded queue, and the task that sends its messages.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use serde_core::Serialize;
use tokio::sync::{Notify, mpsc};

use super::core::Transport;
use super::error::Error;
use super::message::Message;
use super::prepared::PreparedMessage;
use super::waiters::WRITER;
use super::writer::Writer;
use echoring_proto::CloseCode;

pub(super) fn channel<S: Transport>(writer: Writer<S>, messages: usize) -> (Sender, SendTask<S>) {
    let (queue, orders) = mpsc::channel(messages.max(1));
    let state = Arc::<QueueState>::default();
    let sender = Sender { queue, state: Arc::clone(&state) };
    let written = Written { state, frames: VecDeque::new(), bytes: 0 };
    (sender, SendTask { writer, orders, next: None, stage: Stage::Sending, written })
}

/// An entry of the send queue.
#[derive(Debug)]
enum QueueItem {
    Send(Queued),
    Close(CloseCode, String),
}

/// A message in the send queue.
#[derive(Debug)]
enum Queued {
    Message(Message),
    Prepared(PreparedMessage),
}

impl Queued {
    fn into_message(self) -> Message {
        match self {
            Queued::Message(message) => message,
            Queued::Prepared(message) => message.message().clone(),
        }
    }
}

/// The state that the senders of a connection and their task share.
#[derive(Debug, Default)]
struct QueueState {
    /// Nothing more is accepted: a close is queued, or the task has ended. Locked while an entry is queued, so that
    /// none gets behind it.
    is_closing: Mutex<bool>,
    /// Is notified of that.
    closing: Notify,
    /// Accepted messages of which the transport has not accepted every byte.
    unsent: AtomicU64,
}

impl QueueState {
    fn is_closing(&self) -> bool {
        *self.is_closing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts nothing more.
    fn close(&self) {
        *self.is_closing.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.closing.notify_waiters();
    }

    /// Puts an entry behind the others, or returns it.
    fn put(&self, place: mpsc::Permit<'_, QueueItem>, item: QueueItem) -> Result<(), QueueItem> {
        let mut is_closing = self.is_closing.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_closing {
            return Err(item);
        }
        match item {
            QueueItem::Send(_) => {
                self.unsent.fetch_add(1, Ordering::AcqRel);
            }
            QueueItem::Close(..) => {
                *is_closing = true;
                self.closing.notify_waiters();
            }
        }
        place.send(item);
        Ok(())
    }
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
pub struct Sender {
    queue: mpsc::Sender<QueueItem>,
    state: Arc<QueueState>,
}

impl Sender {
    /// Queues a message once there is room. Cancel-safe: the message is queued, or it is not. A queued message is sent, unless the
    /// connection ends first: then [`unsent`](Sender::unsent) counts it.
    ///
    /// # Errors
    /// [`Error::Closing`] if a sender has [closed](Sender::close) the connection, or the send task has ended, because the connection has
    /// ended (its reader has the cause) or is closing.
    pub async fn send(&self, message: impl Into<Message>) -> Result<(), Error> {
        self.put(QueueItem::Send(Queued::Message(message.into()))).await
    }

    /// Queues a message that was encoded for many connections.
    ///
    /// # Errors
    /// As [`send`](Sender::send).
    pub async fn send_prepared(&self, message: &PreparedMessage) -> Result<(), Error> {
        self.put(QueueItem::Send(Queued::Prepared(message.clone()))).await
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
        self.try_put(Queued::Prepared(message.clone()))
    }

    /// Queues a message if there is room now.
    ///
    /// # Errors
    /// The message, and why it was not queued.
    pub fn try_send(&self, message: impl Into<Message>) -> Result<(), TrySendError> {
        self.try_put(Queued::Message(message.into()))
    }

    /// Closes the connection behind the queued messages. Once this is ready, no sender of the connection can queue
    /// anything. Code and reason are sent as by [`Writer::close`](super::Writer::close).
    ///
    /// # Errors
    /// As [`send`](Sender::send).
    pub async fn close(&self, code: CloseCode, reason: &str) -> Result<(), Error> {
        self.put(QueueItem::Close(code, reason.to_owned())).await
    }

    /// Whether nothing more can be queued: a sender has closed the connection, or the send task has ended.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed() || self.state.is_closing()
    }

    /// Waits until nothing more can be queued.
    pub async fn closed(&self) {
        let closing = self.state.closing.notified();
        if !self.is_closed() {
            tokio::select! {
                () = self.queue.closed() => {}
                () = closing => {}
            }
        }
    }

    /// Messages that all senders of the connection have queued and that the transport has not accepted. Once the send task has ended,
    /// they are lost; those that the transport had may be lost, too, as with any connection that breaks.
    pub fn unsent(&self) -> u64 {
        self.state.unsent.load(Ordering::Acquire)
    }

    async fn put(&self, item: QueueItem) -> Result<(), Error> {
        if self.is_closed() {
            return Err(Error::Closing);
        }
        let place = self.queue.reserve().await.map_err(|_| Error::Closing)?;
        self.state.put(place, item).map_err(|_| Error::Closing)
    }

    fn try_put(&self, message: Queued) -> Result<(), TrySendError> {
        use mpsc::error::TrySendError::Full;

        let place = match self.queue.try_reserve() {
            Ok(place) => place,
            Err(Full(())) if !self.is_closed() => return Err(TrySendError::Full(message.into_message())),
            Err(_) => return Err(TrySendError::Closed(message.into_message())),
        };
        match self.state.put(place, QueueItem::Send(message)) {
            Err(QueueItem::Send(message)) => Err(TrySendError::Closed(message.into_message())),
            _ => Ok(()),
        }
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

echoring_proto::error_texts! {
    enum TrySendError {
        Full(message) => "the queue is full";
        Closed(message) => "the connection has ended";
    }
}

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
    written: Written,
}

/// Which of the connection's messages the transport has accepted.
#[derive(Debug)]
struct Written {
    state: Arc<QueueState>,
    /// The bytes of each message and of the Close frame, some of which may not be accepted yet; and whether it is a
    /// message.
    frames: VecDeque<(u32, bool)>,
    /// Their sum.
    bytes: u64,
}

impl Written {
    /// The connection has a frame.
    fn push(&mut self, bytes: u32, is_message: bool) {
        self.frames.push_back((bytes, is_message));
        self.bytes += u64::from(bytes);
    }

    /// The transport has accepted all but the last `left` bytes.
    fn settle(&mut self, left: u64) {
        while let Some((bytes, is_message)) = self.frames.front()
            && self.bytes - u64::from(*bytes) >= left
        {
            self.bytes -= u64::from(*bytes);
            self.state.unsent.fetch_sub(u64::from(*is_message), Ordering::AcqRel);
            self.frames.pop_front();
        }
    }
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
        let Some(item) = self.next.take() else { return Poll::Ready(Ok(())) };
        let is_message = matches!(item, QueueItem::Send(_));
        let (before, after) = self.writer.shared.update(|core| {
            let before = core.unwritten_bytes();
            match item {
                QueueItem::Send(Queued::Message(message)) => core.queue_message(message)?,
                QueueItem::Send(Queued::Prepared(message)) => message.queue(core)?,
                QueueItem::Close(code, reason) => {
                    core.begin_close(code, &reason, false);
                }
            }
            Ok::<_, Error>((before, core.unwritten_bytes()))
        })?;
        self.written.push(u32::try_from(after.saturating_sub(before)).unwrap_or(u32::MAX), is_message);
        if !is_message {
            self.orders.close();
            self.stage = Stage::Closing;
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
        let polled = this.poll_sending(cx);
        this.written.settle(this.writer.shared.update(|core| core.unwritten_bytes()));
        let done = ready!(polled);
        this.written.state.close();
        this.orders.close();
        Poll::Ready(match done {
            Err(error) if error.is_clean() => Ok(()),
            done => done,
        })
    }
}
