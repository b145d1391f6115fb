//! [`RemoteSender`]: sends to the connection of a handler from any thread. Messages go to the connection's shard through its
//! control messages, and wait there for room. They are charged to the node's memory until the connection has them.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use echoring_proto::CloseCode;
use echoring_proto::buffer::Budget;
use echoring_proto::connection::MessageKind;

use crate::commands::blocking;
use crate::handlers::message::Message;
use crate::limits::SENDER_MESSAGE_BYTES;
use echoring_runtime::shard::Destination;

/// Sends to one connection from any thread or task. Cheap to clone; made by [`Remote::sender`](crate::Remote::sender).
///
/// Messages are sent in the order in which they are accepted. An accepted message is sent, unless the connection closes first:
/// then [`is_closed`](RemoteSender::is_closed) is true, and [`unsent`](RemoteSender::unsent) counts the lost messages.
/// Accepted messages that wait for the peer are bounded by [`Builder::queue_bytes`](crate::Builder::queue_bytes) for
/// each connection, each counted with 160 bytes besides its payload, and charged to the node's memory budget.
///
/// A sender never blocks a shard, and never reaches a connection other than its own, even after the connection has
/// ended.
///
/// ```
/// use echoring::server::{Disposition, Handler, Message, Remote, RemoteSender, Result};
///
/// /// Answers each message from another thread.
/// struct Worker;
///
/// fn answer(sender: &RemoteSender, question: &str) {
///     // The peer may have left.
///     let _ = sender.send_text(format!("the answer to {question}"));
/// }
///
/// impl Handler for Worker {
///     fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
///         let (sender, question) = (remote.sender(), message.text().unwrap_or_default().to_owned());
///         std::thread::spawn(move || answer(&sender, &question));
///         Ok(Disposition::Done)
///     }
/// }
/// ```
#[derive(Clone)]
pub struct RemoteSender {
    shared: Arc<Shared>,
}

/// Why a [`RemoteSender`] does not take a message.
///
/// ```
/// use echoring::server::{RemoteSender, SendError};
///
/// fn offer(sender: &RemoteSender, text: &str) {
///     match sender.try_send(text) {
///         Ok(()) => {}
///         Err(SendError::Full) => println!("the peer is slow"),
///         Err(error) => println!("{error}"),
///     }
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Too much waits for the peer, or the node is short of memory.
    #[error("too many messages wait for the peer")]
    Full,
    /// The connection is closed, or was told to close.
    #[error("the connection is closed")]
    Closed,
}

echoring_proto::error_debug!(
    enum SendError {
        Full,
        Closed,
    }
);

/// A message for a [`RemoteSender`]. Convert from text (`&str`, `String`), bytes (`&[u8]`, `Vec<u8>`, [`Bytes`]) or a received
/// [`Message`]. Cloning shares the payload.
///
/// ```
/// use echoring::server::{OutgoingMessage, RemoteSender};
///
/// /// The payload is shared, not copied.
/// fn tell_all(senders: &[RemoteSender], text: String) {
///     let message = OutgoingMessage::from(text);
///     for sender in senders {
///         let _ = sender.try_send(message.clone());
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingMessage {
    kind: MessageKind,
    payload: Bytes,
}

impl OutgoingMessage {
    /// Text or binary.
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

impl From<String> for OutgoingMessage {
    fn from(text: String) -> OutgoingMessage {
        OutgoingMessage { kind: MessageKind::Text, payload: text.into() }
    }
}

impl From<&str> for OutgoingMessage {
    fn from(text: &str) -> OutgoingMessage {
        OutgoingMessage { kind: MessageKind::Text, payload: Bytes::copy_from_slice(text.as_bytes()) }
    }
}

impl From<Bytes> for OutgoingMessage {
    fn from(payload: Bytes) -> OutgoingMessage {
        OutgoingMessage { kind: MessageKind::Binary, payload }
    }
}

impl From<Vec<u8>> for OutgoingMessage {
    fn from(payload: Vec<u8>) -> OutgoingMessage {
        OutgoingMessage::from(Bytes::from(payload))
    }
}

impl From<&[u8]> for OutgoingMessage {
    fn from(payload: &[u8]) -> OutgoingMessage {
        OutgoingMessage::from(Bytes::copy_from_slice(payload))
    }
}

impl From<Message<'_>> for OutgoingMessage {
    fn from(message: Message<'_>) -> OutgoingMessage {
        OutgoingMessage { kind: message.kind(), payload: Bytes::copy_from_slice(message.payload()) }
    }
}

