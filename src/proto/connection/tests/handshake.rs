//! Tests of the opening handshake in both roles with explicit input and time.

use super::*;
use crate::limits::{HEAD_BYTES_DEFAULT, HEAD_BYTES_MAX, HEAD_BYTES_MIN};

#[test]
fn a_slowly_sent_head_ends_at_its_absolute_deadline() {
    let mut echo = Echo::new(ConnectionConfig::default());
    for byte in &REQUEST[..49] {
        echo.receive(&[*byte]);
        echo.advance(100 * MILLISECOND);
    }
    assert_eq!(echo.action, None);
    echo.advance(100 * MILLISECOND);
    assert_eq!(echo.action, Some(TransportAction::Close));
    assert_eq!(echo.connection.closed().map(|closed| closed.cause.clone()), Some(Cause::HandshakeTimeout));
}

#[test]
fn incomplete_heads_that_are_certainly_invalid_are_refused_at_once() {
    for (bytes, status) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], "400"),
        (&[b"GET / HTTP/1.1\r\nA: ".as_slice(), &[b'a'; 17_000]].concat(), "431"),
    ] {
        let mut echo = Echo::new(ConnectionConfig::default());
        bytes.chunks(5_000).for_each(|chunk| echo.receive(chunk));
        let answer = String::from_utf8_lossy(&echo.sent).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(echo.action, Some(TransportAction::Shutdown));
    }
}

/// A request of so many bytes.
fn request_of(bytes: usize) -> Vec<u8> {
    let mut request = [REQUEST.strip_suffix(b"\r\n").expect("an empty line"), b"X: "].concat();
    request.resize(bytes - 4, b'x');
    request.extend_from_slice(b"\r\n\r\n");
    request
}

