//! permessage-deflate on a connection: negotiation, echoes, and hostile peers.

use super::*;
use crate::deflate::{self, Deflater, Direction, Inflater, Preferences};
use crate::limits::{INFLATED_BYTES_PER_TICK, SHARED_CONTEXT_THRESHOLD_BYTES};

pub(super) const NO_TAKEOVER: Direction = Direction { context_takeover: false, window_bits: 15 };
pub(super) const TAKEOVER: Direction = Direction { context_takeover: true, window_bits: 15 };

fn compression(server: Direction, client: Direction) -> Compression {
    Compression { preferences: Preferences { server, client }, ..Compression::default() }
}

pub(super) fn config(server: Direction, client: Direction) -> ConnectionConfig {
    ConnectionConfig { compression: Some(compression(server, client)), ..ConnectionConfig::default() }
}

impl Echo {
    /// A server connection that has accepted `offer`.
    pub(super) fn compressed(config: ConnectionConfig, offer: &[u8]) -> Echo {
        let mut echo = Echo::new(config);
        echo.offer = Some(offer.to_vec());
        echo.receive(REQUEST);
        assert!(echo.sent.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&echo.sent));
        echo.head = std::mem::take(&mut echo.sent);
        echo
    }

    fn extension(&self) -> String {
        let head = String::from_utf8(self.head.clone()).unwrap();
        let line = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
        line.unwrap_or("none").to_owned()
    }
}

pub(super) fn echo_without_takeover() -> Echo {
    Echo::compressed(config(NO_TAKEOVER, NO_TAKEOVER), b"permessage-deflate")
}

pub(super) fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let bytes = Deflater::new(NO_TAKEOVER, 6).deflate(payload, &mut out);
    out.truncate(bytes);
    out
}

fn inflated(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let bytes = Inflater::new(NO_TAKEOVER).inflate(payload, &mut out, 1 << 26).expect("the payload is valid");
    out.truncate(bytes);
    out
}

pub(super) fn compressed_frame(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
    let header = Header { compressed: true, ..Header::new(opcode, fin, Some(KEY), payload.len()) };
    let mut head = [0; 14];
    let head_bytes = frame::encode(&header, &mut head);
    let mut bytes = head[..head_bytes].to_vec();
    mask::append(&mut bytes, payload, KEY);
    bytes
}

/// The data messages that a server sent: whether they were compressed, and their inflated payloads.
fn answers(mut bytes: &[u8]) -> Vec<(bool, Vec<u8>)> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let (header, at) =
            frame::decode(bytes, Role::Client, true).unwrap().expect("complete frames were sent");
        let payload = &bytes[at..at + header.payload_bytes as usize];
        if !header.opcode.is_control() {
            assert!(header.fin);
            let payload = if header.compressed { inflated(payload) } else { payload.to_vec() };
            answers.push((header.compressed, payload));
        }
        bytes = &bytes[at + header.payload_bytes as usize..];
    }
    answers
}

pub(super) fn text(bytes: usize) -> Vec<u8> {
    br#"{"id":17,"symbol":"ECHO","bid":101.25,"ask":101.27},"#.iter().copied().cycle().take(bytes).collect()
}

#[test]
fn compressed_messages_are_echoed_compressed_and_others_uncompressed() {
    let mut echo = echo_without_takeover();
    assert_eq!(
        echo.extension(),
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    );
    for message in [text(1_000), text(60_000), b"short".to_vec(), Vec::new()] {
        echo.receive(&compressed_frame(Opcode::Text, true, &deflated(&message)));
        // Messages below the threshold are not compressed.
        let is_compressed = message.len() >= echo.config.compression.unwrap().threshold_bytes as usize;
        assert_eq!(answers(&echo.sent), [(is_compressed, message.clone())]);
        echo.sent.clear();
        echo.receive(&client_frame(Opcode::Text, true, &message));
        assert_eq!(answers(&echo.sent), [(false, message)]);
        echo.sent.clear();
    }
}

