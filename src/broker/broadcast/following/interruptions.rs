//! Topics that continue elsewhere: their subscribers on this shard are told, and return for what they lack.

use echoring_runtime::driver::Token;
use echoring_topics::{Position, Refused, TopicId};

use crate::broadcast::Broadcast;
use crate::broadcast::events::SessionEvent;
use crate::broadcast::session::{AllowedBy, ReplayState};
use crate::broadcast::sessions::{close_interrupted, latest_request};
use crate::broadcast::shard_mail::ShardMail;
use crate::broadcast::subscriptions::Waiting;
use crate::peer::{ConnectionContext, Context, Peer};

impl Broadcast {
    /// The topic continues in another epoch, or behind missing messages, at `position`: present subscribers are
    /// notified, and return for the messages that they lack.
    pub(in crate::broadcast) fn interrupted(
        &mut self,
        cx: &mut Context<'_>,
        topic: TopicId,
        position: Position,
    ) {
        let Some(before) = self.subscriptions.epoch(topic) else { return };
        for (token, member) in self.fan_out.topics.subscribers(topic) {
            let Some((offset, _)) = self.fan_out.topics.reached(member) else { continue };
            let Some(mut link) = cx.link(token) else { continue };
            self.fan_out.topics.unsubscribe(member, link.pool());
            match &mut *link.peer {
                Peer::Subscriber(subscriber) => {
                    subscriber.member = None;
                    close_interrupted(&mut link);
                }
                Peer::Echo => {}
                peer => {
                    let Some(session) = peer.session_mut() else { continue };
                    let allowed_by = session.take(topic).map(|taken| taken.allowed_by).unwrap_or_default();
                    self.tell_interrupted(&mut link, topic, allowed_by, Position { epoch: before, offset });
                    let client = self.client_id(&link);
                    self.report_presence(&mut link.resources(), topic, client, None);
                }
            }
        }
        self.interrupt_replays(cx, topic, before);
        if let Some(subscription) = self.subscriptions.get_mut(topic) {
            subscription.epoch = position.epoch;
            self.fan_out.topics.begin_at(topic, position.offset);
        }
        self.leave_if_deserted(&mut cx.resources(), topic);
    }

    /// The same for sessions that are sent messages of the history.
    fn interrupt_replays(&mut self, cx: &mut Context<'_>, topic: TopicId, epoch: u64) {
        let waiting = self.subscriptions.get(topic).map(|subscription| &subscription.waiting[..]);
        let tokens: Vec<Token> = waiting.unwrap_or_default().iter().map(Waiting::token).collect();
        for token in tokens {
            let Some(mut link) = cx.link(token) else { continue };
            if self.interrupt_raw_replay(&mut link, topic) {
                continue;
            }
            let client = self.client_id(&link);
            let Some(session) = link.peer.session_mut() else { continue };
            let Some(&mut ReplayState { id, .. }) = session.replay(topic) else { continue };
            let reached = session.reached(&self.fan_out.topics).find(|(other, ..)| *other == topic);
            let taken = session.take(topic);
            let allowed_by = taken.as_ref().map(|taken| taken.allowed_by).unwrap_or_default();
            self.subscriptions.stop_waiting(topic, token);
            if let Some(taken) = &taken {
                self.depart_if_continued(&mut link.resources(), client, taken);
            }
            match reached {
                Some((_, offset, _)) => {
                    self.tell_interrupted(&mut link, topic, allowed_by, Position { epoch, offset });
                }
                None if link.peer.is_event_stream() => close_interrupted(&mut link),
                // It has no answer yet, and may ask again.
                None => {
                    let request = (latest_request(&link), id);
                    self.refuse_subscription(&mut link, topic, allowed_by, request, Refused::Busy);
                }
            }
        }
    }

    /// Notifies a session that a subscription has ended at this position. An event stream has no other, so it ends.
    pub(in crate::broadcast) fn tell_interrupted(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        allowed_by: AllowedBy,
        position: Position,
    ) {
        if link.peer.is_event_stream() {
            close_interrupted(link);
        } else {
            let name = self.fan_out.name(topic).to_owned();
            self.tell_ended(link, allowed_by, &SessionEvent::Interrupted { topic: &name, position });
        }
    }

    /// Marks subscribers of these shards as [`interrupted`](Broadcast::interrupted).
    pub(super) fn interrupt(
        &mut self,
        cx: &mut Context<'_>,
        shards: &[(usize, TopicId)],
        position: Position,
    ) {
        for &(shard, local) in shards {
            self.answer(cx, shard, ShardMail::Interrupted { local, position }, &[]);
        }
    }
}
