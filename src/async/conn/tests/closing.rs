//! Every way in which a connection ends, and what both ends are told.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn both_ends_hear_the_code_and_the_reason() {
    for server_closes in [true, false] {
        let (server, client) = pair();
        let (mut closer, mut other) = if server_closes { (server, client) } else { (client, server) };
        let closing = tokio::spawn(async move { closer.close(CloseCode(4001), "enough").await });
        let Err(Error::Closed(heard)) = other.read().await else { panic!("no clean end") };
        assert_eq!((heard.code, heard.reason.as_str()), (CloseCode(4001), "enough"));
        drop(other);
        let answer = closing.await.expect("joined").expect("closed");
        assert_eq!((answer.code, answer.reason.as_str()), (CloseCode(4001), ""));
    }
}

#[tokio::test]
async fn both_ends_may_close_at_once() {
    let (mut server, mut client) = pair();
    let (ours, theirs) =
        tokio::join!(server.close(CloseCode::NORMAL, "s"), client.close(CloseCode(4000), "c"));
    assert_eq!(ours.expect("closed").reason, "c");
    assert_eq!(theirs.expect("closed").reason, "s");
    assert_eq!(server.close(CloseCode::NORMAL, "").await.expect("the same end").reason, "c");
}

#[tokio::test]
async fn a_close_without_a_code_is_1005() {
    let (mut server, mut peer) = server_by_hand(&Settings::default());
    peer.write_all(&masked(Opcode::Close, true, b"")).await.expect("sent");
    let error = server.read().await.expect_err("the end");
    assert!(error.is_clean());
    assert_eq!(error.close_code(), Some(CloseCode::NO_STATUS));
    assert_eq!(frame_of(&mut peer).await.1, b"");
    assert_eq!(peer.read(&mut [0]).await.expect("the end of the stream"), 0);
}

#[tokio::test]
async fn every_later_call_returns_the_same_end() {
    let (mut server, client) = pair();
    drop(client);
    for _ in 0..2_000 {
        assert!(matches!(server.read().await, Err(Error::Broken)));
        assert!(server.write("x").await.is_err());
    }
    let (mut server, mut client) = pair();
    let closing = tokio::spawn(async move { client.close(CloseCode::NORMAL, "").await });
    for _ in 0..2_000 {
        assert!(server.read().await.expect_err("the end").is_clean());
    }
    assert!(matches!(server.write("x").await, Err(Error::Closed(_))));
    closing.await.expect("joined").expect("closed");
}

#[tokio::test]
async fn messages_before_the_close_are_read_and_queued_ones_leave_before_it() {
    let (mut server, mut client) = pair_with(64, &Settings::default());
    let sending = tokio::spawn(async move {
        for n in 0..20 {
            client.write(format!("message {n}")).await.expect("sent");
        }
        client.close(CloseCode::NORMAL, "").await
    });
    for n in 0..20 {
        assert_eq!(server.read().await.expect("a message"), format!("message {n}").into());
    }
    assert!(server.read().await.expect_err("the end").is_clean());
    sending.await.expect("joined").expect("closed");
}

#[tokio::test]
async fn a_violation_is_reported_at_both_ends() {
    let offences: [(Vec<u8>, ProtocolError); 4] = [
        (vec![0x83, 0x80, 0, 0, 0, 0], ProtocolError::UnknownOpcode),
        (vec![0x81, 0x00], ProtocolError::NotMasked),
        (masked(Opcode::Text, true, b"\xff"), ProtocolError::InvalidUtf8),
        (masked(Opcode::Continuation, true, b""), ProtocolError::StrayContinuation),
    ];
    for (bytes, offence) in offences {
        let (mut server, mut peer) = server_by_hand(&Settings::default());
        peer.write_all(&bytes).await.expect("sent");
        // The bytes behind the violation are not read, and do not keep the Close frame from arriving.
        peer.write_all(&masked(Opcode::Text, true, b"behind it")).await.expect("sent");
        assert!(matches!(server.read().await, Err(Error::ProtocolError(told)) if told == offence));
        let (header, payload) = frame_of(&mut peer).await;
        assert_eq!(header.opcode, Opcode::Close);
        assert_eq!(payload[..2], offence.close_code().0.to_be_bytes());
        let error = server.write("x").await.expect_err("the end");
        assert_eq!(error.close_code(), Some(offence.close_code()));
    }
}

