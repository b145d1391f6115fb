//! The events that wait for one webhook: which are sent together, when they are sent again, and when they are given up.
//!
//! Never: a clock, a socket or a random source; the time and random bits are arguments.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use echoring_proto::random::scale;

use super::counters::{Cause, WEBHOOKS};
use crate::limits::{
    WEBHOOK_BATCH_BYTES_MAX, WEBHOOK_EVENT_BYTES, WEBHOOK_RETRY_AFTER_MAX, WEBHOOK_RETRY_MAX,
    WEBHOOK_RETRY_MIN,
};

/// An event that waits.
#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub(super) id: Box<str>,
    /// The event in JSON.
    pub(super) json: Bytes,
    pub(super) since: Instant,
}

impl Queued {
    fn bytes(&self) -> u64 {
        (self.json.len() + WEBHOOK_EVENT_BYTES) as u64
    }
}

/// The size of a queue, for the shards that fill it and the thread that empties it.
#[derive(Debug)]
pub(super) struct Load {
    bytes: AtomicU64,
    pub(super) bytes_max: AtomicU64,
    /// Events that the receiver did not get, and was not told about.
    lost: AtomicU64,
}

impl Load {
    pub(super) fn of_at_most(bytes_max: u64) -> Load {
        Load { bytes: AtomicU64::new(0), bytes_max: AtomicU64::new(bytes_max), lost: AtomicU64::new(0) }
    }

    /// Reserves room for an event. False, and counted, if there is none.
    pub(super) fn reserve(&self, event: &Queued) -> bool {
        let bytes = event.bytes();
        let before = self.bytes.fetch_add(bytes, Relaxed);
        let has_room = before + bytes <= self.bytes_max.load(Relaxed);
        if has_room {
            WEBHOOKS.add(1, bytes);
        } else {
            self.bytes.fetch_sub(bytes, Relaxed);
            self.note_lost(1);
        }
        has_room
    }

    /// Events found no room.
    pub(super) fn note_lost(&self, events: u64) {
        self.lose(events, Cause::QueueFull);
    }

    /// An event with room that nobody sends any more.
    pub(super) fn abandon(&self, event: &Queued) {
        self.release(1, event.bytes());
        self.lose(1, Cause::Ended);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.load(Relaxed) == 0
    }

    fn release(&self, events: u64, bytes: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
        WEBHOOKS.remove(events, bytes);
    }

    /// Events are lost. The receiver is told how many.
    fn lose(&self, events: u64, cause: Cause) {
        self.lost.fetch_add(events, Relaxed);
        WEBHOOKS.lose(events, cause);
    }
}

/// How events are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// Maximum events of a request.
    pub(super) batch: usize,
    /// The age at which an event is given up.
    pub(super) give_up_after: Duration,
}

/// A request. It stays the same until it is accepted or given up.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The id of its first event, which no other request begins with.
    pub(super) id: Box<str>,
    pub(super) body: Bytes,
    events: usize,
    lost: u64,
}

/// The next step.
#[derive(Debug)]
pub(super) enum Next {
    /// Nothing waits.
    Idle,
    /// Look again then.
    Wait(Instant),
    /// Send this, and report the [`Outcome`].
    Send(Request),
}

/// The result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Accepted,
    /// The receiver will never accept it.
    Refused,
    /// It may accept it later, and perhaps said when.
    Failed {
        retry_after: Option<Duration>,
    },
}

impl Outcome {
    /// The meaning of a status.
    pub(super) fn of(status: u16, retry_after: Option<Duration>) -> Outcome {
        match status {
            200..=299 => Outcome::Accepted,
            408 | 425 | 429 => Outcome::Failed { retry_after },
            400..=499 => Outcome::Refused,
            _ => Outcome::Failed { retry_after },
        }
    }
}

