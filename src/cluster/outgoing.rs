//! The publications of this node to one topic of another, in their order.
//!
//! One batch is on its way at a time; later publications form the next one. So batches grow with the load, and a batch
//! that a node refuses because it does not own the topic is sent to the owner with nothing behind it that could
//! overtake.

use std::collections::VecDeque;

use echoring_proto::limits::Nanos;

use crate::limits::BATCH_BYTES_MAX;
use crate::message::{Outcome, append_entry};
use crate::view::NodeId;

/// Identifies a publication to its publisher.
pub type Ticket = u64;

/// Too many publications wait for other nodes. Nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    entry: Box<[u8]>,
    /// When it is given up.
    until: Nanos,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    to: NodeId,
    batch: u32,
    /// How many of the first publications are in it, and still wait for their outcome.
    publications: usize,
    /// How many before them were given up.
    given_up: usize,
}

/// The publications of a shard that were decided, for their publishers, and the bytes of those that wait.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    pub(crate) outcomes: VecDeque<(Ticket, Outcome)>,
    pub(crate) waiting_bytes: usize,
}

impl Decisions {
    /// A publication of this size no longer waits.
    pub(crate) fn push(&mut self, ticket: Ticket, entry_bytes: usize, outcome: Outcome) {
        self.waiting_bytes -= entry_bytes;
        self.outcomes.push_back((ticket, outcome));
    }
}

/// The publications to one topic.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    waiting: VecDeque<Waiting>,
    in_flight: Option<InFlight>,
    /// A batch without waiting publishers that the node may still receive. Messages sent to another node before it has
    /// answered could overtake.
    abandoned: Option<(NodeId, u32)>,
}

impl Outgoing {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_none()
    }

    /// Whether it can be dropped.
    pub(crate) fn is_unused(&self) -> bool {
        self.is_empty() && self.abandoned.is_none()
    }

    /// Whether publications wait that this node may order, if it owns the topic.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() && self.in_flight.is_none()
    }

    /// Whether publications wait that another node may be sent.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_waiting() && self.abandoned.is_none()
    }

    pub(crate) fn push(&mut self, ticket: Ticket, entry: &[u8], until: Nanos) {
        self.waiting.push_back(Waiting { ticket, entry: entry.into(), until });
    }

    /// Takes the first publication, for a topic that this node owns.
    pub(crate) fn pop(&mut self) -> Option<(Ticket, Box<[u8]>)> {
        debug_assert!(self.in_flight.is_none(), "a batch on its way comes first");
        self.waiting.pop_front().map(|waiting| (waiting.ticket, waiting.entry))
    }

    /// Sends the first publications as a batch whose number the node has not used for long. Returns its entries.
    pub(crate) fn send(&mut self, to: NodeId, batch: u32) -> Vec<u8> {
        let mut entries = Vec::new();
        let mut publications = 0;
        for Waiting { entry, .. } in &self.waiting {
            if publications > 0 && entries.len() + entry.len() > BATCH_BYTES_MAX {
                break;
            }
            append_entry(&mut entries, entry);
            publications += 1;
        }
        self.in_flight = Some(InFlight { to, batch, publications, given_up: 0 });
        entries
    }

    /// A node has answered a batch.
    pub(crate) fn answer(
        &mut self,
        from: NodeId,
        batch: u32,
        outcomes: impl Iterator<Item = Outcome>,
        decided: &mut Decisions,
    ) {
        let Some(in_flight) = self.take(from, batch) else { return };
        let mut outcomes = outcomes.skip(in_flight.given_up);
        for waiting in self.waiting.drain(..in_flight.publications) {
            // A list that ends early is not of this version: nobody knows what was published.
            let outcome = outcomes.next().unwrap_or(Outcome::Uncertain);
            decided.push(waiting.ticket, waiting.entry.len(), outcome);
        }
    }

    /// A node has published nothing of a batch. False if it was not asked.
    pub(crate) fn refuse(&mut self, from: NodeId, batch: u32) -> bool {
        self.take(from, batch).is_some()
    }

    /// A node's answers will not come.
    pub(crate) fn reset(&mut self, node: NodeId, decided: &mut Decisions) {
        self.abandoned.take_if(|(to, _)| *to == node);
        if let Some(batch) = self.in_flight.map(|in_flight| in_flight.batch) {
            self.answer(node, batch, std::iter::empty(), decided);
        }
    }

    /// No publisher waits for answers any more.
    pub(crate) fn abandon(&mut self, decided: &mut Decisions) {
        if let Some(InFlight { to, batch, .. }) = self.in_flight {
            self.answer(to, batch, std::iter::empty(), decided);
            self.abandoned = Some((to, batch));
        }
    }

    /// Gives up the publications whose time is over.
    pub(crate) fn expire(&mut self, now: Nanos, decided: &mut Decisions) {
        let before = self.in_flight.map_or(0, |in_flight| in_flight.publications);
        let mut sent = before;
        while let Some(first) = self.waiting.front()
            && first.until <= now
            && let Some(waiting) = self.waiting.pop_front()
        {
            let outcome = if sent > 0 { Outcome::Uncertain } else { Outcome::Unreachable };
            sent = sent.saturating_sub(1);
            decided.push(waiting.ticket, waiting.entry.len(), outcome);
        }
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.publications = sent;
            in_flight.given_up += before - sent;
        }
    }

    /// When the first publication is given up.
    pub(crate) fn until(&self) -> Option<Nanos> {
        self.waiting.front().map(|waiting| waiting.until)
    }

    fn take(&mut self, from: NodeId, batch: u32) -> Option<InFlight> {
        self.abandoned.take_if(|abandoned| *abandoned == (from, batch));
        self.in_flight.take_if(|sent| sent.to == from && sent.batch == batch)
    }
}
