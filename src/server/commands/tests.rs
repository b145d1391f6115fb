//! Publishing from threads of a program, with a shard whose ticks the test runs.

use super::*;
use crate::limits::MAILBOX_BYTES_MIN;
use crate::node::config::ServerConfig;
use crate::service::Service;
use echoring_broker::broadcast::Ids;
use echoring_broker::limits::JSON_DEPTH_MAX;
use echoring_proto::buffer::{Budget, Lease};
use echoring_proto::connection::Entropy;
use echoring_proto::limits::MILLISECOND;
use echoring_runtime::driver::epoll::Epoll;
use echoring_runtime::driver::{Driver, Options};
use echoring_runtime::shard::{self, Allowance, Application, DrainPlan, Lane, Mailboxes, Security, Shard};
use echoring_topics::limits::{KEY_BYTES_MAX, TOPIC_BYTES_MAX};
use echoring_topics::{Content, Creator, TopicId};
use std::thread;

const PATIENCE: Duration = Duration::from_secs(30);

/// The only shard of a server, whose ticks the test runs.
fn shard() -> (Shard<Service>, CommandSender) {
    let shard = shard_with(Mailboxes::connect(1, MAILBOX_BYTES_MIN).remove(0));
    let commands = CommandSender::new([shard.remote()].into(), Placement::new(1));
    (shard, commands)
}

fn shard_with(mailboxes: Mailboxes<ShardMail>) -> Shard<Service> {
    let options = Options { connections: 4, ..Options::default() };
    let config = ServerConfig::default();
    let shard_config = shard::ShardConfig {
        connection: config.of_connections(),
        connections: 4,
        security: Security::default(),
        seed: 1.into(),
    };
    let driver = Driver::Epoll(Epoll::new(&options).expect("epoll"));
    let topics = Lease::new(Budget::new(64), 64);
    let placement = Placement::new(1);
    let node = crate::node::identity::NodeIdentity {
        placement,
        first_number: 0,
        ids: Ids::new(None, &mut Entropy::new(1)),
        digest_seed: 1,
    };
    let broadcast = node.broadcast(&config, topics, Default::default(), 1);
    let service = Service::new(&config, broadcast, Arc::default());
    Shard::new(driver, service, shard_config, Allowance::standalone(4), mailboxes)
}

fn owned(content: Content, key: &str, payload: &[u8]) -> OwnedPublication {
    let mut publication = OwnedPublication::binary(payload).key(key);
    publication.content = content;
    publication
}

fn texts(count: usize) -> Vec<OwnedPublication> {
    vec![owned(Content::Text, "", b"m"); count]
}

fn waiting(commands: &CommandSender) -> (u64, u64) {
    commands.outside.charged()
}

/// Runs ticks of the shard until the publisher has its answer.
fn answer<T>(shard: &mut Shard<Service>, publisher: thread::JoinHandle<T>) -> T {
    let given_up = Instant::now() + PATIENCE;
    while !publisher.is_finished() {
        assert!(Instant::now() < given_up, "no answer");
        assert!(shard.tick(Some(0)).expect("epoll works"), "it goes on");
    }
    publisher.join().expect("no panic")
}

/// Publishes on another thread.
fn publish(
    commands: &CommandSender,
    messages: Vec<OwnedPublication>,
) -> thread::JoinHandle<Result<Published, PublishError>> {
    let commands = commands.clone();
    thread::spawn(move || commands.publish("t", messages, None))
}

/// Publishes on another thread as asynchronous code does.
fn publish_async(
    commands: &CommandSender,
    messages: Vec<OwnedPublication>,
) -> thread::JoinHandle<Result<Published, PublishError>> {
    let commands = commands.clone();
    thread::spawn(move || {
        let publishing = async { commands.publish_when_room("t", messages).await?.await };
        blocking::wait_for(publishing, None).expect("no deadline")
    })
}

/// Runs until something holds that another thread does.
fn await_that(holds: impl Fn() -> bool, otherwise: &str) {
    let given_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < given_up, "{otherwise}");
        thread::yield_now();
    }
}

fn offsets(published: Result<Published, PublishError>) -> Vec<u64> {
    let published = published.expect("no end").into_iter();
    published.map(|result| result.expect("accepted").offset).collect()
}

