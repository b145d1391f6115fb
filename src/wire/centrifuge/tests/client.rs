//! The server reads what a client writes, and vice versa, in both encodings.

use std::borrow::Cow;

use proptest::prelude::*;
use prost::Message as _;

use super::BOTH;
use super::schema;
use crate::centrifuge::received::{self, PushEvent, Reply, ServerMessage};
use crate::centrifuge::{
    Body, ClientInfo, Command, Connect, ConnectResult, Encoding, ErrorCode, History, HistoryResult, Payload,
    Position, PresenceStats, Publication, Publish, RefreshResult, Request, Rpc, SubRefresh, Subscribe,
    SubscribeResult, Subscribed, Texts, UnsubscribeCode, decode, encode, push, reply,
};

/// A JSON value, which both encodings may carry.
fn any_data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        ".*".prop_map(|text| serde_json::to_vec(&text).expect("JSON")),
    ]
}

/// The values of a command, from which each request takes what it needs.
#[derive(Clone, Debug)]
struct Values {
    id: u32,
    texts: [String; 3],
    data: Vec<u8>,
    flags: [bool; 5],
    offset: u64,
    number: i32,
    wide: i64,
}

fn any_values() -> impl Strategy<Value = Values> {
    let texts = [".*", ".*", ".*"];
    (1..u32::MAX, texts, any_data(), any::<[bool; 5]>(), any::<u64>(), any::<i32>(), any::<i64>()).prop_map(
        |(id, texts, data, flags, offset, number, wide)| Values {
            id,
            texts,
            data,
            flags,
            offset,
            number,
            wide,
        },
    )
}

/// A command of each kind.
fn commands(values: &Values) -> Vec<Command<'_>> {
    let Values { id, texts, data, flags, offset, number, wide } = values;
    let [a, b, c] = texts.each_ref().map(|text| Cow::Borrowed(text.as_str()));
    let [recover, positioned, recoverable, join_leave, _] = *flags;
    let subscribe = Subscribe {
        channel: a.clone(),
        token: b.clone(),
        recover,
        epoch: c.clone(),
        offset: *offset,
        data,
        positioned,
        recoverable,
        join_leave,
        delta: b.clone(),
        tags_filter: None,
        flags: *wide,
        kind: *number,
    };
    let other = Subscribe { channel: format!("{a}2").into(), ..Subscribe::default() };
    let connect = Connect {
        token: a.clone(),
        data,
        subscriptions: vec![subscribe.clone(), other],
        name: b.clone(),
        version: c.clone(),
        headers: [(a.clone(), c.clone())].into(),
    };
    let since = recover.then(|| Position { offset: *offset, epoch: b.clone() });
    let requests = vec![
        Request::Connect(connect),
        Request::Subscribe(subscribe),
        Request::Unsubscribe { channel: a.clone() },
        Request::Publish(Publish {
            channel: a.clone(),
            data,
            key: b.clone(),
            removed: recover,
            kind: *number,
        }),
        Request::Presence { channel: a.clone() },
        Request::PresenceStats { channel: a.clone() },
        Request::History(History { channel: a.clone(), limit: *number, since, reverse: positioned }),
        Request::Ping,
        Request::Send { data },
        Request::Rpc(Rpc { method: a.clone(), data }),
        Request::Refresh { token: a.clone() },
        Request::SubRefresh(SubRefresh { channel: a, token: b, kind: *number }),
    ];
    let pong = Command { id: 0, request: Request::Pong };
    requests.into_iter().map(|request| Command { id: *id, request }).chain([pong]).collect()
}

