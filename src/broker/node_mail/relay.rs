//! Messages for other clients of NATS, on their way from the shards to the thread that publishes them.
//!
//! A shard gathers those of a tick. Waiting messages are bounded for all shards together: beyond that, messages are
//! dropped and counted, as they are for a subscriber of core NATS that is too slow. Receivers of the others detect the
//! loss by offsets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use echoring_proto::Plain as _;
use echoring_topics::{Content, Position, Publication, Relay};
use tokio::sync::mpsc;

use crate::limits::CLUSTER_RELAY_BYTES_MAX;

/// The position, the format and the content, and the lengths of topic, key and payload.
const HEAD_BYTES: usize = 8 + 8 + 2 + 3 * 4;

/// A message for other clients of NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayedMessage<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its position.
    pub position: Position,
    /// The published form: never [`Relay::Off`].
    pub format: Relay,
    /// The type of the payload.
    pub content: Content,
    /// The key, or an empty string.
    pub key: &'a str,
    /// The payload.
    pub payload: &'a [u8],
}

echoring_proto::plain!(for RelayedMessage<'a> { topic, position, format, content, key, payload });

/// The messages of one shard's tick.
#[derive(Debug)]
pub struct RelayBatch {
    bytes: Vec<u8>,
    load: Arc<RelayLoad>,
}

/// The waiting and the dropped messages.
#[derive(Debug, Default)]
pub struct RelayLoad {
    waiting_bytes: AtomicU64,
    dropped: AtomicU64,
}

impl RelayLoad {
    /// How many messages were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// To the thread that publishes for other clients of NATS.
#[derive(Clone, Debug)]
pub struct RelaySender {
    batches: mpsc::UnboundedSender<RelayBatch>,
    load: Arc<RelayLoad>,
}

impl RelaySender {
    /// Sends over this channel, and counts in `load`.
    pub fn new(batches: mpsc::UnboundedSender<RelayBatch>, load: Arc<RelayLoad>) -> RelaySender {
        RelaySender { batches, load }
    }
}

/// The messages of a shard's tick so far.
#[derive(Debug)]
pub struct RelayOutbox {
    sender: RelaySender,
    bytes: Vec<u8>,
}

impl RelayOutbox {
    pub(crate) fn new(sender: RelaySender) -> RelayOutbox {
        RelayOutbox { sender, bytes: Vec::new() }
    }

    /// Adds a message, or drops it if too much waits.
    pub(crate) fn push(
        &mut self,
        topic: &str,
        position: Position,
        format: Relay,
        publication: Publication<'_>,
    ) {
        let Publication { content, key, payload, .. } = publication;
        let bytes = HEAD_BYTES + topic.len() + key.len() + payload.len();
        let load = &self.sender.load;
        let waiting = load.waiting_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if waiting > 0 && waiting + bytes as u64 > CLUSTER_RELAY_BYTES_MAX {
            load.waiting_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
            load.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        RelayedMessage { topic, position, format, content, key, payload }.put(&mut self.bytes);
    }

    /// Sends the messages of this tick.
    pub(crate) fn flush(&mut self) {
        if !self.bytes.is_empty() {
            let bytes = std::mem::take(&mut self.bytes);
            // Fails only if the thread has ended: then the batch is given back.
            let _ = self.sender.batches.send(RelayBatch { bytes, load: Arc::clone(&self.sender.load) });
        }
    }
}

impl RelayBatch {
    /// The messages, in order.
    pub fn messages(&self) -> impl Iterator<Item = RelayedMessage<'_>> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || RelayedMessage::take(&mut rest))
    }
}

impl Drop for RelayBatch {
    fn drop(&mut self) {
        self.load.waiting_bytes.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSITION: Position = Position { epoch: 7, offset: 9 };

    #[test]
    fn messages_of_a_tick_arrive_together_and_beyond_the_bound_they_are_dropped_and_counted() {
        let (batches, mut sent) = mpsc::unbounded_channel();
        let load = Arc::<RelayLoad>::default();
        let mut outbox = RelayOutbox::new(RelaySender::new(batches, Arc::clone(&load)));
        outbox.flush();
        assert!(sent.try_recv().is_err(), "an empty batch is not sent");
        let of = |content, key, payload| Publication::new(content, key, payload);
        outbox.push("a", POSITION, Relay::Raw, of(Content::Text, "kü", b"one"));
        outbox.push("b.c", POSITION, Relay::Json, of(Content::Binary, "", b""));
        outbox.flush();
        let batch = sent.try_recv().expect("a batch");
        let messages: Vec<_> = batch.messages().collect();
        let first = RelayedMessage {
            topic: "a",
            position: POSITION,
            format: Relay::Raw,
            content: Content::Text,
            key: "kü",
            payload: b"one",
        };
        let second = RelayedMessage {
            topic: "b.c",
            format: Relay::Json,
            content: Content::Binary,
            key: "",
            payload: b"",
            ..first
        };
        assert_eq!(messages, [first, second]);
        drop(messages);
        drop(batch);
        assert_eq!(load.waiting_bytes.load(Ordering::Relaxed), 0);
        // A message above the bound is taken alone.
        let long = vec![0; CLUSTER_RELAY_BYTES_MAX as usize];
        outbox.push("a", POSITION, Relay::Raw, of(Content::Binary, "", &long));
        outbox.push("a", POSITION, Relay::Raw, of(Content::Binary, "", b"x"));
        outbox.flush();
        assert_eq!((sent.try_recv().expect("a batch").messages().count(), load.dropped()), (1, 1));
        outbox.push("a", POSITION, Relay::Raw, of(Content::Binary, "", b"x"));
        assert_eq!(load.dropped(), 1, "there is room again");
        drop(sent);
        outbox.flush();
        assert_eq!(load.waiting_bytes.load(Ordering::Relaxed), 0, "nobody takes it");
    }
}
