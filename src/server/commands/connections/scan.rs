//! The scans of one shard that are in progress.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::mem;
use std::net::SocketAddr;

use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_wire::centrifuge::ErrorCode;

use super::{Candidates, ConnectionReport, ConnectionScan, ScanAction, ScanReport};
use crate::limits::CONNECTION_LOOKUPS_MAX;

/// A scan: its place, and its results.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) question: ConnectionScan,
    given: VecDeque<Token>,
    /// The next index to look at.
    index: u32,
    /// There was no further connection to look at.
    is_at_end: bool,
    /// Connections whose address was asked for.
    pub(crate) waiting: Vec<Token>,
    pub(crate) connections: Vec<(Token, ConnectionReport)>,
    ranked: BinaryHeap<Reverse<(u64, Token)>>,
    pub(crate) changed: usize,
    pub(crate) failed: Option<ErrorCode>,
    pub(crate) busy: usize,
    pub(crate) ended: usize,
    /// When it ends with its results so far.
    pub(crate) until: Nanos,
}

impl Scan {
    /// A scan that begins now. `kept` has the connections that have come from elsewhere, by the ids that they have kept.
    pub(crate) fn new(mut question: ConnectionScan, now: Nanos, kept: &BTreeMap<Box<str>, Token>) -> Scan {
        let (given, index) = match &mut question.candidates {
            Candidates::From(index) => (VecDeque::new(), *index),
            Candidates::These(tokens) => (mem::take(tokens).into(), u32::MAX),
            Candidates::Kept(id) => (kept.get(id).copied().into_iter().collect(), u32::MAX),
        };
        let time = question.action.time();
        Scan {
            question,
            given,
            index,
            is_at_end: false,
            waiting: Vec::new(),
            connections: Vec::new(),
            ranked: BinaryHeap::new(),
            changed: 0,
            failed: None,
            busy: 0,
            ended: 0,
            until: now.saturating_add(time),
        }
    }

    /// When the next tick is due for it.
    pub(crate) fn due(&self) -> Nanos {
        if self.has_room() { 0 } else { self.until }
    }

    /// Whether the address of a connection matters.
    pub(crate) fn wants_address(&self) -> bool {
        self.question.filter.address.is_some() || self.lists()
    }

    /// Whether connections are described, with their TCP.
    pub(crate) fn lists(&self) -> bool {
        matches!(self.question.action, ScanAction::List(_))
    }

    /// Whether another connection may be checked. A list is full with those whose address is awaited.
    pub(crate) fn has_room(&self) -> bool {
        let is_full = match &self.question.action {
            ScanAction::List(most) => self.connections.len() + self.waiting.len() >= *most,
            ScanAction::Rank(..)
            | ScanAction::Close(_)
            | ScanAction::Subscribe(_)
            | ScanAction::Unsubscribe(_)
            | ScanAction::Refresh(_)
            | ScanAction::Send(_) => false,
        };
        !is_full && !self.is_at_end && self.waiting.len() < CONNECTION_LOOKUPS_MAX
    }

    /// The next connection to look at: `Some(None)` at an index without one, `None` at the end, which is `indexes`.
    pub(crate) fn next(
        &mut self,
        indexes: u32,
        token_at: impl FnOnce(u32) -> Option<Token>,
    ) -> Option<Option<Token>> {
        if let Some(token) = self.given.pop_front() {
            return Some(Some(token));
        }
        let index = self.index;
        self.is_at_end = index >= indexes;
        (!self.is_at_end).then(|| {
            self.index += 1;
            token_at(index)
        })
    }

    /// Waits no longer for a connection. False if it did not.
    pub(crate) fn stop_waiting(&mut self, token: Token) -> bool {
        let place = self.waiting.iter().position(|other| *other == token);
        place.map(|place| self.waiting.swap_remove(place)).is_some()
    }

    /// Whether a connection with this address is among the requested ones.
    pub(crate) fn takes(&self, address: Option<SocketAddr>) -> bool {
        let Some(block) = &self.question.filter.address else { return true };
        address.is_some_and(|address| block.contains(address.ip().to_canonical()))
    }

    /// Keeps the connection if it is one of the `most` with the highest ranks.
    pub(crate) fn rank(&mut self, token: Token, rank: u64, most: usize) {
        self.ranked.push(Reverse((rank, token)));
        if self.ranked.len() > most {
            self.ranked.pop();
        }
    }

    /// Answers. Perhaps no client waits for it any more.
    pub(crate) fn finish(mut self, shard: usize, indexes: u32) {
        self.connections.sort_unstable_by_key(|(token, _)| *token);
        let report = ScanReport {
            connections: self.connections.into_iter().map(|(_, report)| report).collect(),
            ranked: self.ranked.into_iter().map(|Reverse(ranked)| ranked).collect(),
            changed: self.changed,
            failed: self.failed,
            busy: self.busy,
            ended: self.ended,
            next: (self.index < indexes).then_some(self.index),
        };
        let _ = self.question.reply.try_send((shard, report));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::commands::connections::{ConnectionFilter, RankBy};

    fn token(index: u32) -> Token {
        Token { index, generation: 1 }
    }

    fn scan(action: ScanAction) -> (Scan, mpsc::Receiver<(usize, ScanReport)>) {
        let (reply, answer) = mpsc::sync_channel(1);
        let candidates = Candidates::From(0);
        let question = ConnectionScan { filter: ConnectionFilter::default(), action, candidates, reply };
        (Scan::new(question, 0, &BTreeMap::new()), answer)
    }

    #[test]
    fn a_list_waits_for_no_more_addresses_than_it_has_room_for() {
        let (mut scan, _answer) = scan(ScanAction::List(2));
        for index in 0..2 {
            assert!(scan.has_room());
            assert_eq!(scan.next(5, |at| Some(token(at))), Some(Some(token(index))));
            scan.waiting.push(token(index));
        }
        assert!(!scan.has_room());
        assert!(scan.stop_waiting(token(0)) && !scan.stop_waiting(token(0)));
        assert!(scan.has_room(), "its address did not fit");
    }

    #[test]
    fn lookups_are_bounded() {
        let (mut scan, _answer) = scan(ScanAction::List(usize::MAX));
        (0..CONNECTION_LOOKUPS_MAX as u32).for_each(|index| scan.waiting.push(token(index)));
        assert!(!scan.has_room());
        scan.waiting.retain(|token| token.index != 3);
        assert!(scan.has_room() && !scan.waiting.is_empty());
        assert_eq!(scan.next(0, |_| None), None);
        assert!(!scan.has_room(), "nothing is left to look at");
        assert_eq!(scan.waiting.len(), CONNECTION_LOOKUPS_MAX - 1);
    }

    #[test]
    fn the_largest_are_kept_and_the_scan_says_where_it_stopped() {
        let (mut scan, answer) = scan(ScanAction::Rank(2, RankBy::Queued));
        for (index, bytes) in [5, 0, 9, 7].into_iter().enumerate() {
            scan.next(10, |_| None);
            scan.rank(token(index as u32), bytes, 2);
        }
        scan.finish(3, 10);
        let (shard, mut report) = answer.recv().expect("an answer");
        report.ranked.sort_unstable();
        assert_eq!((shard, report.next), (3, Some(4)));
        assert_eq!(report.ranked, [(7, token(3)), (9, token(2))]);
    }
}
