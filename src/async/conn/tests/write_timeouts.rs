//! A peer that does not read ends the connection after the write timeout, whatever waits for it. Time is virtual.

use std::future::Future;
use std::time::Duration;

use futures_sink::Sink;
use tokio::time::sleep;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes that the transport holds.
const PIPE_BYTES: usize = 100;

fn settings() -> Settings {
    Settings::default().write_timeout(TIMEOUT)
}

/// A connection, and the peer's end of its stream.
fn open(role: Role) -> (Conn<DuplexStream>, DuplexStream) {
    let (ours, theirs) = duplex(PIPE_BYTES);
    (conn(ours, role, &settings()), theirs)
}

fn long() -> String {
    "x".repeat(10 * PIPE_BYTES)
}

async fn ends_in_time(waits: &str, write: impl Future<Output = Error>) {
    let began = Instant::now();
    let error = write.await;
    assert!(matches!(error, Error::SendTimeout), "{waits}: {error:?}");
    assert_eq!(began.elapsed(), TIMEOUT, "{waits}");
}

async fn is_over(waits: &str, conn: &mut Conn<DuplexStream>) {
    let later = [
        conn.read().await.map(drop),
        conn.write("y").await,
        conn.flush().await,
        conn.ping(b"").await,
        conn.close(CloseCode::NORMAL, "").await.map(drop),
        conn.read().await.map(drop),
    ];
    for (number, later) in later.into_iter().enumerate() {
        assert!(matches!(later, Err(Error::SendTimeout)), "{waits}, call {number}: {later:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_call_that_waits_for_the_peer_ends_the_connection() {
    for role in [Role::Server, Role::Client] {
        let (mut conn, _peer) = open(role);
        ends_in_time("write", async { conn.write(long()).await.expect_err("late") }).await;
        is_over("write", &mut conn).await;

        let (mut conn, _peer) = open(role);
        conn.feed(long()).await.expect("queued");
        ends_in_time("flush", async { conn.flush().await.expect_err("late") }).await;
        is_over("flush", &mut conn).await;

        let (mut conn, _peer) = open(role);
        conn.feed("x".repeat(5_000)).await.expect("queued");
        ends_in_time("feed", async { conn.feed("no room").await.expect_err("late") }).await;
        is_over("feed", &mut conn).await;

        let (mut conn, _peer) = open(role);
        conn.feed(long()).await.expect("queued");
        let control = conn.control();
        ends_in_time("control", async { control.ping(b"").await.expect_err("late") }).await;
        is_over("control", &mut conn).await;

        let (mut conn, _peer) = open(role);
        let sinking = async {
            poll_fn(|cx| Pin::new(&mut conn).poll_ready(cx)).await.expect("room");
            Pin::new(&mut conn).start_send(long().into()).expect("queued");
            poll_fn(|cx| Pin::new(&mut conn).poll_flush(cx)).await.expect_err("late")
        };
        ends_in_time("sink", sinking).await;
        is_over("sink", &mut conn).await;

        let (mut conn, _peer) = open(role);
        let streaming = async {
            let mut writer = conn.next_writer(MessageKind::Binary);
            let error = loop {
                if let Err(error) = writer.write_all(&[7; 1_000]).await {
                    break error;
                }
            };
            error.downcast().expect("an error of the connection")
        };
        ends_in_time("a message in fragments", streaming).await;
        is_over("a message in fragments", &mut conn).await;

        let (conn, _peer) = open(role);
        let (mut reader, writer) = conn.split();
        let (sender, send_task) = writer.into_sender(1);
        sender.send(long()).await.expect("queued");
        ends_in_time("a send task", async { send_task.await.expect_err("late") }).await;
        assert!(matches!(reader.read().await, Err(Error::SendTimeout)));

        let (mut conn, _peer) = open(role);
        conn.feed(long()).await.expect("queued");
        let closing = async { conn.close(CloseCode::NORMAL, "").await.expect_err("late") };
        ends_in_time("close", closing).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_only_read_ends_when_its_answers_are_not() {
    let (mut server, peer) = open(Role::Server);
    let (mut unread, mut asking) = tokio::io::split(peer);
    let attack = tokio::spawn(async move {
        // Each is answered by a pong of 102 bytes.
        while asking.write_all(&masked(Opcode::Ping, true, &[b'p'; 100])).await.is_ok() {}
    });
    let began = Instant::now();
    assert!(matches!(server.read().await, Err(Error::SendTimeout)));
    assert_eq!(began.elapsed(), TIMEOUT);
    is_over("pongs", &mut server).await;
    drop(server);
    attack.await.expect("no panic");
    // The first pong was cut.
    let mut got = Vec::new();
    unread.read_to_end(&mut got).await.expect("what the stream holds");
    assert_eq!(got.len(), PIPE_BYTES);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_no_heartbeats_is_found() {
    let heartbeat = Heartbeat::every(SECOND).without_timeout().payload("beat");
    let (ours, _theirs) = duplex(PIPE_BYTES);
    let mut server = conn(ours, Role::Server, &settings().heartbeat(heartbeat));
    let began = Instant::now();
    assert!(matches!(server.read().await, Err(Error::SendTimeout)));
    // Pings of six bytes: sixteen fit, and the next one waits.
    assert_eq!(began.elapsed(), 17 * SECOND + TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_reads_and_one_that_writes_both_learn_of_it() {
    let (server, _peer) = open(Role::Server);
    let (mut reader, mut writer) = server.split();
    let began = Instant::now();
    let (read, written) = tokio::join!(reader.read(), writer.write(long()));
    assert!(matches!((read, written), (Err(Error::SendTimeout), Err(Error::SendTimeout))));
    assert_eq!(began.elapsed(), TIMEOUT);
}

/// Reads `bytes` every so often.
async fn read_slowly(mut peer: DuplexStream, bytes: usize, every: Duration) {
    let mut taken = vec![0; bytes];
    loop {
        sleep(every).await;
        if !matches!(peer.read(&mut taken).await, Ok(1..)) {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_a_frame_in_time_may_be_slow() {
    // Frames of the transport's size, and one of many times that.
    for (messages, bytes, every, expected) in [
        (20, 98, 2 * SECOND, true),
        (20, 98, 4 * SECOND, false),
        (1, 500, SECOND / 2, true),
        (1, 5_000, SECOND / 2, false),
    ] {
        let (mut server, peer) = open(Role::Server);
        let reading = tokio::spawn(read_slowly(peer, PIPE_BYTES, every));
        let began = Instant::now();
        let mut sent = Ok(());
        for _ in 0..messages {
            sent = server.write("x".repeat(bytes)).await;
            if sent.is_err() {
                break;
            }
        }
        let case = format!("{messages} messages of {bytes} bytes: {sent:?} after {:?}", began.elapsed());
        assert_eq!(sent.is_ok(), expected, "{case}");
        assert!(sent.is_ok() || matches!(sent, Err(Error::SendTimeout)), "{case}");
        assert!(messages == 1 || !expected || began.elapsed() > 10 * TIMEOUT, "{case}");
        reading.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_while_nobody_waited_is_not_late() {
    let (mut server, mut peer) = open(Role::Server);
    // 150 bytes with its header, of which the transport holds 100.
    let dropped = tokio::time::timeout(SECOND, server.write("x".repeat(148))).await;
    assert!(dropped.is_err(), "it waits");
    peer.read_exact(&mut [0; PIPE_BYTES]).await.expect("read");
    sleep(10 * TIMEOUT).await;
    server.write("y").await.expect("the rest is accepted at once");
    peer.read_exact(&mut [0; 53]).await.expect("read");

    // Of the next one, the peer takes nothing.
    let dropped = tokio::time::timeout(SECOND, server.write(long())).await;
    assert!(dropped.is_err(), "it waits");
    let began = Instant::now();
    assert!(matches!(server.read().await, Err(Error::SendTimeout)));
    assert_eq!(began.elapsed(), TIMEOUT - SECOND, "the clock went on");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_before_the_timeout_leaves_the_connection() {
    let (mut server, _peer) = open(Role::Server);
    let began = Instant::now();
    server.set_write_deadline(Some(began + SECOND));
    assert!(matches!(server.write(long()).await, Err(Error::WriteTimeout)));
    assert_eq!(began.elapsed(), SECOND);
    server.set_write_deadline(Some(began + 10 * SECOND));
    assert!(matches!(server.flush().await, Err(Error::SendTimeout)));
    assert_eq!(began.elapsed(), TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn without_a_timeout_a_write_waits() {
    let (ours, mut theirs) = duplex(PIPE_BYTES);
    let mut server = conn(ours, Role::Server, &Settings::default());
    let writing = tokio::spawn(async move { server.write(long()).await });
    sleep(3_600 * SECOND).await;
    assert!(!writing.is_finished());
    theirs.read_exact(&mut vec![0; 1_004]).await.expect("read");
    writing.await.expect("no panic").expect("sent");
    // One that never comes, and one at once.
    for (timeout, waits) in [(Duration::MAX, true), (Duration::ZERO, false)] {
        let (ours, _theirs) = duplex(PIPE_BYTES);
        let mut server = conn(ours, Role::Server, &Settings::default().write_timeout(timeout));
        let written = tokio::time::timeout(3_600 * SECOND, server.write(long())).await;
        assert_eq!(written.is_err(), waits, "{timeout:?}: {written:?}");
    }
}