proptest! {
    #[test]
    fn commands_are_read_as_they_were_written(values in any_values()) {
        for encoding in BOTH {
            let commands = commands(&values);
            let mut frame = Vec::new();
            commands.iter().for_each(|command| encode(encoding, &mut frame, command));
            let read: Result<Vec<_>, _> = decode(encoding, &frame).collect();
            prop_assert_eq!(read.expect("valid"), commands);
        }
    }

    #[test]
    fn another_implementation_reads_the_commands(values in any_values()) {
        for command in commands(&values) {
            let mut frame = Vec::new();
            encode(Encoding::Protobuf, &mut frame, &command);
            let read = schema::Command::decode_length_delimited(&frame[..]).expect("a command");
            prop_assert_eq!(read.id, command.id);
            let mut again = Vec::new();
            let rewritten = read.encode_length_delimited_to_vec();
            decode(Encoding::Protobuf, &rewritten).for_each(|read| again.push(read.expect("valid")));
            prop_assert_eq!(again, [command]);
        }
    }

    #[test]
    fn any_frame_of_a_server_is_read_or_refused(frame in any::<Vec<u8>>()) {
        for encoding in BOTH {
            prop_assert!(received::decode(encoding, &frame).count() <= frame.len() + 1);
        }
    }

    #[test]
    fn a_damaged_frame_of_a_server_is_read_or_refused(
        texts in [".*", ".*"],
        offset in any::<u64>(),
        at in any::<u16>(),
        byte in any::<u8>(),
    ) {
        for encoding in BOTH {
            let mut frame = frames(encoding, &texts, offset).concat();
            let at = usize::from(at) % frame.len();
            frame[at] = byte;
            received::decode(encoding, &frame).for_each(drop);
            frame.truncate(at);
            received::decode(encoding, &frame).for_each(drop);
        }
    }

    #[test]
    fn replies_and_pushes_are_read_as_they_were_written(texts in ["[^\u{0}]*", ".+"], offset in 1_u64..) {
        for encoding in BOTH {
            let frames = frames(encoding, &texts, offset);
            let read: Vec<ServerMessage<'_>> = frames
                .iter()
                .map(|frame| {
                    let mut all: Vec<_> = received::decode(encoding, frame).collect();
                    assert_eq!(all.len(), 1);
                    all.remove(0).expect("valid")
                })
                .collect();
            check_replies(&read, &texts, offset);
        }
    }
}

/// A frame for each reply and push.
fn frames(encoding: Encoding, [a, b]: &[String; 2], offset: u64) -> Vec<Vec<u8>> {
    let publication = Publication {
        body: Body::Plain(Payload::Json(b"{\"n\":1}")),
        offset,
        info: None,
        key: b,
        tags: Texts::NONE,
    };
    let info = ClientInfo { user: a, client: b, ..ClientInfo::default() };
    let publications = [publication; 2];
    let result = SubscribeResult {
        expires_in_s: Some(9),
        recoverable: true,
        epoch: a,
        publications: &publications,
        recovered: true,
        offset,
        positioned: true,
        data: None,
        was_recovering: true,
        delta: true,
    };
    let subscriptions = [(b.as_str(), result)];
    let connect = ConnectResult {
        client: a,
        expires_in_s: Some(7),
        subscriptions: &subscriptions,
        ping_s: 25,
        pong: true,
        ..ConnectResult::default()
    };
    let refresh = RefreshResult { client: a, version: b, expires_in_s: Some(5) };
    let history = HistoryResult { publications: &publications, epoch: a, offset };
    let subscribed = Subscribed { recoverable: true, epoch: a, offset, positioned: true, data: None };
    let out = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = Vec::new();
        write(&mut frame);
        frame
    };
    vec![
        out(&|out| reply::error(encoding, out, 1, ErrorCode::Internal)),
        out(&|out| reply::connect(encoding, out, 2, &connect)),
        out(&|out| reply::subscribe(encoding, out, 3, &result)),
        out(&|out| reply::unsubscribe(encoding, out, 4)),
        out(&|out| reply::publish(encoding, out, 5)),
        out(&|out| reply::presence(encoding, out, 6, [(b.as_str(), info)].into_iter())),
        out(&|out| reply::presence_stats(encoding, out, 7, PresenceStats { clients: 3, users: 2 })),
        out(&|out| reply::history(encoding, out, 8, &history)),
        out(&|out| reply::ping(encoding, out, 9)),
        out(&|out| reply::rpc(encoding, out, 10, Some(Payload::Json(b"[1]")))),
        out(&|out| reply::refresh(encoding, out, 11, &refresh)),
        out(&|out| reply::sub_refresh(encoding, out, 12, Some(4))),
        out(&|out| push::ping(encoding, out)),
        out(&|out| push::publication(encoding, out, a, &publication)),
        out(&|out| push::join(encoding, out, a, &info)),
        out(&|out| push::leave(encoding, out, a, &info)),
        out(&|out| push::unsubscribe(encoding, out, a, UnsubscribeCode::InsufficientState)),
        out(&|out| push::message(encoding, out, Payload::Json(b"true"))),
        out(&|out| push::subscribe(encoding, out, a, &subscribed)),
        out(&|out| push::connect(encoding, out, &connect)),
        out(&|out| push::disconnect(encoding, out, 3001, b)),
        out(&|out| push::refresh(encoding, out, None)),
    ]
}

