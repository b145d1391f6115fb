//! Control frames from any task.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use super::core::{Core, Shared, Transport};
use super::error::Error;
use echoring_proto::{CloseCode, Opcode};

/// Sends pings, pongs and Close frames from any task, ahead of queued data. A clone is cheap. A `Control` does not keep
/// the connection open.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use echoring::{Conn, Opened, Settings};
/// use echoring::{CloseCode, Role};
///
/// let (ours, theirs) = tokio::io::duplex(1024);
/// let mut server = Conn::new(ours, &Settings::default(), Opened::new(Role::Server));
/// let mut client = Conn::new(theirs, &Settings::default(), Opened::new(Role::Client));
///
/// let control = server.control();
/// let closing = tokio::spawn(async move { control.close(CloseCode::GOING_AWAY, "maintenance").await });
/// let end = client.read().await.unwrap_err();
/// assert_eq!(end.close_code(), Some(CloseCode::GOING_AWAY));
/// assert!(server.read().await.unwrap_err().is_clean());
/// assert_eq!(closing.await.expect("no panic")?, 0, "no data was dropped");
/// # Ok::<(), echoring::Error>(()) }).unwrap();
/// ```
pub struct Control<S> {
    shared: Weak<Shared<S>>,
}

impl<S: Transport> Control<S> {
    pub(super) fn new(shared: &Arc<Shared<S>>) -> Control<S> {
        Control { shared: Arc::downgrade(shared) }
    }

    /// Sends a ping with at most 125 bytes of payload. Returns once the transport has accepted it.
    ///
    /// # Errors
    /// [`Error::ControlTooLong`]; [`Error::Closing`] after this end has begun to close or has dropped the connection;
    /// otherwise the error that ended the connection.
    pub async fn ping(&self, payload: &[u8]) -> Result<(), Error> {
        self.send(Opcode::Ping, payload).await
    }

    /// Sends an unsolicited pong with at most 125 bytes of payload.
    ///
    /// # Errors
    /// As [`ping`](Control::ping).
    pub async fn pong(&self, payload: &[u8]) -> Result<(), Error> {
        self.send(Opcode::Pong, payload).await
    }

    /// Sends a Close frame ahead of queued data and waits for the peer's. The queued data is dropped, except for a
    /// frame that was sent in part. Code and reason are sent as by [`Writer::close`](super::Writer::close). Returns the number of bytes
    /// dropped.
    ///
    /// # Errors
    /// As [`Writer::close`](super::Writer::close); [`Error::Closing`] if this end has dropped the connection.
    pub async fn close(&self, code: CloseCode, reason: &str) -> Result<u32, Error> {
        let dropped = self.shared()?.update(|core| core.begin_close(code, reason, true));
        match self.wait(|core, cx| core.poll_closed(cx).map(Ok)).await? {
            Error::Closed(_) => Ok(dropped),
            error => Err(error),
        }
    }

    async fn send(&self, opcode: Opcode, payload: &[u8]) -> Result<(), Error> {
        self.shared()?.update(|core| core.queue_control(opcode, payload))?;
        self.wait(|core, cx| core.poll_drained(cx)).await
    }

    /// Polls for as long as the connection exists; waiting does not keep it alive.
    async fn wait<R>(
        &self,
        mut poll: impl FnMut(&mut Core<S>, &mut Context<'_>) -> Poll<Result<R, Error>>,
    ) -> Result<R, Error> {
        let guest = self.shared()?.enter();
        poll_fn(|cx| match self.shared.upgrade() {
            Some(shared) => shared.poll(guest.place, true, cx, &mut poll),
            None => Poll::Ready(Err(Error::Closing)),
        })
        .await
    }

    fn shared(&self) -> Result<Arc<Shared<S>>, Error> {
        self.shared.upgrade().ok_or(Error::Closing)
    }
}

impl<S> Clone for Control<S> {
    fn clone(&self) -> Control<S> {
        Control { shared: Weak::clone(&self.shared) }
    }
}

impl<S> fmt::Debug for Control<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}
