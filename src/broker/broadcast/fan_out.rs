//! The topics that this shard subscribes to: it encodes each message once per format and sends it to the local subscribers.

use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_topics::{
    AcceptedMessage, Format, LogMemory, OwnedTopics, Rules, SubscriberId, TopicId, TopicSettings, Topics,
};

use super::ages::Ages;
use super::connection_sink::{ConnectionSink, FollowUps};
use super::dialect::Dialect;
use super::events::{PresenceChange, TopicEvent};
use super::frame_encoder::{EventFrame, FrameEncoder, Frames};
use super::shard_mail::OrderedMessage;
use crate::peer::{Context, ShardResources};

/// The logs and subscribers of a shard's topics.
#[derive(Debug)]
pub(super) struct FanOut {
    pub(super) topics: Topics<Token>,
    encoder: FrameEncoder,
    pub(super) follow_ups: FollowUps,
    pub(super) ages: Ages,
}

impl FanOut {
    pub(super) fn new(rules: Rules, ages: Ages) -> FanOut {
        FanOut {
            topics: Topics::new(rules),
            encoder: FrameEncoder::default(),
            follow_ups: FollowUps::default(),
            ages,
        }
    }

    pub(super) fn name(&self, topic: TopicId) -> &str {
        self.topics.name(topic).unwrap_or_default()
    }

    /// Whether a setting of a topic holds; false for an unknown topic.
    pub(super) fn has(&self, topic: TopicId, setting: impl FnOnce(&TopicSettings) -> bool) -> bool {
        self.topics.settings(topic).is_some_and(setting)
    }

    /// Subscribes a session to a topic, which has this epoch, in a format of its dialect, except for messages of the origin
    /// `skip`.
    pub(super) fn subscribe_session(
        &mut self,
        topic: TopicId,
        epoch: u64,
        token: Token,
        format: Format,
        skip: u64,
    ) -> Option<SubscriberId> {
        if Dialect::of(format.dialect) == Some(Dialect::EventStream) {
            self.encoder.epochs.set(topic, epoch);
        }
        self.topics.subscribe(topic, token, format, skip)
    }

    /// Appends a message to the log of a topic. Under memory pressure the history of `owned` shrinks first.
    #[inline]
    pub(super) fn append(
        &mut self,
        owned: &mut OwnedTopics,
        resources: &mut ShardResources<'_>,
        topic: TopicId,
        message: &OrderedMessage<'_>,
    ) {
        let OrderedMessage { publisher, offset, publication } = *message;
        let own = publisher.member.filter(|_| publisher.is_on(resources.mailboxes.shard()));
        let FanOut { topics, encoder, .. } = self;
        let mut frames = Frames { publication, id: topic, offset, encoder, codecs: resources.codecs };
        let accepted = AcceptedMessage {
            publication: &publication,
            offset,
            origin: publisher.origin(),
            publisher: own,
            received_at: publisher.received_at,
        };
        topics.append(topic, &mut LogMemory { pool: resources.pool, owned }, &accepted, &mut frames);
    }

    /// Appends the event that a subscriber joined or left.
    pub(super) fn append_presence(
        &mut self,
        owned: &mut OwnedTopics,
        resources: &mut ShardResources<'_>,
        topic: TopicId,
        change: &PresenceChange<'_>,
    ) {
        let FanOut { topics, encoder, .. } = self;
        let memory = &mut LogMemory { pool: resources.pool, owned };
        topics.append_presence(
            topic,
            memory,
            &mut EventFrame { id: topic, encoder, event: TopicEvent::Presence(change) },
        );
    }

    /// Sends a heartbeat on topics that have had no message for long, so that subscribers know nothing was lost.
    pub(super) fn append_heartbeats(
        &mut self,
        owned: &mut OwnedTopics,
        resources: &mut ShardResources<'_>,
        now: Nanos,
    ) {
        let FanOut { topics, encoder, .. } = self;
        let mut silent = Vec::new();
        topics.silent(now, &mut silent, resources.pool);
        for topic in silent {
            let event = TopicEvent::Heartbeat(topics.offset(topic));
            let memory = &mut LogMemory { pool: resources.pool, owned };
            topics.append_notice(topic, memory, &mut EventFrame { id: topic, encoder, event });
        }
    }

    /// Sends new messages to all subscribers.
    pub(super) fn deliver(&mut self, cx: &mut Context<'_>, now: Nanos) {
        self.with_sink(cx, |topics, sink| topics.deliver(now, sink));
    }

    /// Sends one subscriber the messages that it lacks.
    pub(super) fn catch_up(&mut self, cx: &mut Context<'_>, member: SubscriberId, now: Nanos) {
        self.with_sink(cx, |topics, sink| topics.catch_up(member, now, sink));
    }

    /// Finds the subscribers that are behind for longer than their topic allows.
    pub(super) fn drop_laggards(&mut self, cx: &mut Context<'_>, now: Nanos) {
        self.with_sink(cx, |topics, sink| topics.drop_laggards(now, sink));
    }

    /// Calls `send` with the topics and their sink, and follows the messages whose age is sampled.
    #[inline]
    fn with_sink(
        &mut self,
        cx: &mut Context<'_>,
        send: impl FnOnce(&mut Topics<Token>, &mut ConnectionSink<'_, '_>),
    ) {
        let FanOut { topics, follow_ups, encoder, ages } = self;
        send(topics, &mut ConnectionSink { cx, follow_ups, ages, epochs: &encoder.epochs });
        if ages.has_chosen() {
            ages.follow(topics, cx);
        }
    }

    /// Takes back the whole frames at the end of a partial send.
    pub(super) fn take_back(&mut self, cx: &mut Context<'_>, token: Token) {
        let now = cx.now();
        self.ages.blocked(cx, token);
        while let Some((tag, unsent)) = cx.unsent_shared(token) {
            let all = cx.unsent_bytes(token) as usize == unsent;
            let (bytes, messages) = self.topics.take_back(tag, token, unsent, all, now);
            if bytes > 0 {
                let taken = cx.take_back(token, bytes, u64::from(messages));
                debug_assert!(taken, "one frame stays");
                self.ages.taken_back(token, tag, messages);
            }
            if bytes < unsent {
                break;
            }
        }
    }
}
