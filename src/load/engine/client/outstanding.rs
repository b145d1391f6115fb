//! The ages of outstanding messages, for live results: of messages that are due and wait to be sent, and of those that were
//! sent and are awaited. Messages that are still outstanding at the end are recorded with their age then.
//!
//! A thread looks at no more than about [`CONNECTIONS_LOOKED_AT_MAX`] connections and [`LOOKED_AT_MAX`] messages. Beyond that,
//! it samples: a connection, another one each second, represents its neighbours, and a message those that were due next
//! to it.

use super::Client;
use super::connection::{Connection, Flow, State};
use super::player::{Player, times};
use super::slots::{AttemptStage, ConnectionSlots};
use super::topic::{Broadcast, Part};
use crate::engine::shared::Shared;
use crate::measure::fan_out::FanOutTracker;
use crate::measure::live::Ages;
use echoring_proto::limits::{Nanos, SECOND};

/// Messages that a thread looks at once per second: about a millisecond.
const LOOKED_AT_MAX: u64 = 65_536;
/// Connections, or streams at subscribers: each costs cache misses.
const CONNECTIONS_LOOKED_AT_MAX: usize = 8_192;

impl Client {
    /// Takes the ages of the outstanding messages of this thread for the next snapshot, while it sends or drains.
    pub(super) fn take_ages(&mut self, now: Nanos) {
        let Client { snapshots, tally, connections, shared, slots, protocols, .. } = self;
        let ages = snapshots.ages(tally, now);
        // Only messages of the measured time have ages.
        if now < tally.window.from {
            return;
        }
        waiting_attempts(slots, ages);
        let streams = match connections.first().map(|connection| &connection.flow) {
            // The messages that a server means to push are unknown.
            None | Some(Flow::Push(_)) => return,
            // Topics differ by one publisher at most.
            Some(Flow::Broadcast(broadcast)) => broadcast.streams.len().max(1),
            Some(Flow::Echo(_) | Flow::Attempt(_) | Flow::Replay(_)) => 1,
        };
        let every = sampled_every(connections.len(), streams);
        ages.weight = every as u64;
        let first = (now / SECOND) as usize % every;
        let most = (LOOKED_AT_MAX / connections.len().div_ceil(every) as u64).max(1);
        let mut behind = Vec::new();
        let sampled = connections.iter().skip(first).step_by(every);
        for connection in sampled.filter(|connection| connection.has_user(shared)) {
            match &connection.flow {
                Flow::Echo(awaited) => {
                    // If some replies could not be matched, it is unknown which messages are missing.
                    if !awaited.has_unmatched() {
                        awaited.outstanding(most, |times, messages| ages.add(times.intended, messages));
                        waiting(connection, awaited.next(), (most, 1), ages);
                    }
                }
                Flow::Attempt(attempt) => match attempt.stage {
                    AttemptStage::Awaiting(times) => ages.add(times.intended, 1),
                    // The handshake of a session is no message.
                    AttemptStage::HandshakeTimes(times) if attempt.visit.is_none() => {
                        ages.add(times.intended, 1);
                    }
                    _ => {}
                },
                Flow::Broadcast(broadcast) => match &broadcast.part {
                    Part::Publishes(publishing) => {
                        waiting(connection, publishing.next, (most, u64::from(broadcast.audience)), ages);
                    }
                    Part::Subscribes if broadcast.is_sent_messages(!protocols.is_empty()) => {
                        awaited_deliveries(shared, connection, broadcast, ages, &mut behind);
                    }
                    Part::Subscribes | Part::Slow { .. } => {}
                },
                Flow::Replay(player) => replayed(shared, connection.number, player, ages),
                Flow::Push(_) => {}
            }
        }
        if let Some(fan_out) = &shared.fan_out {
            deliveries_behind(fan_out, behind, ages);
        }
    }
}

/// One connection in this many is looked at, in a thread with `connections` connections of `streams` streams each.
fn sampled_every(connections: usize, streams: usize) -> usize {
    connections.saturating_mul(streams).div_ceil(CONNECTIONS_LOOKED_AT_MAX).min(connections).max(1)
}

