//! The end of each tick: deliveries, and mail and pages that wait for room, for time, or for a writable peer.

use super::centrifuge::centrifuge;
use super::connection_sink::SlowConsumer;
use super::events::SessionEvent;
use super::handler_events::HandlerEvent;
use super::sequencer::OrderedBy;
use super::session::{Session, SessionSubscription};
use super::sessions::{Sessions, close_slow};
use super::{Broadcast, CHECK_INTERVAL, RETRY_DELAY};
use crate::limits::CENTRIFUGE_OWNER_WAIT;
use crate::peer::{Context, Peer};
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_runtime::shard::earlier;
use echoring_topics::{Position, Refused};

impl Broadcast {
    /// The tick is over: sends what subscribers are owed, and tries again what found no room.
    pub fn tick_ended(&mut self, cx: &mut Context<'_>) {
        self.now = cx.now();
        self.fan_out.ages.settle(cx);
        if !self.sequencer.forwards.is_empty() {
            self.sequencer.forwards.post_waiting(cx.resources().mailboxes);
        }
        if self.sequencer.following.is_some() {
            self.report_presence_changes();
            self.advance_following(cx);
        }
        if self.presence_changes.due().is_some_and(|due| due <= self.now) {
            // A connection that moves is told the changes that are later than its fence, by the clock.
            let (now, until) = (cx.clock(), self.now);
            self.tell_presence_changes(&mut cx.resources(), now, until);
        }
        self.advance_handing_over(cx);
        if !self.sequencer.requests.is_empty() {
            self.post_pending(&mut cx.resources());
        }
        let checks = self.check_at <= self.now;
        if checks {
            self.check_before_delivery(cx);
        }
        if self.sessions.alarms.next().is_some_and(|at| at <= self.now) {
            self.attend_alarms(cx);
        }
        if self.fan_out.topics.is_dirty() {
            self.fan_out.deliver(cx, self.now);
        }
        if checks {
            self.check_after_delivery(cx);
        }
        self.follow_up(cx);
        // Acknowledgements leave with this tick. Sent before the deliveries, they would make the connections unwritable for
        // the topics' messages, and no event would say when they are writable again.
        if !self.held.is_empty() {
            self.publish_held(cx);
        }
        self.held.end_tick();
        self.tell_outcomes(cx);
        if !self.fence.undecided.is_empty() {
            self.answer_decided_fences(cx);
        }
        self.send_due_pages(cx);
        if self.drain.is_on() {
            self.advance_drain(cx);
        } else if !self.drain.remaining.is_empty() && !self.fan_out.topics.is_dirty() {
            self.close_served(cx, false);
        }
        if self.has_topic_events() {
            self.tell_topic_events();
        }
    }

    /// Refuses overdue subscriptions and appends heartbeats.
    fn check_before_delivery(&mut self, cx: &mut Context<'_>) {
        let usual = cx.handshake_timeout();
        let timeout_of = |token| {
            let speaks_centrifuge = cx.link(token).is_some_and(|mut link| centrifuge(&mut link).is_some());
            if speaks_centrifuge { usual.min(CENTRIFUGE_OWNER_WAIT) } else { usual }
        };
        for (topic, token) in self.subscriptions.take_overdue(self.now, timeout_of) {
            if let Some(mut link) = cx.link(token) {
                self.refuse_waiting(&mut link, topic, Refused::Busy);
            }
        }
        while let Some((since, token)) = self.sessions.pop_overdue_refusals(self.now) {
            if let Some(mut link) = cx.link(token) {
                self.sessions.send_overdue_refusals(&mut link, since);
            }
        }
        if self.sessions.count > 0 {
            let Broadcast { fan_out, sequencer, now, .. } = self;
            fan_out.append_heartbeats(&mut sequencer.topics, &mut cx.resources(), *now);
        }
    }

    /// Finds slow consumers and expires histories.
    fn check_after_delivery(&mut self, cx: &mut Context<'_>) {
        self.check_at = self.now + CHECK_INTERVAL;
        self.fan_out.drop_laggards(cx, self.now);
        if self.sequencer.ordered_by != OrderedBy::Nobody {
            self.sequencer.topics.expire(self.now, cx.pool());
            self.sequencer.tell_forgotten();
        }
        self.fan_out.topics.expire(self.now, cx.pool());
    }

    /// Attends to the subscribers that a delivery reported.
    fn follow_up(&mut self, cx: &mut Context<'_>) {
        self.restart_missed_members(cx);
        while let Some((token, topic, gap)) = self.fan_out.follow_ups.gaps.pop_front() {
            self.sessions.handler_events.push(token, &topic, HandlerEvent::Gap(gap));
        }
        while let Some(slow) = self.fan_out.follow_ups.slow_consumers.pop() {
            self.drop_slow_consumer(cx, slow);
        }
    }

