//! Tests of replies and pushes.

use prost::Message;

use super::schema;
use super::{BOTH, written};
use crate::centrifuge::{
    Body, ClientInfo, ConnectResult, Encoding, Error, ErrorCode, HistoryResult, Payload, PresenceStats,
    Publication, RefreshResult, SubscribeResult, Subscribed, Texts, UnsubscribeCode, push, reply,
};

fn alice<'a>() -> ClientInfo<'a> {
    ClientInfo { user: "alice", client: "c1", connection: Some(Payload::Json(br#"{"n":1}"#)), channel: None }
}

fn alice_read() -> schema::ClientInfo {
    schema::ClientInfo {
        user: "alice".to_owned(),
        client: "c1".to_owned(),
        conn_info: br#"{"n":1}"#.to_vec(),
        chan_info: Vec::new(),
    }
}

fn value(offset: u64, value: &str) -> Publication<'_> {
    Publication {
        body: Body::Plain(Payload::Json(value.as_bytes())),
        offset,
        info: None,
        key: "",
        tags: Texts::NONE,
    }
}

fn value_read(offset: u64, value: &str) -> schema::Publication {
    schema::Publication { data: value.into(), offset, ..Default::default() }
}

#[test]
fn replies_without_content_have_their_name() {
    type Write = fn(Encoding, &mut Vec<u8>, u32);
    let table: [(Write, &str); 4] = [
        (reply::unsubscribe, r#"{"id":7,"unsubscribe":{}}"#),
        (reply::publish, r#"{"id":7,"publish":{}}"#),
        (reply::ping, r#"{"id":7,"ping":{}}"#),
        (|encoding, out, id| reply::rpc(encoding, out, id, None), r#"{"id":7,"rpc":{}}"#),
    ];
    for (write, expected) in table {
        let (json, read) = written(|encoding, out| write(encoding, out, 7));
        assert_eq!(json, expected);
        assert_eq!(read.id, 7);
        let present =
            [read.unsubscribe.is_some(), read.publish.is_some(), read.ping.is_some(), read.rpc.is_some()];
        assert_eq!(present.iter().filter(|&&present| present).count(), 1);
    }
}

#[test]
fn errors_have_code_message_and_whether_to_try_again() {
    let (json, read) = written(|encoding, out| reply::error(encoding, out, 3, ErrorCode::TokenExpired));
    assert_eq!(json, r#"{"id":3,"error":{"code":109,"message":"token expired"}}"#);
    let error = schema::Error { code: 109, message: "token expired".to_owned(), temporary: false };
    assert_eq!(read, schema::Reply { id: 3, error: Some(error), ..Default::default() });

    let own = Error { code: 1_000, message: "\"no\"", temporary: true };
    let (json, read) = written(|encoding, out| reply::error(encoding, out, 3, own));
    assert_eq!(json, r#"{"id":3,"error":{"code":1000,"message":"\"no\"","temporary":true}}"#);
    let error = schema::Error { code: 1_000, message: "\"no\"".to_owned(), temporary: true };
    assert_eq!(read.error, Some(error));
}

#[test]
fn connect_replies_have_the_session_and_its_subscriptions() {
    let publications = [value(5, "1")];
    let subscription = SubscribeResult {
        recoverable: true,
        epoch: "e",
        publications: &publications,
        recovered: true,
        offset: 5,
        positioned: true,
        was_recovering: true,
        ..SubscribeResult::default()
    };
    let result = ConnectResult {
        client: "c1",
        version: "0.1.0",
        expires_in_s: Some(60),
        data: Some(Payload::Json(b"{}")),
        subscriptions: &[("news", subscription)],
        ping_s: 25,
        pong: true,
        session: "s",
        node: "n",
        time_ms: 1_700_000_000_000,
    };
    let (json, read) = written(|encoding, out| reply::connect(encoding, out, 1, &result));
    let content = concat!(
        r#"{"client":"c1","version":"0.1.0","expires":true,"ttl":60,"data":{},"subs":{"news":{"recoverable":true,"#,
        r#""epoch":"e","publications":[{"data":1,"offset":5}],"recovered":true,"offset":5,"positioned":true,"#,
        r#""was_recovering":true}},"ping":25,"pong":true,"session":"s","node":"n","time":1700000000000}"#,
    );
    assert_eq!(json, format!(r#"{{"id":1,"connect":{content}}}"#));
    let subscription = schema::SubscribeResult {
        recoverable: true,
        epoch: "e".to_owned(),
        publications: vec![value_read(5, "1")],
        recovered: true,
        offset: 5,
        positioned: true,
        was_recovering: true,
        ..Default::default()
    };
    let connect = schema::Connect {
        client: "c1".to_owned(),
        version: "0.1.0".to_owned(),
        expires: true,
        ttl: 60,
        data: b"{}".to_vec(),
        subs: [("news".to_owned(), subscription)].into(),
        ping: 25,
        pong: true,
        session: "s".to_owned(),
        node: "n".to_owned(),
        time: 1_700_000_000_000,
    };
    assert_eq!(read, schema::Reply { id: 1, connect: Some(connect.clone()), ..Default::default() });

    let (json, read) = written(|encoding, out| push::connect(encoding, out, &result));
    assert_eq!(json, format!(r#"{{"push":{{"connect":{content}}}}}"#));
    assert_eq!(read.push.and_then(|push| push.connect), Some(connect));
}

#[test]
fn subscribe_replies_leave_out_what_is_not_so() {
    let (json, _) = written(|encoding, out| reply::subscribe(encoding, out, 2, &SubscribeResult::default()));
    assert_eq!(json, r#"{"id":2,"subscribe":{}}"#);
    let result = SubscribeResult { expires_in_s: Some(0), delta: true, ..SubscribeResult::default() };
    let (json, read) = written(|encoding, out| reply::subscribe(encoding, out, 2, &result));
    assert_eq!(json, r#"{"id":2,"subscribe":{"expires":true,"delta":true}}"#);
    let expected = schema::SubscribeResult { expires: true, delta: true, ..Default::default() };
    assert_eq!(read.subscribe, Some(expected));
}

#[test]
fn presence_lists_and_counts() {
    let members = [("c1", alice()), ("c2", ClientInfo { client: "c2", ..ClientInfo::default() })];
    let (json, read) = written(|encoding, out| reply::presence(encoding, out, 5, members.iter().copied()));
    assert_eq!(
        json,
        concat!(
            r#"{"id":5,"presence":{"presence":{"c1":{"user":"alice","client":"c1","conn_info":{"n":1}},"#,
            r#""c2":{"user":"","client":"c2"}}}}"#,
        )
    );
    let anonymous = schema::ClientInfo { client: "c2".to_owned(), ..Default::default() };
    let presence = [("c1".to_owned(), alice_read()), ("c2".to_owned(), anonymous)].into();
    assert_eq!(read.presence, Some(schema::PresenceResult { presence }));

    let (json, read) = written(|encoding, out| reply::presence(encoding, out, 5, [].into_iter()));
    assert_eq!(json, r#"{"id":5,"presence":{"presence":{}}}"#);
    assert_eq!(read.presence, Some(Default::default()));

    let stats = PresenceStats { clients: 2, users: 0 };
    let (json, read) = written(|encoding, out| reply::presence_stats(encoding, out, 6, stats));
    assert_eq!(json, r#"{"id":6,"presence_stats":{"num_clients":2,"num_users":0}}"#);
    assert_eq!(read.presence_stats, Some(schema::PresenceStatsResult { num_clients: 2, num_users: 0 }));
}

#[test]
fn history_has_its_position_even_if_it_is_empty() {
    let (json, read) = written(|encoding, out| reply::history(encoding, out, 7, &HistoryResult::default()));
    assert_eq!(json, r#"{"id":7,"history":{"publications":[],"epoch":"","offset":0}}"#);
    assert_eq!(read.history, Some(Default::default()));

    let publications = [value(8, "8"), Publication { info: Some(alice()), key: "k", ..value(9, "[9]") }];
    let result = HistoryResult { publications: &publications, epoch: "e", offset: 9 };
    let (json, read) = written(|encoding, out| reply::history(encoding, out, 7, &result));
    assert_eq!(
        json,
        concat!(
            r#"{"id":7,"history":{"publications":[{"data":8,"offset":8},{"data":[9],"#,
            r#""info":{"user":"alice","client":"c1","conn_info":{"n":1}},"offset":9,"key":"k"}],"#,
            r#""epoch":"e","offset":9}}"#,
        )
    );
    let second =
        schema::Publication { info: Some(alice_read()), key: "k".to_owned(), ..value_read(9, "[9]") };
    let publications = vec![value_read(8, "8"), second];
    let expected = schema::HistoryResult { publications, epoch: "e".to_owned(), offset: 9 };
    assert_eq!(read.history, Some(expected));
}

#[test]
fn calls_and_refreshes_have_results() {
    let (json, read) = written(|encoding, out| reply::rpc(encoding, out, 8, Some(Payload::Json(b"[true]"))));
    assert_eq!(json, r#"{"id":8,"rpc":{"data":[true]}}"#);
    assert_eq!(read.rpc, Some(schema::Data { data: b"[true]".to_vec() }));

    let result = RefreshResult { client: "c1", version: "0.1.0", expires_in_s: Some(9) };
    let (json, read) = written(|encoding, out| reply::refresh(encoding, out, 8, &result));
    assert_eq!(json, r#"{"id":8,"refresh":{"client":"c1","version":"0.1.0","expires":true,"ttl":9}}"#);
    let expected =
        schema::RefreshResult { client: "c1".to_owned(), version: "0.1.0".to_owned(), expires: true, ttl: 9 };
    assert_eq!(read.refresh, Some(expected));

    let (json, read) = written(|encoding, out| reply::sub_refresh(encoding, out, 8, Some(9)));
    assert_eq!(json, r#"{"id":8,"sub_refresh":{"expires":true,"ttl":9}}"#);
    assert_eq!(read.sub_refresh, Some(schema::Lifetime { expires: true, ttl: 9 }));
}

#[test]
fn pushes_name_their_channel() {
    let push_of = |read: schema::Reply| {
        assert_eq!(read.id, 0);
        read.push.expect("a push")
    };
    let channel = "news".to_owned();

    let (json, read) = written(|encoding, out| push::publication(encoding, out, "news", &value(3, "{}")));
    assert_eq!(json, r#"{"push":{"channel":"news","pub":{"data":{},"offset":3}}}"#);
    let expected = schema::Push {
        channel: channel.clone(),
        publication: Some(value_read(3, "{}")),
        ..Default::default()
    };
    assert_eq!(push_of(read), expected);

    let (json, read) = written(|encoding, out| push::join(encoding, out, "news", &alice()));
    let info = r#"{"info":{"user":"alice","client":"c1","conn_info":{"n":1}}}"#;
    assert_eq!(json, format!(r#"{{"push":{{"channel":"news","join":{info}}}}}"#));
    let presence = Some(schema::Presence { info: Some(alice_read()) });
    assert_eq!(push_of(read).join, presence);

    let (json, read) = written(|encoding, out| push::leave(encoding, out, "news", &alice()));
    assert_eq!(json, format!(r#"{{"push":{{"channel":"news","leave":{info}}}}}"#));
    assert_eq!(push_of(read).leave, presence);

    let code = UnsubscribeCode::InsufficientState;
    let (json, read) = written(|encoding, out| push::unsubscribe(encoding, out, "news", code));
    assert_eq!(
        json,
        r#"{"push":{"channel":"news","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#
    );
    let expected = schema::Unsubscribe { code: 2500, reason: "insufficient state".to_owned() };
    assert_eq!(push_of(read).unsubscribe, Some(expected));

    let subscribed = Subscribed { recoverable: true, epoch: "e", offset: 4, positioned: true, data: None };
    let (json, read) = written(|encoding, out| push::subscribe(encoding, out, "news", &subscribed));
    assert_eq!(
        json,
        r#"{"push":{"channel":"news","subscribe":{"recoverable":true,"epoch":"e","offset":4,"positioned":true}}}"#
    );
    let expected = schema::Subscribe {
        recoverable: true,
        epoch: "e".to_owned(),
        offset: 4,
        positioned: true,
        data: Vec::new(),
    };
    assert_eq!(push_of(read).subscribe, Some(expected));
}

#[test]
fn pushes_to_the_connection_name_no_channel() {
    let (json, read) = written(|encoding, out| push::message(encoding, out, Payload::Json(b"1")));
    assert_eq!(json, r#"{"push":{"message":{"data":1}}}"#);
    assert_eq!(read.push.expect("a push").message, Some(schema::Data { data: b"1".to_vec() }));

    let (json, read) = written(|encoding, out| push::disconnect(encoding, out, 3501, "bad request"));
    assert_eq!(json, r#"{"push":{"disconnect":{"code":3501,"reason":"bad request"}}}"#);
    let expected = schema::Disconnect { code: 3501, reason: "bad request".to_owned(), reconnect: false };
    assert_eq!(read.push.expect("a push").disconnect, Some(expected));

    let (json, read) = written(|encoding, out| push::refresh(encoding, out, Some(30)));
    assert_eq!(json, r#"{"push":{"refresh":{"expires":true,"ttl":30}}}"#);
    assert_eq!(read.push.expect("a push").refresh, Some(schema::Lifetime { expires: true, ttl: 30 }));
}

#[test]
fn a_frame_has_many_replies() {
    let [json, protobuf] = BOTH.map(|encoding| {
        let mut out = Vec::new();
        reply::publish(encoding, &mut out, 1);
        push::ping(encoding, &mut out);
        push::publication(encoding, &mut out, "c", &value(1, "1"));
        out
    });
    let expected =
        "{\"id\":1,\"publish\":{}}\n{}\n{\"push\":{\"channel\":\"c\",\"pub\":{\"data\":1,\"offset\":1}}}";
    assert_eq!(json, expected.as_bytes());
    let mut rest = &protobuf[..];
    let replies: Vec<_> = std::iter::from_fn(|| {
        (!rest.is_empty()).then(|| schema::Reply::decode_length_delimited(&mut rest).expect("a reply"))
    })
    .collect();
    assert_eq!(replies.len(), 3);
    assert_eq!(replies[1], schema::Reply::default());
}

#[test]
fn data_is_carried_by_its_type() {
    let table: [(Body<'_>, &str, &[u8]); 6] = [
        (Body::Plain(Payload::Json(b"{\"a\" :\n [1,\n2]}\n")), r#"{"a" : [1,2]}"#, b"{\"a\" :\n [1,\n2]}\n"),
        (Body::Plain(Payload::Text("say \"é\"\n".as_bytes())), r#""say \"é\"\n""#, "say \"é\"\n".as_bytes()),
        (Body::Plain(Payload::Text(b"")), r#""""#, b""),
        (Body::Plain(Payload::Bytes(b"\x00\xff\xfe")), r#""AP/+""#, b"\x00\xff\xfe"),
        (Body::Whole(br#"{"a":1}"#), r#""{\"a\":1}""#, br#"{"a":1}"#),
        (Body::Delta(b"3\n3:abc1XObC0;"), r#""3\n3:abc1XObC0;","delta":true"#, b"3\n3:abc1XObC0;"),
    ];
    for (body, in_json, in_protobuf) in table {
        let publication = Publication { body, ..value(0, "") };
        let (json, read) = written(|encoding, out| push::publication(encoding, out, "c", &publication));
        assert_eq!(json, format!(r#"{{"push":{{"channel":"c","pub":{{"data":{in_json}}}}}}}"#));
        let publication = read.push.and_then(|push| push.publication).expect("a publication");
        assert_eq!((&publication.data[..], publication.delta), (in_protobuf, body.is_delta()));
    }
}

#[test]
fn deltas_lead_from_one_publication_to_the_next_in_both_encodings() {
    let first = Payload::Json(b"{\"text\":\"Gr\xc3\xbc\xc3\x9fe aus K\xc3\xb6ln\",\n\"n\":1}");
    let second = Payload::Json(b"{\"text\":\"Gr\xc3\xbc\xc3\x9fe aus K\xc3\xb6ln\",\n\"n\":2}");
    for encoding in BOTH {
        let [base, target] = [first, second].map(|payload| {
            let mut written = Vec::new();
            payload.write(encoding, &mut written);
            written
        });
        let delta = crate::centrifuge::delta::create(&base, &target);
        let publication = Publication { body: Body::Delta(&delta), ..value(2, "") };
        let mut out = Vec::new();
        push::publication(encoding, &mut out, "c", &publication);
        let received = match encoding {
            Encoding::Json | Encoding::Events | Encoding::Lines => {
                let reply: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
                reply["push"]["pub"]["data"].as_str().expect("a string").as_bytes().to_vec()
            }
            Encoding::Protobuf => {
                let reply = schema::Reply::decode_length_delimited(&out[..]).expect("a reply");
                reply.push.and_then(|push| push.publication).expect("a publication").data
            }
        };
        assert_eq!(crate::centrifuge::delta::apply(&base, &received, 1_000), Ok(target));
    }
}
