//! Many writers of one connection: a bounded queue, and the pump that empties it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;

use super::core::Transport;
use super::error::Error;
use super::message::Message;
use super::prepared::PreparedMessage;
use super::waking::WRITER;
use super::writer::Writer;
use crate::protocol::CloseCode;

pub(super) fn channel<S: Transport>(writer: Writer<S>, messages: usize) -> (Sender, Pump<S>) {
    let (sender, orders) = mpsc::channel(messages.max(1));
    (Sender(sender), Pump { writer, orders, next: None, stage: Stage::Sending })
}

/// What a sender wants done.
#[derive(Debug)]
enum Order {
    Send(Message),
    SendPrepared(PreparedMessage),
    Close(CloseCode, String),
}

/// One of many that write to the same connection: made by [`Writer::into_sender`], cloned for each task.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use echoring::aio::{Conn, Opened, Settings};
/// use echoring::protocol::Role;
///
/// let (ours, theirs) = tokio::io::duplex(1024);
/// let server = Conn::new(ours, &Settings::default(), Opened::new(Role::Server));
/// let mut client = Conn::new(theirs, &Settings::default(), Opened::new(Role::Client));
///
/// let (_reader, writer) = server.split();
/// let (sender, pump) = writer.into_sender(16);
/// let pump = tokio::spawn(pump);
/// for n in 0..2 {
///     let sender = sender.clone();
///     tokio::spawn(async move { sender.send(format!("from task {n}")).await });
/// }
/// drop(sender);
/// for _ in 0..2 {
///     assert!(client.read().await?.as_text().unwrap().starts_with("from task"));
/// }
/// pump.await.expect("no panic")?;
/// # Ok::<(), echoring::aio::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Sender(mpsc::Sender<Order>);

impl Sender {
    /// Queues a message, as soon as there is room. Cancel-safe: it is queued, or it is not.
    ///
    /// # Errors
    /// [`Error::Closing`] when the pump is gone, because the connection has ended (its reader knows why) or closes.
    pub async fn send(&self, message: impl Into<Message>) -> Result<(), Error> {
        self.order(Order::Send(message.into())).await
    }

    /// Queues a message that was prepared for many connections.
    ///
    /// # Errors
    /// As [`send`](Sender::send).
    pub async fn send_prepared(&self, message: &PreparedMessage) -> Result<(), Error> {
        self.order(Order::SendPrepared(message.clone())).await
    }

    /// Queues a message if there is room now.
    ///
    /// # Errors
    /// The message, and why not.
    pub fn try_send(&self, message: impl Into<Message>) -> Result<(), TrySendError> {
        self.0.try_send(Order::Send(message.into())).map_err(|error| match error {
            mpsc::error::TrySendError::Full(Order::Send(message)) => TrySendError::Full(message),
            mpsc::error::TrySendError::Closed(Order::Send(message)) => TrySendError::Closed(message),
            _ => unreachable!("what comes back is what was sent"),
        })
    }

    /// Closes the connection behind what is queued. What is queued later is dropped.
    ///
    /// # Errors
    /// As [`send`](Sender::send).
    pub async fn close(&self, code: CloseCode, reason: &str) -> Result<(), Error> {
        self.order(Order::Close(code, reason.to_owned())).await
    }

    /// Whether nothing can be sent any more.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until nothing can be sent any more.
    pub async fn closed(&self) {
        self.0.closed().await;
    }

    async fn order(&self, order: Order) -> Result<(), Error> {
        self.0.send(order).await.map_err(|_| Error::Closing)
    }
}

/// A message that was not queued.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrySendError {
    /// There is no room in the queue.
    Full(Message),
    /// The connection has ended, or closes.
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

/// Sends what [`Sender`]s queue: a future to be spawned. It resolves when every sender is gone and all they queued has
/// left, when a sender closed, or when the connection has ended, which fails unless the end was clean. It does not
/// read: something has to poll the [`Reader`](super::Reader) for the connection to live.
#[must_use = "nothing is sent unless it is polled"]
#[derive(Debug)]
pub struct Pump<S> {
    writer: Writer<S>,
    orders: mpsc::Receiver<Order>,
    next: Option<Order>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Sending,
    /// No sender is left.
    Emptying,
    /// A Close frame is queued.
    Closing,
}

impl<S: Transport> Pump<S> {
    /// Carries out the order at hand.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.next.is_some() {
            ready!(self.writer.poll_room(true, cx))?;
        }
        match self.next.take() {
            None => {}
            Some(Order::Send(message)) => {
                self.writer.shared.act(|core| core.queue(message.kind(), message.as_bytes()))?;
            }
            Some(Order::SendPrepared(message)) => self.writer.shared.act(|core| message.queue(core))?,
            Some(Order::Close(code, reason)) => {
                self.writer.shared.act(|core| core.begin_close(code, &reason, false));
                self.orders.close();
                self.stage = Stage::Closing;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for the connection's end and for the next beat, while there is nothing to send.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Only the timer wakes it by itself; of what comes of reading it is told.
        let waker = cx.waker().clone();
        self.writer.shared.poll(WRITER, false, cx, |core, _| {
            if let Some(error) = core.write_error() {
                return Poll::Ready(Err(error));
            }
            core.poll_beat(&mut Context::from_waker(&waker)).map(Ok)
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
                    Poll::Ready(Some(order)) => {
                        self.next = Some(order);
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

impl<S: Transport> Future for Pump<S> {
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
