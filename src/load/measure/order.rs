//! Whether all subscribers of a topic received the messages of its publishers in one order.
//!
//! The first subscriber that receives a message assigns its *position*, see
//! [`FanOutTracker::place`](super::fan_out::FanOutTracker::place). Positions increase in the order in which that
//! subscriber and those before it received. If two subscribers disagree about two messages, one of them receives the
//! lower position after the higher one: an *inversion* in its [`OrderChecker`]. Positions are found by message ids,
//! never by counting, so a subscriber that misses messages stays aligned with the others.
//!
//! A loss can still cause a false finding: a message lost on its way to the first subscriber gets its position late,
//! and all others see an inversion right after it. So the positions around a loss are doubtful for all subscribers, and
//! an inversion to one of them is explained by the loss, which is counted as such. This is decided at the end of the
//! run, because a loss may become visible after its effect. Different losses of several subscribers that directly
//! follow one another may still pass for a reordering.
//!
//! Never: an allocation unless something is wrong.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::measure::fan_out::FanOutTracker;
use crate::measure::merge::Merge;
use crate::measure::track::Stream;

/// Maximum number of inversions that one thread stores until the end. Those beyond are counted as reorderings.
const INVERSIONS_MAX: usize = 64 * 1024;
/// Maximum number of separate doubtful ranges of one topic; those beyond are merged.
const DOUBTFUL_RANGES_MAX: usize = 256;

/// Checks the order in which one subscriber receives the messages of its topic.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OrderChecker {
    /// Position of the previous message; 0 before the first.
    last: u64,
    /// An unidentified message arrived since.
    doubtful: bool,
}

impl OrderChecker {
    /// A message arrived at this subscriber: its publisher and sequence, while `due` or an earlier sequence was
    /// expected; `stream` has recorded it already. Not for late and repeated messages.
    #[inline]
    pub fn arrived(
        &mut self,
        fan_out: &FanOutTracker,
        (publisher, sequence): (u32, u64),
        (stream, due): (&mut Stream, u64),
        findings: &mut OrderFindings,
    ) {
        let Some(place) = fan_out.place(publisher, sequence) else { return };
        if place < self.last || sequence > due || self.doubtful {
            let missed_behind = (sequence > due).then_some(stream.place);
            self.evaluate(fan_out.topic(publisher), place, missed_behind, findings);
        }
        self.last = place;
        stream.place = place;
    }

    /// An unidentified message arrived: the position of the next one is doubtful.
    pub(crate) fn unidentified(&mut self) {
        self.doubtful = true;
    }

    #[cold]
    fn evaluate(&mut self, topic: u32, place: u64, missed_behind: Option<u64>, findings: &mut OrderFindings) {
        if place < self.last {
            findings.record_inversion(topic, place);
        }
        if let Some(certain) = missed_behind {
            findings.doubt(topic, certain, place);
        }
        if std::mem::take(&mut self.doubtful) {
            findings.doubt(topic, place - 1, place);
        }
    }
}

/// The findings of one thread's subscribers, or of a whole run once merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OrderFindings {
    /// Topic and lower position of each inversion.
    turns: Vec<(u32, u64)>,
    /// Doubtful positions by topic.
    doubtful: BTreeMap<u32, Vec<DoubtfulRange>>,
    unjudged: u64,
}

/// A range of positions around a loss.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct DoubtfulRange {
    /// The last position that is certain.
    after: u64,
    /// The last position that is doubtful.
    up_to: u64,
}

impl OrderFindings {
    /// A subscriber of `topic` received the message at `place` after one with a higher position.
    fn record_inversion(&mut self, topic: u32, place: u64) {
        if self.turns.len() < INVERSIONS_MAX {
            self.turns.push((topic, place));
        } else {
            self.unjudged += 1;
        }
    }

    /// A subscriber of `topic` did not get the last messages of a publisher.
    #[cold]
    pub(crate) fn missed_the_last(&mut self, topic: u32, stream: &Stream) {
        self.doubt(topic, stream.place, u64::MAX);
    }

    /// A subscriber of `topic` missed a message between the positions `after` and `up_to`.
    fn doubt(&mut self, topic: u32, after: u64, up_to: u64) {
        let doubtful = self.doubtful.entry(topic).or_default();
        if doubtful.len() < DOUBTFUL_RANGES_MAX {
            doubtful.push(DoubtfulRange { after, up_to });
        } else if let Some(last) = doubtful.last_mut() {
            *last = DoubtfulRange { after: last.after.min(after), up_to: last.up_to.max(up_to) };
        }
    }

    /// Counts the reorderings. Positions of one generator are unknown to others, so this comes before their findings are added.
    pub(crate) fn decide(&mut self) {
        *self = OrderFindings { unjudged: self.reordered(), ..OrderFindings::default() };
    }

    /// Messages that were received in another order than by other subscribers, unless a loss explains it.
    pub fn reordered(&self) -> u64 {
        let explained = |&&(topic, place): &&(u32, u64)| {
            let doubtful = self.doubtful.get(&topic);
            doubtful.is_some_and(|doubtful| {
                doubtful.iter().any(|doubt| doubt.after < place && place <= doubt.up_to)
            })
        };
        self.unjudged + self.turns.iter().filter(|turn| !explained(turn)).count() as u64
    }
}

impl Merge for OrderFindings {
    fn merge(&mut self, other: &OrderFindings) {
        for &(topic, place) in &other.turns {
            self.record_inversion(topic, place);
        }
        for (&topic, doubtful) in &other.doubtful {
            for doubt in doubtful {
                self.doubt(topic, doubt.after, doubt.up_to);
            }
        }
        self.unjudged += other.unjudged;
    }
}

#[cfg(test)]
mod tests;
