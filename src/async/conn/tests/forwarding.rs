//! Both directions of a proxy between a client and a server.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::*;

type End = (Error, Error);

/// A client and a server with a proxy between them, which changes the server's texts and drops its empty messages. `bytes` are what a
/// stream holds in each direction.
fn proxied(bytes: usize) -> (Conn<DuplexStream>, Conn<DuplexStream>, JoinHandle<End>) {
    let ((near, client), (far, server)) = (duplex(bytes), duplex(bytes));
    let settings = Settings::default();
    let proxy = forward(conn(near, Role::Server, &settings), conn(far, Role::Client, &settings));
    (conn(client, Role::Client, &settings), conn(server, Role::Server, &settings), tokio::spawn(proxy))
}

async fn forward<C: Transport, S: Transport>(client: Conn<C>, server: Conn<S>) -> End {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let change = |message: Message| match message.as_text() {
        Some(text) => (!text.is_empty()).then(|| text.replace("secret", "[removed]").into()),
        None => Some(message),
    };
    tokio::join!(
        from_client.forward_to(&mut to_server, |message| message),
        from_server.forward_to(&mut to_client, change),
    )
}

fn closed(code: u16, reason: &str) -> Option<(CloseCode, String)> {
    Some((CloseCode(code), reason.to_owned()))
}

/// The Close frame that a connection reads next.
async fn close_of(conn: &mut Conn<DuplexStream>) -> Option<(CloseCode, String)> {
    match conn.read().await.expect_err("the end") {
        Error::Closed(frame) => Some((frame.code, frame.reason)),
        _ => None,
    }
}

#[tokio::test]
async fn messages_pass_changed_or_not_at_all() {
    let (mut client, mut server, _proxy) = proxied(4096);
    for message in [Message::from("a secret"), Message::from(vec![0, 0xff]), "x".repeat(60_000).into()] {
        client.write(message.clone()).await.expect("sent");
        assert_eq!(server.read().await.expect("passed on"), message);
    }
    for (sent, received) in [("a secret", "a [removed]"), ("Grüße", "Grüße")] {
        server.write("").await.expect("sent");
        server.write(sent).await.expect("sent");
        assert_eq!(client.read().await.expect("passed on"), received.into());
    }
    server.write(&b""[..]).await.expect("sent");
    assert_eq!(client.read().await.expect("passed on"), Message::from(&b""[..]));
}

#[tokio::test]
async fn close_frames_pass_behind_the_messages_before_them() {
    let long = "x".repeat(123);
    let cases = [
        (1000, ""),
        (1001, "bye"),
        (4321, "through"),
        (1014, &*long),
        (1005, ""),
        (1006, "never"),
        (1015, ""),
    ];
    for (code, reason) in cases {
        for client_closes in [true, false] {
            let (client, server, proxy) = proxied(64);
            let (mut closer, mut other) = if client_closes { (client, server) } else { (server, client) };
            let closing = async {
                for n in 0..20 {
                    closer.write(format!("message {n}")).await.expect("sent");
                }
                closer.close(CloseCode(code), reason).await.expect("closed")
            };
            let hearing = async {
                for n in 0..20 {
                    assert_eq!(other.read().await.expect("a message"), format!("message {n}").into());
                }
                close_of(&mut other).await
            };
            let (answer, heard) = tokio::join!(closing, hearing);
            let sendable = CloseCode(code).may_be_sent();
            let expected = if sendable { closed(code, reason) } else { closed(1005, "") };
            assert_eq!(heard, expected, "{code}");
            assert_eq!(answer.code, expected.expect("a frame").0, "{code}");
            let (from_client, from_server) = proxy.await.expect("no panic");
            assert!(from_client.is_clean() && from_server.is_clean(), "{from_client} {from_server}");
        }
    }
}

#[tokio::test]
async fn a_lost_side_is_told_to_the_other() {
    let (client, mut server, proxy) = proxied(4096);
    drop(client);
    assert_eq!(close_of(&mut server).await, closed(1001, "the client is lost"));
    assert!(matches!(proxy.await.expect("no panic"), (Error::Broken, _)));

    let (mut client, server, proxy) = proxied(4096);
    drop(server);
    assert_eq!(close_of(&mut client).await, closed(1014, "the server is lost"));
    assert!(matches!(proxy.await.expect("no panic"), (_, Error::Broken)));

    // An offence of one side ends the other, too.
    let (near, mut offender) = duplex(4096);
    let (far, server) = duplex(4096);
    let settings = Settings::default();
    let proxy = forward(conn(near, Role::Server, &settings), conn(far, Role::Client, &settings));
    let mut server = conn(server, Role::Server, &settings);
    let offending = async {
        offender.write_all(&masked(Opcode::Text, true, b"\xff")).await.expect("sent");
        let told = frame_of(&mut offender).await.1;
        drop(offender);
        told
    };
    let ((from_client, _), heard, told) = tokio::join!(proxy, close_of(&mut server), offending);
    assert!(matches!(from_client, Error::ProtocolError(ProtocolError::InvalidUtf8)));
    assert_eq!(heard, closed(1001, "the client is lost"));
    assert_eq!(told[..2], 1007_u16.to_be_bytes());
}

