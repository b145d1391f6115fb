//! Takeover: a successor gets the listeners and the topics of the running server, which then drains.
//!
//! ```text
//! successor                                predecessor
//!     ── Hello ───────────────────────────────>
//!     <──────────── Offer, and the listeners ──   nothing has changed so far
//!   starts everything that can fail
//!     ── Begin ───────────────────────────────>   orders nothing more; publications wait
//!     <──────────────────── State … StateEnd ──
//!   imports
//!     ── Imported ────────────────────────────>   accepts nothing more; connections wait
//!     <─── Go, with bans and blocks of clients ──   if the successor ends now, it goes on by itself
//!     ── Started ─────────────────────────────>
//!   orders and accepts                            its shards become shards of the successor, and drain
//!     <───────────────────────── Mail … Bye ──>
//! ```
//!
//! Until `Go` the successor has nothing that the predecessor does not have. If the predecessor's process ends before, the successor has its
//! listeners, and begins with topics of its own, as a server does that is started after another one was killed. The end of the process must
//! be seen: one that is silent, or has closed the socket, may serve.
//!
//! Until `Started` the predecessor can go on as if nothing had happened, and does so when the successor ends. It stops
//! accepting before `Go`, because two processes must not wait for connections at one socket: the kernel wakes one of
//! them. After it the predecessor orders nothing any more in these epochs, whatever happens. So a topic has one owner at
//! any time, in one epoch.
//!
//! A predecessor with a grace keeps its listeners, its topics and its connections for that time. If the successor's process ends meanwhile,
//! the topics continue here in new epochs, their subscribers return from their positions, and the server listens again. Otherwise it sends
//! `Settled`, and drains. A node of a cluster has no grace: the successor is known to the other nodes by then.
//!
//! In a cluster the successor continues the node, which keeps its id, its topics and its links. The predecessor's shards first wait for
//! what other nodes owe them. Then the node is silent, and `Node` comes behind `State`. The successor speaks once it has sent `Started`.
//!
//! While the predecessor drains, the successor asks it about its connections, and passes commands of operators on to it, on a socket of
//! their own, which comes with the listeners: see `questions`. From `Go` on the predecessor refuses such commands, unless it goes on by
//! itself.
//!
//! Its open connections move to the successor on another such socket: see `connections`. Only those that cannot move drain.
//!
//! They meet at a Unix socket: one in the abstract namespace for each address, or a file. Each trusts its own user and root
//! only. The first line in each direction has the version; both sides refuse others in words.

#![forbid(unsafe_code)]

pub(crate) mod carrier;
mod connections;
mod known;
mod meeting;
mod predecessor;
mod question_codec;
mod questions;
mod successor;
pub(crate) mod wire;

// For simulations of the shards' part.
#[doc(hidden)]
pub use carrier::{Route, Translate};
pub use meeting::{Event, MeetingPoint};
#[doc(hidden)]
pub use predecessor::FromSuccessor;
pub use predecessor::Offering;
pub(crate) use predecessor::wait_for_successor;
pub use questions::{DrainingPredecessor, Missing};
pub use successor::Predecessor;
#[doc(hidden)]
pub use successor::{FromPredecessor, Imported, Moved, split};

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use self::carrier::{Carrier, CarrierEnd, Teller, Told};
use crate::commands::move_order::Staying;
use crate::commands::node_order::CarryOut;
use crate::limits::HANDOVER_LAST_WORDS_TIMEOUT;
use crate::node::config::KnownClients;
use echoring_broker::broadcast::Ids;
use echoring_cluster::NodeId;
use echoring_proto::{Plain as _, plain};

/// The first line of a successor.
const REQUEST: &str = "echoring takeover 6";
/// The beginning of that line, in all versions.
const REQUEST_WORDS: &str = "echoring takeover ";
/// The first line of the answer, unless it is a refusal in words.
const ACCEPTED: &str = "ok";
/// The answer to a server that comes while another one takes over.
const SUCCEEDED: &str = "another server took over first";
/// Shards of both processes together: each has a number of one byte.
const SHARDS_MAX: usize = 256;

