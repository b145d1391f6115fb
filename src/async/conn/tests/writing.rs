//! Sending: whole messages, fragments, prepared messages, compressed messages.

use futures_util::SinkExt;

use super::*;
use echoring_proto::connection::Compression;
use echoring_proto::deflate::{self, Agreement};

#[tokio::test]
async fn the_write_buffer_decides_the_length_of_fragments() {
    for (write_buffer_bytes, fragments) in [(1000, [1000; 5].as_slice()), (0, &[4096, 904]), (5000, &[5000])]
    {
        let (mut server, mut peer) = server_by_hand(&Settings { write_buffer_bytes, ..Settings::default() });
        let mut writer = server.next_writer(MessageKind::Text);
        for piece in "z".repeat(5000).as_bytes().chunks(7) {
            writer.write_all(piece).await.expect("written");
        }
        writer.finish().await.expect("finished");
        for (at, expected) in fragments.iter().enumerate() {
            let (header, payload) = frame_of(&mut peer).await;
            assert_eq!(header.opcode, if at == 0 { Opcode::Text } else { Opcode::Continuation });
            assert_eq!((payload.len(), header.fin), (*expected, at + 1 == fragments.len()));
        }
    }
}

/// Peers limit the number of fragments; 4,096 is a common limit.
#[tokio::test]
async fn fragments_of_a_long_message_grow_with_it() {
    const BYTES: usize = 40 << 20;
    let (mut server, mut peer) = server_by_hand(&Settings::default());
    let writing = tokio::spawn(async move {
        let mut writer = server.next_writer(MessageKind::Binary);
        for _ in 0..BYTES / 4000 {
            writer.write_all(&[7; 4000]).await.expect("written");
        }
        writer.finish().await.expect("finished");
        server
    });
    let (mut fragments, mut sent) = (Vec::new(), 0);
    loop {
        let (header, payload) = frame_of(&mut peer).await;
        if !header.fin {
            let least = if sent < 64 << 10 { 4096 } else { 64 << 10 };
            assert_eq!(payload.len(), least.max(sent / 512), "behind {sent} bytes");
        }
        sent += payload.len();
        fragments.push(payload.len());
        if header.fin {
            break;
        }
    }
    assert_eq!(sent, BYTES / 4000 * 4000);
    assert!(fragments.len() < 700, "{} fragments", fragments.len());
    writing.await.expect("written");
}

#[tokio::test]
async fn messages_that_a_sink_buffers_leave_together() {
    let mut writes = Vec::new();
    for write_buffer_bytes in [1, 4096] {
        let (ours, mut peer) = duplex(64 << 10);
        let counted = Counted::new(ours);
        let count = Arc::clone(&counted.writes);
        let mut server = conn(counted, Role::Server, &Settings { write_buffer_bytes, ..Settings::default() });
        for n in 0..100_u8 {
            SinkExt::feed(&mut server, vec![n; 38].into()).await.expect("fed");
        }
        server.flush().await.expect("flushed");
        for n in 0..100_u8 {
            assert_eq!(frame_of(&mut peer).await.1, [n; 38]);
        }
        writes.push(count.load(Ordering::Relaxed));
    }
    // A frame of 40 bytes exceeds the small buffer, and 4,000 bytes fit 4,096.
    assert_eq!(writes, [100, 1]);
}

/// Long messages leave from where they lie, behind what was queued, whatever the transport accepts at a time.
#[tokio::test]
async fn long_messages_are_sent_in_order_with_short_ones() {
    for bytes in [1, 7, 5_000, 1 << 20] {
        let settings = Settings { max_message: 1 << 20, write_buffer_bytes: 64 << 10, ..Settings::default() };
        let (mut server, mut client) = pair_with(bytes, &settings);
        let sizes = [3, 5_000, 20, 4_096, 4_096, 70_000, 0, 9_000];
        let sending = tokio::spawn(async move {
            for (n, size) in sizes.into_iter().enumerate() {
                server.feed(vec![n as u8; size]).await.expect("fed");
                if n == 3 {
                    server.ping(b"between").await.expect("sent");
                }
            }
            server.flush().await.expect("flushed");
            server
        });
        for (n, size) in sizes.into_iter().enumerate() {
            assert_eq!(
                client.read().await.expect("a message"),
                vec![n as u8; size].into(),
                "over {bytes} bytes"
            );
        }
        drop(sending.await.expect("sent"));
    }
}

