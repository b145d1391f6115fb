//! Whether all subscribers of a topic saw the messages of its several publishers in one order.
//!
//! The first subscriber that a message reaches gives it its *place* ([`Board::place`](super::board::Board::place)):
//! places rise in the order in which that subscriber and those before it received. Wherever two subscribers disagree
//! about two messages, one of them then meets the lower place behind the higher one, which is a [`Walk`] turning back.
//! Places are found by what a message says it is, never by counting, so a subscriber that misses messages stays in
//! step with the others.
//!
//! One thing is left that a loss can do: if the message is lost on the way to whoever runs ahead, it gets its place
//! late, and all others turn back right behind it. So the places among which a subscriber missed something are
//! doubtful, for all; turning back to one of them is explained by the loss, which is counted as
//! one. That is judged when the run is over, since the loss may show later than what it causes. What several subscribers
//! miss that do not miss the same, one right behind the other, may still pass for an exchange.
//!
//! Never: an allocation where nothing is wrong.

use std::collections::BTreeMap;

use super::board::Board;
use super::track::Stream;

/// Turns that one thread remembers until they can be judged. What is beyond is counted without a judgement.
const TURNS_MAX: usize = 64 * 1024;
/// Doubtful stretches of one topic that are told apart; those beyond run together.
const DOUBTS_MAX: usize = 256;

/// One subscriber's way along the places of its topic.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    /// Place of the message before; 0 is before all.
    last: u64,
    /// Something unknown came in between.
    doubtful: bool,
}

impl Walk {
    /// A message came to this subscriber, of this publisher and with this sequence, where `due` was expected of that
    /// publisher or an earlier one; `stream` has it already. Late and repeated messages are not to be shown here.
    #[inline]
    pub fn arrived(
        &mut self,
        board: &Board,
        (publisher, sequence): (u32, u64),
        (stream, due): (&mut Stream, u64),
        findings: &mut Findings,
    ) {
        let Some(place) = board.place(publisher, sequence) else { return };
        if place < self.last || sequence > due || self.doubtful {
            let missed_behind = (sequence > due).then_some(stream.place);
            self.judge(board.topic(publisher), place, missed_behind, findings);
        }
        self.last = place;
        stream.place = place;
    }

    /// Something came that does not say what it is: where the next message belongs is doubtful.
    pub fn stumbled(&mut self) {
        self.doubtful = true;
    }

    #[cold]
    fn judge(&mut self, topic: u32, place: u64, missed_behind: Option<u64>, findings: &mut Findings) {
        if place < self.last {
            findings.turned_back(topic, place);
        }
        if let Some(certain) = missed_behind {
            findings.doubt(topic, certain, place);
        }
        if std::mem::take(&mut self.doubtful) {
            findings.doubt(topic, place - 1, place);
        }
    }
}

/// What the subscribers of one thread met, or those of a whole run once merged.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Topic and lower place of each turn.
    turns: Vec<(u32, u64)>,
    /// By topic.
    doubts: BTreeMap<u32, Vec<Doubt>>,
    unjudged: u64,
}

/// Places among which a subscriber missed something.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// The last that is certain.
    after: u64,
    /// The last that is not.
    up_to: u64,
}

impl Findings {
    /// A subscriber of `topic` received the message at `place` behind one with a higher place.
    fn turned_back(&mut self, topic: u32, place: u64) {
        if self.turns.len() < TURNS_MAX {
            self.turns.push((topic, place));
        } else {
            self.unjudged += 1;
        }
    }

    /// A subscriber of `topic` did not get the last messages of this publisher.
    #[cold]
    pub fn missed_the_last(&mut self, topic: u32, stream: &Stream) {
        self.doubt(topic, stream.place, u64::MAX);
    }

    /// A subscriber of `topic` missed something behind the place `after`, and had missed it when it received what is
    /// at `up_to`.
    fn doubt(&mut self, topic: u32, after: u64, up_to: u64) {
        let doubts = self.doubts.entry(topic).or_default();
        if doubts.len() < DOUBTS_MAX {
            doubts.push(Doubt { after, up_to });
        } else if let Some(last) = doubts.last_mut() {
            *last = Doubt { after: last.after.min(after), up_to: last.up_to.max(up_to) };
        }
    }

    /// Adds what another thread found.
    pub fn merge(&mut self, other: &Findings) {
        for &(topic, place) in &other.turns {
            self.turned_back(topic, place);
        }
        for (&topic, doubts) in &other.doubts {
            for doubt in doubts {
                self.doubt(topic, doubt.after, doubt.up_to);
            }
        }
        self.unjudged += other.unjudged;
    }

    /// Messages that were received behind one that others received later, and no loss explains it.
    pub fn reordered(&self) -> u64 {
        let explained = |&&(topic, place): &&(u32, u64)| {
            let doubts = self.doubts.get(&topic);
            doubts
                .is_some_and(|doubts| doubts.iter().any(|doubt| doubt.after < place && place <= doubt.up_to))
        };
        self.unjudged + self.turns.iter().filter(|turn| !explained(turn)).count() as u64
    }
}

#[cfg(test)]
mod tests;
