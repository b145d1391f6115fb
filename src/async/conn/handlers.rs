//! Handlers of pings, pongs and the peer's Close frame.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::core::{Shared, Transport};
use super::receiving::ControlEvent;
use echoring_proto::connection::CloseFrame;
use echoring_proto::{CloseCode, Opcode};

/// The action for a received control frame.
///
/// ```
/// use echoring::{Conn, ControlReply};
///
/// fn count_pings(conn: &mut Conn<tokio::net::TcpStream>) {
///     let mut pings = 0;
///     conn.set_ping_handler(move |_payload| {
///         pings += 1;
///         // A pong to each tenth.
///         if pings % 10 == 0 { ControlReply::Default } else { ControlReply::Nothing }
///     });
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlReply {
    /// The default: a ping is answered with the same payload, a Close frame with the same code; a pong is ignored.
    #[default]
    Default,
    /// Sends nothing. After a Close frame the connection ends nevertheless.
    Nothing,
    /// Sends a pong with this payload, truncated to 125 bytes.
    Pong(Bytes),
    /// Sends a Close frame: the answer to the peer's, or the first.
    Close(CloseFrame),
}

pub(super) type OnControl = Box<dyn FnMut(&[u8]) -> ControlReply + Send>;
pub(super) type OnClose = Box<dyn FnMut(CloseCode, &str) -> ControlReply + Send>;

/// The handlers of a connection. They run in the task that reads, between two messages, outside the lock.
///
/// The mutex is never locked: it makes the reader `Sync`, although handlers need not be.
#[derive(Default)]
pub(super) struct Handlers(Mutex<Each>);

#[derive(Default)]
pub(super) struct Each {
    pub(super) ping: Option<OnControl>,
    pub(super) pong: Option<OnControl>,
    pub(super) close: Option<OnClose>,
}

impl Handlers {
    pub(super) fn each(&mut self) -> &mut Each {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the handler and carries out its reply. The answer is queued; the next read or write sends it.
    pub(super) fn handle<S: Transport>(&mut self, control_event: ControlEvent, shared: &Shared<S>) {
        match control_event {
            ControlEvent::Ping(payload) => {
                let reply = self.each().ping.as_mut().map(|handler| handler(&payload));
                match reply.unwrap_or_default() {
                    ControlReply::Default => answer(shared, &payload),
                    reply => carry_out(shared, reply),
                }
            }
            ControlEvent::Pong(payload) => {
                let reply = self.each().pong.as_mut().map(|handler| handler(&payload));
                carry_out(shared, reply.unwrap_or_default());
            }
            ControlEvent::Close(frame) => {
                let reply = self.each().close.as_mut().map(|handler| handler(frame.code, &frame.reason));
                let answer = match reply.unwrap_or_default() {
                    ControlReply::Nothing => return,
                    ControlReply::Close(frame) => frame,
                    ControlReply::Default | ControlReply::Pong(_) => {
                        CloseFrame { code: frame.code, reason: String::new() }
                    }
                };
                shared.update(|core| core.answer_close(&answer));
            }
        }
    }
}

fn carry_out<S: Transport>(shared: &Shared<S>, reply: ControlReply) {
    match reply {
        ControlReply::Default | ControlReply::Nothing => {}
        ControlReply::Pong(payload) => answer(shared, &payload[..payload.len().min(125)]),
        ControlReply::Close(CloseFrame { code, reason }) => {
            shared.update(|core| core.begin_close(code, &reason, false));
        }
    }
}

/// Queues a pong. If the connection has ended meanwhile, reading returns the error.
fn answer<S: Transport>(shared: &Shared<S>, payload: &[u8]) {
    let _ = shared.update(|core| core.queue_control(Opcode::Pong, payload));
}
