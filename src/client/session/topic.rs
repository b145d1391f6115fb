//! One subscription: its position, its phase at the server, and what its reader is told.
//!
//! Never: delivering a message at or before the position; advancing the position without an event that says so.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::codec::{Answer, Start, TopicEvent};
use crate::limits::{RESUBSCRIBE_DELAY, RESUBSCRIBE_DELAY_MAX};
use crate::queue::Queue;
use crate::{Event, Gap, GapReason, Message, Missed, Payload, Position, Refusal, Subscribed};

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) queue: Arc<Queue>,
    /// Everything up to it is in the queue, or reported as missed. `None` before the first subscription.
    pub(super) position: Option<Position>,
    pub(super) presence: bool,
    pub(super) phase: Phase,
    /// Refusals and ends since the last message.
    refusals: u32,
    retry_at: Option<Instant>,
}

/// The subscription's state at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Absent,
    /// The request with this number is open.
    Subscribing(u32),
    Live,
    /// The request with this number is open. What arrives meanwhile is not delivered.
    Leaving(u32),
}

/// What follows for the subscription.
#[derive(Debug)]
pub(super) enum Step {
    Continue,
    End(Refusal),
}

impl Topic {
    pub(super) fn new(queue: Arc<Queue>, position: Option<Position>, presence: bool, phase: Phase) -> Topic {
        Topic { queue, position, presence, phase, refusals: 0, retry_at: None }
    }

    /// Nobody reads the subscription any more.
    pub(super) fn is_over(&self) -> bool {
        self.queue.is_abandoned()
    }

    /// Whether messages are to be received.
    pub(super) fn is_wanted(&self) -> bool {
        !self.is_over() && self.queue.has_room()
    }

    /// Whether it may be requested now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    /// When to request it again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.phase == Phase::Absent && self.is_wanted())
    }

    /// The connection is lost.
    pub(super) fn lose(&mut self) {
        (self.phase, self.retry_at) = (Phase::Absent, None);
    }

    pub(super) fn handle_answer(&mut self, id: u32, answer: Answer, now: Instant) -> Step {
        match (self.phase, answer) {
            (Phase::Subscribing(own), Answer::Subscribed(start)) if own == id => {
                (self.phase, self.retry_at) = (Phase::Live, None);
                if self.is_wanted() {
                    self.start(start);
                }
                Step::Continue
            }
            (Phase::Subscribing(own), Answer::Refused(refusal)) if own == id => {
                if !refusal.temporary {
                    return Step::End(refusal);
                }
                self.phase = Phase::Absent;
                // The first delay, too: the server has just said that it is busy.
                self.refusals = self.refusals.max(1);
                self.delay(now);
                Step::Continue
            }
            // Also if the server has ended the subscription before: it then answers with an error.
            (Phase::Leaving(own), _) if own == id => {
                self.phase = Phase::Absent;
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
            self.phase = Phase::Absent;
            if !resubscribes {
                return Step::End(refusal);
            }
            self.delay(now);
            return Step::Continue;
        }
        if !self.is_wanted() {
            return Step::Continue;
        }
        self.refusals = 0;
        match event {
            TopicEvent::Message(message) => self.deliver(message),
            TopicEvent::Gap(Gap { missed: Missed::Range { to, .. }, reason }) => self.miss(to, reason),
            TopicEvent::Gap(Gap { missed: Missed::Unknown, .. }) | TopicEvent::Unsubscribed { .. } => {}
            TopicEvent::Heartbeat(offset) => self.miss(offset, GapReason::Unreported),
            TopicEvent::Join(member) => self.tell(Event::Join(member)),
            TopicEvent::Leave(member) => self.tell(Event::Leave(member)),
            TopicEvent::PresenceStale => self.tell(Event::PresenceStale),
        }
        Step::Continue
    }

    /// Delays the next request: not the first one after a message, and longer each time.
    fn delay(&mut self, now: Instant) {
        let doublings = self.refusals.saturating_sub(1).min(31);
        let delay = match self.refusals {
            0 => Duration::ZERO,
            _ => RESUBSCRIBE_DELAY.saturating_mul(1 << doublings).min(RESUBSCRIBE_DELAY_MAX),
        };
        self.refusals = self.refusals.saturating_add(1);
        self.retry_at = Some(now + delay);
    }

    /// The subscription has begun.
    fn start(&mut self, start: Start) {
        let Start { position: begin, recovered, replayed, count, client } = start;
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
        let position = match (previous.clone(), continues) {
            (Some(previous), true) => Position { epoch: begin.epoch.clone(), ..previous },
            _ => begin.clone(),
        };
        self.position = Some(position.clone());
        self.tell(Event::Subscribed(Subscribed { position, recovered, count, client }));
        if previous.is_some() && !continues {
            self.tell(Event::Gap(Gap { missed: Missed::Unknown, reason: GapReason::Epoch }));
        }
        let Some(replayed) = replayed else { return };
        // All of them, even if the queue is full: they came in one message, and the rest could not be requested again.
        if continues {
            let first = replayed.first().map_or(begin.offset, |first| first.offset.saturating_sub(1));
            if recovered == Some(false) {
                self.miss(first, GapReason::History);
            }
            replayed.into_iter().for_each(|message| self.deliver(message));
            self.miss(begin.offset, GapReason::Unreported);
        } else {
            // A snapshot, up to the position.
            replayed.into_iter().for_each(|message| self.tell(Event::Message(message)));
        }
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
