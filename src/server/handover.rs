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
//!     <─────────────────────────────────── Go ──   if the successor ends now, it goes on by itself
//!     ── Started ─────────────────────────────>
//!   orders and accepts                            its shards become shards of the successor, and drain
//!     <───────────────────────── Mail … Bye ──>
//! ```
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
//! While the predecessor drains, the successor asks it about its connections on a socket of their own, which comes with the listeners if
//! the versions of both know of it: see `questions`.
//!
//! Its open connections move to the successor on another such socket: see `connections`. Only those that cannot move drain.
//!
//! They meet at a Unix socket: one in the abstract namespace for each address, or a file. Each trusts its own user and root
//! only. The first line in each direction has the version; both sides refuse others in words.
//!
//! A server can also replace another one of its own process, for example to change the number of shards. The two use a socket pair instead.

#![forbid(unsafe_code)]

pub(crate) mod carrier;
mod connections;
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

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use echoring_broker::broadcast::ClientNumbers;
use echoring_cluster::NodeId;

/// The first line of a successor.
const REQUEST: &str = "echoring takeover 3";
/// The first line of the answer, unless it is a refusal in words.
const ACCEPTED: &str = "ok";
/// The answer to a server that comes while another one takes over.
const SUCCEEDED: &str = "another server took over first";
/// Shards of both processes together: each client's number identifies its shard.
const SHARDS_MAX: usize = 256;
/// The version of the state of a cluster's node. Processes of different versions do not continue each other's nodes.
const NODE_VERSION: u8 = 1;

/// A successor's data about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hello {
    shards: u16,
    message_bytes_max: u64,
    pid: u32,
    /// It asks about connections if it is given the socket for that. Older versions do not send this.
    asks: bool,
    /// How many open connections it can take; 0 if its version takes none. Older versions do not send this.
    takes: u32,
    /// The version of a node's state that it can continue; 0 for none. Older versions do not send this.
    node_version: u8,
    /// It knows that a predecessor has a grace. Older versions do not send this.
    settles: bool,
}

impl Hello {
    fn write(&self, out: &mut Vec<u8>) {
        out.put_u16_le(self.shards);
        out.put_u64_le(self.message_bytes_max);
        out.put_u32_le(self.pid);
        out.put_u8(u8::from(self.asks));
        out.put_u32_le(self.takes);
        out.put_u8(self.node_version);
        out.put_u8(u8::from(self.settles));
    }

    fn read(mut from: &[u8]) -> Option<Hello> {
        let from = &mut from;
        let shards = from.try_get_u16_le().ok().filter(|shards| (1..SHARDS_MAX as u16).contains(shards))?;
        let message_bytes_max = from.try_get_u64_le().ok().filter(|bytes| *bytes <= 1 << 31)?;
        let pid = from.try_get_u32_le().ok()?;
        let asks = from.try_get_u8().is_ok_and(|byte| byte == 1);
        let takes = from.try_get_u32_le().unwrap_or_default();
        let node_version = from.try_get_u8().unwrap_or_default();
        let settles = from.try_get_u8().is_ok_and(|byte| byte == 1);
        Some(Hello { shards, message_bytes_max, pid, asks, takes, node_version, settles })
    }
}

/// A predecessor's offer. The descriptors of its listeners follow, those of `listeners` first, and then the socket for
/// questions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Offer {
    shards: u16,
    message_bytes_max: u64,
    pid: u32,
    /// The number of its first shard, in the numbers of clients.
    first_number: u8,
    digest_seed: u64,
    /// Which node of a cluster it is.
    node: Option<NodeId>,
    /// Secrets of the TLS tickets.
    tickets: Vec<u8>,
    /// Of each address, the number of its sockets, and whether the server removes the socket's file.
    listeners: Vec<(u16, bool)>,
    /// The same of the admin address.
    admin: Option<(u16, bool)>,
    /// It answers questions about connections. Older versions do not send this.
    answers: bool,
    /// It gives its open connections, too. Older versions do not send this.
    gives: bool,
    /// The version of its node's state. Older versions do not send this.
    node_version: u8,
    /// Its grace comes first, and it tells the successor when that is over. Older versions do not send this.
    settles: bool,
}