fn status(echo: &Echo) -> String {
    String::from_utf8_lossy(&echo.sent).split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn a_head_may_have_as_many_bytes_as_is_configured() {
    for max_header in [HEAD_BYTES_MIN, HEAD_BYTES_DEFAULT, HEAD_BYTES_MAX] {
        for (excess, answer) in [(0, "101"), (1, "431"), (100_000, "431")] {
            for span_bytes in [700, 4_096, 1 << 20] {
                let mut echo = Echo::new(ConnectionConfig { max_header, ..ConnectionConfig::default() });
                let request = request_of(max_header + excess);
                request.chunks(span_bytes).for_each(|span| echo.receive(span));
                assert_eq!(status(&echo), answer, "{max_header} + {excess} in spans of {span_bytes}");
                echo.connection.release(&mut echo.pool, &mut echo.codecs);
                while echo.pool.trim() {}
                assert_eq!(echo.pool.used_bytes(), 0);
            }
        }
    }
}

#[test]
fn a_head_that_is_incomplete_when_its_maximum_changes_is_held_to_the_new_one() {
    let request = request_of(10_000);
    for (before, first, after, answer) in [
        (16_384, 9_000, 1_024, "431"),
        (16_384, 500, 1_024, "431"),
        (16_384, 9_999, 9_999, "431"),
        (16_384, 9_999, 10_000, "101"),
        (1_024, 1_000, 10_000, "101"),
        (1_024, 1_000, 9_999, "431"),
    ] {
        let mut echo = Echo::new(ConnectionConfig { max_header: before, ..ConnectionConfig::default() });
        let (begin, rest) = request.split_at(first);
        echo.receive(begin);
        assert_eq!(status(&echo), "");
        echo.config.max_header = after;
        rest.chunks(600).for_each(|span| echo.receive(span));
        assert_eq!(status(&echo), answer, "{first} bytes, then {before} became {after}");
    }
}

#[test]
fn data_pipelined_after_a_valid_handshake_is_read() {
    let mut echo = Echo::new(ConnectionConfig::default());
    echo.receive(&[REQUEST, &client_frame(Opcode::Text, true, b"early")].concat());
    let head = echo.sent.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(frames(&echo.sent[head..]), [(Opcode::Text, true, b"early".to_vec())]);
}

#[test]
fn bytes_that_arrive_while_the_application_decides_are_deferred() {
    let mut echo = Echo::new(ConnectionConfig::default());
    let frame = client_frame(Opcode::Text, true, b"patient");
    let mut bytes = [REQUEST, &frame[..5]].concat();
    let (connection, mut env) = echo.env();
    let mut cursor = SpanCursor::new();
    let Step::Head(head) = connection.poll(&mut cursor, &mut bytes, &mut env) else { panic!("a head") };
    env.pool.put(head);
    connection.decide_later(Some(*b"AAAAAAAAAAAAAAAAAAAAAA=="));
    assert!(matches!(connection.poll(&mut cursor, &mut bytes, &mut env), Step::Idle));
    assert_eq!(connection.pause_wanted(env.config, false), Some(true));
    let mut rest = frame[5..].to_vec();
    assert!(matches!(connection.poll(&mut SpanCursor::new(), &mut rest, &mut env), Step::Idle));
    assert!(connection.take_deferred(env.config).is_none(), "the application has not decided");
    connection.accept(None, None, &[], false, &mut env).unwrap();
    let deferred = connection.take_deferred(env.config).expect("both spans were deferred");
    assert_eq!(deferred.as_slice(), frame);
    assert_eq!(connection.pause_wanted(env.config, false), Some(false));
}

#[test]
fn a_failed_handshake_releases_its_memory() {
    let ends: [fn(&mut Echo); 4] = [
        |echo| echo.advance(5 * SECOND),
        |echo| echo.connection.ended(echo.now),
        |echo| echo.connection.failed(std::io::ErrorKind::ConnectionReset),
        |echo| {
            let (connection, mut env) = echo.env();
            connection.close(CloseCode::GOING_AWAY, "", CloseMode::Graceful, &mut env);
        },
    ];
    for end in ends {
        for deciding in [false, true] {
            let mut echo = Echo::new(ConnectionConfig::default());
            if deciding {
                let (connection, mut env) = echo.env();
                connection.decide_later(Some(*b"AAAAAAAAAAAAAAAAAAAAAA=="));
                let mut early = client_frame(Opcode::Text, true, b"early");
                assert!(matches!(connection.poll(&mut SpanCursor::new(), &mut early, &mut env), Step::Idle));
            } else {
                echo.receive(&REQUEST[..50]);
            }
            assert!(echo.pool.used_bytes() > 0);
            end(&mut echo);
            assert!(echo.connection.is_closing());
            echo.connection.release(&mut echo.pool, &mut echo.codecs);
            while echo.pool.trim() {}
            assert_eq!(echo.pool.used_bytes(), 0, "deciding: {deciding}");
        }
    }
}

#[test]
fn a_head_ends_at_its_first_empty_line_for_every_span_boundary() {
    let bytes = [REQUEST, b"\r\n\r\n"].concat();
    for cut in 1..REQUEST.len() {
        let mut echo = Echo::new(ConnectionConfig::default());
        let (connection, mut env) = echo.env();
        let (mut first, mut second) = (bytes[..cut].to_vec(), bytes[cut..].to_vec());
        let mut cursor = SpanCursor::new();
        assert!(matches!(connection.poll(&mut cursor, &mut first, &mut env), Step::Idle));
        let mut cursor = SpanCursor::new();
        let Step::Head(head) = connection.poll(&mut cursor, &mut second, &mut env) else { panic!("a head") };
        assert_eq!((head.as_slice(), cursor.position()), (REQUEST, REQUEST.len() - cut), "cut at {cut}");
        env.pool.put(head);
    }
}

#[test]
fn a_head_that_exhausts_the_memory_releases_it() {
    for deciding in [false, true] {
        let mut echo = Echo::new(ConnectionConfig::default());
        echo.pool = Pool::new(Budget::new(1_500));
        let (connection, mut env) = echo.env();
        if deciding {
            connection.decide_later(Some(*b"AAAAAAAAAAAAAAAAAAAAAA=="));
        }
        for bytes in [200, 3_000] {
            let mut part = vec![b'a'; bytes];
            assert!(matches!(connection.poll(&mut SpanCursor::new(), &mut part, &mut env), Step::Idle));
        }
        assert_eq!(connection.closed().map(|closed| closed.cause.clone()), Some(Cause::OutOfMemory));
        echo.connection.release(&mut echo.pool, &mut echo.codecs);
        while echo.pool.trim() {}
        assert_eq!(echo.pool.used_bytes(), 0, "deciding: {deciding}");
    }
}

#[test]
fn a_client_whose_request_is_not_read_is_aborted_after_its_timeouts() {
    let dial = Dial { host: "a".into(), path: "/".into(), ..Dial::default() };
    let mut echo = Echo::new(ConnectionConfig { dial: Some(dial), ..ConnectionConfig::default() });
    let (connection, mut env) = echo.env();
    *connection = Connection::client(&mut env, false).unwrap();
    connection.blocked(100);
    echo.advance(5 * SECOND);
    assert_eq!(echo.action, None, "queued bytes may still be sent");
    assert_eq!(echo.connection.deadline(&echo.config), echo.now + echo.config.close_timeout);
    echo.advance(echo.config.close_timeout);
    assert_eq!(echo.action, Some(TransportAction::Abort));
}

#[test]
fn client_and_server_exchange_messages_of_all_length_encodings() {
    let dial =
        Dial { host: "a".into(), path: "/echo".into(), origin: None, subprotocols: vec![], headers: vec![] };
    let config = ConnectionConfig { dial: Some(dial), ..ConnectionConfig::default() };
    let mut server = Echo::new(ConnectionConfig::default());
    let (mut pool, mut entropy) = (Pool::standalone(), Entropy::new(7));
    let mut codecs = codecs(&config);
    let mut env =
        Env { pool: &mut pool, codecs: &mut codecs, config: &config, now: 1, entropy: &mut entropy };
    let mut client = Connection::client(&mut env, true).unwrap();
    let to_server = |client: &mut Connection, server: &mut Echo| {
        while let Some(buffer) = client.pop() {
            server.receive(buffer.as_slice());
        }
    };
    let request = client.pop().unwrap();
    let key_at = request.as_slice().windows(5).position(|bytes| bytes == b"-Key:").unwrap() + 6;
    let key: [u8; 24] = request.as_slice()[key_at..key_at + 24].try_into().unwrap();
    let mut response = Vec::new();
    crate::handshake::write_accept(&mut response, &key, None, None, []);
    server.receive(request.as_slice());
    server.sent.clear();
    let mut cursor = SpanCursor::new();
    assert!(matches!(client.poll(&mut cursor, &mut response, &mut env), Step::Opened(_)));
    for size in [0, 1, 125, 126, 65_535, 65_536] {
        client.send(MessageKind::Binary, &vec![9; size], &mut env).unwrap();
        to_server(&mut client, &mut server);
        let mut back = std::mem::take(&mut server.sent);
        let mut cursor = SpanCursor::new();
        let Step::Chunk(flags, Piece::InSpan(at)) = client.poll(&mut cursor, &mut back, &mut env) else {
            panic!("the echo of {size} bytes")
        };
        assert_eq!((flags.first, flags.last, &back[at]), (true, true, &vec![9; size][..]));
    }
    client.close(CloseCode::NORMAL, "", CloseMode::Graceful, &mut env);
    to_server(&mut client, &mut server);
    assert_eq!(server.action, Some(TransportAction::Close));
    let mut back = std::mem::take(&mut server.sent);
    client.poll(&mut SpanCursor::new(), &mut back, &mut env);
    assert_eq!(client.take_transport_action(), None, "the client waits for the server to close");
    client.ended(Nanos::MAX);
    assert_eq!(client.take_transport_action(), Some(TransportAction::Close));
}

/// A client that offered the subprotocols `offered`. Its server sends `before` and then a 101 with the subprotocol
/// `chosen`, in spans of `span_bytes`.
fn connected(offered: &[&str], before: &str, chosen: Option<&str>, span_bytes: usize) -> Connection {
    let subprotocols = offered.iter().map(|name| (*name).to_owned()).collect();
    let dial = Dial { host: "a".into(), path: "/".into(), subprotocols, ..Dial::default() };
    // The bound on requests is none on responses.
    let config = ConnectionConfig { dial: Some(dial), max_header: 1, ..ConnectionConfig::default() };
    let (mut pool, mut entropy) = (Pool::standalone(), Entropy::new(7));
    let mut codecs = codecs(&config);
    let mut env =
        Env { pool: &mut pool, codecs: &mut codecs, config: &config, now: 1, entropy: &mut entropy };
    let mut client = Connection::client(&mut env, true).unwrap();
    let request = client.pop().unwrap();
    let key_at = request.as_slice().windows(5).position(|bytes| bytes == b"-Key:").unwrap() + 6;
    let mut answer = before.as_bytes().to_vec();
    let key = request.as_slice()[key_at..key_at + 24].try_into().unwrap();
    crate::handshake::write_accept(&mut answer, &key, chosen, None, []);
    for span in answer.chunks_mut(span_bytes) {
        client.poll(&mut SpanCursor::new(), span, &mut env);
    }
    client
}

#[test]
fn interim_responses_do_not_end_the_wait_for_the_101() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    for span_bytes in [1, 7, 50, 10_000] {
        assert!(connected(&[], interim, None, span_bytes).is_open(), "spans of {span_bytes}");
    }
}

#[test]
fn a_subprotocol_that_was_not_offered_fails_the_clients_connection() {
    assert!(connected(&["chat"], "", Some("chat"), 1_000).is_open());
    assert!(connected(&["chat"], "", None, 1_000).is_open());
    let failed = connected(&["chat"], "", Some("superchat"), 1_000);
    assert_eq!(failed.closed().unwrap().cause, Cause::BadHandshake(BadHandshake::UnknownSubprotocol));
    assert!(!connected(&[], "", Some("chat"), 1_000).is_open());
}

#[test]
fn a_slowly_sent_invalid_head_is_refused_before_its_end() {
    let fields: String = (0..101).map(|at| format!("x{at}:\r\n")).collect();
    for head in
        [format!("GET / HTTP/1.1\r\n{fields}"), format!("GET / HTTP/1.1\r\nA b\r\n{}", "x: y\r\n".repeat(90))]
    {
        let mut echo = Echo::new(ConnectionConfig::default());
        for byte in head.bytes().chain(std::iter::repeat_n(b'x', head.len())) {
            echo.receive(&[byte]);
        }
        assert!(matches!(echo.connection.closed().map(|closed| &closed.cause), Some(Cause::Refused(_))));
    }
}
