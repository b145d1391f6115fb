//! Peers that are slow, silent, or never end: each state has its deadline, and others are served meanwhile. Time is virtual.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use echoring::{CloseCode, Conn, Heartbeat, Opened, Role, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

use super::counting::{held_bytes, peak_bytes, restart_peak};
use super::floods::told;
use super::peer::{
    Attacks, BINARY, CLOSE, CONTINUATION, FIN, Frames, PING, PONG, ROLES, TEXT, open, read_close, read_frame,
};

const SECOND: Duration = Duration::from_secs(1);
/// Most bytes that an attack of this table costs, its pipe included.
const PEAK_BYTES_MAX: i64 = 1 << 20;

type Attack = fn(Role) -> Pin<Box<dyn Future<Output = ()>>>;

/// Attacks, each with the range of seconds that it takes.
const ATTACKS: &[(&str, Attack, [f32; 2])] = &[
    ("a message byte by byte, past its time", |role| Box::pin(dribbled(role, Dribble::Frame)), [9.9, 10.2]),
    (
        "fragments without end, past their time",
        |role| Box::pin(dribbled(role, Dribble::Fragments)),
        [9.9, 11.2],
    ),
    ("pings inside a message, past its time", |role| Box::pin(dribbled(role, Dribble::Pings)), [9.9, 11.2]),
    ("a peer that does not read", |role| Box::pin(never_reads(role)), [1.9, 2.1]),
    ("a peer that does not read, and this end closes", |role| Box::pin(never_reads_close(role)), [4.9, 5.1]),
    (
        "a peer that does not read the Close frame for its violation",
        |role| Box::pin(never_reads_code(role)),
        [4.9, 5.1],
    ),
    ("a peer that does not answer a Close frame", |role| Box::pin(never_answers(role, false)), [4.9, 5.1]),
    ("a peer that sends on instead of answering", |role| Box::pin(never_answers(role, true)), [4.9, 5.2]),
    ("a peer that does not end its stream", |role| Box::pin(never_ends(role)), [0.0, 5.2]),
    ("a peer that is silent", |role| Box::pin(silent(role)), [13.9, 14.2]),
    (
        "a peer that half-closes inside a message",
        |role| Box::pin(half_closes(role, Half::Message)),
        [0.0, 5.2],
    ),
    ("a peer that half-closes inside a header", |role| Box::pin(half_closes(role, Half::Header)), [0.0, 5.2]),
    (
        "a peer that half-closes between messages",
        |role| Box::pin(half_closes(role, Half::Between)),
        [0.0, 5.2],
    ),
    ("a Close frame between fragments", |role| Box::pin(close_inside(role)), [0.0, 0.1]),
    ("two Close frames", |role| Box::pin(closes_twice(role)), [0.0, 0.1]),
];

#[test]
fn every_state_has_its_deadline_and_others_are_served() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let mut attacks = Attacks::default();
    for (name, attack, [at_least, at_most]) in ATTACKS {
        for role in ROLES {
            let attacking = async {
                let neighbour = tokio::spawn(neighbour());
                sleep(SECOND).await;
                let (held, began) = (held_bytes(), Instant::now());
                restart_peak();
                attack(role).await;
                let (took, peak) = (began.elapsed().as_secs_f32(), peak_bytes() - held);
                assert!((*at_least..*at_most).contains(&took), "{took} s");
                assert!(peak < PEAK_BYTES_MAX, "{peak} bytes");
                assert!(!neighbour.is_finished(), "the neighbour goes on");
                neighbour.abort();
            };
            attacks.run(&format!("{role:?}: {name}"), || runtime.block_on(attacking));
        }
    }
}

