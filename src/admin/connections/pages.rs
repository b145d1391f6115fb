//! Gathers the shards' data about connections, on a thread that may wait.
//!
//! While the previous server drains, its shards are asked, too, and before those of this process: in the order of their numbers, so that
//! a page that began before a takeover continues after it.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use echoring_runtime::driver::Token;
use echoring_wire::centrifuge::ErrorCode;
use serde::Serialize;

use crate::limits::{CONNECTION_GATHER_TIME, CONNECTION_MOVE_TIME};
use echoring_server::Handle;
use echoring_server::machinery::{
    self, Candidates, ConnectionFilter, ConnectionId, ConnectionReport, Ids, Missing, OperatorClose,
    OtherProcess, PreviousServer, RankBy, ScanAction, ScanReport, decimal,
};

/// Where a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number of the shard, which is its own in a takeover.
    pub(crate) number: u8,
    pub(crate) index: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.index)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Place, ()> {
        let (number, index) = text.split_once('-').ok_or(())?;
        let number = decimal(number).and_then(|number| u8::try_from(number).ok()).ok_or(())?;
        Ok(Place { number, index: decimal(index).ok_or(())? })
    }
}

/// Why connections could not be gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanError {
    /// Too many requests wait already.
    Busy,
    /// A shard did not answer.
    Silent(usize),
    /// A shard has not seen all its connections in time.
    TooLong(usize),
    /// The connection is one of the previous server, which did not answer.
    Previous(Missing),
    /// The place is of no shard, of this process or of the previous server.
    UnknownPlace,
}

/// Connections, or the results of actions on them, up to a place.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) connections: Vec<ConnectionReport>,
    /// How many were closed, subscribed or unsubscribed, or were sent a message.
    pub(crate) changed: usize,
    /// How many were not sent a message, because too much is queued for them.
    pub(crate) busy: usize,
    /// Why a session was not subscribed.
    pub(crate) failed: Option<ErrorCode>,
    /// Why those of the previous server are not among them.
    pub(crate) missing: Option<Missing>,
    /// The place to continue at; `None` at the end.
    pub(crate) next: Option<Place>,
}

/// Why an answer lacks the connections of the previous server.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Lacking {
    #[serde(rename = "predecessor", skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Missing>,
}

/// The shards that are asked, in this order: those of the previous server, and those of this process, whose numbers follow.
#[derive(Debug)]
struct Walk {
    /// The number of the first.
    first: u8,
    /// Of this process.
    ids: Ids,
    previous: Option<Arc<PreviousServer>>,
    shards: usize,
}

impl Walk {
    /// The first step at a shard of this process.
    fn own(&self) -> usize {
        self.previous.as_ref().map_or(0, |previous| previous.shards())
    }

    fn steps(&self) -> usize {
        self.own() + self.shards
    }

    /// The step at the shard with this number.
    fn step(&self, number: u8) -> Option<usize> {
        Some(usize::from(number.wrapping_sub(self.first))).filter(|step| *step < self.steps())
    }

    /// The steps at the shards that may have a connection, and where it is there. The id of a connection of the previous server may by
    /// chance be that of a place of this process, too, which hardly ever has a connection. One of a back end may have moved to any shard.
    fn find(&self, id: ConnectionId) -> impl Iterator<Item = (usize, Candidates)> {
        let previous = self.previous.as_deref().map(|previous| (previous.ids(), 0..self.own()));
        let own = Some((&self.ids, self.own()..self.steps()));
        let processes = [own, previous].into_iter().flatten();
        processes.flat_map(move |(ids, steps)| {
            let place = ids.find(id).and_then(|(number, token)| Some((self.step(number)?, vec![token])));
            let place = place.filter(|(step, _)| steps.contains(step));
            let kept = steps.map(move |step| (step, Candidates::Kept(id.to_string().into())));
            place.map(|(step, token)| (step, Candidates::These(token))).into_iter().chain(kept)
        })
    }

    fn number(&self, step: usize) -> u8 {
        self.first.wrapping_add(step as u8)
    }

    /// The shard of a step, and the previous server if the shard is one of its own.
    fn shard(&self, step: usize) -> (Option<&PreviousServer>, usize) {
        match (&self.previous, step.checked_sub(self.own())) {
            (Some(previous), None) => (Some(previous), step),
            (_, own) => (None, own.unwrap_or(step)),
        }
    }
}