#[tokio::test]
async fn a_long_message_leaves_in_one_write() {
    let (ours, mut peer) = duplex(1 << 20);
    let counted = Counted::new(ours);
    let count = Arc::clone(&counted.writes);
    let mut server = conn(counted, Role::Server, &Settings::default());
    server.feed("before it").await.expect("fed");
    server.write(vec![7; 100_000]).await.expect("sent");
    assert_eq!(frame_of(&mut peer).await.1, b"before it");
    assert_eq!(frame_of(&mut peer).await.1, [7; 100_000]);
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

/// Our own Close overtakes a message of which nothing has left, and follows one that has begun.
#[tokio::test]
async fn a_close_of_a_control_overtakes_a_long_message() {
    let (ours, mut peer) = duplex(1 << 20);
    let mut server = conn(ours, Role::Server, &Settings::default());
    let control = server.control();
    server.feed(vec![7; 100_000]).await.expect("fed");
    let closing = tokio::spawn(async move { control.close(CloseCode::NORMAL, "").await });
    let (header, _) = frame_of(&mut peer).await;
    assert_eq!(header.opcode, Opcode::Close);
    peer.write_all(&masked(Opcode::Close, true, b"\x03\xe8")).await.expect("sent");
    closing.await.expect("joined").expect("closed");
    assert!(server.read().await.is_err());
}

#[tokio::test]
async fn a_transport_that_buffers_is_flushed() {
    let (ours, theirs) = duplex(64 << 10);
    let mut server = conn(tokio::io::BufStream::new(ours), Role::Server, &Settings::default());
    let mut client = conn(tokio::io::BufStream::new(theirs), Role::Client, &Settings::default());
    client.write("a few bytes").await.expect("sent");
    client.ping(b"?").await.expect("sent");
    let echo = tokio::spawn(async move {
        let message = server.read().await.expect("a message");
        server.write(message).await.expect("sent");
        server.read().await.expect_err("the end")
    });
    assert_eq!(client.read().await.expect("the echo"), "a few bytes".into());
    client.close(CloseCode::NORMAL, "").await.expect("closed");
    assert!(echo.await.expect("joined").is_clean());
}

#[tokio::test]
async fn control_frames_go_between_fragments() {
    let settings = Settings { write_buffer_bytes: 4, ..Settings::default() };
    let (mut server, mut peer) = server_by_hand(&settings);
    let control = server.control();
    let mut writer = server.next_writer(MessageKind::Binary);
    writer.write_all(b"12345").await.expect("written");
    control.ping(b"between").await.expect("sent");
    writer.finish().await.expect("finished");
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (header, payload) = frame_of(&mut peer).await;
        seen.push((header.opcode, payload));
    }
    seen.sort_by_key(|(opcode, _)| opcode.is_control());
    let expected = [(Opcode::Binary, &b"1234"[..]), (Opcode::Continuation, b"5"), (Opcode::Ping, b"between")];
    assert_eq!(seen, expected.map(|(opcode, payload)| (opcode, payload.to_vec())));
}

#[tokio::test]
async fn after_an_unfinished_message_only_a_close_can_be_sent() {
    let settings = Settings { write_buffer_bytes: 4, ..Settings::default() };
    let (mut server, mut client) = pair_with(4096, &settings);
    drop(server.next_writer(MessageKind::Text));
    let mut harmless = server.next_writer(MessageKind::Text);
    harmless.write_all(b"1234").await.expect("written");
    drop(harmless);
    server.write("nothing had left").await.expect("sent");
    let mut torn = server.next_writer(MessageKind::Text);
    torn.write_all(b"12345").await.expect("written");
    drop(torn);
    assert!(matches!(server.write("another").await, Err(Error::Unfinished)));
    assert!(matches!(server.next_writer(MessageKind::Text).finish().await, Err(Error::Unfinished)));
    let closing = tokio::spawn(async move { server.close(CloseCode::INTERNAL, "torn").await });
    assert_eq!(client.read().await.expect("a message"), "nothing had left".into());
    assert_eq!(client.read().await.expect_err("the end").close_code(), Some(CloseCode::INTERNAL));
    assert_eq!(closing.await.expect("joined").expect("closed").code, CloseCode::INTERNAL);
}

#[tokio::test]
async fn text_that_is_not_utf8_is_not_sent() {
    let (mut server, _peer) = server_by_hand(&Settings::default());
    let mut writer = server.next_writer(MessageKind::Text);
    let error = writer.write_all(b"\xff").await.expect_err("not UTF-8");
    assert!(matches!(error.downcast::<Error>(), Ok(Error::NotText)));
    drop(writer);
    let mut writer = server.next_writer(MessageKind::Text);
    writer.write_all(&"é".as_bytes()[..1]).await.expect("it may go on");
    assert!(matches!(writer.finish().await, Err(Error::NotText)));
    server.write("still usable").await.expect("sent");
}

fn agreement(offer: &[u8]) -> Agreement {
    let mut preferences = Compression::default().preferences;
    preferences.server.context_takeover = true;
    preferences.client.context_takeover = true;
    deflate::agree([offer].into_iter(), &preferences).expect("a good offer")
}

