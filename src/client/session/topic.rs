//! One subscription: its position, its phase at the server, and the events for its reader.
//!
//! Never: delivering a message at or before the position; advancing the position without an event that says so.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Token;
use super::deltas::Deltas;
use super::token::retry_delay;
use crate::codec::{Answer, Sent, Start, TopicEvent};
use crate::limits::CORRUPT_DELTAS_MAX;
use crate::session::queue::Queue;
use crate::{Event, Gap, GapReason, Message, Missed, Payload, Position, Refusal, Subscribed};

pub(super) struct Topic {
    pub(super) queue: Arc<Queue>,
    /// Everything up to it is in the queue, or reported as missed. `None` before the first subscription.
    pub(super) position: Option<Position>,
    pub(super) presence: bool,
    pub(super) phase: Phase,
    origin: Origin,
    unread: Unread,
    /// Whether the next request to subscribe asks for deltas.
    pub(super) asks_deltas: bool,
    /// Restores messages, while the server sends deltas.
    deltas: Option<Deltas>,
    corrupt_deltas: u32,
    /// A message could not be restored: the client ends the subscription, and returns to its position.
    resyncs: bool,
    pub(super) token: Token,
    /// The open request with a fresh token.
    refreshing: Option<u32>,
    /// Refusals and ends since the last message.
    refusals: u32,
    retry_at: Option<Instant>,
}

/// Who makes a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Client,
    /// The client cannot pause it, nor subscribe again.
    Server,
}

/// The messages of a server-side subscription while its queue was full. The position is before it.
#[derive(Debug, Default)]
struct Unread {
    /// It began again, without recovered messages.
    start: Option<Start>,
    /// The offset of the last message; 0 if there is none.
    offset: u64,
    /// There were messages without offsets.
    uncounted: bool,
    /// There were joins or leaves.
    members: bool,
}

/// The subscription's state at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Absent,
    /// The request with this number is open.
    Subscribing(u32),
    Live,
    /// The request with this number is open. Messages that arrive meanwhile are not delivered.
    Leaving(u32),
}

/// The next step of the subscription.
#[derive(Debug)]
pub(super) enum Step {
    Continue,
    End(Refusal),
}

impl Topic {
    pub(super) fn new(queue: Arc<Queue>, position: Option<Position>, presence: bool, phase: Phase) -> Topic {
        let (origin, unread) = (Origin::Client, Unread::default());
        Topic {
            queue,
            position,
            presence,
            phase,
            origin,
            unread,
            asks_deltas: false,
            deltas: None,
            corrupt_deltas: 0,
            resyncs: false,
            token: Token::default(),
            refreshing: None,
            refusals: 0,
            retry_at: None,
        }
    }

    /// A subscription that the server has made.
    pub(super) fn of_server(queue: Arc<Queue>, start: Start) -> Topic {
        let mut topic = Topic::new(queue, None, false, Phase::Live);
        topic.origin = Origin::Server;
        topic.start(start, GapReason::Unreported);
        topic
    }

    pub(super) fn is_server_side(&self) -> bool {
        self.origin == Origin::Server
    }

    /// The subscription has lost its reader.
    pub(super) fn is_over(&self) -> bool {
        self.queue.is_abandoned()
    }

    /// Whether messages are to be received.
    pub(super) fn is_wanted(&self) -> bool {
        !self.is_over() && self.queue.has_room()
    }

    /// Whether the client subscribes, as soon as there is room and time.
    pub(super) fn subscribes(&self, now: Instant) -> bool {
        self.origin == Origin::Client && self.is_wanted() && self.is_due(now)
    }

    /// Whether the client unsubscribes: until there is room again, if it can return.
    pub(super) fn unsubscribes(&self) -> bool {
        match self.origin {
            Origin::Client => self.resyncs || !self.is_wanted(),
            Origin::Server => self.is_over(),
        }
    }

