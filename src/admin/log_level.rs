//! `GET` and `PUT /log-level`: which records the program's log accepts.

use std::sync::OnceLock;

use hyper::{Method, Request, StatusCode};
use serde_json::json;

use super::http::{Bodies, Reply, RequestBody};
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

/// Lets `/log-level` read and change the program's log. Only the first call has an effect.
pub fn set_log_level(level: LogLevel) {
    // The first one stays.
    let _ = LEVEL.set(level);
}

/// Answers a request.
pub(super) async fn answer(request: &mut Request<RequestBody>, bodies: &Bodies) -> Reply {
    let Some(level) = LEVEL.get() else {
        return Reply::problem(StatusCode::NOT_FOUND, "no-log", "the log of this program cannot be changed");
    };
    if request.method() == Method::PUT {
        let body = match bodies.read(request.body_mut(), ADMIN_LOG_LEVEL_BYTES_MAX).await {
            Ok(body) => body,
            Err(_) => return refused("expected a log level of at most 1 KiB"),
        };
        let word = String::from_utf8_lossy(&body.bytes);
        if let Err(expected) = (level.set)(word.trim()) {
            return refused(&expected);
        }
    }
    Reply::json(StatusCode::OK, serde_json::to_vec(&json!({"level": (level.get)()})))
}

fn refused(expected: &str) -> Reply {
    Reply::problem(StatusCode::BAD_REQUEST, "bad-level", expected)
}
