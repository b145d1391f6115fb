//! Back ends over HTTP: services that are sent the events of a route's connections, and whose answers are carried out.
//!
//! A connection has at most one request at a time, so its events stay in order: see [`connection`].

mod connection;
mod counters;
mod requests;
mod settings;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use echoring_async::tls::Source;
use tokio::sync::Semaphore;

use crate::calls::http_client::HttpClient;
use crate::calls::load::Load;
use crate::calls::signature::SigningSecrets;
use crate::calls::{BACKENDS, Begun, Inlet, Queue, Row, Running};
use crate::credentials::secret::{Digest, sha256};
use crate::error::LoadError;
use crate::file;

use connection::Line;
pub use connection::{BackendConnection, BackendDelivery, BackendOutcome};
pub use counters::BackendFigures;
use counters::Counters;
pub use settings::{BackendEvent, BackendSettings, ConnectFacts, OnFailure};
pub use wire::{BackendAction, BackendAnswer};

/// A back end. The connections of its path share it.
pub struct Backend {
    settings: BackendSettings,
    /// Tells whether the secrets are the same.
    secret_digest: Digest,
    secrets: SigningSecrets,
    client: HttpClient,
    /// Events that wait, and requests.
    queue: Queue,
    /// Ends of connections have room of their own, a quarter of the other's, before they take of that: they are not lost because messages
    /// wait.
    ends: Arc<Load>,
    counters: Arc<Counters>,
    /// A connection is on its way once, so there are at most as many as connections.
    inlet: Inlet<(Arc<Line>, Begun)>,
    /// Connections whose events are being sent.
    running: Arc<Running>,
}

opaque!(Backend, |it| settings: it.settings);

impl Backend {
    /// Reads the secrets and checks the URL. Starts nothing and sends nothing.
    ///
    /// # Errors
    /// If one of them cannot be used; the setting is `url`, or `secret` or `secret_file`.
    pub fn load(settings: BackendSettings) -> Result<Backend, LoadError> {
        let client = HttpClient::parse("url", &settings.url, BACKENDS.answer_bytes_max)?;
        let (setting, contents) = match &settings.secret {
            Source::File(path) => ("secret_file", file::read("secret_file", path)?),
            Source::Memory(contents) => ("secret", contents.clone()),
        };
        let secrets = SigningSecrets::of_bytes(&contents).map_err(|problem| match &settings.secret {
            Source::File(path) => LoadError::in_file(setting, path, problem),
            Source::Memory(_) => LoadError::new(setting, problem),
        })?;
        Ok(Backend {
            secret_digest: sha256(&contents),
            secrets,
            client,
            queue: Row {
                waiting_bytes_max: settings.queue_bytes,
                requests_max: settings.requests_max,
                ..BACKENDS
            }
            .queue(),
            ends: Load::of_at_most(usize::MAX, settings.queue_bytes / 4),
            counters: Arc::default(),
            inlet: Inlet::default(),
            running: Arc::default(),
            settings,
        })
    }

    /// Has events sent from now on.
    ///
    /// # Errors
    /// If the thread for calls cannot be started.
    pub fn start(&self) -> io::Result<()> {
        self.inlet.start(Semaphore::MAX_PERMITS, requests::send_all)
    }

    /// The settings.
    pub fn settings(&self) -> &BackendSettings {
        &self.settings
    }

    /// Whether it is sent an event.
    pub fn has(&self, event: BackendEvent) -> bool {
        self.settings.events.contains(&event)
    }

    /// Tells whether `other` does the same, secrets included.
    pub fn is_same(&self, other: &Backend) -> bool {
        self.settings == other.settings && self.secret_digest == other.secret_digest
    }

    /// Goes on with the counters of `used`, which has the same path.
    pub fn count_with(&mut self, used: &Backend) {
        self.counters = Arc::clone(&used.counters);
    }

    /// The state of the back end.
    pub fn figures(&self) -> BackendFigures {
        let queued_bytes = self.queue.waiting.bytes() + self.ends.bytes();
        self.counters.figures(&self.settings, self.queue.turns.taken(), queued_bytes)
    }

    /// Waits until nothing waits for the back end, at most until a time.
    pub fn finish(&self, until: Instant) {
        self.running.finish(until);
    }
}
