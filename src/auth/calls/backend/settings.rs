//! The events of connections, and the settings of back ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use echoring_async::tls::Source;

use crate::calls::head::OwnedHead;
use crate::identity::Identity;
use crate::limits::{
    BACKEND_QUEUE_BYTES_DEFAULT, BACKEND_REQUESTS_DEFAULT, BACKEND_RETRIES_DEFAULT, BACKEND_TIMEOUT_DEFAULT,
};

/// An event of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendEvent {
    /// A client asks for a connection.
    Connect,
    /// It has sent a message.
    Message,
    /// The connection is closed.
    Disconnect,
}

impl BackendEvent {
    /// All events, by the words for them in configurations, requests and metrics.
    pub const ALL: [(&'static str, BackendEvent); 3] = [
        ("connect", BackendEvent::Connect),
        ("message", BackendEvent::Message),
        ("disconnect", BackendEvent::Disconnect),
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        BackendEvent::ALL[self as usize].0
    }
}

/// What happens to a connection whose back end fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It is refused or closed.
    Close,
    /// It is let in, and goes on. Messages are lost, which is counted.
    Pass,
}

/// The settings of a back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSettings {
    /// The pattern of the paths whose connections it serves.
    pub path: String,
    /// Where requests go.
    pub url: String,
    /// The name of this server, which each event has; empty for none.
    pub node: String,
    /// The secrets that sign requests, see [`SigningSecrets::parse`](crate::SigningSecrets::parse).
    pub secret: Source,
    /// The events that it is sent.
    pub events: Vec<BackendEvent>,
    /// Maximum messages in a request; with 1, a request has no list of them.
    pub batch: usize,
    /// Maximum time for an answer.
    pub timeout: Duration,
    /// Maximum number of further attempts.
    pub retries: u32,
    /// What happens to a connection when there is no usable answer.
    pub on_failure: OnFailure,
    /// Requests at the same time.
    pub requests_max: usize,
    /// Bytes of the events that wait, those in progress included.
    pub queue_bytes: usize,
}

impl BackendSettings {
    /// A back end for a path, with the default settings.
    pub fn new(path: impl Into<String>, url: impl Into<String>, secret: Source) -> BackendSettings {
        BackendSettings {
            path: path.into(),
            url: url.into(),
            node: String::new(),
            secret,
            events: BackendEvent::ALL.map(|(_, event)| event).to_vec(),
            batch: 1,
            timeout: BACKEND_TIMEOUT_DEFAULT,
            retries: BACKEND_RETRIES_DEFAULT,
            on_failure: OnFailure::Close,
            requests_max: BACKEND_REQUESTS_DEFAULT as usize,
            queue_bytes: BACKEND_QUEUE_BYTES_DEFAULT,
        }
    }
}

/// The facts about a request for a connection.
#[derive(Debug)]
pub struct ConnectFacts {
    /// Its head.
    pub head: OwnedHead,
    /// The address of the client.
    pub address: Option<SocketAddr>,
    /// The client, if it has presented credentials.
    pub client: Option<Arc<Identity>>,
}