impl Connection {
    /// Whether its due messages have a sender.
    pub(super) fn has_user(&self, shared: &Shared) -> bool {
        let has_none = !self.life.was_open && !shared.load.churn.ramp.is_zero();
        let is_slot = matches!(self.flow, Flow::Attempt(_));
        is_slot || !(matches!(self.state, State::New | State::Preparing) || has_none)
    }
}

/// Messages of a connection that are due from `next` on and were not sent, each with so many `copies`. They are taken to have
/// become due evenly since the first of them.
fn waiting(connection: &Connection, next: u64, (most, copies): (u64, u64), ages: &mut Ages) {
    let count = connection.due.saturating_sub(next);
    if count == 0 {
        return;
    }
    let first = connection.mark.at;
    let passed = u128::from(ages.now.saturating_sub(first));
    let step = count.div_ceil(most);
    for at in (0..count).step_by(step as usize) {
        let since_first = passed * u128::from(at) / u128::from(count);
        ages.add(first + since_first as Nanos, step.min(count - at) * copies);
    }
}

/// Connections that are due and wait for a slot.
fn waiting_attempts(slots: &ConnectionSlots, ages: &mut Ages) {
    let count = slots.waiting.len();
    let step = count.div_ceil(LOOKED_AT_MAX as usize).max(1);
    for at in (0..count).step_by(step) {
        ages.add(slots.waiting[at], step.min(count - at) as u64);
    }
}

/// Messages of a recording that are due and were not sent, and answers that have not arrived.
fn replayed(shared: &Shared, number: u32, player: &Player, ages: &mut Ages) {
    let Some(replay) = &shared.load.replay else { return };
    for (_, action) in player.unsent(replay, number) {
        ages.add(player.at(replay, number, action.at), action.is_timed.into());
    }
    let dialogue = replay.dialogue(number);
    for at in player.missing(replay, number, ages.now) {
        if let Some(times) = times(replay, number, player, &dialogue.answers[at]) {
            ages.add(times.intended, 1);
        }
    }
}

/// Deliveries to a subscriber that others overtook; and in `behind`, by publisher, the first of those that it lacks.
fn awaited_deliveries(
    shared: &Shared,
    connection: &Connection,
    broadcast: &Broadcast,
    ages: &mut Ages,
    behind: &mut Vec<(u32, u64)>,
) {
    let Some(fan_out) = &shared.fan_out else { return };
    let is_open = matches!(connection.state, State::Open | State::Retiring);
    for (publisher, at) in broadcast.others(connection.number, shared.load.topics) {
        let stream = &broadcast.streams[at];
        stream.missed().for_each(|(times, copies)| ages.add(times.intended, copies));
        if is_open && stream.expected() < fan_out.published(publisher) {
            behind.push((publisher, stream.expected()));
        }
    }
}

/// Deliveries of the latest messages of publishers to subscribers that have none from a sequence on. Each message is looked at
/// once for all subscribers.
fn deliveries_behind(fan_out: &FanOutTracker, mut behind: Vec<(u32, u64)>, ages: &mut Ages) {
    behind.sort_unstable();
    for of_publisher in behind.chunk_by(|one, other| one.0 == other.0) {
        let (publisher, mut end) = of_publisher[0];
        let mut waiting = 0;
        fan_out.behind(publisher, end, |times, messages| {
            end += messages;
            let before = waiting;
            let mut deliveries = before as u64 * messages;
            while let Some((_, first)) = of_publisher.get(waiting).filter(|(_, first)| *first < end) {
                deliveries += end - first;
                waiting += 1;
            }
            ages.add(times.intended, deliveries);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_are_looked_at_up_to_the_bound() {
        let every = [0, 1, 8_192, 8_193, 100_000].map(|connections| sampled_every(connections, 1));
        assert_eq!(every, [1, 1, 1, 2, 13]);
        assert_eq!([1, 4, 5].map(|streams| sampled_every(2_048, streams)), [1, 1, 2]);
        assert_eq!(sampled_every(3, 100_000), 3, "one each second");
    }
}
