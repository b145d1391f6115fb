//! [`JoinError`]: why a server has ended by itself, or its end is not known.

use echoring_runtime::launch::ShardFailure;
use echoring_runtime::panics::panic_message;

/// Why a server has ended by itself: the I/O of a shard failed, or a shard panicked. Or why its end is not known: a shard is blocked, or
/// the call was made on a shard's thread. Or that its last messages for a successor are lost. A handler that panics ends its own connection only.
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
    is_overdue: bool,
}

impl JoinError {
    pub(crate) fn new(reason: impl Into<String>) -> JoinError {
        JoinError { reason: reason.into(), is_overdue: false }
    }

    /// The successor does not take the last messages.
    pub(crate) fn of_mail() -> JoinError {
        JoinError {
            is_overdue: true,
            ..JoinError::new("the successor did not take the last messages in time")
        }
    }

    /// Whether the drain for a successor did not end in time.
    #[doc(hidden)]
    pub fn is_overdue(&self) -> bool {
        self.is_overdue
    }

    /// Shards that do not end.
    pub(crate) fn of_blocked(shards: &[usize]) -> JoinError {
        JoinError::new(format!(
            "shards {shards:?} have not ended in time: a handler or another function of the program blocks them"
        ))
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

echoring_proto::error_debug!(struct JoinError { reason, is_overdue });
