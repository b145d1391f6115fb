//! The task of a client: moves messages between its session and a connection that reconnects.
//!
//! Never: reading that waits for writing, or vice versa.

pub(crate) mod attempt;

use std::pin::pin;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::command::Command;
use crate::limits::SEND_QUEUE_MESSAGES;
use crate::protocol::Protocol;
use crate::session::state::States;
use crate::session::{Session, SessionError};
use crate::token::Fetches;
use crate::{ClientError, Ended, State};
use echoring_async::{ClientStream, CloseFrame, Conn, Error, Message, Reconnecting, Sender, TrySendError};
use echoring_proto::CloseCode;

pub(crate) struct Task {
    pub(crate) protocol: Protocol,
    pub(crate) reconnecting: Reconnecting,
    pub(crate) session: Session,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) states: States,
    pub(crate) fetches: Fetches,
}

impl Task {
    /// Connects until the client ends.
    pub(crate) async fn run(mut self) {
        let (state, why) = match self.connect_and_talk().await {
            Ok(()) => (State::Closed, Ended::Closed),
            Err(error) => (State::Failed(error.clone()), Ended::Failed(error)),
        };
        // First, because handles look there for the reason.
        self.states.set(state);
        self.commands.close();
        self.session.end(&why);
        // Commands that were queued meanwhile: their answers are dropped, which tells whoever awaits them.
        while self.commands.try_recv().is_ok() {}
    }

    async fn connect_and_talk(&mut self) -> Result<(), ClientError> {
        loop {
            let Some(conn) = self.connect().await? else { return Ok(()) };
            let Some(error) = self.talk(conn).await? else { return Ok(()) };
            let error = match error {
                Error::Closed(frame) if frame.code == CloseCode::TOO_BIG && self.session.refuse_longest() => {
                    Error::Closed(CloseFrame { code: CloseCode::TRY_AGAIN_LATER, ..frame })
                }
                error => error,
            };
            self.session.handle_lost();
            if matches!(&error, Error::Closed(frame) if self.protocol.expires_by(frame.code.0)) {
                self.session.handle_expired();
            }
            self.reconnecting.ended(error);
        }
    }

    /// Opens a connection. Commands are taken meanwhile. `None` if the program closes the client.
    async fn connect(&mut self) -> Result<Option<Conn<ClientStream>>, ClientError> {
        let mut states = self.reconnecting.watch();
        loop {
            fetch(&mut self.session, &mut self.fetches);
            tokio::select! {
                opened = self.reconnecting.next() => {
                    let conn = opened?;
                    let subprotocol = self.protocol.subprotocol();
                    return match conn.subprotocol() == Some(subprotocol) {
                        true => Ok(Some(conn)),
                        false => Err(ClientError::NotSpoken { subprotocol }),
                    };
                }
                Ok(()) = states.changed() => {
                    let state = states.borrow_and_update().clone();
                    self.states.follow(&state);
                }
                (id, fetched) = self.fetches.next(), if !self.fetches.is_empty() => {
                    self.session.handle_token(id, fetched, Instant::now());
                }
                command = self.commands.recv(), if self.session.accepts_commands() => match command {
                    None | Some(Command::Close) => return Ok(None),
                    Some(command) => self.session.handle_command(command, Instant::now()),
                },
                () = self.wake.notified() => self.session.handle_wake(Instant::now()),
            }
        }
    }

    /// Uses a connection until it is lost, or until the program closes the client: then `None`.
    async fn talk(&mut self, conn: Conn<ClientStream>) -> Result<Option<Error>, ClientError> {
        let (mut reader, writer) = conn.split();
        let (sender, sending) = writer.into_sender(SEND_QUEUE_MESSAGES);
        let mut sending = pin!(sending);
        let (mut writes, mut begun) = (true, false);
        self.session.handle_open(Instant::now());
        loop {
            if !begun && self.session.is_open() {
                begun = true;
                self.states.set(State::Open);
            }
            let blocked = if writes { queue(&mut self.session, &sender) } else { None };
            fetch(&mut self.session, &mut self.fetches);
            let deadline = self.session.deadline();
            tokio::select! {
                read = reader.read() => match read {
                    Err(error) => return Ok(Some(error)),
                    Ok(message) => if let Err(error) = self.session.handle_message(&message, Instant::now()) {
                        return lost(error).map(Some);
                    },
                },
                (id, fetched) = self.fetches.next(), if !self.fetches.is_empty() => {
                    self.session.handle_token(id, fetched, Instant::now());
                }
                // Reading has the cause.
                _ = &mut sending, if writes => writes = false,
                // There is room again.
                sent = sender.send(blocked.clone().unwrap_or_else(|| Message::from(""))), if blocked.is_some() => {
                    if sent.is_ok() {
                        self.session.take_outgoing();
                    }
                }
                command = self.commands.recv(), if self.session.accepts_commands() => match command {
                    None | Some(Command::Close) => {
                        if writes {
                            // Behind what was queued. Reading ends with the server's answer, or without one in time.
                            let close = sender.close(CloseCode::NORMAL, "");
                            let _ = tokio::join!(close, &mut sending, reader.discard_reads());
                        }
                        return Ok(None);
                    }
                    Some(command) => self.session.handle_command(command, Instant::now()),
                },
                () = self.wake.notified() => self.session.handle_wake(Instant::now()),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.session.handle_timeout(Instant::now());
                }
            }
        }
    }
}

/// Why the connection of a session that cannot continue is unusable.
///
/// # Errors
/// If no other one would be.
fn lost(error: SessionError) -> Result<Error, ClientError> {
    match error {
        SessionError::Malformed(error) => Ok(error),
        SessionError::Refused(refusal) if refusal.temporary => {
            Ok(Error::Closed(CloseFrame { code: CloseCode::TRY_AGAIN_LATER, reason: refusal.to_string() }))
        }
        SessionError::Refused(refusal) => Err(ClientError::Refused(refusal)),
    }
}

/// Fetches the tokens that the session needs.
fn fetch(session: &mut Session, fetches: &mut Fetches) {
    while fetches.has_room()
        && let Some((id, source)) = session.take_token_request()
    {
        fetches.begin(id, &source);
    }
}

/// Sends the session's messages, as far as there is room. Returns the message that must wait.
fn queue(session: &mut Session, sender: &Sender) -> Option<Message> {
    while let Some(message) = session.first_outgoing() {
        match sender.try_send(message) {
            Ok(()) => session.take_outgoing(),
            Err(TrySendError::Full(message)) => return Some(message),
            Err(_) => return None,
        }
    }
    None
}
