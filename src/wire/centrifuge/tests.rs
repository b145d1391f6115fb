//! Tests of commands, replies and pushes against exact texts, and against another implementation of protobuf.

mod client;
mod commands;
mod messages;
mod properties;
mod schema;
mod tags;

use prost::Message;

use crate::centrifuge::{
    ConnectResult, Disconnect, Encoding, ErrorCode, Malformed, Payload, UnsubscribeCode, decode_connect,
    push, reply,
};

const BOTH: [Encoding; 2] = [Encoding::Json, Encoding::Protobuf];

/// What `write` appends in JSON, and in protobuf as another implementation reads it.
fn written(write: impl Fn(Encoding, &mut Vec<u8>)) -> (String, schema::Reply) {
    let [json, protobuf] = BOTH.map(|encoding| {
        let mut out = Vec::new();
        write(encoding, &mut out);
        out
    });
    let read = schema::Reply::decode_length_delimited(&protobuf[..]).expect("a reply");
    assert_eq!(read.encode_length_delimited_to_vec(), protobuf, "the same bytes");
    (String::from_utf8(json).expect("text"), read)
}

#[test]
fn codes_are_those_of_the_protocol() {
    assert_eq!(ErrorCode::ALL.map(ErrorCode::code), std::array::from_fn(|at| 100 + at as u32));
    let temporary = ErrorCode::ALL.into_iter().filter(|code| code.is_temporary()).map(ErrorCode::code);
    assert_eq!(temporary.collect::<Vec<_>>(), [100, 111, 113]);
    assert_eq!(
        Disconnect::ALL.map(Disconnect::code),
        [
            3000, 3001, 3004, 3005, 3006, 3008, 3009, 3010, 3011, 3012, 3013, 3014, 3500, 3501, 3502, 3503,
            3504, 3505, 3506, 3507, 3508, 3509
        ]
    );
    for disconnect in Disconnect::ALL {
        assert_eq!(Disconnect::reconnects_after(disconnect.code()), disconnect.code() < 3500);
        assert!((1..=123).contains(&disconnect.reason().len()));
    }
    for (code, reconnects) in [
        (1000, true),
        (3499, true),
        (3500, false),
        (3999, false),
        (4000, true),
        (4008, true),
        (4499, true),
        (4500, false),
        (4999, false),
    ] {
        assert_eq!(Disconnect::reconnects_after(code), reconnects, "{code}");
    }
    assert_eq!(UnsubscribeCode::ALL.map(UnsubscribeCode::code), [2000, 2500, 2501, 2502]);
}

#[test]
fn the_client_chooses_the_encoding() {
    for encoding in BOTH {
        assert_eq!(Encoding::from_subprotocol(encoding.subprotocol()), Some(encoding));
        assert!(Encoding::SUBPROTOCOLS.contains(&encoding.subprotocol()));
        assert_eq!(encoding.is_binary(), encoding == Encoding::Protobuf);
    }
    assert_eq!(Encoding::from_subprotocol(""), Some(Encoding::Json));
    assert_eq!(Encoding::from_subprotocol("centrifuge"), None);
    let queries = ["", "format=json", "cf_protocol=protobuf", "a=b&format=protobuf", "xformat=protobuf"];
    let binary = queries.map(|query| Encoding::from_query(query).is_binary());
    assert_eq!(binary, [false, false, true, true, false]);
}

#[test]
fn streams_have_pushes_alone() {
    let result = ConnectResult { client: "c", ..ConnectResult::default() };
    let data = Payload::Json(b"{\"a\":\r\n1}");
    for (encoding, expected) in [
        (
            Encoding::Events,
            "data: {\"connect\":{\"client\":\"c\"}}\n\ndata: {}\n\ndata: {\"message\":{\"data\":{\"a\": 1}}}\n\n",
        ),
        (Encoding::Lines, "{\"connect\":{\"client\":\"c\"}}\n{}\n{\"message\":{\"data\":{\"a\":\r1}}}\n"),
    ] {
        let mut out = Vec::new();
        reply::connect(encoding, &mut out, 1, &result);
        push::ping(encoding, &mut out);
        reply::error(encoding, &mut out, 2, ErrorCode::Internal);
        reply::unsubscribe(encoding, &mut out, 3);
        push::message(encoding, &mut out, data);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}

#[test]
fn a_connect_command_may_come_without_an_envelope() {
    let read = |text: &'static str| decode_connect(text.as_bytes()).map(|connect| connect.token.into_owned());
    for (text, expected) in [
        ("", Ok("")),
        (" null\n", Ok("")),
        ("{}", Ok("")),
        (" {\"token\":\"t\",\"subs\":{\"a\":{\"recover\":true}}} ", Ok("t")),
        ("[]", Err(Malformed::Json)),
        ("{\"token\":1}", Err(Malformed::Json)),
        ("{} {}", Err(Malformed::Json)),
    ] {
        assert_eq!(read(text), expected.map(str::to_owned), "{text}");
    }
}
