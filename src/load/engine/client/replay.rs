//! Replay mode: each connection is opened, sends and is closed at the times of a recording, divided by the speed, whatever
//! the server does. Its answers are compared with the recorded ones.
//!
//! A connection has one entry on the agenda for its next message. A message that is due before its connection is open, or
//! while the connection has no room, waits; its response time counts from when it was due. A connection that is to be
//! closed first waits for the answers that the recording has before the close.
//!
//! Never: an allocation per message, or a message that is due after the end.

use super::agenda::Due;
use super::connection::{Flow, State};
use super::player::{Leaving, Player, times};
use super::{Client, Link, Phase};
use crate::measure::replay::Arrived;
use crate::measure::tally::replay::{Difference, Example, shown_message};
use crate::measure::track::REPLY_TIME;
use crate::measure::{MessageName, SampleOutcome, Tally};
use crate::plan::replay::script::{ActionKind, Answer, Dialogue};
use crate::plan::{ComparisonRule, RecordedEnd, Replay};
use echoring_proto::CloseCode;
use echoring_proto::connection::{Chunk, Closed};
use echoring_proto::limits::Nanos;
use echoring_runtime::shard::Context;

impl Client {
    /// The load begins at `start`: each connection gets its time.
    pub(super) fn begin_replay(&mut self, start: Nanos) {
        let shared = self.shared.clone();
        let Some(replay) = &shared.load.replay else { return };
        for position in 0..self.connections.len() {
            let connection = &mut self.connections[position];
            let Flow::Replay(player) = &mut connection.flow else { return };
            player.began = start;
            let number = connection.number;
            let opens_at = player.at(replay, number, replay.dialogue(number).opened_at);
            let first_at = player.next_at(replay, number);
            self.enter_life(position, opens_at, Due::Dial);
            if let Some(at) = first_at {
                self.enter(at, position, Due::Replay);
            }
        }
    }

    /// Carries out the due action of a connection.
    pub(super) fn replay_due(&mut self, cx: &mut Context<'_, Client>, position: usize) {
        let Phase::Running { stop_at, .. } = self.phase else { return };
        let now = cx.clock();
        let Client { shared, connections, tally, .. } = self;
        let Some(replay) = &shared.load.replay else { return };
        let connection = &mut connections[position];
        let number = connection.number;
        let Flow::Replay(player) = &mut connection.flow else { return };
        let dialogue = replay.dialogue(number);
        while let Some(action) = dialogue.actions.get(player.due as usize) {
            let at = player.at(replay, number, action.at);
            if at > now || at >= stop_at {
                break;
            }
            tally.late(now, at);
            player.due += 1;
        }
        let is_over = player.due as usize == dialogue.actions.len();
        if is_over
            && player.leaving == Leaving::Not
            && player.next_at(replay, number).is_some_and(|at| at <= now)
        {
            player.leaving = Leaving::Due(now + REPLY_TIME);
        }
        let next_at = player.next_at(replay, number).filter(|at| *at > now && *at < stop_at);
        if let Some(at) = next_at {
            self.enter(at, position, Due::Replay);
        }
        // A connection that waits for room continues once it gets some.
        if self.connections[position].held_since.is_none() {
            self.send_allowed_at(cx, position, now);
        }
    }

    /// Sends due messages, and closes the connection when that is due.
    pub(super) fn replay_sends(&mut self, link: &mut Link<'_>, position: usize) {
        let now = link.now();
        let Client { shared, connections, tally, .. } = self;
        let Some(replay) = &shared.load.replay else { return };
        let connection = &mut connections[position];
        let Flow::Replay(player) = &mut connection.flow else { return };
        if connection.state != State::Open {
            connection.held_since = None;
            return;
        }
        let dialogue = replay.dialogue(connection.number);
        while player.sent < player.due {
            let action = &dialogue.actions[player.sent as usize];
            let payload = replay.script.sent(action);
            let is_sent = match action.kind {
                ActionKind::Message(kind) => link.send(kind, payload),
                ActionKind::Ping => link.ping(payload),
            };
            if !is_sent {
                return self.hold(position, now);
            }
            tally.counts.sent += u64::from(action.kind != ActionKind::Ping);
            player.sent += 1;
            player.sent_at.push(now);
        }
        connection.held_since = None;
        self.replay_leaves(link, position);
    }