/// A server and a client that negotiated compression.
fn compressed_pair(offer: &[u8]) -> (Conn<DuplexStream>, Conn<DuplexStream>) {
    let (ours, theirs) = duplex(64 << 10);
    let open = |stream, role| {
        let opened = Opened { agreement: Some(agreement(offer)), ..Opened::new(role) };
        Conn::new(stream, &Settings { max_message: 1 << 20, ..Settings::default() }, opened)
    };
    (open(ours, Role::Server), open(theirs, Role::Client))
}

const OFFERS: [&[u8]; 2] =
    [b"permessage-deflate", b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"];

#[tokio::test]
async fn compressed_messages_arrive_with_and_without_context_takeover_at_every_level() {
    for offer in OFFERS {
        let (mut server, mut client) = compressed_pair(offer);
        for n in 0..30_usize {
            server.enable_write_compression(n % 5 != 4);
            client.set_compression_level((n % 9 + 1) as u8).expect("a level");
            let text = format!("{n} ").repeat(100 * n);
            client.write(text.as_str()).await.expect("sent");
            let message = server.read().await.expect("a message");
            assert_eq!(message.as_text(), Some(text.as_str()));
            server.write(message).await.expect("sent");
            let mut read = String::new();
            let mut reader = client.next_reader().await.expect("a message");
            reader.read_to_string(&mut read).await.expect("text");
            assert_eq!(read, text);
        }
        for level in [0, 10] {
            assert!(client.set_compression_level(level).is_err());
        }
    }
}

#[tokio::test]
async fn compression_can_be_switched_for_each_message() {
    let (ours, mut peer) = duplex(64 << 10);
    let opened = Opened { agreement: Some(agreement(OFFERS[0])), ..Opened::new(Role::Server) };
    let mut server = Conn::new(ours, &Settings::default(), opened);
    for enabled in [true, false, true] {
        server.enable_write_compression(enabled);
        server.write("again ".repeat(100)).await.expect("sent");
        let (header, payload) = frame_of(&mut peer).await;
        assert_eq!((header.compressed, payload.len() < 100), (enabled, enabled));
    }
}

#[tokio::test]
async fn a_prepared_message_is_the_same_for_all_formats() {
    let news = PreparedMessage::new("the same news for all. ".repeat(100));
    for round in 0..3 {
        for offer in OFFERS {
            let (mut server, mut client) = compressed_pair(offer);
            // A message first, so that there is a window to reset.
            server.write("the same news for all. ".repeat(20)).await.expect("sent");
            server.write_prepared(&news).await.expect("sent");
            server.write("the same news for all. ".repeat(20)).await.expect("sent");
            client.write_prepared(&news).await.expect("sent");
            for copies in [20, 100, 20] {
                let message = client.read().await.expect("a message");
                assert_eq!(message, "the same news for all. ".repeat(copies).into());
            }
            assert_eq!(server.read().await.expect("a message"), *news.message());
        }
        let (mut server, mut client) = pair();
        server.write_prepared(&news).await.expect("sent");
        assert_eq!(client.read().await.expect("a message"), *news.message());
        assert_eq!(news.formats(), 2, "compressed and plain, in round {round}");
    }
}

#[tokio::test]
async fn an_echo_of_long_messages_does_not_deadlock() {
    let settings = Settings { max_message: 1 << 20, queue_bytes: 1000, ..Settings::default() };
    let (server, client) = pair_with(100, &settings);
    let (mut from_client, mut to_client) = server.split();
    let echo = tokio::spawn(async move {
        while let Ok(message) = from_client.read().await {
            to_client.write(message).await.expect("sent");
        }
    });
    let (mut reader, mut writer) = client.split();
    let sending = tokio::spawn(async move {
        for n in 0..10_u8 {
            writer.write(vec![n; 100_000]).await.expect("sent");
        }
        writer
    });
    for n in 0..10_u8 {
        assert_eq!(reader.read().await.expect("the echo"), vec![n; 100_000].into());
    }
    sending.await.expect("sent").close(CloseCode::NORMAL, "").await.expect("closed");
    echo.await.expect("ended");
}

/// The peer reads nothing, but the pipe takes enough of what is queued.
#[tokio::test(start_paused = true)]
async fn a_partial_flush_that_makes_room_is_enough_to_feed() {
    let (ours, _peer) = duplex(600);
    let settings = Settings { write_buffer_bytes: 1_000, ..Settings::default() };
    let mut server = conn(ours, Role::Server, &settings);
    let patience = std::time::Duration::from_secs(1);
    for bytes in [700, 700, 1] {
        // The last one finds 1,408 bytes in the queue, of which the pipe takes 600.
        let fed = tokio::time::timeout(patience, server.feed(vec![7; bytes])).await;
        fed.expect("there is room").expect("fed");
    }
    assert!(tokio::time::timeout(patience, server.feed("x".repeat(700))).await.is_ok(), "behind 811 bytes");
    assert!(tokio::time::timeout(patience, server.feed("x")).await.is_err(), "behind 1,515 bytes");
}
