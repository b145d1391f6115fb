//! Tests of commands.

use std::borrow::Cow;

use prost::Message;

use super::schema;
use crate::centrifuge::{
    Command, Connect, Encoding, History, Malformed, Position, Publish, Request, Rpc, SubRefresh, Subscribe,
    decode,
};
use crate::limits::{COMMANDS_PER_FRAME_MAX, SUBSCRIPTIONS_PER_CONNECT_MAX};

/// A command in JSON, in protobuf, and read.
fn commands() -> Vec<(&'static str, schema::Command, Command<'static>)> {
    let text = |text: &str| Some(schema::Text { text: text.to_owned() });
    let numbered = |id| schema::Command { id, ..Default::default() };
    vec![
        ("{}", numbered(0), Command { id: 0, request: Request::Pong }),
        (r#"{"id":9}"#, numbered(9), Command { id: 9, request: Request::Unknown }),
        (r#"{"id":9,"future":{"a":[1]}}"#, numbered(9), Command { id: 9, request: Request::Unknown }),
        (
            r#"{"id":1,"connect":{}}"#,
            schema::Command { connect: Some(Default::default()), ..numbered(1) },
            Command { id: 1, request: Request::Connect(Connect::default()) },
        ),
        (
            r#"{"connect":{"token":"t.o.k","data":7,"subs":{"news":{"recover":true,"epoch":"e1","offset":4}},"name":"js","version":"1","headers":{"a":"b"},"flag":1},"id":1}"#,
            schema::Command {
                connect: Some(schema::ConnectRequest {
                    token: "t.o.k".to_owned(),
                    data: b"7".to_vec(),
                    subs: [(
                        "news".to_owned(),
                        schema::SubscribeRequest {
                            recover: true,
                            epoch: "e1".to_owned(),
                            offset: 4,
                            ..Default::default()
                        },
                    )]
                    .into(),
                    name: "js".to_owned(),
                    version: "1".to_owned(),
                    headers: [("a".to_owned(), "b".to_owned())].into(),
                    flag: 1,
                    ..Default::default()
                }),
                ..numbered(1)
            },
            Command {
                id: 1,
                request: Request::Connect(Connect {
                    token: "t.o.k".into(),
                    data: b"7",
                    subscriptions: vec![Subscribe {
                        channel: "news".into(),
                        recover: true,
                        epoch: "e1".into(),
                        offset: 4,
                        ..Subscribe::default()
                    }],
                    name: "js".into(),
                    version: "1".into(),
                    headers: [("a".into(), "b".into())].into(),
                }),
            },
        ),
        (
            r#"{"id":2,"subscribe":{"channel":"n\u00e9ws","token":"t","recover":true,"epoch":"e","offset":18446744073709551615,"data":{"a": 1},"positioned":true,"recoverable":true,"join_leave":true,"delta":"fossil","flag":3,"type":1}}"#,
            schema::Command {
                subscribe: Some(schema::SubscribeRequest {
                    channel: "néws".to_owned(),
                    token: "t".to_owned(),
                    recover: true,
                    epoch: "e".to_owned(),
                    offset: u64::MAX,
                    data: br#"{"a": 1}"#.to_vec(),
                    positioned: true,
                    recoverable: true,
                    join_leave: true,
                    delta: "fossil".to_owned(),
                    tf: None,
                    flag: 3,
                    kind: 1,
                }),
                ..numbered(2)
            },
            Command {
                id: 2,
                request: Request::Subscribe(Subscribe {
                    channel: "néws".into(),
                    token: "t".into(),
                    recover: true,
                    epoch: "e".into(),
                    offset: u64::MAX,
                    data: br#"{"a": 1}"#,
                    positioned: true,
                    recoverable: true,
                    join_leave: true,
                    delta: "fossil".into(),
                    tags_filter: None,
                    flags: 3,
                    kind: 1,
                }),
            },
        ),
        (
            r#"{"id":3,"unsubscribe":{"channel":"c"}}"#,
            schema::Command { unsubscribe: text("c"), ..numbered(3) },
            Command { id: 3, request: Request::Unsubscribe { channel: "c".into() } },
        ),
        (
            r#"{"id":4,"publish":{"channel":"c","data":null}}"#,
            schema::Command {
                publish: Some(schema::PublishRequest {
                    channel: "c".to_owned(),
                    data: b"null".to_vec(),
                    ..Default::default()
                }),
                ..numbered(4)
            },
            Command {
                id: 4,
                request: Request::Publish(Publish {
                    channel: "c".into(),
                    data: b"null",
                    ..Publish::default()
                }),
            },
        ),
        (
            r#"{"id":4,"publish":{"channel":"c","data":"x","type":1,"key":"k","removed":true}}"#,
            schema::Command {
                publish: Some(schema::PublishRequest {
                    channel: "c".to_owned(),
                    data: br#""x""#.to_vec(),
                    kind: 1,
                    key: "k".to_owned(),
                    removed: true,
                }),
                ..numbered(4)
            },
            Command {
                id: 4,
                request: Request::Publish(Publish {
                    channel: "c".into(),
                    data: br#""x""#,
                    key: "k".into(),
                    removed: true,
                    kind: 1,
                }),
            },
        ),
        (
            r#"{"id":5,"presence":{"channel":"c"}}"#,
            schema::Command { presence: text("c"), ..numbered(5) },
            Command { id: 5, request: Request::Presence { channel: "c".into() } },
        ),
        (
            r#"{"id":6,"presence_stats":{"channel":"c"}}"#,
            schema::Command { presence_stats: text("c"), ..numbered(6) },
            Command { id: 6, request: Request::PresenceStats { channel: "c".into() } },
        ),
        (
            r#"{"id":7,"history":{"channel":"c","limit":-1,"since":{"offset":3,"epoch":"e"},"reverse":true}}"#,
            schema::Command {
                history: Some(schema::HistoryRequest {
                    channel: "c".to_owned(),
                    limit: -1,
                    since: Some(schema::StreamPosition { offset: 3, epoch: "e".to_owned() }),
                    reverse: true,
                }),
                ..numbered(7)
            },
            Command {
                id: 7,
                request: Request::History(History {
                    channel: "c".into(),
                    limit: -1,
                    since: Some(Position { offset: 3, epoch: "e".into() }),
                    reverse: true,
                }),
            },
        ),
        (
            r#"{"id":8,"ping":{}}"#,
            schema::Command { ping: Some(schema::Empty {}), ..numbered(8) },
            Command { id: 8, request: Request::Ping },
        ),
        (
            r#"{"send":{"data":[1, 2]}}"#,
            schema::Command { send: Some(schema::Data { data: b"[1, 2]".to_vec() }), ..numbered(0) },
            Command { id: 0, request: Request::Send { data: b"[1, 2]" } },
        ),
        (
            r#"{"id":9,"rpc":{"method":"m","data":{}}}"#,
            schema::Command {
                rpc: Some(schema::RpcRequest { data: b"{}".to_vec(), method: "m".to_owned() }),
                ..numbered(9)
            },
            Command { id: 9, request: Request::Rpc(Rpc { method: "m".into(), data: b"{}" }) },
        ),
        (
            r#"{"id":10,"refresh":{"token":"t"}}"#,
            schema::Command { refresh: text("t"), ..numbered(10) },
            Command { id: 10, request: Request::Refresh { token: "t".into() } },
        ),
        (
            r#"{"id":4294967295,"sub_refresh":{"channel":"c","token":"t","type":2}}"#,
            schema::Command {
                sub_refresh: Some(schema::SubRefreshRequest {
                    channel: "c".to_owned(),
                    token: "t".to_owned(),
                    kind: 2,
                }),
                ..numbered(u32::MAX)
            },
            Command {
                id: u32::MAX,
                request: Request::SubRefresh(SubRefresh { channel: "c".into(), token: "t".into(), kind: 2 }),
            },
        ),
    ]
}

#[test]
fn commands_say_the_same_in_both_encodings() {
    for (json, protobuf, command) in commands() {
        let read: Vec<_> = decode(Encoding::Json, json.as_bytes()).collect();
        assert_eq!(read, [Ok(command.clone())], "{json}");
        let frame = protobuf.encode_length_delimited_to_vec();
        let read: Vec<_> = decode(Encoding::Protobuf, &frame).collect();
        assert_eq!(read, [Ok(command)], "{protobuf:?}");
    }
}

#[test]
fn a_frame_has_many_commands() {
    let expected: Vec<_> = commands().into_iter().map(|(.., command)| Ok(command)).collect();
    let lines: Vec<_> = commands().into_iter().map(|(json, ..)| json).collect();
    for frame in [lines.join("\n"), lines.join("\n") + "\n", lines.join(" \n\t")] {
        assert_eq!(decode(Encoding::Json, frame.as_bytes()).collect::<Vec<_>>(), expected);
    }
    let frame: Vec<u8> =
        commands().into_iter().flat_map(|(_, command, _)| command.encode_length_delimited_to_vec()).collect();
    assert_eq!(decode(Encoding::Protobuf, &frame).collect::<Vec<_>>(), expected);
}

#[test]
fn strings_without_escapes_and_data_are_borrowed() {
    let frame = br#"{"id":1,"publish":{"channel":"news","data":{"a": [1,  2]}}}"#;
    let Some(Ok(Command { request: Request::Publish(publish), .. })) = decode(Encoding::Json, frame).next()
    else {
        panic!("a publish command");
    };
    assert!(matches!(publish.channel, Cow::Borrowed("news")));
    assert!(frame.as_ptr_range().contains(&publish.data.as_ptr()));
    assert_eq!(publish.data, br#"{"a": [1,  2]}"#);
}

#[test]
fn fields_that_are_null_count_as_absent() {
    let frame = r#"{"id":1,"connect":null,"subscribe":{"channel":"c","token":null,"recover":null,"offset":null,"tf":null}}"#;
    let expected = Subscribe { channel: "c".into(), ..Subscribe::default() };
    let read: Vec<_> = decode(Encoding::Json, frame.as_bytes()).collect();
    assert_eq!(read, [Ok(Command { id: 1, request: Request::Subscribe(expected) })]);
}

#[test]
fn what_cannot_be_read_ends_the_frame() {
    let json: [(&str, Malformed); 16] = [
        ("", Malformed::Empty),
        ("\n", Malformed::Empty),
        ("{}\n\n{}", Malformed::Json),
        ("[]", Malformed::Json),
        ("7", Malformed::Json),
        ("{", Malformed::Json),
        ("{}{}", Malformed::Json),
        (r#"{"id":-1}"#, Malformed::Json),
        (r#"{"id":4294967296}"#, Malformed::Json),
        (r#"{"id":"1"}"#, Malformed::Json),
        (r#"{"id":1,"id":1}"#, Malformed::Json),
        (r#"{"id":1,"subscribe":["c"]}"#, Malformed::Json),
        (r#"{"id":1,"subscribe":{"channel":1}}"#, Malformed::Json),
        (r#"{"id":1,"publish":{"data":{]}}"#, Malformed::Json),
        (r#"{"subscribe":{"channel":"c"}}"#, Malformed::NoId),
        (r#"{"id":0,"ping":{}}"#, Malformed::NoId),
    ];
    for (frame, error) in json {
        let read: Vec<_> = decode(Encoding::Json, frame.as_bytes()).collect();
        assert_eq!(read.last(), Some(&Err(error)), "{frame}");
    }
    let protobuf: [(&[u8], Malformed); 10] = [
        (b"", Malformed::Empty),
        (b"\x01", Malformed::Truncated),
        (b"\x80", Malformed::Truncated),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Malformed::Truncated),
        // Field 1 without a value, with bytes as its value, and with an endless one.
        (b"\x01\x08", Malformed::Protobuf),
        (b"\x02\x0a\x00", Malformed::Protobuf),
        (b"\x0c\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Malformed::Protobuf),
        // Field 0, and a group.
        (b"\x02\x00\x01", Malformed::Protobuf),
        (b"\x02\x0b\x0c", Malformed::Protobuf),
        // Unsubscribe, without an id.
        (b"\x02\x32\x00", Malformed::NoId),
    ];
    for (frame, error) in protobuf {
        let read: Vec<_> = decode(Encoding::Protobuf, frame).collect();
        assert_eq!(read, [Err(error)], "{}", frame.escape_ascii());
    }
}

#[test]
fn commands_and_subscriptions_are_bounded() {
    for (encoding, pong) in [(Encoding::Json, "{}\n"), (Encoding::Protobuf, "\0")] {
        let most = pong.repeat(COMMANDS_PER_FRAME_MAX);
        assert!(decode(encoding, most.as_bytes()).all(|command| command.is_ok()));
        let more = pong.repeat(COMMANDS_PER_FRAME_MAX + 1);
        let read: Vec<_> = decode(encoding, more.as_bytes()).collect();
        assert_eq!(
            (read.len(), read.last()),
            (COMMANDS_PER_FRAME_MAX + 1, Some(&Err(Malformed::TooManyCommands)))
        );
    }
    for count in [SUBSCRIPTIONS_PER_CONNECT_MAX, SUBSCRIPTIONS_PER_CONNECT_MAX + 1] {
        let channels = (0..count).map(|number| number.to_string());
        let entries: Vec<_> = channels.clone().map(|channel| format!(r#""{channel}":{{}}"#)).collect();
        let json = format!(r#"{{"id":1,"connect":{{"subs":{{{}}}}}}}"#, entries.join(","));
        let subs = channels.map(|channel| (channel, Default::default())).collect();
        let connect = Some(schema::ConnectRequest { subs, ..Default::default() });
        let protobuf =
            schema::Command { id: 1, connect, ..Default::default() }.encode_length_delimited_to_vec();
        for (encoding, frame) in [(Encoding::Json, json.as_bytes()), (Encoding::Protobuf, &protobuf[..])] {
            match decode(encoding, frame).next() {
                Some(Ok(Command { request: Request::Connect(connect), .. })) => {
                    assert_eq!((connect.subscriptions.len(), count), (count, SUBSCRIPTIONS_PER_CONNECT_MAX));
                }
                other => {
                    assert_eq!(other, Some(Err(Malformed::TooManySubscriptions)));
                    assert!(count > SUBSCRIPTIONS_PER_CONNECT_MAX);
                }
            }
        }
    }
}
