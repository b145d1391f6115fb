//! The events that wait for one webhook: which are sent together, when they are sent again, and when they are given up.
//!
//! Never: a clock, a socket or a random source; the time and random bits are arguments.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use echoring_proto::random::scale;

use super::counters::{Loss, WebhookCounters};
use crate::calls::WEBHOOKS;
use crate::calls::load::{Counted, Load, Source};
use crate::limits::{SHARE_OF_FREE, WEBHOOK_BATCH_BYTES_MAX, WEBHOOK_EVENT_BYTES, WEBHOOK_RETRY_AFTER_MAX};

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

/// An event that has room in the queue of a webhook.
#[derive(Debug)]
pub(super) struct Waiting {
    event: Queued,
    _room: [Option<Counted>; 2],
}

/// Whose load an event is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// That of a client, or of all topics.
    pub(super) source: Source,
    /// That of one topic among them.
    pub(super) topic: Option<Box<str>>,
    /// It tells an end, for which there is more room.
    pub(super) is_end: bool,
}

/// The size of a queue, for the shards that fill it and the thread that empties it.
///
/// A quarter is kept for the ends of what was told. Of the rest each address of clients has a share, all topics together have one, and each
/// topic has a share of that.
#[derive(Debug)]
pub(super) struct Room {
    begins: Arc<Load>,
    topics: Arc<Load>,
    ends: Arc<Load>,
    /// Events that the receiver did not get, and was not told about.
    lost: AtomicU64,
    pub(super) counters: Arc<WebhookCounters>,
}

impl Room {
    pub(super) fn of_at_most(bytes_max: u64, counters: Arc<WebhookCounters>) -> Room {
        let [begins, topics, ends] = [const { usize::MAX }; 3].map(|max| Load::of_at_most(max, 0));
        let room = Room { begins, topics, ends, lost: AtomicU64::new(0), counters };
        room.set_bytes_max(bytes_max);
        room
    }

    pub(super) fn set_bytes_max(&self, bytes_max: u64) {
        let (all, ends) = (bytes_max as usize, bytes_max as usize / 4);
        self.ends.set_bytes_max(ends);
        self.begins.set_bytes_max(all - ends);
        // As much as one source may have.
        self.topics.set_bytes_max((all - ends) / (1 + SHARE_OF_FREE) * SHARE_OF_FREE);
    }

    /// Reserves room for an event. `None`, and counted, if there is none.
    pub(super) fn reserve(&self, event: Queued, origin: &Origin) -> Option<Waiting> {
        let bytes = event.bytes();
        let room = self.room(bytes as usize, origin);
        match room {
            Some(_) => self.counters.add(1, bytes),
            None => self.note_lost(1),
        }
        room.map(|room| Waiting { event, _room: room })
    }

    fn room(&self, bytes: usize, origin: &Origin) -> Option<[Option<Counted>; 2]> {
        let Origin { source, topic, is_end } = origin.clone();
        if is_end && let Ok(counted) = self.ends.take(source.clone(), bytes) {
            return Some([Some(counted), None]);
        }
        let of_topic = topic.map(|topic| self.topics.take(Source::Name(topic), bytes).ok());
        let of_topic = of_topic.map_or(Some(None), |taken| taken.map(Some))?;
        Some([Some(self.begins.take(source, bytes).ok()?), of_topic])
    }

    /// Events found no room.
    pub(super) fn note_lost(&self, events: u64) {
        self.lose(events, Loss::QueueFull);
    }

    /// An event with room that nobody sends any more.
    pub(super) fn abandon(&self, waiting: &Waiting) {
        self.counters.remove(1, waiting.event.bytes());
        self.lose(1, Loss::Ended);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.begins.bytes() + self.ends.bytes() == 0
    }

