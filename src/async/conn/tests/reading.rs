//! Reading messages: whole, as byte streams, cancelled and continued.

use std::future::Future as _;
use std::task::Waker;

use tokio::task::yield_now;

use super::*;
use crate::limits::READS_BEFORE_FLUSH_MAX;

#[tokio::test]
async fn messages_keep_their_type_and_order_in_both_directions() {
    let (mut server, mut client) = pair();
    let long = "ü".repeat(1000);
    for _ in 0..3 {
        client.write(long.as_str()).await.expect("sent");
        client.write(vec![0xff, 0]).await.expect("sent");
        client.write("").await.expect("sent");
        for expected in [long.as_str().into(), vec![0xff, 0].into(), Message::from("")] {
            let message = server.read().await.expect("a message");
            assert_eq!(message, expected);
            server.write(message).await.expect("sent back");
            assert_eq!(client.read().await.expect("the echo"), expected);
        }
    }
}

#[tokio::test]
async fn bytes_read_with_the_head_are_read_first() {
    let (ours, mut peer) = duplex(64);
    let early = masked(Opcode::Text, true, &[b'e'; 5000]).into();
    let mut server = Conn::new(ours, &Settings::default(), Opened { early, ..Opened::new(Role::Server) });
    peer.write_all(&masked(Opcode::Text, true, b"late")).await.expect("sent");
    assert_eq!(server.read().await.expect("a message").len(), 5000);
    assert_eq!(server.read().await.expect("a message"), "late".into());
}

/// The bytes that a client sends in the cancellation tests, and the messages that must arrive.
fn traffic() -> (Vec<u8>, Vec<Message>) {
    let mut bytes = Vec::new();
    let mut messages = Vec::new();
    for n in 0..60_usize {
        let text = format!("message {n} {}", "é".repeat(n));
        let (first, rest) = text.as_bytes().split_at(text.len() / 2);
        match n % 3 {
            0 => bytes.extend(masked(Opcode::Text, true, text.as_bytes())),
            1 => {
                bytes.extend(masked(Opcode::Text, false, first));
                bytes.extend(masked(Opcode::Ping, true, b"between"));
                bytes.extend(masked(Opcode::Continuation, true, rest));
            }
            _ => bytes.extend(masked(Opcode::Binary, true, text.as_bytes())),
        }
        messages.push(if n % 3 == 2 { text.into_bytes().into() } else { text.into() });
    }
    (bytes, messages)
}

#[tokio::test]
async fn a_read_that_is_cancelled_after_each_byte_loses_nothing() {
    let (mut server, mut peer) = server_by_hand(&Settings::default());
    let (bytes, expected) = traffic();
    let mut cx = Context::from_waker(Waker::noop());
    let (mut given_up, mut messages) = (0, Vec::new());
    for byte in bytes {
        peer.write_all(&[byte]).await.expect("sent");
        let mut read = Box::pin(server.read());
        match read.as_mut().poll(&mut cx) {
            Poll::Ready(message) => messages.push(message.expect("a message")),
            Poll::Pending => given_up += 1,
        }
        // Tokio's cooperative budget would make the stream seem idle after a while.
        yield_now().await;
    }
    while messages.len() < expected.len() {
        messages.push(server.read().await.expect("a message"));
    }
    assert!(given_up > 4_000, "{given_up} reads were given up");
    assert_eq!(messages, expected);
}

#[tokio::test]
async fn a_read_that_loses_a_race_again_and_again_loses_nothing() {
    let (mut server, mut peer) = server_by_hand(&Settings { read_buffer_bytes: 7, ..Settings::default() });
    let (bytes, expected) = traffic();
    let sending = tokio::spawn(async move {
        for piece in bytes.chunks(3) {
            peer.write_all(piece).await.expect("sent");
            yield_now().await;
        }
        peer
    });
    let (mut lost, mut messages) = (0, Vec::new());
    while messages.len() < expected.len() {
        tokio::select! {
            biased;
            message = server.read() => messages.push(message.expect("a message")),
            () = yield_now() => lost += 1,
        }
    }
    assert!(lost > 1_000, "{lost} races were lost");
    assert_eq!(messages, expected);
    drop(sending.await.expect("sent"));
}

