//! The state of a session of Centrifuge's client protocol besides subscriptions: its stage, its pings, and its requests
//! that other shards answer.
//!
//! No I/O, and no clock: the time is an argument.

use std::collections::{BTreeSet, VecDeque};

use echoring_auth::{AppData, Forwarded, Info};
use echoring_proto::AddressKey;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::{Nanos, SECOND};
use echoring_runtime::driver::Token;
use echoring_topics::{Page, Position, Replay, TopicId};
use echoring_wire::centrifuge::Encoding;

use super::filters::Filters;
use super::open_calls::AppCalls;
use super::session::{SubscriptionRequest, Terms};
use crate::limits::{CENTRIFUGE_CONNECT_BACKLOG_BYTES_MAX, CENTRIFUGE_KEPT_BYTES_MAX};

/// Interval of checks of a session whose connect command is being decided. The authentication has deadlines.
const DECISION_CHECK_INTERVAL: Nanos = SECOND;

/// The time of a session that is not due.
const NEVER: Nanos = Nanos::MAX;

/// A session of Centrifuge's protocol.
#[derive(Debug)]
pub struct CentrifugeSession {
    pub(super) encoding: Encoding,
    pub(super) stage: Stage,
    /// When the session is due in [`Alarms`]; [`NEVER`] if it is not.
    wake_at: Nanos,
    /// When something is due for its stage.
    stage_at: Nanos,
    /// As it was told when it connected. Its client expects them for as long as the session lasts.
    times: PingTimes,
    /// Requests of members, with the pages that have come.
    pub(super) listings: Vec<(Option<u64>, Vec<u8>)>,
    /// Requests that want only the number of members.
    pub(super) stats: Vec<u64>,
    /// Requests that wait for the answer to an earlier one.
    pub(super) waiting: VecDeque<WaitingRequest>,
    /// Requests about which the application is asked.
    pub(super) calls: AppCalls,
    /// Header fields of its handshake, for the application.
    pub(super) forwarded: Option<Forwarded>,
    /// The address of its client, if it is known.
    pub(super) address: Option<AddressKey>,
    /// Data of the application about its client, for others to see.
    pub(super) info: Info,
    /// When the application is asked whether its client may stay.
    pub(super) refresh_at: Option<Nanos>,
    /// What it is to be asked about in the next tick: the client, or its subscription to a topic.
    pub(super) refreshes: Vec<Option<TopicId>>,
    /// The filters of its subscriptions.
    pub(super) filters: Filters,
    /// The connect command, if the request of a client that sends no other has it, until it is carried out.
    pub(super) command: Option<Box<[u8]>>,
}

/// How far a session is.
#[derive(Debug)]
pub(super) enum Stage {
    /// The first command has not come.
    AwaitingConnect,
    /// The connect command is being decided, or its subscriptions are being made.
    Connecting(Box<ConnectBacklog>),
    /// Commands are taken.
    Connected(Pings),
}

/// A connect command without an answer yet, and the commands behind it.
#[derive(Debug, Default)]
pub(super) struct ConnectBacklog {
    /// The id of the command.
    pub(super) id: u32,
    /// Whether the command has the token that identifies the client.
    pub(super) has_token: bool,
    /// Positions from which the client wants to recover server-side subscriptions, by topic.
    pub(super) positions: Vec<(Box<str>, Position)>,
    /// The client is known and admitted: the answer waits only for its subscriptions.
    pub(super) is_admitted: bool,
    /// Data of the application for the answer.
    pub(super) data: Option<AppData>,
    /// The answers of server-side subscriptions that begin with a page of history.
    pub(super) pages: Vec<FirstPage>,
    /// The frame of the command, if more commands are in it, and later frames.
    pub(super) frames: Vec<Box<[u8]>>,
    /// Whether the first of them begins with the connect command.
    pub(super) has_first: bool,
    frame_bytes: usize,
    /// All of it.
    bytes: usize,
}