#[test]
fn requests_of_other_programs_are_refused_where_threads_wait() {
    let (mut shard, commands) = shard();
    let most = OUTSIDE_MESSAGES_MAX as usize;
    let publishers = [publish(&commands, texts(most - 1)), publish(&commands, texts(1))];
    await_that(|| waiting(&commands).0 == OUTSIDE_MESSAGES_MAX, "they do not come to wait");
    let at_once = || commands.publish_at_once("t", texts(1), PATIENCE.as_nanos() as Nanos);
    assert_eq!(at_once(), Err(PublishError::Busy));
    assert_eq!(commands.try_publish("t", texts(1), WhenFull::Wait).err(), Some(PublishError::Busy));
    assert_eq!(commands.publish("t", texts(1), Some(Instant::now())), Err(PublishError::Busy));
    let mut all: Vec<u64> =
        publishers.into_iter().flat_map(|publisher| offsets(answer(&mut shard, publisher))).collect();
    all.sort_unstable();
    assert_eq!(all, (1..=OUTSIDE_MESSAGES_MAX).collect::<Vec<_>>());
    assert_eq!((waiting(&commands), commands.outside.waiting()), ((0, 0), 0));
    let publisher = thread::spawn({
        let commands = commands.clone();
        move || commands.publish_at_once("t", texts(1), PATIENCE.as_nanos() as Nanos)
    });
    assert_eq!(offsets(answer(&mut shard, publisher)), [OUTSIDE_MESSAGES_MAX + 1]);
}

#[test]
fn threads_and_tasks_wait_for_room_in_one_order() {
    let (mut shard, commands) = shard();
    let all = commands.try_publish("t", texts(OUTSIDE_MESSAGES_MAX as usize), WhenFull::Wait).expect("room");
    let mut publishers = Vec::new();
    for waiting in 1..=6 {
        // Each fits only when the one before it has its results.
        let messages = texts(OUTSIDE_MESSAGES_MAX as usize - waiting);
        publishers.push(match waiting % 2 {
            0 => publish(&commands, messages),
            _ => publish_async(&commands, messages),
        });
        await_that(|| commands.outside.waiting() == waiting, "it does not come to wait");
    }
    assert_eq!(
        commands.try_publish("t", texts(1), WhenFull::Wait).err(),
        Some(PublishError::Busy),
        "at once"
    );
    let mut next = OUTSIDE_MESSAGES_MAX + 1;
    for (waiting, publisher) in (1..).zip(publishers) {
        let offsets = offsets(answer(&mut shard, publisher));
        let end = next + OUTSIDE_MESSAGES_MAX - waiting;
        assert!(offsets.into_iter().eq(next..end), "publisher {waiting}");
        next = end;
    }
    assert_eq!(all.wait().expect("no end").len() as u64, OUTSIDE_MESSAGES_MAX);
    assert_eq!((waiting(&commands), commands.outside.waiting()), ((0, 0), 0));
}

/// Threads and tasks of which each has come to wait for room. The request that takes it is the first one.
fn waiting_for_room(commands: &CommandSender) -> Vec<thread::JoinHandle<Result<Published, PublishError>>> {
    let mut publishers = vec![publish(commands, texts(OUTSIDE_MESSAGES_MAX as usize))];
    await_that(|| waiting(commands).0 == OUTSIDE_MESSAGES_MAX, "it does not take the room");
    publishers.extend((0..3).flat_map(|_| [publish(commands, texts(1)), publish_async(commands, texts(1))]));
    await_that(|| commands.outside.waiting() == 6, "they do not come to wait");
    publishers
}

#[test]
fn whoever_waits_learns_of_the_end() {
    let (shard, commands) = shard();
    let publishers = waiting_for_room(&commands);
    drop(shard);
    for publisher in publishers {
        assert_eq!(publisher.join().expect("no panic"), Err(PublishError::Ended));
    }
    assert_eq!((waiting(&commands), commands.outside.waiting()), ((0, 0), 0));
}

#[test]
fn whoever_waits_is_refused_by_a_drain() {
    let (mut shard, commands) = shard();
    let publishers = waiting_for_room(&commands);
    shard.remote().send(ControlMessage::Drain(DrainPlan::at_once(PATIENCE.as_nanos() as Nanos)));
    // Without connections the drain is over at once.
    let given_up = Instant::now() + PATIENCE;
    while shard.tick(Some(0)).expect("epoll works") {
        assert!(Instant::now() < given_up, "the drain does not end");
    }
    drop(shard);
    for (index, publisher) in publishers.into_iter().enumerate() {
        let refused = match publisher.join().expect("no panic") {
            Ok(published) => published.iter().all(|result| *result == Err(Refused::Draining)),
            // It had room only after the end.
            Err(error) => index > 0 && error == PublishError::Ended,
        };
        assert!(refused, "publisher {index}");
    }
    assert_eq!((waiting(&commands), commands.outside.waiting()), ((0, 0), 0));
}

