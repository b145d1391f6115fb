//! Compares the answers of one replayed connection with the recorded ones.
//!
//! Answers without an id have an order. One that is not the next is searched among the missing ones before it, then among
//! those after it, within [`CANDIDATES`] each. One that is none of these takes the place of the next: it counts as
//! different, unless the recorded one arrives later; then it was one too many. Answers with an id are matched by it,
//! whatever their order.
//!
//! Never: an allocation per message.

use crate::plan::replay::comparison::Digest;
use crate::plan::replay::script::{Answer, Dialogue};
use crate::plan::{ComparisonRule, Script};
use echoring_proto::connection::MessageKind;

/// An answer is searched among this many before the next one, and this many after it. Number of answers with the same
/// id that are compared.
const CANDIDATES: usize = 1_024;

/// The answers of a connection that arrived.
#[derive(Debug, Default)]
pub(crate) struct AnswerChecker {
    /// The fate of each recorded answer.
    fates: Vec<Fate>,
    /// The next answer: one past the latest that arrived in order. None from here on has arrived, except for those with an id.
    expected: usize,
    /// All before it have arrived.
    complete: usize,
    /// The number of leading answers of each group of ids that have arrived.
    complete_of_group: Vec<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Missing,
    Arrived,
    /// Another one arrived instead.
    Replaced,
}

/// How an arrival relates to the recorded answers. Numbers are their indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// The next one, or a later one.
    InOrder(usize),
    /// A missing one, after later ones.
    Late(usize),
    /// None of them; it takes the place of this one.
    Different(usize),
    /// This one, although another one had its place before.
    Restored(usize),
    /// One that had arrived before, or one more than recorded.
    Unexpected,
    /// An answer after the last one of a connection that was open when the recording ended: it cannot be judged.
    Beyond,
}

impl AnswerChecker {
    /// Reserves the memory for a connection.
    pub(crate) fn open(&mut self, dialogue: &Dialogue) {
        self.fates = vec![Fate::Missing; dialogue.answers.len()];
        self.complete_of_group = vec![0; dialogue.groups.len()];
    }

    /// A message arrived.
    #[inline]
    pub(crate) fn arrived(
        &mut self,
        script: &Script,
        dialogue: &Dialogue,
        kind: MessageKind,
        payload: &[u8],
    ) -> Arrived {
        match self.compared(script, dialogue, kind, payload) {
            Arrived::Unexpected if dialogue.end.is_none() && self.has_all() => Arrived::Beyond,
            arrived => arrived,
        }
    }

    #[inline]
    fn compared(
        &mut self,
        script: &Script,
        dialogue: &Dialogue,
        kind: MessageKind,
        payload: &[u8],
    ) -> Arrived {
        let answers = &dialogue.answers;
        let by_bytes = |answer: &Answer| answer.kind == kind && script.answered(answer) == payload;
        let comparison = &script.comparison;
        match &comparison.rule {
            ComparisonRule::Count => match self.next_ordered(answers) {
                Some(next) => self.in_order(next),
                None => Arrived::Unexpected,
            },
            ComparisonRule::Exact => match self.next_ordered(answers).filter(|at| by_bytes(&answers[*at])) {
                Some(next) => self.in_order(next),
                None => {
                    let content = comparison.digest(kind, payload).content;
                    self.search(answers, |answer| answer.digest.content == content && by_bytes(answer))
                }
            },
            ComparisonRule::Json | ComparisonRule::JsonById(_) | ComparisonRule::None => {
                let Digest { content, id } = comparison.digest(kind, payload);
                if let Some(id) = id {
                    return self.arrived_with_id(dialogue, id, content);
                }
                let is = |answer: &Answer| answer.digest.content == content;
                match self.next_ordered(answers).filter(|at| is(&answers[*at])) {
                    Some(next) => self.in_order(next),
                    None => self.search(answers, is),
                }
            }
        }
    }

    /// Whether all answers have arrived that are among the first `owed` and satisfy `is_due`. Both only ever exclude the
    /// latest answers.
    pub(crate) fn is_complete(&mut self, dialogue: &Dialogue, is_due: impl Fn(&Answer) -> bool) -> bool {
        self.skip_complete();
        self.complete >= dialogue.owed as usize || !is_due(&dialogue.answers[self.complete])
    }