/// The first page of history of a server-side subscription.
#[derive(Debug)]
pub(super) struct FirstPage {
    pub(super) topic: TopicId,
    pub(super) page: Page,
    /// The offset that it reaches.
    pub(super) reached: u64,
    /// Whether it has all messages after the client's position; `None` if the client has none.
    pub(super) recovered: Option<bool>,
    pub(super) messages: Box<[u8]>,
}

/// The pings of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pings {
    /// No ping is out.
    Idle,
    /// A ping was sent.
    AwaitingPong,
    /// It was answered.
    Answered,
}

echoring_proto::plain!(for enum Pings { Idle, AwaitingPong, Answered });

/// The due action of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// It has not connected in time.
    Stale,
    /// A ping is due.
    Ping,
    /// It has not answered the ping.
    NoPong,
    /// Nothing.
    Nothing,
}

/// A request that waits for the answer to an earlier one about the same topic.
#[derive(Debug)]
pub(super) struct WaitingRequest {
    pub(super) id: u32,
    pub(super) name: Box<str>,
    /// The subscription that is requested, and allowed by the permissions of the topic or by a token; `None` to end the present
    /// one.
    pub(super) subscribe: Option<Box<(SubscriptionRequest, Terms)>>,
}

/// The times of pings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PingTimes {
    /// From one ping to the next; 0 for no pings.
    pub(super) interval: Nanos,
    /// From a ping to its pong.
    pub(super) timeout: Nanos,
}

echoring_proto::plain!(for PingTimes { interval, timeout });

/// The pings of a session that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlainPings {
    pub(super) state: Pings,
    /// The time until something is due for them.
    pub(super) due_in: Option<Nanos>,
    pub(super) times: PingTimes,
}

echoring_proto::plain!(for PlainPings { state, due_in, times });

impl CentrifugeSession {
    /// A session whose connect command must come before `connect_by`.
    pub fn new(encoding: Encoding, connect_by: Nanos, forwarded: Option<Forwarded>) -> CentrifugeSession {
        CentrifugeSession {
            encoding,
            stage: Stage::AwaitingConnect,
            wake_at: connect_by,
            stage_at: connect_by,
            times: PingTimes::default(),
            listings: Vec::new(),
            stats: Vec::new(),
            waiting: VecDeque::new(),
            calls: AppCalls::default(),
            forwarded,
            address: None,
            info: Info::default(),
            refresh_at: None,
            refreshes: Vec::new(),
            filters: Filters::default(),
            command: None,
        }
    }

    /// The session of a client with this address.
    pub fn with_address(self, address: Option<AddressKey>) -> CentrifugeSession {
        CentrifugeSession { address, ..self }
    }

    /// The session of a client whose request has its connect command.
    pub fn with_command(self, command: Box<[u8]>) -> CentrifugeSession {
        CentrifugeSession { command: Some(command), ..self }
    }

    /// A connected session that has moved here.
    pub(super) fn continued(
        encoding: Encoding,
        pings: PlainPings,
        forwarded: Option<Forwarded>,
        now: Nanos,
    ) -> CentrifugeSession {
        let PlainPings { state, due_in, times } = pings;
        let due_at = due_in.map_or(NEVER, |left| now.saturating_add(left));
        let session = CentrifugeSession::new(encoding, due_at, forwarded);
        CentrifugeSession { stage: Stage::Connected(state), times, ..session }
    }

    /// Its pings; `None` if it is not connected.
    pub(super) fn plain_pings(&self, now: Nanos) -> Option<PlainPings> {
        let Stage::Connected(state) = self.stage else { return None };
        let due_in = (self.stage_at < NEVER).then(|| self.stage_at.saturating_sub(now));
        Some(PlainPings { state, due_in, times: self.times })
    }

    /// Whether it is connected, no request of it is open, and it has frames.
    pub(super) fn has_no_request(&self) -> bool {
        !self.encoding.is_unidirectional()
            && matches!(self.stage, Stage::Connected(_))
            && self.listings.is_empty()
            && self.stats.is_empty()
            && self.waiting.is_empty()
            && self.calls.is_empty()
            && self.refreshes.is_empty()
    }