#[test]
fn a_compressed_message_may_arrive_in_fragments_and_small_spans_with_pings_between() {
    let message = text(5_000);
    let payload = deflated(&message);
    let (first, rest) = payload.split_at(100);
    let (second, third) = rest.split_at(1);
    let stream = [
        compressed_frame(Opcode::Binary, false, first),
        client_frame(Opcode::Ping, true, b"?"),
        client_frame(Opcode::Continuation, false, second),
        client_frame(Opcode::Continuation, true, third),
        client_frame(Opcode::Text, true, b"next"),
    ]
    .concat();
    for piece in [1, 7, 150, stream.len()] {
        let mut echo = echo_without_takeover();
        for bytes in stream.chunks(piece) {
            echo.receive(bytes);
        }
        assert_eq!(answers(&echo.sent), [(true, message.clone()), (false, b"next".to_vec())]);
    }
}

#[test]
fn rsv1_is_valid_only_on_the_first_data_frame_after_negotiation() {
    let payload = deflated(b"anything");
    for frames in [
        compressed_frame(Opcode::Ping, true, b""),
        compressed_frame(Opcode::Close, true, b""),
        compressed_frame(Opcode::Continuation, true, &payload),
        [compressed_frame(Opcode::Text, false, &payload), compressed_frame(Opcode::Continuation, true, b"")]
            .concat(),
    ] {
        let mut echo = echo_without_takeover();
        echo.receive(&frames);
        assert_eq!(echo.close_code(), Some(1002));
    }
    let mut plain = Echo::open();
    plain.receive(&compressed_frame(Opcode::Text, true, &payload));
    assert_eq!(plain.close_code(), Some(1002));
}

#[test]
fn invalid_compressed_data_and_invalid_text_are_1007() {
    for (opcode, payload) in [
        (Opcode::Binary, vec![0xff; 20]),
        (Opcode::Binary, deflated(&text(500))[..40].to_vec()),
        (Opcode::Text, deflated(b"not \xff text")),
        (Opcode::Text, deflated(b"cut \xe2\x82")),
    ] {
        let mut echo = echo_without_takeover();
        echo.receive(&compressed_frame(opcode, true, &payload));
        assert_eq!(echo.close_code(), Some(1007), "{payload:x?}");
    }
}

#[test]
fn a_compressed_message_of_exactly_the_limit_is_echoed_and_one_byte_more_is_1009() {
    let limit = ConnectionConfig::default().max_message as usize;
    let noise: Vec<u8> = {
        let mut entropy = Entropy::new(3);
        (0..limit).map(|_| entropy.next() as u8).collect()
    };
    for message in [vec![b'a'; limit], noise] {
        let mut echo = echo_without_takeover();
        echo.receive(&compressed_frame(Opcode::Binary, true, &deflated(&message)));
        assert_eq!(answers(&echo.sent).len(), 1);
    }
    let mut echo = echo_without_takeover();
    echo.receive(&compressed_frame(Opcode::Binary, true, &deflated(&vec![b'a'; limit + 1])));
    assert_eq!(echo.close_code(), Some(1009));
    // The header alone is enough: no message within the limit has a compressed form of this length.
    let mut echo = echo_without_takeover();
    let header = Header { compressed: true, ..Header::new(Opcode::Binary, true, Some(KEY), 2 * limit) };
    let mut head = [0; 14];
    let head_bytes = frame::encode(&header, &mut head);
    echo.receive(&head[..head_bytes]);
    assert_eq!(echo.close_code(), Some(1009));
}