    /// Ends the connection as recorded, if that is due and nothing is awaited.
    fn replay_leaves(&mut self, link: &mut Link<'_>, position: usize) {
        let now = link.now();
        let Client { shared, connections, tally, .. } = self;
        let Some(replay) = &shared.load.replay else { return };
        let connection = &mut connections[position];
        let number = connection.number;
        let Flow::Replay(player) = &mut connection.flow else { return };
        let Leaving::Due(until) = player.leaving else { return };
        if now < until && !player.is_complete(replay, number, Nanos::MAX) {
            return;
        }
        player.leaving = Leaving::Done;
        match &replay.dialogue(number).end {
            Some((_, RecordedEnd::Close(code, reason))) => link.close(*code, reason),
            Some((_, RecordedEnd::Abort)) => link.abort(),
            Some((_, RecordedEnd::ByServer(_))) => {
                tally.replay.not_ended += 1;
                link.close(CloseCode::NORMAL, "");
            }
            None => {}
        }
    }

    /// The connection is open: its messages may be sent.
    pub(super) fn replay_opened(&mut self, position: usize) {
        let Client { shared, connections, .. } = self;
        let Some(replay) = &shared.load.replay else { return };
        let connection = &mut connections[position];
        let Flow::Replay(player) = &mut connection.flow else { return };
        let dialogue = replay.dialogue(connection.number);
        player.answers.open(dialogue);
        player.sent_at.reserve_exact(dialogue.actions.len());
    }

    /// A message arrived: it is compared with the recorded answers.
    #[inline]
    pub(super) fn replay_arrived(&mut self, link: &mut Link<'_>, position: usize, chunk: &Chunk<'_>) {
        let now = link.now();
        let Client { shared, connections, tally, .. } = self;
        let Some(replay) = &shared.load.replay else { return };
        let connection = &mut connections[position];
        let Flow::Replay(player) = &mut connection.flow else { return };
        if replay.script.comparison.rule == ComparisonRule::None {
            tally.replay.untimed += 1;
            return tally.heard(now, chunk.payload.len());
        }
        let number = connection.number;
        let dialogue = replay.dialogue(number);
        let payload = &*chunk.payload;
        let arrived = player.answers.arrived(&replay.script, dialogue, chunk.kind, payload);
        let mut judged = Judged { replay, number, player, tally, now };
        match arrived {
            Arrived::InOrder(at) => judged.equal(at, payload),
            Arrived::Late(at) => {
                judged.tally.integrity.reordered += 1;
                judged.example(Difference::OutOfOrder, Some(at), Some(payload));
                judged.equal(at, payload);
            }
            Arrived::Different(at) => judged.different(at, payload),
            Arrived::Restored(at) => judged.restored(at, payload),
            Arrived::Beyond => {
                judged.tally.replay.untimed += 1;
                judged.tally.heard(now, payload.len());
            }
            Arrived::Unexpected => {
                judged.tally.integrity.duplicated += 1;
                judged.example(Difference::Unexpected, None, Some(payload));
            }
        }
        if player.leaving != Leaving::Not {
            self.replay_leaves(link, position);
        }
    }

    /// Whether an end of a connection is the recorded one, or follows from it.
    pub(super) fn ends_as_recorded(&self, position: usize, closed: &Closed) -> bool {
        let connection = &self.connections[position];
        let (Some(replay), Flow::Replay(player)) = (&self.shared.load.replay, &connection.flow) else {
            return false;
        };
        player.leaving == Leaving::Done
            || matches!(
                &replay.dialogue(connection.number).end,
                Some((_, RecordedEnd::ByServer(code))) if *code == closed.code
            )
    }

    /// Whether a connection awaits nothing that the recording has before the end.
    pub(super) fn is_replayed(&mut self, position: usize) -> bool {
        let until = self.tally.window.until;
        let Client { shared, connections, .. } = self;
        let connection = &mut connections[position];
        let (Some(replay), Flow::Replay(player)) = (&shared.load.replay, &mut connection.flow) else {
            return true;
        };
        match connection.state {
            State::Connecting | State::Preparing => false,
            State::Open => {
                player.leaving == Leaving::Done || player.is_complete(replay, connection.number, until)
            }
            State::New | State::Retiring | State::Away | State::Gone => true,
        }
    }