/// Two shards, and a topic of the first to which the second subscribes.
fn two_shards() -> ([Shard<Service>; 2], CommandSender, String) {
    let mut mailboxes = Mailboxes::connect(2, MAILBOX_BYTES_MIN);
    let placement = Placement::new(1);
    let is_first = |name: &String| placement.owner(name, 2) == 0;
    let topic = (0..).map(|number: u32| number.to_string()).find(is_first).expect("half of all names");
    let mail = ShardMail::Subscribe { local: TopicId { index: 0, generation: 0 }, creator: Creator::NOBODY };
    mailboxes[1].post(0, Lane::Request, mail, &[topic.as_bytes()]).expect("room");
    let second = shard_with(mailboxes.remove(1));
    let mut first = shard_with(mailboxes.remove(0));
    first.tick(Some(0)).expect("epoll works");
    let commands = CommandSender::new([first.remote(), second.remote()].into(), placement);
    ([first, second], commands, topic)
}

#[test]
fn threads_wait_while_a_shard_with_subscribers_takes_nothing() {
    let ([mut first, mut second], commands, topic) = two_shards();
    // More than fits the mailbox between them.
    let batch = vec![OwnedPublication::binary(vec![0; MAILBOX_BYTES_MIN / 16 - 1]); 30];
    let publisher = thread::spawn({
        let (commands, topic) = (commands.clone(), topic.clone());
        move || commands.publish(&topic, batch, None)
    });
    await_that(|| waiting(&commands).0 == 30, "it does not publish");
    let tick = |shard: &mut Shard<Service>| {
        assert!(shard.tick(Some(0)).expect("epoll works"), "it goes on");
    };
    (0..100).for_each(|_| tick(&mut first));
    let accepted = first.application().report().publications.accepted;
    assert!((8..16).contains(&accepted), "{accepted} fit the mailbox");
    let wakes_at = Application::deadline(first.application());
    assert!(wakes_at.is_some_and(|at| at > 0), "it does not spin: {wakes_at:?}");
    // Behind it, others wait, and may give up.
    assert_eq!(commands.publish(&topic, texts(1), Some(Instant::now())), Err(PublishError::Busy));
    let pending = commands.try_publish(&topic, texts(1), WhenFull::Wait).expect("on its way");
    let given_up = Instant::now() + PATIENCE;
    while !publisher.is_finished() {
        assert!(Instant::now() < given_up, "no answer");
        tick(&mut second);
        tick(&mut first);
    }
    assert!(offsets(publisher.join().expect("no panic")).into_iter().eq(1..=30));
    let pending = thread::spawn(move || pending.wait());
    assert_eq!(offsets(answer(&mut first, pending)), [31]);
    assert_eq!(first.application().report().publications.refused, 0);
}

#[test]
fn requests_of_other_programs_do_not_wait_for_a_shard_with_subscribers() {
    let ([mut first, _second], commands, topic) = two_shards();
    let batch = vec![OwnedPublication::binary(vec![0; MAILBOX_BYTES_MIN / 16 - 1]); 30];
    let publisher =
        thread::spawn(move || commands.publish_at_once(&topic, batch, PATIENCE.as_nanos() as Nanos));
    let published = answer(&mut first, publisher).expect("in time");
    let accepted = published.iter().take_while(|result| result.is_ok()).count();
    assert!((8..16).contains(&accepted), "{accepted} fit the mailbox");
    assert!(published[accepted..].iter().all(|result| *result == Err(Refused::Busy)), "{published:?}");
}

#[test]
fn whoever_waits_for_another_shard_is_refused_by_a_drain() {
    let ([mut first, _second], commands, topic) = two_shards();
    let batch = vec![OwnedPublication::binary(vec![0; MAILBOX_BYTES_MIN / 16 - 1]); 30];
    let publisher = thread::spawn({
        let commands = commands.clone();
        move || commands.publish(&topic, batch, None)
    });
    await_that(|| waiting(&commands).0 == 30, "it does not publish");
    (0..100).for_each(|_| assert!(first.tick(Some(0)).expect("epoll works")));
    assert!(!publisher.is_finished());
    first.remote().send(ControlMessage::Drain(DrainPlan::at_once(PATIENCE.as_nanos() as Nanos)));
    let published = answer(&mut first, publisher).expect("no end");
    assert_eq!(published.last(), Some(&Err(Refused::Draining)));
}