    /// Bytes of its forwarded fields, of the data about its client, of its filters and of its commands that wait, which are charged to
    /// the memory budget.
    pub(super) fn charged_bytes(&self) -> usize {
        let forwarded_bytes = self.forwarded.as_ref().map_or(0, Forwarded::held_bytes);
        let described_bytes = self.info.text().len() + self.filters.charged_bytes();
        forwarded_bytes + described_bytes + self.calls.held.charged_bytes()
    }

    /// Bytes that it counts in the shard's [`KeptBytes`].
    pub(super) fn kept_bytes(&self) -> usize {
        let backlog_bytes = match &self.stage {
            Stage::Connecting(backlog) => backlog.bytes,
            Stage::AwaitingConnect | Stage::Connected(_) => 0,
        };
        let listed_bytes = self.listings.iter().map(|(_, pages)| pages.len()).sum::<usize>();
        backlog_bytes + listed_bytes
    }

    /// A pong arrived. One without a ping is ignored.
    pub(super) fn note_pong(&mut self) {
        if let Stage::Connected(pings @ Pings::AwaitingPong) = &mut self.stage {
            *pings = Pings::Answered;
        }
    }

    /// Takes the due action, and sets the next time. `is_excused` tells that the client cannot be expected to have
    /// answered: it is not read, or was not sent everything.
    pub(super) fn take_due(&mut self, now: Nanos, is_excused: bool) -> Due {
        let PingTimes { interval, timeout } = self.times;
        if now < self.stage_at {
            self.wake_at = self.stage_at;
            return Due::Nothing;
        }
        let (due, next) = match &mut self.stage {
            Stage::Connecting(_) => (Due::Nothing, DECISION_CHECK_INTERVAL),
            Stage::AwaitingConnect => (Due::Stale, DECISION_CHECK_INTERVAL),
            Stage::Connected(Pings::AwaitingPong) if !is_excused => (Due::NoPong, timeout),
            Stage::Connected(Pings::AwaitingPong) => (Due::Nothing, timeout),
            Stage::Connected(pings @ Pings::Idle) => {
                *pings = Pings::AwaitingPong;
                (Due::Ping, timeout)
            }
            Stage::Connected(pings @ Pings::Answered) => {
                *pings = Pings::Idle;
                (Due::Nothing, interval.saturating_sub(timeout))
            }
        };
        // Never at once again.
        self.stage_at = now + next.max(1);
        self.wake_at = self.stage_at;
        due
    }

    /// The session is due at a time at the latest. It is not in [`Alarms`] now.
    pub(super) fn wake_by(&mut self, at: Nanos) {
        self.wake_at = self.wake_at.min(at);
    }
}

impl ConnectBacklog {
    pub(super) fn new(id: u32, has_token: bool, positions: Vec<(Box<str>, Position)>) -> ConnectBacklog {
        let position_bytes =
            |(name, _): &(Box<str>, Position)| name.len() + size_of::<(Box<str>, Position)>();
        let bytes = positions.iter().map(position_bytes).sum();
        ConnectBacklog { id, has_token, positions, bytes, ..ConnectBacklog::default() }
    }

    /// The position from which the client wants to recover its subscription to a topic.
    pub(super) fn position(&self, name: &str) -> Option<Position> {
        self.positions.iter().find(|(own, _)| **own == *name).map(|(_, position)| *position)
    }

    /// Keeps the first page of a subscription. It counts as [`FirstPage::bytes`].
    pub(super) fn keep_page(&mut self, page: FirstPage) {
        self.bytes += page.bytes();
        self.pages.push(page);
    }