    /// Counts messages that were due and not sent, and answers that did not arrive, with their age at `until`.
    pub(super) fn settle_replay(&mut self, position: usize, until: Nanos) {
        let Client { shared, connections, tally, .. } = self;
        let Some(replay) = &shared.load.replay else { return };
        let connection = &connections[position];
        let (number, is_open) = (connection.number, connection.state == State::Open);
        let Flow::Replay(player) = &connection.flow else { return };
        let dialogue = replay.dialogue(number);
        for (at, action) in player.unsent(replay, number) {
            let name = MessageName::of(number, at as u64);
            let due = player.at(replay, number, action.at);
            tally.record_unsent(until, name, due, action.is_timed.into(), !is_open);
        }
        for at in player.missing(replay, number, tally.window.until) {
            let answer = &dialogue.answers[at];
            tally.integrity.lost += 1;
            if let Some(times) = times(replay, number, player, answer) {
                tally.record_lost(until, name_of(number, answer), times, 1);
            }
            let example = || example(replay, number, Difference::Missing, Some(at), None);
            tally.replay.example(Difference::Missing, example);
        }
    }
}

/// The message from which an answer is timed, in samples.
fn name_of(connection: u32, answer: &Answer) -> MessageName {
    match answer.request {
        Some(request) => MessageName::of(connection, request.into()),
        None => MessageName::unnumbered(connection),
    }
}

/// A message that was compared.
struct Judged<'a> {
    replay: &'a Replay,
    number: u32,
    player: &'a Player,
    tally: &'a mut Tally,
    now: Nanos,
}

impl Judged<'_> {
    fn dialogue(&self) -> &Dialogue {
        self.replay.dialogue(self.number)
    }

    /// It is the recorded answer with this index.
    #[inline]
    fn equal(&mut self, at: usize, payload: &[u8]) {
        self.tally.replay.equal += 1;
        match times(self.replay, self.number, self.player, &self.dialogue().answers[at]) {
            Some(times) => {
                let name = name_of(self.number, &self.dialogue().answers[at]);
                self.tally.arrived(self.now, name, times, payload.len());
            }
            None => {
                self.tally.replay.untimed += 1;
                self.tally.heard(self.now, payload.len());
            }
        }
    }

    /// It came instead of the recorded answer with this index.
    #[cold]
    fn different(&mut self, at: usize, payload: &[u8]) {
        self.tally.integrity.corrupted += 1;
        self.example(Difference::Different, Some(at), Some(payload));
        let answer = &self.dialogue().answers[at];
        if let Some(times) = times(self.replay, self.number, self.player, answer) {
            let name = name_of(self.number, answer);
            self.tally.damaged(self.now, name, times, SampleOutcome::Corrupted);
        }
    }

    /// It is the recorded answer with this index, so the answer that took its place was unexpected. The age of that one
    /// stays recorded, and this one is not timed.
    #[cold]
    fn restored(&mut self, at: usize, payload: &[u8]) {
        self.tally.integrity.corrupted = self.tally.integrity.corrupted.saturating_sub(1);
        self.tally.integrity.duplicated += 1;
        self.tally.replay.restored(self.dialogue().number, self.replay.copy(self.number) + 1, at as u64 + 1);
        self.tally.replay.equal += 1;
        self.tally.replay.untimed += 1;
        self.tally.heard(self.now, payload.len());
    }

    #[cold]
    fn example(&mut self, kind: Difference, answer: Option<usize>, seen: Option<&[u8]>) {
        let (replay, number) = (self.replay, self.number);
        self.tally.replay.example(kind, || example(replay, number, kind, answer, seen));
    }
}

fn example(
    replay: &Replay,
    number: u32,
    kind: Difference,
    answer: Option<usize>,
    seen: Option<&[u8]>,
) -> Example {
    let dialogue = replay.dialogue(number);
    let recorded = |at: usize| shown_message(replay.script.answered(&dialogue.answers[at]));
    Example {
        kind,
        connection: dialogue.number,
        copy: replay.copy(number) + 1,
        answer: answer.map(|at| at as u64 + 1),
        recorded: answer.map(recorded),
        seen: seen.map(shown_message),
    }
}
