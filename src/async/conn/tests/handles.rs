//! Calls that every handle of a connection has: JSON, prepared messages, the stream, and messages that are fed and leave together.

use futures_util::{SinkExt, StreamExt as _};
use tokio::task::JoinHandle;

use super::*;

/// Reads `count` texts of a client's connection.
fn collect(mut client: Conn<DuplexStream>, count: usize) -> JoinHandle<Vec<String>> {
    tokio::spawn(async move {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(client.read().await.expect("a message").into_text().expect("a text").to_string());
        }
        texts
    })
}

/// Polls a future once, with the waker of the test.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

#[tokio::test]
async fn json_and_prepared_messages_are_sent_by_every_handle() {
    let prepared = PreparedMessage::json(&("prepared", 7)).expect("JSON");
    let (mut server, client) = pair();
    let received = collect(client, 6);
    server.write_json(&["conn"]).await.expect("sent");
    server.write_prepared(&prepared).await.expect("sent");
    let (_reader, mut writer) = server.split();
    writer.write_json(&["writer"]).await.expect("sent");
    writer.write_prepared(&prepared).await.expect("sent");
    let (sender, send_task) = writer.into_sender(4);
    sender.send_json(&["sender"]).await.expect("queued");
    sender.send_prepared(&prepared).await.expect("queued");
    drop(sender);
    send_task.await.expect("sent");
    let expected = ["[\"conn\"]", "[\"writer\"]", "[\"sender\"]"];
    let expected = expected.map(|own| [own.to_owned(), "[\"prepared\",7]".to_owned()]);
    assert_eq!(received.await.expect("no panic"), expected.concat());
}

#[tokio::test]
async fn nothing_is_queued_behind_a_close() {
    let (server, client) = pair();
    let (_reader, writer) = server.split();
    let (sender, send_task) = writer.into_sender(300);
    let received = collect(client, 1);
    let waiting = tokio::spawn({
        let sender = sender.clone();
        async move { sender.closed().await }
    });
    sender.send("before").await.expect("queued");
    tokio::task::yield_now().await;
    assert!(!sender.is_closed() && !waiting.is_finished());
    sender.close(CloseCode::NORMAL, "").await.expect("queued");
    // The task has not run yet: a sender must not take what it cannot send.
    for number in 0..200 {
        assert!(matches!(sender.send(format!("{number}")).await, Err(Error::Closing)));
        assert!(matches!(sender.try_send("late"), Err(TrySendError::Closed(_))));
        assert!(matches!(sender.close(CloseCode::NORMAL, "again").await, Err(Error::Closing)));
    }
    assert!(sender.is_closed());
    waiting.await.expect("no panic");
    assert_eq!(sender.unsent(), 1);
    let client = async { received.await.expect("no panic") };
    let (sent, texts) = tokio::join!(send_task, client);
    // The client ends without an answer to the Close frame.
    assert!(matches!(sent, Err(Error::Broken | Error::Io(_))), "{sent:?}");
    assert_eq!((texts, sender.unsent()), (vec!["before".to_owned()], 0));
}

/// A message that waits for room is before a close, or it is refused.
#[tokio::test]
async fn messages_that_race_with_a_close_are_sent_or_refused() {
    for messages in 1..20_usize {
        let (server, mut client) = pair();
        let (_reader, writer) = server.split();
        let (sender, send_task) = writer.into_sender(messages % 4);
        let senders: Vec<_> = (0..messages)
            .map(|number| {
                let sender = sender.clone();
                tokio::spawn(async move {
                    if number == messages / 2 {
                        sender.close(CloseCode::NORMAL, "").await.expect("the only one");
                        return false;
                    }
                    sender.send("a message").await.is_ok()
                })
            })
            .collect();
        let ended = tokio::spawn(send_task);
        let mut read = 0;
        while client.read().await.is_ok() {
            read += 1;
        }
        ended.await.expect("no panic").expect("a clean close");
        let mut accepted = 0;
        for sender in senders {
            accepted += usize::from(sender.await.expect("no panic"));
        }
        assert_eq!((read, sender.unsent()), (accepted, 0), "of {messages}");
    }
}

