//! The messages that are published when a handler's connection is over: once, behind everything else, whatever has
//! ended it; refused and counted by a drain.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::handlers::failure::{Failure, Result};
use crate::handlers::handler::Handler;
use crate::handlers::message::Message;
use crate::handlers::remote::Remote;
use crate::node::builder::Builder;
use crate::node::handle::PacedDrain;
use crate::node::server::Server;
use crate::node::topic_options::TopicOptions;
use crate::routes::extract::Path;
use crate::routes::route::Route;
use crate::testing::{TestClient, TestServer};
use echoring_broker::limits::{ON_CLOSE_BYTES_MAX, ON_CLOSE_MESSAGES_MAX};
use echoring_broker::publications::PublishError;
use echoring_broker::subscription::TopicMessage;
use echoring_proto::CloseCode;
use echoring_runtime::shard::Disposition;
use echoring_topics::{Publications, Refused};

const ROOM: &str = "room";

/// A member of the room, which follows its client's commands.
struct Member(String);

impl Handler for Member {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        remote.publish_on_close(ROOM, &format!("{} has left", self.0))?;
        Ok(remote.subscribe(ROOM)?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        let text = message.text().unwrap_or_default();
        match text.split_once(' ') {
            Some(("leave", topic)) => remote.publish_on_close(topic, "left")?,
            Some(("stay", topic)) => assert!(remote.cancel_on_close(topic)),
            Some(("replace", message)) => remote.publish_on_close(ROOM, message)?,
            Some(("close", reason)) => remote.close(CloseCode::NORMAL, reason),
            Some(("fail", reason)) => return Err(Failure::from(reason.to_owned())),
            Some(("panic", reason)) => panic!("{reason}"),
            Some(("hang", _)) => remote.hang_up(),
            _ => remote.publish(ROOM, text)?,
        }
        Ok(Disposition::Done)
    }
}

fn rooms(shards: usize) -> Builder {
    let route = Route::new("/{name}", |Path(name): Path<String>| Member(name));
    Server::builder().shards(shards).route(route)
}

fn publications(server: &TestServer) -> Publications {
    let mut sum = Publications::default();
    server
        .handle()
        .snapshots()
        .expect("no shard")
        .iter()
        .for_each(|snapshot| sum.add(&snapshot.application.publications));
    sum
}

/// Bytes that all shards have charged.
fn charged(server: &TestServer) -> u64 {
    server.handle().snapshots().expect("no shard").iter().map(|snapshot| snapshot.pool_bytes).sum()
}

#[test]
fn whatever_ends_a_connection_its_last_message_follows_once_behind_the_others() {
    /// Ends the connection of a member.
    type End = fn(&TestServer, &TestClient);
    let ends: [(&str, End); 9] = [
        ("the client closes", |_, ann| ann.close(CloseCode::NORMAL, "enough")),
        ("the client is gone", |_, ann| ann.disconnect()),
        ("a frame breaks the protocol", |_, ann| ann.send_raw(&[0x81, 1, b'x'])),
        ("the handler closes", |_, ann| assert!(ann.send_text("close now"))),
        ("the handler ends the stream", |_, ann| assert!(ann.send_text("hang up"))),
        ("the handler fails", |_, ann| assert!(ann.send_text("fail now"))),
        ("the handler panics", |_, ann| assert!(ann.send_text("panic now"))),
        ("the peer does not answer pings", |server, ann| {
            ann.stall();
            server.advance(Duration::from_secs(60));
        }),
        ("the peer is too slow", |server, ann| {
            let bob = server.connect("/bob").expect("a member");
            ann.stall();
            let text = "x".repeat(60_000);
            for _ in 0..20 {
                assert!(bob.send_text(&text));
                bob.take_texts();
            }
            server.advance(Duration::from_secs(60));
        }),
    ];
    for (number, (name, end)) in ends.into_iter().enumerate() {
        for shards in [1, 3] {
            let server = TestServer::with_seed(rooms(shards), number as u64);
            let watcher = server.connect("/watcher").expect("a member");
            let ann = server.connect("/ann").expect("a member");
            let before = charged(&server);
            for number in 0..10 {
                assert!(ann.send_text(&number.to_string()));
            }
            server.run();
            end(&server, &ann);
            server.run();
            let mut texts = watcher.take_texts();
            texts.retain(|text| text.len() < 100 && text != "bob has left");
            let said: Vec<String> = (0..10).map(|number| number.to_string()).collect();
            assert_eq!(texts[..10], said, "{name}, {shards} shards");
            assert_eq!(texts[10..], ["ann has left"], "{name}, {shards} shards");
            ann.resume();
            assert!(!ann.is_open() && watcher.is_open(), "{name}");
            server.advance(Duration::from_secs(120));
            assert!(watcher.take_texts().is_empty(), "{name}: once");
            let counts = publications(&server);
            assert!(counts.add_up() && counts.refused == 0, "{name}: {counts:?}");
            assert!(charged(&server) <= before + 2_000_000, "{name}");
            server.take_failures();
        }
    }
}

