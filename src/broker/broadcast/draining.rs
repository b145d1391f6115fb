//! The steps of a drain: which connections it waits for, and how they are closed.

use super::Broadcast;
use super::events::SessionEvent;
use super::sequencer::OrderedBy;
use super::session::Subscriber;
use super::sessions::{close_slow, end};
use super::shard_mail::DrainStage;
use crate::limits::DRAIN_GOODBYE;
use crate::peer::{Context, Peer};
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_runtime::shard::Goodbye;
use echoring_topics::{GapReason, TopicId};

impl Broadcast {
    /// Begins the drain, or changes its deadline. Publications are refused from now on. Raw publishers cannot be
    /// notified, so they are not read.
    pub fn drain(&mut self, cx: &mut Context<'_>) {
        if self.drain.begin(cx.now()) {
            self.fan_out.topics.hurry();
            self.drain.remaining.clear();
            for token in cx.tokens() {
                self.drain_connection(cx, token);
            }
        }
        self.drain.set_end(cx.draining_until().unwrap_or_default(), DRAIN_GOODBYE);
    }

    /// Closes one connection of a paced drain once it has got everything.
    pub fn farewell(&mut self, token: Token) {
        self.drain.remaining.push(token);
    }

    /// The same for a connection whose handler has been notified. A drain of all connections includes it already.
    pub fn farewell_of_handler(&mut self, token: Token) {
        if !self.drain.is_on() {
            self.farewell(token);
        }
    }

    /// When a drain of all closes connections that have not got everything.
    pub fn goodbye_at(&self) -> Nanos {
        self.drain.goodbye_at
    }

    fn drain_connection(&mut self, cx: &mut Context<'_>, token: Token) {
        let Some(mut link) = cx.link(token).filter(|link| link.is_open()) else { return };
        match &*link.peer {
            Peer::Subscriber(_) => link.set_backpressured(true),
            peer if peer.session().is_some() => {}
            _ => return,
        }
        self.drain.remaining.push(token);
    }

    /// Whether no connection is left, and no other shard needs this one.
    pub fn is_drained(&self) -> bool {
        self.drain.is_over
    }

    /// Advances the drain as far as possible, at the end of each tick.
    #[cold]
    pub(super) fn advance_drain(&mut self, cx: &mut Context<'_>) {
        if self.sequencer.ordered_by == OrderedBy::FarShards {
            return self.advance_far_drain(cx);
        }
        let shards = cx.shards();
        let Broadcast { drain, held, fan_out, .. } = self;
        let mailboxes = cx.resources().mailboxes;
        // Held publications have to reach their topics' owners first.
        let mut told = held.is_empty() && drain.tell(mailboxes, DrainStage::Publications);
        if drain.has_ended(DrainStage::Publications, shards) {
            told = drain.tell(mailboxes, DrainStage::Messages);
        }
        let has_all = drain.has_ended(DrainStage::Messages, shards) && !fan_out.topics.is_dirty();
        let is_over = self.drain.goodbye_at <= cx.now();
        if has_all {
            self.close_served(cx, is_over);
        }
        if is_over {
            self.close_remaining(cx, has_all);
        }
        let drain = &mut self.drain;
        if has_all && drain.remaining.is_empty() && self.sequencer.requests.is_empty() {
            told = drain.tell(cx.resources().mailboxes, DrainStage::Everything);
            drain.is_over = drain.has_ended(DrainStage::Everything, shards);
        }
        drain.waits_for_room = !told;
        if is_over || drain.is_over {
            self.note_all_left();
            self.end_topic_events();
        }
    }

    /// The same when a successor orders the messages: it waits for no other shard of this process.
    fn advance_far_drain(&mut self, cx: &mut Context<'_>) {
        let is_over = self.drain.goodbye_at <= cx.now() || self.sequencer.has_lost_far_shards;
        if self.sequencer.has_lost_far_shards || !self.fan_out.topics.is_dirty() {
            self.close_served(cx, is_over);
        }
        if is_over {
            self.close_remaining(cx, true);
        }
        let has_posted = self.sequencer.requests.is_empty() && self.held.is_empty();
        self.drain.is_over = self.drain.remaining.is_empty() && has_posted;
        self.drain.waits_for_room = !has_posted;
    }

    /// Closes the connections that have received everything, without those whose handlers must be notified first or
    /// close them themselves, unless their time `is_over`.
    pub(super) fn close_served(&mut self, cx: &mut Context<'_>, is_over: bool) {
        let Broadcast { drain, fan_out, sessions, settling, .. } = self;
        drain.remaining.retain(|token| {
            if !is_over && cx.is_open(*token) && cx.peer(*token).is_some_and(|peer| peer.is_left_to_handler())
            {
                return true;
            }
            let is_served = match cx.peer(*token) {
                Some(Peer::Subscriber(Subscriber { member: Some(member), .. })) => {
                    fan_out.topics.reached(*member).is_none_or(|(_, all)| all)
                }
                Some(Peer::Subscriber(_)) => !settling.replays(*token),
                Some(peer) => {
                    peer.session().is_none_or(|own| own.reached(&fan_out.topics).all(|(_, _, all)| all))
                }
                None => true,
            };
            let Goodbye { code, reason } = cx.goodbye(*token);
            if is_served && let Some(mut link) = cx.link(*token) {
                sessions.send_waiting_refusals(&mut link);
                end(&mut link, code, reason);
            }
            !is_served
        });
    }

    /// Closes the connections that have not got everything, because the time of the drain is over. `has_all` tells that
    /// the logs are complete, so that a session can be notified of missed messages.
    fn close_remaining(&mut self, cx: &mut Context<'_>, has_all: bool) {
        let subscribers = self.drain.remaining.len();
        if subscribers > 0 {
            tracing::warn!(subscribers, "drain timeout: closing subscribers that have unread messages");
        }
        while let Some(token) = self.drain.remaining.pop() {
            self.close_unserved(cx, token, has_all);
        }
    }

    fn close_unserved(&mut self, cx: &mut Context<'_>, token: Token, has_all: bool) {
        let Goodbye { code, reason } = cx.goodbye(token);
        let Broadcast { fan_out, sessions, subscriptions, .. } = self;
        let Some(mut link) = cx.link(token) else { return };
        let missing: Vec<(TopicId, u64)> = match &*link.peer {
            // An event stream ends like a raw route: without a gap event its client keeps its position, and recovers. The peer
            // of a handler is sent no gap events.
            Peer::Session(session) if has_all && !session.is_event_stream() => {
                let unserved = session.reached(&fan_out.topics).filter(|(.., all)| !all);
                unserved.map(|(topic, reached, _)| (topic, reached)).collect()
            }
            _ => {
                close_slow(&mut link);
                return;
            }
        };
        for (topic, reached) in missing {
            let (from, to, name) = (reached + 1, fan_out.topics.offset(topic), fan_out.name(topic));
            if from <= to {
                let (epoch, reason) = (subscriptions.epoch(topic).unwrap_or_default(), GapReason::Drain);
                sessions.send(&mut link, &SessionEvent::Gap { topic: name, epoch, from, to, reason });
            }
        }
        sessions.send_waiting_refusals(&mut link);
        end(&mut link, code, reason);
    }
}
