//! The connections that have moved to a shard, as far as their subscriptions are not live.

use std::collections::BTreeMap;

use echoring_proto::CloseCode;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_topics::{ClientId, Position, TopicId};

use super::held_publications::hold_one;
use super::session::AllowedBy;
use super::shard_mail::Publisher;
use crate::peer::ConnectionContext;
use crate::publications::TopicPublication;
use crate::publications::stored::{Storage, StoredPublication};

/// The connections that have moved to a shard, as far as their subscriptions are not live.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// The replays of raw subscribers. They are here because few subscribers have one.
    raw: BTreeMap<Token, RawReplay>,
    /// Subscriptions that have ended before their client is told.
    refused: Vec<RefusedSubscription>,
    /// Since when a session may have missed events of presence, for those that are told of changes.
    presence_since: BTreeMap<(Token, TopicId), Nanos>,
    /// Clients that have gone before the owner of a topic, which still lists them, was known.
    departed: Vec<(TopicId, ClientId)>,
}

/// The replay of a raw subscriber.
#[derive(Debug)]
pub(super) struct RawReplay {
    /// The position that the client has reached.
    pub(super) position: Position,
    /// The next page has been requested.
    pub(super) requested: bool,
    /// Publications of the connection. They wait until it is live: pages do not tell which messages are its own.
    pub(super) held: Vec<(Publisher, StoredPublication)>,
}

/// A subscription of a session that this shard cannot go on with.
#[derive(Debug)]
pub(super) struct RefusedSubscription {
    pub(super) token: Token,
    pub(super) topic: Box<str>,
    pub(super) position: Position,
    pub(super) allowed_by: AllowedBy,
}

impl Settling {
    /// Begins the replay of a raw subscriber.
    pub(super) fn begin_raw(&mut self, token: Token, position: Position) {
        self.raw.insert(token, RawReplay { position, requested: false, held: Vec::new() });
    }

    /// The replay of a raw subscriber, if it has one.
    pub(super) fn raw(&mut self, token: Token) -> Option<&mut RawReplay> {
        self.raw.get_mut(&token)
    }

    /// Takes the replay of a raw subscriber, which is over.
    pub(super) fn take_raw(&mut self, token: Token) -> Option<RawReplay> {
        self.raw.remove(&token)
    }

    /// Whether a connection is a raw subscriber with a replay.
    pub(super) fn replays(&self, token: Token) -> bool {
        self.raw.contains_key(&token)
    }

    /// Holds a publication of a raw subscriber until its replay is over. The connection is not read meanwhile.
    pub(super) fn hold(
        &mut self,
        link: &mut ConnectionContext<'_>,
        publisher: Publisher,
        message: &TopicPublication<'_>,
    ) {
        let Some(replay) = self.raw.get_mut(&link.token) else { return };
        let Some(stored) = StoredPublication::new(link.pool(), Storage::Pooled, message) else {
            link.close_at_once(CloseCode::TRY_AGAIN_LATER, "out of memory");
            return;
        };
        hold_one(link);
        replay.held.push((publisher, stored));
    }

    /// Keeps a refusal until the session can be told.
    pub(super) fn refuse(&mut self, refused: RefusedSubscription) {
        self.refused.push(refused);
    }

    /// Takes the refusals of a session.
    pub(super) fn take_refused(&mut self, token: Token) -> Vec<RefusedSubscription> {
        self.refused.extract_if(.., |refused| refused.token == token).collect()
    }

    /// The client of a session may have missed events of presence since this time.
    pub(super) fn note_presence_since(&mut self, token: Token, topic: TopicId, since: Nanos) {
        self.presence_since.insert((token, topic), since);
    }

    /// Removes the time from which the client of a session may have missed events of presence. `None` if it is not told of them.
    pub(super) fn take_presence_since(&mut self, token: Token, topic: TopicId) -> Option<Nanos> {
        self.presence_since.remove(&(token, topic))
    }

    /// A client has gone before the owner of a topic was known.
    pub(super) fn note_departed(&mut self, topic: TopicId, client: ClientId) {
        self.departed.push((topic, client));
    }

    /// Takes the clients that have gone before the owner of a topic was known.
    pub(super) fn take_departed(&mut self, topic: TopicId) -> Vec<ClientId> {
        let gone = self.departed.extract_if(.., |(other, _)| *other == topic);
        gone.map(|(_, client)| client).collect()
    }

    /// A session is gone.
    pub(super) fn forget_session(&mut self, token: Token) {
        self.take_refused(token);
        if !self.presence_since.is_empty() {
            self.presence_since.retain(|(of, _), _| *of != token);
        }
    }

    /// A topic has no owner.
    pub(super) fn forget_topic(&mut self, topic: TopicId) {
        self.departed.retain(|(other, _)| *other != topic);
    }
}