#[test]
fn there_is_one_for_each_topic_which_can_be_replaced_and_taken_away() {
    let server = TestServer::new(rooms(2));
    let ann = server.connect("/ann").expect("a member");
    for text in ["leave a", "leave b", "leave a", "stay b", "replace good bye", "leave c"] {
        assert!(ann.send_text(text));
    }
    ann.close(CloseCode::NORMAL, "");
    for (topic, expected) in [("a", 1), ("b", 0), ("c", 1)] {
        assert_eq!(server.take_published(topic).len(), expected, "{topic}");
    }
    let published = server.take_published(ROOM);
    let texts: Vec<_> = published.iter().filter_map(|message| message.text()).collect();
    assert_eq!(texts, ["good bye"]);
}

#[test]
fn the_memory_of_last_messages_is_charged_until_they_are_published() {
    struct Kept;
    impl Handler for Kept {
        fn open(&mut self, remote: &mut Remote<'_>) -> Result {
            Ok(remote.publish_on_close(ROOM, &"x".repeat(10_000))?)
        }
    }
    let server = TestServer::new(Server::builder().handle("/", || Kept));
    let before = charged(&server);
    let clients: Vec<TestClient> = (0..100).map(|_| server.connect("/").expect("a handler")).collect();
    let with = charged(&server);
    assert!(with >= before + 100 * 10_000, "{before}, then {with}");
    clients.iter().for_each(TestClient::disconnect);
    server.advance(Duration::from_secs(10));
    assert_eq!(server.take_published(ROOM).len(), 100);
    // The history of the topic keeps 64 KiB.
    let after = charged(&server);
    assert!(after <= before + 200_000, "{before}, then {after}");
}

#[test]
fn what_cannot_be_published_later_is_an_error_at_once() {
    type Said = Arc<Mutex<Vec<Result<(), PublishError>>>>;
    struct Asking(Said);
    impl Handler for Asking {
        fn open(&mut self, remote: &mut Remote<'_>) -> Result {
            let long = "x".repeat(ON_CLOSE_BYTES_MAX);
            let deep = "[".repeat(1_000) + &"]".repeat(1_000);
            let mut said = self.0.lock().expect("no panic");
            said.push(remote.publish_on_close("", "x"));
            said.push(remote.publish_on_close(ROOM, TopicMessage::from("x").key(&long[..256])));
            said.push(remote.publish_on_close(ROOM, TopicMessage::json(&deep)));
            said.push(remote.publish_on_close(ROOM, &long));
            said.push(remote.publish_on_close(ROOM, &(long.clone() + "x")));
            for number in 0..=ON_CLOSE_MESSAGES_MAX {
                said.push(remote.publish_on_close(&number.to_string(), "x"));
            }
            Ok(())
        }
    }
    let said = Said::default();
    let to = Arc::clone(&said);
    let server = TestServer::new(Server::builder().handle("/", move || Asking(Arc::clone(&to))));
    let client = server.connect("/").expect("a handler");
    client.disconnect();
    server.run();
    let said = said.lock().expect("no panic");
    assert_eq!(
        said[..5],
        [
            Err(PublishError::BadTopic),
            Err(PublishError::BadKey(0)),
            Err(PublishError::TooDeep(0)),
            Err(PublishError::TooManyOnClose),
            Err(PublishError::Refused(Refused::TooLarge)),
        ]
    );
    assert!(said[5..5 + ON_CLOSE_MESSAGES_MAX].iter().all(Result::is_ok));
    assert_eq!(said.last(), Some(&Err(PublishError::TooManyOnClose)));
    assert_eq!(publications(&server), Publications { published: 128, accepted: 128, refused: 0 });
}

