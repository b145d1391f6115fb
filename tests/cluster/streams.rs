//! Streams as JetStream has them: one for all topics here, which stores a batch only behind the one that its writer names. Requests and
//! answers may be late, and may be lost: then the writer is told that nobody knows.

use std::collections::BTreeMap;

use echoring_cluster::{NodeId, StoredBatch, StreamAnswer, StreamHead, StreamRequest, entries};
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use echoring_proto::random::SplitMix64;
use echoring_topics::Position;

/// Who has asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asker {
    pub node: NodeId,
    pub topic: String,
    pub number: u64,
}

#[derive(Debug)]
enum Step {
    Arrives(StreamRequest),
    Answers(StreamAnswer),
}

#[derive(Debug, Default)]
pub struct Streams {
    batches: BTreeMap<String, Vec<(u64, StoredBatch)>>,
    sequence: u64,
    under_way: Vec<(Nanos, Asker, Step)>,
    /// Whether requests and answers are lost now and then, and the streams are not there for a time.
    pub fails: bool,
    /// Whether no node can use a stream.
    pub is_unusable: bool,
    unusable_until: Nanos,
}

impl Streams {
    pub fn ask(&mut self, asker: Asker, request: StreamRequest, now: Nanos, random: &mut SplitMix64) {
        let at = now + self.delay(random);
        self.under_way.push((at, asker, Step::Arrives(request)));
    }

    fn delay(&self, random: &mut SplitMix64) -> Nanos {
        let slow = if self.fails && random.below(20) == 0 { 400 } else { 1 };
        random.below(10 * MILLISECOND) * slow
    }

    /// The answers that have arrived. `reaches` says which nodes reach the stream.
    pub fn poll(
        &mut self,
        now: Nanos,
        random: &mut SplitMix64,
        reaches: impl Fn(NodeId) -> bool,
    ) -> Vec<(Asker, StreamAnswer)> {
        let mut arrived = Vec::new();
        while let Some(index) = self.under_way.iter().position(|(at, ..)| *at <= now) {
            let (_, asker, step) = self.under_way.swap_remove(index);
            let is_lost = !reaches(asker.node) || self.fails && random.below(20) == 0;
            let (at, next) = match step {
                Step::Arrives(_) if is_lost => (now + SECOND, Step::Answers(StreamAnswer::Failed)),
                Step::Arrives(_) if self.is_unusable(now, random) => {
                    (now + self.delay(random), Step::Answers(StreamAnswer::Unusable))
                }
                Step::Arrives(request) => {
                    let answer = self.handle(&asker.topic, request);
                    (now + self.delay(random), Step::Answers(answer))
                }
                Step::Answers(_) if is_lost => {
                    arrived.push((asker, StreamAnswer::Failed));
                    continue;
                }
                Step::Answers(answer) => {
                    arrived.push((asker, answer));
                    continue;
                }
            };
            self.under_way.push((at, asker, next));
        }
        arrived
    }

    fn is_unusable(&mut self, now: Nanos, random: &mut SplitMix64) -> bool {
        if self.fails && random.below(2_000) == 0 {
            self.unusable_until = now + random.below(8 * SECOND);
        }
        self.is_unusable || self.fails && now < self.unusable_until
    }

    fn handle(&mut self, topic: &str, request: StreamRequest) -> StreamAnswer {
        let batches = self.batches.entry(topic.into()).or_default();
        match request {
            StreamRequest::Load(after) => {
                let head = batches.last().map(|(sequence, batch)| {
                    let publications = entries(&batch.entries).count() as u64;
                    let offset = batch.first.offset + publications - 1;
                    let position = Some(Position { offset, ..batch.first });
                    StreamHead { sequence: *sequence, position }
                });
                let is_wanted = |batch: &&StoredBatch| {
                    after.is_none_or(|after| {
                        batch.first.epoch != after.epoch || batch.first.offset > after.offset
                    })
                };
                let wanted = batches.iter().map(|(_, batch)| batch).filter(is_wanted).cloned();
                StreamAnswer::Loaded(head.unwrap_or_default(), wanted.collect())
            }
            StreamRequest::Append(behind, batch) => {
                if batches.last().map_or(0, |(sequence, _)| *sequence) != behind {
                    return StreamAnswer::Failed;
                }
                assert!(!batch.entries.is_empty());
                self.sequence += 1;
                batches.push((self.sequence, batch));
                StreamAnswer::Stored(self.sequence)
            }
        }
    }

    /// The number of publications to a topic.
    pub fn publications(&self, topic: &str) -> u64 {
        let batches = self.batches.get(topic).into_iter().flatten();
        batches.map(|(_, batch)| entries(&batch.entries).count() as u64).sum()
    }
}
