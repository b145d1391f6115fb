//! The way of a message: to its topic's home, there to its place in the order, and to all shards that subscribed.

use super::mail::{Message, Publisher, Wish};
use super::{Broadcast, Held, OPERATOR, append, held_of};
use crate::connection::Kind;
use crate::driver::Driver;
use crate::hub::{Accepted, Content, Position, Publication, Refused};
use crate::limits::Nanos;
use crate::protocol::CloseCode;
use crate::server::service::{Peer, Service};
use crate::shard::{Context, Full, Lane, Link, Means};

/// A message that its home has taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judged {
    pub(super) position: Position,
    /// It was published before, with the same idempotency key: it goes nowhere now.
    pub(super) again: bool,
}

impl Broadcast {
    /// A raw subscriber sent a whole message.
    pub(in crate::server) fn relay_message(
        &mut self,
        link: &mut Link<'_, Service>,
        kind: Kind,
        payload: &[u8],
    ) {
        let Peer::Subscriber(subscriber) = &mut *link.peer else { return };
        // Who fell behind is being closed; what it still sends is not taken.
        let Some(member) = subscriber.member else { return };
        if self.drain.is_on() {
            // It was under way when the connection was to be read no further.
            return self.homes.note_refused();
        }
        let topic = subscriber.topic;
        let publisher = Publisher {
            shard: link.mailboxes.shard() as u16,
            token: link.token,
            member: Some(member),
            wish: Wish::Nothing,
            request: 0,
        };
        let content = match kind {
            Kind::Text => Content::Text,
            Kind::Binary => Content::Binary,
        };
        let name = self.name_of(topic);
        if self.topics.settings(topic).is_some_and(|settings| settings.refuses_raw()) {
            self.homes.note_refused();
            link.close(
                CloseCode::POLICY,
                "messages of this topic need a key, or come from its operator only",
            );
        } else {
            self.publish(link, &name, publisher, Publication { content, key: "", payload }, "");
        }
        self.name = name;
    }

    /// A connection here sent a message for a topic.
    pub(super) fn publish(
        &mut self,
        link: &mut Link<'_, Service>,
        name: &str,
        publisher: Publisher,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) {
        let now = link.now();
        if self.held.is_empty() {
            match self.order(&mut link.means(), now, name, publisher, publication, idempotency_key) {
                Ok(Some(verdict)) => return self.published(link, name, &publisher, verdict),
                Ok(None) => return,
                Err(Full) => {}
            }
        }
        self.hold(link, name, publisher, publication, idempotency_key);
    }

    #[cold]
    pub(super) fn hold(
        &mut self,
        link: &mut Link<'_, Service>,
        name: &str,
        publisher: Publisher,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) {
        link.note_mailbox_full();
        let Publication { content, key, payload } = publication;
        let parts = [name.as_bytes(), key.as_bytes(), idempotency_key.as_bytes(), payload];
        let bytes = parts.iter().map(|part| part.len()).sum();
        let Some(mut buffer) = link.pool().get(bytes) else {
            link.close_at_once(CloseCode::TRY_AGAIN_LATER, "out of memory");
            return;
        };
        parts.iter().for_each(|part| buffer.append(part));
        if let Some(held) = held_of(link.peer) {
            *held = held.saturating_add(1);
        }
        link.hold_up(true);
        let (name_bytes, key_bytes, idempotency_bytes) = (name.len(), key.len(), idempotency_key.len());
        self.held.push_back(Held { publisher, content, name_bytes, key_bytes, idempotency_bytes, buffer });
    }

    /// Brings a message to its topic's home, which may be here: then the verdict is known at once.
    #[inline]
    pub(super) fn order(
        &mut self,
        means: &mut Means<'_, Message>,
        now: Nanos,
        name: &str,
        publisher: Publisher,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) -> Result<Option<Result<Position, Refused>>, Full> {
        let home_shard = self.placement.home(name, means.mailboxes.shards());
        if home_shard == means.mailboxes.shard() {
            let bytes = publication.payload.len() + publication.key.len();
            if !means.mailboxes.all_have_room(Lane::Forward, bytes) {
                return Err(Full);
            }
            let judged = self.judge(means, now, name, publisher, publication, idempotency_key);
            return Ok(Some(judged.map(|judged| judged.position)));
        }
        let Publication { content, key, payload } = publication;
        let message = Message::Publish {
            publisher,
            content,
            name_bytes: name.len() as u8,
            key_bytes: key.len() as u8,
            idempotency_bytes: idempotency_key.len() as u8,
        };
        let bytes = [name.as_bytes(), key.as_bytes(), idempotency_key.as_bytes(), payload];
        means.mailboxes.post(home_shard, Lane::Request, message, &bytes)?;
        self.passed.publications_out += 1;
        Ok(None)
    }

    /// The home's part: the message gets its offset and goes to every shard that subscribed. The caller has
    /// seen to it that the forward lanes have room.
    pub(super) fn judge(
        &mut self,
        means: &mut Means<'_, Message>,
        now: Nanos,
        name: &str,
        publisher: Publisher,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) -> Result<Judged, Refused> {
        let Broadcast { homes, topics, scratch, passed, .. } = self;
        let by_client = publisher != OPERATOR;
        let found = if by_client {
            homes.find_or_begin(name, publisher.origin(), now, means.pool)
        } else {
            homes.find_or_create(name, now, means.pool)
        };
        let home = match found {
            Ok(home) => home,
            Err(refused) => {
                homes.note_refused();
                return Err(refused);
            }
        };
        let (position, shards) = if idempotency_key.is_empty() {
            homes.publish(home, &publication, by_client, now, means.pool)?
        } else {
            match homes.publish_once(home, &publication, idempotency_key, by_client, now, means.pool)? {
                Accepted::New(position, shards) => (position, shards),
                Accepted::Again(position) => return Ok(Judged { position, again: true }),
            }
        };
        let Publication { content, key, payload } = publication;
        let mut here = None;
        for &(shard, local) in shards {
            if shard == means.mailboxes.shard() {
                here = Some(local);
                continue;
            }
            let (offset, key_bytes) = (position.offset, key.len() as u8);
            let message = Message::Deliver { local, publisher, offset, content, key_bytes };
            let posted = means.mailboxes.post(shard, Lane::Forward, message, &[key.as_bytes(), payload]);
            debug_assert!(posted.is_ok(), "the room of forward lanes was checked");
            passed.messages_out += 1;
        }
        if let Some(local) = here {
            append(topics, homes, scratch, means, local, publisher, position.offset, publication);
        }
        Ok(Judged { position, again: false })
    }

    /// The operator publishes to a topic that has its home here.
    ///
    /// # Errors
    /// Why it does not take the message.
    pub(in crate::server) fn publish_outside<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        name: &str,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) -> Result<Position, Refused> {
        if self.drain.is_on() {
            self.homes.note_refused();
            return Err(Refused::Draining);
        }
        if publication.payload.len() > self.message_bytes_max {
            self.homes.note_refused();
            return Err(Refused::TooLarge);
        }
        if !self.takes_requests(cx) {
            return Err(Refused::Busy);
        }
        let now = cx.now();
        let judged = self.judge(&mut cx.means(), now, name, OPERATOR, publication, idempotency_key);
        judged.map(|judged| judged.position)
    }
}