impl fmt::Debug for RemoteSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (is_closed, unsent) = (self.is_closed(), self.unsent());
        f.debug_struct("RemoteSender")
            .field("is_closed", &is_closed)
            .field("unsent", &unsent)
            .finish_non_exhaustive()
    }
}

impl RemoteSender {
    /// Takes a message if there is room. Never blocks.
    ///
    /// # Errors
    /// [`SendError::Full`] or [`SendError::Closed`], with nothing taken.
    pub fn try_send(&self, message: impl Into<OutgoingMessage>) -> Result<(), SendError> {
        self.take(message.into()).map_err(|(_, error)| error)
    }

    /// Waits until there is room for a message, and takes it. Blocks this thread; asynchronous code uses
    /// [`send_async`](RemoteSender::send_async). On the thread of a shard, where a handler runs, nothing may block: there it is
    /// [`try_send`](RemoteSender::try_send).
    ///
    /// # Errors
    /// [`SendError::Closed`]; on the thread of a shard also [`SendError::Full`].
    pub fn send(&self, message: impl Into<OutgoingMessage>) -> Result<(), SendError> {
        let message = match self.take(message.into()) {
            Err((message, SendError::Full)) if !blocking::is_shard() => message,
            taken => return taken.map_err(|(_, error)| error),
        };
        blocking::wait_for(self.send_async(message), None).unwrap_or(Err(SendError::Closed))
    }

    /// [`send`](RemoteSender::send) with text.
    ///
    /// # Errors
    /// As for `send`.
    pub fn send_text(&self, text: impl Into<String>) -> Result<(), SendError> {
        self.send(text.into())
    }

    /// [`send`](RemoteSender::send) with a binary payload.
    ///
    /// # Errors
    /// As for `send`.
    pub fn send_binary(&self, payload: impl Into<Bytes>) -> Result<(), SendError> {
        self.send(payload.into())
    }

    /// Waits until there is room for a message, and takes it, in asynchronous code of any runtime. Dropping the future before it
    /// is ready takes nothing.
    pub fn send_async(&self, message: impl Into<OutgoingMessage>) -> SendUntilRoom {
        SendUntilRoom { sender: self.clone(), message: Some(message.into()) }
    }

    /// Starts the closing handshake (RFC 6455, 7.1.2) behind the accepted messages; nothing is accepted from now on. The peer
    /// gets the first 123 bytes of the reason. Returns false if the connection was closed, or told to close, before, or has just moved to
    /// another process.
    pub fn close(&self, code: CloseCode, reason: impl Into<String>) -> bool {
        let Some(charge) = Charge::of_close(&self.shared) else { return false };
        let is_first = !self.shared.is_closed.swap(true, Ordering::AcqRel);
        is_first && self.put(SenderAction::Close(code, reason.into(), charge))
    }

    /// Whether the connection is closed, or was told to close by a sender. A connection whose closing handshake has just begun
    /// may count as open for a moment.
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed.load(Ordering::Acquire)
    }

    /// Messages that were accepted and that the connection does not have yet. Once the connection is closed, they are lost.
    pub fn unsent(&self) -> u64 {
        self.shared.messages.load(Ordering::Acquire)
    }

    fn put(&self, action: SenderAction) -> bool {
        let Some(inlet) = &self.shared.inlet else { return false };
        inlet.put(SenderMail { to: Arc::clone(&self.shared), action })
    }

    /// Takes a message, or returns it.
    fn take(&self, message: OutgoingMessage) -> Result<(), (OutgoingMessage, SendError)> {
        if self.is_closed() {
            return Err((message, SendError::Closed));
        }
        let Some(charge) = Shared::charge(&self.shared, message.payload.len()) else {
            return Err((message, SendError::Full));
        };
        if self.put(SenderAction::Send(message, charge)) {
            return Ok(());
        }
        // The shard has ended. The message was given up with its charge.
        self.shared.is_closed.store(true, Ordering::Release);
        self.shared.messages.fetch_sub(1, Ordering::AcqRel);
        Err((OutgoingMessage::from(""), SendError::Closed))
    }
}

