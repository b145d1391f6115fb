//! A whole asynchronous connection over a stream in memory. The bytes are arbitrary and arrive in any parts, the stream takes
//! any part of what is written, and the application reads, streams, writes, feeds, splits, pings and closes in any order, with
//! futures that it drops at any point.
//!
//! What is read equals what the protocol's core reads from all bytes at once; what is sent is valid, and has each accepted
//! message once, whole and in order. Whoever waits is woken. What is queued is bounded.
//!
//! Input: three bytes of options, one more for compression if they enable it, a script of choices, and the wire, raw or as
//! frames made from it.

mod app;
mod pipe;

use std::time::Duration;

use echoring_async::{Conn, Error, Heartbeat, Opened, Settings};
use echoring_proto::connection::{Cause, Compression, ConnectionConfig};
use echoring_proto::deflate::{self, Agreement, Direction};
use echoring_proto::{ProtocolError, Role};

use self::app::{App, Got, Owed};
use self::pipe::{Pipe, Wire};
use super::connection::{compression, opposite};
use super::cursor::{Choices, Cursor};
use super::peer::{App as CoreApp, Habits, Peer};
use super::reference::{self, End, Heard, Message, Rules};
use super::wire;

/// Bytes of a message that the application sends, at most.
const SENT_BYTES_MAX: usize = 10_000;

pub fn run_server(data: &[u8]) {
    run(Role::Server, data);
}

pub fn run_client(data: &[u8]) {
    run(Role::Client, data);
}

/// A case, as its first bytes describe it.
struct Case<'a> {
    role: Role,
    settings: Settings,
    agreement: Option<Agreement>,
    /// The stream takes less than it is given, and flushes late.
    rough: bool,
    choices: Choices<'a>,
    wire: Vec<u8>,
}

fn case(role: Role, data: &[u8]) -> Case<'_> {
    let mut cursor = Cursor::new(data);
    let (options, limits, sizes) = (cursor.byte(), cursor.byte(), cursor.byte());
    let set = |bit: u8| options >> bit & 1 == 1;
    let compression = set(1).then(|| compression(cursor.byte()));
    let settings = Settings::default()
        .read_buffer_bytes([0, 1, 16, 60, 1_000, 4_096, 10_000, 70_000][usize::from(sizes & 7)])
        .write_buffer_bytes([0, 1, 16, 60, 1_000, 4_096, 10_000, 70_000][usize::from(sizes >> 3 & 7)])
        .max_message([1 << 16, 1 << 20, 300, 125][usize::from(limits & 3)])
        .queue_bytes([1 << 18, 1_000][usize::from(limits >> 2 & 1)])
        .pings_per_second_max(u32::MAX)
        .message_progress(1_024, set(2).then(|| Duration::from_secs(20)))
        .heartbeat(set(3).then(|| Heartbeat::every(Duration::from_secs(5)).timeout(Duration::from_secs(4))))
        .compression(compression);
    let agreement = settings.compression.and_then(|compression| agree(&compression));
    let choices = cursor.choices();
    let wire = wire::wire(cursor.rest(), opposite(role), set(0));
    Case { role, settings, agreement, rough: set(4), choices, wire }
}

fn agree(compression: &Compression) -> Option<Agreement> {
    let mut offer = Vec::new();
    deflate::write_offer(&mut offer, &compression.preferences);
    deflate::agree([&offer[..]].into_iter(), &compression.preferences)
}

fn run(role: Role, data: &[u8]) {
    let mut case = case(role, data);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let done = runtime.expect("a runtime").block_on(tokio::task::unconstrained(async {
        let pipe = Pipe::default();
        {
            let mut wire = pipe.0.borrow_mut();
            wire.room = if case.rough { 0 } else { usize::MAX };
            wire.lazy_flush = case.rough;
        }
        // The first bytes may come with the handshake.
        let early = (case.choices.chunk_bytes() % 64).min(case.wire.len());
        let rest = case.wire.split_off(early);
        let early = std::mem::replace(&mut case.wire, rest);
        let mut opened = Opened::new(case.role);
        (opened.agreement, opened.early) = (case.agreement, early.clone().into());
        let conn = Conn::new(pipe.clone(), &case.settings, opened);
        let mut app = App::new(conn, pipe, case.choices.clone(), &case.settings, early);
        app.drive(&case.wire, case.rough).await;
        app.finish(&case.wire).await;
        app.done()
    }));
    judge(&case, done);
}

/// What the application has seen and done.
struct Done {
    /// The messages that it read, whole or in part.
    got: Vec<Got>,
    /// What it sent.
    owed: Vec<Owed>,
    /// Why its reads ended.
    end: Error,
    /// Another event than the peer's bytes may have ended the connection, or thrown messages away.
    ended_here: bool,
    /// A Close frame of the application overtook what was queued.
    overtaken: bool,
    /// A message was begun in fragments and never finished.
    abandoned: bool,
    /// Pings of the application and of its heartbeat.
    pinged: bool,
    /// Time passed before the end, so that what was blocked may have been given up.
    time_passed: bool,
    wire: Wire,
}