/// Asks the shards of a server about their connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionPages<'a>(pub(crate) &'a Handle);

impl ConnectionPages<'_> {
    fn walk(&self) -> Walk {
        let previous = machinery::previous(self.0);
        let own = machinery::first_number(self.0);
        let first = previous.as_ref().map_or(own, |previous| previous.first_number());
        Walk { first, ids: machinery::ids(self.0), previous, shards: machinery::shards(self.0) }
    }

    /// Open connections from `from` on, or all, `most` at most and perhaps fewer. Blocks for seconds.
    pub(crate) fn list(
        &self,
        filter: &ConnectionFilter,
        from: Option<Place>,
        most: usize,
    ) -> Result<Gathered, ScanError> {
        self.gather(filter, from, |listed| match most - listed {
            0 => None,
            room => Some(ScanAction::List(room)),
        })
    }

    /// Closes, subscribes or unsubscribes the connections from `from` on, or all, or sends them a message. Blocks for seconds, and may
    /// stop before the end.
    pub(crate) fn change(
        &self,
        filter: &ConnectionFilter,
        from: Option<Place>,
        change: &ScanAction,
    ) -> Result<Gathered, ScanError> {
        self.gather(filter, from, |_| Some(change.clone()))
    }

    /// Asks the shards one after another. `action` determines the next action, by the number of listed connections.
    fn gather(
        &self,
        filter: &ConnectionFilter,
        from: Option<Place>,
        action: impl Fn(usize) -> Option<ScanAction>,
    ) -> Result<Gathered, ScanError> {
        let begun = Instant::now();
        let walk = self.walk();
        let from = from.unwrap_or(Place { number: walk.first, index: 0 });
        let mut step = walk.step(from.number).ok_or(ScanError::UnknownPlace)?;
        let mut index = from.index;
        let mut gathered = Gathered::default();
        while step < walk.steps() {
            gathered.next = Some(Place { number: walk.number(step), index });
            let Some(action) = action(gathered.connections.len()) else { return Ok(gathered) };
            if begun.elapsed() >= Duration::from_nanos(CONNECTION_GATHER_TIME) {
                return Ok(gathered);
            }
            let mut report = match self.ask(&walk, step, filter, action, Candidates::From(index)) {
                Err(ScanError::Previous(missing)) => {
                    gathered.missing = Some(missing);
                    (step, index) = (walk.own(), 0);
                    continue;
                }
                report => report?,
            };
            gathered.connections.append(&mut report.connections);
            gathered.changed += report.changed;
            gathered.busy += report.busy;
            gathered.failed = gathered.failed.or(report.failed);
            (step, index) = report.next.map_or((step + 1, 0), |next| (step, next));
        }
        gathered.next = None;
        Ok(gathered)
    }

    /// The `most` connections that are first in an order. Blocks for seconds.
    pub(crate) fn largest(
        &self,
        filter: &ConnectionFilter,
        by: RankBy,
        most: usize,
    ) -> Result<Gathered, ScanError> {
        let walk = self.walk();
        let mut gathered = Gathered::default();
        let mut ranked: Vec<(u64, usize, Token)> = Vec::new();
        let mut step = 0;
        while step < walk.steps() {
            let report = self.ask(&walk, step, filter, ScanAction::Rank(most, by), Candidates::From(0));
            match (report, walk.shard(step)) {
                (Err(ScanError::Previous(missing)), _) => {
                    gathered.missing = Some(missing);
                    step = walk.own();
                    continue;
                }
                (Ok(ScanReport { next: Some(_), .. }), (Some(_), _)) => {
                    gathered.missing = Some(Missing::Silent);
                }
                (Ok(ScanReport { next: Some(_), .. }), (None, shard)) => {
                    return Err(ScanError::TooLong(shard));
                }
                (report, _) => {
                    ranked.extend(report?.ranked.into_iter().map(|(rank, token)| (rank, step, token)));
                    ranked.sort_unstable_by_key(|(rank, step, token)| (Reverse(*rank), *step, *token));
                    ranked.truncate(most);
                }
            }
            step += 1;
        }
        for step in 0..walk.steps() {
            let of_shard = ranked.iter().filter(|(_, at, _)| *at == step);
            match self.describe(&walk, step, of_shard.map(|(_, _, token)| *token).collect()) {
                Err(ScanError::Previous(missing)) => gathered.missing = Some(missing),
                described => gathered.connections.append(&mut described?),
            }
        }
        gathered.connections.sort_by_key(|connection| Reverse(connection.rank(by)));
        Ok(gathered)
    }

    /// The reports of those of these connections that are still open.
    fn describe(
        &self,
        walk: &Walk,
        step: usize,
        mut tokens: Vec<Token>,
    ) -> Result<Vec<ConnectionReport>, ScanError> {
        let mut connections = Vec::new();
        let all = &ConnectionFilter::default();
        tokens.sort_unstable();
        while !tokens.is_empty() {
            let list = ScanAction::List(tokens.len());
            let mut report = self.ask(walk, step, all, list, Candidates::These(tokens.clone()))?;
            connections.append(&mut report.connections);
            // The previous server cuts a long answer.
            let Some(next) = report.next else { break };
            let before = tokens.len();
            tokens.retain(|token| token.index >= next);
            if tokens.len() == before {
                break;
            }
        }
        Ok(connections)
    }

    /// The shard of this process that has the open connection, and the connection there.
    pub(crate) fn own_shard(&self, id: ConnectionId) -> Result<Option<(usize, Token)>, ScanError> {
        let (walk, all) = (self.walk(), ConnectionFilter::default());
        for (step, candidates) in walk.find(id).filter(|(step, _)| *step >= walk.own()) {
            let report = self.ask(&walk, step, &all, ScanAction::Rank(1, RankBy::Queued), candidates)?;
            if let Some((_, token)) = report.ranked.first() {
                return Ok(Some((walk.shard(step).1, *token)));
            }
        }
        Ok(None)
    }

    /// Closes one connection. False if it is not open.
    pub(crate) fn close(&self, id: ConnectionId) -> Result<bool, ScanError> {
        Ok(self.change_one(id, ScanAction::Close(OperatorClose::default()))?.changed > 0)
    }

    /// Closes one connection, or sends it a message.
    pub(crate) fn change_one(&self, id: ConnectionId, change: ScanAction) -> Result<ScanReport, ScanError> {
        let (walk, all) = (self.walk(), ConnectionFilter::default());
        let mut ended = 0;
        for pause in [CONNECTION_MOVE_TIME, Duration::ZERO] {
            for (step, candidates) in walk.find(id) {
                let is_kept = matches!(candidates, Candidates::Kept(_));
                match self.ask(&walk, step, &all, change.clone(), candidates) {
                    Ok(report) if report.changed + report.busy > 0 => return Ok(report),
                    Ok(report) => ended += report.ended,
                    // It has no such connections.
                    Err(ScanError::Previous(Missing::Unsupported)) if is_kept => {}
                    Err(error) => return Err(error),
                }
            }
            let may_arrive = ended > 0 || walk.previous.as_ref().is_some_and(|previous| !previous.is_gone());
            thread::sleep(if may_arrive { pause } else { break });
        }
        Ok(ScanReport { ended, ..ScanReport::default() })
    }

    /// Asks the shard of a step.
    fn ask(
        &self,
        walk: &Walk,
        step: usize,
        filter: &ConnectionFilter,
        action: ScanAction,
        candidates: Candidates,
    ) -> Result<ScanReport, ScanError> {
        let (previous, shard) = walk.shard(step);
        let Some(previous) = previous else {
            let answer = machinery::commands(self.0).scan(shard, filter, action, candidates);
            return answer.ok_or(ScanError::Silent(shard));
        };
        let answer = previous.ask(shard, filter, action, candidates);
        let mut report = answer.map_err(ScanError::Previous)?;
        for connection in &mut report.connections {
            connection.process = Some(OtherProcess::Previous);
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::connection::Entropy;
    use echoring_server::Server;

    fn ids(seed: u64) -> Ids {
        Ids::new(Some(7), &mut Entropy::new(seed))
    }

    #[test]
    fn a_place_has_one_form() {
        let place: Place = "2-4096".parse().expect("a place");
        assert_eq!((place, &*place.to_string()), (Place { number: 2, index: 4096 }, "2-4096"));
        for wrong in ["", "1", "1-", "-1", "1-2-3", "01-2", "256-0", "1-4294967296"] {
            assert_eq!(wrong.parse::<Place>(), Err(()), "{wrong:?}");
        }
    }

    #[test]
    fn the_shards_of_a_predecessor_come_first() {
        let alone = Walk { first: 254, ids: ids(1), previous: None, shards: 3 };
        let steps = |walk: &Walk| [253, 254, 255, 0, 1].map(|number| walk.step(number));
        assert_eq!(steps(&alone), [None, Some(0), Some(1), Some(2), None]);
        assert!(alone.shard(2).0.is_none());
        assert_eq!((alone.shard(2).1, alone.number(2)), (2, 0));
        let previous = Some(Arc::new(PreviousServer::numbered(254, 2, ids(2))));
        let both = Walk { first: 254, ids: ids(1), previous, shards: 2 };
        assert_eq!(steps(&both), [None, Some(0), Some(1), Some(2), Some(3)]);
        let shards = (0..both.steps()).map(|step| both.shard(step));
        let shards: Vec<_> = shards.map(|(previous, shard)| (previous.is_some(), shard)).collect();
        assert_eq!(shards, [(true, 0), (true, 1), (false, 0), (false, 1)]);
        let token = Token { index: 7, generation: 9 };
        let found = |walk: &Walk, seed| {
            [253, 254, 255, 0, 1, 2].map(|number| {
                let id = ids(seed).connection(number, token);
                let (mut kept, mut places) = (Vec::new(), Vec::new());
                for (step, candidates) in walk.find(id) {
                    match candidates {
                        Candidates::These(tokens) => places.extend(tokens.into_iter().map(|it| (step, it))),
                        other => kept.push((step, other)),
                    }
                }
                let own_first = (walk.own()..walk.steps()).chain(0..walk.own());
                let everywhere = own_first.map(|step| (step, Candidates::Kept(id.to_string().into())));
                assert_eq!(kept, everywhere.collect::<Vec<_>>(), "one that has moved may be at any shard");
                places
            })
        };
        // By the chance of the cipher, an id of another process is seldom that of a place here; with these keys it is not.
        let at = |step| vec![(step, token)];
        let none = Vec::new;
        assert_eq!(found(&both, 1), [none(), none(), none(), at(2), at(3), none()], "its own connections");
        assert_eq!(found(&both, 2), [none(), at(0), at(1), none(), none(), none()], "the predecessor's");
        assert_eq!(
            (found(&both, 3), found(&alone, 2)),
            ([(); 6].map(|()| none()), [(); 6].map(|()| none())),
            "others"
        );
        let most = Walk { first: 7, ids: ids(1), previous: None, shards: 256 };
        assert_eq!((most.step(7), most.step(6)), (Some(0), Some(255)));
    }

    #[test]
    fn a_predecessor_that_cannot_be_asked_is_named_until_it_is_gone() {
        let server = Server::builder().listen(([127, 0, 0, 1], 0)).shards(1).start().expect("a server");
        let handle = server.handle();
        let pages = ConnectionPages(&handle);
        let all = &ConnectionFilter::default();
        let close = &ScanAction::Close(OperatorClose::default());
        let old = Arc::new(PreviousServer::numbered(254, 2, ids(2)));
        machinery::set_previous(&handle, &old);
        let token = Token { index: 0, generation: 1 };
        let own = machinery::ids(&handle).connection(0, token);
        let of_old = ids(2).connection(254, token);
        let missing = |gathered: Result<Gathered, ScanError>| {
            let gathered = gathered.expect("the shards of this process answer");
            assert_eq!((gathered.connections.len(), gathered.changed, gathered.next), (0, 0, None));
            gathered.missing
        };
        let page = |number| pages.list(all, Some(Place { number, index: 0 }), 10);
        for expected in [Some(Missing::Unsupported), None] {
            assert_eq!(missing(pages.list(all, None, 10)), expected);
            assert_eq!(missing(page(255)), expected, "from a place of the old one");
            assert_eq!(missing(page(0)), None, "behind it");
            assert_eq!(missing(pages.change(all, None, close)), expected);
            assert_eq!(missing(pages.largest(all, RankBy::Lag, 10)), expected);
            let closed = expected.map_or(Ok(false), |missing| Err(ScanError::Previous(missing)));
            assert_eq!(pages.close(of_old), closed);
            assert_eq!(pages.close(own), Ok(false));
            assert_eq!(page(1).expect_err("a place of nobody"), ScanError::UnknownPlace);
            old.set_gone();
        }
        server.shutdown(Duration::from_secs(1)).expect("it ends");
    }
}
