//! Back ends over HTTP: services that are sent the events of a route's connections, and whose answers are carried out.
//!
//! Each back end has a thread. A connection has at most one request at a time, so its events stay in order: see [`connection`].

mod connection;
mod counters;
mod requests;
mod settings;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::io;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use echoring_async::tls::Source;
use tokio::sync::mpsc::UnboundedSender;

use crate::credentials::secret::{Digest, sha256};
use crate::error::LoadError;
use crate::file;
use crate::http::http_client::Endpoint;
use crate::http::load::Load;
use crate::http::signature::SigningSecrets;

pub use connection::{BackendConnection, BackendDelivery, BackendOutcome};
use counters::Counters;
pub use counters::{BackendFigures, EventCounts};
pub use settings::{BackendEvent, BackendSettings, ConnectFacts, OnFailure};
pub use wire::{BackendAction, BackendAnswer};

/// A back end. The connections of its path share it.
pub struct Backend {
    settings: BackendSettings,
    /// Tells whether the secrets are the same.
    secret_digest: Digest,
    secrets: SigningSecrets,
    endpoint: Endpoint,
    /// Events that wait.
    queue: Arc<Load>,
    /// Ends of connections have room of their own, a quarter of the other's: they are not lost because messages wait.
    ends: Arc<Load>,
    counters: Arc<Counters>,
    thread: OnceLock<UnboundedSender<requests::Job>>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Backend {
    /// Reads the secrets and checks the URL. Starts nothing and sends nothing.
    ///
    /// # Errors
    /// If one of them cannot be used; the setting is `url`, or `secret` or `secret_file`.
    pub fn load(settings: BackendSettings) -> Result<Backend, LoadError> {
        let endpoint = Endpoint::parse("url", &settings.url)?;
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
            endpoint,
            queue: Load::of_at_most(usize::MAX, settings.queue_bytes),
            ends: Load::of_at_most(usize::MAX, settings.queue_bytes / 4),
            counters: Arc::default(),
            thread: OnceLock::new(),
            settings,
        })
    }

    /// Starts the thread, if it does not run yet. It ends with this value and its connections.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(&self) -> io::Result<()> {
        if self.thread.get().is_none() {
            // Only one thread starts it.
            let _ = self.thread.set(requests::start(self)?);
        }
        Ok(())
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
        let queued_bytes = self.queue.bytes() + self.ends.bytes();
        self.counters.figures(&self.settings.path, queued_bytes)
    }

    /// Waits until nothing waits for the back end, at most until a time.
    pub fn finish(&self, until: Instant) {
        let Some(thread) = self.thread.get() else { return };
        let (done, is_done) = mpsc::sync_channel(1);
        // The thread ends after this value.
        if thread.send(requests::Job::Finish(done)).is_ok() {
            let _ = is_done.recv_timeout(until.saturating_duration_since(Instant::now()));
        }
    }

    fn run(&self, connection: Arc<connection::Line>) {
        // Before the start nothing is accepted.
        if let Some(thread) = self.thread.get() {
            let _ = thread.send(requests::Job::Run(connection));
        }
    }
}
