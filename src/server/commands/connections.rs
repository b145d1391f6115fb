//! The open connections of a node, for operators: questions about them, and the answers.
//!
//! Nothing is kept for this. A shard answers by looking at its connections in turn, some in each tick, and asks the kernel
//! for addresses. See `service::inspection` for the shard's part and `connections::pages` of the admin address for that of the asking
//! thread.

mod scan;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use echoring_auth::ServerSubscription;
use echoring_proto::CloseCode;
use echoring_proto::limits::{CONTROL_PAYLOAD_BYTES_MAX, Nanos};
use echoring_runtime::admission::{AddressBlock, BadBlock};
use echoring_runtime::driver::Token;
use echoring_topics::ClientId;
use echoring_wire::centrifuge::ErrorCode;
use serde::{Deserialize, Serialize};

use crate::limits::{CONNECTION_RANK_TIME, CONNECTION_SCAN_TIME};
use echoring_broker::limits::SNAPSHOT_TIMEOUT;
use echoring_broker::publications::OwnedPublication;

pub(crate) use scan::Scan;

/// A number in its only form: no sign, no leading zeros.
pub fn decimal(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Which connections are asked for. Without any field, all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// The addresses of this block. Connections without an address, as on a Unix socket, are in none.
    pub address: Option<AddressBlock>,
    /// Those of this subject.
    pub identity: Option<Box<str>>,
    /// The subscribers of this topic.
    pub topic: Option<Box<str>>,
    /// The connection of the client with this id.
    pub client: Option<ClientId>,
    /// Not those of the clients with these ids.
    pub kept_clients: Box<[ClientId]>,
}

impl ConnectionFilter {
    /// Whether it lets everything pass.
    pub fn is_empty(&self) -> bool {
        let ConnectionFilter { address, identity, topic, client, kept_clients } = self;
        address.is_none()
            && identity.is_none()
            && topic.is_none()
            && client.is_none()
            && kept_clients.is_empty()
    }

    /// Whether the client with this id passes.
    pub fn has_client(&self, id: ClientId) -> bool {
        self.client.is_none_or(|client| client == id) && !self.kept_clients.contains(&id)
    }
}

/// The Close frame of connections that an operator closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorClose {
    /// The close code.
    pub code: CloseCode,
    /// At most [`CLOSE_REASON_BYTES_MAX`].
    pub reason: Box<str>,
}

/// Maximum bytes of the reason in a Close frame: the payload of a control frame without the code.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_PAYLOAD_BYTES_MAX - 2;

impl Default for OperatorClose {
    fn default() -> OperatorClose {
        OperatorClose { code: CloseCode::CLOSED_BY_OPERATOR, reason: "closed by an operator".into() }
    }
}

/// The block of a filter: one address, or a prefix as `10.0.0.0/8`. An IPv4 address that is mapped into IPv6 is IPv4.
pub fn address_block(text: &str) -> Result<AddressBlock, BadBlock> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_canonical().into()),
        Err(_) => AddressBlock::around(text),
    }
}

/// The action of a shard for the connections that it finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanAction {
    /// Report at most this number.
    List(usize),
    /// Find the first ones in this order, at most this number.
    Rank(usize, RankBy),
    /// Close them.
    Close(OperatorClose),
    /// Subscribe their sessions of Centrifuge's protocol to a topic.
    Subscribe(ServerSubscription),
    /// End the subscriptions of their sessions to this topic.
    Unsubscribe(Box<str>),
    /// Let their credentials expire at this time, in seconds since 1970, or never.
    Refresh(Option<u64>),
    /// Send them a message. Its keys are not used.
    Send(Arc<OwnedPublication>),
}

impl ScanAction {
    /// Time that a shard has for it.
    pub fn time(&self) -> Nanos {
        if matches!(self, ScanAction::Rank(..)) { CONNECTION_RANK_TIME } else { CONNECTION_SCAN_TIME }
    }

    /// Time within which a shard answers, unless it is stuck.
    pub fn patience(&self) -> Duration {
        Duration::from_nanos(self.time() + SNAPSHOT_TIMEOUT)
    }
}

/// An order of connections, the largest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankBy {
    /// Bytes that the kernel has not accepted.
    Queued,
    /// Bytes of messages that they were not sent; of those with as many, the queued bytes.
    Lag,
}

/// Where a shard looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Candidates {
    /// At all connections from this index on.
    From(u32),
    /// At these connections.
    These(Vec<Token>),
    /// At the connection of a back end that has kept this id.
    Kept(Box<str>),
}