#[test]
fn a_batch_goes_on_behind_a_message_that_no_retry_saves() {
    let (mut shard, commands) = shard();
    let too_large =
        owned(Content::Binary, "", &vec![0; echoring_proto::limits::MESSAGE_BYTES_DEFAULT as usize + 1]);
    let batch = [texts(2), vec![too_large], texts(2)].concat();
    let publisher = publish_async(&commands, batch);
    let published = answer(&mut shard, publisher).expect("no end");
    let offsets: Vec<_> = published.iter().map(|result| result.map(|position| position.offset)).collect();
    assert_eq!(offsets, [Ok(1), Ok(2), Err(Refused::TooLarge), Ok(3), Ok(4)]);
    let counted = shard.application().report().publications;
    assert_eq!((counted.published, counted.accepted, counted.refused), (5, 4, 1));
}

#[test]
fn what_its_publisher_gave_up_is_not_published_later() {
    let (mut shard, commands) = shard();
    let soon = Instant::now() + Duration::from_millis(1);
    assert_eq!(commands.publish("t", texts(3), Some(soon)), Err(PublishError::Busy));
    assert_eq!(commands.publish_at_once("t", texts(3), MILLISECOND), Err(PublishError::Busy));
    let publisher = publish(&commands, texts(1));
    assert_eq!(offsets(answer(&mut shard, publisher)), [1]);
    assert_eq!(waiting(&commands), (0, 0));
}

#[test]
fn names_keys_and_numbers_past_their_bounds_reach_no_shard() {
    let (shard, commands) = shard();
    let publish = |topic: &str, messages| commands.publish(topic, messages, None);
    assert_eq!(publish("", texts(1)), Err(PublishError::BadTopic));
    for name in ["\0", "a\nb", "\u{7f}", "\u{85}", &"t".repeat(TOPIC_BYTES_MAX + 1)] {
        assert_eq!(publish(name, texts(1)), Err(PublishError::BadTopic), "{name:?}");
    }
    let deep = "[".repeat(JSON_DEPTH_MAX + 1) + &"]".repeat(JSON_DEPTH_MAX + 1);
    let deep = owned(Content::Json, "", deep.as_bytes());
    assert_eq!(publish("t", [texts(1), vec![deep]].concat()), Err(PublishError::TooDeep(1)));
    let most = OUTSIDE_MESSAGES_MAX as usize;
    assert_eq!(publish("t", texts(most + 1)), Err(PublishError::TooMany));
    let mut messages = texts(2);
    messages[1].key = "k".repeat(KEY_BYTES_MAX + 1).into();
    assert_eq!(publish("t", messages), Err(PublishError::BadKey(1)));
    assert_eq!(publish("t", texts(0)), Ok(Vec::new()));
    drop(shard);
    assert_eq!(publish("t", texts(1)), Err(PublishError::Ended));
    assert!(commands.ask_all(ShardCommand::Topics).expect("no shard").is_empty());
}

#[test]
fn topics_are_told_about_by_the_shards_that_know_them() {
    let (mut shard, commands) = shard();
    let asked = thread::spawn(move || {
        let published = commands.publish("t", texts(2), None);
        let topic =
            |name: &str| commands.ask_all(|reply| ShardCommand::Topic(name.into(), reply)).expect("no shard");
        (published, commands.ask_all(ShardCommand::Topics).expect("no shard"), topic("t"), topic("u"))
    });
    let (published, topics, known, unknown) = answer(&mut shard, asked);
    let last = published.expect("in time")[1].expect("taken");
    let [(0, ref reports)] = topics[..] else { panic!("{topics:?}") };
    let [ref report] = reports[..] else { panic!("{reports:?}") };
    let home = report.owner.as_ref().expect("its home is here");
    assert_eq!((home.epoch, home.offset, home.publications.accepted), (last.epoch, last.offset, 2));
    assert_eq!(home.payload_bytes, 2);
    assert_eq!(known[0].1.as_ref().map(|report| &*report.name), Some("t"));
    assert_eq!(unknown, [(0, None)]);
}
