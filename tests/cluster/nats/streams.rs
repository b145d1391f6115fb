//! The streams of durable topics, in which others write too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use echoring_cluster::nats::{StreamSettings, Streams};
use echoring_cluster::{
    NodeId, Position, StoredBatch, StreamAnswer, StreamHead, StreamRequest, WriteId, append_entry,
};

use super::node::options;
use super::raw_client::{PATIENCE, RawClient};
use super::server::{NatsServer, folder};

const TOPIC: &str = "t";
const SUBJECT: &str = "test.durable.00000000000000ab.t";
/// The stream of these topics.
const STREAM: &str = "test-durable-00000000000000ab";
const EPOCH: u64 = 5;
const SETTINGS: StreamSettings = StreamSettings {
    id: 0xab,
    messages: 100_000,
    bytes: 1 << 26,
    age: Duration::from_secs(3_600),
    replicas: 1,
};

/// Runs a test with a server that has JetStream.
fn with_jetstream(test: impl AsyncFnOnce(Streams, RawClient)) {
    let store = format!("jetstream {{ store_dir: \"{}\" }}", folder().display());
    let Some(server) = NatsServer::start(&store) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let streams = Streams::open(&options(server.url()), "a").await.expect("options that are right");
        let client = RawClient::connect(server.address).expect("a connection");
        test(streams, client).await;
    });
}

/// The answer to a request that the stream does answer, once JetStream is there.
async fn ask(streams: &Streams, request: StreamRequest) -> StreamAnswer {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = streams.handle(TOPIC, &SETTINGS, &request).await;
        if answer != StreamAnswer::Failed {
            return answer;
        }
        assert!(Instant::now() < until, "{request:?} fails again and again");
    }
}

/// Stores the publication with this offset behind the last message. Returns the sequence number.
async fn store(streams: &Streams, behind: u64, offset: u64) -> u64 {
    store_long(streams, behind, offset, 0).await
}

/// The same with a publication of at least so many bytes.
async fn store_long(streams: &Streams, behind: u64, offset: u64, bytes: usize) -> u64 {
    let mut entries = Vec::new();
    append_entry(&mut entries, format!("publication {offset} {}", "x".repeat(bytes)).as_bytes());
    let first = Position { epoch: EPOCH, offset };
    let write = WriteId { node: NodeId(3), number: offset };
    match streams
        .handle(TOPIC, &SETTINGS, &StreamRequest::Append(behind, StoredBatch { write, first, entries }))
        .await
    {
        StreamAnswer::Stored(sequence) => sequence,
        answer => panic!("{answer:?}"),
    }
}

/// What a node loads that has reached `after`, if any.
async fn load(streams: &Streams, after: Option<u64>) -> (StreamHead, Vec<u64>) {
    let after = after.map(|offset| Position { epoch: EPOCH, offset });
    match ask(streams, StreamRequest::Load(after)).await {
        StreamAnswer::Loaded(head, batches) => {
            (head, batches.iter().map(|batch| batch.first.offset).collect())
        }
        answer => panic!("{answer:?}"),
    }
}

fn reached(sequence: u64, offset: u64) -> StreamHead {
    StreamHead { sequence, position: Some(Position { epoch: EPOCH, offset }) }
}

#[test]
fn what_others_write_to_a_stream_is_skipped_and_ends_nothing() {
    with_jetstream(async |streams, mut client| {
        assert_eq!(load(&streams, None).await, (StreamHead::default(), Vec::new()));
        let mut sequence = 0;
        for offset in 1..=3 {
            sequence = store(&streams, sequence, offset).await;
        }
        // Behind the last batch.
        for payload in [&b"{\"topic\":\"t\"}"[..], b"", b"\x02", &[b'x'; 40]] {
            client.publish(SUBJECT, "", payload).expect("sent");
        }
        client.flush().expect("taken");
        assert_eq!(load(&streams, None).await, (reached(7, 3), vec![1, 2, 3]));
        assert_eq!(load(&streams, Some(2)).await, (reached(7, 3), vec![3]));
        assert_eq!(load(&streams, Some(3)).await, (reached(7, 3), Vec::new()));
        assert_eq!(streams.foreign_messages(), 4, "each is counted once");
        // Between batches.
        let mut sequence = 7;
        for offset in 4..=6 {
            sequence = store(&streams, sequence, offset).await;
        }
        for after in 0..=6 {
            let behind = (after + 1..=6).collect();
            assert_eq!(load(&streams, Some(after)).await, (reached(10, 6), behind));
            let page = streams.page(TOPIC, &SETTINGS, Position { epoch: EPOCH, offset: after }).await;
            let StreamAnswer::Loaded(_, batches) = page else { panic!("{page:?}") };
            assert_eq!(batches.len() as u64, 6 - after);
        }
        assert_eq!(streams.foreign_messages(), 4);
    });
}

#[test]
fn many_messages_of_others_hide_nothing_and_a_topic_can_begin_behind_them() {
    with_jetstream(async |streams, mut client| {
        // The stream exists from now on.
        assert_eq!(load(&streams, None).await, (StreamHead::default(), Vec::new()));
        for _ in 0..700 {
            client.publish(SUBJECT, "", b"no batch").expect("sent");
        }
        client.flush().expect("taken");
        assert_eq!(load(&streams, None).await, (StreamHead { sequence: 700, position: None }, Vec::new()));
        assert_eq!(store(&streams, 700, 1).await, 701);
        for _ in 0..700 {
            client.publish(SUBJECT, "", b"no batch").expect("sent");
        }
        client.flush().expect("taken");
        assert_eq!(load(&streams, Some(0)).await, (reached(1_401, 1), vec![1]));
        assert_eq!(store(&streams, 1_401, 2).await, 1_402);
        assert_eq!(load(&streams, Some(0)).await, (reached(1_402, 2), vec![1, 2]));
    });
}