    /// Whether it may be requested now.
    fn is_due(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    /// When to request it again.
    fn retry_at(&self) -> Option<Instant> {
        let waits = self.phase == Phase::Absent && self.is_wanted() && !self.token.is_asked();
        self.retry_at.filter(|_| waits)
    }

    /// The connection is lost.
    pub(super) fn lose(&mut self) {
        (self.phase, self.retry_at) = (Phase::Absent, None);
        // It is behind the position, from which the next connection recovers.
        self.unread = Unread::default();
        self.refreshing = None;
        self.token.lose();
        self.resyncs = false;
    }

    /// When the session has to look at it again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let refresh_at = self.token.due_at().filter(|_| self.phase == Phase::Live);
        self.retry_at().into_iter().chain(refresh_at).min()
    }

    /// Whether a token must be fetched: to subscribe, or because the one in use expires.
    pub(super) fn needs_token(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Absent => self.subscribes(now) && self.token.is_missing(),
            Phase::Live => self.token.is_due(now),
            Phase::Subscribing(_) | Phase::Leaving(_) => false,
        }
    }

    /// A token was fetched. Returns whether it is to be presented now, with the request `id`.
    pub(super) fn take_token(&mut self, value: String, id: u32) -> bool {
        self.token.set(value);
        let presented = self.phase == Phase::Live;
        if presented {
            self.refreshing = Some(id);
        }
        presented
    }

    /// No token was fetched: the source is asked again later.
    pub(super) fn miss_token(&mut self, now: Instant) {
        if self.phase == Phase::Live {
            return self.token.retry(now);
        }
        self.refusals = self.refusals.max(1);
        self.delay(now);
    }

    /// The answer to a fresh token.
    fn handle_refreshed(&mut self, answer: Answer, now: Instant) -> Step {
        self.refreshing = None;
        self.token.handle_answer(answer, now).map_or_else(Step::End, |()| Step::Continue)
    }

    /// The server has made the subscription again. One that the client is ending, or makes itself, stays as it is.
    pub(super) fn handle_server_start(&mut self, start: Start) {
        if self.origin == Origin::Client || matches!(self.phase, Phase::Leaving(_)) {
            return;
        }
        self.phase = Phase::Live;
        if self.is_wanted() {
            self.report_unread();
            return self.start(start, GapReason::Unreported);
        }
        let recovered = start.recovered.map(|_| false);
        self.unread = Unread {
            start: Some(Start { recovered, replayed: Some(Vec::new()), ..start }),
            ..Unread::default()
        };
    }

    /// There may be room again: the reader of a server-side subscription is told what it missed.
    pub(super) fn report_unread(&mut self) {
        if self.phase != Phase::Live || !self.is_wanted() {
            return;
        }
        let Unread { start, offset, uncounted, members } = std::mem::take(&mut self.unread);
        if let Some(start) = start {
            self.start(start, GapReason::Slow);
        }
        self.miss(offset, GapReason::Slow);
        if uncounted {
            self.tell(Event::Gap(Gap { missed: Missed::Unknown, reason: GapReason::Slow }));
        }
        if members {
            self.tell(Event::PresenceStale);
        }
    }

    /// The queue is full. The client-side subscription is paused, and returns to its position.
    fn skip(&mut self, event: &TopicEvent) {
        if self.origin == Origin::Client || self.is_over() {
            return;
        }
        match event {
            TopicEvent::Message(sent) if sent.message.offset == 0 => self.unread.uncounted = true,
            TopicEvent::Message(sent) => self.unread.offset = self.unread.offset.max(sent.message.offset),
            TopicEvent::Join(_) | TopicEvent::Leave(_) => self.unread.members = true,
            _ => {}
        }
    }

    pub(super) fn handle_answer(&mut self, id: u32, answer: Answer, now: Instant) -> Step {
        if self.refreshing == Some(id) {
            return self.handle_refreshed(answer, now);
        }
        match (self.phase, answer) {
            (Phase::Subscribing(own), Answer::Subscribed(start)) if own == id => {
                (self.phase, self.retry_at) = (Phase::Live, None);
                self.token.accept(now, start.expires_in_s);
                if self.is_wanted() {
                    self.start(start, GapReason::Unreported);
                }
                Step::Continue
            }
            (Phase::Subscribing(own), Answer::Refused(refusal)) if own == id => {
                self.phase = Phase::Absent;
                if self.token.expires_by(&refusal.code) {
                    return Step::Continue;
                }
                if !refusal.temporary {
                    return Step::End(refusal);
                }
                // The first delay, too: the server has just said that it is busy.
                self.refusals = self.refusals.max(1);
                self.delay(now);
                Step::Continue
            }
            // Also if the server has ended the subscription before: it then answers with an error.
            (Phase::Leaving(own), _) if own == id => {
                self.phase = Phase::Absent;
                if std::mem::take(&mut self.resyncs) {
                    self.delay(now);
                }
                Step::Continue
            }
            (Phase::Subscribing(own), _) if own == id => {
                self.phase = Phase::Absent;
                self.refusals = self.refusals.max(1);
                self.delay(now);
                Step::Continue
            }
            _ => Step::Continue,
        }
    }

    pub(super) fn handle_event(&mut self, event: TopicEvent, now: Instant) -> Step {
        if self.phase != Phase::Live {
            return Step::Continue;
        }
        if let TopicEvent::Unsubscribed { resubscribes, refusal } = event {
            (self.phase, self.refreshing, self.resyncs) = (Phase::Absent, None, false);
            if is_expiry(&refusal) {
                self.token.expire();
            }
            if !resubscribes || self.is_server_side() {
                return Step::End(refusal);
            }
            self.delay(now);
            return Step::Continue;
        }
        // After a message that could not be restored, none can.
        if self.resyncs || !self.is_wanted() {
            self.skip(&event);
            return Step::Continue;
        }
        self.report_unread();
        if let TopicEvent::Message(sent) = event {
            self.deliver_sent(sent);
            return Step::Continue;
        }
        self.refusals = 0;
        match event {
            TopicEvent::Gap(Gap { missed: Missed::Range { to, .. }, reason }) => self.miss(to, reason),
            // The session and the lines above handle these.
            TopicEvent::Gap(Gap { missed: Missed::Unknown, .. })
            | TopicEvent::Message(_)
            | TopicEvent::Subscribed(_)
            | TopicEvent::Unsubscribed { .. } => {}
            TopicEvent::Heartbeat(offset) => self.miss(offset, GapReason::Unreported),
            TopicEvent::Join(member) => self.tell(Event::Join(member)),
            TopicEvent::Leave(member) => self.tell(Event::Leave(member)),
            TopicEvent::PresenceStale => self.tell(Event::PresenceStale),
        }
        Step::Continue
    }

    /// Delays the next request: not the first one after a message, and longer each time.
    fn delay(&mut self, now: Instant) {
        let delay = self.refusals.checked_sub(1).map_or(Duration::ZERO, retry_delay);
        self.refusals = self.refusals.saturating_add(1);
        self.retry_at = Some(now + delay);
    }

    /// The subscription has begun. `reason` is why messages up to its position are missing that the server sent or had.
    fn start(&mut self, start: Start, reason: GapReason) {
        let Start { position: begin, recovered, replayed, count, client, deltas, .. } = start;
        self.deltas = deltas.then(Deltas::default);
        let previous = self.position.take();
        let recovered = recovered.filter(|_| previous.is_some());
        // Where this subscription continues: at the previous position, if that still means something.
        let continues = match (&previous, &replayed) {
            (None, _) => false,
            // The messages after `begin` follow, and what lies before them is reported by the server.
            (Some(previous), None) => *previous == begin,
            (Some(previous), Some(_)) => {
                recovered == Some(true) || (previous.epoch == begin.epoch && previous.offset <= begin.offset)
            }
        };
        // A topic without positions: what was published meanwhile is lost.
        let is_counted = !begin.epoch.is_empty();
        let position = match (previous.clone(), continues) {
            (Some(previous), true) => Position { epoch: begin.epoch.clone(), ..previous },
            _ => begin.clone(),
        };
        self.position = Some(position.clone());
        self.tell(Event::Subscribed(Subscribed { position, recovered, count, client }));
        if previous.is_some() && !continues {
            self.tell(Event::Gap(Gap { missed: Missed::Unknown, reason: GapReason::Epoch }));
        } else if previous.is_some() && !is_counted {
            self.tell(Event::Gap(Gap { missed: Missed::Unknown, reason: GapReason::History }));
        }
        let Some(replayed) = replayed else { return };
        // All of them, even if the queue is full: they came in one message, and the rest could not be requested again.
        if continues {
            let first = replayed.first().map_or(begin.offset, |first| first.message.offset.saturating_sub(1));
            if recovered == Some(false) {
                let unkept = if reason == GapReason::Slow { GapReason::Slow } else { GapReason::History };
                self.miss(first, unkept);
            }
            if replayed.into_iter().all(|sent| self.deliver_sent(sent)) {
                self.miss(begin.offset, reason);
            }
        } else {
            // A snapshot, up to the position.
            for sent in replayed {
                let Some(message) = self.restore(sent) else {
                    let reason = GapReason::Unreported;
                    return self.tell(Event::Gap(Gap { missed: Missed::Unknown, reason }));
                };
                self.tell(Event::Message(message));
            }
        }
    }

    /// Delivers a message as it was sent. False if it cannot be restored.
    fn deliver_sent(&mut self, sent: Sent) -> bool {
        let restored = self.restore(sent);
        let is_restored = restored.is_some();
        if let Some(message) = restored {
            self.refusals = 0;
            self.deliver(message);
        }
        is_restored
    }

    /// The message that was sent. If it cannot be restored, the subscription restarts at its position, where the first
    /// message is whole.
    fn restore(&mut self, sent: Sent) -> Option<Message<Payload>> {
        let restored = match &mut self.deltas {
            Some(deltas) => deltas.restore(sent).ok(),
            // A delta that nobody asked for has no base.
            None => (!sent.is_delta).then_some(sent.message),
        };
        if restored.is_none() {
            // The next message of a server-side subscription shows the gap.
            self.resyncs = self.origin == Origin::Client;
            self.corrupt_deltas += 1;
            self.asks_deltas &= self.corrupt_deltas < CORRUPT_DELTAS_MAX;
        }
        restored
    }

    /// Delivers a message, unless it was delivered before, and reports what is missing in front of it.
    fn deliver(&mut self, message: Message<Payload>) {
        let Some(position) = &mut self.position else { return };
        if message.offset != 0 {
            if message.offset <= position.offset {
                return;
            }
            let before = message.offset.saturating_sub(1).saturating_sub(message.skipped);
            self.miss(before, GapReason::Unreported);
            if let Some(position) = &mut self.position {
                position.offset = message.offset;
            }
        }
        self.tell(Event::Message(message));
    }

    /// Messages from the position up to `to` will not come.
    fn miss(&mut self, to: u64, reason: GapReason) {
        let Some(position) = &mut self.position else { return };
        if to <= position.offset {
            return;
        }
        let from = position.offset + 1;
        position.offset = to;
        self.tell(Event::Gap(Gap { missed: Missed::Range { from, to }, reason }));
    }

    fn tell(&mut self, event: Event<Payload>) {
        self.queue.push(event, self.position.clone());
    }
}

/// Whether the subscription ended because its token has expired, or is no longer valid.
fn is_expiry(refusal: &Refusal) -> bool {
    use echoring_wire::centrifuge::UnsubscribeCode::{Expired, StateInvalidated};
    [Expired, StateInvalidated].iter().any(|code| code.code().to_string() == refusal.code)
}
