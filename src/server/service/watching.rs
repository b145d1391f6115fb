//! The shard's part of `POST /trace`: follows connections and topics, and reports what happens to them.
//!
//! Nothing on the path of a message knows of it. What the shard knows anyway is looked at from time to time, and the differences are the
//! events; only what sessions are told besides messages is noted when it happens. A followed connection is counted by itself, so its
//! echoes take the common path.

use std::mem;

use bytes::{BufMut as _, Bytes, BytesMut};
use echoring_proto::connection::Closed;
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use echoring_runtime::driver::Token;
use echoring_runtime::stats::Traffic;
use echoring_topics::{TopicId, TopicReport};
use serde::Serialize;
use tokio::sync::mpsc::error::TrySendError;

use super::Service;
use crate::commands::watch_order::{WatchOrder, WatchTarget};
use crate::limits::{
    CONNECTIONS_PER_TICK, WATCH_EVENTS_PER_SECOND, WATCH_INTERVAL, WATCH_TOPIC_INTERVAL,
    WATCHED_CONNECTIONS_MAX,
};
use echoring_broker::broadcast::{Ids, SessionNote};
use echoring_broker::peer::Context;

/// An order that is carried out.
#[derive(Debug)]
pub(super) struct Watch {
    order: WatchOrder,
    began_at: Nanos,
    /// When differences are looked for next.
    look_at: Nanos,
    watched: Vec<Watched>,
    /// The index at which connections of the identity are looked for next.
    index: u32,
    /// The topic at the last look.
    topic: TopicReport,
    /// The second of the latest event, and how many others may follow in it.
    second: u64,
    room: u32,
    /// Events that were not sent, and not told of.
    dropped: u64,
    is_over: bool,
}

/// A connection as it was at the last look.
#[derive(Debug)]
struct Watched {
    token: Token,
    traffic: Traffic,
    reached: Vec<(TopicId, u64)>,
    /// Subscriptions that have begun since, and behind which offset.
    begun: Vec<(Box<str>, u64)>,
    is_pinged: bool,
    is_blocked: bool,
}

/// What happened since the last look.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    /// A connection was found, and is followed from now on.
    #[serde(rename = "following")]
    Watched {
        identity: Option<&'a str>,
        route: &'static str,
    },
    /// It has just been opened, and is followed from now on.
    Opened {
        identity: Option<&'a str>,
        route: &'static str,
    },
    Closed {
        code: u16,
        cause: &'static str,
    },
    /// The connection goes on at another shard or process, under another id, and is not followed any more.
    Moved,
    Received {
        messages: u64,
        bytes: u64,
    },
    Sent {
        messages: u64,
        bytes: u64,
    },
    /// The connection was sent these messages of a topic, or told of a gap among them.
    Delivered {
        topic: &'a str,
        from: u64,
        to: u64,
    },
    Blocked {
        queued_bytes: u32,
    },
    Unblocked,
    Ping,
    /// The first sign of life after a ping.
    Pong,
    /// The topic took messages.
    Accepted {
        from: u64,
        to: u64,
        bytes: u64,
    },
    PublicationsRefused {
        count: u64,
    },
    Subscribers {
        count: u64,
    },
    /// Subscribers of this shard got messages of the topic, or did not.
    FannedOut {
        sent: u64,
        dropped: u64,
    },
    /// Events were left out.
    EventsDropped {
        count: u64,
    },
}

#[derive(Serialize)]
struct Line<'a, E> {
    /// Since the shard began to follow.
    ms: u64,
    shard: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<String>,
    #[serde(flatten)]
    event: &'a E,
}

/// Where and when something happens.
#[derive(Clone, Copy, Debug)]
struct Place {
    now: Nanos,
    shard: usize,
    number: u8,
    ids: Ids,
}

impl Watch {
    fn new(order: WatchOrder, now: Nanos) -> Watch {
        Watch {
            order,
            began_at: now,
            look_at: now,
            watched: Vec::new(),
            index: 0,
            topic: TopicReport::default(),
            second: 0,
            room: WATCH_EVENTS_PER_SECOND,
            dropped: 0,
            is_over: false,
        }
    }

    fn ends_at(&self) -> Nanos {
        self.began_at.saturating_add(self.order.time)
    }

    /// When it has something to do without an event.
    pub(super) fn due(&self) -> Nanos {
        if self.is_over { 0 } else { self.look_at.min(self.ends_at()) }
    }

    fn is_done(&self, now: Nanos) -> bool {
        self.is_over || self.ends_at() <= now || self.order.events.is_closed()
    }

    fn place_of(&self, token: Token) -> Option<usize> {
        self.watched.iter().position(|watched| watched.token == token)
    }

    /// A connection is not followed any more.
    fn leave(&mut self, at: usize) {
        self.watched.swap_remove(at);
        self.is_over |= matches!(self.order.target, WatchTarget::Connection(_));
    }

