//! The log records of a shard's connections, with the addresses of their peers.
//!
//! A driver looks up an address on request and reports it in a later tick. Until then the record waits here, and its
//! connection stays open. Lookups are bounded per second; past the bound, records have no address. With `debug` enabled,
//! the address of every accepted connection is looked up.
//!
//! Never: anything on the path of a message.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use tracing::{Level, enabled};

use super::access::{AccessLog, AccessRecord, Sampled};
use crate::driver::Token;
use crate::limits::{ACCESS_PATH_BYTES_MAX, LOG_FIELD_BYTES_MAX, LOG_LOOKUPS_PER_SECOND};
use crate::stats::Traffic;
use echoring_proto::CloseCode;
use echoring_proto::connection::{Cause, Closed};
use echoring_proto::handshake::{Refusal, Request};
use echoring_proto::limits::{Nanos, SECOND};

/// The connections of a shard with pending records or looked-up addresses: few, unless `debug` is enabled.
#[derive(Debug, Default)]
pub(super) struct ConnectionLog {
    access: Option<Sampled>,
    connections: BTreeMap<Token, Note>,
    /// Connections whose address the application asked for.
    asked: BTreeSet<Token>,
    /// Start of the current lookup period.
    since: Nanos,
    lookups: u32,
}

#[derive(Debug, Default)]
pub(super) struct Note {
    /// `None` while the driver has not answered.
    pub(super) address: Option<Option<SocketAddr>>,
    pub(super) path: Option<String>,
    waiting: Vec<Record>,
    /// For the access log.
    pub(super) access: Option<Access>,
}

/// The data that only the access log needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) accepted_at: Nanos,
    status: Option<u16>,
}

/// The log's data of a connection, as plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlainNote<'a> {
    pub(super) address: Option<SocketAddr>,
    pub(super) path: Option<Cow<'a, str>>,
    /// Since it was accepted, if it gets a record in the access log.
    pub(super) age: Option<Nanos>,
    pub(super) status: Option<u16>,
    /// Its own traffic, which the counts of its shards contain already.
    pub(super) traffic: Option<Traffic>,
}

echoring_proto::plain!(for PlainNote<'a> { address, path, age, status, traffic });

/// The next step with an accepted connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    /// Its address must be looked up now.
    pub(super) wants_address: bool,
    /// Its messages and bytes must be counted by themselves.
    pub(super) wants_traffic: bool,
}

/// A pending log record.
#[derive(Debug)]
enum Record {
    Opened,
    Refused(Refused),
    OverLimit { limit: &'static str, left_out: u64 },
}

/// A refused request.
#[derive(Debug)]
pub(super) struct Refused {
    refusal: Refusal,
    path: Option<String>,
    origin: Option<String>,
}

impl Refused {
    /// A request that could not be parsed.
    pub(super) fn unread(refusal: &Refusal) -> Refused {
        Refused { refusal: *refusal, path: None, origin: None }
    }

    /// A request that could be parsed.
    pub(super) fn read(refusal: &Refusal, request: &Request<'_>) -> Refused {
        let (origin, most) = (request.header("origin").unwrap_or("-"), LOG_FIELD_BYTES_MAX);
        Refused { refusal: *refusal, path: Some(cut(request.path, most)), origin: Some(cut(origin, most)) }
    }
}

impl ConnectionLog {
    pub(super) fn set_access_log(&mut self, log: AccessLog) {
        self.access = Some(Sampled::new(log));
    }

    /// A connection was accepted.
    pub(super) fn accepted(&mut self, token: Token, now: Nanos) -> Accepted {
        let wants_traffic = self.access.as_mut().is_some_and(Sampled::takes_next);
        let wants_address = wants_traffic || enabled!(Level::DEBUG);
        if wants_address {
            let access = wants_traffic.then_some(Access { accepted_at: now, status: None });
            self.connections.insert(token, Note { access, ..Note::default() });
        }
        Accepted { wants_address, wants_traffic }
    }