impl Offer {
    fn write(&self, out: &mut Vec<u8>) {
        let Offer { shards, message_bytes_max, pid, .. } = *self;
        out.put_u16_le(shards);
        out.put_u64_le(message_bytes_max);
        out.put_u32_le(pid);
        out.put_u8(self.first_number);
        out.put_u64_le(self.digest_seed);
        out.put_u64_le(self.node.map_or(0, |node| node.0));
        out.put_u16_le(self.tickets.len() as u16);
        out.put_slice(&self.tickets);
        out.put_u8(u8::from(self.admin.is_some()));
        out.put_u16_le(self.listeners.len() as u16);
        for (sockets, removes_file) in self.listeners.iter().chain(&self.admin) {
            out.put_u16_le(*sockets);
            out.put_u8(u8::from(*removes_file));
        }
        out.put_u8(u8::from(self.answers));
        out.put_u8(u8::from(self.gives));
        out.put_u8(self.node_version);
        out.put_u8(u8::from(self.settles));
    }

    fn read(from: &[u8]) -> Option<Offer> {
        let (hello, mut from) = from.split_at_checked(2 + 8 + 4)?;
        let Hello { shards, message_bytes_max, pid, .. } = Hello::read(hello)?;
        let from = &mut from;
        let (first_number, digest_seed) = (from.try_get_u8().ok()?, from.try_get_u64_le().ok()?);
        let node = Some(from.try_get_u64_le().ok()?).filter(|node| *node != 0).map(NodeId);
        let tickets_bytes = from.try_get_u16_le().ok()?;
        let (tickets, rest) = from.split_at_checked(tickets_bytes.into())?;
        *from = rest;
        let has_admin = from.try_get_u8().ok()? == 1;
        let mut listeners = Vec::new();
        let count = from.try_get_u16_le().ok()?;
        let mut next = || Some((from.try_get_u16_le().ok()?, from.try_get_u8().ok()? == 1));
        for _ in 0..count {
            listeners.push(next()?);
        }
        let admin = if has_admin { Some(next()?) } else { None };
        let mut flag = || from.try_get_u8().is_ok_and(|byte| byte == 1);
        let (answers, gives) = (flag(), flag());
        let node_version = from.try_get_u8().unwrap_or_default();
        let settles = from.try_get_u8().is_ok_and(|byte| byte == 1);
        let tickets = tickets.to_vec();
        let of_process =
            Offer { shards, message_bytes_max, pid, first_number, digest_seed, ..Offer::default() };
        Some(Offer { node, tickets, listeners, admin, answers, gives, node_version, settles, ..of_process })
    }

    /// The number of the successor's first shard: no client of one has the number of a client of the other.
    fn next_number(&self) -> u8 {
        self.first_number.wrapping_add(self.shards as u8)
    }

    /// Its clients.
    fn clients(&self) -> ClientNumbers {
        ClientNumbers { first: self.first_number, shards: self.shards }
    }
}

/// Reads the data of two processes about themselves, and writes them again. For fuzzing.
#[doc(hidden)]
pub fn reread_offer(body: &[u8]) -> Option<Vec<u8>> {
    let mut written = Vec::new();
    Offer::read(body)?.write(&mut written);
    Some(written)
}

/// The link to another process.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// The shards exchange mail with those of the other process.
    is_carrying: bool,
    /// The predecessor has a grace, in which the end of this server gives everything back to it.
    is_unsettled: bool,
}

