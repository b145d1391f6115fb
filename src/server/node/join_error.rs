//! [`JoinError`]: why a server has ended by itself.

use echoring_runtime::launch::ShardFailure;
use echoring_runtime::panics::panic_message;

/// Why a server has ended by itself: the I/O of a shard failed, or a shard panicked. A handler that panics ends its own connection
/// only.
///
/// ```
/// use std::time::Duration;
///
/// use echoring::server::{JoinError, Server};
///
/// fn stop(server: Server) -> Result<u64, JoinError> {
///     let snapshots = server.shutdown(Duration::from_secs(5))?;
///     Ok(snapshots.iter().map(|snapshot| snapshot.counters.opened).sum())
/// }
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct JoinError {
    reason: String,
}

impl JoinError {
    pub(crate) fn new(reason: impl Into<String>) -> JoinError {
        JoinError { reason: reason.into() }
    }

    /// The end of a shard.
    pub(crate) fn of_shard(shard: usize, failure: &ShardFailure) -> JoinError {
        JoinError::new(match failure {
            ShardFailure::Io(error) => format!("shard {shard} ended: {error}"),
            ShardFailure::Panic(panic) => {
                format!("shard {shard} panicked: {}", panic_message(panic.as_ref()))
            }
        })
    }
}

echoring_proto::error_debug!(struct JoinError { reason });