/// The queue of one webhook, in the order of the events.
#[derive(Debug, Default)]
pub(super) struct Queue {
    events: VecDeque<Queued>,
    /// What was sent, or is to be sent again.
    request: Option<Request>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Queue {
    pub(super) fn push(&mut self, event: Queued) {
        self.events.push_back(event);
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Gives old events up, and says what to do. Returns also how many were given up.
    pub(super) fn next(&mut self, now: Instant, terms: Terms, load: &Load, begin: &str) -> (Next, usize) {
        let is_old = |event: &&Queued| now.saturating_duration_since(event.since) >= terms.give_up_after;
        let old = self.events.iter().take_while(is_old).count();
        if old > 0 {
            self.give_up(old, Cause::Expired, load);
        }
        let Some(first) = self.events.front() else { return (Next::Idle, old) };
        if let Some(at) = self.not_before.filter(|at| *at > now) {
            let at = first.since.checked_add(terms.give_up_after).map_or(at, |old_at| old_at.min(at));
            return (Next::Wait(at), old);
        }
        let request = self.request.get_or_insert_with(|| made(&self.events, terms, load, begin));
        (Next::Send(request.clone()), old)
    }

    /// The request was answered, or not. `random` decides on the delay before the next one.
    pub(super) fn answered(&mut self, now: Instant, outcome: Outcome, load: &Load, random: u64) {
        let Some(request) = &self.request else { return };
        let events = request.events;
        match outcome {
            Outcome::Accepted => {
                WEBHOOKS.delivered.fetch_add(events as u64, Relaxed);
                self.request = None;
                self.take(events, load);
            }
            Outcome::Refused => self.give_up(events, Cause::Refused, load),
            Outcome::Failed { retry_after } => {
                self.failures = self.failures.saturating_add(1);
                let delay = delay(self.failures, random);
                let wanted = retry_after.unwrap_or_default().min(WEBHOOK_RETRY_AFTER_MAX);
                self.not_before = Some(now + delay.max(wanted));
                return;
            }
        }
        (self.failures, self.not_before) = (0, None);
    }

    /// Tries at once: there is little time left.
    pub(super) fn hurry(&mut self) {
        self.not_before = None;
    }

    /// Nothing more is sent.
    pub(super) fn abandon(&mut self, load: &Load) {
        self.give_up(self.events.len(), Cause::Ended, load);
    }

    /// The first events are lost, and with them what their request says about earlier losses. The rest is sent by another request.
    fn give_up(&mut self, events: usize, cause: Cause, load: &Load) {
        if let Some(request) = self.request.take() {
            load.lost.fetch_add(request.lost, Relaxed);
        }
        load.lose(events as u64, cause);
        self.take(events, load);
    }

    fn take(&mut self, events: usize, load: &Load) {
        let bytes = self.events.drain(..events).map(|event| event.bytes()).sum();
        load.release(events as u64, bytes);
    }
}

/// The request with the first events. `begin` is the beginning of its body.
fn made(events: &VecDeque<Queued>, terms: Terms, load: &Load, begin: &str) -> Request {
    let (lost, mut body, mut count) = (load.lost.swap(0, Relaxed), begin.as_bytes().to_vec(), 0);
    for event in events.iter().take(terms.batch) {
        if count > 0 && body.len() + event.json.len() > WEBHOOK_BATCH_BYTES_MAX {
            break;
        }
        body.extend_from_slice(if count == 0 { b"" } else { b"," });
        body.extend_from_slice(&event.json);
        count += 1;
    }
    body.extend_from_slice(format!("],\"lost\":{lost}}}").as_bytes());
    let id = events.front().map(|event| event.id.clone()).unwrap_or_default();
    Request { id, body: body.into(), events: count, lost }
}

/// The delay after so many failures in a row: it doubles, and half of it is random.
fn delay(failures: u32, random: u64) -> Duration {
    let bound = WEBHOOK_RETRY_MIN.saturating_mul(1 << (failures - 1).min(31)).min(WEBHOOK_RETRY_MAX);
    let half = bound / 2;
    half + Duration::from_nanos(scale(random, half.as_nanos() as u64))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TERMS: Terms = Terms { batch: 2, give_up_after: Duration::from_secs(600) };
    const BEGIN: &str = "{\"events\":[";

    /// A queue with virtual time.
    struct World {
        queue: Queue,
        load: Load,
        now: Instant,
        terms: Terms,
        given_up: usize,
    }

    impl World {
        fn with(events: u32) -> World {
            let load = Load::of_at_most(10_000);
            let mut world =
                World { queue: Queue::default(), load, now: Instant::now(), terms: TERMS, given_up: 0 };
            (0..events).for_each(|number| assert!(world.push(number)));
            world
        }

        fn push(&mut self, number: u32) -> bool {
            let event = Queued {
                id: format!("e{number}").into(),
                json: format!("{number}").into_bytes().into(),
                since: self.now,
            };
            let has_room = self.load.reserve(&event);
            if has_room {
                self.queue.push(event);
            }
            has_room
        }

        fn next(&mut self) -> Next {
            let (next, given_up) = self.queue.next(self.now, self.terms, &self.load, BEGIN);
            self.given_up += given_up;
            next
        }

        /// The id and the body of the next request.
        fn sent(&mut self) -> (String, Value) {
            match self.next() {
                Next::Send(request) => {
                    (request.id.into(), serde_json::from_slice(&request.body).expect("JSON"))
                }
                other => panic!("{other:?}"),
            }
        }

        /// Waits as long as the queue wants.
        fn wait(&mut self) -> Duration {
            let Next::Wait(at) = self.next() else { panic!("it does not wait") };
            let waited = at - self.now;
            self.now = at;
            waited
        }

        fn answer(&mut self, outcome: Outcome) {
            self.queue.answered(self.now, outcome, &self.load, u64::MAX);
        }

        fn fail(&mut self, retry_after: Option<Duration>) {
            self.answer(Outcome::Failed { retry_after });
        }
    }

    #[test]
    fn events_leave_in_their_order_and_in_batches() {
        let mut world = World::with(3);
        assert_eq!(world.sent(), ("e0".to_owned(), json!({"events": [0, 1], "lost": 0})));
        world.answer(Outcome::Accepted);
        assert_eq!(world.sent(), ("e2".to_owned(), json!({"events": [2], "lost": 0})));
        world.answer(Outcome::Accepted);
        assert!(matches!(world.next(), Next::Idle));
        assert_eq!(world.load.bytes.load(Relaxed), 0);
    }

    #[test]
    fn a_request_is_the_same_when_it_is_sent_again() {
        let mut world = World::with(1);
        let first = world.sent();
        world.fail(None);
        world.push(1);
        world.wait();
        assert_eq!(world.sent(), first, "although there is a further event");
        world.answer(Outcome::Accepted);
        assert_eq!(world.sent().0, "e1");
    }

    #[test]
    fn delays_double_up_to_their_bound_and_a_success_ends_that() {
        let mut world = World::with(2);
        let mut waited = Vec::new();
        for _ in 0..8 {
            world.sent();
            world.fail(None);
            waited.push(world.wait().as_secs_f64().round() as u64);
        }
        assert_eq!(waited, [1, 2, 4, 8, 16, 32, 60, 60]);
        world.sent();
        world.answer(Outcome::Accepted);
        world.push(9);
        world.sent();
        world.fail(None);
        assert!(world.wait() <= WEBHOOK_RETRY_MIN);
        assert_eq!(delay(1, 0), WEBHOOK_RETRY_MIN / 2);
    }

    #[test]
    fn a_receiver_that_says_when_is_heeded() {
        let mut world = World::with(1);
        world.sent();
        world.fail(Some(Duration::from_secs(100)));
        assert_eq!(world.wait(), Duration::from_secs(100));
        world.sent();
        world.fail(Some(Duration::from_millis(1)));
        assert!(world.wait() > Duration::from_secs(1), "not earlier than without it");
        world.terms.give_up_after = Duration::from_secs(1_000_000);
        world.sent();
        world.fail(Some(Duration::from_secs(1_000_000)));
        assert_eq!(world.wait(), WEBHOOK_RETRY_AFTER_MAX);
    }

    #[test]
    fn a_refused_request_is_given_up_and_the_next_one_says_so() {
        let mut world = World::with(3);
        world.sent();
        world.answer(Outcome::Refused);
        assert_eq!(world.sent(), ("e2".to_owned(), json!({"events": [2], "lost": 2})));
        world.answer(Outcome::Refused);
        world.push(3);
        assert_eq!(world.sent().1, json!({"events": [3], "lost": 3}), "what was not told is told");
    }

    #[test]
    fn old_events_are_given_up_and_the_others_are_sent_by_a_new_request() {
        let mut world = World::with(1);
        world.now += Duration::from_secs(300);
        world.push(1);
        assert_eq!(world.sent().1, json!({"events": [0, 1], "lost": 0}));
        world.fail(Some(Duration::from_secs(3_000)));
        assert_eq!(world.wait(), Duration::from_secs(300), "until the first is too old");
        assert_eq!(world.wait(), Duration::from_secs(300), "until the second is");
        assert_eq!(world.given_up, 1);
        world.push(2);
        world.queue.hurry();
        assert_eq!(world.sent(), ("e2".to_owned(), json!({"events": [2], "lost": 2})));
        assert_eq!(world.given_up, 2);
    }

    #[test]
    fn an_event_without_room_is_refused_and_the_receiver_is_told() {
        let mut world = World::with(0);
        world.load.bytes_max = AtomicU64::new(2 * (WEBHOOK_EVENT_BYTES as u64 + 1));
        assert_eq!(
            (0..5).map(|number| world.push(number)).collect::<Vec<_>>(),
            [true, true, false, false, false]
        );
        assert_eq!(world.sent().1, json!({"events": [0, 1], "lost": 3}));
        world.answer(Outcome::Accepted);
        assert!(world.push(5), "there is room again");
        assert_eq!(world.sent().1, json!({"events": [5], "lost": 0}));
        world.queue.abandon(&world.load);
        assert_eq!((world.queue.len(), world.load.bytes.load(Relaxed)), (0, 0));
    }

    #[test]
    fn a_request_has_a_bound_in_bytes_unless_one_event_is_longer() {
        let mut world = World::with(0);
        world.load.bytes_max = AtomicU64::new(u64::MAX);
        world.terms.batch = 1_000;
        let long = format!("\"{}\"", "x".repeat(WEBHOOK_BATCH_BYTES_MAX / 2));
        for id in ["a", "b", "c"] {
            let event = Queued { id: id.into(), json: long.clone().into(), since: world.now };
            assert!(world.load.reserve(&event));
            world.queue.push(event);
        }
        let (id, body) = world.sent();
        assert_eq!((&*id, body["events"].as_array().map(Vec::len)), ("a", Some(1)));
    }

    #[test]
    fn a_status_says_whether_to_send_again() {
        let failed = Outcome::Failed { retry_after: None };
        for (status, outcome) in [
            (200, Outcome::Accepted),
            (204, Outcome::Accepted),
            (302, failed),
            (400, Outcome::Refused),
            (404, Outcome::Refused),
            (408, failed),
            (410, Outcome::Refused),
            (429, failed),
            (500, failed),
            (503, failed),
        ] {
            assert_eq!(Outcome::of(status, None), outcome, "{status}");
        }
    }
}
