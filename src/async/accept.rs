//! Accepts connections: a failed accept is retried, after a pause if the process lacks descriptors or memory.

use std::io;
use std::time::Duration;

use tokio::time::sleep;

use crate::limits::ACCEPT_PAUSE;
use crate::listener::is_shortage;

/// Accepts a connection with `accept`, and retries until that succeeds. `listener` names the listener in the log. Drop
/// the future to stop; nothing is lost if `accept` is cancel-safe.
pub async fn accept<T>(listener: &str, mut accept: impl AsyncFnMut() -> io::Result<T>) -> T {
    loop {
        let error = match accept().await {
            Ok(accepted) => return accepted,
            Err(error) => error,
        };
        if let Err(error) = retry(listener, error).await {
            tracing::warn!(%error, listener, "cannot accept a connection; retrying");
            pause().await;
        }
    }
}

/// Returns when an accept of `listener` that failed with `error` may be retried.
///
/// # Errors
/// `error`, if it is a failure of the listener itself.
pub(crate) async fn retry(listener: &str, error: io::Error) -> io::Result<()> {
    match error.kind() {
        // The connection ended before it was accepted.
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionRefused => Ok(()),
        _ if is_shortage(&error) => {
            tracing::warn!(%error, listener, "cannot accept a connection; raise the limit of open files (ulimit -n)");
            pause().await;
            Ok(())
        }
        _ => Err(error),
    }
}

async fn pause() {
    sleep(Duration::from_nanos(ACCEPT_PAUSE)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failed_accept_is_tried_again() {
        let kinds = [io::ErrorKind::ConnectionAborted, io::ErrorKind::InvalidInput];
        let mut errors = kinds.into_iter();
        let accepted = accept("test", async || errors.next().map_or(Ok(7), |kind| Err(kind.into()))).await;
        assert_eq!((accepted, errors.next()), (7, None));
    }
}