#[tokio::test]
async fn a_server_that_has_gone_is_heard_to_its_last_word_while_the_client_writes() {
    for messages in [0, 1, 50] {
        let (client, mut server, proxy) = proxied(256);
        let (mut reader, mut writer) = client.split();
        let flooding = tokio::spawn(async move {
            while writer.write("more").await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        let parting = async {
            for n in 0..messages {
                server.write(format!("last word {n}")).await.expect("sent");
            }
            server.close(CloseCode(4002), "enough").await.expect("closed");
            drop(server);
        };
        let hearing = async {
            for n in 0..messages {
                assert_eq!(reader.read().await.expect("a word"), format!("last word {n}").into());
            }
            let Err(Error::Closed(frame)) = reader.read().await else { panic!("no clean end") };
            assert_eq!((frame.code, frame.reason.as_str()), (CloseCode(4002), "enough"));
        };
        tokio::join!(parting, hearing);
        flooding.await.expect("no panic");
        let (_, from_server) = proxy.await.expect("no panic");
        assert!(from_server.is_close(&[CloseCode(4002)]), "{from_server}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_read_makes_the_client_wait() {
    let (mut client, mut server, _proxy) = proxied(1024);
    let (message, mut sent) = ("x".repeat(1000), 0_usize);
    // The client's write is pending once every buffer on the way is full.
    loop {
        let writing = client.write(message.as_str());
        tokio::pin!(writing);
        let mut turns = 0;
        let written = poll_fn(|cx| {
            turns += 1;
            match std::future::Future::poll(writing.as_mut(), cx) {
                Poll::Ready(written) => Poll::Ready(Some(written)),
                Poll::Pending if turns > 200 => Poll::Ready(None),
                Poll::Pending => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            }
        })
        .await;
        match written {
            Some(written) => written.expect("sent"),
            None => break,
        }
        sent += message.len();
        assert!(sent < 64 * 1024, "{sent} bytes are on the way");
    }
    let reading = async {
        for _ in 0..=sent / message.len() {
            assert_eq!(server.read().await.expect("passed on"), message.as_str().into());
        }
    };
    let (flushed, ()) = tokio::join!(client.flush(), reading);
    flushed.expect("sent");
}

#[tokio::test]
async fn messages_that_arrive_together_leave_together() {
    let ((near, client), (far, server)) = (duplex(1 << 16), duplex(1 << 16));
    let far = Counted::new(far);
    let writes = Arc::clone(&far.writes);
    let settings = Settings::default();
    let mut client = conn(client, Role::Client, &settings);
    let mut server = conn(server, Role::Server, &settings);
    for n in 0..100 {
        client.feed(format!("message {n}")).await.expect("fed");
    }
    client.flush().await.expect("sent");
    let proxy = forward(conn(near, Role::Server, &settings), conn(far, Role::Client, &settings));
    let reading = async {
        for n in 0..100 {
            assert_eq!(server.read().await.expect("passed on"), format!("message {n}").into());
        }
    };
    tokio::select! {
        _ = proxy => panic!("nothing has ended"),
        () = reading => {}
    }
    let writes = writes.load(Ordering::Relaxed);
    assert!(writes <= 3, "{writes} writes");
}

#[tokio::test]
async fn a_cancelled_direction_loses_no_message() {
    let ((near, client), (far, server)) = (duplex(20), duplex(16));
    let settings = Settings { write_buffer_bytes: 32, ..Settings::default() };
    let (mut from_client, _to_client) = conn(near, Role::Server, &settings).split();
    let (mut from_server, mut to_server) = conn(far, Role::Client, &settings).split();
    let (mut client, mut server) =
        (conn(client, Role::Client, &settings), conn(server, Role::Server, &settings));
    let mut cancelled = 0;
    let passing = async {
        loop {
            tokio::select! {
                biased;
                end = from_client.forward_to(&mut to_server, |message| message) => break end,
                () = tokio::task::yield_now() => cancelled += 1,
            }
        }
    };
    let sending = async {
        for n in 0..200 {
            client.write(format!("message {n}")).await.expect("sent");
        }
        client.close(CloseCode(4003), "").await.expect("closed");
    };
    let hearing = async {
        for n in 0..200 {
            assert_eq!(server.read().await.expect("passed on"), format!("message {n}").into());
        }
        assert_eq!(close_of(&mut server).await, closed(4003, ""));
    };
    let (end, _, (), ()) = tokio::join!(passing, from_server.discard_reads(), sending, hearing);
    assert!(end.is_close(&[CloseCode(4003)]), "{end}");
    assert!(cancelled > 100, "{cancelled}");
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_is_too_slow_is_closed_and_so_is_the_reader() {
    let ((near, client), (far, server)) = (duplex(1 << 16), duplex(64));
    let settings = Settings::default();
    let mut client = conn(client, Role::Client, &settings);
    let near = conn(near, Role::Server, &settings);
    let mut far = conn(far, Role::Client, &settings);
    far.set_write_deadline(Some(Instant::now() + Duration::from_secs(7)));
    client.write("x".repeat(10_000)).await.expect("sent");
    let began = Instant::now();
    let (ends, heard) = tokio::join!(forward(near, far), close_of(&mut client));
    assert!(matches!(ends, (Error::WriteTimeout, Error::CloseTimeout)), "{ends:?}");
    assert_eq!(heard, closed(1014, "the server is lost"));
    assert!((12..13).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    drop(server);
}

#[tokio::test]
async fn each_side_answers_pings_itself() {
    let (mut client, mut server, _proxy) = proxied(4096);
    let (pongs, mut ponged) = tokio::sync::mpsc::unbounded_channel();
    client.set_pong_handler(move |payload| {
        let _ = pongs.send(payload.to_vec());
        ControlReply::Default
    });
    server.set_ping_handler(|_| panic!("pings do not pass"));
    client.ping(b"near").await.expect("sent");
    client.write("behind it").await.expect("sent");
    assert_eq!(server.read().await.expect("passed on"), "behind it".into());
    server.write("and back").await.expect("sent");
    assert_eq!(client.read().await.expect("passed on"), "and back".into());
    assert_eq!(ponged.recv().await.as_deref(), Some(&b"near"[..]));
}
