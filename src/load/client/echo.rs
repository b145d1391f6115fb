//! What arrives on an echo connection.

use super::Client;
use super::connection::Flow;
use crate::connection::Chunk;
use crate::limits::Nanos;
use crate::load::payload::{Id, Payloads};
use crate::load::tally::Tally;
use crate::load::track::{Arrival, Awaited};
use crate::shard::Link;

impl Client {
    /// A message came back: it is compared with the one that is due, or matched with the one that it answers, timed, and
    /// makes room for the next.
    #[inline]
    pub(super) fn echo_arrived(&mut self, link: &mut Link<'_, Client>, position: usize, chunk: &Chunk<'_>) {
        let now = link.now();
        let Client { shared, connections, tally, .. } = self;
        let connection = &mut connections[position];
        let Flow::Echo(awaited) = &mut connection.flow else { return };
        let payloads = &shared.payloads;
        let due = Id { connection: connection.number, sequence: awaited.expected(), ..Id::default() };
        let as_due =
            shared.load.verify && chunk.kind == payloads.kind() && payloads.matches(&due, chunk.payload);
        if as_due && let Arrival::InOrder(times) = awaited.arrived(due.sequence) {
            tally.arrived(now, times.intended, times.sent, chunk.payload.len());
        } else if shared.load.verify {
            judge(payloads, awaited, tally, due, chunk, now);
        } else {
            match_unchecked(payloads, awaited, tally, due.connection, chunk.payload, now);
        }
        self.pump(link, position, now);
    }
}

/// Messages that do not name themselves are looked for in so many places behind the one that was due, and among so many
/// before it that were answered.
const NEIGHBOURS: u64 = 64;
/// The same among unanswered ones before it.
const UNANSWERED_NEIGHBOURS: usize = 1_024;
/// A message of fewer bytes that does not name itself is too like others to be known by its bytes.
const RECOGNISED_BYTES_MIN: usize = 8;

/// Messages that may have come in place of the one that was due, the likeliest first, since short ones may be alike: those
/// right before and behind it, those before it that are unanswered, those behind it, and those before it that would then come
/// again; of each the nearest first.
fn neighbours(due: Id, awaited: &Awaited) -> impl Iterator<Item = Id> {
    let next = due.sequence + 1;
    let nearest = [due.sequence.checked_sub(1), Some(next).filter(|next| *next < awaited.next())];
    let before = awaited.unanswered_before(due.sequence, UNANSWERED_NEIGHBOURS);
    let behind = (next..awaited.next()).take(NEIGHBOURS as usize).skip(1);
    let again = (due.sequence.saturating_sub(NEIGHBOURS)..due.sequence).rev().skip(1);
    let sequences = nearest.into_iter().flatten().chain(before).chain(behind).chain(again);
    sequences.map(move |sequence| Id { sequence, ..due })
}

/// An arrival that is not the one that was due.
#[cold]
fn judge(
    payloads: &Payloads,
    awaited: &mut Awaited,
    tally: &mut Tally,
    due: Id,
    chunk: &Chunk<'_>,
    now: Nanos,
) {
    let is = |id: &Id| chunk.kind == payloads.kind() && payloads.matches(id, chunk.payload);
    let named = payloads.identify(chunk.payload).filter(|named| named.connection == due.connection);
    let claimed = match named {
        Some(named) => Some(named).filter(is),
        None if payloads.bare() && chunk.payload.len() >= RECOGNISED_BYTES_MIN => {
            neighbours(due, awaited).find(is)
        }
        None => None,
    };
    let integrity = &mut tally.integrity;
    match claimed.map(|claimed| awaited.arrived(claimed.sequence)) {
        Some(Arrival::InOrder(times)) => tally.arrived(now, times.intended, times.sent, chunk.payload.len()),
        Some(Arrival::Late(times)) => {
            integrity.reordered += 1;
            tally.arrived(now, times.intended, times.sent, chunk.payload.len());
        }
        Some(Arrival::Again) => integrity.duplicated += 1,
        Some(Arrival::Unknown) => integrity.corrupted += 1,
        None => {
            integrity.corrupted += 1;
            // It came in place of one that is then not lost besides, and is as old as that.
            if let Arrival::InOrder(times) | Arrival::Late(times) = answer_damaged(awaited, due, named) {
                tally.damaged(now, times);
            }
        }
    }
}

/// A damaged message answers the one that it names where that was overtaken, else the one that was due, else the oldest.
fn answer_damaged(awaited: &mut Awaited, due: Id, named: Option<Id>) -> Arrival {
    let overtaken = named.filter(|named| named.sequence < due.sequence);
    if let Some(named) = overtaken
        && let Arrival::Late(times) = awaited.arrived(named.sequence)
    {
        return Arrival::Late(times);
    }
    let oldest = awaited.unanswered_from(0).next().map(|(sequence, _)| sequence);
    match oldest.filter(|_| due.sequence >= awaited.next()) {
        Some(oldest) => awaited.arrived(oldest),
        None => awaited.arrived(due.sequence),
    }
}

/// An arrival that is not compared with anything. What says whose answer it is has a latency; of anything else nobody knows.
fn match_unchecked(
    payloads: &Payloads,
    awaited: &mut Awaited,
    tally: &mut Tally,
    connection: u32,
    payload: &[u8],
    now: Nanos,
) {
    let named = payloads.identify(payload);
    let named = named.filter(|named| named.connection == connection && named.sequence < awaited.next());
    match named.map(|named| awaited.arrived(named.sequence)) {
        Some(Arrival::InOrder(times)) => tally.arrived(now, times.intended, times.sent, payload.len()),
        Some(Arrival::Late(times)) => {
            tally.integrity.reordered += 1;
            tally.arrived(now, times.intended, times.sent, payload.len());
        }
        Some(Arrival::Again) => tally.integrity.duplicated += 1,
        None | Some(Arrival::Unknown) if awaited.arrived_unmatched() => {
            tally.unmatched += 1;
            tally.heard(now, payload.len());
        }
        // Nothing was awaited: one message more than was sent.
        None | Some(Arrival::Unknown) => tally.integrity.duplicated += 1,
    }
}