#[test]
fn a_message_that_its_topic_refuses_is_counted() {
    for shards in [1, 3] {
        let builder = rooms(shards).topics("keyed", TopicOptions::new().conflate());
        let server = TestServer::new(builder);
        let ann = server.connect("/ann").expect("a member");
        assert!(ann.send_text("leave keyed"));
        server.run();
        ann.disconnect();
        server.run();
        assert_eq!(publications(&server), Publications { published: 2, accepted: 1, refused: 1 });
        assert_eq!(server.take_published(ROOM).len(), 1);
    }
}

#[test]
fn a_drain_refuses_last_messages_and_counts_them() {
    let server = TestServer::new(rooms(1));
    let clients: Vec<_> = (0..10).map(|_| server.connect("/ann").expect("a member")).collect();
    let stalled = server.connect("/stalled").expect("a member");
    stalled.stall();
    assert!(clients[0].send_text(&"x".repeat(60_000)));
    // A connection that was over before the drain is published.
    server.connect("/early").expect("a member").disconnect();
    server.run();
    server.handle().drain_within(Duration::from_secs(60));
    server.run();
    assert!(clients.iter().all(|client| client.closed().is_some()));
    assert_eq!(publications(&server), Publications { published: 12, accepted: 2, refused: 10 });
    let published = server.take_published(ROOM);
    assert_eq!(published.last().and_then(|message| message.text()), Some("early has left"));
    server.advance(Duration::from_secs(60));
    assert!(server.has_ended() && server.take_published(ROOM).is_empty());
}

#[test]
fn a_paced_drain_publishes_the_last_messages_of_those_that_it_closes_one_by_one() {
    let server = TestServer::new(rooms(2));
    let _clients: Vec<_> =
        (0..20).map(|number| server.connect(&format!("/{number}")).expect("a member")).collect();
    server.handle().drain_over(PacedDrain { time: Duration::from_secs(60), per_second_max: 1 });
    server.advance(Duration::from_secs(40));
    let (left, published) = (20 - server.connections(), server.take_published(ROOM).len());
    assert!(left > 5, "{left} were closed");
    assert_eq!(published, left);
    server.advance(Duration::from_secs(60));
    assert!(server.has_ended());
}

/// The remaining members receive everything, because a shard spreads the messages over ticks.
#[test]
fn thousands_that_leave_at_once_do_not_make_the_others_lag() {
    for shards in [1, 2] {
        let server = TestServer::new(rooms(shards));
        // Their sockets take everything, so that none of them lags because of its turn in the simulation.
        let watch = |_| server.request("/watcher").buffer_bytes(2 << 20).connect().expect("a member");
        let watchers: Vec<_> = (0..2).map(watch).collect();
        let name = "n".repeat(900);
        let leaving: Vec<_> =
            (0..1_000).map(|number| server.connect(&format!("/{number}{name}")).expect("a member")).collect();
        for client in leaving {
            client.disconnect();
        }
        server.advance(Duration::from_secs(1));
        for watcher in &watchers {
            let texts = watcher.take_texts();
            let distinct: BTreeSet<_> = texts.iter().collect();
            assert_eq!((texts.len(), distinct.len()), (1_000, 1_000));
            assert!(watcher.is_open());
        }
        assert_eq!(publications(&server), Publications { published: 1_000, accepted: 1_000, refused: 0 });
    }
}
