//! The handler of a connection whose messages go to a back end over HTTP. It carries out what the back end answers.

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;

use crate::handlers::failure::Result;
use crate::handlers::handler::Handler;
use crate::handlers::message::Message;
use crate::handlers::migrate::{Migrate, ThawContext};
use crate::handlers::remote::Remote;
use crate::routes::request_context::Opening;
use crate::routes::response::Response;
use echoring_auth::limits::{BACKEND_BATCH_BYTES_MAX, BACKEND_MESSAGE_BYTES, BACKEND_QUEUE_SHARE};
use echoring_auth::{
    BackendAction, BackendAnswer, BackendConnection, BackendDelivery, BackendEvent, BackendOutcome, Full,
    OnFailure,
};
use echoring_broker::gate::{AnswerSender, GateAnswer};
use echoring_broker::publications::PublishError;
use echoring_broker::subscription::{SubscribeError, TopicMessage};
use echoring_proto::CloseCode;
use echoring_proto::connection::{Closed, MessageKind};
use echoring_runtime::driver::Token;
use echoring_runtime::shard::Disposition;
use echoring_topics::Content;

const NO_MEMORY: &str = "no memory left for this connection";

/// A connection that a back end has accepted, with its answer. Attached to the request.
pub(crate) struct Accepted(pub(crate) Cell<Option<(BackendConnection, BackendAnswer)>>);

/// The connection's events go to its back end.
#[derive(Debug)]
pub(crate) struct BackendHandler {
    pub(crate) connection: BackendConnection,
    /// The instructions of an answer that are left to carry out.
    actions: VecDeque<BackendAction>,
    /// Bytes of them that are charged to the node's memory.
    held_bytes: usize,
    /// Messages that the back end has not answered, and their bytes.
    unanswered: (usize, usize),
    is_paused: bool,
}

impl BackendHandler {
    /// The handler of an accepted connection.
    pub(crate) fn of(opening: &mut Opening<'_>) -> Result<BackendHandler, Response> {
        let accepted = opening.extension().and_then(|Accepted(accepted)| accepted.take());
        let (connection, BackendAnswer { actions, .. }) = accepted.ok_or_else(Response::internal_error)?;
        Ok(BackendHandler { connection, actions, held_bytes: 0, unanswered: (0, 0), is_paused: false })
    }

    /// The handler, if its connection is one of a back end.
    pub(crate) fn cast(handler: &dyn Handler) -> Option<&BackendHandler> {
        (handler as &dyn Any).downcast_ref()
    }

    /// Passes an answer to the handler of its connection.
    pub(crate) fn answered(
        handler: &mut dyn Handler,
        remote: &mut Remote<'_>,
        delivery: BackendDelivery,
    ) -> Result {
        let handler = (handler as &mut dyn Any).downcast_mut::<BackendHandler>();
        handler.map_or(Ok(()), |handler| handler.take(remote, delivery))
    }

    fn take(&mut self, remote: &mut Remote<'_>, delivery: BackendDelivery) -> Result {
        let BackendDelivery { messages: (messages, bytes), outcome } = delivery;
        self.unanswered.0 = self.unanswered.0.saturating_sub(messages);
        self.unanswered.1 = self.unanswered.1.saturating_sub(bytes);
        match outcome {
            BackendOutcome::Answered(answer) => self.begin(remote, answer.actions),
            // Of a connect whose answer came when the connection had just been let in without it.
            BackendOutcome::Refused(_) => {
                remote.close(CloseCode::POLICY, "refused by the back end");
                Ok(())
            }
            _ if self.connection.backend().settings().on_failure == OnFailure::Close => {
                remote.close(CloseCode::BAD_GATEWAY, "the back end does not answer");
                Ok(())
            }
            _ => self.begin(remote, VecDeque::new()),
        }
    }

    /// Begins to carry out an answer, which is charged to the node's memory meanwhile.
    fn begin(&mut self, remote: &mut Remote<'_>, actions: VecDeque<BackendAction>) -> Result {
        let held_bytes = actions.iter().map(BackendAction::held_bytes).sum();
        if !remote.reserve(held_bytes) {
            remote.close(CloseCode::TRY_AGAIN_LATER, NO_MEMORY);
            return Ok(());
        }
        (self.actions, self.held_bytes) = (actions, held_bytes);
        self.carry_out(remote)
    }