    /// Reports an event, unless there were too many in this second or the operator does not keep up.
    fn tell(&mut self, place: Place, token: Option<Token>, event: &impl Serialize) {
        let since = place.now.saturating_sub(self.began_at);
        if self.second != since / SECOND {
            (self.second, self.room) = (since / SECOND, WATCH_EVENTS_PER_SECOND);
        }
        let Some(room) = self.room.checked_sub(1) else {
            self.dropped += 1;
            return;
        };
        self.room = room;
        let (ms, shard) = (since / MILLISECOND, place.shard);
        if self.dropped > 0 {
            let event = &Event::EventsDropped { count: self.dropped };
            if self.send(&Line { ms, shard, connection: None, event }) {
                self.dropped = 0;
            }
        }
        let connection = token.map(|token| place.ids.connection(place.number, token).to_string());
        if !self.send(&Line { ms, shard, connection, event }) {
            self.dropped += 1;
        }
    }

    /// The last line says what was left out, if there is room for it.
    fn finish(&self, place: Place) {
        if self.dropped > 0 {
            let ms = place.now.saturating_sub(self.began_at) / MILLISECOND;
            let event = &Event::EventsDropped { count: self.dropped };
            self.send(&Line { ms, shard: place.shard, connection: None, event });
        }
    }

    /// False if there is no room for the line.
    fn send(&self, line: &impl Serialize) -> bool {
        let mut text = BytesMut::new().writer();
        // Plain data can be written.
        let _ = serde_json::to_writer(&mut text, line);
        let mut text = text.into_inner();
        text.put_u8(b'\n');
        !matches!(self.order.events.try_send(Bytes::from(text)), Err(TrySendError::Full(_)))
    }

    /// Reports what has changed about a topic.
    fn look_at_topic(&mut self, place: Place, report: TopicReport) {
        let before = mem::replace(&mut self.topic, report.clone());
        if let (Some(owner), Some(known)) = (&report.owner, &before.owner) {
            // In a new epoch the offsets begin anew.
            let from = if owner.epoch == known.epoch { known.offset } else { 0 };
            if owner.offset > from {
                let bytes = owner.payload_bytes.saturating_sub(known.payload_bytes);
                self.tell(place, None, &Event::Accepted { from: from + 1, to: owner.offset, bytes });
            }
            let count = owner.publications.refused.saturating_sub(known.publications.refused);
            if count > 0 {
                self.tell(place, None, &Event::PublicationsRefused { count });
            }
        }
        if report.subscribers != before.subscribers {
            self.tell(place, None, &Event::Subscribers { count: report.subscribers });
        }
        let sent = report.deliveries.sent.saturating_sub(before.deliveries.sent);
        let dropped = report.deliveries.dropped().saturating_sub(before.deliveries.dropped());
        if sent + dropped > 0 {
            self.tell(place, None, &Event::FannedOut { sent, dropped });
        }
    }
}

impl Service {
    /// Follows what an operator wants to see.
    pub(super) fn begin_watch(&mut self, cx: &mut Context<'_>, order: WatchOrder) {
        let mut watch = Watch::new(order, cx.now());
        match watch.order.target.clone() {
            WatchTarget::Connection(token) => {
                self.follow(cx, &mut watch, token, false);
                watch.is_over = watch.watched.is_empty();
            }
            WatchTarget::Topic(name) => {
                // The subscribers that are there are the first event.
                let report = self.broadcast.topic_report(cx.now(), &name).unwrap_or_default();
                watch.topic = report;
                watch.topic.subscribers = 0;
            }
            WatchTarget::Identity(_) => {}
        }
        self.errands().watches.push(watch);
    }

    fn place(&self, cx: &Context<'_>) -> Place {
        let (number, ids) = (self.broadcast.number(cx.shard()), *self.broadcast.ids());
        Place { now: cx.now(), shard: cx.shard(), number, ids }
    }

    /// Follows an open connection.
    fn follow(&self, cx: &mut Context<'_>, watch: &mut Watch, token: Token, is_new: bool) {
        let is_full = watch.watched.len() == WATCHED_CONNECTIONS_MAX;
        if is_full || watch.place_of(token).is_some() || !cx.is_open(token) {
            return;
        }
        cx.count_apart(token);
        let place = self.place(cx);
        let (Some(view), Some(peer)) = (cx.inspect(token), cx.peer_of(token)) else { return };
        let identity = self.gate.client(token).map(|client| client.subject());
        let route = self.route_of(peer);
        let event =
            if is_new { Event::Opened { identity, route } } else { Event::Watched { identity, route } };
        watch.tell(place, Some(token), &event);
        watch.watched.push(Watched {
            token,
            traffic: cx.traffic(token).unwrap_or_default(),
            reached: self.broadcast.reached_by(peer),
            begun: Vec::new(),
            is_pinged: view.is_pinged,
            is_blocked: view.is_blocked,
        });
    }

