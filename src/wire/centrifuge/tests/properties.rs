//! Properties of commands and publications.

use proptest::prelude::*;
use prost::Message;

use super::schema;
use super::{BOTH, written};
use crate::centrifuge::{
    Body, Command, Connect, Encoding, Payload, Publication, Publish, Request, Subscribe, Texts, decode, push,
};
use crate::limits::COMMANDS_PER_FRAME_MAX;

/// Any command, as another implementation writes it.
fn any_command() -> impl Strategy<Value = schema::Command> {
    let subscribe = || {
        (any::<[bool; 4]>(), ".*", any::<u64>(), any::<Vec<u8>>(), any::<(i64, i32)>()).prop_map(
            |([recover, positioned, recoverable, join_leave], text, offset, data, (flag, kind))| {
                schema::SubscribeRequest {
                    channel: text.clone(),
                    token: text.to_uppercase(),
                    recover,
                    epoch: text,
                    offset,
                    data,
                    positioned,
                    recoverable,
                    join_leave,
                    delta: String::new(),
                    tf: recover.then_some(schema::Empty {}),
                    flag,
                    kind,
                }
            },
        )
    };
    let connect = (".*", any::<Vec<u8>>(), proptest::collection::btree_map(".*", subscribe(), 0..3))
        .prop_map(|(token, data, subs)| schema::ConnectRequest { token, data, subs, ..Default::default() });
    let publish = (".*", any::<Vec<u8>>(), any::<i32>()).prop_map(|(channel, data, kind)| {
        schema::PublishRequest { key: channel.clone(), channel, data, kind, removed: kind < 0 }
    });
    let id = 1..u32::MAX;
    prop_oneof![
        (id.clone(), connect).prop_map(|(id, connect)| schema::Command {
            id,
            connect: Some(connect),
            ..Default::default()
        }),
        (id.clone(), subscribe()).prop_map(|(id, subscribe)| schema::Command {
            id,
            subscribe: Some(subscribe),
            ..Default::default()
        }),
        (id, publish).prop_map(|(id, publish)| schema::Command {
            id,
            publish: Some(publish),
            ..Default::default()
        }),
    ]
}

fn subscribe_of(request: &schema::SubscribeRequest, channel: &str) -> Subscribe<'static> {
    Subscribe {
        channel: channel.to_owned().into(),
        token: request.token.clone().into(),
        recover: request.recover,
        epoch: request.epoch.clone().into(),
        offset: request.offset,
        data: b"",
        positioned: request.positioned,
        recoverable: request.recoverable,
        join_leave: request.join_leave,
        delta: request.delta.clone().into(),
        tags_filter: request.tf.as_ref().map(|_| &b""[..]),
        flags: request.flag,
        kind: request.kind,
    }
}

/// The command without its data, which must be `data`.
fn expected(command: &schema::Command) -> (Command<'static>, &[u8]) {
    let (request, data) = if let Some(connect) = &command.connect {
        let subscriptions =
            connect.subs.iter().map(|(channel, request)| subscribe_of(request, channel)).collect();
        let token = connect.token.clone().into();
        (Request::Connect(Connect { token, subscriptions, ..Connect::default() }), &connect.data)
    } else if let Some(subscribe) = &command.subscribe {
        (Request::Subscribe(subscribe_of(subscribe, &subscribe.channel)), &subscribe.data)
    } else {
        let publish = command.publish.as_ref().expect("a publish command");
        let request = Publish {
            channel: publish.channel.clone().into(),
            data: b"",
            key: publish.key.clone().into(),
            removed: publish.removed,
            kind: publish.kind,
        };
        (Request::Publish(request), &publish.data)
    };
    (Command { id: command.id, request }, data)
}

/// Takes the data out of a command.
fn without_data<'a>(command: &mut Command<'a>) -> &'a [u8] {
    match &mut command.request {
        Request::Connect(connect) => {
            connect.subscriptions.iter_mut().for_each(|subscription| subscription.data = b"");
            std::mem::take(&mut connect.data)
        }
        Request::Subscribe(subscribe) => std::mem::take(&mut subscribe.data),
        Request::Publish(publish) => std::mem::take(&mut publish.data),
        _ => b"",
    }
}

proptest! {
    #[test]
    fn protobuf_of_others_is_read_as_they_wrote_it(command in any_command()) {
        let frame = command.encode_length_delimited_to_vec();
        let read: Result<Vec<_>, _> = decode(Encoding::Protobuf, &frame).collect();
        let mut read = read.expect("valid").remove(0);
        let data = without_data(&mut read);
        prop_assert_eq!((read, data), expected(&command));
    }

    #[test]
    fn channels_survive_every_escape(channel in ".*") {
        let text = serde_json::to_string(&channel).expect("a string");
        let frame = format!(r#"{{"id":1,"presence":{{"channel":{text}}}}}"#);
        let read: Vec<_> = decode(Encoding::Json, frame.as_bytes()).collect();
        prop_assert_eq!(read, [Ok(Command { id: 1, request: Request::Presence { channel: channel.into() } })]);
    }

    #[test]
    fn any_frame_is_read_or_refused(frame in any::<Vec<u8>>()) {
        for encoding in BOTH {
            prop_assert!(decode(encoding, &frame).count() <= COMMANDS_PER_FRAME_MAX + 1);
        }
    }

    #[test]
    fn a_damaged_frame_is_read_or_refused(command in any_command(), at in any::<u16>(), byte in any::<u8>()) {
        let mut frame = command.encode_length_delimited_to_vec();
        let at = usize::from(at) % frame.len();
        frame[at] = byte;
        let ours = decode(Encoding::Protobuf, &frame).next();
        // Both read the same first command, if both take the frame.
        if let (Some(Ok(ours)), Ok(theirs)) = (ours, schema::Command::decode_length_delimited(&frame[..])) {
            prop_assert_eq!(ours.id, theirs.id);
        }
        frame.truncate(at);
        decode(Encoding::Protobuf, &frame).for_each(drop);
    }

    #[test]
    fn publications_arrive_whatever_their_data(channel in ".+", text in ".*", bytes in any::<Vec<u8>>(), offset in any::<u64>()) {
        for payload in [Payload::Text(text.as_bytes()), Payload::Bytes(&bytes)] {
            let publication = Publication { body: Body::Plain(payload), offset, info: None, key: "", tags: Texts::NONE };
            let (json, read) = written(|encoding, out| push::publication(encoding, out, &channel, &publication));
            let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            let push = read.push.expect("a push");
            prop_assert_eq!((&push.channel, push.channel.as_str().into()), (&channel, json["push"]["channel"].clone()));
            let read = push.publication.expect("a publication");
            prop_assert_eq!((&read.data[..], read.offset), (payload.bytes(), offset));
            prop_assert_eq!(json["push"]["pub"]["offset"].as_u64().unwrap_or_default(), offset);
            if let Payload::Text(_) = payload {
                prop_assert_eq!(json["push"]["pub"]["data"].as_str(), Some(text.as_str()));
            }
        }
    }
}