    /// A request was answered with this status.
    pub(super) fn answered(&mut self, token: Token, status: u16) {
        if let Some(Note { access: Some(access), .. }) = self.connections.get_mut(&token) {
            access.status = Some(status);
        }
    }

    /// The application asked for an address.
    pub(super) fn asked(&mut self, token: Token) {
        self.asked.insert(token);
    }

    /// A request arrived.
    pub(super) fn requested(&mut self, token: Token, request: &Request<'_>) {
        if let Some(note) = self.connections.get_mut(&token) {
            let most = if note.access.is_some() { ACCESS_PATH_BYTES_MAX } else { LOG_FIELD_BYTES_MAX };
            note.path = Some(cut(request.path, most));
        }
    }

    /// The data about a connection: none for most.
    pub(super) fn note(&self, token: Token) -> Option<&Note> {
        self.connections.get(&token)
    }

    /// A request was answered with 101, or with an event stream.
    pub(super) fn opened(&mut self, token: Token) {
        if enabled!(Level::DEBUG) {
            self.log(token, Record::Opened);
        }
    }

    /// A request was refused. Called after the address was [requested](ConnectionLog::wants_address).
    pub(super) fn refused(&mut self, token: Token, refused: Refused) {
        self.log(token, Record::Refused(refused));
    }

    /// A connection was over a limit, and `left_out` records about that were left out before. Returns whether its address must
    /// be looked up first. Such records are rare, so the bound on lookups does not apply. A connection that has ended
    /// has no address.
    pub(super) fn over_limit(
        &mut self,
        token: Token,
        is_here: bool,
        limit: &'static str,
        left_out: u64,
    ) -> bool {
        let record = Record::OverLimit { limit, left_out };
        if !is_here || self.connections.contains_key(&token) {
            self.log(token, record);
            return false;
        }
        self.connections.insert(token, Note { waiting: vec![record], ..Note::default() });
        true
    }

    fn log(&mut self, token: Token, record: Record) {
        match self.connections.get_mut(&token) {
            None => record.log(None, None),
            Some(Note { address: Some(peer), path, .. }) => record.log(*peer, path.as_deref()),
            Some(note) => note.waiting.push(record),
        }
    }

    /// A record about a connection is due. Returns whether its address must be looked up first.
    pub(super) fn wants_address(&mut self, token: Token, now: Nanos) -> bool {
        if !enabled!(Level::INFO) || self.connections.contains_key(&token) {
            return false;
        }
        if now.saturating_sub(self.since) >= SECOND {
            (self.since, self.lookups) = (now, 0);
        }
        self.lookups += 1;
        let has_room = self.lookups <= LOG_LOOKUPS_PER_SECOND;
        if has_room {
            self.connections.insert(token, Note::default());
        }
        has_room
    }

    /// Whether a connection's address is awaited, so that it must not be closed.
    pub(super) fn awaits_address(&self, token: Token) -> bool {
        self.connections.get(&token).is_some_and(|note| note.address.is_none())
    }

    /// The driver reported an address. Returns whether the application asked for it.
    pub(super) fn addressed(&mut self, token: Token, peer: Option<SocketAddr>) -> bool {
        if let Some(note) = self.connections.get_mut(&token) {
            note.address = Some(peer);
            for record in note.waiting.drain(..) {
                record.log(peer, note.path.as_deref());
            }
        }
        self.asked.remove(&token)
    }

    /// The request named another address than that of the transport.
    pub(super) fn readdressed(&mut self, token: Token, client: SocketAddr) {
        if let Some(note) = self.connections.get_mut(&token) {
            note.address = Some(Some(client));
        }
    }

