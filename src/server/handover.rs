//! Takeover: a successor gets the listeners and the topics of the running server, which then drains.
//!
//! ```text
//! successor                                predecessor
//!     ── Hello ───────────────────────────────>
//!     <──────────── Offer, and the listeners ──   nothing has changed so far
//!   starts everything that can fail
//!     ── Begin, with its back ends' paths ────>   orders nothing more; publications wait
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
//! their own, which comes with the listeners: see `processes::questions`. From `Go` on the predecessor refuses such commands, unless it
//! goes on by itself.
//!
//! Its open connections move to the successor on another such socket: see `connections`. Only those that cannot move drain.
//!
//! They meet at a Unix socket: one in the abstract namespace for each address, or a file. Each trusts its own user and root
//! only. The first line in each direction has the version; both sides refuse others in words.

#![forbid(unsafe_code)]

mod connections;
mod meeting;
mod predecessor;
mod successor;

// For simulations of the shards' part.
#[doc(hidden)]
pub use crate::processes::carrier::{Route, Translate};
pub use meeting::{Event, MeetingPoint};
#[doc(hidden)]
pub use predecessor::FromSuccessor;
pub use predecessor::Offering;
pub(crate) use predecessor::wait_for_successor;
pub use successor::Predecessor;
#[doc(hidden)]
pub use successor::{FromPredecessor, Imported, NewPlaces, split};

use std::io;

use echoring_broker::broadcast::Ids;
use echoring_cluster::NodeId;
use echoring_proto::{Plain as _, plain};

/// The first line of a successor.
const REQUEST: &str = "echoring takeover 7";
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
    use crate::commands::move_order::Staying;
    use crate::node::config::KnownClients;
    use crate::processes::carrier::Told;

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
        let table = include_str!("processes/wire.rs").lines().filter(|line| line.contains(": FrameKind = "));
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
        assert_eq!((REQUEST, digest), ("echoring takeover 7", DIGEST));
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