#[test]
fn messages_that_inflate_a_thousandfold_wait_for_the_next_tick_and_for_the_peer() {
    let message = vec![b'a'; 60_000];
    let frame = compressed_frame(Opcode::Binary, true, &deflated(&message));
    let count = 300;
    let span: Vec<u8> = frame.iter().copied().cycle().take(count * frame.len()).collect();
    assert!(span.len() < 64 * 1024, "{} bytes in one span", span.len());

    let mut echo = echo_without_takeover();
    // Replies are uncompressed and cannot be sent: the input grows a thousandfold.
    echo.config.queue_bytes = 256 * 1024;
    echo.reply_uncompressed = true;
    echo.connection.blocked(1);
    echo.receive(&span);
    let queued = echo.connection.queued_bytes() as usize;
    assert!(queued < 256 * 1024 + 2 * message.len(), "{queued} bytes are queued");
    assert_eq!(echo.connection.pause_wanted(&echo.config, false), Some(true));
    // Data in flight still arrives. It is deferred without inflating it.
    echo.receive(&span[..3 * frame.len()]);
    assert_eq!(echo.connection.queued_bytes() as usize, queued);

    let now = echo.now;
    echo.connection.unblocked(now);
    let mut ticks = 0;
    loop {
        let before = answers(&echo.sent).len();
        echo.flush();
        let Some(deferred) = echo.take_deferred() else { break };
        echo.receive(&deferred);
        ticks += 1;
        let more = answers(&echo.sent).len() - before;
        assert!(more * message.len() <= INFLATED_BYTES_PER_TICK + 6 * message.len(), "{more} in one tick");
        assert!(ticks <= count);
    }
    let answers = answers(&echo.sent);
    assert_eq!(answers.len(), count + 3);
    assert!(answers.iter().all(|(_, answer)| *answer == message));
    assert_eq!(echo.connection.pause_wanted(&echo.config, false), Some(false));
    assert!(ticks > 20, "{ticks} ticks");
}

#[test]
fn windows_are_kept_as_agreed_in_both_directions() {
    for server in [NO_TAKEOVER, TAKEOVER, Direction { context_takeover: true, window_bits: 9 }] {
        for client in [NO_TAKEOVER, TAKEOVER, Direction { context_takeover: true, window_bits: 10 }] {
            let config = config(server, client);
            let mut echo = Echo::compressed(
                config,
                b"permessage-deflate; client_max_window_bits; server_max_window_bits=15",
            );
            let mut deflater = Deflater::new(client, 6);
            let mut inflater = Inflater::new(server);
            let (mut out, mut back) = (Vec::new(), Vec::new());
            let mut sent_bytes = Vec::new();
            for round in 0..20 {
                let message = text(1_000 + round * 37);
                let bytes = deflater.deflate(&message, &mut out);
                echo.receive(&compressed_frame(Opcode::Text, true, &out[..bytes]));
                let (header, at) = frame::decode(&echo.sent, Role::Client, true).unwrap().unwrap();
                assert!(header.compressed);
                let bytes = inflater.inflate(&echo.sent[at..], &mut back, 1 << 20).unwrap();
                assert!(back[..bytes] == message);
                sent_bytes.push(echo.sent.len());
                echo.sent.clear();
            }
            // The next message is tiny only if the window reaches back to the previous message.
            assert_eq!(server == TAKEOVER, sent_bytes[10] < 40, "{sent_bytes:?}");
            let window_bytes = echo.codecs.done().context_bytes;
            assert_eq!(window_bytes > 0, server.context_takeover || client.context_takeover);
            let Echo { mut connection, mut pool, mut codecs, .. } = echo;
            connection.release(&mut pool, &mut codecs);
        }
    }
}

#[test]
fn a_server_window_of_8_bits_is_answered_with_uncompressed_messages() {
    let mut echo =
        Echo::compressed(config(TAKEOVER, TAKEOVER), b"permessage-deflate; server_max_window_bits=8");
    let message = text(1_000);
    echo.receive(&compressed_frame(Opcode::Text, true, &deflated(&message)));
    assert_eq!(answers(&echo.sent), [(false, message)]);
}

#[test]
fn when_the_budget_is_spent_context_takeover_is_declined() {
    let mut echo = Echo::new(config(TAKEOVER, TAKEOVER));
    echo.codecs = Codecs::new(echo.config.compression, Lease::new(Budget::new(1_000), 100));
    echo.offer = Some(b"permessage-deflate".to_vec());
    echo.receive(REQUEST);
    echo.head = std::mem::take(&mut echo.sent);
    assert_eq!(
        echo.extension(),
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    );
    assert_eq!(echo.codecs.done().declined, 1);
    let message = text(1_000);
    for _ in 0..3 {
        echo.receive(&compressed_frame(Opcode::Text, true, &deflated(&message)));
    }
    assert_eq!(answers(&echo.sent), vec![(true, message); 3]);
}

