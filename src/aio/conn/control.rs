//! Control frames from any task.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use super::core::{Core, Shared, Transport};
use super::error::Error;
use crate::protocol::{CloseCode, Opcode};

/// Pings, pongs and closes from any task, in front of the data that is queued. Cloned freely; it does not keep the
/// connection open.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use echoring::aio::{Conn, Opened, Settings};
/// use echoring::protocol::{CloseCode, Role};
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
/// # Ok::<(), echoring::aio::Error>(()) }).unwrap();
/// ```
pub struct Control<S> {
    shared: Weak<Shared<S>>,
}

impl<S: Transport> Control<S> {
    pub(super) fn new(shared: &Arc<Shared<S>>) -> Control<S> {
        Control { shared: Arc::downgrade(shared) }
    }

    /// Sends a ping with at most 125 bytes. Done when the transport has taken it.
    ///
    /// # Errors
    /// [`Error::TooLong`]; [`Error::Closing`] when this end closes, or has dropped the connection; and what ended it.
    pub async fn ping(&self, payload: &[u8]) -> Result<(), Error> {
        self.send(Opcode::Ping, payload).await
    }

    /// Sends a pong that nobody asked for, with at most 125 bytes.
    ///
    /// # Errors
    /// As [`ping`](Control::ping).
    pub async fn pong(&self, payload: &[u8]) -> Result<(), Error> {
        self.send(Opcode::Pong, payload).await
    }

    /// Closes in front of the data that is queued, which is dropped but for a frame of which a part has left, and waits
    /// for the peer's Close frame. Returns the bytes dropped.
    ///
    /// # Errors
    /// As [`Writer::close`](super::Writer::close); [`Error::Closing`] when this end has dropped the connection.
    pub async fn close(&self, code: CloseCode, reason: &str) -> Result<u32, Error> {
        let dropped = self.shared()?.act(|core| core.begin_close(code, reason, true));
        match self.wait(|core, cx| core.poll_closed(cx).map(Ok)).await? {
            Error::Closed(_) => Ok(dropped),
            error => Err(error),
        }
    }

    async fn send(&self, opcode: Opcode, payload: &[u8]) -> Result<(), Error> {
        self.shared()?.act(|core| core.queue_control(opcode, payload))?;
        self.wait(|core, cx| core.poll_drained(cx)).await
    }

    /// Polls as long as the connection is there, which is not kept by waiting for it.
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