#[tokio::test]
async fn a_long_message_streams_through_little_memory() {
    const BYTES: usize = 64 << 20;
    let settings = Settings { max_message: BYTES as u64, ..Settings::default() };
    let (ours, mut peer) = duplex(64 << 10);
    let mut server = conn(ours, Role::Server, &settings);
    let sending = tokio::spawn(async move {
        let header = Header { mask: Some([0; 4]), ..Header::new(Opcode::Binary, true, None, BYTES) };
        peer.write_all(&head(&header)).await.expect("sent");
        let piece: Vec<u8> = (0..1 << 16).map(|n: u32| (n % 251) as u8).collect();
        for _ in 0..BYTES >> 16 {
            peer.write_all(&piece).await.expect("sent");
        }
        peer
    });
    let mut reader = server.next_reader().await.expect("a message");
    assert_eq!(reader.kind(), MessageKind::Binary);
    let (mut total, mut bytes) = (0, vec![0; 10_000]);
    loop {
        let read = reader.read(&mut bytes).await.expect("bytes");
        if read == 0 {
            break;
        }
        let wrong = (0..read).find(|at| usize::from(bytes[*at]) != ((total + at) & 0xffff) % 251);
        assert_eq!(wrong, None, "after {total} bytes");
        total += read;
    }
    assert_eq!(total, BYTES);
    drop(reader);
    let (pool_bytes, held) = server.reader.shared.update(|core| {
        (
            core.buffer_slot.buffers().map_or(0, |buffers| buffers.pool.peak_bytes()),
            core.incoming.held_bytes()
                + core.buffer_slot.buffers().map_or(0, |buffers| buffers.input.capacity()),
        )
    });
    assert!(pool_bytes < 16 << 10, "{pool_bytes} bytes of buffers");
    assert!(held <= 72 << 10, "{held} bytes were kept");
    drop(sending.await.expect("sent"));
}

#[tokio::test]
async fn the_unread_rest_of_a_message_is_skipped() {
    let (mut server, mut client) = pair_with(1000, &Settings::default());
    let sending = tokio::spawn(async move {
        for n in 0..4_u8 {
            client.write(vec![n; 10_000]).await.expect("sent");
        }
        client.write("after").await.expect("sent");
        client
    });
    for taken in [0, 1, 9_999, 10_000] {
        let mut reader = server.next_reader().await.expect("a message");
        let mut bytes = vec![0; taken];
        reader.read_exact(&mut bytes).await.expect("bytes");
    }
    assert_eq!(server.read().await.expect("a message"), "after".into());
    drop(sending.await.expect("sent"));
}

#[tokio::test]
async fn a_cancelled_read_continues_as_a_byte_stream() {
    let (mut server, mut peer) = server_by_hand(&Settings::default());
    let frame = masked(Opcode::Text, true, b"begun and finished");
    peer.write_all(&frame[..12]).await.expect("sent");
    tokio::select! { biased; _ = server.read() => panic!("it is not whole"), () = yield_now() => {} }
    peer.write_all(&frame[12..]).await.expect("sent");
    let mut text = String::new();
    let mut reader = server.next_reader().await.expect("a message");
    reader.read_to_string(&mut text).await.expect("text");
    assert_eq!(text, "begun and finished");
}

