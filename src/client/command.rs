//! Requests of handles to the task.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::codec::{Answer, Request};
use crate::session::queue::Queue;
use crate::{Position, RequestError, SubscribeError, TokenSource};

/// A command of a handle.
#[derive(Debug)]
pub(crate) enum Command {
    Subscribe {
        topic: String,
        position: Option<Position>,
        presence: bool,
        deltas: bool,
        token: Option<TokenSource>,
        queue: Arc<Queue>,
        answer: oneshot::Sender<Result<(), SubscribeError>>,
    },
    Request(Pending),
    Close,
}

/// A request of a program that waits for its answer.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) request: Request,
    pub(crate) answer: oneshot::Sender<Result<Answer, RequestError>>,
    /// The server may have received it, on this connection or on an earlier one.
    pub(crate) sent: bool,
}

impl Pending {
    /// Whether the request may be sent again although it may have been done: it changes nothing, or the server
    /// recognises it.
    pub(crate) fn may_be_repeated(&self) -> bool {
        match &self.request {
            Request::Publish { publication, .. } => publication.idempotency_key.is_some(),
            // The application decides what a call or a message does.
            request => !matches!(request, Request::Rpc { .. } | Request::Send { .. }),
        }
    }

    /// Whether the server may have done it, and does not tell any more.
    pub(crate) fn may_be_done(&self) -> bool {
        let changes =
            matches!(self.request, Request::Publish { .. } | Request::Rpc { .. } | Request::Send { .. });
        self.sent && changes
    }

    pub(crate) fn answer(self, answer: Result<Answer, RequestError>) {
        // Whoever asked may be gone.
        let _ = self.answer.send(answer);
    }
}