    /// Continues to follow: reports what has happened in this tick.
    pub(super) fn advance_watches(&mut self, cx: &mut Context<'_>) {
        let mut watches = mem::take(&mut self.errands().watches);
        if watches.is_empty() {
            return;
        }
        let place = self.place(cx);
        let (notes, lost) = self.broadcast.take_notes();
        for watch in &mut watches {
            watch.dropped += lost;
            for (token, note) in &notes {
                let Some(at) = watch.place_of(*token) else { continue };
                watch.tell(place, Some(*token), note);
                if let SessionNote::Subscribed { topic, offset } = note {
                    watch.watched[at].begun.push((topic.clone(), *offset));
                }
            }
            self.advance_watch(cx, watch, place);
        }
        watches.retain(|watch| {
            let is_done = watch.is_done(place.now);
            if is_done {
                watch.finish(place);
            }
            !is_done
        });
        let tokens = watches.iter().flat_map(|watch| &watch.watched).map(|watched| watched.token);
        self.broadcast.watch(tokens.collect());
        self.errands().watches = watches;
    }

    fn advance_watch(&self, cx: &mut Context<'_>, watch: &mut Watch, place: Place) {
        let looks = watch.look_at <= place.now;
        for at in (0..watch.watched.len()).rev() {
            self.look_at_watched(cx, watch, at, looks, place);
        }
        if !looks {
            return;
        }
        watch.look_at = place.now + WATCH_INTERVAL;
        match watch.order.target.clone() {
            WatchTarget::Connection(_) => {}
            WatchTarget::Identity(subject) => self.find_connections(cx, watch, &subject),
            WatchTarget::Topic(name) => {
                watch.look_at = place.now + WATCH_TOPIC_INTERVAL;
                let report = self.broadcast.topic_report(place.now, &name).unwrap_or_default();
                watch.look_at_topic(place, report);
            }
        }
    }

    /// Looks for connections of an identity among some of all.
    fn find_connections(&self, cx: &mut Context<'_>, watch: &mut Watch, subject: &str) {
        let indexes = cx.indexes();
        for _ in 0..indexes.min(CONNECTIONS_PER_TICK as u32) {
            let index = if watch.index < indexes { watch.index } else { 0 };
            watch.index = index + 1;
            if let Some(token) = cx.token_at(index)
                && self.gate.client(token).is_some_and(|client| client.subject() == subject)
            {
                self.follow(cx, watch, token, false);
            }
        }
    }

    /// Reports what has changed about a followed connection. Its traffic and its topics are looked at from time to time, and before it
    /// is gone.
    fn look_at_watched(&self, cx: &Context<'_>, watch: &mut Watch, at: usize, looks: bool, place: Place) {
        let token = watch.watched[at].token;
        let (Some(view), Some(peer)) = (cx.inspect(token), cx.peer_of(token)) else {
            watch.tell(place, Some(token), &Event::Moved);
            return watch.leave(at);
        };
        if mem::replace(&mut watch.watched[at].is_pinged, view.is_pinged) != view.is_pinged {
            watch.tell(place, Some(token), if view.is_pinged { &Event::Ping } else { &Event::Pong });
        }
        if mem::replace(&mut watch.watched[at].is_blocked, view.is_blocked) != view.is_blocked {
            let blocked = Event::Blocked { queued_bytes: view.queued_bytes };
            watch.tell(place, Some(token), if view.is_blocked { &blocked } else { &Event::Unblocked });
        }
        if !looks && cx.is_open(token) {
            return;
        }
        let traffic = cx.traffic(token).unwrap_or_default();
        let new = traffic - mem::replace(&mut watch.watched[at].traffic, traffic);
        if new.bytes_in > 0 {
            let received = Event::Received { messages: new.messages_in, bytes: new.bytes_in };
            watch.tell(place, Some(token), &received);
        }
        let reached = self.broadcast.reached_by(peer);
        let before = mem::replace(&mut watch.watched[at].reached, reached.clone());
        let begun = mem::take(&mut watch.watched[at].begun);
        for (id, to) in reached {
            let topic = self.broadcast.topic_name(id);
            let known = before.iter().find(|(other, _)| *other == id).map(|(_, from)| *from);
            let from =
                known.or_else(|| begun.iter().find(|(name, _)| **name == *topic).map(|(_, from)| *from));
            if let Some(from) = from.filter(|from| *from < to) {
                watch.tell(place, Some(token), &Event::Delivered { topic, from: from + 1, to });
            }
        }
        // A partial send may subtract more than was sent since the last look.
        if new.bytes_out.cast_signed() > 0 {
            let sent = Event::Sent { messages: new.messages_out, bytes: new.bytes_out };
            watch.tell(place, Some(token), &sent);
        }
    }