    /// A connection leaves for another shard. Returns what its log needs there.
    pub(super) fn given_up(
        &mut self,
        token: Token,
        traffic: Option<Traffic>,
        now: Nanos,
    ) -> Option<PlainNote<'static>> {
        self.asked.remove(&token);
        let Note { address, path, waiting, access } = self.connections.remove(&token)?;
        for waiting in waiting {
            waiting.log(address.flatten(), path.as_deref());
        }
        Some(PlainNote {
            address: address.flatten(),
            path: path.map(Cow::Owned),
            age: access.map(|access| now.saturating_sub(access.accepted_at)),
            status: access.and_then(|access| access.status),
            traffic,
        })
    }

    /// A connection has come from another shard.
    pub(super) fn taken_in(&mut self, token: Token, note: PlainNote<'_>, now: Nanos) {
        let PlainNote { address, path, age, status, .. } = note;
        let access = age.map(|age| Access { accepted_at: now.saturating_sub(age), status });
        let path = path.map(Cow::into_owned);
        self.connections.insert(token, Note { address: Some(address), path, access, ..Note::default() });
    }

    /// A connection has ended `now`. `record` has what the log does not know.
    pub(super) fn closed(&mut self, token: Token, closed: &Closed, record: AccessRecord<'_>, now: Nanos) {
        if !self.asked.is_empty() {
            self.asked.remove(&token);
        }
        let note = if self.connections.is_empty() { None } else { self.connections.remove(&token) };
        let Note { address, path, waiting, access } = note.unwrap_or_default();
        let peer = address.flatten();
        for waiting in waiting {
            waiting.log(peer, path.as_deref());
        }
        if let (Some(log), Some(Access { accepted_at, status })) = (&self.access, access) {
            let (path, cause) = (path.as_deref(), closed.cause.name());
            let duration = now.saturating_sub(accepted_at);
            log.write(&AccessRecord { address: peer, path, status, cause, duration, ..record });
        }
        log_end(peer, closed);
    }
}

impl Record {
    fn log(&self, peer: Option<SocketAddr>, path: Option<&str>) {
        let address = peer.map(|peer| tracing::field::display(peer.ip()));
        let peer = peer.map(tracing::field::display);
        match self {
            Record::OverLimit { limit, left_out } => {
                tracing::warn!(peer = address, limit, left_out, "address over a limit");
            }
            Record::Opened => tracing::debug!(peer, path, "connection opened"),
            Record::Refused(Refused { refusal, path, origin }) => {
                let Refusal { status, reason, hint, .. } = *refusal;
                let (path, origin) = (path.as_deref(), origin.as_deref());
                tracing::info!(peer, status, reason, hint, path, origin, "request refused");
            }
        }
    }
}

/// Whether the end of a connection is logged with its peer.
pub(super) fn is_notable(closed: &Closed) -> bool {
    matches!(closed.cause, Cause::ProtocolError(_) | Cause::Tls(..)) || is_slow_consumer(closed)
}

fn is_slow_consumer(closed: &Closed) -> bool {
    /// The same in Centrifuge's protocol.
    const CENTRIFUGE_SLOW: CloseCode = CloseCode(3008);
    matches!(closed.code, CloseCode::SLOW_CONSUMER | CENTRIFUGE_SLOW) && closed.cause == Cause::Local
}

fn log_end(peer: Option<SocketAddr>, closed: &Closed) {
    let peer = peer.map(tracing::field::display);
    let code = closed.code.0;
    match &closed.cause {
        Cause::ProtocolError(offence) => {
            tracing::info!(peer, code, %offence, "connection closed for a protocol error");
        }
        Cause::Tls(fault, detail) => tracing::info!(peer, fault = fault.name(), detail, "TLS failed"),
        _ if is_slow_consumer(closed) => tracing::info!(peer, code, "slow consumer disconnected"),
        cause => tracing::debug!(peer, code, cause = cause.name(), "connection closed"),
    }
}

/// A text, truncated to the length of a log field.
fn cut(text: &str, bytes_max: usize) -> String {
    text.chars().take(bytes_max + 1).collect()
}
