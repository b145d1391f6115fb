//! Connections on their way to another shard, of this process or of another one.
//!
//! A shard gives a connection up, and sends it with its [`Exits`] to the [`Entrance`] of another. One that is not taken in
//! comes back: it is never without a shard, except while it is on its way.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};

use crate::shard::control::OnceWaker;
use echoring_proto::buffer::Budget;
use zeroize::Zeroizing;

/// Where a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// On this shard of this process.
    Shard(usize),
    /// In another process.
    Process,
}

/// Why a connection is continued on a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// It comes from another shard.
    New,
    /// This shard gave it up, and its destination did not take it in. It has another token than before.
    Refused,
    /// The driver did not give it up.
    Kept,
}

/// A connection as bytes, which only shards read. They may have the secrets of its session, and are overwritten when they are dropped.
pub type Record = Zeroizing<Vec<u8>>;

/// A connection between two shards, without a driver.
#[derive(Debug)]
pub struct Detached {
    /// Everything but the socket.
    pub record: Record,
    /// The socket.
    pub socket: OwnedFd,
    /// Where it goes on.
    pub to: Destination,
    /// The shard of this process that gave it up; `None` if another process did.
    pub from: Option<usize>,
    /// It comes back to the shard that gave it up, which takes it in whatever its limits are.
    pub is_returned: bool,
    /// Tells another thread whether it was taken in.
    pub answer: Option<MoveAnswer>,
    /// The memory of the record.
    pub charge: RecordCharge,
}

/// The bytes of a record, which are charged to the node's memory budget as far as there is room: the connection's own memory is
/// released before.
#[derive(Debug, Default)]
pub struct RecordCharge(Option<(Arc<Budget>, u64)>);

impl RecordCharge {
    fn new(budget: &Arc<Budget>, bytes: usize) -> RecordCharge {
        let bytes = bytes as u64;
        RecordCharge(budget.take_outside(bytes).then(|| (Arc::clone(budget), bytes)))
    }
}

impl Drop for RecordCharge {
    fn drop(&mut self) {
        if let Some((budget, bytes)) = &self.0 {
            budget.give_outside(*bytes);
        }
    }
}

/// Tells another thread whether a connection was taken in. One that is dropped says that it was not.
#[derive(Debug)]
pub struct MoveAnswer {
    to: mpsc::Sender<(u64, bool)>,
    number: u64,
    is_taken_in: bool,
}

impl MoveAnswer {
    /// An answer about the connection with this number.
    pub fn new(to: mpsc::Sender<(u64, bool)>, number: u64) -> MoveAnswer {
        MoveAnswer { to, number, is_taken_in: false }
    }

    /// It was taken in.
    pub(super) fn accept(mut self) {
        self.is_taken_in = true;
    }
}

impl Drop for MoveAnswer {
    fn drop(&mut self) {
        // Fails only if nobody wants to know any more.
        let _ = self.to.send((self.number, self.is_taken_in));
    }
}

/// Where connections of other shards come in.
#[derive(Clone, Debug)]
pub struct Entrance {
    pub(super) newcomers: mpsc::Sender<Detached>,
    pub(super) waker: OnceWaker,
    /// The budget of the node's memory.
    pub(super) memory: Arc<Budget>,
}

impl Entrance {
    /// Sends a connection to the shard.
    ///
    /// # Errors
    /// Returns it if the shard has ended.
    pub fn send(&self, detached: Detached) -> Result<(), Detached> {
        self.newcomers.send(detached).map_err(|mpsc::SendError(detached)| detached)?;
        self.waker.wake();
        Ok(())
    }
}

/// The ways out of the shards of a process.
#[derive(Debug, Default)]
pub struct Exits {
    shards: OnceLock<Vec<Entrance>>,
    process: Mutex<Option<mpsc::Sender<Detached>>>,
    on_the_way: AtomicUsize,
}

impl Exits {
    /// Sets the entrances of the shards, by number. Only the first call has an effect.
    pub fn set_shards(&self, shards: Vec<Entrance>) {
        let _ = self.shards.set(shards);
    }

    /// Charges the bytes of a record.
    pub fn charge(&self, bytes: usize) -> RecordCharge {
        let first = self.shards.get().and_then(|shards| shards.first());
        first.map(|shard| RecordCharge::new(&shard.memory, bytes)).unwrap_or_default()
    }

    /// Opens the way to another process, or closes it.
    pub fn set_process(&self, way: Option<mpsc::Sender<Detached>>) {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = way;
    }

    /// Sends a connection to its destination.
    ///
    /// # Errors
    /// Returns it if there is no way there.
    pub fn send(&self, detached: Detached) -> Result<(), Detached> {
        let starts = detached.from.is_some() && !detached.is_returned;
        self.on_the_way.fetch_add(usize::from(starts), Ordering::Relaxed);
        self.pass(detached).inspect_err(|_| {
            self.on_the_way.fetch_sub(usize::from(starts), Ordering::Relaxed);
        })
    }

    fn pass(&self, detached: Detached) -> Result<(), Detached> {
        match detached.to {
            Destination::Shard(shard) => match self.shards.get().and_then(|shards| shards.get(shard)) {
                Some(entrance) => entrance.send(detached),
                None => Err(detached),
            },
            Destination::Process => match &*self.process.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(way) => way.send(detached).map_err(|mpsc::SendError(detached)| detached),
                None => Err(detached),
            },
        }
    }

    /// Connections of this process that are on their way.
    pub fn on_the_way(&self) -> usize {
        self.on_the_way.load(Ordering::Relaxed)
    }

    /// A connection of this process has arrived, here or in the other process, or is lost.
    pub fn note_arrival(&self) {
        self.on_the_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sends a connection that was not taken in back to the shard that gave it up.
    ///
    /// # Errors
    /// Returns it if that shard is not there.
    pub fn send_back(&self, detached: Detached) -> Result<(), Detached> {
        let Some(shard) = detached.from else { return Err(detached) };
        self.send(Detached { to: Destination::Shard(shard), is_returned: true, ..detached })
    }
}
