//! New subscribers: they are admitted however much is published to other topics, and the replayed messages join the
//! live ones without a gap and without a repetition.

use std::rc::Rc;

use echoring_runtime::driver::sim::Random;
use echoring_server::Service;
use echoring_topics::{HistoryBounds, Pattern, Rules, SlowConsumerPolicy, TopicSettings};

use super::for_each_seed;
use super::sessions::{Heard, Orders, Place, Session, notices, number, text, witnessed};
use super::topics::TopicWorld;
use super::world::World;

const LAG_BYTES: usize = 256 * 1024;

/// Shards whose mailboxes hold two of the longest messages.
pub fn world(seed: u64, shards: usize, rules: Rules) -> Rc<World<Service>> {
    TopicWorld::new(rules).start(seed, shards)
}

/// Full mailboxes delay new subscribers no more than publishers: nobody is refused as busy.
fn firehose(seed: u64) {
    let mut random = Random::new(seed);
    let world = world(seed, random.between(2, 3), Rules::new(Vec::new(), TopicSettings::default()));
    let mut publishers: Vec<Session> = (0..random.between(1, 4)).map(|_| Session::open(&world)).collect();
    world.run(|clients| clients.iter().all(|client| client.decoder.opened));
    for _ in 0..random.between(20, 60) {
        for publisher in &mut publishers {
            publisher.publish(&world, &mut random, "firehose", "", 6_000);
        }
    }
    let newcomers = random.between(4, 20);
    let raws: Vec<usize> =
        (0..newcomers).map(|newcomer| world.add(&format!("/broadcast/raw{newcomer}"))).collect();
    let mut sessions: Vec<Session> = (0..random.between(1, 3)).map(|_| Session::open(&world)).collect();
    for newcomer in 0..newcomers {
        let session = random.below(sessions.len());
        sessions[session].subscribe(&world, &mut random, &format!("session{newcomer}"), None);
    }
    for client in world.clients.borrow_mut().iter_mut() {
        client.hurry();
    }
    world.run_until_quiet();
    let clients = world.clients.borrow();
    for raw in raws {
        assert!(clients[raw].decoder.opened, "a raw subscriber is let in");
    }
    let answers = sessions.iter().flat_map(|session| notices(&clients[session.client]).0);
    let kinds: Vec<String> = answers.map(|answer| text(&answer, "type").to_owned()).collect();
    assert_eq!(kinds, vec!["subscribed"; newcomers], "every subscription is let in");
    let published: usize = publishers.iter().map(|publisher| publisher.published.len()).sum();
    drop(clients);
    assert_eq!(world.known().publications.accepted, published as u64);
    world.drain();
}

#[test]
fn a_firehose_on_one_topic_refuses_no_subscriber_of_others() {
    for_each_seed("a_firehose_on_one_topic_refuses_no_subscriber_of_others", firehose);
}

const SNAPSHOT: u32 = 7;
/// Maximum published before everyone has caught up.
const BURST_BYTES: usize = 100 * 1024;

fn rules(random: &mut Random) -> Rules {
    let of = |slow, messages, snapshot| TopicSettings {
        slow,
        snapshot,
        lag_bytes: LAG_BYTES,
        history: HistoryBounds { messages, ..HistoryBounds::default() },
        ..TopicSettings::default()
    };
    let kept = [0, 3, 1_000][random.below(3)];
    let rules = vec![
        (Pattern::new("states"), of(SlowConsumerPolicy::Conflate, kept, 0)),
        (Pattern::new("last"), of(SlowConsumerPolicy::Disconnect, 20, SNAPSHOT)),
    ];
    Rules::new(rules, TopicSettings::default())
}