#[test]
fn deflaters_of_closed_connections_are_reused_and_the_lease_stays_balanced() {
    let config = config(TAKEOVER, TAKEOVER);
    let mut kept = codecs(&config);
    let message = text(1_000);
    for _ in 0..30 {
        let mut echo = Echo::new(config.clone());
        std::mem::swap(&mut echo.codecs, &mut kept);
        echo.offer = Some(b"permessage-deflate".to_vec());
        echo.receive(REQUEST);
        echo.sent.clear();
        echo.receive(&compressed_frame(Opcode::Text, true, &deflated(&message)));
        assert_eq!(answers(&echo.sent), [(true, message.clone())]);
        echo.connection.release(&mut echo.pool, &mut echo.codecs);
        std::mem::swap(&mut echo.codecs, &mut kept);
    }
    // Only the deflater is kept for reuse; windows are freed.
    assert_eq!(kept.done().context_bytes, Deflater::memory_bytes(TAKEOVER) as u64);
    assert_eq!(kept.done().declined, 0);
}

#[test]
fn a_broadcast_message_may_be_sent_between_others() {
    let mut echo = Echo::compressed(config(TAKEOVER, NO_TAKEOVER), b"permessage-deflate");
    let mut inflater = Inflater::new(TAKEOVER);
    let mut out = Vec::new();
    let mut received = |echo: &mut Echo| {
        let (header, at) = frame::decode(&echo.sent, Role::Client, true).unwrap().unwrap();
        let bytes = inflater.inflate(&echo.sent[at..], &mut out, 1 << 20).unwrap();
        assert!(header.compressed);
        echo.sent.clear();
        out[..bytes].to_vec()
    };
    let message = text(900);
    echo.receive(&compressed_frame(Opcode::Text, true, &deflated(&message)));
    assert_eq!(received(&mut echo), message);
    // A broadcast message: later messages do not refer to earlier ones.
    let window = SharedWindow { bits: 15, has_context: false };
    assert_eq!(echo.connection.share_window(&mut echo.codecs), Some(window));
    let for_all = echo.codecs.deflate_for_all(15, &text(2_000)).expect("it shrinks").to_vec();
    let header = Header { compressed: true, ..Header::new(Opcode::Text, true, None, for_all.len()) };
    let mut head = [0; 14];
    let head_bytes = frame::encode(&header, &mut head);
    echo.sent = [&head[..head_bytes], &for_all].concat();
    assert_eq!(received(&mut echo), text(2_000));
    echo.receive(&compressed_frame(Opcode::Text, true, &deflated(&message)));
    assert_eq!(received(&mut echo), message);
}