fn judge(case: &Case<'_>, done: Done) {
    let Done { got, end, ended_here, wire, .. } = &done;
    let [inbound, outbound] = [
        case.agreement.map(|agreement| agreement.inbound(case.role)),
        case.agreement.map(|agreement| agreement.outbound(case.role)),
    ];
    let rules = Rules { max_message: case.settings.max_message, deflate: inbound, ..Rules::of(case.role) };
    let heard = reference::receive(&wire.incoming, rules);
    let (shown, cause) = core(case, &wire.incoming);
    assert_eq!(shown, heard.messages, "the core and the reference");
    let messages_end = read_as_shown(got, &shown, heard.unfinished.as_ref());
    let told = match end {
        Error::ProtocolError(ProtocolError::SlowMessage) | Error::PongTimeout | Error::CloseTimeout => None,
        Error::Io(_) if wire.failed => None,
        Error::ProtocolError(offence) => Some(End::ProtocolError(*offence)),
        Error::Closed(frame) => {
            let expected = reference::close_code(heard.close.as_deref().unwrap_or_default());
            assert_eq!(frame.code.0, expected, "the peer's code");
            Some(End::Closed)
        }
        Error::Broken => Some(End::Open),
        other => panic!("{other}"),
    };
    if !ended_here && let Some(told) = told {
        assert_eq!(told, heard.end);
        assert!(messages_end, "{} of {} messages", got.len(), shown.len());
        let caused = match cause {
            Some(Cause::ProtocolError(offence)) => End::ProtocolError(offence),
            Some(Cause::Peer) => End::Closed,
            None => End::Open,
            other => panic!("{other:?}"),
        };
        assert_eq!(caused, told, "the core's end");
    }
    judge_sent(case, &done, &heard, outbound);
}

/// The messages and the end of the protocol's core, which gets all bytes at once.
fn core(case: &Case<'_>, bytes: &[u8]) -> (Vec<Message>, Option<Cause>) {
    let config = ConnectionConfig {
        max_message: case.settings.max_message,
        pings_per_second_max: u32::MAX,
        compression: case.settings.compression,
        ..ConnectionConfig::default()
    };
    let habits = Habits::plain(case.role, CoreApp::Silent);
    let mut core = Peer::open(habits, config, Choices::default()).expect("memory");
    core.receive(bytes);
    let cause = core.connection.closed().map(|closed| closed.cause.clone());
    let shown = std::mem::take(&mut core.shown);
    core.finish();
    (shown, cause)
}

/// Whether all messages were read; what was read is a beginning of them in any case.
fn read_as_shown(got: &[Got], shown: &[Message], unfinished: Option<&Message>) -> bool {
    for (at, got) in got.iter().enumerate() {
        match (got, shown.get(at)) {
            (Got::Whole { text, payload }, Some(message)) => {
                assert_eq!((*text, payload), (message.text, &message.payload), "message {at}");
            }
            (Got::Part { text, payload }, message) => {
                let message = message.or(unfinished.filter(|_| at == shown.len()));
                let message = message.expect("a part of a message that nobody sent");
                let compressed = message.compressed;
                let begins = message.payload.starts_with(payload) || (compressed && payload.is_empty());
                assert!(*text == message.text && begins, "part of message {at}");
            }
            (Got::Whole { .. }, None) => panic!("message {at} of {}", shown.len()),
        }
    }
    got.len() >= shown.len()
}

/// What was sent is valid for the other end, and has what the application sent.
fn judge_sent(case: &Case<'_>, done: &Done, inbound: &Heard, deflate: Option<Direction>) {
    let sent = &done.wire.sent;
    let heard = reference::receive(sent, Rules { deflate, ..Rules::of(opposite(case.role)) });
    let cut = done.wire.failed
        || (case.rough && done.time_passed)
        || matches!(done.end, Error::CloseTimeout | Error::PongTimeout | Error::Io(_));
    match heard.end {
        End::ProtocolError(offence) => panic!("we sent what is an offence: {offence}"),
        End::Closed => assert_eq!(heard.used_bytes, sent.len(), "bytes behind our Close frame"),
        End::Open => assert!(cut || heard.frame_at == sent.len(), "we sent half a frame"),
    }
    assert!(
        heard.unfinished.is_none() || done.abandoned || cut || done.overtaken || heard.end == End::Closed,
        "a message was left unfinished"
    );
    let offended = matches!(done.end, Error::ProtocolError(_));
    let complete = !cut && !offended && !done.overtaken;
    let mut owed = done.owed.iter();
    for message in &heard.messages {
        let found = owed.find(|owed| {
            let same = owed.text == message.text && owed.payload == message.payload;
            assert!(same || !complete || !owed.certain, "a message was accepted and not sent");
            same
        });
        assert!(found.is_some(), "a message that nobody sent, or one out of order");
    }
    let missing = owed.find(|owed| owed.certain);
    assert!(!complete || missing.is_none(), "a message was accepted and not sent: {missing:?}");
    // Each pong answers a ping; all are answered where the stream takes everything.
    let mut pings = inbound.pings.clone();
    for pong in &heard.pongs {
        let at = pings.iter().position(|ping| ping == pong).expect("a pong that no ping asked for");
        pings.remove(at);
    }
    if !case.rough && complete && !done.ended_here {
        assert!(pings.is_empty(), "{} pings were not answered", pings.len());
    }
    assert!(done.pinged || heard.pings.is_empty(), "a ping that nobody sent");
    let code = heard.close.as_deref().map(reference::close_code);
    match &done.end {
        Error::ProtocolError(offence) if !cut && !done.ended_here => {
            assert_eq!(code, Some(offence.close_code().0));
        }
        Error::Closed(frame) if !cut && !done.ended_here => assert_eq!(code, Some(frame.code.0)),
        _ => {}
    }
}
