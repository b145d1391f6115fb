//! `GET` and `PUT /log-level`: which records the program's log accepts.

use std::sync::OnceLock;

use echoring_server::Handle;
use echoring_server::machinery::{NodeOrder, ProgramOrder};
use hyper::{Request, StatusCode};
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::http::{Bodies, Reply, RequestBody};
use crate::limits::ADMIN_LOG_LEVEL_BYTES_MAX;

/// How to read and change the filter of the program's log.
#[derive(Clone, Copy, Debug)]
pub struct LogLevel {
    /// The filter now, such as `info` or `warn,echoring_runtime=debug`.
    pub get: fn() -> String,
    /// Changes the filter. The error has the expected value.
    pub set: fn(&str) -> Result<(), String>,
}

/// A process has one log, and the program knows how it filters.
static LEVEL: OnceLock<LogLevel> = OnceLock::new();

const NO_LOG: &str = "the log of this program cannot be changed";

/// Lets `/log-level` read and change the program's log. Only the first call has an effect.
pub fn set_log_level(level: LogLevel) {
    // The first one stays.
    let _ = LEVEL.set(level);
}

/// Changes the filter of the program's log.
pub(crate) fn change(filter: &str) -> Result<(), String> {
    let level = LEVEL.get().ok_or(NO_LOG)?;
    (level.set)(filter)
}

/// `GET /log-level`.
pub(crate) fn reply() -> Reply {
    LEVEL.get().map_or_else(no_log, told)
}

/// `PUT /log-level`. The change also goes to the process of the previous server.
pub(crate) async fn set(request: &mut Request<RequestBody>, bodies: &Bodies, server: Handle) -> Reply {
    let Some(level) = LEVEL.get() else { return no_log() };
    let body = match bodies.read(request.body_mut(), ADMIN_LOG_LEVEL_BYTES_MAX).await {
        Ok(body) => body,
        Err(_) => return refused("expected a log level of at most 1 KiB"),
    };
    let word = String::from_utf8_lossy(&body.bytes);
    if let Err(expected) = (level.set)(word.trim()) {
        return refused(&expected);
    }
    let order = NodeOrder::Program(ProgramOrder::LogLevel(word.trim().to_owned()));
    // It waits for the previous server.
    match spawn_blocking(move || server.pass_on(order)).await {
        Ok(Err(error)) => Reply::problem(StatusCode::SERVICE_UNAVAILABLE, "predecessor", &error.to_string()),
        _ => told(level),
    }
}

fn told(level: &LogLevel) -> Reply {
    Reply::json(StatusCode::OK, serde_json::to_vec(&json!({"level": (level.get)()})))
}

fn no_log() -> Reply {
    Reply::problem(StatusCode::NOT_FOUND, "no-log", NO_LOG)
}

fn refused(expected: &str) -> Reply {
    Reply::problem(StatusCode::BAD_REQUEST, "bad-level", expected)
}