#[test]
fn nothing_is_stored_behind_a_message_of_a_newer_node() {
    with_jetstream(async |streams, mut client| {
        assert_eq!(load(&streams, None).await, (StreamHead::default(), Vec::new()));
        assert_eq!(store(&streams, 0, 1).await, 1);
        client.publish(SUBJECT, "", &[2; 60]).expect("sent");
        client.flush().expect("taken");
        let answer = streams.handle(TOPIC, &SETTINGS, &StreamRequest::Load(None)).await;
        assert_eq!(answer, StreamAnswer::Failed);
    });
}

/// The offsets of a page of history behind this one.
async fn page(streams: &Streams, after: u64) -> Vec<u64> {
    match streams.page(TOPIC, &SETTINGS, Position { epoch: EPOCH, offset: after }).await {
        StreamAnswer::Loaded(_, batches) => batches.iter().map(|batch| batch.first.offset).collect(),
        answer => panic!("{answer:?}"),
    }
}

/// The consumers of the stream, as JetStream lists them.
fn consumers(client: &mut RawClient) -> Vec<String> {
    client.publish(&format!("$JS.API.CONSUMER.NAMES.{STREAM}"), "names", b"").expect("sent");
    let answer = client.message().expect("an answer").content;
    let list = answer.split_once("\"consumers\":").map(|(_, list)| list.trim_start()).expect("a list");
    let names = list.trim_start_matches('[').split_once(']').map_or("", |(names, _)| names);
    names.split('"').filter(|name| name.chars().any(char::is_alphanumeric)).map(str::to_owned).collect()
}

#[test]
fn each_reader_of_many_pages_has_one_consumer() {
    const MESSAGES: u64 = 900;
    with_jetstream(async |streams, mut client| {
        assert_eq!(load(&streams, None).await, (StreamHead::default(), Vec::new()));
        let mut sequence = 0;
        for offset in 1..=MESSAGES {
            // Of different lengths.
            sequence = store_long(&streams, sequence, offset, (offset % 7) as usize * 300).await;
        }
        client.subscribe("names").expect("sent");
        // Each has read up to there.
        let mut readers = [0, 200, 400];
        let mut names = Vec::new();
        for round in 0..MESSAGES {
            let open = readers.iter_mut().enumerate().filter(|(_, reached)| **reached < MESSAGES);
            for (number, reached) in open {
                let offsets = page(&streams, *reached).await;
                assert!(offsets.iter().copied().eq(*reached + 1..=*reached + offsets.len() as u64));
                // What a client takes of it is another question.
                let taken = offsets.len().div_ceil(number + 1);
                assert!(taken > 0, "reader {number} at {reached}");
                *reached += taken as u64;
            }
            match round {
                0 => names = consumers(&mut client),
                1..5 => assert_eq!(consumers(&mut client), names, "the same in round {round}"),
                _ => {}
            }
        }
        assert_eq!((names.len(), readers), (readers.len(), [MESSAGES; 3]));
        assert!(consumers(&mut client).len() < readers.len(), "those that are done are deleted");
        // A position where no reader has stopped.
        assert_eq!(page(&streams, MESSAGES - 2).await, [MESSAGES - 1, MESSAGES]);
        assert!(page(&streams, MESSAGES).await.is_empty());
        store(&streams, sequence, MESSAGES + 1).await;
        assert_eq!(page(&streams, MESSAGES).await, [MESSAGES + 1]);
    });
}

#[test]
fn a_load_that_loses_its_consumer_goes_on_behind_what_it_has() {
    const MESSAGES: u64 = 700;
    with_jetstream(async |streams, mut client| {
        assert_eq!(load(&streams, None).await, (StreamHead::default(), Vec::new()));
        let mut sequence = 0;
        for offset in 1..=MESSAGES {
            sequence = store_long(&streams, sequence, offset, 8_000).await;
        }
        client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.CREATED.>").expect("sent");
        client.flush().expect("taken");
        let created = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&created);
        // Deletes every other consumer as soon as it is there. Ends with the server.
        thread::spawn(move || {
            while let Ok(message) = client.message() {
                if seen.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                    let name = message.subject.rsplit('.').next().expect("a name");
                    let subject = format!("$JS.API.CONSUMER.DELETE.{STREAM}.{name}");
                    client.publish(&subject, "deleted", b"").expect("sent");
                }
            }
        });
        let until = Instant::now() + PATIENCE;
        // Until one load has had two. Several at once take longer than the news of their consumers.
        for loads in (4..).step_by(4) {
            let request = StreamRequest::Load(Some(Position { epoch: EPOCH, offset: 0 }));
            let load = || streams.handle(TOPIC, &SETTINGS, &request);
            let answers = tokio::join!(load(), load(), load(), load());
            for answer in <[StreamAnswer; 4]>::from(answers) {
                let StreamAnswer::Loaded(head, batches) = answer else { panic!("load {loads} has failed") };
                assert_eq!(head, reached(sequence, MESSAGES));
                assert!(batches.iter().map(|batch| batch.first.offset).eq(1..=MESSAGES));
            }
            if created.load(Ordering::SeqCst) > loads {
                break;
            }
            assert!(Instant::now() < until, "no consumer was lost in time");
        }
    });
}
