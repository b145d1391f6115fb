//! Messages of the application to one connection, without a topic: they have no position, and no history keeps them.

use echoring_topics::Publication;
use echoring_wire::centrifuge::push;
use echoring_wire::event_stream;
use echoring_wire::v1::{Direct, Event};

use super::Broadcast;
use super::deltas;
use super::dialect::Dialect;
use super::frame_encoder::raw_kind;
use crate::peer::{ConnectionContext, Peer};
use crate::v1::payload;

/// The result of a message to one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectResult {
    /// It is queued, and leaves with this tick if the client reads.
    Queued,
    /// The client has too much queued, or nothing may be sent to it at this moment.
    Busy,
    /// The connection is closed, or has just been, because there is no memory for the message.
    Closed,
}

impl Broadcast {
    /// Sends a message to one connection, in its dialect. The key of the message is not sent.
    pub fn send_direct(
        &mut self,
        link: &mut ConnectionContext<'_>,
        message: &Publication<'_>,
    ) -> DirectResult {
        if !link.is_open() {
            return DirectResult::Closed;
        }
        let dialect = match &*link.peer {
            Peer::Session(session) => Some(session.dialect()),
            Peer::Echo | Peer::Subscriber(_) | Peer::Handler(_) => None,
        };
        let is_amid = match &*link.peer {
            // A long message is echoed in fragments, and no other may come in between (RFC 6455, 5.4).
            Peer::Echo => !link.is_between_messages(),
            // The answer to the connect command comes first.
            Peer::Session(session) => {
                matches!(dialect, Some(Dialect::Centrifuge(_))) && !session.is_connected()
            }
            Peer::Subscriber(_) | Peer::Handler(_) => link.sends_fragments(),
        };
        if is_amid || link.queued_bytes() > link.queue_bytes() {
            return DirectResult::Busy;
        }
        match dialect {
            Some(dialect) => self.sessions.send_with(link, |out| write(dialect, message, out)),
            None => {
                link.send_past(raw_kind(message.content), message.payload);
            }
        }
        if link.is_open() { DirectResult::Queued } else { DirectResult::Closed }
    }
}

fn write(dialect: Dialect, message: &Publication<'_>, out: &mut Vec<u8>) {
    match dialect {
        Dialect::V1 => Event::Direct(Direct::from(payload(message))).write(out),
        Dialect::Centrifuge(encoding) => push::message(encoding, out, deltas::payload(message)),
        Dialect::EventStream => event_stream::direct(out, payload(message)),
        // The connection of a handler is no session.
        Dialect::Handler => {}
    }
}
