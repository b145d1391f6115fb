//! `POST /reload`: has the program read its configuration again.

pub(crate) mod log_level;
pub(crate) mod reloader;
pub(crate) mod served;
pub(crate) mod watch;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hyper::StatusCode;
use serde::Serialize;

use super::http::Reply;

/// Reads the configuration of the program again.
pub trait Reload: Send + Sync {
    /// Reads it again and applies the changes that a running server can make. May block for seconds.
    fn reload(&self) -> Reloaded;
}

/// The result of a reload.
#[derive(Clone, Debug)]
pub enum Reloaded {
    /// The new configuration holds. The JSON document lists the changes.
    Accepted(String),
    /// The new configuration holds, but not at the previous server, which drains. The line has the reason.
    Partial(String),
    /// The configuration is wrong, and the old one still holds. The line has the reason.
    Refused(String),
}

/// Counts the reloads of a program, from any cause.
#[derive(Debug, Default, Serialize)]
pub struct ReloadCounters {
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    /// Whether the configuration that is in the files now was refused.
    pub(super) last_refused: AtomicBool,
}

impl ReloadCounters {
    /// Counts one.
    pub fn count(&self, reloaded: &Reloaded) {
        let is_refused = matches!(reloaded, Reloaded::Refused(_));
        let counter = if is_refused { &self.refused } else { &self.accepted };
        counter.fetch_add(1, Ordering::Relaxed);
        self.last_refused.store(is_refused, Ordering::Relaxed);
    }
}

/// The program's part of the admin address.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Reloading {
    /// `None` for a program without a configuration to read.
    pub reload: Option<Arc<dyn Reload>>,
    /// The reloads so far.
    pub counters: Arc<ReloadCounters>,
}

impl fmt::Debug for Reloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Reloading {
    /// For a program with a configuration to read.
    pub fn new(reload: Arc<dyn Reload>) -> Reloading {
        Reloading { reload: Some(reload), ..Reloading::default() }
    }

    /// The answer to `POST /reload`.
    pub(super) async fn answer(&self) -> Reply {
        let Some(reload) = self.reload.clone() else {
            return Reply::problem(
                StatusCode::NOT_IMPLEMENTED,
                "no-configuration",
                "nothing can be reloaded",
            );
        };
        // The call waits for the shards, so it must not block this thread.
        match tokio::task::spawn_blocking(move || reload.reload()).await {
            Ok(Reloaded::Accepted(json)) => Reply::json(StatusCode::OK, Ok(json.into_bytes())),
            Ok(Reloaded::Partial(line)) => {
                Reply::problem(StatusCode::SERVICE_UNAVAILABLE, "predecessor", &line)
            }
            Ok(Reloaded::Refused(line)) => {
                Reply::problem(StatusCode::UNPROCESSABLE_ENTITY, "bad-configuration", &line)
            }
            Err(_) => Reply::problem(StatusCode::INTERNAL_SERVER_ERROR, "failed", "the reload panicked"),
        }
    }
}