#[tokio::test]
async fn what_a_broken_connection_has_lost_is_counted() {
    // Ten messages of ten bytes, each with a header of two.
    let (ours, mut peer) = duplex(120);
    let (_reader, writer) = conn(ours, Role::Server, &Settings::default()).split();
    let (sender, send_task) = writer.into_sender(100);
    for _ in 0..25 {
        sender.send("ten bytes!").await.expect("queued");
    }
    assert_eq!(sender.unsent(), 25);
    let mut send_task = std::pin::pin!(send_task);
    assert!(poll_once(send_task.as_mut()).await.is_pending());
    assert_eq!(sender.unsent(), 15, "the transport has ten");
    let mut read = [0; 30];
    peer.read_exact(&mut read).await.expect("some");
    assert!(poll_once(send_task.as_mut()).await.is_pending());
    assert_eq!(sender.unsent(), 13, "two and a half more");
    drop(peer);
    sender.send("too late").await.expect("nobody knows yet");
    send_task.await.expect_err("the connection is broken");
    assert!(sender.is_closed());
    assert_eq!(sender.unsent(), 14);
}

#[tokio::test]
async fn json_is_read_by_every_handle() {
    let (mut server, mut client) = pair();
    for n in 0..2 {
        client.write_json(&n).await.expect("sent");
    }
    assert_eq!(server.read_json::<u8>().await.expect("a number"), 0);
    let (mut reader, _writer) = server.split();
    assert_eq!(reader.read_json::<u8>().await.expect("a number"), 1);
}

#[cfg(feature = "client")]
#[tokio::test]
async fn a_reconnecting_client_sends_and_reads_them_too() {
    let mut ends = Vec::new();
    let (server, client) = pair();
    ends.push(client);
    let mut feed = crate::Reconnecting::new("test", move || {
        let client = ends.pop();
        async move { client.ok_or(crate::DialError::Closed) }
    });
    let (mut reader, mut writer) = server.split();
    let serving = async {
        assert_eq!(reader.read_json::<[u8; 2]>().await.expect("a message"), [1, 2]);
        assert_eq!(reader.read().await.expect("a message"), "[3]".into());
        writer.write_json(&"answer").await.expect("sent");
    };
    let talking = async {
        feed.write_json(&[1, 2]).await.expect("sent");
        feed.write_prepared(&PreparedMessage::json(&[3]).expect("JSON")).await.expect("sent");
        assert_eq!(feed.read_json::<String>().await.expect("a message"), "answer");
    };
    tokio::join!(serving, talking);
}

#[tokio::test]
async fn every_half_shows_the_stream() {
    let (ours, mut peer) = duplex(1 << 16);
    let mut server = conn(Counted::new(ours), Role::Server, &Settings::default());
    peer.write_all(&masked(Opcode::Text, true, b"one")).await.expect("sent");
    server.read().await.expect("a message");
    server.write("two").await.expect("sent");
    let counts = |stream: StreamRef<'_, Counted<DuplexStream>>| {
        [&stream.reads, &stream.writes].map(|count| count.load(Ordering::Relaxed))
    };
    assert_eq!(counts(server.get_ref()), [1, 1]);
    let (reader, writer) = server.split();
    assert_eq!(counts(reader.get_ref()), [1, 1]);
    assert_eq!(counts(writer.get_ref()), [1, 1]);
}

/// As an echo over `Stream` and `Sink` does it, on a connection and on its halves.
#[tokio::test]
async fn what_a_sink_is_fed_between_reads_leaves_together() {
    for halves in [false, true] {
        let (ours, mut peer) = duplex(64 << 10);
        let counted = Counted::new(ours);
        let count = Arc::clone(&counted.writes);
        let mut server = conn(counted, Role::Server, &Settings::default());
        for n in 0..100_u8 {
            peer.write_all(&masked(Opcode::Binary, true, &[n; 16])).await.expect("sent");
        }
        let echo = tokio::spawn(async move {
            if halves {
                let (mut reader, mut writer) = server.split();
                while let Some(Ok(message)) = reader.next().await {
                    SinkExt::feed(&mut writer, message).await.expect("fed");
                }
            } else {
                while let Some(Ok(message)) = server.next().await {
                    SinkExt::feed(&mut server, message).await.expect("fed");
                }
            }
        });
        for n in 0..100_u8 {
            assert_eq!(frame_of(&mut peer).await.1, [n; 16], "sent although nobody flushed");
        }
        assert_eq!(count.load(Ordering::Relaxed), 1, "halves: {halves}");
        drop(peer);
        echo.await.expect("no panic");
    }
}