#[tokio::test]
async fn reads_grow_from_the_size_of_the_read_buffer_while_they_fill_it() {
    let mut reads = Vec::new();
    for read_buffer_bytes in [256, 0, 16 << 10] {
        let (ours, mut peer) = duplex(64 << 10);
        let counted = Counted::new(ours);
        let count = Arc::clone(&counted.reads);
        let settings = Settings { read_buffer_bytes, ..Settings::default() };
        let mut server = conn(counted, Role::Server, &settings);
        let frames = masked(Opcode::Binary, true, &[0; 122]).repeat(256);
        peer.write_all(&frames).await.expect("sent");
        for _ in 0..256 {
            assert_eq!(server.read().await.expect("a message").len(), 122);
        }
        reads.push(count.load(Ordering::Relaxed));
    }
    // 256 frames of 128 bytes, and reads that grow fourfold.
    assert_eq!(reads, [5, 3, 2]);
}

#[tokio::test]
async fn the_rest_of_a_long_frame_is_read_at_once() {
    let mut reads = Vec::new();
    for read_buffer_bytes in [256, 0, 16 << 10] {
        let (ours, theirs) = duplex(64 << 10);
        let counted = Counted::new(ours);
        let count = Arc::clone(&counted.reads);
        let settings = Settings { read_buffer_bytes, ..Settings::default() };
        let mut server = conn(counted, Role::Server, &settings);
        let mut client = conn(theirs, Role::Client, &settings);
        client.write(vec![0; 32 << 10]).await.expect("sent");
        assert_eq!(server.read().await.expect("a message").len(), 32 << 10);
        reads.push(count.load(Ordering::Relaxed));
    }
    assert_eq!(reads, [2, 2, 2]);
}

/// Frames that a sink buffers between two messages that were already received leave together, in order.
#[tokio::test]
async fn answers_that_are_fed_while_reading_leave_together() {
    use futures_util::StreamExt as _;
    let (ours, mut peer) = duplex(64 << 10);
    let counted = Counted::new(ours);
    let count = Arc::clone(&counted.writes);
    let mut server = conn(counted, Role::Server, &Settings::default());
    for n in 0..100_u8 {
        peer.write_all(&masked(Opcode::Binary, true, &[n; 16])).await.expect("sent");
    }
    let echo = tokio::spawn(async move {
        for _ in 0..100 {
            let message = server.next().await.expect("a message").expect("no error");
            server.feed(message).await.expect("fed");
        }
        server.next().await
    });
    for n in 0..100_u8 {
        assert_eq!(frame_of(&mut peer).await.1, [n; 16], "sent although nobody flushed");
    }
    // 1,800 bytes came in one read.
    assert_eq!(count.load(Ordering::Relaxed), 1);
    drop(peer);
    assert!(matches!(echo.await.expect("no panic"), Some(Err(Error::Broken))));
}

#[tokio::test]
async fn an_answer_to_a_ping_is_not_held_back_by_messages_behind_it() {
    let (mut server, mut peer) = server_by_hand(&Settings::default());
    peer.write_all(&masked(Opcode::Ping, true, b"?")).await.expect("sent");
    peer.write_all(&masked(Opcode::Text, true, b"one").repeat(2)).await.expect("sent");
    assert_eq!(server.read().await.expect("a message"), "one".into());
    // The second message is here, and nobody reads it.
    let (header, payload) = frame_of(&mut peer).await;
    assert_eq!((header.opcode, payload.as_slice()), (Opcode::Pong, &b"?"[..]));
}

/// Validated while it is received, wherever it is cut and however it is read.
#[tokio::test]
async fn invalid_utf8_ends_the_connection_however_it_is_read() {
    let good = "aß水🦀".as_bytes();
    for bad in [&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"] {
        for (cut, skipped) in (0..=good.len() + bad.len()).flat_map(|cut| [(cut, false), (cut, true)]) {
            let (mut server, mut peer) = server_by_hand(&Settings::default());
            let text = [good, bad].concat();
            peer.write_all(&masked(Opcode::Text, false, &text[..cut])).await.expect("sent");
            peer.write_all(&masked(Opcode::Continuation, true, &text[cut..])).await.expect("sent");
            let error = match skipped {
                true => server.discard_reads().await,
                false => server.read().await.expect_err("a violation"),
            };
            assert!(
                matches!(error, Error::ProtocolError(ProtocolError::InvalidUtf8)),
                "{bad:x?} cut at {cut}: {error:?}"
            );
            let (header, payload) = frame_of(&mut peer).await;
            assert_eq!((header.opcode, &payload[..2]), (Opcode::Close, &1007_u16.to_be_bytes()[..]));
        }
    }
}

