//! Sessions of Centrifuge's client protocol: every request, in JSON and in protobuf, and every code that ends one. The client
//! is written by hand from the protocol's definition.

mod client;
mod recovery;
mod requests;

pub use client::{Client, PATH};

use serde_json::json;

use super::auth::TestFile;
use super::peer::{BINARY, CLOSE, FIN, Peer, TEXT, frame};
use super::server::on_both_drivers;
use client::{field, fields, number, varint};

/// Flags of a server with two shards, so that topics are on the client's shard and on the other.
const SHARDS: [&str; 2] = ["--shards", "2"];

#[test]
fn a_session_begins_with_connect_and_nothing_else() {
    on_both_drivers(&[], |server| {
        let mut client = Client::open(server);
        let reply = client.ask(json!({"connect": {"name": "test", "data": {"a": 1}}}));
        let connect = &reply["connect"];
        assert!(connect["client"].as_str().is_some_and(|client| !client.is_empty()), "{reply}");
        assert!(connect["version"].is_string(), "{reply}");
        assert_eq!((&connect["ping"], &connect["pong"]), (&json!(25), &json!(true)));
        assert!(connect.get("expires").is_none(), "{reply}");
        // A second one breaks the order.
        client.send(&json!({"id": 2, "connect": {}}));
        assert_eq!(client.peer.close_frame(), Some(3501));
        for first in [
            r#"{"id":1,"subscribe":{"channel":"a"}}"#,
            r#"{"id":1,"ping":{}}"#,
            r#"{"connect":{}}"#,
            "{}",
            "",
            "nonsense",
            r#"{"id":1,"connect":{"token":5}}"#,
        ] {
            let mut client = Client::open(server);
            client.peer.send(&frame(TEXT, first.as_bytes()));
            assert_eq!(client.peer.close_frame(), Some(3501), "{first:?}");
        }
        let mut client = Client::open(server);
        client.peer.send(&frame(BINARY, br#"{"id":1,"connect":{}}"#));
        assert_eq!(client.peer.close_frame(), Some(3501), "JSON is text");
    });
}

#[test]
fn a_client_that_does_not_connect_in_time_is_stale() {
    on_both_drivers(&["--handshake-timeout", "2s"], |server| {
        let mut connected = Client::connect(server);
        let mut client = Client::open(server);
        assert_eq!(client.peer.close_frame(), Some(3502));
        assert_eq!(connected.ask(json!({"ping": {}}))["ping"], json!({}));
    });
}

#[test]
fn commands_behind_a_line_feed_are_done_in_their_order() {
    on_both_drivers(&SHARDS, |server| {
        let mut client = Client::open(server);
        let lines = [
            r#"{"id":1,"connect":{}}"#,
            r#"{"id":2,"subscribe":{"channel":"a"}}"#,
            r#"{"id":3,"ping":{}}"#,
            "{}",
            r#"{"id":4,"unsubscribe":{"channel":"none"}}"#,
        ];
        client.peer.send(&frame(TEXT, lines.join("\n").as_bytes()));
        let mut replies: Vec<_> = (0..4).map(|_| client.event()).collect();
        // A subscription may wait for another shard.
        replies.sort_by_key(|reply| reply["id"].as_u64());
        assert!(replies[0]["connect"].is_object() && replies[1]["subscribe"].is_object(), "{replies:?}");
        assert_eq!(replies[2], json!({"id": 3, "ping": {}}));
        assert_eq!(replies[3], json!({"id": 4, "unsubscribe": {}}));
        // One that cannot be read ends the session, behind the answers to those before it.
        client.peer.send(&frame(TEXT, b"{\"id\":5,\"ping\":{}}\nnonsense"));
        assert_eq!(client.event(), json!({"id": 5, "ping": {}}));
        assert_eq!(client.peer.close_frame(), Some(3501));
    });
}

#[test]
fn a_server_that_stops_ends_sessions_with_a_code_to_return_after() {
    on_both_drivers(&[], |server| {
        let mut client = Client::connect(server);
        client.subscribe("a", json!({}));
        server.post("/topics/a", b"last").expect("an answer");
        assert_eq!(client.push("a")["pub"]["data"], "last");
        // The other server is needed for the check at the end.
        let other = super::server::Server::start(&[]);
        let mut client = Client::connect(&other);
        client.subscribe("a", json!({}));
        other.post("/topics/a", b"last").expect("an answer");
        other.terminate();
        assert_eq!(client.push("a")["pub"]["data"], "last");
        assert_eq!(client.peer.close_frame(), Some(3001));
    });
}

#[test]
fn a_client_that_does_not_read_its_answers_is_slow() {
    on_both_drivers(&["--queue-bytes", "64KiB"], |server| {
        let mut client = Client::over(Peer::connect_narrow(server, 4 * 1024));
        client.ask(json!({"connect": {}}));
        client.subscribe("a", json!({}));
        let mut publisher = Client::connect(server);
        let data = "x".repeat(16_000);
        for _ in 0..400 {
            publisher.ask(json!({"publish": {"channel": "a", "data": data}}));
        }
        // It loses the subscription, and is told to recover.
        let mut reached = 0;
        let end = loop {
            let push = client.push("a");
            match push["pub"]["offset"].as_u64() {
                Some(offset) => {
                    assert_eq!(offset, reached + 1, "nothing is missing before the end");
                    reached = offset;
                }
                None => break push,
            }
        };
        assert_eq!(end["unsubscribe"], json!({"code": 2500, "reason": "insufficient state"}));
        assert!(reached < 400);
    });
}

#[test]
fn protobuf_carries_the_same_session() {
    on_both_drivers(&SHARDS, |server| {
        let mut json = Client::connect(server);
        json.subscribe("a", json!({}));
        let mut peer = Client::upgraded(server, PATH, "centrifuge-protobuf");
        let send = |peer: &mut Peer, commands: &[Vec<u8>]| {
            let delimited =
                commands.iter().flat_map(|command| [varint(command.len() as u64), command.clone()]);
            peer.send(&frame(BINARY, &delimited.flatten().collect::<Vec<u8>>()));
        };
        let hear = |peer: &mut Peer| {
            let (first, payload) = peer.frame();
            assert_eq!(first, FIN | BINARY);
            let (bytes, rest) = number(&payload);
            assert_eq!(rest.len() as u64, bytes, "one message behind its length");
            fields(rest)
        };
        let channel = field(1, b"a");
        let connect = [vec![0x08, 1], field(4, b"")].concat();
        let subscribe = [vec![0x08, 2], field(5, &channel)].concat();
        send(&mut peer, &[connect, subscribe]);
        let reply = hear(&mut peer);
        assert_eq!((reply[&1].as_slice(), reply.contains_key(&5)), (&[1][..], true), "{reply:?}");
        let reply = hear(&mut peer);
        assert_eq!((reply[&1].as_slice(), reply.contains_key(&6)), (&[2][..], true), "{reply:?}");
        // Published as protobuf, received as both; and the other way round.
        let publish = [channel.clone(), field(2, br#"{"from":"protobuf"}"#)].concat();
        send(&mut peer, &[[vec![0x08, 3], field(7, &publish)].concat()]);
        let mut heard = [hear(&mut peer), hear(&mut peer)];
        heard.sort_by_key(|fields| fields.contains_key(&4));
        assert!(heard[0].contains_key(&8), "{heard:?}");
        let push = fields(&heard[1][&4]);
        assert_eq!(push[&2], b"a");
        let publication = fields(&push[&4]);
        assert_eq!((&publication[&4][..], &publication[&6][..]), (&br#"{"from":"protobuf"}"#[..], &[1][..]));
        assert_eq!(json.push("a")["pub"], json!({"data": {"from": "protobuf"}, "offset": 1}));
        // Protobuf has data without a byte.
        send(&mut peer, &[[vec![0x08, 4], field(7, &channel)].concat()]);
        let mut heard = [hear(&mut peer), hear(&mut peer)];
        heard.sort_by_key(|fields| fields.contains_key(&4));
        assert!(heard[0].contains_key(&8), "{heard:?}");
        let publication = fields(&fields(&heard[1][&4])[&4]);
        assert_eq!((publication.get(&4).map_or(0, Vec::len), &publication[&6][..]), (0, &[2][..]));
        assert_eq!(json.push("a")["pub"], json!({"data": "", "offset": 2}));
        json.send(&json!({"id": 9, "publish": {"channel": "a", "data": [1, 2.5]}}));
        let push = fields(&hear(&mut peer)[&4]);
        assert_eq!(fields(&push[&4])[&4], b"[1,2.5]");
        // The empty message is a pong, and a text message breaks the protocol.
        send(&mut peer, &[Vec::new()]);
        peer.send(&frame(TEXT, b"{}"));
        let (first, payload) = peer.frame();
        assert_eq!((first, u16::from_be_bytes([payload[0], payload[1]])), (FIN | CLOSE, 3501));
    });
}

#[test]
fn too_many_errors_in_a_row_end_a_session() {
    on_both_drivers(&[], |server| {
        let mut client = Client::connect(server);
        for _ in 0..20 {
            assert_eq!(client.error(json!({"rpc": {"method": "x"}})), 108);
        }
        client.send(&json!({"id": 99, "rpc": {}}));
        assert_eq!(client.peer.close_frame(), Some(3509));
    });
}

/// A configuration with topics for these tests.
fn config() -> TestFile {
    TestFile::new(
        "[[topics]]\npattern = \"who.*\"\npresence = \"everybody\"\n\
         [[topics]]\npattern = \"short.*\"\nhistory_messages = 2\n\
         [[topics]]\npattern = \"long.*\"\nhistory_messages = 1000\nhistory_bytes = \"1MiB\"\n\
         [[topics]]\npattern = \"secret.*\"\nhistory = \"nobody\"\n\
         [[topics]]\npattern = \"closed.*\"\nsubscribe = \"nobody\"\npublish = \"nobody\"\n\
         [[topics]]\npattern = \"latest.*\"\nslow = \"conflate\"\n\
         [[topics]]\npattern = \"last.*\"\nsnapshot = 2\n",
    )
}
