//! Two processes of one node, of which the newer one has taken over from the older: the link between them, while both have clients.
//!
//! Their shards exchange mail over a bridge: see `carrier`. The newer one asks the older one about its connections, and passes commands of
//! operators on to it: see `questions`. How one process takes the place of another is a matter of [`handover`](crate::handover).

#![forbid(unsafe_code)]

pub(crate) mod carrier;
mod known;
mod question_codec;
pub(crate) mod questions;
pub(crate) mod wire;

pub use questions::{Missing, PreviousServer};

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use self::carrier::{Carrier, CarrierEnd, Teller, Told};
use crate::commands::move_order::Staying;
use crate::commands::node_order::CarryOut;
use crate::limits::LAST_WORDS_TIMEOUT;
use crate::node::config::KnownClients;

/// The link to another process.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// The shards exchange mail with those of the other process.
    is_carrying: bool,
    /// The previous server has a grace, in which the end of this one gives everything back to it.
    is_unsettled: bool,
}

/// Held while a command of an operator is carried out, so that each is either part of what the next server gets, or refused.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// They are the next server's.
    pub(crate) are_closed: bool,
}

/// The link to another process, with its waiters, and the servers before and after this one.
#[derive(Debug, Default)]
pub(crate) struct ProcessLink {
    link: Mutex<Link>,
    /// Files and addresses belong to another process.
    is_replaced: AtomicBool,
    changed: Condvar,
    /// Servers that did not take the place of this one.
    pub(crate) failed: AtomicU64,
    /// The server before this one, which drains or has drained.
    pub(crate) previous: OnceLock<Arc<PreviousServer>>,
    /// The end of the socket on which the next server asks.
    pub(crate) questions: Mutex<Option<UnixStream>>,
    /// Whether commands of operators are carried out.
    orders: Mutex<Orders>,
    /// Carries out commands to the program that the next server passes on.
    pub(crate) program: OnceLock<CarryOut>,
    /// Tells the next server something.
    teller: Mutex<Option<Teller>>,
    /// Connections of the previous server.
    staying: Mutex<Staying>,
    /// Connections of previous servers that ended with them.
    pub(crate) cut: AtomicU64,
}

/// Figures of the processes before and after a server.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ProcessFigures {
    /// Servers that did not take the place of this one.
    pub failed: u64,
    /// Connections of the previous server that have not moved.
    pub staying: Staying,
    /// Connections that previous servers had when their processes ended before the drain was over.
    pub cut: u64,
}

impl ProcessLink {
    pub(crate) fn set_carrying(&self, is_carrying: bool) {
        self.link().is_carrying = is_carrying;
        self.changed.notify_all();
    }

    pub(crate) fn set_unsettled(&self, is_unsettled: bool) {
        self.link().is_unsettled = is_unsettled;
        self.changed.notify_all();
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_replaced(&self, is_replaced: bool) {
        self.is_replaced.store(is_replaced, Ordering::Release);
    }

    pub(crate) fn is_unsettled(&self) -> bool {
        self.link().is_unsettled
    }

    /// Waits for the end of the previous server's grace.
    pub(crate) fn wait_until_settled(&self) {
        drop(self.changed.wait_while(self.link(), |link| link.is_unsettled));
    }

    pub(crate) fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::Acquire)
    }

    pub(crate) fn set_teller(&self, teller: Teller) {
        *self.teller.lock().unwrap_or_else(PoisonError::into_inner) = Some(teller);
    }

    /// Tells the next server that this process ends with these connections.
    pub(crate) fn tell_overdue(&self, staying: Staying) {
        let teller = self.teller.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(teller) = teller {
            let _ = teller.tell(Told::Overdue(staying)).recv_timeout(LAST_WORDS_TIMEOUT);
        }
    }

    pub(crate) fn figures(&self) -> ProcessFigures {
        ProcessFigures {
            failed: self.failed.load(Ordering::Relaxed),
            staying: *self.staying(),
            cut: self.cut.load(Ordering::Relaxed),
        }
    }

    fn staying(&self) -> MutexGuard<'_, Staying> {
        self.staying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears what the previous server tells, until it has ended.
    pub(crate) fn follow(&self, carrier: &Carrier, pid: u32, known: &KnownClients) {
        let mut is_overdue = false;
        let end = carrier.wait(|told| match told {
            Told::Banned(bans) => known.ban(bans),
            Told::Settled => self.set_unsettled(false),
            Told::Staying(staying) => *self.staying() = staying,
            Told::Overdue(staying) => {
                *self.staying() = staying;
                is_overdue = true;
            }
        });
        self.set_unsettled(false);
        let open = std::mem::take(&mut *self.staying()).total();
        match end {
            CarrierEnd::Bye => return tracing::info!(pid, "the previous server has ended"),
            CarrierEnd::Broken(_) if is_overdue => tracing::warn!(
                pid,
                open,
                "the drain of the previous server did not end in time; its clients reconnect"
            ),
            CarrierEnd::Broken(error) => {
                tracing::warn!(%error, pid, open, "the previous server is lost; its clients reconnect");
            }
        }
        self.cut.fetch_add(open, Ordering::Relaxed);
    }

    /// The next server learns that no connections are left.
    pub(crate) fn end_questions(&self) {
        if let Some(stream) = self.questions.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Fails only if the next server has closed it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Waits until there is no link, for `time` at most. Returns whether there is none.
    pub(crate) fn wait_for_end(&self, time: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.link(), time, |link| link.is_carrying);
        !waited.unwrap_or_else(PoisonError::into_inner).0.is_carrying
    }
}
