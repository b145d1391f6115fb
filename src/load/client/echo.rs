//! What arrives on an echo connection.

use super::Client;
use super::connection::Flow;
use crate::connection::Chunk;
use crate::limits::Nanos;
use crate::load::payload::Id;
use crate::load::shared::Shared;
use crate::load::tally::Tally;
use crate::load::track::{Arrival, Awaited};
use crate::shard::Link;

impl Client {
    /// A message came back: it is compared with the one that is due, timed, and makes room for the next.
    #[inline]
    pub(super) fn echo_arrived(&mut self, link: &mut Link<'_, Client>, position: usize, chunk: &Chunk<'_>) {
        let now = link.now();
        let Client { shared, connections, tally, .. } = self;
        let connection = &mut connections[position];
        let Flow::Echo(awaited) = &mut connection.flow else { return };
        let payloads = &shared.payloads;
        let due = Id { connection: connection.number, sequence: awaited.expected(), ..Id::default() };
        let as_due =
            !shared.load.verify || (chunk.kind == payloads.kind() && payloads.matches(&due, chunk.payload));
        if as_due && let Arrival::InOrder(times) = awaited.arrived(due.sequence) {
            tally.arrived(now, times.intended, times.sent, chunk.payload.len());
        } else {
            judge(shared, awaited, tally, due, chunk, now);
        }
        self.pump(link, position, now);
    }
}

/// Messages that do not name themselves are looked for in so many places in front of and behind the one that was due.
const NEIGHBOURS: u64 = 64;
/// A message of fewer bytes that does not name itself is too like others to be known by its bytes.
const RECOGNISED_BYTES_MIN: usize = 8;

/// The messages around the one that was due, the nearest first, of those that were sent.
fn neighbours(due: Id, next: u64) -> impl Iterator<Item = Id> {
    let places = (1..=NEIGHBOURS).flat_map(move |distance| {
        let behind = Some(due.sequence + distance).filter(|sequence| *sequence < next);
        [behind, due.sequence.checked_sub(distance)]
    });
    places.flatten().map(move |sequence| Id { sequence, ..due })
}

/// An arrival that is not the one that was due.
#[cold]
fn judge(shared: &Shared, awaited: &mut Awaited, tally: &mut Tally, due: Id, chunk: &Chunk<'_>, now: Nanos) {
    let payloads = &shared.payloads;
    let is =
        |id: &Id| shared.load.verify && chunk.kind == payloads.kind() && payloads.matches(id, chunk.payload);
    let claimed = match payloads.identify(chunk.payload) {
        Some(claimed) => Some(claimed).filter(|claimed| claimed.connection == due.connection && is(claimed)),
        None if payloads.bare() && chunk.payload.len() >= RECOGNISED_BYTES_MIN => {
            neighbours(due, awaited.next()).find(is)
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
        // Unchecked, and nothing was awaited: one message more than was sent.
        None if !shared.load.verify => integrity.duplicated += 1,
        None => {
            integrity.corrupted += 1;
            // It came in place of the one that was due, which is then not lost besides.
            awaited.arrived(due.sequence);
        }
    }
}