    /// Whether another frame of this size may be kept.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.frame_bytes + bytes <= CENTRIFUGE_CONNECT_BACKLOG_BYTES_MAX
    }

    /// Keeps a frame until the connect command is decided. It counts as [`frame_bytes`] of it.
    pub(super) fn keep(&mut self, frame: &[u8]) {
        self.frame_bytes += frame_bytes(frame);
        self.bytes += frame_bytes(frame);
        self.frames.push(frame.into());
    }

    /// Bytes that it counts in the shard's [`KeptBytes`].
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl FirstPage {
    /// The position that the answer has: with the messages of the page only if it is complete, because SDKs ignore them otherwise.
    pub(super) fn position(&self) -> Position {
        let offset = if self.recovered == Some(true) { self.reached } else { self.page.after };
        Position { offset, ..self.page.head }
    }

    /// The position behind it at which the replay continues.
    pub(super) fn next(&self) -> Replay {
        Replay::After(self.page.after).behind(&self.page, self.reached)
    }

    /// Bytes that it counts in the shard's [`KeptBytes`].
    pub(super) fn bytes(&self) -> usize {
        self.messages.len() + size_of::<FirstPage>()
    }
}

/// Bytes of a kept frame: an entry costs memory besides its bytes.
pub(super) fn frame_bytes(frame: &[u8]) -> usize {
    frame.len() + size_of::<Box<[u8]>>()
}

/// Bytes that the sessions of a shard keep for requests that are not answered yet. They are charged to the memory budget.
#[derive(Debug, Default)]
pub(super) struct KeptBytes(usize);

impl KeptBytes {
    /// Adds bytes. False, with nothing added, if that is too much.
    pub(super) fn add(&mut self, bytes: usize, pool: &mut Pool) -> bool {
        let is_added = self.0 + bytes <= CENTRIFUGE_KEPT_BYTES_MAX && pool.charge(bytes);
        self.0 += if is_added { bytes } else { 0 };
        is_added
    }

    /// Removes bytes that were added.
    pub(super) fn remove(&mut self, bytes: usize, pool: &mut Pool) {
        debug_assert!(bytes <= self.0, "only what was added is removed");
        self.0 = self.0.saturating_sub(bytes);
        pool.discharge(bytes);
    }
}

/// When sessions are due, in the order of time. A session is in it once.
#[derive(Debug, Default)]
pub(super) struct Alarms(BTreeSet<(Nanos, Token)>);

impl Alarms {
    /// Adds a session at its time, if it has one.
    pub(super) fn add(&mut self, token: Token, session: &CentrifugeSession) {
        if session.wake_at < NEVER {
            self.0.insert((session.wake_at, token));
        }
    }

    /// Removes a session that ends.
    pub(super) fn remove(&mut self, token: Token, session: &CentrifugeSession) {
        self.0.remove(&(session.wake_at, token));
    }

    /// Connects a session: its first ping is due after the interval.
    pub(super) fn connect(
        &mut self,
        token: Token,
        session: &mut CentrifugeSession,
        now: Nanos,
        times: PingTimes,
    ) {
        self.remove(token, session);
        session.stage = Stage::Connected(Pings::Idle);
        session.times = times;
        session.stage_at = if times.interval > 0 { now + times.interval } else { NEVER };
        session.wake_at = session.stage_at;
        self.add(token, session);
    }

    /// The next session that is due.
    pub(super) fn pop_due(&mut self, now: Nanos) -> Option<Token> {
        let (at, token) = *self.0.first()?;
        (at <= now).then(|| {
            self.0.pop_first();
            token
        })
    }

