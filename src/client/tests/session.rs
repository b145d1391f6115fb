//! [`TestSession`]: a session whose messages and time are the test's.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::world::Reader;
use crate::command::Command;
use crate::session::queue::Queue;
use crate::session::{ServerSide, Session, SessionError, Token};
use crate::token::Credentials;
use crate::{Event, Payload, Protocol, TokenSource};
use proptest::test_runner::TestCaseError;

pub(super) const TOPIC: &str = "prices";

/// A session, and the queue of one subscription.
pub(super) struct TestSession {
    pub(super) session: Session,
    /// What attempts to connect share with the session.
    pub(super) credentials: Credentials,
    pub(super) queue: Arc<Queue>,
    pub(super) now: Instant,
}

impl TestSession {
    /// A queue holds `capacity` events.
    pub(super) fn new(protocol: Protocol, capacity: usize) -> TestSession {
        TestSession::with(protocol, capacity, Credentials::default(), None)
    }

    pub(super) fn with(
        protocol: Protocol,
        capacity: usize,
        credentials: Credentials,
        server_side: Option<ServerSide>,
    ) -> TestSession {
        let session = Session::new(protocol, Token::new(credentials.clone()), server_side);
        let queue = Queue::new(capacity, Arc::new(Notify::new()));
        TestSession { session, credentials, queue, now: Instant::now() }
    }

    /// Subscribes to [`TOPIC`].
    pub(super) fn subscribe(&mut self, deltas: bool, token: Option<TokenSource>) {
        let (answer, _) = oneshot::channel();
        let command = Command::Subscribe {
            topic: TOPIC.to_owned(),
            position: None,
            presence: false,
            deltas,
            token,
            queue: Arc::clone(&self.queue),
            answer,
        };
        self.session.handle_command(command, self.now);
    }

    /// The next message that the client sends.
    pub(super) fn sent(&mut self) -> Option<String> {
        let message = self.session.first_outgoing()?;
        self.session.take_outgoing();
        Some(message.as_text().expect("a text").to_owned())
    }

    /// The next command that the client sends.
    pub(super) fn command(&mut self) -> Value {
        serde_json::from_str(&self.sent().expect("a command")).expect("JSON")
    }

    /// The client receives a message.
    pub(super) fn receive(&mut self, message: impl ToString) -> Result<(), SessionError> {
        self.session.handle_message(&message.to_string().into(), self.now)
    }

    /// The connection is lost, and another one is open.
    pub(super) fn reconnect(&mut self) {
        self.session.handle_lost();
        self.session.handle_open(self.now);
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.session.handle_timeout(self.now);
    }

    /// Takes the events of the subscription.
    pub(super) fn events(&self) -> impl Iterator<Item = Event<Payload>> + use<> {
        let queue = Arc::clone(&self.queue);
        std::iter::from_fn(move || queue.pop()).map(|(event, _)| event)
    }

    /// `reader` takes so many events.
    pub(super) fn read(&mut self, reader: &mut Reader, events: usize) -> Result<(), TestCaseError> {
        for event in self.events().take(events) {
            reader.handle(event)?;
        }
        self.session.handle_wake(self.now);
        Ok(())
    }
}