plain! {
    /// A successor's data about itself.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Hello {
        shards: u16 where is_shard_count,
        max_message: u64 where is_message_length,
        /// How many open connections it can take.
        takes: u32,
    }
}

plain! {
    /// A predecessor's offer. The descriptors of its listeners follow, those of `listeners` first, then the socket for questions, and then
    /// that for connections if the successor can take any.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Offer {
        shards: u16 where is_shard_count,
        max_message: u64 where is_message_length,
        pid: u32,
        /// The number of its first shard.
        first_number: u8,
        /// The ids of its connections, about which it is asked.
        ids: Ids,
        digest_seed: u64,
        /// Which node of a cluster it is.
        node: Option<NodeId>,
        /// Secrets of the TLS tickets.
        tickets: Vec<u8>,
        /// Of each address, the number of its sockets, and whether the server removes the socket's file.
        listeners: Vec<(u16, bool)>,
        /// The same of the admin address.
        admin: Option<(u16, bool)>,
        /// Its grace comes first, and it tells the successor when that is over.
        settles: bool,
        /// Its connections.
        open: u64,
    }
}

fn is_shard_count(shards: &u16) -> bool {
    (1..SHARDS_MAX as u16).contains(shards)
}

fn is_message_length(bytes: &u64) -> bool {
    *bytes <= 1 << 31
}

impl Offer {
    /// The number of the successor's first shard: no shard of one has the number of a shard of the other.
    fn next_number(&self) -> u8 {
        self.first_number.wrapping_add(self.shards as u8)
    }
}

/// Reads the data of two processes about themselves, and writes them again. For fuzzing.
#[doc(hidden)]
pub fn reread_offer(body: &[u8]) -> Option<Vec<u8>> {
    Offer::decode(body).map(|offer| offer.encode())
}

/// The link to another process.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// The shards exchange mail with those of the other process.
    is_carrying: bool,
    /// The predecessor has a grace, in which the end of this server gives everything back to it.
    is_unsettled: bool,
}

/// Held while a command of an operator is carried out, so that each is either part of what a successor gets, or refused.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// They are the successor's.
    pub(crate) are_closed: bool,
}

/// The link to another process, with its waiters, and the server's predecessor and successor.
#[derive(Debug, Default)]
pub(crate) struct HandoverState {
    link: Mutex<Link>,
    /// Files and addresses are the successor's.
    has_successor: AtomicBool,
    changed: Condvar,
    /// Successors that did not take over.
    pub(crate) failed: AtomicU64,
    /// The server before this one, which drains or has drained.
    pub(crate) predecessor: OnceLock<Arc<DrainingPredecessor>>,
    /// The end of the socket on which the successor asks.
    questions: Mutex<Option<UnixStream>>,
    /// Whether commands of operators are carried out.
    orders: Mutex<Orders>,
    /// Carries out commands to the program that the successor passes on.
    pub(crate) program: OnceLock<CarryOut>,
    /// Tells the successor something.
    teller: Mutex<Option<Teller>>,
    /// Connections of the predecessor.
    staying: Mutex<Staying>,
    /// Connections of predecessors that ended with them.
    cut: AtomicU64,
}

/// Figures of takeovers.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TakeoverFigures {
    /// Successors that did not take over.
    pub failed: u64,
    /// Connections of the predecessor that have not moved.
    pub staying: Staying,
    /// Connections that predecessors had when their processes ended before the drain was over.
    pub cut: u64,
}

impl HandoverState {
    pub(crate) fn set_carrying(&self, is_carrying: bool) {
        self.link().is_carrying = is_carrying;
        self.changed.notify_all();
    }