/// The future of [`RemoteSender::send_async`].
///
/// ```
/// use echoring::server::{RemoteSender, SendError};
///
/// async fn stream(sender: RemoteSender) -> Result<(), SendError> {
///     for number in 0..1_000_000 {
///         sender.send_async(number.to_string()).await?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct SendUntilRoom {
    sender: RemoteSender,
    message: Option<OutgoingMessage>,
}

impl Future for SendUntilRoom {
    type Output = Result<(), SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let Some(message) = self.message.take() else { return Poll::Ready(Err(SendError::Closed)) };
        match self.sender.take(message) {
            Err((message, SendError::Full)) => {
                self.message = Some(message);
                if self.sender.put(SenderAction::Wait(Waiter(Some(cx.waker().clone())))) {
                    return Poll::Pending;
                }
                Poll::Ready(Err(SendError::Closed))
            }
            taken => Poll::Ready(taken.map_err(|(_, error)| error)),
        }
    }
}

/// Where a sender's mail goes: to its shard, which it wakes.
pub(crate) trait Inlet: fmt::Debug + Send + Sync {
    /// False if the shard has ended.
    fn put(&self, mail: SenderMail) -> bool;
}

/// The shared state of a connection's senders and its shard.
#[derive(Debug)]
pub(crate) struct Shared {
    inlet: Option<Arc<dyn Inlet>>,
    budget: Arc<Budget>,
    /// The slot of the handler. It may belong to another connection by the time that mail arrives.
    slot: u32,
    /// Bytes that may wait.
    bytes_max: u64,
    /// Bytes that wait; [`LEAVING`] while the connection moves, when nothing does.
    bytes: AtomicU64,
    messages: AtomicU64,
    is_closed: AtomicBool,
}

/// Stands for the bytes of a connection that moves: nothing fits.
const LEAVING: u64 = u64::MAX;

impl Shared {
    /// Charges a message with its overhead, if it fits. A message above the bound fits when nothing else waits.
    fn charge(shared: &Arc<Shared>, payload_bytes: usize) -> Option<Charge> {
        let bytes = (payload_bytes + SENDER_MESSAGE_BYTES) as u64;
        let fits =
            |before: u64| before.checked_add(bytes).filter(|sum| *sum <= shared.bytes_max || before == 0);
        shared.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        if !shared.budget.take_outside(bytes) {
            shared.bytes.fetch_sub(bytes, Ordering::AcqRel);
            return None;
        }
        shared.messages.fetch_add(1, Ordering::AcqRel);
        Some(Charge { shared: Arc::clone(shared), bytes, is_budgeted: true })
    }
}

/// The charge of a message against its connection's bound and the node's memory, released on drop.
#[derive(Debug)]
pub(crate) struct Charge {
    shared: Arc<Shared>,
    bytes: u64,
    is_budgeted: bool,
}

impl Charge {
    /// Counts an order to close, for which there is always room, so that the connection does not move before it has it.
    fn of_close(shared: &Arc<Shared>) -> Option<Charge> {
        // `LEAVING` has no successor.
        let more = |before: u64| before.checked_add(1);
        shared.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Charge { shared: Arc::clone(shared), bytes: 1, is_budgeted: false })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shared.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        if self.is_budgeted {
            self.shared.budget.give_outside(self.bytes);
        }
    }
}

/// Mail of a sender for its shard.
#[derive(Debug)]
pub struct SenderMail {
    to: Arc<Shared>,
    action: SenderAction,
}