/// What a session received in the end: its subscriptions are complete.
fn read(world: &World<Service>, session: &Session, orders: &Orders, keys: usize) -> Heard {
    let clients = world.clients.borrow();
    let heard = Heard::read(session, &clients[session.client], orders);
    assert_eq!(heard.code, None, "nobody is slow");
    assert!(heard.unanswered(session).is_empty());
    for (topic, view) in &heard.live {
        let entries = &orders[topic].entries;
        assert_eq!(view.next, entries.len() as u64 + 1, "{topic} to its end");
        assert_eq!(view.skipped, 0, "nobody is slow");
        if topic != "states" {
            continue;
        }
        assert_eq!(view.gaps, 0, "states have no gaps");
        for key in (0..keys).map(|key| format!("key{key}")) {
            let latest = entries.iter().rposition(|entry| entry.key == key).map(|at| at as u64 + 1);
            let expected = latest.filter(|latest| *latest > view.after);
            assert_eq!(view.latest.get(&key).copied(), expected, "the latest of {key}");
        }
    }
    heard
}

/// Subscribers join, leave, and return while others publish.
fn snapshots(seed: u64) {
    let mut random = Random::new(seed);
    let rules = rules(&mut random);
    let world = world(seed, random.between(1, 3), rules);
    let keys = random.between(1, 60);
    let mut sessions: Vec<Session> = (0..random.between(3, 7)).map(|_| Session::open(&world)).collect();
    for topic in ["states", "last"] {
        sessions[0].subscribe(&world, &mut random, topic, None);
    }
    for client in world.clients.borrow_mut().iter_mut() {
        client.hurry();
    }
    world.run_until_quiet();
    let mut burst_bytes = 0;
    for _ in 0..random.between(20, 200) {
        let session = random.between(1, sessions.len() - 1);
        let topic = ["states", "last"][random.below(2)];
        match random.below(10) {
            0..7 => {
                let key = format!("key{}", random.below(keys));
                let pad_bytes_max = [40, 40, 2_000][random.below(3)];
                burst_bytes += sessions[session].publish(&world, &mut random, topic, &key, pad_bytes_max);
            }
            7 => sessions[session].unsubscribe(&world, &mut random, topic),
            8 => sessions[session].subscribe(&world, &mut random, topic, None),
            _ => {
                let orders = witnessed(&world.clients.borrow()[sessions[0].client]);
                let order = &orders[topic];
                let offset = random.below(order.entries.len() + 1) as u64;
                let from = Place { epoch: order.epoch.clone(), offset };
                sessions[session].subscribe(&world, &mut random, topic, Some(from));
            }
        }
        if burst_bytes > BURST_BYTES {
            world.run_until_quiet();
            burst_bytes = 0;
        } else if random.chance(300) {
            let heard: usize = world.clients.borrow().iter().map(|client| client.heard.len()).sum();
            let more = random.below(10);
            world.run_or_quiet(move |clients| {
                clients.iter().map(|client| client.heard.len()).sum::<usize>() > heard + more
            });
        }
    }
    world.run_until_quiet();
    let orders = witnessed(&world.clients.borrow()[sessions[0].client]);
    for session in &sessions[1..] {
        read(&world, session, &orders, keys);
    }
    // One that comes when all was said gets just what is kept.
    let mut latecomer = Session::open(&world);
    for topic in ["states", "last"] {
        latecomer.subscribe(&world, &mut random, topic, None);
    }
    world.clients.borrow_mut()[latecomer.client].hurry();
    world.run_until_quiet();
    let heard = read(&world, &latecomer, &orders, keys);
    let count = |topic: &str| orders[topic].entries.len() as u64;
    let states: std::collections::BTreeSet<&str> =
        orders["states"].entries.iter().map(|entry| entry.key.as_str()).collect();
    let last = count("last").min(SNAPSHOT.into());
    assert_eq!(heard.snapshots, states.len() as u64 + last);
    assert_eq!(heard.messages, heard.snapshots, "all of it is marked");
    assert_eq!((heard.live["states"].after, heard.live["last"].after), (0, count("last") - last));
    let (notices, _) = notices(&world.clients.borrow()[latecomer.client]);
    for notice in notices.iter().filter(|notice| text(notice, "type") == "subscribed") {
        let topic = text(notice, "topic");
        match count(topic) {
            0 => assert!(notice.get("snapshot").is_none()),
            head => assert_eq!(number(notice, "snapshot"), head, "the position that it reaches"),
        }
    }
    world.drain();
}

#[test]
fn a_snapshot_and_what_follows_it_join() {
    for_each_seed("a_snapshot_and_what_follows_it_join", snapshots);
}
