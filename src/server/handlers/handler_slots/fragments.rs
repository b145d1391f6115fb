//! Messages that handlers echo chunk by chunk: until one is complete, nothing else is sent to its peer (RFC 6455, 5.4), and what
//! waits meanwhile goes before the peer's next message.
//!
//! ```text
//! fragment ── fragment ── last fragment ── messages of topics, senders and the handler ── first fragment of the next message
//! ```

use super::{HandlerSlots, Handlers};
use crate::handlers::failure::Failure;
use echoring_broker::broadcast::Broadcast;
use echoring_broker::peer::{ConnectionContext, Context};
use echoring_proto::CloseCode;
use echoring_proto::connection::Chunk;
use echoring_runtime::shard::Disposition;

impl HandlerSlots {
    /// A handler of chunks has decided about one. The echoed chunks of a message are one message, whichever they are:
    /// the first one must be among them, and if the last is not, an empty fragment ends it.
    pub(super) fn note_fragment(
        &mut self,
        link: &mut ConnectionContext<'_>,
        number: u32,
        chunk: &Chunk<'_>,
        shown: Disposition,
    ) -> Disposition {
        let Chunk { kind, first, last, .. } = *chunk;
        let was_sending = link.sends_fragments();
        match shown {
            Disposition::Echo if !first && !was_sending => {
                tracing::error!(
                    "a handler echoed the end of a message without its beginning; its connection is closed"
                );
                self.fail(link, number, Some(&Failure::new(CloseCode::INTERNAL, "internal error")));
                return Disposition::Done;
            }
            Disposition::Echo => link.set_sends_fragments(!last),
            Disposition::Done if last && was_sending => link.end_fragments(kind),
            _ => {}
        }
        if last && was_sending {
            self.message_ended(link, number);
        }
        shown
    }

    /// A message in fragments is complete. If anything waits for that, the peer's next message waits until it is sent.
    fn message_ended(&mut self, link: &mut ConnectionContext<'_>, number: u32) {
        let slot = &mut self.entries[number as usize];
        if slot.waiting {
            // Its handler's messages were refused meanwhile.
            self.waiting.push_back(number);
        }
        let has_senders = slot.senders.as_ref().is_some_and(|senders| !senders.is_empty());
        let has_topics = link.peer.session().is_some();
        if slot.waiting || has_senders || has_topics {
            link.set_yields(true);
            self.yielding.push(number);
            self.yields_anew = true;
        }
    }
}

impl Handlers<'_> {
    /// Messages of topics go to the connections whose peers' next messages wait for them.
    #[inline]
    pub(crate) fn send_between_messages(&mut self, cx: &mut Context<'_>) {
        if !self.slots.yielding.is_empty() {
            self.serve_yielding(cx);
        }
    }

    #[inline(never)]
    fn serve_yielding(&mut self, cx: &mut Context<'_>) {
        self.slots.yields_anew = false;
        let mut yielding = std::mem::take(&mut self.slots.yielding);
        yielding.retain(|number| !self.has_been_served(cx, *number));
        self.slots.yielding = yielding;
    }

    /// Sends the messages of topics that a connection lacks. Returns whether it waits for nothing: its peer's next message is read.
    fn has_been_served(&mut self, cx: &mut Context<'_>, number: u32) -> bool {
        let Some(link) = self.slots.link(cx, number) else { return true };
        // A blocked connection goes on when it is writable; replies in front leave with this tick.
        if !link.is_writable() {
            return false;
        }
        let token = link.token;
        self.services.broadcast.writable(cx, token);
        let Some(mut link) = self.slots.link(cx, number) else { return true };
        if Broadcast::is_replaying(link.peer) {
            // Its pages come from the topics' owners, one after the other.
            return false;
        }
        link.set_yields(false);
        self.slots.list_sending(number);
        true
    }
}