#[tokio::test]
async fn text_cut_inside_characters_arrives_whole() {
    let text = "aß水🦀".repeat(50);
    for piece_bytes in 1..8 {
        let (mut server, mut peer) =
            server_by_hand(&Settings { read_buffer_bytes: 9, ..Settings::default() });
        for streamed in [false, true] {
            let pieces = text.len().div_ceil(piece_bytes);
            for (at, piece) in text.as_bytes().chunks(piece_bytes).enumerate() {
                let opcode = if at == 0 { Opcode::Text } else { Opcode::Continuation };
                peer.write_all(&masked(opcode, at + 1 == pieces, piece)).await.expect("sent");
            }
            let read = if streamed {
                let mut read = String::new();
                let mut reader = server.next_reader().await.expect("a message");
                reader.read_to_string(&mut read).await.expect("text");
                Message::from(read)
            } else {
                server.read().await.expect("a message")
            };
            assert_eq!(read, text.as_str().into(), "in pieces of {piece_bytes}");
        }
    }
}

/// The beginning of a message, after which nothing comes for a while, keeps little memory: no more than a few times its size.
#[tokio::test]
async fn an_unfinished_message_keeps_memory_in_proportion_to_what_has_arrived() {
    let settings = Settings { max_message: 1 << 20, ..Settings::default() };
    for opcode in [Opcode::Binary, Opcode::Text] {
        let (mut server, mut peer) = server_by_hand(&settings);
        // The reads of this connection have grown.
        for _ in 0..4 {
            peer.write_all(&masked(opcode, true, &[b'x'; 60 << 10])).await.expect("sent");
            assert_eq!(server.read().await.expect("a message").len(), 60 << 10);
        }
        let frame = masked(opcode, true, &[b'y'; 1 << 20]);
        let mut sent = 0;
        for bytes in [20, 1_000, 10_000, 50_000, 100_000, 500_000] {
            peer.write_all(&frame[sent..sent + bytes]).await.expect("sent");
            sent += bytes;
            tokio::select! { biased; _ = server.read() => panic!("it is not whole"), () = yield_now() => {} }
            let held = server.reader.shared.update(|core| {
                assert!(core.buffer_slot.buffers().is_none(), "the buffers went back");
                core.incoming.held_bytes()
            });
            assert!(held <= 4 * sent, "{held} bytes for {sent}");
        }
        peer.write_all(&frame[sent..]).await.expect("sent");
        assert_eq!(server.read().await.expect("a message").as_bytes(), [b'y'; 1 << 20]);
    }
}

/// A program may keep what it received: a short message is copied out of the memory that it was received in, and a long
/// one is not.
#[tokio::test]
async fn messages_that_are_kept_hold_memory_in_proportion_to_their_size() {
    let (mut server, mut peer) = server_by_hand(&Settings::default());
    let mut shared = Vec::new();
    for bytes in [10, 900, 4_000, 60_000] {
        peer.write_all(&masked(Opcode::Binary, true, &vec![b'x'; bytes])).await.expect("sent");
        peer.write_all(&masked(Opcode::Binary, true, b"behind")).await.expect("sent");
        let kept = server.read().await.expect("a message").into_bytes();
        // The message behind it is there, too, so a message that was not copied shares its memory.
        let region_bytes = server
            .reader
            .shared
            .update(|core| core.buffer_slot.buffers().map_or(0, |buffers| buffers.region_bytes));
        let shares = !kept.is_unique();
        assert!(!shares || 4 * bytes >= region_bytes, "{bytes} bytes hold {region_bytes}");
        shared.push(shares);
        assert_eq!(server.read().await.expect("a message"), b"behind"[..].into());
        assert_eq!(kept, vec![b'x'; bytes], "what comes later changes nothing");
    }
    assert!(!shared[0] && shared[3], "{shared:?}");
}

