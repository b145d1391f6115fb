//! What became of messages, counted so that the sums hold at every moment between two turns.

/// What became of messages that were to be published: `published = accepted + refused`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Publications {
    /// Messages that were judged.
    pub published: u64,
    /// Of them, those that got an offset.
    pub accepted: u64,
    /// Those that did not.
    pub refused: u64,
}

/// What became of messages for subscribers: `offered = sent + dropped + queued`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// Messages times the subscribers that they were for.
    pub offered: u64,
    /// Those that the kernel has copied.
    pub sent: u64,
    /// Those that wait in a log, or are being sent.
    pub queued: u64,
    /// Those whose subscriber was disconnected, or left, before they were sent.
    pub dropped_disconnect: u64,
    /// The oldest that a slow subscriber missed.
    pub dropped_oldest: u64,
    /// Those that a later one of the same key replaced.
    pub dropped_conflated: u64,
    /// Those that there was no memory for.
    pub dropped_memory: u64,
}

/// Messages that shards passed to one another. What was passed on and has not come in is in a mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Publications passed to their topics' homes.
    pub publications_out: u64,
    /// Publications that came in for topics whose home is here.
    pub publications_in: u64,
    /// Messages passed to other shards for their subscribers.
    pub messages_out: u64,
    /// Messages that came in for subscribers here.
    pub messages_in: u64,
}

impl Passed {
    /// Adds another part.
    pub fn add(&mut self, other: &Passed) {
        let Passed { publications_out, publications_in, messages_out, messages_in } = other;
        self.publications_out += publications_out;
        self.publications_in += publications_in;
        self.messages_out += messages_out;
        self.messages_in += messages_in;
    }
}

impl Publications {
    /// Adds another part.
    pub fn add(&mut self, other: &Publications) {
        let Publications { published, accepted, refused } = other;
        self.published += published;
        self.accepted += accepted;
        self.refused += refused;
    }

    /// Whether every message is accounted for.
    pub fn add_up(&self) -> bool {
        self.published == self.accepted + self.refused
    }
}

impl Deliveries {
    /// Adds another part.
    pub fn add(&mut self, other: &Deliveries) {
        let Deliveries {
            offered,
            sent,
            queued,
            dropped_disconnect,
            dropped_oldest,
            dropped_conflated,
            dropped_memory,
        } = other;
        for (sum, part) in [
            (&mut self.offered, offered),
            (&mut self.sent, sent),
            (&mut self.queued, queued),
            (&mut self.dropped_disconnect, dropped_disconnect),
            (&mut self.dropped_oldest, dropped_oldest),
            (&mut self.dropped_conflated, dropped_conflated),
            (&mut self.dropped_memory, dropped_memory),
        ] {
            *sum += part;
        }
    }

    /// Messages that were dropped, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.dropped_disconnect + self.dropped_oldest + self.dropped_conflated + self.dropped_memory
    }

    /// Whether every message is accounted for.
    pub fn add_up(&self) -> bool {
        self.offered == self.sent + self.dropped() + self.queued
    }
}

/// What the home of a topic knows of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicHome {
    /// The topic's epoch.
    pub epoch: u64,
    /// Offset of its latest message.
    pub offset: u64,
    /// What became of messages for it.
    pub publications: Publications,
    /// Bytes of the payloads of those that were accepted.
    pub payload_bytes: u64,
    /// Messages a second, over the last ten or so.
    pub rate: f64,
    /// Messages kept for those who come back.
    pub history_messages: u64,
    /// Bytes that they take.
    pub history_bytes: u64,
}

/// What one shard knows of a topic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicReport {
    /// The topic's name.
    pub name: String,
    /// When its home is here.
    pub home: Option<TopicHome>,
    /// Subscribers here.
    pub subscribers: u64,
    /// What became of messages for them.
    pub deliveries: Deliveries,
    /// Bytes of the logs that they read from.
    pub log_bytes: u64,
}