#[test]
fn short_messages_leave_the_context_unchanged() {
    let mut codecs = codecs(&config(TAKEOVER, NO_TAKEOVER));
    let mut context = codecs.new_context(15).expect("compression is on");
    let short = [b'x'; SHARED_CONTEXT_THRESHOLD_BYTES - 1];
    assert!(codecs.deflate_in_context(&mut context, &short).is_none());
    assert!(codecs.deflate_for_joining(15, &short).is_none());
    assert_eq!(context.consumed_bytes(), 0);
    // Those who join are sent everything that enters the context, even if it becomes longer.
    let noise: Vec<u8> = (0..64_u32).map(|number| (number.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect();
    let joining = codecs.deflate_for_joining(15, &noise).expect("it is sent compressed").len();
    assert!(joining > noise.len());
    assert!(codecs.deflate_in_context(&mut context, &noise).is_some());
    assert_eq!(context.consumed_bytes(), 64);
    let again = codecs.deflate_in_context(&mut context, &noise).expect("it is sent compressed").len();
    assert!(again < 16, "{again} bytes of a message that was sent before");
}

#[test]
fn a_connection_whose_window_a_topic_has_sends_its_own_messages_plain() {
    let shared = Some(Compression { shared: true, ..config(TAKEOVER, NO_TAKEOVER).compression.expect("on") });
    let config = ConnectionConfig { compression: shared, ..config(TAKEOVER, NO_TAKEOVER) };
    let mut echo = Echo::compressed(config, b"permessage-deflate");
    let is_compressed = |echo: &mut Echo| {
        echo.receive(&compressed_frame(Opcode::Text, true, &deflated(&text(900))));
        let (header, _) = frame::decode(&echo.sent, Role::Client, true).unwrap().unwrap();
        echo.sent.clear();
        header.compressed
    };
    assert!(is_compressed(&mut echo));
    let window = SharedWindow { bits: 15, has_context: true };
    assert_eq!(echo.connection.share_window(&mut echo.codecs), Some(window));
    assert!(is_compressed(&mut echo));
    echo.connection.leave_window_to_topic();
    assert!(!is_compressed(&mut echo));
    assert_eq!(echo.connection.share_window(&mut echo.codecs), Some(window));
    assert!(is_compressed(&mut echo));
    assert_eq!(echo.codecs.done().context_bytes, 0, "it owns no deflater");
}

#[test]
fn a_compressing_client_and_server_exchange_messages() {
    for (server, client) in [(NO_TAKEOVER, NO_TAKEOVER), (TAKEOVER, TAKEOVER), (TAKEOVER, NO_TAKEOVER)] {
        let dial =
            Dial { host: "a".into(), path: "/".into(), origin: None, subprotocols: vec![], headers: vec![] };
        let config = ConnectionConfig { dial: Some(dial), ..config(server, client) };
        let (mut pool, mut entropy, mut own) = (Pool::standalone(), Entropy::new(7), codecs(&config));
        let mut env =
            Env { pool: &mut pool, codecs: &mut own, config: &config, now: 1, entropy: &mut entropy };
        let mut connection = Connection::client(&mut env, true).unwrap();
        let request = connection.pop().unwrap().as_slice().to_vec();
        let request = String::from_utf8(request).unwrap();
        let offer = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: ")).unwrap();
        let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let agreement =
            deflate::agree([offer.as_bytes()].into_iter(), &compression(server, client).preferences);
        let mut response = Vec::new();
        let key = key.as_bytes().try_into().unwrap();
        crate::handshake::write_accept(&mut response, &key, None, agreement.as_ref(), []);
        let mut span = SpanCursor::new();
        assert!(matches!(connection.poll(&mut span, &mut response, &mut env), Step::Opened(_)));
        let mut echo = Echo::compressed(ConnectionConfig { dial: None, ..config.clone() }, offer.as_bytes());
        for bytes in [10, 300, 20_000, 60_000] {
            let message = text(bytes);
            connection.send(MessageKind::Text, &message, &mut env).unwrap();
            while let Some(buffer) = connection.pop() {
                assert!(bytes < 128 || buffer.len() < bytes / 3, "{} bytes", buffer.len());
                echo.receive(buffer.as_slice());
            }
            let mut answer = std::mem::take(&mut echo.sent);
            let mut span = SpanCursor::new();
            let Step::Chunk(flags, piece) = connection.poll(&mut span, &mut answer, &mut env) else {
                panic!("an answer to {bytes} bytes")
            };
            let received = match piece {
                Piece::InSpan(at) => answer[at].to_vec(),
                Piece::Buffered(buffer) => buffer.as_slice().to_vec(),
            };
            assert!(flags.first && flags.last && received == message);
        }
    }
}

#[test]
fn assembling_many_compressed_fragments_copies_the_message_only_a_few_times() {
    let message: Vec<u8> = {
        let mut entropy = Entropy::new(3);
        (0..2 << 20).map(|_| entropy.next() as u8).collect()
    };
    let mut echo = echo_without_takeover();
    echo.stays = true;
    echo.config.max_message = message.len() as u64;
    let payload = deflated(&message);
    let fragments: Vec<&[u8]> = payload.chunks(256).collect();
    let (mut grown, mut capacity) = (0, 0);
    for (number, fragment) in fragments.iter().enumerate() {
        let last = number == fragments.len() - 1;
        echo.receive(&match number {
            0 => compressed_frame(Opcode::Binary, last, fragment),
            _ => client_frame(Opcode::Continuation, last, fragment),
        });
        if let Some(assembly) = echo.connection.reader.buffers().next() {
            let now = assembly.len() + assembly.room();
            grown += usize::from(now != capacity);
            capacity = now;
        }
    }
    // The echo is uncompressed, because the message does not shrink.
    assert_eq!(answers(&echo.sent), [(false, message)]);
    assert!(grown < 16, "the assembly grew {grown} times");
}
