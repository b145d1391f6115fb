//! Requests of handles to the task, and of the session to the server.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::session::queue::Queue;
use crate::{
    History, HistoryQuery, Members, Payload, Position, Publication, Published, RequestError, SubscribeError,
    TokenSource,
};

/// The answer to a request, to whoever awaits it.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, RequestError>>;

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
pub(crate) enum Pending {
    Publish { topic: String, publication: Publication, answer: Answer<Published> },
    Presence { topic: String, after: Option<String>, answer: Answer<Members> },
    History { topic: String, query: HistoryQuery, answer: Answer<History> },
    Authenticate { token: String, answer: Answer<()> },
    Rpc { method: String, data: Payload, answer: Answer<Payload> },
    Send { data: Payload, answer: Answer<()> },
}

impl Pending {
    /// Whether the request may be sent again although it may have been done: it changes nothing, or the server
    /// recognises it.
    pub(crate) fn may_be_repeated(&self) -> bool {
        match self {
            Pending::Publish { publication, .. } => publication.idempotency_key.is_some(),
            Pending::Presence { .. } | Pending::History { .. } | Pending::Authenticate { .. } => true,
            // The application decides what a call or a message does.
            Pending::Rpc { .. } | Pending::Send { .. } => false,
        }
    }

    /// The request failed.
    pub(crate) fn fail(self, error: RequestError) {
        // Whoever asked may be gone.
        let _ = match self {
            Pending::Publish { answer, .. } => answer.send(Err(error)).is_ok(),
            Pending::Presence { answer, .. } => answer.send(Err(error)).is_ok(),
            Pending::History { answer, .. } => answer.send(Err(error)).is_ok(),
            Pending::Authenticate { answer, .. } => answer.send(Err(error)).is_ok(),
            Pending::Rpc { answer, .. } => answer.send(Err(error)).is_ok(),
            Pending::Send { answer, .. } => answer.send(Err(error)).is_ok(),
        };
    }
}
