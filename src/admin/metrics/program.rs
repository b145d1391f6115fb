//! The admin address of a program that is not the server: its health, its metrics, a reload and a drain. The requests that the server
//! has too are answered as there.

use std::sync::Arc;

use hyper::{Request, StatusCode};

use super::program_reply;
use crate::access::Access;
use crate::access::failed_attempts::FailedAttempts;
use crate::actions::Action;
use crate::http::socket::AdminPeer;
use crate::http::{Answer, Reply, RequestBody};
use crate::reload::Reloading;

/// A program behind an admin address. Its functions are called on the control thread, so they must return at once.
pub trait Program: Send + Sync + 'static {
    /// Whether a part of it has failed.
    fn has_failed(&self) -> bool;
    /// Ends it, because a part that it needs has failed.
    fn fail(&self, reason: &str);
    /// Why new clients are not welcome, in a word or two; `None` if they are.
    fn unready(&self) -> Option<&'static str>;
    /// Stops accepting clients, and ends when the last one has gone.
    fn drain(&self);
    /// Its own metrics.
    fn metrics(&self) -> Vec<ProgramMetric>;
}

/// A metric of a program: a counter if its name ends with `_total`, otherwise a gauge.
#[derive(Clone, Debug)]
pub struct ProgramMetric {
    /// Its name.
    pub name: &'static str,
    /// The name of its label; empty without one.
    pub label: &'static str,
    /// Its meaning, a sentence.
    pub help: &'static str,
    /// Its values by label.
    pub samples: Vec<(String, u64)>,
}

/// Answers requests, on the thread itself.
pub(crate) struct ProgramService {
    pub(crate) program: Arc<dyn Program>,
    pub(crate) access: Access,
    pub(crate) reloading: Reloading,
    pub(crate) attempts: FailedAttempts,
}

impl ProgramService {
    async fn answer_path(&self, request: &Request<RequestBody>) -> Reply {
        let unavailable = |line: &str| Reply::text(StatusCode::SERVICE_UNAVAILABLE, line);
        let ok = || Reply::text(StatusCode::OK, "ok");
        match (request.method().as_str(), request.uri().path()) {
            ("GET" | "HEAD", "/healthz") if self.program.has_failed() => unavailable("failed"),
            ("GET" | "HEAD", "/healthz") => ok(),
            ("GET" | "HEAD", "/readyz") => self.program.unready().map_or_else(ok, unavailable),
            ("GET" | "HEAD", "/metrics") => {
                let (reloads, attempts) = (&self.reloading.counters, self.attempts.figures());
                program_reply(request.headers(), self.program.metrics(), reloads, attempts)
            }
            ("POST", "/reload") => self.reloading.answer().await,
            ("POST", "/drain") => {
                self.program.drain();
                Reply::json(StatusCode::OK, Ok(br#"{"state":"draining"}"#.to_vec()))
            }
            (_, "/healthz" | "/metrics" | "/readyz") => Reply::wrong_method(&["GET", "HEAD"]),
            (_, "/drain" | "/reload") => Reply::wrong_method(&["POST"]),
            _ => {
                let line = "unknown path; use /drain, /healthz, /metrics, /readyz, /reload";
                Reply::text(StatusCode::NOT_FOUND, line)
            }
        }
    }
}

impl Answer for ProgramService {
    fn is_urgent(&self, request: &Request<RequestBody>) -> bool {
        Action::at(request.method(), request.uri().path()).is_ok_and(|(action, _)| action.is_urgent())
    }

    async fn answer(&self, request: &mut Request<RequestBody>) -> Reply {
        let peer = request.extensions().get().copied().unwrap_or(AdminPeer::Unix(None));
        match self.access.judge(peer, request.method(), request.uri(), request.headers()) {
            Ok(_) => self.answer_path(request).await,
            Err(refused) => self.attempts.refuse(peer, refused),
        }
    }

    async fn answer_passed_on(&self, request: &mut Request<RequestBody>) -> Reply {
        self.answer_path(request).await
    }
}
