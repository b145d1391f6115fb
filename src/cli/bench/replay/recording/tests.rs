//! Recordings with fragments, compressed messages, and ends of all kinds.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use echoring_proto::deflate::Deflater;

const HEAD: &str = "{\"schema\":\"echoring.recording/1\",\"started_unix_ns\":1,\"version\":\"0\"}\n";

/// The script of these records, each without its number.
fn script(records: &[Value]) -> Result<Script, String> {
    script_of(recording(records).as_bytes(), "a.jsonl".to_owned(), AnswerComparison::default())
}

/// The recording of these records; the first opens the connection.
fn recording(records: &[Value]) -> String {
    let mut text = HEAD.to_owned();
    for (t_ns, record) in (1..).zip(records) {
        let mut line = json!({"t_ns": t_ns, "conn": 1});
        let members = line.as_object_mut().expect("an object");
        members.extend(record.as_object().expect("an object").clone());
        text.push_str(&format!("{line}\n"));
    }
    text
}

fn open() -> Value {
    json!({"dir": "client", "kind": "open", "path": "/a?b", "peer": "x", "upstream": "y"})
}

fn frame(dir: &str, kind: &str, data: &str) -> Value {
    json!({"dir": dir, "kind": kind, "data": data})
}

fn part(dir: &str, kind: &str, data: &str) -> Value {
    json!({"dir": dir, "kind": kind, "data": data, "fin": false})
}

#[test]
fn fragments_are_one_message_and_pings_may_come_between_them() {
    let records = [
        open(),
        part("client", "text", "ab"),
        part("upstream", "text", "x"),
        frame("client", "ping", "p"),
        part("client", "continuation", "c"),
        frame("upstream", "continuation", "yz!"),
        frame("client", "continuation", "d"),
        part("client", "text", "never whole"),
    ];
    let script = script(&records).expect("a script");
    assert_eq!((script.messages, script.message_bytes, script.answers), (1, (4, 4), 1));
    assert_eq!(script.truncated.as_deref(), None);
}

#[test]
fn compressed_messages_are_replayed_as_they_were_before() {
    for (extensions, context_takeover) in [
        ("permessage-deflate", true),
        ("permessage-deflate; client_no_context_takeover; server_no_context_takeover", false),
        ("permessage-deflate; client_max_window_bits=15", true),
    ] {
        let mut opened = open();
        opened["extensions"] = extensions.into();
        let mut records = vec![opened];
        let mut deflater = Deflater::new(Direction { context_takeover, window_bits: 15 }, 6);
        let mut deflated = Vec::new();
        // The second message refers to the first where the context is kept.
        for _ in 0..2 {
            let bytes = deflater.deflate(&[b'x'; 500], &mut deflated);
            let mut record = frame("client", "text", &STANDARD.encode(&deflated[..bytes]));
            record["encoding"] = "base64".into();
            record["compressed"] = true.into();
            records.push(record);
        }
        records.push(frame("client", "text", "plain"));
        let script = script(&records).expect("a script");
        assert_eq!((script.messages, script.message_bytes), (3, (5, 500)), "{extensions}");
    }
}

#[test]
fn a_recording_that_is_cut_off_is_replayed_up_to_there() {
    let records = [open(), frame("client", "text", "one"), frame("client", "text", "two")];
    let whole = recording(&records);
    let cut = &whole[..whole.len() - 4];
    let script = script_of(cut.as_bytes(), "a".to_owned(), AnswerComparison::default()).expect("a script");
    assert_eq!((script.messages, script.truncated.as_deref()), (1, Some("line 4 is cut off")));
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let compressed = json!({"dir": "client", "kind": "text", "data": "x", "compressed": true});
    for (record, expected) in [
        (frame("client", "continuation", "x"), "no beginning"),
        (compressed, "no extension"),
        (json!({"conn": 9, "dir": "client", "kind": "text", "data": "x"}), "connection 9 is not open"),
        (json!({"conn": 1, "dir": "client", "kind": "end", "code": "x"}), "line 3"),
    ] {
        let why = script(&[open(), record]).expect_err(expected);
        assert!(why.contains("line 3: ") && why.contains(expected), "{why}");
    }
    let why =
        script(&[open(), part("client", "text", "x"), frame("client", "text", "y")]).expect_err("within");
    assert!(why.contains("within another"), "{why}");
    assert!(script(&[]).is_err_and(|why| why.contains("no connection")));
    let mut unknown = open();
    unknown["extensions"] = "x-webkit-magic".into();
    assert!(script(&[unknown]).is_err_and(|why| why.contains("x-webkit-magic")));
    let mut broken = open();
    broken["extensions"] = "permessage-deflate".into();
    let garbage = json!({"dir": "client", "kind": "binary", "data": "/////w==", "encoding": "base64", "compressed": true});
    assert!(script(&[broken, garbage]).is_err_and(|why| why.contains("decompressed")));
}

#[test]
fn connections_without_a_close_frame_end_as_the_server_saw_it() {
    let end = |by, code| end_without_close(by, CloseCode(code));
    assert_eq!(end(Side::Client, 1006), RecordedEnd::Abort);
    assert_eq!(end(Side::Upstream, 1006), RecordedEnd::ByServer(CloseCode::ABNORMAL));
    assert_eq!(end(Side::Upstream, 1014), RecordedEnd::ByServer(CloseCode::ABNORMAL));
    // The proxy was stopped.
    assert_eq!(end(Side::Upstream, 1001), RecordedEnd::Close(CloseCode::GOING_AWAY, String::new()));
}