    /// Carries out the instructions as far as the client reads. The next request is made behind the last of them.
    fn carry_out(&mut self, remote: &mut Remote<'_>) -> Result {
        while let Some(action) = self.actions.pop_front() {
            if !perform(&action, remote)? {
                if remote.is_open() {
                    self.actions.push_front(action);
                }
                return Ok(());
            }
        }
        remote.release(std::mem::take(&mut self.held_bytes));
        self.connection.delivered();
        self.pause_or_resume(remote);
        Ok(())
    }

    /// One request may be in progress while another is filled.
    fn pause_or_resume(&mut self, remote: &mut Remote<'_>) {
        let (messages, bytes) = self.unanswered;
        let batch = self.connection.backend().settings().batch;
        let pauses = messages >= 2 * batch || bytes >= BACKEND_BATCH_BYTES_MAX;
        if self.is_paused != pauses {
            self.is_paused = pauses;
            remote.set_backpressured(pauses);
        }
    }
}

/// Passes results on to a connection of a shard.
pub(crate) fn deliver_to(token: Token, answers: AnswerSender) -> impl Fn(BackendDelivery) + Send + Sync {
    move |delivery| answers.send(GateAnswer::Backend(token, delivery))
}

/// Carries out an instruction. False if the connection has no room for it, or closes.
fn perform(action: &BackendAction, remote: &mut Remote<'_>) -> Result<bool> {
    match action {
        BackendAction::Send(kind, payload) => {
            return Ok(remote.send(Message { kind: *kind, payload }).is_ok());
        }
        BackendAction::Subscribe(topic) => match remote.subscribe(topic) {
            Ok(()) | Err(SubscribeError::AlreadySubscribed) => {}
            Err(error) => return Err(error.into()),
        },
        BackendAction::Unsubscribe(topic) => {
            remote.unsubscribe(topic);
        }
        BackendAction::Publish(topic, kind, payload) => {
            let content = if *kind == MessageKind::Text { Content::Text } else { Content::Binary };
            match remote.publish(topic, TopicMessage::new(content, payload)) {
                Ok(()) => {}
                Err(PublishError::Busy) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        BackendAction::Close(code, reason) => remote.close(*code, reason),
    }
    Ok(true)
}

impl Handler for BackendHandler {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        if !remote.reserve(self.connection.held_bytes()) {
            remote.close(CloseCode::TRY_AGAIN_LATER, NO_MEMORY);
            return Ok(());
        }
        let actions = std::mem::take(&mut self.actions);
        self.begin(remote, actions)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        if !self.connection.backend().has(BackendEvent::Message) {
            remote.close(CloseCode::UNSUPPORTED, "no messages are accepted");
            return Ok(Disposition::Done);
        }
        let bytes = message.payload.len() + BACKEND_MESSAGE_BYTES;
        let has_share = self.unanswered.1 + bytes
            <= self.connection.backend().settings().queue_bytes / BACKEND_QUEUE_SHARE;
        let taken = match has_share {
            // The first one has room whatever its length.
            false if self.unanswered.0 > 0 => Err(Full::Busy),
            _ => self.connection.message(message.kind, message.payload),
        };
        match taken {
            Ok(()) => {
                self.unanswered = (self.unanswered.0 + 1, self.unanswered.1 + bytes);
                self.pause_or_resume(remote);
            }
            Err(Full::Busy) => {
                remote.close(CloseCode::TRY_AGAIN_LATER, "too many messages wait for the back end")
            }
            Err(Full::TooLarge) => remote.close(CloseCode::TOO_BIG, "message too big for the back end"),
        }
        Ok(Disposition::Done)
    }

    fn writable(&mut self, remote: &mut Remote<'_>) -> Result {
        if self.actions.is_empty() { Ok(()) } else { self.carry_out(remote) }
    }

    fn close(&mut self, closed: &Closed) {
        let reason = closed.peer_close.as_ref().map_or("", |frame| &*frame.reason);
        self.connection.end(closed.code, reason);
    }
}

/// Without anything in progress, a handler is no more than its connection.
impl Migrate for BackendHandler {
    fn freeze(&self) -> Option<Vec<u8>> {
        self.connection.idle_state()
    }

    fn thaw(state: &[u8], here: &ThawContext<'_>) -> Option<BackendHandler> {
        let deliver = deliver_to(here.token, here.gate.answers.clone()?);
        let connection = BackendConnection::from_state(here.backend?, here.source.clone(), state, deliver)?;
        let actions = VecDeque::new();
        Some(BackendHandler { connection, actions, held_bytes: 0, unanswered: (0, 0), is_paused: false })
    }
}
