//! What a shard logs about connections, with the addresses of their peers.
//!
//! A driver finds out an address when it is asked to, and tells it in a later turn. Until then a record waits here, and
//! its connection is not closed. Lookups are bounded per second; past the bound, records go without an address. With
//! `debug` enabled every connection's address is looked up, when it is accepted.
//!
//! Never: anything on the path of a message.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use tracing::{Level, enabled};

use crate::connection::{Cause, Closed};
use crate::driver::Token;
use crate::limits::{LOG_FIELD_BYTES_MAX, LOG_LOOKUPS_PER_SECOND, Nanos, SECOND};
use crate::protocol::CloseCode;
use crate::protocol::handshake::{Refusal, Request};

/// The connections of a shard that the log knows something about: few, unless it is asked about all.
#[derive(Debug, Default)]
pub(super) struct Notes {
    notes: BTreeMap<Token, Note>,
    /// Connections whose address the application asked for.
    asked: BTreeSet<Token>,
    /// Since when lookups are counted.
    since: Nanos,
    lookups: u32,
}

#[derive(Debug, Default)]
struct Note {
    address: Address,
    path: Option<String>,
    waiting: Vec<Record>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Address {
    /// The driver was asked.
    #[default]
    Awaited,
    Known(Option<SocketAddr>),
}

/// Something to be logged.
#[derive(Debug)]
enum Record {
    Opened,
    Refused(Refused),
}

/// A refused request.
#[derive(Debug)]
pub(super) struct Refused {
    refusal: Refusal,
    path: Option<String>,
    origin: Option<String>,
}

impl Refused {
    /// One that could not be read.
    pub(super) fn unread(refusal: &Refusal) -> Refused {
        Refused { refusal: *refusal, path: None, origin: None }
    }

    /// One that could.
    pub(super) fn read(refusal: &Refusal, request: &Request<'_>) -> Refused {
        let origin = request.header("origin").unwrap_or("-");
        Refused { refusal: *refusal, path: Some(cut(request.path)), origin: Some(cut(origin)) }
    }
}

impl Notes {
    /// A connection was accepted. Whether its address is to be looked up now.
    pub(super) fn accepted(&mut self, token: Token) -> bool {
        let wanted = enabled!(Level::DEBUG);
        if wanted {
            self.notes.insert(token, Note::default());
        }
        wanted
    }

    /// The application asked for an address.
    pub(super) fn asked(&mut self, token: Token) {
        self.asked.insert(token);
    }

    /// A request came.
    pub(super) fn requested(&mut self, token: Token, request: &Request<'_>) {
        if let Some(note) = self.notes.get_mut(&token) {
            note.path = Some(cut(request.path));
        }
    }

    /// A request was answered with 101.
    pub(super) fn opened(&mut self, token: Token) {
        if enabled!(Level::DEBUG) {
            self.log(token, Record::Opened);
        }
    }

    /// A request was refused: to be called when the address has been [wanted](Notes::wants_address).
    pub(super) fn refused(&mut self, token: Token, refused: Refused) {
        self.log(token, Record::Refused(refused));
    }

    fn log(&mut self, token: Token, record: Record) {
        match self.notes.get_mut(&token) {
            None => record.log(None, None),
            Some(Note { address: Address::Known(peer), path, .. }) => record.log(*peer, path.as_deref()),
            Some(note) => note.waiting.push(record),
        }
    }

    /// Something is to be logged about a connection. Whether its address is to be looked up first.
    pub(super) fn wants_address(&mut self, token: Token, now: Nanos) -> bool {
        if !enabled!(Level::INFO) || self.notes.contains_key(&token) {
            return false;
        }
        if now.saturating_sub(self.since) >= SECOND {
            (self.since, self.lookups) = (now, 0);
        }
        self.lookups += 1;
        let has_room = self.lookups <= LOG_LOOKUPS_PER_SECOND;
        if has_room {
            self.notes.insert(token, Note::default());
        }
        has_room
    }

    /// Whether a connection's address is awaited, so that it must not be closed.
    pub(super) fn awaits_address(&self, token: Token) -> bool {
        self.notes.get(&token).is_some_and(|note| note.address == Address::Awaited)
    }

    /// The driver told an address. Whether the application asked for it.
    pub(super) fn addressed(&mut self, token: Token, peer: Option<SocketAddr>) -> bool {
        if let Some(note) = self.notes.get_mut(&token) {
            note.address = Address::Known(peer);
            for record in note.waiting.drain(..) {
                record.log(peer, note.path.as_deref());
            }
        }
        self.asked.remove(&token)
    }

    /// A connection is gone.
    pub(super) fn closed(&mut self, token: Token, closed: &Closed) {
        if !self.asked.is_empty() {
            self.asked.remove(&token);
        }
        let note = if self.notes.is_empty() { None } else { self.notes.remove(&token) };
        let Note { address, path, waiting } =
            note.unwrap_or(Note { address: Address::Known(None), path: None, waiting: Vec::new() });
        let peer = match address {
            Address::Known(peer) => peer,
            Address::Awaited => None,
        };
        for record in waiting {
            record.log(peer, path.as_deref());
        }
        log_end(peer, closed);
    }
}

impl Record {
    fn log(&self, peer: Option<SocketAddr>, path: Option<&str>) {
        let peer = peer.map(tracing::field::display);
        match self {
            Record::Opened => tracing::debug!(peer, path, "connection opened"),
            Record::Refused(Refused { refusal, path, origin }) => {
                let Refusal { status, reason, cure, .. } = *refusal;
                let (path, origin) = (path.as_deref(), origin.as_deref());
                tracing::info!(peer, status, reason, cure, path, origin, "request refused");
            }
        }
    }
}

/// Whether the end of a connection is worth a record that names its peer.
pub(super) fn is_notable(closed: &Closed) -> bool {
    matches!(closed.cause, Cause::Offence(_) | Cause::Tls(..)) || is_slow_consumer(closed)
}

fn is_slow_consumer(closed: &Closed) -> bool {
    closed.code == CloseCode::SLOW_CONSUMER && closed.cause == Cause::Local
}

fn log_end(peer: Option<SocketAddr>, closed: &Closed) {
    let peer = peer.map(tracing::field::display);
    let code = closed.code.0;
    match &closed.cause {
        Cause::Offence(offence) => {
            tracing::info!(peer, code, %offence, "connection closed for an offence");
        }
        Cause::Tls(fault, detail) => tracing::info!(peer, fault = fault.name(), detail, "TLS failed"),
        _ if is_slow_consumer(closed) => tracing::info!(peer, code, "slow consumer disconnected"),
        cause => tracing::debug!(peer, code, cause = cause.name(), "connection closed"),
    }
}

/// As much of a text as a record shows.
fn cut(text: &str) -> String {
    text.chars().take(LOG_FIELD_BYTES_MAX + 1).collect()
}
