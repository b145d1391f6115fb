//! The connections of a shard as the [`Sink`] of its topics.

use std::collections::VecDeque;

use bytes::Bytes;

use super::ages::{Ages, Chosen};
use super::dialect::Dialect;
use super::frame_encoder::{Epochs, conflated_frames, event_frame};
use super::v1_events;
use super::watched::Watched;
use crate::peer::{Context, Peer};
use echoring_proto::buffer::{Pool, allocated_bytes};
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_topics::{Gap, GapReason, Keyed, SentLatest, Sink, SubscriberId};
use echoring_wire::event_stream;
use echoring_wire::v1::Event;

/// The tag of frames that are not part of a log and so cannot be taken back.
const NO_TAG: u64 = u64::MAX;

/// Sends the frames of topics to connections, and collects the subscribers that need more than frames.
pub(super) struct ConnectionSink<'a, 'b> {
    pub(super) cx: &'a mut Context<'b>,
    pub(super) follow_ups: &'a mut FollowUps,
    pub(super) ages: &'a mut Ages,
    pub(super) epochs: &'a Epochs,
}

/// Subscribers that need attention after a delivery.
#[derive(Debug, Default)]
pub(super) struct FollowUps {
    /// Subscribers that fell behind: a raw route is closed, a session loses the subscription.
    pub(super) slow_consumers: Vec<SlowConsumer>,
    /// Sessions that missed presence events: they are sent the member list.
    pub(super) missed_presence: Vec<(Token, SubscriberId)>,
    /// Connections of handlers that are not sent some messages of a topic.
    pub(super) gaps: VecDeque<(Token, Box<str>, Gap)>,
    /// The subscribers that an operator follows.
    pub(super) watched: Watched,
}

/// A subscriber that fell behind and is no longer a member of its topic.
#[derive(Debug)]
pub(super) struct SlowConsumer {
    pub(super) token: Token,
    pub(super) member: SubscriberId,
    /// Everything up to this offset was sent.
    pub(super) reached: u64,
    pub(super) reason: GapReason,
}

impl ConnectionSink<'_, '_> {
    /// How a connection's session speaks, and the epoch of the topic of an event stream.
    fn dialect(&self, token: Token) -> (Dialect, u64) {
        let Some(session) = self.cx.peer_of(token).and_then(Peer::session) else { return Default::default() };
        let epoch = session.event_stream_topic().map_or(0, |topic| self.epochs.of(topic));
        (session.dialect(), epoch)
    }

    /// Sends frames to one connection only. They are charged to the memory budget until the kernel has them. False when
    /// the connection does not take them now, or the budget is spent.
    fn send_charged(&mut self, token: Token, frames: Vec<u8>, messages: u32) -> bool {
        let charged_bytes = allocated_bytes(frames.capacity());
        if !self.cx.pool().charge(charged_bytes) {
            return false;
        }
        let frames = Bytes::from(frames);
        let taken = self.cx.share(token, frames.clone(), u64::from(messages), NO_TAG).is_ok();
        self.cx.pool().discharge_shared(frames, charged_bytes);
        taken
    }
}

impl Sink<Token> for ConnectionSink<'_, '_> {
    #[inline]
    fn is_writable(&self, token: Token) -> bool {
        self.cx.is_writable(token)
    }

    #[inline]
    fn send(&mut self, token: Token, frames: Bytes, messages: u32, tag: u64) -> Result<(), Bytes> {
        self.cx.share(token, frames, u64::from(messages), tag)?;
        if let Some(chosen) = self.ages.choose(messages) {
            self.ages.add(Chosen::OfLog { token, tag, behind: messages - chosen - 1 });
        }
        Ok(())
    }

    fn tell_gap(&mut self, token: Token, topic: &str, gap: Gap) -> bool {
        if self.follow_ups.watched.is_on() {
            self.follow_ups.watched.note_gap(token, topic, gap);
        }
        let (dialect, epoch) = self.dialect(token);
        let frame = match dialect {
            Dialect::V1 | Dialect::Centrifuge(_) => {
                event_frame(|text| Event::Gap(v1_events::gap(topic, gap)).write(text))
            }
            Dialect::Handler => {
                self.follow_ups.gaps.push_back((token, topic.into(), gap));
                return true;
            }
            Dialect::EventStream => {
                let mut event = Vec::new();
                event_stream::gap(&mut event, epoch, v1_events::gap(topic, gap));
                event
            }
        };
        self.send_charged(token, frame, 0)
    }

    fn tell_stale(&mut self, token: Token, member: SubscriberId, topic: &str) -> bool {
        let frame = event_frame(|text| v1_events::write_presence_stale(topic, text));
        let taken = self.cx.share(token, Bytes::from(frame), 0, NO_TAG).is_ok();
        if taken {
            self.follow_ups.missed_presence.push((token, member));
        }
        taken
    }

    fn send_latest(&mut self, token: Token, topic: &str, latest: &Keyed, after: u64) -> Option<SentLatest> {
        let (dialect, epoch) = self.dialect(token);
        let (frames, reached, messages) = conflated_frames(topic, latest, after, dialect, epoch);
        let bytes = frames.len();
        if !self.send_charged(token, frames, messages) {
            return None;
        }
        if let Some(chosen) = self.ages.choose(messages)
            && let Some((offset, _)) = latest.after(after).nth(chosen as usize)
        {
            let (topic, received_at) = (topic.into(), latest.received_at(offset));
            self.ages.add(Chosen::Latest { token, topic, received_at });
        }
        Some(SentLatest { reached, messages, bytes })
    }

    fn fell_behind(&mut self, token: Token, member: SubscriberId, reached: u64, reason: GapReason) {
        self.follow_ups.slow_consumers.push(SlowConsumer { token, member, reached, reason });
    }

    fn changed_id(&mut self, token: Token, from: SubscriberId, to: SubscriberId) {
        match self.cx.peer(token) {
            Some(Peer::Subscriber(subscriber)) => subscriber.member = Some(to),
            Some(peer) => {
                if let Some(session) = peer.session_mut() {
                    session.replace_member(from, to);
                }
            }
            None => {}
        }
    }

    fn pool(&mut self) -> &mut Pool {
        self.cx.pool()
    }

    fn delivered(&mut self, since: Nanos, messages: u32) {
        self.cx.note_sent(since, messages);
    }
}