    fn set_unsettled(&self, is_unsettled: bool) {
        self.link().is_unsettled = is_unsettled;
        self.changed.notify_all();
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_succeeded(&self, is_succeeded: bool) {
        self.has_successor.store(is_succeeded, Ordering::Release);
    }

    pub(crate) fn is_unsettled(&self) -> bool {
        self.link().is_unsettled
    }

    /// Waits for the end of the predecessor's grace.
    pub(crate) fn wait_until_settled(&self) {
        drop(self.changed.wait_while(self.link(), |link| link.is_unsettled));
    }

    pub(crate) fn has_successor(&self) -> bool {
        self.has_successor.load(Ordering::Acquire)
    }

    fn set_teller(&self, teller: Teller) {
        *self.teller.lock().unwrap_or_else(PoisonError::into_inner) = Some(teller);
    }

    /// Tells the successor that this process ends with these connections.
    pub(crate) fn tell_overdue(&self, staying: Staying) {
        let teller = self.teller.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(teller) = teller {
            let _ = teller.tell(Told::Overdue(staying)).recv_timeout(HANDOVER_LAST_WORDS_TIMEOUT);
        }
    }

    pub(crate) fn figures(&self) -> TakeoverFigures {
        TakeoverFigures {
            failed: self.failed.load(Ordering::Relaxed),
            staying: *self.staying(),
            cut: self.cut.load(Ordering::Relaxed),
        }
    }

    fn staying(&self) -> MutexGuard<'_, Staying> {
        self.staying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears what the predecessor tells, until it has ended.
    fn follow(&self, carrier: &Carrier, pid: u32, known: &KnownClients) {
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

    /// The successor learns that no connections are left.
    pub(crate) fn end_questions(&self) {
        if let Some(stream) = self.questions.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Fails only if the successor has closed it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Waits until there is no link, for `time` at most. Returns whether there is none.
    pub(crate) fn wait_for_end(&self, time: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.link(), time, |link| link.is_carrying);
        !waited.unwrap_or_else(PoisonError::into_inner).0.is_carrying
    }
}

/// Puts the failed step in front of an error.
fn failed(what: &str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use echoring_proto::AddressKey;
    use echoring_proto::connection::Entropy;
    use echoring_runtime::admission::Ban;

    use super::*;

    /// Of the frames of this version.
    const DIGEST: u64 = 0x41a1_3699_5e98_10ca;

    #[test]
    fn what_they_say_of_themselves_is_read_as_it_was_written() {
        let (hello, offer) = said();
        let bytes = hello.encode();
        assert_eq!(Hello::decode(&bytes), Some(hello));
        for end in 0..bytes.len() {
            assert_eq!(Hello::decode(&bytes[..end]), None, "{end}");
        }
        let bytes = offer.encode();
        assert_eq!(Offer::decode(&bytes).as_ref(), Some(&offer));
        for end in 0..bytes.len() {
            assert_eq!(Offer::decode(&bytes[..end]), None, "{end}");
        }
        assert_eq!(offer.next_number(), 4);
    }

    /// Both sides of a takeover may be of different releases. Whoever changes a frame raises the version in [`REQUEST`], by which they
    /// refuse one another, and notes the new digest here.
    #[test]
    fn another_frame_is_another_version() {
        let (hello, offer) = said();
        let table = include_str!("handover/wire.rs").lines().filter(|line| line.contains(": FrameKind = "));
        let mut said: Vec<u8> = table.flat_map(str::bytes).collect();
        hello.put(&mut said);
        offer.put(&mut said);
        let staying = Staying([1, 2, 3, 4, 5, 6]);
        let ban = Ban { address: AddressKey::V4(7), time_left: 1 };
        for told in [Told::Settled, Told::Staying(staying), Told::Overdue(staying), Told::Banned(vec![ban])] {
            told.put(&mut said);
        }
        KnownClients::default().write(&mut said);
        // FNV-1a.
        let digest = said.iter().fold(0xcbf2_9ce4_8422_2325, |digest: u64, byte| {
            (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        assert_eq!((REQUEST, digest), ("echoring takeover 6", DIGEST));
    }

    fn said() -> (Hello, Offer) {
        let hello = Hello { shards: 3, max_message: 1 << 31, takes: 9 };
        let offer = Offer {
            shards: 250,
            max_message: 1,
            pid: 7,
            first_number: 10,
            ids: Ids::new(None, &mut Entropy::new(1)),
            node: Some(NodeId(9)),
            digest_seed: 1 << 60,
            tickets: vec![1; 100],
            listeners: vec![(250, false), (1, true)],
            admin: Some((1, true)),
            settles: true,
            open: 8,
        };
        (hello, offer)
    }
}