/// Messages that were fed are sent although there is always more to read.
#[tokio::test]
async fn what_is_fed_leaves_while_a_peer_never_stops_sending() {
    let (ours, mut peer) = duplex(1 << 20);
    let counted = Counted::new(ours);
    let reads = Arc::clone(&counted.reads);
    let settings = Settings { read_buffer_bytes: 8, max_message: 1 << 20, ..Settings::default() };
    let mut server = conn(counted, Role::Server, &settings);
    peer.write_all(&masked(Opcode::Binary, true, &[7; 900_000])[..100_000]).await.expect("sent");
    server.feed("fed first").await.expect("fed");
    let mut reader = server.next_reader().await.expect("a message");
    let mut bytes = [0; 1_000];
    while reads.load(Ordering::Relaxed) <= usize::from(READS_BEFORE_FLUSH_MAX) {
        // There is always something to read.
        peer.write_all(&[0; 10]).await.expect("sent");
        assert!(reader.read(&mut bytes).await.expect("bytes") > 0, "the message ended too early");
    }
    assert_eq!(frame_of(&mut peer).await.1, b"fed first");
}

/// The connections of a thread use the same buffers one after the other.
#[tokio::test]
async fn bytes_that_a_dropped_connection_did_not_read_never_reach_another_one() {
    for _ in 0..4 {
        let (mut server, mut peer) = server_by_hand(&Settings::default());
        let both = [masked(Opcode::Text, true, b"read"), masked(Opcode::Text, true, b"never read")].concat();
        peer.write_all(&both).await.expect("sent");
        assert_eq!(server.read().await.expect("a message"), "read".into());
        drop(server);
        let (mut next, mut peer) = server_by_hand(&Settings::default());
        peer.write_all(&masked(Opcode::Text, true, b"its own")).await.expect("sent");
        assert_eq!(next.read().await.expect("a message"), "its own".into());
    }
}

#[tokio::test]
async fn messages_of_several_connections_that_arrive_in_pieces_by_turns_stay_apart() {
    const BYTES: usize = 200_000;
    let settings = Settings { max_message: 1 << 20, ..Settings::default() };
    let mut pairs: Vec<_> = (0..5).map(|_| server_by_hand(&settings)).collect();
    for round in 0..3_u8 {
        let byte = |connection: usize| round * 16 + connection as u8;
        let frame = |connection| masked(Opcode::Binary, true, &vec![byte(connection); BYTES]);
        let frames: Vec<_> = (0..pairs.len()).map(frame).collect();
        for piece in 0..20 {
            for ((server, peer), frame) in pairs.iter_mut().zip(&frames) {
                let here = frame.len() / 20 * piece..frame.len() / 20 * (piece + 1);
                peer.write_all(&frame[here]).await.expect("sent");
                tokio::select! { biased; _ = server.read() => panic!("it is not whole"), () = yield_now() => {} }
            }
        }
        for (connection, ((server, peer), frame)) in pairs.iter_mut().zip(&frames).enumerate() {
            peer.write_all(&frame[frame.len() / 20 * 20..]).await.expect("sent");
            let message = server.read().await.expect("a message");
            assert_eq!(message.as_bytes(), vec![byte(connection); BYTES]);
        }
    }
}

#[tokio::test]
async fn idle_connections_share_the_buffers_of_their_thread() {
    let settings = Settings::default();
    let mut pairs: Vec<_> = (0..20).map(|_| pair_with(128 << 10, &settings)).collect();
    for (server, client) in &mut pairs {
        client.write(vec![0; 60 << 10]).await.expect("sent");
        assert_eq!(server.read().await.expect("a message").len(), 60 << 10);
        tokio::select! { biased; _ = server.read() => panic!("nothing was sent"), () = yield_now() => {} }
        for core in [&server.reader.shared, &client.reader.shared] {
            assert!(core.update(|core| core.buffer_slot.buffers().is_none()), "an idle connection owns none");
        }
    }
}