#[derive(Debug)]
pub(crate) enum SenderAction {
    Send(OutgoingMessage, Charge),
    Close(CloseCode, String, Charge),
    /// Wake when there is room, or the connection is closed.
    Wait(Waiter),
}

/// Wakes the waiting senders when it is dropped, so that none waits for a shard that has ended.
#[derive(Debug)]
pub(crate) struct Waiter(Option<Waker>);

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }
}

impl SenderMail {
    /// The slot that it is for, if that still belongs to the connection.
    pub(crate) fn slot(&self) -> u32 {
        self.to.slot
    }
}

/// The shard's part: the messages that wait for one connection.
#[derive(Debug)]
pub(crate) struct SenderQueue {
    shared: Arc<Shared>,
    queue: VecDeque<SenderAction>,
    waiters: Vec<Waiter>,
    /// Listed among those that have something to do.
    pub(crate) is_listed: bool,
}

impl SenderQueue {
    pub(crate) fn new(
        inlet: Option<Arc<dyn Inlet>>,
        budget: Arc<Budget>,
        slot: u32,
        bytes_max: u64,
    ) -> SenderQueue {
        // Without a way to the shard there is nothing to send with.
        let is_closed = AtomicBool::new(inlet.is_none());
        let (bytes, messages) = (AtomicU64::new(0), AtomicU64::new(0));
        let shared = Arc::new(Shared { inlet, budget, slot, bytes_max, bytes, messages, is_closed });
        SenderQueue { shared, queue: VecDeque::new(), waiters: Vec::new(), is_listed: false }
    }

    pub(crate) fn sender(&self) -> RemoteSender {
        RemoteSender { shared: Arc::clone(&self.shared) }
    }

    pub(crate) fn is_for(&self, mail: &SenderMail) -> bool {
        Arc::ptr_eq(&self.shared, &mail.to)
    }

    /// Takes mail. Returns a waiter that must retry later: its connection has room, so the node is short of memory.
    pub(crate) fn put(&mut self, mail: SenderMail) -> Option<Waiter> {
        match mail.action {
            SenderAction::Wait(mut waiter) => {
                if self.shared.bytes.load(Ordering::Acquire) == 0 {
                    return Some(waiter);
                }
                let is_known = |waker: &Waker| {
                    self.waiters
                        .iter()
                        .any(|known| known.0.as_ref().is_some_and(|known| known.will_wake(waker)))
                };
                if waiter.0.as_ref().is_some_and(is_known) {
                    waiter.0 = None;
                } else {
                    self.waiters.push(waiter);
                }
            }
            action => self.queue.push_back(action),
        }
        None
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn next(&mut self) -> Option<SenderAction> {
        self.queue.pop_front()
    }

    /// The connection has a message, whose charge is released.
    pub(crate) fn sent(&mut self) {
        self.shared.messages.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether the connection may move with its senders left behind: to another shard, if there are none; to another process, if they
    /// have nothing to send.
    pub(crate) fn may_stay_behind(&self, to: Destination) -> bool {
        let is_unused = Arc::strong_count(&self.shared) == 1;
        is_unused || (to == Destination::Process && self.shared.bytes.load(Ordering::Acquire) == 0)
    }

    /// Takes nothing from senders any more, unless they have just sent something. From then on there is no room for them.
    pub(crate) fn shut(&self) -> bool {
        self.shared.bytes.compare_exchange(0, LEAVING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The connection stays after all.
    pub(crate) fn open_again(&self) {
        self.shared.bytes.store(0, Ordering::Release);
    }

    /// Wakes the waiting senders, once half of the room is free.
    pub(crate) fn wake_for_room(&mut self) {
        if !self.waiters.is_empty() && self.shared.bytes.load(Ordering::Acquire) <= self.shared.bytes_max / 2
        {
            self.waiters.clear();
        }
    }
}

impl Drop for SenderQueue {
    /// The connection is closed: senders learn of it, and waiting messages are lost.
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Release);
        self.queue.clear();
        self.waiters.clear();
    }
}

impl SenderMail {
    /// The connection is gone.
    pub(crate) fn give_up(self) {
        self.to.is_closed.store(true, Ordering::Release);
    }
}
