//! Sessions of Centrifuge's client protocol: a subscriber gets every message in order until it is told that its state is
//! insufficient, and recovers from there. And pings, in virtual time.

use std::collections::BTreeMap;

use echoring_proto::connection::ConnectionConfig;
use echoring_proto::limits::{MILLISECOND, QUEUE_BYTES_DEFAULT, SECOND};
use echoring_runtime::driver::sim::Random;
use echoring_server::Service;
use echoring_topics::{HistoryBounds, Rules, SlowConsumerPolicy, TopicSettings};
use serde_json::{Value, json};

use super::client::{self, Client, Item, MessageKind};
use super::for_each_seed;
use super::newcomers;
use super::service::service;
use super::world::{World, config, move_some};

pub const PATH: &str = "/connection/websocket";

/// The data of each offset that somebody was sent.
pub type Log = BTreeMap<u64, Value>;

/// How far a subscriber is.
#[derive(Debug, Default)]
pub struct Progress {
    epoch: String,
    /// The offset that it knows; `None` before its subscription.
    pub reached: Option<u64>,
    /// Whether everything that it missed followed.
    recovered: bool,
    /// It was told that its state is insufficient.
    pub ended: bool,
}

/// Has a client send a command.
pub fn say(world: &World<Service>, random: &mut Random, client: usize, command: &Value) {
    let mut script = Vec::new();
    client::message(random, MessageKind::Text, command.to_string().as_bytes(), &mut script, |_, _| {});
    world.clients.borrow_mut()[client].script.extend(script);
}

/// A client that subscribes, from a position if there is one.
fn subscriber(world: &World<Service>, random: &mut Random, from: Option<(&str, u64)>) -> usize {
    let client = world.add(PATH);
    say(world, random, client, &json!({"id": 1, "connect": {}}));
    let mut subscribe = json!({"channel": "t"});
    if let Some((epoch, offset)) = from {
        subscribe = json!({"channel": "t", "recover": true, "epoch": epoch, "offset": offset});
    }
    say(world, random, client, &json!({"id": 2, "subscribe": subscribe}));
    client
}

/// Checks everything that a subscriber was sent. On a topic that conflates, what is replayed has holes.
pub fn check(client: &Client, log: &mut Log, conflates: bool) -> Progress {
    let mut progress = Progress::default();
    for item in &client.heard {
        let Item::Message(MessageKind::Text, text) = item else { continue };
        let event: Value = serde_json::from_slice(text).expect("JSON");
        assert!(event.get("error").is_none(), "{event}");
        if let Some(result) = event.get("subscribe") {
            progress.epoch = result["epoch"].as_str().expect("an epoch").into();
            progress.recovered = result["recovered"] == true;
            let mut last = None;
            for publication in result["publications"].as_array().into_iter().flatten() {
                let offset = note(log, publication);
                assert!(last.is_none_or(|last| if conflates { offset > last } else { offset == last + 1 }));
                last = Some(offset);
            }
            let offset = result["offset"].as_u64().unwrap_or_default();
            assert!(last.is_none_or(|last| last == offset), "{event}");
            progress.reached = Some(offset);
        } else if let Some(publication) = event["push"].get("pub") {
            assert!(!progress.ended, "nothing follows the end of a subscription");
            let offset = note(log, publication);
            let reached = progress.reached.expect("the answer comes first");
            assert!(if conflates { offset > reached } else { offset == reached + 1 }, "{reached} {offset}");
            progress.reached = Some(offset);
        } else if let Some(unsubscribe) = event["push"].get("unsubscribe") {
            assert_eq!(unsubscribe["code"], 2500, "{event}");
            progress.ended = true;
        }
    }
    progress
}

/// Notes a publication, which is the same for everybody. Returns its offset.
fn note(log: &mut Log, publication: &Value) -> u64 {
    let offset = publication["offset"].as_u64().expect("an offset");
    let known = log.entry(offset).or_insert_with(|| publication["data"].clone());
    assert_eq!(*known, publication["data"], "of offset {offset}");
    offset
}

fn settings(random: &mut Random) -> TopicSettings {
    use SlowConsumerPolicy::{Conflate, Disconnect, DropOldest};
    TopicSettings {
        slow: [Disconnect, DropOldest, Conflate][random.below(3)],
        lag_bytes: 4_096 << random.below(5),
        history: HistoryBounds {
            messages: random.between(1, 100) as u32,
            bytes: 1_024 << random.below(8),
            ..HistoryBounds::default()
        },
        ..TopicSettings::default()
    }
}

fn streams(seed: u64) {
    streams_in(seed, |_| {});
}