    /// The indices of the answers that have not arrived, among those that the server owes.
    pub(crate) fn missing(&self, dialogue: &Dialogue) -> impl Iterator<Item = usize> {
        let owed = self.fates.len().min(dialogue.owed as usize);
        (self.complete..owed).filter(|at| self.fates[*at] == Fate::Missing)
    }

    /// Whether all recorded answers have arrived, or others instead.
    fn has_all(&mut self) -> bool {
        self.skip_complete();
        self.complete == self.fates.len()
    }

    fn skip_complete(&mut self) {
        while self.fates.get(self.complete).is_some_and(|fate| *fate != Fate::Missing) {
            self.complete += 1;
        }
    }

    /// The next answer that has an order. Those before it that have none are passed over once and for all.
    #[inline]
    fn next_ordered(&mut self, answers: &[Answer]) -> Option<usize> {
        while self.expected < self.fates.len() && answers[self.expected].digest.id.is_some() {
            self.expected += 1;
        }
        (self.expected < self.fates.len()).then_some(self.expected)
    }

    fn in_order(&mut self, at: usize) -> Arrived {
        self.fates[at] = Fate::Arrived;
        self.expected = at + 1;
        Arrived::InOrder(at)
    }

    /// Searches for an answer that is not the next one.
    #[cold]
    fn search(&mut self, answers: &[Answer], is: impl Fn(&Answer) -> bool) -> Arrived {
        let is_of = |at: &usize| answers[*at].digest.id.is_none() && is(&answers[*at]);
        let before = self.expected.saturating_sub(CANDIDATES)..self.expected;
        let earlier = before.clone().rev().filter(|at| self.fates[*at] != Fate::Arrived).find(is_of);
        if let Some(at) = earlier {
            let fate = std::mem::replace(&mut self.fates[at], Fate::Arrived);
            return if fate == Fate::Replaced { Arrived::Restored(at) } else { Arrived::Late(at) };
        }
        if let Some(at) = (self.expected..self.fates.len()).take(CANDIDATES).find(is_of) {
            return self.in_order(at);
        }
        if before.rev().any(|at| is_of(&at)) {
            return Arrived::Unexpected;
        }
        match self.next_ordered(answers).or_else(|| self.first_overtaken(answers)) {
            Some(at) => {
                self.fates[at] = Fate::Replaced;
                self.expected = self.expected.max(at + 1);
                Arrived::Different(at)
            }
            None => Arrived::Unexpected,
        }
    }

    /// The first missing answer that has an order and that later ones have overtaken.
    fn first_overtaken(&mut self, answers: &[Answer]) -> Option<usize> {
        self.skip_complete();
        let is_missing = |at: &usize| self.fates[*at] == Fate::Missing && answers[*at].digest.id.is_none();
        (self.complete..self.expected).take(CANDIDATES).find(is_missing)
    }

    /// An answer with an id arrived.
    fn arrived_with_id(&mut self, dialogue: &Dialogue, id: u64, content: u64) -> Arrived {
        let Ok(number) = dialogue.groups.binary_search_by_key(&id, |group| group.id) else {
            return Arrived::Unexpected;
        };
        let group = dialogue.groups[number];
        let members = &dialogue.members[group.from as usize..group.until as usize];
        let complete = &mut self.complete_of_group[number];
        while members.get(*complete as usize).is_some_and(|at| self.fates[*at as usize] != Fate::Missing) {
            *complete += 1;
        }
        let waiting = members[*complete as usize..].iter().take(CANDIDATES).map(|at| *at as usize);
        let mut missing = waiting.filter(|at| self.fates[*at] == Fate::Missing);
        let first = missing.clone().next();
        if let Some(at) = missing.find(|at| dialogue.answers[*at].digest.content == content) {
            self.fates[at] = Fate::Arrived;
            return Arrived::InOrder(at);
        }
        match first {
            Some(at) => {
                self.fates[at] = Fate::Replaced;
                Arrived::Different(at)
            }
            None => Arrived::Unexpected,
        }
    }
}

#[cfg(test)]
mod tests;
