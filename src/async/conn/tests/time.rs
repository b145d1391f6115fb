//! Deadlines and heartbeats, in virtual time.

use std::time::Duration;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_read_deadline_passes_and_reading_continues() {
    let (mut server, mut peer) = server_by_hand(&Settings::default());
    let frame = masked(Opcode::Text, true, b"slow");
    peer.write_all(&frame[..8]).await.expect("sent");
    let began = Instant::now();
    server.set_read_deadline(Some(began + 2 * SECOND));
    assert!(matches!(server.read().await, Err(Error::ReadTimeout)));
    assert_eq!(began.elapsed(), 2 * SECOND);
    assert!(matches!(server.read().await, Err(Error::ReadTimeout)), "it has still passed");
    server.set_read_deadline(Some(began + 4 * SECOND));
    assert!(matches!(server.read().await, Err(Error::ReadTimeout)));
    server.set_read_deadline(None);
    peer.write_all(&frame[8..]).await.expect("sent");
    assert_eq!(server.read().await.expect("a message"), "slow".into());
}

#[tokio::test(start_paused = true)]
async fn a_write_deadline_passes_and_the_message_is_sent_later() {
    let (ours, theirs) = duplex(100);
    let mut server = conn(ours, Role::Server, &Settings::default());
    let mut client = conn(theirs, Role::Client, &Settings::default());
    let began = Instant::now();
    server.set_write_deadline(Some(began + 3 * SECOND));
    assert!(matches!(server.write("x".repeat(1000)).await, Err(Error::WriteTimeout)));
    assert_eq!(began.elapsed(), 3 * SECOND);
    server.set_write_deadline(None);
    let reading = tokio::spawn(async move {
        let messages = (client.read().await, client.read().await);
        (messages.0.expect("a message"), messages.1.expect("a message"))
    });
    server.write("y").await.expect("sent");
    assert_eq!(reading.await.expect("read"), ("x".repeat(1000).into(), "y".into()));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_stops_arriving_closes_the_connection() {
    let settings = Settings::default().message_progress(1_024, 10 * SECOND);
    let (mut server, mut peer) = server_by_hand(&settings);
    peer.write_all(&masked(Opcode::Text, false, b"begun")).await.expect("sent");
    let began = Instant::now();
    assert!(matches!(server.read().await, Err(Error::ProtocolError(ProtocolError::SlowMessage))));
    assert!((10_000..10_100).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(frame_of(&mut peer).await.1[..2], CloseCode::SLOW_MESSAGE.0.to_be_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_message_that_makes_progress_may_take_any_time() {
    const PAYLOAD_BYTES: usize = 60_000;
    let settings = Settings::default().message_progress(1_024, 10 * SECOND);
    let (mut server, mut peer) = server_by_hand(&settings);
    let began = Instant::now();
    let sending = tokio::spawn(async move {
        for piece in masked(Opcode::Binary, true, &[7; PAYLOAD_BYTES]).chunks(1_100) {
            tokio::time::sleep(9 * SECOND).await;
            peer.write_all(piece).await.expect("sent");
        }
        peer
    });
    assert_eq!(server.read().await.expect("a message"), vec![7; PAYLOAD_BYTES].into());
    assert!(began.elapsed() > 400 * SECOND);
    // As many bytes, a little later each.
    let mut peer = sending.await.expect("sent");
    peer.write_all(&masked(Opcode::Binary, true, &[7; PAYLOAD_BYTES])[..20]).await.expect("sent");
    let began = Instant::now();
    let sending = async {
        loop {
            tokio::time::sleep(SECOND).await;
            if peer.write_all(&[7; 100]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        end = server.read() => {
            assert!(matches!(end, Err(Error::ProtocolError(ProtocolError::SlowMessage))), "{end:?}");
        }
        () = sending => {}
    }
    assert!((10_000..10_100).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_pings_and_detects_a_dead_peer() {
    let heartbeat = Heartbeat::every(10 * SECOND).timeout(25 * SECOND).payload("beat");
    let settings = Settings { heartbeat: Some(heartbeat), ..Settings::default() };
    let (mut server, mut peer) = server_by_hand(&settings);
    let began = Instant::now();
    let reading = tokio::spawn(async move { (server.read().await, server) });
    for n in 1..=5 {
        let (header, payload) = frame_of(&mut peer).await;
        assert_eq!((header.opcode, payload), (Opcode::Ping, b"beat".to_vec()));
        assert_eq!(began.elapsed().as_secs(), 10 * n);
        // Any byte counts, and the third heartbeat is the last that gets one.
        if n <= 3 {
            peer.write_all(&masked(Opcode::Pong, true, b"other")).await.expect("sent");
        }
    }
    let (ended, mut server) = reading.await.expect("read");
    assert!(matches!(ended, Err(Error::PongTimeout)));
    assert_eq!(began.elapsed().as_secs(), 40 + 25);
    assert!(matches!(server.read().await, Err(Error::PongTimeout)));
    assert!(matches!(server.write("x").await, Err(Error::PongTimeout)));
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_may_be_a_message_that_wants_no_answer() {
    let heartbeat = Heartbeat::every(3 * SECOND).message("heart beat").without_timeout();
    let (mut server, mut client) = pair();
    server.set_heartbeat(Some(heartbeat));
    let began = Instant::now();
    let discarding = tokio::spawn(async move { server.discard_reads().await });
    for n in 1..=4 {
        assert_eq!(client.read().await.expect("a message"), "heart beat".into());
        assert_eq!(began.elapsed(), 3 * n * SECOND);
    }
    client.close(CloseCode::NORMAL, "").await.expect("closed");
    assert!(discarding.await.expect("joined").is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_send_task_sends_heartbeats_while_idle_and_nobody_reads() {
    let settings =
        Settings { heartbeat: Some(Heartbeat::every(SECOND).without_timeout()), ..Settings::default() };
    let (server, mut peer) = server_by_hand(&settings);
    let (_reader, writer) = server.split();
    let (sender, send_task) = writer.into_sender(1);
    let send_task = tokio::spawn(send_task);
    let began = Instant::now();
    for n in 1..=3 {
        assert_eq!(frame_of(&mut peer).await.0.opcode, Opcode::Ping);
        assert_eq!(began.elapsed().as_secs(), n);
    }
    drop(sender);
    send_task.await.expect("joined").expect("all was sent");
}

#[tokio::test(start_paused = true)]
async fn a_peer_with_a_full_receive_buffer_is_not_declared_dead() {
    let heartbeat = Heartbeat::every(SECOND).timeout(2 * SECOND);
    let settings = Settings { heartbeat: Some(heartbeat), ..Settings::default() };
    let (ours, mut peer) = duplex(100);
    let server = conn(ours, Role::Server, &settings);
    let (mut reader, mut writer) = server.split();
    let writing = tokio::spawn(async move { writer.write("x".repeat(1000)).await });
    let reading = tokio::spawn(async move { reader.read().await });
    tokio::time::advance(Duration::ZERO).await;
    tokio::time::sleep(60 * SECOND).await;
    assert!(!reading.is_finished());
    assert_eq!(frame_of(&mut peer).await.1.len(), 1000);
    writing.await.expect("joined").expect("sent");
    peer.write_all(&masked(Opcode::Text, true, b"I was busy")).await.expect("sent");
    assert_eq!(reading.await.expect("joined").expect("a message"), "I was busy".into());
}
