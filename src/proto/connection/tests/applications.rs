//! Applications other than an echo: handshakes of another server, pings and Close frames that the application answers,
//! messages in chunks, and Close frames that overtake queued messages.

use super::*;

/// The server endpoint of a connection whose handshake another server has done.
struct Endpoint {
    connection: Connection,
    pool: Pool,
    codecs: Codecs,
    config: ConnectionConfig,
    entropy: Entropy,
}

/// A chunk, ping or pong that the application receives.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Chunk(bool, bool, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

impl Endpoint {
    fn new(config: ConnectionConfig) -> Endpoint {
        let (mut pool, mut entropy) = (Pool::standalone(), Entropy::new(5));
        let mut codecs = codecs(&config);
        let mut env =
            Env { pool: &mut pool, codecs: &mut codecs, config: &config, now: SECOND, entropy: &mut entropy };
        let opened = Connection::opened(Role::Server, None, Delivery::Chunks, &mut env);
        Endpoint { connection: opened.expect("memory"), pool, codecs, config, entropy }
    }

    fn with_env<R>(&mut self, act: impl FnOnce(&mut Connection, &mut Env<'_>) -> R) -> R {
        let Endpoint { connection, pool, codecs, config, entropy } = self;
        act(connection, &mut Env { pool, codecs, config, now: SECOND, entropy })
    }

    fn read(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut bytes = bytes.to_vec();
        self.with_env(|connection, env| {
            let (mut cursor, mut events) = (SpanCursor::new(), Vec::new());
            connection.begin_span(env.now);
            loop {
                let step = connection.poll(&mut cursor, &mut bytes, env);
                let mut take = |piece| match piece {
                    Piece::InSpan(at) => bytes[at].to_vec(),
                    Piece::Buffered(buffer) => {
                        let taken = buffer.as_slice().to_vec();
                        env.pool.put(buffer);
                        taken
                    }
                };
                events.push(match step {
                    Step::Idle => break,
                    Step::Chunk(flags, piece) => Event::Chunk(flags.first, flags.last, take(piece)),
                    Step::Ping(piece) => Event::Ping(take(piece)),
                    Step::Pong(piece) => Event::Pong(take(piece)),
                    step => panic!("{step:?}"),
                });
            }
            if let Ok(Some(_)) = connection.end_span(&cursor, &bytes, env) {
                connection.copy_replies(&cursor, &bytes, env).expect("memory");
            }
            events
        })
    }

    fn sent(&mut self) -> Vec<(Opcode, bool, Vec<u8>)> {
        let mut sent = Vec::new();
        while let Some(buffer) = self.connection.pop() {
            sent.extend_from_slice(buffer.as_slice());
            self.pool.put(buffer);
        }
        frames(&sent)
    }
}

#[test]
fn pings_are_shown_and_answered_as_configured() {
    for (pings, pongs, shown) in
        [(Pings::Answered, 3, 0), (Pings::AnsweredAndShown, 3, 3), (Pings::Shown, 0, 3)]
    {
        let mut endpoint = Endpoint::new(ConnectionConfig { pings, ..ConnectionConfig::default() });
        let ping = |n: u8| client_frame(Opcode::Ping, true, &[b'p', n]);
        // Two pings in one span, so that the second reply follows the first, and one ping across two spans.
        let mut events = endpoint.read(&[ping(0), ping(1)].concat());
        let (head, tail) = (ping(2)[..7].to_vec(), ping(2)[7..].to_vec());
        events.extend(endpoint.read(&head));
        events.extend(endpoint.read(&tail));
        let expected: Vec<Event> = (0..shown).map(|n| Event::Ping(vec![b'p', n])).collect();
        assert_eq!(events, expected, "{pings:?}");
        let expected: Vec<_> = (0..pongs).map(|n| (Opcode::Pong, true, vec![b'p', n])).collect();
        assert_eq!(endpoint.sent(), expected, "{pings:?}");
    }
}

#[test]
fn the_ping_limit_also_applies_to_applications_that_answer_pings() {
    let mut endpoint = Endpoint::new(ConnectionConfig {
        pings: Pings::Shown,
        pings_per_second_max: 2,
        ..ConnectionConfig::default()
    });
    let events = endpoint.read(&client_frame(Opcode::Ping, true, b"").repeat(3));
    assert_eq!(events.len(), 2);
    let closed = endpoint.connection.closed().expect("the closing handshake has begun");
    assert_eq!(closed.cause, Cause::ProtocolError(ProtocolError::PingFlood));
}

#[test]
fn an_application_may_answer_a_close_frame_with_a_code_of_its_own() {
    let mut endpoint =
        Endpoint::new(ConnectionConfig { answers_closes: false, ..ConnectionConfig::default() });
    endpoint.read(&client_frame(Opcode::Close, true, b"\x03\xe9leaving"));
    assert!(endpoint.sent().is_empty());
    let peer_close = endpoint.connection.closed().and_then(|closed| closed.peer_close.clone());
    assert_eq!(peer_close, Some(CloseFrame { code: CloseCode::GOING_AWAY, reason: "leaving".to_owned() }));
    endpoint.with_env(|connection, env| connection.answer_close(CloseCode(4000), "bye", env));
    assert_eq!(endpoint.sent(), [(Opcode::Close, true, b"\x0f\xa0bye".to_vec())]);
    assert_eq!(endpoint.connection.take_transport_action(), Some(TransportAction::Close));
}

#[test]
fn the_close_frame_that_answers_a_sent_one_is_kept() {
    let mut endpoint = Endpoint::new(ConnectionConfig::default());
    endpoint
        .with_env(|connection, env| connection.close(CloseCode::NORMAL, "done", CloseMode::Graceful, env));
    endpoint.read(&client_frame(Opcode::Close, true, b"\x0f\xa1me too"));
    let closed = endpoint.connection.closed().expect("the closing handshake has begun");
    assert_eq!((closed.code, &closed.cause), (CloseCode::NORMAL, &Cause::Local));
    let peer_close = closed.peer_close.as_ref().map(|close| (close.code.0, close.reason.as_str()));
    assert_eq!(peer_close, Some((4001, "me too")));
}

#[test]
fn a_close_that_drops_queued_messages_waits_for_its_answer() {
    let mut endpoint = Endpoint::new(ConnectionConfig::default());
    endpoint.with_env(|connection, env| connection.send(MessageKind::Text, b"queued", env)).expect("memory");
    let dropped = endpoint
        .with_env(|connection, env| connection.close(CloseCode::NORMAL, "", CloseMode::DropQueued, env));
    assert_eq!(dropped, 8);
    assert_eq!(endpoint.sent(), [(Opcode::Close, true, vec![0x03, 0xe8])]);
    assert_eq!(endpoint.connection.take_transport_action(), None);
    endpoint.read(&client_frame(Opcode::Close, true, b"\x03\xe8"));
    assert_eq!(endpoint.connection.take_transport_action(), Some(TransportAction::Close));
}

#[test]
fn chunks_are_delivered_as_they_arrive_for_any_declared_length() {
    let mut endpoint = Endpoint::new(ConnectionConfig::default());
    let message: Vec<u8> = (0..1000_u32).map(|n| n as u8).collect();
    let frame = client_frame(Opcode::Binary, true, &message);
    let mut shown = Vec::new();
    for span in frame.chunks(100) {
        for event in endpoint.read(span) {
            let Event::Chunk(first, last, bytes) = event else { panic!("{event:?}") };
            assert_eq!(first, shown.is_empty());
            shown.extend_from_slice(&bytes);
            assert_eq!(last, shown.len() == message.len());
        }
        assert!(endpoint.connection.owns_memory() == endpoint.connection.reader.owns_buffer());
        assert!(!endpoint.connection.reader.owns_buffer(), "chunks are not assembled");
    }
    assert_eq!(shown, message);
}

#[test]
fn control_frames_may_be_sent_between_fragments() {
    let mut endpoint = Endpoint::new(ConnectionConfig::default());
    endpoint.with_env(|connection, env| {
        connection.send_fragment(MessageKind::Text, true, false, b"one ", env).expect("memory");
        connection.ping(b"alive?", env).expect("memory");
        connection.pong(b"by itself", env).expect("memory");
        connection.send_fragment(MessageKind::Text, false, true, b"two", env).expect("memory");
    });
    let (data, pongs) = messages(&endpoint.sent());
    assert_eq!(data, [(Opcode::Text, b"one two".to_vec())]);
    assert_eq!(pongs, [b"by itself".to_vec()]);
}
