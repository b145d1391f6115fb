//! Tests of event streams with explicit input and time.

use super::*;
use crate::event_stream::{StreamFormat, WriteEnd};
use crate::limits::{EVENT_STREAM_INPUT_BYTES_MAX, EVENT_STREAM_RETRY_JITTER_MS, EVENT_STREAM_RETRY_MS_MIN};

const GET: &[u8] = b"GET /sse/a HTTP/1.1\r\nHost: a\r\n\r\n";
const EVENT: &[u8] = b"data: 1\n\n";

/// A connection whose request was answered with an event stream. `rest` arrives together with the head.
fn begun(rest: &[u8]) -> Echo {
    begun_with(ConnectionConfig::default(), rest)
}

fn begun_with(config: ConnectionConfig, rest: &[u8]) -> Echo {
    let mut echo = Echo::new(config);
    let mut bytes = [GET, rest].concat();
    let mut cursor = SpanCursor::new();
    let (connection, mut env) = echo.env();
    let Step::Head(head) = connection.poll(&mut cursor, &mut bytes, &mut env) else { panic!("a head") };
    env.pool.put(head);
    connection.begin_event_stream(StreamFormat::Events, "X-A: b\r\n", 0, &mut env).unwrap();
    assert!(matches!(connection.poll(&mut cursor, &mut bytes, &mut env), Step::Idle));
    echo.flush();
    echo
}

fn close(echo: &mut Echo, mode: CloseMode) -> u32 {
    let (connection, mut env) = echo.env();
    let dropped = connection.close(CloseCode::GOING_AWAY, "bye", mode, &mut env);
    echo.flush();
    dropped
}

fn send(echo: &mut Echo, event: &[u8]) {
    let (connection, mut env) = echo.env();
    connection.send_encoded(event, &mut env).unwrap();
}

fn cause(echo: &Echo) -> Option<(u16, Cause)> {
    echo.connection.closed().map(|closed| (closed.code.0, closed.cause.clone()))
}

#[test]
fn the_end_tells_when_to_return() {
    let mut echo =
        begun_with(ConnectionConfig { reconnect_delay: 5 * SECOND, ..ConnectionConfig::default() }, b"");
    echo.sent.clear();
    close(&mut echo, CloseMode::Graceful);
    let sent = String::from_utf8(echo.sent.clone()).expect("text");
    let lines: Vec<&str> = sent.lines().collect();
    let retry: u64 = lines[0].strip_prefix("retry: ").and_then(|retry| retry.parse().ok()).expect("a time");
    assert!(retry < 5_000, "{retry}");
    assert_eq!(lines[1..], ["event: end", &format!("data: 1001 bye; retry after {retry} ms"), ""]);
}

#[test]
fn the_head_comes_first_and_tells_once_when_to_return() {
    let mut echo = begun(b"");
    let sent = String::from_utf8(echo.sent.clone()).expect("text");
    let (head, body) = sent.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    for field in [
        "Content-Type: text/event-stream",
        "Cache-Control: no-cache, no-transform",
        "Connection: close",
        "X-A: b",
    ] {
        assert!(head.lines().any(|line| line == field), "{field} in {head}");
    }
    assert!(!head.contains("Content-Length") && !head.contains("Transfer-Encoding"), "{head}");
    let retry: u64 =
        body.strip_prefix("retry: ").and_then(|rest| rest.trim_end().parse().ok()).expect("a time");
    assert!(
        (EVENT_STREAM_RETRY_MS_MIN..EVENT_STREAM_RETRY_MS_MIN + EVENT_STREAM_RETRY_JITTER_MS)
            .contains(&retry)
    );
    assert!(
        echo.connection.is_open() && echo.connection.is_writable() && !echo.connection.is_between_messages()
    );
    echo.sent.clear();
    send(&mut echo, EVENT);
    echo.flush();
    assert_eq!(echo.sent, EVENT);
}

#[test]
fn the_last_event_takes_the_place_of_the_close_frame() {
    for (mode, expected) in [
        (CloseMode::Graceful, "data: 1\n\nevent: end\ndata: 1001 bye\n\n"),
        (CloseMode::DropQueued, "event: end\ndata: 1001 bye\n\n"),
        (CloseMode::DropPeer, "event: end\ndata: 1001 bye\n\n"),
    ] {
        let mut echo = begun(b"");
        echo.sent.clear();
        send(&mut echo, EVENT);
        let dropped = close(&mut echo, mode);
        assert_eq!(String::from_utf8_lossy(&echo.sent), expected, "{mode:?}");
        assert_eq!(dropped as usize, if mode == CloseMode::Graceful { 0 } else { EVENT.len() });
        assert_eq!(echo.action, Some(TransportAction::Shutdown), "{mode:?}");
        assert_eq!(cause(&echo), Some((1001, Cause::Local)));
        echo.receive(b"GET / HTTP/1.1\r\n\r\n");
        let until = echo.now;
        echo.connection.ended(until);
        echo.flush();
        assert_eq!(echo.action, Some(TransportAction::Close), "{mode:?}");
    }
}