    /// Events are lost. The receiver is told how many.
    fn lose(&self, events: u64, cause: Loss) {
        self.lost.fetch_add(events, Relaxed);
        self.counters.lose(events, cause);
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
    events: VecDeque<Waiting>,
    /// What was sent, or is to be sent again.
    request: Option<Request>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Queue {
    pub(super) fn push(&mut self, event: Waiting) {
        self.events.push_back(event);
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Gives old events up, and says what to do. Returns also how many were given up.
    pub(super) fn next(&mut self, now: Instant, terms: Terms, room: &Room, begin: &str) -> (Next, usize) {
        let is_old =
            |waiting: &&Waiting| now.saturating_duration_since(waiting.event.since) >= terms.give_up_after;
        let old = self.events.iter().take_while(is_old).count();
        if old > 0 {
            self.give_up(old, Loss::Expired, room);
        }
        let Some(first) = self.events.front() else { return (Next::Idle, old) };
        if let Some(at) = self.not_before.filter(|at| *at > now) {
            let at = first.event.since.checked_add(terms.give_up_after).map_or(at, |old_at| old_at.min(at));
            return (Next::Wait(at), old);
        }
        let request = self.request.get_or_insert_with(|| made(&self.events, terms, room, begin));
        (Next::Send(request.clone()), old)
    }

    /// The request was answered, or not. `random` decides on the delay before the next one.
    pub(super) fn answered(&mut self, now: Instant, outcome: Outcome, room: &Room, random: u64) {
        let Some(request) = &self.request else { return };
        let events = request.events;
        match outcome {
            Outcome::Accepted => {
                room.counters.delivered.fetch_add(events as u64, Relaxed);
                self.request = None;
                self.take(events, room);
            }
            Outcome::Refused => self.give_up(events, Loss::Refused, room),
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
    pub(super) fn abandon(&mut self, room: &Room) {
        self.give_up(self.events.len(), Loss::Ended, room);
    }

    /// The first events are lost, and with them what their request says about earlier losses. The rest is sent by another request.
    fn give_up(&mut self, events: usize, cause: Loss, room: &Room) {
        if let Some(request) = self.request.take() {
            room.lost.fetch_add(request.lost, Relaxed);
        }
        room.lose(events as u64, cause);
        self.take(events, room);
    }

    fn take(&mut self, events: usize, room: &Room) {
        let bytes = self.events.drain(..events).map(|waiting| waiting.event.bytes()).sum();
        room.counters.remove(events as u64, bytes);
    }
}

/// The request with the first events. `begin` is the beginning of its body.
fn made(events: &VecDeque<Waiting>, terms: Terms, room: &Room, begin: &str) -> Request {
    let (lost, mut body, mut count) = (room.lost.swap(0, Relaxed), begin.as_bytes().to_vec(), 0);
    for Waiting { event, .. } in events.iter().take(terms.batch) {
        if count > 0 && body.len() + event.json.len() > WEBHOOK_BATCH_BYTES_MAX {
            break;
        }
        body.extend_from_slice(if count == 0 { b"" } else { b"," });
        body.extend_from_slice(&event.json);
        count += 1;
    }
    body.extend_from_slice(format!("],\"lost\":{lost}}}").as_bytes());
    let id = events.front().map(|first| first.event.id.clone()).unwrap_or_default();
    Request { id, body: body.into(), events: count, lost }
}

/// The delay after so many failures in a row, half of which is random.
fn delay(failures: u32, random: u64) -> Duration {
    let half = WEBHOOKS.retry.after(failures) / 2;
    half + Duration::from_nanos(scale(random, half.as_nanos() as u64))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::limits::WEBHOOK_RETRY_MIN;

    const TERMS: Terms = Terms { batch: 2, give_up_after: Duration::from_secs(600) };
    const BEGIN: &str = "{\"events\":[";

    fn origin(address: &str, is_end: bool) -> Origin {
        let address = std::net::SocketAddr::new(address.parse().expect("an address"), 7);
        Origin { source: Source::from(Some(address)), topic: None, is_end }
    }

    /// A queue with virtual time.
    struct World {
        queue: Queue,
        room: Room,
        now: Instant,
        terms: Terms,
        given_up: usize,
    }

    impl World {
        fn with(events: u32) -> World {
            let room = Room::of_at_most(10_000, Arc::default());
            let mut world =
                World { queue: Queue::default(), room, now: Instant::now(), terms: TERMS, given_up: 0 };
            (0..events).for_each(|number| assert!(world.push(number)));
            world
        }

        fn push(&mut self, number: u32) -> bool {
            let event = Queued {
                id: format!("e{number}").into(),
                json: format!("{number}").into_bytes().into(),
                since: self.now,
            };
            let reserved = self.room.reserve(event, &origin("192.0.2.1", false));
            let has_room = reserved.is_some();
            reserved.into_iter().for_each(|waiting| self.queue.push(waiting));
            has_room
        }

        fn next(&mut self) -> Next {
            let (next, given_up) = self.queue.next(self.now, self.terms, &self.room, BEGIN);
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
            self.queue.answered(self.now, outcome, &self.room, u64::MAX);
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
        assert!(world.room.is_empty());
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
        world.room.set_bytes_max(4 * (WEBHOOK_EVENT_BYTES as u64 + 1));
        assert_eq!(
            (0..5).map(|number| world.push(number)).collect::<Vec<_>>(),
            [true, true, false, false, false]
        );
        assert_eq!(world.sent().1, json!({"events": [0, 1], "lost": 3}));
        world.answer(Outcome::Accepted);
        assert!(world.push(5), "there is room again");
        assert_eq!(world.sent().1, json!({"events": [5], "lost": 0}));
        world.queue.abandon(&world.room);
        assert!(world.queue.len() == 0 && world.room.is_empty());
    }

    #[test]
    fn each_address_and_each_topic_has_a_share_and_ends_have_room_apart() {
        let of_topic =
            |topic: &str, is_end| Origin { source: Source::Topics, topic: Some(topic.into()), is_end };
        let nobody = |is_end| Origin { source: Source::NoAddress, topic: None, is_end };
        let all = [
            origin("192.0.2.1", false),
            origin("192.0.2.1", true),
            nobody(false),
            nobody(true),
            of_topic("a", false),
            of_topic("a", true),
        ];
        let others = [
            origin("192.0.2.2", false),
            origin("192.0.2.2", true),
            origin("2001:db8::1", false),
            of_topic("b", false),
            of_topic("b", true),
            nobody(true),
        ];
        for greedy in &all {
            let room = Room::of_at_most(100_000, Arc::default());
            let event = |number: usize| Queued {
                id: number.to_string().into(),
                json: Bytes::from_static(b"{}"),
                since: Instant::now(),
            };
            let mut kept: Vec<Waiting> =
                (0..10_000).map_while(|number| room.reserve(event(number), greedy)).collect();
            for other in others.iter().filter(|other| *other != greedy) {
                for number in 0..5 {
                    let waiting = room.reserve(event(number), other);
                    assert!(waiting.is_some(), "{other:?} beside {greedy:?}");
                    kept.extend(waiting);
                }
            }
            let bytes = room.begins.bytes() + room.ends.bytes();
            assert!((50_000..=100_000).contains(&bytes), "{bytes}");
        }
    }

    #[test]
    fn a_request_has_a_bound_in_bytes_unless_one_event_is_longer() {
        let mut world = World::with(0);
        world.room.set_bytes_max(u64::MAX);
        world.terms.batch = 1_000;
        let long = format!("\"{}\"", "x".repeat(WEBHOOK_BATCH_BYTES_MAX / 2));
        for id in ["a", "b", "c"] {
            let event = Queued { id: id.into(), json: long.clone().into(), since: world.now };
            let waiting = world.room.reserve(event, &origin("192.0.2.1", false)).expect("room");
            world.queue.push(waiting);
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