#[tokio::test]
async fn idle_connections_share_the_buffers_of_a_pool() {
    let buffers = BufferPool::new();
    let settings = Settings { buffers: Some(buffers.clone()), ..Settings::default() };
    let mut pairs: Vec<_> = (0..20).map(|_| pair_with(4096, &settings)).collect();
    for (server, client) in &mut pairs {
        client.write("one after the other").await.expect("sent");
        assert_eq!(server.read().await.expect("a message").len(), 19);
        // A connection knows that it is idle only once it finds nothing more to read.
        tokio::select! { biased; _ = server.read() => panic!("nothing was sent"), () = yield_now() => {} }
    }
    assert_eq!(buffers.spare(), 1, "at most one connection was busy at a time");
}

#[tokio::test]
async fn json_goes_both_ways_and_bad_json_leaves_the_connection_usable() {
    let (mut server, mut client) = pair();
    client.write_json(&["a", "b"]).await.expect("sent");
    client.write("{").await.expect("sent");
    client.write_json(&7).await.expect("sent");
    assert_eq!(server.read_json::<Vec<String>>().await.expect("JSON"), ["a", "b"]);
    assert!(matches!(server.read_json::<u32>().await, Err(Error::Json(_))));
    assert_eq!(server.read_json::<u32>().await.expect("JSON"), 7);
}

#[tokio::test]
async fn the_read_limit_is_the_longest_accepted_message() {
    let (mut server, mut client) = pair();
    server.set_read_limit(5);
    client.write("12345").await.expect("sent");
    client.write("123456").await.expect("sent");
    assert_eq!(server.read().await.expect("a message"), "12345".into());
    assert!(matches!(server.read().await, Err(Error::ProtocolError(ProtocolError::MessageTooBig))));
    assert_eq!(client.read().await.expect_err("the end").close_code(), Some(CloseCode::TOO_BIG));
}

#[tokio::test]
async fn a_stream_ends_after_a_clean_close_and_with_the_error_after_any_other() {
    use futures_util::StreamExt as _;
    for clean in [true, false] {
        let (server, mut client) = pair();
        let reading = tokio::spawn(server.collect::<Vec<_>>());
        client.write("only").await.expect("sent");
        if clean {
            client.close(CloseCode::NORMAL, "").await.expect("closed");
        }
        drop(client);
        let items = reading.await.expect("read");
        assert!(matches!(&items[0], Ok(message) if *message == "only".into()));
        match clean {
            true => assert_eq!(items.len(), 1),
            false => assert!(matches!(items[1..], [Err(Error::Broken)])),
        }
    }
}

#[tokio::test]
async fn a_peer_that_pings_and_does_not_read_costs_bounded_memory() {
    let settings = Settings { pings_per_second_max: u32::MAX, ..Settings::default() };
    let (ours, mut peer) = duplex(4096);
    let mut server = conn(ours, Role::Server, &settings);
    let reading = tokio::spawn(async move { (server.read().await, server) });
    for _ in 0..8_000 {
        peer.write_all(&masked(Opcode::Ping, true, &[b'p'; 125])).await.expect("sent");
    }
    peer.write_all(&masked(Opcode::Text, true, b"a megabyte later")).await.expect("sent");
    let (message, server) = reading.await.expect("read");
    assert_eq!(message.expect("a message"), "a megabyte later".into());
    let peak = server
        .reader
        .shared
        .update(|core| core.buffer_slot.buffers().map_or(0, |buffers| buffers.pool.peak_bytes()));
    assert!((1..32_000).contains(&peak), "{peak} bytes");
}