/// The link to another process, with its waiters, and the server's predecessor and successor.
#[derive(Debug, Default)]
pub(crate) struct HandoverState {
    link: Mutex<Link>,
    /// Files and addresses are the successor's.
    has_successor: AtomicBool,
    changed: Condvar,
    /// Successors, and new shards, that did not take over.
    pub(crate) failed: AtomicU64,
    /// The server before this one, which drains or has drained.
    pub(crate) predecessor: OnceLock<Arc<DrainingPredecessor>>,
    /// The end of the socket on which the successor asks.
    questions: Mutex<Option<UnixStream>>,
    /// Where this server waits for a successor, until it has one or ends.
    waiting: Mutex<Option<OwnSuccessor>>,
}

/// Called with the events of a takeover.
type OnEvent = Box<dyn Fn(Event<'_>) + Send>;

/// Serves a successor of this process at a socket.
#[derive(Clone)]
struct OwnSuccessor(Arc<dyn Fn(UnixStream, OnEvent) -> io::Result<()> + Send + Sync>);

impl fmt::Debug for OwnSuccessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnSuccessor").finish_non_exhaustive()
    }
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

    fn waiting(&self) -> MutexGuard<'_, Option<OwnSuccessor>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No successor of this process is served any more. That would keep the server's handle, which keeps this.
    pub(crate) fn end_waiting(&self) {
        self.waiting().take();
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
    use echoring_topics::ClientId;

    use super::*;

    #[test]
    fn what_they_say_of_themselves_is_read_as_it_was_written() {
        let hello = Hello {
            shards: 3,
            message_bytes_max: 1 << 31,
            pid: 7,
            asks: true,
            takes: 9,
            node_version: 2,
            settles: true,
        };
        let mut bytes = Vec::new();
        hello.write(&mut bytes);
        assert_eq!(Hello::read(&bytes), Some(hello));
        // Versions that know less end earlier.
        bytes.pop();
        let hello = Hello { settles: false, ..hello };
        assert_eq!(Hello::read(&bytes), Some(hello));
        bytes.pop();
        let hello = Hello { node_version: 0, ..hello };
        assert_eq!(Hello::read(&bytes), Some(hello));
        bytes.truncate(bytes.len() - 4);
        assert_eq!(Hello::read(&bytes), Some(Hello { takes: 0, ..hello }));
        bytes.pop();
        assert_eq!(Hello::read(&bytes), Some(Hello { asks: false, takes: 0, ..hello }));
        for end in 0..bytes.len() {
            assert_eq!(Hello::read(&bytes[..end]), None, "{end}");
        }
        let offer = Offer {
            shards: 250,
            message_bytes_max: 1,
            pid: 7,
            first_number: 10,
            node: Some(NodeId(9)),
            digest_seed: 1 << 60,
            tickets: vec![1; 100],
            listeners: vec![(250, false), (1, true)],
            admin: Some((1, true)),
            answers: true,
            gives: true,
            node_version: 2,
            settles: true,
        };
        bytes.clear();
        offer.write(&mut bytes);
        assert_eq!(Offer::read(&bytes).as_ref(), Some(&offer));
        bytes.pop();
        let offer = Offer { settles: false, ..offer };
        assert_eq!(Offer::read(&bytes).as_ref(), Some(&offer));
        bytes.pop();
        let offer = Offer { node_version: 0, ..offer };
        assert_eq!(Offer::read(&bytes).as_ref(), Some(&offer));
        bytes.pop();
        assert_eq!(Offer::read(&bytes), Some(Offer { gives: false, ..offer.clone() }));
        bytes.pop();
        assert_eq!(Offer::read(&bytes), Some(Offer { answers: false, gives: false, ..offer.clone() }));
        for end in 0..bytes.len() {
            assert_eq!(Offer::read(&bytes[..end]), None, "{end}");
        }
        assert_eq!(offer.next_number(), 4);
        let clients = [9, 10, 255, 0, 3, 4]
            .map(|number: u64| offer.clients().contains(ClientId::local(number << 56 | 5)));
        assert_eq!(clients, [false, true, true, true, true, false]);
    }
}
