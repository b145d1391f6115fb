//! Counts the connections of a thread: dialled, in their handshake, open, or failed.

use crate::engine::shared::Shared;
use crate::plan::{Arrivals, Cursor, Schedule};
use echoring_proto::limits::Nanos;

/// Maximum concurrent handshakes of a thread: well below any listen backlog.
const HANDSHAKES_MAX: usize = 128;

/// Opens the connections of a thread, a few at a time or at a rate.
#[derive(Debug, Default)]
pub(super) struct Connector {
    /// Index of the next connection to dial.
    pub(super) next: usize,
    /// The schedule of dials, if there is a rate.
    rate: Option<Cursor>,
    pub(super) handshakes: usize,
    pub(super) open: usize,
    /// Connections that are not open and will be dialled.
    pub(super) away: usize,
    /// Connections that failed or ended early.
    pub(super) failed: u64,
}

impl Connector {
    /// Returns and advances the next index.
    pub(super) fn take(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }

    /// Stops dialling: the first `connections` are all.
    pub(super) fn stop(&mut self, connections: usize) {
        self.next = connections;
    }

    /// Whether no connection is open, or may be later.
    pub(super) fn has_none(&self) -> bool {
        self.open == 0 && self.handshakes == 0 && self.away == 0
    }

    /// Whether all connections are open or have failed.
    pub(super) fn is_done(&self, connections: usize) -> bool {
        self.next == connections && self.handshakes == 0
    }

    /// Whether the next connection may be dialled at `now`; if a rate prevents it, when to ask again. `numbers` are
    /// those of all connections of the thread.
    pub(super) fn may_dial(
        &mut self,
        shared: &Shared,
        now: Nanos,
        numbers: impl FnOnce() -> Vec<u32>,
    ) -> Result<(), Option<Nanos>> {
        let load = &shared.load;
        let Some(rate) = load.connecting.rate else {
            return if self.handshakes < HANDSHAKES_MAX { Ok(()) } else { Err(None) };
        };
        if self.rate.is_none() {
            let from = shared.connecting_since(now);
            let schedule = Schedule::new(from, rate, load.connections, Arrivals::Even, load.seed);
            self.rate = Cursor::new(schedule, numbers());
        }
        let Some(rate) = &mut self.rate else { return Err(None) };
        // Each connection once, in the order of the indices.
        let (due, next) = (rate.due(now).is_some(), rate.next());
        if due { Ok(()) } else { Err(Some(next)) }
    }

    /// A handshake succeeded.
    pub(super) fn opened(&mut self) {
        self.handshakes -= 1;
        self.open += 1;
    }

    /// A handshake failed.
    pub(super) fn handshake_failed(&mut self) {
        self.handshakes -= 1;
        self.failed += 1;
    }
}
