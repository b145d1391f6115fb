//! The replay of one connection: its due and sent messages, and the answers so far.

use crate::measure::Times;
use crate::measure::replay::AnswerChecker;
use crate::plan::replay::script::{Action, ActionKind, Answer};
use crate::plan::{ComparisonRule, RecordedEnd, Replay};
use echoring_proto::limits::{Nanos, SECOND};

/// Time after which a connection that the server ended in the recording is closed, if the server has not ended it by
/// then.
const END_GRACE: Nanos = SECOND;

/// The replay of one connection.
#[derive(Debug, Default)]
pub(super) struct Player {
    /// When the load began.
    pub(super) began: Nanos,
    /// Actions that were due so far.
    pub(super) due: u32,
    /// Actions that were sent.
    pub(super) sent: u32,
    /// When each of those was sent.
    pub(super) sent_at: Vec<Nanos>,
    pub(super) answers: AnswerChecker,
    pub(super) leaving: Leaving,
}

/// The end of a replayed connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It is not due.
    #[default]
    Not,
    /// It waits for answers, until a time.
    Due(Nanos),
    /// The connection was closed.
    Done,
}

impl Player {
    /// When an event that was recorded at `at` is due.
    #[inline]
    pub(super) fn at(&self, replay: &Replay, number: u32, at: Nanos) -> Nanos {
        self.began.saturating_add(replay.due(number, at))
    }

    /// Whether everything that was due was sent, and all answers arrived that the recording has before `until`.
    pub(super) fn is_complete(&mut self, replay: &Replay, number: u32, until: Nanos) -> bool {
        let Player { began, sent, answers, .. } = self;
        let is_due = |answer: &Answer| {
            answer.after <= *sent && began.saturating_add(replay.due(number, answer.at)) < until
        };
        self.due == *sent
            && (replay.script.comparison.rule == ComparisonRule::None
                || answers.is_complete(replay.dialogue(number), is_due))
    }

    /// Messages that were due and not sent, with their indices among the actions.
    pub(super) fn unsent<'a>(
        &self,
        replay: &'a Replay,
        number: u32,
    ) -> impl Iterator<Item = (usize, &'a Action)> + use<'a> {
        let unsent = self.sent as usize..self.due as usize;
        let actions = unsent.clone().zip(&replay.dialogue(number).actions[unsent]);
        actions.filter(|(_, action)| action.kind != ActionKind::Ping)
    }

    /// The indices of answers that have not arrived, and that the recording has before `until`.
    pub(super) fn missing<'a>(
        &'a self,
        replay: &'a Replay,
        number: u32,
        until: Nanos,
    ) -> impl Iterator<Item = usize> + use<'a> {
        let dialogue = replay.dialogue(number);
        let is_compared = replay.script.comparison.rule != ComparisonRule::None;
        let is_due = move |at: &usize| {
            let answer = &dialogue.answers[*at];
            answer.after <= self.sent && self.at(replay, number, answer.at) < until
        };
        self.answers.missing(dialogue).take_while(move |at| is_compared && is_due(at))
    }

    /// The next time at which something is due.
    pub(super) fn next_at(&self, replay: &Replay, number: u32) -> Option<Nanos> {
        let dialogue = replay.dialogue(number);
        match (dialogue.actions.get(self.due as usize), &dialogue.end, self.leaving) {
            (Some(action), ..) => Some(self.at(replay, number, action.at)),
            (None, Some((at, end)), Leaving::Not) => {
                let grace = if let RecordedEnd::ByServer(_) = end { END_GRACE } else { 0 };
                Some(self.at(replay, number, *at) + grace)
            }
            (None, _, Leaving::Due(until)) => Some(until),
            (None, None, Leaving::Not) | (None, _, Leaving::Done) => None,
        }
    }
}

/// When the request of an answer was due and sent; `None` if no request is known, or it was not sent yet.
pub(super) fn times(replay: &Replay, number: u32, player: &Player, answer: &Answer) -> Option<Times> {
    let request = answer.request?;
    let sent = *player.sent_at.get(request as usize)?;
    let intended = player.at(replay, number, replay.dialogue(number).actions[request as usize].at);
    Some(Times { intended, sent })
}
