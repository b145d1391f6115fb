//! What an application wants to be asked about: pings, pongs, and the peer's wish to close.

use std::fmt;

use bytes::Bytes;

use super::core::{Shared, Transport};
use super::receiving::Notice;
use crate::connection::{CloseFrame, Pings};
use crate::protocol::{CloseCode, Opcode};

/// What is done about a control frame of the peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlReply {
    /// What is done without a handler: a ping gets a pong with the same payload, a Close frame one with the same code,
    /// a pong nothing.
    #[default]
    Default,
    /// Nothing is sent. After a Close frame the connection ends all the same.
    Nothing,
    /// A pong with this payload, cut after 125 bytes.
    Pong(Bytes),
    /// A Close frame: the answer to the peer's, or the beginning of ours.
    Close(CloseFrame),
}

type OnControl = Box<dyn FnMut(&[u8]) -> ControlReply + Send>;
type OnClose = Box<dyn FnMut(CloseCode, &str) -> ControlReply + Send>;

/// The handlers of a connection. They run in the task that reads, between two messages, outside of any lock.
#[derive(Default)]
pub(super) struct Handlers {
    ping: Option<OnControl>,
    pong: Option<OnControl>,
    close: Option<OnClose>,
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers")
            .field("ping", &self.ping.is_some())
            .field("pong", &self.pong.is_some())
            .field("close", &self.close.is_some())
            .finish()
    }
}

impl Handlers {
    pub(super) fn on_ping<S: Transport>(&mut self, handler: OnControl, shared: &Shared<S>) {
        self.ping = Some(handler);
        shared.act(|core| core.config.pings = Pings::Shown);
    }

    pub(super) fn on_pong<S: Transport>(&mut self, handler: OnControl, shared: &Shared<S>) {
        self.pong = Some(handler);
        shared.act(|core| core.shows_pongs = true);
    }

    pub(super) fn on_close<S: Transport>(&mut self, handler: OnClose, shared: &Shared<S>) {
        self.close = Some(handler);
        shared.act(|core| core.config.answers_closes = false);
    }

    /// Asks the handler and does what it says. The answer is queued; whoever reads or writes next sends it.
    pub(super) fn handle<S: Transport>(&mut self, notice: Notice, shared: &Shared<S>) {
        match notice {
            Notice::Ping(payload) => {
                let reply = self.ping.as_mut().map(|handler| handler(payload.as_slice()));
                match reply.unwrap_or_default() {
                    ControlReply::Default => answer(shared, payload.as_slice()),
                    reply => carry_out(shared, reply),
                }
            }
            Notice::Pong(payload) => {
                let reply = self.pong.as_mut().map(|handler| handler(payload.as_slice()));
                carry_out(shared, reply.unwrap_or_default());
            }
            Notice::Close(frame) => {
                let reply = self.close.as_mut().map(|handler| handler(frame.code, &frame.reason));
                let answer = match reply.unwrap_or_default() {
                    ControlReply::Nothing => return,
                    ControlReply::Close(frame) => frame,
                    ControlReply::Default | ControlReply::Pong(_) => {
                        CloseFrame { code: frame.code, reason: String::new() }
                    }
                };
                shared.act(|core| core.answer_close(&answer));
            }
        }
    }
}

fn carry_out<S: Transport>(shared: &Shared<S>, reply: ControlReply) {
    match reply {
        ControlReply::Default | ControlReply::Nothing => {}
        ControlReply::Pong(payload) => answer(shared, &payload[..payload.len().min(125)]),
        ControlReply::Close(CloseFrame { code, reason }) => {
            shared.act(|core| core.begin_close(code, &reason, false));
        }
    }
}

/// Queues a pong. When the connection has ended meanwhile, reading tells why.
fn answer<S: Transport>(shared: &Shared<S>, payload: &[u8]) {
    let _ = shared.act(|core| core.queue_control(Opcode::Pong, payload));
}