/// Two connections of which one echoes. Each echo comes in time.
async fn neighbour() {
    let (near, far) = tokio::io::duplex(1_024);
    let mut server = Conn::new(near, &Settings::default(), Opened::new(Role::Server));
    let mut client = Conn::new(far, &Settings::default(), Opened::new(Role::Client));
    let echoing = async {
        loop {
            let message = server.read().await.expect("a message");
            server.write(message).await.expect("echoed");
        }
    };
    let asking = async {
        loop {
            let began = Instant::now();
            client.write("a message").await.expect("sent");
            client.read().await.expect("the echo");
            assert!(began.elapsed() < Duration::from_millis(20), "{:?}", began.elapsed());
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! { () = echoing => {}, () = asking => {} }
}

#[derive(Clone, Copy)]
enum Dribble {
    Frame,
    Fragments,
    Pings,
}

async fn dribbled(role: Role, how: Dribble) {
    let frames = Frames(role);
    let settings = Settings::default().message_progress(1_024, 10 * SECOND);
    let (mut conn, far) = open(role, settings, 4_096, &[]).await;
    let sending = async {
        let (step, pause) = match how {
            Dribble::Frame => (vec![0], SECOND / 10),
            Dribble::Fragments => (frames.frame(CONTINUATION, b"x"), SECOND),
            Dribble::Pings => (frames.frame(FIN | PING, b""), SECOND),
        };
        let begin = match how {
            Dribble::Frame => frames.header(FIN | BINARY, 60_000),
            _ => frames.frame(TEXT, b""),
        };
        let (mut from, mut to) = tokio::io::split(far);
        let dribbling = async {
            to.write_all(&begin).await.expect("sent");
            loop {
                if to.write_all(&step).await.is_err() {
                    return;
                }
                sleep(pause).await;
            }
        };
        let mut code = None;
        let reading = async {
            while let Some((first, payload)) = read_frame(&mut from).await {
                match first & 0x0f {
                    CLOSE => {
                        code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                        return;
                    }
                    other => assert_eq!(other, PONG),
                }
            }
        };
        tokio::select! { () = dribbling => {}, () = reading => {} }
        code
    };
    let (end, code) = tokio::join!(conn.read(), sending);
    assert_eq!(
        (told(&end.expect_err("the end")), code),
        ("offence message arrived too slowly".to_owned(), Some(4009))
    );
}

async fn never_reads(role: Role) {
    let (mut conn, far) = open(role, Settings::default(), 4_096, &[]).await;
    conn.set_write_deadline(Some(Instant::now() + 2 * SECOND));
    let mut written = 0;
    let end = loop {
        match conn.write(vec![7; 16 << 10]).await {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((told(&end), written), ("the message was not sent before the deadline".to_owned(), 0));
    // Nothing that was queued is lost: the peer reads after all.
    let (mut from, _to) = tokio::io::split(far);
    conn.set_write_deadline(None);
    let (flushed, frame) = tokio::join!(conn.write("behind it"), async {
        [read_frame(&mut from).await.expect("a frame"), read_frame(&mut from).await.expect("a frame")]
    });
    flushed.expect("sent");
    assert_eq!(frame[0], (FIN | BINARY, vec![7; 16 << 10]));
    assert_eq!(frame[1], (FIN | TEXT, b"behind it".to_vec()));
}

async fn never_reads_close(role: Role) {
    let (mut conn, _far) = open(role, Settings::default(), 4_096, &[]).await;
    conn.set_write_deadline(Some(Instant::now()));
    assert_eq!(
        told(&conn.write(vec![7; 16 << 10]).await.expect_err("late")),
        "the message was not sent before the deadline"
    );
    let end = conn.close(CloseCode::NORMAL, "").await.expect_err("no answer");
    assert_eq!(told(&end), "the peer did not answer our Close frame");
}

async fn never_reads_code(role: Role) {
    let (mut conn, mut far) = open(role, Settings::default(), 4_096, &[]).await;
    conn.set_write_deadline(Some(Instant::now()));
    assert_eq!(
        told(&conn.write(vec![7; 16 << 10]).await.expect_err("late")),
        "the message was not sent before the deadline"
    );
    far.write_all(&Frames(role).frame(FIN | 3, b"")).await.expect("sent");
    let end = conn.read().await.expect_err("the end");
    assert_eq!(told(&end), "offence unknown opcode");
}

async fn never_answers(role: Role, sends: bool) {
    let frames = Frames(role);
    let (mut conn, far) = open(role, Settings::default(), 4_096, &[]).await;
    let (mut from, mut to) = tokio::io::split(far);
    let attacking = async {
        let message = frames.frame(FIN | BINARY, &[7; 100]);
        let reading = async { while read_frame(&mut from).await.is_some() {} };
        let sending = async {
            while sends && to.write_all(&message).await.is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! { () = reading => {}, () = sending => {} }
    };
    let closing = async {
        let end = conn.close(CloseCode::GOING_AWAY, "").await.expect_err("no answer");
        assert_eq!(told(&end), "the peer did not answer our Close frame");
        drop(conn);
    };
    tokio::join!(attacking, closing);
}

/// The closing handshake is complete: a server ends the stream itself, a client waits for a while (RFC 6455, 7.1.1).
async fn never_ends(role: Role) {
    let (mut conn, mut far) = open(role, Settings::default(), 4_096, &[]).await;
    let began = Instant::now();
    let answering = async {
        let (first, payload) = read_frame(&mut far).await.expect("a Close frame");
        assert_eq!((first, &payload[..2]), (FIN | CLOSE, &1000_u16.to_be_bytes()[..]));
        far.write_all(&Frames(role).close(1000, b"")).await.expect("sent");
    };
    let (closed, ()) = tokio::join!(conn.close(CloseCode::NORMAL, ""), answering);
    assert_eq!(closed.expect("closed").code, CloseCode::NORMAL);
    let waited = began.elapsed();
    match role {
        Role::Server => assert!(waited < SECOND / 10, "{waited:?}"),
        Role::Client => assert!(waited > 4 * SECOND, "{waited:?}"),
    }
}

async fn silent(role: Role) {
    let heartbeat = Heartbeat::every(10 * SECOND).timeout(4 * SECOND);
    let settings = Settings::default().heartbeat(heartbeat);
    let (mut conn, _far) = open(role, settings, 4_096, &[]).await;
    assert_eq!(told(&conn.read().await.expect_err("the end")), "the peer did not answer the heartbeat");
}

#[derive(Clone, Copy)]
enum Half {
    Message,
    Header,
    Between,
}

/// The peer's stream ends, but it reads on.
async fn half_closes(role: Role, place: Half) {
    let frames = Frames(role);
    let (mut conn, mut far) = open(role, Settings::default(), 4_096, &[]).await;
    let whole = frames.frame(FIN | TEXT, b"whole");
    let rest = match place {
        Half::Message => frames.frame(TEXT, b"begun"),
        Half::Header => frames.header(FIN | TEXT, 1_000)[..3].to_vec(),
        Half::Between => Vec::new(),
    };
    far.write_all(&[whole, rest].concat()).await.expect("sent");
    far.shutdown().await.expect("shut down");
    assert_eq!(conn.read().await.expect("a message"), "whole".into());
    assert_eq!(told(&conn.read().await.expect_err("the end")), "broken");
    assert!(conn.write("x").await.is_err());
    drop(conn);
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).await.expect("the end of the stream");
}

async fn close_inside(role: Role) {
    let frames = Frames(role);
    let bytes = [frames.frame(TEXT, b"begun"), frames.close(1001, b"away")].concat();
    assert_eq!(end_of(role, &bytes).await, ("closed 1001".to_owned(), Some(1001)));
}

async fn closes_twice(role: Role) {
    let frames = Frames(role);
    let bytes = [frames.close(1000, b"first"), frames.close(4000, b"second")].concat();
    assert_eq!(end_of(role, &bytes).await, ("closed 1000".to_owned(), Some(1000)));
}

/// How reading ends after these bytes, and the code of the Close frame that the peer gets.
async fn end_of(role: Role, bytes: &[u8]) -> (String, Option<u16>) {
    let (mut conn, mut far) = open(role, Settings::default(), 4_096, &[]).await;
    far.write_all(bytes).await.expect("sent");
    let reading = async {
        let end = conn.read().await.expect_err("the end");
        drop(conn);
        told(&end)
    };
    tokio::join!(reading, read_close(&mut far))
}