    /// When the next session is due.
    pub(super) fn next(&self) -> Option<Nanos> {
        self.0.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(index: u32) -> Token {
        Token { index, generation: 1 }
    }

    const TIMES: PingTimes = PingTimes { interval: 25, timeout: 10 };

    fn connected(alarms: &mut Alarms) -> CentrifugeSession {
        let mut session = CentrifugeSession::new(Encoding::Json, 5, None);
        alarms.add(token(1), &session);
        alarms.connect(token(1), &mut session, 0, TIMES);
        session
    }

    #[test]
    fn a_session_that_does_not_connect_is_stale() {
        let mut alarms = Alarms::default();
        let mut session = CentrifugeSession::new(Encoding::Json, 5, None);
        alarms.add(token(1), &session);
        assert_eq!((alarms.next(), alarms.pop_due(4)), (Some(5), None));
        assert_eq!(alarms.pop_due(5), Some(token(1)));
        assert_eq!(session.take_due(5, false), Due::Stale);
    }

    #[test]
    fn a_ping_is_due_in_each_interval_if_the_one_before_was_answered() {
        let mut alarms = Alarms::default();
        let mut session = connected(&mut alarms);
        let mut pinged = Vec::new();
        for _ in 0..6 {
            let at = alarms.next().expect("an alarm");
            assert_eq!(alarms.pop_due(at), Some(token(1)));
            if session.take_due(at, false) == Due::Ping {
                pinged.push(at);
                session.note_pong();
            }
            alarms.add(token(1), &session);
        }
        assert_eq!(pinged, [25, 50, 75]);
    }

    #[test]
    fn without_an_interval_no_ping_is_due() {
        let mut alarms = Alarms::default();
        let mut session = CentrifugeSession::new(Encoding::Json, 5, None);
        alarms.add(token(1), &session);
        alarms.connect(token(1), &mut session, 0, PingTimes { interval: 0, ..TIMES });
        assert_eq!(alarms.next(), None);
    }

    #[test]
    fn a_client_that_is_read_must_answer_and_one_that_is_not_is_excused() {
        let mut session = connected(&mut Alarms::default());
        session.note_pong();
        assert_eq!(session.take_due(25, false), Due::Ping, "a pong without a ping counts for nothing");
        assert_eq!(session.take_due(35, true), Due::Nothing);
        assert_eq!(session.take_due(45, false), Due::NoPong);
    }

    #[test]
    fn a_session_that_moves_is_pinged_when_it_would_have_been() {
        let mut alarms = Alarms::default();
        let mut session = connected(&mut alarms);
        assert!(session.has_no_request());
        let plain = |state| Some(PlainPings { state, due_in: Some(5), times: TIMES });
        assert_eq!(session.plain_pings(20), plain(Pings::Idle));
        assert_eq!(session.take_due(25, false), Due::Ping);
        assert_eq!(session.plain_pings(30), plain(Pings::AwaitingPong));
        let pings = session.plain_pings(30).expect("it is connected");
        // The other clock is ahead.
        let mut session = CentrifugeSession::continued(Encoding::Json, pings, None, 1_000);
        let mut alarms = Alarms::default();
        alarms.add(token(2), &session);
        assert_eq!(alarms.next(), Some(1_005));
        session.note_pong();
        assert_eq!(session.take_due(1_005, false), Due::Nothing);
        assert_eq!(session.take_due(1_020, false), Due::Ping);
        let mut alarms = Alarms::default();
        let none = PlainPings { state: Pings::Idle, due_in: None, times: PingTimes::default() };
        alarms.add(token(2), &CentrifugeSession::continued(Encoding::Json, none, None, 1_000));
        assert_eq!(alarms.next(), None, "there are no pings");
        assert_eq!(
            CentrifugeSession::new(Encoding::Json, 5, None).plain_pings(0),
            None,
            "it is not connected"
        );
    }

    #[test]
    fn a_session_that_ends_leaves_no_alarm() {
        let mut alarms = Alarms::default();
        let session = connected(&mut alarms);
        alarms.remove(token(1), &session);
        assert_eq!(alarms.next(), None);
    }

    #[test]
    fn what_sessions_keep_is_bounded_and_charged() {
        let (mut kept, mut pool) = (KeptBytes::default(), Pool::standalone());
        let frame = vec![0; 20_000];
        let mut backlog = ConnectBacklog::new(1, false, Vec::new());
        while backlog.has_room(frame_bytes(&frame)) {
            assert!(kept.add(frame_bytes(&frame), &mut pool));
            backlog.keep(&frame);
        }
        assert_eq!(backlog.frames.len(), CENTRIFUGE_CONNECT_BACKLOG_BYTES_MAX / frame_bytes(&frame));
        while kept.add(20_000, &mut pool) {}
        assert!(kept.0 > CENTRIFUGE_KEPT_BYTES_MAX - 20_000 && pool.used_bytes() as usize == kept.0);
        kept.remove(kept.0, &mut pool);
        assert_eq!((kept.0, pool.used_bytes()), (0, 0));
    }
}