    /// A connection is open: it is followed if an operator follows its identity.
    pub(super) fn note_opened(&mut self, cx: &mut Context<'_>, token: Token) {
        let mut watches = mem::take(&mut self.errands().watches);
        for watch in &mut watches {
            if let WatchTarget::Identity(subject) = &watch.order.target
                && self.gate.client(token).is_some_and(|client| client.subject() == &**subject)
            {
                self.follow(cx, watch, token, true);
            }
        }
        self.errands().watches = watches;
    }

    /// A connection is gone.
    pub(super) fn note_closed(&mut self, cx: &Context<'_>, token: Token, closed: &Closed) {
        let place = self.place(cx);
        self.errands().stayed.remove(&token);
        for watch in &mut self.errands().watches {
            if let Some(at) = watch.place_of(token) {
                let (code, cause) = (closed.code.0, closed.cause.name());
                watch.tell(place, Some(token), &Event::Closed { code, cause });
                watch.leave(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::connection::Entropy;
    use tokio::sync::mpsc;

    fn place(now: Nanos) -> Place {
        Place { now, shard: 1, number: 3, ids: Ids::new(None, &mut Entropy::new(1)) }
    }

    fn watch(lines: usize) -> (Watch, mpsc::Receiver<Bytes>) {
        let (events, told) = mpsc::channel(lines);
        let order = WatchOrder { target: WatchTarget::Topic("a".into()), time: 10 * SECOND, events };
        (Watch::new(order, 0), told)
    }

    fn told(lines: &mut mpsc::Receiver<Bytes>) -> Vec<serde_json::Value> {
        let mut told = Vec::new();
        while let Ok(line) = lines.try_recv() {
            told.push(serde_json::from_slice(&line).expect("a line of JSON"));
        }
        told
    }

    #[test]
    fn events_beyond_the_rate_are_counted_in_the_next_second() {
        let (mut watch, mut lines) = watch(1_000);
        for _ in 0..WATCH_EVENTS_PER_SECOND + 7 {
            watch.tell(place(0), None, &Event::Unblocked);
        }
        assert_eq!(told(&mut lines).len(), WATCH_EVENTS_PER_SECOND as usize);
        let token = Token { index: 17, generation: 2 };
        watch.tell(place(SECOND), Some(token), &Event::Ping);
        let id = place(0).ids.connection(3, token).to_string();
        let expected = [
            serde_json::json!({"ms": 1_000, "shard": 1, "event": "events_dropped", "count": 7}),
            serde_json::json!({"ms": 1_000, "shard": 1, "connection": id, "event": "ping"}),
        ];
        assert_eq!(told(&mut lines), expected);
    }

    #[test]
    fn events_that_a_slow_operator_has_no_room_for_are_counted() {
        let (mut watch, mut lines) = watch(2);
        for _ in 0..5 {
            watch.tell(place(0), None, &Event::Pong);
        }
        assert_eq!((told(&mut lines).len(), watch.dropped), (2, 3));
        watch.finish(place(0));
        let last = serde_json::json!({"ms": 0, "shard": 1, "event": "events_dropped", "count": 3});
        assert_eq!(told(&mut lines), [last]);
    }

    #[test]
    fn a_watch_ends_with_its_time_or_when_nobody_reads() {
        let (watched, lines) = watch(2);
        assert!(!watched.is_done(10 * SECOND - 1) && watched.is_done(10 * SECOND));
        assert_eq!(watched.due(), 0, "it has not looked yet");
        drop(lines);
        assert!(watched.is_done(0));
    }

    #[test]
    fn a_topic_is_told_by_what_has_changed() {
        let report = |offset: u64, epoch: u64, subscribers: u64, sent: u64| {
            let mut owner = echoring_topics::OwnerReport::default();
            (owner.epoch, owner.offset, owner.payload_bytes) = (epoch, offset, 10 * offset);
            let mut report = TopicReport::of_owner("a", owner);
            (report.subscribers, report.deliveries.sent) = (subscribers, sent);
            report
        };
        let (mut watch, mut lines) = watch(100);
        watch.topic = report(5, 1, 0, 0);
        for (offset, epoch, subscribers, sent) in [(5, 1, 2, 0), (8, 1, 2, 6), (8, 1, 2, 6), (2, 2, 0, 6)] {
            watch.look_at_topic(place(0), report(offset, epoch, subscribers, sent));
        }
        let names = told(&mut lines).into_iter().map(|mut line| line["event"].take());
        assert_eq!(
            names.collect::<Vec<_>>(),
            ["subscribers", "accepted", "fanned_out", "accepted", "subscribers"]
        );
    }
}
