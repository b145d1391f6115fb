//! Echo mode: replies on a connection.

use super::connection::Flow;
use super::replaced::settle_replaced;
use super::{Client, Link};
use crate::measure::track::{Arrival, Awaited, Replaced};
use crate::measure::{MessageName, Tally};
use crate::plan::Payloads;
use crate::plan::payload::Id;
use echoring_proto::connection::Chunk;
use echoring_proto::limits::Nanos;

impl Client {
    /// A message came back: it is matched with the sent message, timed, and makes room for the next.
    #[inline]
    pub(super) fn echo_arrived(&mut self, link: &mut Link<'_>, position: usize, chunk: &Chunk<'_>) {
        let now = link.now();
        let Client { shared, connections, tally, .. } = self;
        let connection = &mut connections[position];
        let Flow::Echo(awaited) = &mut connection.flow else { return };
        let payloads = &shared.payloads;
        let due = Id { connection: connection.number, sequence: awaited.expected(), ..Id::default() };
        let as_due =
            shared.load.verify && chunk.kind == payloads.kind() && payloads.matches(&due, chunk.payload);
        if as_due && let Arrival::InOrder(times) = awaited.arrived(due.sequence) {
            tally.arrived(now, name_of(due), times, chunk.payload.len());
        } else if shared.load.verify {
            evaluate(payloads, awaited, tally, due, chunk, now);
        } else {
            match_unchecked(payloads, awaited, tally, due.connection, chunk.payload, now);
        }
        self.send_allowed(link, position, now);
    }
}

/// A bare message is searched among this many after the expected one, and this many answered ones before it.
const CANDIDATES: u64 = 64;
/// The same among unanswered ones before it.
const UNANSWERED_CANDIDATES: usize = 1_024;
/// A bare message of fewer bytes is too similar to others to be recognised.
const RECOGNISED_BYTES_MIN: usize = 8;

/// Messages that may have arrived instead of the expected one, most likely first, because short ones may be equal: its
/// direct neighbours, unanswered ones before it, those after it, and answered ones before it, which would be
/// duplicates. Each group is sorted by distance.
pub(super) fn candidates(due: Id, awaited: &Awaited) -> impl Iterator<Item = Id> {
    let next = due.sequence + 1;
    let nearest = [due.sequence.checked_sub(1), Some(next).filter(|next| *next < awaited.next())];
    let before = awaited.unanswered_before(due.sequence, UNANSWERED_CANDIDATES);
    let behind = (next..awaited.next()).take(CANDIDATES as usize).skip(1);
    let again = (due.sequence.saturating_sub(CANDIDATES)..due.sequence).rev().skip(1);
    let sequences = nearest.into_iter().flatten().chain(before).chain(behind).chain(again);
    sequences.map(move |sequence| Id { sequence, ..due })
}

/// Matches a reply that is not the expected one.
#[cold]
fn evaluate(
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
        // One that was never sent has a damaged name.
        Some(named) => Some(named).filter(|named| named.sequence < awaited.next() && is(named)),
        None if payloads.bare && chunk.payload.len() >= RECOGNISED_BYTES_MIN => {
            candidates(due, awaited).find(is)
        }
        None => None,
    };
    let integrity = &mut tally.integrity;
    let Some(claimed) = claimed else {
        integrity.corrupted += 1;
        // It takes the place of a message, which then does not count as lost too, unless that one arrives.
        if let Some(over) = replace(awaited, due, named, now) {
            settle_replaced(tally, None, due.connection, over);
        }
        return;
    };
    match awaited.arrived(claimed.sequence) {
        Arrival::InOrder(times) => tally.arrived(now, name_of(claimed), times, chunk.payload.len()),
        Arrival::Late(times) => {
            integrity.reordered += 1;
            tally.arrived(now, name_of(claimed), times, chunk.payload.len());
        }
        Arrival::Again => integrity.duplicated += 1,
        Arrival::Unknown => integrity.corrupted += 1,
    }
}

/// The message in samples.
fn name_of(id: Id) -> MessageName {
    MessageName::of(id.connection, id.sequence)
}

/// A message that could not be identified takes the place of the one that it names if that is outstanding, else of the expected
/// one, else of the oldest. Returns another that is over now.
fn replace(awaited: &mut Awaited, due: Id, named: Option<Id>, now: Nanos) -> Option<Replaced> {
    if let Some(named) = named
        && let (true, over) = awaited.replace(named.sequence, now)
    {
        return over;
    }
    let oldest = awaited.unanswered_from(0).next().map(|(sequence, _)| sequence);
    let sequence = oldest.filter(|_| due.sequence >= awaited.next()).unwrap_or(due.sequence);
    awaited.replace(sequence, now).1
}

/// Matches a reply whose contents are not checked. It has a latency if it names its message.
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
    let unnumbered = MessageName::unnumbered(connection);
    let name = named.map_or(unnumbered, name_of);
    match named.map(|named| awaited.arrived(named.sequence)) {
        Some(Arrival::InOrder(times)) => tally.arrived(now, name, times, payload.len()),
        Some(Arrival::Late(times)) => {
            tally.integrity.reordered += 1;
            tally.arrived(now, name, times, payload.len());
        }
        Some(Arrival::Again) => tally.integrity.duplicated += 1,
        None | Some(Arrival::Unknown) if awaited.arrived_unmatched() => {
            tally.counts.unmatched += 1;
            tally.heard_untimed(now, unnumbered, payload.len());
        }
        // No reply was awaited: the server sent one message too many.
        None | Some(Arrival::Unknown) => tally.integrity.duplicated += 1,
    }
}
