//! The requests to a back end, some at the same time. Some of them are sent again.
//!
//! A message is sent again only if the back end cannot have read it, because no connection was made, or has said when to try again. Events
//! about connections are sent again after any failure, because a back end can tell that it knows them: the id is the same.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::select;
use tokio::time::sleep;

use super::connection::{BackendOutcome, Line, Prepared};
use super::settings::BackendEvent;
use super::{Backend, wire};
use crate::calls::http_client::{AnswerBody, AnswerHead, NoAnswer, random_id};
use crate::calls::{BACKENDS, Begun, within};
use crate::limits::BACKEND_RETRY_DELAY_MAX;

/// Sends the events of a connection.
pub(super) async fn send_all((line, _begun): (Arc<Line>, Begun)) {
    let backend = &line.backend;
    while let Some(mut request) = line.next() {
        let body = Bytes::from(std::mem::take(&mut request.body));
        let is_known = Cell::new(false);
        let outcome = select! {
            biased;
            outcome = backend.send(&line, &request, body, &is_known) => outcome,
            () = line.given_up(request.event) => {
                backend.warn(request.event, "no answer within the time of the handshake");
                BackendOutcome::Failed
            }
        };
        if !line.complete(request, outcome, is_known.get()) {
            break;
        }
    }
}

/// The result of one attempt.
enum Attempt {
    Done(BackendOutcome),
    /// Without a usable answer.
    Failed {
        problem: String,
        /// Whether the back end may have read the request.
        was_read: bool,
        /// Whether another attempt may help, and after which time if the back end has named one.
        may_retry: bool,
        after: Option<Duration>,
    },
}

impl Backend {
    /// Sends a request until there is an answer. `is_known` tells at any time whether the back end may have accepted the connection.
    async fn send(
        &self,
        line: &Line,
        request: &Prepared,
        body: Bytes,
        is_known: &Cell<bool>,
    ) -> BackendOutcome {
        let id = random_id();
        let mut attempts = 0;
        loop {
            let before = is_known.get();
            let attempt = match &id {
                Ok(id) => self.attempt(line, (id, request.event), body.clone(), is_known).await,
                Err(problem) => Attempt::failed(problem.clone(), false),
            };
            let (problem, may_retry, after) = match attempt {
                Attempt::Done(outcome) => {
                    is_known.set(!matches!(outcome, BackendOutcome::Refused(_)));
                    return outcome;
                }
                Attempt::Failed { problem, was_read, may_retry, after } => {
                    is_known.set(before || was_read);
                    (problem, may_retry, after)
                }
            };
            if !may_retry || attempts == self.settings.retries || line.is_pointless(request.event) {
                self.warn(request.event, &format!("{problem} (attempts: {})", attempts + 1));
                return BackendOutcome::Failed;
            }
            self.counters.retries.fetch_add(1, Ordering::Relaxed);
            attempts += 1;
            let usual = BACKENDS.retry.after(attempts);
            sleep(after.unwrap_or(usual).min(BACKEND_RETRY_DELAY_MAX)).await;
        }
    }

    fn warn(&self, event: BackendEvent, problem: &str) {
        let (backend, event) = (&*self.settings.path, event.word());
        tracing::warn!(backend, event, problem, "a back end did not answer an event");
    }

    async fn attempt(
        &self,
        line: &Line,
        (id, event): (&str, BackendEvent),
        body: Bytes,
        is_known: &Cell<bool>,
    ) -> Attempt {
        let _turn = self.queue.turns.take(&line.source).await;
        let request = match self.secrets.post(id, body) {
            Ok(request) => request,
            Err(error) => return Attempt::failed(error.problem, false),
        };
        is_known.set(true);
        judge(event, within(self.settings.timeout, self.client.send(request)).await)
    }
}

impl Attempt {
    /// Another attempt would not help.
    fn failed(problem: String, was_read: bool) -> Attempt {
        Attempt::Failed { problem, was_read, may_retry: false, after: None }
    }

    /// The back end may have read the request, and done what it says.
    fn unknown(problem: String, event: BackendEvent) -> Attempt {
        Attempt::Failed { problem, was_read: true, may_retry: event != BackendEvent::Message, after: None }
    }
}

/// The result of an attempt with this answer.
fn judge(event: BackendEvent, answered: Result<(AnswerHead, AnswerBody), NoAnswer>) -> Attempt {
    let (head, body) = match answered.and_then(|(head, body)| Ok((head, body?))) {
        Ok(answered) => answered,
        Err(NoAnswer { is_unsent: true, problem }) => {
            return Attempt::Failed { problem, was_read: false, may_retry: true, after: None };
        }
        Err(NoAnswer { problem, .. }) => return Attempt::unknown(problem, event),
    };
    let status = head.status();
    let problem = format!("its status is {status}");
    let after = head.retry_after();
    match status {
        // There is nothing to do for a connection that has ended.
        200..=299 if event == BackendEvent::Disconnect => {
            Attempt::Done(BackendOutcome::Answered(Default::default()))
        }
        200..=299 if !body.is_empty() && !head.is_json() => {
            Attempt::failed("its answer is not application/json".to_owned(), true)
        }
        200..=299 => match wire::answer(&body) {
            Ok(answer) => Attempt::Done(BackendOutcome::Answered(answer)),
            Err(problem) => Attempt::failed(format!("its answer is malformed: {problem}"), true),
        },
        429 | 503 if after.is_some() => Attempt::Failed { problem, was_read: false, may_retry: true, after },
        400..=499 if event == BackendEvent::Connect => Attempt::Done(BackendOutcome::Refused(status)),
        500..=599 if event != BackendEvent::Message => {
            Attempt::Failed { problem, was_read: false, may_retry: true, after: None }
        }
        _ => Attempt::failed(problem, false),
    }
}
