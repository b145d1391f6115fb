//! The task of a client: moves messages between its session and a connection that reconnects.
//!
//! Never: reading that waits for writing, or the other way round.

use std::pin::pin;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::ClientError;
use crate::codec::Malformed;
use crate::command::Command;
use crate::limits::SEND_QUEUE_MESSAGES;
use crate::protocol::Protocol;
use crate::session::{Session, SessionError};
use crate::token::Fetches;
use echoring_async::{ClientStream, CloseFrame, Conn, Error, Message, Reconnecting, Sender, TrySendError};
use echoring_proto::CloseCode;

/// Why a connection is not used any more.
enum End {
    /// The program closed the client.
    Closed,
    Lost(Error),
}

pub(crate) async fn run(
    protocol: Protocol,
    mut reconnecting: Reconnecting,
    mut session: Session,
    mut commands: mpsc::Receiver<Command>,
    wake: Arc<Notify>,
) -> Result<(), ClientError> {
    let ended = connect_and_talk(protocol, &mut reconnecting, &mut session, &mut commands, &wake).await;
    commands.close();
    session.end();
    // Commands that were queued meanwhile: their answers are dropped, which tells whoever awaits them.
    while commands.try_recv().is_ok() {}
    ended
}

async fn connect_and_talk(
    protocol: Protocol,
    reconnecting: &mut Reconnecting,
    session: &mut Session,
    commands: &mut mpsc::Receiver<Command>,
    wake: &Notify,
) -> Result<(), ClientError> {
    let mut fetches = Fetches::default();
    loop {
        let ready = session.may_open();
        fetch(session, &mut fetches);
        let conn = tokio::select! {
            conn = reconnecting.next(), if ready => conn?,
            (id, fetched) = fetches.next(), if !fetches.is_empty() => {
                session.handle_token(id, fetched, Instant::now()).map_err(ClientError::Token)?;
                continue;
            }
            command = commands.recv(), if session.accepts_commands() => {
                match command {
                    None | Some(Command::Close) => return Ok(()),
                    Some(command) => session.handle_command(command, Instant::now()),
                }
                continue;
            }
            () = wake.notified() => {
                session.handle_wake(Instant::now());
                continue;
            }
        };
        let spoken = conn.subprotocol() == Some(protocol.subprotocol());
        if !spoken {
            return Err(ClientError::NotSpoken { subprotocol: protocol.subprotocol() });
        }
        match talk(conn, session, &mut fetches, commands, wake).await? {
            End::Closed => return Ok(()),
            End::Lost(error) => {
                session.handle_lost();
                if matches!(&error, Error::Closed(frame) if protocol.expires_by(frame.code.0)) {
                    session.handle_expired();
                }
                reconnecting.ended(error);
            }
        }
    }
}

/// Uses a connection until it ends.
async fn talk(
    conn: Conn<ClientStream>,
    session: &mut Session,
    fetches: &mut Fetches,
    commands: &mut mpsc::Receiver<Command>,
    wake: &Notify,
) -> Result<End, ClientError> {
    let (mut reader, writer) = conn.split();
    let (sender, sending) = writer.into_sender(SEND_QUEUE_MESSAGES);
    let mut sending = pin!(sending);
    let mut writes = true;
    session.handle_open(Instant::now());
    loop {
        let blocked = if writes { queue(session, &sender) } else { None };
        fetch(session, fetches);
        let deadline = session.deadline();
        tokio::select! {
            read = reader.read() => match read {
                Err(error) => return Ok(End::Lost(error)),
                Ok(message) => match session.handle_message(&message, Instant::now()) {
                    Ok(()) => {}
                    Err(SessionError::Malformed(Malformed::Json(error))) => {
                        return Ok(End::Lost(Error::Json(error)));
                    }
                    Err(SessionError::Malformed(Malformed::Frame(error))) => {
                        let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
                        return Ok(End::Lost(Error::Io(error)));
                    }
                    Err(SessionError::Refused(refusal)) if refusal.temporary => {
                        let frame =
                            CloseFrame { code: CloseCode::TRY_AGAIN_LATER, reason: refusal.to_string() };
                        return Ok(End::Lost(Error::Closed(frame)));
                    }
                    Err(SessionError::Refused(refusal)) => return Err(ClientError::Refused(refusal)),
                },
            },
            (id, fetched) = fetches.next(), if !fetches.is_empty() => {
                session.handle_token(id, fetched, Instant::now()).map_err(ClientError::Token)?;
            }
            // Reading has the cause.
            _ = &mut sending, if writes => writes = false,
            // There is room again.
            sent = sender.send(blocked.clone().unwrap_or_else(|| Message::from(""))), if blocked.is_some() => {
                if sent.is_ok() {
                    session.take_outgoing();
                }
            }
            command = commands.recv(), if session.accepts_commands() => match command {
                None | Some(Command::Close) => {
                    if writes {
                        // Behind what was queued. Reading ends with the server's answer, or without one in time.
                        let close = sender.close(CloseCode::NORMAL, "");
                        let _ = tokio::join!(close, &mut sending, reader.discard_reads());
                    }
                    return Ok(End::Closed);
                }
                Some(command) => session.handle_command(command, Instant::now()),
            },
            () = wake.notified() => session.handle_wake(Instant::now()),
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                session.handle_timeout(Instant::now());
            }
        }
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

/// Sends what the session wants to send, as far as there is room. Returns the message that has to wait.
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