#[test]
fn a_comment_at_each_ping_interval_needs_no_answer() {
    let mut echo = begun(b"");
    echo.sent.clear();
    let interval = echo.config.ping_interval;
    for beats in 1..=3 {
        echo.advance(interval - MILLISECOND);
        assert_eq!(echo.sent, b":\n".repeat(beats - 1));
        echo.advance(MILLISECOND);
        assert_eq!(echo.sent, b":\n".repeat(beats));
    }
    assert!(echo.connection.is_open());
    // A peer that takes nothing has the deadline of its send.
    echo.connection.blocked(10);
    assert_eq!(echo.connection.deadline(&echo.config), Nanos::MAX);
}

#[test]
fn input_is_discarded_up_to_its_bound() {
    let pipelined = GET.repeat(3);
    let mut echo = begun(&pipelined);
    echo.sent.clear();
    let left = EVENT_STREAM_INPUT_BYTES_MAX as usize - pipelined.len();
    for chunk in vec![b'x'; left].chunks(10_000) {
        echo.receive(chunk);
    }
    assert!(echo.connection.is_open() && echo.sent.is_empty() && !echo.connection.owns_memory());
    echo.receive(b"x");
    assert_eq!(echo.sent, b"event: end\ndata: 1008 an event stream takes no input\n\n");
    assert_eq!(cause(&echo), Some((1008, Cause::ProtocolError(ProtocolError::EventStreamInput))));
    assert_eq!(echo.action, Some(TransportAction::Shutdown));
    // It ends by its deadline even if the client goes on.
    for _ in 0..10 {
        echo.receive(&[b'x'; 1_000]);
        echo.advance(SECOND);
    }
    assert_eq!(echo.action, Some(TransportAction::Abort));
}

#[test]
fn a_client_that_closes_its_end_has_left() {
    let mut echo = begun(b"");
    let until = echo.now + SECOND;
    echo.connection.ended(until);
    echo.flush();
    assert_eq!(cause(&echo), Some((1005, Cause::Peer)));
    assert_eq!(echo.action, Some(TransportAction::Close));
}

#[test]
fn what_arrived_before_the_answer_is_dropped() {
    let mut echo = Echo::new(ConnectionConfig::default());
    let mut bytes = [GET, GET].concat();
    let mut cursor = SpanCursor::new();
    let (connection, mut env) = echo.env();
    let Step::Head(head) = connection.poll(&mut cursor, &mut bytes, &mut env) else { panic!("a head") };
    env.pool.put(head);
    connection.decide_later(None);
    assert!(matches!(connection.poll(&mut cursor, &mut bytes, &mut env), Step::Idle));
    assert_eq!(connection.pause_wanted(env.config, false), Some(true));
    assert!(connection.has_deferred());
    connection.accept(None, None, &[], true, &mut env).unwrap();
    assert!(connection.is_deciding(), "no key, no upgrade");
    connection.begin_event_stream(StreamFormat::Events, "", 0, &mut env).unwrap();
    assert!(!connection.has_deferred());
    assert_eq!(connection.pause_wanted(env.config, false), Some(false));
    echo.flush();
    assert!(echo.sent.starts_with(b"HTTP/1.1 200 "));
    echo.connection.release(&mut echo.pool, &mut echo.codecs);
    while echo.pool.trim() {}
    assert_eq!(echo.pool.used_bytes(), 0);
}

#[test]
fn the_body_of_the_request_is_a_message_and_messages_have_an_end_of_their_own() {
    let body = br#"{"token":"gr\u00fcn"}"#;
    for (format, split) in
        [(StreamFormat::Lines, 0), (StreamFormat::Messages, 5), (StreamFormat::Lines, body.len())]
    {
        let write_end: fn(StreamFormat, &mut Vec<u8>, CloseCode, &str) =
            |_, out, code, reason| out.extend_from_slice(format!("{} {reason}\n", code.0).as_bytes());
        let stream_end = Some(WriteEnd(write_end));
        let mut echo = Echo::new(ConnectionConfig { stream_end, ..ConnectionConfig::default() });
        let (arrived, later) = body.split_at(split);
        let mut spans = [[GET, arrived].concat(), later.to_vec(), b"more".to_vec()];
        let mut messages = Vec::new();
        for bytes in &mut spans {
            let mut cursor = SpanCursor::new();
            let (connection, mut env) = echo.env();
            loop {
                match connection.poll(&mut cursor, bytes, &mut env) {
                    Step::Idle => break,
                    Step::Head(head) => {
                        env.pool.put(head);
                        connection.begin_event_stream(format, "", body.len() as u32, &mut env).unwrap();
                    }
                    Step::Chunk(flags, piece) => {
                        assert!(flags.first && flags.last && flags.kind == MessageKind::Text);
                        let Piece::Buffered(buffer) = piece else { panic!("it is collected") };
                        messages.push(buffer.as_slice().to_vec());
                        env.pool.put(buffer);
                    }
                    step => panic!("{step:?}"),
                }
            }
        }
        assert_eq!(messages, [body.to_vec()]);
        echo.flush();
        let sent = String::from_utf8(std::mem::take(&mut echo.sent)).expect("text");
        assert!(sent.contains(&format!("\r\nContent-Type: {}\r\n", format.content_type())), "{sent}");
        assert_eq!(sent.contains("\r\n\r\nretry: "), format == StreamFormat::Messages, "{sent}");
        echo.advance(echo.config.ping_interval);
        assert_eq!(echo.sent, b"", "the application pings");
        close(&mut echo, CloseMode::Graceful);
        assert_eq!(echo.sent, b"1001 bye\n");
    }
}
