//! Orders to move connections to other shards, and why connections stay.

use std::sync::{Arc, mpsc};

use echoring_proto::happenings;
use echoring_proto::limits::Nanos;
use echoring_runtime::shard::Destination;

/// An order to move connections away.
#[derive(Debug)]
pub struct MoveOrder {
    /// Where they go on.
    pub to: Destination,
    /// The paths of the successor's back ends. Connections of others stay.
    pub backends: Arc<[String]>,
    /// How many at most.
    pub most: usize,
    /// Only those that neither send nor are sent anything now.
    pub only_idle: bool,
    /// Time limit.
    pub within: Nanos,
    /// Gets the number of the shard, and how many connections have left it.
    pub done: mpsc::SyncSender<(usize, usize)>,
}

happenings! {
    /// Why a connection does not move to a successor.
    pub enum StayReason: name {
        /// Its TLS session cannot go on in another process.
        Tls = "tls",
        /// Its handler does not migrate, or its back end is unknown to the successor.
        Handler = "handler",
        /// It does not read what it is sent, or awaits the answer to a request, its back end's included.
        Unread = "unread",
        /// The successor did not take it in.
        Refused = "refused",
        /// The driver cannot give it up.
        Driver = "driver",
        /// Its handshake is not complete, or it is closing.
        Unopened = "unopened",
    }
}

/// How many connections stay, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Staying(pub(crate) [u64; StayReason::ALL.len()]);

echoring_proto::plain!(for Staying(counts));

impl Staying {
    /// Those of this reason.
    pub fn of(&self, reason: StayReason) -> u64 {
        self.0[reason as usize]
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn count(&mut self, reason: StayReason) {
        self.0[reason as usize] += 1;
    }

    pub(crate) fn add(&mut self, other: Staying) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum += count);
    }
}
