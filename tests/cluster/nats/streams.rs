//! The streams of durable topics, in which others write too.

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
    let mut entries = Vec::new();
    append_entry(&mut entries, format!("publication {offset}").as_bytes());
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