    /// A raw route has no event for a loss, so its connection is closed. A session loses the one subscription. An event stream
    /// has no other, so it ends.
    fn drop_slow_consumer(&mut self, cx: &mut Context<'_>, slow: SlowConsumer) {
        let SlowConsumer { token, member, reached, reason } = slow;
        let Some(mut link) = cx.link(token) else { return };
        let topic = match &mut *link.peer {
            Peer::Subscriber(subscriber) => {
                subscriber.member = None;
                close_slow(&mut link);
                return;
            }
            peer => {
                let topic_of = |session: &mut Session| session.take(session.topic_of(member)?);
                peer.session_mut().and_then(topic_of)
            }
        };
        let Some(SessionSubscription { topic, allowed_by, .. }) = topic else { return };
        if link.peer.is_event_stream() {
            close_slow(&mut link);
        } else {
            let position =
                Position { epoch: self.subscriptions.epoch(topic).unwrap_or_default(), offset: reached };
            let name = self.fan_out.name(topic).to_owned();
            self.tell_ended(&mut link, allowed_by, &SessionEvent::Dropped { topic: &name, position, reason });
        }
        let client = self.client_id(&link);
        self.left_live(&mut link.resources(), client, topic);
        self.pass_window_on(&mut link);
    }

    /// Sends the pages that are due. Sessions that become due meanwhile wait for the next tick.
    fn send_due_pages(&mut self, cx: &mut Context<'_>) {
        for _ in 0..self.sessions.replay_due.len() {
            let token = self.sessions.replay_due.pop_front();
            if let Some(mut link) = token.and_then(|token| cx.link(token)) {
                self.request_replay(&mut link);
            }
        }
        for _ in 0..self.sessions.members_due.len() {
            let token = self.sessions.members_due.pop_front();
            if let Some(mut link) = token.and_then(|token| cx.link(token)) {
                self.request_due_members(&mut link);
            }
        }
    }

    /// A subscriber's connection is writable again.
    pub fn writable(&mut self, cx: &mut Context<'_>, token: Token) {
        let now = cx.now();
        self.fan_out.ages.writable(cx, token);
        match cx.peer(token) {
            Some(Peer::Subscriber(subscriber)) => match subscriber.member {
                Some(member) => self.fan_out.catch_up(cx, member, now),
                None => {
                    let Some(mut link) = cx.link(token) else { return };
                    self.request_replay(&mut link);
                }
            },
            Some(peer) if peer.session().is_some() => self.session_writable(cx, token, now),
            _ => return,
        }
        self.follow_up(cx);
    }

    fn session_writable(&mut self, cx: &mut Context<'_>, token: Token, now: Nanos) {
        let mut index = 0;
        while let Some(session) = cx.peer(token).and_then(Peer::session_mut)
            && let Some(subscription) = session.subscriptions.get(index)
        {
            if let Some(member) = subscription.member() {
                self.fan_out.catch_up(cx, member, now);
            }
            index += 1;
        }
        let Some(mut link) = cx.link(token) else { return };
        if let Some(session) = link.peer.session()
            && session.wants_members()
        {
            self.sessions.members_due.push_back(token);
        }
        self.request_replay(&mut link);
    }

    /// When to retry mail that found no room in the last tick.
    pub fn retry_at(&self) -> Nanos {
        self.now + RETRY_DELAY
    }

    /// When [`tick_ended`](Broadcast::tick_ended) has work without an event.
    pub fn deadline(&self) -> Option<Nanos> {
        let Sessions { replay_due, members_due, connects_due, handler_events, count, .. } = &self.sessions;
        let has_sessions_due = !replay_due.is_empty()
            || !members_due.is_empty()
            || !connects_due.is_empty()
            || !handler_events.is_empty();
        if has_sessions_due || self.sequencer.topics.has_changes() || self.fan_out.topics.has_fresh() {
            return Some(0);
        }
        let waits =
            !self.sequencer.forwards.is_empty() || self.drain.waits_for_room || self.waits_to_hand_over();
        if !self.held.is_empty()
            || !self.sequencer.requests.is_empty()
            || !self.sessions.requests_waiting.is_empty()
            || waits
        {
            return Some(self.retry_at());
        }
        let checks = self.fan_out.topics.has_laggards() || self.sequencer.topics.has_idle() || *count > 0;
        let deadlines = [
            checks.then_some(self.check_at),
            self.drain.deadline(),
            self.fan_out.topics.due_at(),
            self.sessions.alarms.next(),
            // Those that are due wait for room.
            earlier(self.presence_changes.due(), self.presence_reports.due())
                .map(|due| due.max(self.retry_at())),
            self.following_deadline(),
            self.topic_events.as_ref().and_then(|events| events.due()),
        ];
        deadlines.into_iter().fold(None, earlier)
    }
}
