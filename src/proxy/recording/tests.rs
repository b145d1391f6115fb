//! Recordings are read back as they were written; a slow disk backpressures the recorded connections, and a failed disk
//! is reported.

use std::io::{self, Write};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::*;

/// A file in memory that can be read while it is written.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A disk that completes a write only when the test allows it.
struct Slow(mpsc::Receiver<()>, Memory);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.recv().map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn frame(kind: FrameKind, payload: &[u8]) -> Frame {
    Frame { kind, fin: true, compressed: false, payload: Bytes::copy_from_slice(payload) }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

#[test]
fn records_are_read_back() {
    let events = [
        Event::Open(Open {
            path: "/chat?room=1".to_owned(),
            peer: "[::1]:5".to_owned(),
            upstream: "ws://127.0.0.1:8002".to_owned(),
            subprotocol: Some("chat".to_owned()),
            extensions: None,
        }),
        Event::Frame(frame(FrameKind::Text, "Grüße \u{1f980} \"quoted\"\n\u{0}".as_bytes())),
        Event::Frame(frame(FrameKind::Text, b"")),
        Event::Frame(Frame { fin: false, ..frame(FrameKind::Text, &[0xf0, 0x9f]) }),
        Event::Frame(frame(FrameKind::Continuation, &[0xa6, 0x80])),
        Event::Frame(frame(FrameKind::Binary, b"looks like text")),
        Event::Frame(frame(FrameKind::Binary, &(0..=255).collect::<Vec<u8>>())),
        Event::Frame(Frame { compressed: true, ..frame(FrameKind::Text, &[0xf2, 0x48, 0xcd]) }),
        Event::Frame(frame(FrameKind::Ping, b"")),
        Event::Frame(frame(FrameKind::Pong, &[0xff])),
        Event::Close { code: None, reason: String::new() },
        Event::Close { code: Some(4_000), reason: "fertig, ü".to_owned() },
        Event::End { code: 1006 },
    ];
    let file = Memory::default();
    let recorder = Recorder::start(file.clone()).expect("a recorder");
    let tap = recorder.tap();
    let (first, second) = (tap.open(), tap.open());
    block_on(async {
        for event in &events {
            for (conn, from) in [(first, Side::Client), (second, Side::Upstream)] {
                tap.room(64).await.expect("room").put(conn, from, event.clone());
            }
        }
    });
    recorder.finish().expect("written");
    let bytes = file.0.lock().expect("no panic").clone();
    assert_eq!(bytes.iter().filter(|&&byte| byte == b'\n').count(), 1 + 2 * events.len(), "a line each");
    let reader = Reader::new(&bytes[..]).expect("a head");
    assert!(reader.started_unix_ns() > 1_700_000_000_000_000_000);
    let records: Vec<Record> = reader.collect::<Result<_, _>>().expect("records");
    assert!(records.is_sorted_by_key(|record| record.t_ns));
    let expected = events
        .iter()
        .flat_map(|event| [(1, Side::Client, event.clone()), (2, Side::Upstream, event.clone())]);
    assert!(records.into_iter().map(|record| (record.conn, record.from, record.event)).eq(expected));
}

#[test]
fn text_is_readable_in_the_file_and_default_fields_are_omitted() {
    let file = Memory::default();
    let recorder = Recorder::start(file.clone()).expect("a recorder");
    let tap = recorder.tap();
    block_on(async {
        tap.room(2).await.expect("room").put(7, Side::Client, Event::Frame(frame(FrameKind::Text, b"hi")));
    });
    recorder.finish().expect("written");
    let text = String::from_utf8(file.0.lock().expect("no panic").clone()).expect("text");
    let line = text.lines().nth(1).expect("a record");
    let (time, rest) = line.split_once(',').expect("fields");
    assert!(time.starts_with("{\"t_ns\":"), "{line}");
    assert_eq!(rest, r#""conn":7,"dir":"client","kind":"text","data":"hi"}"#);
}

#[test]
fn a_slow_disk_backpressures_senders_and_nothing_is_lost() {
    const PAYLOAD_BYTES: usize = 64 * 1024;
    let payload = vec![b'x'; PAYLOAD_BYTES];
    let records_max = crate::limits::RECORDING_QUEUE_BYTES / PAYLOAD_BYTES;
    let file = Memory::default();
    let (allow, allowed) = mpsc::channel();
    allow.send(()).expect("sent"); // the head
    let recorder = Recorder::start(Slow(allowed, file.clone())).expect("a recorder");
    let tap = recorder.tap();
    let put = || async {
        let event = Event::Frame(frame(FrameKind::Text, &payload));
        tap.room(PAYLOAD_BYTES).await.expect("room").put(1, Side::Client, event);
    };
    let mut recorded = 0;
    block_on(async {
        loop {
            let waited = tokio::select! {
                biased;
                () = put() => false,
                () = tokio::task::yield_now() => true,
            };
            if waited {
                break;
            }
            recorded += 1;
            assert!(recorded <= records_max + 1, "the queue is bounded");
        }
    });
    assert!(recorded >= records_max - 1, "only {recorded} fitted");
    // The disk continues.
    for _ in 0..10 * records_max {
        allow.send(()).expect("sent");
    }
    block_on(put());
    recorder.finish().expect("written");
    let bytes = file.0.lock().expect("no panic").clone();
    let records = Reader::new(&bytes[..]).expect("a head").collect::<Result<Vec<_>, _>>().expect("records");
    assert_eq!(records.len(), recorded + 1);
}

#[test]
fn a_full_disk_is_reported_to_all_senders() {
    let (allow, allowed) = mpsc::channel();
    allow.send(()).expect("sent");
    let recorder = Recorder::start(Slow(allowed, Memory::default())).expect("a recorder");
    drop(allow);
    let tap = recorder.tap();
    block_on(async {
        tap.room(0).await.expect("room").put(1, Side::Client, Event::End { code: 1000 });
        let failed = tap.failed().await;
        assert_eq!(tap.room(0).await.err(), Some(failed.clone()));
        assert!(failed.to_string().starts_with("the recording has failed: "), "{failed}");
    });
    assert_eq!(recorder.finish().expect_err("the disk was full").kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_recording_that_ends_within_a_line_is_read_up_to_there() {
    let whole = "{\"schema\":\"echoring.recording/1\",\"started_unix_ns\":1,\"version\":\"0\"}\n\
                 {\"t_ns\":1,\"conn\":1,\"dir\":\"client\",\"kind\":\"text\",\"data\":\"ü\"}\n";
    let last = "{\"t_ns\":2,\"conn\":1,\"dir\":\"client\",\"kind\":\"text\",\"data\":\"ü\"}";
    for cut in 1..last.len() {
        let file = [whole.as_bytes(), &last.as_bytes()[..cut]].concat();
        let mut reader = Reader::new(&file[..]).expect("a head");
        reader.next().expect("a line").expect("whole");
        let error = reader.next().expect("a line").expect_err("cut off");
        assert!(error.is_cut_off() && error.line == 3, "{error}");
        assert!(reader.next().is_none(), "nothing behind it");
    }
    let file = format!("{whole}{last}");
    let records: Result<Vec<Record>, _> = Reader::new(file.as_bytes()).expect("a head").collect();
    assert_eq!(records.expect("only the end of the line is missing").len(), 2);
}

#[test]
fn a_line_without_an_end_is_not_read_for_ever() {
    let head = "{\"schema\":\"echoring.recording/1\",\"started_unix_ns\":1,\"version\":\"0\"}\n";
    let file = io::Read::chain(head.as_bytes(), io::repeat(b' '));
    let mut reader = Reader::new(io::BufReader::new(file)).expect("a head");
    let error = reader.next().expect("a line").expect_err("endless");
    assert!(!error.is_cut_off() && error.to_string().contains("longer"), "{error}");
}

#[test]
fn an_invalid_recording_is_refused_with_its_line() {
    let head = "{\"schema\":\"echoring.recording/1\",\"started_unix_ns\":1,\"version\":\"0\"}\n";
    for file in
        ["", "nonsense\n", "{\"schema\":\"echoring.recording/2\",\"started_unix_ns\":1,\"version\":\"0\"}\n"]
    {
        assert_eq!(Reader::new(file.as_bytes()).expect_err("no head").line, 1, "{file}");
    }
    for line in [
        "{\"t_ns\":1,\"conn\":1,\"dir\":\"client\",\"kind\":\"text\"}",
        "{\"t_ns\":1,\"conn\":1,\"dir\":\"client\",\"kind\":\"text\",\"encoding\":\"base64\",\"data\":\"?\"}",
        "{\"t_ns\":1,\"conn\":1,\"dir\":\"nobody\",\"kind\":\"ping\",\"data\":\"\"}",
        "{\"t_ns\":1,\"conn\":1,\"dir\":\"client\",\"kind\":\"end\"}",
        "{\"t_ns\":1",
    ] {
        let file = format!("{head}{line}\n{head}");
        let mut reader = Reader::new(file.as_bytes()).expect("a head");
        let error = reader.next().expect("a line").expect_err(line);
        assert!(error.line == 2 && error.to_string().starts_with("line 2: "), "{error}");
        assert!(reader.next().is_none(), "nothing behind an error");
    }
}