fn streams_in(seed: u64, prepare: impl FnOnce(&World<Service>)) {
    let mut random = Random::new(seed);
    let settings = settings(&mut random);
    let conflates = settings.slow == SlowConsumerPolicy::Conflate;
    let world = newcomers::world(seed, random.between(1, 3), Rules::new(Vec::new(), settings));
    prepare(&world);
    let mut subscribers = Vec::new();
    for _ in 0..random.between(1, 5) {
        subscribers.push(subscriber(&world, &mut random, None));
    }
    let publisher = world.add(PATH);
    say(&world, &mut random, publisher, &json!({"id": 1, "connect": {}}));
    let messages = random.between(1, 120);
    for number in 0..messages {
        let pad = "x".repeat(random.below(3_000));
        // A topic that conflates keeps the latest of each key.
        let key = format!("k{}", random.below(4));
        let publish = json!({"channel": "t", "key": key, "data": {"number": number, "pad": pad}});
        say(&world, &mut random, publisher, &json!({"id": 10 + number, "publish": publish}));
        if random.chance(20) {
            subscribers.push(subscriber(&world, &mut random, None));
        }
    }
    world.clients.borrow_mut()[publisher].hurry();
    world.run_until_quiet();
    world.clients.borrow_mut().iter_mut().for_each(Client::hurry);
    world.run_until_quiet();
    let accepted = world.known().publications.accepted;
    assert_eq!(accepted, messages as u64, "every publication is accepted");
    let mut log = Log::new();
    let mut returning = Vec::new();
    for client in subscribers {
        let progress = check(&world.clients.borrow()[client], &mut log, conflates);
        let Some(reached) = progress.reached else { continue };
        assert!(progress.ended || reached == accepted, "loss is never silent: {progress:?} of {accepted}");
        let from = Some((&*progress.epoch, reached));
        returning.push((reached, subscriber(&world, &mut random, from)));
    }
    world.clients.borrow_mut().iter_mut().for_each(Client::hurry);
    world.run_until_quiet();
    for (from, client) in returning {
        let progress = check(&world.clients.borrow()[client], &mut log, conflates);
        assert!(
            progress.ended || progress.reached == Some(accepted),
            "{progress:?} from {from} of {accepted}"
        );
        assert!(progress.recovered || from < accepted, "nothing was missed, and nothing is said to be");
    }
    for (offset, data) in &log {
        assert_eq!(data["number"].as_u64(), Some(offset - 1), "one publisher's messages stay in order");
    }
    world.drain();
}

/// Whatever the moment at which its connection moves.
#[test]
fn a_subscriber_gets_everything_or_is_told_to_recover_while_it_moves() {
    for_each_seed("a_subscriber_gets_everything_or_is_told_to_recover_while_it_moves", |seed| {
        streams_in(seed, |world| move_some(world, seed));
    });
}

#[test]
fn a_subscriber_gets_everything_or_is_told_to_recover() {
    for_each_seed("a_subscriber_gets_everything_or_is_told_to_recover", streams);
}

/// The messages that a client has heard, as text, and the code of its Close frame.
fn heard(world: &World<Service>, client: usize) -> (Vec<String>, Option<u16>) {
    let clients = world.clients.borrow();
    let mut messages = Vec::new();
    let mut code = None;
    for item in &clients[client].heard {
        match item {
            Item::Message(_, text) => messages.push(String::from_utf8_lossy(text).into_owned()),
            Item::Close(close) => code = Some(*close),
            _ => {}
        }
    }
    (messages, code)
}

fn pings(seed: u64) {
    let mut random = Random::new(seed);
    let times = ConnectionConfig { ping_interval: 4 * SECOND, pong_timeout: 2 * SECOND, ..config() };
    let times = ConnectionConfig { handshake_timeout: 3 * SECOND, ..times };
    let world = World::new(seed, random.between(1, 2), times, 4 << 20, false, |_| {
        service(config().max_message, QUEUE_BYTES_DEFAULT)
    });
    let [answering, silent, stale] = [0; 3].map(|_| world.add(PATH));
    for client in [answering, silent] {
        say(&world, &mut random, client, &json!({"id": 1, "connect": {}}));
    }
    world.clients.borrow_mut().iter_mut().for_each(Client::hurry);
    let is_connected = |client: &Client| !client.heard.is_empty();
    world.run(move |clients| is_connected(&clients[answering]) && is_connected(&clients[silent]));
    let connect: Value = serde_json::from_str(&heard(&world, answering).0[0]).expect("JSON");
    assert_eq!((&connect["connect"]["ping"], &connect["connect"]["pong"]), (&json!(4), &json!(true)));
    world.pass(3 * SECOND + 900 * MILLISECOND);
    assert_eq!(heard(&world, stale), (vec![], Some(3502)), "it has not connected in time");
    for round in 1..4 {
        let pinged = move |clients: &[Client]| {
            clients[answering].heard.iter().filter(|item| is_ping(item)).count() == round
        };
        world.pass(200 * MILLISECOND);
        assert!(pinged(&world.clients.borrow()), "a ping in each interval");
        say(&world, &mut random, answering, &json!({}));
        // It is there, as a browser that answers the pings of WebSocket by itself.
        let mut pong = Vec::new();
        client::frame(&mut random, true, 10, b"", &mut pong);
        world.clients.borrow_mut()[silent].script.extend(pong);
        world.pass(3 * SECOND + 800 * MILLISECOND);
    }
    assert_eq!(heard(&world, silent).1, Some(3012), "it has answered no ping");
    assert_eq!(heard(&world, answering).1, None);
    world.drain();
}

fn is_ping(item: &Item) -> bool {
    matches!(item, Item::Message(MessageKind::Text, text) if text == b"{}")
}

#[test]
fn who_answers_pings_stays() {
    for_each_seed("who_answers_pings_stays", pings);
}