/// A question to one shard about its open connections.
#[derive(Debug)]
pub struct ConnectionScan {
    pub(crate) filter: ConnectionFilter,
    pub(crate) action: ScanAction,
    pub(crate) candidates: Candidates,
    /// Gets the number of the shard with the answer.
    pub(crate) reply: mpsc::SyncSender<(usize, ScanReport)>,
}

/// The answer to a [`ConnectionScan`].
#[derive(Debug, Default, PartialEq)]
pub struct ScanReport {
    /// In the order of their indexes.
    pub connections: Vec<ConnectionReport>,
    /// The ranks of those that are first, in any order.
    pub ranked: Vec<(u64, Token)>,
    /// How many were closed, subscribed or unsubscribed, or were sent the message.
    pub changed: usize,
    /// Why a session was not subscribed.
    pub failed: Option<ErrorCode>,
    /// How many were not sent the message, because too much is queued for them.
    pub busy: usize,
    /// How many of the connections that were to be looked at are closed.
    pub ended: usize,
    /// The index at which the scan would continue; `None` if it has seen all.
    pub next: Option<u32>,
}

impl ConnectionReport {
    /// Its rank in an order.
    pub fn rank(&self, by: RankBy) -> u64 {
        by.rank(self.queued_bytes, self.lag_bytes)
    }
}

impl RankBy {
    /// The rank of a connection with these bytes.
    pub fn rank(self, queued: u32, lag: Option<u64>) -> u64 {
        match self {
            RankBy::Queued => queued.into(),
            RankBy::Lag => lag.unwrap_or(0).min(u32::MAX.into()) << 32 | u64::from(queued),
        }
    }
}

/// An open connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionReport {
    /// Its [`ConnectionId`](echoring_broker::broadcast::ConnectionId).
    pub id: String,
    /// Its index on its shard, where a cut answer goes on.
    #[serde(skip)]
    pub(crate) index: u32,
    /// The shard of its process.
    pub shard: usize,
    /// None for the process that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<OtherProcess>,
    /// `IP:PORT`; none on a Unix socket, or if the kernel cannot tell.
    pub address: Option<String>,
    /// The subject of its credentials.
    pub identity: Option<Box<str>>,
    /// The name of its route.
    pub route: Cow<'static, str>,
    /// The path of its request, if the access log keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Of sessions; that of other routes is not kept.
    pub subprotocol: Option<Cow<'static, str>>,
    /// The first topics that it subscribes to.
    pub topics: Vec<Box<str>>,
    /// How many topics it subscribes to.
    pub topic_count: usize,
    /// Since it was accepted, if the access log records it.
    pub open_s: Option<f64>,
    /// Bytes that the kernel has not accepted.
    pub queued_bytes: u32,
    /// Unsent messages of its topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// Whether it uses TLS.
    pub is_tls: bool,
    /// Its TCP, if the kernel tells: not on Unix sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpReport>,
}

/// The TCP of a connection, as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpReport {
    /// The smoothed round trip in microseconds.
    pub round_trip_us: u64,
    /// Segments with data that were sent since the connection began, those that were sent again included.
    pub segments_sent: u32,
    /// Segments that were sent again.
    pub segments_retransmitted: u32,
}

/// A process whose connections another one shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OtherProcess {
    /// The one before it, which drains.
    #[serde(rename = "predecessor")]
    Previous,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_ranks_before_queued_bytes() {
        let ranks = [(7, None), (1, Some(0)), (0, Some(9)), (5, Some(9)), (0, Some(u64::MAX))];
        let order = |by: RankBy| {
            let mut places: Vec<usize> = (0..ranks.len()).collect();
            places.sort_by_key(|at| by.rank(ranks[*at].0, ranks[*at].1));
            places
        };
        assert_eq!(order(RankBy::Lag), [1, 0, 2, 3, 4]);
        assert_eq!(order(RankBy::Queued), [2, 4, 1, 3, 0]);
    }

    #[test]
    fn a_block_is_an_address_or_a_prefix() {
        let contains = |block: &str, address: &str| {
            let address: IpAddr = address.parse().expect("an address");
            address_block(block).expect("a block").contains(address.to_canonical())
        };
        assert!(contains("192.0.2.1", "192.0.2.1") && !contains("192.0.2.1", "192.0.2.2"));
        assert!(contains("192.0.2.1", "::ffff:192.0.2.1") && contains("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("2001:db8::/32", "2001:db8:1::1") && !contains("2001:db8::/32", "2001:db9::1"));
        assert!(contains("0.0.0.0/0", "1.2.3.4") && !contains("0.0.0.0/0", "::1"));
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "10.0.0.1:80", "host", "10.0.0.0/", "::/129"] {
            assert!(address_block(wrong).is_err(), "{wrong:?}");
        }
    }
}
