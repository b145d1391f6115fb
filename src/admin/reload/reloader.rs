//! Reloads the configuration of a program, and reports the result.
//!
//! One thread does it, for every cause: SIGHUP, `POST /reload`, and files that have changed. A configuration that is wrong
//! changes nothing.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use echoring_server::machinery::{CarryOut, ProgramOrder};
use serde::Serialize;

use super::watch::{FileVersion, Watched};
use super::{Reload, ReloadCounters, Reloaded, Reloading, log_level};
use crate::limits::{RELOAD_TIMEOUT, WATCH_INTERVAL};

/// The configuration of a running program.
pub trait Configuration: Send + 'static {
    /// Reads all of it again, or only the watched files, and applies the changes that a running server can make.
    ///
    /// # Errors
    /// Why it cannot be used; then nothing was changed.
    fn reload(&mut self, only_watched: bool) -> Result<ReloadReport, String>;

    /// Has a process before this one, which drains, read its configuration again.
    ///
    /// # Errors
    /// Why it does not.
    fn reload_elsewhere(&self) -> Result<(), String> {
        Ok(())
    }

    /// The files whose changes cause a reload, in the versions that were read.
    fn watched_files(&self) -> Vec<(PathBuf, FileVersion)>;
}

/// A report on a reload, see docs/reference/admin.md#reloading.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "echoring.reload/1")]
pub struct ReloadReport {
    /// Keys whose new values hold.
    pub changed: Vec<Change>,
    /// Keys whose new values need a restart.
    pub restart: Vec<Change>,
    /// Files that are not configuration, and have other contents.
    pub files: Vec<PathBuf>,
}

/// A key whose value has changed. `None` is a key that one of the two configurations does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The key of the configuration file.
    pub key: String,
    /// Its value until now.
    pub from: Option<String>,
    /// Its new value.
    pub to: Option<String>,
    /// Advice, where a restart is not the only way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Asks the thread for a reload, from any thread.
#[derive(Clone, Debug)]
pub struct Reloader {
    requests: mpsc::Sender<Request>,
    counters: Arc<ReloadCounters>,
}

#[derive(Debug)]
struct Request {
    cause: &'static str,
    reply: mpsc::SyncSender<Reloaded>,
}

/// A reloader whose thread has not started.
#[derive(Debug)]
pub struct PendingReloads {
    requests: mpsc::Receiver<Request>,
    counters: Arc<ReloadCounters>,
}

impl ReloadReport {
    fn log(&self, cause: &str) {
        let keys =
            |changes: &[Change]| changes.iter().map(|change| &*change.key).collect::<Vec<_>>().join(", ");
        let (changed, files) = (keys(&self.changed), format!("{:?}", self.files));
        tracing::info!(cause, changed, files, "the configuration was reloaded");
        if !self.restart.is_empty() {
            let keys = keys(&self.restart);
            tracing::warn!(cause, keys, "changes of these keys need a restart");
        }
    }
}

impl Reloader {
    /// A reloader, and its thread to start.
    pub fn new() -> (Reloader, PendingReloads) {
        let (sender, requests) = mpsc::channel();
        let counters = Arc::<ReloadCounters>::default();
        let pending = PendingReloads { requests, counters: Arc::clone(&counters) };
        (Reloader { requests: sender, counters }, pending)
    }

    /// For the admin address.
    pub fn reloading(&self) -> Reloading {
        Reloading { reload: Some(Arc::new(self.clone())), counters: Arc::clone(&self.counters) }
    }

    /// Asks for a reload and waits for its result, for a bounded time.
    pub fn reload_for(&self, cause: &'static str) -> Reloaded {
        let (reply, result) = mpsc::sync_channel(1);
        // A thread that has ended drops the request, and with it the only sender of a result.
        let _ = self.requests.send(Request { cause, reply });
        let unknown = |_| Reloaded::Refused("the reload has not ended in time; see the log".to_owned());
        result.recv_timeout(RELOAD_TIMEOUT).unwrap_or_else(unknown)
    }

    /// Carries out what a server that has taken over passes on.
    pub fn carry_out(&self) -> CarryOut {
        let reloader = self.clone();
        CarryOut::new(move |order| match order {
            ProgramOrder::LogLevel(filter) => log_level::change(&filter),
            ProgramOrder::Reload => match reloader.reload_for("the server that has taken over") {
                Reloaded::Accepted(_) => Ok(()),
                Reloaded::Partial(reason) | Reloaded::Refused(reason) => Err(reason),
            },
        })
    }
}

impl Reload for Reloader {
    fn reload(&self) -> Reloaded {
        self.reload_for("POST /reload")
    }
}

impl PendingReloads {
    /// Starts the thread, which does not keep the process alive.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(self, mut configuration: impl Configuration) -> io::Result<()> {
        thread::Builder::new().name("reload".to_owned()).spawn(move || self.run(&mut configuration)).map(drop)
    }

    fn run(&self, configuration: &mut impl Configuration) {
        let mut watched = Watched::default();
        watched.set(configuration.watched_files());
        loop {
            let (cause, only_watched, reply) = match self.requests.recv_timeout(WATCH_INTERVAL) {
                Ok(Request { cause, reply }) => (cause, false, Some(reply)),
                Err(RecvTimeoutError::Timeout) if watched.look() => ("changed files", true, None),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let reloaded = match configuration.reload(only_watched) {
                Ok(report) => {
                    report.log(cause);
                    watched.set(configuration.watched_files());
                    pass_on(configuration, cause, &report)
                }
                Err(line) => {
                    tracing::error!(
                        cause,
                        "the configuration was not reloaded, and the old one stays in effect: {line}"
                    );
                    Reloaded::Refused(line)
                }
            };
            self.counters.count(&reloaded);
            // Fails if nobody waits any more.
            drop(reply.map(|reply| reply.try_send(reloaded)));
        }
    }
}

/// The result of a reload here, once the process before this one has reloaded, too.
fn pass_on(configuration: &impl Configuration, cause: &str, report: &ReloadReport) -> Reloaded {
    match configuration.reload_elsewhere() {
        Ok(()) => Reloaded::Accepted(serde_json::to_string_pretty(report).unwrap_or_default()),
        Err(reason) => {
            let line = format!("the configuration was reloaded, but not everywhere: {reason}");
            tracing::warn!(cause, "{line}");
            Reloaded::Partial(line)
        }
    }
}