fn check_replies(read: &[ServerMessage<'_>], [a, b]: &[String; 2], offset: u64) {
    let is_publication = |publication: &received::Publication<'_>| {
        assert_eq!((publication.data, publication.offset), (&b"{\"n\":1}"[..], offset));
        assert_eq!((&*publication.key, publication.delta), (b.as_str(), false));
    };
    let is_info = |info: &received::Info<'_>| assert_eq!([&info.user, &info.client], [a, b]);
    let is_connected = |connected: &received::Connected<'_>| {
        assert_eq!((&*connected.client, connected.expires_in_s()), (a.as_str(), Some(7)));
        assert_eq!((connected.ping, connected.pong, connected.subscriptions.len()), (25, true, 1));
        assert_eq!(connected.subscriptions[b.as_str()].expires_in_s(), Some(9));
    };
    for (at, read) in read.iter().enumerate() {
        match read {
            ServerMessage::Reply(id, reply) => {
                assert_eq!(*id, at as u32 + 1);
                match (id, reply) {
                    (1, Reply::Error(error)) => assert_eq!((error.code, error.temporary), (100, true)),
                    (2, Reply::Connect(connected)) => is_connected(connected),
                    (3, Reply::Subscribe(subscription)) => {
                        assert_eq!((&*subscription.epoch, subscription.offset), (a.as_str(), offset));
                        assert_eq!(subscription.publications.len(), 2);
                        subscription.publications.iter().for_each(is_publication);
                        assert!(
                            subscription.recoverable && subscription.recovered && subscription.positioned
                        );
                        assert!(subscription.was_recovering && subscription.delta);
                    }
                    (4, Reply::Unsubscribe) | (5, Reply::Publish) | (9, Reply::Ping) => {}
                    (6, Reply::Presence(members)) => is_info(&members[b.as_str()]),
                    (7, Reply::PresenceStats(stats)) => assert_eq!((stats.clients, stats.users), (3, 2)),
                    (8, Reply::History(history)) => {
                        assert_eq!((&*history.epoch, history.offset), (a.as_str(), offset));
                        history.publications.iter().for_each(is_publication);
                    }
                    (10, Reply::Rpc(data)) => assert_eq!(*data, b"[1]"),
                    (11, Reply::Refresh(lifetime)) => assert_eq!(lifetime.expires_in_s(), Some(5)),
                    (12, Reply::SubRefresh(lifetime)) => assert_eq!(lifetime.expires_in_s(), Some(4)),
                    other => panic!("{other:?}"),
                }
            }
            ServerMessage::Ping => assert_eq!(at, 12),
            ServerMessage::Push(push) => {
                let channel = if matches!(at, 13..=16 | 18) { a.as_str() } else { "" };
                assert_eq!(push.channel, channel);
                match (at, &push.event) {
                    (13, PushEvent::Publication(publication)) => is_publication(publication),
                    (14, PushEvent::Join(info)) | (15, PushEvent::Leave(info)) => is_info(info),
                    (16, PushEvent::Unsubscribe(ended)) => assert_eq!(ended.code, 2500),
                    (17, PushEvent::Message(data)) => assert_eq!(*data, b"true"),
                    (18, PushEvent::Subscribe(subscription)) => {
                        assert_eq!((&*subscription.epoch, subscription.offset), (a.as_str(), offset));
                        assert!(subscription.recoverable && subscription.positioned);
                    }
                    (19, PushEvent::Connect(connected)) => is_connected(connected),
                    (20, PushEvent::Disconnect(ended)) => {
                        assert_eq!((ended.code, &*ended.reason), (3001, b.as_str()))
                    }
                    (21, PushEvent::Refresh(lifetime)) => assert_eq!(lifetime.expires_in_s(), None),
                    other => panic!("{other:?}"),
                }
            }
            ServerMessage::Unknown => panic!("unknown"),
        }
    }
}