#[tokio::test]
async fn data_before_the_peers_close_is_dropped_and_does_not_delay_it() {
    let (ours, mut peer) = duplex(1000);
    let mut server = conn(ours, Role::Server, &Settings::default());
    peer.write_all(&masked(Opcode::Text, false, b"begun")).await.expect("sent");
    let flooding = async {
        for _ in 0..20 {
            peer.write_all(&masked(Opcode::Continuation, false, &[b'x'; 1000])).await.expect("sent");
        }
        peer.write_all(&masked(Opcode::Close, true, b"\x03\xe8")).await.expect("sent");
    };
    let (closed, ()) = tokio::join!(server.close(CloseCode::GOING_AWAY, ""), flooding);
    assert_eq!(closed.expect("closed").code, CloseCode::NORMAL);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_answer_the_close_is_disconnected_after_the_timeout() {
    let settings = Settings { close_timeout: Duration::from_secs(3), ..Settings::default() };
    let (mut server, _peer) = server_by_hand(&settings);
    let began = Instant::now();
    assert!(matches!(server.close(CloseCode::NORMAL, "").await, Err(Error::CloseTimeout)));
    assert!((3_000..3_100).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_even_read_is_disconnected_after_the_timeout() {
    let (ours, _peer) = duplex(16);
    let mut server = conn(ours, Role::Server, &Settings::default());
    server.set_write_deadline(Some(Instant::now()));
    assert!(matches!(server.write("x".repeat(100)).await, Err(Error::WriteTimeout)));
    assert!(matches!(server.close(CloseCode::NORMAL, "").await, Err(Error::CloseTimeout)));
    assert!(matches!(server.read().await, Err(Error::CloseTimeout)));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_keeps_the_stream_open_after_the_close_is_disconnected_after_the_timeout() {
    let (ours, mut peer) = duplex(1000);
    let mut client = conn(ours, Role::Client, &Settings::default());
    peer.write_all(&[0x88, 0x02, 0x03, 0xe8]).await.expect("sent");
    let began = Instant::now();
    assert_eq!(client.close(CloseCode::NORMAL, "").await.expect("closed").code, CloseCode::NORMAL);
    assert!((4_900..5_100).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_stream_that_ends_after_our_close_is_not_a_clean_close() {
    let (mut server, peer) = server_by_hand(&Settings::default());
    let (closed, ()) = tokio::join!(server.close(CloseCode::NORMAL, ""), async { drop(peer) });
    assert!(matches!(closed, Err(Error::Broken)));
}

#[tokio::test]
async fn a_peer_that_closed_can_still_be_heard_when_writing_to_it_fails() {
    let (mut server, mut peer) = server_by_hand(&Settings::default());
    peer.write_all(&masked(Opcode::Text, true, b"last words")).await.expect("sent");
    peer.write_all(&masked(Opcode::Close, true, b"\x03\xe9")).await.expect("sent");
    drop(peer);
    assert!(matches!(server.write("too late").await, Err(Error::Io(_))));
    assert_eq!(server.read().await.expect("a message"), "last words".into());
    let error = server.read().await.expect_err("the end");
    assert_eq!(error.close_code(), Some(CloseCode::GOING_AWAY));
}

#[tokio::test]
async fn handlers_answer_instead_of_the_connection() {
    let (mut server, mut peer) = server_by_hand(&Settings::default());
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = |name: &'static str| {
        let seen = Arc::clone(&seen);
        move |payload: &[u8]| seen.lock().expect("no panic").push((name, payload.to_vec()))
    };
    let (pinged, ponged, closed) = (note("ping"), note("pong"), note("close"));
    server.set_ping_handler(move |payload| {
        pinged(payload);
        match payload {
            b"as usual" => ControlReply::Default,
            b"quiet" => ControlReply::Nothing,
            _ => ControlReply::Pong(bytes::Bytes::from_static(b"another")),
        }
    });
    server.set_pong_handler(move |payload| {
        ponged(payload);
        ControlReply::Default
    });
    server.set_close_handler(move |code, reason| {
        closed(format!("{code} {reason}").as_bytes());
        ControlReply::Close(CloseFrame { code: CloseCode(4009), reason: "mine".to_owned() })
    });
    let sent: [(Opcode, &[u8]); 5] = [
        (Opcode::Ping, b"as usual"),
        (Opcode::Ping, b"quiet"),
        (Opcode::Ping, b"other"),
        (Opcode::Pong, b"unasked"),
        (Opcode::Close, b"\x0f\xa1bye"),
    ];
    for (opcode, payload) in sent {
        peer.write_all(&masked(opcode, true, payload)).await.expect("sent");
    }
    assert!(server.read().await.expect_err("the end").is_close(&[CloseCode(4001)]));
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(frame_of(&mut peer).await.1);
    }
    assert_eq!(answers, [b"as usual".to_vec(), b"another".to_vec(), b"\x0f\xa9mine".to_vec()]);
    assert_eq!(peer.read(&mut [0]).await.expect("the end of the stream"), 0);
    let expected: [(&str, &[u8]); 5] = [
        ("ping", b"as usual"),
        ("ping", b"quiet"),
        ("ping", b"other"),
        ("pong", b"unasked"),
        ("close", b"4001 bye"),
    ];
    let expected = expected.map(|(name, payload)| (name, payload.to_vec()));
    assert_eq!(*seen.lock().expect("no panic"), expected);
}

#[tokio::test]
async fn a_handler_may_close_for_a_ping() {
    let (mut server, mut client) = pair();
    server.set_ping_handler(|_| {
        ControlReply::Close(CloseFrame { code: CloseCode::POLICY, reason: "no pings".to_owned() })
    });
    client.ping(b"").await.expect("sent");
    let (ours, theirs) = tokio::join!(server.read(), client.read());
    assert!(ours.expect_err("the end").is_close(&[CloseCode::POLICY]));
    assert!(theirs.expect_err("the end").is_close(&[CloseCode::POLICY]));
}

#[test]
fn errors_distinguish_clean_closes_from_others() {
    let closed = |code| Error::Closed(CloseFrame { code, reason: String::new() });
    let cases = [
        (closed(CloseCode::NORMAL), true, true, false),
        (closed(CloseCode::INTERNAL), true, false, true),
        (Error::Broken, false, false, true),
        (Error::ReadTimeout, false, false, false),
        (Error::ProtocolError(ProtocolError::PingFlood), false, false, false),
    ];
    for (error, clean, normal, unexpected) in cases {
        assert_eq!(error.is_clean(), clean, "{error}");
        assert_eq!(error.is_close(&[CloseCode::NORMAL]), normal, "{error}");
        assert_eq!(error.is_unexpected_close(&[CloseCode::NORMAL]), unexpected, "{error}");
        let returned = io::Error::from(error).downcast::<Error>();
        assert!(returned.is_ok());
    }
}
