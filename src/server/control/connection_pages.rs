//! Gathers what the shards know about connections, on a thread that may wait.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use echoring_centrifuge::ErrorCode;
use echoring_runtime::driver::Token;

use crate::commands::ShardCommand;
use crate::connections::{
    Candidates, ConnectionFilter, ConnectionId, ConnectionReport, ConnectionScan, OperatorClose, RankBy,
    ScanAction, ScanReport, decimal,
};
use crate::handle::Handle;
use crate::limits::{CONNECTION_GATHER_TIME, CONNECTION_RANK_TIME, CONNECTION_SCAN_TIME, SNAPSHOT_TIMEOUT};
use echoring_proto::limits::Nanos;

/// Where a page begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) shard: usize,
    pub(super) index: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.shard, self.index)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Place, ()> {
        let (shard, index) = text.split_once('-').ok_or(())?;
        Ok(Place { shard: decimal(shard).ok_or(())? as usize, index: decimal(index).ok_or(())? })
    }
}

/// Why connections could not be gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScanError {
    /// A shard did not answer.
    Silent(usize),
    /// A shard has not seen all its connections in time.
    TooLong(usize),
}

/// Connections, or what was done with them, up to a place.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) connections: Vec<ConnectionReport>,
    /// How many were closed, subscribed or unsubscribed.
    pub(super) changed: usize,
    /// Why a session was not subscribed.
    pub(super) failed: Option<ErrorCode>,
    /// Where to go on; `None` at the end.
    pub(super) next: Option<Place>,
}

impl Handle {
    /// Open connections from `from` on, `most` at most and perhaps fewer. Blocks for seconds.
    pub(super) fn list_connections(
        &self,
        filter: &ConnectionFilter,
        from: Place,
        most: usize,
    ) -> Result<Gathered, ScanError> {
        self.gather(filter, from, |listed| match most - listed {
            0 => None,
            room => Some(ScanAction::List(room)),
        })
    }

    /// Closes, subscribes or unsubscribes the connections from `from` on. Blocks for seconds, and may stop before the end.
    pub(super) fn change_connections(
        &self,
        filter: &ConnectionFilter,
        from: Place,
        change: &ScanAction,
    ) -> Result<Gathered, ScanError> {
        self.gather(filter, from, |_| Some(change.clone()))
    }

    /// Asks the shards one after another. `action` says what is done next, by the number of listed connections.
    fn gather(
        &self,
        filter: &ConnectionFilter,
        from: Place,
        action: impl Fn(usize) -> Option<ScanAction>,
    ) -> Result<Gathered, ScanError> {
        let begun = Instant::now();
        let mut gathered = Gathered { next: Some(from), ..Gathered::default() };
        while let Some(at) = gathered.next.filter(|at| at.shard < self.remotes.len()) {
            let Some(action) = action(gathered.connections.len()) else { return Ok(gathered) };
            if begun.elapsed() >= Duration::from_nanos(CONNECTION_GATHER_TIME) {
                return Ok(gathered);
            }
            let scan = Ask { filter, action, time: CONNECTION_SCAN_TIME };
            let mut report = self.ask(at.shard, scan, Candidates::From(at.index))?;
            gathered.connections.append(&mut report.connections);
            gathered.changed += report.changed;
            gathered.failed = gathered.failed.or(report.failed);
            let place = |index| Place { shard: at.shard, index };
            gathered.next = Some(report.next.map_or(Place { shard: at.shard + 1, index: 0 }, place));
        }
        gathered.next = None;
        Ok(gathered)
    }

    /// The `most` connections that are first in an order. Blocks for seconds.
    pub(super) fn largest(
        &self,
        filter: &ConnectionFilter,
        by: RankBy,
        most: usize,
    ) -> Result<Vec<ConnectionReport>, ScanError> {
        let mut ranked: Vec<(u64, ConnectionId)> = Vec::new();
        for shard in 0..self.remotes.len() {
            let scan = Ask { filter, action: ScanAction::Rank(most, by), time: CONNECTION_RANK_TIME };
            let report = self.ask(shard, scan, Candidates::From(0))?;
            if report.next.is_some() {
                return Err(ScanError::TooLong(shard));
            }
            ranked
                .extend(report.ranked.into_iter().map(|(rank, token)| (rank, ConnectionId { shard, token })));
            ranked.sort_unstable_by_key(|(rank, id)| (Reverse(*rank), id.shard, id.token));
            ranked.truncate(most);
        }
        let mut connections = Vec::new();
        for shard in 0..self.remotes.len() {
            let own = ranked.iter().filter(|(_, id)| id.shard == shard);
            let tokens: Vec<Token> = own.map(|(_, id)| id.token).collect();
            if !tokens.is_empty() {
                let all = &ConnectionFilter::default();
                let scan = Ask { filter: all, action: ScanAction::List(most), time: CONNECTION_SCAN_TIME };
                connections.append(&mut self.ask(shard, scan, Candidates::These(tokens))?.connections);
            }
        }
        connections.sort_by_key(|connection| Reverse(connection.rank(by)));
        Ok(connections)
    }

    /// Closes one connection. False if it is not open.
    pub(super) fn close_connection(&self, id: ConnectionId) -> Result<bool, ScanError> {
        if id.shard >= self.remotes.len() {
            return Ok(false);
        }
        let all = &ConnectionFilter::default();
        let action = ScanAction::Close(OperatorClose::default());
        let scan = Ask { filter: all, action, time: CONNECTION_SCAN_TIME };
        Ok(self.ask(id.shard, scan, Candidates::These(vec![id.token]))?.changed > 0)
    }

    fn ask(&self, shard: usize, ask: Ask<'_>, candidates: Candidates) -> Result<ScanReport, ScanError> {
        let Ask { filter, action, time } = ask;
        let command = |reply| {
            let filter = filter.clone();
            ShardCommand::Connections(ConnectionScan { filter, action, candidates, reply })
        };
        self.commands.ask_one(shard, time + SNAPSHOT_TIMEOUT, command).ok_or(ScanError::Silent(shard))
    }
}

/// A question to one shard, which it has `time` for.
struct Ask<'a> {
    filter: &'a ConnectionFilter,
    action: ScanAction,
    time: Nanos,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_one_form() {
        let place: Place = "2-4096".parse().expect("a place");
        assert_eq!((place, &*place.to_string()), (Place { shard: 2, index: 4096 }, "2-4096"));
        for wrong in ["", "1", "1-", "-1", "1-2-3", "01-2", "1-4294967296"] {
            assert_eq!(wrong.parse::<Place>(), Err(()), "{wrong:?}");
        }
    }
}
